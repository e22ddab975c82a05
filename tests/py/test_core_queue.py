# SPDX-License-Identifier: MIT
"""`_core.Queue`: objects in, objects out, and nothing lost on the way."""

import itertools
import os
import queue
import select
import signal
import sys
import threading
import time

import pytest
from awkward import NotBack, Point, Unpicklable
from forked import Forked, HandlerError, forked, interrupting, run_forked, state_of

from sidestep import _core


def test_order_and_counts():
    q = _core.Queue()
    assert q.empty()
    assert q.qsize() == 0
    assert q.maxsize == 0
    for i in range(10000):
        q.put(i)
    assert q.qsize() == 10000
    assert not q.empty()
    assert not q.full()
    assert [q.get() for _ in range(10000)] == list(range(10000))
    assert q.empty()


def test_an_unbounded_queue_takes_megabytes_without_a_reader():
    q = _core.Queue()
    for i in range(50):
        q.put(bytes([i]) * (1 << 20))
    for i in range(50):
        data = q.get()
        assert len(data) == 1 << 20
        assert data[:1] == bytes([i]) == data[-1:]


def test_bounds():
    q = _core.Queue(2)
    assert q.maxsize == 2
    q.put(1)
    assert not q.full()
    q.put(2)
    assert q.full()
    for args in ((3, False), (3, True, 0), (3, True, -1), (3, True, 0.01)):
        with pytest.raises(queue.Full):
            q.put(*args)
    with pytest.raises(queue.Full):
        q.put_nowait(3)
    with pytest.raises(queue.Full):
        q.put(3, timeout=0.01)
    assert q.get() == 1
    q.put(3, block=True, timeout=0.01)
    assert (q.get(), q.get()) == (2, 3)


def test_nothing_there():
    q = _core.Queue()
    for args in ((False,), (True, 0), (True, -1), (True, 0.01)):
        with pytest.raises(queue.Empty):
            q.get(*args)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    start = time.monotonic()
    with pytest.raises(queue.Empty):
        q.get(timeout=0.1)
    assert time.monotonic() - start >= 0.1


