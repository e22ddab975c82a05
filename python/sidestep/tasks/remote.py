# SPDX-License-Identifier: MIT
"""The client of a broker: a back end for `ClusterPool`, with all that a pool can.

Batches are handed in by calls of the manager. From the first on one thread waits for
answers, and learns so that the server, or the way to it, is gone.
"""

from __future__ import annotations

import collections
import itertools
import os
import threading
import time
from concurrent import futures

from sidestep import util
from sidestep._manager_wire import OFFICE_METHODS, RETURN, convert_to_error
from sidestep._proxies import BaseProxy
from sidestep.cluster import Backend, ClusterPool

from .broker import BEAT_SECONDS, PATIENCE_SECONDS, PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from sidestep.cluster.far import Batch, Reply

__all__ = ["BrokerProxy", "OfficeProxy", "RemoteBackend", "RemotePool"]


class BrokerProxy(BaseProxy):
    """A reference to the pool in the server, whose broker it calls."""

    #: Whether the server can do a batch in one call.
    can_run = True

    _exposed_: tuple[str, ...] = ("_broker_call",)

    def call(self, name: str, *args: Any) -> Any:
        """Have the broker do something, and return the result."""
        return self._callmethod("_broker_call", (name, *args))

    def wait(self, name: str, *args: Any, patience: float | None) -> Any:
        """Do as `call`; TimeoutError when no reply comes for so long, in seconds."""
        if self._session is None or patience is None:
            return self.call(name, *args)
        session = self._session
        conn = session.conn()
        try:
            conn.send(self._request(name, args))
            kind, result = _receive(conn, patience)
        except BaseException:
            session.drop_link()
            raise
        if kind == RETURN:
            return result
        raise convert_to_error(kind, result)

    def _request(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._id, "_broker_call", (name, *args), {}

    @property
    def is_over(self) -> bool:
        """Whether the manager was shut down."""
        return self._session is not None and self._session.is_over

    @property
    def address(self) -> Any:
        """Where the server is."""
        return self._token.address


def _receive(conn: Any, patience: float) -> Any:
    if not conn.poll(patience):
        raise TimeoutError(f"nothing was heard for {patience:.3g} s")
    return conn.recv()


class OfficeProxy(BrokerProxy):
    """A reference to a server's `Office`."""

    can_run = False
    _exposed_: tuple[str, ...] = OFFICE_METHODS

    def call(self, name: str, *args: Any) -> Any:
        """Have the office do something, and return the result."""
        return self._callmethod(name, args)

    def _request(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._id, name, args, {}


class _Future(futures.Future):  # type: ignore[type-arg]
    """A batch that the server has."""

    def __init__(self, backend: RemoteBackend, number: int) -> None:
        super().__init__()
        self.number = number
        self._backend = backend
        #: Outcomes of a batch of several tasks, as they come: index, outcome.
        self.parts: collections.deque[tuple[int, Any]] = collections.deque()
        self.on_part: Callable[[], object] = bool

    def running(self) -> bool:
        """Tell whether somebody works on it."""
        return not self.done() and bool(self._backend.ask("is_running", self.number))

    def cancel(self) -> bool:
        """Take it back unless somebody works on it."""
        if self.done() or not self._backend.ask("withdraw", self.number):
            return False
        self._backend.forget(self.number)
        super().cancel()
        return self.set_running_or_notify_cancel() or True


class RemoteBackend(Backend):
    """A broker in a manager's server."""

    keeps_limits = True

    def __init__(self, proxy: BrokerProxy, *, is_detached: bool = False) -> None:
        self.proxy = proxy
        self.name = f"the server at {proxy.address!r}"
        self._is_detached = is_detached
        self._stream = os.urandom(8).hex()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._pending: dict[int, _Future] = {}  # guarded by _lock
        self._has_thread = False  # guarded by _lock
        self._is_network = isinstance(proxy.address, tuple)
        self._is_in = False
        self._is_closed = False
        self._workers = 0
        #: What the broker is to be told by a thread of its own: a finalizer may run
        #: inside a call of the very connection that it would use.
        self._errands: collections.deque[tuple[Any, ...]] = collections.deque()
        self._has_messenger = False  # guarded by _lock
        #: Whether a batch may have several tasks, each of which is answered as it ends.
        self.streams = proxy.can_run
        self._enter()

    def _enter(self) -> None:
        self._workers = self.proxy.call("enter", self._stream, PROTOCOL)
        self._is_in = True

    def submit(self, run: Callable[[Batch], Reply], batch: Batch) -> Any:
        """Hand a batch in."""
        with self._lock:
            future = _Future(self, next(self._numbers))
            self._pending[future.number] = future
        try:
            if not self._is_in:
                self._enter()
            self._workers = self.proxy.call(
                "submit", self._stream, future.number, batch, self._is_detached
            )
        except BaseException as error:
            self.forget(future.number)
            if isinstance(error, (EOFError, OSError)):
                self._is_in = False
                raise self._gone(error) from error
            raise
        with self._lock:
            if not self._has_thread and not self._is_closed:
                self._has_thread = True
                threading.Thread(
                    target=self._collect, name="sidestep-remote", daemon=True
                ).start()
        return future

    def begin(self) -> Any:
        """Return a future for `run`."""
        if self._is_detached or not self.proxy.can_run:
            return None
        with self._lock:
            return _Future(self, next(self._numbers))

    def run(self, future: Any, batch: Batch) -> None:
        """Hand a batch in and wait for its answer: one call, and no thread of ours."""
        beat = BEAT_SECONDS if self._is_network else None
        patience = PATIENCE_SECONDS if self._is_network else None
        try:
            if not self._is_in:
                self._enter()
            reply = None
            sent: Any = batch
            while reply is None:
                reply = self.proxy.wait(
                    "run", self._stream, future.number, sent, beat, patience=patience
                )
                sent = None
        except (EOFError, OSError) as error:
            self._is_in = False
            raise self._gone(error) from error
        if isinstance(reply, tuple):
            _settle(future, reply[1], is_done=False)
        else:
            _settle(future, reply, is_done=True)

    def _gone(self, error: BaseException) -> ConnectionError:
        return ConnectionError(f"{self.name} is gone, or out of reach: {error!r}")

    def _collect(self) -> None:
        """Take answers until the pool ends, or the server."""
        beat = BEAT_SECONDS if self._is_network else None
        patience = PATIENCE_SECONDS if self._is_network else None
        while not self._is_closed:
            try:
                self._workers, answers = self.proxy.wait(
                    "collect", self._stream, beat, patience=patience
                )
            except BaseException as error:  # noqa: BLE001 - everybody is told
                self._fail_all(error)
                return
            self._hand_out(answers)
            del answers

    def _hand_out(self, answers: list[tuple[int, bool | None, Any]]) -> None:
        # A function of its own: who waits for the next answers keeps no task alive.
        told = set()
        for number, is_done, answer in answers:
            if is_done is None:
                future = self._pending.get(number)
                if future is not None:
                    future.parts.append(answer)
                    told.add(future)
                continue
            with self._lock:
                future = self._pending.pop(number, None)
            if future is not None:
                told.discard(future)
                _settle(future, answer, is_done=is_done)
        for future in told:
            future.on_part()

    def _fail_all(self, error: BaseException) -> None:
        self._is_in = False
        with self._lock:
            self._has_thread = False
            pending, self._pending = self._pending, {}
        gone = self._gone(error)
        gone.__cause__ = error
        for future in pending.values():
            _settle(future, gone, is_done=False)

    def ask(self, what: str, *args: Any) -> Any:
        """Ask the broker about a batch; None when it is gone."""
        if self.proxy.is_over:
            return None
        try:
            return self.proxy.call(what, self._stream, *args)
        except (EOFError, OSError):
            return None

    def forget(self, number: int) -> None:
        """Wait for this batch no longer."""
        with self._lock:
            self._pending.pop(number, None)

    def workers(self) -> int:
        """Return how many there were when the server was last heard of."""
        return self._workers

    def give_up(self, unwanted: Iterable[Any]) -> None:
        """Have these batches dropped or killed, wherever they are."""
        numbers = [future.number for future in unwanted]
        for number in numbers:
            self.forget(number)
        self._tell("kill", numbers)

    def kill(self, running: Iterable[Any]) -> bool:
        """Have what runs for these futures stopped."""
        self.give_up(running)
        return True

    def kill_tasks(self, future: Any, indexes: list[int]) -> None:
        """Have some tasks of a batch stopped."""
        self._tell("kill_tasks", future.number, indexes)

    def close(self, *, wait: bool) -> None:
        """Have nothing there any more."""
        self._is_closed = True
        self._fail_all(RuntimeError("the pool was ended"))
        self._tell("leave")

    def _tell(self, *errand: Any) -> None:
        self._errands.append(errand)
        with self._lock:
            if self._has_messenger:
                return
            self._has_messenger = True
        try:
            threading.Thread(
                target=self._run_errands, name="sidestep-remote-errands", daemon=True
            ).start()
        except RuntimeError:
            # The interpreter ends, and what we have there goes with the connection.
            self._has_messenger = False

    def _run_errands(self) -> None:
        while True:
            try:
                errand = self._errands.popleft()
            except IndexError:
                with self._lock:
                    if self._errands:
                        continue
                    self._has_messenger = False
                return
            try:
                self.ask(*errand)
            except Exception as error:  # noqa: BLE001 - the server may be gone
                util.debug("the broker was not told %r: %r", errand[0], error)


def _settle(future: _Future, answer: Any, *, is_done: bool) -> None:
    try:
        if not future.set_running_or_notify_cancel():
            return
    except futures.InvalidStateError:
        return  # it was cancelled meanwhile
    if is_done:
        future.set_result(answer)
    else:
        future.set_exception(answer)


class RemotePool(ClusterPool):
    """A pool whose workers are those of a pool in a manager's server."""

    _cluster: RemoteBackend

    def resize(self, processes: int) -> None:
        """Have so many workers from now on; those too many leave after their task."""
        self._check_running()
        self._cluster.proxy.call("resize", processes)

    def statistics(self) -> dict[str, float]:
        """Return the counters of the pool in the server."""
        counters: dict[str, float] = self._cluster.proxy.call("pool_statistics")
        return counters

    def terminate(self) -> None:
        """End the pool in the server, whoever uses it, without doing what is left."""
        super().terminate()
        self._cluster.ask("abort")

    def _join(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        super()._join(timeout)
        self._cluster.ask(
            "end", None if end is None else max(0, end - time.monotonic())
        )

    def __del__(self) -> None:
        """Say nothing: the pool in the server ends with the last reference to it."""
