# SPDX-License-Identifier: MIT
"""Tasks of managers: futures, remote pools, and what deaths leave."""

import asyncio
import os
import pickle
import signal
import threading
import weakref
from concurrent import futures
from pathlib import Path

import pytest
import remote_programs as programs
from remote_programs import add, fail

import sidestep
from sidestep.managers import BaseManager, SyncManager
from sidestep.pool import CancelledError, WorkerLost
from sidestep.tasks import submit


@pytest.fixture
def manager():
    made = SyncManager()
    made.task_processes = 2
    with made:
        yield made


@pytest.fixture
def connected(tmp_path):
    """A manager of a server in a program of its own, and the program."""
    with programs.server(str(tmp_path / "socket"), 2) as (program, address):
        made = SyncManager(address, programs.KEY)
        made.connect()
        yield made, program


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not for sending")


# ---- submit ----


def test_a_future_of_a_call(manager):
    future = manager.submit(add, 2, y=3)
    assert isinstance(future, futures.Future)
    assert future.result(20) == 5
    assert future.done()
    assert manager.submit(os.getpid).result(20) not in {
        os.getpid(),
        manager._process.pid,
    }


def test_functions_travel_by_value(manager):
    offset = 40
    assert manager.submit(lambda x: x + offset, 2).result(20) == 42


def test_wait_and_as_completed(manager):
    made = [manager.submit(add, number) for number in range(300)]
    assert sum(f.result() for f in futures.as_completed(made, 20)) == 45150
    done, rest = futures.wait(made, 20)
    assert len(done) == 300
    assert not rest


def test_an_exception_comes_with_its_traceback(manager):
    future = manager.submit(fail, "no such thing")
    error = future.exception(20)
    assert type(error) is LookupError
    assert error.args == ("no such thing",)
    assert "in fail" in str(error.__cause__)


def test_what_does_not_pickle_is_the_outcome(manager):
    assert "not for sending" in str(manager.submit(add, Unpicklable()).exception(20))
    assert "not for sending" in str(manager.submit(Unpicklable).exception(20))
    assert manager.submit(add, 1).result(20) == 2


def test_a_killed_worker_costs_its_task_alone(manager):
    pids = manager.list()
    gate = manager.Event()

    def note_and_wait():
        pids.append(os.getpid())
        gate.wait()
        return "done"

    doomed = manager.submit(programs.die)
    other = manager.submit(note_and_wait)
    error = doomed.exception(20)
    assert isinstance(error, WorkerLost)
    assert isinstance(error, futures.BrokenExecutor)
    assert "SIGKILL" in str(error)
    assert "die()" in str(error)
    assert "run(" not in str(error)
    gate.set()
    assert other.result(20) == "done"


def test_cancel_spares_what_runs(manager, eventually):
    gate = manager.Event()
    running = [manager.submit(gate.wait) for _ in range(2)]
    assert eventually(lambda: all(future.running() for future in running))
    waiting = [manager.submit(add, 1) for _ in range(20)]
    assert not running[0].cancel()
    assert all(future.cancel() for future in waiting[5:])
    assert waiting[-1].cancelled()
    with pytest.raises(futures.TimeoutError):
        waiting[0].result(0.01)
    gate.set()
    assert [future.result(20) for future in running] == [True, True]
    assert [future.result(20) for future in waiting[:5]] == [2] * 5


def test_any_manager_can(tmp_path):
    class Own(BaseManager):
        task_processes = 1

    with Own() as manager:
        assert manager.submit(add, 1).result(20) == 2


def test_a_proxy_is_an_argument(manager):
    table = manager.dict()
    manager.submit(lambda: table.update(x=1)).result(20)
    manager.submit(table.__setitem__, "y", 2).result(20)
    assert table.copy() == {"x": 1, "y": 2}


# ---- Pool ----


@pytest.fixture
def pool(manager):
    with manager.Pool(2) as made:
        yield made


def test_all_ways_to_call(pool):
    squares = [x * x for x in range(500)]
    assert pool.map(lambda x: x * x, range(500)) == squares
    assert pool.starmap(add, [(1, 2), (3,)]) == [3, 4]
    assert list(pool.imap(lambda x: x * x, iter(range(500)))) == squares
    assert sorted(pool.imap_unordered(lambda x: x * x, range(99), 7)) == squares[:99]
    assert list(pool.istarmap(add, [(1, 2)] * 3)) == [3] * 3
    assert pool.apply(add, (1,), {"y": 5}) == 6
    assert pool.map_async(abs, [-1]).get(20) == [1]
    assert pool.map(abs, []) == []


