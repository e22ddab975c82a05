# SPDX-License-Identifier: MIT
"""The seam between a pool and the engine that runs its tasks.

A back end needs the four methods of `Backend`. `ExecutorBackend` makes one of any
``concurrent.futures.Executor``; those for Dask and MPI correct what these do otherwise.
"""

from __future__ import annotations

import socket
import time
from concurrent import futures

from . import far

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .far import Batch, Reply

__all__ = ["Backend", "ExecutorBackend", "MissingEngineError", "find"]


class MissingEngineError(ImportError):
    """The package of an engine is not installed."""


def missing(engine: str, error: ImportError) -> MissingEngineError:
    """Return the error to raise when the import of an engine failed."""
    return MissingEngineError(
        f"a pool over {engine} needs its package ({error}): "
        f"pip install 'sidestep[{engine}]'{' mpich' if engine == 'mpi' else ''}"
    )


class Backend:
    """An engine that runs batches of tasks somewhere."""

    #: How errors call it.
    name = "the engine"
    #: Whether it sees to the limits in a `Batch`, and answers ``LOST`` and ``LATE``.
    keeps_limits = False
    #: Whether it does the tasks of a batch each on its own, and its futures tell of
    #: each: ``parts``, and ``on_part`` that is called when there are new ones.
    streams = False
    #: Batches under way for each worker: one runs, one is there when it has ended. One
    #: only, where what waits behind a task dies with it.
    ahead = 2
    #: Whether its user said that keys may go over it though it is not private.
    allow_insecure = False

    def submit(self, run: Callable[[Batch], Reply], batch: Batch) -> Any:
        """Have a worker call ``run(batch)``; return a future of the answer.

        The future has ``cancel``, ``result``, ``exception`` and ``add_done_callback``
        as those of ``concurrent.futures`` do. What it raises, but for cancellation, is
        the engine's failure: ``run`` raises nothing. `far.message` says the same in
        bytes, to engines that pickle bytes quicker than objects.
        """
        raise NotImplementedError

    def begin(self) -> Any:
        """Return a future for `run`, None where a batch is to be submitted."""
        return None

    def run(self, future: Any, batch: Batch) -> None:
        """Do as `submit`, and wait: the future of `begin` is done after that."""
        raise NotImplementedError

    def workers(self) -> int:
        """Return how many batches run at the same time."""
        raise NotImplementedError

    def kill(self, running: Iterable[Any]) -> bool:
        """Stop what runs for these futures; False: it runs on."""
        raise NotImplementedError

    def give_up(self, unwanted: Iterable[Any]) -> None:
        """Cancel what waits of these futures, stop what runs if that is possible."""
        running = [future for future in unwanted if not _cancelled(future)]
        if running:
            self.kill(running)

    def kill_tasks(self, future: Any, indexes: list[int]) -> None:
        """Stop some of the tasks of a batch, if that is possible."""

    def close(self, *, wait: bool) -> None:
        """Shut down what was started for the pool, and nothing else."""
        raise NotImplementedError

    def address(self) -> str:
        """Return the address of this machine that workers reach; this is for one's own."""
        return "127.0.0.1"

    def is_private(self) -> bool:
        """Tell whether nobody else can read what goes to workers, as far as is known."""
        return True


def is_loopback(host: str) -> bool:
    """Tell whether a host, as it stands in an address, is this machine's loopback."""
    return host in {"localhost", "::1", "[::1]"} or host.startswith("127.")


def route(host: str) -> str:
    """Return the address of this machine from which packets go to a host."""
    family, _, _, _, where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(where)  # sends nothing
        name: str = sock.getsockname()[0]
        return name


#: How long what an engine said of its workers is believed, in seconds.
FRESH = 1.0


class CountedBackend(Backend):
    """An engine whose workers come and go, and are counted now and then."""

    _limit: int | None = None
    _asked = 0.0
    _count = 1

    def count(self) -> int:
        """Ask the engine how many batches it can run at the same time."""
        raise NotImplementedError

    def workers(self) -> int:
        """Return how many the engine has, or what was asked for if fewer."""
        now = time.monotonic()
        if now - self._asked > FRESH:
            self._asked = now
            self._count = self.count() or 1
        return min(self._count, self._limit or self._count)


def cannot_cancel() -> bool:
    """Stand for a future's ``cancel``: the task is for kill() to end."""
    return False


class ExecutorBackend(Backend):
    """Any ``concurrent.futures.Executor``; ``workers`` where it does not say itself."""

    def __init__(self, executor: futures.Executor, workers: int | None = None) -> None:
        self._executor = executor
        self._workers = workers
        self.name = type(executor).__name__

    def submit(self, run: Callable[[Batch], Reply], batch: Batch) -> Any:
        """Have the executor call ``run(batch)``."""
        del run
        call, sent = far.message(batch)
        return self._executor.submit(call, sent)

    def workers(self) -> int:
        """Return what was given, or what the executor knows, or the number of CPUs."""
        if self._workers is not None:
            return self._workers
        for name in ("_max_workers", "max_workers", "num_workers"):
            count = getattr(self._executor, name, None)
            if isinstance(count, int) and count > 0:
                return count
        from sidestep import cpu_count

        return cpu_count()

    def kill(self, running: Iterable[Any]) -> bool:
        """Return False: executors have no means for that."""
        return False

    def close(self, *, wait: bool) -> None:
        """Do nothing: the executor is its owner's."""


def _cancelled(future: Any) -> bool:
    try:
        return bool(future.cancel())
    except Exception:  # noqa: BLE001 - parsl's raises
        return False


def find(cluster: Any, workers: int | None, **options: Any) -> Backend:
    """Return the back end for what a user calls a cluster; options are the engine's."""
    if isinstance(cluster, Backend):
        return cluster
    if isinstance(cluster, futures.Executor):
        return ExecutorBackend(cluster, workers, **options)
    if (backend := getattr(cluster, "_task_backend", None)) is not None:
        return backend()  # type: ignore[no-any-return]
    module = type(cluster).__module__.partition(".")[0]
    scheme = cluster.partition(":")[0] if isinstance(cluster, str) else ""
    if module in {"distributed", "dask_jobqueue", "dask_kubernetes", "dask_cuda"}:
        scheme = "dask"
    if scheme in {"dask", "tcp", "tls", "ucx", "ws", "wss"}:
        from .dask import DaskBackend

        return DaskBackend(cluster, workers, **options)
    if scheme == "mpi":
        from .mpi import MpiBackend

        return MpiBackend(workers, **options)
    if scheme == "ray":
        from .ray import RayBackend

        return RayBackend(cluster, workers, **options)
    raise TypeError(
        "cluster is a concurrent.futures.Executor, a manager, a Dask Client, cluster or "
        f"address, 'dask', 'mpi' or 'ray', not {cluster!r}"
    )
