# SPDX-License-Identifier: MIT
"""Pool: what the standard library's does, by every start method."""

import gc
import itertools
import os
import pickle
import threading
import warnings
import weakref

import numpy as np
import pool_tasks as tasks
import pytest

import sidestep
from sidestep.pool import (
    CancelledError,
    IMapIterator,
    MaybeEncodingError,
    WorkerLost,
)


@pytest.fixture(scope="module", params=["fork", "spawn", "forkserver"])
def pool(request):
    made = sidestep.get_context(request.param).Pool(2)
    yield made
    made.terminate()
    made.join()


@pytest.fixture
def fork_pool():
    made = sidestep.get_context("fork").Pool(2)
    yield made
    made.terminate()
    made.join()


def fails_after(count):
    yield from range(count)
    raise KeyError("iterator")


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# ---- Calls ----


def test_apply(pool):
    assert pool.apply(tasks.square, (5,)) == 25
    assert pool.apply(tasks.add, (5,), {"y": 3}) == 8
    assert pool.apply(tasks.add, [5], {}) == 5
    with pytest.raises(ValueError, match="7"):
        pool.apply(tasks.raise_value_error, (7,))


def test_maps(pool):
    squares = [x * x for x in range(200)]
    assert pool.map(tasks.square, range(200)) == squares
    assert pool.map(tasks.square, iter(range(200)), chunksize=7) == squares
    assert pool.map(tasks.square, list(range(200)), 1) == squares
    assert pool.map(tasks.square, []) == []
    assert pool.starmap(tasks.add, [(1, 2), (3,)]) == [3, 3]
    assert pool.starmap_async(tasks.add, [(1, 2)] * 9, 4).get() == [3] * 9
    with pytest.raises(ValueError, match="3"):
        pool.map(tasks.raise_value_error, [3], chunksize=1)


def test_ranges(pool):
    for items in (range(-7, 5000, 3), range(10**30, 10**30 + 300), range(9, -900, -2)):
        squares = [x * x for x in items]
        assert pool.map(tasks.square, items) == squares
        assert pool.map(tasks.square, items, 64) == squares
        assert pool.map(tasks.square, items, 63) == squares
        assert list(pool.imap(tasks.square, items, 100)) == squares
    with pytest.raises(TypeError, match="not iterable"):
        pool.starmap(tasks.add, range(200), 100)
    with pytest.raises((OverflowError, MemoryError)):
        pool.map(tasks.square, range(10**30))


def test_iterators(pool):
    squares = [x * x for x in range(100)]
    assert list(pool.imap(tasks.square, range(100))) == squares
    assert list(pool.imap(tasks.square, iter(range(100)), 7)) == squares
    assert list(pool.imap(tasks.square, (x for x in range(100)))) == squares
    assert sorted(pool.imap_unordered(tasks.square, range(100))) == squares
    assert sorted(pool.imap_unordered(tasks.square, (x for x in range(100)), 9)) == (
        squares
    )
    assert list(pool.istarmap(tasks.add, [(1, 2), (3, 4)])) == [3, 7]
    assert list(pool.istarmap(tasks.add, [(1, 2)] * 5, 2)) == [3] * 5
    assert list(pool.imap(tasks.square, [])) == []
    assert isinstance(pool.imap(tasks.square, []), IMapIterator)
    with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
        pool.imap(tasks.square, [], 0)


