# SPDX-License-Identifier: MIT
"""Managers: objects that live in a server process. Not in this version.

The classes are here so that programs that import, subclass or register with them
run; starting or connecting a manager raises NotImplementedError. Until then
`sidestep.Queue`, `sidestep.Value` and the locks share state between processes.
"""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .context import BaseContext

__all__ = [
    "BaseManager",
    "BaseProxy",
    "RemoteError",
    "SharedMemoryManager",
    "SyncManager",
    "Token",
]


def _later(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what}: managers come in a later version of sidestep; until then use "
        "sidestep.Queue, sidestep.Value, sidestep.Array and the locks, which processes "
        "share without a server"
    )


class RemoteError(Exception):
    """An exception raised in the server; its text is the traceback there."""

    def __str__(self) -> str:
        line = "-" * 75
        return f"\n{line}\n{self.args[0]}{line}"


class Token:
    """What identifies a shared object: its type, its manager's address, its id."""

    __slots__ = ("address", "id", "typeid")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid, self.address, self.id = typeid, address, id

    def __getstate__(self) -> tuple[str, Any, str]:
        return self.typeid, self.address, self.id

    def __setstate__(self, state: tuple[str, Any, str]) -> None:
        self.typeid, self.address, self.id = state

    def __repr__(self) -> str:
        name = type(self).__name__
        return (
            f"{name}(typeid={self.typeid!r}, address={self.address!r}, id={self.id!r})"
        )


class BaseProxy:
    """A stand-in for an object in a server."""

    _exposed_: tuple[str, ...] = ()

    def __init__(self, token: Token, serializer: str, *args: Any, **kwds: Any) -> None:
        _later(f"{type(self).__name__} proxy")

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006
        _later(f"calling {methodname}")

    def _getvalue(self) -> Any:
        _later("getting a proxy's value")


def MakeProxyType(name: str, exposed: Iterable[str]) -> type[BaseProxy]:
    """Return a proxy type whose methods call those of the object."""

    def method(methname: str) -> Callable[..., Any]:
        def call(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
            return self._callmethod(methname, args, kwds)

        call.__name__ = methname
        return call

    exposed = tuple(exposed)
    body: dict[str, Any] = {methname: method(methname) for methname in exposed}
    body["_exposed_"] = exposed
    return type(name, (BaseProxy,), body)


class BaseManager:
    """The base of managers; types are registered with it."""

    _registry: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: BaseContext | None = None,
        *,
        shutdown_timeout: float = 1.0,
    ) -> None:
        self._address = address
        self._authkey = authkey
        self._serializer = serializer
        self._ctx = ctx
        self._shutdown_timeout = shutdown_timeout

    @property
    def address(self) -> Any:
        """Where the server listens."""
        return self._address

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
        """Register a type: the manager gets a method that makes such objects."""
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        cls._registry[typeid] = (callable, exposed, method_to_typeid, proxytype)
        if create_method:

            def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
                _later(f"making a {typeid}")

            create.__name__ = typeid
            setattr(cls, typeid, create)

    def get_server(self) -> Any:
        """Return the server; not in this version."""
        _later("get_server()")

    def connect(self) -> None:
        """Connect to a running server; not in this version."""
        _later("connect()")

    def start(
        self,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        """Start a server process; not in this version."""
        _later("starting a manager")

    def shutdown(self) -> None:
        """Do nothing: no server was started."""

    def join(self, timeout: float | None = None) -> None:
        """Do nothing: no server was started."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()


class _TypedProxy(BaseProxy):
    """A proxy that can be written with the type of its items."""

    __class_getitem__: Any = classmethod(GenericAlias)


class AcquirerProxy(BaseProxy):
    """A proxy of a lock."""


class ArrayProxy(BaseProxy):
    """A proxy of an array."""


class BarrierProxy(BaseProxy):
    """A proxy of a barrier."""


class ConditionProxy(AcquirerProxy):
    """A proxy of a condition."""


class EventProxy(BaseProxy):
    """A proxy of an event."""


class IteratorProxy(BaseProxy):
    """A proxy of an iterator."""


class NamespaceProxy(BaseProxy):
    """A proxy of a namespace."""


class PoolProxy(BaseProxy):
    """A proxy of a pool."""


class DictProxy(_TypedProxy):
    """A proxy of a dictionary."""


class ListProxy(_TypedProxy):
    """A proxy of a list."""


class ValueProxy(_TypedProxy):
    """A proxy of a value."""


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


class SyncManager(BaseManager):
    """A manager of the usual types."""


for _typeid, _proxy in {
    "Queue": None,
    "JoinableQueue": None,
    "Event": EventProxy,
    "Lock": AcquirerProxy,
    "RLock": AcquirerProxy,
    "Semaphore": AcquirerProxy,
    "BoundedSemaphore": AcquirerProxy,
    "Condition": ConditionProxy,
    "Barrier": BarrierProxy,
    "Pool": PoolProxy,
    "list": ListProxy,
    "dict": DictProxy,
    "Value": ValueProxy,
    "Array": ArrayProxy,
    "Namespace": NamespaceProxy,
}.items():
    SyncManager.register(_typeid, proxytype=_proxy)


class SharedMemoryManager(BaseManager):
    """A manager of named blocks of shared memory."""

    def SharedMemory(self, size: int) -> Any:
        """Return a new block; not in this version."""
        _later("SharedMemory()")

    def ShareableList(self, sequence: Any) -> Any:
        """Return a new list in a block; not in this version."""
        _later("ShareableList()")
