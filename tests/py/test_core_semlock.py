# SPDX-License-Identifier: MIT
"""`_core.SemLock`: what `_multiprocessing.SemLock` does, and what it cannot."""

import errno
import os
import signal
import threading
import time

import pytest
from forked import Forked, HandlerError, forked, interrupting, run_forked

from sidestep import _core

RLOCK, SEMAPHORE, LOCK = range(3)


def make_lock():
    return _core.SemLock(LOCK, 1, 1)


def make_rlock():
    return _core.SemLock(RLOCK, 1, 1)


def make_semaphore(value=1, maxvalue=_core.SemLock.SEM_VALUE_MAX):
    return _core.SemLock(SEMAPHORE, value, maxvalue)


@pytest.fixture(params=[make_lock, make_rlock, make_semaphore])
def any_lock(request):
    return request.param()


def run_thread(function):
    """Run in a thread; what it returned, or raised."""
    result = []

    def run():
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


def test_take_and_give_back(any_lock):
    assert not any_lock.locked()
    assert any_lock.acquire() is True
    assert any_lock.locked()
    assert any_lock._is_zero()
    assert any_lock._get_value() == 0
    assert any_lock._count() == 1
    assert any_lock._is_mine()
    assert any_lock.release() is None
    assert any_lock._get_value() == 1
    assert any_lock._count() == 0
    assert not any_lock._is_mine()


def test_context_manager(any_lock):
    with any_lock as entered:
        assert entered is True
        assert any_lock.locked()
    assert not any_lock.locked()


@pytest.mark.parametrize("args", [(False,), (True, 0), (True, -1), (True, 0.01)])
def test_a_taken_lock_cannot_be_had_in_time(any_lock, args):
    assert any_lock.acquire()
    assert run_thread(lambda: any_lock.acquire(*args)) is False
    any_lock.release()


def test_keywords_and_their_errors(any_lock):
    assert any_lock.acquire(block=False, timeout="not looked at")
    any_lock.release()
    assert any_lock.acquire(timeout=0.5)
    any_lock.release()
    with pytest.raises(TypeError, match="unexpected keyword argument 'wait'"):
        any_lock.acquire(wait=True)
    with pytest.raises(TypeError, match="multiple values for argument 'block'"):
        any_lock.acquire(True, block=True)
    with pytest.raises(TypeError, match="takes from 0 to 2 positional arguments but 3"):
        any_lock.acquire(True, None, None)
    with pytest.raises(TypeError):
        any_lock.acquire(True, "soon")
    with pytest.raises(ValueError, match="not a number"):
        any_lock.acquire(True, float("nan"))
    assert not any_lock.locked()


def test_releasing_too_often():
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        make_lock().release()
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        make_semaphore(2, 2).release()
    make_semaphore(2).release()
    with pytest.raises(AssertionError, match="recursive lock not owned by thread"):
        make_rlock().release()


def test_bad_kinds_and_values():
    with pytest.raises(ValueError, match="unrecognized kind"):
        _core.SemLock(3, 1, 1)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        _core.SemLock(SEMAPHORE, -1, 1)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(TypeError, match="missing required argument: 'maxvalue'"):
        _core.SemLock(SEMAPHORE, 1)
    with pytest.raises(OverflowError):
        _core.SemLock(SEMAPHORE, 1 << 40, 1 << 40)


def test_recursion():
    lock = make_rlock()
    for depth in range(1, 4):
        assert lock.acquire()
        assert lock._count() == depth
    assert run_thread(lambda: lock.acquire(False)) is False
    assert run_thread(lock._is_mine) is False
    assert isinstance(run_thread(lock.release), AssertionError)
    for depth in range(2, -1, -1):
        lock.release()
        assert lock._count() == depth
    assert run_thread(lambda: lock.acquire(False)) is True


def test_a_lock_is_released_by_anybody():
    lock = make_lock()
    lock.acquire()
    assert run_thread(lock.release) is None
    assert not lock.locked()
    lock.acquire()
    run_forked(lock.release)
    assert not lock.locked()


def test_units_of_a_semaphore():
    semaphore = make_semaphore(2, 3)
    assert semaphore.maxvalue == 3
    assert semaphore.kind == SEMAPHORE
    assert semaphore.name is None
    semaphore.release()
    assert semaphore._get_value() == 3
    for _ in range(3):
        assert semaphore.acquire(False)
    assert not semaphore.acquire(False)


def test_mutual_exclusion_between_processes():
    lock, block = make_lock(), _core.Block(8)
    view = memoryview(block).cast("q")

    def count():
        for _ in range(3000):
            with lock:
                view[0] += 1

    with forked(count), forked(count):
        count()
    assert view[0] == 9000
    view.release()


def test_a_handle_names_the_same_lock(any_lock):
    other = _core.SemLock.from_handle(any_lock.handle)
    assert other.handle == any_lock.handle
    assert other.kind == any_lock.kind
    assert other.maxvalue == any_lock.maxvalue
    any_lock.acquire()
    assert other.locked()
    any_lock.release()
    assert not other.locked()


