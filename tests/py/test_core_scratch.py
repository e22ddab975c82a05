# SPDX-License-Identifier: MIT
"""Large objects from a stream are decoded out of memory that is used again."""

import os
import pickle
import resource
import socket
import struct

import pytest
from forked import HandlerError, forked, interrupting

from sidestep import _core

SIZE = 1 << 20


@pytest.fixture
def pair():
    first, second = socket.socketpair()
    yield (
        ours := _core.Connection(first.detach()),
        theirs := _core.Connection(second.detach()),
    )
    ours.close()
    theirs.close()


def framed(obj):
    data = pickle.dumps(obj)
    return struct.pack("!i", len(data)) + data


def send_all(sender, count):
    for i in range(count):
        sender.send_bytes(pickle.dumps(bytes([i % 256]) * SIZE))


def test_no_page_faults_for_each_message(pair):
    """A message of 256 pages, twice in memory: fresh each time, that was 480 faults."""
    receiver, sender = pair
    count = 100
    with forked(send_all, sender, 20 + count):
        for i in range(20):
            assert receiver.recv()[0] == i
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for i in range(20, 20 + count):
            assert receiver.recv()[0] == i % 256
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 100 * count


def test_each_object_is_its_own(pair):
    receiver, sender = pair
    sizes = [SIZE, SIZE - 1, 70_000, 10, 3 * SIZE, 5 * SIZE, SIZE, 65_536]
    objects = [bytearray(os.urandom(size)) for size in sizes]

    def send():
        for obj in objects:
            sender.send(obj)

    with forked(send):
        got = [receiver.recv() for _ in objects]
    assert got == objects


class Receives:
    """Is made of the next message: of one that comes while another is decoded."""

    receiver = None

    def __init__(self, padding):
        self.padding = padding

    def __reduce__(self):
        return receive, (self.padding,)


def receive(padding):
    return padding, Receives.receiver.recv()


def test_a_message_within_a_message(pair, monkeypatch):
    receiver, sender = pair
    monkeypatch.setattr(Receives, "receiver", receiver)
    one, two, three = (bytes([n]) * SIZE for n in range(3))

    def send():
        for obj in (Receives(one), Receives(two), three):
            sender.send_bytes(pickle.dumps(obj))

    with forked(send):
        assert receiver.recv() == (one, (two, three))


def test_what_was_broken_off_is_not_overwritten(pair):
    """A message that a signal's handler broke off, while another one comes in whole."""
    receiver, sender = pair
    other, _ = others = [_core.Connection(end.detach()) for end in socket.socketpair()]
    message = framed(b"m" * SIZE)
    os.write(sender._handle, message[:100_000])
    with pytest.raises(HandlerError), interrupting(0.1):
        receiver.recv()
    with forked(send_all, others[1], 1):
        assert other.recv() == bytes(SIZE)

    def send_rest():
        rest = memoryview(message)[100_000:]
        while rest:
            rest = rest[os.write(sender._handle, rest) :]

    with forked(send_rest):
        assert receiver.recv() == b"m" * SIZE


def test_a_message_that_does_not_unpickle(pair):
    receiver, sender = pair
    with forked(lambda: [sender.send_bytes(b"?" * SIZE), sender.send("next")]):
        with pytest.raises(pickle.UnpicklingError):
            receiver.recv()
        assert receiver.recv() == "next"
