# SPDX-License-Identifier: MIT
"""Contexts over an engine: shared objects and processes, tried over an executor. The same
over Dask, MPI and Ray: tests/conformance/cluster_context.py."""

import copyreg
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path

import cluster_tasks as tasks
import pytest

import sidestep
from sidestep import connection
from sidestep._manager_session import Session, key_of
from sidestep.cluster.backends import Backend, route
from sidestep.futures import ProcessPoolExecutor

pytest.importorskip("sidestep._tls", reason="built without OpenSSL")


@pytest.fixture(scope="module")
def ctx():
    with (
        ProcessPoolExecutor(2, sidestep.get_context("forkserver")) as made,
        sidestep.get_context("cluster", cluster=made) as opened,
    ):
        yield opened


def test_a_value_and_its_lock(ctx):
    value = ctx.Value("i", 5)
    with ctx.Pool() as pool:
        pool.starmap(tasks.add, [(value, 25)] * 4, 1)
    assert value.value == 105
    assert value.fetch_add(3) == 105
    assert value.exchange(7) == 108
    assert value.compare_exchange(7, 2**31 + 1)
    assert value.value == -(2**31) + 1  # it is an int of C
    assert ctx.Value("d").value == 0.0
    with pytest.raises(TypeError, match="no shared memory"):
        value.get_obj()
    with pytest.raises(TypeError):
        value.value = "x"


def test_an_array(ctx):
    array = ctx.Array("d", range(5))
    array[1:3] = (7, 8)
    with array.get_lock():
        array[0] += 4
    assert list(array) == array[:] == [4.0, 7.0, 8.0, 3.0, 4.0]
    assert len(ctx.Array("i", 7, lock=False)) == 7
    with pytest.raises(IndexError):
        array[9]
    lock = ctx.RLock()
    assert ctx.Value("i", 1, lock=lock).value == 1
    with pytest.raises(TypeError, match="unknown type code"):
        ctx.Array("?!", 3)


def test_queues(ctx):
    queues = ctx.Queue(2), ctx.SimpleQueue(), ctx.JoinableQueue()
    for each in queues:
        each.put(lambda: 3)  # by value: what the server could not unpickle
        assert each.get()() == 3
        assert each.empty()
    bounded = queues[0]
    bounded.put_many("ab")
    assert bounded.full()
    assert bounded.qsize() == 2
    with pytest.raises(queue.Full):
        bounded.put(1, timeout=0.01)
    assert [bounded.get(timeout=5), bounded.get_nowait()] == ["a", "b"]
    with pytest.raises(queue.Empty):
        bounded.get(block=False)
    bounded.close()
    bounded.join_thread()
    with pytest.raises(ValueError, match="closed"):
        bounded.put(1)


def test_a_proxy_in_a_queue_keeps_its_object(ctx):
    through, event = ctx.Queue(), ctx.Event()
    event.set()
    through.put({"event": event})
    del event
    assert through.get()["event"].is_set()


def test_locks(ctx):
    lock, again, units = ctx.Lock(), ctx.RLock(), ctx.BoundedSemaphore(2)
    assert lock.acquire(block=True, timeout=1)
    assert not lock.acquire(False)
    assert not lock.acquire(timeout=0.01)
    lock.release()
    with again, again:
        pass
    with units:
        assert units.get_value() == 1
    with pytest.raises(ValueError, match="released too many"):
        units.release()
    assert ctx.Semaphore(3).get_value() == 3


