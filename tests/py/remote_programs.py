# SPDX-License-Identifier: MIT
"""Programs of the tests of tasks: servers, workers and clients that can be killed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

HERE = str(Path(__file__).parent)
KEY = b"a key of thirty-two bytes at the least"


def start(*command, **options):
    """Start a program; what it writes comes through pipes, as text."""
    environment = {**os.environ, "PYTHONPATH": HERE, "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def end(program):
    """Kill a program if it still runs; return what it wrote to stderr."""
    with contextlib.suppress(ProcessLookupError):
        program.kill()
    _, errors = program.communicate(timeout=20)
    return errors


def read_until(program, text):
    """Read a program's stderr until a line has the text; return the line."""
    lines = []
    for line in program.stderr:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"it ended with {program.wait()}, no {text!r} in {lines}")


@contextlib.contextmanager
def server(address, processes=0):
    """A manager's server in a program of its own: the program and its address."""
    if isinstance(address, tuple):
        address = ",".join(map(str, address))
    program = start(__file__, "server", address, processes)
    try:
        yield program, parse(program.stdout.readline().strip())
    finally:
        end(program)


@contextlib.contextmanager
def worker(address, key_file, *options, workers=1):
    """A program that serves, when it has said so."""
    if isinstance(address, tuple):
        address = f"{address[0]}:{address[1]}"
    command = ("-m", "sidestep", "serve", address, "-k", key_file, "-n", workers)
    program = start(*command, *options)
    try:
        read_until(program, "serving")
        yield program
    finally:
        end(program)


def parse(text):
    host, comma, port = text.rpartition(",")
    return (host, int(port)) if comma else text


def _serve(address, processes):
    from sidestep.managers import SyncManager

    manager = SyncManager(parse(address), KEY)
    manager.task_processes = processes
    server = manager.get_server()
    where = server.address
    print(",".join(map(str, where)) if isinstance(where, tuple) else where, flush=True)
    server.serve_forever()


def _be_client(address, what, path):
    """Submit a task that says in a file that it runs, and another when it ends."""
    from sidestep.managers import SyncManager

    manager = SyncManager(parse(address), KEY)
    manager.connect()
    submit = manager.submit_detached if what == "detached" else manager.submit
    future = submit(tell_and_wait, path)
    print("submitted", flush=True)
    future.result()


def add(x, y=1):
    return x + y


def fail(text):
    raise LookupError(text)


def tell_and_wait(path):
    """Write this process's id to ``path``; wait for ``path.go``, then ``path.done``."""
    folder = Path(path)
    part = folder.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(folder)
    pause = threading.Event()
    while not folder.with_suffix(".go").exists():
        pause.wait(0.01)
    folder.with_suffix(".done").touch()
    return os.getpid()


def wait_at(what):
    """Return a number; if it is the one that is to wait, once a file is there."""
    number, waits, path = what
    pause = threading.Event()
    while number == waits and not path.exists():
        pause.wait(0.01)
    return number


def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    threading.Event().wait()


def pause(number):
    """Return the number, a little later."""
    threading.Event().wait(0.02)
    return number


def die_once(path):
    """Die the first time, return the second."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "second"
    return die()


def die_at(number):
    return die() if number == 3 else number


if __name__ == "__main__":
    if sys.argv[1] == "server":
        _serve(sys.argv[2], int(sys.argv[3]))
    else:
        _be_client(*sys.argv[2:])
