# SPDX-License-Identifier: MIT
"""The stages of tools/check.py, in the order in which they run."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import machine
from workshop import Outcome, Stage, Workshop, count_junit

#: Whose own tests tests/conformance/known.toml judges.
JUDGED_VERSIONS = {"3.11", "3.12", "3.13"}

TWO_SUITES = ("--suite", "multiprocessing", "--suite", "concurrent_futures")

SIM_SEEDS = 20_000
SIM_PROGRAMS = ("sim", "sim_pool")
STARTS = {"forkserver": 100_000, "fork": 20_000, "spawn": 2_000}


def side_by_side(
    shop: Workshop,
    names: Iterable[str],
    run: Callable[[str, Path], Outcome],
    per_cpu: int = 1,
) -> Outcome:
    """Run each of a name, as many at a time as there are processors, or a multiple: one
    after the other they would wait most of the time. Each has a log of its own, and the
    stage's has all.
    """

    def one(name: str) -> tuple[Path, Outcome]:
        path = shop.log_path.with_stem(f"{shop.log_path.stem}-{name}")
        path.write_text("")
        return path, run(name, path)

    total = Outcome()
    with ThreadPoolExecutor(per_cpu * len(os.sched_getaffinity(0))) as executor:
        for path, outcome in executor.map(one, names):
            total.add(outcome)
            with shop.log_path.open("a") as log:
                log.write(path.read_text(errors="replace"))
    return total


# -- Reading the sources ----------------------------------------------------------------


def tidy(shop: Workshop) -> Outcome:
    code, output = shop.call(shop.tools() / "python3", "tools/tidy.py")
    return Outcome.read(output) or Outcome.of(code == 0)


def ruff(shop: Workshop) -> Outcome:
    outcome = Outcome()
    for command in (["check"], ["format", "--check"]):
        code, _ = shop.call(shop.tools() / "ruff", *command, "--no-cache", ".")
        outcome.add(Outcome.of(code == 0))
    return outcome


def c_format(shop: Workshop) -> Outcome:
    names = [name for name in machine.tree_files() if name.endswith((".c", ".h"))]
    code, _ = shop.call(shop.tools() / "clang-format", "--dry-run", "-Werror", *names)
    return Outcome.of(code == 0)


def mypy(shop: Workshop) -> Outcome:
    cache = shop.folder / "mypy"
    code, _ = shop.call(shop.tools() / "mypy", "--cache-dir", cache)
    return Outcome.of(code == 0)


def stubtest(shop: Workshop) -> Outcome:
    inner = shop.environment(shop.python, "dev")
    allowed = ["--ignore-disjoint-bases", "--ignore-unused-allowlist",
               "--allowlist", "tools/stubtest.txt"]  # fmt: skip
    # Without OpenSSL's headers there is no _tls.
    modules = ["sidestep._core"]
    if shop.call(inner, "-c", "import sidestep._tls", cwd=shop.tree())[0] == 0:
        modules.append("sidestep._tls")
    code, _ = shop.call(inner.parent / "stubtest", *modules, *allowed, cwd=shop.tree())
    return Outcome.of(code == 0)


# -- C ----------------------------------------------------------------------------------


def c_tests(shop: Workshop) -> Outcome:
    return shop.c_test(shop.c_build("plain"), "core", "examples")


def c_address(shop: Workshop) -> Outcome:
    build = shop.c_build(
        "address", "-Db_sanitize=address,undefined", "-Db_lundef=false"
    )
    options = {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    return shop.c_test(build, "core", env=options)


def c_thread(shop: Workshop) -> Outcome:
    build = shop.c_build("thread", "-Db_sanitize=thread", "-Db_lundef=false")
    suppressions = shop.root / "tests" / "c" / "tsan.txt"
    options = {"TSAN_OPTIONS": f"halt_on_error=1:suppressions={suppressions}"}
    return shop.c_test(build, "core", env=options)


def c_library(shop: Workshop) -> Outcome:
    """Install the library alone and build the examples against it, as a stranger would."""
    build = shop.c_build(
        "library", "-Dtests=false", "-Dbuildtype=release", "-Dlibdir=lib"
    )
    prefix = shop.folder / "prefix"
    shutil.rmtree(prefix, ignore_errors=True)
    shop.need(shop.tools() / "meson", "install", "-C", build, "--destdir", prefix)
    found = next(prefix.rglob("sidestep.pc"))
    flags = pkg_config_flags(shop, prefix, found.parent)
    outcome = Outcome()
    for header_user in ("c", "c++"):
        outcome.add(compile_header(shop, header_user, flags))
    for source in sorted((shop.root / "examples" / "c").glob("*.c")):
        target = shop.folder / "prefix" / source.stem
        compiler = machine.find_compiler() or "cc"
        warnings = ["-Wall", "-Wextra", "-Werror"]
        code, _ = shop.call(compiler, *warnings, source, *flags, "-o", target)
        outcome.add(Outcome.of(code == 0))
        code, _ = shop.call(target, env={"LD_LIBRARY_PATH": str(found.parents[1])})
        outcome.add(Outcome.of(code == 0))
    return outcome


def pkg_config_flags(shop: Workshop, prefix: Path, folder: Path) -> list[str]:
    program = shutil.which("pkg-config")
    if program is None and os.geteuid() == 0:
        shop.call("apt-get", "install", "-y", "-q", "pkg-config")
        program = shutil.which("pkg-config")
    if program is None:
        return [
            f"-I{next(prefix.rglob('include'))}",
            f"-L{folder.parent}",
            "-lsidestep",
        ]
    environment = {
        "PKG_CONFIG_PATH": str(folder),
        "PKG_CONFIG_SYSROOT_DIR": str(prefix),
    }
    return shop.need(program, "--cflags", "--libs", "sidestep", env=environment).split()


def compile_header(shop: Workshop, language: str, flags: list[str]) -> Outcome:
    """The header alone must be enough, in C and in C++."""
    compiler = machine.find_compiler() if language == "c" else shutil.which("c++")
    if compiler is None:
        return Outcome(0, 0, [f"no compiler for {language}"])
    source = shop.folder / "header.txt"
    source.write_text(
        "#include <sidestep/sidestep.h>\nint main(void) { return SST_OK; }\n"
    )
    code, _ = shop.call(compiler, "-x", language, "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                        "-fsyntax-only", source, *flags)  # fmt: skip
    return Outcome.of(code == 0)


# -- Simulation and death ---------------------------------------------------------------


def simulation(shop: Workshop) -> Outcome:
    return run_simulation(shop, first=1)


def run_simulation(shop: Workshop, first: int) -> Outcome:
    """Seeds of every scenario; the outcome counts runs of programs, the notes seeds."""
    folder = Path("tests", "sim")
    targets = tuple(str(folder / name) for name in SIM_PROGRAMS)
    build = shop.c_build("plain", targets=targets)
    half = SIM_SEEDS // 2
    parts = {
        f"{name}-{part}": (build / folder / name, first + part * half)
        for name in SIM_PROGRAMS
        for part in range(2)
    }

    def run(part: str, log: Path) -> Outcome:
        program, start = parts[part]
        seeds = ["--seeds", str(half), "--first", str(start)]
        code, output = shop.call(program, *seeds, seconds=1800, log_path=log)
        counted = Outcome.read(output)
        outcome = Outcome.of(code == 0 and counted is not None and counted.passed > 0)
        if counted:
            seen = f"{counted.passed} seeds passed, {counted.failed} failed"
            outcome.notes.append(f"{part}: {seen}")
        return outcome

    return side_by_side(shop, parts, run)


def mutants(shop: Workshop) -> Outcome:
    """The simulation must notice every one of the cores that break a rule."""
    return shop.c_test(shop.c_build("plain"), "mutants", seconds=1800)


def soak_simulation(shop: Workshop) -> Outcome:
    return run_simulation(shop, first=random.randrange(1 << 48))


def deaths(shop: Workshop) -> Outcome:
    """A death at every crash point, and after every instruction under ptrace."""
    build = shop.c_build("crash", "-Dcrashpoints=true")
    return shop.c_test(build, "core", "fault", "stress", seconds=1800)


def kills(shop: Workshop) -> Outcome:
    """The short form of the random kills."""
    return shop.c_test(shop.c_build("plain"), "stress")


def soak_kills(shop: Workshop) -> Outcome:
    build = shop.c_build("plain")
    seed = str(random.randrange(1 << 31))
    outcome = Outcome()
    for name, count in (("kills", "50000"), ("pool_kills", "10000")):
        program = build / "tests" / "stress" / name
        options = ["--kills", count, "--seed", seed]
        code, output = shop.call(program, *options, seconds=7200)
        outcome.add(Outcome.read(output) or Outcome.of(code == 0))
    return outcome


def soak_pool(shop: Workshop) -> Outcome:
    """Workers of Python's pools, killed under load."""
    inner = shop.environment(shop.python)
    seed = str(random.randrange(1 << 31))
    command = ["tests/stress/pool_kills.py", "--kills", "10000", "--seed", seed]
    code, output = shop.call(inner, *command, cwd=shop.tree(), seconds=7200)
    return Outcome.read(output) or Outcome.of(code == 0)


