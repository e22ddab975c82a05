# SPDX-License-Identifier: MIT
"""Calls that wait in a manager's server, without a thread.

What a method does that may wait is a generator (`_manager_kinds` has them). Where it
would have to wait it *parks* its call at a `threading.Condition`, among the threads that
wait there, and yields its deadline: ``notify()`` calls ``release()`` of whatever it finds
there. That only notes that the call is ready. Whoever notified goes on with it as soon as
its own call is done and answered, or else the server's loop does: it is sent True when
it was notified, False at the deadline. When the client goes, the generator is closed.

``docs/internals/loop.rst`` has the states of a call and the death table.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import threading
from time import monotonic
from traceback import format_exc

from . import util
from ._manager_wire import serving

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from ._manager_kinds import Kind

    #: What a call does: yields deadlines, is sent whether it was notified.
    Wait = Generator[float | None, bool, Any]

__all__ = ["Call", "Calls", "deadline_of"]

#: Entries of calls that no longer wait, among the deadlines, before they are dropped.
STALE_MAX = 64

# States of a call.
RUNNING = 0  # somebody does a step of it, and nobody else may
PARKING = 1  # the same, and it may be notified already
PARKED = 2  # it waits; who changes the state owns it
READY = 3  # it was notified, and is in the line of those that go on
OVER = 4


def deadline_of(timeout: float | None) -> float | None:
    """Return when a time-out in seconds ends, None for never."""
    return None if timeout is None else monotonic() + timeout


def pass_on(condition: Any) -> None:
    """Give a notification that its receiver cannot use to the next who waits.

    Not ``notify()``: the condition's lock may be a client's, and held.
    """
    waiters = condition._waiters
    while True:
        try:
            waiters.popleft().release()
        except IndexError:
            return
        except RuntimeError:
            continue  # it no longer waits, or is notified by somebody else
        return


class Calls:
    """The calls that wait in a server."""

    def __init__(self) -> None:
        #: Guards the states of calls and the deadlines. A leaf; recursive, as a
        #: finalizer may run while it is held, and notify somebody.
        self.lock = threading.RLock()
        self._ready: collections.deque[Call] = collections.deque()
        self._deadlines: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._stale = 0
        self.waiting = 0  # calls, guarded by the lock
        #: Has `expire` and `settle` called, by the server's loop.
        self.wake: Callable[[], object] = bool
        #: Has a thread do something that may take a while.
        self.hand_on: Callable[[Callable[[], object]], object] | None = None

    def count_deadlines(self) -> int:
        """Return how many deadlines are kept."""
        return len(self._deadlines)

    def ready(self, call: Call) -> None:
        """Have somebody go on with a call. The lock is held."""
        self._ready.append(call)
        if not serving.settles:
            self.wake()

    def settle(self) -> None:
        """Go on with all calls that can."""
        while self._ready:
            try:
                call = self._ready.popleft()
            except IndexError:
                return
            call.go_on(is_notified=True)

    def watch(self, call: Call, deadline: float) -> None:
        """Have a call go on at its deadline. The lock is held."""
        heapq.heappush(self._deadlines, (deadline, next(self._order), call))
        if self._deadlines[0][2] is call:
            self.wake()

    def forget(self, deadline: float) -> None:
        """Note that a call that had a deadline is over. The lock is held."""
        if deadline <= monotonic():
            return  # it is about to go, or gone
        self._stale += 1
        if self._stale > STALE_MAX and self._stale > len(self._deadlines) // 2:
            self._deadlines = [one for one in self._deadlines if one[2].state != OVER]
            heapq.heapify(self._deadlines)
            self._stale = 0

    def patience(self) -> float | None:
        """Return the seconds until the next deadline, None if there is none."""
        with self.lock:
            if not self._deadlines:
                return None
            return max(0.0, self._deadlines[0][0] - monotonic())

    def expire(self) -> None:
        """Have those go on whose deadline has come."""
        if not self._deadlines:
            return
        late: list[Call] = []
        now = monotonic()
        with self.lock:
            while self._deadlines and self._deadlines[0][0] <= now:
                call = heapq.heappop(self._deadlines)[2]
                if call.state == OVER:
                    self._stale = max(0, self._stale - 1)
                elif call.state == PARKED:
                    call.state = RUNNING
                    late.append(call)
        for call in late:
            call.leave()
            call.go_on(is_notified=False)


class Call:
    """A call of a client's that may wait; `begin` does what can be done at once.

    ``deliver(is_done, result)`` is told the end, once: the result, or the exception;
    from any thread, and never when the client has gone before that.
    """

    __slots__ = (
        "_calls", "_condition", "_deadline", "_deliver", "_is_wanted", "_link",
        "_passes_on", "_runs_code", "_wait", "state",
    )  # fmt: skip

    def __init__(
        self,
        calls: Calls,
        link: Any,
        kind: Kind,
        name: str,
        args: tuple[Any, ...],
        kwds: dict[str, Any],
        deliver: Callable[[bool, Any], object],
    ) -> None:
        self.state = RUNNING
        self._calls = calls
        self._link = link
        self._deliver = deliver
        self._runs_code = kind.runs_code
        self._condition: Any = None
        self._passes_on = True
        self._deadline: float | None = None
        self._is_wanted = True
        self._wait: Wait = kind.waits[name](self, *args, **kwds)

    # ---- For what it does ----

    def park(self, condition: Any, *, passes_on: bool = True) -> None:
        """Wait at a condition, whose lock is held, from the next ``yield`` on.

        Where ``notify()`` is meant for one who waits it passes on, if the client goes.
        """
        self._condition = condition
        self._passes_on = passes_on
        self.state = PARKING
        condition._waiters.append(self)

    # ---- For conditions ----

    def release(self) -> None:
        """Be notified. RuntimeError when it no longer waits: somebody else is."""
        calls = self._calls
        with calls.lock:
            if self.state == PARKED:
                self.state = READY
                calls.ready(self)
            elif self.state == PARKING:
                self.state = READY  # whoever parks it sees that, and goes on
            else:
                raise RuntimeError("the call no longer waits")

    # ---- Steps ----

    def begin(self) -> None:
        """Do what can be done; the rest when it is notified. May deliver at once."""
        link = self._link
        link.call = self
        with self._calls.lock:
            self._calls.waiting += 1
        if link.is_over:  # before it was known that there is a call to give up
            self.give_up()
        self._step(None)

    def go_on(self, *, is_notified: bool) -> None:
        """Do what can be done now. It is the caller's: READY, or RUNNING."""
        if self._runs_code and self._calls.hand_on is not None:
            try:
                self._calls.hand_on(lambda: self._step(is_notified))
            except RuntimeError:
                pass  # the system has no thread left
            else:
                return
        self._step(is_notified)

    def _step(self, is_notified: bool | None) -> None:
        before = serving.link, serving.process
        serving.link, serving.process = self._link, self._link.process
        try:
            self._run(is_notified)
        except BaseException as error:
            # That client is lost, no other; Ctrl-C is for the server.
            util.info("a call that waited failed:\n%s", format_exc())
            self._link.close()
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            serving.link, serving.process = before

    def _run(self, is_notified: bool | None) -> None:
        while True:
            if not self._is_wanted:
                self._end(is_notified=bool(is_notified))
                return
            self.state = RUNNING
            try:
                # What a generator is sent first is None.
                deadline = self._wait.send(is_notified)  # type: ignore[arg-type]
            except StopIteration as end:
                self._finish(end.value, is_done=True)
                return
            except Exception as error:  # noqa: BLE001 - it is the caller's
                self._finish(error, is_done=False)
                return
            if not self._rest(deadline):
                return
            is_notified = True

    def _finish(self, result: Any, *, is_done: bool) -> None:
        self._over()
        # Before the client can ask for something else.
        self._link.call = None
        self._deliver(is_done, result)

    def _rest(self, deadline: float | None) -> bool:
        """Be parked; True if it can go on at once."""
        with self._calls.lock:
            if self.state == READY:
                return True
            if self._is_wanted:
                self.state = PARKED
                if deadline is not None and deadline != self._deadline:
                    self._deadline = deadline
                    self._calls.watch(self, deadline)
                return False
            self.state = RUNNING
        self._end(is_notified=False)
        return False

    def _over(self) -> None:
        with self._calls.lock:
            self.state = OVER
            self._calls.waiting -= 1
            if self._deadline is not None:
                self._calls.forget(self._deadline)

    def leave(self) -> None:
        """Be no longer among those who wait. It is the caller's."""
        try:
            self._condition._waiters.remove(self)
        except ValueError:
            pass  # somebody notifies it, in vain

    # ---- The end of the client ----

    def give_up(self) -> None:
        """Note that nobody waits for the result any more."""
        with self._calls.lock:
            self._is_wanted = False
            is_parked = self.state == PARKED
            if is_parked:
                self.state = RUNNING
        if is_parked:
            self._end(is_notified=False)

    def _end(self, *, is_notified: bool) -> None:
        """Undo what was begun. It is the caller's."""
        self._over()
        self._link.call = None
        if not is_notified and self._condition is not None:
            self.leave()
        elif is_notified and self._passes_on:
            pass_on(self._condition)
        self._wait.close()
