#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# ruff: noqa: PT009, PT027 - there need not be a pytest where this runs
"""What pools and contexts promise on every engine, tried on one of them.

    python tests/conformance/cluster_behaviour.py executor | dask | ray
    mpiexec -n 3 python -m sidestep.mpi tests/conformance/cluster_behaviour.py mpi

The last line is `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import sidestep
from sidestep.pool import CancelledError, WorkerLost

#: Engines that can stop what runs, and where a task's death is that of its worker only.
CAN_STOP = {"dask", "ray"}
SURVIVES = {"dask", "ray", "executor"}

name = ""
context: Any = None


def square(x):
    return x * x


def fail(x):
    error = ValueError("no", x)
    error.add_note("a note")
    raise error


def options(**kwds):
    return kwds


def fill(array):
    array[:] = 7
    return int(array.sum()), array


def nap(seconds):
    time.sleep(seconds)
    return seconds


def begin(path):
    with Path(path).open("a") as file:
        file.write("x")


def begin_and_die(path):
    begin(path)
    os._exit(3)


def begin_and_nap(path, seconds):
    begin(path)
    time.sleep(seconds)


def live_on(seconds):
    """Have a worker of Dask that is to end for a stopped task's sake do so later."""
    from sidestep.cluster import dask

    dask._FAREWELL = seconds


def meet(number, barrier):
    """Be a tiny task, but for two pairs that wait for each other."""
    return barrier.wait(100) >= 0 if number in {100, 101, 250, 251} else True


def pass_or_wait(number, event):
    """Be a tiny task, but for one that waits for what the program does next."""
    return event.wait(100) if number == 100 else True


def nap_or_die(number, path):
    """Die as the fourth task, when the others wait behind it."""
    if number == 3:
        begin_and_die(path)
    time.sleep(0.1)
    return number


def count_up():
    count_up.runs = getattr(count_up, "runs", 0) + 1
    os.environ["SIDESTEP_TEST_RUNS"] = str(
        int(os.environ.get("SIDESTEP_TEST_RUNS", "0")) + 1
    )


def runs_of_initializer(_):
    time.sleep(0.01)
    return os.getpid(), os.environ.get("SIDESTEP_TEST_RUNS")


def add_locked(value, count):
    for _ in range(count):
        with value.get_lock():
            value.value += 1


