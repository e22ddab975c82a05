# SPDX-License-Identifier: MIT
"""Every entry point of `_core` when the interpreter's memory runs out at the n-th request."""

import os
import pickle
import socket

import pytest

from sidestep import _core

_testcapi = pytest.importorskip("_testcapi")

ATTEMPTS = 400  # more than any of the calls asks for memory
# what it says: itself, or through the import that pickle tries
TOLD = (MemoryError, pickle.PicklingError)


class Anything:
    def __eq__(self, other):
        return type(other) is Anything

    __hash__ = None


def make_calls():
    """Name and function of each call; a function may be run again after it failed."""
    q, (a, b) = _core.Queue(), _core.pipe()
    left, right = socket.socketpair()
    c, d = _core.Connection(left.detach()), _core.Connection(right.detach())
    block, lock, event = _core.Block(64), _core.SemLock(2, 1, 1), _core.Event()
    semaphore, rlock = _core.SemLock(1, 3, 5), _core.SemLock(0, 1, 1)
    condition, barrier = _core.Condition(), _core.Barrier(2)
    buffer, items = bytearray(3000), [1, "x", [2], b"y" * 999, Anything()]
    large, text = b"x" * 100000, "ü" * 5000

    def there_and_back(obj):
        q.put(obj)
        assert q.get() == obj

    def many():
        q.put_many(items)
        assert q.get_many(5) == items

    def pipe(sender, receiver):
        sender.send(items)
        assert receiver.recv() == items
        sender.send_bytes(large)
        assert receiver.recv_bytes() == large
        sender.send_bytes(b"12")
        assert receiver.recv_bytes_into(buffer) == 2

    def notice():
        ticket = condition.enter()
        condition.notify(1)
        assert condition.wait(ticket, 1)

    def count():
        block.store(0, "q", 1 << 40)
        assert block.fetch_add(0, "q", 1 << 40) == 1 << 40
        memoryview(block).release()

    def meet():
        barrier.reset()
        _, ticket = barrier.arrive()
        barrier.abort()
        # pytest.raises() defines functions, which CPython does not survive here
        try:
            barrier.wait(ticket)
        except _core.BrokenBarrierError:
            return
        raise AssertionError

    def with_lock(which):
        with which:
            pass

    def statistics():
        for obj in (q, a, c, block, lock, event, condition, barrier):
            obj.statistics()
        _core.arena_statistics()

    def handles():
        for obj in (q, block, lock, event, condition, barrier):
            type(obj).from_handle(obj.handle)
        _core.Connection.from_parts(*a._parts()[:2], os.dup(a._handle))

    def new():
        _core.Queue(3, joinable=True), _core.pipe(), _core.Block(10), _core.Event()
        _core.SemLock(kind=1, value=2, maxvalue=3), _core.Condition(), _core.Barrier(3)

    return {
        "int": lambda: there_and_back(1 << 50),
        "bytes": lambda: there_and_back(large),
        "str": lambda: there_and_back(text),
        "pickle": lambda: there_and_back(Anything()),
        "large pickle": lambda: there_and_back([large, Anything()]),
        "many": many,
        "pipe": lambda: pipe(a, b),
        "stream": lambda: pipe(c, d),
        "condition": notice,
        "block": count,
        "barrier": meet,
        "lock": lambda: with_lock(lock),
        "rlock": lambda: with_lock(rlock),
        "semaphore": lambda: semaphore.acquire(timeout=0.5) and semaphore.release(),
        "event": lambda: event.wait(timeout=0.0),
        "statistics": statistics,
        "handles": handles,
        "new": new,
    }, lambda: drain(q, (b, d))


def drain(q, connections):
    """Take what a call that failed half-way has left."""
    while not q.empty():
        q.get_bytes()
    for connection in connections:
        while connection.poll():
            connection.recv_bytes()


@pytest.mark.parametrize("name", list(make_calls()[0]))
def test_no_memory_at_the_nth_request(name):
    calls, clean = make_calls()
    call = calls[name]
    call()
    failures = 0
    for n in range(ATTEMPTS):
        clean()
        _testcapi.set_nomemory(n, n + 1)
        try:
            call()
        except TOLD:
            failures += 1
        finally:
            _testcapi.remove_mem_hooks()
    clean()
    call()
    assert failures or name in {"lock", "rlock", "semaphore", "event"}
