# SPDX-License-Identifier: MIT
"""Queues: what the stdlib defines, on both packages, and what sidestep adds."""

import gc
import pickle
import queue as stdlib_queue
import select
import threading

import children
import pytest

import sidestep
from sidestep import queues


class Unpicklable:
    def __reduce__(self):
        raise ZeroDivisionError("not this one")


ITEMS = [
    None,
    True,
    0,
    -1,
    2**62,
    -(2**63),
    2**200,
    1.5,
    float("inf"),
    "",
    "text",
    "ü\U0001f600",
    "\ud800",
    b"",
    b"bytes",
    bytearray(b"x"),
    (1, "a"),
    [1, [2, [3]]],
    {"a": {"b": None}},
    {1, 2},
    ValueError("x").args,
    range(3),
    int,
    len,
    "x" * 100_000,
    b"y" * 3_000_000,
]


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_objects_come_as_they_went(mp, kind):
    queue = getattr(mp, kind)()
    # The stdlib's SimpleQueue is a pipe: what it does not hold blocks.
    is_pipe = mp is not sidestep and kind == "SimpleQueue"
    for item in ITEMS[:-2] if is_pipe else ITEMS:
        queue.put(item)
        got = queue.get()
        assert got == item
        assert type(got) is type(item)


def test_order(mp):
    queue = mp.Queue()
    for i in range(1000):
        queue.put(i)
    assert [queue.get() for _ in range(1000)] == list(range(1000))


def test_between_processes(mp_ctx, start):
    requests, replies = mp_ctx.Queue(), mp_ctx.Queue()
    child = start(mp_ctx, children.echo_queue, requests, replies)
    for item in ITEMS[1:]:
        requests.put(item)
    requests.put(None)
    assert [replies.get() for _ in ITEMS[1:]] == ITEMS[1:]
    child.join()
    assert child.exitcode == 0


def test_simple_queue_between_processes(mp_ctx, start):
    requests, replies = mp_ctx.SimpleQueue(), mp_ctx.SimpleQueue()
    child = start(mp_ctx, children.echo_queue, requests, replies)
    requests.put({"a": 1})
    assert replies.get() == {"a": 1}
    requests.put(None)
    child.join()
    assert replies.empty()


def test_empty_raises(mp):
    queue = mp.Queue()
    for call in (
        lambda: queue.get(False),
        queue.get_nowait,
        lambda: queue.get(timeout=0.001),
        lambda: queue.get(True, 0),
        lambda: queue.get(True, -1),
    ):
        with pytest.raises(stdlib_queue.Empty):
            call()


def test_full_raises(mp):
    queue = mp.Queue(2)
    queue.put(1)
    queue.put(2, True)
    assert queue.full()
    for call in (
        lambda: queue.put(3, False),
        lambda: queue.put_nowait(3),
        lambda: queue.put(3, timeout=0.001),
        lambda: queue.put(3, True, -1),
    ):
        with pytest.raises(stdlib_queue.Full):
            call()
    assert queue.get() == 1
    queue.put(3)
    assert [queue.get(), queue.get()] == [2, 3]


def test_put_waits_for_room(mp, start, eventually):
    ctx = mp.get_context("fork")
    queue = ctx.Queue(1)
    child = start(ctx, children.put_all, queue, list(range(50)))
    assert [queue.get() for _ in range(50)] == list(range(50))
    child.join()


def test_exact_counts():
    queue = sidestep.Queue(3)
    seen = []
    for i in range(3):
        seen.append((queue.qsize(), queue.empty(), queue.full()))
        queue.put(i)
    seen.append((queue.qsize(), queue.empty(), queue.full()))
    assert seen == [
        (0, True, False),
        (1, False, False),
        (2, False, False),
        (3, False, True),
    ]


def test_closed(mp):
    queue = mp.Queue()
    queue.close()
    queue.join_thread()
    with pytest.raises(ValueError, match="is closed"):
        queue.put(1)
    with pytest.raises(ValueError, match="is closed"):
        queue.get()


def test_join_thread_needs_close(mp):
    queue = mp.Queue()
    with pytest.raises(AssertionError):
        queue.join_thread()
    queue.cancel_join_thread()
    queue.close()


