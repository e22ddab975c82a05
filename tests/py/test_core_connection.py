# SPDX-License-Identifier: MIT
"""`_core.Connection`: ends of our pipes, and streams as the stdlib speaks them."""

import errno
import multiprocessing.connection
import os
import pickle
import select
import signal
import socket
import struct
import threading

import pytest
from forked import HandlerError, forked, interrupting

from sidestep import _core
from sidestep.connection import BufferTooShort

OBJECTS = [None, 5, 2**70, "text", b"bytes", [1, {"a": (2.5, None)}], "x" * 100000]
SIZES = [0, 1, 247, 248, 4096, 16383, 16384, 16385, 300000]


def make_pipe(duplex=True):
    return _core.pipe(duplex)


def make_stream(duplex=True):
    if duplex:
        first, second = socket.socketpair()
        return _core.Connection(first.detach()), _core.Connection(second.detach())
    reader, writer = os.pipe()
    return _core.Connection(reader, writable=False), _core.Connection(
        writer, readable=False
    )


@pytest.fixture(params=[make_pipe, make_stream])
def make(request):
    return request.param


@pytest.fixture
def pair(make):
    first, second = make()
    yield first, second
    first.close()
    second.close()


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: repr(obj)[:20])
def test_objects(pair, obj):
    first, second = pair
    for sender, receiver in (pair, pair[::-1]):
        assert sender.send(obj) is None
        assert receiver.poll() is True
        assert receiver.recv() == obj
    assert first.poll() is False
    assert second.poll(0.01) is False


@pytest.mark.parametrize("size", SIZES)
def test_bytes(pair, size):
    first, second = pair
    data = os.urandom(size)
    with forked(first.send_bytes, data):
        assert second.recv_bytes() == data


def test_ranges_of_bytes(pair):
    first, second = pair
    data = b"0123456789"
    for args, part in (
        ((2,), data[2:]),
        ((2, 3), data[2:5]),
        ((10,), b""),
        ((0, 0), b""),
    ):
        first.send_bytes(data, *args)
        assert second.recv_bytes() == part
    first.send_bytes(buf=memoryview(data), offset=1, size=None)
    assert second.recv_bytes() == data[1:]
    import array

    numbers = array.array("i", [1, 2, 3])
    first.send_bytes(numbers)
    assert second.recv_bytes() == numbers.tobytes()
    for args, text in (
        ((-1,), "offset is negative"),
        ((11,), "buffer length < offset"),
        ((0, -1), "size is negative"),
        ((4, 7), r"buffer length < offset \+ size"),
    ):
        with pytest.raises(ValueError, match=text):
            first.send_bytes(data, *args)
    with pytest.raises(TypeError):
        first.send_bytes("text")
    assert not second.poll()


def test_objects_and_bytes_mix(pair):
    first, second = pair
    for obj in OBJECTS:
        first.send_bytes(pickle.dumps(obj))
        assert second.recv() == obj
        first.send(obj)
        assert pickle.loads(second.recv_bytes()) == obj


def test_recv_bytes_into(pair):
    first, second = pair
    first.send_bytes(b"hello")
    buffer = bytearray(10)
    assert second.recv_bytes_into(buffer) == 5
    assert buffer == b"hello" + bytes(5)
    first.send_bytes(b"world")
    assert second.recv_bytes_into(buffer, 5) == 5
    assert buffer == b"helloworld"
    first.send_bytes(b"")
    assert second.recv_bytes_into(buffer, offset=10) == 0
    with pytest.raises(ValueError, match="negative offset"):
        second.recv_bytes_into(buffer, -1)
    with pytest.raises(ValueError, match="offset too large"):
        second.recv_bytes_into(buffer, 11)
    with pytest.raises((BufferError, TypeError)):
        second.recv_bytes_into(b"constant")

    first.send_bytes(b"much too long for it")
    with pytest.raises(BufferTooShort) as caught:
        second.recv_bytes_into(buffer)
    assert caught.value.args == (b"much too long for it",)
    assert buffer == b"helloworld"
    first.send_bytes(b"on")
    assert second.recv_bytes_into(buffer) == 2


