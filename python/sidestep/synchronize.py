# SPDX-License-Identifier: MIT
"""Locks, semaphores, conditions, events and barriers between processes.

The objects are the core's; what is here are the stdlib's names, constructors and
representations. The owner of a `Lock` or `RLock` is a process (an `RLock`: and a
thread). When it dies or exits while holding the lock, ``acquire()`` raises
`sidestep.OwnerDied` in those who wait or come later; ``recover()`` makes the lock
usable again. Semaphores, conditions and events have no owner and go on; a barrier
breaks when a process that waits at it dies.
"""

from __future__ import annotations

import sys
from time import monotonic

from . import _core, context, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from .context import BaseContext

    _T = TypeVar("_T")

__all__ = [
    "RECURSIVE_MUTEX",
    "SEMAPHORE",
    "SEM_VALUE_MAX",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "SemLock",
    "Semaphore",
]

RECURSIVE_MUTEX, SEMAPHORE, _MUTEX = range(3)
SEM_VALUE_MAX: int = _core.SemLock.SEM_VALUE_MAX


class SemLock(_core.SemLock):
    """What locks and semaphores have in common: the core's object with a state."""

    def __init__(
        self, kind: int, value: int, maxvalue: int, *, ctx: BaseContext | None = None
    ) -> None:
        super().__init__(kind, value, maxvalue)

    @property
    def _semlock(self) -> SemLock:
        # Third parties, and Condition, reach for the stdlib's inner object.
        return self

    def __getstate__(self) -> tuple[bytes, dict[str, Any]]:
        return context.hold(self, self.handle), self.__dict__

    def __setstate__(self, state: tuple[bytes, dict[str, Any]]) -> None:
        handle, attributes = state
        self._attach(handle)
        self.__dict__.update(attributes)

    def _value_or_unknown(self) -> int | str:
        try:
            return self._get_value()
        except Exception:  # noqa: BLE001 - a representation never raises
            return "unknown"

    def _owner(self) -> str:
        if self._is_mine():
            return _own_name()
        if self._get_value() == 1:
            return "None"
        return "SomeOtherThread" if self._count() > 0 else "SomeOtherProcess"


def _own_name() -> str:
    import threading

    name = process.current_process().name
    thread = threading.current_thread().name
    return name if thread == "MainThread" else f"{name}|{thread}"


class Semaphore(SemLock):
    """A counter that ``acquire`` lowers, waiting at zero, and ``release`` raises."""

    def __init__(self, value: int = 1, *, ctx: BaseContext | None = None) -> None:
        super().__init__(SEMAPHORE, value, SEM_VALUE_MAX)

    def get_value(self) -> int:
        """Return the current value."""
        return self._get_value()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self._value_or_unknown()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore whose ``release`` above the initial value raises ValueError."""

    def __init__(self, value: int = 1, *, ctx: BaseContext | None = None) -> None:
        SemLock.__init__(self, SEMAPHORE, value, value)

    def __repr__(self) -> str:
        value = self._value_or_unknown()
        return f"<{type(self).__name__}(value={value}, maxvalue={self.maxvalue})>"


class Lock(SemLock):
    """A lock that one process at a time holds; anybody may release it."""

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        super().__init__(_MUTEX, 1, 1)

    def get_value(self) -> int:
        """Return 0 while somebody holds the lock, else 1."""
        return self._get_value()

    def __repr__(self) -> str:
        try:
            owner = self._owner()
        except Exception:  # noqa: BLE001 - a representation never raises
            owner = "unknown"
        return f"<{type(self).__name__}(owner={owner})>"


class RLock(SemLock):
    """A lock that its owner, one thread of one process, may take several times."""

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        super().__init__(RECURSIVE_MUTEX, 1, 1)

    def get_value(self) -> int:
        """Return 0 while somebody holds the lock, else 1."""
        return self._get_value()

    def __repr__(self) -> str:
        count: int | str
        try:
            owner = self._owner()
            count = {"None": 0}.get(owner, "nonzero")
            if self._is_mine():
                count = self._count()
        except Exception:  # noqa: BLE001 - a representation never raises
            owner = count = "unknown"
        return f"<{type(self).__name__}({owner}, {count})>"


class _Gauge:
    """A number of a condition that the stdlib keeps in a semaphore."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.get_value = self._get_value = read
        self._semlock = self


