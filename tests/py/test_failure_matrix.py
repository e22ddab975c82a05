# SPDX-License-Identifier: MIT
"""The ordinary failures in which pools hang, lose tasks, or break, one by one.

Each row by each start method: the caller gets an error that says what happened, and the
pool works on.
"""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import pool_tasks as tasks
import pytest

import sidestep
from sidestep.pool import MaybeEncodingError, WorkerLost

pytestmark = pytest.mark.skipif(
    not hasattr(sidestep._core, "PoolEngine"), reason="built without process pools"
)


@pytest.fixture(scope="module", params=["fork", "spawn", "forkserver"])
def pool(request):
    made = sidestep.get_context(request.param).Pool(2)
    yield made
    made.terminate()
    made.join()


#: What happens, what the caller gets, and the words in it.
ROWS = {
    "a task's worker is killed": (tasks.kill_self, (), WorkerLost, "SIGKILL"),
    "a task's worker exits": (tasks.exit_hard, (3,), WorkerLost, "exited with code 3"),
    "a task crashes": (tasks.segfault, (), WorkerLost, "SIGSEGV"),
    "exception not rebuilt": (
        tasks.raise_two_arguments,
        (),
        MaybeEncodingError,
        "TwoArguments",
    ),
    "exception not pickled": (
        tasks.raise_not_pickled,
        (),
        MaybeEncodingError,
        "ValueError",
    ),
    "result not rebuilt": (tasks.return_not_rebuilt, (), MaybeEncodingError, "rebuilt"),
    "result not pickled": (tasks.return_not_pickled, (), MaybeEncodingError, "pickled"),
    "argument not rebuilt": (
        tasks.identity,
        (tasks.NotRebuilt(),),
        LookupError,
        "rebuilt",
    ),
    "argument not pickled": (
        tasks.identity,
        (tasks.NotPickled(),),
        LookupError,
        "pickled",
    ),
    "sys.exit": (tasks.raise_system_exit, (3,), SystemExit, "3"),
    "KeyboardInterrupt": (tasks.raise_keyboard_interrupt, (), KeyboardInterrupt, None),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_task_fails_and_the_pool_works_on(pool, row):
    func, args, error, words = ROWS[row]
    gate = sidestep.Event()
    neighbour = pool.apply_async(tasks.wait_for, (gate, "neighbour"))
    failing = pool.apply_async(func, args)
    with pytest.raises(error, match=words):
        failing.get(20)
    gate.set()
    assert neighbour.get(20) == "neighbour"
    assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]


def test_what_a_lost_worker_leaves(pool):
    with pytest.raises(WorkerLost) as caught:
        pool.apply(tasks.exit_hard, (7,))
    assert caught.value.exitcode == 7
    assert caught.value.pid > 0
    assert caught.value.task == "exit_hard(7)"
    with pytest.raises(WorkerLost) as caught:
        pool.apply(tasks.segfault)
    assert caught.value.exitcode == -signal.SIGSEGV
    assert "in segfault" in caught.value.stack
    assert "in segfault" in str(caught.value)


def test_a_death_shows_within_50_ms(pool):
    pids = [None, None]
    results = [pool.apply_async(tasks.sleep_and_return, (1000,)) for _ in pids]
    while not all(map(pool._engine.is_running, results)):
        time.sleep(0.001)
    late = []
    for worker in list(pool._pool):
        begin = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        while not any(result.ready() for result in results):
            time.sleep(0.0005)
        late.append(time.monotonic() - begin)
        results = [result for result in results if not result.ready()]
    assert min(late) < 0.05, late


def test_idle_workers_are_killed(pool, eventually):
    assert pool.apply(tasks.square, (2,)) == 4
    workers = list(pool._pool)
    for worker in workers:
        worker.kill()
        worker.join()
    assert pool.map(tasks.square, range(10), 1) == [x * x for x in range(10)]
    eventually(lambda: not any(worker in pool._pool for worker in workers))


def test_a_failing_initializer(ctx, tmp_path):
    path = tmp_path / "starts"
    with ctx.Pool(2, tasks.fail_to_start_and_count, (str(path),)) as pool:
        for _ in range(3):
            with pytest.raises(ArithmeticError, match="no start"):
                pool.apply_async(tasks.square, (1,)).get(20)
    assert len(path.read_text()) <= 2 + 3


def test_a_dying_initializer(ctx):
    with ctx.Pool(1, tasks.die_at_start) as pool:
        with pytest.raises(WorkerLost, match=r"no worker.*starts.*SIGKILL"):
            pool.apply_async(tasks.square, (1,)).get(20)


def test_a_lambda(pool):
    assert pool.apply(lambda: 5) == 5
    assert pool.map(lambda x: x + 1, range(3)) == [1, 2, 3]


def test_one_loss_in_a_map_of_many(pool, tmp_path):
    path = str(tmp_path / "once")
    results = pool.imap(tasks.kill_self_once, [path] * 20)
    outcomes = []
    for _ in range(20):
        try:
            outcomes.append(next(results))
        except WorkerLost:
            outcomes.append("lost")
    assert outcomes.count("lost") == 1
    assert outcomes.count("done") == 19


def test_no_descriptors_for_so_many_workers(tmp_path):
    """The error is the system's; what was started is ended, the next pool works."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
            import gc, resource, sidestep
            if __name__ == "__main__":
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                for method in "fork", "spawn":
                    context = sidestep.get_context(method)
                    for _ in range(2):
                        try:
                            context.Pool(60)
                        except OSError as error:
                            print(error.errno, sidestep.active_children())
                        gc.collect()
                        with context.Pool(2) as pool:
                            print(sum(pool.map(abs, range(100))))
        """)
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == f"{errno.EMFILE} []\n4950\n" * 4


def test_descriptors_in_the_parent():
    before = len(os.listdir("/proc/self/fd"))
    with sidestep.get_context("fork").Pool(10) as pool:
        pool.map(tasks.square, range(10), 1)
        assert len(os.listdir("/proc/self/fd")) - before <= 4 * 10 + 8
