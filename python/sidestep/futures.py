# SPDX-License-Identifier: MIT
"""`ProcessPoolExecutor`: the interface of ``concurrent.futures`` over our pools.

It has what the standard library's has in Python 3.14, on every Python, and differs in
what a worker's death does: the future of the task that it ran fails, with an exception
that is both a `WorkerLost` and a ``BrokenProcessPool``; the others, and the executor,
go on.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import weakref
from concurrent import futures

from . import context, get_context, util
from ._options import default_count, options_of
from .pool import _IMAP, _STAR, IMapIterator, Pool, WorkerLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Unpack

    from ._options import PoolOptions
    from .context import BaseContext

__all__ = ["ProcessPoolExecutor"]

#: The pools of executors, until they have ended: what they have to do is done at exit.
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _finish_all() -> None:
    """Do what was submitted; after a Ctrl-C that ended the program, do not."""
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for pool in list(_pools):
        if interrupted and not hasattr(sys, "ps1"):
            pool.terminate()
        else:
            pool.close()
        pool.join()


util.Finalize(None, _finish_all, exitpriority=100)


def _broken_class() -> Any:
    """Return what the standard library raises when an executor is broken.

    While the interpreter ends its module is not imported: importing runs code, and
    CPython then forgets that Ctrl-C ended the program, which exits with 1 for 130.
    """
    if util.is_exiting() and "concurrent.futures.process" not in sys.modules:
        return futures.BrokenExecutor
    try:
        from concurrent.futures.process import BrokenProcessPool
    except (ImportError, RuntimeError):  # too late to register what is done at exit
        return futures.BrokenExecutor
    return BrokenProcessPool


@functools.cache
def _lost_class(kind: Any, base: Any) -> type[WorkerLost]:
    class LostFuture(kind, base):  # type: ignore[misc]
        """The worker that ran this future's task ended before the task did."""

    LostFuture.__name__ = LostFuture.__qualname__ = kind.__name__
    return LostFuture


class _Future(futures.Future):  # type: ignore[type-arg]
    """A future that can be cancelled until a worker takes its task."""

    _result_to_come: Any = None
    #: What the result gets when it is withdrawn; no outcome of the call.
    _withdrawal: BaseException | None = None

    def cancel(self) -> bool:
        """Cancel the call unless a worker has it; tell whether it is cancelled."""
        result = self._result_to_come
        if result is not None and not self.done():
            self._withdrawal = futures.CancelledError()
            if not _withdraw(result, self._withdrawal):
                return False
        cancelled = super().cancel()
        if cancelled and result is not None:
            self._result_to_come = None
            self.set_running_or_notify_cancel()
        return cancelled

    def running(self) -> bool:
        """Tell whether a worker has the task."""
        result = self._result_to_come
        if result is None or self.done() or (pool := result._pool) is None:
            return super().running()
        has_it: bool = pool._engine.is_running(result)
        return has_it


def _as_broken(pool: Pool, error: BaseException) -> BaseException:
    """Return what callers of an executor expect when a worker is lost, or none starts."""
    if isinstance(error, WorkerLost):
        kind: Any = type(error)
        lost = _lost_class(kind, _broken_class())(*error.args)
        lost.__dict__.update(error.__dict__)
        return lost
    if error is pool._engine.broken:
        broken: Exception = _broken_class()(
            f"no worker starts: their initializer failed, or they were ended ({error})"
        )
        broken.__cause__ = error
        return broken
    return error


def _withdraw(result: Any, error: BaseException) -> bool:
    pool = result._pool
    if pool is None:
        return False
    withdrawn: bool = pool._engine.cancel(result, error, _SPARE)
    return withdrawn


#: Whether cancel() kills the worker that has the task already.
_SPARE = False


def _succeed(future: _Future, value: Any) -> None:
    future._result_to_come = None
    if future.set_running_or_notify_cancel():
        future.set_result(value)


def _fail(future: _Future, pool: Pool, error: BaseException) -> None:
    if error is future._withdrawal:
        return
    future._result_to_come = None
    error = _as_broken(pool, error)
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


