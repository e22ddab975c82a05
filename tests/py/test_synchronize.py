# SPDX-License-Identifier: MIT
"""Locks, semaphores, conditions, events, barriers, on both packages and beyond."""

import pickle
import threading

import children
import pytest

import sidestep
from sidestep import synchronize


def test_lock(mp):
    lock = mp.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(True, 0.001) is False
    assert lock.acquire(timeout=-1) is False
    assert lock.release() is None
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    with lock:
        assert not lock.acquire(block=False)


def test_lock_may_be_released_by_another_thread(mp):
    lock = mp.Lock()
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert lock.acquire(False)


def test_lock_may_be_released_by_another_process(mp, start):
    ctx = mp.get_context("fork")
    lock = ctx.Lock()
    lock.acquire()
    start(ctx, lock.release).join()
    assert lock.acquire(False)


def test_rlock(mp):
    lock = mp.RLock()
    for _ in range(3):
        assert lock.acquire()
    for _ in range(3):
        lock.release()
    with pytest.raises(AssertionError, match="not owned by thread"):
        lock.release()


def test_rlock_belongs_to_a_thread(mp):
    lock = mp.RLock()
    got = []
    with lock:
        thread = threading.Thread(target=lambda: got.append(lock.acquire(False)))
        thread.start()
        thread.join()
    assert got == [False]


def test_rlock_held_over_fork_is_not_the_childs(mp, start):
    ctx = mp.get_context("fork")
    lock, queue = ctx.RLock(), ctx.SimpleQueue()
    with lock:
        start(ctx, lambda: queue.put(lock.acquire(False))).join()
    assert queue.get() is False


def test_semaphore(mp):
    semaphore = mp.Semaphore(2)
    assert semaphore.get_value() == 2
    assert semaphore.acquire()
    assert semaphore.acquire()
    assert semaphore.get_value() == 0
    assert not semaphore.acquire(False)
    for _ in range(4):
        semaphore.release()
    assert semaphore.get_value() == 4


def test_bounded_semaphore(mp):
    semaphore = mp.BoundedSemaphore(2)
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    with semaphore:
        assert semaphore.get_value() == 1
    assert semaphore.get_value() == 2


@pytest.mark.parametrize("value", [-1, 2**40])
def test_impossible_semaphores(mp, value):
    with pytest.raises((ValueError, OSError, OverflowError)):
        mp.Semaphore(value)


def test_representations(mp):
    lock, rlock = mp.Lock(), mp.RLock()
    assert repr(lock) == "<Lock(owner=None)>"
    assert repr(rlock) == "<RLock(None, 0)>"
    with lock, rlock, rlock:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        assert repr(rlock) == "<RLock(MainProcess, 2)>"
        seen = []
        thread = threading.Thread(target=lambda: seen.extend([repr(lock), repr(rlock)]))
        thread.start()
        thread.join()
        assert seen == [
            "<Lock(owner=SomeOtherThread)>",
            "<RLock(SomeOtherThread, nonzero)>",
        ]
    assert repr(mp.Semaphore(3)) == "<Semaphore(value=3)>"
    assert repr(mp.BoundedSemaphore(3)) == "<BoundedSemaphore(value=3, maxvalue=3)>"
    assert repr(mp.Condition()) == "<Condition(<RLock(None, 0)>, 0)>"
    assert repr(mp.Event()).endswith(" unset>")
    assert repr(mp.Barrier(2)).endswith(": waiters=0/2>")


def describe(lock, rlock, out):
    out.put((repr(lock), repr(rlock)))


def test_representation_of_locks_held_elsewhere(mp, start):
    ctx = mp.get_context("fork")
    lock, rlock, out = ctx.Lock(), ctx.RLock(), ctx.SimpleQueue()
    with lock, rlock:
        start(ctx, describe, lock, rlock, out).join()
    assert out.get() == (
        "<Lock(owner=SomeOtherProcess)>",
        "<RLock(SomeOtherProcess, nonzero)>",
    )


