# SPDX-License-Identifier: MIT
"""aget and aput: queues in asyncio, without threads."""

import asyncio
import threading

import children
import pytest

import sidestep


def test_between_tasks():
    async def main():
        queue = sidestep.Queue()
        getter = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        await queue.aput({"a": 1})
        return await getter

    assert asyncio.run(main()) == {"a": 1}


def test_from_a_process(start):
    ctx = sidestep.get_context("fork")
    queue = ctx.Queue()

    async def main():
        start(ctx, children.put_all, queue, list(range(300)))
        return [await queue.aget() for _ in range(300)]

    assert asyncio.run(main()) == list(range(300))


def test_several_waiters():
    async def main():
        queue = sidestep.Queue()
        getters = [asyncio.create_task(queue.aget()) for _ in range(5)]
        await asyncio.sleep(0.01)
        for i in range(5):
            queue.put(i)
        return sorted(await asyncio.gather(*getters))

    assert asyncio.run(main()) == list(range(5))


def test_cancelled_waiter_takes_nothing():
    async def main():
        queue = sidestep.Queue()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queue.aget(), 0.01)
        queue.put(1)
        return await queue.aget()

    assert asyncio.run(main()) == 1


def test_the_loop_goes_on_meanwhile_and_no_thread_helps():
    before = threading.active_count()  # other tests leave feeder threads

    async def main():
        queue = sidestep.Queue()
        getter = asyncio.create_task(queue.aget())
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert threading.active_count() <= before
        queue.put("late")
        return await getter

    assert asyncio.run(main()) == "late"


def test_aput_waits_for_room(start):
    async def main():
        queue = sidestep.Queue(1)
        await queue.aput(1)
        putter = asyncio.create_task(queue.aput(2))
        await asyncio.sleep(0.01)
        assert not putter.done()
        got = [await queue.aget()]
        await putter
        return [*got, queue.get()]

    assert asyncio.run(main()) == [1, 2]


def test_two_loops_one_after_the_other():
    queue = sidestep.Queue()

    async def main(item):
        getter = asyncio.create_task(queue.aget())
        await asyncio.sleep(0.01)
        queue.put(item)
        return await getter

    assert asyncio.run(main(1)) == 1
    assert asyncio.run(main(2)) == 2