def soak_starts(shop: Workshop) -> Outcome:
    """Very many starts by each method, after which nothing may have grown."""
    inner = shop.environment(shop.python)
    seed = str(random.randrange(1 << 31))
    outcome = Outcome()
    for method, count in STARTS.items():
        command = ["tests/stress/starts.py", "--method", method]
        options = ["--starts", str(count), "--seed", seed]
        code, output = shop.call(
            inner, *command, *options, cwd=shop.tree(), seconds=7200
        )
        outcome.add(Outcome.read(output) or Outcome.of(code == 0))
    return outcome


def soak_fuzz(shop: Workshop) -> Outcome:
    """New inputs for each target, where clang is at hand; the old ones are core tests."""
    outcome = Outcome()
    for target in ("frame", "pool", "ring", "stream", "nest", "tls"):
        command = ["fuzz/run.py", target, "--seconds", "600"]
        code, _ = shop.call(shop.tools() / "python3", *command, seconds=900)
        outcome.add(
            Outcome(0, 0, ["no clang"]) if code == 77 else Outcome.of(code == 0)
        )
    return outcome


# -- Python -----------------------------------------------------------------------------


def pytest_on(
    shop: Workshop, python: machine.Python, *options: str, log: Path | None = None
) -> Outcome:
    inner = shop.environment(python)
    report = shop.folder / f"pytest-{python.version}.xml"
    report.unlink(missing_ok=True)
    shop.call(inner, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120", f"--junitxml={report}",
              *options, "tests/py", cwd=shop.tree(), seconds=1500, log_path=log)  # fmt: skip
    return count_junit(report)