def test_iterator_that_fails(pool):
    results = pool.imap(tasks.square, fails_after(3))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(KeyError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(KeyError):
        pool.map(tasks.square, fails_after(3))


def test_large_things(pool):
    data = bytes(3_000_000)
    assert pool.apply(tasks.identity, (data,)) == data
    assert pool.map(len, [data] * 3) == [len(data)] * 3


def test_functions_of_all_kinds(pool):
    import functools

    factor = 3
    assert pool.map(lambda x: x * factor, [1, 2]) == [3, 6]
    assert pool.map("a{}".format, [1, 2]) == ["a1", "a2"]
    assert pool.apply(functools.partial(tasks.add, 4), (5,)) == 9
    accumulator = []
    for i in range(3):
        accumulator.append(i)
        assert pool.apply(accumulator.count, (i,)) == 1  # as it is now, each time


def test_shared_objects_travel(pool):
    event = sidestep.Event()
    result = pool.apply_async(tasks.wait_for, (event, 5))
    event.set()
    assert result.get() == 5


def test_states_of_a_result(pool):
    event = sidestep.Event()
    result = pool.apply_async(tasks.wait_for, (event, "value"))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(sidestep.TimeoutError):
        result.get(timeout=0.001)
    iterator = pool.imap(tasks.wait_for, [event])
    with pytest.raises(sidestep.TimeoutError):
        iterator.next(timeout=0.001)
    event.set()
    result.wait()
    assert result.ready()
    assert result.successful()
    assert next(iterator) is None


def test_callbacks(pool):
    got, errors = [], []
    for call in (
        lambda: pool.apply_async(tasks.square, (4,), callback=got.append),
        lambda: pool.map_async(tasks.square, [1, 2], callback=got.append),
    ):
        call().wait()
    pool.apply_async(
        tasks.raise_value_error, (1,), callback=got.append, error_callback=errors.append
    ).wait()
    assert got == [16, [1, 4]]
    assert [type(error) for error in errors] == [ValueError]


def test_callback_without_anybody_waiting(pool):
    done = threading.Event()
    pool.apply_async(tasks.square, (4,), callback=lambda _: done.set())
    assert done.wait(20)


def test_callback_that_uses_the_pool(pool):
    got = []
    pool.apply_async(
        tasks.square,
        (4,),
        callback=lambda value: got.append(pool.apply(tasks.square, (value,))),
    ).wait()
    assert got == [256]


def test_who_waits_sees_what_the_callback_did(mp):
    got, begun, go = [], threading.Event(), threading.Event()

    def call_back(value):
        begun.set()
        go.wait()
        got.append(value)

    for made in (mp.get_context("fork").Pool(1), mp.pool.ThreadPool(1)):
        with made as pool:
            for event in (begun, go):
                event.clear()
            result = pool.apply_async(tasks.square, (4,), callback=call_back)
            assert begun.wait(20)
            try:
                assert not result.ready()
                result.wait(0.01)
                with pytest.raises(ValueError, match="not ready"):
                    result.successful()
                with pytest.raises(mp.TimeoutError):
                    result.get(0.01)
            finally:
                go.set()
            assert result.get() == 16
            assert got.pop() == 16


def test_a_callback_may_ask_its_own_result(fork_pool):
    got = []
    box = []
    there = threading.Event()

    def call_back(_):
        there.wait()
        got.append((box[0].ready(), box[0].get()))

    box.append(fork_pool.apply_async(tasks.square, (4,), callback=call_back))
    there.set()
    box[0].wait()
    assert got == [(True, 16)]


def test_many_threads(pool):
    failed = []

    def use():
        got = [pool.apply(tasks.square, (i,)) for i in range(30)]
        failed.extend(i for i in range(30) if got[i] != i * i)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# ---- What does not pickle ----


def test_argument_that_does_not_pickle(pool):
    with pytest.raises(LookupError):
        pool.apply(tasks.identity, (tasks.NotPickled(),))
    with pytest.raises(LookupError):
        pool.map(tasks.identity, [tasks.NotPickled()] * 3)
    assert pool.apply(tasks.square, (2,)) == 4


def test_argument_that_does_not_unpickle(pool):
    with pytest.raises(LookupError):
        pool.apply(tasks.identity, (tasks.NotRebuilt(),))


def test_result_that_does_not_pickle(pool):
    with pytest.raises(MaybeEncodingError, match="does not want to be pickled"):
        pool.apply(tasks.return_not_pickled)


def test_result_that_does_not_unpickle(pool):
    with pytest.raises(MaybeEncodingError, match="does not want to be rebuilt"):
        pool.apply(tasks.return_not_rebuilt)


def test_exception_that_does_not_pickle(pool):
    with pytest.raises(MaybeEncodingError, match="ValueError"):
        pool.apply(tasks.raise_not_pickled)


def test_exception_that_does_not_unpickle(pool):
    with pytest.raises(MaybeEncodingError, match="TwoArguments") as caught:
        pool.apply(tasks.raise_two_arguments)
    assert "raise TwoArguments" in str(caught.value.__cause__)


# ---- Workers ----


def test_initializer(ctx):
    with ctx.Pool(2, tasks.remember, ("started",)) as pool:
        assert pool.map(tasks.recall, range(10), 1) == [["started"]] * 10


def test_recycling(ctx, eventually):
    with ctx.Pool(1, maxtasksperchild=2) as pool:
        pids = pool.map(tasks.pid_of, range(6), chunksize=1)
        assert len(set(pids)) == 3
        assert all(pids.count(pid) == 2 for pid in pids)
        pool._repopulate_pool()
        eventually(lambda: all(worker.is_alive() for worker in pool._pool))


def test_states(ctx):
    pool = ctx.Pool(2)
    assert "state=RUN pool_size=2" in repr(pool)
    assert len(pool._pool) == 2
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    with pytest.raises(NotImplementedError, match="cannot be passed"):
        pickle.dumps(pool)
    result = pool.map_async(tasks.square, range(100))
    pool.close()
    for use in (pool.__enter__, lambda: pool.apply(tasks.square, (1,))):
        with pytest.raises(ValueError, match="Pool not running"):
            use()
    pool.join()
    assert result.get() == [x * x for x in range(100)]
    assert not pool._pool


def test_terminate_while_a_callback_runs(fork_pool, eventually):
    begun, leave = threading.Event(), threading.Event()

    def callback(_value):
        begun.set()
        leave.wait()

    def is_released():
        try:
            return not fork_pool._engine.handle
        except ValueError:
            return True

    def release():
        eventually(is_released)
        leave.set()

    fork_pool.apply_async(tasks.square, (2,), callback=callback)
    assert begun.wait(20)  # on the thread that looks after workers
    helper = threading.Thread(target=release)
    helper.start()
    fork_pool.terminate()
    helper.join()
    fork_pool.join()


def test_iterator_outlives_its_pool(ctx):
    pool = ctx.Pool(2)
    results = pool.imap(tasks.square, (x for x in range(50)))
    pool.close()
    pool.join()
    assert list(results) == [x * x for x in range(50)]


def test_join_with_a_time_limit(fork_pool):
    event = sidestep.Event()
    fork_pool.apply_async(tasks.wait_for, (event,))
    fork_pool.close()
    with pytest.raises(sidestep.TimeoutError):
        fork_pool.join(0.01)
    event.set()
    fork_pool.join(20)


def test_terminate_answers_those_who_wait(ctx):
    pool = ctx.Pool(1)
    running = pool.apply_async(tasks.sleep_and_return, (1000,))
    waiting = pool.map_async(tasks.square, range(1000), 1)
    iterator = pool.imap(tasks.square, range(10))
    pids = [worker.pid for worker in pool._pool]
    pool.terminate()
    pool.join()
    for get in (running.get, waiting.get, lambda: next(iterator)):
        with pytest.raises(RuntimeError, match="pool was terminated"):
            get()
    assert all(map(is_gone, pids))


def test_arguments():
    for size in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            sidestep.Pool(size)
    for tasks_max in (0, -1, 0.5, "12"):
        with pytest.raises(ValueError, match="maxtasksperchild"):
            sidestep.Pool(1, maxtasksperchild=tasks_max)
    with pytest.raises(TypeError, match="callable"):
        sidestep.Pool(1, initializer=1)


def test_own_processes():
    class Own(type(sidestep.get_context("fork")).Process):
        pass

    class OwnPool(sidestep.pool.Pool):
        @staticmethod
        def Process(ctx, *args, **kwds):  # noqa: N802 - the stdlib's name
            return Own(*args, **kwds)

    with OwnPool(2, context=sidestep.get_context("fork")) as pool:
        assert all(type(worker) is Own for worker in pool._pool)
        assert pool.map(tasks.square, [1, 2]) == [1, 4]


def test_processes_of_another_make():
    class Other:
        def __init__(self, **_kwargs):
            self.name = "other"
            self.exitcode = None
            self.state = "initial"
            others.append(self)

        def start(self):
            if len(others) > 3:
                raise OSError("no more of these")
            self.state = "started"

        def terminate(self):
            self.state = "stopping"

        def join(self):
            self.state = "stopped"

        def is_alive(self):
            return self.state in {"started", "stopping"}

    class Context:
        Process = Other

    others = []
    with pytest.raises(OSError, match="no more of these"):
        sidestep.pool.Pool(5, context=Context)
    assert len(others) == 4
    assert not any(other.is_alive() for other in others)


def test_tasks_leave_nothing_behind(pool):
    things = [tasks.Thing() for _ in range(3)]
    references = [weakref.ref(thing) for thing in things]
    assert len(pool.map(id, things)) == 3
    pool.apply(id, (things[0],))
    del things
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_pool_in_a_forked_child_is_the_parents(fork_pool):
    fork_pool.apply(tasks.square, (1,))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            fork_pool.apply(tasks.square, (1,))
        except ValueError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert os.read(read, 100) == b"Pool not running"
    os.close(read)
    assert fork_pool.apply(tasks.square, (3,)) == 9


# ---- Over the standard library ----


def test_cancel_what_waits_and_what_runs(fork_pool, eventually):
    event = sidestep.Event()
    running = [fork_pool.apply_async(tasks.wait_for, (event,)) for _ in range(2)]
    waiting = fork_pool.apply_async(tasks.square, (1,))
    many = fork_pool.map_async(tasks.square, range(1000), 1)
    assert waiting.cancel()
    assert many.cancel()
    eventually(lambda: fork_pool._engine.is_running(running[0]))
    assert running[0].cancel()
    for result in (waiting, many, running[0]):
        with pytest.raises(CancelledError):
            result.get()
        assert not result.cancel()
    event.set()
    assert running[1].get() is None
    assert fork_pool.apply(tasks.square, (3,)) == 9


def test_retries(fork_pool, tmp_path):
    path = str(tmp_path / "first")
    assert fork_pool.apply(tasks.kill_self_once, (path,), retries=1) == "done"
    with pytest.raises(WorkerLost):
        fork_pool.apply(tasks.kill_self, retries=2)
    path = str(tmp_path / "second")
    assert fork_pool.map(tasks.kill_self_once, [path] * 3, retries=1) == ["done"] * 3


def test_input_is_read_no_further_than_asked(fork_pool):
    pulled = []

    def endless():
        while True:
            pulled.append(len(pulled))
            yield pulled[-1]

    results = fork_pool.imap(tasks.square, endless(), buffersize=5)
    for i in range(100):
        assert next(results) == i * i
        assert len(pulled) <= i + 7
    assert results.cancel()


def test_generator_that_waits_for_the_consumer(fork_pool):
    room = threading.Semaphore(3)

    def throttled():
        for i in range(50):
            room.acquire()
            yield i

    got = []
    for value in fork_pool.imap(tasks.square, throttled()):
        got.append(value)
        room.release()
    assert got == [x * x for x in range(50)]


def test_resize(ctx, eventually):
    with ctx.Pool(1) as pool:
        pool.resize(3)
        assert len(pool._pool) == 3
        assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
        pool.resize(1)
        pool.map(tasks.square, range(20), 1)
        eventually(lambda: len(pool._pool) == 1)
        assert pool.apply(tasks.square, (4,)) == 16


def test_priorities(fork_pool, eventually):
    event = sidestep.Event()
    running = [fork_pool.apply_async(tasks.wait_for, (event,)) for _ in range(2)]
    for result in running:
        eventually(lambda result=result: fork_pool._engine.is_running(result))
    order = []
    low = fork_pool.apply_async(tasks.square, (1,), callback=order.append, priority=2)
    high = fork_pool.apply_async(tasks.square, (2,), callback=order.append, priority=0)
    with pytest.raises(ValueError, match="priority"):
        fork_pool.apply(tasks.square, (1,), priority=3)
    running[0].cancel()  # one worker takes both in turn, the other one waits
    low.wait()
    high.wait()
    event.set()
    running[1].wait()
    assert order == [4, 1]


# ---- The end ----


@pytest.mark.parametrize("payload", [None, bytes(100_000), np.ones(10_000)])
def test_ctrl_c_while_a_result_is_unpickled(fork_pool, payload):
    tasks.INTERRUPTED.clear()
    for i in range(1000):
        sent = tasks.Interrupted(i, payload)
        result = fork_pool.apply_async(tasks.identity, (sent,))
        try:
            assert result.get().name == i  # the crew's thread has unpickled it
        except KeyboardInterrupt:
            break
    assert i in tasks.INTERRUPTED
    assert result.get().name == i
    assert np.array_equal(result.get().payload, payload)


def test_ctrl_c_while_arguments_are_pickled(fork_pool, eventually):
    tasks.INTERRUPTED.clear()
    with pytest.raises(KeyboardInterrupt):
        fork_pool.apply_async(str, (tasks.InterruptedBefore("a"),))
    items = [tasks.InterruptedBefore(str(i)) for i in range(20)]
    tasks.INTERRUPTED.update(item.name for item in items[1:])
    got = []
    with pytest.raises(KeyboardInterrupt):
        fork_pool.map_async(str, items, 1, callback=got.append).wait()
    eventually(lambda: got)
    assert got == [[str(i) for i in range(20)]]


def test_no_warnings_without_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with sidestep.get_context("forkserver").Pool(1) as pool:
            assert pool.apply(tasks.square, (2,)) == 4
        pool.join()
        del pool
        gc.collect()


def test_a_retried_call_keeps_its_limits(fork_pool, tmp_path):
    path = str(tmp_path / "once")
    with pytest.raises(sidestep.TimeoutError, match="killed"):
        fork_pool.apply(tasks.die_then_sleep, (path,), retries=1, timeout=0.2)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_buffersize_holds_an_endless_input_back(pool, method):
    last = 0

    def numbers():
        nonlocal last
        for number in itertools.count():
            last = number
            yield number

    results = getattr(pool, method)(tasks.square, numbers(), buffersize=8)
    assert len({next(results) for _ in range(100)}) == 100
    assert last <= 108
    assert results.cancel()
