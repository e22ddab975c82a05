# SPDX-License-Identifier: MIT
"""What is tried against listeners, clients and managers, on each kind of address.

What each attack got is in the table of ``docs/internals/threat_model.rst``. Attacks on
the bytes of encrypted connections are in ``test_network``.
"""

import contextlib
import gc
import os
import pickle
import resource
import signal
import socket
import threading

import network_children as children
import pytest

import sidestep
from sidestep import _greeting, managers
from sidestep.connection import Client, Listener

KEY = b"a key of thirty-two bytes at the least"

pytestmark = pytest.mark.filterwarnings("ignore:security=:RuntimeWarning")


class Kind:
    """One way for a listener to be reached, and to be spoken to by others."""

    def __init__(self, name):
        self.name = name
        self.options = {"security": "stdlib"} if name == "stdlib" else {}
        self.address = None if name == "unix" else ("127.0.0.1", 0)

    def client(self, address, key=KEY):
        return Client(address, authkey=key, **self.options)

    def socket(self, address):
        family = socket.AF_UNIX if self.name == "unix" else socket.AF_INET
        sock = socket.socket(family)
        sock.connect(address)
        sock.settimeout(20)
        return sock

    def is_alive(self, address):
        with self.client(address) as conn:
            conn.send("still here?")
            return conn.recv() == "still here?"


@pytest.fixture(params=["tls", "stdlib", "unix"])
def kind(request):
    if request.param == "tls":
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    return Kind(request.param)


@pytest.fixture
def echo(kind):
    with children.echoing(kind.address, KEY, **kind.options) as address:
        yield address