def test_closed_simple_queue(mp):
    queue = mp.SimpleQueue()
    queue.close()
    assert queue._reader.closed
    assert queue._writer.closed
    with pytest.raises(OSError, match="handle is closed"):
        queue.put(1)
    with pytest.raises(OSError, match="handle is closed"):
        queue.get()


def test_task_done(mp, start):
    ctx = mp.get_context("fork")
    queue = ctx.JoinableQueue()
    with pytest.raises(ValueError, match="task_done\\(\\) called too many times"):
        queue.task_done()
    for i in range(10):
        queue.put(i)
    queue.put(None)
    start(ctx, children.work_on, queue)
    queue.join()
    assert queue.empty()


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_only_joinable_queues_have_tasks(mp, kind):
    """QueueListener of logging asks by hasattr()."""
    queue = getattr(mp, kind)()
    for name in ("task_done", "join"):
        assert hasattr(queue, name) == (kind == "JoinableQueue")


def test_generic_alias():
    for kind in (queues.Queue, queues.JoinableQueue, queues.SimpleQueue):
        assert kind[int].__origin__ is kind


def test_pickling_needs_a_start(mp):
    for queue in (mp.Queue(), mp.JoinableQueue(), mp.SimpleQueue()):
        with pytest.raises(RuntimeError, match="should only be shared"):
            pickle.dumps(queue)


def test_unpicklable_raises_at_put():
    queue = sidestep.Queue(1)
    with pytest.raises(ZeroDivisionError, match="not this one"):
        queue.put(Unpicklable())
    with pytest.raises(TypeError, match="generator"):
        queue.put(i for i in "a generator")
    assert queue.empty()
    queue.put(1)
    assert queue.get() == 1


def test_feeder_error_hook(mp):
    seen = []

    class Hooked(mp.queues.Queue):
        def __init__(self, note, *, ctx):
            super().__init__(2, ctx=ctx)
            self.note = note

        def _on_queue_feeder_error(self, e, obj):
            seen.append((type(e), type(obj), self.note))

    queue = Hooked("mine", ctx=mp.get_context("fork"))
    queue.put(Unpicklable())
    queue.put(1)
    assert queue.get(timeout=20) == 1
    assert seen == [(ZeroDivisionError, Unpicklable, "mine")]


def test_hook_does_not_get_what_is_not_about_the_object():
    class Hooked(queues.Queue):
        def _on_queue_feeder_error(self, e, obj):
            raise AssertionError

    queue = Hooked(1, ctx=sidestep.get_context())
    queue.put(1)
    with pytest.raises(stdlib_queue.Full):
        queue.put(2, timeout=0)


class Stateful(queues.Queue):
    def __init__(self, note, ctx):
        super().__init__(5, ctx=ctx)
        self.note = note

    def __getstate__(self):
        return (*super().__getstate__(), self.note)

    def __setstate__(self, state):
        super().__setstate__(state[:-1])
        self.note = state[-1]


def tell_note(queue):
    queue.put((queue.note, queue.maxsize))


def test_subclass_with_state(start):
    ctx = sidestep.get_context("fork")
    queue = Stateful("note", ctx)
    start(ctx, tell_note, queue)
    assert queue.get() == ("note", 5)


def test_ends_as_others_use_them():
    queue = sidestep.Queue()
    assert not queue._reader.poll()
    queue._writer.send([1])
    queue._writer.send_bytes(pickle.dumps([2]))
    assert queue._reader.poll()
    assert queue._reader.recv() == [1]
    assert pickle.loads(queue._reader.recv_bytes()) == [2]
    assert isinstance(queue._reader.fileno(), int)
    with pytest.raises(OSError, match="read-only"):
        queue._reader.send(1)
    with pytest.raises(OSError, match="write-only"):
        queue._writer.recv()
    queue._reader.close()
    assert queue._reader.closed
    with pytest.raises(OSError, match="handle is closed"):
        queue._reader.recv()
    queue.put(3)
    assert queue.get() == 3


