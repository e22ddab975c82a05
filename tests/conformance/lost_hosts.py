#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# ruff: noqa: PT009, PT027 - there need not be a pytest where this runs
"""Hosts that come and go, or lose their power: root's to run.

    python tests/conformance/lost_hosts.py

Hosts are network namespaces of this machine, on a switch that is a bridge. Power is lost
by taking a host's link down and then killing what runs there: no end of any stream gets
out. What takes 45 seconds takes six here (`hasten`), but for ``--slow``. The last line is
`N passed, N failed, N skipped`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netns
from netns import ip

import sidestep
from sidestep import _silence
from sidestep.managers import SyncManager
from sidestep.tasks import broker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TAG = f"ss{os.getpid() % 10_000}"
NET = "10.213.78"
SERVER = f"{NET}.1"
KEY = b"the key of hosts that may be lost, 32 bytes and more"
SECONDS = 6
IS_SLOW = "--slow" in sys.argv
#: Seconds in which a loss has to be noticed: what is told, and the beats beside it.
NOTICED = 75 if IS_SLOW else 14


def hasten() -> None:
    """Be as impatient as a test has to be; before what copies these is imported."""
    if not IS_SLOW:
        _silence.SILENCE_SECONDS = SECONDS
        broker.PATIENCE_SECONDS = float(SECONDS)
        broker.BEAT_SECONDS = 1.0


# ---- Hosts ----


class Host:
    """A namespace at the end of a cable, with what runs in it."""

    def __init__(self, number: int) -> None:
        self.space = f"{TAG}n{number}"
        self.address = f"{NET}.{number}"
        self._cable = f"{TAG}c{number}"
        self.programs: list[subprocess.Popen[str]] = []
        ip("netns", "add", self.space)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0",
           "netns", self.space)  # fmt: skip
        ip("link", "set", self._cable, "master", TAG, "up")
        ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.space, "link", "set", "lo", "up")
        self.plug_in()

    def plug_in(self) -> None:
        ip("-n", self.space, "link", "set", "eth0", "up")

    def unplug(self) -> None:
        ip("-n", self.space, "link", "set", "eth0", "down")

    def run(self, *words: str) -> subprocess.Popen[str]:
        """Start a program of this file, `words[0]`, over there."""
        slow = ["--slow"] if IS_SLOW else []
        program = subprocess.Popen(
            ["ip", "netns", "exec", self.space, sys.executable, __file__, *words, *slow],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self.programs.append(program)
        return program

    def pids(self) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", self.space).split()]

    def signal(self, number: int) -> None:
        """Send a signal to all that runs there."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def lose_power(self) -> None:
        self.unplug()
        self.signal(signal.SIGKILL)

    def remove(self) -> None:
        while self.pids():
            self.signal(signal.SIGKILL)
            time.sleep(0.01)
        for program in self.programs:
            program.wait()
            program.stdin.close()  # type: ignore[union-attr]
            program.stdout.close()  # type: ignore[union-attr]
        ip("link", "del", self._cable)  # it goes with the namespace, but later
        ip("netns", "del", self.space)


@contextlib.contextmanager
def switch() -> Iterator[None]:
    """The bridge, with the server's host, which is this one, at it."""
    ip("link", "add", TAG, "type", "bridge")
    try:
        ip("addr", "add", f"{SERVER}/24", "dev", TAG)
        ip("link", "set", TAG, "up")
        yield
    finally:
        ip("link", "del", TAG)


# ---- What runs on hosts ----


def serve(port: str, key_file: str, *words: str) -> int:
    from sidestep.tasks import service

    service.RETRY_MOST = 1.0
    return service.main([f"{SERVER}:{port}", "-k", key_file, "-n", "1", *words])


def be_server() -> int:
    register()
    manager = Manager((SERVER, 0), KEY)
    manager.task_processes = 0
    server = manager.get_server()
    print("port", server.address[1], flush=True)
    server.serve_forever()
    return 0


def hold_lock(port: str) -> int:
    """Have a lock, and an object, and say so."""
    manager = manager_at(int(port))
    lock = manager.get_lock()
    lock.acquire()
    kept = manager.list([1])
    print("holding", flush=True)
    time.sleep(600)
    return len(kept)


