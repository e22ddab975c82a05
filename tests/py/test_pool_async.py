# SPDX-License-Identifier: MIT
"""Pools in asyncio: what is awaited, what is cancelled, and that no thread helps."""

import asyncio
import contextlib
import itertools
import os
import threading

import pool_tasks as tasks
import pytest

import sidestep
from sidestep.pool import CancelledError, ThreadPool, WorkerLost


@pytest.fixture(params=["processes", "threads"])
def pool(request):
    if request.param == "threads":
        made = ThreadPool(2)
    else:
        made = sidestep.get_context("fork").Pool(2)
    yield made
    made.terminate()
    made.join()


@pytest.fixture
def processes():
    made = sidestep.get_context("fork").Pool(2)
    yield made
    made.terminate()
    made.join()


def started(path):
    """Write our pid for whoever waits for this call to run, and never return."""
    with open(f"{path}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{path}.new", path)
    threading.Event().wait()


async def until(is_so):
    while not is_so():  # noqa: ASYNC110 - another process makes it so
        await asyncio.sleep(0.001)


def test_calls(pool):
    async def main():
        assert await pool.aapply(tasks.add, (1,), {"y": 2}) == 3
        assert await pool.amap(tasks.square, range(100)) == [x * x for x in range(100)]
        assert await pool.amap(tasks.square, range(10), 3) == [x * x for x in range(10)]
        assert await pool.astarmap(tasks.add, [(1, 2), (3, 4)]) == [3, 7]
        assert await pool.amap(tasks.square, []) == []

    asyncio.run(main())


def test_iterators(pool):
    async def main():
        squares = [x * x for x in range(100)]
        assert [y async for y in pool.aimap(tasks.square, range(100))] == squares
        assert [y async for y in pool.aimap(tasks.square, range(100), 7)] == squares
        unordered = pool.aimap_unordered(tasks.square, range(100))
        assert sorted([y async for y in unordered]) == squares
        assert [y async for y in pool.aistarmap(tasks.add, [(1, 2)])] == [3]
        assert [y async for y in pool.imap(tasks.square, iter([]))] == []

    asyncio.run(main())


def test_an_endless_input(processes):
    async def main():
        results = processes.aimap(tasks.square, itertools.count(), buffersize=4)
        async with contextlib.aclosing(results):
            return [await anext(results) for _ in range(50)]

    assert asyncio.run(main()) == [x * x for x in range(50)]


def test_results_and_what_they_raise(pool):
    async def main():
        result = pool.apply_async(tasks.square, (3,))
        assert await result == 9
        assert await result == 9
        with pytest.raises(TypeError):
            await pool.aapply(tasks.square, (None,))
        results = pool.aimap(tasks.square, [1, None, 3])
        assert await anext(results) == 1
        with pytest.raises(TypeError):
            await anext(results)
        assert await anext(results) == 9
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    asyncio.run(main())


def test_many_at_once(pool):
    async def main():
        calls = [pool.aapply(tasks.square, (x,)) for x in range(300)]
        assert await asyncio.gather(*calls) == [x * x for x in range(300)]

    asyncio.run(main())


def test_several_wait_for_one(pool):
    async def main():
        result = pool.apply_async(tasks.square, (3,))

        async def wait():
            return await result

        assert await asyncio.gather(wait(), wait(), wait()) == [9, 9, 9]
        results = pool.aimap(tasks.square, range(40))

        async def take():
            return [y async for y in results]

        taken = await asyncio.gather(take(), take())
        assert sorted(taken[0] + taken[1]) == [x * x for x in range(40)]

    asyncio.run(main())


def test_the_loop_goes_on_and_no_thread_helps(processes):
    async def main():
        before = set(threading.enumerate())
        gate = sidestep.Event()
        result = asyncio.create_task(processes.aapply(tasks.wait_for, (gate, 5)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert set(threading.enumerate()) == before
        gate.set()
        assert await result == 5
        assert set(threading.enumerate()) == before

    asyncio.run(main())


def test_a_cancelled_task_cancels_the_call(processes, tmp_path):
    async def main():
        path = tmp_path / "pid"
        task = asyncio.create_task(processes.aapply(started, (path,)))
        await until(path.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await processes.amap(tasks.square, range(4)) == [0, 1, 4, 9]
        pid = int(path.read_text())
        await until(lambda: pid not in {worker.pid for worker in processes._pool})

    asyncio.run(main())


def test_a_timeout_cancels_a_map_and_an_iterator(processes):
    async def main():
        gate = sidestep.Event()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(processes.amap(tasks.wait_for, [gate] * 9), 0.01)
        results = processes.aimap(tasks.wait_for, [gate] * 9)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.01)
        with pytest.raises(CancelledError):
            await anext(results)
        assert await processes.amap(tasks.square, range(4)) == [0, 1, 4, 9]

    asyncio.run(main())


def test_threads_run_on_what_is_cancelled_is_dropped():
    async def main(pool, gate):
        running = [asyncio.create_task(pool.aapply(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in running:
            task.cancel()
        done = await asyncio.gather(*running, return_exceptions=True)
        assert [type(error) for error in done] == [asyncio.CancelledError] * 3
        gate.set()
        assert await pool.aapply(tasks.square, (3,)) == 9

    with ThreadPool(1) as pool:
        asyncio.run(main(pool, threading.Event()))


def test_a_worker_that_dies_and_a_pool_that_ends(processes):
    async def main():
        with pytest.raises(WorkerLost):
            await processes.aapply(tasks.kill_self)
        gate = sidestep.Event()
        left = asyncio.create_task(processes.aapply(tasks.wait_for, (gate,)))
        await asyncio.sleep(0)
        processes.terminate()
        with pytest.raises(RuntimeError, match="terminated"):
            await left

    asyncio.run(main())


def test_a_loop_that_is_gone_hurts_nobody(pool):
    gate = threading.Event() if isinstance(pool, ThreadPool) else sidestep.Event()
    result = pool.apply_async(tasks.wait_for, (gate, 7))
    loop = asyncio.new_event_loop()

    async def wait():
        await result

    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gate.set()
    assert result.get() == 7
    task._log_destroy_pending = False
    task.get_coro().close()


def test_in_two_loops_of_two_threads(pool):
    def run(results):
        async def main():
            return [await pool.aapply(tasks.square, (x,)) for x in range(50)]

        results.append(asyncio.run(main()))

    results = []
    threads = [threading.Thread(target=run, args=(results,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[x * x for x in range(50)]] * 2


def test_in_a_forked_child_it_raises(processes):
    gate = sidestep.Event()
    result = processes.apply_async(tasks.wait_for, (gate, 1))

    def child(answers):
        async def main():
            await result

        try:
            asyncio.run(main())
        except RuntimeError as error:
            answers.put(str(error))

    ctx = sidestep.get_context("fork")
    answers = ctx.SimpleQueue()
    process = ctx.Process(target=child, args=(answers,))
    process.start()
    assert "belongs to the process" in answers.get()
    process.join()
    gate.set()
    assert result.get() == 1
