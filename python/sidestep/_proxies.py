# SPDX-License-Identifier: MIT
"""Proxies: stand-ins for the objects in a manager's server.

A proxy holds a reference to its object, in the name of this process. In the server
itself a proxy, which is one that another managed object contains, holds one too, and
calls its object without any connection.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import MutableMapping, MutableSequence, MutableSet
from types import GenericAlias

from . import context, process, util
from ._manager_session import (
    key_of,
    options_of,
    remember_options,
    session_for,
    session_named,
)
from ._manager_wire import (
    GETVALUE,
    HAVE,
    PROXY,
    RETURN,
    TAKEN,
    RemoteError,
    Token,
    convert_to_error,
    serving,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ._manager_server import Server
    from ._manager_session import Session

STARTED = 1


class _Given(threading.local):
    """The reference that a reply gave to this thread, until a proxy has it."""

    ident: str | None = None


given = _Given()


def _server_at(address: Any) -> Server | None:
    """Return the server of this process, if it is the one at the address."""
    server: Any = getattr(process.current_process(), "_manager_server", None)
    return server if server is not None and server.address == address else None


def _key_of(manager: Any, authkey: bytes | None) -> process.AuthenticationString:
    if authkey is None and manager is not None:
        authkey = manager._authkey
    return process.AuthenticationString(authkey or process.current_process().authkey)


class BaseProxy:
    """A stand-in for an object in a server."""

    _exposed_: tuple[str, ...] = ()
    _isauto = False

    def __init__(
        self,
        token: Token,
        serializer: str,
        manager: Any = None,
        authkey: bytes | None = None,
        exposed: Iterable[str] | None = None,
        incref: bool = True,
        manager_owned: bool = False,
    ) -> None:
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._authkey = _key_of(manager, authkey)
        self._server = _server_at(token.address)
        self._owned_by_manager = manager_owned or self._server is not None
        self._session: Any = None
        if self._server is None:
            options = None if manager is None else manager._options
            self._session = session_for(
                token.address, self._authkey, serializer, options
            )
        self._close: Any = None
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    # ---- References ----

    def _incref(self) -> None:
        """Hold a reference until this proxy goes."""
        if given.ident == self._id:
            given.ident = None
        elif self._server is not None:
            self._server.incref(None, self._id)
        else:
            self._session.control("incref", self._id)
        util.debug("INCREF %r", self._id)
        state = self._manager and self._manager._state
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(self._id, self._server, self._session, state),
            exitpriority=10,
        )

    @staticmethod
    def _decref(
        ident: str, server: Server | None, session: Session | None, state: Any
    ) -> None:
        util.debug("DECREF %r", ident)
        try:
            if server is not None:
                server.decref(None, ident)
            elif session is not None and (state is None or state.value == STARTED):
                session.drop(ident)
        except Exception as error:  # noqa: BLE001 - the server may be gone
            util.debug("... decref failed %s", error)

    def _after_fork(self) -> None:
        self._manager = None
        if self._server is not None:
            # A child of the server is a client like any other.
            self._server = None
            self._owned_by_manager = False
            self._session = session_for(
                self._token.address, self._authkey, self._serializer
            )
        if self._session is not None and self._session.is_over:
            return  # and another thread may have held its lock, which is ours now
        try:
            self._incref()
        except Exception as error:  # noqa: BLE001 - the manager may be shut down
            util.info("incref failed: %s", error)

    # ---- Calls ----

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006
        """Call a method of the object and return a copy of its result."""
        if self._session is None:
            return self._call_here(methodname, args, kwds)
        session = self._session
        conn = session.conn()
        request = self._id, methodname, args, kwds
        try:
            conn.send(request)
        except BaseException as error:
            if session.may_be_out(request, error):
                session.drop_link()
            raise
        try:
            kind, result = conn.recv()
        except BaseException as error:
            session.drop_link()
            if isinstance(error, (EOFError, ConnectionError)):
                error.add_note(f"the manager's server at {session.address!r} has gone")
            raise
        if kind == RETURN:
            return result
        if kind == TAKEN:
            try:
                conn.send((None, HAVE, (), {}))
            except BaseException:
                session.drop_link()
                raise  # the server takes it back
            return result
        if kind == PROXY:
            return self._proxy_of(*result)
        try:
            raise convert_to_error(kind, result)
        finally:
            del result  # it would be in a cycle with its own traceback

    def _call_here(self, methodname: str, args: Any, kwds: Any) -> Any:
        """Do the same in the server itself."""
        assert self._server is not None
        args, kwds = _copy((args, kwds))
        kind, result = self._server.call(self._id, methodname, args, kwds)
        if kind == PROXY:
            return self._proxy_of(*result)
        result = _copy(result)
        if kind == RETURN:
            return result
        try:
            raise convert_to_error(kind, result)
        finally:
            del result

    def _proxy_of(self, exposed: tuple[str, ...], token: Token) -> Any:
        """Make the proxy of a result that stays in the server."""
        proxytype = self._registry()[token.typeid][-1]
        token.address = self._token.address
        return take_over(
            proxytype,
            token,
            self._serializer,
            self._session,
            manager=self._manager,
            authkey=self._authkey,
            exposed=exposed,
        )

    def _registry(self) -> dict[str, Any]:
        if self._server is not None:
            return self._server.registry
        if self._manager is not None:
            registry: dict[str, Any] = self._manager._registry
            return registry
        # It came in a message, without its manager.
        from .managers import SyncManager

        return SyncManager._registry

    def _getvalue(self) -> Any:
        """Return a copy of the object."""
        return self._callmethod(GETVALUE)

    def _referent(self) -> Any:
        """Return the object itself where there is one, in the server; else this."""
        if self._server is None:
            return self
        return self._server.id_to_obj[self._id][0]

    # ---- Travel and looks ----

    def __reduce__(self) -> tuple[Any, ...]:
        kwds: dict[str, Any] = {}
        options = options_of(self._token.address)
        if options:
            kwds["options"] = options
        if context.get_spawning_popen() is not None:
            kwds["authkey"] = self._authkey
        if serving.carried is not None and (to := self._carry()) is not None:
            kwds["carried"] = to
        if self._isauto:
            kwds["exposed"] = self._exposed_
            return RebuildProxy, (AutoProxy, self._token, self._serializer, kwds)
        return RebuildProxy, (type(self), self._token, self._serializer, kwds)

    def _carry(self) -> str | None:
        """Have the reply carry a reference, the client's: its session, or None.

        The object this stands for may be in nothing but the reply.
        """
        link = serving.link
        if self._server is None or link is None or link.process is None:
            return None
        try:
            self._server.incref(link, self._id)
        except EOFError:
            return None  # nobody is going to read it
        assert serving.carried is not None
        serving.carried.append(self._id)
        session: str = link.process.session
        return session

    def __deepcopy__(self, memo: Any) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        try:
            return str(self._callmethod("__repr__"))
        except Exception:  # noqa: BLE001 - a representation never raises
            return f"{repr(self)[:-1]}; '__str__()' failed>"


def _copy(obj: Any) -> Any:
    from .reduction import ForkingPickler

    return ForkingPickler.loads(ForkingPickler.dumps(obj))


def take_over(
    proxytype: Any,
    token: Token,
    serializer: str,
    session: Session | None,
    **kwds: Any,
) -> Any:
    """Make a proxy that has the reference which came with the token."""
    given.ident = token.id
    try:
        return proxytype(token, serializer, **kwds)
    finally:
        if given.ident is not None:
            # It did not want one, or has one of its own.
            given.ident = None
            if session is not None:
                session.drop(token.id)


def RebuildProxy(
    func: Callable[..., Any], token: Token, serializer: str, kwds: dict[str, Any]
) -> Any:
    """Make the proxy that a message, or a start, brought here."""
    if _server_at(token.address) is not None:
        kwds["manager_owned"] = True
    options = kwds.pop("options", None)
    if options:
        remember_options(token.address, options)
    if (authkey := key_of(token.address)) is not None:
        kwds.setdefault("authkey", authkey)
    incref = kwds.pop("incref", True) and not getattr(
        process.current_process(), "_inheriting", False
    )
    if (carried := kwds.pop("carried", None)) is not None:
        session = session_named(carried)
        if session is not None:
            # It came over that session, and goes back there.
            token.address = session.address
            kwds["authkey"] = session.authkey
            return take_over(func, token, serializer, session, **kwds)
    return func(token, serializer, incref=incref, **kwds)


_made: dict[tuple[str, tuple[str, ...]], type[BaseProxy]] = {}


def MakeProxyType(name: str, exposed: Iterable[str]) -> type[BaseProxy]:
    """Return a proxy type whose methods call those of the object."""

    def method(methname: str) -> Callable[..., Any]:
        def call(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
            return self._callmethod(methname, args, kwds)

        call.__name__ = methname
        call.__qualname__ = f"{name}.{methname}"
        return call

    exposed = tuple(exposed)
    made = _made.get((name, exposed))
    if made is None:
        body: dict[str, Any] = {methname: method(methname) for methname in exposed}
        body["_exposed_"] = exposed
        body["__module__"] = __name__
        made = _made[name, exposed] = type(name, (BaseProxy,), body)
    return made


def AutoProxy(
    token: Token,
    serializer: str,
    manager: Any = None,
    authkey: bytes | None = None,
    exposed: Iterable[str] | None = None,
    incref: bool = True,
    manager_owned: bool = False,
) -> Any:
    """Return a proxy with the methods that the object turns out to have."""
    authkey = _key_of(manager, authkey)
    if exposed is None:
        server = _server_at(token.address)
        if server is not None:
            exposed = server.get_methods(None, token)
        else:
            session = session_for(token.address, authkey, serializer)
            exposed = session.control("get_methods", token)
    proxytype = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy = proxytype(
        token,
        serializer,
        manager=manager,
        authkey=authkey,
        incref=incref,
        manager_owned=manager_owned,
    )
    proxy._isauto = True
    return proxy


class IteratorProxy(BaseProxy):
    """A proxy of an iterator."""

    _exposed_: tuple[str, ...] = ("__next__", "send", "throw", "close")

    def __iter__(self) -> Any:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        """Send a value into a generator."""
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        """Raise an exception in a generator."""
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        """End a generator."""
        return self._callmethod("close", args)


class AcquirerProxy(BaseProxy):
    """A proxy of a lock or a semaphore."""

    _exposed_: tuple[str, ...] = ("acquire", "release", "locked")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Any:
        """Take it; False when it could not be had in time."""
        args = (blocking,) if timeout is None else (blocking, timeout)
        return self._callmethod("acquire", args)

    def release(self) -> Any:
        """Give it back."""
        return self._callmethod("release")

    def locked(self) -> Any:
        """Tell whether anybody holds it; of a semaphore no version knows."""
        return self._callmethod("locked")

    def __enter__(self) -> Any:
        return self._callmethod("acquire")

    def __exit__(self, *args: object) -> Any:
        return self._callmethod("release")


class LockProxy(AcquirerProxy):
    """A proxy of a lock that knows its owner."""

    _exposed_: tuple[str, ...] = ("acquire", "release", "locked", "recover")

    def recover(self) -> Any:
        """Free the lock if the process that held it has ended; tells whether so."""
        return self._callmethod("recover")


class ConditionProxy(AcquirerProxy):
    """A proxy of a condition."""

    _exposed_: tuple[str, ...] = (
        "acquire", "release", "locked", "wait", "notify", "notify_all",
    )  # fmt: skip

    def wait(self, timeout: float | None = None) -> Any:
        """Release the lock, wait to be notified, take it again."""
        return self._callmethod("wait", (timeout,))

    def notify(self, n: int = 1) -> Any:
        """Wake up to ``n`` of those who wait."""
        return self._callmethod("notify", (n,))

    def notify_all(self) -> Any:
        """Wake all who wait."""
        return self._callmethod("notify_all")

    def wait_for(
        self, predicate: Callable[[], Any], timeout: float | None = None
    ) -> Any:
        """Wait until the predicate, called here, is true; its last value."""
        result = predicate()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not result:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result


class EventProxy(BaseProxy):
    """A proxy of an event."""

    _exposed_: tuple[str, ...] = ("is_set", "set", "clear", "wait")

    def is_set(self) -> Any:
        """Tell whether it is set."""
        return self._callmethod("is_set")

    def set(self) -> Any:
        """Set it and wake all who wait."""
        return self._callmethod("set")

    def clear(self) -> Any:
        """Make it unset."""
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until it is set; False on time-out."""
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy):
    """A proxy of a barrier."""

    _exposed_: tuple[str, ...] = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until all parties are here."""
        return self._callmethod("wait", (timeout,))

    def abort(self) -> Any:
        """Break the barrier."""
        return self._callmethod("abort")

    def reset(self) -> Any:
        """Make the barrier fresh."""
        return self._callmethod("reset")

    @property
    def parties(self) -> Any:
        """Number that pass together."""
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self) -> Any:
        """Number that wait now."""
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self) -> Any:
        """Whether it is broken."""
        return self._callmethod("__getattribute__", ("broken",))


class NamespaceProxy(BaseProxy):
    """A proxy of a namespace: attributes that start with _ are the proxy's own."""

    _exposed_: tuple[str, ...] = ("__getattribute__", "__setattr__", "__delattr__")

    def __getattr__(self, key: str) -> Any:
        if key[0] == "_":
            return object.__getattribute__(self, key)
        return object.__getattribute__(self, "_callmethod")("__getattribute__", (key,))

    def __setattr__(self, key: str, value: Any) -> None:
        if key[0] == "_":
            object.__setattr__(self, key, value)
            return
        object.__getattribute__(self, "_callmethod")("__setattr__", (key, value))

    def __delattr__(self, key: str) -> None:
        if key[0] == "_":
            object.__delattr__(self, key)
            return
        object.__getattribute__(self, "_callmethod")("__delattr__", (key,))


