# SPDX-License-Identifier: MIT
"""Managers: objects that live in a server process, and are used through proxies.

`Manager()`, which is a started `SyncManager`, makes lists, dictionaries, queues, locks
and more. `BaseManager` is for types of one's own: a subclass registers them. Clients of
the same tree of processes talk to the server through shared memory, others over a Unix
socket in a private directory; both sides show that they know the key first.
"""

from __future__ import annotations

import _socket
import array
import functools
import os
import queue
import signal
import threading

from . import connection, context, pool, process, reduction, spawn, util
from ._manager_locks import Condition, Lock, RLock
from ._manager_server import Server
from ._manager_session import (
    end_sessions,
    listener_client,
    remember_key,
    remember_options,
    session_for,
)
from ._manager_wire import (
    RemoteError,
    Token,
    all_methods,
    convert_to_error,
    dispatch,
    public_methods,
)
from ._proxies import (
    AcquirerProxy,
    ArrayProxy,
    AutoProxy,
    BarrierProxy,
    BaseListProxy,
    BasePoolProxy,
    BaseProxy,
    ConditionProxy,
    DictProxy,
    EventProxy,
    IteratorProxy,
    ListProxy,
    LockProxy,
    MakeProxyType,
    NamespaceProxy,
    PoolProxy,
    RebuildProxy,
    SetProxy,
    ValueProxy,
    take_over,
)
from .context import ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from typing import Any, ClassVar, Self

    from ._manager_batch import Batch
    from .context import BaseContext

__all__ = [
    "AcquirerProxy",
    "ArrayProxy",
    "AutoProxy",
    "BarrierProxy",
    "BaseListProxy",
    "BaseManager",
    "BasePoolProxy",
    "BaseProxy",
    "ConditionProxy",
    "DictProxy",
    "EventProxy",
    "IteratorProxy",
    "ListProxy",
    "MakeProxyType",
    "NamespaceProxy",
    "PoolProxy",
    "RebuildProxy",
    "RemoteError",
    "Server",
    "SharedMemoryManager",
    "State",
    "SyncManager",
    "Token",
    "ValueProxy",
    "all_methods",
    "convert_to_error",
    "dispatch",
    "listener_client",
    "public_methods",
]


def _reduce_array(a: array.array[Any]) -> tuple[Any, ...]:
    return array.array, (a.typecode, a.tobytes())


def _reduce_view(view: Any) -> tuple[Any, ...]:
    return list, (list(view),)


reduction.register(array.array, _reduce_array)
reduction.register(type({}.items()), _reduce_view)
reduction.register(type({}.keys()), _reduce_view)
reduction.register(type({}.values()), _reduce_view)


class _Registry(dict):  # type: ignore[type-arg]
    """A registry on its way to a server, which knows the types of `SyncManager`."""

    def __reduce__(self) -> tuple[Any, ...]:
        others = {
            name: self[name] for name in self if self[name] is not _usual.get(name)
        }
        return _registry_with, ([name for name in _usual if name not in self], others)


_usual: dict[str, tuple[Any, ...]] = {}


def _registry_with(missing: list[str], others: dict[str, Any]) -> dict[str, Any]:
    registry = {**_usual, **others}
    for name in missing:
        del registry[name]
    return registry


