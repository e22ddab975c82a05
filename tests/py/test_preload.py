# SPDX-License-Identifier: MIT
"""Preloaded modules that misbehave: each is named, and nothing hangs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """if 1:
    import sidestep as mp
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["bad"], {options})
    def start():
        child = context.Process(target=print, args=("child",))
        child.start()
        child.join()
    for _ in range(2):
        try:
            start()
        except Exception as error:
            print(f"{{type(error).__name__}}: {{error}}", flush=True)
"""


@pytest.fixture
def program(tmp_path):
    """Make a program that preloads a module of this text."""

    def make(module, options=""):
        (tmp_path / "bad.py").write_text(module)
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.format(options=options))
        return [sys.executable, "-W", "default::ImportWarning", str(path)]

    return make


def run(command, env=None):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=env
    )
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("on_error", "lines", "said"),
    [
        ("ignore", ["child"], ""),
        ("warn", ["child"], "Failed to preload module 'bad': it calls sys.exit(3)"),
        (
            "fail",
            [
                (
                    "RuntimeError: the fork server ends before it can start a process; a "
                    "preloaded module cannot be imported: 'bad': SystemExit: 3"
                )
            ],
            "",
        ),
    ],
)
def test_one_that_calls_exit(program, on_error, lines, said):
    out, err = run(program("import sys\nsys.exit(3)\n", f"on_error={on_error!r}"))
    assert out == 2 * lines
    assert said in err


@pytest.mark.parametrize("start", ["", "import time\ntime.sleep(0.5)\n"])
def test_one_that_hangs(program, tmp_path, start):
    """It is named, for the limit is not of the time that the server takes to start."""
    (tmp_path / "sitecustomize.py").write_text(start)
    command = program("import time\ntime.sleep(1000)\n", "timeout=0.3")
    out, err = run(command, {**os.environ, "PYTHONPATH": str(tmp_path)})
    line = (
        "TimeoutError: the fork server has not imported 'bad' within 0.3 seconds; "
        "set_forkserver_preload() takes a timeout"
    )
    assert (out, err) == ([line, line], "")


def test_ctrl_c_ends_the_wait_for_it(program):
    """As in a terminal, where all get the signal; nobody is left, and nothing said."""
    text = "import time\nprint('imported', flush=True)\ntime.sleep(1000)\n"
    with subprocess.Popen(
        program(text),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout.readline() == "imported\n"
        os.killpg(running.pid, signal.SIGINT)
        # End of file: the server is gone, too.
        assert running.stdout.read() == ""
        assert running.stderr.read().count("KeyboardInterrupt") == 1
    assert running.returncode == -signal.SIGINT


def test_one_that_ends_the_server(program):
    out, _ = run(program("import os\nos._exit(3)\n"))
    assert out == 2 * [
        (
            "RuntimeError: the fork server ends before it can start a process; it was "
            "importing 'bad'"
        )
    ]


def test_one_that_starts_threads(program):
    text = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    )
    out, err = run(program(text))
    assert out == ["child", "child"]
    assert "RuntimeWarning: preloading 'bad' has started threads" in err


def test_threads_that_end_at_a_fork_are_welcome(program):
    """Those of numerical libraries do."""
    text = (
        "import os, threading\n"
        "stop = threading.Event()\n"
        "thread = threading.Thread(target=stop.wait)\n"
        "thread.start()\n"
        "def end():\n"
        "    stop.set()\n"
        "    thread.join()\n"
        "os.register_at_fork(before=end)\n"
    )
    out, err = run(program(text))
    assert (out, err) == (["child", "child"], "")


def test_no_descriptor_of_it_is_left(program):
    text = program("import sys\n")
    path = Path(text[-1])
    path.write_text(
        path.read_text()
        + "    import os, gc\n    print(sum('pipe:' in os.readlink(f'/proc/self/fd/{fd}')"
        " for fd in os.listdir('/proc/self/fd') if int(fd) > 2"
        " and os.path.exists(f'/proc/self/fd/{fd}')))\n"
    )
    out, _ = run(text)
    assert out == ["child", "child", "0"]