class ValueProxy(BaseProxy):
    """A proxy of a value."""

    _exposed_: tuple[str, ...] = ("get", "set")
    __class_getitem__: Any = classmethod(GenericAlias)

    def get(self) -> Any:
        """Return the value."""
        return self._callmethod("get")

    def set(self, value: Any) -> Any:
        """Set the value."""
        return self._callmethod("set", (value,))

    @property
    def value(self) -> Any:
        """The value."""
        return self.get()

    @value.setter
    def value(self, value: Any) -> None:
        self.set(value)


_LIST_METHODS = (
    "__add__", "__contains__", "__delitem__", "__getitem__", "__len__",
    "__mul__", "__reversed__", "__rmul__", "__setitem__",
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove",
    "reverse", "sort", "__imul__",
)  # fmt: skip
_DICT_METHODS = (
    "__contains__", "__delitem__", "__getitem__", "__ior__", "__iter__", "__len__",
    "__or__", "__reversed__", "__ror__", "__setitem__", "clear", "copy", "fromkeys",
    "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values",
)  # fmt: skip
_SET_METHODS = (
    "__and__", "__contains__", "__iand__", "__ior__", "__isub__", "__iter__",
    "__ixor__", "__len__", "__or__", "__rand__", "__ror__", "__rsub__", "__rxor__",
    "__sub__", "__xor__", "__ge__", "__gt__", "__le__", "__lt__",
    "add", "clear", "copy", "difference", "difference_update", "discard",
    "intersection", "intersection_update", "isdisjoint", "issubset", "issuperset",
    "pop", "remove", "symmetric_difference", "symmetric_difference_update", "union",
    "update",
)  # fmt: skip
_POOL_METHODS = (
    "apply", "apply_async", "close", "imap", "imap_unordered", "join",
    "map", "map_async", "starmap", "starmap_async", "terminate",
)  # fmt: skip

