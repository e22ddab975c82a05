#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What many idle clients of a manager cost, against the standard library in the same run.

    python3 bench/clients.py --clients 10000

Clients are connections over a Unix socket that have shown the key and then say nothing.
A line has: how long one takes to connect, the threads and the memory that the server has
for them, and what a call of another client takes meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import time
from pathlib import Path
from typing import Any

KEY = b"a key of thirty-two bytes at the least"
CALLS = 2000
SPARE = 200  # descriptors for everything else


def figure(pid: int, name: str) -> int:
    """A line of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(text.partition(f"{name}:")[2].split()[0])


def ask(conn: Any, ident: str | None, method: str, *args: Any) -> Any:
    conn.send((ident, method, args, {}))
    kind, result = conn.recv()
    if kind != "#RETURN":
        raise RuntimeError(f"{kind}: {result}")
    return result


def connect(package: str, address: Any) -> Any:
    connection = importlib.import_module(f"{package}.connection")
    conn = connection.Client(address, authkey=KEY)
    ask(conn, None, "accept_connection", "idle")
    return conn


def measure(package: str, count: int) -> str:
    managers = importlib.import_module(f"{package}.managers")
    context = importlib.import_module(package).get_context("fork")
    with managers.SyncManager(authkey=KEY, ctx=context) as manager:
        table = manager.dict(k=1)
        ident = table._token.id  # noqa: SLF001
        pid = manager._process.pid  # noqa: SLF001 - there is no other way
        threads, memory = figure(pid, "Threads"), figure(pid, "VmRSS")
        began = time.perf_counter()
        clients = [connect(package, manager.address) for _ in range(count)]
        connected = (time.perf_counter() - began) / count
        threads, memory = (
            figure(pid, "Threads") - threads,
            figure(pid, "VmRSS") - memory,
        )
        caller = connect(package, manager.address)
        began = time.perf_counter()
        for _ in range(CALLS):
            ask(caller, ident, "__getitem__", "k")
        call = (time.perf_counter() - began) / CALLS
        for conn in [*clients, caller]:
            conn.close()
    return (
        f"{package:18} {connected * 1e6:12.0f} {threads:10} {memory / 1024:10.1f} "
        f"{call * 1e6:10.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--packages", default="multiprocessing,sidestep")
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < given.clients + SPARE:
        parser.error(f"{hard} descriptors are not enough (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{given.clients} clients")
    print(f"{'':18} {'connect, us':>12} {'threads':>10} {'MiB':>10} {'call, us':>10}")
    for package in given.packages.split(","):
        print(measure(package, given.clients), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
