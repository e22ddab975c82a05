# SPDX-License-Identifier: MIT
"""Pools over an executor: what every engine has in common. The engines themselves are
tried by tests/conformance/cluster_pool.py."""

import asyncio
import os
import threading
import time
from concurrent import futures

import pool_tasks as tasks
import pytest

import sidestep
from sidestep.cluster import (
    Backend,
    ClusterPool,
    ExecutorBackend,
    far,
    feed,
    find,
    mpi,
    parcel,
)
from sidestep.cluster.line import Line
from sidestep.futures import ProcessPoolExecutor
from sidestep.pool import CancelledError, MaybeEncodingError, WorkerLost

_state = {}


def remember(value):
    _state["value"] = value


def remembered(_=None):
    return _state.get("value")


def fail_to_start():
    raise LookupError("no state")


def make_executor(workers=2):
    return ProcessPoolExecutor(workers, sidestep.get_context("forkserver"))


@pytest.fixture(scope="module")
def executor():
    with make_executor() as made:
        yield made


@pytest.fixture
def pool(executor):
    with ClusterPool(executor) as made:
        yield made


def test_calls(pool):
    assert pool.apply(tasks.add, (2,), {"y": 3}) == 5
    squares = [x * x for x in range(1000)]
    assert pool.map(tasks.square, range(1000)) == squares
    assert pool.map(tasks.square, list(range(1000)), 7) == squares
    assert pool.map(tasks.square, []) == []
    assert pool.starmap(tasks.add, [(1, 2), (3,)]) == [3, 3]
    assert list(pool.imap(tasks.square, iter(range(1000)))) == squares
    assert list(pool.imap(tasks.square, range(1000), 9)) == squares
    assert sorted(pool.imap_unordered(tasks.square, range(100))) == squares[:100]
    assert list(pool.istarmap(tasks.add, [(1, 2)] * 5, 2)) == [3] * 5
    assert list(pool.imap(tasks.square, [])) == []


def test_the_way_to_make_one(executor):
    with sidestep.Pool(cluster=executor) as pool:
        assert isinstance(pool, ClusterPool)
        assert pool.map(tasks.square, range(9)) == [x * x for x in range(9)]
    with sidestep.get_context("spawn").Pool(1, cluster=executor) as pool:
        assert pool._processes == 1
    with pytest.warns(UserWarning, match="maxtasksperchild"):
        sidestep.Pool(cluster=executor, maxtasksperchild=3).terminate()
    with pytest.raises(ValueError, match="pin, seed: for pools of this machine"):
        sidestep.Pool(cluster=executor, seed=1, pin=True)


def test_progress_and_await(pool):
    seen = []
    pool.map(tasks.square, range(50), 5, progress=lambda *done: seen.append(done))
    assert seen[-1] == (50, 50)

    async def main():
        return await pool.amap(tasks.square, range(5)), await pool.aapply(abs, (-3,))

    assert asyncio.run(main()) == ([0, 1, 4, 9, 16], 3)


def test_what_has_no_name_goes_by_value(pool):
    offset = 3

    class Local:
        def __init__(self, x):
            self.x = x

    assert pool.map(lambda x: x + offset, range(3)) == [3, 4, 5]
    local = pool.apply(lambda: Local(7))
    assert type(local) is Local
    assert local.x == 7


def test_arrays_arrive_writable(pool):
    numpy = pytest.importorskip("numpy")
    array = pool.apply(tasks.identity, (numpy.arange(100_000),))
    array[0] = 7
    assert array.sum() == 7 + sum(range(100_000))


def test_exceptions_are_the_tasks_own(pool):
    with pytest.raises(ValueError, match="7") as caught:
        pool.apply(tasks.raise_value_error, (7,))
    assert "raise_value_error" in str(caught.value.__cause__)
    with pytest.raises(SystemExit):
        pool.apply(tasks.raise_it, (SystemExit(3),))
    assert pool.apply(tasks.square, (3,)) == 9


