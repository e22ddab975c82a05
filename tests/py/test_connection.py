# SPDX-License-Identifier: MIT
"""Pipes, streams, listeners, passing them on, and waiting for many."""

import array
import os
import socket
import threading

import children
import pytest

import sidestep
from sidestep import connection, reduction, resource_sharer

ITEMS = [
    None,
    1,
    -1.5,
    "text",
    b"bytes",
    [1, {"a": (2,)}],
    "x" * 50_000,
    b"y" * 3_000_000,
]


@pytest.fixture
def sharer():
    yield
    resource_sharer.stop(timeout=20)


def test_both_ways(mp):
    a, b = mp.Pipe()
    for item in ITEMS[:-1]:
        a.send(item)
        assert b.recv() == item
        b.send(item)
        assert a.recv() == item


def test_between_processes(mp_ctx, start):
    parent, child = mp_ctx.Pipe()
    process = start(mp_ctx, children.echo_pipe, child)
    child.close()
    for item in ITEMS:
        parent.send(item)
        assert parent.recv() == item
    parent.send("stop")
    process.join()
    assert process.exitcode == 0


def test_one_way(mp):
    reader, writer = mp.Pipe(duplex=False)
    assert (reader.readable, reader.writable) == (True, False)
    assert (writer.readable, writer.writable) == (False, True)
    with pytest.raises(OSError, match="connection is read-only"):
        reader.send(1)
    with pytest.raises(OSError, match="connection is write-only"):
        writer.recv()
    with pytest.raises(OSError, match="connection is write-only"):
        writer.poll()


def test_bytes(mp):
    a, b = mp.Pipe()
    text = bytes(range(26))
    for args, expected in [
        ((), text),
        ((5,), text[5:]),
        ((7, 8), text[7:15]),
        ((26,), b""),
        ((26, 0), b""),
    ]:
        a.send_bytes(text, *args)
        assert b.recv_bytes() == expected
    for args in [(27,), (22, 5), (26, 1), (-1,), (4, -1)]:
        with pytest.raises(ValueError, match=r".+"):
            a.send_bytes(text, *args)


def test_bytes_of_any_buffer(mp):
    a, b = mp.Pipe()
    items = array.array("i", [1, 2, 3])
    a.send_bytes(items)
    assert b.recv_bytes() == items.tobytes()
    a.send_bytes(memoryview(b"abc"))
    assert b.recv_bytes() == b"abc"


def test_receive_into(mp):
    a, b = mp.Pipe()
    buffer = array.array("i", [0] * 5)
    a.send_bytes(array.array("i", [7, 8]))
    assert b.recv_bytes_into(buffer, buffer.itemsize) == 2 * buffer.itemsize
    assert buffer.tolist() == [0, 7, 8, 0, 0]
    a.send_bytes(b"too long")
    with pytest.raises(mp.BufferTooShort) as info:
        b.recv_bytes_into(bytearray(3))
    assert info.value.args == (b"too long",)
    with pytest.raises(ValueError, match="negative offset"):
        b.recv_bytes_into(bytearray(3), -1)
    with pytest.raises(ValueError, match="offset too large"):
        b.recv_bytes_into(bytearray(3), 4)


def test_receive_at_most(mp):
    a, b = mp.Pipe()
    a.send_bytes(b"12345")
    assert b.recv_bytes(5) == b"12345"
    with pytest.raises(ValueError, match="negative maxlength"):
        b.recv_bytes(-1)
    a.send_bytes(b"123456")
    with pytest.raises(OSError, match="bad message length"):
        b.recv_bytes(5)


def test_end_of_file(mp):
    a, b = mp.Pipe()
    a.send(1)
    a.close()
    assert b.poll(0)
    assert b.recv() == 1
    assert b.poll(None)
    for receive in (b.recv, b.recv_bytes):
        with pytest.raises(EOFError):
            receive()
    with pytest.raises(BrokenPipeError):
        b.send(1)


def test_closed(mp):
    a, b = mp.Pipe()
    assert not a.closed
    a.close()
    a.close()
    assert a.closed
    for use in (a.recv, a.recv_bytes, a.fileno, a.poll, lambda: a.send(1)):
        with pytest.raises(OSError, match="handle is closed"):
            use()
    b.close()


def test_context_manager(mp):
    a, b = mp.Pipe()
    with a as entered, b:
        assert entered is a
    assert a.closed
    assert b.closed