def test_callbacks_are_the_clients(pool):
    told = threading.Event()
    seen = []

    def note(value):
        seen.append((value, os.getpid()))
        told.set()

    pool.apply_async(add, (1,), callback=note).get(20)
    assert told.wait(20)
    pool.apply_async(fail, ("x",), error_callback=note).wait(20)
    assert seen[0] == (2, os.getpid())
    assert type(seen[1][0]) is LookupError


def test_progress(pool):
    seen = []
    pool.map(abs, range(50), 5, progress=lambda *done: seen.append(done))
    assert seen[-1] == (50, 50)


def test_back_pressure(pool):
    read = []

    def items():
        for number in range(1000):
            read.append(number)
            yield number

    results = pool.imap(abs, items(), buffersize=10)
    assert next(results) == 0
    assert len(read) <= 11
    assert sum(results) == sum(range(1000))


def test_limits_of_time(pool):
    late = pool.apply_async(_sleep, timeout=0.2)
    with pytest.raises(
        sidestep.TimeoutError, match=r"_sleep\(\) had not ended after 0.2"
    ):
        late.get(20)
    soft = pool.apply_async(_sleep, soft_timeout=0.2)
    with pytest.raises(sidestep.pool.SoftTimeLimitExceeded):
        soft.get(20)
    results = pool.map_async(_sleep_at_three, range(6), timeout=0.5)
    with pytest.raises(sidestep.TimeoutError, match="_sleep_at_three"):
        results.get(20)
    assert pool.apply(add, (1,)) == 2


def _sleep():
    threading.Event().wait(60)


def _sleep_at_three(number):
    if number == 3:
        _sleep()
    return number


def test_cancel_kills(pool, tmp_path, eventually):
    path = tmp_path / "running"
    result = pool.apply_async(programs.tell_and_wait, (path,))
    pid = int(eventually(lambda: path.exists() and path.read_text()))
    assert result.cancel()
    with pytest.raises(CancelledError):
        result.get(20)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert pool.apply(add, (1,)) == 2


def test_a_lost_item_fails_alone_and_retries(pool, tmp_path):
    results = pool.imap(programs.die_at, range(6))
    values = []
    for _ in range(6):
        try:
            values.append(results.next(20))
        except WorkerLost as error:
            values.append(error.task)
    assert values == [0, 1, 2, "die_at(3)", 4, 5]
    once = pool.map(programs.die_once, [tmp_path / "1", tmp_path / "2"], retries=1)
    assert once == ["second"] * 2


def test_statistics_and_resize(pool):
    pool.map(abs, range(10), 1)
    assert pool.statistics()["done"] >= 10
    assert pool.statistics()["workers"] == 2
    pool.resize(3)
    pool.map(abs, range(10), 1)
    assert pool.statistics()["workers"] == 3


def test_close_and_join(manager):
    pool = manager.Pool(2)
    result = pool.map_async(add, range(100))
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(add, (1,))
    pool.join(20)
    assert result.get(0) == list(range(1, 101))


def test_join_has_a_limit(manager, tmp_path, eventually):
    pool = manager.Pool(1)
    path = tmp_path / "running"
    result = pool.apply_async(programs.tell_and_wait, (path,))
    assert eventually(path.exists)
    pool.close()
    with pytest.raises(sidestep.TimeoutError):
        pool.join(0.1)
    path.with_suffix(".go").touch()
    pool.join(20)
    assert result.get(0)


def test_options_and_initializer_are_the_servers(manager):
    def prepare(value):
        os.environ["PREPARED"] = value

    with manager.Pool(1, prepare, ("yes",), maxtasksperchild=1, name="far") as pool:
        assert pool.apply(os.getenv, ("PREPARED",)) == "yes"
        pids = {pool.apply(os.getpid) for _ in range(3)}
        assert len(pids) == 3
        name = pool.apply(lambda: sidestep.current_process().name)
        assert name.startswith("far-")


class Thing:
    """Something that can be weakly referenced."""


def test_arguments_and_results_are_let_go(pool, eventually):
    things = [Thing() for _ in range(10)]
    references = [weakref.ref(thing) for thing in things]
    results = pool.map(_the_same, things)
    references += [weakref.ref(thing) for thing in results]
    del things, results
    # While the pool's threads wait for what comes next.
    assert eventually(lambda: not any(reference() for reference in references))


