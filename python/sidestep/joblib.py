# SPDX-License-Identifier: MIT
"""A backend of joblib: importing this module registers it as ``"sidestep"``.

::

    import sidestep.joblib

    with joblib.parallel_config(backend="sidestep", n_jobs=4):
        joblib.Parallel()(joblib.delayed(work)(item) for item in items)

The pool is kept between calls, arrays travel without copies (so nothing is put into
files), functions may be lambdas, and when a call fails, or its consumer goes away, only
the tasks of that call are stopped.
"""

from __future__ import annotations

import functools
import os
import threading

from . import get_context, util
from .pool import Pool

try:
    from joblib import _parallel_backends as _backends
    from joblib.parallel import BACKENDS, register_parallel_backend
except ImportError as _error:
    raise ImportError(
        "sidestep.joblib needs joblib 1.4 or later, from PyPI"
    ) from _error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["SidestepBackend", "register", "replace_loky"]


# ---- The pool that is kept ----


class _Kept:
    """The pool of the last call, for the next one that wants the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: object = None  # guarded by _lock, as is the rest
        self._pool: Pool | None = None
        self._users = 0

    def take(self, key: object, make: Callable[[], Pool]) -> tuple[Pool, bool]:
        """Return a pool, and whether it is the one that is kept."""
        with self._lock:
            if self._pool is not None and self._key != key:
                if self._users > 0:
                    return make(), False
                self._pool.terminate()
                self._pool = None
            if self._pool is None:
                self._pool, self._key = make(), key
            self._users += 1
            return self._pool, True

    def give_back(self, pool: Pool) -> None:
        """Count a user less."""
        with self._lock:
            if pool is self._pool:
                self._users -= 1

    def end(self) -> None:
        """End the pool, as the program does."""
        with self._lock:
            if self._pool is not None:
                self._pool.terminate()
                self._pool.join()
                self._pool = None


_kept = _Kept()


def _end() -> None:
    _kept.end()


util.Finalize(None, _end, exitpriority=20)


def _forget() -> None:
    global _kept  # noqa: PLW0603 - in a forked child: the pool is the parent's
    _kept = _Kept()


os.register_at_fork(after_in_child=_forget)


# ---- The backend ----


class SidestepBackend(_backends.AutoBatchingMixin, _backends.ParallelBackendBase):  # type: ignore[misc]
    """Runs the batches of a `joblib.Parallel` in a pool of processes.

    ``context``, which `parallel_config` passes on, is a start method or a context.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    uses_threads = False
    supports_sharedmem = False

    _pool: Pool | None = None
    _is_kept = False

    def __init__(self, *args: Any, context: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._context = context

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many workers there are for this argument of joblib's."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            cpus: int = get_context().cpu_count()
            return max(cpus + 1 + n_jobs, 1)
        return n_jobs

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: object = None,
        require: object = None,
        **_options: object,
    ) -> int:
        """Have a pool of that size. Options about files, and joblib's context, are not ours."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            sequential = _backends.SequentialBackend(nesting_level=self.nesting_level)
            raise _backends.FallbackToBackend(sequential)
        context = self._context
        if context is None or isinstance(context, str):
            context = get_context(context)
        threads = self._prepare_worker_env(n_jobs)
        key = (n_jobs, context.get_start_method(), tuple(sorted(threads.items())))
        self._pool, self._is_kept = _kept.take(
            key, lambda: Pool(n_jobs, os.environ.update, (threads,), context=context)
        )
        self._running: set[Any] = set()
        self.parallel = parallel
        return n_jobs

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None
    ) -> Any:
        """Have a worker call ``func()``; the outcome goes to the callback."""
        assert self._pool is not None
        done = threading.Event()
        running = self._running
        result: Any = None

        def finish(ok: bool, value: Any) -> None:
            done.set()
            running.discard(result)
            if callback is not None:
                callback((ok, value))

        result = self._pool.apply_async(
            func,
            callback=functools.partial(finish, True),  # noqa: FBT003
            error_callback=functools.partial(finish, False),  # noqa: FBT003
        )
        running.add(result)
        if done.is_set():
            running.discard(result)
        return result

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: tuple[bool, Any]) -> Any:
        """Return the value of an outcome, or raise its exception."""
        ok, value = out
        if ok:
            return value
        raise value

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop what runs of this call, and forget what waits."""
        for result in list(self._running):
            result.cancel()
        if not ensure_ready:
            self.terminate()

    def terminate(self) -> None:
        """Give the pool back."""
        pool, self._pool = self._pool, None
        if pool is not None:
            if self._is_kept:
                _kept.give_back(pool)
            else:
                pool.terminate()
        self.reset_batch_stats()


def register(make_default: bool = False) -> None:
    """Make the backend known to joblib as ``"sidestep"``; importing does so, too."""
    register_parallel_backend("sidestep", SidestepBackend, make_default=make_default)


def replace_loky() -> None:
    """Answer for the backend ``"loky"``, joblib's default, as ``-m sidestep`` does.

    loky is made of the insides of the standard library's queues, and its workers are
    interpreters that have never heard of us.
    """
    BACKENDS["loky"] = SidestepBackend


register()
