# SPDX-License-Identifier: MIT
"""`_core.Event`, `_core.Condition` and `_core.Barrier`."""

import os
import signal
import threading
import time

import pytest
from forked import HandlerError, forked, interrupting, run_forked, state_of

from sidestep import _core


def test_event():
    event = _core.Event()
    assert event.is_set() is False
    assert event.wait(0) is False
    assert event.wait(timeout=0.01) is False
    event.set()
    assert event.is_set() is True
    assert event.wait() is True
    assert event.statistics() == {"is_set": True}
    event.clear()
    assert event.is_set() is False


def test_event_between_processes():
    go, done = _core.Event(), _core.Event()

    def answer():
        assert go.wait(20)
        done.set()

    with forked(answer), forked(go.wait, 20):
        go.set()
        assert done.wait(20)


def test_event_wait_is_interrupted():
    event = _core.Event()
    with interrupting(), pytest.raises(HandlerError):
        event.wait()


@pytest.mark.parametrize(
    "make", [_core.Event, _core.Condition, lambda: _core.Barrier(2)]
)
def test_handles(make):
    obj = make()
    kind = type(obj)
    copy = kind.from_handle(obj.handle)
    assert copy.handle == obj.handle
    empty = kind.__new__(kind)
    with pytest.raises(ValueError, match="has not been called"):
        _ = empty.handle
    with pytest.raises(ValueError, match="has not been called"):
        empty.statistics()
    empty._attach(obj.handle)
    assert empty.handle == obj.handle
    with pytest.raises(RuntimeError, match="initialised already"):
        empty._attach(obj.handle)
    with pytest.raises((RuntimeError, ValueError)):
        kind.from_handle(_core.SemLock(2, 1, 1).handle)


def test_condition_steps():
    condition = _core.Condition()
    assert condition.waiters() == 0
    ticket = condition.enter()
    assert condition.waiters() == 1
    assert condition.wait(ticket, 0.01) is False
    condition.leave(ticket)
    assert condition.waiters() == 0
    assert condition.notify() == 0

    ticket = condition.enter()
    assert condition.notify() == 1
    assert condition.wait(ticket) is True
    assert condition.notify(0) == 0
    assert condition.statistics() == {"waiters": 0}


def test_condition_wakes_as_many_as_told(eventually):
    condition, woken = _core.Condition(), []

    def wait():
        ticket = condition.enter()
        woken.append(condition.wait(ticket, 20))

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    eventually(lambda: condition.waiters() == 5)
    assert condition.notify(2) == 2
    eventually(lambda: len(woken) == 2)
    assert condition.notify(1 << 40) == 3
    for thread in threads:
        thread.join()
    assert woken == [True] * 5


def test_condition_wait_is_interrupted_and_left():
    condition = _core.Condition()
    ticket = condition.enter()
    with interrupting(), pytest.raises(HandlerError):
        condition.wait(ticket)
    condition.leave(ticket)
    assert condition.waiters() == 0


def test_condition_notification_of_the_dead_passes_on(eventually):
    condition, other = _core.Condition(), _core.Event()

    def wait():
        ticket = condition.enter()
        assert condition.wait(ticket, 20)
        other.set()

    def wait_stopped():
        ticket = condition.enter()
        condition.wait(ticket)
        os._exit(3)

    with forked(wait_stopped) as child:
        eventually(lambda: condition.waiters() == 1)
        with forked(wait):
            eventually(lambda: condition.waiters() == 2)
            os.kill(child.pid, signal.SIGSTOP)
            eventually(lambda: state_of(child.pid) == "T")
            assert condition.notify() == 1
            child.kill()
            eventually(lambda: _core.arena_sweep() or other.is_set())
            assert other.wait(20)


def test_barrier_of_processes():
    barrier = _core.Barrier(3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    indices = _core.Queue()

    def meet():
        index, ticket = barrier.arrive(20)
        indices.put(index)
        if index == 2:
            barrier.open(ticket)
        else:
            barrier.wait(ticket, 20)

    for _ in range(3):
        with forked(meet), forked(meet):
            meet()
        assert sorted(indices.get() for _ in range(3)) == [0, 1, 2]
    assert barrier.statistics() == {"parties": 3, "n_waiting": 0, "broken": False}


def test_barrier_breaks_when_time_runs_out():
    barrier = _core.Barrier(2)
    _, ticket = barrier.arrive()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(ticket, 0.01)
    assert barrier.broken
    with pytest.raises(_core.BrokenBarrierError):
        barrier.arrive()
    barrier.reset()
    assert not barrier.broken
    index, ticket = barrier.arrive()
    assert index == 0
    barrier.abort()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(ticket)


def test_barrier_breaks_when_one_that_waits_dies(eventually):
    barrier = _core.Barrier(3)

    def wait():
        _, ticket = barrier.arrive()
        barrier.wait(ticket)

    with forked(wait) as child:
        eventually(lambda: barrier.n_waiting == 1)
        _, ticket = barrier.arrive()
        threading.Timer(0.05, child.kill).start()
        start = time.monotonic()
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(ticket, 20)
        assert time.monotonic() - start < 10


def test_barrier_wait_is_interrupted():
    barrier = _core.Barrier(2)
    _, ticket = barrier.arrive()
    with interrupting(), pytest.raises(HandlerError):
        barrier.wait(ticket)


def test_bad_parties():
    with pytest.raises(ValueError, match="parties must be > 0"):
        _core.Barrier(0)
    with pytest.raises(TypeError):
        _core.Barrier("two")


def test_objects_made_by_a_child_are_its_own():
    def make():
        event = _core.Event()
        event.set()
        assert event.is_set()

    before = _core.arena_statistics()["slots"]
    run_forked(make)
    _core.arena_sweep()
    assert _core.arena_statistics()["slots"] == before