BaseListProxy: Any = MakeProxyType("BaseListProxy", _LIST_METHODS)
_BaseDictProxy: Any = MakeProxyType("DictProxy", _DICT_METHODS)
_BaseDictProxy._method_to_typeid_ = {"__iter__": "Iterator"}
_BaseSetProxy: Any = MakeProxyType("_BaseSetProxy", _SET_METHODS)
_BaseSetProxy._method_to_typeid_ = {"__iter__": "Iterator"}
BasePoolProxy: Any = MakeProxyType("PoolProxy", _POOL_METHODS)
BasePoolProxy._method_to_typeid_ = {
    "apply_async": "AsyncResult",
    "map_async": "AsyncResult",
    "starmap_async": "AsyncResult",
    "imap": "Iterator",
    "imap_unordered": "Iterator",
}
ArrayProxy: Any = MakeProxyType("ArrayProxy", ("__len__", "__getitem__", "__setitem__"))


class ListProxy(BaseListProxy):  # type: ignore[misc]
    """A proxy of a list."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __iadd__(self, value: Any) -> Any:
        self._callmethod("extend", (value,))
        return self

    def __imul__(self, value: Any) -> Any:
        self._callmethod("__imul__", (value,))
        return self


class DictProxy(_BaseDictProxy):  # type: ignore[misc]
    """A proxy of a dictionary."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __ior__(self, value: Any) -> Any:
        self._callmethod("__ior__", (value,))
        return self


