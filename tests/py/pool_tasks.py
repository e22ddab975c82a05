# SPDX-License-Identifier: MIT
"""What workers do in the tests of pools; importable, for spawn and forkserver."""

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import sidestep


def square(x):
    return x * x


def add(x, y=0):
    return x + y


def identity(x):
    return x


def pid_of(_=None):
    return os.getpid()


def sleep_and_return(seconds, value=None):
    time.sleep(seconds)
    return value


def wait_for(event, value=None):
    event.wait()
    return value


def kill_self(_=None):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_self_once(path):
    """Kill the first worker that runs this, and no other."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def exit_hard(code):
    os._exit(code)


def segfault(_=None):
    ctypes.string_at(0)


def raise_it(error):
    raise error


def raise_value_error(x):
    raise ValueError(x)


def raise_system_exit(code):
    sys.exit(code)


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


def raise_chain():
    try:
        {}["missing"]
    except KeyError as error:
        error.add_note("a note of the cause")
        outer = ValueError("outer")
        outer.add_note("a note")
        raise outer from error


def raise_in_handler():
    try:
        {}["missing"]
    except KeyError:
        raise ValueError("while handling")  # noqa: B904 - the context is what we test


def raise_group():
    inner = OSError(2, "inner")
    inner.__cause__ = KeyError("why")
    raise ExceptionGroup("several", [inner, ValueError("second")])


class Thing:
    """Can be referred to weakly."""


class TwoArguments(Exception):  # noqa: N818
    """Pickles, and does not unpickle."""

    def __init__(self, one, two):
        super().__init__(one)
        self.two = two


def raise_two_arguments():
    raise TwoArguments("first", "second")


def _refuse():
    raise LookupError("it does not want to be rebuilt")


class NotRebuilt:
    def __reduce__(self):
        return _refuse, ()


class NotPickled:
    def __reduce__(self):
        raise LookupError("it does not want to be pickled")


def return_not_rebuilt():
    return NotRebuilt()


def return_not_pickled():
    return NotPickled()


def raise_not_pickled():
    raise ValueError(NotPickled())


def fail_to_start():
    raise ArithmeticError("no start")


def fail_to_start_and_count(path):
    with open(path, "a") as file:
        file.write("x")
    raise ArithmeticError("no start")


def die_at_start_and_count(path):
    with open(path, "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def allocate_too_much():
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    try:
        return bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def use_memory(size):
    return len(bytearray(b"x") * size)


STATE = []


def remember(value):
    STATE.append(value)


def recall(_=None):
    return list(STATE)


def nested(method):
    with sidestep.get_context(method).Pool(2) as pool:
        return pool.map(square, range(5))


INTERRUPTED = set()


def interrupt_once(name):
    """Press Ctrl-C, for each name once: in the parent, where signal handlers run."""
    if (
        name not in INTERRUPTED
        and sidestep.parent_process() is None
        and threading.current_thread() is threading.main_thread()
    ):
        INTERRUPTED.add(name)
        signal.raise_signal(signal.SIGINT)


def rebuild(name, payload):
    interrupt_once(name)
    return Interrupted(name, payload)


class Interrupted:
    """Ctrl-C comes while this is unpickled."""

    def __init__(self, name, payload=None):
        self.name = name
        self.payload = payload

    def __reduce__(self):
        return rebuild, (self.name, self.payload)


class InterruptedBefore:
    """Ctrl-C comes while this is pickled."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        interrupt_once(self.name)
        return str, (self.name,)


def die_then_sleep(path):
    """Kill the first worker that runs this, and keep the second."""
    kill_self_once(path)
    time.sleep(60)
