# SPDX-License-Identifier: MIT
"""The shared objects of a cluster context, in a manager's server, and their proxies.

They have the methods of the objects that a context of one machine makes, argument by
argument, so that a program does not notice. What goes through a queue is pickled by who
puts it and unpickled by who gets it: the server sees bytes, and needs none of the
program's modules.
"""

from __future__ import annotations

import collections
import queue
import threading
import time

from sidestep import _core, process, sharedctypes
from sidestep._manager_locks import Condition, Lock, RLock
from sidestep._manager_wire import serving
from sidestep._proxies import (
    AcquirerProxy,
    BarrierProxy,
    BaseProxy,
    ConditionProxy,
    EventProxy,
)
from sidestep._proxies import LockProxy as _LockProxy
from sidestep.managers import SyncManager

from . import parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from sidestep._allow import AllowList

__all__ = ["Array", "ClusterManager", "Value"]

#: What is in the pickle of a proxy, and of hardly anything else.
_PROXY_MARK = b"RebuildProxy"


# ---- In the server ----


class Queue(queue.Queue[object]):
    """A queue of bytes, and of objects that have proxies in them."""

    def _get(self) -> object:
        item = super()._get()
        if type(item) is not _Packed and serving.link is not None:
            # Until the thread's next get: by then its proxies have references.
            serving.link.kept = item
        return item

    def take_back(self, name: str, result: object) -> None:
        """Undo a get whose caller did not live to have the item."""
        if name == "get":
            with self.mutex:
                self._put_back(result)

    def _put_back(self, item: object) -> None:
        self.queue.appendleft(item)
        self.not_empty.notify()


class JoinableQueue(Queue):
    """A queue that knows who took items and did not say that they are done."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._taken: collections.Counter[Any] = collections.Counter()
        self._taker_died = False

    def _get(self) -> object:
        client = serving.process
        if client is not None:
            self._taken[client] += 1
            client.held.add(self)
        return super()._get()

    def _give_up(self, client: Any) -> None:
        self._taken[client] -= 1
        if self._taken[client] <= 0:
            del self._taken[client]
            client.held.discard(self)

    def _put_back(self, item: object) -> None:
        if self._taken[serving.process]:
            self._give_up(serving.process)
        super()._put_back(item)

    def task_done(self) -> None:
        """Note that the work of one item that was taken is finished."""
        super().task_done()
        with self.mutex:
            if self._taken[serving.process]:
                self._give_up(serving.process)

    def owner_gone(self, client: Any) -> None:
        """Note that a client has ended."""
        with self.mutex:
            if self._taken.pop(client, 0):
                self._taker_died = True
                self.all_tasks_done.notify_all()

    def join(self) -> None:
        """Wait until all is done; OwnerDied when who took an item has ended."""
        with self.all_tasks_done:
            while self.unfinished_tasks and not self._taker_died:
                self.all_tasks_done.wait()
            if self.unfinished_tasks:
                self._taker_died = False
                raise _core.OwnerDied("a process ended between get() and task_done()")


class Semaphore(threading.Semaphore):
    """A semaphore that tells its value."""

    def get_value(self) -> int:
        """Return the number of units that are free."""
        return self._value


class BoundedSemaphore(threading.BoundedSemaphore):
    """The same with a bound."""

    get_value = Semaphore.get_value


class _Locked:
    """What a value and an array have in common: their lock."""

    def __init__(self, lock: Any) -> None:
        referent = getattr(lock, "_referent", None)
        if referent is not None:
            lock = referent()
        self._lock = RLock() if lock is True or not lock else lock
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        self.recover = self._lock.recover


class Value(_Locked):
    """A value of a simple ctypes type."""

    def __init__(self, code: Any, args: tuple[Any, ...], lock: Any) -> None:
        super().__init__(lock)
        self._cell = _type_of(code)(*args)

    def get(self) -> Any:
        """Return the value."""
        with self._lock:
            return self._cell.value

    def set(self, value: Any) -> None:
        """Set the value."""
        with self._lock:
            self._cell.value = value

    def fetch_add(self, amount: int) -> Any:
        """Add to the value; what it was before."""
        with self._lock:
            before = self._cell.value
            self._cell.value = before + amount
            return before

    def exchange(self, value: Any) -> Any:
        """Set the value; what it was before."""
        with self._lock:
            before = self._cell.value
            self._cell.value = value
            return before

    def compare_exchange(self, expected: Any, value: Any) -> bool:
        """Set the value if it is the expected one; tell whether it was."""
        with self._lock:
            is_so: bool = self._cell.value == expected
            if is_so:
                self._cell.value = value
            return is_so


class Array(_Locked):
    """An array of a simple ctypes type."""

    def __init__(self, code: Any, init: Any, lock: Any) -> None:
        super().__init__(lock)
        kind = _type_of(code)
        if isinstance(init, int):
            self._cells = (kind * init)()
        else:
            self._cells = (kind * len(init))(*init)

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, key: Any) -> Any:
        with self._lock:
            return self._cells[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        with self._lock:
            self._cells[key] = value


def _type_of(code: Any) -> Any:
    """Return the ctypes type that a type code stands for; TypeError if there is none."""
    kind = sharedctypes._resolve(code)
    if isinstance(kind, str):
        raise TypeError(f"unknown type code {kind!r}")
    if not hasattr(kind, "_type_") or not hasattr(kind, "value"):
        raise TypeError(
            f"{kind!r}: on a cluster it takes a type code, or a simple type"
        )
    return kind


class Desk:
    """Where a process somewhere and who started it leave word for each other."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._where: tuple[str, int] | None = None

    def order(self, name: str | None) -> None:
        """Leave an order for who looks after the process; None: there are no more."""
        self._orders.put(name)

    def next_order(self) -> str | None:
        """Wait for an order."""
        return self._orders.get()

    def report(self, host: str, pid: int) -> None:
        """Note where the process runs."""
        self._where = host, pid

    def where(self) -> tuple[str, int] | None:
        """Return host and pid, None before it has started."""
        return self._where


