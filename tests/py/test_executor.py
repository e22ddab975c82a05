# SPDX-License-Identifier: MIT
"""ProcessPoolExecutor: the interface of concurrent.futures over our pools."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

import option_tasks
import pool_tasks as tasks
import pytest

import sidestep
from sidestep.futures import ProcessPoolExecutor


@pytest.fixture(scope="module", params=["fork", "spawn", "forkserver"])
def executor(request):
    with ProcessPoolExecutor(2, sidestep.get_context(request.param)) as made:
        yield made


@pytest.fixture
def fork_executor():
    with ProcessPoolExecutor(1, sidestep.get_context("fork")) as made:
        yield made


def test_submit(executor):
    assert executor.submit(pow, 2, 8).result() == 256
    assert executor.submit(tasks.add, 2, y=8).result() == 10
    future = executor.submit(tasks.raise_value_error, 5)
    with pytest.raises(ValueError, match="5"):
        future.result()
    assert isinstance(future.exception(), ValueError)


def test_map(executor):
    assert list(executor.map(pow, range(10), range(10))) == list(
        map(pow, range(10), range(10))
    )
    assert list(executor.map(pow, range(10), range(10), chunksize=3)) == list(
        map(pow, range(10), range(10))
    )
    results = executor.map(divmod, [1, 1, 1], [2, 0, 3])
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    for wrong in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError, match="size"):
            executor.map(pow, [1], [1], **wrong)


def test_map_of_an_endless_input(executor):
    pulled = []

    def endless():
        while True:
            pulled.append(len(pulled))
            yield pulled[-1]

    results = executor.map(tasks.square, endless(), buffersize=4)
    assert [next(results) for _ in range(50)] == [x * x for x in range(50)]
    assert len(pulled) <= 56
    results.close()


def test_map_with_a_time_limit(executor):
    event = sidestep.Event()
    results = executor.map(tasks.wait_for, [event], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    event.set()


def test_waiting(executor):
    some = [executor.submit(tasks.square, i) for i in range(20)]
    done, rest = futures.wait(some, timeout=20)
    assert len(done) == 20
    assert not rest
    assert {future.result() for future in futures.as_completed(some)} == {
        i * i for i in range(20)
    }


def test_asyncio(executor):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, tasks.square, i) for i in range(5)]
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_a_lost_worker_fails_one_future(executor):
    event = sidestep.Event()
    neighbour = executor.submit(tasks.wait_for, event, "neighbour")
    lost = executor.submit(tasks.kill_self)
    with pytest.raises(BrokenProcessPool) as caught:
        lost.result()
    assert isinstance(caught.value, sidestep.pool.WorkerLost)
    assert caught.value.exitcode == -9
    event.set()
    assert neighbour.result() == "neighbour"
    assert executor.submit(pow, 2, 3).result() == 8


def test_a_lost_worker_ends_a_map(executor):
    with pytest.raises(BrokenProcessPool, match="SIGKILL"):
        list(executor.map(tasks.kill_self, [1]))
    assert list(executor.map(tasks.square, [1, 2])) == [1, 4]


def test_a_forked_child_has_no_part_in_it(fork_executor):
    fork_executor.submit(tasks.square, 1).result()
    pid = os.fork()
    if pid == 0:
        try:
            fork_executor.submit(tasks.square, 1)
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert fork_executor.submit(tasks.square, 3).result() == 9


def test_workers_of_the_standard_library():
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context) as executor:
        assert executor.submit(tasks.square, 3).result() == 9
    with futures.ProcessPoolExecutor(1, sidestep.get_context("fork")) as executor:
        assert executor.submit(tasks.square, 3).result() == 9


def test_it_is_exported():
    assert sidestep.ProcessPoolExecutor is ProcessPoolExecutor
    assert issubclass(ProcessPoolExecutor, futures.Executor)


def test_cancel(fork_executor, eventually):
    event = sidestep.Event()
    running = fork_executor.submit(tasks.wait_for, event, 1)
    waiting = fork_executor.submit(tasks.square, 2)
    eventually(running.running)
    assert not running.cancel()
    assert waiting.cancel()
    assert waiting.cancelled()
    assert not waiting.running()
    assert futures.wait([waiting], timeout=20).done == {waiting}
    event.set()
    assert running.result() == 1
    assert fork_executor.submit(tasks.square, 3).result() == 9


def test_shutdown(ctx):
    executor = ProcessPoolExecutor(1, ctx)
    some = [executor.submit(tasks.sleep_and_return, 0.01, i) for i in range(10)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.square, 1)
    assert [future.result() for future in some] == list(range(10))


def test_shutdown_cancels(ctx, eventually):
    executor = ProcessPoolExecutor(1, ctx)
    event = sidestep.Event()
    running = executor.submit(tasks.wait_for, event)
    some = [executor.submit(tasks.square, i) for i in range(10)]
    eventually(running.running)

    def release():
        eventually(lambda: all(future.cancelled() for future in some))
        event.set()

    helper = threading.Thread(target=release)
    helper.start()
    executor.shutdown(cancel_futures=True)  # waits for the one that runs
    helper.join()
    assert all(future.cancelled() for future in some)
    assert running.result() is None


@pytest.mark.parametrize("name", ["terminate_workers", "kill_workers"])
def test_ending_the_workers(ctx, name, eventually):
    executor = ProcessPoolExecutor(1, ctx)
    event = sidestep.Event()
    running = executor.submit(tasks.wait_for, event)
    waiting = executor.submit(tasks.square, 1)
    eventually(running.running)
    getattr(executor, name)()
    with pytest.raises(BrokenProcessPool):
        running.result(20)
    assert waiting.cancelled()
    eventually(lambda: not executor._processes)


def test_recycling(ctx):
    with ProcessPoolExecutor(1, ctx, max_tasks_per_child=2) as executor:
        pids = [executor.submit(tasks.pid_of).result() for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_initializers(ctx):
    with ProcessPoolExecutor(1, ctx, tasks.remember, ("here",)) as executor:
        assert executor.submit(tasks.recall).result() == ["here"]
    with ProcessPoolExecutor(1, ctx, tasks.fail_to_start) as executor:
        for use in (
            lambda: executor.submit(tasks.square, 1).result(),
            lambda: executor.submit(tasks.square, 1),
            lambda: list(executor.map(tasks.square, [1])),
        ):
            with pytest.raises(BrokenProcessPool, match="initializer") as caught:
                use()
            assert isinstance(caught.value.__cause__, ArithmeticError)


def test_arguments():
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            ProcessPoolExecutor(number)
    with pytest.raises(TypeError):
        ProcessPoolExecutor(1, max_tasks_per_child="3")
    with pytest.raises(TypeError):
        ProcessPoolExecutor(1, initializer=1)


# ---- The options of a pool's workers ----


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"nonsense": 1}, TypeError, r"ProcessPoolExecutor\(\) got an unexpected"),
        ({"name": 3}, TypeError, "name must be a string"),
        ({"memory_limit": 0}, ValueError, "must be positive"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
    ],
)
def test_wrong_options(options, error, text):
    with pytest.raises(error, match=text):
        ProcessPoolExecutor(1, **options)


def test_options_are_by_keyword(ctx):
    with pytest.raises(TypeError, match="positional"):
        ProcessPoolExecutor(1, ctx, None, (), 3)


def test_options_of_workers(executor, tmp_path):
    path = tmp_path / "exits"
    options = {"name": "images", "seed": 7, "threads": 1, "pin": True}
    with ProcessPoolExecutor(
        1, executor._mp_context, worker_exit=option_tasks.WriteIndex(path), **options
    ) as ours:
        index, name, pool, pid = ours.submit(option_tasks.whoami).result()
        assert (index, name, pool) == (0, "images-0", "images")
        assert list(ours._processes) == [pid]
        assert ours.submit(option_tasks.environment, "OMP_NUM_THREADS").result() == "1"
        assert len(ours.submit(option_tasks.affinity, 0).result()[1]) == 1
        drawn = ours.submit(option_tasks.draw).result()
    assert path.read_text() == "0-\n"
    with ProcessPoolExecutor(1, executor._mp_context, seed=7) as ours:
        assert ours.submit(option_tasks.draw).result() == drawn


def test_idle_workers_leave(ctx, eventually):
    with ProcessPoolExecutor(1, ctx, idle_timeout=0.02) as executor:
        first = executor.submit(tasks.pid_of).result()
        eventually(lambda: executor._pool.statistics()["workers"] == 0)
        assert not executor._processes
        assert executor.submit(tasks.pid_of).result() != first


def test_logs_of_workers(ctx, caplog):
    with ProcessPoolExecutor(1, ctx, log=True, name="w") as executor:
        executor.submit(option_tasks.log, "sidestep.tests", 3).result()
    record = caplog.records[0]
    assert (record.getMessage(), record.processName) == ("3 of 0", "w-0")


@pytest.mark.slow
def test_memory_limits(ctx):
    size = 400 * option_tasks.MIB
    with ProcessPoolExecutor(1, ctx, memory_limit=(None, size)) as executor:
        event = ctx.Event()
        future = executor.submit(option_tasks.use_and_wait, 3 * size // 2, event)
        with pytest.raises(sidestep.pool.MemoryLimitExceeded) as caught:
            future.result()
        assert isinstance(caught.value, BrokenProcessPool)
        assert caught.value.limit == size < caught.value.size
        assert executor.submit(pow, 2, 3).result() == 8


def test_map_when_a_program_adds_an_istarmap_of_its_own(executor, monkeypatch):
    """As many do for tqdm, for all pools there are."""
    monkeypatch.setattr(sidestep.pool.Pool, "istarmap", None, raising=False)
    assert list(executor.map(pow, [2, 3], [2, 2])) == [4, 9]


def test_what_was_submitted_is_done_at_exit():
    code = """
        import time
        from sidestep.futures import ProcessPoolExecutor
        def late():
            time.sleep(0.2)
            print("apple", flush=True)
        if __name__ == "__main__":
            ProcessPoolExecutor(2).submit(late)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "apple\n", "")