def test_poll(mp):
    a, b = mp.Pipe()
    assert a.poll() is False
    assert a.poll(-1) is False
    assert a.poll(0.001) is False
    b.send_bytes(b"")
    assert a.poll()
    assert a.poll(20)
    assert a.recv_bytes() == b""
    assert not a.poll()


def test_much_goes_in_before_anybody_reads(mp):
    a, b = mp.Pipe()
    for _ in range(7):
        a.send_bytes(b"x" * 8192)
    assert [len(b.recv_bytes()) for _ in range(7)] == [8192] * 7


def test_a_quarter_of_a_megabyte_goes_in_before_anybody_reads():
    a, b = sidestep.Pipe()
    for _ in range(32):
        a.send_bytes(b"x" * 8192)
    assert [len(b.recv_bytes()) for _ in range(32)] == [8192] * 32


def test_pickling_error_sends_nothing(mp):
    a, b = mp.Pipe()
    with pytest.raises(TypeError, match="cannot pickle"):
        a.send(i for i in "a generator")
    assert not b.poll()
    a.send(1)
    assert b.recv() == 1


@pytest.mark.parametrize("family", [socket.AF_UNIX])
def test_stream_over_a_foreign_descriptor(mp, family):
    x, y = socket.socketpair(family)
    a, b = (mp.connection.Connection(s.detach()) for s in (x, y))
    for item in ITEMS[:-1]:
        a.send(item)
        assert b.recv() == item
    assert not b.poll()
    a.close()
    with pytest.raises(EOFError):
        b.recv()
    b.close()


def test_stream_to_a_peer_of_the_stdlib():
    import multiprocessing.connection

    x, y = socket.socketpair()
    ours = connection.Connection(x.detach())
    theirs = multiprocessing.connection.Connection(y.detach())
    ours.send([1, "a"])
    assert theirs.recv() == [1, "a"]
    theirs.send({"b": 2})
    assert ours.recv() == {"b": 2}
    ours.close()
    theirs.close()


def test_invalid_descriptors(mp):
    with pytest.raises(ValueError, match="invalid handle"):
        mp.connection.Connection(-1)
    with pytest.raises(ValueError, match="at least one of"):
        mp.connection.Connection(0, readable=False, writable=False)


# ---- wait ----


def test_wait_returns_all_that_are_ready(mp):
    pipes = [mp.Pipe(duplex=False) for _ in range(4)]
    readers = [r for r, _ in pipes]
    assert mp.connection.wait(readers, 0) == []
    assert mp.connection.wait(readers, -1) == []
    assert mp.connection.wait([], 0) == []
    for _, writer in pipes[1:3]:
        writer.send(1)
    assert mp.connection.wait(readers) == readers[1:3]
    pipes[3][1].close()
    assert mp.connection.wait(readers, 20) == readers[1:4]


def test_wait_wakes(mp):
    reader, writer = mp.Pipe(duplex=False)
    timer = threading.Timer(0.05, writer.send, ["late"])
    timer.start()
    quiet = mp.Pipe()
    assert mp.connection.wait([reader, quiet[0]], 20) == [reader]
    assert reader.recv() == "late"
    timer.join()


def test_wait_for_sockets_and_numbers(mp):
    x, y = socket.socketpair()
    reader, _ = mp.Pipe(duplex=False)
    r, w = os.pipe()
    y.send(b"1")
    assert mp.connection.wait([reader, x, r], 20) == [x]
    os.write(w, b"1")
    assert mp.connection.wait([reader, x, r], 20) == [x, r]
    for s in (x, y):
        s.close()
    for fd in (r, w):
        os.close(fd)


def test_close_ends_accept_though_a_child_has_a_copy(start, eventually):
    listener = connection.Listener(authkey=b"of this test")
    errors = []

    def accept():
        try:
            listener.accept()
        except OSError as error:
            errors.append(str(error))

    waiting = threading.Thread(target=accept, daemon=True)
    waiting.start()
    eventually(lambda: listener._greeter and listener._greeter._lock.locked())
    start(sidestep.get_context("fork"), children.nap, 60)
    listener.close()
    waiting.join(20)
    assert len(errors) == 1
    assert "listener is closed" in errors[0]


def test_wait_for_a_sentinel(mp, start):
    ctx = mp.get_context("fork")
    process = start(ctx, children.nap, 0.05)
    reader, _ = ctx.Pipe(duplex=False)
    assert mp.connection.wait([reader, process.sentinel], 20) == [process.sentinel]
    process.join()
    assert process.exitcode == 0


def test_joined_process_is_ready_at_once(start):
    ctx = sidestep.get_context("fork")
    process = start(ctx, children.nap, 0)
    process.join()
    assert connection.wait([process.sentinel], 0) == [process.sentinel]