def _stream_pair() -> tuple[connection.Connection, connection.Connection]:
    """Return the ends of a plain socket pair: streams, for who has to watch many."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return connection._connection_over(one), connection._connection_over(other)


#: Seconds that a server which could not start has for its exit handlers.
FAREWELL_SECONDS = 10.0


def _function_of(method: Any) -> Any:
    return getattr(method, "__func__", None)


class State:
    """How far a manager has come."""

    __slots__ = ("value",)
    INITIAL = 0
    STARTED = 1
    SHUTDOWN = 2

    def __init__(self) -> None:
        self.value = self.INITIAL


class BaseManager:
    """The base of managers; types are registered with it.

    ``address`` is where the server listens, a path of its own choice by default;
    ``authkey`` what its clients have to know, by default this process's key;
    ``security``, ``identity``, ``allow_uids``, ``allow``, ``max_message`` and
    ``legacy_md5`` are those of `sidestep.connection.Listener`, for the server and for
    its clients.
    """

    _registry: ClassVar[dict[str, tuple[Any, ...]]] = {}
    _Server: ClassVar[type[Server]] = Server
    _process: Any = None
    #: Processes that the server has for tasks, None: one for each CPU. They start with
    #: the first task; with 0 tasks wait for who serves.
    task_processes: int | None = None

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: BaseContext | None = None,
        *,
        shutdown_timeout: float = 1.0,
        security: str | connection.Certificates | None = None,
        identity: str | None = None,
        allow_uids: Iterable[int] = (),
        allow: Iterable[Any] | None = None,
        max_message: int | None = None,
        legacy_md5: bool | None = None,
    ) -> None:
        if authkey is None:
            authkey = process.current_process().authkey
        if isinstance(authkey, str):  # type: ignore[unreachable]
            raise TypeError("authkey should be a byte string")
        self._address = address
        self._authkey = process.AuthenticationString(authkey)
        self._state = State()
        self._serializer = serializer
        self._Listener, self._Client = listener_client[serializer]
        self._ctx = ctx or context._default_context.get_context()
        self._shutdown_timeout = shutdown_timeout
        self._session: Any = None
        options = {
            "security": security,
            "identity": identity,
            "allow_uids": tuple(allow_uids) or None,
            "allow": connection._allow_list(allow),
            "max_message": max_message,
            "legacy_md5": legacy_md5,
        }
        self._options: dict[str, Any] = {
            name: value for name, value in options.items() if value is not None
        }

    @property
    def address(self) -> Any:
        """Where the server listens."""
        return self._address

    def _check_initial(self) -> None:
        if self._state.value == State.STARTED:
            raise ProcessError("Already started server")
        if self._state.value == State.SHUTDOWN:
            raise ProcessError("Manager has shut down")

    def get_server(self) -> Server:
        """Return a server that has an ``address`` and ``serve_forever()``."""
        self._check_initial()
        server = self._Server(
            self._registry,
            self._address,
            self._authkey,
            self._serializer,
            **self._options,
        )
        server.task_processes = self.task_processes
        return server

    def _connect(self) -> None:
        remember_options(self._address, self._options)
        # For proxies that come in a result, without it.
        remember_key(self._address, self._authkey)
        self._session = self._find_session()
        self._session.open()
        if not self._session.is_alive():
            # What this process had with a server that was here before.
            end_sessions(self._address)
            self._session = self._find_session()
            self._session.open()
        self._state.value = State.STARTED

    def connect(self) -> None:
        """Connect to the running server at the address."""
        self._connect()

    def start(
        self,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        """Start a server process, which calls ``initializer(*initargs)`` first."""
        self._check_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        listening = self._listen(initializer)
        if self._address is None:
            # Ours, so that it goes when we do, however the server ends.
            self._address = connection.arbitrary_address(connection.default_family)
        if self._ctx.get_start_method() == "forkserver":
            spawn.want_module(__name__)
        # A plain stream, which the server's loop can watch.
        ours, theirs = _stream_pair()
        ours._keep_private()
        self._process = self._ctx.Process(
            target=type(self)._run_server,
            args=(
                _Registry(self._registry), self._address, self._authkey,
                self._serializer, theirs, initializer, initargs,
            ),
            kwargs=self._server_options(listening),
            die_with_parent=True,
        )  # fmt: skip
        ident = ":".join(str(number) for number in self._process._identity)
        self._process.name = f"{type(self).__name__}-{ident}"
        try:
            self._start_process(listening)
        except BaseException:
            if listening is not None:
                listening.close()
            raise
        try:
            theirs.close()
            if listening is None:
                self._address = self._await_address(ours)
        except BaseException:
            ours.close()
            self._process.kill()  # nobody is going to ask it to end
            raise
        if listening is not None:
            listening._raw.close()
            listening._unlink.cancel()  # the file is the server's now
        remember_options(self._address, self._options)
        # For proxies that come in a result, without it.
        remember_key(self._address, self._authkey)
        self._session = self._find_session()
        try:
            self._session.adopt(ours)
        except (EOFError, OSError):
            util.debug("the server has closed the pipe it was started with")
        self._state.value = State.STARTED
        self.shutdown = util.Finalize(  # type: ignore[method-assign]
            self,
            type(self)._finalize_manager,
            args=(
                self._process, self._address, self._authkey, self._serializer,
                self._state, self._shutdown_timeout,
            ),
            exitpriority=0,
        )  # fmt: skip

    def _await_address(self, reader: Any) -> Any:
        """Return where the new server listens; EOFError if it has failed."""
        answer: Any
        try:
            answer = reader.recv()
        except EOFError:
            answer = ProcessError("it ended before it listened")
        if not isinstance(answer, ProcessError):
            return answer
        self._process.join(FAREWELL_SECONDS)
        raise EOFError(f"the manager's server did not start: {answer}")

    def _start_process(self, listening: Any) -> None:
        if listening is None:
            self._process.start()
            return
        # Ctrl-C is not for the server, nor before it can say so.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process._kwargs["mask"] = mask
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _listen(self, initializer: object) -> Any:
        """Listen for the server, if nothing can fail there that `start` has to tell.

        Then nobody waits until it is there: who connects is served when it is.
        """
        if (
            self._address is not None
            or self._options
            or initializer is not None
            or self._serializer != "pickle"
            or connection.default_family != "AF_UNIX"
            or self._ctx.get_start_method() != "fork"
            or self._Server not in _SURE_SERVERS
            or _function_of(self._run_server)
            is not _function_of(BaseManager._run_server)
        ):
            return None
        self._address = connection.arbitrary_address("AF_UNIX")
        return connection.SocketListener(self._address, "AF_UNIX", 1024)

    def _server_options(self, listening: Any = None) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if listening is not None:
            options["listening"] = listening
        if self._options:
            options["options"] = self._options
        if self.task_processes is not None:
            options["task_processes"] = self.task_processes
        return options

    @classmethod
    def _run_server(
        cls,
        registry: dict[str, Any],
        address: Any,
        authkey: bytes,
        serializer: str,
        writer: Any,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        options: dict[str, Any] | None = None,
        task_processes: int | None = None,
        listening: Any = None,
        mask: Iterable[int] | None = None,
    ) -> None:
        """Be the server process."""
        # Ctrl-C reaches the whole group; the parent decides when the server ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if listening is not None:
            unlink = util.Finalize(listening, os.unlink, (address,), exitpriority=0)
            listening._unlink, address = unlink, listening
        try:
            if initializer is not None:
                initializer(*initargs)
            server = cls._Server(
                registry, address, authkey, serializer, **(options or {})
            )
        except Exception as error:
            # The traceback goes to stderr, as any process's.
            if listening is None:
                writer.send(ProcessError(f"{type(error).__name__}: {error}"))
            raise
        server.task_processes = task_processes
        server._starter = writer
        if listening is None:
            writer.send(server.address)
        util.info("manager serving at %r", server.address)
        server.serve_forever()

    def _find_session(self) -> Any:
        return session_for(
            self._address, self._authkey, self._serializer, self._options
        )

    def _session_now(self) -> Any:
        # An AssertionError as in the standard library, and also with -O.
        if self._state.value == State.SHUTDOWN:
            raise AssertionError("the manager has shut down")
        if self._state.value != State.STARTED:
            raise AssertionError("server not yet started: call start() or connect()")
        if self._session is None or self._session.is_over:
            self._session = self._find_session()
        return self._session

    def _create(
        self, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[Token, tuple[str, ...]]:
        """Make an object in the server; its token and the names of its methods."""
        session = self._session_now()
        ident, exposed = session.control("create", typeid, *args, **kwds)
        return Token(typeid, self._address, ident), exposed

    # ---- Tasks, and calls together ----

    def submit(
        self, f: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Have a process of the server call a function; return the future.

        Who `sidestep.serve` the server work for it as well. When a worker dies with the
        task, or the server does, the future's exception is a `WorkerLost`; when this
        process ends, the task is given up.
        """
        from .tasks.submit import submit

        return submit(self, f, args, kwargs)

    def submit_detached(
        self, f: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Do as `submit`, but the task is done also when this process has ended."""
        from .tasks.submit import submit

        return submit(self, f, args, kwargs, is_detached=True)

    def batch(self, *, check: bool = True) -> Batch:
        """Return a context manager for several calls in one round trip.

        Inside, ``batch(proxy)`` is a proxy whose methods return futures, done after the
        block. Then the first call that failed raises, unless ``check`` is false.
        """
        from ._manager_batch import Batch
        from .tasks.submit import office_of

        office = self.__dict__.get("_batch_office")
        if office is None or office._session is not self._session_now():
            office = self._batch_office = office_of(self)
        return Batch(
            functools.partial(office.call, "calls"),
            check=check,
            allow=self._options.get("allow"),
        )

    def _task_backend(self) -> Any:
        """Return the back end for ``sidestep.Pool(cluster=manager)``."""
        from .tasks.submit import backend_of

        return backend_of(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the server process, if this manager started one."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def _debug_info(self) -> str:
        """Return the objects in the server and how often each is referred to."""
        info: str = self._session_now().control("debug_info")
        return info

    def _number_of_objects(self) -> int:
        """Return the number of objects in the server."""
        number: int = self._session_now().control("number_of_objects")
        return number

    def shutdown(self) -> None:
        """End the server process, if this manager started one."""

    def __enter__(self) -> Self:
        if self._state.value == State.INITIAL:
            self.start()
        if self._state.value == State.SHUTDOWN:
            raise ProcessError("Manager has shut down")
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()

    @staticmethod
    def _finalize_manager(
        process: Any,
        address: Any,
        authkey: bytes,
        serializer: str,
        state: State,
        shutdown_timeout: float,
    ) -> None:
        """Ask the server to end; then make it."""
        if process.is_alive():
            util.info("sending shutdown message to manager")
            try:
                session_for(address, authkey, serializer).control("shutdown")
            except Exception as error:  # noqa: BLE001 - it is going to be killed then
                util.info("manager does not answer: %r", error)
            process.join(timeout=shutdown_timeout)
            if process.is_alive():
                util.info("manager still alive")
                process.terminate()
                process.join(timeout=shutdown_timeout)
                if process.is_alive():
                    util.info("manager still alive after terminate")
                    process.kill()
                    process.join()
        state.value = State.SHUTDOWN
        end_sessions(address)
        if isinstance(address, str) and address[:1] != "\0":
            try:
                os.unlink(address)  # noqa: PTH108 - what a killed server left
            except OSError:
                pass

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Callable[..., Any] | None = None,
        proxytype: Any = None,
        exposed: Iterable[str] | None = None,
        method_to_typeid: dict[str, str] | None = None,
        create_method: bool = True,
    ) -> None:
        """Register a type, and give the manager a method that makes such objects."""
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None)
        method_to_typeid = method_to_typeid or getattr(
            proxytype, "_method_to_typeid_", None
        )
        for key, value in (method_to_typeid or {}).items():
            assert type(key) is str, f"{key!r} is not a string"
            assert type(value) is str, f"{value!r} is not a string"
        cls._registry[typeid] = (callable, exposed, method_to_typeid, proxytype)
        if create_method:

            def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
                util.debug("requesting creation of a shared %r object", typeid)
                token, exposed = self._create(typeid, *args, **kwds)
                return take_over(
                    proxytype,
                    token,
                    self._serializer,
                    self._session,
                    manager=self,
                    authkey=self._authkey,
                    exposed=exposed,
                )

            create.__name__ = typeid
            create.__qualname__ = f"{cls.__qualname__}.{typeid}"
            setattr(cls, typeid, create)


class Namespace:
    """Attributes of one's own choice."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        shown = sorted(
            f"{name}={value!r}"
            for name, value in self.__dict__.items()
            if not name.startswith("_")
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Value:
    """A value, and the type code it was made with."""

    def __init__(self, typecode: str, value: Any, lock: object = True) -> None:
        self._typecode = typecode
        self._value = value

    def get(self) -> Any:
        """Return the value."""
        return self._value

    def set(self, value: Any) -> None:
        """Set the value."""
        self._value = value

    value = property(get, set)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"


def Array(typecode: str, sequence: Any, lock: object = True) -> array.array[Any]:
    """Return an array of the items of a sequence."""
    return array.array(typecode, sequence)


class SyncManager(BaseManager):
    """A manager of the usual types; `sidestep.Manager()` makes and starts one."""


SyncManager.register("Queue", queue.Queue)
SyncManager.register("JoinableQueue", queue.Queue)
SyncManager.register("Event", threading.Event, EventProxy)
SyncManager.register("Lock", Lock, LockProxy)
SyncManager.register("RLock", RLock, LockProxy)
SyncManager.register("Semaphore", threading.Semaphore, AcquirerProxy)
SyncManager.register("BoundedSemaphore", threading.BoundedSemaphore, AcquirerProxy)
SyncManager.register("Condition", Condition, ConditionProxy)
SyncManager.register("Barrier", threading.Barrier, BarrierProxy)
SyncManager.register("Pool", pool.Pool, PoolProxy)
SyncManager.register("list", list, ListProxy)
SyncManager.register("dict", dict, DictProxy)
SyncManager.register("set", set, SetProxy)
SyncManager.register("Value", Value, ValueProxy)
SyncManager.register("Array", Array, ArrayProxy)
SyncManager.register("Namespace", Namespace, NamespaceProxy)
# What methods of these return.
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)
_usual.update(SyncManager._registry)


