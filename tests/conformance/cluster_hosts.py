#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# ruff: noqa: PT009, PT027 - there need not be a pytest where this runs
"""Dask on another host, which is a network namespace of this machine: root's to run.

    python tests/conformance/cluster_hosts.py

A scheduler and two workers live in the namespace, joined to us by a pair of virtual
Ethernet devices; once in clear text, once with certificates. The last line is
`N passed, N failed, N skipped`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netns
from netns import ip

import sidestep

if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE = f"sidestep{os.getpid() % 10_000}"
HERE, THERE = "10.213.77.1", "10.213.77.2"
TOOLS = Path(sys.executable).parent


@contextlib.contextmanager
def other_host() -> Iterator[None]:
    """A namespace at the other end of a cable."""
    ip("netns", "add", SPACE)
    try:
        ours, theirs = f"{SPACE}a", f"{SPACE}b"
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
        ip("link", "set", theirs, "netns", SPACE)
        ip("addr", "add", f"{HERE}/24", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", SPACE, "addr", "add", f"{THERE}/24", "dev", theirs)
        ip("-n", SPACE, "link", "set", theirs, "up")
        ip("-n", SPACE, "link", "set", "lo", "up")
        yield
    finally:
        ip("netns", "del", SPACE)


@contextlib.contextmanager
def dask_there(*options: str) -> Iterator[None]:
    """A scheduler and two workers in the namespace."""
    scheme = "tls" if options else "tcp"
    inside = ["ip", "netns", "exec", SPACE, str(TOOLS / "dask")]
    address = f"{scheme}://{THERE}:8786"
    commands = [["scheduler", "--host", address, "--no-dashboard", *options]]
    commands += [["worker", address, "--nthreads", "1", "--no-dashboard", *options]] * 2
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([*inside, *each], **silent) for each in commands]  # type: ignore[call-overload]
    try:
        wait_for_scheduler()
        yield
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_scheduler() -> None:
    """Return when it listens: who connects earlier has half a minute, which may be short."""
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((THERE, 8786)).close()
            return
        time.sleep(0.2)


def wait_for_workers(context: Any, count: int) -> None:
    while context.cpu_count() < count:
        time.sleep(0.2)


def addresses() -> str:
    return subprocess.run(
        ["ip", "-o", "addr"], check=True, capture_output=True, text=True
    ).stdout


def add_locked(value: Any, count: int) -> None:
    for _ in range(count):
        with value.get_lock():
            value.value += 1


def answer(queue: Any) -> None:
    queue.put(addresses())


class Hosts(unittest.TestCase):
    """What holds between two hosts."""

    def use(self, context: Any) -> None:
        """Have pool, objects and a process work, over there."""
        with context:
            wait_for_workers(context, 2)
            value, queue = context.Value("i", 0), context.Queue()
            self.assertEqual(context.manager().address[0], HERE)
            with context.Pool() as pool:
                self.assertIn(THERE, pool.apply(addresses))
                pool.starmap(add_locked, [(value, 20)] * 4, 1)
            self.assertEqual(value.value, 80)
            process = context.Process(target=answer, args=(queue,))
            process.start()
            process.join(60)
            self.assertEqual(process.exitcode, 0)
            self.assertIn(THERE, queue.get(timeout=10))

    def test_our_own_lets_nobody_in(self) -> None:
        """Whoever is on this machine: no code without the keys, and no logs."""
        import distributed

        with sidestep.get_context("dask", workers=1) as context:
            backend: Any = context.backend()
            client = backend._client
            address = client.scheduler.address
            self.assertRegex(address, r"^tls://127\.0\.0\.1:")
            with self.assertRaises(OSError):
                distributed.Client(address.replace("tls:", "tcp:"), timeout=2)
            with self.assertRaises(OSError):
                distributed.Client(
                    address, security=distributed.Security.temporary(), timeout=2
                )
            info = client.scheduler_info()
            self.assertEqual(client.submit(abs, -1).result(), 1)
            services = [info, *info["workers"].values()]
            for port in [each["services"]["dashboard"] for each in services]:
                for page in ("json/counts.json", "metrics", "logs", "info/logs.html"):
                    with self.assertRaises(urllib.error.HTTPError) as caught:
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}")
                    caught.exception.close()
                    self.assertEqual(caught.exception.code, 404)

    def test_clear_text(self) -> None:
        address = f"tcp://{THERE}:8786"
        with self.assertRaises(ValueError) as caught:
            sidestep.Pool(cluster=address)
        self.assertIn("allow_insecure=True", str(caught.exception))
        with dask_there():
            context = sidestep.get_context("dask", cluster=address, allow_insecure=True)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                self.use(context)
            told = [str(each.message) for each in seen]
            self.assertTrue(any("in clear text" in each for each in told), told)
            self.assertTrue(any("key of shared objects" in each for each in told), told)

    def test_client_of_the_users(self) -> None:
        import distributed

        with dask_there(), distributed.Client(f"tcp://{THERE}:8786") as client:
            with sidestep.get_context("dask", cluster=client) as context:
                with self.assertRaises(ValueError) as caught:
                    context.Queue()
                self.assertIn("key of shared objects", str(caught.exception))

    def test_certificates(self) -> None:
        import distributed

        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        security = distributed.Security.temporary()
        options = []
        for name, text in (
            ("ca-file", security.tls_ca_file),
            ("cert", security.tls_scheduler_cert),
            ("key", security.tls_scheduler_key),
        ):
            path = Path(folder.name, name)
            path.write_text(text)
            options += [f"--tls-{name}", str(path)]
        address = f"tls://{THERE}:8786"
        with dask_there(*options):
            self.use(sidestep.get_context("dask", cluster=address, security=security))
            other = distributed.Security.temporary()
            with self.assertRaises(OSError):
                sidestep.get_context(
                    "dask", cluster=address, security=other, timeout=3
                ).backend()


if __name__ == "__main__":
    sys.exit(netns.main(Hosts, other_host()))
