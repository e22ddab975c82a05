# SPDX-License-Identifier: MIT
"""Pools of workers: `ThreadPool` here and now, `Pool` (of processes) in a later version.

A job, one call of ``map`` or its relatives, is an iterator of tasks. A crew of
workers pulls tasks from the jobs' iterators, so that ``imap`` over a generator needs
no thread of its own and reads no further ahead than the workers are. What comes out
of a task goes to the job's result object. Only the crew knows what a worker is; a
crew of processes needs the same three methods: ``submit``, ``close``, ``terminate``.
"""

from __future__ import annotations

import collections
import itertools
import threading
import traceback
import types
import warnings
from typing import TYPE_CHECKING, Any, Self

from . import get_context, util
from .context import TimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .context import BaseContext

    Task = tuple[int, int, Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    Outcome = tuple[bool, Any]
    Callback = Callable[[Any], object] | None

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "RemoteTraceback",
    "ThreadPool",
]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

job_counter = itertools.count()


def mapstar(args: Any) -> list[Any]:
    """Call a function for each item of a chunk."""
    return list(map(*args))


def starmapstar(args: Any) -> list[Any]:
    """Call a function with the arguments in each item of a chunk."""
    return list(itertools.starmap(args[0], args[1]))


class RemoteTraceback(Exception):  # noqa: N818 - the stdlib's name
    """The cause of an exception that came from a worker: its traceback as text."""

    def __init__(self, tb: str) -> None:
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class ExceptionWithTraceback:
    """An exception that keeps its traceback, as text, when it is pickled."""

    def __init__(self, exc: BaseException, tb: Any) -> None:
        text = "".join(traceback.format_exception(type(exc), exc, tb))
        self.exc = exc
        self.tb = f'\n"""\n{text}"""'

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """Unpickle an `ExceptionWithTraceback`."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


class MaybeEncodingError(Exception):
    """A result could not be pickled."""

    def __init__(self, exc: object, value: object) -> None:
        self.exc = repr(exc)
        self.value = repr(value)
        super().__init__(self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


def _helper_reraises_exception(ex: BaseException) -> None:
    """Stand in for a task whose arguments could not be had."""
    raise ex


# ---- Results ----


class ApplyResult:
    """What `Pool.apply_async` returns: the result to come."""

    def __init__(
        self, pool: Pool, callback: Callback = None, error_callback: Callback = None
    ) -> None:
        self._pool: Pool | None = pool  # an unfinished job keeps its pool alive
        self._event = threading.Event()
        self._job = next(job_counter)
        self._cache = pool._cache
        self._callback = callback
        self._error_callback = error_callback
        self._success = False
        self._value: Any = None
        self._cache[self._job] = self

    def ready(self) -> bool:
        """Tell whether the result is there."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Tell whether the call returned; ValueError while it has not ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the result, up to ``timeout`` seconds."""
        self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, or raise what the call raised, or TimeoutError."""
        self.wait(timeout)
        if not self.ready():
            raise TimeoutError
        if self._success:
            return self._value
        raise self._value

    def _set(self, i: int, obj: Outcome) -> None:
        self._success, self._value = obj
        callback = self._callback if self._success else self._error_callback
        if callback is not None:
            _call_back(callback, self._value)
        self._finish()

    def _finish(self) -> None:
        self._event.set()
        self._cache.pop(self._job, None)
        self._pool = None

    def _abandon(self, error: BaseException) -> None:
        """Give up: the pool was terminated."""
        self._success, self._value = False, error
        self._finish()

    __class_getitem__: Any = classmethod(types.GenericAlias)


AsyncResult = ApplyResult

_callback_lock = threading.RLock()


def _call_back(callback: Callable[[Any], object], value: Any) -> None:
    """Run a user's callback; one at a time, and what it raises harms nobody."""
    with _callback_lock:
        try:
            callback(value)
        except Exception:  # noqa: BLE001 - it is the user's, and must be seen
            traceback.print_exc()


