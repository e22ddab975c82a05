# SPDX-License-Identifier: MIT
"""Functions, lambdas and classes of every kind of ``__main__``, in children not forked."""

import os
import pty
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("cloudpickle")

BODY = """
import sidestep, sys

def work(queue, number):
    queue.put(("work", number))

class Worker:
    def __init__(self, number):
        self.number = number
    def go(self, queue):
        queue.put(("method", self.number))

def main(method):
    context = sidestep.get_context(method)
    queue = context.Queue()
    def local(queue):
        queue.put(("local", method))
    class Local(context.Process):
        def run(self):
            queue.put(("class", self.daemon))
    for child in [
        context.Process(target=work, args=(queue, 1)),
        context.Process(target=lambda q: q.put(("lambda", work.__name__)), args=(queue,)),
        context.Process(target=local, args=(queue,)),
        context.Process(target=Worker(3).go, args=(queue,)),
        Local(daemon=True),
    ]:
        child.start()
        child.join(20)
        print(*(queue.get() if child.exitcode == 0 else ("exit", child.exitcode)))
    with context.Pool(1) as pool:
        print("pool", pool.map(lambda x: x + len(work.__name__), [1, 2]))
"""
GUARD = """
if __name__ == "__main__":
    main(sys.argv[1])
"""
KERNEL = """
import sys, types
module = types.ModuleType("__main__")  # without __file__ and __spec__, as in notebooks
module.__builtins__ = __builtins__
sys.modules["__main__"] = module
exec(compile({source!r}, "<cell>", "exec"), vars(module))
"""


def script(tmp_path, method):
    (tmp_path / "program.py").write_text(BODY + GUARD)
    return ["program.py", method], None


def module_of_a_package(tmp_path, method):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "program.py").write_text(BODY + GUARD)
    return ["-m", "package.program", method], None


def package(tmp_path, method):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "__main__.py").write_text(BODY + GUARD)
    return ["-m", "package", method], None


def folder(tmp_path, method):
    package(tmp_path, method)
    return ["package", method], None


def command(_, method):
    return ["-c", BODY + GUARD, method], None


def standard_input(_, method):
    return ["-"], BODY + f"main({method!r})\n"


def notebook(tmp_path, method):
    source = BODY + f"main({method!r})\n"
    (tmp_path / "kernel.py").write_text(KERNEL.format(source=source))
    return ["kernel.py"], None


KINDS = [
    script, module_of_a_package, package, folder, command, standard_input, notebook,
]  # fmt: skip


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_it_defines_runs_in_children(tmp_path, kind, method):
    arguments, text = kind(tmp_path, method)
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines() == [
        "work 1",
        "lambda work",
        f"local {method}",
        "method 3",
        "class True",
        "pool [5, 6]",
    ], done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_interactive_session(method):
    """At a terminal, line by line."""
    pid, fd = pty.fork()
    if pid == 0:
        # The plain prompt of all versions.
        environ = {**os.environ, "PYTHON_BASIC_REPL": "1", "TERM": "dumb"}
        os.execve(sys.executable, [sys.executable, "-i"], environ)
    lines = textwrap.dedent(f"""\
        import sidestep
        context = sidestep.get_context({method!r})
        queue = context.Queue()
        def work(queue): queue.put(__name__)

        def run(target):
            child = context.Process(target=target, args=(queue,)); child.start()
            child.join(20); print("code", child.exitcode, queue.get())

        run(work)
        run(lambda queue: queue.put("lambda"))
        exit()
        """)
    os.write(fd, lines.encode())
    seen = b""
    try:
        while data := os.read(fd, 4096):
            seen += data
    except OSError:
        pass  # a terminal's end of file
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"code 0 __main__" in seen, seen
    assert b"code 0 lambda" in seen, seen