# ---- Proxies ----


def _take(method: Callable[..., Any], block: bool, timeout: float | None) -> Any:
    """Call a method that takes something, as the synchronization objects' do."""
    if not block:
        return method("acquire", (False,))
    if timeout is None:
        return method("acquire", (True,))
    return method("acquire", (True, max(timeout, 0.0)))


class _Acquirer(AcquirerProxy):
    def acquire(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take it; False when it could not be had in time."""
        return _take(self._callmethod, block, timeout)


class LockProxy(_Acquirer, _LockProxy):
    """A proxy of a lock."""

    _exposed_: tuple[str, ...] = ("acquire", "release", "recover", "locked")

    def locked(self) -> Any:
        """Tell whether anybody holds it."""
        return self._callmethod("locked")


class SemaphoreProxy(_Acquirer):
    """A proxy of a semaphore."""

    _exposed_: tuple[str, ...] = ("acquire", "release", "get_value")

    def get_value(self) -> Any:
        """Return the number of units that are free."""
        return self._callmethod("get_value")


class ClusterConditionProxy(_Acquirer, ConditionProxy):
    """A proxy of a condition."""

    _exposed_: tuple[str, ...] = ConditionProxy._exposed_


class _LockedProxy(_Acquirer):
    def recover(self) -> Any:
        """Free the lock if the process that held it has ended; tells whether so."""
        return self._callmethod("recover")

    def get_lock(self) -> Any:
        """Return what has the methods of the lock: this very object."""
        return self

    def get_obj(self) -> Any:
        """Raise: there is no memory behind it."""
        raise TypeError(
            "there is no shared memory behind an object of a cluster context: "
            "use .value, or a[:] for a copy"
        )


class ValueProxy(_LockedProxy):
    """A proxy of a value."""

    _exposed_: tuple[str, ...] = (
        "get", "set", "fetch_add", "exchange", "compare_exchange",
        "acquire", "release", "recover",
    )  # fmt: skip

    @property
    def value(self) -> Any:
        """The value."""
        return self._callmethod("get")

    @value.setter
    def value(self, value: Any) -> None:
        self._callmethod("set", (value,))

    def fetch_add(self, amount: int) -> Any:
        """Add to the value; what it was before."""
        return self._callmethod("fetch_add", (amount,))

    def exchange(self, value: Any) -> Any:
        """Set the value; what it was before."""
        return self._callmethod("exchange", (value,))

    def compare_exchange(self, expected: Any, value: Any) -> Any:
        """Set the value if it is the expected one; tell whether it was."""
        return self._callmethod("compare_exchange", (expected, value))


class ArrayProxy(_LockedProxy):
    """A proxy of an array."""

    _exposed_: tuple[str, ...] = (
        "__len__", "__getitem__", "__setitem__", "acquire", "release", "recover",
    )  # fmt: skip

    def __len__(self) -> int:
        length: int = self._callmethod("__len__")
        return length

    def __getitem__(self, key: Any) -> Any:
        return self._callmethod("__getitem__", (key,))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, slice):
            value = value if isinstance(value, bytes | str) else list(value)
        self._callmethod("__setitem__", (key, value))

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])


class QueueProxy(BaseProxy):
    """A proxy of a queue."""

    _exposed_: tuple[str, ...] = ("get", "put", "qsize", "empty", "full")
    _is_closed = False

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in; queue.Full when there was no room in time."""
        self._check_open()
        data = parcel.dumps_in_band(obj)
        # A proxy keeps its object alive; in bytes it would not.
        item = obj if _PROXY_MARK in data else _Packed(data)
        self._callmethod("put", (item, block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item out; queue.Empty when there was none in time."""
        self._check_open()
        item = self._callmethod("get", (block, timeout))
        return item.loads(self._allowed()) if type(item) is _Packed else item

    def _allowed(self) -> AllowList | None:
        """Return the list of those that this process may have unpickled from others."""
        if self._session is not None:
            allowed: AllowList | None = self._session.options.get("allow")
            return allowed
        server: Any = getattr(process.current_process(), "_manager_server", None)
        return None if server is None else server.listener._allow

    def put_nowait(self, obj: Any) -> None:
        """Put an item in, or raise queue.Full."""
        self.put(obj, block=False)

    def get_nowait(self) -> Any:
        """Take an item out, or raise queue.Empty."""
        return self.get(block=False)

    def put_many(self, items: Iterable[Any], timeout: float | None = None) -> None:
        """Put items in, one after the other."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for item in items:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            self.put(item, timeout=left)

    def qsize(self) -> Any:
        """Return the number of items in it."""
        return self._callmethod("qsize")

    def empty(self) -> Any:
        """Tell whether it is empty now."""
        return self._callmethod("empty")

    def full(self) -> Any:
        """Tell whether it is full now."""
        return self._callmethod("full")

    def close(self) -> None:
        """Note that this process uses it no more."""
        self._is_closed = True

    def join_thread(self) -> None:
        """Do nothing: what was put is in the server already."""

    cancel_join_thread = join_thread

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"Queue {self!r} is closed")


class JoinableQueueProxy(QueueProxy):
    """A proxy of a queue whose items are work to be finished."""

    _exposed_: tuple[str, ...] = (*QueueProxy._exposed_, "task_done", "join")

    def task_done(self) -> None:
        """Note that the work of one item that was taken is finished."""
        self._callmethod("task_done")

    def join(self) -> None:
        """Wait until all is done; OwnerDied when who took an item has ended."""
        self._callmethod("join")


class _Packed:
    """An item of a queue as it lies in the server."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return _Packed, (self.data,)

    def loads(self, allowed: AllowList | None) -> Any:
        if allowed is not None:
            return allowed.loads(self.data)
        return parcel.Parcel(self.data, []).loads()


class DeskProxy(BaseProxy):
    """A proxy of a desk."""

    _exposed_: tuple[str, ...] = ("order", "next_order", "report", "where")

    def order(self, name: str | None) -> None:
        """Leave an order for who looks after the process; None: there are no more."""
        self._callmethod("order", (name,))

    def next_order(self) -> Any:
        """Wait for an order."""
        return self._callmethod("next_order")

    def report(self, host: str, pid: int) -> None:
        """Note where the process runs."""
        self._callmethod("report", (host, pid))

    def where(self) -> Any:
        """Return host and pid, None before it has started."""
        return self._callmethod("where")


class ClusterManager(SyncManager):
    """A manager of the objects of a cluster context."""


ClusterManager.register("Queue", Queue, QueueProxy)
ClusterManager.register("JoinableQueue", JoinableQueue, JoinableQueueProxy)
ClusterManager.register("Event", threading.Event, EventProxy)
ClusterManager.register("Lock", Lock, LockProxy)
ClusterManager.register("RLock", RLock, LockProxy)
ClusterManager.register("Semaphore", Semaphore, SemaphoreProxy)
ClusterManager.register("BoundedSemaphore", BoundedSemaphore, SemaphoreProxy)
ClusterManager.register("Condition", Condition, ClusterConditionProxy)
ClusterManager.register("Barrier", threading.Barrier, BarrierProxy)
ClusterManager.register("Value", Value, ValueProxy)
ClusterManager.register("Array", Array, ArrayProxy)
ClusterManager.register("Desk", Desk, DeskProxy)
