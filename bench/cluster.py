#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a pool over an engine costs, against the engine itself in the same run.

    python bench/cluster.py executor | dask | ray
    mpiexec -n 3 python -m sidestep.mpi bench/cluster.py mpi

Two workers. Each line is measured on both in turns, several rounds: best and median. The
engine is used as its manual says: a function of one item is submitted, or mapped; a large
array is handed over by `scatter` or `put` where there is such a thing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import sidestep

WORKERS = 2
ARRAY = 64 << 20  # bytes


def nothing(x: object) -> None:
    """Be the smallest task."""


def total(array: Any) -> float:
    """Look at an argument: it must be there."""
    return float(array[0]) + float(array[-1])


def change(array: Any) -> float:
    """Write to an argument, which some engines hand out for reading only."""
    if not array.flags.writeable:
        array = array.copy()
    array[0] = 1.0
    return total(array)


class Bare:
    """An engine as it is, for any executor."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def call(self, func: Callable[..., Any], argument: Any) -> Any:
        return self.executor.submit(func, argument).result()

    def many(self, func: Callable[..., Any], items: Any) -> Any:
        return list(self.executor.map(func, items))

    send = call


class BareDask(Bare):
    def call(self, func: Callable[..., Any], argument: Any) -> Any:
        return self.executor.submit(func, argument, pure=False).result()

    def many(self, func: Callable[..., Any], items: Any) -> Any:
        return self.executor.gather(self.executor.map(func, items, pure=False))

    def send(self, func: Callable[..., Any], argument: Any) -> Any:
        sent = self.executor.scatter(argument, hash=False)
        return self.executor.submit(func, sent, pure=False).result()


class BareRay(Bare):
    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.remote = {func: ray.remote(func) for func in (nothing, total, change)}

    def call(self, func: Callable[..., Any], argument: Any) -> Any:
        return self.ray.get(self.remote[func].remote(argument))

    def many(self, func: Callable[..., Any], items: Any) -> Any:
        return self.ray.get([self.remote[func].remote(item) for item in items])

    def send(self, func: Callable[..., Any], argument: Any) -> Any:
        return self.call(func, self.ray.put(argument))


class Ours(Bare):
    """A pool over it."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def call(self, func: Callable[..., Any], argument: Any) -> Any:
        return self.pool.apply(func, (argument,))

    def many(self, func: Callable[..., Any], items: Any) -> Any:
        return self.pool.map(func, items)

    send = call


@contextlib.contextmanager
def engines(name: str) -> Iterator[tuple[Bare, Bare]]:
    """The engine bare, and a pool over the same one."""
    if name == "dask":
        from sidestep.cluster.dask import DaskBackend, start

        with start(WORKERS) as client:
            backend: Any = DaskBackend(client, direct=True)
            with sidestep.Pool(cluster=backend) as pool:
                yield BareDask(client), Ours(pool)
    elif name == "ray":
        from sidestep.cluster.ray import RayBackend

        backend = RayBackend(workers=WORKERS)
        with sidestep.Pool(cluster=backend) as pool:
            import ray

            yield BareRay(ray), Ours(pool)
    elif name == "mpi":
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor(WORKERS) as executor:
            with sidestep.Pool(cluster=executor) as pool:
                yield Bare(executor), Ours(pool)
    else:
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(WORKERS) as executor:
            with sidestep.Pool(cluster=executor) as pool:
                yield Bare(executor), Ours(pool)


def one_call(engine: Bare, count: int) -> float:
    """Milliseconds of a call that waits for its result."""
    began = time.perf_counter()
    for _ in range(count):
        engine.call(nothing, 1)
    return (time.perf_counter() - began) / count * 1e3


def tasks_per_second(engine: Bare, count: int) -> float:
    """Thousands of the smallest tasks in a second, through map."""
    began = time.perf_counter()
    engine.many(nothing, range(count))
    return count / (time.perf_counter() - began) / 1e3


def array(func: Callable[[Any], float], engine: Bare, count: int) -> float:
    """Milliseconds of a call with a large array."""
    data = np.ones(ARRAY // 8)
    began = time.perf_counter()
    for _ in range(count):
        assert engine.send(func, data) == 2.0
    return (time.perf_counter() - began) / count * 1e3


ROWS = (
    ("one call, ms", one_call, 50, min),
    ("tasks through map, 1000/s", tasks_per_second, 2000, max),
    ("64 MB argument, ms", functools.partial(array, total), 2, min),
    ("64 MB, written to, ms", functools.partial(array, change), 2, min),
)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("engine", choices=["executor", "dask", "mpi", "ray"])
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    with engines(chosen.engine) as both:
        print(f"{chosen.engine:28}{'bare':>18}{'sidestep':>18}{'ratio':>8}{'more':>8}")
        for label, measure, count, best in ROWS:
            for engine in both:
                measure(engine, max(count // 10, 1))
            seen: tuple[list[float], list[float]] = ([], [])
            for _ in range(chosen.rounds):
                for engine, times in zip(both, seen, strict=True):
                    time.sleep(0.3)  # Dask is still forgetting its last tasks
                    times.append(measure(engine, count))
            bare, ours = (best(times) for times in seen)
            cells = [f"{best(t):9.2f}{statistics.median(t):9.2f}" for t in seen]
            line = f"{label:28}{cells[0]:>18}{cells[1]:>18}"
            print(f"{line}{ours / bare:8.2f}{ours - bare:8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
