# SPDX-License-Identifier: MIT
"""``python -m sidestep``: unmodified programs."""

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest


def run(*args, own=True, cwd=None, **kwargs):
    command = [sys.executable, *(["-m", "sidestep"] if own else []), *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, **kwargs
    )


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def program(tmp_path):
    return lambda text: write(tmp_path / "program.py", text)


def assert_same(*args, **kwargs):
    """The program does the same with and without sidestep."""
    ours, plain = run(*args, **kwargs), run(*args, own=False, **kwargs)
    assert ours.stdout == plain.stdout
    assert ours.stderr == plain.stderr
    assert ours.returncode == plain.returncode
    return ours


def test_help_and_version():
    assert run("--help").stdout.startswith("usage: python -m sidestep")
    assert re.fullmatch(r"sidestep \d.*\n", run("--version").stdout)
    for wrong in ((), ("-m",), ("-c",), ("--nonsense",)):
        assert run(*wrong).returncode == 2


SURROUNDINGS = """
import sys, os
print(__name__, __file__, getattr(__spec__, 'name', None), __package__)
print(type(__loader__).__name__)
print(sys.argv, sys.path[0], sorted(globals()))
print(sys.modules["__main__"].__dict__ is globals())
"""


def test_the_program_sees_what_it_would(program):
    assert_same(program(SURROUNDINGS), "a", "--help", "-m")


def test_relative_path_and_link(program, tmp_path):
    program(SURROUNDINGS + "import neighbour\n")
    (tmp_path / "neighbour.py").write_text("print('neighbour')\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link.py").symlink_to(tmp_path / "program.py")
    assert_same("program.py", cwd=tmp_path)
    assert_same("other/link.py", cwd=tmp_path)


def test_module(program, tmp_path):
    program(SURROUNDINGS)
    assert_same("-m", "program", "a", "-c", cwd=tmp_path)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("from . import x; print(x.__name__)")
    (package / "x.py").write_text("")
    assert_same("-m", "package", cwd=tmp_path)
    assert_same("-m", "no_such_module", cwd=tmp_path)


def test_directory_and_zip(tmp_path):
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "__main__.py").write_text("import sys; print(sys.path[0], sys.argv)")
    assert_same(directory, "a")
    import shutil

    archive = shutil.make_archive(tmp_path / "app", "zip", directory)
    assert_same(archive, "a")


def test_code():
    assert_same("-c", "import sys; print(sys.argv, sys.path[0], __name__)", "a", "-b")


def test_standard_input():
    assert_same("-", "a", input="import sys; print(sys.argv, __name__)")


def test_isolated_path(program):
    script = program("import sys; print(sys.path)")
    ours = subprocess.run(
        [sys.executable, "-P", "-m", "sidestep", script], capture_output=True, text=True
    )
    plain = subprocess.run(
        [sys.executable, "-P", script], capture_output=True, text=True
    )
    assert ours.stdout == plain.stdout


@pytest.mark.parametrize(
    "end",
    [
        "raise SystemExit",
        "raise SystemExit(3)",
        "raise SystemExit('words')",
        "1 / 0",
        "def f(): raise ValueError('x') from KeyError('y')\nf()",
        "import json; json.loads('{')",
        "raise BaseException('odd')",
        "import os; os._exit(5)",
        "syntax error",
        "import threading; threading.Timer(.05, print, ['late']).start()",
        "import atexit; atexit.register(print, 'at exit'); 1 / 0",
        "import sys; sys.excepthook = lambda *a: print('hook', a[0]); 1 / 0",
    ],
)
def test_ends(program, end):
    assert_same(program(end))


