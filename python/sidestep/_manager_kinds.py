# SPDX-License-Identifier: MIT
"""What a manager's server knows of the methods of common types.

*Quick* ones neither wait nor call what the elements define. Those that may wait have a
generator here, which does the same as the method, and where that would block parks its
call (`_manager_calls`). These know where the standard library's classes keep their
conditions; that the results are those of the methods themselves is tested with both.
"""

from __future__ import annotations

import array
import queue
import threading
from time import monotonic

from . import _manager_locks
from ._manager_calls import deadline_of
from ._manager_wire import GETVALUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._manager_calls import Call, Wait

__all__ = [
    "NAMES",
    "QUICK_MAKERS",
    "TAKING",
    "Kind",
    "is_taken",
    "kind_of",
    "know_managers",
    "take_back",
]


class Kind:
    """What is known of a type."""

    def __init__(
        self,
        quick: str = "",
        waits: dict[str, Callable[..., Wait]] | None = None,
        tries: dict[str, Callable[..., tuple[bool, Any]]] | None = None,
        *,
        runs_code: bool = False,
        may_block: bool = False,
    ) -> None:
        #: Methods that neither wait nor call what the elements define.
        self.quick = frozenset(quick.split())
        #: Methods that may wait: ``wait(call, obj, *args)``.
        self.waits = waits or {}
        #: How most of these are tried first, as it is quicker: done, result.
        self.tries = tries or {}
        #: Whether these call what the elements define, or a function of the user's.
        self.runs_code = runs_code
        #: Whether they may block a thread before they first wait without one.
        self.may_block = may_block or runs_code

    def attempt(self, name: str, obj: Any, args: Any, kwds: Any) -> tuple[bool, Any]:
        """Try what may wait: whether it is done, and the result."""
        attempt = self.tries.get(name)
        if attempt is None:
            return False, None
        try:
            return attempt(obj, *args, **kwds)
        except Exception:  # noqa: BLE001 - it raises again where the client is told
            return False, None


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and deadline <= monotonic()


# ---- Queues ----


def _try_get(obj: Any, block: bool = True, timeout: Any = None) -> tuple[bool, Any]:
    try:
        return True, obj.get_nowait()
    except queue.Empty:
        return False, None


def _try_put(
    obj: Any, item: Any, block: bool = True, timeout: Any = None
) -> tuple[bool, Any]:
    try:
        return True, obj.put_nowait(item)
    except queue.Full:
        return False, None


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")


def _is_shut(obj: Any) -> bool:
    return getattr(obj, "is_shutdown", False)


def _get(
    call: Call, obj: Any, block: bool = True, timeout: float | None = None
) -> Wait:
    if block:
        _check_timeout(timeout)
    deadline = deadline_of(timeout)
    while True:
        try:
            return obj.get_nowait()
        except queue.Empty:
            if not block or _is_past(deadline):
                raise
        with obj.mutex:
            must_wait = not obj._qsize() and not _is_shut(obj)
            if must_wait:
                call.park(obj.not_empty)
        if must_wait:
            yield deadline


def _put(
    call: Call, obj: Any, item: Any, block: bool = True, timeout: float | None = None
) -> Wait:
    if block:
        _check_timeout(timeout)
    deadline = deadline_of(timeout)
    while True:
        try:
            return obj.put_nowait(item)
        except queue.Full:
            if not block or _is_past(deadline):
                raise
        with obj.mutex:
            must_wait = 0 < obj.maxsize <= obj._qsize() and not _is_shut(obj)
            if must_wait:
                call.park(obj.not_full)
        if must_wait:
            yield deadline


def _join(call: Call, obj: Any) -> Wait:
    while True:
        with obj.all_tasks_done:
            if not obj.unfinished_tasks:
                return
            call.park(obj.all_tasks_done, passes_on=False)
        yield None


# ---- Locks, semaphores, events, conditions ----


def _try_acquire(obj: Any, blocking: Any = True) -> tuple[bool, Any]:
    taken = obj.acquire(blocking=False)
    return taken, taken


def _acquire(call: Call, obj: Any, blocking: bool = True, timeout: float = -1) -> Wait:
    if not blocking or timeout == 0:
        return obj.acquire(blocking, timeout)
    _manager_locks.check_timeout(blocking, timeout)
    return (yield from _take(call, obj, deadline_of(None if timeout < 0 else timeout)))


