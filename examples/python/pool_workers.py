# SPDX-License-Identifier: MIT
"""A pool's workers get limits, state, random numbers and a way to log.

Only sidestep has these options.
"""

import logging
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import sidestep
from sidestep.pool import (
    MemoryLimitExceeded,
    SoftTimeLimitExceeded,
    WorkerLost,
    current_worker,
)

MIB = 1 << 20

# Workers that are started anew when they are lost are better not forked from threads.
ctx = sidestep.get_context("forkserver")
log = logging.getLogger("example")


# start-soft
def digits_of_pi(wanted):
    """Return as many digits as there is time for."""
    digits = ""
    try:
        for digit in spigot():
            digits += str(digit)
            if len(digits) == wanted:
                break
    except SoftTimeLimitExceeded:
        pass
    return digits


def compute(pool):
    few, many = pool.map(digits_of_pi, [10, 10_000_000], soft_timeout=1)
    return few, many.startswith(few)
    # end-soft


def spigot():
    """Yield the digits of pi (Gibbons, Unbounded spigot algorithms, 2006)."""
    q, r, t, k, n, m = 1, 0, 1, 1, 3, 3
    while True:
        if 4 * q + r - t < n * t:
            yield n
            q, r, n = 10 * q, 10 * (r - n * t), 10 * (3 * q + r) // t - 10 * n
        else:
            r, n = (2 * q + r) * m, (q * (7 * k + 2) + r * m) // (t * m)
            q, t, k, m = q * k, t * m, k + 1, m + 2


def use(size):
    memory = bytearray(b"x") * size
    time.sleep(60)
    return len(memory)


def limit_memory():
    # start-memory
    with ctx.Pool(1, memory_limit=(200 * MIB, 400 * MIB)) as pool:
        try:
            pool.apply(use, (600 * MIB,))
        except MemoryLimitExceeded as error:
            print("over the limit:", error.size > error.limit)
    # end-memory


# start-state
def open_output(folder):
    worker = current_worker()
    worker.state["output"] = (folder / worker.name).open("w")


def write(line):
    print(line, file=current_worker().state["output"])


def close_output():
    current_worker().state["output"].close()


def write_lines(folder):
    pool = ctx.Pool(2, open_output, (folder,), name="writer", worker_exit=close_output)
    pool.map(write, range(100))
    pool.close()
    pool.join()
    # end-state
    files = sorted(folder.iterdir())
    lines = [line for file in files for line in file.read_text().splitlines()]
    print([file.name for file in files], len(lines), "lines")


def leave_when_idle():
    # start-idle
    with ctx.Pool(2, idle_timeout=0.1) as pool:
        print("sum:", sum(pool.map(abs, range(-5, 0))))
        while pool.statistics()["workers"] > 0:
            time.sleep(0.01)
        print("sum:", sum(pool.map(abs, range(-5, 0))))
    # end-idle


# start-seed
def throw_dice(_):
    generator = random.Random(current_worker().seed)
    return generator.randint(1, 6), random.randint(1, 6)


def throw_twice():
    throws = []
    for _ in range(2):
        with ctx.Pool(1, seed=2026) as pool:
            throws.append(pool.apply(throw_dice, (None,)))
    return throws[0] == throws[1]
    # end-seed


def log_and_crash(number):
    log.warning("about to crash with %s", number)
    os.kill(os.getpid(), signal.SIGKILL)


def hear_last_words():
    # start-log
    logging.basicConfig(stream=sys.stdout, format="%(processName)s: %(message)s")
    with ctx.Pool(1, name="worker", log=True) as pool:
        try:
            pool.apply(log_and_crash, (13,))
        except WorkerLost as error:
            print(type(error).__name__)
    # end-log


def main():
    with ctx.Pool(2) as pool:
        print("pi:", *compute(pool))
    limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder))
    leave_when_idle()
    print("the same dice:", throw_twice())
    hear_last_words()


if __name__ == "__main__":
    main()
