# SPDX-License-Identifier: MIT
"""What all the Python tests share: options, the two packages, and the leak check."""

import contextlib
import importlib
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

# Children that do not fork import their code by name: it is in children.py.
sys.path.insert(0, str(Path(__file__).parent))

START_METHODS = ["fork", "spawn", "forkserver"]


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run tests marked slow")
    parser.addoption(
        "--run-stress", action="store_true", help="run tests marked stress"
    )


def pytest_collection_modifyitems(config, items):
    for mark in ("slow", "stress"):
        if config.getoption(f"--run-{mark}"):
            continue
        skip = pytest.mark.skip(reason=f"needs --run-{mark}")
        for item in items:
            if mark in item.keywords:
                item.add_marker(skip)


@pytest.fixture(params=["multiprocessing", "sidestep"])
def mp(request):
    """Both packages in turn: the same test holds for the standard library."""
    for name in ("connection", "managers", "pool", "queues", "sharedctypes", "util"):
        importlib.import_module(f"{request.param}.{name}")
    return importlib.import_module(request.param)


@pytest.fixture(params=START_METHODS)
def ctx(request):
    """Sidestep's context of each start method."""
    return importlib.import_module("sidestep").get_context(request.param)


@pytest.fixture(params=START_METHODS)
def mp_ctx(mp, request):
    """The context of each start method, of both packages."""
    return mp.get_context(request.param)


@pytest.fixture
def start():
    """Start a process; those that are left at the end are killed."""
    started = []

    def start_one(ctx, target, *args, **kwargs):
        process = ctx.Process(target=target, args=args, **kwargs)
        process.start()
        started.append(process)
        return process

    yield start_one
    for process in started:
        with contextlib.suppress(ValueError):
            process.kill()
            process.join()


@pytest.fixture
def eventually():
    """Wait for a state: returns the first true value, or fails after 20 seconds."""

    def wait_for(condition):
        deadline = time.monotonic() + 20
        while not (value := condition()):
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.001)
        return value

    return wait_for


@pytest.fixture
def interrupt(eventually):
    """Have a signal handler raise in the main thread, once it is where it is to be.

    A function of a condition; returns the class of the exception.
    """
    raised, helpers = threading.Event(), []
    main = threading.main_thread().ident

    class HandlerError(Exception):
        pass

    def handle(*_):
        if not raised.is_set():
            raised.set()
            raise HandlerError

    def press(is_there):
        eventually(is_there)
        while not raised.wait(0.02):  # let it fall asleep; correct either way
            signal.pthread_kill(main, signal.SIGALRM)

    def when(is_there):
        helpers.append(threading.Thread(target=press, args=(is_there,)))
        helpers[0].start()
        return HandlerError

    before = signal.signal(signal.SIGALRM, handle)
    yield when
    raised.set()
    for helper in helpers:
        helper.join()
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def end_of():
    """When the kernel tells this process of another's end: what is later is ours.

    What a busy machine takes until then, and to let anybody run, is not. A function of a
    pid, to be called before the end; returns a function that waits and has the time.
    """

    def watch(pid):
        moments = []
        fd = os.pidfd_open(pid)

        def wait():
            select.select([fd], [], [])
            moments.append(time.monotonic())
            os.close(fd)

        thread = threading.Thread(target=wait)
        thread.start()

        def moment():
            thread.join()
            return moments[0]

        return moment

    return watch


@pytest.fixture
def no_leaked_descriptors(eventually):
    """The test must close what it opens; a thread of its own may be about to."""
    before = set(os.listdir("/proc/self/fd"))
    yield

    def left():
        more = set(os.listdir("/proc/self/fd")) - before
        paths = {fd: f"/proc/self/fd/{fd}" for fd in more}
        return {fd: os.readlink(p) for fd, p in paths.items() if os.path.exists(p)}

    eventually(lambda: not left())
