# SPDX-License-Identifier: MIT
"""The measurements of bench/ipc.py: each takes a context and returns seconds per operation.

A context is `multiprocessing.get_context(...)` or sidestep's; nothing here knows which.
Children that take part are forked, so that what is measured is the object and not the
start; they say through a plain pipe of the system that they are there.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("multiprocessing", "sidestep")
SMALL_DICT = {"id": 7, "name": "item", "value": 1.5, "tags": ["a", "b"]}
PAUSE = 300e-6
BIG = 100_000_000

Measure = Callable[[Any, int], float]


def parser(doc: str | None, part: str) -> argparse.ArgumentParser:
    """The options of every table; ``part`` is what `--quick` leaves of the operations."""
    options = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    options.add_argument(
        "--only", default="", help="a regular expression over the names"
    )
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument(
        "--quick", action="store_true", help=f"3 rounds, {part} of the operations"
    )
    options.add_argument("--json", type=Path, help="write the results there, too")
    options.add_argument("--packages", default=",".join(PACKAGES))
    return options


@dataclass(frozen=True)
class Row:
    """One line of the table: times are in microseconds, `aim` as in the design."""

    name: str
    measure: Measure
    count: int
    aim: float | None = None
    method: str = "fork"


ROWS: list[Row] = []


def row(
    name: str, count: int, aim: float | None = None, method: str = "fork"
) -> Callable[[Measure], Measure]:
    def register(measure: Measure) -> Measure:
        ROWS.append(Row(name, measure, count, aim, method))
        return measure

    return register


class Partner:
    """A child that runs `job(*args)` and has begun when the constructor returns."""

    def __init__(self, context: Any, job: Callable[..., None], *args: Any) -> None:
        reader, writer = os.pipe()
        self.process = context.Process(target=self._run, args=(writer, job, args))
        self.process.start()
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)

    @staticmethod
    def _run(writer: int, job: Callable[..., None], args: tuple[Any, ...]) -> None:
        os.write(writer, b"x")
        os.close(writer)
        job(*args)

    def join(self) -> None:
        self.process.join()
        if self.process.exitcode != 0:
            raise SystemExit(f"a child failed: {self.process}")


def timed(count: int, operation: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        operation()
    return (time.perf_counter() - begin) / count


def sparse(count: int, operation: Callable[[], object]) -> float:
    """The time of the operation alone, with a pause before each."""
    total = 0.0
    for _ in range(count):
        time.sleep(PAUSE)
        begin = time.perf_counter()
        operation()
        total += time.perf_counter() - begin
    return total / count


def pss(pids: list[int]) -> int:
    """Memory of these processes in bytes, shared pages counted by halves, thirds, ..."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


# -- Flow -------------------------------------------------------------------------------


