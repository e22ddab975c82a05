# SPDX-License-Identifier: MIT
"""Progress of a pool's maps and iterators, for the option ``progress=``.

A follower watches a result and tells how many of its items have an outcome: a function
of the user's, or a display of tqdm's, of rich's, or a line of our own. It runs on
whatever thread hands outcomes out, so no display may have a thread, nor hold a lock that
a forked worker needs.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Show = Callable[[int, int | None], object]

__all__ = ["Follower", "value_of"]

#: Seconds from one drawing to the next.
_INTERVAL = 0.1


class _TqdmBar:
    def __init__(self, total: int | None) -> None:
        # Without its monitor thread, and with a lock that workers do not inherit.
        base: Any = importlib.import_module("tqdm.auto").tqdm
        bar: Any = type("Bar", (base,), {"monitor_interval": 0})
        bar.set_lock(threading.RLock())
        self._bar = bar(total=total, miniters=0, mininterval=0)

    def __call__(self, done: int, total: int | None) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _RichBar:
    def __init__(self, total: int | None) -> None:
        progress: Any = importlib.import_module("rich.progress")
        console: Any = importlib.import_module("rich.console")
        self._bar = progress.Progress(
            *progress.Progress.get_default_columns(),
            progress.MofNCompleteColumn(),
            console=console.Console(stderr=True),
            auto_refresh=False,  # it would start a thread
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=total)
        self._bar.start()

    def __call__(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def close(self) -> None:
        self._bar.stop()


class _Line:
    def __init__(self) -> None:
        self._file = sys.stderr
        self._is_begun = False

    def __call__(self, done: int, total: int | None) -> None:
        share = f"/{total} ({100 * done // total} %)" if total else ""
        self._file.write(f"\r{done}{share}")
        self._file.flush()
        self._is_begun = True

    def close(self) -> None:
        if self._is_begun:
            self._file.write("\n")


def _display(total: int | None) -> Any:
    """Return the best display there is, or None."""
    for kind in (_TqdmBar, _RichBar):
        try:
            return kind(total)
        except ImportError:
            continue
    return _Line() if sys.stderr is not None and sys.stderr.isatty() else None


class Follower:
    """Tells how far one result is."""

    def __init__(self, progress: Show | bool, total: int | None) -> None:
        self._total = total
        self._show: Any = progress if callable(progress) else _display(total)
        self._interval = 0.0 if callable(progress) else _INTERVAL
        self._lock = threading.Lock()
        self._result: Any = None
        self._told = -1  # guarded by _lock, as what follows
        self._next_time = 0.0
        self._tell(0, is_last=False)

    def follow(self, result: Any) -> None:
        """Follow a result from now on."""
        self._result = result
        result._follower = self
        result._watch(self)
        self()

    def __call__(self) -> None:
        """Tell what is new. Who finds another thread telling leaves it to that one."""
        while self._has_news() and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()

    def settle(self) -> None:
        """Have all told when this returns."""
        with self._lock:
            self._look()

    def _done(self) -> int:
        result = self._result
        if isinstance(result, _core.PoolIterator):
            return result._index
        return (self._total or 0) - int(result._left)

    def _has_news(self) -> bool:
        if self._show is None:
            return False
        if self._result._finished:
            return True
        return self._done() != self._told and time.monotonic() >= self._next_time

    def _look(self) -> None:
        if self._show is None or not self._has_news():
            return
        is_last: bool = self._result._finished  # first: nothing is done after it
        if is_last and self._total is None:
            self._total = getattr(self._result, "_length", None)
        self._tell(self._done(), is_last)

    def _tell(self, done: int, is_last: bool) -> None:
        show = self._show
        if show is None:
            return
        self._next_time = time.monotonic() + self._interval
        try:
            if done != self._told:
                self._told = done
                show(done, self._total)
        except Exception:
            self._show = None  # what fails once would fail each time
            if self._result is None:
                raise  # the first call is the caller's own
            sys.excepthook(*sys.exc_info())
            return
        if is_last:
            self._show = None
            if (close := getattr(show, "close", None)) is not None:
                close()


def value_of(result: Any) -> Any:
    """Return what ``result.get()`` does, when its progress has been told to the end."""
    follower = getattr(result, "_follower", None)
    try:
        return result.get()
    finally:
        if follower is not None:
            follower.settle()