def wait_for_item(port: str) -> int:
    """Wait for what does not come; what another call brings, once the power is gone."""
    manager = manager_at(int(port))
    queue, plain = manager.get_queue(), manager.dict()
    plain["key"] = 1
    threading.Thread(target=complain, args=("get", queue.get), daemon=True).start()
    print("waiting", flush=True)
    sys.stdin.readline()
    complain("call", lambda: plain["key"])
    time.sleep(600)
    return 0


def complain(what: str, call: Callable[[], object]) -> None:
    began = time.monotonic()
    try:
        call()
    except (EOFError, OSError) as error:
        seconds = time.monotonic() - began
        print(f"{what} failed after {seconds:.1f} s: {error!r}", flush=True)


# ---- The server, and tasks ----

LOCK = None
QUEUE = None


class Manager(SyncManager):
    """What is shared between the hosts."""


def the_lock() -> Any:
    from sidestep._manager_locks import Lock

    global LOCK
    LOCK = LOCK or Lock()
    return LOCK


def the_queue() -> Any:
    import queue

    global QUEUE
    QUEUE = QUEUE or queue.Queue()
    return QUEUE


def register() -> None:
    from sidestep._proxies import LockProxy

    Manager.register("get_lock", the_lock, LockProxy)
    Manager.register("get_queue", the_queue, exposed=("get", "put"))


def manager_at(port: int) -> Any:
    register()
    manager = Manager((SERVER, port), KEY)
    manager.connect()
    return manager


def addresses() -> str:
    return subprocess.run(
        ["ip", "-o", "addr"], check=True, capture_output=True, text=True
    ).stdout


def where_then_wait(seconds: float) -> str:
    where = addresses()
    time.sleep(seconds)
    return where


