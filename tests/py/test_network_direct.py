# SPDX-License-Identifier: MIT
"""Encrypted connections that are encrypted by who uses them, and their way to the relay."""

import contextlib
import os
import signal
import threading
import time

import network_children as children
import pytest

import sidestep
from sidestep.connection import Client, Listener, wait

_tls = pytest.importorskip("sidestep._tls", reason="built without OpenSSL")

KEY = b"a key of thirty-two bytes at the least"


class Receiver(threading.Thread):
    """Receives one object, and is about it when the constructor returns."""

    def __init__(self, conn, eventually):
        super().__init__(daemon=True)
        self.conn, self.got = conn, None
        self.start()
        eventually(lambda: conn.statistics()["users"] == 1)

    def run(self):
        try:
            self.got = self.conn.recv()
        except BaseException as error:
            self.got = error


@pytest.fixture
def pair():
    """A client's and a server's connection, both of this process."""
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        got = []
        thread = threading.Thread(target=lambda: got.append(listener.accept()))
        thread.start()
        client = Client(listener.address, authkey=KEY)
        thread.join(20)
        with client, got[0]:
            yield client, got[0]


def counts():
    numbers = _tls.statistics()
    return numbers["direct"], numbers["relayed"]


def test_nobody_is_in_between(pair):
    client, server = pair
    direct, relayed = counts()
    client.send("there")
    assert server.poll(20)
    assert server.recv() == "there"
    server.send("and back")
    assert client.recv() == "and back"
    assert not client.poll(0)
    assert counts() == (direct, relayed)


def test_who_asks_for_the_descriptor_gets_a_plain_stream(pair):
    client, server = pair
    direct, relayed = counts()
    fd = client.fileno()
    assert counts() == (direct - 1, relayed + 1)
    assert client.fileno() == fd
    assert counts() == (direct - 1, relayed + 1)
    for _ in range(3):
        server.send("to the relayed one")
        assert wait([client], 20) == [client]
        assert client.recv() == "to the relayed one"
        client.send(b"x" * 1_000_000)
        assert len(server.recv()) == 1_000_000


@pytest.mark.filterwarnings("ignore:security=:RuntimeWarning")
def test_wait_for_connections_of_all_kinds():
    kinds = [
        (None, {}),
        (("127.0.0.1", 0), {}),
        (("127.0.0.1", 0), {"security": "stdlib"}),
    ]
    if os.path.exists("/proc/net/if_inet6"):
        kinds.append((("::1", 0), {}))
    with contextlib.ExitStack() as stack:
        pipe, pipes_end = sidestep.Pipe()
        ours, theirs = [pipe], [pipes_end]
        for address, options in kinds:
            listener = stack.enter_context(Listener(address, authkey=KEY, **options))
            thread = threading.Thread(target=lambda one: theirs.append(one.accept()),
                                      args=(listener,))  # fmt: skip
            thread.start()
            ours.append(Client(listener.address, authkey=KEY, **options))
            thread.join(20)
        assert wait(ours, 0) == []
        for mine, other in zip(ours, theirs, strict=True):
            other.send("a message")
            assert wait(ours, 20) == [mine]
            assert mine.recv() == "a message"
        for other in theirs:
            other.close()
        waiting = set(ours)
        while waiting:  # each tells of its end
            for mine in wait(waiting, 20):
                with pytest.raises(EOFError):
                    mine.recv()
                waiting.discard(mine)
                mine.close()


def test_what_openssl_has_read_already_is_seen(pair):
    client, server = pair
    for number in range(5):
        server.send(number)
    assert client.recv() == 0  # the rest may have come with it
    for number in range(1, 5):
        assert wait([client], 20) == [client]
        assert client.recv() == number
    assert wait([client], 0) == []


def test_poll_sees_what_openssl_has_read_already(pair):
    client, server = pair
    for number in range(5):
        server.send(number)
    for number in range(5):
        assert client.poll(20)
        assert client.recv() == number
    assert not client.poll(0.01)


def test_who_waits_goes_on_when_it_becomes_plain(pair, eventually):
    client, server = pair
    receiver = Receiver(client, eventually)
    client.fileno()
    server.send("for who waited")
    receiver.join(20)
    assert receiver.got == "for who waited"


def test_who_waits_goes_on_after_a_fork(pair, eventually):
    client, server = pair
    receiver = Receiver(client, eventually)
    child = sidestep.get_context("fork").Process(target=client.send, args=("child",))
    child.start()
    assert server.recv() == "child"
    child.join()
    server.send("for who waited")
    receiver.join(20)
    assert receiver.got == "for who waited"


def test_a_writer_that_is_held_up_goes_on_when_it_becomes_plain(pair, eventually):
    client, server = pair
    data = os.urandom(1 << 20) * 20
    writer = threading.Thread(target=client.send_bytes, args=(data,), daemon=True)
    writer.start()
    eventually(lambda: client.statistics()["users"] == 1)
    client.fileno()
    assert server.recv_bytes() == data
    writer.join(20)
    client.send("next")
    assert server.recv() == "next"


