# SPDX-License-Identifier: MIT
"""Shared objects, descriptors and sockets in messages: lifetimes and ends."""

import copy
import gc
import os
import pickle
import resource
import socket
import threading

import children
import pytest
from children import change, show

import sidestep
from sidestep import (
    OwnerDied,
    _core,
    connection,
    context,
    heap,
    reduction,
    resource_sharer,
    sharedctypes,
)

MAKERS = {
    "Lock": lambda ctx: ctx.Lock(),
    "RLock": lambda ctx: ctx.RLock(),
    "Semaphore": lambda ctx: ctx.Semaphore(3),
    "BoundedSemaphore": lambda ctx: ctx.BoundedSemaphore(3),
    "Condition": lambda ctx: ctx.Condition(ctx.Lock()),
    "Event": lambda ctx: ctx.Event(),
    "Barrier": lambda ctx: ctx.Barrier(2),
    "Queue": lambda ctx: ctx.Queue(5),
    "JoinableQueue": lambda ctx: ctx.JoinableQueue(),
    "SimpleQueue": lambda ctx: ctx.SimpleQueue(),
    "Value": lambda ctx: ctx.Value("i", 7),
    "Array": lambda ctx: ctx.Array("d", [1, 2]),
    "String": lambda ctx: ctx.Array("c", b"text"),
    "RawValue": lambda ctx: ctx.RawValue("i", 7),
    "RawArray": lambda ctx: ctx.RawArray("i", [1, 2]),
}


@pytest.fixture
def sharer():
    yield
    resource_sharer.stop(timeout=20)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("over", ["queue", "simple", "pipe"])
def test_sent_and_taken(name, over):
    obj = MAKERS[name](sidestep)
    before = show(obj)
    if over == "pipe":
        b, a = sidestep.Pipe(duplex=False)
        a.send([obj, obj])
        first, second = b.recv()
    else:
        queue = sidestep.Queue() if over == "queue" else sidestep.SimpleQueue()
        queue.put([obj, obj])
        first, second = queue.get()
    assert first is second
    assert first is not obj
    assert show(first) == before
    change(first)
    assert show(obj) == show(first) != before


def test_there_and_back(ctx, start):
    requests, replies = ctx.Queue(), ctx.SimpleQueue()
    worker = start(ctx, children.change_all, requests, replies)
    for make in MAKERS.values():
        obj = make(ctx)
        before = show(obj)
        requests.put(obj)
        came_back, there = replies.get()
        assert show(obj) == show(came_back) == there != before
    requests.put(None)
    worker.join()
    assert worker.exitcode == 0


@pytest.mark.parametrize("name", MAKERS)
def test_a_message_is_a_holder(name):
    """The sender's own object goes; the one in the message stays, and only so long."""
    queue = sidestep.Queue()
    gc.collect()
    before = _core.arena_statistics()["slots"]
    obj = MAKERS[name](sidestep)
    before_show = show(obj)
    queue.put(obj)
    del obj
    gc.collect()
    assert _core.arena_statistics()["slots"] > before
    others = [MAKERS[name](sidestep) for _ in range(20)]  # do not take its place
    for other in others:
        change(other)
    came = queue.get()
    assert show(came) == before_show
    del came, other, others
    gc.collect()
    assert _core.arena_statistics()["slots"] == before


def test_a_sender_that_dies_after_put(ctx, start):
    queue = ctx.Queue()
    process = start(ctx, children.send_objects_and_die, queue)
    process.join()
    lock, inner, value = queue.get(timeout=20)
    assert lock.acquire(timeout=5)
    assert inner.get(timeout=5) == "inside"
    assert value.value == 42


def test_messages_that_nobody_takes_let_go():
    gc.collect()
    before = _core.arena_statistics()["slots"]
    queue = sidestep.Queue()
    for make in MAKERS.values():
        queue.put(make(sidestep))
    del queue
    gc.collect()
    assert _core.arena_statistics()["slots"] == before


def test_queues_in_queues():
    outer = sidestep.Queue()
    for depth in range(5):
        inner = sidestep.Queue()
        inner.put(depth)
        inner.put(outer)
        outer = inner
    for depth in reversed(range(5)):
        assert outer.get() == depth
        outer = outer.get()
    assert outer.empty()


def test_a_queue_on_itself():
    queue = sidestep.Queue()
    queue.put(queue)
    same = queue.get()
    same.put(1)
    assert queue.get() == 1
    a, b = sidestep.Pipe()
    a.send(sidestep.SimpleQueue())
    assert b.recv().empty()


def test_arguments_of_processes(ctx, start):
    """At the start, in one list, with a lock that two of them share."""
    lock = ctx.Lock()
    value = ctx.Value("i", 0, lock=lock)
    queue = ctx.Queue()
    start(ctx, children.add_and_tell, [lock, value, {"queue": queue}]).join()
    assert queue.get(timeout=20) == 1
    assert value.value == 1