def _take(call: Call, obj: Any, deadline: float | None) -> Wait:
    while True:
        with obj.guard:
            if obj.try_take():
                return True
            if _is_past(deadline):
                return False
            call.park(obj.guard)
        yield deadline


def _acquire_unit(
    call: Call, obj: Any, blocking: bool = True, timeout: float | None = None
) -> Wait:
    if not blocking:
        return obj.acquire(blocking, timeout)
    deadline = deadline_of(timeout)
    while True:
        if obj.acquire(blocking=False):
            return True
        if _is_past(deadline):
            return False
        with obj._cond:
            must_wait = not obj._value
            if must_wait:
                call.park(obj._cond)
        if must_wait:
            yield deadline


def _wait_event(call: Call, obj: Any, timeout: float | None = None) -> Wait:
    with obj._cond:
        if obj._flag:
            return True
        if timeout is not None and timeout <= 0:
            return False
        call.park(obj._cond, passes_on=False)
    return (yield deadline_of(timeout))


def _acquire_lock_of(call: Call, obj: Any, *args: Any, **kwds: Any) -> Wait:
    return (yield from _acquire(call, obj._lock, *args, **kwds))


def _wait_condition(call: Call, obj: Any, timeout: float | None = None) -> Wait:
    if not obj._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    call.park(obj)
    count = obj._release_save()
    is_notified: bool = yield deadline_of(timeout)
    yield from _take(call, obj._lock, None)
    if count is not None:
        obj._lock.restore(count)
    return is_notified


# ---- Barriers ----


def _wait_barrier(call: Call, obj: Any, timeout: float | None = None) -> Wait:
    if timeout is None:
        timeout = obj._timeout
    while (place := _arrive(call, obj)) is None:
        yield None
    index, is_last = place
    if is_last:
        return index
    try:
        yield from _wait_for_others(call, obj, deadline_of(timeout))
    except BaseException:
        # In time or not, who came and does not wait breaks it; a dead party, too.
        with obj._cond:
            if obj._state == 0:
                obj._break()
        raise
    finally:
        with obj._cond:
            obj._count -= 1
            obj._exit()
    return index


def _arrive(call: Call, obj: Any) -> tuple[int, bool] | None:
    """Be one of the parties: which one, and whether the last; None: wait before that."""
    with obj._cond:
        if obj._state in {-1, 1}:
            call.park(obj._cond, passes_on=False)  # until it has drained
            return None
        if obj._state < 0:
            raise threading.BrokenBarrierError
        index: int = obj._count
        obj._count += 1
        if index + 1 < obj._parties:
            return index, False
        try:
            obj._release()  # runs the action
        finally:
            obj._count -= 1
            obj._exit()
        return index, True


def _wait_for_others(call: Call, obj: Any, deadline: float | None) -> Wait:
    while True:
        with obj._cond:
            if obj._state == 1:
                return
            if obj._state < 0 or _is_past(deadline):
                raise threading.BrokenBarrierError
            call.park(obj._cond, passes_on=False)
        yield deadline


# ---- Pools ----


def _ask_broker(call: Call, obj: Any, name: str, *args: Any) -> Wait:
    if name != "run":
        return obj._broker_call(name, *args)
    from .tasks.broker import of_pool

    return (yield from of_pool(obj).run(call, *args))


# ---- The types ----


_ITEMS = "__getitem__ __setitem__ __len__"
_QUEUE = "qsize empty full get_nowait put_nowait task_done shutdown"
_QUEUE_WAITS: dict[str, Callable[..., Wait]] = {
    "get": _get, "put": _put, "join": _join,
}  # fmt: skip
_QUEUE_TRIES: dict[str, Callable[..., tuple[bool, Any]]] = {
    "get": _try_get, "put": _try_put,
}  # fmt: skip
_TRY_ACQUIRE = {"acquire": _try_acquire}
_LOCK = Kind("release locked recover", {"acquire": _acquire}, _TRY_ACQUIRE)
_SEMAPHORE = Kind("release", {"acquire": _acquire_unit}, _TRY_ACQUIRE)
_BARRIER = Kind("", {"wait": _wait_barrier})
_BARRIER_WITH_ACTION = Kind("", {"wait": _wait_barrier}, runs_code=True)

