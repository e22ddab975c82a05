# SPDX-License-Identifier: MIT
"""Forked children for tests of the core, which know nothing of `sidestep.Process`."""

import contextlib
import os
import signal
import sys
import threading
import traceback


class Forked:
    """A child that runs a function and exits with 0, or 1 when it raised."""

    def __init__(self, function, *args):
        sys.stdout.flush()
        sys.stderr.flush()
        self.status = None
        self.killed = False
        self.lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                function(*args)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def kill(self):
        """Kill it, and return when it is gone."""
        self.killed = True
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self):
        """Return the exit code, -N for signal N."""
        with self.lock:
            if self.status is None:
                _, status = os.waitpid(self.pid, 0)
                self.status = os.waitstatus_to_exitcode(status)
        return self.status


@contextlib.contextmanager
def forked(function, *args):
    """Run a child beside the block; it must end well unless it was killed from here."""
    child = Forked(function, *args)
    try:
        yield child
    except BaseException:
        if child.status is None:
            child.kill()
        raise
    if not child.killed:
        assert child.wait() == 0


def run_forked(function, *args):
    """Run a child and wait for its end."""
    with forked(function, *args):
        pass


def state_of(pid):
    """The kernel's letter for what a process does: S, it sleeps; T, it is stopped."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


class HandlerError(Exception):
    """What the handler of `interrupting` raises."""


@contextlib.contextmanager
def interrupting(seconds=0.05, *, handler=None):
    """Have the main thread interrupted by a signal, again and again.

    The handler raises by default, the first time: it must not while the block is left.
    """
    raised = []

    def interrupt(_number, _frame):
        if not raised:
            raised.append(True)
            raise HandlerError

    old = signal.signal(signal.SIGALRM, handler or interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