class Gate:
    """Holds children back until it is opened, so that all of their work is timed."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def wait(self) -> None:
        os.read(self._reader, 1)

    def open(self, children: int) -> None:
        os.write(self._writer, b"x" * children)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def time_flow(children: list[Partner], gate: Gate, count: int, take: Any) -> float:
    """Seconds per message, from the first put to the last get."""
    begin = time.perf_counter()
    gate.open(len(children))
    for _ in range(count):
        take()
    spent = (time.perf_counter() - begin) / count
    for child in children:
        child.join()
    gate.close()
    return spent


def put_all(gate: Gate, queue: Any, item: object, count: int) -> None:
    gate.wait()
    for _ in range(count):
        queue.put(item)


def flow(context: Any, count: int, item: object, producers: int) -> float:
    queue, gate = context.Queue(), Gate()
    share = count // producers
    children = [
        Partner(context, put_all, gate, queue, item, share) for _ in range(producers)
    ]
    return time_flow(children, gate, share * producers, queue.get)


@row("queue flow, small int, 1 to 1", 50_000, 0.15)
def queue_flow_int(context: Any, count: int) -> float:
    return flow(context, count, 7, 1)


@row("queue flow, small int, 4 to 1", 50_000, 0.2)
def queue_flow_four(context: Any, count: int) -> float:
    return flow(context, count, 7, 4)


@row("queue flow, small dict, 1 to 1", 50_000, 0.5)
def queue_flow_dict(context: Any, count: int) -> float:
    return flow(context, count, SMALL_DICT, 1)


def send_all(gate: Gate, connection: Any, item: object, count: int) -> None:
    gate.wait()
    for _ in range(count):
        connection.send(item)


@row("pipe flow, small int", 50_000)
def pipe_flow(context: Any, count: int) -> float:
    reader, writer = context.Pipe(duplex=False)
    gate = Gate()
    child = Partner(context, send_all, gate, writer, 7, count)
    return time_flow([child], gate, count, reader.recv)


# -- Round trips ------------------------------------------------------------------------


def echo_queue(there: Any, back: Any, count: int) -> None:
    for _ in range(count):
        back.put(there.get())


def queue_trip(
    context: Any, count: int, measure: Callable[..., float], item: object
) -> float:
    there, back = context.Queue(), context.Queue()
    child = Partner(context, echo_queue, there, back, count)

    def trip() -> None:
        there.put(item)
        back.get()

    spent = measure(count, trip)
    child.join()
    return spent


def echo_pipe(connection: Any, count: int) -> None:
    for _ in range(count):
        connection.send(connection.recv())


def pipe_trip(
    context: Any, count: int, measure: Callable[..., float], item: object
) -> float:
    ours, theirs = context.Pipe()
    child = Partner(context, echo_pipe, theirs, count)

    def trip() -> None:
        ours.send(item)
        ours.recv()

    spent = measure(count, trip)
    child.join()
    return spent


def echo_event(there: Any, back: Any, count: int) -> None:
    for _ in range(count):
        there.wait()
        there.clear()
        back.set()


def event_trip(context: Any, count: int, measure: Callable[..., float]) -> float:
    there, back = context.Event(), context.Event()
    child = Partner(context, echo_event, there, back, count)

    def trip() -> None:
        there.set()
        back.wait()
        back.clear()

    spent = measure(count, trip)
    child.join()
    return spent


@row("queue there and back, small int", 5_000, 1.0)
def queue_trip_int(context: Any, count: int) -> float:
    return queue_trip(context, count, timed, 7)


@row("pipe there and back, small int", 5_000, 1.0)
def pipe_trip_int(context: Any, count: int) -> float:
    return pipe_trip(context, count, timed, 7)


@row("event there and back", 5_000, 1.0)
def event_trip_dense(context: Any, count: int) -> float:
    return event_trip(context, count, timed)


@row("queue there and back, 300 us apart", 500)
def queue_trip_sparse(context: Any, count: int) -> float:
    return queue_trip(context, count, sparse, 7)


@row("pipe there and back, 300 us apart", 500)
def pipe_trip_sparse(context: Any, count: int) -> float:
    return pipe_trip(context, count, sparse, 7)


@row("event there and back, 300 us apart", 500)
def event_trip_sparse(context: Any, count: int) -> float:
    return event_trip(context, count, sparse)


# -- Large messages ---------------------------------------------------------------------


def acknowledge_queue(there: Any, back: Any, count: int) -> None:
    for _ in range(count):
        back.put(len(there.get()))


def large_queue(context: Any, count: int, item: Any) -> float:
    there, back = context.Queue(), context.Queue()
    child = Partner(context, acknowledge_queue, there, back, count + 1)

    def trip() -> None:
        there.put(item)
        back.get()

    trip()  # the first touches fresh pages
    spent = timed(count, trip)
    child.join()
    return spent


def acknowledge_pipe(connection: Any, count: int) -> None:
    for _ in range(count):
        connection.send(len(connection.recv()))


def large_array() -> Any:
    try:
        import numpy as np
    except ImportError:
        return bytearray(BIG)
    return np.ones(BIG // 8)


@row("queue, 100 MB bytes", 2)
def queue_bytes(context: Any, count: int) -> float:
    return large_queue(context, count, bytes(BIG))


@row("queue, 100 MB array", 2, 12_000)
def queue_array(context: Any, count: int) -> float:
    return large_queue(context, count, large_array())


@row("pipe, 100 MB array", 2, 12_000)
def pipe_array(context: Any, count: int) -> float:
    ours, theirs = context.Pipe()
    item = large_array()
    child = Partner(context, acknowledge_pipe, theirs, count + 1)

    def trip() -> None:
        ours.send(item)
        ours.recv()

    trip()
    spent = timed(count, trip)
    child.join()
    return spent


@row("pipe, 100 MB send_bytes", 2)
def pipe_bytes(context: Any, count: int) -> float:
    reader, writer = context.Pipe(duplex=False)
    back, reply = context.Pipe(duplex=False)
    item = bytes(BIG)
    child = Partner(context, take_bytes, reader, reply, count + 1)

    def trip() -> None:
        writer.send_bytes(item)
        back.recv()

    trip()
    spent = timed(count, trip)
    child.join()
    return spent


def take_bytes(reader: Any, reply: Any, count: int) -> None:
    for _ in range(count):
        reply.send(len(reader.recv_bytes()))


# -- Locks and values -------------------------------------------------------------------


def lock_many(lock: Any, count: int) -> None:
    for _ in range(count):
        with lock:
            pass


@row("lock, uncontended", 200_000, 0.05)
def lock_uncontended(context: Any, count: int) -> float:
    lock = context.Lock()
    acquire, release = lock.acquire, lock.release

    def both() -> None:
        acquire()
        release()

    return timed(count, both)


@row("lock, contended by 2", 100_000, 0.2)
def lock_contended(context: Any, count: int) -> float:
    lock = context.Lock()
    half = count // 2
    child = Partner(context, lock_many, lock, half)
    begin = time.perf_counter()
    lock_many(lock, half)
    child.join()
    return (time.perf_counter() - begin) / count


@row("semaphore, uncontended", 200_000)
def semaphore_uncontended(context: Any, count: int) -> float:
    semaphore = context.Semaphore(1)

    def both() -> None:
        semaphore.acquire()
        semaphore.release()

    return timed(count, both)


@row("event, is_set", 100_000)
def event_is_set(context: Any, count: int) -> float:
    return timed(count, context.Event().is_set)


@row("value, += under its lock", 50_000)
def value_add(context: Any, count: int) -> float:
    value = context.Value("q", 0)

    def add() -> None:
        with value.get_lock():
            value.value += 1

    return timed(count, add)


@row("value, read", 100_000)
def value_read(context: Any, count: int) -> float:
    value = context.Value("q", 0)
    return timed(count, lambda: value.value)


# -- Making -----------------------------------------------------------------------------


@row("make a Lock", 2_000, 0.5)
def make_lock(context: Any, count: int) -> float:
    return timed(count, context.Lock)


@row("make a Queue", 1_000, 5.0)
def make_queue(context: Any, count: int) -> float:
    return timed(count, context.Queue)


@row("make a Pipe", 1_000)
def make_pipe(context: Any, count: int) -> float:
    def make() -> None:
        for end in context.Pipe():
            end.close()

    return timed(count, make)


# -- Processes and import ---------------------------------------------------------------


def nothing() -> None:
    pass


def start_and_join(context: Any, count: int) -> float:
    def once() -> None:
        process = context.Process(target=nothing)
        process.start()
        process.join()

    once()  # the forkserver itself
    return timed(count, once)


def start_beside_memory(context: Any, count: int) -> float:
    ballast = bytearray(b"x") * (256 << 20)
    spent = start_and_join(context, count)
    del ballast
    return spent


for _method, _count, _aim in (
    ("fork", 100, 700),
    ("forkserver", 50, 100),
    ("spawn", 5, 30_000),
):
    row(f"start + join, {_method}", _count, _aim, _method)(start_and_join)
for _method, _count, _aim in (("fork", 20, 8_500), ("forkserver", 20, 100)):
    row(f"start + join, {_method}, 256 MB", _count, _aim, _method)(start_beside_memory)

# -- Memory with a name -----------------------------------------------------------------


def named_block(context: Any, name: str | None = None, size: int = 0) -> Any:
    package = type(context).__module__.partition(".")[0]
    module = importlib.import_module(f"{package}.shared_memory")
    return module.SharedMemory(name, create=name is None, size=size)


def make_and_unlink(context: Any, count: int, size: int) -> float:
    def once() -> None:
        block = named_block(context, size=size)
        block.buf[:] = bytes(size)  # else a page that nobody touches costs nothing
        block.close()
        block.unlink()

    once()  # the standard library's tracker itself
    return timed(count, once)


@row("named memory, 4 KiB: make, fill, unlink", 2_000)
def name_small(context: Any, count: int) -> float:
    return make_and_unlink(context, count, 4 << 10)


@row("named memory, 16 MiB: make, fill, unlink", 20)
def name_large(context: Any, count: int) -> float:
    return make_and_unlink(context, count, 16 << 20)


@row("named memory: attach, close", 5_000)
def name_attach(context: Any, count: int) -> float:
    block = named_block(context, size=4096)

    def once() -> None:
        named_block(context, block.name).close()

    spent = timed(count, once)
    block.close()
    block.unlink()
    return spent


IMPORT = (
    "import time; begin = time.perf_counter(); from {} import Pool, Process, Queue; "
    "print(time.perf_counter() - begin)"
)


@row("import Pool, Queue, Process", 5, 8_000)
def import_time(context: Any, count: int) -> float:
    package = type(context).__module__.partition(".")[0]
    command = [sys.executable, "-c", IMPORT.format(package)]
    times = [
        float(subprocess.run(command, capture_output=True, check=True).stdout)
        for _ in range(count)
    ]
    return min(times)