KINDS: dict[type, Kind] = {
    list: Kind(
        f"{_ITEMS} {GETVALUE} __delitem__ append extend insert pop reverse clear copy "
        "__add__ __iadd__ __mul__ __imul__ __rmul__"
    ),
    dict: Kind(
        f"{_ITEMS} {GETVALUE} __delitem__ __contains__ get pop popitem setdefault "
        "update clear copy"
    ),
    set: Kind(f"__len__ {GETVALUE} __contains__ add discard remove pop clear copy"),
    array.array: Kind(f"{_ITEMS} {GETVALUE}"),
    queue.Queue: Kind(_QUEUE, _QUEUE_WAITS, _QUEUE_TRIES),
    queue.LifoQueue: Kind(_QUEUE, _QUEUE_WAITS, _QUEUE_TRIES),
    # It compares the items.
    queue.PriorityQueue: Kind("qsize empty full", _QUEUE_WAITS, runs_code=True),
    threading.Event: Kind("is_set set clear", {"wait": _wait_event}),
    _manager_locks.Lock: _LOCK,
    _manager_locks.RLock: _LOCK,
    threading.Semaphore: _SEMAPHORE,
    threading.BoundedSemaphore: _SEMAPHORE,
    threading.Condition: Kind(
        "release notify notify_all",
        {"acquire": _acquire_lock_of, "wait": _wait_condition},
        _TRY_ACQUIRE,
    ),
    threading.Barrier: _BARRIER,
}

_OWN_LOCKS = (_manager_locks.Lock, _manager_locks.RLock)

#: Makers that call nothing of the user's, given plain data.
QUICK_MAKERS: set[Any] = {
    list, dict, set, queue.Queue, threading.Event, threading.Semaphore,
    threading.BoundedSemaphore, _manager_locks.Lock, _manager_locks.RLock,
    _manager_locks.Condition,
}  # fmt: skip


def kind_of(obj: Any) -> Kind | None:
    """Return what is known of an object's methods, None for the user's own types."""
    kind = KINDS.get(type(obj))
    if type(obj) is threading.Condition and type(obj._lock) not in _OWN_LOCKS:  # type: ignore[attr-defined]
        # Its lock is another manager's, or the user's: who knows what it does.
        return None
    if kind is _BARRIER and obj._action is not None:
        return _BARRIER_WITH_ACTION
    return kind


def know_managers() -> None:
    """Add the types of ``managers``, which imports the server, which imports this."""
    from . import managers, pool

    if managers.Namespace not in KINDS:
        KINDS[managers.Namespace] = Kind("__getattribute__ __setattr__ __delattr__")
        KINDS[managers.Value] = Kind("get set")
        KINDS[pool.Pool] = Kind("", {"_broker_call": _ask_broker}, may_block=True)
        QUICK_MAKERS.update({managers.Namespace, managers.Value, managers.Array})


#: Methods whose results are taken back from a client that did not read them.
TAKING = frozenset({"get", "get_nowait", "acquire"})


def is_item(obj: Any, name: str) -> bool:
    """Tell whether what a method returns was taken out of a queue."""
    return name in {"get", "get_nowait"} and type(obj) in _QUEUES


def is_taken(obj: Any, name: str, result: Any) -> bool:
    """Tell whether a method has taken something that the client is to say it has."""
    if name == "acquire":
        return bool(result) and _acquired(obj) is not None
    return is_item(obj, name)


def _acquired(obj: Any) -> Any:
    """Return the lock or semaphore that ``acquire()`` of an object takes, if we know."""
    if isinstance(obj, threading.Condition):
        obj = obj._lock  # type: ignore[attr-defined]
    return obj if isinstance(obj, _ACQUIRED) else None


def take_back(obj: Any, name: str, result: Any) -> None:
    """Undo what a client asked for that did not live to have it, where it can be.

    To be called in the name of the client, who owns the lock.
    """
    if hasattr(obj, "take_back"):
        obj.take_back(name, result)
    elif is_item(obj, name):
        with obj.mutex:
            if type(obj) is queue.Queue:
                obj.queue.appendleft(result)
            else:
                obj._put(result)
            obj.not_empty.notify()
    elif name == "acquire" and result:
        lock = _acquired(obj)
        if isinstance(lock, threading.Semaphore):
            lock.release()
        elif lock is not None:
            lock.give_up()


#: Methods that may wait, or notify those who do.
NAMES = frozenset(
    name for kind in KINDS.values() for name in (*kind.waits, *kind.quick) if kind.waits
) | {"abort", "reset", "_broker_call"}

_QUEUES = {queue.Queue, queue.LifoQueue, queue.PriorityQueue}
#: What `acquire` is undone for when the caller did not live to have it.
_ACQUIRED = (*_OWN_LOCKS, threading.Semaphore)
