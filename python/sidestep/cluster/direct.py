# SPDX-License-Identifier: MIT
"""Single calls whose threads see to them: what ``apply`` of a pool does.

``docs/internals/cluster.rst``, "A single call", tells the ways there are. All of this is
of `ClusterEngine`, and in a file of its own only for its length.
"""

from __future__ import annotations

import functools

from . import far, feed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .engine import ClusterEngine
    from .flight import Flight

__all__ = ["call"]

#: As `_core` numbers the kinds of results.
APPLY = 0


def call(
    engine: ClusterEngine,
    kind: type,
    pool: object,
    func: Callable[..., Any],
    args: Any,
    kwds: Any,
) -> Any:
    """Do one call, without limits, and return its value or raise its exception.

    Where the back end can, this thread waits for the answer itself. If not, but there is
    room and nothing waits, it is woken by the thread of the engine that has the answer.
    """
    future = engine.backend.begin()
    limit = 0 if future is not None else _room(engine)
    if future is None and not limit:
        none = None, None, 1, 0
        return engine.apply(kind, pool, func, args, kwds, None, None, *none).get()
    result = engine._jobs.result(kind, pool, APPLY, 1, None, None)
    try:
        task = _task(result, func, (tuple(args), dict(kwds)))
    except Exception as error:  # noqa: BLE001 - the outcome
        result._abandon(error)
        return result.get()
    if future is None:
        return _submit(engine, task, limit)
    _run(engine, task, future)
    return result.get()


def _task(result: Any, func: Callable[..., Any], args: tuple[Any, ...]) -> feed.Task:
    limits = feed.Limits(kept=(None, None))
    nothing = iter(())
    one = feed.Feed(
        result, feed.Function(func), limits, nothing, single=far.CALL, length=1
    )
    one.at, one.is_over = 1, True
    return feed.Task(one, 0, 1, far.CALL, args)


def _room(engine: ClusterEngine) -> int:
    """Return how many batches may be under way, 0 if something waits already."""
    backend = engine.backend
    if backend.keeps_limits or backend.streams or engine._feeds or engine._is_stopped:
        return 0
    limit = backend.ahead * max(backend.workers(), 1)
    return limit if len(engine._flights) < limit else 0


def _submit(engine: ClusterEngine, task: feed.Task, limit: int) -> Any:
    """Submit a task, and return what becomes of it, or raise."""
    flight, batch = engine._pack([task])
    result = task.feed.result
    with engine._cond:
        is_away = not engine._feeds and len(engine._flights) < limit
        if is_away:
            engine._add(flight)
    if not is_away:  # other threads were quicker
        task.feed.push_back(task)
        engine._queue(task.feed)
        return result.get()
    try:
        flight.future = engine.backend.submit(far.run, batch)
    except Exception as error:  # noqa: BLE001 - the engine's; the task is lost
        engine._drop(flight)
        engine._lose(flight, error, may_retry=False)
        return result.get()
    flight.future.add_done_callback(functools.partial(_wake, engine, flight))
    return _value(engine, flight, *result.get())


def _wake(engine: ClusterEngine, flight: Flight, future: Any) -> None:
    """Hand an answer to the thread that waits for it; on a thread of the engine's."""
    answer = error = None
    try:
        answer = future.result()
    except BaseException as what:  # noqa: BLE001 - the engine's, whatever it is
        error = what
    if engine._drop(flight):
        engine._deliver(flight.tasks[0], (answer, error), ok=True)
    flight.future = None  # which knows the flight
    if engine._is_closing:
        with engine._cond:
            engine._cond.notify_all()
    if engine._feeds:
        engine._hand_over(None)


def _value(
    engine: ClusterEngine, flight: Flight, answer: Any, error: BaseException | None
) -> Any:
    """Make the result of a call's answer, or of the engine's error."""
    (task,) = flight.tasks
    reply = None
    if error is None:
        try:
            reply = far.reply_of(answer)
        except Exception as what:  # noqa: BLE001 - the engine broke it
            error = what
    with engine._cond:
        engine._counts["lost" if reply is None else "done"] += 1
    if reply is None:
        raise engine._lost(task, 1, error)
    engine._measure(flight, reply)
    value, ok = engine._open(task, *reply.outcomes[0])
    if ok:
        return value
    try:
        raise value
    finally:
        del value  # whose traceback has this frame


def _run(engine: ClusterEngine, task: feed.Task, future: Any) -> None:
    """Have a task done while this thread waits, and deliver what became of it."""
    flight, batch = engine._pack([task])
    with engine._cond:
        engine._add(flight)
    flight.future = future
    try:
        engine.backend.run(future, batch)
    except Exception as error:  # noqa: BLE001 - the engine's; the task is lost
        if engine._drop(flight):
            engine._lose(flight, error, may_retry=False)
    except BaseException as error:
        engine._drop(flight)
        task.feed.result._abandon(error)
        raise
    else:
        if engine._drop(flight):
            engine._land(flight)
    finally:
        flight.future = None
        with engine._cond:
            engine._cond.notify_all()