class MapResult(ApplyResult):
    """What `Pool.map_async` returns: the list to come."""

    def __init__(
        self,
        pool: Pool,
        chunksize: int,
        length: int,
        callback: Callback,
        error_callback: Callback = None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._lock = threading.Lock()
        self._success = True
        self._value = [None] * length
        self._chunksize = chunksize
        self._number_left = -(-length // chunksize) if chunksize > 0 else 0
        if self._number_left == 0:
            self._finish()

    def _set(self, i: int, obj: Outcome) -> None:
        success, result = obj
        with self._lock:
            self._number_left -= 1
            if success and self._success:
                start = i * self._chunksize
                self._value[start : start + self._chunksize] = result
            elif not success and self._success:
                # The first error counts, and only when all chunks are through, so
                # that nothing of this job runs any more when the caller sees it.
                self._success, self._value = False, result
            if self._number_left:
                return
        super()._set(i, (self._success, self._value))


class IMapIterator:
    """What `Pool.imap` returns: the results to come, in order."""

    def __init__(self, pool: Pool) -> None:
        self._pool: Pool | None = pool
        self._cond = threading.Condition(threading.Lock())
        self._job = next(job_counter)
        self._cache = pool._cache
        self._items: collections.deque[Outcome] = collections.deque()
        self._index = 0
        self._length: int | None = None
        self._unsorted: dict[int, Outcome] = {}
        self._cache[self._job] = self

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result, waiting for it; TimeoutError after ``timeout``."""
        with self._cond:
            if not self._items and self._index != self._length:
                self._cond.wait_for(self._has_news, timeout)
            if not self._items:
                if self._index == self._length:
                    self._pool = None
                    raise StopIteration
                raise TimeoutError
            success, value = self._items.popleft()
        if success:
            return value
        raise value

    __next__ = next

    def _has_news(self) -> bool:
        return bool(self._items) or self._index == self._length

    def _set(self, i: int, obj: Outcome) -> None:
        with self._cond:
            self._unsorted[i] = obj
            while self._index in self._unsorted:
                self._append(self._unsorted.pop(self._index))
            self._finish_if_complete()

    def _append(self, obj: Outcome) -> None:
        self._items.append(obj)
        self._index += 1
        self._cond.notify()

    def _set_length(self, length: int) -> None:
        with self._cond:
            self._length = length
            self._finish_if_complete()

    def _finish_if_complete(self) -> None:
        if self._index == self._length:
            self._cond.notify_all()
            self._cache.pop(self._job, None)
            self._pool = None

    def _abandon(self, error: BaseException) -> None:
        with self._cond:
            self._append((False, error))
            self._length = self._index
            self._finish_if_complete()


class IMapUnorderedIterator(IMapIterator):
    """What `Pool.imap_unordered` returns: the results to come, as they come."""

    def _set(self, i: int, obj: Outcome) -> None:
        with self._cond:
            self._append(obj)
            self._finish_if_complete()


# ---- Workers ----


class _Job:
    """The tasks of one call, and who wants to know how many there were."""

    def __init__(
        self, tasks: Iterator[Task], set_length: Callable[[int], None] | None = None
    ) -> None:
        self._tasks = tasks
        self._set_length = set_length
        self._count = 0

    def pull(self) -> Task | None:
        """Return the next task, None after the last. One caller at a time."""
        task = next(self._tasks, None)
        if task is not None:
            self._count += 1
        elif self._set_length is not None:
            self._set_length(self._count)
        return task


class _ThreadCrew:
    """Threads that pull tasks. They know this object, not the pool.

    So a pool that nobody refers to any more goes, and terminates its crew.
    """

    def __init__(
        self,
        cache: dict[int, Any],
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self._cache = cache
        self._initializer = initializer
        self._initargs = initargs
        self._cond = threading.Condition(threading.Lock())
        self._jobs: collections.deque[_Job] = collections.deque()  # guarded by _cond
        self._pulling = 0  # jobs in a worker's hands; guarded by _cond
        self._closing = False
        self._terminated = False

    def submit(self, job: _Job) -> None:
        """Have the job's tasks run, after those of earlier jobs."""
        with self._cond:
            self._jobs.append(job)
            self._cond.notify()

    def close(self) -> None:
        """Let the workers end when all tasks are done."""
        with self._cond:
            self._closing = True
            self._cond.notify_all()

    def terminate(self) -> None:
        """Let the workers end after what they are doing; drop the rest."""
        with self._cond:
            self._terminated = True
            self._jobs.clear()
            self._cond.notify_all()
        for result in tuple(self._cache.values()):
            result._abandon(RuntimeError("the pool was terminated"))

    def work(self) -> None:
        """Do what a worker does."""
        broken = self._initialize()
        while (task := self._next_task()) is not None:
            job, i, func, args, kwds = task
            outcome = broken or _run(func, args, kwds)
            result = self._cache.get(job)
            if result is not None:
                result._set(i, outcome)
            # Keep nothing alive while waiting for the next task.
            task = func = args = kwds = outcome = result = None  # type: ignore[assignment]

    def _initialize(self) -> Outcome | None:
        """Run the initializer; what it raises is the outcome of every task here."""
        if self._initializer is None:
            return None
        outcome = _run(self._initializer, self._initargs, {})
        return None if outcome[0] else outcome

    def _next_task(self) -> Task | None:
        while (job := self._take_job()) is not None:
            task = job.pull()
            with self._cond:
                self._pulling -= 1
                if task is not None and not self._terminated:
                    self._jobs.appendleft(job)
                self._cond.notify_all() if self._closing else self._cond.notify()
            if task is not None:
                return task
        return None

    def _take_job(self) -> _Job | None:
        with self._cond:
            while not self._terminated:
                if self._jobs:
                    self._pulling += 1
                    return self._jobs.popleft()
                if self._closing and not self._pulling:
                    return None
                self._cond.wait()
        return None


def _run(
    func: Callable[..., Any], args: Iterable[Any], kwds: dict[str, Any]
) -> Outcome:
    try:
        return True, func(*args, **kwds)
    except BaseException as error:  # noqa: BLE001 - it belongs to the caller
        return False, error


# ---- Pools ----


class Pool:
    """A pool of processes: in a later version. `ThreadPool` shares all but the workers."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
    ) -> None:
        self._pool: list[Any] = []
        self._state = INIT
        self._ctx = context or get_context()
        self._cache: dict[int, Any] = {}
        self._processes = self._ctx.cpu_count() if processes is None else processes
        if self._processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._crew = self._make_crew(initializer, tuple(initargs))
        self._terminate = util.Finalize(self, self._crew.terminate, exitpriority=15)
        self._state = RUN

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> Any:
        """Return an unstarted worker."""
        return ctx.Process(*args, **kwds)

    def _make_crew(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> _ThreadCrew:
        raise NotImplementedError(
            "sidestep.Pool comes in a later version; until then use "
            "concurrent.futures.ProcessPoolExecutor(mp_context=sidestep.get_context()), "
            "sidestep.Process with queues, or sidestep.pool.ThreadPool"
        )

    def __del__(self) -> None:
        if self._state == RUN:
            warnings.warn(
                f"unclosed running multiprocessing pool {self!r}",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} state={self._state} "
            f"pool_size={len(self._pool)}>"
        )

    def __reduce__(self) -> Any:
        raise NotImplementedError(
            "pool objects cannot be passed between processes or pickled"
        )

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006 - only read
    ) -> Any:
        """Return ``func(*args, **kwds)``, called by a worker."""
        return self.apply_async(func, args, kwds).get()

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
    ) -> list[Any]:
        """Return the results of ``func`` for each item, in order."""
        return self._map_async(func, iterable, mapstar, chunksize).get()  # type: ignore[no-any-return]

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """Return the results of ``func`` for the arguments in each item, in order."""
        return self._map_async(func, iterable, starmapstar, chunksize).get()  # type: ignore[no-any-return]

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006 - only read
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> ApplyResult:
        """Have a worker call ``func(*args, **kwds)``; returns the result to come."""
        self._check_running()
        result = ApplyResult(self, callback, error_callback)
        task: Task = (result._job, 0, func, tuple(args), kwds)
        self._crew.submit(_Job(iter([task])))
        return result

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> MapResult:
        """Do as `map`, but return the result to come."""
        return self._map_async(
            func, iterable, mapstar, chunksize, callback, error_callback
        )

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> MapResult:
        """Do as `starmap`, but return the result to come."""
        return self._map_async(
            func, iterable, starmapstar, chunksize, callback, error_callback
        )

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Callable[[Any], list[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> MapResult:
        self._check_running()
        items: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
        if chunksize is None:
            # Four chunks a worker: few, but enough to level different speeds.
            chunksize = -(-len(items) // (self._processes * 4))
        if len(items) == 0:
            chunksize = 0
        result = MapResult(self, chunksize, len(items), callback, error_callback)
        batches = _chunks(func, items, chunksize)
        self._crew.submit(_Job(_tasks(result._job, mapper, batches)))
        return result

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> Iterator[Any]:
        """Return an iterator of the results, in order, as they become ready."""
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> Iterator[Any]:
        """Return an iterator of the results, in the order they become ready."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(
        self,
        kind: type[IMapIterator],
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
    ) -> Iterator[Any]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        result = kind(self)
        if chunksize == 1:
            tasks = _tasks(result._job, func, ((item,) for item in iterable))
        else:
            batches = _chunks(func, iterable, chunksize)
            tasks = _tasks(result._job, mapstar, batches)
        self._crew.submit(_Job(tasks, result._set_length))
        if chunksize == 1:
            return result
        return (item for chunk in result for item in chunk)

    def close(self) -> None:
        """Take no more tasks; the workers end when all are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._crew.close()

    def terminate(self) -> None:
        """End the workers without doing the tasks that are left."""
        self._state = TERMINATE
        self._terminate()

    def join(self) -> None:
        """Wait for the workers to end, after `close` or `terminate`."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in {CLOSE, TERMINATE}:
            raise ValueError("In unknown state")
        for worker in self._pool:
            worker.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *args: object) -> None:
        self.terminate()


def _chunks(
    func: Callable[..., Any], iterable: Iterable[Any], size: int
) -> Iterator[tuple[Any, ...]]:
    """Return the arguments of `mapstar` and `starmapstar` for each chunk."""
    items = iter(iterable)
    while size and (chunk := tuple(itertools.islice(items, size))):
        yield ((func, chunk),)


def _tasks(
    job: int, func: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Task]:
    """Return a task for each arguments; where having them fails, one that raises."""
    count = -1
    try:
        for count, args in enumerate(arguments):
            yield job, count, func, args, {}
    except Exception as error:  # noqa: BLE001 - the user's iterator; the caller gets it
        yield job, count + 1, _helper_reraises_exception, (error,), {}


class ThreadPool(Pool):
    """A pool of threads."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        super().__init__(processes, initializer, initargs)

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> Any:
        """Return an unstarted worker."""
        from .dummy import Process

        return Process(*args, **kwds)

    def _make_crew(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> _ThreadCrew:
        crew = _ThreadCrew(self._cache, initializer, initargs)
        for _ in range(self._processes):
            worker = self.Process(self._ctx, target=crew.work)
            worker.daemon = True
            self._pool.append(worker)
            worker.start()
        return crew
