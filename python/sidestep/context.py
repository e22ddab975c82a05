# SPDX-License-Identifier: MIT
"""Contexts: everything the package makes, bound to a way of starting processes."""

from __future__ import annotations

import sys
import threading

from . import _core, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from logging import Logger
    from types import ModuleType
    from typing import Any, Unpack

    from ._options import PoolOptions
    from .connection import Connection
    from .managers import SyncManager
    from .pool import Pool
    from .popen_fork import Popen
    from .queues import JoinableQueue, Queue, SimpleQueue
    from .synchronize import (
        Barrier,
        BoundedSemaphore,
        Condition,
        Event,
        Lock,
        RLock,
        Semaphore,
    )

__all__: Sequence[str] = ()


class ProcessError(Exception):
    """The base of the package's own exceptions."""


class BufferTooShort(ProcessError):  # noqa: N818 - the stdlib's names
    """A message did not fit; it is the exception's argument."""


class TimeoutError(ProcessError):
    """The time given to a pool's or a manager's call is over."""


class AuthenticationError(ProcessError):
    """The other side does not know the key."""


class BaseContext:
    """The methods of every context; those of the default one are the package's.

    ``die_with_parent`` is what its processes do that were not told: with True they
    are killed when the process that started them ends, daemonic or not.
    ``import_main`` makes children that are not forked import ``__main__`` whether or
    not anything of it is needed in them, as the standard library's do.
    """

    ProcessError = ProcessError
    BufferTooShort = BufferTooShort
    TimeoutError = TimeoutError
    AuthenticationError = AuthenticationError

    current_process = staticmethod(process.current_process)
    parent_process = staticmethod(process.parent_process)
    active_children = staticmethod(process.active_children)

    _name: str
    Process: type[process.BaseProcess]
    die_with_parent: bool = False
    import_main: bool = False

    def cpu_count(self) -> int:
        """Return the number of CPUs that this process may use at a time.

        The least of the machine's, the affinity mask's, and the CPU quotas of the
        control groups the process is in; ``PYTHON_CPU_COUNT`` and ``-X cpu_count``
        override them all.
        """
        from ._compat import cpu_count_override
        from ._core import cpu_count

        return cpu_count_override() or cpu_count()

    def Manager(self) -> SyncManager:
        """Return a started manager, which makes objects in a server process."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """Return two connections, joined to each other."""
        from .connection import Pipe

        # Unlike a queue, a pipe does not settle on the default start method.
        if self._method_so_far() != "fork":
            expect_strangers()
        return Pipe(duplex)

    def Lock(self) -> Lock:
        """Return a lock."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> RLock:
        """Return a lock that its owner may take again."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock: Any = None) -> Condition:
        """Return a condition, on a lock of its own if none is given."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> Semaphore:
        """Return a semaphore of ``value`` units."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> BoundedSemaphore:
        """Return a semaphore that never has more than its first ``value`` units."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> Event:
        """Return an event."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> Barrier:
        """Return a barrier for ``parties`` processes."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> Queue:
        """Return a queue of at most ``maxsize`` items, any number if 0."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> JoinableQueue:
        """Return a queue that counts the items whose work is unfinished."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> SimpleQueue:
        """Return a queue with the least: get, put, empty, close."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        cluster: Any = None,
        **options: Unpack[PoolOptions],
    ) -> Pool:
        """Return a pool of worker processes; its options are described there.

        With a ``cluster`` its workers are those of an engine for many machines:
        `sidestep.cluster.ClusterPool`.
        """
        if cluster is not None:
            from .cluster import ClusterPool

            return ClusterPool(
                cluster, processes, initializer, initargs, maxtasksperchild, **options
            )
        from .pool import Pool

        return Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            context=self.get_context(),
            **options,
        )

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Return a shared value without a lock."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """Return a shared array without a lock."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Return a shared value, with a lock around it unless told otherwise."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(
        self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True
    ) -> Any:
        """Return a shared array, with a lock around it unless told otherwise."""
        from .sharedctypes import Array

        return Array(
            typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context()
        )

    def freeze_support(self) -> None:
        """Run the child's part if this is a frozen executable started as a child."""
        if getattr(sys, "frozen", False):
            from .spawn import freeze_support

            freeze_support()

    def start_all(self, processes: Iterable[process.BaseProcess]) -> None:
        """Start these processes, in parallel where the start method can do it.

        The fork server makes all the children at once; with the other methods each
        start is short for the caller anyway. Should one of them not start, those
        before it run, and those after it can still be started.
        """
        unstarted = list(processes)
        expect_starts(each._start_method for each in unstarted)
        for each in unstarted:
            each.start()

    def get_logger(self) -> Logger:
        """Return the package's logger."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level: int | str | None = None) -> Logger:
        """Return the package's logger, after making it print to stderr."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def allow_connection_pickling(self) -> None:
        """Make connections and sockets picklable; they are, this is for old code."""
        from . import connection  # noqa: F401

    def set_executable(self, executable: Any) -> None:
        """Set the program that spawn and forkserver start, instead of this one's."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(
        self,
        module_names: list[str],
        *,
        on_error: str = "ignore",
        timeout: float | None = 300.0,
    ) -> None:
        """Set the modules that the fork server imports before its first child.

        ``on_error`` says what it does about one that cannot be imported: "ignore",
        "warn", or "fail". ``start()`` raises TimeoutError when the import of one takes
        longer than ``timeout`` seconds; None: it may take for ever.
        """
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names, on_error=on_error, timeout=timeout)

    def get_context(self, method: str | None = None, **options: Any) -> BaseContext:
        """Return the context of a start method, this one if None.

        "dask", "mpi", "ray" and "cluster" are engines for many machines, and take
        options: `sidestep.cluster.context.ClusterContext`.
        """
        if method is None:
            return self
        if options or method in {"dask", "mpi", "ray", "cluster"}:
            return _get_cluster(method, options)
        try:
            ctx = _concrete_contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None
        ctx._check_available()
        return ctx

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of the start method."""
        return self._name

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Raise: only the default context's can be set."""
        raise ValueError("cannot set start method of concrete context")

    @property
    def reducer(self) -> ModuleType:
        """The module that reduces objects to what travels between processes."""
        from . import reduction

        return globals().get("reduction", reduction)  # type: ignore[no-any-return]

    @reducer.setter
    def reducer(self, reduction: ModuleType) -> None:
        globals()["reduction"] = reduction

    def _method_so_far(self) -> str | None:
        return self._name

    def _check_available(self) -> None:
        pass


