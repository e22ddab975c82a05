# SPDX-License-Identifier: MIT
"""The broker in a manager's server: clients hand in batches, nodes do them.

A *stream* is one pool of one client, a *node* is who has workers: the server itself, or
a process that serves (`sidestep.serve`). What a client or a node has here goes with its
session, like the locks it holds. ``docs/internals/tasks.rst`` has the protocol and the
death table.
"""

from __future__ import annotations

import collections
import itertools
import platform
import threading
import time
import weakref

from sidestep import context, process, util
from sidestep._manager_calls import deadline_of
from sidestep._manager_wire import serving
from sidestep._options import default_count
from sidestep._workers import WorkerLost

from .runner import Runner, prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sidestep._manager_calls import Call, Wait
    from sidestep.cluster.far import Batch, Reply

__all__ = ["BEAT_SECONDS", "PROTOCOL", "Broker", "Office", "of_pool", "office_of"]

#: Both sides of this protocol have the same number, and the same minor Python: code that
#: travels by value is of one.
PROTOCOL = 1, platform.python_version_tuple()[:2]

#: Over a network a party that waits comes back at least so often, in seconds.
BEAT_SECONDS = 10.0
#: Who was not heard of for so long is given up; on one machine the kernel tells.
PATIENCE_SECONDS = 45.0


#: What a server that unpickles by a list has to allow if it is to do tasks.
TASK_NAMES = [
    "sidestep.cluster.far:Batch",
    "sidestep.cluster.far:Reply",
    "sidestep.cluster.parcel:Parcel",
]


class Flight:
    """A batch that a client handed in."""

    __slots__ = (
        "answer", "batch", "is_detached", "key", "news", "node", "number", "stream",
    )  # fmt: skip

    def __init__(
        self, stream: Stream, number: int, batch: Batch, *, is_detached: bool
    ) -> None:
        self.stream = stream
        self.number = number
        self.batch = batch
        self.is_detached = is_detached
        self.key = 0
        self.node: Any = None
        #: Where a call of the client's waits for it, None: `collect` answers.
        self.news: threading.Condition | None = None
        self.answer: Any = None

    def settle(self, answer: Any) -> None:
        """Give the call that waits its answer. The lock is held."""
        assert self.news is not None
        self.answer = answer
        self.news.notify_all()


class Party:
    """A client or a node that comes and asks: for answers, for work."""

    def __init__(self, lock: Any, on_gone: Callable[[Any], None]) -> None:
        self.news = threading.Condition(lock)
        self.is_over = False
        self.calls = 0  # under way
        self.seen = time.monotonic()
        self._client = serving.process
        self._on_gone = on_gone
        if self._client is not None:
            self._client.held.add(self)

    def owner_gone(self, client: Any) -> None:
        """Note that a client, or a thread of one, has ended. As locks have it."""
        if client is self._client:
            # Not here: this may be the server's loop, and others wait for it.
            threading.Thread(target=self._on_gone, args=(self,), daemon=True).start()

    def leave(self) -> None:
        """Have nothing here any more. The lock is held."""
        self.is_over = True
        self.news.notify_all()
        if self._client is not None:
            self._client.held.discard(self)

    def wait(self, ready: Callable[[], object], timeout: float | None) -> None:
        """Wait for news. The lock is held."""
        self.calls += 1
        try:
            self.news.wait_for(lambda: ready() or self.is_over, timeout)
        finally:
            self.calls -= 1
            self.seen = time.monotonic()


class Stream(Party):
    """What one pool of a client has here."""

    def __init__(self, lock: Any, on_gone: Callable[[Any], None]) -> None:
        super().__init__(lock, on_gone)
        self.ready: collections.deque[Flight] = collections.deque()
        self.flights: dict[int, Flight] = {}
        #: Number of the batch, whether it is done or lost, None for a part of it; what.
        self.answers: collections.deque[tuple[int, bool | None, Any]] = (
            collections.deque()
        )
        self.told: int | None = None  # how many workers there are
        #: Those that `run` waits for and that are done.
        self.late: dict[int, Flight] = {}


