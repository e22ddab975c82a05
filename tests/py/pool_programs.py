# SPDX-License-Identifier: MIT
"""Whole programs with a pool, which tests end: pool_programs.py NAME START_METHOD.

Each prints the pids of its workers, once they have their tasks, and then waits.
"""

import os
import signal
import sys
import threading
import time

import sidestep

LONG = 1000


def tell_when_busy(pool, count):
    def tell():
        while pool.statistics()["taken"] < count:
            time.sleep(0.001)
        print(*[worker.pid for worker in pool._pool], flush=True)

    threading.Thread(target=tell).start()


def waits_by_apply(ctx):
    pool = ctx.Pool(4)
    tell_when_busy(pool, 1)
    pool.apply(time.sleep, (LONG,))


def waits_by_map(ctx):
    pool = ctx.Pool(4)
    tell_when_busy(pool, 4)
    pool.map(time.sleep, [LONG] * 4, 1)


def waits_by_imap(ctx):
    pool = ctx.Pool(4)
    tell_when_busy(pool, 4)
    for _ in pool.imap(time.sleep, [LONG] * 4):
        pass


def waits_by_get(ctx):
    pool = ctx.Pool(4)
    result = pool.map_async(time.sleep, [LONG] * 4, 1)
    tell_when_busy(pool, 4)
    result.get()


def waits_inside_with(ctx):
    with ctx.Pool(4) as pool:
        tell_when_busy(pool, 4)
        pool.map(time.sleep, [LONG] * 4, 1)


def waits_for_a_future(ctx):
    from sidestep.futures import ProcessPoolExecutor

    executor = ProcessPoolExecutor(4, ctx)
    futures = [executor.submit(time.sleep, LONG) for _ in range(8)]
    tell_when_busy(executor._pool, 4)
    futures[0].result()


def has_idle_workers(ctx):
    pool = ctx.Pool(3)
    result = pool.apply_async(time.sleep, (LONG,))
    tell_when_busy(pool, 1)
    result.get()


def with_a_pool_of_its_own(method):
    pool = sidestep.get_context(method).Pool(2)
    pids = [os.getpid(), *(worker.pid for worker in pool._pool)]
    pool.map(abs, range(10))
    os.write(1, f"{' '.join(map(str, pids))}\n".encode())
    time.sleep(LONG)


def has_nested_pools(ctx):
    pool = ctx.Pool(1)
    pool.apply(with_a_pool_of_its_own, (ctx.get_start_method(),))


def ends(ctx):
    pool = ctx.Pool(2)
    pool.map_async(time.sleep, [LONG] * 10)
    print("ends", flush=True)


def ends_with_a_cycle(ctx):
    class Holder:
        pass

    holder = Holder()
    holder.itself = holder
    holder.pool = ctx.Pool(2)
    holder.result = holder.pool.imap(time.sleep, iter([LONG] * 10))
    print("ends", flush=True)


def ends_inside_a_thread(ctx):
    pool = ctx.Pool(2)
    result = pool.apply_async(time.sleep, (LONG,))
    threading.Thread(target=result.wait, daemon=True).start()
    print("ends", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    globals()[sys.argv[1]](sidestep.get_context(sys.argv[2]))