def test_a_private_connection_is_not_for_children(pair):
    client, server = pair
    client._keep_private(45)
    server._keep_private(45)
    before = counts()
    child = sidestep.get_context("fork").Process(
        target=children.expect_the_end, args=(client,)
    )
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert counts() == before
    client.send("here it goes on")
    assert server.recv() == "here it goes on"


@pytest.mark.slow
def test_many_write_at_once(pair):
    """Small messages are one record each, so none gets into another."""
    client, server = pair

    def write(number):
        for turn in range(200):
            client.send((number, turn, bytes([number]) * 3000))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writers:
        thread.start()
    seen = [0] * 4
    for _ in range(800):
        number, turn, data = server.recv()
        assert turn == seen[number]
        assert data == bytes([number]) * 3000
        seen[number] += 1
    for thread in writers:
        thread.join(20)


def test_both_send_much_at_once(pair):
    client, server = pair
    data = os.urandom(1 << 20) * 8
    threads = [threading.Thread(target=conn.send_bytes, args=(data,)) for conn in pair]
    for thread in threads:
        thread.start()
    # A thread reads and one writes through the same TLS state.
    assert client.recv_bytes() == data
    assert server.recv_bytes() == data
    for thread in threads:
        thread.join(20)


def test_a_signal_handler_that_raises(pair, eventually):
    """What has come of a message when it raises is not lost."""
    client, server = pair

    def handler(*_):
        raise LookupError

    main = threading.main_thread().ident

    def interrupt():
        eventually(lambda: client.statistics()["users"] == 1)
        signal.pthread_kill(main, signal.SIGUSR1)

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        thread = threading.Thread(target=interrupt)
        with pytest.raises(LookupError):
            thread.start()
            client.recv()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    server.send("after that")
    assert client.recv() == "after that"


def test_the_end_of_a_process_that_was_killed():
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        child = sidestep.get_context("fork").Process(
            target=children.send_and_sleep, args=(listener.address, KEY)
        )
        child.start()
        with listener.accept() as conn:
            assert conn.recv() == "before it sleeps"
            child.kill()
            with pytest.raises(EOFError):
                conn.recv()
        child.join()


def test_no_signal_when_the_peer_has_gone(start):
    """Also where a program lets SIGPIPE end it, as many do: it gets an error."""
    ctx = sidestep.get_context("fork")
    addresses, theirs = sidestep.Pipe()
    server = start(ctx, children.accept_and_sleep, theirs, KEY)
    ours, clients = sidestep.Pipe()
    client = start(ctx, children.write_to_nobody, clients, addresses.recv(), KEY)
    assert ours.recv() == "sent"
    assert addresses.recv() == "accepted"
    server.kill()
    server.join()
    ours.send("it is gone")
    client.join(20)
    assert client.exitcode == 0


def test_what_nobody_accepted_ends_with_the_listener(eventually):
    before = sum(_tls.statistics().values())
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        clients = [Client(listener.address, authkey=KEY) for _ in range(3)]
        eventually(lambda: _tls.statistics()["half_open"] == 0)
    for client in clients:
        with pytest.raises((EOFError, OSError)):
            client.recv()
        client.close()
    eventually(lambda: sum(_tls.statistics().values()) <= before)


def test_descriptors_and_connections_are_closed(eventually):
    names = "/proc/self/fd"
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        with Client(listener.address, authkey=KEY), listener.accept():
            pass  # now there is a thread
        eventually(lambda: sum(_tls.statistics().values()) == 0)
        before = len(os.listdir(names))
        for turn in range(20):
            client = Client(listener.address, authkey=KEY)
            server = listener.accept()
            if turn % 2:
                client.fileno()
            client.send(turn)
            assert server.recv() == turn
            client.close()
            server.close()
        eventually(lambda: len(os.listdir(names)) <= before)


def test_no_descriptors_for_a_plain_stream(pair):
    """Then who asks gets the error, and the connection works as before."""
    import resource

    client, server = pair
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    opened = []
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(OSError, match="open files"):
            client.fileno()
        client.send("still")
        assert server.recv() == "still"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in opened:
            os.close(fd)
    assert client.fileno() > 0
    server.send("and plain")
    assert client.recv() == "and plain"


def test_a_connect_is_quick(eventually):
    """Not a measurement: a Nagle's 40 ms would be in each first reply, on any machine."""
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        thread = threading.Thread(target=children.greet, args=(listener,), daemon=True)
        thread.start()

        def is_quick():
            began = time.perf_counter()
            with Client(listener.address, authkey=KEY) as conn:
                conn.recv()
            return time.perf_counter() - began < 0.03

        eventually(is_quick)
    thread.join(20)