def test_locked_and_get_value():
    for make in (sidestep.Lock, sidestep.RLock):
        lock = make()
        assert not lock.locked()
        assert lock.get_value() == 1
        with lock:
            assert lock.locked()
            assert lock.get_value() == 0
    semaphore = sidestep.Semaphore(1)
    assert not semaphore.locked()
    with semaphore:
        assert semaphore.locked()


def test_semlock_attributes():
    lock = sidestep.RLock()
    semlock = lock._semlock
    assert semlock._is_zero() is False
    lock.acquire()
    assert (semlock._count(), semlock._is_mine(), semlock._get_value()) == (1, True, 0)
    assert semlock._is_zero()
    assert semlock.name is None
    assert isinstance(lock, synchronize.SemLock)
    semaphore = sidestep.Semaphore()
    assert semaphore._semlock.maxvalue == synchronize.SEM_VALUE_MAX
    assert semaphore._semlock.kind == synchronize.SEMAPHORE


def test_pickling_needs_a_start(mp):
    for obj in (
        mp.Lock(),
        mp.RLock(),
        mp.Semaphore(),
        mp.BoundedSemaphore(),
        mp.Condition(),
        mp.Event(),
        mp.Barrier(2),
    ):
        with pytest.raises(RuntimeError, match="should only be shared"):
            pickle.dumps(obj)


def test_lock_excludes_processes(mp_ctx, start):
    lock, value = mp_ctx.Lock(), mp_ctx.Value("i", 0, lock=False)
    workers = [
        start(mp_ctx, children.count_with_lock, lock, value, 300) for _ in range(3)
    ]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert value.value == 900


def test_objects_of_fork_in_other_children(start):
    """The stdlib refuses to pass a lock of a fork context to a spawned child."""
    ctx = sidestep.get_context("fork")
    lock, value = ctx.Lock(), ctx.Value("i", 0, lock=False)
    for method in ("spawn", "forkserver"):
        other = sidestep.get_context(method)
        start(other, children.count_with_lock, lock, value, 10).join()
    assert value.value == 20


# ---- Condition ----


def test_condition_needs_its_lock(mp):
    condition = mp.Condition()
    with pytest.raises(AssertionError):
        condition.wait()
    with pytest.raises(AssertionError):
        condition.notify()
    with pytest.raises(AssertionError):
        condition.notify_all()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_condition_times_out_and_holds_the_lock(mp, kind):
    lock = getattr(mp, kind)()
    condition = mp.Condition(lock)
    with condition:
        assert condition.wait(0.001) is False
        assert lock._semlock._is_mine()
    assert lock.acquire(False)


def test_condition_releases_a_lock_taken_twice(mp):
    condition = mp.Condition()

    def notify():
        with condition:
            condition.notify()

    thread = threading.Thread(target=notify)
    with condition, condition:
        thread.start()
        assert condition.wait(20) is True
    thread.join()
    with pytest.raises(AssertionError):
        condition.release()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_notify_wakes_so_many(mp, start, count):
    ctx = mp.get_context("fork")
    condition, entered, woken = ctx.Condition(), ctx.Semaphore(0), ctx.Semaphore(0)
    for _ in range(3):
        start(ctx, children.wait_for_condition, condition, entered, woken)
    for _ in range(3):
        entered.acquire()
    with condition:
        condition.notify(count)
    expected = min(count, 3)
    for _ in range(expected):
        assert woken.acquire(timeout=20)
    assert not woken.acquire(timeout=0.05)
    with condition:
        condition.notify_all()
    for _ in range(3 - expected):
        assert woken.acquire(timeout=20)


def test_wait_for(mp):
    condition = mp.Condition()
    with condition:
        assert condition.wait_for(lambda: "yes") == "yes"
        assert condition.wait_for(lambda: 0, timeout=0.001) == 0


