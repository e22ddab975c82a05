# SPDX-License-Identifier: MIT
"""The ordinary failures in which pools hang, lose tasks, or break, one by one.

Each row by each start method: the caller gets an error that says what happened, and the
pool works on.
"""

import contextlib
import errno
import gc
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pool_tasks as tasks
import psutil
import pytest

import sidestep
import sidestep.forkserver
from sidestep.pool import MaybeEncodingError, RemoteTraceback, WorkerLost


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
    "no memory": (tasks.allocate_too_much, (), MemoryError, None),
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


def test_remote_traceback(pool):
    with pytest.raises(ValueError, match="1") as caught:
        pool.apply(tasks.raise_value_error, (1,))
    assert type(caught.value.__cause__) is RemoteTraceback
    assert "raise ValueError(x)" in caught.value.__cause__.tb


def test_causes_and_notes_survive(pool):
    with pytest.raises(ValueError, match="outer") as caught:
        pool.apply(tasks.raise_chain)
    error = caught.value
    assert error.__notes__ == ["a note"]
    assert type(error.__cause__) is KeyError
    assert error.__cause__.__notes__ == ["a note of the cause"]
    assert type(error.__cause__.__cause__) is RemoteTraceback
    with pytest.raises(ValueError, match="while handling") as caught:
        pool.apply(tasks.raise_in_handler)
    assert type(caught.value.__cause__) is RemoteTraceback


def test_groups_survive(pool):
    with pytest.raises(ExceptionGroup) as caught:
        pool.apply(tasks.raise_group)
    inner, second = caught.value.exceptions
    assert inner.args == (2, "inner")
    assert type(inner.__cause__) is KeyError
    assert type(second) is ValueError


@pytest.mark.parametrize(
    ("func", "args", "error"),
    [
        (tasks.raise_system_exit, (3,), SystemExit),
        (tasks.raise_keyboard_interrupt, (), KeyboardInterrupt),
    ],
)
def test_what_is_no_exception_comes_back(pool, func, args, error):
    before = {worker.pid for worker in pool._pool}
    with pytest.raises(error):
        pool.apply(func, args)
    assert pool.apply(tasks.pid_of) in before


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