def test_what_does_not_pickle_costs_itself_only(pool):
    results = [pool.apply_async(tasks.identity, (x,)) for x in (1, threading.Lock(), 2)]
    assert results[0].get() == 1
    with pytest.raises(TypeError, match="pickle"):
        results[1].get()
    assert results[2].get() == 2
    with pytest.raises(MaybeEncodingError):
        pool.apply(threading.Lock)


def test_objects_of_this_machine_refuse(pool):
    with pytest.raises(RuntimeError, match="Lock objects"):
        pool.apply(tasks.identity, (sidestep.Lock(),))


def test_initializer_runs_once_in_each_worker(executor):
    with ClusterPool(executor, None, remember, ("first",)) as first:
        with ClusterPool(executor, None, remember, ("second",)) as second:
            assert set(second.map(remembered, range(20), 1)) <= {"first", "second"}
            assert first.apply(remembered) in {"first", "second"}
    with ClusterPool(executor, None, fail_to_start) as broken:
        for _ in range(2):
            with pytest.raises(LookupError, match="no state"):
                broken.apply(tasks.square, (1,))


def test_a_lost_worker(tmp_path):
    with make_executor(1) as made, ClusterPool(made) as pool:
        with pytest.raises(WorkerLost, match=r"lost exit_hard\(3\)") as caught:
            pool.apply(tasks.exit_hard, (3,))
        assert isinstance(caught.value.__cause__, futures.BrokenExecutor)
        assert pool.apply(tasks.square, (3,)) == 9


def test_retries():
    backend = Flaky()
    with ClusterPool(backend) as pool:
        assert pool.apply(tasks.square, (3,), retries=2) == 9
        assert backend.submitted == 3
        backend.submitted = 0
        with pytest.raises(WorkerLost, match="lightning"):
            pool.apply(tasks.square, (3,), retries=1)


class Flaky(Backend):
    """Loses what it gets the first two times."""

    name = "a flaky engine"

    def __init__(self):
        self.submitted = 0

    def submit(self, run, batch):
        future = futures.Future()
        self.submitted += 1
        if self.submitted <= 2:
            future.set_exception(OSError("lightning"))
        else:
            future.set_result(run(batch))
        return future

    def workers(self):
        return 1

    def kill(self, running):
        return False

    def close(self, *, wait):
        pass


def test_time_limit(pool):
    late = pool.apply_async(time.sleep, (2,), timeout=0.1)
    with pytest.raises(sidestep.TimeoutError, match="sleep"):
        late.get()


@pytest.fixture
def gate():
    """Threads: what a test lets wait must end with it."""
    event = threading.Event()
    with futures.ThreadPoolExecutor(2) as made:
        yield event, made
        event.set()


def test_cancel(gate):
    event, made = gate
    with ClusterPool(made) as pool:
        blockers = [pool.apply_async(Wait(event)) for _ in range(4)]
        waiting = pool.apply_async(tasks.square, (2,))
        assert waiting.cancel()
        assert not waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.get()
        event.set()
        assert [blocker.get() for blocker in blockers] == [1] * 4


class Wait:
    """Waits for an event that is in this process: it is never really pickled."""

    def __init__(self, event):
        self.key = id(event)
        _state[self.key] = event

    def __call__(self):
        _state[self.key].wait()
        return 1


def test_input_is_read_no_further_than_asked(pool):
    pulled = []

    def endless():
        while True:
            pulled.append(len(pulled))
            yield pulled[-1]

    results = pool.imap(tasks.square, endless(), buffersize=4)
    for expected in (0, 1, 4):
        assert next(results) == expected
    assert len(pulled) <= 3 + 4 + 4
    results.cancel()


def test_generator_that_waits_for_a_result_of_its_pool(pool):
    def chain():
        yield 2
        yield pool.apply(tasks.square, (3,))

    assert list(pool.imap(tasks.square, chain())) == [4, 81]


def test_small_tasks_travel_together(executor):
    class Counting(ExecutorBackend):
        submitted = 0

        def submit(self, run, batch):
            type(self).submitted += 1
            return super().submit(run, batch)

    with ClusterPool(Counting(executor)) as pool:
        assert list(pool.imap(tasks.square, range(2000)))[-1] == 1999**2
        assert Counting.submitted < 500
        assert pool.statistics()["done"] == 2000


