#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a call of a managed object costs, against the standard library in the same run.

Each line is measured on both packages in turns, several rounds: best and median in
microseconds, and how many times faster the best is than the standard library's. Lines
with "network" have their client in another program, and compare our encrypted connections
to the standard library's clear ones.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import ipc
import rows

HOST = "127.0.0.1"
KEY = b"a key of thirty-two bytes at the least"
BATCH = 100


def per_call(count: int, call: Callable[[], object]) -> float:
    call()
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def here(measure: rows.Measure) -> rows.Measure:
    """By the program that has started the manager."""

    def run(context: Any, count: int) -> float:
        with context.Manager() as manager:
            return measure(manager, count)

    return run


def far(measure: rows.Measure) -> rows.Measure:
    """By another program, over the network."""

    def run(context: Any, count: int) -> float:
        package = type(context).__module__.partition(".")[0]
        managers = importlib.import_module(f"{package}.managers")
        with managers.SyncManager((HOST, 0), KEY, ctx=context) as manager:
            words = [package, measure.__name__, manager.address[1], count]
            command = [sys.executable, __file__, "--far", *map(str, words)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            return float(done.stdout)

    return run


def be_far(package: str, name: str, port: str, count: str) -> None:
    """What the other program does."""
    managers = importlib.import_module(f"{package}.managers")
    manager = managers.SyncManager((HOST, int(port)), KEY)
    manager.connect()
    print(globals()[name](manager, int(count)))


def get_item(manager: Any, count: int) -> float:
    table = manager.dict(k=1)
    return per_call(count, lambda: table["k"])


def get_value(manager: Any, count: int) -> float:
    table = manager.dict(k=b"x" * (1 << 20))
    return per_call(count, lambda: table["k"])


def put_get(manager: Any, count: int) -> float:
    items = manager.Queue()

    def both() -> None:
        items.put(1)
        items.get()

    return per_call(count, both) / 2


def lock(manager: Any, count: int) -> float:
    held = manager.Lock()

    def both() -> None:
        held.acquire()
        held.release()

    return per_call(count, both)


def make(manager: Any, count: int) -> float:
    return per_call(count, manager.list)


def batch_get_item(manager: Any, count: int) -> float:
    """Many calls at once; where there are no batches, one after the other."""
    table = manager.dict(k=1)

    def many() -> None:
        if not hasattr(manager, "batch"):
            for _ in range(BATCH):
                table["k"]
            return
        with manager.batch() as batch:
            several = batch(table)
            replies = [several["k"] for _ in range(BATCH)]
        replies[-1].result()

    return per_call(count, many) / BATCH


def pool_apply(manager: Any, count: int) -> float:
    with manager.Pool(1) as pool:
        return per_call(count, lambda: pool.apply(abs, (1,)))


def pool_imap(manager: Any, count: int) -> float:
    with manager.Pool(1) as pool:
        items = range(count)
        return per_call(1, lambda: sum(pool.imap(abs, items))) / count


def start_stop(context: Any, count: int) -> float:
    return per_call(count, lambda: context.Manager().shutdown())


def _greet(listener: Any, count: int) -> None:
    for _ in range(count):
        with listener.accept() as conn:
            conn.send_bytes(b"x")


def network_connect(context: Any, count: int) -> float:
    """Connect, authenticate, and have the first reply."""
    package = type(context).__module__.partition(".")[0]
    connection = importlib.import_module(f"{package}.connection")
    with context.Manager() as manager:
        addresses = manager.Queue()
        server = context.Process(target=_serve, args=(connection, addresses, count))
        server.start()
        address = addresses.get()

        def connect() -> None:
            with connection.Client(address, authkey=KEY) as conn:
                conn.recv_bytes()

        result = per_call(count, connect)
        server.join()
        return result


def _serve(connection: Any, addresses: Any, count: int) -> None:
    with connection.Listener((HOST, 0), authkey=KEY) as listener:
        addresses.put(listener.address)
        _greet(listener, count + 1)


ROWS = [
    rows.Row("d[k]", here(get_item), 10_000, aim=3),
    rows.Row("queue: put or get", here(put_get), 5_000),
    rows.Row("lock: acquire and release", here(lock), 5_000),
    rows.Row("make and drop a list", here(make), 500),
    rows.Row("Manager() start and stop, fork", start_stop, 10, aim=2000),
    rows.Row(
        "Manager() start and stop, forkserver", start_stop, 5, method="forkserver"
    ),
    rows.Row("d[k], network", far(get_item), 2_000),
    rows.Row("queue: put or get, network", far(put_get), 1_000),
    rows.Row("d[k], 100 in a batch", here(batch_get_item), 50),
    rows.Row("d[k], 100 in a batch, network", far(batch_get_item), 20),
    rows.Row("manager.Pool: apply", here(pool_apply), 500),
    rows.Row("manager.Pool: apply, network", far(pool_apply), 500),
    rows.Row("manager.Pool: imap, per item", here(pool_imap), 2_000),
    rows.Row("1 MiB value, network", far(get_value), 50),
    rows.Row("connect and first reply, network", network_connect, 20, aim=2000),
]


def main() -> int:
    options = rows.parser(__doc__, "a fifth").parse_args()
    rounds, scale = (3, 0.2) if options.quick else (options.rounds, 1.0)
    packages = options.packages.split(",")
    print(f"{'microseconds (best, median)':36}", *(f"{name:>23}" for name in packages))
    for row in ROWS:
        if re.search(options.only, row.name):
            print(ipc.line(row, ipc.measure(row, packages, rounds, scale)), flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--far"]:
        be_far(*sys.argv[2:])
    else:
        sys.exit(main())