def test_a_message_longer_than_allowed(make):
    first, second = make()
    first.send_bytes(b"12345")
    assert second.recv_bytes(5) == b"12345"
    with pytest.raises(ValueError, match="negative maxlength"):
        second.recv_bytes(-1)
    first.send_bytes(b"123456")
    with pytest.raises(OSError, match="bad message length"):
        second.recv_bytes(maxlength=5)
    assert not second.readable
    assert not second.closed
    with pytest.raises(OSError, match="connection is write-only"):
        second.recv_bytes()

    reader, writer = make(False)
    writer.send_bytes(b"123456")
    with pytest.raises(OSError, match="bad message length"):
        reader.recv_bytes(5)
    assert reader.closed


def test_one_way(make):
    reader, writer = make(False)
    assert (reader.readable, reader.writable) == (True, False)
    assert (writer.readable, writer.writable) == (False, True)
    writer.send(1)
    assert reader.recv() == 1
    for use in (lambda: reader.send(1), lambda: reader.send_bytes(b"")):
        with pytest.raises(OSError, match="connection is read-only"):
            use()
    for use in (writer.recv, writer.recv_bytes, writer.poll, writer.pending):
        with pytest.raises(OSError, match="connection is write-only"):
            use()
    with pytest.raises(OSError, match="connection is write-only"):
        writer.recv_bytes_into(bytearray(1))


def test_closed(make):
    first, second = make()
    with first as entered:
        assert entered is first
    assert first.closed
    first.close()
    uses = (
        lambda: first.send(1),
        lambda: first.send_bytes(b""),
        first.recv,
        first.recv_bytes,
        lambda: first.recv_bytes_into(bytearray(1)),
        first.poll,
        first.fileno,
        first._parts,
        first._detach,
    )
    for use in uses:
        with pytest.raises(OSError, match="handle is closed"):
            use()
    assert first._handle is None
    second.close()


def test_end_of_file(make):
    first, second = make()
    first.send("last")
    first.close()
    assert second.poll()
    assert second.recv() == "last"
    assert second.poll(20) is True
    for receive in (second.recv, second.recv_bytes):
        with pytest.raises(EOFError):
            receive()
    with pytest.raises(EOFError):
        second.recv_bytes_into(bytearray(1))


def test_nobody_left_to_read(make):
    first, second = make()
    second.close()
    with pytest.raises(BrokenPipeError) as caught:
        first.send(1)
    assert caught.value.errno == errno.EPIPE


def test_a_dropped_connection_closes(make):
    first, second = make()
    fd = first._handle
    del first
    with pytest.raises(EOFError):
        second.recv()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_the_death_of_the_other_end_shows(make):
    first, second = make()

    def talk():
        second.send("hello")
        second.recv()

    with forked(talk) as child:
        second.close()
        assert first.recv() == "hello"
        threading.Timer(0.05, child.kill).start()
        with pytest.raises(EOFError):
            first.recv()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        for _ in range(3):
            first.send(1)


def test_a_forked_child_talks(pair):
    first, second = pair

    def echo():
        for obj in iter(second.recv, None):
            second.send(obj)

    with forked(echo):
        for obj in (1, "two", [3] * 1000, b"x" * 500000):
            first.send(obj)
            assert first.poll(20)
            assert first.recv() == obj
        first.send(None)


def test_more_than_fits_at_once(pair):
    first, second = pair

    def send():
        for i in range(3000):
            first.send((i, "x" * (i % 1000)))

    with forked(send):
        for i in range(3000):
            assert second.recv() == (i, "x" * (i % 1000))


def test_a_quarter_megabyte_waits_for_nobody():
    reader, writer = _core.pipe(False)
    for _ in range(60):
        writer.send_bytes(b"x" * 4096)
    writer.close()
    for _ in range(60):
        assert reader.recv_bytes() == b"x" * 4096
    with pytest.raises(EOFError):
        reader.recv()


