# SPDX-License-Identifier: MIT
"""Where the checks are run: folders under build/check, logged commands, counted results."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import machine

CLOSING_LINE = re.compile(r"^(\d+) passed, (\d+) failed", re.MULTILINE)
TAIL_LINES = 60


@dataclass
class Outcome:
    """How many checks of a stage passed and failed."""

    passed: int = 0
    failed: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.notes += other.notes

    @classmethod
    def of(cls, good: bool) -> Outcome:
        return cls(int(good), int(not good))

    @classmethod
    def read(cls, output: str) -> Outcome | None:
        """What the last closing line says, if there is one."""
        counts = CLOSING_LINE.findall(output)
        return cls(int(counts[-1][0]), int(counts[-1][1])) if counts else None


@dataclass(frozen=True)
class Stage:
    """One kind of check; `seconds` is what it may take on two cores."""

    name: str
    level: str
    seconds: float
    run: Callable[[Workshop], Outcome]


class StageError(Exception):
    """A command that a stage cannot go on without has failed."""


class Workshop:
    """The folders, environments and logs of a run."""

    def __init__(self) -> None:
        self.root = machine.ROOT
        self.folder = self.root / "build" / "check"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.python = machine.require_python()
        self.log_path = self.folder / "log.txt"
        self._prepared: set[str] = set()

    # -- Commands ---------------------------------------------------------------------

    def start_log(self, name: str) -> None:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        self.log_path = logs / f"{name}.txt"
        self.log_path.write_text("")

    def call(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        seconds: float = 900,
        log_path: Path | None = None,
    ) -> tuple[int, str]:
        """Exit code and output; both are in the log. A command that hangs is killed.

        Commands that run side by side have logs of their own.
        """
        log_path = log_path or self.log_path
        words = [str(word) for word in command]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        with log_path.open("a") as log:
            print("$", *words, file=log, flush=True)
            offset = log.tell()
            with subprocess.Popen(
                words, cwd=cwd or self.root, env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            ) as process:  # fmt: skip
                code = wait_or_kill(process, seconds)
            if code is None:
                code = -signal.SIGKILL
                print(f"killed after {seconds:.0f} s", file=log, flush=True)
        with log_path.open(errors="replace") as log:
            log.seek(offset)
            return code, log.read()

    def need(self, *command: str | Path, **options: object) -> str:
        """Like call, for commands the stage cannot go on without."""
        code, output = self.call(*command, **options)  # type: ignore[arg-type]
        if code != 0:
            raise StageError(f"exit code {code}: {' '.join(map(str, command))}")
        return output

    def tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join("    " + line for line in lines[-TAIL_LINES:])

    # -- Environments ------------------------------------------------------------------

    def tools(self) -> Path:
        """The bin folder with meson, ruff, mypy, Sphinx and the others."""
        return self._prepare(self.python, "dev").parent

    def environment(self, python: machine.Python, extra: str = "test") -> Path:
        """The interpreter of an environment with sidestep built from a clean tree in it."""
        inner = self._prepare(python, extra)
        self._install(inner)
        return inner

    def _prepare(self, python: machine.Python, extra: str) -> Path:
        inner = machine.make_venv(self.folder / f"py-{python.version}", python)
        key = f"{python.version}-{extra}"
        if key not in self._prepared:
            wanted = self._requirements(extra)
            self.need(inner, "-m", "pip", "install", "--quiet", *wanted, seconds=1200)
            self._prepared.add(key)
        return inner

    def _requirements(self, extra: str) -> list[str]:
        import tomllib

        project = tomllib.loads((self.root / "pyproject.toml").read_text())
        extras = project["project"]["optional-dependencies"]
        names = ["test", "docs", "dev"] if extra == "dev" else [extra]
        wanted = [item for name in names for item in extras[name]]
        wanted += (
            project["build-system"]["requires"] + project["project"]["dependencies"]
        )
        return [item for item in wanted if not item.startswith("sidestep[")]

    def _install(self, inner: Path) -> None:
        stamp = inner.parent.parent / "sidestep.stamp"
        wanted = machine.build_inputs_hash()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        self.need(inner, "-m", "pip", "install", "--quiet", "--no-deps",
                  "--force-reinstall", self.tree())  # fmt: skip
        stamp.write_text(wanted)

    def tree(self) -> Path:
        """A copy of what a clean clone would have."""
        target = self.folder / "tree"
        if "tree" not in self._prepared:
            machine.copy_tree(target)
            self._prepared.add("tree")
        return target

    # -- C -----------------------------------------------------------------------------

    def c_build(self, name: str, *options: str, targets: tuple[str, ...] = ()) -> Path:
        """Configure and compile the C library and its tests, warnings being errors."""
        bin_folder = self.tools()
        path = self.folder / f"c-{name}"
        command = [str(bin_folder / "meson"), "setup", str(path), str(self.root)]
        if (path / "build.ninja").exists():
            command.append("--reconfigure")
        environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
        self.need(
            *command, "-Dpython=disabled", "-Dwerror=true", *options, env=environment
        )
        self.need(bin_folder / "ninja", "-k0", "-C", path, *targets, env=environment)
        return path

    def c_test(
        self,
        build: Path,
        *suites: str,
        env: dict[str, str] | None = None,
        seconds: float = 1200,
    ) -> Outcome:
        """Run suites of meson tests and count what the programs counted."""
        bin_folder = self.tools()
        environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", **(env or {})}
        chosen = [word for suite in suites for word in ("--suite", suite)]
        log = build / "meson-logs" / "testlog.json"
        log.unlink(missing_ok=True)
        code, _ = self.call(bin_folder / "meson", "test", "-C", build,
                            "--print-errorlogs", *chosen, env=environment, seconds=seconds)  # fmt: skip
        if not log.exists():
            return Outcome.of(code == 0)
        outcome = Outcome()
        for line in log.read_text().splitlines():
            outcome.add(count_meson_test(json.loads(line)))
        if code != 0 and outcome.failed == 0:
            outcome.failed += 1
        return outcome


def wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code; None when it took too long. Nothing of its session is left."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def count_meson_test(record: dict[str, str]) -> Outcome:
    """What the program's closing line says, or one for the program as a whole."""
    good = record["result"] in {"OK", "SKIP", "EXPECTEDFAIL"}
    outcome = Outcome.read(record.get("stdout") or "") or Outcome.of(good)
    if not good and outcome.failed == 0:
        outcome.failed = 1
    return outcome