def test_prompt_after_the_program(program):
    script = program("x = 17\n1 / 0")
    done = subprocess.run(
        [sys.executable, "-i", "-m", "sidestep", script],
        input="print(x + 1)\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "18\n"
    assert "ZeroDivisionError" in done.stderr
    assert "SystemExit" not in done.stderr


def test_missing_file(tmp_path):
    assert_same("missing.py", cwd=tmp_path)
    assert run("missing.py").returncode == 2


def test_interrupt(program):
    script = program("""
        import atexit
        atexit.register(print, "at exit")
        raise KeyboardInterrupt
    """)
    assert assert_same(script).returncode == -signal.SIGINT


ROUTED = """
import sys
import multiprocessing, multiprocessing.connection, multiprocessing.dummy.connection
from multiprocessing import queues, Process
from multiprocessing.pool import ThreadPool
import concurrent.futures.process
import sidestep
assert multiprocessing is sidestep
assert queues is sidestep.queues
assert multiprocessing.connection is sidestep.connection
assert sys.modules["multiprocessing.connection"] is sys.modules["sidestep.connection"]
assert queues.__name__ == queues.__spec__.name == "sidestep.queues"
assert concurrent.futures.process.mp is sidestep
try:
    import multiprocessing.nothing
except ModuleNotFoundError as error:
    assert error.name == "multiprocessing.nothing"
"""


def test_routing(program):
    done = run(program(ROUTED))
    assert (done.stderr, done.returncode) == ("", 0)


CHILDREN = """
import multiprocessing, sys, os

class Item:
    def __init__(self, n):
        self.n = n

def work(queue, item):
    import multiprocessing.queues
    assert multiprocessing.__name__ == "sidestep"
    assert sys.argv[1:] == ["a"]
    queue.put((item.n + 1, type(item).__module__ == work.__module__))

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        ctx = multiprocessing.get_context(method)
        queue = ctx.Queue()
        child = ctx.Process(target=work, args=(queue, Item(1)))
        child.start()
        assert queue.get(timeout=60) == (2, True)
        child.join()
        assert child.exitcode == 0
    print("done")
"""


def test_children(program):
    done = run(program(CHILDREN), "a")
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_children_of_a_module(program, tmp_path):
    program(CHILDREN)
    done = run("-m", "program", "a", cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


GRANDCHILDREN = """
import multiprocessing

def grandchild(queue):
    queue.put(multiprocessing.__name__)

def child(queue, method):
    p = multiprocessing.get_context(method).Process(target=grandchild, args=(queue,))
    p.start()
    p.join()

if __name__ == "__main__":
    for outer in ("spawn", "forkserver"):
        for inner in ("fork", "spawn", "forkserver"):
            ctx = multiprocessing.get_context(outer)
            queue = ctx.Queue()
            p = ctx.Process(target=child, args=(queue, inner))
            p.start()
            print(queue.get(timeout=60))
            p.join()
"""


def test_grandchildren(program):
    done = run(program(GRANDCHILDREN))
    assert (done.stdout, done.stderr) == ("sidestep\n" * 6, "")


EXECUTOR = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing, sys

def square(x):
    assert sys.modules["multiprocessing"].__name__ == "sidestep"
    return x * x

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        ctx = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=ctx) as executor:
            assert list(executor.map(square, range(20))) == [x * x for x in range(20)]
            try:
                executor.submit(lambda: 1).result()
            except Exception as error:
                assert "lambda" in str(error)
    print("done")
"""


def test_process_pool_executor(program):
    done = run(program(EXECUTOR))
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_programs_started_by_the_program_are_their_own(program):
    done = run(
        program("""
        import subprocess, sys
        code = "import multiprocessing; print(multiprocessing.__name__)"
        subprocess.run([sys.executable, "-c", code])
    """)
    )
    assert done.stdout == "multiprocessing\n"


def test_elsewhere_the_stdlib_answers():
    """The system's check is told that this is another system, in a child."""
    code = textwrap.dedent("""
        import os, sys, types, warnings
        release = types.SimpleNamespace(release="4.18.0-x86_64")
        os.uname = lambda: release
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import sidestep
            import sidestep.queues, multiprocessing.queues
            from sidestep import Queue, Process
        assert len(caught) == 1, [str(w.message) for w in caught]
        assert "needs Linux 5.5" in str(caught[0].message)
        assert sidestep.queues is multiprocessing.queues
        assert Queue == multiprocessing.Queue
        assert set(multiprocessing.__all__) == set(sidestep.__all__)
        assert "sidestep._core" not in sys.modules
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)


def test_exit_code_of_the_environment(tmp_path):
    script = write(tmp_path / "p.py", "import os; print(os.environ['MINE'])")
    assert run(script, env={**os.environ, "MINE": "1"}).stdout == "1\n"


JOBLIB = """
import joblib, multiprocessing, os

def who(_):
    return type(multiprocessing.current_process()).__module__.partition(".")[0]

if __name__ == "__main__":
    for backend in (None, "loky", "multiprocessing"):
        calls = (joblib.delayed(who)(i) for i in range(4))
        print(set(joblib.Parallel(2, backend=backend)(calls)))
"""


def test_joblib(program):
    """Its own workers are made of the insides of the standard library's queues."""
    pytest.importorskip("joblib")
    done = run(program(JOBLIB))
    assert (done.stdout, done.stderr) == ("{'sidestep'}\n" * 3, "")