def test_blocking_calls_are_interrupted(pair):
    first, second = pair
    with interrupting(), pytest.raises(HandlerError):
        second.recv()
    with interrupting(), pytest.raises(HandlerError):
        second.poll(None)
    with interrupting(), pytest.raises(HandlerError):
        second.recv_bytes_into(bytearray(10))

    def fill():
        while True:
            first.send_bytes(b"x" * 8000)

    with interrupting(0.2), pytest.raises(HandlerError):
        fill()


def test_signals_do_not_disturb_messages(pair):
    first, second = pair
    hits = []

    def send():
        i = 0
        while True:
            first.send_bytes(bytes([i % 256]) * 20000)
            i += 1

    with forked(send) as child, interrupting(0.001, handler=lambda *_: hits.append(1)):
        i = 0
        while len(hits) < 20:
            assert second.recv_bytes() == bytes([i % 256]) * 20000
            i += 1
        child.kill()


def test_select(pair):
    first, second = pair
    fd = second.fileno()
    assert select.select([fd], [], [], 0)[0] == []
    first.send(1)
    assert select.select([second], [], [], 20)[0] == [second]
    assert second.recv() == 1
    second.poll()
    with forked(first.send, 2):
        assert select.select([fd], [], [], 20)[0] == [fd]
        assert second.recv() == 2


def test_pending():
    first, second = _core.pipe()
    assert second.pending() is False
    first.send(1)
    assert second.pending() is True
    first, second = make_stream()
    first.send(1)
    assert second.pending() is False


def test_close_in_another_thread_waits_for_the_one_inside(pair, eventually):
    first, second = pair
    got = []
    thread = threading.Thread(target=lambda: got.append(second.recv()))
    thread.start()
    eventually(lambda: second.statistics()["users"] == 1)
    second.close()
    assert second.closed
    first.send("still")
    thread.join()
    assert got == ["still"]
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        for _ in range(3):
            first.send(1)


def test_an_end_is_rebuilt_from_its_parts():
    first, second = _core.pipe()
    handle, end, fd = second._parts()
    assert end == 1
    copy = _core.Connection.from_parts(handle, end, os.dup(fd))
    second.close()
    first.send("to the copy")
    assert copy.recv() == "to the copy"
    copy.send("back")
    assert first.recv() == "back"
    with pytest.raises((RuntimeError, ValueError)):
        _core.Connection.from_parts(b"\x01" * 24, 0, os.dup(fd := first._handle))
    assert os.fstat(fd)


def test_subclasses():
    class Mine(_core.Connection):
        def __init__(self, fd, title):
            super().__init__(fd)
            self.title = title

    first, second = Mine._pipe(False)
    assert type(first) is type(second) is Mine
    second.send(1)
    assert first.recv() == 1
    left, right = socket.socketpair()
    mine = Mine(left.detach(), "title")
    right.close()
    with pytest.raises(EOFError):
        mine.recv()


# ---- Streams ----


def test_bad_handles():
    with pytest.raises(ValueError, match="invalid handle"):
        _core.Connection(-1)
    with pytest.raises(ValueError, match="at least one of"):
        _core.Connection(0, readable=False, writable=False)
    with pytest.raises(TypeError):
        _core.Connection("0")
    conn = _core.Connection(44977608)
    with pytest.raises(OSError, match="Bad file descriptor"):
        conn.poll()
    with pytest.raises(OSError, match="Bad file descriptor"):
        conn.recv()
    with pytest.raises(OSError, match="Bad file descriptor"):
        conn.close()
    assert conn.closed
    conn = _core.Connection(44977608)
    assert conn._handle == 44977608
    conn._handle = None
    assert conn.closed
    with pytest.raises(AttributeError):
        _core.pipe()[0]._handle = 5


def test_detach():
    first, second = make_stream()
    fd = first._detach()
    assert first.closed
    os.write(fd, struct.pack("!i", 2) + b"ok")
    assert second.recv_bytes() == b"ok"
    os.close(fd)
    with pytest.raises(ValueError, match="more than a descriptor"):
        _core.pipe()[0]._detach()


