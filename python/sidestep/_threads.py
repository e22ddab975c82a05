# SPDX-License-Identifier: MIT
"""The engine of `ThreadPool`: threads that pull tasks from what is to be done.

It has the methods of ``_core.PoolEngine`` that a pool calls. A job, one call of ``map``
or its relatives, is an iterator of tasks, and so ``imap`` over a generator needs no
thread of its own and reads no further ahead than the workers are.
"""

from __future__ import annotations

import collections
import functools
import itertools
import threading
import weakref

from . import _core, _equip
from .context import TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ._options import Options

    #: First item, how many, whether it is one and no chunk, and the call.
    Task = tuple[int, int, bool, Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    Outcome = tuple[bool, Any]

__all__ = ["ThreadEngine"]


class _Job:
    """The tasks of one call, and the result that wants their outcomes."""

    def __init__(
        self,
        result: Any,
        tasks: Iterator[Task],
        counts: bool,
        priority: int,
        total: int | None,
        buffer: int = 0,
    ) -> None:
        self.result = result
        self._total = total  # tasks, None while unknown
        self._pulled = 0  # tasks, by whoever pulls
        self.priority = priority
        self._buffer = buffer
        self._taken = 0  # items, by who iterates; guarded by the engine's _cond
        self._tasks = tasks
        self._counts = counts
        self._length = 0

    def note_taken(self) -> None:
        """Note that an item was taken."""
        self._taken += 1

    def has_room(self) -> bool:
        """Tell whether its input may be read further already."""
        return not self._buffer or self._length - self._taken < self._buffer

    def waiting(self) -> int:
        """Return how many tasks there are still to pull."""
        return 1 if self._total is None else self._total - self._pulled

    def pull(self) -> Task | None:
        """Return the next task, None after the last. One caller at a time."""
        try:
            task = next(self._tasks, None)
        except Exception as error:  # noqa: BLE001 - the user's iterator; the caller's
            self._tasks = iter(())
            first = self._length
            self._length += 1
            self.result._deliver(first, 1, _BARE, _FAILED, error)
            return self.pull()
        if task is not None:
            self._length = task[0] + task[1]
            self._pulled += 1
            return task
        self._total = self._pulled
        if self._counts:
            self._counts = False
            self.result._set_length(self._length)
        return task


class _Buffered:
    """An iterator that tells when an item was taken."""

    _on_taken: Callable[[], None]

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        iterator: Any = super()
        was_ready = iterator.ready()
        try:
            value = iterator.next(timeout)
        except StopIteration:
            raise
        except Exception as error:
            # An item that failed is taken as well; one that has not come is not.
            if was_ready or timeout is None or not isinstance(error, TimeoutError):
                self._on_taken()
            raise
        self._on_taken()
        return value


@functools.cache
def _buffered(kind: type) -> type:
    return type(kind.__name__, (_Buffered, kind), {})


class ThreadEngine:
    """Threads that pull tasks. They know this object, not the pool.

    So a pool that nobody refers to any more goes, and stops its threads.
    """

    def __init__(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        workers: int,
        options: Options,
    ) -> None:
        self._jobs = _core.PoolJobs()
        self._workers = workers
        self._initializer = initializer
        self._initargs = initargs
        self._options = options
        self._cond = threading.Condition(threading.Lock())
        # What is to be done, by priority; guarded by _cond, like what follows.
        self._todo: tuple[collections.deque[_Job], ...] = tuple(
            collections.deque() for _ in range(3)
        )
        self._pulling = 0  # jobs in a worker's hands
        self._parked: set[_Job] = set()  # until some of their results are taken
        self._closing = False
        self._stopped = False

    def results(self) -> dict[int, Any]:
        """Return the unfinished results by their numbers."""
        return self._jobs.results()

    def statistics(self) -> dict[str, int]:
        """Return counters of results and tasks; an iterator that goes on is one."""
        with self._cond:
            jobs = [job for todo in self._todo for job in todo]
            queued = sum(job.waiting() for job in jobs)
        return {"outstanding": len(self._jobs), "queued": queued}

    def _check(self) -> None:
        if self._closing or self._stopped:
            raise ValueError("Pool not running")

    def apply(
        self,
        kind: type,
        pool: object,
        func: Callable[..., Any],
        args: Iterable[Any],
        kwds: dict[str, Any] | None,
        callback: Any,
        error_callback: Any,
        *limits: Any,
    ) -> Any:
        """Do one call."""
        self._check()
        priority = _priority(limits)
        result = self._jobs.result(kind, pool, 0, 1, callback, error_callback)
        task: Task = (0, 1, True, func, tuple(args), kwds or {})
        self._submit(
            _Job(result, iter([task]), counts=False, priority=priority, total=1)
        )
        return result

    def map(
        self,
        type: type,
        pool: object,
        kind: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: int,
        chunk: int,
        buffer: int,
        callback: Any,
        error_callback: Any,
        *limits: Any,
    ) -> Any:
        """Do a call for each item."""
        self._check()
        priority = _priority(limits)
        length = 0
        if kind == _MAP:
            items = iterable if isinstance(iterable, list) else list(iterable)
            length = len(items)
            iterable = items
            # Four chunks a worker: few, but enough to level different speeds.
            chunk = chunk if chunk > 0 else -(-length // (self._workers * 4)) or 1
        if buffer:
            type = _buffered(type)
        result = self._jobs.result(
            type, pool, kind, length, callback, error_callback, max(chunk, 1)
        )
        if kind != _MAP or length:
            tasks = _tasks(func, iterable, star, max(chunk, 1))
            total = -(-length // max(chunk, 1)) if kind == _MAP else None
            job = _Job(result, tasks, kind != _MAP, priority, total, buffer)
            if buffer:
                result._on_taken = functools.partial(self._taken, weakref.ref(job))
            self._submit(job)
        return result

    def _taken(self, reference: weakref.ref[_Job]) -> None:
        """Let a job go on whose results were in the way."""
        job = reference()
        if job is None:
            return
        with self._cond:
            job.note_taken()
            if job in self._parked and job.has_room():
                self._parked.remove(job)
                self._todo[job.priority].append(job)
                self._cond.notify()

    def cancel(self, result: Any, error: BaseException, kill: bool = False) -> bool:
        """Give a result up; what runs of it runs on."""
        if result._job not in self._jobs.results():
            return False
        with self._cond:
            for todo in self._todo:
                for job in [job for job in todo if job.result is result]:
                    todo.remove(job)
            self._parked = {job for job in self._parked if job.result is not result}
            self._cond.notify_all()
        result._abandon(error)
        return True

    def _submit(self, job: _Job) -> None:
        with self._cond:
            self._todo[job.priority].append(job)
            self._cond.notify()

    def close(self) -> None:
        """Let the workers end when all tasks are done."""
        with self._cond:
            self._closing = True
            self._cond.notify_all()

    def stop(self, number: int, error: BaseException) -> None:
        """Let the workers end after what they are doing; drop the rest."""
        with self._cond:
            self._stopped = True
            for todo in self._todo:
                todo.clear()
            self._parked.clear()
            self._cond.notify_all()
        self._jobs.abandon(error)

    def work(self, index: int) -> None:
        """Do what a worker does."""
        _equip.enter_thread(index, self._options.name)
        try:
            self._work()
        finally:
            if self._options.exit is not None:
                self._options.exit()

    def _work(self) -> None:
        broken = self._initialize()
        while (pulled := self._next_task()) is not None:
            result, (first, count, bare, func, args, kwds) = pulled
            ok, value = broken or _run(func, args, kwds)
            result._deliver(first, count, bare, ok, value)
            # Keep nothing alive while waiting for the next task.
            pulled = func = args = kwds = value = result = None  # type: ignore[assignment]

    def _initialize(self) -> Outcome | None:
        """Run the initializer; what it raises is the outcome of every task here."""
        if self._initializer is None:
            return None
        outcome = _run(self._initializer, self._initargs, {})
        return None if outcome[0] else outcome

    def _next_task(self) -> tuple[Any, Task] | None:
        while (job := self._take_job()) is not None:
            task = job.pull()
            with self._cond:
                self._pulling -= 1
                if task is not None and not self._stopped:
                    self._put_back(job)
                self._cond.notify_all() if self._closing else self._cond.notify()
            if task is not None:
                return job.result, task
            del job  # it has the result, which is not ours to keep while we wait
        return None

    def _put_back(self, job: _Job) -> None:
        if job.has_room():
            self._todo[job.priority].appendleft(job)
        else:
            self._parked.add(job)

    def _take_job(self) -> _Job | None:
        with self._cond:
            while not self._stopped:
                for todo in self._todo:
                    if todo:
                        self._pulling += 1
                        return todo.popleft()
                if self._closing and not self._pulling and not self._parked:
                    return None
                self._cond.wait()
        return None


_MAP = 1
_BARE = True
_FAILED = False


def _priority(limits: tuple[Any, ...]) -> int:
    """Return the priority; raise for the limits that threads cannot have."""
    timeout, soft_timeout, priority, retries = limits
    if timeout is not None or soft_timeout is not None or retries:
        raise ValueError("threads cannot be killed: no timeouts and retries here")
    if priority not in {0, 1, 2}:
        raise ValueError("priority is 0, 1 or 2")
    return int(priority)


def _run(
    func: Callable[..., Any], args: Iterable[Any], kwds: dict[str, Any]
) -> Outcome:
    try:
        return True, func(*args, **kwds)
    except BaseException as error:  # noqa: BLE001 - it belongs to the caller
        return False, error


def _map(func: Callable[..., Any], items: list[Any]) -> list[Any]:
    return list(map(func, items))


def _starmap(func: Callable[..., Any], items: list[Any]) -> list[Any]:
    return list(itertools.starmap(func, items))


def _tasks(
    func: Callable[..., Any], iterable: Iterable[Any], star: int, size: int
) -> Iterator[Task]:
    if size == 1:
        for first, item in enumerate(iterable):
            yield first, 1, True, func, tuple(item) if star else (item,), {}
        return
    items = iter(iterable)
    first = 0
    while chunk := list(itertools.islice(items, size)):
        mapper = _starmap if star else _map
        yield first, len(chunk), False, mapper, (func, chunk), {}
        first += len(chunk)
