# SPDX-License-Identifier: MIT
"""Pools of workers: `Pool` of processes, `ThreadPool` of threads.

Both have the methods of ``multiprocessing.pool`` and some more, and give the same
results: objects of `ApplyResult` and its siblings. What differs is the engine behind
them: the core's dispatcher for processes (``docs/internals/pool_python.rst``),
`_threads.ThreadEngine` for threads.

A worker that dies costs the task that it was running, whose result raises `WorkerLost`,
and nothing else: another one takes its place.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Sized

from . import _aio, _core, _equip, _progress, _workers, context, get_context, util
from ._equip import SoftTimeLimitExceeded, Worker, current_worker
from ._options import default_count, options_of, refuse_for_threads
from ._remote import MaybeEncodingError, RemoteTraceback
from ._taskqueue import HandMade, TaskQueue, batches_of, tasks_of
from ._threads import ThreadEngine
from ._workers import CancelledError, MemoryLimitExceeded, WorkerLost
from .context import TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from typing import Any, Self, Unpack

    from ._options import PoolOptions
    from .context import BaseContext

    Callback = Callable[[Any], object] | None
    Progress = Callable[[int, int | None], object] | bool | None

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "CancelledError",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "MemoryLimitExceeded",
    "Pool",
    "RemoteTraceback",
    "SoftTimeLimitExceeded",
    "ThreadPool",
    "TimeoutError",
    "Worker",
    "WorkerLost",
    "current_worker",
]

for _class in (
    CancelledError, MaybeEncodingError, MemoryLimitExceeded, RemoteTraceback,
    SoftTimeLimitExceeded, Worker, WorkerLost,
):  # fmt: skip
    _class.__module__ = __name__
del _class

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

#: Kinds of results, as binding/pool.h numbers them.
_MAP, _IMAP, _UNORDERED = 1, 2, 3

#: Whether cancel() kills the worker that has the task already.
_KILL = True

#: Whether an item is the argument, or a tuple of them.
_ONE, _STAR = 0, 1

job_counter = itertools.count()


def mapstar(args: Any) -> list[Any]:
    """Call a function for each item of a chunk."""
    return list(map(*args))


def starmapstar(args: Any) -> list[Any]:
    """Call a function with the arguments in each item of a chunk."""
    return list(itertools.starmap(args[0], args[1]))


class ExceptionWithTraceback:
    """An exception that keeps its traceback, as text, when it is pickled."""

    def __init__(self, exc: BaseException, tb: Any) -> None:
        import traceback

        text = "".join(traceback.format_exception(type(exc), exc, tb))
        self.exc = exc
        self.tb = f'\n"""\n{text}"""'

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """Unpickle an `ExceptionWithTraceback`."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


def _cancel(result: Any) -> bool:
    pool = result._pool
    if pool is None:
        return False
    given_up: bool = pool._engine.cancel(result, CancelledError("cancelled"), _KILL)
    if given_up:
        result._was_cancelled = True
    return given_up


class ApplyResult(_core.PoolResult):
    """What `Pool.apply_async` returns: the result to come."""

    __slots__ = ()

    def cancel(self) -> bool:
        """Give the call up; if a worker runs it, the worker is killed.

        Returns whether there was anything to give up. `get` then raises
        `CancelledError`.
        """
        return _cancel(self)

    def cancelled(self) -> bool:
        """Tell whether `cancel` has given the call up."""
        return getattr(self, "_was_cancelled", False)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result in an asyncio task; whose end cancels the call."""
        return _aio.value_of(self).__await__()

    def __class_getitem__(cls, item: Any) -> Any:
        """Support ``AsyncResult[int]`` in annotations."""
        import types

        return types.GenericAlias(cls, item)


AsyncResult = ApplyResult


class MapResult(ApplyResult):
    """What `Pool.map_async` returns: the list to come."""

    __slots__ = ()


class IMapIterator(_core.PoolIterator):
    """What `Pool.imap` returns: the results to come, in order."""

    __slots__ = ()

    def __new__(cls, pool: Pool) -> Any:
        """Make one by hand, for tasks that go into ``pool._taskqueue``."""
        is_ordered = not issubclass(cls, IMapUnorderedIterator)
        return HandMade(pool, next(job_counter), is_ordered=is_ordered)

    def cancel(self) -> bool:
        """Give up all items that have no result yet, those that run included."""
        return _cancel(self)

    def cancelled(self) -> bool:
        """Tell whether `cancel` has given up items."""
        return getattr(self, "_was_cancelled", False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next result; the end of the asyncio task cancels the rest."""
        return await _aio.next_of(self)

    async def aclose(self) -> None:
        """Do as `cancel`, for ``contextlib.aclosing``."""
        _cancel(self)


