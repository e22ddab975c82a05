#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What messages cost, against the standard library in the same run.

Each line is measured on both packages in turns, several rounds; the table shows the best
and the median of the rounds, and how many times better the best is than the standard
library's. The aims are ratios. Lines that the standard library has nothing for show ours
alone. Memory is PSS over all processes, above what it was at the start.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import rows

MB = 1_000_000
MICROSECONDS, MILLISECONDS, MEGABYTES = "us", "ms", "MB"
FACTORS = {MICROSECONDS: 1e6, MILLISECONDS: 1e3, MEGABYTES: 1.0}

Measure = Callable[[Any, int], float]


class UnavailableError(Exception):
    """This line needs something that is not installed here."""


@dataclass(frozen=True)
class Line:
    """A line of the table; `aim` is how many times better, or the most in its unit."""

    name: str
    measure: Measure
    count: int
    unit: str = MICROSECONDS
    aim: float | None = None
    ours_only: bool = False


LINES: list[Line] = []


def line(name: str, count: int, **others: Any) -> Callable[[Measure], Measure]:
    def register(measure: Measure) -> Measure:
        LINES.append(Line(name, measure, count, **others))
        return measure

    return register


def need(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(name) from error


# -- One way, as fast as the reader takes them ------------------------------------------


def flow(context: Any, count: int, item: object, bound: int = 0) -> float:
    queue, gate = context.Queue(bound), rows.Gate()
    child = rows.Partner(context, rows.put_all, gate, queue, item, count)
    return rows.time_flow([child], gate, count, queue.get)


def flow_pipe(context: Any, count: int, item: object) -> float:
    reader, writer = context.Pipe(duplex=False)
    gate = rows.Gate()
    child = rows.Partner(context, rows.send_all, gate, writer, item, count)
    return rows.time_flow([child], gate, count, reader.recv)


NESTED = [
    {"id": n, "name": f"item {n}", "value": n / 7, "tags": ["a", "b"], "next": None}
    for n in range(1000)
]


@line("queue, int", 50_000)
def queue_int(context: Any, count: int) -> float:
    return flow(context, count, 7)


@line("queue, str of 50", 50_000)
def queue_str(context: Any, count: int) -> float:
    return flow(context, count, "x" * 50)


@line("queue, small dict", 50_000, aim=8)
def queue_dict(context: Any, count: int) -> float:
    return flow(context, count, rows.SMALL_DICT)


@line("queue, list of 1,000 dicts", 300)
def queue_nested(context: Any, count: int) -> float:
    return flow(context, count, NESTED, 8)


@line("queue, 1 MB bytes", 500)
def queue_bytes(context: Any, count: int) -> float:
    return flow(context, count, bytes(MB), 4)


@line("queue, 1 MB bytes in a dict", 500)
def queue_bytes_in_dict(context: Any, count: int) -> float:
    return flow(context, count, {"id": 7, "data": bytes(MB)}, 4)


@line("queue, 10 KB array", 10_000)
def queue_array_small(context: Any, count: int) -> float:
    return flow(context, count, need("numpy").ones(10_000, "u1"), 64)


@line("queue, 1 MB array", 500, aim=15)
def queue_array(context: Any, count: int) -> float:
    return flow(context, count, need("numpy").ones(MB // 8), 4)


@line("pipe, 1 MB array", 500)
def pipe_array(context: Any, count: int) -> float:
    return flow_pipe(context, count, need("numpy").ones(MB // 8))


@line("queue, 16 arrays of 64 KB", 500)
def queue_arrays(context: Any, count: int) -> float:
    np = need("numpy")
    return flow(context, count, [np.ones(8000) for _ in range(16)], 4)


@line("queue, DataFrame of 8 MB", 50)
def queue_frame(context: Any, count: int) -> float:
    np, pd = need("numpy"), need("pandas")
    frame = pd.DataFrame({name: np.ones(100_000) for name in "abcdefghij"})
    return flow(context, count, frame, 4)


@line("queue, torch tensor of 8 MB", 50)
def queue_tensor(context: Any, count: int) -> float:
    torch = need("torch")
    multiprocessing = need("torch.multiprocessing")
    if context.Queue.__module__.startswith("multiprocessing"):
        context = multiprocessing.get_context("fork")  # what its users have today
    queue, back = context.Queue(4), context.Queue()
    gate = rows.Gate()
    child = rows.Partner(
        context, put_and_stay, gate, queue, back, torch.ones(2_000_000), count
    )
    begin = time.perf_counter()
    gate.open(1)
    for _ in range(count):
        queue.get()
    spent = (time.perf_counter() - begin) / count
    back.put(None)  # a tensor's memory must not go with its sender
    child.join()
    return spent


def put_and_stay(gate: Any, queue: Any, back: Any, item: object, count: int) -> None:
    rows.put_all(gate, queue, item, count)
    back.get()


# -- There, and word that it came -------------------------------------------------------


@line("queue, 100 MB array", 3, unit=MILLISECONDS, aim=25)
def queue_array_large(context: Any, count: int) -> float:
    return rows.large_queue(context, count, need("numpy").ones(100 * MB // 8))


@line("pipe, 100 MB array", 3, unit=MILLISECONDS, aim=25)
def pipe_array_large(context: Any, count: int) -> float:
    need("numpy")
    return rows.pipe_array(context, count)


# -- What the standard library does not do ----------------------------------------------


@line("queue, a Lock", 5_000, ours_only=True)
def queue_lock(context: Any, count: int) -> float:
    queue, lock = context.Queue(), context.Lock()

    def there_and_back() -> None:
        queue.put(lock)
        queue.get()

    try:
        return rows.timed(count, there_and_back)
    except RuntimeError as error:
        raise UnavailableError from error


def share_function() -> Callable[[Any], Any]:
    share: Callable[[Any], Any] | None = getattr(need("sidestep"), "share", None)
    if share is None:
        raise UnavailableError
    return share


def timed_share(make: Callable[[int], object], count: int) -> float:
    share = share_function()
    item = make(count)
    begin = time.perf_counter()
    share(item)
    return time.perf_counter() - begin


@line("share a list of 10,000,000", 10_000_000, unit=MILLISECONDS, ours_only=True)
def share_list(_context: Any, count: int) -> float:
    return timed_share(lambda count: list(range(count)), count)


@line("share a dict of 10,000,000", 10_000_000, unit=MILLISECONDS, ours_only=True)
def share_dict(_context: Any, count: int) -> float:
    return timed_share(lambda count: dict.fromkeys(range(count), 1.5), count)


# -- Memory -----------------------------------------------------------------------------


def pss(pids: list[int]) -> float:
    """Memory of these processes in MB."""
    return rows.pss(pids) / MB


@contextmanager
def watched(pids: list[int]) -> Iterator[list[float]]:
    """Sample the memory all the while, from a thread."""
    done = threading.Event()
    seen = [pss(pids)]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(pss(pids))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def put_arrays(ready: Any, gate: Any, queue: Any, count: int) -> None:
    item = need("numpy").ones(10 * MB // 8)
    ready.put(None)
    gate.wait()
    for _ in range(count):
        queue.put(item)
    ready.get()


@line("PSS, 10 MB arrays, depth 2", 100, unit=MEGABYTES, aim=60)
def memory_of_queue(context: Any, count: int) -> float:
    need("numpy")
    queue, ready, back = context.Queue(2), context.Queue(), context.Queue()
    gate = rows.Gate()

    class Both:
        put, get = ready.put, back.get

    child = rows.Partner(context, put_arrays, Both, gate, queue, count)
    ready.get()
    pids = [os.getpid(), child.process.pid]
    before = pss(pids)
    with watched(pids) as seen:
        gate.open(1)
        for _ in range(count):
            item = queue.get()
            item[::512].sum()  # touches each page
            seen.append(pss(pids))
    back.put(None)
    child.join()
    gate.close()
    return max(seen) - before


def look_at(seen: Any, there: Any, back: Any) -> None:
    item = there.get()
    assert item[len(item) // 2] is not None
    seen.put(None)
    back.get()


@line("PSS, shared dict, 8 processes", 10_000_000, unit=MEGABYTES, ours_only=True)
def memory_of_share(context: Any, count: int) -> float:
    item = share_function()(dict.fromkeys(range(count), 1.5))
    there, seen, back = context.Queue(), context.Queue(), context.Queue()
    children = [rows.Partner(context, look_at, seen, there, back) for _ in range(8)]
    pids = [os.getpid(), *(child.process.pid for child in children)]
    before = pss(pids)
    for _ in children:
        there.put(item)
    for _ in children:
        seen.get()
    grown = pss(pids) - before
    for _ in children:
        back.put(None)
    for child in children:
        child.join()
    return grown


# -- The table --------------------------------------------------------------------------


def measure_once(entry: Line, package: str, count: int) -> float:
    """In the unit of the line."""
    if entry.unit != MEGABYTES:
        context = importlib.import_module(package).get_context("fork")
        return entry.measure(context, count) * FACTORS[entry.unit]
    # In a process of its own: this one has memory that was used before.
    command = [sys.executable, __file__, "--alone", entry.name, package, str(count)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    if not told.strip():
        raise UnavailableError
    return float(told)


def measure_alone(name: str, package: str, count: int) -> None:
    entry = next(entry for entry in LINES if entry.name == name)
    context = importlib.import_module(package).get_context("fork")
    with suppress(UnavailableError):
        print(entry.measure(context, count))


def measure(
    entry: Line, packages: list[str], rounds: int, scale: float
) -> dict[str, Any]:
    """Best and median in the unit of the line, by package."""
    count = max(2, int(entry.count * scale))
    values: dict[str, list[float]] = {
        name: [] for name in packages if name == "sidestep" or not entry.ours_only
    }
    for _ in range(rounds):
        for name, found in values.items():
            found.append(measure_once(entry, name, count))
    return {
        name: {"min": min(found), "median": statistics.median(found)}
        for name, found in values.items()
        if found
    }


def show(entry: Line, result: dict[str, Any]) -> str:
    cells = [f"{entry.name:32} {entry.unit:2}"]
    for name in rows.PACKAGES:
        if name in result:
            cells.append(f"{result[name]['min']:11.2f} {result[name]['median']:11.2f}")
        else:
            cells.append(" " * 23)
    if len(result) == len(rows.PACKAGES):
        ours = max(result["sidestep"]["min"], 1e-9)
        cells.append(f"{result['multiprocessing']['min'] / ours:8.1f}x")
    else:
        cells.append(" " * 9)
    if entry.aim is not None:
        cells.append(
            f"{entry.aim:g} {'MB' if entry.unit == MEGABYTES else 'x'}".rjust(9)
        )
    return " ".join(cells).rstrip()


def parse() -> argparse.Namespace:
    parser = rows.parser(__doc__, "a tenth")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.alone:
        name, package, count = options.alone
        measure_alone(name, package, int(count))
        return 0
    rounds, scale = (3, 0.1) if options.quick else (options.rounds, 1.0)
    packages = options.packages.split(",")
    cpus = len(os.sched_getaffinity(0))
    print(f"{rounds} rounds; Python {platform.python_version()}, {cpus} CPUs")
    print(f"{'':35} {'multiprocessing':>23} {'sidestep':>23}")
    print(f"{'':35} {'best':>11} {'median':>11} {'best':>11} {'median':>11} "
          f"{'better':>9} {'aim':>9}")  # fmt: skip
    results = {}
    for entry in LINES:
        if not re.search(options.only, entry.name):
            continue
        try:
            results[entry.name] = measure(entry, packages, rounds, scale)
        except UnavailableError:
            print(f"{entry.name:32} {'-':2}", flush=True)
            continue
        print(show(entry, results[entry.name]), flush=True)
    if options.json:
        about = {"python": platform.python_version(), "cpus": cpus}
        units = {entry.name: entry.unit for entry in LINES}
        options.json.write_text(
            json.dumps({**about, "units": units, "rows": results}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