class Node(Party):
    """Workers elsewhere, which a process that serves has."""

    def __init__(
        self, lock: Any, on_gone: Callable[[Any], None], name: str, slots: int
    ) -> None:
        super().__init__(lock, on_gone)
        self.name = name
        self.slots = slots
        self.flights: dict[int, Flight] = {}
        self.events: collections.deque[tuple[str, int, Any]] = collections.deque()
        self.is_leaving = False

    def start(self, flight: Flight) -> None:
        """Have it come for a batch. The lock is held."""
        self.events.append(("run", flight.key, flight.batch))
        self.news.notify()

    def kill(self, key: int, indexes: list[int] | None) -> None:
        """Have it give up a batch, or tasks of it. The lock is held."""
        for event in self.events:
            if event[:2] == ("run", key) and indexes is None:
                self.events.remove(event)
                return
        self.events.append(("kill", key, indexes))
        self.news.notify()


class LocalNode:
    """The workers of a pool in this process."""

    name = "server"
    is_leaving = False

    def __init__(self, pool: Any, broker: Broker) -> None:
        self._pool = weakref.ref(pool)
        self._broker = broker
        self.flights: dict[int, Flight] = {}
        self._runner = Runner(broker.finish_here, broker.part_here)

    @property
    def slots(self) -> int:
        """How many batches it does at a time."""
        pool = self._pool()
        return 0 if pool is None else pool._processes

    def start(self, flight: Flight) -> None:
        """Run a batch, as soon as the lock is free."""
        key, batch = flight.key, flight.batch
        self._broker.later(lambda: self._runner.run(self._pool(), key, batch))

    def kill(self, key: int, indexes: list[int] | None) -> None:
        """Give up a batch, or tasks of it, as soon as the lock is free."""
        self._broker.later(lambda: self._runner.kill(key, indexes))


