# SPDX-License-Identifier: MIT
"""`ClusterContext`: what ``get_context("dask")`` and its siblings return.

It has what a context has, over an engine for many machines. Shared objects live in a
manager on the machine of the program, at the address that the engine's workers reach;
the connection is encrypted with a key that is made for it, and that goes to workers with
their tasks. ``docs/internals/cluster.rst`` tells the rest.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref

from sidestep import context
from sidestep._manager_session import remember_key

from . import ClusterPool, shared
from .backends import Backend, find
from .process import process_class
from .shared import ClusterManager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn, Self

    from sidestep.pool import Pool

__all__ = ["NAMES", "ClusterContext", "get"]

#: What ``get_context`` takes for a cluster.
NAMES = ("dask", "mpi", "ray", "cluster")

_cached: dict[str, ClusterContext] = {}
_guard = threading.Lock()
_open: weakref.WeakSet[ClusterContext] = weakref.WeakSet()


def get(name: str, **options: Any) -> ClusterContext:
    """Return the context of an engine; without options it is always the same."""
    if options or name == "cluster":
        return ClusterContext(name, **options)
    with _guard:
        made = _cached.get(name)
        if made is None or made.is_closed:
            made = _cached[name] = ClusterContext(name)
        return made


class _Share(Backend):
    """A context's back end as one of its pools has it: not to be closed."""

    def __init__(
        self, backend: Backend, limit: int | None, address: Callable[[], str]
    ) -> None:
        self._backend = backend
        self._limit = limit
        self.name = backend.name
        self.ahead = backend.ahead
        self.address = address  # type: ignore[method-assign]
        self.is_private = backend.is_private  # type: ignore[method-assign]
        self.submit = backend.submit  # type: ignore[method-assign]
        self.kill = backend.kill  # type: ignore[method-assign]
        self.give_up = backend.give_up  # type: ignore[method-assign]
        self.kill_tasks = backend.kill_tasks  # type: ignore[method-assign]

    def workers(self) -> int:
        """Return the number of workers, or the limit if that is less."""
        count = self._backend.workers()
        return min(count, self._limit or count)

    def close(self, *, wait: bool) -> None:
        """Do nothing: it is the context's."""


