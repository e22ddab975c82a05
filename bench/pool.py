#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a pool's tasks cost, against the standard library in the same run.

Each line is measured on both packages in turns, several rounds; the table shows the best
and the median of the rounds, and how many times better the best is than the standard
library's. With `--peers` the best of other libraries stands beside them, where they are
installed and have such a method. Aims are ratios to the standard library, or a value in
the unit of the line. Memory is PSS over all processes.
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
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import rows

WORKERS = 2
SPIN = 0.001  # seconds of a task that is said to take a millisecond
MICROSECONDS, MILLISECONDS, PERCENT, IDEAL, BYTES = "us", "ms", "%", "xT", "B"
FACTORS = {MICROSECONDS: 1e6, MILLISECONDS: 1e3, PERCENT: 100.0, IDEAL: 1.0, BYTES: 1.0}


class UnavailableError(Exception):
    """This line needs something that is not installed, or that this library lacks."""


def need(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(name) from error


# -- Pools, each with the same few methods ----------------------------------------------


class Kit:
    """A pool of some library. What it has no method for stays as it is here."""

    def __init__(self, method: str, workers: int) -> None:
        self.method = method
        self.workers = workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def warm(self) -> None:
        """Have every worker work once."""
        for item in range(4 * self.workers):
            self.call(same, item)

    def map_one(self, func: Any, items: Any) -> Iterable[Any]:
        """Map with a task for each item."""
        raise UnavailableError

    def map(self, func: Any, items: Any) -> Iterable[Any]:
        """Map with chunks as the library chooses."""
        raise UnavailableError

    def starmap(self, func: Any, items: Any) -> Iterable[Any]:
        raise UnavailableError

    def imap(self, func: Any, items: Any) -> Iterable[Any]:
        raise UnavailableError

    def imap_unordered(self, func: Any, items: Any) -> Iterable[Any]:
        raise UnavailableError

    def call(self, func: Any, item: Any) -> Any:
        """One task, there and back."""
        raise UnavailableError

    def flood(self, func: Any, items: Any) -> None:
        """Submit all, one by one, then wait for each."""
        raise UnavailableError

    def executor(self) -> Any:
        raise UnavailableError


class PoolKit(Kit):
    package = ""

    def __init__(self, method: str, workers: int) -> None:
        super().__init__(method, workers)
        self.context = importlib.import_module(self.package).get_context(method)

    def __enter__(self) -> Self:
        self.pool = self.context.Pool(self.workers)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self.pool.join()

    def map_one(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.map(func, items, chunksize=1)  # type: ignore[no-any-return]

    def map(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.map(func, items)  # type: ignore[no-any-return]

    def starmap(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.starmap(func, items, chunksize=1)  # type: ignore[no-any-return]

    def imap(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.imap(func, items)  # type: ignore[no-any-return]

    def imap_unordered(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.imap_unordered(func, items)  # type: ignore[no-any-return]

    def call(self, func: Any, item: Any) -> Any:
        return self.pool.apply(func, (item,))

    def flood(self, func: Any, items: Any) -> None:
        for result in [self.pool.apply_async(func, (item,)) for item in items]:
            result.get()


class StandardKit(PoolKit):
    package = "multiprocessing"

    def executor(self) -> Any:
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(self.workers, self.context)


class SidestepKit(PoolKit):
    package = "sidestep"

    def executor(self) -> Any:
        futures = importlib.import_module("sidestep.futures")
        return futures.ProcessPoolExecutor(self.workers, self.context)


class ExecutorKit(Kit):
    """The standard library's executor, as a pool."""

    def __enter__(self) -> Self:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context(self.method)
        self.pool = ProcessPoolExecutor(self.workers, context)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def map_one(self, func: Any, items: Any) -> Iterable[Any]:
        return list(self.pool.map(func, items))

    def imap(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.map(func, items)

    def call(self, func: Any, item: Any) -> Any:
        return self.pool.submit(func, item).result()

    def flood(self, func: Any, items: Any) -> None:
        for future in [self.pool.submit(func, item) for item in items]:
            future.result()


class JoblibKit(Kit):
    def __enter__(self) -> Self:
        self.joblib = need("joblib")
        self.parallel = self.joblib.Parallel(self.workers).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.parallel.__exit__(None, None, None)
        need("joblib.externals.loky").get_reusable_executor().shutdown()

    def map_one(self, func: Any, items: Any) -> Iterable[Any]:
        self.parallel.batch_size = 1
        return self.map(func, items)

    def map(self, func: Any, items: Any) -> Iterable[Any]:
        delayed = self.joblib.delayed(func)
        return self.parallel(delayed(item) for item in items)  # type: ignore[no-any-return]

    def call(self, func: Any, item: Any) -> Any:
        return self.map(func, [item])


class MpireKit(Kit):
    def __enter__(self) -> Self:
        mpire = need("mpire")
        self.pool = mpire.WorkerPool(
            self.workers, start_method=self.method, keep_alive=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.stop_and_join()

    def warm(self) -> None:
        pass  # a pool that has had an apply does no map

    def map_one(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.map(func, items, chunk_size=1)  # type: ignore[no-any-return]

    def map(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.map(func, items)  # type: ignore[no-any-return]

    def imap(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.imap(func, items, chunk_size=1)  # type: ignore[no-any-return]

    def imap_unordered(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.imap_unordered(func, items, chunk_size=1)  # type: ignore[no-any-return]

    def call(self, func: Any, item: Any) -> Any:
        return self.pool.apply(func, (item,))

    def flood(self, func: Any, items: Any) -> None:
        for result in [self.pool.apply_async(func, (item,)) for item in items]:
            result.get()


class PebbleKit(Kit):
    def __enter__(self) -> Self:
        import multiprocessing

        context = multiprocessing.get_context(self.method)
        self.pool = need("pebble").ProcessPool(self.workers, context=context)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self.pool.join()

    def map_one(self, func: Any, items: Any) -> Iterable[Any]:
        return list(self.pool.map(func, items, chunksize=1).result())

    def imap(self, func: Any, items: Any) -> Iterable[Any]:
        return self.pool.map(func, items, chunksize=1).result()  # type: ignore[no-any-return]

    def call(self, func: Any, item: Any) -> Any:
        return self.pool.schedule(func, (item,)).result()

    def flood(self, func: Any, items: Any) -> None:
        for future in [self.pool.schedule(func, (item,)) for item in items]:
            future.result()


KITS: dict[str, type[Kit]] = {
    "multiprocessing": StandardKit,
    "sidestep": SidestepKit,
    "executor": ExecutorKit,
    "joblib": JoblibKit,
    "mpire": MpireKit,
    "pebble": PebbleKit,
}
PEERS = [name for name in KITS if name not in rows.PACKAGES]

# -- Tasks ------------------------------------------------------------------------------


def same(item: Any) -> Any:
    return item


def add(one: int, two: int) -> int:
    return one + two


def negative(array: Any) -> Any:
    return -array


def spin(seconds: float) -> None:
    """Use so much time of a CPU."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def wait_for(event: Any) -> None:
    event.wait()


# Events are shared by being there when workers are forked.
GATE: Any = None


def wait_at_gate(_: Any) -> None:
    GATE.wait()


# -- Lines ------------------------------------------------------------------------------

Measure = Callable[[type[Kit], str, int], float]


@dataclass(frozen=True)
class Line:
    """A line of the table; the aim is in its unit, or, for times, a ratio."""

    name: str
    measure: Measure
    count: int
    unit: str = MICROSECONDS
    aim: float | None = None
    method: str = "fork"
    alone: bool = False


LINES: list[Line] = []


def line(name: str, count: int, **others: Any) -> Callable[[Measure], Measure]:
    def register(measure: Measure) -> Measure:
        LINES.append(Line(name, measure, count, **others))
        return measure

    return register


def timed(
    kit: type[Kit], method: str, workers: int, count: int, use: Callable[[Any], object]
) -> float:
    """Seconds per task of what is done with a pool whose workers are there."""
    with kit(method, workers) as pool:
        pool.warm()
        begin = time.perf_counter()
        use(pool)
        return (time.perf_counter() - begin) / count


@line("map, chunksize 1", 20_000, aim=10)
def map_one(kit: type[Kit], method: str, count: int) -> float:
    return timed(kit, method, WORKERS, count, lambda p: p.map_one(same, range(count)))


@line("map, automatic chunks", 200_000, aim=2)
def map_chunks(kit: type[Kit], method: str, count: int) -> float:
    return timed(kit, method, WORKERS, count, lambda p: p.map(same, range(count)))


@line("map of a list, automatic chunks", 200_000, aim=2)
def map_list(kit: type[Kit], method: str, count: int) -> float:
    items = list(range(count))
    return timed(kit, method, WORKERS, count, lambda p: p.map(same, items))


@line("starmap, chunksize 1", 20_000)
def starmap(kit: type[Kit], method: str, count: int) -> float:
    items = [(i, i) for i in range(count)]
    return timed(kit, method, WORKERS, count, lambda p: p.starmap(add, items))


@line("apply, there and back", 3_000, aim=20)
def apply(kit: type[Kit], method: str, count: int) -> float:
    def use(pool: Kit) -> None:
        for item in range(count):
            pool.call(same, item)

    return timed(kit, method, WORKERS, count, use)


@line("apply_async, flood", 20_000, aim=10)
def flood(kit: type[Kit], method: str, count: int) -> float:
    return timed(kit, method, WORKERS, count, lambda p: p.flood(same, range(count)))


@line("imap", 20_000)
def imap(kit: type[Kit], method: str, count: int) -> float:
    return timed(
        kit, method, WORKERS, count, lambda p: list(p.imap(same, range(count)))
    )


@line("imap_unordered", 20_000, aim=10)
def imap_unordered(kit: type[Kit], method: str, count: int) -> float:
    return timed(
        kit,
        method,
        WORKERS,
        count,
        lambda p: list(p.imap_unordered(same, range(count))),
    )


@line("imap_unordered, generator", 20_000)
def imap_generator(kit: type[Kit], method: str, count: int) -> float:
    return timed(
        kit,
        method,
        WORKERS,
        count,
        lambda p: list(p.imap_unordered(same, (i for i in range(count)))),
    )


@line("8 workers, map, chunksize 1", 20_000, aim=1)
def many_workers(kit: type[Kit], method: str, count: int) -> float:
    return timed(kit, method, 8, count, lambda p: p.map_one(same, range(count)))


@line("8 workers, apply", 2_000, aim=1)
def many_workers_apply(kit: type[Kit], method: str, count: int) -> float:
    def use(pool: Kit) -> None:
        for item in range(count):
            pool.call(same, item)

    return timed(kit, method, 8, count, use)


@line("executor, submit flood", 10_000)
def executor(kit: type[Kit], method: str, count: int) -> float:
    with kit(method, WORKERS).executor() as pool:
        pool.submit(same, 1).result()
        begin = time.perf_counter()
        for future in [pool.submit(same, item) for item in range(count)]:
            future.result()
        return (time.perf_counter() - begin) / count


@line("executor, submit and back", 2_000)
def executor_back(kit: type[Kit], method: str, count: int) -> float:
    with kit(method, WORKERS).executor() as pool:
        pool.submit(same, 1).result()
        return rows.timed(count, lambda: pool.submit(same, 1).result())


@line("32 MB arrays, in and out", 16, unit=MILLISECONDS, aim=15)
def arrays(kit: type[Kit], method: str, count: int) -> float:
    array = need("numpy").ones(4 << 20)

    def use(pool: Kit) -> None:
        for result in pool.imap(negative, [array] * count):
            assert result[-1] == -1

    return timed(kit, method, WORKERS, count, use)


@line("32 MB arrays, in", 16, unit=MILLISECONDS)
def arrays_in(kit: type[Kit], method: str, count: int) -> float:
    array = need("numpy").ones(4 << 20)
    return timed(kit, method, WORKERS, count, lambda p: p.map_one(len, [array] * count))


def make_use_close(kit: type[Kit], method: str, count: int) -> float:
    def once() -> None:
        with kit(method, WORKERS) as pool:
            pool.call(same, 1)

    once()  # the forkserver itself
    return rows.timed(count, once)


for _method, _count in (("fork", 20), ("forkserver", 20), ("spawn", 3)):
    line(
        f"make, use, close, {_method}",
        _count,
        unit=MILLISECONDS,
        aim=3,
        method=_method,
    )(make_use_close)


@line("1 ms tasks on two workers: busy", 1_000, unit=PERCENT, aim=97)
def busy(kit: type[Kit], method: str, count: int) -> float:
    each = timed(kit, method, WORKERS, count, lambda p: p.map_one(spin, [SPIN] * count))
    return SPIN / (WORKERS * each)


@line("skewed tasks, no chunksize: to ideal", 400, unit=IDEAL, aim=1.1)
def skewed(kit: type[Kit], method: str, count: int) -> float:
    items = [SPIN / 2] * (count - count // 20) + [SPIN * 10] * (count // 20)
    each = timed(kit, method, WORKERS, count, lambda p: p.map(spin, items))
    return each * count / (sum(items) / WORKERS)


def jumping(kit: type[Kit], method: str, count: int, workers: int) -> float:
    """Lengths that jump near the end, in tasks that sleep: CPUs do not matter."""
    items = [SPIN / 2] * (count - count // 10) + [SPIN * 10] * (count // 10)
    each = timed(kit, method, workers, count, lambda p: p.map(time.sleep, items))
    return each * count / (sum(items) / workers)


def jumping_line(workers: int) -> None:
    @line(f"lengths jump, {workers} workers: to ideal", 3_200, unit=IDEAL, aim=1.1)
    def jump(kit: type[Kit], method: str, count: int) -> float:
        return jumping(kit, method, count, workers)


for number in (4, 8, 16):
    jumping_line(number)


def grown_by(
    kit: type[Kit], method: str, arguments: Callable[[], list[Any]], submit: Any
) -> float:
    """Bytes that tasks take while no worker takes them, besides their arguments."""
    global GATE
    if not issubclass(kit, PoolKit):
        raise UnavailableError
    GATE = importlib.import_module(kit.package).get_context(method).Event()
    with kit(method, WORKERS) as kitted:
        pool = kitted.pool
        # Made when the workers are there: memory of theirs that we write is copied.
        args = arguments()
        blocked = [pool.apply_async(wait_at_gate, (None,)) for _ in range(WORKERS)]
        pids = [os.getpid(), *(worker.pid for worker in pool._pool)]  # noqa: SLF001
        before = rows.pss(pids)
        kept = submit(pool, args)
        grown = rows.pss(pids) - before
        GATE.set()
        for result in blocked:
            result.get()
        del kept
    return grown / len(args)


@line("1,000,000 queued tasks, each", 1_000_000, unit=BYTES, aim=200, alone=True)
def queued(kit: type[Kit], method: str, count: int) -> float:
    def submit(pool: Any, arguments: list[Any]) -> None:
        for args in arguments:
            pool.apply_async(same, args)

    return grown_by(kit, method, lambda: [(i,) for i in range(count)], submit)


@line("the same as a map, chunksize 1", 1_000_000, unit=BYTES, aim=200, alone=True)
def queued_map(kit: type[Kit], method: str, count: int) -> float:
    def submit(pool: Any, items: list[Any]) -> Any:
        return pool.map_async(same, items, 1)

    return grown_by(kit, method, lambda: list(range(count)), submit)


# -- The table --------------------------------------------------------------------------


def measure_once(entry: Line, name: str, count: int) -> float:
    """In the unit of the line."""
    if not entry.alone:
        return entry.measure(KITS[name], entry.method, count) * FACTORS[entry.unit]
    # In a process of its own: this one has memory that was used before.
    command = [sys.executable, __file__, "--alone", entry.name, name, str(count)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    if not told.strip():
        raise UnavailableError
    return float(told) * FACTORS[entry.unit]


def measure_alone(name: str, package: str, count: int) -> None:
    entry = next(entry for entry in LINES if entry.name == name)
    with suppress(UnavailableError):
        print(entry.measure(KITS[package], entry.method, count))


def measure(
    entry: Line, packages: list[str], rounds: int, scale: float
) -> dict[str, dict[str, float]]:
    """Best and median in the unit of the line, by package."""
    count = max(2, int(entry.count * scale))
    values: dict[str, list[float]] = {}
    lacking: set[str] = set()
    for _ in range(1 if entry.alone else rounds):
        for name in packages:
            if name in lacking:
                continue
            try:
                values.setdefault(name, []).append(measure_once(entry, name, count))
            except UnavailableError:
                lacking.add(name)
                values.pop(name, None)
    best = max if entry.unit == PERCENT else min
    return {
        name: {"best": best(found), "median": statistics.median(found)}
        for name, found in values.items()
    }


def compare(entry: Line, result: dict[str, dict[str, float]]) -> str:
    if not all(name in result for name in rows.PACKAGES):
        return ""
    theirs, ours = (result[name]["best"] for name in rows.PACKAGES)
    if entry.unit == PERCENT:
        theirs, ours = ours, theirs
    return f"{theirs / max(ours, 1e-9):.1f}x"


def show(entry: Line, result: dict[str, dict[str, float]], peers: list[str]) -> str:
    cells = [f"{entry.name:36} {entry.unit:2}"]
    for name in rows.PACKAGES:
        if name in result:
            cells.append(f"{result[name]['best']:9.2f} {result[name]['median']:9.2f}")
        else:
            cells.append(" " * 19)
    cells.append(f"{compare(entry, result):>8}")
    ratio = entry.unit in {MICROSECONDS, MILLISECONDS}
    aim = "" if entry.aim is None else f"{entry.aim:g}{'x' if ratio else ' '}"
    cells.append(f"{aim:>6}")
    cells += [
        f"{result[name]['best']:9.2f}" if name in result else " " * 9 for name in peers
    ]
    return " ".join(cells).rstrip()


def parse() -> argparse.Namespace:
    parser = rows.parser(__doc__, "a tenth")
    parser.add_argument("--peers", action="store_true", help="other libraries, too")
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
    peers = PEERS if options.peers else []
    cpus = len(os.sched_getaffinity(0))
    print(f"{rounds} rounds; Python {platform.python_version()}, {cpus} CPUs")
    print(f"{'':39} {'multiprocessing':>19} {'sidestep':>19}")
    print(f"{'':39} {'best':>9} {'median':>9} {'best':>9} {'median':>9} "
          f"{'better':>8} {'aim':>6} {' '.join(f'{name:>9}' for name in peers)}")  # fmt: skip
    results = {}
    for entry in LINES:
        if not re.search(options.only, entry.name):
            continue
        results[entry.name] = measure(entry, [*packages, *peers], rounds, scale)
        print(show(entry, results[entry.name], peers), flush=True)
    if options.json:
        about = {"python": platform.python_version(), "cpus": cpus}
        units = {entry.name: entry.unit for entry in LINES}
        options.json.write_text(
            json.dumps({**about, "units": units, "rows": results}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
