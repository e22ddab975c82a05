# SPDX-License-Identifier: MIT
"""The directory in which the sockets of a tree of processes are: it goes with the tree,
also after a SIGKILL, and nothing else does."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MAKER = """
import os, sys
import sidestep
from sidestep import util
from sidestep.connection import Listener
listener = Listener(family="AF_UNIX")
"""
WAITS = """
print(util.get_temp_dir(), flush=True)
sys.stdin.read()
"""
FORKED = """
if os.fork() == 0:
    {}
    os.write(1, f"{{os.getpid()}} {{util.get_temp_dir()}}\\n".encode())
    while True:
        os.read(0, 1) or os._exit(0)
sys.stdin.read()
"""
NEXT = "import sidestep; sidestep.Lock()"


def start(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", MAKER + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def kill(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def run_another():
    subprocess.run([sys.executable, "-c", NEXT], check=True)


def is_gone(path):
    """Tell whether it went by another program; one that is not ours may be at it."""
    run_another()
    return not os.path.exists(path)


def test_the_next_program_removes_what_a_killed_one_left(eventually):
    """Or one that happens to run beside the tests."""
    maker = start(WAITS)
    path = Path(maker.stdout.readline().strip())
    run_another()
    assert [entry.is_socket() for entry in path.iterdir()] == [True]
    kill(maker)
    eventually(lambda: is_gone(path))


@pytest.mark.timeout(120)
def test_of_a_killed_manager(eventually):
    """The manager's server dies with its owner; nobody of the tree is left then."""
    maker = start("manager = sidestep.Manager()" + WAITS)
    path = Path(maker.stdout.readline().strip())
    assert path.exists()
    kill(maker)
    eventually(lambda: is_gone(path))


@pytest.mark.parametrize("closes", ["pass", "os.closerange(3, 1000)"])
def test_stays_while_a_child_lives(closes, eventually):
    """Whatever the child closes, as daemons do."""
    maker = start(FORKED.format(closes))
    pid, path = maker.stdout.readline().split()
    maker.kill()
    maker.wait()
    run_another()
    assert os.listdir(path)
    os.kill(int(pid), signal.SIGKILL)
    maker.stdout.read()  # the end of it: the child has gone
    maker.stdout.close()
    maker.stdin.close()
    eventually(lambda: is_gone(path))


def test_what_is_in_its_place_is_not_touched(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("x")
    maker = start(WAITS)
    path = Path(maker.stdout.readline().strip())
    # While it lives: later a program that runs beside the tests may remove it first.
    for socket in path.iterdir():
        socket.unlink()
    path.rmdir()
    path.symlink_to(tmp_path)
    kill(maker)
    run_another()
    assert path.is_symlink()
    assert precious.exists()
    path.unlink()


def test_directories_of_the_standard_library_are_not_touched(eventually):
    theirs = tempfile.mkdtemp(prefix="pymp-")
    try:
        maker = start(WAITS)
        path = Path(maker.stdout.readline().strip())
        kill(maker)
        eventually(lambda: is_gone(path))
        assert os.path.exists(theirs)
    finally:
        os.rmdir(theirs)


# ---- Where it is ----


def place_of(**environment):
    maker = start(WAITS, **environment)
    path = Path(maker.stdout.readline().strip())
    with contextlib.closing(maker.stdout), contextlib.closing(maker.stdin):
        pass
    assert maker.wait() == 0
    assert not path.exists()
    return path.parent


def test_where_the_environment_says(tmp_path):
    # pytest's directories may be too deep for a socket.
    with tempfile.TemporaryDirectory() as folder:
        assert place_of(TMPDIR=folder) == Path(folder)
        assert place_of(TMPDIR="", TEMP=folder) == Path(folder)
    missing = tmp_path / "missing"
    assert place_of(TMPDIR=str(missing), TEMP="", TMP="") == Path("/tmp")
    no_folder = tmp_path / "file"
    no_folder.touch()
    assert place_of(TMPDIR=str(no_folder), TEMP="", TMP="") == Path("/tmp")


def test_a_path_too_long_for_a_socket_is_not_used(tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    assert place_of(TMPDIR=str(long), TEMP="", TMP="") == Path("/tmp")


def test_nowhere(monkeypatch, tmp_path):
    from sidestep import util

    missing = str(tmp_path / "missing")
    monkeypatch.setattr(util, "_temp_parents", lambda: [missing])
    with pytest.raises(FileNotFoundError, match=f"No usable .*{missing}"):
        util.make_private_dir("x-")
