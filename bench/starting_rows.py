# SPDX-License-Identifier: MIT
"""The measurements of bench/starting.py: each takes a context and returns seconds per start.

A context is `multiprocessing.get_context(...)` or sidestep's. The fork server of either
imports this module beforehand, and targets are found here, so that what is measured is
the start and not an import.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import ipc
import rows

BALLAST = 1 << 30
COUNTS = (1, 2, 4, 8, 16, 32)
APART = 0.01
ROWS: list[rows.Row] = []


def nothing() -> None:
    """The target."""


def tell_time(path: str) -> None:
    """The target whose first line counts."""
    now = time.perf_counter()
    with open(path, "w", encoding="ascii") as file:
        file.write(repr(now))


def wait_for_warm(context: Any, count: int) -> None:
    """Let the fork server have children ready; the other package's gets a pause."""
    time.sleep(APART)
    if type(context).__module__.startswith("sidestep"):
        from sidestep import forkserver

        while forkserver.statistics().get("coming", 0) > 0:
            time.sleep(APART / 10)


def start_and_join(context: Any, **options: bool) -> None:
    process = context.Process(target=nothing)
    process.start()
    process.join(**options)


def timed(context: Any, count: int, apart: bool, **options: bool) -> float:
    if not type(context).__module__.startswith("sidestep"):
        options = {}
    for _ in range(3):
        start_and_join(context)
    total = 0.0
    for _ in range(count):
        if apart:
            wait_for_warm(context, 1)
        begin = time.perf_counter()
        start_and_join(context, **options)
        total += time.perf_counter() - begin
    return total / count


def in_a_row(context: Any, count: int) -> float:
    return timed(context, count, apart=False)


def apart(context: Any, count: int) -> float:
    return timed(context, count, apart=True)


def apart_gone(context: Any, count: int) -> float:
    return timed(context, count, apart=True, gone=True)


def first_line(context: Any, count: int) -> float:
    start_and_join(context)
    with tempfile.TemporaryDirectory() as folder:
        total = 0.0
        for i in range(count):
            path = f"{folder}/{i}"
            wait_for_warm(context, 1)
            process = context.Process(target=tell_time, args=(path,))
            begin = time.perf_counter()
            process.start()
            process.join()
            with open(path, encoding="ascii") as file:
                total += float(file.read()) - begin
    return total / count


def with_ballast(measure: rows.Measure) -> rows.Measure:
    def measured(context: Any, count: int) -> float:
        ballast = bytearray(b"x") * BALLAST
        spent = measure(context, count)
        del ballast
        return spent

    return measured


def pool_of_eight(context: Any, count: int) -> float:
    """From the constructor to the first answer of a pool."""
    start_and_join(context)
    total = 0.0
    for _ in range(count):
        wait_for_warm(context, 8)
        begin = time.perf_counter()
        with context.Pool(8) as pool:
            pool.apply(nothing)
            total += time.perf_counter() - begin
    return total / count


def add(
    name: str, measure: rows.Measure, count: int, aim: float | None, method: str
) -> None:
    ROWS.append(rows.Row(f"{method}: {name}", measure, count, aim, method))


add("joined, apart", apart, 50, 100, "forkserver")
add("joined, in a row", in_a_row, 100, 1_000, "forkserver")
add("gone, apart", apart_gone, 50, 550, "forkserver")
add("first line, apart", first_line, 50, 50, "forkserver")
add("joined, apart, 1 GB", with_ballast(apart), 50, 100, "forkserver")
add("joined, in a row, 1 GB", with_ballast(in_a_row), 50, 1_000, "forkserver")
add("a pool of 8", pool_of_eight, 5, 15_000, "forkserver")
add("joined", in_a_row, 100, 800, "fork")
add("joined, 1 GB", with_ballast(in_a_row), 5, None, "fork")
add("joined", in_a_row, 5, 30_000, "spawn")
add("joined, 1 GB", with_ballast(in_a_row), 5, 30_000, "spawn")


# -- Workers that do nothing ------------------------------------------------------------


def run_workers(make: Callable[[], Any], count: int) -> float:
    workers = [make() for _ in range(count)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - begin


def threads() -> Any:
    return threading.Thread(target=nothing)


def contenders(packages: list[str]) -> dict[str, tuple[Callable[[], Any], Any, bool]]:
    """How to make a worker, its context, and whether it waits for warm children."""
    found: dict[str, tuple[Callable[[], Any], Any, bool]] = {
        "threads": (threads, None, False)
    }
    for package in packages:
        for method in ("fork", "forkserver"):
            context = importlib.import_module(package).get_context(method)

            def make(context: Any = context) -> Any:
                return context.Process(target=nothing)

            name = f"{package[:8]} {method}"
            found[name] = (make, context, False)
            if (package, method) == ("sidestep", "forkserver"):
                found[f"{name}, warm"] = (make, context, True)
    return found


def table(packages: list[str], rounds: int) -> dict[str, dict[int, float]]:
    """Best of the rounds in microseconds per worker."""
    print(f"\n{'microseconds per worker that does nothing':36}", end="")
    print("".join(f"{count:>9}" for count in COUNTS))
    results: dict[str, dict[int, float]] = {}
    for name, (make, context, is_warm) in contenders(packages).items():
        results[name] = {}
        for count in COUNTS:
            times = []
            for i in range(rounds + 2):
                if is_warm:
                    wait_for_warm(context, count)
                spent = run_workers(make, count)
                if i >= 2:
                    times.append(spent / count * 1e6)
            results[name][count] = statistics.median(times)
        cells = "".join(f"{value:9.0f}" for value in results[name].values())
        print(f"{name:36}{cells}", flush=True)
    return results


def main(doc: str | None) -> int:
    options = rows.parser(doc, "a fifth").parse_args()
    rounds, scale = (3, 0.2) if options.quick else (options.rounds, 1.0)
    packages = options.packages.split(",")
    for package in packages:
        context = importlib.import_module(package).get_context("forkserver")
        context.set_forkserver_preload([__name__])
    cpus = len(os.sched_getaffinity(0))
    print(
        f"microseconds, {rounds} rounds; Python {platform.python_version()}, {cpus} CPUs"
    )
    print(f"{'':36} {'multiprocessing':>23} {'sidestep':>23}")
    print(f"{'':36} {'best':>11} {'median':>11} {'best':>11} {'median':>11} "
          f"{'faster':>9} {'aim':>9}")  # fmt: skip
    results: dict[str, Any] = {}
    for row in ROWS:
        if re.search(options.only, row.name):
            results[row.name] = ipc.measure(row, packages, rounds, scale)
            print(ipc.line(row, results[row.name]), flush=True)
    workers = {}
    if re.search(options.only, "workers"):
        workers = table(packages, rounds)
    if options.json:
        about = {"python": platform.python_version(), "cpus": cpus}
        found = {**about, "unit": "microseconds", "rows": results, "workers": workers}
        options.json.write_text(json.dumps(found, indent=1))
    return 0
