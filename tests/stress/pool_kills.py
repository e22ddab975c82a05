# SPDX-License-Identifier: MIT
"""Kill workers of pools at random, under load, and make up the books.

    python tests/stress/pool_kills.py --kills 10000 --seed 1 [--method fork]

Calls, maps and iterators of all kinds run on one pool after the other, with every start
method, while workers are killed from outside, crash by themselves, pass hard deadlines, are
replaced after some tasks, and the pool grows and shrinks. Then

- every call, map and iterator came to an end, none later than STUCK seconds,
- each item has one outcome: its own result, or WorkerLost, or it was cancelled,
- no item was run twice, unless it may be (`retries`),
- once the pool is closed none of its workers is left.

Between two pools an owner of a pool is killed: its workers must end with it.

The last line is `N passed, N failed`, of these checks.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import sidestep
from sidestep.pool import CancelledError, WorkerLost

#: How many workers to kill in a pool: a start by spawn costs fifty times one by fork.
SHARES = {"fork": 400, "forkserver": 80, "spawn": 20}
STUCK = 60.0  # seconds: something hangs
WORKERS = 3
LARGE = 1 << 20
RUNS_SIZE = 1 << 22
SEEN_SIZE = 1 << 22

#: How often each item was begun, and by pid who has begun any: a file that all map.
_runs: mmap.mmap | None = None


# -- In workers -----------------------------------------------------------------------


def open_runs(path: str) -> None:
    global _runs
    with Path(path).open("r+b") as file:
        _runs = mmap.mmap(file.fileno(), RUNS_SIZE + SEEN_SIZE)


def work(number: int, what: str) -> tuple[int, bytes]:
    """Do what an item says; give its number, and sometimes a megabyte."""
    assert _runs is not None
    _runs[number] += 1  # by whoever runs it, so that nobody else writes it
    _runs[RUNS_SIZE + os.getpid() % SEEN_SIZE] = 1
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(3)
    elif what == "crash":
        ctypes.string_at(0)
    elif what == "raise":
        raise ValueError(number)
    elif what == "linger":
        time.sleep(2 * STUCK)
    return number, bytes(LARGE if what == "large" else number % 50)


def work_item(item: tuple[int, str]) -> tuple[int, bytes]:
    return work(*item)


# -- The books ------------------------------------------------------------------------


class Books:
    """Outcomes, and what was wrong with them."""

    def __init__(self, path: str) -> None:
        open_runs(path)
        self.lock = threading.Lock()
        self.numbers = 0
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []

    def new_items(self, count: int, chance: random.Random) -> list[tuple[int, str]]:
        whats = ("kill", "exit", "crash", "raise", "large", "linger", "nothing")
        weights = (2, 1, 1, 6, 4, 0, 400)
        with self.lock:
            first = self.numbers
            self.numbers += count
        picks = chance.choices(whats, weights, k=count)
        return list(zip(range(first, first + count), picks, strict=True))

    def count(self, name: str) -> None:
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + 1

    def blame(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)

    def note(
        self, item: tuple[int, str], outcome: Any, may_rerun: bool = False
    ) -> None:
        """Write down what became of an item."""
        number, what = item
        assert _runs is not None
        runs = _runs[number]
        if runs > 1 and not may_rerun:
            self.blame(f"item {number} was run {runs} times")
        if isinstance(outcome, WorkerLost):
            self.count("lost")
        elif isinstance(outcome, CancelledError):
            self.count("cancelled")
        elif isinstance(outcome, ValueError) and what == "raise":
            self.count("raised")
        elif isinstance(outcome, sidestep.TimeoutError) and what == "linger":
            self.count("late")
        elif isinstance(outcome, tuple) and outcome[0] == number and runs >= 1:
            expected = LARGE if what == "large" else number % 50
            if len(outcome[1]) != expected or what not in ("large", "nothing"):
                self.blame(f"item {number}, {what}: a result of another")
            self.count("done")
        else:
            self.blame(f"item {number}, {what}: {outcome!r:.200}")


# -- Load -----------------------------------------------------------------------------


def outcome_of(call: Any) -> Any:
    """What a call gives, an exception included."""
    try:
        return call(STUCK)
    except BaseException as error:
        return error


def load_calls(pool: Any, books: Books, chance: random.Random) -> None:
    items = books.new_items(60, chance)
    deadline = chance.choice((None, 0.05))
    if deadline is not None:
        items[0] = (items[0][0], "linger")
    made = []
    for item in items:
        late = deadline if item[1] == "linger" else None
        made.append(pool.apply_async(work, item, timeout=late))
    for result in made[:: chance.randint(7, 40)]:
        result.cancel()
    for item, result in zip(items, made, strict=True):
        books.note(item, outcome_of(result.get))


def load_map(pool: Any, books: Books, chance: random.Random) -> None:
    """A map fails with the first of its items that does."""
    items = [item for item in books.new_items(80, chance) if item[1] != "linger"]
    result = pool.map_async(work_item, items, chance.choice((None, 1, 7)))
    outcome = outcome_of(result.get)
    if isinstance(outcome, list):
        if len(outcome) != len(items):
            books.blame(f"a map of {len(items)} items gave {len(outcome)}")
        for item, one in zip(items, outcome, strict=False):
            books.note(item, one)
    elif isinstance(outcome, (WorkerLost, ValueError)):
        books.count("maps failed")
    else:
        books.blame(f"a map: {outcome!r:.200}")


def load_iterator(pool: Any, books: Books, chance: random.Random) -> None:
    """One outcome for each item; unordered, results say whose they are."""
    items = books.new_items(80, chance)
    by_number = dict(items)
    ordered = chance.random() < 0.5
    iterator = (pool.imap if ordered else pool.imap_unordered)(work_item, items)
    bad = 0
    for position in range(len(items)):
        outcome = outcome_of(iterator.next)
        if ordered:
            books.note(items[position], outcome)
        elif isinstance(outcome, tuple):
            number = outcome[0]
            if number not in by_number:
                books.blame(f"item {number} came twice, or is another's")
                continue
            books.note((number, by_number.pop(number)), outcome)
        elif isinstance(outcome, (WorkerLost, ValueError)):
            bad += 1
        else:
            books.blame(f"imap_unordered: {outcome!r:.200}")
    if not isinstance(outcome_of(iterator.next), StopIteration):
        books.blame("an iterator has no end")
    if not ordered and bad != len(by_number):
        books.blame(f"{bad} errors for {len(by_number)} items")


def load_retries(pool: Any, books: Books, chance: random.Random) -> None:
    """A task that may be run again has a result in spite of a death."""
    items = [(number, "nothing") for number, _ in books.new_items(10, chance)]
    made = [pool.apply_async(work, item, retries=20) for item in items]
    for item, result in zip(items, made, strict=True):
        books.note(item, outcome_of(result.get), may_rerun=True)


LOADS = (load_calls, load_map, load_iterator, load_calls, load_iterator, load_retries)


def keep_busy(pool: Any, books: Books, stop: threading.Event, seed: int) -> None:
    chance = random.Random(seed)
    while not stop.is_set() and not books.wrong:
        chance.choice(LOADS)(pool, books, chance)
        books.count("rounds")


# -- Kills ----------------------------------------------------------------------------


def victims(pool: Any) -> list[int]:
    """Workers that have begun a task: one killed before says that none can start."""
    assert _runs is not None
    workers = list(pool._pool)
    pids = [one.pid for one in workers if one.pid and one.exitcode is None]
    return [pid for pid in pids if _runs[RUNS_SIZE + pid % SEEN_SIZE]]


def kill_workers(pool: Any, wanted: int, chance: random.Random, books: Books) -> int:
    """Kill until there are no more to kill, growing and shrinking at times."""
    killed = 0
    until = time.monotonic() + 5 * STUCK
    while killed < wanted and not books.wrong and time.monotonic() < until:
        time.sleep(chance.random() * 0.02)
        pids = victims(pool)
        if pids:
            sign = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV))
            try:
                os.kill(chance.choice(pids), sign)
                killed += 1
            except ProcessLookupError:
                continue  # it has just ended by itself
        if chance.random() < 0.02:
            pool.resize(chance.randint(1, WORKERS + 2))
    return killed


def is_running(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def all_end(pids: list[int]) -> bool:
    until = time.monotonic() + STUCK
    while any(map(is_running, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def run_pool(method: str, wanted: int, seed: int, books: Books, path: str) -> int:
    """One pool, two threads that use it, and kills."""
    chance = random.Random(seed)
    limit = chance.choice((None, 20))
    context = sidestep.get_context(method)
    pool = context.Pool(WORKERS, open_runs, (path,), maxtasksperchild=limit)
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=keep_busy, args=(pool, books, stop, seed + i), daemon=True
        )
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    killed = kill_workers(pool, wanted, chance, books)
    stop.set()
    for thread in threads:
        thread.join(2 * STUCK)
        if thread.is_alive():
            books.blame(f"a thread hangs, {method}")
            return killed
    pids = [one.pid for one in list(pool._pool) if one.pid]
    if chance.random() < 0.5:
        pool.close()
    else:
        pool.terminate()
    if pool.join(STUCK) is not None or not all_end(pids):
        books.blame(f"workers are left, {method}")
    return killed


OWNER = """
import os, sys, time, sidestep
if __name__ == "__main__":
    pool = sidestep.get_context(sys.argv[1]).Pool(3)
    results = [pool.apply_async(time.sleep, (0.001,)) for _ in range(20000)]
    results[0].get()
    print(*[one.pid for one in pool._pool], flush=True)
    for result in results:
        result.get()