class IMapUnorderedIterator(IMapIterator):
    """What `Pool.imap_unordered` returns: the results to come, as they come."""

    __slots__ = ()


class Pool(_aio.AsyncMethods):
    """A pool of worker processes.

    ``processes`` is how many, by default as many as there are CPUs for this process;
    each calls ``initializer(*initargs)`` when it starts and is replaced by a new one
    after ``maxtasksperchild`` tasks.

    Over the standard library's, by keyword:

    ``name``
        Of the pool; its workers are called ``name-0``, ``name-1`` and so on.
    ``memory_limit``
        Bytes that a worker and its descendants may use, or ``(soft, hard)``; None is no
        limit. Over the soft one the worker is replaced after its task; over the hard
        one it is killed, and its task's result is `MemoryLimitExceeded`. Shared memory
        does not count; what a forked worker has of its parent does.
    ``idle_timeout``
        Seconds without a task after which a worker ends. All come back with the next.
    ``worker_exit``
        Called by each worker that ends of itself, after its last task; not when it is
        killed, and not by `terminate`.
    ``seed``
        For `random`, and NumPy's global generator if a worker has or imports it: each
        worker gets a stream of its own, the same in each run. Which worker gets which
        task is not the same in each run.
    ``threads``
        BLAS and OpenMP threads of each worker. By default as many as there are CPUs
        for each, unless the workers are forked or the environment has a say
        (``OMP_NUM_THREADS`` and the like); None leaves them alone. What is loaded
        already, as in forked workers, is reached only if `threadpoolctl` is installed.
    ``pin``
        Whether each worker is kept on one CPU.
    ``log``
        Whether what workers log goes to the handlers of this process, in order, with
        the worker's name as ``processName``. Handlers of their own are taken away.

    A pool that is made inside a worker has by default as many workers as that one's
    share of the CPUs, at least one; so pools in pools do not multiply.

    The methods that run something take, over those of the standard library:

    ``timeout``
        Seconds for each item. A worker that takes longer is killed, the item's result
        is `TimeoutError`, all others are as they would be.
    ``soft_timeout``
        Seconds after which `SoftTimeLimitExceeded` is raised inside of the task, which
        may catch it. It comes between two instructions of Python: a call into C that
        does not look for signals is not interrupted. For that there is ``timeout``.
    ``retries``
        How often an item is run again whose worker died. For what is safe to repeat.
    ``priority``
        0 goes before 1, the default, and that before 2.
    ``progress``
        Of maps and iterators. True shows a bar: tqdm's if it can be imported, else
        that of rich, else a line on a terminal. A function is called as
        ``progress(done, total)`` whenever items are done, on any thread, one call at
        a time; ``total`` is None for an input whose length is not known.
    """

    _wrap_exception = True
    _state = INIT

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        **options: Unpack[PoolOptions],
    ) -> None:
        self._pool: list[Any] = []
        self._ctx: Any = context or get_context()
        self._processes = default_count(self._ctx) if processes is None else processes
        if self._processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._options = options_of(type(self).__name__, options)
        self._engine: Any = None
        self._terminate: Callable[[], object] = self._make_engine()
        self._state = RUN

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> Any:
        """Return an unstarted worker."""
        return ctx.Process(*args, **kwds)

    def _make_engine(self) -> Callable[[], object]:
        """Make the engine, start the workers; return what ends them."""
        crew = _workers.Crew(
            self, self._ctx, self._initializer, self._initargs, self._options
        )
        self._engine = crew.engine = _core.PoolEngine(
            crew, self._processes, self._maxtasksperchild or 0, _equip.SOFT_SIGNAL,
            None if self._options.hard is None else _workers.MEMORY_INTERVAL,
        )  # fmt: skip
        # A context of another make has no process of ours.
        method = getattr(self._ctx.Process, "_start_method", "unknown")
        context.expect_starts([method] * self._processes)
        try:
            self._engine.fill()
        except BaseException:
            crew.terminate()
            raise
        return util.Finalize(self, crew.terminate, exitpriority=15)

    def _repopulate_pool(self) -> None:
        """Replace the workers that have ended, without waiting for a task to do so."""
        self._engine.fill()

    @property
    def _taskqueue(self) -> TaskQueue:
        """The tasks that no worker has."""
        return TaskQueue(self)

    _inqueue = _taskqueue
    _get_tasks = staticmethod(batches_of)
    _guarded_task_generation = staticmethod(tasks_of)

    @property
    def _cache(self) -> dict[int, Any]:
        """The results that are unfinished, by number."""
        results: dict[int, Any] = self._engine.results()
        return results

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
        kwds: Mapping[str, Any] = {},
        *,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        retries: int = 0,
        priority: int = 1,
    ) -> Any:
        """Return ``func(*args, **kwds)``, called by a worker."""
        if self._state != RUN:
            raise ValueError("Pool not running")
        return self._engine.apply(
            ApplyResult, self, func, args, kwds, None, None, timeout, soft_timeout,
            priority, retries,
        ).get()  # fmt: skip

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback = None,
        error_callback: Callback = None,
        *,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        retries: int = 0,
        priority: int = 1,
    ) -> ApplyResult:
        """Have a worker call ``func(*args, **kwds)``; returns the result to come."""
        if self._state != RUN:
            raise ValueError("Pool not running")
        return self._engine.apply(  # type: ignore[no-any-return]
            ApplyResult, self, func, args, kwds, callback, error_callback, timeout,
            soft_timeout, priority, retries,
        )  # fmt: skip

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return the results of ``func`` for each item, in order.

        Without a ``chunksize`` the pool chooses, by how long items take. Options as
        of `apply`: ``timeout``, ``soft_timeout``, ``retries``, ``priority``; and
        ``progress``.
        """
        result = self.map_async(func, iterable, chunksize, **options)
        return _progress.value_of(result)  # type: ignore[no-any-return]

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return the results of ``func`` for the arguments in each item, in order."""
        result = self.starmap_async(func, iterable, chunksize, **options)
        return _progress.value_of(result)  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
        **options: Any,
    ) -> MapResult:
        """Do as `map`, but return the result to come."""
        result: MapResult = self._map(
            MapResult, _MAP, func, iterable, _ONE, chunksize, 0, callback,
            error_callback, **options,
        )  # fmt: skip
        return result

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
        **options: Any,
    ) -> MapResult:
        """Do as `starmap`, but return the result to come."""
        result: MapResult = self._map(
            MapResult, _MAP, func, iterable, _STAR, chunksize, 0, callback,
            error_callback, **options,
        )  # fmt: skip
        return result

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **options: Any,
    ) -> IMapIterator:
        """Return an iterator of the results, in order, as they become ready.

        With ``buffersize`` the input is read no further than so many items beyond
        those that were taken from the iterator. Options as of `apply`.
        """
        return self._imap(
            IMapIterator, _IMAP, func, iterable, _ONE, chunksize, buffersize, **options
        )

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **options: Any,
    ) -> IMapIterator:
        """Return an iterator of the results, in the order they become ready."""
        return self._imap(
            IMapUnorderedIterator, _UNORDERED, func, iterable, _ONE, chunksize,
            buffersize, **options,
        )  # fmt: skip

    def istarmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **options: Any,
    ) -> IMapIterator:
        """Do as `imap`, with the arguments in each item."""
        return self._imap(
            IMapIterator, _IMAP, func, iterable, _STAR, chunksize, buffersize, **options
        )

    def _imap(
        self,
        kind: type,
        number: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: int,
        chunksize: int,
        buffersize: int | None,
        **options: Any,
    ) -> IMapIterator:
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be 1+, not {buffersize:n}")
        iterator: IMapIterator = self._map(
            kind, number, func, iterable, star, chunksize, buffersize or 0, **options
        )
        return iterator

    def _map(
        self,
        kind: type,
        number: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: int,
        chunksize: int | None,
        buffersize: int,
        callback: Callback = None,
        error_callback: Callback = None,
        *,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        retries: int = 0,
        priority: int = 1,
        progress: Progress = None,
    ) -> Any:
        self._check_running()
        follower = None
        if progress is not None and progress is not False:
            if number == _MAP and not isinstance(iterable, Sized):
                iterable = list(iterable)
            total = len(iterable) if isinstance(iterable, Sized) else None
            follower = _progress.Follower(progress, total)
        result = self._engine.map(
            kind, self, number, func, iterable, star, chunksize or 0, buffersize,
            callback, error_callback, timeout, soft_timeout, priority, retries,
        )  # fmt: skip
        if follower is not None:
            follower.follow(result)
        return result

    def resize(self, processes: int) -> None:
        """Have so many workers from now on; those too many leave after their task."""
        self._check_running()
        self._engine.resize(processes)
        self._processes = processes
        self._engine.fill()

    def statistics(self) -> dict[str, float]:
        """Return counters of tasks and workers."""
        self._engine.tidy()
        counters: dict[str, float] = self._engine.statistics()
        return counters

    def _broker_call(self, name: str, *args: Any) -> Any:
        """Do what a client in another process asks of a pool in a manager's server."""
        from .tasks.broker import of_pool

        return getattr(of_pool(self), name)(*args)

    def close(self) -> None:
        """Take no more tasks; the workers end when all are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """End the workers without doing the tasks that are left."""
        self._state = TERMINATE
        self._terminate()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the workers to end, after `close` or `terminate`.

        `TimeoutError` when they have not after ``timeout`` seconds.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in {CLOSE, TERMINATE}:
            raise ValueError("In unknown state")
        self._join(timeout)

    def _join(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        # While results are to come, workers that leave are replaced; then no more.
        if not (self._engine.settle(_left(end)) and self._engine.join(_left(end))):
            raise TimeoutError
        self._terminate()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.terminate()


class ThreadPool(Pool):
    """A pool of threads.

    It has the options of `Pool` that mean something for threads: ``name`` and
    ``worker_exit``; ``log`` changes nothing.
    """

    _wrap_exception = False

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **options: Unpack[PoolOptions],
    ) -> None:
        refuse_for_threads(options)
        super().__init__(processes, initializer, initargs, **options)

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> Any:
        """Return an unstarted worker."""
        from .dummy import Process

        return Process(*args, **kwds)

    def _make_engine(self) -> Callable[[], object]:
        self._engine = engine = ThreadEngine(
            self._initializer, self._initargs, self._processes, self._options
        )
        for index in range(self._processes):
            worker = self.Process(self._ctx, target=engine.work, args=(index,))
            if self._options.is_named:
                worker.name = f"{self._options.name}-{index}"
            worker.daemon = True
            self._pool.append(worker)
            worker.start()
        return util.Finalize(self, _stop_threads, (engine,), exitpriority=15)

    def _join(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        for worker in self._pool:
            worker.join(_left(end))
            if worker.is_alive():
                raise TimeoutError

    def resize(self, processes: int) -> None:
        """Raise: threads come and go with the pool."""
        raise NotImplementedError("a pool of threads keeps its size")

    def statistics(self) -> dict[str, float]:
        """Return the number of unfinished results, of tasks queued and of threads."""
        return {**self._engine.statistics(), "workers": len(self._pool)}


def _left(end: float | None) -> float | None:
    """Return the seconds until a time of the monotonic clock."""
    return None if end is None else max(0.0, end - time.monotonic())


def _stop_threads(engine: ThreadEngine) -> None:
    engine.stop(0, RuntimeError("the pool was terminated"))