def test_terminate_broken():
    queue = sidestep.Queue()
    queue.put(1)
    queue._terminate_broken()
    assert queue.closed


def test_many():
    queue = sidestep.Queue()
    queue.put_many(range(1000))
    assert queue.get_many(10) == list(range(10))
    assert queue.get_many(5000) == list(range(10, 1000))
    with pytest.raises(stdlib_queue.Empty):
        queue.get_many(1, block=False)
    with pytest.raises(stdlib_queue.Empty):
        queue.get_many(1, timeout=0.001)


def test_many_and_room():
    queue = sidestep.Queue(3)
    with pytest.raises(stdlib_queue.Full):
        queue.put_many(range(5), block=False)
    assert queue.get_many(10) == [0, 1, 2]


def test_shutdown():
    queue = sidestep.Queue()
    queue.put(1)
    queue.shutdown()
    with pytest.raises(queues.ShutDown):
        queue.put(2)
    assert queue.get() == 1
    with pytest.raises(queues.ShutDown):
        queue.get()


def test_shutdown_at_once():
    queue = sidestep.Queue()
    queue.put(1)
    queue.shutdown(immediate=True)
    with pytest.raises(queues.ShutDown):
        queue.get()


def test_shutdown_wakes_who_waits():
    queue = sidestep.Queue()
    ends = []

    def wait():
        try:
            queue.get()
        except queues.ShutDown:
            ends.append("shut down")

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.shutdown()
    for thread in threads:
        thread.join(20)
    assert ends == ["shut down"] * 3


def test_no_descriptor_until_asked(no_leaked_descriptors):
    sidestep.Queue().put(1)  # the arena's descriptor comes with the first object
    gc.collect()
    before = set(list_descriptors())
    made = [sidestep.Queue() for _ in range(100)]
    assert set(list_descriptors()) <= before  # other tests' feeder threads close some
    assert str(made[0].fileno()) in list_descriptors()
    del made


def list_descriptors():
    import os

    return os.listdir("/proc/self/fd")


def test_fileno_tells_of_messages(start):
    ctx = sidestep.get_context("fork")
    queue = ctx.Queue()
    fd = queue.fileno()
    assert select.select([fd], [], [], 0)[0] == []
    start(ctx, children.put_all, queue, [1])
    assert select.select([fd], [], [], 20)[0] == [fd]
    assert queue.get() == 1


def test_message_from_before_fileno_is_told():
    queue = sidestep.Queue()
    queue.put(1)
    assert select.select([queue.fileno()], [], [], 20)[0]


def test_put_of_big_messages(mp_ctx, start):
    queue = mp_ctx.Queue()
    child = start(mp_ctx, children.put_bytes, queue, 5_000_000, 3)
    for _ in range(3):
        assert queue.get() == b"x" * 5_000_000
    child.join()


def test_signal_handler_may_use_the_queue():
    import os
    import signal

    queue = sidestep.Queue()
    old = signal.signal(signal.SIGUSR1, lambda *_: queue.put("from the handler"))
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        assert queue.get(timeout=20) == "from the handler"
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)


def test_exception_in_a_signal_handler_loses_nothing(interrupt):
    queue = sidestep.Queue()
    begun = threading.Event()

    def get():
        begun.set()
        queue.get()

    with pytest.raises(interrupt(begun.is_set)):
        get()
    queue.put(1)
    assert queue.get() == 1


def test_threads_share_a_queue():
    queue, out = sidestep.Queue(), []

    def take():
        for item in iter(queue.get, None):
            out.append(item)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(2000):
        queue.put(i)
    for _ in threads:
        queue.put(None)
    for thread in threads:
        thread.join()
    assert sorted(out) == list(range(2000))


def test_the_descriptor_is_unreadable_when_all_is_taken():
    """Who waits with select() believes that recv() will not block then."""
    queue = sidestep.SimpleQueue()
    fd = queue._reader.fileno()
    for item in range(3):
        queue.put(item)
    assert select.select([fd], [], [], 20)[0]
    assert [queue._reader.recv() for _ in range(3)] == [0, 1, 2]
    assert not select.select([fd], [], [], 0)[0]