class SharedMemoryServer(Server):
    """A server that knows blocks of shared memory, and unlinks them at its end."""

    public: ClassVar[list[str]] = [
        *Server.public, "track_segment", "release_segment", "list_segments",
    ]  # fmt: skip

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        self._segments: list[str] = []

    def shutdown(self, c: Any) -> None:
        """Unlink all blocks, then end the process."""
        for name in [*self._segments]:
            try:
                self.release_segment(c, name)
            except FileNotFoundError:
                util.debug("segment %r was unlinked already", name)
        super().shutdown(c)

    def track_segment(self, c: Any, segment_name: str) -> None:
        """Note a block that is to be unlinked at the end."""
        self._segments.append(segment_name)

    def release_segment(self, c: Any, segment_name: str) -> None:
        """Unlink a block now."""
        from .shared_memory import SharedMemory

        self._segments.remove(segment_name)
        segment: Any = SharedMemory(segment_name)
        segment.close()
        segment.unlink()

    def list_segments(self, c: Any) -> list[str]:
        """Return the names of the blocks."""
        return self._segments


#: Servers that are sure to come to serve, if their process does.
_SURE_SERVERS = {Server, SharedMemoryServer}


class SharedMemoryManager(BaseManager):
    """A manager of named blocks of shared memory, which it unlinks at its end."""

    _Server: ClassVar[type[Server]] = SharedMemoryServer

    def SharedMemory(self, size: int) -> Any:
        """Return a new block of so many bytes."""
        from .shared_memory import SharedMemory

        self._check_started()
        block: Any = SharedMemory(None, create=True, size=size)
        self._track(block)
        return block

    def ShareableList(self, sequence: Any) -> Any:
        """Return a new list, in a block, of the items of a sequence."""
        from .shared_memory import ShareableList

        self._check_started()
        shared: Any = ShareableList(sequence)
        self._track(shared.shm)
        return shared

    def _check_started(self) -> None:
        if self._state.value != State.STARTED:
            raise ValueError("the manager is not started")

    def _track(self, block: Any) -> None:
        try:
            self._session_now().control("track_segment", block.name)
        except BaseException:
            block.unlink()
            raise