def test_between_siblings(ctx, start):
    """From one child to another, which has not seen it before."""
    post, answer = ctx.Queue(), ctx.Queue()
    start(ctx, children.make_and_send, post, answer)
    second = start(ctx, children.answer_in, post)
    assert answer.get(timeout=20) == "answered"
    second.join()


# ---- Pickle and copy ----


@pytest.mark.parametrize("name", MAKERS)
def test_plain_pickle_is_refused(name):
    for attempt in (pickle.dumps, reduction.ForkingPickler.dumps):
        obj = MAKERS[name](sidestep)
        if name.startswith("Raw") and attempt is pickle.dumps:
            continue  # ctypes' own error
        with pytest.raises(RuntimeError, match="through inheritance, or sent"):
            attempt(obj)


@pytest.mark.parametrize("name", ["Lock", "Condition", "Queue", "SimpleQueue", "Value"])
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_copies_are_refused(mp, name, copier):
    with pytest.raises(RuntimeError):
        copier(MAKERS[name](mp))


@pytest.mark.parametrize("name", ["Event", "Barrier"])
def test_shallow_copies_that_the_stdlib_allows(mp, name):
    obj = MAKERS[name](mp)
    with pytest.raises(RuntimeError):
        copy.deepcopy(obj)
    other = copy.copy(obj)
    change(other)
    assert show(obj)


def test_a_stream_does_not_hold():
    x, y = socket.socketpair()
    with connection.Connection(x.detach()) as a, connection.Connection(y.detach()) as b:
        with pytest.raises(RuntimeError, match="should only be shared"):
            a.send(sidestep.Lock())
        a.send(1)
        assert b.recv() == 1


def test_an_asserting_reducer_may_be_sent():
    """Others assert that they are being started; a message will do as well."""
    queue = sidestep.Queue()
    queue.put(Asserting())
    assert isinstance(queue.get(), Asserting)
    with pytest.raises(RuntimeError, match="Asserting objects"):
        pickle.dumps(Asserting())


class Asserting:
    def __getstate__(self):
        context.assert_spawning(self)
        return {"a": 1}


class PutsMeanwhile:
    """A reducer that sends something itself."""

    queue = None

    def __reduce__(self):
        self.queue.put(["inner", sidestep.Lock()])
        return PutsMeanwhile, ()


def test_messages_within_messages():
    PutsMeanwhile.queue = queue = sidestep.Queue()
    event = sidestep.Event()
    queue.put([event, PutsMeanwhile(), event])
    name, lock = queue.get()
    assert name == "inner"
    assert lock.acquire(timeout=5)
    first, _, second = queue.get()
    assert first is second
    first.set()
    assert event.is_set()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_messages_while_a_child_is_being_started(method):
    """Objects are held by the message, not for the child."""
    PutsMeanwhile.queue = queue = sidestep.Queue()
    process = sidestep.get_context(method).Process(target=str, args=(PutsMeanwhile(),))
    process.start()
    process.join()
    lock = queue.get()[1]
    assert lock.acquire(timeout=5)


def test_blocks_of_the_heap():
    wrapper = heap.BufferWrapper(100)
    wrapper.create_memoryview()[:5] = b"hello"
    queue = sidestep.Queue()
    queue.put(wrapper)
    del wrapper
    assert bytes(queue.get().create_memoryview()[:5]) == b"hello"


def test_plain_values_without_ctypes(monkeypatch):
    monkeypatch.setattr(sharedctypes, "typecode_to_type", {}, raising=False)
    value, queue = sharedctypes.RawValue("i", 3), sidestep.Queue()
    queue.put(value)
    other = queue.get()
    other.value = 4
    assert value.value == 4


# ---- Descriptors, sockets and connections ----


def descriptors():
    return set(os.listdir("/proc/self/fd"))


def test_descriptors_on_a_queue(ctx, start, sharer):
    queue, answers = ctx.Queue(), ctx.Queue()
    start(ctx, children.read_descriptors, queue, answers)
    r, w = os.pipe()
    x, y = socket.socketpair()
    a, b = ctx.Pipe()
    stream = connection.Connection(os.dup(y.fileno()))
    queue.put([reduction.DupFd(r), y, b, stream])
    os.close(r)
    y.close()
    b.close()
    stream.close()
    os.write(w, b"one")
    os.close(w)
    x.sendall(b"two")
    a.send("three")
    assert answers.get(timeout=20) == [b"one", b"two", "three"]
    with pytest.raises(EOFError):
        a.recv()
    x.close()