class Broker:
    """Batches of all clients, and who does them."""

    def __init__(self, server: Any) -> None:
        is_network = isinstance(getattr(server, "address", None), tuple)
        self._server = server
        self._lock = threading.RLock()
        self._streams: dict[str, Stream] = {}  # guarded by _lock, as all that follows
        self._turns: collections.deque[Stream] = collections.deque()
        self._nodes: list[Any] = []
        self._keys = itertools.count(1)
        self._later: collections.deque[Callable[[], None]] = collections.deque()
        self._counts = {"submitted": 0, "done": 0, "lost": 0}
        self._patience = PATIENCE_SECONDS if is_network else None
        self._has_watch = False

    def later(self, call: Callable[[], None]) -> None:
        """Have something called when the lock is free: it may call back."""
        self._later.append(call)

    def _run_later(self) -> None:
        while self._later:
            try:
                call = self._later.popleft()
            except IndexError:
                return
            call()

    # ---- What clients ask ----

    def enter(self, name: str, protocol: Any) -> int:
        """Begin a stream; return how many workers there are."""
        _check_protocol(protocol)
        self._check_list()
        with self._lock:
            if name not in self._streams:
                self._streams[name] = Stream(self._lock, self._stream_gone)
                self._watch()
            return self.workers()

    def _check_list(self) -> None:
        """Raise unless what tasks are sent in may be unpickled here."""
        listener = getattr(self._server, "listener", None)
        allow = getattr(listener, "_allow", None)
        if allow is not None and not all(map(allow.has, TASK_NAMES)):
            raise TasksRefusedError(
                "this server unpickles by a list, allow=, and does no tasks: a task is "
                f"any function. Where that is meant to be, add to the list: {TASK_NAMES}"
            )

    def submit(
        self, name: str, number: int, batch: Batch, is_detached: bool = False
    ) -> int:
        """Take a batch; return how many workers there are."""
        with self._lock:
            stream = self._stream(name)
            self._take_in(Flight(stream, number, batch, is_detached=is_detached))
            workers = stream.told = self.workers()
        self._run_later()
        return workers

    def _take_in(self, flight: Flight) -> None:
        """Have a node do a batch. The lock is held."""
        stream = flight.stream
        stream.flights[flight.number] = flight
        stream.ready.append(flight)
        self._counts["submitted"] += len(flight.batch.tasks)
        if stream not in self._turns:
            self._turns.append(stream)
        self._deal()

    def run(
        self,
        call: Call,
        name: str,
        number: int,
        batch: Batch | None,
        timeout: float | None,
    ) -> Wait:
        """Do a batch while the caller waits: the reply, or (False, why there is none).

        None when it takes longer than the time-out: then it goes on, and the caller
        comes again, without the batch. A wait of `_manager_calls`: no thread waits, and
        when the client goes the batch is given up.
        """
        flight = self._flight_of(name, number, batch)
        stream = flight.stream
        self._run_later()
        stream.calls += 1
        try:
            with self._lock:
                if flight.answer is None:
                    call.park(flight.news, passes_on=False)
            if flight.answer is None and not (yield deadline_of(timeout)):
                return None
        except GeneratorExit:
            self.kill(name, [number])
            raise
        finally:
            stream.calls -= 1
            stream.seen = time.monotonic()
        stream.late.pop(number, None)
        return flight.answer

    def _flight_of(self, name: str, number: int, batch: Batch | None) -> Flight:
        with self._lock:
            stream = self._stream(name)
            flight = stream.flights.get(number) or stream.late.pop(number, None)
            if batch is not None:
                flight = Flight(stream, number, batch, is_detached=False)
                flight.news = threading.Condition(self._lock)
                self._take_in(flight)
            if flight is None:
                raise KeyError(number)
            return flight

    def collect(
        self, name: str, timeout: float | None
    ) -> tuple[int, list[tuple[int, bool | None, Any]]]:
        """Wait for answers: the number of workers, and (number, whether done, answer)."""
        with self._lock:
            stream = self._stream(name)
            stream.wait(
                lambda: stream.answers or stream.told != self.workers(), timeout
            )
            answers = list(stream.answers)
            stream.answers.clear()
            stream.told = self.workers()
            return stream.told, answers

    def withdraw(self, name: str, number: int) -> bool:
        """Take a batch back; False when a node has it already, or has done it."""
        with self._lock:
            stream = self._streams.get(name)
            flight = None if stream is None else stream.flights.get(number)
            if stream is None or flight is None or flight.node is not None:
                return False
            del stream.flights[number]
            stream.ready.remove(flight)
            return True

    def is_running(self, name: str, number: int) -> bool:
        """Tell whether a node has a batch."""
        with self._lock:
            stream = self._streams.get(name)
            flight = None if stream is None else stream.flights.get(number)
            return flight is not None and flight.node is not None

    def kill(self, name: str, numbers: list[int]) -> None:
        """Give up batches, wherever they are."""
        with self._lock:
            stream = self._streams.get(name)
            for number in numbers:
                flight = stream and stream.flights.get(number)
                if flight:
                    self._drop(flight)
            self._deal()
        self._run_later()

    def kill_tasks(self, name: str, number: int, indexes: list[int]) -> None:
        """Give up some tasks of a batch."""
        with self._lock:
            stream = self._streams.get(name)
            flight = stream and stream.flights.get(number)
            if flight and flight.node is not None:
                flight.node.kill(flight.key, indexes)
        self._run_later()

    def leave(self, name: str) -> int:
        """End a stream; return how many others there are."""
        with self._lock:
            stream = self._streams.get(name)
        if stream is not None:
            self._stream_gone(stream)
        return len(self._streams)

    def _stream(self, name: str) -> Stream:
        try:
            return self._streams[name]
        except KeyError:
            raise ConnectionResetError(
                "the server has given this client up: it was not heard of for too long"
            ) from None

    def _stream_gone(self, stream: Stream) -> None:
        """Give up what a client had here, but for what it has detached."""
        with self._lock:
            if stream.is_over:
                return
            stream.leave()
            for name, other in list(self._streams.items()):
                if other is stream:
                    del self._streams[name]
            for flight in list(stream.flights.values()):
                if not flight.is_detached:
                    self._drop(flight)
            self._deal()
        self._run_later()

    def _drop(self, flight: Flight) -> None:
        """Forget a batch, and have its node do so. The lock is held."""
        flight.stream.flights.pop(flight.number, None)
        if flight.news is not None:
            flight.settle((False, WorkerLost("the task was given up")))
        if flight.node is None:
            flight.stream.ready.remove(flight)
            return
        flight.node.kill(flight.key, None)
        flight.node.flights.pop(flight.key, None)

    # ---- Dealing ----

    def workers(self) -> int:
        """Return how many batches can be done at a time."""
        return sum(node.slots for node in self._nodes if not node.is_leaving)

    def _deal(self) -> None:
        """Give nodes that have room what waits, to each client in turn. Lock held."""
        while self._turns:
            stream = self._turns[0]
            if not stream.ready:
                self._turns.popleft()
                continue
            node = self._roomiest()
            if node is None:
                return
            self._turns.rotate(-1)
            flight = stream.ready.popleft()
            flight.key = next(self._keys)
            flight.node = node
            node.flights[flight.key] = flight
            node.start(flight)

    def _roomiest(self) -> Any:
        """Return the node with the largest share of its slots free, None if none has."""
        best, most = None, 0.0
        for node in self._nodes:
            free = 1 - len(node.flights) / node.slots if node.slots else 0.0
            if free > most and not node.is_leaving:
                best, most = node, free
        return best

    def _answer(self, flight: Flight, answer: Any, *, is_done: bool) -> None:
        """Have the client know. The lock is held."""
        stream = flight.stream
        stream.flights.pop(flight.number, None)
        if flight.news is not None:
            flight.settle(answer if is_done else (False, answer))
            stream.late[flight.number] = flight
        elif not stream.is_over:
            stream.answers.append((flight.number, is_done, answer))
            stream.news.notify()
        elif not is_done:
            util.get_logger().warning("a detached task was lost: %s", answer)

    def _finish(self, node: Any, answers: list[tuple[int, Reply]]) -> None:
        with self._lock:
            for key, reply in answers:
                flight = node.flights.pop(key, None)
                if flight is not None:
                    self._counts["done"] += len(flight.batch.tasks)
                    self._answer(flight, reply, is_done=True)
            self._deal()
        self._run_later()

    def part_here(self, key: int, index: int, outcome: Any) -> None:
        """Note that a node of this process has done a task of a batch of several."""
        with self._lock:
            for node in self._nodes:
                flight = node.flights.get(key)
                if flight is not None and not flight.stream.is_over:
                    stream = flight.stream
                    stream.answers.append((flight.number, None, (index, outcome)))
                    stream.news.notify()

    def finish_here(self, key: int, reply: Reply) -> None:
        """Note that a node of this process has done a batch."""
        with self._lock:
            node = next((one for one in self._nodes if key in one.flights), None)
        if node is None:
            return
        server: Any = getattr(process.current_process(), "_manager_server", None)
        if server is None or serving.settles:
            self._finish(node, [(key, reply)])
            return
        # Who waits for it is answered by this thread.
        serving.settles = True
        try:
            self._finish(node, [(key, reply)])
        finally:
            serving.settles = False
        server.calls.settle()

    # ---- Nodes ----

    def add(self, node: Any) -> None:
        """Have one more node; it gets work at once."""
        with self._lock:
            self._nodes.append(node)
            self._tell_workers()
            self._deal()
        self._run_later()

    def _tell_workers(self) -> None:
        for stream in self._streams.values():
            stream.news.notify()

    def _node_gone(self, node: Node) -> None:
        """Give up a node and what it has; what it did not come for is not lost."""
        with self._lock:
            if node.is_over:
                return
            node.leave()
            self._nodes.remove(node)
            self._take_back(node)
            for flight in list(node.flights.values()):
                self._counts["lost"] += len(flight.batch.tasks)
                error = WorkerLost(f"{node.name} is gone, with what it was running")
                self._answer(flight, error, is_done=False)
            node.flights.clear()
            self._tell_workers()
            self._deal()
        self._run_later()

    def _take_back(self, node: Node) -> None:
        """Have others do what a node did not come for. The lock is held."""
        waiting = [key for kind, key, _ in node.events if kind == "run"]
        node.events.clear()
        for key in reversed(waiting):
            flight = node.flights.pop(key, None)
            if flight is None:
                continue
            flight.node = None
            flight.stream.ready.appendleft(flight)
            if flight.stream not in self._turns:
                self._turns.appendleft(flight.stream)

    # ---- The watch ----

    def _watch(self) -> None:
        """See that parties of a network come back. The lock is held."""
        if self._patience is None or self._has_watch:
            return
        self._has_watch = True
        threading.Thread(
            target=self._look_out, name="sidestep-tasks-watch", daemon=True
        ).start()

    def _look_out(self) -> None:
        assert self._patience is not None
        while True:
            time.sleep(self._patience / 4)
            late = time.monotonic() - self._patience
            with self._lock:
                nodes = [node for node in self._nodes if isinstance(node, Node)]
                parties: list[Any] = [*nodes, *self._streams.values()]
                if not parties:
                    self._has_watch = False
                    return
                gone = [
                    one
                    for one in parties
                    if not one.calls
                    and one.seen < late
                    and (one.flights or isinstance(one, Node))
                ]
            for party in gone:
                util.info("a party of the task server was not heard of: given up")
                party._on_gone(party)

    def statistics(self) -> dict[str, float]:
        """Return counters."""
        with self._lock:
            waiting = sum(len(stream.ready) for stream in self._streams.values())
            return {
                **self._counts,
                "waiting": waiting,
                "workers": self.workers(),
                "nodes": len(self._nodes),
                "clients": len(self._streams),
            }