@pytest.fixture
def hurried(monkeypatch):
    """Peers have half a second to show their key."""
    from sidestep import _network

    monkeypatch.setattr(_greeting, "HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(_network, "HANDSHAKE_SECONDS", 0.5)


@pytest.fixture
def patient(monkeypatch):
    """No deadline ends anybody: what ends a peer is something else."""
    from sidestep import _network

    monkeypatch.setattr(_greeting, "HANDSHAKE_SECONDS", 3600)
    monkeypatch.setattr(_network, "HANDSHAKE_SECONDS", 3600)


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def end_of(sock):
    """Everything that comes until the other side ends it."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(1 << 16):
            came += data
    return came


class Bomb:
    """Kills who unpickles it."""

    def __reduce__(self):
        return os.kill, (os.getpid(), signal.SIGKILL)


# ---- Before the key was shown ----


def test_no_key_or_another(kind, echo):
    for key in (
        KEY[:-1],
        KEY + b"x",
        b"another key, of thirty-two bytes too",
        b"12345",
    ):
        with pytest.raises(sidestep.AuthenticationError):
            kind.client(echo, key)
    assert kind.is_alive(echo)


def test_what_is_sent_before_is_not_unpickled(kind, echo):
    data = pickle.dumps(Bomb())
    for message in (data, len(data).to_bytes(4, "big") + data, bytes(4) + data):
        with kind.socket(echo) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(message)
            end_of(sock)
    assert kind.is_alive(echo)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xff" + b"\x7f" * 8,
        b"\x80\0\0\0",
        b"\0\0\x01\x01" + b"x" * 257,
        b"\0\0\0\0",
        b"\0\0\0\x14" + b"x" * 20,
        b"\0\0",
        b"",
    ],
)
def test_frames_that_are_too_long_or_cut_off(kind, echo, frame):
    with kind.socket(echo) as sock, contextlib.suppress(OSError):
        sock.sendall(frame)
        sock.shutdown(socket.SHUT_WR)
        end_of(sock)
    assert kind.is_alive(echo)


@pytest.mark.parametrize(
    "frame", [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff" + b"\x7f" * 8, b"\0\0\x01\x01"]
)
def test_frames_that_are_too_long_are_not_waited_for(kind, patient, frame):
    with children.echoing(kind.address, KEY, **kind.options) as echo:
        with kind.socket(echo) as sock:
            sock.sendall(frame + bytes(8))
            end_of(sock)
        assert kind.is_alive(echo)


def test_one_byte_at_a_time(kind, hurried):
    """No byte moves the deadline, and meanwhile others get in."""
    with children.echoing(kind.address, KEY, **kind.options) as echo:
        with kind.socket(echo) as sock:
            sock.settimeout(0.05)
            hello = b"\x16\x03\x01\x00\xff" if kind.name == "tls" else b"\0\0\0\xff"
            ended = False
            for turn in range(400):
                with contextlib.suppress(TimeoutError):
                    try:
                        sock.send(hello[turn : turn + 1] or b"x")
                        ended = sock.recv(1000) == b""
                    except ConnectionError:
                        ended = True
                if ended:
                    break
                if turn == 3:
                    assert kind.is_alive(echo)
            assert ended


def test_silent_ones_are_ended(kind, hurried):
    with children.echoing(kind.address, KEY, **kind.options) as echo:
        silent = [kind.socket(echo) for _ in range(20)]
        assert kind.is_alive(echo)
        for sock in silent:
            end_of(sock)
            sock.close()
        assert kind.is_alive(echo)


@pytest.mark.slow
def test_ten_thousand_half_open(kind, echo, many_descriptors):
    """As many as descriptors are allowed for: their oldest are given up."""
    count = min(10_000, many_descriptors - 1000)
    silent = []
    try:
        for number in range(count):
            silent.append(kind.socket(echo))
            if number % 2000 == 1999:
                assert kind.is_alive(echo)
        # Of this process's own descriptors few are the listener's.
        assert len(os.listdir("/proc/self/fd")) < count + 600
        assert kind.is_alive(echo)
    finally:
        for sock in silent:
            sock.close()
    assert kind.is_alive(echo)


@pytest.mark.slow
def test_no_descriptors_left(kind, patient):
    """The listener's process may open 40 more, and 200 connect."""
    ours, theirs = sidestep.Pipe()
    server = sidestep.get_context("fork").Process(
        target=children.serve_with_few, args=(theirs, kind.address, KEY, kind.options)
    )
    server.start()
    address = ours.recv()
    silent = [kind.socket(address) for _ in range(200)]
    assert kind.is_alive(address)
    for sock in silent:
        sock.close()
    assert kind.is_alive(address)
    server.kill()
    server.join()


# ---- Who knows the key ----


@pytest.mark.parametrize(
    "frame",
    [
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xff" + b"\x7f" * 8,
        b"\xff\xff\xff\xff" + (1 << 40).to_bytes(8, "big"),
        b"\x80\0\0\0",
        b"\0\0\0\x14" + b"x" * 20,
        b"\0\0\0\0",
        b"\0\0\x01\0only a part",
    ],
)
def test_frames_afterwards(kind, echo, frame):
    with kind.client(echo) as conn:
        os.write(conn.fileno(), frame)
    assert kind.is_alive(echo)


# ---- Processes that are killed ----


def test_a_client_that_is_killed_in_mid_request(kind, echo, start):
    for _ in range(3):
        ours, theirs = sidestep.Pipe()
        child = start(
            sidestep.get_context("fork"),
            children.send_half,
            theirs,
            echo,
            KEY,
            kind.options,
        )
        assert ours.recv() == "half of it is sent"
        child.kill()
        child.join()
        assert kind.is_alive(echo)


def test_a_server_that_is_killed_in_mid_reply(kind, start):
    ours, theirs = sidestep.Pipe()
    server = start(
        sidestep.get_context("fork"),
        children.reply_half,
        theirs,
        kind.address,
        KEY,
        kind.options,
    )
    with kind.client(ours.recv()) as conn:
        conn.send("request")
        assert ours.recv() == "half of it is sent"
        server.kill()
        with pytest.raises(OSError, match="end of file during message"):
            conn.recv()


@pytest.mark.parametrize("address", [None, ("127.0.0.1", 0)])
def test_a_manager_that_is_killed(address):
    if address is not None:
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    manager = managers.SyncManager(address, KEY)
    manager.start()
    table = manager.dict(a=1)
    assert table["a"] == 1
    manager._process.kill()
    manager.join()
    with pytest.raises((EOFError, OSError)):
        for _ in range(3):
            table["a"]
    manager.shutdown()


# ---- Other users ----

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs to become another user"
)


