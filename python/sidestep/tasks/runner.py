# SPDX-License-Identifier: MIT
"""Batches of tasks in a pool of this machine, each task on its own.

So a worker that dies costs one task, and what limits a task has the pool sees to.
"""

from __future__ import annotations

import functools
import threading

from sidestep import _remote, process
from sidestep.cluster import far, parcel
from sidestep.context import TimeoutError
from sidestep.pool import WorkerLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Outcome = tuple[int, parcel.Parcel]
    Finish = Callable[[int, far.Reply], object]
    Part = Callable[[int, int, Outcome], object]

__all__ = ["Runner", "prepare"]


def prepare(authkey: bytes) -> None:
    """Be a worker whose tasks may use proxies of the server's objects."""
    process.current_process().authkey = authkey


class _Work:
    """A batch under way here."""

    __slots__ = ("is_dead", "key", "left", "outcomes", "results", "seconds")

    def __init__(self, key: int, count: int) -> None:
        self.key = key
        self.left = count
        self.outcomes: list[Any] = [None] * count
        self.results: list[Any] = [None] * count
        self.seconds = 0.0
        self.is_dead = False  # killed altogether


class Runner:
    """Runs batches in a pool; ``finish(key, reply)`` is told of each, on any thread.

    Of a batch of several tasks ``part(key, index, outcome)``, if there is one, is told of
    each, and the reply has nothing.
    """

    def __init__(self, finish: Finish, part: Part | None = None) -> None:
        self._finish = finish
        self._part = part
        self._lock = threading.Lock()
        self._works: dict[int, _Work] = {}  # guarded by _lock
        #: Batches that are to be killed and have not come yet; guarded by _lock.
        self._condemned: set[int] = set()

    def run(self, pool: Any, key: int, batch: far.Batch) -> None:
        """Have the pool do the tasks of a batch."""
        work = _Work(key, len(batch.tasks))
        with self._lock:
            if key in self._condemned:
                self._condemned.discard(key)
                return
            self._works[key] = work
        for index, task in enumerate(batch.tasks):
            self._start(pool, work, index, batch, task)

    def _start(
        self, pool: Any, work: _Work, index: int, batch: far.Batch, task: Any
    ) -> None:
        timeout, soft, priority = (
            batch.limits[index] if batch.limits else (None, None, 1)
        )
        digest, mode, args = task
        function = batch.functions[digest]
        target: Any = far.run_plain
        given: tuple[Any, ...] = digest, function.data, mode, args.data
        end: Any = self._end_plain
        if batch.initializer or batch.keys or function.buffers or args.buffers:
            target, given = far.run, (self._single(batch, task),)
            end = self._end
        try:
            result = pool.apply_async(
                target,
                given,
                {},
                functools.partial(end, work, index),
                functools.partial(self._fail, work, index),
                timeout=timeout,
                soft_timeout=soft,
                priority=priority,
            )
        except Exception as error:  # noqa: BLE001 - the pool takes no more
            self._fail(work, index, error)
            return
        with self._lock:
            work.results[index] = result
            is_dead = work.is_dead
        if is_dead:
            result.cancel()

    @staticmethod
    def _single(batch: far.Batch, task: Any) -> far.Batch:
        digest = task[0]
        return far.Batch(
            batch.token,
            batch.initializer,
            {digest: batch.functions[digest]},
            [task],
            batch.keys,
        )

    def _end_plain(self, work: _Work, index: int, outcome: Any) -> None:
        kind, data, packed, seconds = outcome
        if packed is None:
            packed = parcel.Parcel(data, [])
        self._note(work, index, (kind, packed), seconds)

    def _end(self, work: _Work, index: int, reply: far.Reply) -> None:
        self._note(work, index, reply.outcomes[0], reply.seconds)

    def _fail(self, work: _Work, index: int, error: BaseException) -> None:
        kind = far.RAISED
        if isinstance(error, WorkerLost):
            kind, packed = far.LOST, parcel.dumps(error)
        elif isinstance(error, TimeoutError):
            kind, packed = far.LATE, parcel.dumps(error)
        else:
            text = _remote.text_of(error)
            packed = parcel.dumps(_remote.pack(error, text, parcel.dumps_in_band))
        self._note(work, index, (kind, packed), 0.0)

    def _note(self, work: _Work, index: int, outcome: Outcome, seconds: float) -> None:
        in_parts = self._part is not None and len(work.outcomes) > 1
        with self._lock:
            work.outcomes[index] = outcome
            work.results[index] = None
            work.seconds += seconds
            is_known = work.key in self._works
        if in_parts and is_known:
            assert self._part is not None
            self._part(work.key, index, outcome)
        with self._lock:
            work.left -= 1
            if work.left or self._works.pop(work.key, None) is None:
                return
        outcomes = [] if in_parts else work.outcomes
        self._finish(work.key, far.Reply(outcomes, work.seconds))

    def kill(self, key: int, indexes: list[int] | None = None) -> None:
        """Give up a batch, or some tasks of it; who runs one is killed.

        A batch that was given up altogether is not told of.
        """
        with self._lock:
            if indexes is None:
                work = self._works.pop(key, None)
                if work is None:
                    self._condemned.add(key)
            else:
                work = self._works.get(key)
            if work is None:
                return
            work.is_dead = indexes is None
            results = work.results if indexes is None else _some(work.results, indexes)
            results = [result for result in results if result is not None]
        for result in results:
            result.cancel()

    def kill_all(self) -> None:
        """Give up everything."""
        with self._lock:
            keys = list(self._works)
        for key in keys:
            self.kill(key)

    def __len__(self) -> int:
        return len(self._works)


def _some(results: list[Any], indexes: list[int]) -> list[Any]:
    return [results[index] for index in indexes if index < len(results)]