def test_bad_handles():
    lock = make_lock()
    with pytest.raises(TypeError, match="a handle is bytes"):
        _core.SemLock.from_handle(42)
    with pytest.raises(ValueError, match="24 bytes"):
        _core.SemLock.from_handle(b"short")
    handle = lock.handle
    del lock
    with pytest.raises((RuntimeError, ValueError)):
        _core.SemLock.from_handle(handle)
    with pytest.raises((RuntimeError, ValueError)):
        _core.SemLock.from_handle(_core.Event().handle)
    with pytest.raises((RuntimeError, ValueError)):
        _core.SemLock.from_handle(b"\xff" * 24)


def test_an_object_without_init_says_so():
    empty = _core.SemLock.__new__(_core.SemLock)
    for call in (empty.acquire, empty.release, lambda: empty.handle):
        with pytest.raises(ValueError, match=r"__init__\(\) has not been called"):
            call()
    with pytest.raises(RuntimeError, match="initialised already"):
        make_lock().__init__(LOCK, 1, 1)


def test_subclasses_have_arguments_of_their_own():
    class Named(_core.SemLock):
        def __init__(self, title, *, kind=LOCK):
            super().__init__(kind, 1, 1)
            self.title = title

    lock = Named("door")
    with lock:
        assert lock.title == "door"
    copy = Named.from_handle(lock.handle)
    assert type(copy) is Named
    assert not hasattr(copy, "title")


def test_a_signal_handler_may_raise_out_of_acquire(any_lock):
    any_lock.acquire()

    def wait():
        with interrupting(), pytest.raises(HandlerError):
            any_lock.acquire()

    run_forked(wait)
    any_lock.release()


def test_a_signal_does_not_end_the_wait():
    lock, hits = make_lock(), []
    with forked(hold_until_told, lock, read_end := os.pipe()):
        while not lock.locked():
            time.sleep(0.001)
        start = time.monotonic()
        with interrupting(0.02, handler=lambda *_: hits.append(1)):
            assert lock.acquire(True, 0.2) is False
        assert time.monotonic() - start >= 0.2
        assert hits
        os.write(read_end[1], b"x")
    assert lock.acquire(True, 5)
    for fd in read_end:
        os.close(fd)


def hold_until_told(lock, pipe):
    lock.acquire()
    os.read(pipe[0], 1)
    lock.release()


def die_holding(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def die_with(lock):
    assert Forked(die_holding, lock).wait() == -signal.SIGKILL


@pytest.mark.parametrize("make", [make_lock, make_rlock])
def test_the_death_of_the_owner_shows(make):
    lock = make()
    die_with(lock)
    assert lock.locked()
    with pytest.raises(_core.OwnerDied):
        lock.acquire()
    assert isinstance(_core.OwnerDied(), RuntimeError)
    assert lock.recover() is True
    assert lock.recover() is False
    assert lock.acquire(False)


def kill_the_owner_of_a_lock_that_is_waited_for(eventually):
    """How long after the kill the one who waits knows, in seconds."""
    lock, seen = make_lock(), []
    pipe = os.pipe()

    def wait():
        try:
            lock.acquire()
        except _core.OwnerDied:
            seen.append(time.monotonic())

    with forked(hold_until_told, lock, pipe) as child:
        eventually(lock.locked)
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.02)
        killed = time.monotonic()
        child.kill()
        thread.join(10)
        assert seen
    for fd in pipe:
        os.close(fd)
    return seen[0] - killed


def test_the_death_of_the_owner_wakes_who_waits(eventually):
    # on a machine with other work the best of some shows what it takes
    assert any(
        kill_the_owner_of_a_lock_that_is_waited_for(eventually) < 0.05
        for _ in range(10)
    )


def test_units_of_the_dead_are_gone_and_nothing_hangs():
    semaphore = make_semaphore(2)
    die_with(semaphore)
    assert semaphore.acquire(False)
    assert not semaphore.acquire(False)
    semaphore.release()
    assert semaphore.acquire(True, 5)


def test_a_fork_leaves_ownership_with_the_parent():
    lock = make_rlock()
    lock.acquire()

    def look():
        lock._after_fork()
        assert not lock._is_mine()
        assert lock._count() == 0
        assert lock.acquire(False) is False
        with pytest.raises(AssertionError):
            lock.release()

    run_forked(look)
    assert lock._is_mine()
    lock.release()


def test_a_hundred_threads():
    lock, total = make_lock(), [0]

    def count():
        for _ in range(50):
            with lock:
                value = total[0]
                total[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total[0] == 5000


def test_locks_give_their_slots_back():
    make_lock()
    before = _core.arena_statistics()["slots"]
    for _ in range(3):
        locks = [make() for make in (make_lock, make_rlock, make_semaphore) * 50]
        assert _core.arena_statistics()["slots"] >= before + 150
        del locks
        assert _core.arena_statistics()["slots"] == before


def test_statistics():
    semaphore = make_semaphore(3, 5)
    assert semaphore.acquire()
    assert semaphore.statistics() == {
        "kind": SEMAPHORE,
        "value": 2,
        "maxvalue": 5,
        "count": 1,
    }
