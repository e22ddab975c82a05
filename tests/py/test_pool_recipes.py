# SPDX-License-Identifier: MIT
"""What programs do to pools that no documentation speaks of: recipes that are copied.

Each runs on the standard library as well, where it comes from.
"""

import importlib
import multiprocessing.pool as theirs
import threading
import unittest.mock

import pool_tasks as tasks
import pytest

import sidestep

# ---- Workers that are not daemons, so that they may have pools ----


def square_all(package, count):
    with importlib.import_module(package).Pool(2) as pool:
        return pool.map(tasks.square, range(count))


def is_daemon(package):
    return importlib.import_module(package).current_process().daemon


def no_daemon(base):
    class NoDaemonProcess(base):
        @property
        def daemon(self):
            return False

        @daemon.setter
        def daemon(self, value):
            pass

    return NoDaemonProcess


def by_context(mp):
    class NoDaemonContext(type(mp.get_context("fork"))):
        Process = no_daemon(mp.get_context("fork").Process)

    class NestablePool(mp.pool.Pool):
        def __init__(self, *args, **kwargs):
            kwargs["context"] = NoDaemonContext()
            super().__init__(*args, **kwargs)

    return NestablePool


def by_changed_class(mp):
    changed = no_daemon(mp.get_context("fork").Process)

    class NestedPool(mp.pool.Pool):
        def Process(self, *args, **kwds):  # noqa: N802
            process = super().Process(*args, **kwds)
            process.__class__ = changed
            return process

    return NestedPool


def by_static_method(mp):
    changed = no_daemon(mp.get_context("fork").Process)

    class NestedPool(mp.pool.Pool):
        @staticmethod
        def Process(ctx, *args, **kwds):  # noqa: N802
            return changed(*args, **kwds)

    return NestedPool


@pytest.mark.parametrize("make", [by_context, by_changed_class, by_static_method])
def test_workers_that_are_no_daemons(mp, make):
    options = {} if make is by_context else {"context": mp.get_context("fork")}
    pool = make(mp)(2, **options)
    try:
        assert pool.apply(is_daemon, (mp.__name__,)) is False
        counts = [(mp.__name__, 2), (mp.__name__, 3)]
        assert pool.starmap(square_all, counts) == [[0, 1], [0, 1, 4]]
    finally:
        pool.close()
        pool.join()


class Spawned(no_daemon(sidestep.get_context("spawn").Process)):
    pass


class SpawnedContext(type(sidestep.get_context("spawn"))):
    Process = Spawned


def test_workers_that_are_spawned():
    with sidestep.pool.Pool(1, context=SpawnedContext()) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
        assert type(pool._pool[0]) is Spawned


def test_a_context_of_somebodys_own(mp):
    """It has processes, and no more; those that started end when one does not."""
    made = []

    class Failing:
        exitcode = None
        state = None

        def __init__(self, **kwargs):
            self.name = "not a process"
            made.append(self)

        def start(self):
            if len(made) > 3:
                raise OSError("no more")
            self.state = "started"

        def terminate(self):
            self.state = "stopping"

        def join(self):
            if self.state == "stopping":
                self.state = "stopped"

        def is_alive(self):
            return self.state in {"started", "stopping"}

    class Context:
        Process = Failing

        def __getattr__(self, name):
            return unittest.mock.MagicMock()

    with pytest.raises(OSError, match="no more"):
        mp.pool.Pool(5, context=Context())
    assert made
    assert not any(process.is_alive() for process in made)


# ---- A starmap with a progress bar ----


def istarmap(self, func, iterable, chunksize=1):
    module = sidestep.pool if isinstance(self, sidestep.pool.Pool) else theirs
    self._check_running()
    batches = module.Pool._get_tasks(func, iterable, chunksize)
    result = module.IMapIterator(self)
    self._taskqueue.put(
        (
            self._guarded_task_generation(result._job, module.starmapstar, batches),
            result._set_length,
        )
    )
    return (item for chunk in result for item in chunk)


gates = []


def wait_at_the_gate(value):
    gates[-1].wait()
    return value


@pytest.fixture(params=["fork", "threads"])
def pool(mp, request):
    if request.param == "threads":
        gate = threading.Event()
        made = mp.pool.ThreadPool(1, gates.append, (gate,))
    else:
        gate = mp.get_context("fork").Event()
        made = mp.get_context("fork").Pool(1, gates.append, (gate,))
    made.gate = gate
    yield made
    gate.set()
    made.terminate()
    made.join()


def test_istarmap(pool):
    pairs = [(base, 2) for base in range(50)]
    squares = [base * base for base in range(50)]
    assert list(istarmap(pool, pow, pairs)) == squares
    assert list(istarmap(pool, pow, iter(pairs), 7)) == squares
    assert list(istarmap(pool, pow, [])) == []


def test_istarmap_of_what_raises(pool):
    results = istarmap(pool, divmod, [(4, 2), (1, 0), (9, 3)])
    assert next(results) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)

    def broken():
        yield (4, 2)
        raise KeyError("iterator")

    results = istarmap(pool, divmod, broken())
    assert next(results) == (2, 0)
    with pytest.raises(KeyError, match="iterator"):
        next(results)


def test_iterators_by_hand():
    with sidestep.pool.ThreadPool(1) as pool:
        iterator = sidestep.pool.IMapUnorderedIterator(pool)
        with pytest.raises(RuntimeError, match="no tasks"):
            next(iterator)
        calls = pool._guarded_task_generation(iterator._job, tasks.square, [3])
        pool._taskqueue.put((calls, iterator._set_length))
        assert iterator.next(timeout=20) == 9
        with pytest.raises(NotImplementedError, match="IMapIterator only"):
            pool._taskqueue.put((calls, None))


# ---- How much is left ----


def test_what_waits_in_the_queue(pool):
    results = [pool.apply_async(wait_at_the_gate, (i,)) for i in range(5)]
    if isinstance(pool, sidestep.pool.Pool):
        # Elsewhere what waits has gone on to a second queue, or not yet.
        while pool._taskqueue.qsize() > 4:  # until the worker has the first
            results[0].wait(0.001)
        assert pool._inqueue.qsize() == 4
        assert not pool._inqueue.empty()
    pool.gate.set()
    assert [result.get() for result in results] == list(range(5))
    assert pool._taskqueue.qsize() == 0
    assert pool._taskqueue.empty()


def test_what_is_left_of_a_map(pool):
    result = pool.map_async(wait_at_the_gate, range(8), chunksize=2)
    assert (result._number_left, result._chunksize) == (4, 2)
    assert pool._cache[result._job] is result
    pool.gate.set()
    assert result.get() == list(range(8))
    assert result._number_left == 0


def test_threads_count_what_waits():
    with sidestep.pool.ThreadPool(1) as pool:
        event = threading.Event()
        first = pool.apply_async(event.wait)
        rest = pool.map_async(tasks.square, range(6), chunksize=2)
        while pool._taskqueue.qsize() > 3:
            first.wait(0.001)
        assert pool.statistics() == {"outstanding": 2, "queued": 3, "workers": 1}
        event.set()
        assert rest.get() == [0, 1, 4, 9, 16, 25]
        assert pool._taskqueue.empty()