def test_wait_for_queues(start):
    ctx = sidestep.get_context("fork")
    one, two = ctx.SimpleQueue(), ctx.Queue()
    readers = [one._reader, two]
    assert connection.wait(readers, 0) == []
    start(ctx, children.put_all, two, [1])
    assert connection.wait(readers, 20) == [two]
    one.put(2)
    assert connection.wait(readers, 20) == readers
    assert (one.get(), two.get()) == (2, 1)
    assert connection.wait(readers, 0.01) == []


def test_a_stale_bell_is_no_message():
    """A message that rang was taken by another before wait() looked."""
    queue = sidestep.Queue()
    reader, writer = sidestep.Pipe(duplex=False)
    both = [queue._reader, reader]
    assert connection.wait(both, 0) == []
    for _ in range(3):
        queue.put(1)
        writer.send(1)
        assert connection.wait(both, 20) == both
        queue.get()
        reader.recv()
        assert connection.wait(both, 0.01) == []


def test_select_tells_the_truth_to_all_who_share_an_end(mp):
    """Pebble's workers select, and then receive, under a lock of their own."""
    import select

    reader, writer = mp.Pipe(duplex=False)
    fd = reader.fileno()
    for count in (1, 3):
        assert select.select([fd], [], [], 0)[0] == []
        for i in range(count):
            writer.send(i)
        assert select.select([fd], [], [], 20)[0] == [fd]
        for i in range(count):
            assert select.select([fd], [], [], 0)[0] == [fd]
            assert reader.recv() == i
    assert select.select([fd], [], [], 0)[0] == []


def test_wait_goes_on_after_a_signal(mp):
    import signal

    reader, writer = mp.Pipe(duplex=False)
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    timers = [
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)),
        threading.Timer(0.1, writer.send, ["after"]),
    ]
    try:
        for timer in timers:
            timer.start()
        assert mp.connection.wait([reader], 20) == [reader]
    finally:
        for timer in timers:
            timer.join()
        signal.signal(signal.SIGUSR1, old)
    assert seen == [1]


def test_wait_of_something_that_cannot_be_waited_for(mp):
    with pytest.raises((ValueError, TypeError)):
        mp.connection.wait([object()], 0)
    reader, _ = mp.Pipe()
    reader.close()
    with pytest.raises((OSError, ValueError)):
        mp.connection.wait([reader], 0)


# ---- Listener and Client ----


@pytest.mark.parametrize("family", connection.families)
@pytest.mark.parametrize("authkey", [None, b"", b"secret"])
def test_listener(mp, start, family, authkey):
    security = None
    if family != "AF_UNIX":
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
        if authkey == b"":
            pytest.skip("no key on a network is refused, see test_network")
        if mp is not sidestep:
            security = "stdlib"
            if authkey is None:
                pytest.skip("here None is the process's key, there no key at all")
    ctx = sidestep.get_context("fork")
    addresses = ctx.SimpleQueue()
    start(ctx, children.serve_listener, addresses, family, authkey, security)
    with mp.connection.Client(addresses.get(), authkey=authkey) as conn:
        conn.send({"a": 1})
        assert conn.recv() == {"a": 1}


def test_wrong_key():
    errors = []

    def accept():
        try:
            listener.accept()
        except sidestep.AuthenticationError as error:
            errors.append(error)

    with connection.Listener(authkey=b"right") as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(sidestep.AuthenticationError):
            connection.Client(listener.address, authkey=b"wrong")
        thread.join(20)
    assert len(errors) == 1


def test_listeners_file_goes_with_it():
    with connection.Listener(family="AF_UNIX") as listener:
        path = listener.address
        assert os.path.exists(path)
    assert not os.path.exists(path)
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept()


def test_bad_addresses(mp):
    with pytest.raises(ValueError, match="not recognized"):
        mp.connection.Listener(r"\\.\test")
    with pytest.raises((ValueError, TypeError)):
        mp.connection.Client(17)
    with pytest.raises(TypeError, match="authkey should be a byte string"):
        connection.Listener(authkey="text")


class Recorded:
    """A connection that plays what a peer would say."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.sent = []

    def recv_bytes(self, size):
        return self.messages.pop(0)

    def send_bytes(self, data):
        self.sent.append(data)


def test_a_peer_of_python_3_11():
    """Twenty bytes without a digest's name mean MD5, both ways."""
    import hmac

    key, message = b"key", b"0123456789" * 2
    peer = Recorded(connection.CHALLENGE + message, connection.WELCOME)
    connection.answer_challenge(peer, key)
    assert peer.sent == [hmac.new(key, message, "md5").digest()]
    proof = hmac.new(key, b"{sha256}0123", "md5").digest()
    connection._verify_challenge(key, b"{sha256}0123", proof)