class LostHosts(unittest.TestCase):
    """Who notices what, and how soon."""

    def setUp(self) -> None:
        register()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.key_file = str(Path(folder.name, "key"))
        Path(self.key_file).write_bytes(KEY)
        Path(self.key_file).chmod(0o600)
        self.hosts: list[Host] = []
        self.addCleanup(lambda: [host.remove() for host in self.hosts])
        slow = ["--slow"] if IS_SLOW else []
        server = subprocess.Popen([sys.executable, __file__, "be_server", *slow],
                                  stdout=subprocess.PIPE, text=True)  # fmt: skip
        self.addCleanup(lambda: (server.kill(), server.communicate()))
        self.port = self.read(server, "port").split()[1]
        self.client = manager_at(int(self.port))

    def host(self) -> Host:
        self.hosts.append(Host(2 + len(self.hosts)))
        return self.hosts[-1]

    def worker(self, *words: str) -> tuple[Host, subprocess.Popen[str]]:
        host = self.host()
        program = host.run("serve", self.port, self.key_file, *words)
        self.read(program, "serving")
        return host, program

    def read(self, program: subprocess.Popen[str], text: str) -> str:
        """Read a program's output up to the line that has the text."""
        for line in program.stdout:  # type: ignore[union-attr]
            if text in line:
                return str(line)
        raise AssertionError(f"no {text!r} before the end: {program.wait()}")

    def statistics(self) -> dict[str, float]:
        from sidestep.tasks import submit

        counters: dict[str, float] = submit.office_of(self.client).call("statistics")
        return counters

    def wait_until(self, is_so: Callable[[], object]) -> float:
        began = time.monotonic()
        while not is_so():
            self.assertLess(time.monotonic() - began, NOTICED)
            time.sleep(0.05)
        return time.monotonic() - began

    def tell(self, what: str, seconds: float) -> None:
        print(f"{what}: noticed after {seconds:.1f} s", flush=True)

    # ---- Tests ----

    def test_workers_come_and_go(self) -> None:
        future = self.client.submit(addresses)
        self.assertEqual(self.statistics()["waiting"], 1)
        first, program = self.worker()
        self.assertIn(first.address, future.result(30))
        second, _ = self.worker()
        with sidestep.Pool(cluster=self.client) as pool:
            both = pool.map(where_then_wait, [1.0] * 2, chunksize=1)
            self.assertIn(first.address, "".join(both))
            self.assertIn(second.address, "".join(both))
            running = pool.map_async(where_then_wait, [1.0] * 2, chunksize=1)
            self.wait_until(lambda: self.statistics()["waiting"] == 0)
            program.send_signal(signal.SIGINT)
            self.read(program, "leaving")
            self.assertEqual(program.wait(30), 0)
            self.assertIn(first.address, "".join(running.get(30)))
            self.assertIn(second.address, pool.apply(addresses))

    def test_worker_without_power(self) -> None:
        first, _ = self.worker()
        lost = self.client.submit(where_then_wait, 600)
        self.wait_until(lambda: self.statistics()["waiting"] == 0)
        self.worker()
        with sidestep.Pool(cluster=self.client) as pool:
            kept = pool.apply_async(where_then_wait, (0.5,))
            waiting = [self.client.submit(addresses) for _ in range(3)]
            first.lose_power()
            began = time.monotonic()
            with self.assertRaises(sidestep.pool.WorkerLost):
                lost.result(NOTICED)
            self.tell("a worker without power", time.monotonic() - began)
            self.assertIn(self.hosts[1].address, kept.get(30))
            for each in waiting:
                self.assertIn(self.hosts[1].address, each.result(30))
        self.assertEqual(self.statistics()["lost"], 1)

    def test_task_is_retried_elsewhere(self) -> None:
        first, _ = self.worker()
        with sidestep.Pool(cluster=self.client) as pool:
            result = pool.apply_async(where_then_wait, (1.0,), retries=1)
            self.wait_until(
                lambda: (
                    self.statistics()["waiting"] == 0
                    and self.statistics()["submitted"] == 1
                )
            )
            first.lose_power()
            second, _ = self.worker()
            self.assertIn(second.address, result.get(NOTICED + 30))

    def test_frozen_worker(self) -> None:
        host, program = self.worker("--reconnect")
        lost = self.client.submit(where_then_wait, 600)
        self.wait_until(lambda: self.statistics()["waiting"] == 0)
        host.signal(signal.SIGSTOP)
        began = time.monotonic()
        with self.assertRaises(sidestep.pool.WorkerLost):
            lost.result(NOTICED)
        self.tell("a worker that is frozen", time.monotonic() - began)
        host.signal(signal.SIGCONT)
        self.read(program, "is gone")
        self.read(program, "serving")
        self.assertIn(host.address, self.client.submit(addresses).result(30))

    def test_worker_without_server(self) -> None:
        (first, leaves), (second, stays) = self.worker(), self.worker("--reconnect")
        for host in (first, second):
            host.unplug()
        began = time.monotonic()
        self.read(stays, "is gone")
        self.tell("a server out of reach", time.monotonic() - began)
        self.read(leaves, "is gone")
        self.assertEqual(leaves.wait(30), 1)
        second.plug_in()
        self.read(stays, "serving")
        self.assertIn(second.address, self.client.submit(addresses).result(30))

    def test_holder_of_a_lock(self) -> None:
        host = self.host()
        self.read(host.run("hold_lock", self.port), "holding")
        lock = self.client.get_lock()
        before = self.client._number_of_objects()
        self.assertFalse(lock.acquire(blocking=False))
        host.lose_power()
        began = time.monotonic()
        with self.assertRaises(sidestep.OwnerDied):
            lock.acquire(timeout=NOTICED)
        self.tell("a client with a lock", time.monotonic() - began)
        self.wait_until(lambda: self.client._number_of_objects() < before)

    def test_calls_without_server(self) -> None:
        host = self.host()
        program = host.run("wait_for_item", self.port)
        self.read(program, "waiting")
        host.unplug()
        program.stdin.write("\n")  # type: ignore[union-attr]
        program.stdin.flush()  # type: ignore[union-attr]
        told = [self.read(program, " failed") for _ in range(2)]
        print("".join(told), end="", flush=True)
        self.assertEqual(sorted(line.split()[0] for line in told), ["call", "get"])


PROGRAMS: dict[str, Callable[..., int]] = {
    "be_server": be_server,
    "serve": serve,
    "hold_lock": hold_lock,
    "wait_for_item": wait_for_item,
}


if __name__ == "__main__":
    hasten()
    given = [word for word in sys.argv[1:] if word != "--slow"]
    if given:
        sys.exit(PROGRAMS[given[0]](*given[1:]))
    sys.exit(netns.main(LostHosts, switch()))