def test_a_death_shows_within_50_ms(pool, end_of, eventually):
    results = []
    late = []

    def all_run():
        return all(map(pool._engine.is_running, results))

    def ended():
        return [result for result in results if result.ready()]

    for _ in range(5):
        while len(results) < 2:
            results.append(pool.apply_async(tasks.sleep_and_return, (1000,)))
        eventually(all_run)
        worker = pool._pool[0]
        end = end_of(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        (lost,) = eventually(ended)
        late.append(time.monotonic() - end())
        results.remove(lost)
    assert statistics.median(late) < 0.05, late
    results[0].cancel()


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
    assert len(path.read_text()) <= 3


def test_a_dying_initializer(ctx, tmp_path):
    path = tmp_path / "starts"
    with ctx.Pool(2, tasks.die_at_start_and_count, (str(path),)) as pool:
        with pytest.raises(WorkerLost, match=r"no worker.*starts.*SIGKILL"):
            pool.apply_async(tasks.square, (1,)).get(20)
    assert len(path.read_text()) <= 3


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_initargs_that_do_not_pickle(method):
    before = sidestep.active_children()
    with pytest.raises(LookupError, match="pickled"):
        sidestep.get_context(method).Pool(2, tasks.identity, (tasks.NotPickled(),))
    assert sidestep.active_children() == before


def test_a_lambda(pool):
    assert pool.apply(lambda: 5) == 5
    assert pool.map(lambda x: x + 1, range(3)) == [1, 2, 3]


def test_a_pool_inside_a_pool(pool):
    method = pool._ctx.get_start_method()
    assert pool.apply(tasks.nested, (method,)) == [0, 1, 4, 9, 16]


def test_a_time_limit_kills_one_task(pool):
    event = sidestep.Event()
    waiting = pool.map_async(tasks.wait_for, [event], timeout=0.05)
    neighbour = pool.apply_async(tasks.square, (3,))
    with pytest.raises(sidestep.TimeoutError, match="wait_for"):
        waiting.get()
    assert neighbour.get() == 9
    assert pool.apply(tasks.square, (2,), timeout=20) == 4


def test_a_death_in_a_pool_that_is_closed(ctx):
    pool = ctx.Pool(2)
    lost = pool.apply_async(tasks.kill_self)
    others = pool.map_async(tasks.square, range(20), 1)
    pool.close()
    pool.join()
    with pytest.raises(WorkerLost):
        lost.get()
    assert others.get() == [x * x for x in range(20)]


def test_a_pool_is_dropped(ctx, eventually):
    pool = ctx.Pool(2)
    pool.itself = pool
    pool.map(tasks.square, range(4))
    pids = [worker.pid for worker in pool._pool]
    texts = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        # A recorded warning would keep the pool, which is its source.
        warnings.showwarning = lambda message, *_args, **_kwds: texts.append(
            str(message)
        )
        del pool
        gc.collect()
    assert any("unclosed running" in text for text in texts)
    eventually(lambda: all(map(is_gone, pids)))


# ---- Memory ----


@pytest.fixture
def memory_group():
    """A control group with little memory, where the machine lets us make one."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "memory":
            group = Path(f"/sys/fs/cgroup/memory{name}", f"sidestep-{os.getpid()}")
            limit = "memory.limit_in_bytes"
        elif not controllers and Path(f"/sys/fs/cgroup{name}/memory.max").exists():
            group = Path(f"/sys/fs/cgroup{name}", f"sidestep-{os.getpid()}")
            limit = "memory.max"
        else:
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(128 << 20))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_a_worker_is_out_of_memory(memory_group):
    program = f"""
        import os, sidestep, pool_tasks as tasks
        if __name__ == "__main__":
            with open("{memory_group}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
            with sidestep.get_context("fork").Pool(1) as pool:
                try:
                    pool.apply(tasks.use_memory, (256 << 20,))
                except sidestep.pool.WorkerLost as error:
                    print(error.exitcode, error.out_of_memory, error)
                try:
                    pool.apply(tasks.kill_self)
                except sidestep.pool.WorkerLost as error:
                    print(error.exitcode, error.out_of_memory)
                print(pool.apply(tasks.square, (3,)))
            pool.join()
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("-9 True "), done.stderr
    assert "was killed by SIGKILL (out of memory) while it ran use_memory" in lines[0]
    assert lines[1:] == ["-9 False", "9"]


# ---- The end of a program ----


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def started(name, method):
    with subprocess.Popen(
        [sys.executable, Path(__file__).parent / "pool_programs.py", name, method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            yield program
        finally:
            program.kill()


#: All of them start a program, and under spawn its workers, too.
programs = pytest.mark.slow


@programs
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("name", ["ends", "ends_with_a_cycle", "ends_inside_a_thread"])
def test_the_interpreter_ends(name, method):
    with started(name, method) as program:
        out, errors = program.communicate(timeout=30)
    assert (program.returncode, out) == (0, "ends\n"), errors
    assert "Traceback" not in errors


@programs
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("name", ["has_idle_workers", "has_nested_pools"])
def test_the_parent_is_killed(name, method, eventually):
    with started(name, method) as program:
        told = {int(pid) for pid in program.stdout.readline().split()}
        assert len(told) == 3
        pids = {
            child.pid for child in psutil.Process(program.pid).children(recursive=True)
        }
        assert told <= pids
        program.kill()
    eventually(lambda: all(map(is_gone, pids)))


@programs
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    "name",
    [
        "waits_by_apply",
        "waits_by_map",
        "waits_by_imap",
        "waits_by_get",
        "waits_inside_with",
        "waits_for_a_future",
    ],
)
def test_ctrl_c(name, method, eventually):
    with started(name, method) as program:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        assert len(pids) == 4
        os.killpg(program.pid, signal.SIGINT)
        errors = program.stderr.read()
        assert program.wait(10) in {130, -signal.SIGINT}, errors
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    eventually(lambda: all(map(is_gone, pids)))


# ---- Many ----


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
                for method in "fork", "forkserver", "spawn":
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
    assert done.stdout == f"{errno.EMFILE} []\n4950\n" * 6


def count_descriptors():
    """Of this process, but those of the children that the fork server keeps ready."""
    sidestep.forkserver._forkserver._stop()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
def test_descriptors_in_the_parent(ctx):
    """The standard library's has 26 for ten workers."""
    with ctx.Pool(1) as pool:  # what the first pool makes for all
        pool.apply(tasks.square, (1,))
    pool.join()
    before = count_descriptors()
    with ctx.Pool(10) as pool:
        pool.map(tasks.square, range(10), 1)
        assert count_descriptors() - before <= 2 * 10 + 6
    pool.join()
    assert count_descriptors() == before
