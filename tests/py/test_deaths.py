# SPDX-License-Identifier: MIT
"""Whoever waits for a process that dies gets an answer: part 0 of the failure matrix.

A test here does not measure; it fails by its own time-out of 20 seconds when somebody
hangs, and the one test of how fast a death shows allows 50 ms.
"""

import os
import queue as stdlib_queue
import signal
import statistics
import threading
import time

import children
import pytest

import sidestep
from sidestep import OwnerDied


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


# ---- Locks ----


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_killed_owner(ctx, start, kind):
    lock = getattr(ctx, kind)()
    start(ctx, children.acquire_and_die, lock).join()
    with pytest.raises(OwnerDied):
        lock.acquire(timeout=20)
    with pytest.raises(OwnerDied):
        lock.acquire(timeout=20)
    assert lock.recover() is True
    assert lock.acquire(timeout=20)
    lock.release()
    assert lock.recover() is False


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_owner_that_exited(ctx, start, kind):
    lock = getattr(ctx, kind)()
    child = start(ctx, children.acquire_and_exit, lock)
    child.join()
    assert child.exitcode == 0
    with pytest.raises(OwnerDied):
        lock.acquire(timeout=20)
    lock.recover()
    with lock:
        pass


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_owner_killed_while_others_wait(ctx, start, kind):
    lock = getattr(ctx, kind)()
    mine, its = ctx.Pipe()
    owner = start(ctx, children.acquire_and_tell, lock, its)
    assert mine.recv() == "held"
    caught = []

    def wait():
        try:
            lock.acquire(timeout=20)
        except OwnerDied as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    kill(owner)
    for thread in threads:
        thread.join(20)
    assert len(caught) == 3


def test_release_of_a_dead_owners_lock_is_legal(start):
    ctx = sidestep.get_context("fork")
    lock = ctx.Lock()
    start(ctx, children.acquire_and_die, lock).join()
    lock.release()
    assert lock.acquire(timeout=20)


def test_lock_of_a_value(ctx, start):
    value = ctx.Value("i", 7)
    start(ctx, children.acquire_and_die, value.get_lock()).join()
    with pytest.raises(OwnerDied):
        value.value += 1
    value.get_lock().recover()
    value.value += 1
    assert value.value == 8


def test_killed_waiter_takes_nothing_along(ctx, start, eventually):
    lock, ready, got = ctx.Lock(), ctx.Event(), ctx.Event()
    lock.acquire()
    waiter = start(ctx, children.acquire_once, lock, ready, got)
    assert ready.wait(20)
    time.sleep(0.01)  # let it fall asleep; correct either way
    kill(waiter)
    lock.release()
    assert lock.acquire(timeout=20)
    assert not got.is_set()


def test_semaphore_has_no_owner(ctx, start):
    semaphore = ctx.Semaphore(1)
    start(ctx, children.acquire_and_die, semaphore).join()
    assert not semaphore.acquire(timeout=0.01)
    semaphore.release()
    assert semaphore.acquire(timeout=20)


def test_bounded_semaphore_whose_units_all_died(ctx, start):
    semaphore = ctx.BoundedSemaphore(1)
    start(ctx, children.acquire_and_die, semaphore).join()
    with pytest.raises(OwnerDied):
        semaphore.acquire(timeout=20)
    assert semaphore.recover()
    assert semaphore.acquire(timeout=20)
    assert not semaphore.recover()


# ---- Conditions, events, barriers ----


def test_notify_after_a_waiter_was_killed(ctx, start):
    condition, entered, woken = ctx.Condition(), ctx.Semaphore(0), ctx.Semaphore(0)
    victim, survivor = (
        start(ctx, children.wait_for_condition, condition, entered, woken)
        for _ in range(2)
    )
    entered.acquire()
    entered.acquire()
    with condition:  # both wait now: they enter with the lock held
        pass
    kill(victim)
    with condition:
        condition.notify_all()
    assert woken.acquire(timeout=20)
    survivor.join(20)
    assert survivor.exitcode == 0


def test_notify_of_one_passes_a_dead_waiter_by(ctx, start):
    condition, entered, woken = ctx.Condition(), ctx.Semaphore(0), ctx.Semaphore(0)
    victim = start(ctx, children.wait_for_condition, condition, entered, woken)
    entered.acquire()
    survivor = start(ctx, children.wait_for_condition, condition, entered, woken)
    entered.acquire()
    with condition:
        pass
    kill(victim)
    with condition:
        condition.notify()
    assert woken.acquire(timeout=20)
    survivor.join(20)


def test_event_set_after_a_waiter_was_killed(ctx, start):
    event, ready, woken = ctx.Event(), ctx.Semaphore(0), ctx.Semaphore(0)
    victim, survivor = (
        start(ctx, children.wait_for_event, event, ready, woken) for _ in range(2)
    )
    ready.acquire()
    ready.acquire()
    kill(victim)
    event.set()
    assert woken.acquire(timeout=20)
    survivor.join(20)
    assert survivor.exitcode == 0