class Process(process.BaseProcess):
    """A process of the default context, whatever that is when it starts."""

    _start_method: str | None = None

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:  # type: ignore[override]
        return _default_context.get_context().Process._Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        _default_context.get_context().Process._after_fork()


class DefaultContext(BaseContext):
    """The context behind the package's functions; its start method can be set."""

    Process: type[process.BaseProcess] = Process

    def __init__(self, context: BaseContext) -> None:
        self._default_context = context
        self._actual_context: BaseContext | None = None

    def get_context(self, method: str | None = None, **options: Any) -> BaseContext:
        """Return the context of a start method, the one in use if None."""
        if method is not None:
            return super().get_context(method, **options)
        if self._actual_context is None:
            self._actual_context = self._default_context
        return self._actual_context

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Set how processes start from now on; once, unless ``force`` is true."""
        if self._actual_context is not None and not force:
            text = "context has already been set"
            if getattr(process.current_process(), "_inheriting", False):
                text += (
                    ": this is a child that imports your program; put what starts the"
                    " program behind  if __name__ == '__main__':"
                )
            raise RuntimeError(text)
        if method is None and force:
            self._actual_context = None
            return
        chosen = self.get_context(method)
        if chosen not in _concrete_contexts.values():
            raise ValueError(
                f"{method!r} is no start method: use get_context({method!r})"
            )
        self._actual_context = chosen

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of the start method, settling on the default one if unset."""
        if self._actual_context is None:
            if allow_none:
                return None
            self._actual_context = self._default_context
        return self._actual_context._name

    def _method_so_far(self) -> str | None:
        return (self._actual_context or self._default_context)._name

    def get_all_start_methods(self) -> list[str]:
        """Return a list of the supported start methods, default first."""
        default = self._default_context._name
        return [default, *(name for name in _concrete_contexts if name != default)]


class ForkProcess(process.BaseProcess):
    """A process that starts as a copy of this one."""

    _start_method: str | None = "fork"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:  # type: ignore[override]
        from .popen_fork import Popen

        _note_fork()
        return Popen(process_obj)


class SpawnProcess(process.BaseProcess):
    """A process that starts as a fresh interpreter."""

    _start_method: str | None = "spawn"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:  # type: ignore[override]
        from .popen_spawn_posix import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """Do nothing: there was no fork."""