def test_challenges_that_lead_nowhere():
    for reply in (b"bogus", b"", b"{nodigest}" + b"x" * 32, b"{sha256}short"):
        with pytest.raises(sidestep.AuthenticationError):
            connection.deliver_challenge(Recorded(reply), b"key")
    for challenge in (b"no", connection.CHALLENGE, connection.CHALLENGE + b"x" * 30):
        with pytest.raises(sidestep.AuthenticationError):
            connection.answer_challenge(Recorded(challenge, b"bogus"), b"key")
    with pytest.raises(ValueError, match="must be bytes"):
        connection.deliver_challenge(Recorded(), "text")


# ---- Passing connections, sockets, descriptors ----


def test_pass_pipes(mp_ctx, start):
    """Each package's own resource sharer: the stdlib's is in the same process."""
    conn, child = mp_ctx.Pipe()
    process = start(mp_ctx, children.use_passed, child)
    child.close()
    for _ in range(2):
        mine, given = mp_ctx.Pipe()
        conn.send(given)
        given.close()
        mine.send("hello")
        assert mine.recv() == ("got", "hello")
        with pytest.raises(EOFError):
            mine.recv()
    conn.send(None)
    process.join()


def test_pass_a_stream(ctx, start, sharer):
    conn, child = ctx.Pipe()
    process = start(ctx, children.use_passed, child)
    x, y = socket.socketpair()
    mine = connection.Connection(x.detach())
    with connection.Connection(y.detach()) as given:
        conn.send(given)
    mine.send(1)
    assert mine.recv() == ("got", 1)
    conn.send(None)
    process.join()


def test_pass_a_socket(ctx, start, sharer):
    conn, child = ctx.Pipe()
    start(ctx, children.read_passed_socket, child)
    x, y = socket.socketpair()
    conn.send(y)
    y.close()
    x.sendall(b"hello")
    assert conn.recv() == b"hello"
    x.close()


def test_pass_a_descriptor(ctx, start, sharer):
    conn, child = ctx.Pipe()
    process = start(ctx, children.read_passed_fd, child)
    r, w = os.pipe()
    reduction.send_handle(conn, r, process.pid)
    os.close(r)
    os.write(w, b"hello")
    assert conn.recv() == b"hello"
    os.close(w)


def test_the_sharers_thread_ends_when_all_is_taken(start, eventually):
    ctx = sidestep.get_context("fork")
    before = threading.active_count()
    mine, its = ctx.Pipe()
    child = start(ctx, children.use_passed, its)
    for _ in range(3):
        a, b = ctx.Pipe()
        mine.send(b)
        a.send(1)
        assert a.recv() == ("got", 1)
    eventually(lambda: threading.active_count() <= before)
    mine.send(None)
    child.join()


def test_no_descriptor_where_one_is_expected(ctx, start):
    conn, other = ctx.Pipe()
    os.write(other.fileno(), b"\0")
    with pytest.raises(RuntimeError, match="without a descriptor"):
        reduction.recv_handle(conn)
    conn, other = ctx.Pipe()
    other.send("text")
    with pytest.raises(RuntimeError, match="Invalid data"):
        reduction.recv_handle(conn)
    other.close()
    with pytest.raises(EOFError):
        reduction.recv_handle(conn)


def test_pass_a_descriptor_over_a_socket():
    x, y = socket.socketpair()
    a, b = connection.Connection(x.detach()), connection.Connection(y.detach())
    r, w = os.pipe()
    reduction.send_handle(a, w, None)
    received = reduction.recv_handle(b)
    os.write(received, b"1")
    assert os.read(r, 1) == b"1"
    a.send_bytes(b"no descriptor")
    with pytest.raises(RuntimeError, match="0 items of ancdata"):
        reduction.recv_handle(b)
    for fd in (r, w, received):
        os.close(fd)
    a.close()
    b.close()


def test_pass_at_start(ctx, start):
    """Connections among the arguments of a child."""
    mine, given = ctx.Pipe()
    process = start(ctx, children.send_all, given, [1, 2])
    given.close()
    assert [mine.recv(), mine.recv()] == [1, 2]
    with pytest.raises(EOFError):
        mine.recv()
    process.join()