class CutOff(ExecutorBackend):
    """Its workers do not reach the program: nobody listens at that port."""

    def submit(self, run, batch):
        if batch.line is not None:
            (host, _), key, number = batch.line
            batch.line = (host, 1), key, number
        return super().submit(run, batch)


def test_what_is_done_is_told_also_by_a_batch_whose_last_task_waits():
    told = futures.Future()
    line = Line("127.0.0.1", lambda *what: told.set_result(what))
    event = threading.Event()
    calls = [(abs, (-3,)), (Wait(event), ())]
    functions = [feed.Function(func) for func, _ in calls]
    batch = far.Batch(
        b"",
        None,
        {each.digest: each.parcel for each in functions},
        [
            (each.digest, far.CALL, parcel.dumps((args, {})))
            for each, (_, args) in zip(functions, calls, strict=True)
        ],
        line=line.to(7),
    )
    try:
        with futures.ThreadPoolExecutor(1) as thread:
            reply = thread.submit(far.run, batch)
            number, begun, outcomes = told.result(60)
            event.set()
            assert len(reply.result(60).outcomes) == 2
    finally:
        event.set()
        line.close()
    assert (number, begun, len(outcomes)) == (7, 2, 1)
    assert outcomes[0][1].loads() == 3


def test_tasks_go_alone_where_the_program_is_out_of_reach(executor):
    with ClusterPool(CutOff(executor)) as pool:
        squares = [x * x for x in range(300)]
        assert list(pool.imap(tasks.square, range(300))) == squares
        assert pool._engine._is_alone
        assert pool.statistics()["done"] == pool.statistics()["submitted"] == 300


def test_no_line_where_others_could_read_the_key(executor):
    class Clear(ExecutorBackend):
        def is_private(self):
            return False

    with ClusterPool(Clear(executor)) as pool:
        assert list(pool.imap(tasks.square, range(50)))[-1] == 49**2
        assert pool._engine._line is None


def test_a_batch_of_calls_is_delivered_whole(pool):
    pool.map(tasks.square, range(10))
    results = [pool.apply_async(tasks.square, (x,)) for x in range(500)]
    assert [result.get(60) for result in results] == [x * x for x in range(500)]


def test_callback_that_uses_the_pool(pool):
    got = futures.Future()
    pool.apply_async(
        tasks.square,
        (3,),
        callback=lambda x: got.set_result(pool.apply_async(abs, (x,))),
    )
    assert got.result(20).get(20) == 9


def test_states(executor):
    pool = ClusterPool(executor)
    result = pool.map_async(tasks.square, range(50))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    pool.join()
    assert result.get() == [x * x for x in range(50)]
    with pytest.raises(ValueError, match="not running"):
        pool.apply(tasks.square, (1,))
    assert executor.submit(os.getpid).result() > 0  # its owner's still


def test_terminate_answers_those_who_wait(gate):
    event, made = gate
    pool = ClusterPool(made)
    results = [pool.apply_async(Wait(event)) for _ in range(9)]
    pool.terminate()
    for result in results:
        with pytest.raises(RuntimeError, match="terminated"):
            result.get()


def test_arguments(executor):
    with pytest.raises(TypeError, match="cluster is a"):
        ClusterPool(object())
    with pytest.raises(ValueError, match="at least 1"):
        ClusterPool(executor, 0)
    assert find(executor, 1).workers() == 1
    with ClusterPool(executor) as pool:
        assert len(pool._pool) == 2
        with pytest.raises(ValueError, match="soft"):
            pool._engine.apply(object, pool, abs, (1,), {}, None, None, None, 1, 1, 0)
        with pytest.raises(NotImplementedError, match="cluster"):
            pool.resize(3)


@pytest.mark.parametrize(
    ("hosts", "private"),
    [(["a", "a", "a"], True), (["a", "b", "a"], False), ([], False)],
)
def test_ranks_on_several_machines_are_not_private(monkeypatch, hosts, private):
    monkeypatch.setattr(mpi, "hosts", hosts)
    assert object.__new__(mpi.MpiBackend).is_private() is private