def test_bad_arguments():
    q = _core.Queue()
    with pytest.raises(TypeError, match=r"put\(\) missing required argument: 'obj'"):
        q.put()
    with pytest.raises(TypeError, match="from 1 to 3 positional arguments but 4"):
        q.put(1, True, None, None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'item'"):
        q.put(item=1)
    with pytest.raises(TypeError):
        q.get(True, "soon")
    with pytest.raises(TypeError):
        _core.Queue("many")
    assert q.empty()


def test_an_object_that_does_not_pickle_raises_and_puts_nothing():
    q = _core.Queue()
    for obj in (Unpicklable(), [1, Unpicklable()]):
        with pytest.raises(RuntimeError, match="not this one"):
            q.put(obj)
    assert q.empty()
    q.put("still works")
    assert q.get() == "still works"


def test_a_subclass_may_take_the_exception():
    failed = []

    class Tolerant(_core.Queue):
        def _put_failed(self, error, obj):
            failed.append((type(error), str(error), obj))
            return not isinstance(obj, list)

    q = Tolerant()
    bad = Unpicklable()
    assert q.put(bad) is None
    assert failed == [(RuntimeError, "not this one", bad)]
    with pytest.raises(RuntimeError, match="not this one"):
        q.put([bad])
    assert q.empty()


def test_an_object_that_does_not_unpickle_raises_at_get():
    q = _core.Queue()
    q.put(NotBack())
    q.put("next")
    with pytest.raises(LookupError, match="cannot be made here"):
        q.get()
    assert q.get() == "next"


def test_a_reducer_may_put_into_the_same_queue():
    q = _core.Queue()

    class Chatty:
        def __reduce__(self):
            q.put("first")
            return str, ("second",)

    q.put(Chatty())
    assert q.get() == "first"
    assert q.get() == "second"


def test_closed():
    q = _core.Queue()
    q.put(1)
    assert not q.closed
    q.close()
    q.close()
    assert q.closed
    uses = (
        lambda: q.put(1),
        q.get,
        q.get_nowait,
        lambda: q.put_many([1]),
        lambda: q.get_many(1),
        lambda: q.put_bytes(b""),
        q.get_bytes,
        q.fileno,
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"Queue <.*> is closed"):
            use()
    assert q.qsize() == 1


def test_a_subclass_has_other_words_for_closed():
    class Other(_core.Queue):
        def _closed_error(self):
            return OSError("handle is closed")

    q = Other()
    q.close()
    with pytest.raises(OSError, match="handle is closed"):
        q.get()


def test_an_object_without_init_says_so():
    empty = _core.Queue.__new__(_core.Queue)
    uses = (
        lambda: empty.put(1),
        empty.get,
        empty.qsize,
        empty.empty,
        empty.full,
        empty.poll,
        empty.drain,
        empty.task_done,
        empty.join,
        empty.recover,
        empty.shutdown,
        empty.statistics,
        lambda: empty.handle,
        lambda: empty.maxsize,
        lambda: empty.put_many([1]),
        lambda: empty.get_many(1),
    )
    for use in uses:
        with pytest.raises(ValueError, match="has not been called"):
            use()


def test_many():
    q = _core.Queue()
    items = [1, "two", None, b"x" * 100000, 2.5, {"a": 1}] * 300
    q.put_many(items)
    assert q.qsize() == len(items)
    got = []
    while not q.empty():
        got += q.get_many(700)
    assert got == items
    q.put_many(iter(range(10)))
    assert q.get_many(3) == [0, 1, 2]
    assert q.get_many(max_items=100) == [3, 4, 5, 6, 7, 8, 9]
    with pytest.raises(queue.Empty):
        q.get_many(1, False)
    with pytest.raises(ValueError, match="at least 1"):
        q.get_many(0)
    q.put_many([])
    assert q.empty()


def test_put_many_stops_as_a_loop_would():
    q = _core.Queue()
    with pytest.raises(RuntimeError, match="not this one") as caught:
        q.put_many([1, 2, Unpicklable(), 4])
    assert caught.value.count == 2
    assert q.get_many(10) == [1, 2]

    def failing():
        yield 1
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        q.put_many(failing())
    assert q.get_many(10) == [1]
    with pytest.raises(TypeError):
        q.put_many(5)


def test_put_many_into_a_bounded_queue():
    q = _core.Queue(3)
    with pytest.raises(queue.Full) as caught:
        q.put_many(range(10), timeout=0.01)
    assert caught.value.count == 3
    assert q.get_many(10) == [0, 1, 2]
    got = []

    def take():
        got.extend(q.get(timeout=20) for _ in range(1000))

    thread = threading.Thread(target=take)
    thread.start()
    q.put_many(range(1000))
    thread.join()
    assert got == list(range(1000))


def test_get_many_loses_nothing_to_one_that_fails():
    q = _core.Queue()
    q.put_many([1, NotBack(), 3, "four"])
    with pytest.raises(LookupError, match="cannot be made") as caught:
        q.get_many(10)
    assert caught.value.received == [1, 3, "four"]
    assert q.empty()


def test_handles():
    q = _core.Queue(5)
    other = _core.Queue.from_handle(q.handle)
    assert other.maxsize == 5
    q.put("across")
    assert other.get() == "across"
    handle = q.handle
    q.put(b"x" * 10000)
    del q, other
    with pytest.raises((RuntimeError, ValueError)):
        _core.Queue.from_handle(handle)


def test_subclasses_have_arguments_of_their_own():
    class Named(_core.Queue):
        def __init__(self, name, *, ctx=None):
            super().__init__(1)
            self.name = name

    q = Named("n", ctx=3)
    q.put(q.name)
    assert q.get() == "n"
    copy = Named.__new__(Named)
    copy._attach(q.handle)
    q.put(2)
    assert copy.get() == 2


# ---- Between processes ----


def test_across_a_fork():
    requests, replies = _core.Queue(), _core.Queue()

    def answer():
        for obj in iter(requests.get, None):
            replies.put((os.getpid(), obj))

    with forked(answer) as child:
        for obj in (1, "x", b"y" * 200000, [1, 2]):
            requests.put(obj)
            assert replies.get(timeout=20) == (child.pid, obj)
        requests.put(None)


def test_who_has_put_may_go():
    q = _core.Queue()
    run_forked(lambda: [q.put(bytes([i]) * (4 << 20)) for i in range(8)])
    assert q.qsize() == 8
    assert [q.get()[0] for _ in range(8)] == list(range(8))


@pytest.mark.parametrize("maxsize", [0, 7])
def test_several_producers_and_consumers(maxsize):
    q, results = _core.Queue(maxsize), _core.Queue()

    def produce(base):
        for i in range(2000):
            q.put(base + i)

    def consume():
        got = list(iter(q.get, None))
        assert got == sorted(got, key=lambda item: item % 2000)[: len(got)] or got
        results.put(got)

    with forked(consume), forked(consume):
        with forked(produce, 0), forked(produce, 2000), forked(produce, 4000):
            pass
        q.put(None)
        q.put(None)
        received = results.get(timeout=20) + results.get(timeout=20)
    assert sorted(received) == list(range(6000))


def test_a_killed_consumer_takes_at_most_one(eventually):
    q = _core.Queue()
    q.put_many(range(5000))

    def consume():
        while True:
            q.get()

    with forked(consume) as child:
        eventually(lambda: q.qsize() < 4900)
        child.kill()
    left = q.qsize()
    assert [q.get(timeout=20) for _ in range(left)] == list(range(5000 - left, 5000))
    q.put("on")
    assert q.get(timeout=20) == "on"


def test_a_killed_producer_leaves_whole_messages(eventually):
    q = _core.Queue()

    def produce():
        for i in range(1 << 60):
            q.put((i, b"x" * (i % 9000)))

    with forked(produce) as child:
        eventually(lambda: q.qsize() > 200)
        child.kill()
    for i in range(q.qsize()):
        number, data = q.get(timeout=20)
        assert number == i
        assert len(data) == i % 9000
    assert q.empty()


# ---- Signals ----


def test_get_and_put_are_interrupted():
    q = _core.Queue(1)
    with interrupting(), pytest.raises(HandlerError):
        q.get()
    with interrupting(), pytest.raises(HandlerError):
        q.get(timeout=30)
    with interrupting(), pytest.raises(HandlerError):
        q.get_many(5)
    q.put(1)
    with interrupting(), pytest.raises(HandlerError):
        q.put(2)
    with interrupting(), pytest.raises(HandlerError):
        q.put_many([2, 3])
    assert q.get() == 1


def test_control_c_in_a_blocking_get(eventually):
    q, ready = _core.Queue(), _core.Event()

    def wait():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            ready.set()  # which may sleep, too
            q.get()

    with forked(wait) as child:
        assert ready.wait(20)
        # asleep or about to be: the kernel says when
        eventually(lambda: state_of(child.pid) == "S")
        os.kill(child.pid, signal.SIGINT)
        assert child.wait() == 0


def test_a_handler_may_use_the_queue_it_interrupts():
    q, seen = _core.Queue(), []

    def put(*_):
        seen.append(len(seen))
        q.put(("signal", seen[-1]))

    with interrupting(0.002, handler=put):
        for i in range(20000):
            q.put(("main", i))
            if len(seen) >= 5:
                break
        while len(seen) < 5:
            q.put(("main", -1))
    got = q.get_many(q.qsize())
    assert [item for kind, item in got if kind == "signal"] == seen
    assert q.empty()


def test_nothing_is_lost_to_a_handler_that_raises():
    q, count = _core.Queue(), 3000

    def produce():
        for i in range(count):
            q.put(i)
            if i % 50 == 0:
                time.sleep(0.001)

    got, interruptions, armed = [], 0, set()

    def interrupt(*_):
        if armed:
            armed.clear()
            raise HandlerError

    with forked(produce), interrupting(0.003, handler=interrupt):
        while len(got) < count:
            # extend() takes from the iterator and keeps, without Python in between
            try:
                armed.add(True)
                got.extend(itertools.islice(iter(q.get, None), count - len(got)))
                armed.clear()
            except HandlerError:
                interruptions += 1
    assert got == list(range(count))
    assert interruptions


# ---- Waiting for several ----


def test_poll():
    q = _core.Queue()
    assert q.poll() is False
    assert q.poll(0.01) is False
    q.put(1)
    assert q.poll() is True
    assert q.poll(None) is True
    assert q.get() == 1
    with interrupting(), pytest.raises(HandlerError):
        q.poll(None)


def test_a_descriptor_for_select(no_leaked_descriptors):
    q = _core.Queue()
    with forked(q.put, "a process needs a descriptor to ring with"):
        assert q.get(timeout=20)
    before = len(os.listdir("/proc/self/fd"))
    q.put(0)
    assert len(os.listdir("/proc/self/fd")) == before
    fd = q.fileno()
    assert q.fileno() == fd
    assert select.select([fd], [], [], 20)[0] == [fd]
    assert q.get() == 0
    while not q.drain() and select.select([fd], [], [], 0)[0]:
        pass
    assert q.drain() is False
    assert select.select([fd], [], [], 0)[0] == []
    with forked(lambda: q.put("ring")):
        assert select.select([fd], [], [], 20)[0] == [fd]
        assert q.get_nowait() == "ring"


# ---- Joining ----


def test_join_and_task_done():
    q = _core.Queue(joinable=True)
    assert q.join() is True
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        q.task_done()
    q.put(1)
    q.put(2)
    assert q.join(0.01) is False
    assert q.statistics()["unfinished"] == 2

    def work():
        for _ in range(2):
            q.get()
            q.task_done()

    with forked(work):
        assert q.join(20) is True
    with interrupting(), pytest.raises(HandlerError):
        q.put(3)
        q.join()


def test_a_worker_dies_between_get_and_task_done():
    q = _core.Queue(joinable=True)
    q.put_many([1, 2, 3])

    def work():
        q.get()
        q.get()
        os.kill(os.getpid(), signal.SIGKILL)

    assert Forked(work).wait() == -signal.SIGKILL
    assert q.get() == 3
    q.task_done()
    with pytest.raises(_core.OwnerDied):
        q.join(20)
    assert q.recover() == 2
    assert q.join(20) is True


def test_shutdown():
    q = _core.Queue()
    q.put(1)
    q.shutdown()
    with pytest.raises(_core.ShutDown):
        q.put(2)
    assert q.get() == 1
    with pytest.raises(_core.ShutDown):
        q.get()
    q = _core.Queue()
    q.put_many([1, 2])
    with forked(lambda: q.shutdown(immediate=True)):
        pass
    with pytest.raises(_core.ShutDown):
        q.get_nowait()


def test_shutdown_wakes_those_who_wait(eventually):
    q, ready = _core.Queue(), _core.Event()

    def wait():
        ready.set()
        with pytest.raises(_core.ShutDown):
            q.get()

    with forked(wait) as child:
        assert ready.wait(20)
        eventually(lambda: state_of(child.pid) == "S")
        q.shutdown()


def test_shutdown_is_the_stdlibs_where_there_is_one():
    assert getattr(queue, "ShutDown", _core.ShutDown) is _core.ShutDown


# ---- Memory ----


def test_references_are_given_back():
    q = _core.Queue()
    objects = ["text" * 10, "ü" * 500, b"x" * 1000, 10**9, 1.25, [1], Point(1)]
    before = [sys.getrefcount(obj) for obj in objects]
    for _ in range(10):
        for obj in objects:
            q.put(obj)
        q.put_many(objects)
        q.put_many(iter(objects))
        got = q.get_many(1000)
        assert len(got) == 3 * len(objects)
        del got
        with pytest.raises(RuntimeError):
            q.put_many([*objects, Unpicklable()])
        q.get_many(1000)
        del obj
    assert [sys.getrefcount(obj) for obj in objects] == before


def test_memory_of_messages_is_given_back():
    q = _core.Queue()
    payload = [b"x" * (1 << 20), Point("p" * (1 << 20))]
    for obj in payload:
        q.put(obj)
        q.get()
    before = _core.arena_statistics()["extents"]
    for _ in range(5):
        q.put_many(payload)
        assert _core.arena_statistics()["extents"] >= before + 2
        got = q.get_many(2)
        assert len(got) == 2
        q.put(NotBack())
        with pytest.raises(LookupError):
            q.get()
    assert _core.arena_statistics()["extents"] == before
    slots = _core.arena_statistics()["slots"]
    queues = [_core.Queue() for _ in range(20)]
    for other in queues:
        other.put_many(payload)
    del queues, other
    after = _core.arena_statistics()
    assert after["extents"] == before
    assert after["slots"] == slots


def test_a_hundred_threads():
    q, sums = _core.Queue(), []

    def produce():
        for i in range(100):
            q.put(i)

    def consume():
        sums.append(sum(q.get(timeout=60) for _ in range(100)))

    threads = [threading.Thread(target=target) for target in (produce, consume) * 50]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sums) == 50 * sum(range(100))
    assert q.empty()


def test_statistics():
    q = _core.Queue(9)
    q.put("x")
    statistics = q.statistics()
    assert statistics.pop("bytes") >= 2
    assert statistics == {"count": 1, "maxsize": 9, "unfinished": 0}
