# SPDX-License-Identifier: MIT
"""`ClusterEngine`: what a pool needs of an engine, over a back end.

It has the methods of ``_core.PoolEngine`` that a pool calls. ``docs/internals/cluster.rst``
tells how it works.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time

from sidestep import _core, _workers, context, util
from sidestep._remote import MaybeEncodingError, Quoted
from sidestep._workers import WorkerLost

from . import direct, far, feed, parcel
from .flight import Flight, places, runs
from .line import BATCH_LIMIT, Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .backends import Backend

__all__ = ["ClusterEngine"]

#: As `_core` numbers the kinds of results.
APPLY, MAP = 0, 1

#: What a batch should take, in seconds, and how many tasks it has at most.
BATCH_SECONDS = 0.05
BATCH_TASKS = 256
#: Bytes of an answer that a thread of the engine unpickles itself.
QUICK_BYTES = 1 << 16
#: Seconds that the thread waits for more to do.
LINGER = 0.5
#: Items of a chunk when the caller of map() did not say.
CHUNK_MAX = 65536
#: The share of what is left that one batch may have, over the number of workers.
SHARE = 3
#: Chunks for each worker at least, as in the standard library.
CHUNKS = 4


if TYPE_CHECKING:
    #: An answer; what a batch gives back; or nothing, only to wake the thread.
    _Landed = Flight | tuple[int, int, list[tuple[int, parcel.Parcel]]] | None


class ClusterEngine:
    """Tasks on their way to an engine's workers, and results on their way back."""

    handle = b""

    def __init__(
        self,
        backend: Backend,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        keys: Callable[[], list[tuple[Any, bytes]]] = list,
    ) -> None:
        self.backend = backend
        self.broken: BaseException | None = None
        self._keys = keys
        self._jobs = _core.PoolJobs()
        self._token = os.urandom(16)
        self._initializer = (
            None if initializer is None else parcel.dumps((initializer, initargs))
        )
        self._cond = threading.Condition()
        self._feeds: list[feed.Feed] = []  # by priority, then age; guarded by _cond
        self._flights: set[Flight] = set()  # guarded by _cond
        self._landed: queue.SimpleQueue[_Landed] = queue.SimpleQueue()
        self._line: Line | None = None
        self._is_alone = backend.keeps_limits  # each task goes alone
        self._item_seconds = 0.0  # how long an item takes, 0 = unknown
        self._overhead = float("inf")  # seconds of the quickest batch but for its tasks
        self._is_pumping = False  # guarded by _cond
        self._pump_again = False  # guarded by _cond
        self._has_thread = False  # guarded by _cond
        self._is_closing = False
        self._is_stopped = False
        self._counts = {"submitted": 0, "done": 0, "lost": 0, "cancelled": 0}

    # ---- What a pool calls ----

    def results(self) -> dict[int, Any]:
        """Return the unfinished results by their numbers."""
        return self._jobs.results()

    def apply(
        self,
        kind: type,
        pool: object,
        func: Callable[..., Any],
        args: Iterable[Any],
        kwds: Any,
        callback: Any,
        error_callback: Any,
        *limits: Any,
    ) -> Any:
        """Do one call."""
        self._check()
        asked = self._limits(*limits)
        result = self._jobs.result(kind, pool, APPLY, 1, callback, error_callback)
        call = iter([(tuple(args), dict(kwds or {}))])
        is_quick = callback is None and error_callback is None
        self._start(
            result, func, asked, call, single=far.CALL, length=1, is_quick=is_quick
        )
        return result

    def call(
        self, kind: type, pool: object, func: Callable[..., Any], args: Any, kwds: Any
    ) -> Any:
        """Do one call, without limits, in place of `apply` and a wait for the result."""
        self._check()
        return direct.call(self, kind, pool, func, args, kwds)

    def map(
        self,
        type: type,
        pool: object,
        kind: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: int,
        chunk: int,
        buffer: int,
        callback: Any,
        error_callback: Any,
        *limits: Any,
    ) -> Any:
        """Do a call for each item."""
        self._check()
        asked = self._limits(*limits)
        length = None
        if kind == MAP:
            items = iterable if isinstance(iterable, list | range) else list(iterable)
            length = len(items)
            iterable = items
        result = self._jobs.result(
            type, pool, kind, length or 0, callback, error_callback, max(chunk, 1)
        )
        if length != 0:
            self._start(
                result,
                func,
                asked,
                feed.source(iterable, self.pump, buffer),
                single=far.STAR if star else far.ITEM,
                chunk=1 if asked.is_single else chunk or None,
                length=length,
                buffersize=buffer,
            )
        return result

    def cancel(self, result: Any, error: BaseException, kill: bool = False) -> bool:
        """Give a result up; what runs of it is stopped if asked and if that is possible."""
        if result._job not in self._jobs.results():
            return False
        with self._cond:
            mine = [one for one in self._feeds if one.result is result]
            flights = [
                flight
                for flight in self._flights
                if all(task.feed.result is result for task in flight.tasks)
            ]
            shared = [
                (future, indexes)
                for flight in self._flights.difference(flights)
                if (indexes := places(flight, result))
                and (future := flight.future) is not None
            ]
            futures = [flight.future for flight in flights]
            futures += [future for future, _ in shared]
            if not kill and any(map(runs, futures)):
                return False
            for one in mine:
                one.drop()
            self._feeds = [one for one in self._feeds if one.result is not result]
            self._counts["cancelled"] += 1
        self._give_up(flights)
        for future, indexes in shared:
            self.backend.kill_tasks(future, indexes)
        result._abandon(error)
        self.pump()
        return True

    def is_running(self, result: Any) -> bool:
        """Tell whether the engine has a task of this result and says that it runs."""
        with self._cond:
            return any(
                runs(flight.future)
                for flight in self._flights
                for task in flight.tasks
                if task.feed.result is result
            )

    def statistics(self) -> dict[str, float]:
        """Return counters of tasks and workers."""
        with self._cond:
            open_tasks = sum(len(flight.tasks) for flight in self._flights)
            return {
                **self._counts,
                "queued": len(self._feeds),
                "open": open_tasks,
                "batches": len(self._flights),
                "workers": self.backend.workers(),
            }

    def close(self) -> None:
        """Take no more calls."""
        with self._cond:
            self._is_closing = True
        self._landed.put(None)  # the thread may wait for more

    def stop(self, number: int, error: BaseException) -> None:
        """Take no more calls, and give up what is unfinished."""
        with self._cond:
            self._is_closing = self._is_stopped = True
            feeds, self._feeds = self._feeds, []
            flights = list(self._flights)
        for one in feeds:
            one.drop()
        self._jobs.abandon(error)  # to stop what runs may take an engine seconds
        self._give_up(flights)
        self._landed.put(None)

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until every result is finished; False: in vain."""
        with self._cond:
            return self._cond.wait_for(lambda: not len(self._jobs), timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; False: in vain."""
        with self._cond:
            if self._is_stopped:
                return True  # what cannot be stopped runs on, for nobody
            return self._cond.wait_for(lambda: not self._flights, timeout)

    def release(self) -> None:
        """Shut down what was started for this pool."""
        if self._line is not None:
            self._line.close()
        self.backend.close(wait=not self._is_stopped)

    def fill(self) -> None:
        """Do nothing: workers are the engine's affair."""

    tidy = fill

    # ---- Out ----

    def _limits(
        self,
        timeout: float | None,
        soft_timeout: float | None,
        priority: int,
        retries: int,
    ) -> feed.Limits:
        if self.backend.keeps_limits:
            return feed.Limits(None, priority, retries, (timeout, soft_timeout))
        if soft_timeout is not None:
            raise ValueError("a cluster knows no soft time limits")
        return feed.Limits(timeout, priority, retries)

    def _check(self) -> None:
        if self._is_closing:
            raise ValueError("Pool not running")

    def _start(
        self,
        result: Any,
        func: Callable[..., Any],
        limits: feed.Limits,
        items: Any,
        **options: Any,
    ) -> None:
        try:
            function = feed.Function(func)
        except Exception as error:  # noqa: BLE001 - everybody's outcome
            result._abandon(error)
            return
        self._queue(feed.Feed(result, function, limits, items, **options))

    def _queue(self, one: feed.Feed) -> None:
        with self._cond:
            self._feeds.append(one)
            if len(self._feeds) > 1:
                self._feeds.sort(key=_priority)
        self.pump()

    def pump(self) -> None:
        """Submit what there is room for. Any thread; one at a time does it for all."""
        with self._cond:
            self._pump_again = True
            if self._is_pumping:
                return
            self._is_pumping = True
        try:
            while True:
                with self._cond:
                    if not self._pump_again:
                        self._is_pumping = False
                        return
                    self._pump_again = False
                while tasks := self._collect():
                    self._submit(tasks)
        except BaseException:
            with self._cond:
                self._is_pumping = False
            raise

    def _collect(self) -> list[feed.Task]:
        """Return the tasks of the next batch, none when there is no room or no task."""
        workers = max(self.backend.workers(), 1)
        tasks: list[feed.Task] = []
        seconds = 0.0
        with self._cond:
            feeds = list(self._feeds)
            count = len(self._flights)
        if not feeds or count >= self.backend.ahead * workers or self._is_stopped:
            return tasks
        most = BATCH_TASKS if self._may_join(feeds) else 1
        for one in feeds:
            if one.limits.timeout is not None and (count >= workers or tasks):
                continue
            if self.backend.streams and one.length != 1:
                most = BATCH_TASKS  # they are done, and answered, one by one
            share = self._share(one, workers)
            while len(tasks) < most and seconds < BATCH_SECONDS and share > 0:
                task = one.pull(self._timely(one, workers))
                if task is None:
                    break
                tasks.append(task)
                share -= task.count
                seconds += self._item_seconds * task.count
                if one.limits.timeout is not None or not self._item_seconds:
                    break
            if not one.has_more():
                self._forget(one)
            if tasks and (
                self.backend.streams
                or one.limits.timeout is not None
                or not self._item_seconds
            ):
                break
        return tasks

    def _may_join(self, feeds: list[feed.Feed]) -> bool:
        """Tell whether tasks may go together: they may wait for each other.

        So there must be a way back for those that are not begun in time.
        """
        if self._is_alone or not self._item_seconds:
            return False
        if self._line is None and (len(feeds) > 1 or feeds[0].left() != 1):
            backend = self.backend
            try:
                if backend.is_private() or backend.allow_insecure:
                    self._line = Line(backend.address(), self._given_back)
            except Exception as error:  # noqa: BLE001 - without it goes, too
                util.info("no line from workers, so tasks go alone: %r", error)
            self._is_alone = self._line is None
        return self._line is not None

    def _share(self, one: feed.Feed, workers: int) -> int:
        left = one.left()
        if left is None:
            return BATCH_TASKS
        return max(left // (SHARE * workers) + 1, self._worthwhile())

    def _worthwhile(self) -> int:
        """Return how many items take as long as the engine takes for a batch."""
        if not self._item_seconds or self._overhead > BATCH_SECONDS:
            return 1
        if self.backend.keeps_limits:
            return 1
        return min(int(self._overhead / self._item_seconds), CHUNK_MAX)

    def _timely(self, one: feed.Feed, workers: int) -> int:
        """Return how many items a chunk should have."""
        if not self._item_seconds:
            return 1
        timely = min(int(BATCH_SECONDS / self._item_seconds) + 1, CHUNK_MAX)
        left = one.left()
        if left is None or one.length is None:
            return timely
        # Items of a chunk share a worker's fate: no more of them than ever.
        most = -(-one.length // (CHUNKS * workers))
        share = max(left // (SHARE * workers) + 1, self._worthwhile())
        return min(timely, share, most)

    def _forget(self, one: feed.Feed) -> None:
        with self._cond:
            if one in self._feeds and not one.has_more():
                self._feeds.remove(one)

    def _pack(self, tasks: list[feed.Task]) -> tuple[Flight, far.Batch]:
        limit = tasks[0].feed.limits.timeout
        flight = Flight(tasks, None if limit is None else time.monotonic() + limit)
        batch = far.Batch(
            self._token,
            self._initializer,
            {task.feed.function.digest: task.feed.function.parcel for task in tasks},
            [(task.feed.function.digest, task.mode, task.parcel) for task in tasks],
            self._keys(),
        )
        if len(tasks) > 1 and self._line is not None:
            batch.line = self._line.to(flight.number)
        if self.backend.keeps_limits:
            batch.limits = [
                (*task.feed.limits.kept, task.feed.limits.priority) for task in tasks
            ]
        return flight, batch

    def _add(self, flight: Flight) -> None:
        """Count a batch among those under way. The caller has the lock."""
        self._flights.add(flight)
        self._counts["submitted"] += len(flight.tasks)

    def _submit(self, tasks: list[feed.Task]) -> None:
        flight, batch = self._pack(tasks)
        with self._cond:
            self._add(flight)
        try:
            flight.future = self.backend.submit(far.run, batch)
        except Exception as error:  # noqa: BLE001 - the engine's; the tasks are lost
            self._drop(flight)
            self._lose(flight, error, may_retry=False)
            return
        if flight.deadline is not None:
            self._hand_over(None)  # the thread is to know of the deadline
        if self.backend.streams:
            flight.future.on_part = lambda: self._hand_over(flight)
            if flight.future.parts:
                self._hand_over(flight)  # they were quicker
        flight.future.add_done_callback(functools.partial(self._arrive, flight))

    # ---- Back ----

    def _arrive(self, flight: Flight, _: object) -> None:
        """Take an answer, on a thread of the engine's.

        Where no code of the user's has a say it is delivered here: to wake our thread
        for that would cost a call a tenth of a millisecond.
        """
        one = flight.tasks[0]
        is_single = len(flight.tasks) == 1 and not one.feed.limits.timeout
        is_whole = is_single and not self.backend.streams
        if not is_whole or not one.feed.is_quick or self._feeds:
            self._hand_over(flight)
            return
        try:
            reply = far.reply_of(flight.future.result())
            kind, packed = reply.outcomes[0]
            if kind != far.VALUE or packed.size > QUICK_BYTES:
                raise ValueError  # noqa: TRY301 - it goes the other way
            value = packed.loads_plain()
        except BaseException:  # noqa: BLE001 - whatever is the matter, it is told there
            self._hand_over(flight)
            return
        if self._drop(flight):
            self._measure(flight, reply)
            with self._cond:
                self._counts["done"] += 1
            self._deliver(one, value, ok=True)
        flight.future = None  # which knows the flight
        with self._cond:
            self._cond.notify_all()
            if not self._feeds:
                return
        self._hand_over(None)

    def _given_back(
        self, number: int, begun: int, outcomes: list[tuple[int, parcel.Parcel]]
    ) -> None:
        """Hear from a worker that a batch takes long; on a thread of the line's."""
        self._hand_over((number, begun, outcomes))

    def _hand_over(self, landed: _Landed) -> None:
        """Give something to our thread, which is there when it is needed."""
        self._landed.put(landed)
        with self._cond:
            if self._has_thread:
                return
            self._has_thread = True
        try:
            threading.Thread(
                target=self._work, name="sidestep-cluster", daemon=True
            ).start()
        except RuntimeError:  # there can be no more threads: this one does it
            self._work(linger=0.0)

    def _work(self, linger: float = LINGER) -> None:
        """Take answers until there have been none for a while."""
        while True:
            landed = None
            has_waited = False
            try:
                landed = self._landed.get(timeout=self._patience(linger))
            except queue.Empty:
                has_waited = True
            if isinstance(landed, tuple):
                self._take_back(*landed)
            elif landed is not None:
                self._see_to(landed)
            del landed
            self._see_to_deadlines()
            self.pump()
            with self._cond:
                self._cond.notify_all()
                is_last = has_waited or (self._is_closing and not self._flights)
                if is_last and self._landed.empty() and not self._deadlines():
                    self._has_thread = False
                    return

    def _see_to(self, flight: Flight) -> None:
        """Deliver what there is of a batch."""
        future = flight.future
        if future is None:
            return  # it was all there when its last part was told
        is_done = not self.backend.streams or future.done()
        if self.backend.streams and not flight.is_dropped:
            while future.parts:
                index, outcome = future.parts.popleft()
                flight.done.add(index)
                self._deliver_outcome(flight.tasks[index], *outcome)
        if is_done:
            if self._drop(flight):
                self._land(flight)
            flight.future = None  # which knows the flight

    def _deadlines(self) -> list[float]:
        return [
            flight.deadline for flight in self._flights if flight.deadline is not None
        ]

    def _patience(self, linger: float) -> float:
        with self._cond:
            deadlines = self._deadlines()
        if deadlines:
            return max(0.0, min(deadlines) - time.monotonic())
        return linger

    def _drop(self, flight: Flight) -> bool:
        """Take a batch from those under way; tell whether its tasks want outcomes."""
        with self._cond:
            self._flights.discard(flight)
            wanted = not flight.is_dropped
            flight.is_dropped = True
            return wanted

    def _see_to_deadlines(self) -> None:
        now = time.monotonic()
        with self._cond:
            late = [
                flight
                for flight in self._flights
                if flight.deadline is not None and flight.deadline <= now
            ]
        for flight in late:
            if self._drop(flight):
                self._give_up([flight])
                for task in flight.tasks:
                    error = _late(task, task.feed.limits.timeout)
                    self._deliver(task, error, ok=False)

    def _give_up(self, flights: list[Flight]) -> None:
        """Nobody wants these any more: cancel what waits, stop what runs if possible."""
        for flight in flights:
            self._drop(flight)
        futures = [flight.future for flight in flights]
        unwanted = [future for future in futures if future is not None]
        if unwanted:
            self.backend.give_up(unwanted)

    def _land(self, flight: Flight) -> None:
        try:
            reply = far.reply_of(flight.future.result())
        except BaseException as error:  # noqa: BLE001 - the engine's, whatever it is
            self._lose(flight, error, may_retry=True)
            return
        self._measure(flight, reply)
        if reply.is_cut_off:
            self._is_alone = True
        if flight.done:
            with self._cond:
                self._counts["done"] += len(flight.tasks)
            return  # they came in parts
        self._settle(flight, reply.outcomes)
        self._put_back(flight.tasks[flight.settled :])

    def _measure(self, flight: Flight, reply: far.Reply) -> None:
        """Learn from a batch how long tasks take, and the engine."""
        # Those whose outcomes came in parts are not in the answer.
        count = len(reply.outcomes) or len(flight.tasks)
        items = sum(task.count for task in flight.tasks[:count])
        self._overhead = min(
            self._overhead, time.monotonic() - flight.begun - reply.seconds
        )
        one = reply.seconds / items
        rises = one > self._item_seconds
        # As for processes: too small a batch costs less than too large.
        self._item_seconds = one if rises else 0.5 * (one + self._item_seconds)

    def _take_back(
        self, number: int, begun: int, outcomes: list[tuple[int, parcel.Parcel]]
    ) -> None:
        """Have others do what a worker has not begun, and deliver what it has done."""
        with self._cond:
            flight = next((one for one in self._flights if one.number == number), None)
            if flight is None:
                return  # its answer came first
            rest = flight.tasks[begun:]
            flight.tasks = flight.tasks[:begun]
        self._item_seconds = max(self._item_seconds, BATCH_LIMIT)
        self._settle(flight, outcomes)
        self._put_back(rest)

    def _put_back(self, tasks: list[feed.Task]) -> None:
        """Have tasks go again that were not begun, unless nobody wants them any more."""
        if not tasks:
            return
        wanted = self._jobs.results()
        with self._cond:
            self._counts["submitted"] -= len(tasks)
            for task in tasks:
                one = task.feed
                if not self._is_stopped and one.result._job in wanted:
                    one.push_back(task)
                    if one not in self._feeds:
                        self._feeds.insert(0, one)
            self._feeds.sort(key=_priority)

    def _settle(
        self, flight: Flight, outcomes: list[tuple[int, parcel.Parcel]]
    ) -> None:
        """Deliver the outcomes of the first tasks of a batch that have none yet."""
        since, flight.settled = flight.settled, max(flight.settled, len(outcomes))
        with self._cond:
            self._counts["done"] += flight.settled - since
        tasks = flight.tasks[since : flight.settled]
        for task, outcome in zip(tasks, outcomes[since:], strict=True):
            self._deliver_outcome(task, *outcome)

    def _deliver_outcome(
        self, task: feed.Task, kind: int, packed: parcel.Parcel
    ) -> None:
        value, ok = self._open(task, kind, packed)
        if kind == far.LOST:
            self._lose_one(task, value)
        else:
            self._deliver(task, value, ok=ok)

    def _open(
        self, task: feed.Task, kind: int, packed: parcel.Parcel
    ) -> tuple[Any, bool]:
        """Return the value or exception of an outcome, and whether it is a value."""
        ok = kind == far.VALUE
        try:
            value = packed.loads()
        except Exception as error:  # noqa: BLE001 - the caller is told
            quoted = Quoted("<a result that does not unpickle>")
            value = MaybeEncodingError(error, quoted)
            value.__cause__ = error
            ok = False
        if kind == far.NOT_INITIALIZED:
            self._break(value)
        elif kind == far.LATE:
            value = _late(task, task.feed.limits.kept[0])
        return value, ok

    def _lose_one(self, task: feed.Task, error: BaseException) -> None:
        """Note what a back end says that looks after tasks one by one: it is lost."""
        with self._cond:
            self._counts["lost"] += 1
        if not self._retry(task):
            self._deliver(task, _renamed(error, _describe(task)), ok=False)

    def _retry(self, task: feed.Task) -> bool:
        if task.retries <= 0:
            return False
        task.retries -= 1
        task.feed.push_back(task)
        with self._cond:
            if task.feed not in self._feeds:
                self._feeds.insert(0, task.feed)
        return True

    def _break(self, error: BaseException) -> None:
        if self.broken is None:
            self.broken = error
            with self._cond:
                feeds, self._feeds = self._feeds, []
            for one in feeds:
                one.drop()
            self._jobs.abandon(error)

    def _lose(self, flight: Flight, error: BaseException, *, may_retry: bool) -> None:
        left = enumerate(flight.tasks[flight.settled :], flight.settled)
        tasks = [task for index, task in left if index not in flight.done]
        with self._cond:
            self._counts["lost"] += len(tasks)
        for task in tasks:
            if may_retry and self._retry(task):
                continue
            self._deliver(task, self._lost(task, len(tasks), error), ok=False)

    def _lost(
        self, task: feed.Task, count: int, error: BaseException | None
    ) -> WorkerLost:
        text = _describe(task)
        among = f", one of {count} tasks that went together" if count > 1 else ""
        lost = WorkerLost(f"{self.backend.name} lost {text}{among}: {error!r}")
        lost.task = text
        lost.__cause__ = error
        return lost

    def _deliver(self, task: feed.Task, value: Any, *, ok: bool) -> None:
        try:
            task.deliver(value, ok=ok)
        except BaseException:  # noqa: BLE001 - a callback's; there is nobody to tell
            import sys

            sys.excepthook(*sys.exc_info())


def _priority(one: feed.Feed) -> int:
    return one.limits.priority


def _late(task: feed.Task, limit: float | None) -> context.TimeoutError:
    return context.TimeoutError(f"{_describe(task)} had not ended after {limit:.3g} s")


def _renamed(error: BaseException, text: str) -> BaseException:
    """Say what the task is to its caller, not to the pool that ran it."""
    known = getattr(error, "task", None)
    if known and error.args and isinstance(error.args[0], str):
        error.args = (error.args[0].replace(known, text), *error.args[1:])
    error.task = text  # type: ignore[attr-defined]
    return error


def _describe(task: feed.Task) -> str:
    mode = (_workers.MODE_KEYWORDS, 2, 2, _workers.MODE_CHUNK, _workers.MODE_CHUNK)
    return _workers.describe_call(task.feed.function.func, task.args, mode[task.mode])