class Office(Broker):
    """The broker of a whole server: its own processes, and all that serve."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self._pool: Any = None
        self._members: dict[str, Node] = {}  # guarded by _lock
        self._had_pool = False

    def enter(self, name: str, protocol: Any) -> int:
        """Begin a stream; the server's own workers start with the first."""
        self._start_pool()
        return super().enter(name, protocol)

    def _start_pool(self) -> None:
        with self._lock:
            count = getattr(self._server, "task_processes", None)
            if self._had_pool or count == 0:
                return
            self._had_pool = True
            ctx = context._default_context.get_context()
            self._pool = ctx.Pool(
                default_count(ctx) if count is None else count,
                prepare,
                (bytes(self._server.authkey),),
            )
        self.add(LocalNode(self._pool, self))

    def join(self, ident: str, name: str, slots: int, protocol: Any) -> float | None:
        """Take part, with so many workers; return after how long to come back."""
        _check_protocol(protocol)
        self._check_list()
        with self._lock:
            node = Node(self._lock, self._node_gone, name, slots)
            self._members[ident] = node
            self._watch()
        self.add(node)
        return BEAT_SECONDS if self._patience is not None else None

    def take(
        self, ident: str, timeout: float | None
    ) -> list[tuple[str, int, Any]] | None:
        """Wait for something to do or to give up; None: that was all."""
        with self._lock:
            node = self._member(ident)
            node.wait(lambda: node.events or self._is_idle(node), timeout)
            events = list(node.events)
            node.events.clear()
            if events or not (node.is_over or self._is_idle(node)):
                return events
        self._node_gone(node)
        return None

    @staticmethod
    def _is_idle(node: Node) -> bool:
        return node.is_leaving and not node.flights

    def finish(self, ident: str, answers: list[tuple[int, Reply]]) -> None:
        """Note that a node has done batches."""
        with self._lock:
            node = self._member(ident)
            node.seen = time.monotonic()
        self._finish(node, answers)
        with self._lock:
            node.news.notify_all()

    def stop(self, ident: str) -> None:
        """Give a node nothing more; it leaves when it has done what it has."""
        with self._lock:
            node = self._member(ident)
            node.is_leaving = True
            self._take_back(node)
            self._tell_workers()
            self._deal()
            node.news.notify_all()
        self._run_later()

    def quit(self, ident: str) -> None:
        """Give up a node that leaves at once: what it was running is lost."""
        node = self._members.get(ident)
        if node is not None:
            self._node_gone(node)

    def _node_gone(self, node: Node) -> None:
        with self._lock:
            for ident, one in list(self._members.items()):
                if one is node:
                    del self._members[ident]
        super()._node_gone(node)

    def _member(self, ident: str) -> Node:
        try:
            return self._members[ident]
        except KeyError:
            raise ConnectionResetError(
                "the server has given this worker up: it was not heard of for too long"
            ) from None

    # ---- Several calls at once ----

    def calls(self, requests: list[tuple[str, str, bytes]]) -> list[tuple[str, Any]]:
        """Do calls of several objects, one after the other; a reply to each."""
        from sidestep._manager_batch import do

        return do(self._server, requests)