class ForkServerProcess(process.BaseProcess):
    """A process that starts as a copy of a small server process."""

    _start_method: str | None = "forkserver"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:  # type: ignore[override]
        from .popen_forkserver import Popen

        return Popen(process_obj)


class ForkContext(BaseContext):
    """Processes start as copies of this one."""

    _name = "fork"
    Process: type[process.BaseProcess] = ForkProcess


class SpawnContext(BaseContext):
    """Processes start as fresh interpreters."""

    _name = "spawn"
    Process: type[process.BaseProcess] = SpawnProcess


class ForkServerContext(BaseContext):
    """Processes start as copies of a small server process."""

    _name = "forkserver"
    Process: type[process.BaseProcess] = ForkServerProcess


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


def _get_cluster(method: str, options: dict[str, Any]) -> BaseContext:
    if method in _concrete_contexts:
        raise TypeError(
            f"{', '.join(sorted(options))}: for clusters, not for {method!r}"
        )
    from .cluster import context as clusters

    if method not in clusters.NAMES:
        raise ValueError(f"cannot find context for {method!r}")
    return clusters.get(method, **options)


def _make_default_context() -> DefaultContext:
    from ._compat import DEFAULT_START_METHOD

    return DefaultContext(_concrete_contexts[DEFAULT_START_METHOD])


_default_context = _make_default_context()


def _force_start_method(method: str) -> None:
    _default_context._actual_context = _concrete_contexts[method]


def expect_starts(methods: Iterable[str | None]) -> None:
    """Prepare starts by these methods that are about to follow, without waiting."""
    default = _default_context._method_so_far()
    count = sum((method or default) == "forkserver" for method in methods)
    if count > 1:
        from .forkserver import _forkserver

        _forkserver.expect(count)


def _die_with_parent(method: str | None) -> bool:
    """Return what a process of this start method does that was not told."""
    if method is None:
        return (
            _default_context.die_with_parent
            or _default_context.get_context().die_with_parent
        )
    return _concrete_contexts[method].die_with_parent


def imports_main(method: str) -> bool:
    """Tell whether children are to import ``__main__`` without needing it."""
    return _default_context.import_main or _concrete_contexts[method].import_main


_tls = threading.local()


def get_spawning_popen() -> Popen | None:
    """Return the child this thread is pickling for, None if it is not."""
    return getattr(_tls, "spawning_popen", None)


def set_spawning_popen(popen: Popen | None) -> None:
    """Say which child this thread is pickling for."""
    _tls.spawning_popen = popen


def assert_spawning(obj: object) -> None:
    """Raise unless this thread is pickling for a child or for a message."""
    if get_spawning_popen() is None and not _core.message_active():
        raise _not_held(obj)


def _not_held(obj: object) -> RuntimeError:
    return RuntimeError(
        f"{type(obj).__name__} objects should only be shared between processes through"
        " inheritance, or sent: as an argument of a Process or a task, or over a Queue"
        " or a Pipe; a pickle of any other kind would not keep them alive"
    )


def hold(obj: object, handle: bytes) -> bytes:
    """Keep a shared object alive for whom this thread is pickling; its handle.

    Reducers call it. Raises RuntimeError when it is for nobody in particular.
    """
    popen = get_spawning_popen()
    if popen is not None:
        popen.hold(handle)
    elif not _core.message_hold(handle):
        raise _not_held(obj)
    return handle


# Whether there may be processes that do not have what is in our ``__main__``: children
# that were not forked. Functions and classes of an interactive session go to them by
# value, for which reason a message has to be looked into.
_strangers = False


def expect_strangers() -> None:
    """Note that messages may go to children that were not forked."""
    global _strangers  # noqa: PLW0603
    _strangers = True


def has_strangers() -> bool:
    """Tell whether messages may go to children that were not forked."""
    return _strangers


# The same for children that were forked, when a session goes on defining things.
_session_has_forked = False


def _note_fork() -> None:
    """Remember what a child that is about to be forked has of an interactive session."""
    global _session_has_forked  # noqa: PLW0603
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) is None or hasattr(sys, "ps1"):
        from . import _byvalue

        _byvalue.note_fork()
        _session_has_forked = True


def may_lack_main() -> bool:
    """Tell whether a receiver may lack something that is in our ``__main__``."""
    return _strangers or _session_has_forked


def __getattr__(name: str) -> Any:
    # Others say ``from .context import reduction``; importing it above would be a cycle.
    if name == "reduction":
        from importlib import import_module

        return import_module(".reduction", __package__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