class SetProxy(_BaseSetProxy):  # type: ignore[misc]
    """A proxy of a set."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __ior__(self, value: Any) -> Any:
        self._callmethod("__ior__", (value,))
        return self

    def __iand__(self, value: Any) -> Any:
        self._callmethod("__iand__", (value,))
        return self

    def __ixor__(self, value: Any) -> Any:
        self._callmethod("__ixor__", (value,))
        return self

    def __isub__(self, value: Any) -> Any:
        self._callmethod("__isub__", (value,))
        return self


# As in Python 3.14; there a set is registered as a mapping.
MutableSequence.register(BaseListProxy)
MutableMapping.register(_BaseDictProxy)
MutableSet.register(_BaseSetProxy)


class PoolProxy(BasePoolProxy):  # type: ignore[misc]
    """A proxy of a pool: a `Pool` here whose workers are those of the one there.

    Callbacks, iterators, ``progress`` and what else a pool does for its caller happen in
    this process. ``close`` is for this process, ``join`` ends the pool if nobody else
    uses it, ``terminate`` ends it for all.
    """

    _exposed_: tuple[str, ...] = (
        *_POOL_METHODS, "resize", "statistics", "_broker_call",
    )  # fmt: skip
    #: The process that made it, and the pool, None where there can be none.
    _local: tuple[int, Any] | None = None

    def _pool_here(self) -> Any:
        """Return the pool of this process, None where calls go one by one.

        That is in the server itself, and with pools of the standard library's.
        """
        local = self._local
        if local is None or local[0] != os.getpid():
            local = self._local = os.getpid(), self._make_pool()
        return local[1]

    def _make_pool(self) -> Any:
        if self._session is None or self._session._is_stdlib:
            return None
        from .tasks.remote import BrokerProxy, RemoteBackend, RemotePool

        proxy = BrokerProxy(self._token, self._serializer, authkey=self._authkey)
        try:
            backend = RemoteBackend(proxy)
        except RemoteError:
            return None  # another kind of pool
        return RemotePool(backend)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: object) -> None:
        self.terminate()


def _delegate(name: str) -> Callable[..., Any]:
    def call(self: PoolProxy, /, *args: Any, **kwds: Any) -> Any:
        pool = self._pool_here()
        if pool is None:
            return self._callmethod(name, args, kwds)
        return getattr(pool, name)(*args, **kwds)

    call.__name__ = name
    call.__qualname__ = f"PoolProxy.{name}"
    call.__doc__ = f"Do as ``Pool.{name}``, with the workers of the pool in the server."
    return call


for _name in (
    *_POOL_METHODS, "istarmap", "resize", "statistics", "aapply", "amap", "astarmap",
    "aimap", "aimap_unordered", "aistarmap",
):  # fmt: skip
    setattr(PoolProxy, _name, _delegate(_name))
del _name