def _check_protocol(theirs: Any) -> None:
    if theirs == PROTOCOL:
        return
    raise VersionMismatchError(
        f"the server speaks tasks {_version(*PROTOCOL)}, the peer {_version(*theirs)}: "
        "both need the same sidestep and the same minor version of Python"
    )


def _version(number: int, python: Any) -> str:
    return f"version {number} of Python {'.'.join(python)}"


class VersionMismatchError(RuntimeError):
    """Who connects has another version of the protocol, or of Python."""


class TasksRefusedError(RuntimeError):
    """The server does no tasks, because it unpickles by a list."""


def office_of(server: Any) -> Office:
    """Return the office of a server."""
    with server.mutex:
        office: Any = getattr(server, "_office", None)
        if office is None:
            office = server._office = Office(server)
        return office  # type: ignore[no-any-return]


class PoolBroker(Broker):
    """The broker of one pool."""

    def __init__(self, pool: Any) -> None:
        server: Any = getattr(process.current_process(), "_manager_server", None)
        super().__init__(server)
        self._pool = weakref.ref(pool)
        self.add(LocalNode(pool, self))

    def submit(
        self, name: str, number: int, batch: Batch, is_detached: bool = False
    ) -> int:
        """Take a batch, if the pool still does."""
        pool = self._pool()
        if pool is None or pool._state != "RUN":
            raise ValueError("Pool not running")
        return super().submit(name, number, batch, is_detached)

    def end(self, name: str, timeout: float | None) -> None:
        """End a stream, and with the last one the pool; TimeoutError if it does not."""
        pool = self._pool()
        if self.leave(name) == 0 and pool is not None:
            pool.close()
            pool.join(timeout)

    def resize(self, processes: int) -> None:
        """Have so many workers."""
        if (pool := self._pool()) is not None:
            pool.resize(processes)
            with self._lock:
                self._tell_workers()
                self._deal()
            self._run_later()

    def pool_statistics(self) -> dict[str, float]:
        """Return the counters of the pool."""
        pool = self._pool()
        counters: dict[str, float] = {} if pool is None else pool.statistics()
        return counters

    def abort(self, name: str) -> None:
        """End the pool now: nobody's tasks are done any more."""
        with self._lock:
            for stream in list(self._streams.values()):
                for flight in list(stream.flights.values()):
                    error = WorkerLost("the pool was terminated by another client")
                    if flight.news is not None:
                        flight.settle((False, error))
                        flight.news = None
                        stream.late[flight.number] = flight
                    else:
                        stream.answers.append((flight.number, False, error))
                    self._drop(flight)
                stream.news.notify_all()
        self._run_later()
        if (pool := self._pool()) is not None:
            pool.terminate()


_brokers_lock = threading.Lock()


def of_pool(pool: Any) -> PoolBroker:
    """Return the broker of a pool in this server."""
    with _brokers_lock:
        broker: Any = pool.__dict__.get("_broker")
        if broker is None:
            broker = pool._broker = PoolBroker(pool)
        return broker  # type: ignore[no-any-return]