def test_program_of_processes(ctx):
    words, done, lock, table = ctx.JoinableQueue(), ctx.Queue(), ctx.Lock(), ctx.dict()
    workers = [
        ctx.Process(target=tasks.count_words, args=(words, done, lock, table))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for word in ["spam", "eggs", "spam", "ham", "spam", None, None]:
        words.put(word)
    words.join()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
        assert worker.pid
        assert worker.host
    assert dict(table) == {"spam": 3, "eggs": 1, "ham": 1}
    assert done.qsize() == 5


def test_processes_meet(ctx):
    barrier, condition, seen = ctx.Barrier(3), ctx.Condition(), ctx.list()
    args = barrier, condition, seen
    workers = [ctx.Process(target=tasks.meet, args=args) for _ in range(2)]
    for worker in workers:
        worker.start()
    barrier.wait(30)
    with condition:
        assert condition.wait_for(lambda: len(seen) == 2, 30)
    for worker in workers:
        worker.join()
    assert len(set(seen)) == 2


def test_how_a_process_ends(ctx):
    lost = ctx.Process(target=tasks.leave, args=(7,), name="leaver")
    assert not lost.is_alive()
    lost.start()
    lost.join()
    assert lost.exitcode == 7
    assert "leaver" in repr(lost)
    told = ctx.Event()
    sleeper = ctx.Process(target=tasks.sleep_long, args=(told,), daemon=True)
    sleeper.start()
    assert told.wait(30)
    assert sleeper.is_alive()
    assert sleeper in ctx.active_children()
    sleeper.join(0.01)
    assert sleeper.exitcode is None
    sleeper.terminate()
    assert connection.wait([sleeper.sentinel], 30)
    assert sleeper.exitcode == -signal.SIGTERM
    sleeper.close()


def test_subclass_of_process(ctx):
    class Leaver(ctx.Process):
        def __init__(self, code):
            super().__init__()
            self.code = code

        def run(self):
            raise SystemExit(self.code)

    leaver = Leaver(9)
    leaver.start()
    leaver.join()
    assert leaver.exitcode == 9


def test_process_ended_before_it_began(ctx):
    told = ctx.Event()
    running = [ctx.Process(target=tasks.sleep_long, args=(told,)) for _ in range(2)]
    for each in running:
        each.start()
    assert told.wait(30)
    waiting = ctx.Process(target=tasks.sleep_long, args=(told,))
    with pytest.warns(UserWarning, match="3 processes on 2 workers"):
        waiting.start()
    assert waiting.pid is None
    waiting.terminate()
    waiting.join(30)
    assert waiting.exitcode == -signal.SIGTERM
    for each in running:
        each.kill()
        each.join()
        assert each.exitcode == -signal.SIGKILL


def test_lock_of_a_process_that_died(ctx):
    lock = ctx.Lock()
    killed = ctx.Process(target=tasks.die_holding, args=(lock,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    with pytest.raises(sidestep.OwnerDied):
        lock.acquire()
    assert lock.recover()
    with lock:
        pass


def test_taker_that_died_before_its_work_was_done(ctx):
    work = ctx.JoinableQueue()
    work.put("job")
    killed = ctx.Process(target=tasks.take_and_die, args=(work,))
    killed.start()
    killed.join()
    with pytest.raises(sidestep.OwnerDied):
        work.join()
    work.task_done()
    work.join()


def test_lock_of_a_worker_that_died():
    with ProcessPoolExecutor(1, sidestep.get_context("forkserver")) as made:
        with sidestep.get_context("cluster", cluster=made) as ctx, ctx.Pool() as pool:
            lock = ctx.Lock()
            with pytest.raises(sidestep.pool.WorkerLost):
                pool.apply(tasks.die_holding, (lock,))
            with pytest.raises(sidestep.OwnerDied):
                lock.acquire()
            lock.release()
            assert pool.apply(tasks.take, (lock,))


def test_nobody_connects_without_the_key(ctx):
    address = ctx.manager().address
    assert key_of(address)
    with pytest.raises(sidestep.AuthenticationError):
        Session(address, b"x" * 32, "pickle", {}).open()
    # Who has a pickle of a proxy has no key, unless a context gave it to the process.
    data = pickle.dumps(ctx.Event())
    assert key_of(address) not in data
    code = f"import pickle; pickle.loads({data!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         timeout=60, check=False)  # fmt: skip
    assert "AuthenticationError" in run.stderr


def test_what_it_cannot_do(ctx):
    for make in (ctx.Pipe, lambda: ctx.RawArray("i", 3), lambda: ctx.RawValue("i")):
        with pytest.raises(NotImplementedError, match=r"Queue\(\)|Array\(\)"):
            make()
    with pytest.raises(TypeError, match="stays with the program"):
        pickle.dumps(ctx)
    with pytest.raises(ValueError, match="no start method"):
        sidestep.set_start_method("dask", force=True)
    with pytest.raises(TypeError, match="cluster="):
        sidestep.get_context("cluster")
    with pytest.raises(TypeError, match="workers: for clusters, not for 'spawn'"):
        sidestep.get_context("spawn", workers=3)
    with pytest.raises(ValueError, match="cannot find context"):
        sidestep.get_context("nonsense", workers=3)
    with pytest.raises(ValueError, match="at least 1"):
        ctx.Pool(0)
    assert sidestep.get_context("dask") is sidestep.get_context("dask")


class Threads(Backend):
    """Runs each batch in a thread of its own, and never gives a process back."""

    name = "threads"

    def submit(self, run, batch):
        future = futures.Future()
        threading.Thread(target=lambda: future.set_result(run(batch))).start()
        return future

    def workers(self):
        return 1

    def kill(self, running):
        return False

    def close(self, *, wait):
        pass


def test_close_ends_processes():
    ctx = sidestep.get_context("cluster", cluster=Threads())
    told = ctx.Event()
    sleeper = ctx.Process(target=tasks.sleep_long, args=(told,))
    sleeper.start()
    assert told.wait(30)
    ctx.close()
    assert sleeper.exitcode == -signal.SIGKILL
    with pytest.raises(ValueError, match="closed"):
        ctx.Queue()


def test_processes_end_with_the_program(tmp_path):
    """A killed program leaves nothing: its manager goes, and workers see that."""
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal, sys, sidestep, cluster_tasks as tasks\n"
        "if __name__ == '__main__':\n"
        "    made = sidestep.ProcessPoolExecutor(1)\n"
        "    ctx = sidestep.get_context('cluster', cluster=made)\n"
        "    told = ctx.Event()\n"
        "    p = ctx.Process(target=tasks.sleep_long, args=(told,))\n"
        "    p.start()\n"
        "    told.wait()\n"
        "    print(p.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # It returns when nobody has its output any more, which the sleeper inherited.
    run = subprocess.run(
        [sys.executable, str(script)], stdout=subprocess.PIPE, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(tasks.__file__).parent)},
    )  # fmt: skip
    assert int(run.stdout) > 0
    assert run.returncode == -signal.SIGKILL


def test_route():
    assert route("127.0.0.1") == "127.0.0.1"
    assert route("::1") == "::1"


class Open(Threads):
    """An engine whose wire others can read."""

    name = "open"

    def is_private(self):
        return False


def test_the_key_goes_over_no_wire_that_others_read():
    with sidestep.get_context("cluster", cluster=Open()) as ctx:
        with ctx.Pool() as pool:
            assert pool.apply(tasks.identity, (3,)) == 3
        with pytest.raises(ValueError, match="key of shared objects"):
            ctx.Queue()
    with sidestep.get_context("cluster", cluster=Open(), allow_insecure=True) as ctx:
        with pytest.warns(UserWarning, match="clear text"):
            ctx.Queue()


@pytest.fixture
def exceptions_as_before():
    """Dask's import has pickle rebuild every exception: not what other tests expect."""
    before = set(copyreg.dispatch_table)
    yield
    for cls in set(copyreg.dispatch_table) - before:
        if issubclass(cls, BaseException):
            del copyreg.dispatch_table[cls]


@pytest.mark.usefixtures("exceptions_as_before")
@pytest.mark.parametrize("address", ["tcp://192.0.2.9:8786", "ws://[2001:db8::1]:80"])
def test_dask_in_clear_text(address):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="allow_insecure=True"):
        sidestep.Pool(cluster=address)
