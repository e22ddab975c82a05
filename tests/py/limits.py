# SPDX-License-Identifier: MIT
"""A program that starts processes with little room for it, from none to enough.

``limits.py METHOD WHAT LIMIT``: WHAT is process, warm, start_all or pool, LIMIT
is files or processes. Prints the reason of each start that failed; asserts that such a
start leaves nothing behind and that the next one works once there is room.
"""

import gc
import os
import resource
import signal
import sys
import time
from pathlib import Path

import stranger

import sidestep
import sidestep.forkserver
import sidestep.pool


def square(number):
    return number * number


# ---- Starts ----


def start_process(context):
    child = context.Process(target=square, args=(3,))
    child.start()
    child.join(gone=True)
    assert child.exitcode == 0
    child.close()


def start_all(context):
    children = [context.Process(target=square, args=(3,)) for _ in range(3)]
    try:
        context.start_all(children)
    finally:
        for child in children:
            if child.pid is not None:
                child.join(gone=True)
            child.close()


def start_pool(context):
    with context.Pool(2) as pool:
        assert pool.map(square, [1, 2, 3]) == [1, 4, 9]
        pool.close()
        pool.join()


STARTS = {
    "process": start_process,
    "warm": start_process,
    "start_all": start_all,
    "pool": start_pool,
}


# ---- What takes the room ----


class Files:
    """As many descriptors as there may be."""

    limit = resource.RLIMIT_NOFILE
    most = 60

    def fill(self):
        self.kept = []
        try:
            while True:
                self.kept.append(os.dup(0))
        except OSError:
            pass

    def free_one(self):
        os.close(self.kept.pop())


class Processes:
    """As many processes as there may be."""

    limit = resource.RLIMIT_NPROC
    most = 12

    def fill(self):
        self.kept = []
        try:
            while pid := os.fork():
                self.kept.append(pid)
        except OSError:
            return
        while True:
            time.sleep(100)

    def free_one(self):
        pid = self.kept.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- What is there ----


def children():
    """The children of this process and what they do, zombies included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid():
            found.append((path.parent.name, state))
    return found


def inventory():
    """What there is once the fork server has been sent home."""
    sidestep.forkserver._forkserver._stop()
    gc.collect()
    sidestep.active_children()
    descriptors = {
        fd: os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    }
    return children(), descriptors


def prepare(context, what):
    if what == "warm":
        start_process(context)
        start_process(context)
        while not sidestep.forkserver.statistics()["warm"]:
            time.sleep(0.001)


def main():
    method, what, limit = sys.argv[1:]
    context = sidestep.get_context(method)
    room = {"files": Files, "processes": Processes}[limit]()
    if limit == "processes":
        os.setgroups([])
        os.setresgid(stranger.UID, stranger.UID, stranger.UID)
        os.setresuid(stranger.UID, stranger.UID, stranger.UID)
    resource.setrlimit(room.limit, (room.most, resource.getrlimit(room.limit)[1]))
    start = STARTS[what]
    start(context)
    before = inventory()
    failures = 0
    for free in range(room.most):
        prepare(context, what)
        room.fill()
        for _ in range(free):
            room.free_one()
        failed = False
        try:
            start(context)
        except OSError as error:
            failed = True
            failures += 1
            print(error, flush=True)
        while room.kept:
            room.free_one()
        assert inventory() == before, (free, inventory(), before)
        start(context)
        assert inventory() == before, (free, inventory(), before)
        if not failed:
            break
    # A child that is warm needs no room any more.
    assert failures or what == "warm", "there was room enough from the start"


if __name__ == "__main__":
    main()
