# SPDX-License-Identifier: MIT
"""What runs in a worker of the engine: batches of tasks, each task with its outcome."""

from __future__ import annotations

import itertools
import pickle
import threading
import time

from sidestep import _remote
from sidestep._manager_session import remember_key

from . import line, parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Batch", "Reply", "message", "run", "run_message"]

#: What the arguments of a task are.
CALL, ITEM, STAR, CHUNK, STAR_CHUNK = range(5)

#: What an outcome is: a value, an exception of the task, or of the initializer; of back
#: ends that look after tasks one by one also: the worker is lost, the time is over.
VALUE, RAISED, NOT_INITIALIZED, LOST, LATE = range(5)

FUNCTIONS_MAX = 64

#: Bytes up to which a batch or an answer goes as one piece.
SMALL = 1 << 16


class Batch:
    """Tasks for one worker, on their way to it."""

    def __init__(
        self,
        token: bytes,
        initializer: parcel.Parcel | None,
        functions: dict[bytes, parcel.Parcel],
        tasks: list[tuple[bytes, int, parcel.Parcel]],
        keys: list[tuple[Any, bytes]] | None = None,
        limits: list[tuple[Any, ...]] | None = None,
        line: line.Where | None = None,
    ) -> None:
        self.token = token
        self.initializer = initializer
        self.functions = functions
        self.tasks = tasks
        self.keys = keys  # of managers, by their addresses
        #: ``(timeout, soft_timeout, priority)`` of each task, for a back end that keeps
        #: them.
        self.limits = limits
        #: Where what was not begun goes back; a batch of several tasks has it.
        self.line = line

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return sum(
            each.size
            for each in (*self.functions.values(), *(t[2] for t in self.tasks))
        )


class Reply:
    """The outcomes of a batch on their way back, and how long it took in seconds.

    Tasks that have none were not begun: they were given back, or there ``is_cut_off``,
    as the program cannot be reached from the worker.
    """

    def __init__(
        self,
        outcomes: list[tuple[int, parcel.Parcel]],
        seconds: float,
        *,
        is_cut_off: bool = False,
    ) -> None:
        self.outcomes = outcomes
        self.seconds = seconds
        self.is_cut_off = is_cut_off

    def size_of(self) -> int:
        """Return about how many bytes it has."""
        return sum(packed.size for _, packed in self.outcomes)


def message(batch: Batch) -> tuple[Callable[[Any], Any], Batch | bytes]:
    """Return what an engine is to call, and with what.

    What is small goes as bytes, and so does its answer. To an engine bytes are but bytes,
    where it would pickle objects with a pickler in Python, on a thread of its own.
    """
    if batch.size > SMALL:
        return run, batch
    if (
        len(batch.tasks) > 1
        or batch.limits is not None
        or batch.initializer is not None
    ):
        return run_message, pickle.dumps(batch, 5)
    digest, mode, args = batch.tasks[0]
    function = batch.functions[digest]
    if args.buffers or function.buffers:
        return run_message, pickle.dumps(batch, 5)
    call = batch.keys, digest, function.data, mode, args.data
    return run_message, pickle.dumps(call, 5)


def reply_of(answer: Any) -> Reply:
    """Return the answer that came, maybe as bytes."""
    if type(answer) is not bytes:
        return answer  # type: ignore[no-any-return]
    found: Any = pickle.loads(answer)
    if type(found) is not tuple:
        return found  # type: ignore[no-any-return]
    kind, data, seconds = found
    return Reply([(kind, parcel.Parcel(data, []))], seconds)


_lock = threading.Lock()
_functions: dict[bytes, Any] = {}  # by digest, oldest first; guarded by _lock
_initialized: dict[bytes, threading.Event] = {}  # by pool; guarded by _lock
_failures: dict[bytes, BaseException] = {}  # of initializers, by pool


def run(batch: Batch) -> Reply:
    """Do the tasks of a batch, whatever becomes of each."""
    begin = time.perf_counter()
    for address, key in batch.keys or ():
        remember_key(address, key)
    try:
        _initialize(batch)
    except BaseException as error:  # noqa: BLE001 - it belongs to the caller
        outcome = NOT_INITIALIZED, _pack(error)
        return Reply([outcome] * len(batch.tasks), 0.0)
    if batch.line is None:
        outcomes = [_outcome(batch.functions[task[0]], *task) for task in batch.tasks]
        return Reply(outcomes, time.perf_counter() - begin)
    if not line.is_there(batch.line):
        begin = time.perf_counter()
        outcomes = [_outcome(batch.functions[batch.tasks[0][0]], *batch.tasks[0])]
        return Reply(outcomes, time.perf_counter() - begin, is_cut_off=True)
    begin = time.perf_counter()
    outcomes = _run_watched(batch, batch.line)
    return Reply(outcomes, time.perf_counter() - begin)