def pytest_fast(shop: Workshop) -> Outcome:
    return pytest_on(shop, shop.python)


def pytest_all(shop: Workshop) -> Outcome:
    pythons = {python.version: python for python in machine.find_pythons()}
    for python in pythons.values():  # one after the other: they share the sources
        shop.environment(python)

    def run(version: str, log: Path) -> Outcome:
        outcome = pytest_on(shop, pythons[version], "--run-slow", log=log)
        outcome.notes.append(f"{version}: {outcome.passed}/{outcome.failed}")
        return outcome

    return side_by_side(shop, pythons, run)


def start(shop: Workshop) -> Outcome:
    """The README's first command, in a tree as a clone has it."""
    code, output = shop.call(
        shop.python.path, "tools/start.py", cwd=shop.tree(), seconds=900
    )
    good = code == 0 and "words in all: 16000" in output and "queue_flow" in output
    return Outcome.of(good)


def conformance(shop: Workshop) -> Outcome:
    """CPython's own tests on 3.11 and the newest one, where the harness is at hand.

    The newest of those that tests/conformance/known.toml was written for.
    """
    pythons = [p for p in machine.find_pythons() if p.version in JUDGED_VERSIONS]
    if not pythons:
        return Outcome(notes=["skipped: no Python whose tests are judged"])
    newest = max(pythons, key=lambda python: tuple(map(int, python.version.split("."))))
    chosen = {python.version: python for python in pythons if python.version == "3.11"}
    chosen[newest.version] = newest
    inner = {version: shop.environment(python) for version, python in chosen.items()}
    # The longest pieces first. The tests sleep for most of their time.
    pieces: dict[str, tuple[str, ...]] = {
        f"{version}-{method}": (version, "--start-method", method, *TWO_SUITES)
        for method in ("spawn", "forkserver", "fork")
        for version in chosen
    }
    pieces["others"] = newest.version, "--suite", "others"

    def run(piece: str, log: Path) -> Outcome:
        version, *words = pieces[piece]
        options = ["tests/conformance/run.py", "--timeout", "120", *words]
        output = shop.call(inner[version], *options, seconds=2400, log_path=log)[1]
        outcome = Outcome.read(output) or Outcome(0, 1)
        outcome.notes += [
            line for line in output.splitlines() if line.startswith("skipped:")
        ]
        return outcome

    return side_by_side(shop, pieces, run, per_cpu=2)