class ClusterContext(context.BaseContext):
    """A context whose workers and processes are those of an engine.

    ``cluster`` is what ``Pool(cluster=)`` takes, by default the engine itself;
    ``workers`` how many to start where one is started; ``address`` the one of this
    machine that workers connect to, where the engine does not tell; with
    ``allow_insecure`` the engine may be one that is not encrypted; other options are the
    engine's. Engine and manager start when they are needed, and end with
    `close`, a ``with`` block, or the program.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Any = None,
        workers: int | None = None,
        address: str | None = None,
        allow_insecure: bool = False,
        **options: Any,
    ) -> None:
        if cluster is None and name == "cluster":
            raise TypeError('get_context("cluster", cluster=...) wants to know which')
        self._name = name
        self._cluster = name if cluster is None else cluster
        self._wanted = workers
        self._address = address
        self._allow_insecure = allow_insecure
        self._options = options
        if allow_insecure and name != "cluster":
            options["allow_insecure"] = True
        self._lock = threading.RLock()
        self._backend: Backend | None = None
        self._manager: ClusterManager | None = None
        self._managers: list[tuple[Any, bytes]] = []
        self._processes: set[Any] = set()
        self._pid = os.getpid()
        self.is_closed = False
        self.Process = process_class(self)
        _open.add(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the context of {self._name} stays with the program that made it: send "
            "what it makes"
        )

    # ---- What is behind it ----

    def backend(self) -> Backend:
        """Return the engine, started or connected."""
        with self._lock:
            self._check_open()
            if self._backend is None:
                self._backend = find(self._cluster, self._wanted, **self._options)
                # At the end of the program, before the engine's own exit handlers, which
                # wait for its threads: those registered last run first.
                threading._register_atexit(_close_all)  # type: ignore[attr-defined]
            return self._backend

    def manager(self) -> ClusterManager:
        """Return the manager of the shared objects, started."""
        with self._lock:
            self._check_open()
            if self._manager is None:
                self._manager = self._start_manager()
            return self._manager

    def _start_manager(self) -> ClusterManager:
        host = self._host()
        if not self.backend().is_private():
            if not self._allow_insecure:
                raise ValueError(
                    f"the engine of the context of {self._name} is not encrypted, and the "
                    "key of shared objects would go over it: use encryption there, or "
                    "say allow_insecure=True"
                )
            warnings.warn(
                "the key of shared objects goes to workers in clear text", stacklevel=4
            )
        key = os.urandom(32)
        manager = ClusterManager(
            (host, 0), key, ctx=context._concrete_contexts["forkserver"]
        )
        manager.start()
        remember_key(manager.address, key)
        self._managers.append((manager.address, key))
        return manager

    def _host(self) -> str:
        """Return the address of this machine that workers reach."""
        return self._address or self.backend().address()

    def keys(self) -> list[tuple[Any, bytes]]:
        """Return the addresses of managers with their keys: workers have to know."""
        return list(self._managers)

    def _check_open(self) -> None:
        if self.is_closed:
            raise ValueError(f"the context of {self._name} is closed")
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the context of {self._name} is for the process that made it, not for "
                "its children"
            )

    def finish(self) -> None:
        """Wait for the processes that are no daemons."""
        if os.getpid() == self._pid:
            for popen in list(self._processes):
                if not popen.is_daemon:
                    popen.wait()

    def close(self) -> None:
        """End what was started: processes, the manager, and the engine if it is ours."""
        with self._lock:
            if self.is_closed or os.getpid() != self._pid:
                return
            self.is_closed = True
            manager, self._manager = self._manager, None
            backend, self._backend = self._backend, None
        for popen in list(self._processes):
            try:
                popen.kill()
            except (EOFError, OSError):
                break
        for popen in list(self._processes):
            popen.wait(CLOSE_SECONDS)
        if manager is not None:
            manager.shutdown()
        if backend is not None:
            backend.close(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def note_start(self, popen: Any) -> None:
        """Note that a process was started; warn when it will have to wait."""
        self._processes.add(popen)
        count, workers = len(self._processes), self.backend().workers()
        if count > workers:
            warnings.warn(
                f"{count} processes on {workers} workers of {self._name}: the last ones "
                "start when others have ended",
                stacklevel=5,
            )

    def note_end(self, popen: Any) -> None:
        """Note that a process has ended."""
        self._processes.discard(popen)

    # ---- What a context makes ----

    def cpu_count(self) -> int:
        """Return the number of the engine's workers."""
        return self.backend().workers()

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **options: Any,
    ) -> Pool:
        """Return a pool over the engine, of at most so many workers."""
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        return ClusterPool(
            self._share(processes), processes, initializer, initargs,
            maxtasksperchild, keys=self.keys, **options,
        )  # fmt: skip

    def _share(self, processes: int | None) -> _Share:
        share = _Share(self.backend(), processes, self._host)
        share.allow_insecure = self._allow_insecure
        return share

    def Manager(self) -> Any:
        """Return a started manager, at an address that workers reach."""
        with self._lock:
            self._check_open()
            return self._start_manager()

    def Queue(self, maxsize: int = 0) -> Any:
        """Return a queue of at most ``maxsize`` items, any number if 0."""
        return self.manager().Queue(maxsize)  # type: ignore[attr-defined]

    def JoinableQueue(self, maxsize: int = 0) -> Any:
        """Return a queue that counts the items whose work is unfinished."""
        return self.manager().JoinableQueue(maxsize)  # type: ignore[attr-defined]

    def SimpleQueue(self) -> Any:
        """Return a queue without bound."""
        return self.Queue()

    def Lock(self) -> Any:
        """Return a lock."""
        return self.manager().Lock()  # type: ignore[attr-defined]

    def RLock(self) -> Any:
        """Return a lock that its owner may take again."""
        return self.manager().RLock()  # type: ignore[attr-defined]

    def Condition(self, lock: Any = None) -> Any:
        """Return a condition, on a lock of its own if none is given."""
        return self.manager().Condition(lock)  # type: ignore[attr-defined]

    def Semaphore(self, value: int = 1) -> Any:
        """Return a semaphore of ``value`` units."""
        return self.manager().Semaphore(value)  # type: ignore[attr-defined]

    def BoundedSemaphore(self, value: int = 1) -> Any:
        """Return a semaphore that never has more than its first ``value`` units."""
        return self.manager().BoundedSemaphore(value)  # type: ignore[attr-defined]

    def Event(self) -> Any:
        """Return an event."""
        return self.manager().Event()  # type: ignore[attr-defined]

    def Barrier(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Return a barrier for ``parties`` processes; the action runs in the server."""
        return self.manager().Barrier(parties, action, timeout)  # type: ignore[attr-defined]

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Return a shared value, with a lock around it."""
        shared.Value(typecode_or_type, args, lock=False)  # raises here what is wrong
        return self.manager().Value(typecode_or_type, args, lock)  # type: ignore[attr-defined]

    def Array(
        self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True
    ) -> Any:
        """Return a shared array, with a lock around it."""
        if not isinstance(size_or_initializer, int | bytes | str):
            size_or_initializer = list(size_or_initializer)
        shared.Array(typecode_or_type, size_or_initializer, lock=False)
        return self.manager().Array(typecode_or_type, size_or_initializer, lock)  # type: ignore[attr-defined]

    def list(self, *args: Any) -> Any:
        """Return a shared list."""
        return self.manager().list(*args)  # type: ignore[attr-defined]

    def dict(self, *args: Any, **kwds: Any) -> Any:
        """Return a shared dictionary."""
        return self.manager().dict(*args, **kwds)  # type: ignore[attr-defined]

    def Namespace(self, **kwds: Any) -> Any:
        """Return a shared namespace."""
        return self.manager().Namespace(**kwds)  # type: ignore[attr-defined]

    def Pipe(self, duplex: bool = True) -> NoReturn:
        """Raise: a pipe joins processes of one machine."""
        raise NotImplementedError(
            f"a pipe does not reach from one machine to another: use Queue() of the "
            f"context of {self._name}"
        )

    def RawValue(self, typecode_or_type: Any, *args: Any) -> NoReturn:
        """Raise: there is no memory to share."""
        raise NotImplementedError(_RAW)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> NoReturn:
        """Raise: there is no memory to share."""
        raise NotImplementedError(_RAW)


_RAW = "machines share no memory: use Value() or Array(), whose items a manager keeps"

#: Seconds that processes have at the end, after they were killed.
CLOSE_SECONDS = 5.0


def _close_all() -> None:
    """At the end of the program: wait for processes that are no daemons, as ever."""
    for each in list(_open):
        each.finish()
        each.close()