def test_taking_what_one_has_put_oneself(sharer, no_leaked_descriptors):
    queue = sidestep.Queue()
    a, b = sidestep.Pipe()
    queue.put(b)
    b.close()
    with queue.get() as taken:
        taken.send(1)
        assert a.recv() == 1
    with pytest.raises(EOFError):
        a.recv()
    a.close()


@pytest.mark.parametrize("what", ["fd", "socket", "pipe"])
def test_the_owner_died(ctx, start, what):
    queue = ctx.Queue()
    start(ctx, children.send_descriptor_and_end, queue, what).join()
    with pytest.raises(OwnerDied, match="has ended before it was taken"):
        children.take_descriptor(queue)


def test_a_descriptor_is_taken_once(sharer):
    queue = sidestep.Queue()
    r, w = os.pipe()
    queue.put(resource_sharer.DupFd(r))
    dup = queue.get()
    resource_sharer.DupFd(w)  # keeps nobody's thread from ending
    keep = resource_sharer.DupFd(w)
    os.close(dup.detach())
    with pytest.raises(RuntimeError, match="not there any more") as info:
        dup.detach()
    assert not isinstance(info.value, OwnerDied)
    del keep
    os.close(r)
    os.close(w)


def test_a_taken_descriptor_may_be_handed_on(sharer):
    first, second = sidestep.Queue(), sidestep.Queue()
    r, w = os.pipe()
    first.put(resource_sharer.DupFd(r))
    os.close(r)
    second.put(first.get())
    gc.collect()
    resource_sharer.sweep()
    os.write(w, b"x")
    fd = second.get().detach()
    assert os.read(fd, 1) == b"x"
    os.close(fd)
    os.close(w)


def test_dropped_messages_let_go_of_descriptors(sharer):
    a, b = sidestep.Pipe()
    queue = sidestep.Queue()
    queue.put(b)
    b.close()
    resource_sharer.sweep()
    assert not a.poll(0)  # the other end is still open
    del queue
    gc.collect()
    resource_sharer.sweep()
    assert a.poll(20)
    with pytest.raises(EOFError):
        a.recv()
    a.close()


def test_a_put_that_fails_lets_go(sharer):
    queue = sidestep.Queue(1)
    queue.put(1)
    a, b = sidestep.Pipe()
    before = descriptors()
    for _ in range(20):
        with pytest.raises(sidestep.queues.Full):
            queue.put_nowait(b)
    resource_sharer.sweep()
    # The listening socket, the pipe that ends its thread, and perhaps another number
    # for looking itself.
    assert len(descriptors() - before) <= 4
    a.close()
    b.close()


def test_a_fork_does_not_answer_for_its_parent(sharer, eventually):
    """A forked process must not keep the parent's socket, nor its duplicates."""
    r, w = os.pipe()
    keep = resource_sharer.DupFd(w)
    os.close(w)
    child_reads, parent_writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(parent_writes)
        os.read(child_reads, 1)
        os._exit(0)
    os.close(child_reads)
    del keep
    resource_sharer.sweep()
    assert os.read(r, 1) == b""  # nobody has the other end any more
    os.close(r)
    os.close(parent_writes)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("uid", [0, 54321])
def test_who_is_trusted(monkeypatch, uid):
    """Processes of the same user, and root."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(resource_sharer.struct, "unpack", lambda *_: (1, uid, uid))
    a, b = (connection.Connection(sock.detach()) for sock in socket.socketpair())
    with a, b:
        if uid == 0:
            resource_sharer._check_peer(a)
        else:
            with pytest.raises(sidestep.AuthenticationError, match="user 54321"):
                resource_sharer._check_peer(a)


def test_stop_gives_up_what_nobody_took(no_leaked_descriptors):
    r, w = os.pipe()
    dup = resource_sharer.DupFd(r)
    resource_sharer.stop(timeout=20)
    with pytest.raises(OwnerDied):
        dup.detach()
    os.close(r)
    os.close(w)


def test_no_file_is_left(sharer):
    r, w = os.pipe()
    dup = resource_sharer.DupFd(r)
    assert dup._id[0][:1] in {"\0", b"\0"}
    os.close(dup.detach())
    os.close(r)
    os.close(w)


def test_an_offer_without_a_socket_keeps_nothing(sharer, no_leaked_descriptors):
    source = os.open(os.devnull, os.O_RDONLY)
    free = os.dup(source)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            resource_sharer.DupFd(source)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(source)


def test_many_threads(sharer):
    queue = sidestep.Queue()
    errors = []

    def exchange():
        try:
            for _ in range(20):
                a, b = sidestep.Pipe()
                queue.put(b)
                b.close()
                with queue.get(timeout=20) as other:
                    other.send(1)
                a.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=exchange) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [error for error in errors if not isinstance(error, BrokenPipeError)]