"""


def kill_owner(method: str, chance: random.Random, books: Books) -> None:
    """An owner is killed with tasks in hand: its workers end."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "owner.py")
        script.write_text(OWNER)
        command = [sys.executable, str(script), method]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            pids = [int(word) for word in owner.stdout.readline().split()]
            time.sleep(chance.random() * 0.05)
            owner.kill()
        books.count("owners killed")
        if len(pids) == 0 or not all_end(pids):
            books.blame(f"workers outlive their owner, {method}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--method", choices=SHARES, action="append")
    given = parser.parse_args()
    methods = given.method or list(SHARES)
    chance = random.Random(given.seed)
    begun = time.monotonic()
    killed = 0
    turn = 0
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(RUNS_SIZE + SEEN_SIZE)
        books = Books(file.name)
        while killed < given.kills and not books.wrong:
            method = methods[turn % len(methods)]
            share = min(SHARES[method], given.kills - killed)
            killed += run_pool(method, share, chance.getrandbits(32), books, file.name)
            kill_owner(method, chance, books)
            turn += 1
            print(f"{killed} killed, {books.numbers} items, {method}", flush=True)
            if books.numbers > RUNS_SIZE - 100_000:
                break
    took = time.monotonic() - begun
    print(
        f"{killed} workers killed in {took:.1f} s, {turn} pools, {books.numbers} items"
    )
    print(", ".join(f"{count} {name}" for name, count in sorted(books.counts.items())))
    for text in books.wrong[:20]:
        print("WRONG:", text)
    good = killed >= given.kills and not books.wrong
    print(f"{turn if good else 0} passed, {0 if good else 1} failed", flush=True)
    os._exit(0 if good else 1)  # what hangs is not waited for


if __name__ == "__main__":
    main()
