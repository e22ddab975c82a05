# SPDX-License-Identifier: MIT
"""What pools have over the standard library's, in their workers."""

import logging
import os
import random
import re
import threading

import option_tasks as tasks
import pytest

import sidestep
from sidestep.pool import (
    MemoryLimitExceeded,
    SoftTimeLimitExceeded,
    ThreadPool,
    WorkerLost,
    current_worker,
)

MIB = tasks.MIB

METHODS = [
    "fork",
    pytest.param("forkserver", marks=pytest.mark.slow),
    pytest.param("spawn", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=METHODS)
def ctx(request):
    return sidestep.get_context(request.param)


@pytest.fixture
def fork():
    return sidestep.get_context("fork")


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# ---- The options themselves ----


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"nonsense": 1}, TypeError, r"Pool\(\) got an unexpected .* 'nonsense'"),
        ({"name": 3}, TypeError, "name must be a string"),
        ({"memory_limit": "1G"}, TypeError, "number of bytes"),
        ({"memory_limit": 0}, ValueError, "must be positive"),
        ({"memory_limit": (2, 1)}, ValueError, "soft limit is above"),
        ({"idle_timeout": 0}, ValueError, "idle_timeout must be positive"),
        ({"worker_exit": 3}, TypeError, "worker_exit must be a callable"),
        ({"seed": 1.5}, TypeError, "seed must be"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"threads": "many"}, TypeError, "threads must be an int"),
    ],
)
def test_wrong_options(fork, options, error, text):
    with pytest.raises(error, match=text):
        fork.Pool(1, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"memory_limit": 1 << 30},
        {"idle_timeout": 1},
        {"seed": 1},
        {"threads": 1},
        {"pin": True},
    ],
)
def test_threads_refuse_what_is_for_processes(options):
    with pytest.raises(ValueError, match="is for pools of processes: threads"):
        ThreadPool(1, **options)


def test_threads_refuse_limits_of_time():
    with ThreadPool(1) as pool, pytest.raises(ValueError, match="cannot be killed"):
        pool.apply(len, ("",), soft_timeout=1)


# ---- Who a worker is ----


def test_current_worker(ctx):
    with pytest.raises(RuntimeError, match="for code that a worker of a pool runs"):
        current_worker()
    with ctx.Pool(2, name="images") as pool:
        pids = {worker.name: worker.pid for worker in pool._pool}
        assert sorted(pids) == ["images-0", "images-1"]
        index, name, pool_name, pid = pool.apply(tasks.whoami)
        assert (name, pool_name, pid) == (f"images-{index}", "images", pids[name])


def test_names_of_workers_without_a_name(fork):
    with fork.Pool(1) as pool:
        _, name, pool_name, _ = pool.apply(tasks.whoami)
        assert re.fullmatch(r"ForkPoolWorker-\d+", name)
        assert re.fullmatch(r"Pool-\d+", pool_name)


def test_state_and_exit_hook(ctx, tmp_path):
    path = tmp_path / "exits"
    pool = ctx.Pool(
        1, tasks.put_state, ("key", "+"), 2, worker_exit=tasks.WriteIndex(path)
    )
    assert pool.map(tasks.get_state, ["key"] * 4, 1) == ["+"] * 4  # two workers
    pool.close()
    pool.join()
    assert path.read_text() == "0+\n" * len(path.read_text().splitlines())
    assert len(path.read_text().splitlines()) >= 2


def test_exit_hook_of_one_that_is_killed(fork, tmp_path):
    pool = fork.Pool(1, worker_exit=tasks.WriteIndex(tmp_path / "exits"))
    with pytest.raises(WorkerLost):
        pool.apply(tasks.log_and_die, ("x",))
    assert not (tmp_path / "exits").exists()
    pool.terminate()
    pool.join()
    assert not (tmp_path / "exits").exists()


def test_threads_have_state_and_exit_hook(tmp_path):
    path = tmp_path / "exits"
    pool = ThreadPool(
        2, tasks.put_state, ("key", "+"), name="t", worker_exit=tasks.WriteIndex(path)
    )
    index, name, pool_name, pid = pool.apply(tasks.whoami)
    assert (name, pool_name, pid) == (f"t-{index}", "t", os.getpid())
    assert pool.apply(tasks.get_state, ("key",)) == "+"
    pool.close()
    pool.join()
    assert sorted(path.read_text().split()) == ["0+", "1+"]
    with pytest.raises(RuntimeError):
        current_worker()


# ---- Soft limits of time ----


def sleep_while_unpickled():
    threading.Event().wait(0.1)
    return "argument"


class SlowToUnpickle:
    def __reduce__(self):
        return sleep_while_unpickled, ()


