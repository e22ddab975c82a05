# SPDX-License-Identifier: MIT
"""Threads for what may block, beside a thread that must not.

A *crew* has as many threads as there are calls that wait, and a few idle ones. A worker
can also be somebody's own: it then does that one's calls, one after the other, until it
is dismissed.
"""

from __future__ import annotations

import queue
import threading
from traceback import format_exc

from . import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: Something to do. What it raises is logged.
    Task = Callable[[], object]

__all__ = ["Crew", "Worker"]

#: Threads that stay when they have nothing to do.
IDLE_MAX = 8


class Worker:
    """A thread that does one task after the other."""

    def __init__(self, name: str, rest: Callable[[Worker], bool] | None = None) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._rest = rest
        # RuntimeError when the system has no thread left.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, task: Task) -> None:
        """Have it do a task after those it has."""
        self._tasks.put(task)

    def dismiss(self) -> None:
        """Let it go after what it has to do."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException:  # noqa: BLE001 - the thread goes on
                util.info("a task of a manager's server failed:\n%s", format_exc())
            del task
            if self._rest is not None and not self._rest(self):
                return


class Crew:
    """Threads that are lent for one task each."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._count = 0

    def do(self, task: Task) -> None:
        """Have a thread do a task, now: an idle one, or a new one.

        Raises RuntimeError when the system has no thread left.
        """
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            self._count += worker is None
        if worker is None:
            try:
                worker = Worker(self._name, self._rest)
            except BaseException:
                with self._lock:
                    self._count -= 1
                raise
        worker.do(task)

    def _rest(self, worker: Worker) -> bool:
        """Tell a worker that has nothing to do whether it stays."""
        with self._lock:
            if len(self._idle) < IDLE_MAX:
                self._idle.append(worker)
                return True
            self._count -= 1
            return False

    def count(self) -> int:
        """Return how many threads there are."""
        return self._count