@needs_root
@pytest.mark.parametrize("uid", [65533, 65534])
@pytest.mark.parametrize("key", [None, KEY])
def test_another_user_is_turned_away(uid, key, tmp_path):
    """Where the directory lets anybody in; 65534 is who stands for all unknown ones."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    address = str(tmp_path / "socket")
    with Listener(address, authkey=key) as listener:
        os.chmod(address, 0o777)
        threading.Thread(target=children.serve, args=(listener,), daemon=True).start()
        status = children.as_user(uid, children.is_let_in, address, key)
        assert status == children.TURNED_AWAY
        with Client(address, authkey=key) as conn:
            conn.send(1)
            assert conn.recv() == 1


@needs_root
def test_an_allowed_user_is_let_in(tmp_path):
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    address = str(tmp_path / "socket")
    with Listener(address, authkey=KEY, allow_uids=[65533]) as listener:
        os.chmod(address, 0o777)
        threading.Thread(target=children.serve, args=(listener,), daemon=True).start()
        assert children.as_user(65533, children.is_let_in, address, KEY) == 0


@needs_root
def test_who_looks_like_nobody_known_has_to_show_a_key(tmp_path):
    """The overflow uid, though allowed by name: without a key it proves nothing."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    for key, expected in ((None, children.TURNED_AWAY), (KEY, 0)):
        address = str(tmp_path / f"socket-{expected}")
        with Listener(address, authkey=key, allow_uids=[65534]) as listener:
            os.chmod(address, 0o777)
            threading.Thread(
                target=children.serve, args=(listener,), daemon=True
            ).start()
            assert children.as_user(65534, children.is_let_in, address, key) == expected


@needs_root
def test_a_server_that_is_another_users(tmp_path):
    """It has put its socket where ours is expected; nothing is sent to it."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    address = str(tmp_path / "socket")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        children.squat(address, 65533, writer)
    os.close(writer)
    assert os.read(reader, 1) == b"l"
    with pytest.raises(sidestep.AuthenticationError, match="another user's socket"):
        Client(address, authkey=KEY)
    assert os.read(reader, 100) == b"0"  # bytes that it was sent
    os.waitpid(pid, 0)
    os.close(reader)


# ---- Lures ----


def test_a_client_that_is_lured_is_no_oracle():
    """A rogue passes on what a real listener asks, to have the client answer it."""
    pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    with children.echoing(("127.0.0.1", 0), KEY) as real:
        with socket.create_server(("127.0.0.1", 0)) as rogue:
            thread = threading.Thread(
                target=children.pass_on, args=(rogue, real), daemon=True
            )
            thread.start()
            with pytest.raises(sidestep.AuthenticationError):
                Client(rogue.getsockname(), authkey=KEY)
            thread.join(20)
        assert Kind("tls").is_alive(real)


def test_two_listeners_of_one_key():
    """A client is led from one to the other: the port is not the one it called."""
    pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    with children.echoing(("127.0.0.1", 0), KEY) as one:
        with children.echoing(("127.0.0.1", 0), KEY) as other:
            with pytest.raises(sidestep.AuthenticationError):
                Client(other, authkey=KEY, identity=f"port {one[1]}")
            assert Kind("tls").is_alive(one)
            assert Kind("tls").is_alive(other)


def test_one_key_for_two_purposes():
    """The forkserver's, the pool's and the manager's key is one: their proofs differ."""
    pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    with managers.SyncManager(("127.0.0.1", 0), KEY, identity="cache") as manager:
        for options in ({}, {"identity": "jobs"}):
            with pytest.raises(sidestep.AuthenticationError):
                Client(manager.address, authkey=KEY, **options)
        assert manager.list([1])[0] == 1


# ---- Keys do not show ----


def test_keys_are_in_no_repr_and_no_pickle():
    manager = managers.SyncManager(None, KEY)
    shown = [repr(manager), repr(vars(manager))]
    with manager:
        table = manager.dict()
        shown += [repr(table), str(table), repr(vars(table))]
        shown += [repr(manager._session), repr(vars(manager._session))]
        assert KEY not in pickle.dumps(table)
    assert not [text for text in shown if "thirty-two bytes" in text]
    with pytest.raises(TypeError, match="for security reasons"):
        pickle.dumps(sidestep.current_process().authkey)
    assert repr(sidestep.current_process().authkey).startswith("<Auth")
    assert str(sidestep.current_process().authkey).startswith("<Auth")


def test_keys_are_in_no_log(kind):
    import logging

    seen = []

    class Keeper(logging.Handler):
        def emit(self, record):
            seen.append(self.format(record))

    logger = sidestep.get_logger()
    handler, level = Keeper(), logger.level
    logger.addHandler(handler)
    logger.setLevel(1)
    try:
        with children.echoing(kind.address, KEY, **kind.options) as address:
            assert kind.is_alive(address)
            with pytest.raises(sidestep.AuthenticationError) as caught:
                kind.client(address, b"another key, of thirty-two bytes too")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    gc.collect()
    for text in [*seen, str(caught.value)]:
        assert "thirty-two bytes" not in text
        assert KEY.hex() not in text
