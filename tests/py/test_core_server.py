# SPDX-License-Identifier: MIT
"""_core.Server: what Python sees of the server loop. tests/c/test_server.c has the rest."""

import os
import socket
import threading

import pytest

from sidestep import _core
from sidestep.connection import Connection


@pytest.fixture
def server():
    server = _core.Server()
    yield server
    server.close()


@pytest.fixture
def peer(server):
    """A connection to the server, and its number there."""
    ours, theirs = socket.socketpair()
    number = server.add(theirs.detach(), greeted=True)
    with Connection(ours.detach()) as conn:
        yield conn, number


def test_messages_and_answers(server, peer):
    conn, number = peer
    conn.send_bytes(b"hello")
    assert server.take(20) == (_core.SERVER_MESSAGE, number, b"hello", None)
    assert server.take(0) is None
    assert server.send(number, b"world") is True
    assert conn.recv_bytes() == b"world"
    assert server.statistics()["messages"] == 1
    conn.send_bytes(b"")
    assert server.take(20) == (_core.SERVER_MESSAGE, number, b"", None)
    server.greet(number)
    conn.close()
    what, which, why, unsent = server.take(20)
    assert (what, which, unsent) == (_core.SERVER_ENDED, number, 0)
    assert why == "nobody is left to write"
    for call in (server.greet, server.finish, server.end, server.release):
        with pytest.raises(BrokenPipeError):
            call(number)
    with pytest.raises(BrokenPipeError):
        server.send(number, b"too late")


def test_somebody_connects(server, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        server.listen(os.dup(listener.fileno()))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.getsockname())
            what, number, uid, pid = server.take(20)
            assert what == _core.SERVER_OPENED
            assert (uid, pid) == (os.getuid(), os.getpid())
            assert server.statistics()["half_open"] == 1
            server.end(number)
            assert client.recv(1) == b""
        assert server.take(20)[0] == _core.SERVER_ENDED


def test_a_large_answer_waits_for_its_reader(server, peer):
    conn, number = peer
    data = os.urandom(8 << 20)
    assert server.send(number, data) is False
    server.finish(number)
    with pytest.raises(BrokenPipeError):
        server.send(number, b"more")
    received = []
    reader = threading.Thread(target=lambda: received.append(conn.recv_bytes()))
    reader.start()
    assert server.take(20)[:3] == (_core.SERVER_ENDED, number, "closed")
    reader.join()
    assert received == [data]


def test_a_connection_is_taken_out(server, peer):
    conn, number = peer
    conn.send_bytes(b"first")
    conn.send_bytes(b"second")
    assert server.take(20)[2] == b"first"
    with Connection(server.release(number)) as theirs:
        assert theirs.recv_bytes() == b"second"
    assert server.statistics()["connections"] == 0


def test_close_wakes_who_takes(server, eventually):
    seen = []

    def take():
        try:
            while True:
                seen.append(server.take())
        except ValueError as error:
            seen.append(str(error))

    def is_taken():
        try:
            server.take(0)
        except BlockingIOError:
            return True
        return False

    taker = threading.Thread(target=take)
    taker.start()
    eventually(is_taken)
    server.close()
    taker.join()
    assert seen[-1] == "the server is closed"
    server.close()
    with pytest.raises(ValueError, match="closed"):
        server.statistics()


def test_a_child_has_no_part_in_it(server, peer):
    conn, number = peer
    pid = os.fork()
    if pid == 0:
        try:
            conn.close()
            with pytest.raises(BrokenPipeError):
                server.send(number, b"from the child")
            with pytest.raises(ValueError, match="another process"):
                server.take(0)
            server.close()
            os._exit(0)
        except BaseException:  # it must not run the tests that follow
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert server.send(number, b"from the parent")
    assert conn.recv_bytes() == b"from the parent"


def test_limits():
    with pytest.raises(OverflowError):
        _core.Server(connections_max=1 << 40)
    server = _core.Server(connections_max=1, message_size_max=10)
    ours, theirs = socket.socketpair()
    number = server.add(theirs.detach(), greeted=True)
    with ours, pytest.raises(MemoryError):
        server.add(ours.fileno())
    ours, theirs = socket.socketpair()
    assert server.take(20)[1] == number
    number = server.add(theirs.detach(), greeted=True)
    with Connection(ours.detach()) as conn:
        conn.send_bytes(b"eleven byte")
        what, which, why, _ = server.take(20)
    assert (what, which) == (_core.SERVER_ENDED, number)
    assert "longer" in why
    server.close()


def test_what_it_is_not_given():
    server = _core.Server()
    with pytest.raises(OSError, match="Bad file descriptor"):
        server.listen(-1)
    with pytest.raises(TypeError):
        server.send(1)
    with pytest.raises(TypeError):
        server.send("one", b"")
    with pytest.raises(RuntimeError, match="already"):
        server.__init__()
    with pytest.raises(ValueError, match="closed"):
        _core.Server.__new__(_core.Server).take()
