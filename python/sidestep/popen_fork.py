# SPDX-License-Identifier: MIT
"""Starting a child as a copy of this process, and what all ways of starting share."""

from __future__ import annotations

import atexit
import os
import signal
import weakref

from . import _compat, _core, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .process import BaseProcess

__all__ = ["Popen"]


#: The running and ended children by the process that started them and their sentinel.
by_sentinel: weakref.WeakValueDictionary[tuple[int, int], Popen] = (
    weakref.WeakValueDictionary()
)


class Popen:
    """One started child: ``pid``, ``sentinel``, its end and its exit code."""

    method = "fork"

    pid: int
    sentinel: int

    def __init__(self, process_obj: BaseProcess) -> None:
        util._flush_std_streams()
        self.returncode: int | None = None
        self._child: _core.Child = _core.Child(process_obj.die_with_parent)
        self._launch(process_obj)
        self.pid = self._child.pid
        self.sentinel = self._child.fd
        by_sentinel[os.getpid(), self.sentinel] = self

    def duplicate_for_child(self, fd: int) -> int:
        """Return the number under which the child will have this descriptor."""
        return fd

    def hold(self, handle: bytes) -> None:
        """Keep a shared object for the child; a forked one has what we have."""

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, None if the child runs (and ``flag`` is WNOHANG)."""
        if self.returncode is None:
            try:
                if flag == os.WNOHANG:
                    self.returncode = self._child.poll()
                else:
                    self.returncode = self._child.wait()
            except ProcessLookupError:
                return None  # we are an os.fork() of the process whose child it is
        return self.returncode

    def wait(self, timeout: float | None = None, *, gone: bool = False) -> int | None:
        """Wait until the child is done, or gone; None when ``timeout`` is over."""
        if self.returncode is None or gone:
            code = self._child.wait(timeout, gone)
            if code is None:
                return None
            self.returncode = code
        return self.returncode

    def _send_signal(self, number: int) -> None:
        if self.returncode is None:
            self._child.signal(number)

    def interrupt(self) -> None:
        """Send SIGINT."""
        self._send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send_signal(signal.SIGKILL)

    def kill_tree(self) -> int:
        """Send SIGKILL to the child and to all it has started; to how many."""
        return 0 if self.returncode is not None else self._child.kill_tree()

    def _launch(self, process_obj: BaseProcess) -> None:
        if self._child.fork():
            run_child(process_obj)

    def close(self) -> None:
        """Give up the child's descriptor."""
        by_sentinel.pop((os.getpid(), self.sentinel), None)
        self._child.close()


def run_child(process_obj: BaseProcess) -> None:
    """Run a process object in the child that was made for it; never returns."""
    code = 1
    try:
        if _compat.ATEXIT_IN_CHILDREN:
            # What the parent registered is the parent's to run.
            atexit._clear()
            atexit.register(util._exit_function)
        code = process_obj._bootstrap()
    finally:
        if _compat.ATEXIT_IN_CHILDREN:
            atexit._run_exitfuncs()
        exit_process(code)


def exit_process(code: int) -> None:
    """End this process, with the exit code that ``sys.exit(code)`` would give it."""
    try:
        _core.process_exit(code)
    except OverflowError:
        _core.process_exit(255)