def test_soft_timeout_before_the_task_has_begun(fork):
    with fork.Pool(1) as pool, pytest.raises(SoftTimeLimitExceeded):
        pool.apply(tasks.catch_soft_limit, (SlowToUnpickle(),), soft_timeout=0.01)


def test_soft_timeout(ctx):
    with ctx.Pool(1) as pool:
        workers = {worker.pid for worker in pool._pool}
        with pytest.raises(SoftTimeLimitExceeded, match="over its soft time limit"):
            pool.apply(tasks.time.sleep, (60,), soft_timeout=0.01)
        assert pool.apply(len, ("",)) == 0
        assert {worker.pid for worker in pool._pool} == workers
    assert issubclass(SoftTimeLimitExceeded, sidestep.TimeoutError)


@pytest.mark.slow
def test_soft_timeout_that_is_caught(ctx):
    # The limits include the way to the line that catches the exception.
    with ctx.Pool(1) as pool:
        assert pool.apply(tasks.catch_soft_limit, (0,)) == "slept"
        assert pool.apply(tasks.catch_soft_limit, (60,), soft_timeout=0.5) == "caught"
        # Each item has its own, and its neighbours nothing of it.
        assert pool.map(
            tasks.catch_soft_limit, [0, 60, 0, 60], chunksize=4, soft_timeout=0.5
        ) == ["slept", "caught", "slept", "caught"]


@pytest.mark.slow
def test_hard_limit_after_a_soft_one(fork):
    """Who catches the first does not escape from the second."""
    with fork.Pool(1) as pool:
        # The soft one includes the way to the line that catches it.
        result = pool.imap(stubborn, [1], timeout=1, soft_timeout=0.5)
        with pytest.raises(sidestep.TimeoutError, match="was killed"):
            next(result)


def stubborn(_):
    import contextlib

    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            threading.Event().wait()


# ---- Memory ----


@pytest.mark.slow
def test_soft_memory_limit(ctx):
    with ctx.Pool(1, memory_limit=(400 * MIB, None)) as pool:
        first = pool.apply(tasks.keep, (1,))
        assert pool.apply(tasks.keep, (500 * MIB,)) == first  # its result is safe
        assert pool.apply(tasks.keep, (1,)) != first
        assert pool.statistics()["lost"] == 0


@pytest.mark.slow
def test_hard_memory_limit(ctx, eventually):
    with ctx.Pool(2, memory_limit=(None, 400 * MIB)) as pool:
        event = ctx.Event()
        other = pool.apply_async(tasks.use_and_wait, (1, event))
        with pytest.raises(
            MemoryLimitExceeded, match=r"used \d+ bytes, of 419430400"
        ) as e:
            pool.apply(tasks.use_and_wait, (600 * MIB, event))
        error = e.value
        assert isinstance(error, WorkerLost)
        assert error.limit == 400 * MIB < error.size
        assert error.exitcode == -9
        eventually(lambda: is_gone(error.pid))
        event.set()
        assert other.get() == 1


@pytest.mark.slow
def test_grandchildren_count_and_go(fork, tmp_path, eventually):
    with fork.Pool(1, memory_limit=(None, 150 * MIB + used_here())) as pool:
        with pytest.raises(MemoryLimitExceeded):
            pool.apply(tasks.use_in_a_child, (tmp_path / "pid",))
        child = int((tmp_path / "pid").read_text())
        eventually(lambda: is_gone(child))


def used_here():
    from sidestep import _memory

    return _memory.used_by(os.getpid())


def test_memory_is_not_looked_at_without_tasks(fork, monkeypatch):
    from sidestep import _workers

    looked = []
    monkeypatch.setattr(
        _workers._memory, "used_by", lambda pid: looked.append(pid) or 0
    )
    with fork.Pool(1, memory_limit=1 << 40) as pool:
        event = fork.Event()
        result = pool.apply_async(tasks.use_and_wait, (1, event))
        while not looked:
            result.wait(0.01)
        event.set()
        result.get()
        pool._engine.tidy()  # whoever looks has done with it
        del looked[:]
        threading.Event().wait(3 * _workers.MEMORY_INTERVAL)
        assert not looked


# ---- Workers that have nothing to do ----


def test_idle_timeout(ctx, eventually, tmp_path):
    with ctx.Pool(
        2, idle_timeout=0.02, worker_exit=tasks.WriteIndex(tmp_path / "exits")
    ) as pool:
        first = pool.apply(tasks.whoami)[3]
        for _ in range(4):  # more often than workers may fail to start
            eventually(lambda: pool.statistics()["workers"] == 0)
            assert pool._pool == []
            assert pool.apply(tasks.whoami)[3] != first
        assert pool.map(tasks.draw, range(50)) != []
    assert len((tmp_path / "exits").read_text().splitlines()) >= 8


# ---- Random numbers ----