@pytest.mark.parametrize("size", SIZES)
def test_the_stdlib_understands_us(size):
    left, right = socket.socketpair()
    ours = _core.Connection(left.detach())
    theirs = multiprocessing.connection.Connection(right.detach())
    data = os.urandom(size)
    with forked(ours.send_bytes, data):
        assert theirs.recv_bytes() == data
    with forked(theirs.send_bytes, data):
        assert ours.recv_bytes() == data
    with forked(ours.send, [data, {"size": size}]):
        assert theirs.recv() == [data, {"size": size}]
    with forked(theirs.send, [data, {"size": size}]):
        assert ours.recv() == [data, {"size": size}]
    theirs.close()


def test_a_stream_that_ends_inside_a_message():
    for sent in (
        b"\x00",
        struct.pack("!i", 5) + b"abc",
        struct.pack("!i", -1) + b"\x00",
    ):
        first, second = make_stream()
        os.write(first._handle, sent)
        first.close()
        with pytest.raises(OSError, match="got end of file during message"):
            second.recv_bytes()


def test_an_end_right_after_a_length_is_an_end():
    first, second = make_stream()
    os.write(first._handle, struct.pack("!i", 5))
    first.close()
    with pytest.raises(EOFError):
        second.recv_bytes()


def test_the_long_form_of_a_length():
    first, second = make_stream()
    os.write(first._handle, struct.pack("!iQ", -1, 5) + b"hello")
    assert second.recv_bytes() == b"hello"
    os.write(first._handle, struct.pack("!iQ", -1, 1 << 63))
    with pytest.raises(MemoryError):
        second.recv_bytes()


def test_a_negative_length():
    first, second = make_stream()
    os.write(first._handle, struct.pack("!i", -2))
    with pytest.raises(OSError, match="bad message length"):
        second.recv_bytes()


def test_a_descriptor_that_does_not_block():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    ours = _core.Connection(left.detach())
    theirs = _core.Connection(right.detach())
    with interrupting(), pytest.raises(HandlerError):
        ours.recv()
    with forked(theirs.send_bytes, b"x" * 3000000):
        assert len(ours.recv_bytes()) == 3000000


def test_a_message_comes_in_pieces():
    first, second = make_stream()

    def dribble():
        for byte in struct.pack("!i", 300) + b"y" * 300:
            os.write(first._handle, bytes([byte]))

    with forked(dribble):
        assert second.recv_bytes() == b"y" * 300


@pytest.mark.parametrize("into", [False, True])
def test_a_message_that_was_broken_off_is_received_after_all(into):
    first, second = make_stream()
    message = os.urandom(3000)
    framed = struct.pack("!i", len(message)) + message
    buffer = bytearray(4000)
    got = None
    for start, end in ((0, 2), (2, 4), (4, 1500), (1500, 2999), (2999, len(framed))):
        os.write(first._handle, framed[start:end])
        if end == len(framed):
            break
        with interrupting(0.02), pytest.raises(HandlerError):
            second.recv_bytes_into(buffer) if into else second.recv_bytes()
        assert second.readable
    if into:
        assert second.recv_bytes_into(buffer) == len(message)
        got = bytes(buffer[: len(message)])
    else:
        got = second.recv_bytes()
    assert got == message
    first.send("next")
    assert second.recv() == "next"


def test_a_killed_reader_of_a_full_pipe():
    first, second = _core.pipe()
    with forked(signal.pause) as child:
        second.close()
        threading.Timer(0.1, child.kill).start()
        with pytest.raises(BrokenPipeError):
            while True:
                first.send_bytes(b"x" * 4000)


def test_a_hundred_threads_on_one_pipe():
    first, second = _core.pipe()
    got = []

    def send(base):
        for i in range(50):
            first.send(base + i)

    def receive():
        got.extend(second.recv() for _ in range(50))

    threads = [threading.Thread(target=send, args=(50 * k,)) for k in range(50)]
    threads += [threading.Thread(target=receive) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(2500))


def test_pipes_are_given_back(no_leaked_descriptors):
    _core.pipe()
    before = _core.arena_statistics()
    for _ in range(5):
        pipes = [_core.pipe() for _ in range(10)]
        for first, _ in pipes:
            first.send(b"x" * 10000)
        del pipes, first, _
    after = _core.arena_statistics()
    assert (after["slots"], after["extents"]) == (before["slots"], before["extents"])