def clusters(shop: Workshop) -> Outcome:
    """CPython's tests of Pool, and our own promises, over each engine there is."""
    shop.environment(shop.python, "dask")
    inner = shop.environment(shop.python, "mpi")
    names: tuple[str, ...] = ("mpich", "numpy")
    shop.need(inner, "-m", "pip", "install", "--quiet", *names, seconds=1200)
    plain = [str(inner), "-m", "sidestep"]
    mpiexec = [str(inner.parent / "mpiexec"), "-n"]
    module = [str(inner), "-m", "sidestep.mpi"]
    commands = {
        "executor": (plain, plain),
        "dask": (plain, plain),
        "mpi": ([*mpiexec, "5", *module], [*mpiexec, "3", *module]),
    }
    outcome = Outcome()
    # A large one: where it is not there soon, the engine is tried by hand.
    names = ("ray", "cryptography")
    code, _ = shop.call(inner, "-m", "pip", "install", "-q", *names, seconds=60)
    if code == 0:
        commands["ray"] = plain, plain
    else:
        outcome.notes.append("no ray within a minute")
    environment = {"PATH": f"{inner.parent}:{os.environ['PATH']}"}
    for engine, starts in commands.items():
        for start, name in zip(starts, ("pool", "behaviour"), strict=True):
            program = [*start, f"tests/conformance/cluster_{name}.py", engine]
            code, output = shop.call(*program, env=environment, seconds=300)
            outcome.add(Outcome.read(output) or Outcome.of(code == 0))
    return outcome


def hosts(shop: Workshop) -> Outcome:
    """Hosts that are network namespaces, where this machine lets us make some."""
    inner = shop.environment(shop.python, "dask")

    def run(name: str, log: Path) -> Outcome:
        program = f"tests/conformance/{name}.py"
        code, output = shop.call(inner, program, seconds=200, log_path=log)
        return Outcome.read(output) or Outcome.of(code == 0)

    return side_by_side(shop, ["cluster_hosts", "lost_hosts"], run)


def docs(shop: Workshop) -> Outcome:
    target = shop.folder / "docs"
    sphinx = shop.environment(shop.python, "dev").parent / "sphinx-build"
    code, _ = shop.call(sphinx, "-n", "-W", "--keep-going", "-q",
                        "-d", shop.folder / "doctrees", "docs", target)  # fmt: skip
    return Outcome.of(code == 0)


STAGES = (
    Stage("c", "fast", 120, c_tests),
    Stage("tidy", "fast", 20, tidy),
    Stage("ruff", "fast", 20, ruff),
    Stage("c-format", "fast", 20, c_format),
    Stage("mypy", "fast", 90, mypy),
    Stage("stubtest", "fast", 60, stubtest),
    Stage("pytest", "fast only", 180, pytest_fast),  # full runs it on every Python
    Stage("docs", "fast", 90, docs),
    Stage("c-address", "full", 240, c_address),
    Stage("c-thread", "full", 240, c_thread),
    Stage("c-library", "full", 60, c_library),
    Stage("simulation", "full", 400, simulation),
    Stage("mutants", "full", 400, mutants),
    Stage("deaths", "full", 400, deaths),
    Stage("kills", "full", 120, kills),
    Stage("pytest-all", "full", 900, pytest_all),
    Stage("start", "full", 240, start),
    Stage("conformance", "full", 1500, conformance),
    Stage("clusters", "full", 240, clusters),
    Stage("hosts", "full", 90, hosts),
    Stage("soak-simulation", "soak", 1800, soak_simulation),
    Stage("soak-kills", "soak", 3600, soak_kills),
    Stage("soak-pool", "soak", 3600, soak_pool),
    Stage("soak-starts", "soak", 1200, soak_starts),
    Stage("soak-fuzz", "soak", 2400, soak_fuzz),
)
