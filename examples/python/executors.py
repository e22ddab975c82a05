# SPDX-License-Identifier: MIT
"""Futures over worker processes, by themselves and in asyncio."""

import asyncio
import os
import signal

import sidestep
from sidestep.pool import WorkerLost


def square(number):
    return number * number


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def by_futures(executor):
    lost, found = executor.submit(die), executor.submit(square, 7)
    print(found.result())
    try:
        lost.result()
    except WorkerLost as error:
        print("signal", -error.exitcode)
    print(list(executor.map(square, range(5))))


def who():
    return sidestep.pool.current_worker().name


def with_options():
    with sidestep.ProcessPoolExecutor(
        2, name="images", memory_limit=(400 << 20, 800 << 20), threads=1, log=True
    ) as executor:
        print(executor.submit(who).result()[:6])


async def in_asyncio(executor):
    loop = asyncio.get_running_loop()
    calls = [loop.run_in_executor(executor, square, number) for number in range(5)]
    print(await asyncio.gather(*calls))


def main():
    with sidestep.ProcessPoolExecutor(2) as executor:
        by_futures(executor)
        asyncio.run(in_asyncio(executor))
    with_options()


if __name__ == "__main__":
    main()