def _the_same(thing):
    return thing


def test_await(manager):
    async def work(pool):
        assert await pool.aapply(add, (1,)) == 2
        assert await pool.amap(add, [1, 2]) == [2, 3]
        return [value async for value in pool.aimap(add, range(3))]

    with manager.Pool(2) as pool:
        assert asyncio.run(work(pool)) == [1, 2, 3]


def test_two_clients_use_one_pool(manager, start):
    pool = manager.Pool(2)
    answers = manager.Queue()
    for _ in range(2):
        start(sidestep, _use, pool, answers)
    assert [answers.get(timeout=20) for _ in range(2)] == [6, 6]
    assert pool.apply(add, (1,)) == 2
    pool.terminate()
    pool.join(20)


def _use(pool, answers):
    answers.put(sum(pool.map(add, range(3))))


def test_a_proxy_travels(pool):
    other = pickle.loads(pickle.dumps(pool))
    assert other.map(add, [1]) == [2]


# ---- Items that go together ----


def test_an_outcome_does_not_wait_for_its_batch(pool, tmp_path, eventually):
    assert sum(pool.imap(abs, range(1000))) == sum(range(1000))  # known to be quick
    go = tmp_path / "go"
    results = pool.imap_unordered(
        programs.wait_at, [(number, 7, go) for number in range(200)]
    )
    others = [results.next(20) for _ in range(199)]
    assert sorted([*others, 7]) == list(range(200))
    go.touch()
    assert results.next(20) == 7
    with pytest.raises(StopIteration):
        results.next(20)


def test_the_death_of_one_that_went_with_others(pool):
    assert sum(pool.imap(abs, range(1000))) == sum(range(1000))
    results = pool.imap(programs.die_at, range(300), 1)
    got = []
    for _ in range(300):
        try:
            got.append(results.next(20))
        except WorkerLost as error:
            got.append(error.task)
    assert got == [*range(3), "die_at(3)", *range(4, 300)]


def test_items_that_fail_among_others(pool):
    assert sum(pool.imap(abs, range(1000))) == sum(range(1000))
    results = pool.imap(_fail_at_tens, range(100))
    failed = 0
    for number in range(100):
        if number % 10:
            assert results.next(20) == number
        else:
            with pytest.raises(LookupError, match=str(number)):
                results.next(20)
            failed += 1
    assert failed == 10
    big = pool.imap(bytes, [1 << 20] * 20)
    assert [len(each) for each in big] == [1 << 20] * 20


def _fail_at_tens(number):
    if number % 10 == 0:
        raise LookupError(number)
    return number


# ---- A call that the caller itself waits for ----


def test_a_worker_that_dies_in_apply(pool):
    with pytest.raises(WorkerLost, match=r"die\(\)"):
        pool.apply(programs.die)
    with pytest.raises(LookupError, match="on purpose"):
        pool.apply(fail, ("on purpose",))
    with pytest.raises(TypeError, match="not for sending"):
        pool.apply(add, (Unpicklable(),))
    assert pool.apply(lambda: 3) == 3
    assert pool.statistics()["done"] > 0


@pytest.mark.parametrize("what", ["interrupt", "kill"])
def test_a_caller_that_goes_ends_its_apply(pool, start, tmp_path, eventually, what):
    path = tmp_path / "running"
    child = start(sidestep.get_context("fork"), _apply, pool, path)
    pid = int(eventually(lambda: path.exists() and path.read_text()))
    if what == "kill":
        child.kill()
    else:
        os.kill(child.pid, signal.SIGINT)
    child.join(20)
    assert child.exitcode == (-signal.SIGKILL if what == "kill" else 3)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert pool.apply(add, (1,)) == 2


def _apply(pool, path):
    try:
        pool.apply(programs.tell_and_wait, (path,))
    except KeyboardInterrupt:
        assert pool.apply(add, (1,)) == 2
        os._exit(3)


def test_terminate_ends_an_apply(manager, tmp_path, eventually):
    path = tmp_path / "running"
    pool = manager.Pool(1)
    with futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.apply, programs.tell_and_wait, (path,))
        eventually(path.exists)
        pool.terminate()
        assert waiting.exception(20) is not None
    pool.join(20)


