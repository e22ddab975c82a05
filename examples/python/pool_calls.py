# SPDX-License-Identifier: MIT
"""What calls of a pool can be told, one function for each: docs/howto/pool.rst."""

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import sidestep
from sidestep.pool import CancelledError, Pool


def square(number):
    return number * number


def nap(seconds):
    time.sleep(seconds)
    return seconds


def die_once(path):
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "the second worker did it"


def limits(pool):
    results = pool.imap(nap, [0.01, 60, 0.02], timeout=1)
    for _ in range(3):
        try:
            print("slept", next(results))
        except sidestep.TimeoutError as error:
            print(error)


def cancelling(pool):
    result = pool.apply_async(nap, (60,))
    result.cancel()
    try:
        result.get()
    except CancelledError:
        print("cancelled")


def again(pool):
    with TemporaryDirectory() as folder:
        print(pool.apply(die_once, (Path(folder) / "ran",), retries=1))


def urgent(pool):
    later = pool.map_async(square, range(1000), priority=2)
    print("first", pool.apply(square, (7,), priority=0))
    print("then", len(later.get()))


def endless(pool):
    squares = pool.imap(square, itertools.count(), buffersize=100)
    print(list(itertools.islice(squares, 5)))
    squares.cancel()


def progress(pool):
    def show(done, total):
        if done == total:
            print(f"all {total} done")

    pool.map(square, range(50), progress=show)


def in_asyncio(pool):
    async def main():
        print(await pool.amap(square, range(5)))
        async for number in pool.aimap(square, range(3)):
            print(number)
        try:
            await asyncio.wait_for(pool.aapply(nap, (60,)), 0.1)
        except TimeoutError:
            print("given up, and the worker is free again")

    asyncio.run(main())


def resizing(pool):
    pool.resize(3)
    print(pool.map(square, range(3)), "by three workers")


def main():
    with Pool(2) as pool:
        for show in (
            limits, cancelling, again, urgent, endless, progress, in_asyncio, resizing,
        ):  # fmt: skip
            show(pool)


if __name__ == "__main__":
    main()
