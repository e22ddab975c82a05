# SPDX-License-Identifier: MIT
"""The locks that live in a manager's server.

The owner of a `Lock` is the client process that took it, the owner of an `RLock` one
thread of it, whichever thread of the server works for them. When the process ends while
it holds the lock, ``acquire()`` raises `sidestep.OwnerDied`; ``recover()``, or a
``release()`` of a `Lock`, makes it usable again.
"""

from __future__ import annotations

import threading
from time import monotonic

from . import _core
from ._manager_wire import serving

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Condition", "Lock", "RLock"]


def check_timeout(blocking: bool, timeout: float) -> None:
    """Raise ValueError for what ``acquire`` of a lock does not take."""
    if not blocking and timeout != -1:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0 and timeout != -1:
        raise ValueError("timeout value must be a non-negative number")


class _Owned:
    """What both kinds of lock have in common; ``guard`` guards all of it."""

    def __init__(self) -> None:
        self.guard = threading.Condition(threading.Lock())
        self._count = 0
        self._owner: Any = None
        self._owner_died = False

    def _caller(self) -> Any:
        raise NotImplementedError

    def try_take(self) -> bool:
        """Take it for the caller if that can be done now. The guard is held."""
        if self._count:
            if self._owner_died:
                raise _core.OwnerDied("the process that held the lock has ended")
            return False
        self._owner = caller = self._caller()
        self._count = 1
        process = self._process_of(caller)
        if process is not None:
            process.held.add(self)
        return True

    def _take(self, deadline: float | None) -> bool:
        """Take it for a thread of the server's; False at the deadline. Guard held."""
        while not self.try_take():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            self.guard.wait(left)
        return True

    def _free(self) -> None:
        process = self._process_of(self._owner)
        if process is not None:
            process.held.discard(self)
        self._count = 0
        self._owner = None
        self._owner_died = False
        self.guard.notify()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; False when it could not be had in time."""
        check_timeout(blocking, timeout)
        deadline = None if blocking else 0.0
        if blocking and timeout != -1:
            deadline = monotonic() + timeout
        with self.guard:
            return self._take(deadline)

    def recover(self) -> bool:
        """Free the lock if its owner is dead; tells whether it was."""
        with self.guard:
            was_dead = self._owner_died
            if was_dead:
                self._free()
            return was_dead

    def give_up(self) -> None:
        """Undo an ``acquire()`` that the caller did not live to know of.

        Nothing where it is not the caller's any more: somebody has recovered it.
        """
        with self.guard:
            if self._count and self._owner == self._caller():
                self._count -= 1
                if not self._count:
                    self._free()

    def locked(self) -> bool:
        """Tell whether anybody holds it."""
        return self._count > 0

    def __repr__(self) -> str:
        name = type(self).__name__
        if not self._count:
            return f"<{name}, free>"
        client = self._process_of(self._owner)
        who = "somebody without a name" if client is None else client.name
        return f"<{name} {'of the dead' if self._owner_died else 'held by'} {who}>"

    def owner_gone(self, client: Any) -> None:
        """Note that a client, or a thread of it, has ended, if it holds the lock."""
        with self.guard:
            owner = self._owner
            if self._count and client in {owner, self._process_of(owner)}:
                self._owner_died = True
                self.guard.notify_all()

    @staticmethod
    def _process_of(owner: Any) -> Any:
        return owner

    __enter__ = acquire

    def __exit__(self, *args: object) -> None:
        self.release()

    def release(self) -> None:
        raise NotImplementedError


class Lock(_Owned):
    """A lock that one client at a time holds; anybody may release it."""

    def _caller(self) -> Any:
        return serving.process

    def release(self) -> None:
        """Give it back; RuntimeError when nobody holds it."""
        with self.guard:
            if not self._count:
                raise RuntimeError("release unlocked lock")
            self._free()


class RLock(_Owned):
    """A lock that its owner, one thread of one client, may take several times."""

    def _caller(self) -> Any:
        return serving.link or threading.get_ident()

    @staticmethod
    def _process_of(owner: Any) -> Any:
        return getattr(owner, "process", None)

    def try_take(self) -> bool:
        """Take it, once more if it is the caller's, if that can be done now."""
        if self._count and self._owner == self._caller():
            self._count += 1
            return True
        return super().try_take()

    def release(self) -> None:
        """Give it back once; RuntimeError when it is not the caller's."""
        with self.guard:
            if not self._count or self._owner != self._caller():
                raise RuntimeError("cannot release un-acquired lock")
            self._count -= 1
            if not self._count:
                self._free()

    # What threading.Condition asks of a lock that can be held several times.

    def _is_owned(self) -> bool:
        with self.guard:
            return self._count > 0 and self._owner == self._caller()

    def _release_save(self) -> int:
        with self.guard:
            count = self._count
            self._free()
            return count

    def _acquire_restore(self, count: int) -> None:
        with self.guard:
            self._take(None)
        self.restore(count)

    def restore(self, count: int) -> None:
        """Hold it so many times; the caller has taken it once."""
        self._count = count


def Condition(lock: Any = None) -> threading.Condition:
    """Return a condition, on a lock of its own if none is given."""
    if lock is None:
        lock = RLock()
    referent = getattr(lock, "_referent", None)
    return threading.Condition(lock if referent is None else referent())