def test_apply_over_a_network(monkeypatch, tmp_path, eventually):
    """The caller comes back now and then, and has its answer all the same."""
    from sidestep.tasks import remote

    monkeypatch.setattr(remote, "BEAT_SECONDS", 0.05)
    with SyncManager(("127.0.0.1", 0), programs.KEY) as made, made.Pool(2) as pool:
        paths = [tmp_path / str(number) for number in range(3)]
        with futures.ThreadPoolExecutor(3) as threads:
            waiting = [
                threads.submit(pool.apply, programs.tell_and_wait, (path,))
                for path in paths
            ]
            eventually(lambda: sum(path.exists() for path in paths) == 2)
            with pytest.raises(futures.TimeoutError):
                waiting[0].result(0.3)
            for path in paths:
                path.with_suffix(".go").touch()
            for each in waiting:
                assert each.exception(20) is None


def test_who_waits_hears_that_another_client_has_ended_the_pool(
    monkeypatch, tmp_path, eventually
):
    """Also in between, when it comes back for its answer."""
    from sidestep.tasks import remote

    monkeypatch.setattr(remote, "BEAT_SECONDS", 0.0)  # that is most of the time
    with SyncManager(("127.0.0.1", 0), programs.KEY) as made, made.Pool(2) as pool:
        other = pickle.loads(pickle.dumps(pool))
        paths = [tmp_path / str(number) for number in range(2)]
        with futures.ThreadPoolExecutor(2) as threads:
            waiting = [
                threads.submit(pool.apply, programs.tell_and_wait, (path,))
                for path in paths
            ]
            eventually(lambda: all(path.exists() for path in paths))
            other.terminate()
            for each in waiting:
                with pytest.raises(WorkerLost, match="by another client"):
                    each.result(20)


# ---- The office as a pool ----


def test_a_pool_over_a_manager(manager):
    told = manager.list()
    with sidestep.Pool(cluster=manager, initializer=told.append, initargs=(1,)) as pool:
        assert pool.map(add, range(50)) == list(range(1, 51))
    assert 1 <= len(told) <= 2


# ---- Deaths ----


def test_a_killed_server_fails_all(connected, tmp_path, eventually):
    manager, program = connected
    path = tmp_path / "running"
    runs = manager.submit(programs.tell_and_wait, path)
    others = [tmp_path / str(number) for number in range(20)]
    waiting = [manager.submit(programs.tell_and_wait, other) for other in others]
    pool = manager.Pool(1)
    mapped = pool.map_async(_sleep_at_three, [3] * 10, 1)
    iterated = pool.imap(_sleep_at_three, [3] * 10)
    assert eventually(path.exists)
    program.kill()
    for future in [runs, *waiting]:
        error = future.exception(20)
        assert isinstance(error, WorkerLost)
        assert "the server at" in str(error)
    for get in (mapped.get, iterated.next):
        with pytest.raises(WorkerLost, match="the server at"):
            get(20)
    with pytest.raises(WorkerLost, match="the server at"):
        manager.submit(add, 1).result(20)
    pool.terminate()
    pool.join(20)


@pytest.mark.parametrize("what", ["attached", "detached"])
def test_a_killed_client(connected, tmp_path, eventually, what):
    manager, _ = connected
    path = tmp_path / "running"
    client = programs.start(programs.__file__, "client", manager.address, what, path)
    try:
        pid = int(eventually(lambda: path.exists() and path.read_text()))
        client.kill()
        if what == "detached":
            client.wait()
            path.with_suffix(".go").touch()
            assert eventually(path.with_suffix(".done").exists)
        else:
            assert eventually(lambda: not Path(f"/proc/{pid}").exists())
            path.with_suffix(".go").touch()
        assert manager.submit(add, 1).result(20) == 2
    finally:
        programs.end(client)
    assert path.with_suffix(".done").exists() == (what == "detached")


def test_a_child_submits_though_a_thread_was_about_to(start):
    with sidestep.Manager() as manager:
        is_held, is_over = threading.Event(), threading.Event()

        def hold():
            with submit._lock:
                is_held.set()
                is_over.wait(60)

        other = threading.Thread(target=hold)
        other.start()
        is_held.wait()
        reader, writer = sidestep.Pipe(duplex=False)
        start(sidestep.get_context("fork"), _submit, manager, writer)
        try:
            assert reader.poll(20)
            assert reader.recv() == 1
        finally:
            is_over.set()
            other.join()


def _submit(manager, writer):
    writer.send(manager.submit(abs, -1).result(20))
