# SPDX-License-Identifier: MIT
"""Connections at network addresses: what they do, and what is done against them."""

import contextlib
import gc
import os
import pickle
import socket
import ssl
import sys
import threading
from multiprocessing import AuthenticationError as StdlibAuthenticationError
from multiprocessing import connection as stdlib

import network_children as children
import pytest

import sidestep
from sidestep.connection import Client, Listener, wait

_tls = pytest.importorskip("sidestep._tls", reason="built without OpenSSL")

KEY = b"a key of thirty-two bytes at the least"
SECRET = b"something that nobody else is to read"
#: To speak to the standard library of this Python: 3.11 proves its key by MD5.
STDLIB = {"security": "stdlib", "legacy_md5": sys.version_info < (3, 12)}


@pytest.fixture
def echo():
    """An address whose listener sends back what comes, to all that know KEY."""
    with children.echoing(("127.0.0.1", 0), KEY) as address:
        yield address


def is_alive(address):
    with Client(address, authkey=KEY) as conn:
        conn.send("still here?")
        return conn.recv() == "still here?"


class Proxy:
    """A man in the middle, who may change what passes."""

    def __init__(self, address, change=lambda data, direction, count: data):
        self.seen = [b"", b""]
        self._target, self._change = address, change
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        ways = [(client, server, 0), (server, client, 1)]
        threads = [threading.Thread(target=self._pass, args=way) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
        server.close()

    def _pass(self, source, target, direction):
        count = 0
        while data := self._receive(source):
            self.seen[direction] += data
            try:
                target.sendall(self._change(data, direction, count))
            except OSError:
                break
            count += 1
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    @staticmethod
    def _receive(sock):
        try:
            return sock.recv(1 << 16)
        except OSError:
            return b""

    def close(self):
        self._listener.close()
        self._thread.join(20)


def port_of(address):
    return f"port {address[1]}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_messages_arrive(host):
    if host == "::1" and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    with children.echoing((host, 0), KEY) as address:
        with Client(address, authkey=KEY) as conn:
            for item in ("text", b"x" * 3_000_000, {"a": [1, 2]}, None):
                conn.send(item)
                assert conn.recv() == item
            assert wait([conn], 0) == []
            conn.send(1)
            assert wait([conn], 20) == [conn]


def test_none_is_the_key_of_the_process():
    with Listener(("127.0.0.1", 0)) as listener:
        child = sidestep.get_context("fork").Process(
            target=children.send_one, args=(listener.address, None, "hello")
        )
        child.start()
        with listener.accept() as conn:
            assert conn.recv() == "hello"
            assert listener.last_accepted[0] == "127.0.0.1"
        child.join()
        assert child.exitcode == 0


def test_what_was_sent_before_the_end_arrives():
    """Also when the process ends at once, and much is on its way."""
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        child = sidestep.get_context("fork").Process(
            target=children.send_one, args=(listener.address, KEY, b"x" * 5_000_000)
        )
        child.start()
        with listener.accept() as conn:
            assert len(conn.recv()) == 5_000_000
            with pytest.raises(EOFError):
                conn.recv()
        child.join()


def test_a_connection_goes_to_another_process():
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        ours, theirs = sidestep.Pipe()
        child = sidestep.get_context("fork").Process(
            target=children.send_over_given, args=(theirs,)
        )
        child.start()
        client = Client(listener.address, authkey=KEY)
        conn = listener.accept()
        ours.send(client)
        assert conn.recv() == "from the child"
        child.join()
        client.close()
        conn.close()


def test_a_forked_child_uses_what_it_inherited():
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        client = Client(listener.address, authkey=KEY)
        conn = listener.accept()
        child = sidestep.get_context("fork").Process(
            target=client.send, args=("from the child",)
        )
        child.start()
        child.join()
        assert conn.recv() == "from the child"
        client.send("from us")
        assert conn.recv() == "from us"
        client.close()
        with pytest.raises(EOFError):
            conn.recv()


def test_keys_that_are_none():
    for key in (b"", b"short"):
        with pytest.raises(ValueError, match="no protection"):
            Listener(("192.0.2.1", 0), authkey=key)
        with pytest.raises(ValueError, match="no protection"):
            Client(("192.0.2.1", 1), authkey=key)
    with pytest.raises(ValueError, match="no protection"):
        Listener(("127.0.0.1", 0), authkey=b"")
    with pytest.raises(ValueError, match="security must be"):
        Listener(("127.0.0.1", 0), authkey=KEY, security="none")


# ---- Attacks ----


@pytest.mark.parametrize(
    "key", [b"another key, of thirty-two bytes too", KEY[:-1], None]
)
def test_a_wrong_key(key):
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        with pytest.raises(sidestep.AuthenticationError):
            Client(listener.address, authkey=key)
        with pytest.raises(sidestep.AuthenticationError):
            listener.accept()


def test_a_key_for_another_listener(echo):
    with pytest.raises(sidestep.AuthenticationError):
        Client(echo, authkey=KEY, identity="the other one")
    assert is_alive(echo)


def test_a_client_that_is_led_to_another_listener(echo):
    """Reflection: the key is the same, the listener is not the one that was meant."""
    elsewhere = Proxy(echo)
    with pytest.raises(sidestep.AuthenticationError):
        Client(elsewhere.address, authkey=KEY)
    elsewhere.close()
    assert is_alive(echo)


def test_nothing_can_be_read_on_the_way(echo):
    proxy = Proxy(echo)
    with Client(proxy.address, authkey=KEY, identity=port_of(echo)) as conn:
        conn.send(SECRET)
        assert conn.recv() == SECRET
    proxy.close()
    seen = b"".join(proxy.seen)
    assert len(seen) > 2 * len(SECRET)
    assert SECRET not in seen
    assert KEY not in seen


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_changed_bit_ends_the_connection(echo, direction, count):
    def change(data, way, number):
        if way == direction and number == count:
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    proxy = Proxy(echo, change)
    with pytest.raises((sidestep.AuthenticationError, EOFError, OSError)):
        with Client(proxy.address, authkey=KEY, identity=port_of(echo)) as conn:
            for _ in range(4):
                conn.send(SECRET)
                assert conn.recv() == SECRET
    proxy.close()
    assert is_alive(echo)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_repeated_record_ends_the_connection(echo, direction):
    def repeat(data, way, number):
        return data * 2 if way == direction and number == 2 else data

    proxy = Proxy(echo, repeat)
    with pytest.raises((EOFError, OSError)):
        with Client(proxy.address, authkey=KEY, identity=port_of(echo)) as conn:
            for _ in range(8):
                conn.send(SECRET)
                assert conn.recv() == SECRET
    proxy.close()
    assert is_alive(echo)


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize(
    "injected",
    [
        pickle.dumps(["in the clear"]),
        b"\x17\x03\x03\x00\x14" + b"x" * 20,
        b"\x15\x03\x03\x00\x02\x01\x00",
        b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",
    ],
)
@pytest.mark.parametrize("is_relayed", [False, True])
def test_what_is_put_in_between_ends_the_connection(
    echo, direction, injected, is_relayed
):
    """After the handshake: a pickle, a record, an alert, a handshake message."""

    def inject(data, way, number):
        return injected + data if way == direction and number == 2 else data

    proxy = Proxy(echo, inject)
    with pytest.raises((EOFError, OSError)):
        with Client(proxy.address, authkey=KEY, identity=port_of(echo)) as conn:
            if is_relayed:
                conn.fileno()
            for _ in range(8):
                conn.send(SECRET)
                assert conn.recv() == SECRET
    proxy.close()
    assert is_alive(echo)


def test_a_recorded_stream_is_of_no_use(echo):
    proxy = Proxy(echo)
    with Client(proxy.address, authkey=KEY, identity=port_of(echo)) as conn:
        conn.send(SECRET)
        conn.recv()
    proxy.close()
    with socket.create_connection(echo) as sock:
        sock.settimeout(20)
        try:
            sock.sendall(proxy.seen[0])
            answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        except ConnectionError:
            answer = b""
    assert len(answer) < len(proxy.seen[1])
    assert is_alive(echo)


class Bomb:
    def __reduce__(self):
        return os.kill, (os.getpid(), 9)


def test_a_pickle_in_the_clear_is_not_loaded(echo):
    data = pickle.dumps(Bomb())
    for message in (data, len(data).to_bytes(4, "big") + data, b"\x16\x03\x01" + data):
        with socket.create_connection(echo) as sock:
            sock.sendall(message)
    assert is_alive(echo)


@pytest.mark.slow  # both wait for the other to begin, until the handshake is late
def test_a_client_of_the_standard_library_is_refused(echo):
    with pytest.raises((StdlibAuthenticationError, EOFError, OSError)):
        stdlib.Client(echo, authkey=KEY)
    assert is_alive(echo)


def test_a_listener_of_the_standard_library_is_refused():
    with stdlib.Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        thread = threading.Thread(target=children.accept_anything, args=(listener,))
        thread.start()
        with pytest.raises(sidestep.AuthenticationError, match="security='stdlib'"):
            Client(listener.address, authkey=KEY)
        thread.join(20)


def test_tls_without_the_key_is_refused(echo):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = version
        with socket.create_connection(echo) as sock:
            with pytest.raises((ssl.SSLError, OSError)):
                context.wrap_socket(sock).recv(1)
    assert is_alive(echo)


def test_huge_and_cut_records(echo):
    for data in (
        b"\x16\x03\x01\xff\xff" + b"x" * 1000,
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"x" * 1000,
        b"\x16\x03\x01\x00\x10\x01",
    ):
        with socket.create_connection(echo) as sock:
            sock.sendall(data)
    assert is_alive(echo)


def test_many_that_say_nothing_hold_up_nobody(echo):
    silent = []
    try:
        silent += [socket.create_connection(echo) for _ in range(300)]
        assert is_alive(echo)
        silent[-1].sendall(b"\x16\x03\x01\x00\xff")  # and one that goes on slowly
        assert is_alive(echo)
    finally:
        for sock in silent:
            sock.close()


def test_a_peer_that_is_cut_off_in_mid_message(echo):
    with Client(echo, authkey=KEY) as conn:
        os.write(conn.fileno(), b"\0\0\1\0only a part")
    assert is_alive(echo)


# ---- The standard library's way, on request ----


def test_the_standard_library_both_ways():
    with pytest.warns(RuntimeWarning, match="in the clear"):
        listener = Listener(("127.0.0.1", 0), authkey=KEY, **STDLIB)
    with listener:
        thread = threading.Thread(target=children.echo_one, args=(listener,))
        thread.start()
        with stdlib.Client(listener.address, authkey=KEY) as conn:
            conn.send([1])
            assert conn.recv() == [1]
        thread.join(20)
    with stdlib.Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        thread = threading.Thread(target=children.echo_one, args=(listener,))
        thread.start()
        with pytest.warns(RuntimeWarning, match="in the clear"):
            conn = Client(listener.address, authkey=KEY, **STDLIB)
        with conn:
            conn.send([2])
            assert conn.recv() == [2]
        thread.join(20)


# ---- Managers ----


def test_a_manager_on_the_network():
    manager = sidestep.managers.SyncManager(("127.0.0.1", 0), KEY)
    with manager:
        table = manager.dict(a=1)
        other = sidestep.managers.SyncManager(manager.address, KEY)
        other.connect()
        assert table["a"] == 1
        with pytest.raises(sidestep.AuthenticationError):
            sidestep.managers.SyncManager(manager.address, b"x" * 32).connect()
        with socket.create_connection(manager.address) as sock:
            sock.sendall(pickle.dumps(Bomb()))
        table["b"] = 2
        assert table.copy() == {"a": 1, "b": 2}


def test_connections_end(echo, eventually):
    before = sum(_tls.statistics().values())
    for _ in range(10):
        assert is_alive(echo)
    eventually(lambda: sum(_tls.statistics().values()) <= before)


@pytest.mark.filterwarnings("ignore:security=:RuntimeWarning")
def test_managers_of_the_standard_library_both_ways(eventually):
    package = pytest.importorskip("multiprocessing.managers")
    with sidestep.managers.SyncManager(("127.0.0.1", 0), KEY, **STDLIB) as ours:
        other = package.SyncManager(ours.address, KEY)
        other.connect()
        table = other.dict(a=1)
        assert [*table] == ["a"]
        with pytest.raises(KeyError):
            table["b"]
        mine = ours.list([1])
        assert mine[0] == 1
        del table, mine
        gc.collect()  # Python 3.11's proxy is in a cycle with the KeyError
        eventually(lambda: ours._number_of_objects() == 0)
    with package.SyncManager(("127.0.0.1", 0), KEY) as theirs:
        other = sidestep.managers.SyncManager(theirs.address, KEY, **STDLIB)
        other.connect()
        table = other.dict(a=1)
        assert [*table] == ["a"]
        assert table.pop("a") == 1
        with pytest.raises(KeyError):
            table["a"]
        del table
        assert theirs._number_of_objects() == 0


def test_a_manager_with_an_identity():
    with sidestep.managers.SyncManager(("127.0.0.1", 0), KEY, identity="me") as ours:
        assert ours.list([1])[0] == 1
        with pytest.raises(sidestep.AuthenticationError):
            sidestep.managers.SyncManager(ours.address, KEY, identity="you").connect()