def draws(ctx, seed, task):
    with ctx.Pool(1, maxtasksperchild=2, seed=seed) as pool:
        return [pool.apply(task) for _ in range(4)]


@pytest.mark.slow
def test_seed(ctx):
    first = draws(ctx, 7, tasks.draw)
    assert len(set(first)) == 4  # one that is replaced does not begin again
    assert draws(ctx, 7, tasks.draw) == first
    assert draws(ctx, "7", tasks.draw) != first
    numpy = draws(ctx, 7, tasks.draw_numpy)
    assert len(set(numpy)) == 4
    assert draws(ctx, 7, tasks.draw_numpy) == numpy


def test_seed_of_each_worker(fork):
    with fork.Pool(1, seed=7) as pool:
        seed = pool.apply(tasks.seed_of)
        assert pool.apply(tasks.draw) == random.Random(seed).random()
    with fork.Pool(1) as pool:
        assert pool.apply(tasks.seed_of) is None


# ---- Threads and CPUs ----


def test_threads(ctx):
    with ctx.Pool(2, threads=1) as pool:
        assert pool.apply(tasks.environment, ("OMP_NUM_THREADS",)) == "1"
        assert set(pool.apply(tasks.blas_threads)) <= {1}


def test_threads_by_default(ctx, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share = str(-(-ctx.cpu_count() // 2))
    wanted = None if ctx.get_start_method() == "fork" else share
    with ctx.Pool(2) as pool:
        assert pool.apply(tasks.environment, ("OMP_NUM_THREADS",)) == wanted
    with ctx.Pool(2, threads=None) as pool:
        assert pool.apply(tasks.environment, ("OMP_NUM_THREADS",)) is None
    if ctx.get_start_method() == "spawn":
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")  # the user has a say
        with ctx.Pool(2) as pool:
            assert pool.apply(tasks.environment, ("OMP_NUM_THREADS",)) is None


def test_pin(fork):
    cpus = sorted(os.sched_getaffinity(0))
    with fork.Pool(3, pin=True) as pool:
        for index, affinity in pool.map(tasks.affinity, range(9), 1):
            assert affinity == {cpus[index % len(cpus)]}


# ---- Logs ----


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def heard():
    logger = logging.getLogger("sidestep.tests")
    handler = Records()
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel("INFO")
    yield handler.records
    logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_log(ctx, heard):
    name = "sidestep.tests.inner"
    pool = ctx.Pool(
        1, tasks.log, (name, "start"), name="w", log=True, worker_exit=log_at_exit
    )
    for i in range(3):
        pool.apply(tasks.log, (name, i))
    assert [record.getMessage() for record in heard] == [
        "start of 0", "0 of 0", "1 of 0", "2 of 0",
    ]  # fmt: skip
    assert {(record.processName, record.name) for record in heard} == {("w-0", name)}
    with pytest.raises(WorkerLost):
        pool.apply(tasks.log_and_die, (name,))
    assert heard[4].getMessage() == "last words"
    pool.apply(tasks.log_exception, (name,))
    assert heard[6].getMessage() == "it failed"
    assert "KeyError: 'missing'" in heard[6].exc_text
    assert "lock" in heard[6].thing
    pool.close()
    pool.join()
    assert heard[7].getMessage() == "goodbye"
    assert len(heard) == 8


def log_at_exit():
    logging.getLogger("sidestep.tests").info("goodbye")
    logging.getLogger("sidestep.tests").debug("below the level")


# ---- Pools in pools ----


@pytest.mark.slow
def test_nested_pools_are_bounded(fork, monkeypatch):
    monkeypatch.setattr(type(fork), "cpu_count", lambda self: 6)
    with fork.Pool(2) as pool:
        assert pool.apply(tasks.default_size, (3,)) == [3, 1, 1]
        assert pool.apply(tasks.default_size_of_child, ("forkserver",)) == 3
    with fork.Pool(6) as pool:
        assert pool.apply(tasks.default_size, (1,)) == [1]
    with fork.Pool() as pool:
        assert pool._processes == 6


# ---- Cancelled ----


@pytest.mark.parametrize("kind", ["fork", "threads"])
def test_cancelled(fork, kind):
    with fork.Pool(1) if kind == "fork" else ThreadPool(1) as pool:
        event = fork.Event() if kind == "fork" else threading.Event()
        result = pool.apply_async(tasks.use_and_wait, (1, event))
        iterator = pool.imap(len, [""] * 10)
        assert not result.cancelled()
        assert not iterator.cancelled()
        assert iterator.cancel()
        assert result.cancel()
        assert iterator.cancelled()
        assert result.cancelled()
        assert not result.cancel()  # nothing is left of it,
        assert result.cancelled()  # and it stays what it is
        event.set()
        done = pool.apply_async(len, ("",))
        assert done.get() == 0
        assert not done.cancel()
        assert not done.cancelled()