class ProcessPoolExecutor(futures.Executor):
    """An executor that runs calls in a pool of processes.

    ``max_workers`` is how many, by default one for each CPU that this process may use;
    each runs ``initializer(*initargs)`` when it starts, and is replaced after
    ``max_tasks_per_child`` calls. Workers start with the first call.

    The options of `Pool` that the standard library's does not have are taken by
    keyword: ``name``, ``memory_limit``, ``idle_timeout``, ``worker_exit``, ``seed``,
    ``threads``, ``pin``, ``log``.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        **options: Unpack[PoolOptions],
    ) -> None:
        options_of(type(self).__name__, options)
        self._mp_context: Any = mp_context or get_context()
        self._max_workers = (
            default_count(self._mp_context) if max_workers is None else max_workers
        )
        if self._max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._pid = os.getpid()
        self._pool_args = (initializer, tuple(initargs), max_tasks_per_child)
        self._pool_options = options
        self._lock = threading.Lock()
        self._pool: Pool | None = None  # guarded by _lock
        self._is_shut_down = False  # guarded by _lock
        self._submitted: weakref.WeakSet[_Future] = weakref.WeakSet()

    def _running_pool(self) -> Pool:
        if self._pid != os.getpid():
            raise RuntimeError("the executor belongs to the process that made it")
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if util.is_exiting():
                raise RuntimeError(
                    "cannot schedule new futures after interpreter shutdown"
                )
            if self._pool is None:
                self._pool = self._make_pool()
            pool = self._pool
        broken = pool._engine.broken
        if broken is not None:
            raise _as_broken(pool, broken)
        return pool

    def _make_pool(self) -> Pool:
        pool = Pool(
            self._max_workers, *self._pool_args, self._mp_context, **self._pool_options
        )
        _pools.add(pool)
        weakref.finalize(self, pool.close).atexit = False
        return pool

    @property
    def _processes(self) -> dict[int | None, Any]:
        """The workers by their pids."""
        pool = self._pool
        return {} if pool is None else {worker.pid: worker for worker in pool._pool}

    @property
    def _broken(self) -> Any:
        """The reason why no worker starts any more, or False."""
        pool = self._pool
        broken = None if pool is None else pool._engine.broken
        return False if broken is None else repr(broken)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> _Future:
        """Have a worker call ``fn(*args, **kwargs)``; returns the future."""
        pool = self._running_pool()
        future = _Future()
        self._submitted.add(future)
        result = pool.apply_async(
            fn,
            args,
            kwargs,
            functools.partial(_succeed, future),
            functools.partial(_fail, future, pool),
        )
        if not future.done():
            future._result_to_come = result
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Return an iterator of ``fn``'s results for the items, in order.

        The input is read at once, or with ``buffersize`` no further than so many items
        beyond those that were taken. TimeoutError when a result is not there
        ``timeout`` seconds after this call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else time.monotonic() + timeout
        items: Any = zip(*iterables, strict=False)
        if buffersize is None:
            items = list(items)
        pool = self._running_pool()
        # Not by the pool's method, which programs put their own in the place of.
        results = pool._imap(
            IMapIterator, _IMAP, fn, items, _STAR, chunksize, buffersize
        )
        return _each(pool, results, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; cancel those that no worker has, wait for the others."""
        with self._lock:
            self._is_shut_down = True
            pool = self._pool
        if pool is None:
            return
        if cancel_futures:
            for future in list(self._submitted):
                future.cancel()
        pool.close()
        if wait:
            pool.join()

    def terminate_workers(self) -> None:
        """Send all workers SIGTERM, and give up what is not done."""
        self._end_workers(signal.SIGTERM)

    def kill_workers(self) -> None:
        """Send all workers SIGKILL, and give up what is not done."""
        self._end_workers(signal.SIGKILL)

    def _end_workers(self, number: int) -> None:
        self.shutdown(wait=False, cancel_futures=True)
        if (pool := self._pool) is not None:
            error = WorkerLost("the workers of the executor were ended")
            pool._engine.stop(number, error)


def _each(pool: Pool, results: Any, end: float | None) -> Iterator[Any]:
    try:
        while True:
            left = None if end is None else end - time.monotonic()
            try:
                value = results.next(left)
            except StopIteration:
                return
            yield value
            del value  # an executor keeps nothing that its caller has dropped
    except context.TimeoutError:
        raise TimeoutError from None
    except Exception as error:
        broken = _as_broken(pool, error)
        if broken is error:
            raise
        raise broken from broken.__cause__
    finally:
        _withdraw(results, futures.CancelledError())
