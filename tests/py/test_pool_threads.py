# SPDX-License-Identifier: MIT
"""ThreadPool and dummy.Pool, on both packages."""

import gc
import itertools
import pickle
import threading
import time
import warnings

import pytest

import sidestep


@pytest.fixture
def pool(mp):
    made = mp.pool.ThreadPool(3)
    yield made
    made.terminate()
    made.join()


def square(x, wait=0.0):
    time.sleep(wait)
    return x * x


def fails_after(count):
    yield from range(count)
    raise KeyError("iterator")


def test_apply(pool):
    assert pool.apply(square, (5,)) == 25
    assert pool.apply(square, (5,), {"wait": 0.001}) == 25
    with pytest.raises(ZeroDivisionError):
        pool.apply(lambda: 1 / 0)


def test_map(pool):
    assert pool.map(square, range(100)) == list(map(square, range(100)))
    assert pool.map(square, iter(range(10)), chunksize=3) == list(
        map(square, range(10))
    )
    assert pool.map(square, []) == []
    assert pool.starmap(divmod, [(7, 2), (9, 4)]) == [(3, 1), (2, 1)]


def test_map_raises_the_first_error(pool):
    with pytest.raises(ZeroDivisionError):
        pool.map(lambda x: 1 // x, [1, 2, 0, 3], chunksize=1)
    with pytest.raises(KeyError):
        pool.map(square, fails_after(3))


def test_async(pool):
    gate = threading.Event()
    result = pool.apply_async(gate.wait)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    gate.set()
    assert result.get() is True
    assert result.ready()
    assert result.successful()


def test_timeout(mp, pool):
    gate = threading.Event()
    result = pool.apply_async(gate.wait)
    with pytest.raises(mp.TimeoutError):
        result.get(timeout=0.001)
    gate.set()
    result.wait()


def test_callbacks(pool):
    got, errors, done = [], [], threading.Event()

    def last(value):
        got.append(value)
        done.set()

    pool.map_async(square, range(3), callback=got.append).wait()
    pool.starmap_async(divmod, [(7, 2)], callback=got.append).wait()
    pool.apply_async(lambda: 1 / 0, error_callback=errors.append).wait()
    pool.apply_async(square, (4,), callback=last)
    assert done.wait(20)
    assert got == [[0, 1, 4], [(3, 1)], 16]
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_imap(pool):
    assert list(pool.imap(square, range(50))) == list(map(square, range(50)))
    assert list(pool.imap(square, range(50), 7)) == list(map(square, range(50)))
    assert sorted(pool.imap_unordered(square, range(50), 7)) == list(
        map(square, range(50))
    )
    assert list(pool.imap(square, [])) == []
    for chunksize in (0, -1):
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
            pool.imap(square, [], chunksize)


def test_imap_of_a_failing_iterator(pool):
    results = pool.imap(square, fails_after(3))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(KeyError):
        next(results)


def test_imap_timeout(mp, pool):
    gate = threading.Event()
    results = pool.imap(lambda _: gate.wait(), [1])
    with pytest.raises(mp.TimeoutError):
        results.next(timeout=0.001)
    gate.set()
    assert results.next() is True
    with pytest.raises(StopIteration):
        next(results)


def test_initializer(mp):
    seen = []
    with mp.pool.ThreadPool(2, seen.append, ("started",)) as pool:
        pool.map(square, range(10))
        pool.close()
        pool.join()  # one of them may have done all before the other began
    assert seen == ["started", "started"]


def test_states(mp):
    pool = mp.pool.ThreadPool(2)
    assert "state=RUN pool_size=2" in repr(pool)
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    result = pool.map_async(square, range(100))
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply_async(square, (1,))
    with pytest.raises(ValueError, match="Pool not running"):
        pool.__enter__()
    pool.join()
    assert result.get() == list(map(square, range(100)))
    assert not any(worker.is_alive() for worker in pool._pool)


def test_arguments(mp):
    for size in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            mp.pool.ThreadPool(size)
    with pytest.raises(TypeError, match="callable"):
        mp.pool.ThreadPool(1, initializer=1)


def test_not_picklable(pool):
    with pytest.raises(NotImplementedError, match="cannot be passed between"):
        pickle.dumps(pool)


def test_unclosed_pool_is_reported(mp):
    pool = mp.pool.ThreadPool(1)
    pool.terminate()
    pool.join()
    pool._state = mp.pool.RUN
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        pool.__del__()
    pool._state = mp.pool.TERMINATE


def test_dummy_pool(mp):
    import importlib

    dummy = importlib.import_module(mp.__name__ + ".dummy")
    with dummy.Pool(2) as pool:
        assert pool.map(square, [1, 2]) == [1, 4]
    assert isinstance(pool, mp.pool.ThreadPool)


# ---- Better than the stdlib's ----


def test_terminate_answers_those_who_wait():
    gate = threading.Event()
    pool = sidestep.pool.ThreadPool(1)
    running = pool.apply_async(gate.wait)
    waiting = pool.map_async(square, range(10))
    iterator = pool.imap(square, range(10))
    pool.terminate()
    gate.set()
    pool.join()
    for get in (waiting.get, lambda: next(iterator)):
        with pytest.raises(RuntimeError, match="pool was terminated"):
            get()
    assert running.ready()


def test_initializer_that_raises_is_reported_and_not_repeated():
    calls = []

    def initializer():
        calls.append(1)
        raise KeyError("initializer")

    with sidestep.pool.ThreadPool(2, initializer) as pool:
        for _ in range(5):
            with pytest.raises(KeyError, match="initializer"):
                pool.apply(square, (1,))
    assert len(calls) <= 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_comes_back_too(error):
    def raises():
        raise error

    with sidestep.pool.ThreadPool(1) as pool:
        with pytest.raises(error):
            pool.apply(raises)
        assert pool.apply(square, (3,)) == 9


def test_callback_that_raises_harms_nobody(capsys):
    with sidestep.pool.ThreadPool(1) as pool:
        result = pool.apply_async(square, (3,), callback=lambda _: 1 / 0)
        assert result.get() == 9
        assert pool.apply(square, (4,)) == 16
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_imap_reads_no_further_than_it_works():
    pulled = itertools.count()
    gate = threading.Semaphore(0)

    def endless():
        while True:
            yield next(pulled)

    with sidestep.pool.ThreadPool(2) as pool:
        results = pool.imap(lambda x: (gate.acquire(), x)[1], endless())
        gate.release()
        gate.release()
        next(results)
        assert next(pulled) <= 5
        pool.terminate()
        for _ in range(10):
            gate.release()


def test_dropped_pool_ends_its_threads():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool = sidestep.pool.ThreadPool(2)
        workers = pool._pool
        pool.map(square, range(4))
        del pool
        gc.collect()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()


def test_tasks_leave_nothing_behind():
    import weakref

    class Thing:
        pass

    with sidestep.pool.ThreadPool(2) as pool:
        things = [Thing() for _ in range(4)]
        references = [weakref.ref(thing) for thing in things]
        pool.map(id, things)
        del things
        gc.collect()
        assert [reference() for reference in references] == [None] * 4


# ---- Over the standard library ----


@pytest.fixture
def threads():
    made = sidestep.pool.ThreadPool(2)
    yield made
    made.terminate()
    made.join()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_buffersize_holds_an_endless_input_back(threads, method):
    last = 0

    def numbers():
        nonlocal last
        for number in itertools.count():
            last = number
            yield number

    results = getattr(threads, method)(square, numbers(), buffersize=8)
    assert isinstance(results, sidestep.pool.IMapIterator)
    assert len({next(results) for _ in range(100)}) == 100
    assert last <= 108
    assert results.cancel()
    assert threads.apply(square, (3,)) == 9


def test_buffered_items_that_fail_make_room(threads):
    results = threads.imap(lambda x: 1 // x, [0] * 20, buffersize=2)
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            results.next(timeout=60)
    with pytest.raises(StopIteration):
        next(results)
    pairs = ((x, 0) for x in range(50))
    assert list(threads.istarmap(square, pairs, 3, buffersize=4)) == [
        x * x for x in range(50)
    ]
    threads.close()
    threads.join()


def test_a_wait_in_vain_takes_nothing(threads):
    event = threading.Event()
    results = threads.imap(lambda _: event.wait(), range(4), buffersize=1)
    with pytest.raises(sidestep.TimeoutError):
        results.next(timeout=0.001)
    event.set()
    assert list(results) == [True] * 4


def test_priorities():
    order = []
    event = threading.Event()
    pool = sidestep.pool.ThreadPool(1)
    first = pool.apply_async(event.wait)
    results = [
        pool.apply_async(order.append, (priority,), priority=priority)
        for priority in (2, 1, 0)
    ]
    event.set()
    for result in (first, *results):
        result.get()
    assert order == [0, 1, 2]
    with pytest.raises(ValueError, match="priority"):
        pool.apply(int, priority=3)
    pool.terminate()
    pool.join()
