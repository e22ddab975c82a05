# SPDX-License-Identifier: MIT
"""Start very many processes, in every way they can end, and look whether anything grows.

    python tests/stress/starts.py --starts 100000 --seed 1 --method forkserver

Children return, exit, raise, are killed, end by os._exit; with locks, pipes and
descriptors in their jobs; joined, not joined, given up while they run; started by other
threads, all together, in a pool; and the fork server is killed now and then.

An inventory is taken ten times, each time when no child is left: resident memory of this
process, of the fork server, and of the arena, its slots and seats, descriptors, children, threads.
What counts is whether the last is above the highest of the first three, by more than a
slack that is far below one byte for each start (memory) or not at all (all else).

The last line is `N passed, N failed`: exit codes, and the kinds of the inventory.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import sidestep
import sidestep.forkserver
from sidestep import connection

ROUNDS = 10
SLACK = {"memory": 1 << 20, "zygote": 1 << 20, "arena": 1 << 20}
PAGE = os.sysconf("SC_PAGE_SIZE")


# -- In children ----------------------------------------------------------------------


def end(how: str, lock: Any, conn: Any) -> None:
    if lock is not None:
        with lock:
            pass
    if conn is not None:
        conn.send(how)
    if how == "exit":
        sys.exit(3)
    if how == "os_exit":
        os._exit(4)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the process ends
        raise ValueError("on purpose")


CODES = {"return": 0, "exit": 3, "os_exit": 4, "kill": -9, "raise": 1}


# -- Starts ---------------------------------------------------------------------------


class Starter:
    def __init__(self, method: str, seed: int) -> None:
        self.context = sidestep.get_context(method)
        self.context.set_forkserver_preload(["__main__"])
        self.random = random.Random(seed)
        self.method = method
        self.started = 0
        self.wrong: list[str] = []
        self.unjoined: list[Any] = []

    def make(self, how: str) -> Any:
        self.started += 1
        return self.context.Process(target=end, args=(how, None, None))

    def check(self, child: Any, how: str) -> None:
        if child.exitcode != CODES[how]:
            self.wrong.append(f"{how}: exit code {child.exitcode}")

    def how(self) -> str:
        return self.random.choice([*CODES, *["return"] * 15])

    def join(self) -> None:
        how = self.how()
        child = self.make(how)
        child.start()
        child.join()
        self.check(child, how)

    def with_objects(self) -> None:
        how = self.how()
        self.started += 1
        ours, theirs = self.context.Pipe()
        lock = self.context.Lock()
        child = self.context.Process(target=end, args=(how, lock, theirs))
        child.start()
        theirs.close()
        if ours.recv() != how:
            self.wrong.append("something else came through the pipe")
        child.join()
        child.close()
        ours.close()

    def do_not_join(self) -> None:
        child = self.make(self.how())
        child.start()

    def give_up(self) -> None:
        child = self.make("return")
        child.start()
        popen, child._popen = child._popen, None
        del popen  # nobody has it any more, whether it runs or not
        child._closed = True
        sidestep.process._children.discard(child)

    def kill(self) -> None:
        child = self.context.Process(target=time.sleep, args=(1000,))
        self.started += 1
        child.start()
        child.kill()
        connection.wait([child.sentinel])
        child.join()
        if child.exitcode != -signal.SIGKILL:
            self.wrong.append(f"killed: exit code {child.exitcode}")

    def in_threads(self) -> None:
        threads = [threading.Thread(target=self.join) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def together(self) -> None:
        many = [self.make("return") for _ in range(5)]
        self.context.start_all(many)
        for child in many:
            child.join()
            self.check(child, "return")

    def pool(self) -> None:
        self.started += 3
        with self.context.Pool(3) as pool:
            pool.map(abs, range(10))

    def kill_the_server(self) -> None:
        pid = sidestep.forkserver._forkserver._forkserver_pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        self.join()

    def some(self, count: int) -> None:
        """Start about so many, in ways that are as frequent as they are quick."""
        often = [self.join] * 40 + [self.with_objects] * 10 + [self.do_not_join] * 10
        seldom = [self.give_up, self.kill, self.together]
        if self.method != "fork":  # which is not for programs with threads
            seldom.append(self.in_threads)
        enough = self.started + count
        while self.started < enough:
            self.random.choice(often + seldom)()
            if self.random.random() < 0.002:
                self.random.choice([self.pool, self.kill_the_server])()


# -- Inventory ------------------------------------------------------------------------


def resident(pid: int | str) -> int:
    """Memory of a process that it does not share, in bytes."""
    _, total, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (total - shared) * PAGE


def children() -> set[int]:
    mine = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            mine |= set(map(int, (task / "children").read_text().split()))
    return mine


def settle() -> None:
    """Until no child is left but the fork server and those that wait for a job."""
    deadline = time.monotonic() + 60
    while True:
        gc.collect()
        sidestep.active_children()
        told = sidestep.forkserver.statistics()
        allowed = bool(told) + told.get("warm", 0)
        if told.get("coming", 0) == 0 and len(children()) <= allowed:
            return
        if time.monotonic() > deadline:
            return  # the inventory says what is too much
        time.sleep(0.01)


def inventory() -> dict[str, int]:
    settle()
    sidestep._core.arena_sweep()
    arena = sidestep._core.arena_statistics()
    told: dict[str, int] = sidestep.forkserver.statistics()
    return {
        "memory": resident("self"),
        "zygote": resident(told["pid"]) if told else 0,
        "arena": arena["used"],
        "slots": arena["slots"],
        "seats": arena["processes"] - told.get("warm", 0),
        "descriptors": len(os.listdir("/proc/self/fd")) - 2 * told.get("warm", 0),
        "children": len(children()) - told.get("warm", 0),
        "threads": threading.active_count(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--method", default="forkserver")
    options = parser.parse_args()
    starter = Starter(options.method, options.seed)
    seen = []
    began = time.monotonic()
    for _ in range(ROUNDS):
        starter.some(options.starts // ROUNDS)
        starter.join()  # so that there is a fork server
        seen.append(inventory())
        rate = (time.monotonic() - began) / starter.started
        print(f"{starter.started} {rate * 1e6:.0f} us/start {seen[-1]}", flush=True)
    grown = [
        f"{name} grew: {[each[name] for each in seen]}"
        for name in seen[0]
        if seen[-1][name] > max(each[name] for each in seen[:3]) + SLACK.get(name, 0)
    ]
    for line in [*starter.wrong[:20], *grown]:
        print(line)
    failed = len(starter.wrong) + len(grown)
    print(f"{starter.started + len(seen[0]) - failed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    raise SystemExit(main())
