# SPDX-License-Identifier: MIT
"""`Pool` over Dask, MPI or any executor: the same program on many machines.

``sidestep.Pool(cluster=X)`` makes one. ``X`` is a ``concurrent.futures.Executor``; a Dask
``Client``, cluster or address; ``"dask"`` or ``"mpi"``; or a `Backend` of your own. The packages of the engines come with ``pip install 'sidestep[dask]'`` and so on; none
is imported before it is asked for.
"""

from __future__ import annotations

import warnings

from sidestep import util
from sidestep.pool import ApplyResult, IMapIterator, IMapUnorderedIterator, Pool

from .backends import Backend, ExecutorBackend, MissingEngineError, find
from .engine import ClusterEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, SupportsIndex

__all__ = ["Backend", "ClusterPool", "ExecutorBackend", "MissingEngineError", "find"]


class ClusterIterator(IMapIterator):
    """What ``imap`` of a `ClusterPool` returns."""

    #: How many results were taken: with a ``buffersize`` more of the input is read then.
    taken = 0

    def next(self, timeout: float | SupportsIndex | None = None) -> Any:
        """Return the next result; TimeoutError when it is not there in time."""
        value = super().next(timeout)
        self.taken += 1
        pool: Any = self._pool
        if pool is not None:
            pool._engine.pump()
        return value

    def __next__(self) -> Any:
        return self.next()


class ClusterUnorderedIterator(ClusterIterator, IMapUnorderedIterator):
    """What ``imap_unordered`` of a `ClusterPool` returns."""


class Slot:
    """Stands in a pool's ``_pool`` for a worker of the engine."""

    pid = None
    exitcode = None

    def is_alive(self) -> bool:
        """Tell that the engine looks after it."""
        return True


class ClusterPool(Pool):
    """A `Pool` whose workers are those of an engine for many machines.

    ``cluster`` says which; ``processes`` how many workers to count on, where the engine
    does not say, or to start, where one is started. The initializer runs in each worker
    before its first task. What a program's functions need beyond ``__main__`` must be
    installed where the workers are, sidestep too. ``maxtasksperchild`` means nothing here
    and is warned of.
    """

    def __init__(
        self,
        cluster: Any,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        keys: Callable[[], list[tuple[Any, bytes]]] = list,
        **options: Any,
    ) -> None:
        if options:
            raise ValueError(
                f"{', '.join(sorted(options))}: for pools of this machine, whose workers "
                "are ours to start"
            )
        if maxtasksperchild is not None:
            warnings.warn(
                "maxtasksperchild is ignored: a cluster's workers are not replaced",
                stacklevel=2,
            )
        self._cluster = cluster
        self._asked = processes
        self._keys = keys  # of managers that tasks know
        super().__init__(processes, initializer, initargs)

    def _make_engine(self) -> Callable[[], object]:
        backend = find(self._cluster, self._asked)
        try:
            engine = ClusterEngine(
                backend, self._initializer, self._initargs, self._keys
            )
            self._processes = backend.workers()
            self._pool.extend(Slot() for _ in range(self._processes))
        except BaseException:
            backend.close(wait=False)
            raise
        self._engine = engine
        return util.Finalize(self, _end, (engine,), exitpriority=15)

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        **limits: Any,
    ) -> Any:
        """Return ``func(*args, **kwds)``, called by a worker."""
        if limits:
            return super().apply(func, args, kwds, **limits)
        self._check_running()
        return self._engine.call(ApplyResult, self, func, args, kwds)

    def _map(self, kind: type, *args: Any, **options: Any) -> Any:
        kind = _OURS.get(kind, kind)
        return super()._map(kind, *args, **options)

    def resize(self, processes: int) -> None:
        """Raise: the number of workers is the engine's affair."""
        raise NotImplementedError("ask the cluster for more workers, not the pool")


_OURS: dict[type, type] = {
    IMapIterator: ClusterIterator,
    IMapUnorderedIterator: ClusterUnorderedIterator,
}


def _end(engine: ClusterEngine) -> None:
    engine.stop(0, RuntimeError("the pool was terminated"))
    engine.release()