def run_message(data: bytes) -> bytes | Reply:
    """Do the tasks of a batch that `message` has made to bytes."""
    batch = pickle.loads(data)
    if type(batch) is not tuple:
        reply = run(batch)
        return pickle.dumps(reply, 5) if reply.size_of() <= SMALL else reply
    keys, digest, function, mode, args = batch
    for address, key in keys or ():
        remember_key(address, key)
    begin = time.perf_counter()
    parts = parcel.Parcel(function, []), digest, mode, parcel.Parcel(args, [])
    kind, outcome = _outcome(*parts)
    seconds = time.perf_counter() - begin
    if outcome.buffers or len(outcome.data) > SMALL:
        return Reply([(kind, outcome)], seconds)
    return pickle.dumps((kind, outcome.data, seconds), 5)


def _run_watched(batch: Batch, where: line.Where) -> list[tuple[int, parcel.Parcel]]:
    """Do the tasks of a batch as long as it may keep them."""
    progress = line.Run(where, len(batch.tasks))
    line.watch(progress)
    try:
        for task in batch.tasks:
            if not progress.begin():
                break
            progress.outcomes.append(_outcome(batch.functions[task[0]], *task))
    finally:
        line.forget(progress)
    return progress.outcomes


def run_plain(
    digest: bytes, function: bytes, mode: int, args: bytes
) -> tuple[int, bytes | None, parcel.Parcel | None, float]:
    """Do one task whose parts are pickles without buffers: kind, outcome, seconds.

    The outcome is a pickle if it has no buffers either, or else a parcel.
    """
    begin = time.perf_counter()
    func, packed = parcel.Parcel(function, []), parcel.Parcel(args, [])
    kind, outcome = _outcome(func, digest, mode, packed)
    seconds = time.perf_counter() - begin
    if outcome.buffers:
        return kind, None, outcome, seconds
    return kind, outcome.data, None, seconds


def _initialize(batch: Batch) -> None:
    """Run the initializer unless this process did so for the same pool."""
    if batch.initializer is None:
        return
    with _lock:
        done = _initialized.get(batch.token)
        is_ours = done is None
        if done is None:
            done = _initialized[batch.token] = threading.Event()
    if is_ours:
        try:
            initializer, initargs = batch.initializer.loads()
            initializer(*initargs)
        except BaseException as error:
            _failures[batch.token] = error
            raise
        finally:
            done.set()
    done.wait()
    if (failure := _failures.get(batch.token)) is not None:
        raise failure


def _function(digest: bytes, packed: parcel.Parcel) -> Callable[..., Any]:
    with _lock:
        func = _functions.get(digest)
    if func is None:
        func = packed.loads()
        with _lock:
            _functions[digest] = func
            while len(_functions) > FUNCTIONS_MAX:
                del _functions[next(iter(_functions))]
    return func  # type: ignore[no-any-return]


def _outcome(
    function: parcel.Parcel, digest: bytes, mode: int, args: parcel.Parcel
) -> tuple[int, parcel.Parcel]:
    try:
        value = _call(_function(digest, function), mode, args.loads())
    except BaseException as error:  # noqa: BLE001 - it belongs to the caller
        return RAISED, _pack(error)
    try:
        return VALUE, parcel.dumps(value)
    except Exception as error:  # noqa: BLE001 - so does this
        return RAISED, _pack(_remote.MaybeEncodingError(error, value), error)


def _call(func: Callable[..., Any], mode: int, args: Any) -> Any:
    if mode == CALL:
        positional, keywords = args
        return func(*positional, **keywords)
    if mode == ITEM:
        return func(args)
    if mode == STAR:
        return func(*args)
    return list(map(func, args) if mode == CHUNK else itertools.starmap(func, args))


def _pack(error: BaseException, cause: BaseException | None = None) -> parcel.Parcel:
    text = _remote.text_of(error if cause is None else cause)
    return parcel.dumps(_remote.pack(error, text, parcel.dumps_in_band))