class Condition:
    """A place to wait, with a lock released meanwhile, until another notifies."""

    def __init__(self, lock: Any = None, *, ctx: BaseContext | None = None) -> None:
        self._lock = lock or RLock()
        self._core = _core.Condition()
        self._make_methods()

    def _make_methods(self) -> None:
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __getstate__(self) -> tuple[Any, bytes]:
        return self._lock, context.hold(self, self._core.handle)

    def __setstate__(self, state: tuple[Any, bytes]) -> None:
        self._lock, handle = state
        self._core = _core.Condition.from_handle(handle)
        self._make_methods()

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *args: object) -> None:
        self._lock.__exit__(*args)

    def __repr__(self) -> str:
        waiters: int | str
        try:
            waiters = self._core.waiters()
        except Exception:  # noqa: BLE001 - a representation never raises
            waiters = "unknown"
        return f"<{type(self).__name__}({self._lock}, {waiters})>"

    # The stdlib's three semaphores, as far as somebody may read them.

    @property
    def _sleeping_count(self) -> _Gauge:
        return _Gauge(self._core.waiters)

    @property
    def _woken_count(self) -> _Gauge:
        return _Gauge(lambda: 0)

    @property
    def _wait_semaphore(self) -> _Gauge:
        return _Gauge(lambda: 0)

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, take it again; False on time-out."""
        semlock = self._lock._semlock
        assert semlock._is_mine(), "must acquire() condition before using wait()"
        count = semlock._count()
        ticket = self._core.enter()
        released = 0
        try:
            while released < count:
                self._lock.release()
                released += 1
            notified = self._core.wait(ticket, timeout) or self._core.leave(ticket)
        except BaseException:
            if self._core.leave(ticket):
                self._core.notify(1)  # came to one who does not want it any more
            raise
        finally:
            # Also after an interruption: the caller's `with` is going to release.
            for _ in range(released):
                self._lock.acquire()
        return notified

    def notify(self, n: int = 1) -> None:
        """Wake up to ``n`` of those who wait."""
        assert self._lock._semlock._is_mine(), "lock is not owned"
        self._core.notify(n)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self.notify(n=sys.maxsize)

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until the predicate is true; returns its last value."""
        result = predicate()
        deadline = None if timeout is None else monotonic() + timeout
        while not result:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result


class Event(_core.Event):
    """A flag that one sets and others wait for."""

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        super().__init__()

    def __getstate__(self) -> tuple[bytes, dict[str, Any]]:
        return context.hold(self, self.handle), self.__dict__

    def __setstate__(self, state: tuple[bytes, dict[str, Any]]) -> None:
        handle, attributes = state
        self._attach(handle)
        self.__dict__.update(attributes)

    def __copy__(self) -> Event:
        # The stdlib's refuses deep copies only.
        return type(self).from_handle(self.handle)

    def __repr__(self) -> str:
        status = "set" if self.is_set() else "unset"
        return f"<{type(self).__qualname__} at {id(self):#x} {status}>"


class Barrier:
    """A point that a number of processes or threads pass together."""

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: BaseContext | None = None,
    ) -> None:
        if parties < 1:
            raise ValueError("parties must be > 0")
        self._core = _core.Barrier(parties)
        self._action = action
        self._timeout = timeout

    def __getstate__(self) -> tuple[bytes, Any, float | None]:
        return context.hold(self, self._core.handle), self._action, self._timeout

    def __setstate__(self, state: tuple[bytes, Any, float | None]) -> None:
        handle, self._action, self._timeout = state
        self._core = _core.Barrier.from_handle(handle)

    def __copy__(self) -> Barrier:
        # The stdlib's refuses deep copies only.
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties are here; returns this one's index.

        Raises BrokenBarrierError when the barrier is reset or aborted, when it times
        out, or when a process that waits at it dies.
        """
        if timeout is None:
            timeout = self._timeout
        deadline = None if timeout is None else monotonic() + timeout
        index, ticket = self._core.arrive(timeout)
        if index == self.parties - 1:
            self._pass(ticket)
        else:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            self._wait_in(ticket, left)
        return index

    def _wait_in(self, ticket: int, timeout: float | None) -> None:
        try:
            self._core.wait(ticket, timeout)
        except BaseException:
            self._core.leave(ticket)  # no matter if the round is over
            raise

    def _pass(self, ticket: int) -> None:
        try:
            if self._action is not None:
                self._action()
        except BaseException:
            self._core.abort()
            raise
        self._core.open(ticket)

    def reset(self) -> None:
        """Make the barrier fresh; those who wait get BrokenBarrierError."""
        self._core.reset()

    def abort(self) -> None:
        """Break the barrier for good, until a reset."""
        self._core.abort()

    @property
    def parties(self) -> int:
        """Number that pass together."""
        return self._core.parties

    @property
    def n_waiting(self) -> int:
        """Number that wait now."""
        return self._core.n_waiting

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""
        return self._core.broken

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{name} at {id(self):#x}: {state}>"