def hold_and_die(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def end_with(code):
    sys.exit(code)


def pass_on(source, target):
    while (item := source.get()) is not None:
        target.put(item * 2)


class Behaviour(unittest.TestCase):
    """One method for each promise."""

    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.mark = Path(self.folder.name) / "mark"

    def pool(self, *args: Any, **kwds: Any) -> Any:
        pool = context.Pool(*args, **kwds)
        self.addCleanup(pool.terminate)
        return pool

    def wait_for_mark(self, size: int = 1) -> None:
        while not self.mark.exists() or self.mark.stat().st_size < size:
            time.sleep(0.01)

    def test_exceptions_come_with_their_traceback(self) -> None:
        with self.assertRaises(ValueError) as caught:
            self.pool().apply(fail, (7,))
        self.assertEqual(caught.exception.args, ("no", 7))
        self.assertEqual(caught.exception.__notes__, ["a note"])
        self.assertIn("in fail", str(caught.exception.__cause__))

    def test_keywords_are_the_tasks(self) -> None:
        kwds = {
            "workers": 1, "retries": 9, "pure": True, "key": "k", "resources": {},
            "priority": 5, "num_cpus": 99, "timeout": 0, "actor": True,
        }  # fmt: skip
        self.assertEqual(self.pool().apply(options, (), kwds), kwds)

    def test_time_limit(self) -> None:
        pool = self.pool()
        begun = time.monotonic()
        with self.assertRaises(sidestep.TimeoutError):
            pool.apply_async(nap, (5,), timeout=0.5).get(60)
        self.assertLess(time.monotonic() - begun, 4.5)
        self.assertEqual(pool.apply_async(square, (3,)).get(60), 9)

    def test_cancelled_before_it_runs(self) -> None:
        pool = self.pool()
        naps = [pool.apply_async(nap, (0.3,)) for _ in range(4 * context.cpu_count())]
        late = pool.apply_async(begin, (str(self.mark),))
        self.assertTrue(late.cancel())
        with self.assertRaises(CancelledError):
            late.get(60)
        for each in naps:
            each.get(60)
        self.assertFalse(self.mark.exists())

    def test_stopped_while_it_runs(self) -> None:
        if name not in CAN_STOP:
            self.skipTest("the engine cannot")
        pool = self.pool()
        for turn in range(3):
            result = pool.apply_async(begin_and_nap, (str(self.mark), 300))
            self.wait_for_mark(turn + 1)
            self.assertTrue(result.cancel())
            with self.assertRaises(CancelledError):
                result.get(60)
            self.assertEqual(pool.map_async(square, range(9)).get(60)[-1], 64)

    def test_who_was_stopped_is_replaced(self) -> None:
        """Also if it hears before it ends that the scheduler has let it go."""
        if name != "dask":
            self.skipTest("of Dask, whose workers then tell their nannies to end, too")
        client = context.backend()._client
        client.run(live_on, 1.5)  # three heartbeats
        before = set(client.nthreads())
        result = self.pool().apply_async(begin_and_nap, (str(self.mark), 300))
        self.wait_for_mark()
        self.assertTrue(result.cancel())
        end = time.monotonic() + 100
        while set(client.nthreads()) <= before:
            self.assertLess(time.monotonic(), end, "nobody takes its place")
            time.sleep(0.01)
        client.run(live_on, 0.1)

    def test_lost_worker(self) -> None:
        if name not in SURVIVES:
            self.skipTest("the death of a worker is that of the whole job")
        pool = self.pool()
        with self.assertRaises(WorkerLost) as caught:
            pool.apply_async(begin_and_die, (str(self.mark),)).get(60)
        self.assertIn("begin_and_die", str(caught.exception))
        self.assertIsNotNone(caught.exception.__cause__)
        self.assertEqual(self.mark.read_text(), "x")  # not run again
        self.assertEqual(pool.map_async(square, range(9)).get(60)[-1], 64)

    def test_what_waits_behind_a_lost_worker(self) -> None:
        if name not in CAN_STOP:
            self.skipTest("one that dies takes all others with it")
        pool = self.pool()
        path = str(self.mark)
        results = [pool.apply_async(nap_or_die, (n, path)) for n in range(20)]
        for number, result in enumerate(results):
            if number == 3:
                with self.assertRaises(WorkerLost):
                    result.get(60)
            else:
                self.assertEqual(result.get(60), number)
        self.assertEqual(self.mark.read_text(), "x")

    def test_tasks_that_wait_for_each_other(self) -> None:
        barrier = context.Barrier(2)
        pool = self.pool()
        items = [(number, barrier) for number in range(300)]
        self.assertTrue(all(pool.istarmap(meet, items)))
        results = [pool.apply_async(meet, item) for item in items]
        self.assertTrue(all(result.get(60) for result in results))
        # One by one: the items of a chunk can never wait for each other.
        self.assertTrue(all(pool.starmap(meet, items, 1)))

    def test_task_that_waits_for_who_takes_results(self) -> None:
        event = context.Event()
        pool = self.pool()
        results = [pool.apply_async(pass_or_wait, (n, event)) for n in range(300)]
        for number, result in enumerate(results):
            if number == 100:
                event.set()  # when it has had every result before
            self.assertTrue(result.get(60))

    def test_initializer_once_in_each_worker(self) -> None:
        pool = self.pool(None, count_up)
        seen = pool.map(runs_of_initializer, range(60), 1)
        by_pid: dict[int, set[str]] = {}
        for pid, runs in seen:
            by_pid.setdefault(pid, set()).add(runs)
        for runs in by_pid.values():
            self.assertEqual(len(runs), 1)

    def test_arrays_are_writable(self) -> None:
        import numpy as np

        total, array = self.pool().apply(fill, (np.zeros(300_000),))
        self.assertEqual(total, 2_100_000)
        array[0] = 1

    def test_progress(self) -> None:
        seen: list[Any] = []
        self.pool().map(square, range(40), 2, progress=lambda *done: seen.append(done))
        self.assertEqual(seen[-1], (40, 40))

    def test_order(self) -> None:
        squares = [x * x for x in range(3000)]
        pool = self.pool()
        self.assertEqual(list(pool.imap(square, range(3000))), squares)
        self.assertEqual(sorted(pool.imap_unordered(square, range(3000))), squares)

    def test_input_is_read_as_results_are_taken(self) -> None:
        pulled: list[int] = []

        def endless() -> Any:
            while True:
                pulled.append(len(pulled))
                yield pulled[-1]

        results = self.pool().imap(square, endless(), buffersize=8)
        for expected in (0, 1, 4, 9):
            self.assertEqual(next(results), expected)
        self.assertLessEqual(len(pulled), 4 + 8 + 8)
        results.cancel()

    def test_terminate_answers_those_who_wait(self) -> None:
        pool = self.pool()
        results = [pool.apply_async(nap, (2,)) for _ in range(20)]
        pool.terminate()
        for result in results:
            with self.assertRaises(RuntimeError):
                result.get(60)

    def test_shared_value(self) -> None:
        value = context.Value("i", 0)
        self.pool().starmap(add_locked, [(value, 20)] * 4, 1)
        self.assertEqual(value.value, 80)

    def test_lock_of_a_process_that_died(self) -> None:
        lock = context.Lock()
        process = context.Process(target=hold_and_die, args=(lock,))
        process.start()
        process.join(60)
        self.assertEqual(process.exitcode, -signal.SIGKILL)
        with self.assertRaises(sidestep.OwnerDied):
            lock.acquire()
        lock.release()

    def test_processes(self) -> None:
        source, target = context.Queue(), context.Queue()
        process = context.Process(target=pass_on, args=(source, target))
        process.start()
        for item in (*range(50), None):
            source.put(item)
        self.assertEqual([target.get() for _ in range(50)], [*range(0, 100, 2)])
        process.join(60)
        self.assertEqual(process.exitcode, 0)
        process = context.Process(target=end_with, args=(7,))
        process.start()
        process.join(60)
        self.assertEqual(process.exitcode, 7)

    def test_process_that_is_terminated(self) -> None:
        process = context.Process(target=begin_and_nap, args=(str(self.mark), 300))
        process.start()
        self.wait_for_mark()
        self.assertTrue(process.is_alive())
        process.terminate()
        process.join(60)
        self.assertEqual(process.exitcode, -signal.SIGTERM)


def main() -> int:
    global name, context
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("engine", choices=["executor", "dask", "mpi", "ray"])
    parser.add_argument("-k", default="", help="only tests whose name has this")
    chosen = parser.parse_args()
    name = chosen.engine
    if name == "executor":
        executor = sidestep.ProcessPoolExecutor(2)
        context = sidestep.get_context("cluster", cluster=executor)
    elif name == "mpi":
        context = sidestep.get_context("mpi")
    else:
        context = sidestep.get_context(name, workers=2)
    loader = unittest.TestLoader()
    tests = unittest.TestSuite(
        test
        for test in loader.loadTestsFromTestCase(Behaviour)
        if chosen.k in test.id()
    )
    with context:
        result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(tests)
    failed = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    passed = result.testsRun - failed - skipped
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