def count_junit(path: Path) -> Outcome:
    """Count a pytest run; an empty or missing file is a failure."""
    if not path.exists():
        return Outcome(0, 1, ["pytest did not finish"])
    suite = next(ET.parse(path).getroot().iter("testsuite"))
    total = int(suite.get("tests", "0"))
    failed = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
    skipped = int(suite.get("skipped", "0"))
    notes = [f"{skipped} skipped"] if skipped else []
    return Outcome(total - failed - skipped, failed, notes)


def run_stages(shop: Workshop, stages: list[Stage]) -> Outcome:
    """Run them all, whatever fails, and print a line each with the time it took."""
    total = Outcome()
    for stage in stages:
        shop.start_log(stage.name)
        begin = time.monotonic()
        try:
            outcome = stage.run(shop)
        except StageError as error:
            outcome = Outcome(0, 1, [str(error)])
        spent = time.monotonic() - begin
        if spent > stage.seconds:
            outcome.notes.append(f"slower than its {stage.seconds:.0f} s")
        notes = "; ".join(outcome.notes)
        print(f"{stage.name:14} {outcome.passed:6} passed {outcome.failed:4} failed "
              f"{spent:7.1f} s  {notes}", flush=True)  # fmt: skip
        if outcome.failed:
            print(shop.tail(), file=sys.stdout, flush=True)
        total.add(outcome)
    return total