def test_barrier_breaks_when_a_waiter_is_killed(ctx, start, eventually):
    barrier, out = ctx.Barrier(3), ctx.SimpleQueue()
    victim, _ = (start(ctx, children.wait_at_barrier, barrier, out) for _ in range(2))
    eventually(lambda: barrier.n_waiting == 2)
    kill(victim)
    assert out.get() == "broken"
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(20)
    barrier.reset()
    assert not barrier.broken


# ---- Queues ----


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_blocked_reader_killed(ctx, start, kind):
    queue, ready = getattr(ctx, kind)(), ctx.Event()
    _, its = ctx.Pipe()
    victim = start(ctx, children.get_and_tell, queue, ready, its)
    assert ready.wait(20)
    time.sleep(0.01)  # let it fall asleep; correct either way
    kill(victim)
    queue.put("for me")
    assert queue.get() == "for me"


def test_writer_killed_amid_its_messages(ctx, start):
    queue = ctx.Queue()
    victim = start(ctx, children.put_forever, queue)
    expected = 0
    while expected < 200:
        assert queue.get(timeout=20) == expected
        expected += 1
    kill(victim)
    # What was committed is all there, once, in order; then nothing hangs.
    while True:
        try:
            assert queue.get(timeout=0) == expected
        except stdlib_queue.Empty:
            break
        expected += 1
    queue.put("after")
    assert queue.get(timeout=20) == "after"


def test_blocked_writer_killed(ctx, start, eventually):
    queue = ctx.Queue(1)
    victim = start(ctx, children.put_forever, queue)
    eventually(queue.full)
    kill(victim)
    assert queue.get(timeout=20) == 0
    queue.put("after", timeout=20)
    assert queue.get(timeout=20) == "after"


def test_join_of_a_child_that_put_what_nobody_reads(ctx, start):
    queue = ctx.Queue()
    child = start(ctx, children.put_bytes, queue, 1000, 2000)
    child.join(60)
    assert child.exitcode == 0
    assert queue.qsize() == 2000
    assert {queue.get() for _ in range(2000)} == {b"x" * 1000}


def test_what_a_dead_child_put_can_be_read(start):
    ctx = sidestep.get_context("fork")
    queue, size = ctx.Queue(), 256 << 20
    child = start(ctx, children.put_and_exit, queue, size)
    child.join(120)
    assert child.exitcode == 0
    message = queue.get(timeout=20)
    assert len(message) == size
    assert message == message[:16] * (size // 16)


def test_unpicklable_is_said_at_once():
    queue = sidestep.Queue()
    with pytest.raises(TypeError, match="cannot pickle"):
        queue.put(threading.Lock)  # fine
        queue.put(threading.Lock())
    assert queue.get(timeout=20) is threading.Lock
    assert queue.empty()


def test_taker_that_died_before_task_done(ctx, start):
    queue, got = ctx.JoinableQueue(), ctx.Event()
    queue.put("item")
    start(ctx, children.get_and_die, queue, got).join()
    assert got.is_set()
    with pytest.raises(OwnerDied):
        queue.join(timeout=20)
    assert queue.recover() == 1
    assert queue.join(timeout=20) is True


# ---- Pipes ----


def test_peer_killed(ctx, start):
    mine, its = ctx.Pipe()
    peer = start(ctx, children.send_and_die, its, "last words")
    its.close()
    assert mine.recv() == "last words"
    with pytest.raises(EOFError):
        mine.recv()
    with pytest.raises(BrokenPipeError):
        for _ in range(1000):
            mine.send(b"x" * 10_000)
    peer.join()


def test_wait_sees_a_killed_peer(ctx, start):
    peer = start(ctx, children.nap, 100)
    mine, its = ctx.Pipe()
    victim = start(ctx, children.send_and_die, its, 1)
    its.close()
    assert sidestep.connection.wait([mine], 20) == [mine]
    assert mine.recv() == 1
    assert sidestep.connection.wait([mine, peer.sentinel], 20) == [mine]
    victim.join()


# ---- How fast a death shows ----


def seconds_until_seen(start, end_of):
    ctx = sidestep.get_context("fork")
    lock = ctx.Lock()
    mine, its = ctx.Pipe()
    owner = start(ctx, children.acquire_and_tell, lock, its)
    assert mine.recv() == "held"
    seen = []

    def wait():
        try:
            lock.acquire(timeout=20)
        except OwnerDied:
            seen.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.02)  # let it fall asleep; correct either way
    end = end_of(owner.pid)
    os.kill(owner.pid, signal.SIGKILL)
    thread.join(20)
    return seen[0] - end()


def test_a_death_shows_within_50_ms(start, end_of):
    late = [seconds_until_seen(start, end_of) for _ in range(5)]
    assert statistics.median(late) < 0.05, late
