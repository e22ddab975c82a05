#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PEP 371's benchmarks, with sidestep beside what the PEP compared.

Each workload runs linearly, in threads, in processes of the standard library and in
processes of sidestep, with 1, 2, 4 and 8 workers. A run starts the workers, lets each do
the whole job once and joins them; the best of the rounds counts, as in the PEP. Rounds
take turns between the ways, so that a busy moment of the machine hits them all.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import platform
import queue
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

WORKLOADS = (
    "empty_func", "fibonacci", "crunch_primes", "file_io", "url_get", "queue_flow",
)  # fmt: skip
WORKERS = (1, 2, 4, 8)
WAYS = ("linear", "threads", "stdlib", "sidestep")
QUICK_SECONDS = 7.0

Job = Callable[..., None]


def run_linear(job: Job, args: tuple[Any, ...], count: int) -> None:
    for _ in range(count):
        job(*args)


def run_workers(
    make: Callable[..., Any], job: Job, args: tuple[Any, ...], count: int
) -> None:
    workers = [make(target=job, args=args) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = [worker for worker in workers if getattr(worker, "exitcode", 0) != 0]
    if failed:
        raise SystemExit(f"workers failed: {failed}")


class Way:
    """One way to run `count` workers."""

    def __init__(self, name: str, method: str | None) -> None:
        self.name = name
        package: Any = None
        if name in {"stdlib", "sidestep"}:
            package = importlib.import_module(
                "multiprocessing" if name == "stdlib" else "sidestep"
            )
            package = package.get_context(method)
        self._package = package

    def time(self, workload: ModuleType, count: int) -> float:
        args = (self._make_queue(),) if workload.__name__ == "queue_flow" else ()
        begin = time.perf_counter()
        if self.name == "linear":
            run_linear(workload.work, args, count)
        elif self.name == "threads":
            run_workers(threading.Thread, workload.work, args, count)
        else:
            run_workers(self._package.Process, workload.work, args, count)
        return time.perf_counter() - begin

    def _make_queue(self) -> Any:
        return self._package.Queue() if self._package else queue.Queue()


def best_times(
    workload: ModuleType,
    ways: list[Way],
    workers: Iterable[int],
    rounds: int,
    seconds: float,
) -> dict[tuple[str, int], float]:
    """Seconds of the best round by way and number of workers."""
    best: dict[tuple[str, int], float] = {}
    end = time.monotonic() + seconds
    for number in range(rounds):
        if number > 0 and time.monotonic() > end:
            break
        for count in workers:
            for way in ways:
                spent = way.time(workload, count)
                key = way.name, count
                best[key] = min(spent, best.get(key, spent))
    return best


def print_table(
    name: str,
    workload: ModuleType,
    ways: list[Way],
    workers: list[int],
    best: dict[tuple[str, int], float],
    figures: dict[str, list[float]],
) -> None:
    print(f"\n{name}: {(workload.__doc__ or '').splitlines()[0]}")
    here = "".join(f"{way.name:>11}" for way in ways)
    print(f"  workers{here}   | PEP: linear    threads  processes")
    for count in workers:
        line = "".join(f"{best[way.name, count]:11.6f}" for way in ways)
        there = ""
        if count in WORKERS:
            column = WORKERS.index(count)
            there = "".join(
                f"{figures[way][column]:11.6f}"
                for way in ("linear", "threads", "processes")
            )
        print(f"  {count:7}{line}   |{there}", flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []], metavar="WORKLOAD",
                        help=f"of {', '.join(WORKLOADS)}; all by default")  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=100, help="at most (100, as in the PEP)"
    )
    parser.add_argument("--seconds", type=float, default=60.0,
                        help="no new round of a workload after this many (60)")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help=f"--seconds {QUICK_SECONDS:.0f}: about a minute in all")  # fmt: skip
    parser.add_argument(
        "--workers", default="1,2,4,8", help="numbers of workers (1,2,4,8)"
    )
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {','.join(WAYS)}")
    parser.add_argument(
        "--start-method", help="of the processes (the running Python's default)"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = parse(argv)
    here = Path(__file__).parent
    figures = tomllib.loads((here / "figures.toml").read_text())
    ways = [Way(name, options.start_method) for name in options.ways.split(",")]
    workers = [int(count) for count in options.workers.split(",")]
    seconds = QUICK_SECONDS if options.quick else options.seconds
    method = options.start_method or multiprocessing.get_start_method()

    print(
        f"PEP 371's benchmarks: seconds, best of up to {options.rounds} rounds. "
        f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} CPUs, {method}."
    )
    print(f"Source of the PEP's figures (2008, 4 cores): {figures_source()}")
    for name in options.workloads or WORKLOADS:
        workload = importlib.import_module(name)
        with getattr(workload, "surroundings", contextlib.nullcontext)():
            best = best_times(workload, ways, workers, options.rounds, seconds)
        print_table(name, workload, ways, workers, best, figures[name])
    return 0


def figures_source() -> str:
    return 'https://peps.python.org/pep-0371/, "Performance Comparison"'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