def test_condition_counts_as_the_stdlib_does(eventually):
    condition = sidestep.Condition()

    def wait():
        with condition:
            condition.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: condition._sleeping_count.get_value() == 1)
    assert condition._woken_count.get_value() == 0
    assert condition._wait_semaphore.get_value() == 0
    with condition:
        condition.notify_all()
    thread.join()
    assert condition._sleeping_count.get_value() == 0


# ---- Event ----


def test_event(mp):
    event = mp.Event()
    assert not event.is_set()
    assert event.wait(0) is False
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait() is True
    event.clear()
    assert not event.is_set()


def test_event_wakes_all(mp_ctx, start):
    event, ready, woken = mp_ctx.Event(), mp_ctx.Semaphore(0), mp_ctx.Semaphore(0)
    for _ in range(3):
        start(mp_ctx, children.wait_for_event, event, ready, woken)
    for _ in range(3):
        ready.acquire()
    event.set()
    for _ in range(3):
        assert woken.acquire(timeout=20)


# ---- Barrier ----


def test_barrier_in_processes(mp_ctx, start):
    barrier, out = mp_ctx.Barrier(3), mp_ctx.SimpleQueue()
    for _ in range(3):
        start(mp_ctx, children.wait_at_barrier, barrier, out)
    assert sorted(out.get() for _ in range(3)) == [0, 1, 2]


def in_threads(count, function):
    results = []

    def run():
        try:
            results.append(function())
        except threading.BrokenBarrierError:
            results.append("broken")

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_barrier_rounds(mp):
    barrier = mp.Barrier(3)
    for _ in range(20):
        assert sorted(in_threads(3, barrier.wait)) == [0, 1, 2]
    assert not barrier.broken
    assert barrier.parties == 3


def test_barrier_action(mp):
    ran = []
    barrier = mp.Barrier(3, action=lambda: ran.append(1))
    in_threads(3, barrier.wait)
    in_threads(3, barrier.wait)
    assert ran == [1, 1]


def test_barrier_action_that_raises_breaks_it(mp):
    def action():
        raise KeyError("action")

    barrier = mp.Barrier(2, action=action)
    results = []

    def wait():
        try:
            return barrier.wait()
        except KeyError:
            return "raised"

    results = in_threads(2, wait)
    assert sorted(results) == ["broken", "raised"]
    assert barrier.broken


def test_barrier_timeout_breaks_it(mp):
    barrier = mp.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(20)
    barrier.reset()
    assert not barrier.broken
    assert sorted(in_threads(2, lambda: barrier.wait(20))) == [0, 1]


def test_barrier_abort_and_reset(mp, eventually):
    for end in ("abort", "reset"):
        barrier = mp.Barrier(2)
        results = []
        thread = threading.Thread(
            target=lambda b=barrier, r=results: r.extend(in_threads(1, b.wait))
        )
        thread.start()
        eventually(lambda b=barrier: b.n_waiting == 1)
        getattr(barrier, end)()
        thread.join(20)
        assert results == ["broken"]
        assert barrier.broken == (end == "abort")


def test_barrier_of_one(mp):
    barrier = mp.Barrier(1)
    assert [barrier.wait(), barrier.wait()] == [0, 0]


def test_barrier_of_none():
    with pytest.raises(ValueError, match="parties must be > 0"):
        sidestep.Barrier(0)


def test_an_interrupted_waiter_has_not_arrived(mp, interrupt):
    barrier = mp.Barrier(2)
    with pytest.raises(interrupt(lambda: barrier.n_waiting == 1)):
        barrier.wait()
    assert barrier.n_waiting == 0


def test_an_interrupted_wait_holds_the_lock_again(mp, interrupt):
    condition = mp.Condition()
    with condition:
        with pytest.raises(
            interrupt(lambda: condition._sleeping_count.get_value() == 1)
        ):
            condition.wait()
        assert condition._lock._semlock._is_mine()
