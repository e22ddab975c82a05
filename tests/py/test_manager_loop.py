# SPDX-License-Identifier: MIT
"""Managers whose clients are on sockets: many in one thread, and nobody waits for others."""

import os
import resource
import signal
import socket
import struct
import threading

import loop_children as children
import pytest

import sidestep
from sidestep import _manager_channels, _manager_server, _manager_session
from sidestep.managers import RemoteError

KEY = b"a key of thirty-two bytes at the least"
LARGE = 8 << 20
RETURN = "#RETURN"


@pytest.fixture
def manager(monkeypatch):
    """A manager that its clients reach over sockets only, as from another tree."""
    monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    with children.LoopManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def raw(manager):
    """Connect clients that speak for themselves."""
    clients = []

    def connect(session=None):
        clients.append(children.Raw(manager.address, KEY, session))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def fifo(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


def let_go(fifo, data=b"go"):
    with open(fifo, "wb") as file:
        file.write(data)


def ident_of(proxy):
    return proxy._token.id


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_many_clients_cost_a_few_threads(monkeypatch, count):
    monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * count + 200:
        pytest.skip("not as many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with children.LoopManager(authkey=KEY) as manager:
            table, threads = manager.dict(k=1), manager.threads()
            before = threads.count()
            clients = [children.Raw(manager.address, KEY) for _ in range(count)]
            for client in clients[:: count // 20]:
                assert client.ask(ident_of(table), "__getitem__", "k") == (RETURN, 1)
            assert threads.count() <= before + 10
            for client in clients:
                client.close()
            assert table["k"] == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_calls_that_wait_hurt_nobody_else(manager, raw, eventually):
    items, lock, event = manager.Queue(), manager.Lock(), manager.Event()
    threads, look = manager.threads(), manager.Look()
    look.waiting()  # from now on it has its thread
    before = threads.count()
    lock.acquire()
    waiting = []
    for _ in range(10):
        for proxy, name in ((items, "get"), (lock, "acquire"), (event, "wait")):
            client = raw()
            client.send(ident_of(proxy), name)
            waiting.append(client)
    eventually(lambda: look.waiting() == 30)
    assert threads.count() <= before + 1
    assert manager.list([1, 2])[1] == 2
    assert raw().ask(ident_of(items), "qsize") == (RETURN, 0)
    event.set()
    lock.release()
    for number in range(10):
        items.put(number)
    got = []
    for client, kind in zip(waiting, ["item", "lock", "event"] * 10, strict=True):
        if kind == "lock":
            continue  # they have it one after the other
        result = client.conn.recv()
        assert result[0] == RETURN
        if kind == "item":
            got.append(result[1])
    assert sorted(got) == list(range(10))
    for client in waiting[1::3]:
        client.close()  # with what it holds, or was to get
    eventually(lambda: look.waiting() == 0)
    assert threads.count() <= before + 10


def test_an_object_of_ones_own_meets_one_thread_per_client(manager, raw):
    own, items = manager.Own(), manager.list([1])
    first, second = raw(), raw()
    threads = {}
    for client in (first, second):
        assert client.ask(ident_of(own), "remember", id(client)) == (RETURN, None)
        threads[client] = client.ask(ident_of(own), "thread")[1]
        assert client.ask(ident_of(items), "__len__") == (RETURN, 1)
    for client in (first, second):
        assert client.ask(ident_of(own), "recall") == (RETURN, id(client))
        assert client.ask(ident_of(own), "thread")[1] == threads[client]
    assert threads[first] != threads[second]


def test_a_lock_that_belongs_to_a_thread(manager):
    lock = manager.RealRLock()
    assert lock.acquire()
    assert lock.acquire()
    seen = []
    other = threading.Thread(target=lambda: seen.append(lock.acquire(blocking=False)))
    other.start()
    other.join()
    assert seen == [False]
    lock.release()
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()


def test_what_waits_while_it_is_unpickled(manager, raw, fifo):
    items = manager.list()
    slow = raw()
    slow.send(ident_of(items), "append", children.Waits(fifo))
    items.append(1)
    assert len(items) == 1
    let_go(fifo)
    assert slow.conn.recv() == (RETURN, None)
    assert items[:] == [1, b"go"]


def test_what_waits_while_it_is_pickled(manager, raw, fifo):
    kept, items = manager.kept(fifo), manager.list()
    slow = raw()
    slow.send(ident_of(kept), "__getitem__", 0)
    items.append(1)
    assert len(items) == 1
    let_go(fifo, b"at last")
    assert slow.conn.recv() == (RETURN, "at last")


def test_who_does_not_read_hurts_nobody_else(manager, raw):
    table = manager.dict(k=b"x" * LARGE)
    lazy = raw()
    for _ in range(3):
        lazy.send(ident_of(table), "__getitem__", "k")
    for number in range(100):
        table[number] = number
    assert raw().ask(ident_of(table), "__len__") == (RETURN, 101)
    for _ in range(3):
        assert lazy.conn.recv() == (RETURN, b"x" * LARGE)


def test_who_sends_slowly_hurts_nobody_else(manager, raw):
    items = manager.list([1])
    slow = raw()
    os.write(slow.conn.fileno(), b"\0\0")
    assert items[0] == 1
    os.write(slow.conn.fileno(), b"\0\7half")
    assert raw().ask(ident_of(items), "__len__") == (RETURN, 1)


def test_what_was_not_fetched_is_put_back(manager, raw, eventually):
    items = manager.Queue()
    items.put(b"x" * LARGE)
    lazy = raw()
    lazy.send(ident_of(items), "get")
    eventually(lambda: items.qsize() == 0)
    lazy.close()
    eventually(lambda: items.qsize() == 1)
    assert len(items.get()) == LARGE


def test_what_the_dead_waited_for_goes_to_others(manager, start, eventually):
    items, lock, told = manager.Queue(), manager.Lock(), sidestep.Event()
    lock.acquire()
    for proxy, name in ((items, "get"), (lock, "acquire")):
        told.clear()
        child = start(
            sidestep.get_context("fork"),
            children.ask_and_linger,
            manager.address,
            KEY,
            ident_of(proxy),
            name,
            told,
        )
        told.wait()
        child.kill()
        child.join(gone=True)
    items.put("kept")
    assert items.get(timeout=20) == "kept"
    lock.release()
    eventually(lambda: lock.acquire(blocking=False))


def test_what_was_made_for_the_dead_goes(manager, raw, fifo, eventually):
    client = raw()
    client.ask(None, "create", "list", [1])
    client.send(None, "create", "Slow", fifo)
    client.close()
    eventually(lambda: manager._number_of_objects() == 0)
    let_go(fifo)
    eventually(lambda: os.path.exists(f"{fifo}.gone"))
    assert manager._number_of_objects() == 0


def test_requests_that_are_none(manager, raw):
    items = manager.list([1])
    client = raw()
    for nonsense in (
        None,
        "text",
        (),
        (1, 2, 3, 4),
        (None, [], (), {}),
        ([], "append", (), {}),
        (ident_of(items), "append", 1, {}),
        ("no such object", "append", (), {}),
        (None, "no such request", (), {}),
        (None, "create", (["unhashable"],), {}),
        (None, "#CHANNEL", (), {}),
    ):
        client.conn.send(nonsense)
        if nonsense and nonsense[1] == "#CHANNEL":
            break
        kind, text = client.conn.recv()
        assert kind == "#TRACEBACK", nonsense
        assert "Error" in text
    client.close()
    for garbage in (b"", b"garbage", b"\x80\x05.", os.urandom(100)):
        client = raw()
        client.conn.send_bytes(garbage)
        assert client.conn.recv()[0] == "#TRACEBACK"
        assert client.ask(ident_of(items), "__len__") == (RETURN, 1)


def test_a_message_that_is_too_long(monkeypatch):
    monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    with children.LoopManager(authkey=KEY, max_message=10_000) as manager:
        items = manager.list()
        with children.Raw(manager.address, KEY) as client:
            with socket.socket(fileno=os.dup(client.conn.fileno())) as sock:
                sock.sendall(struct.pack("!i", 10_001))
            with pytest.raises((EOFError, OSError)):
                client.conn.recv()
        with children.Raw(manager.address, KEY) as client:
            client.conn.send_bytes(b"x" * 10_000)
            assert client.conn.recv()[0] == "#TRACEBACK"
        assert len(items) == 0


def test_errors_and_what_does_not_pickle(manager):
    own = manager.Own()
    with pytest.raises(FileNotFoundError) as raised:
        own.wait("/no/such/fifo")
    assert "FileNotFoundError" in str(raised.value.__cause__)
    with pytest.raises(KeyError):
        manager.dict()["k"]
    with pytest.raises(RemoteError, match="Unserializable"):
        own.unpicklable()
    with pytest.raises(RemoteError, match="SystemExit"):
        own.leave()
    assert len(manager.list([1])) == 1


def test_a_condition_on_a_lock_of_another_manager(monkeypatch):
    monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    with children.LoopManager() as manager, children.LoopManager() as other:
        lock = other.Lock()
        condition, items = manager.Condition(lock), manager.list([1])
        with condition:
            assert condition.wait(0) is False
            condition.notify()
        lock.acquire()
        waiter = threading.Thread(target=condition.acquire)
        waiter.start()
        assert items[0] == 1  # whatever the other server does, this one answers
        lock.release()
        waiter.join()


def test_proxies_are_at_home_in_a_server_from_the_start(manager):
    lock = manager.Lock()
    condition = manager.Condition(lock)
    with condition:
        assert not lock.acquire(blocking=False)
    assert lock.acquire(blocking=False)


def test_more_pipes_than_there_may_be(monkeypatch):
    monkeypatch.setattr(_manager_channels, "CHANNELS_MAX", 1)
    with children.LoopManager(authkey=KEY) as manager:
        items, threads = manager.list(), manager.threads()
        before = threads.count()
        ready, go = threading.Barrier(9), threading.Event()

        def use():
            items.append(1)
            ready.wait()
            go.wait()
            items.append(2)

        users = [threading.Thread(target=use) for _ in range(8)]
        for user in users:
            user.start()
        ready.wait()
        assert threads.count() <= before + 9  # idle ones of the crew
        go.set()
        for user in users:
            user.join()
        assert sorted(items[:]) == [1] * 8 + [2] * 8


def test_more_encrypted_connections_than_threads(monkeypatch, start, eventually):
    monkeypatch.setattr(_manager_server, "ENCRYPTED_MAX", 0)
    forking = sidestep.get_context("fork")  # for what was patched to be so there
    with children.LoopManager(("127.0.0.1", 0), KEY, ctx=forking) as manager:
        table, items = manager.dict(k=b"x" * LARGE), manager.Queue()
        assert table["k"] == b"x" * LARGE
        told = sidestep.Event()
        child = start(
            sidestep.get_context("fork"),
            children.ask_and_linger,
            manager.address,
            KEY,
            ident_of(items),
            "get",
            told,
        )
        told.wait()
        child.kill()
        child.join(gone=True)
        items.put("kept")
        assert items.get(timeout=20) == "kept"


def test_a_child_of_the_server_keeps_nobody_waiting(manager, raw):
    pid = manager.fork().get()
    try:
        client = raw()
        manager._process.kill()
        manager._process.join(gone=True)
        with pytest.raises((EOFError, OSError)):
            client.conn.recv()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_descriptors_run_out_in_the_server(monkeypatch, eventually):
    monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    # What a fork server's child opens and closes is another number of descriptors.
    manager = children.LoopManager(authkey=KEY, ctx=sidestep.get_context("fork"))
    manager.start(children.few_descriptors, (20,))
    silent, clients = [], []
    with manager:
        items = manager.list([1])
        try:
            for _ in range(100):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(manager.address)
                silent.append(sock)
            # Those who said nothing give way to those who show the key.
            clients.extend(children.Raw(manager.address, KEY) for _ in range(3))
            for client in clients:
                assert client.ask(ident_of(items), "__len__") == (RETURN, 1)
            assert items[0] == 1
        finally:
            for sock in silent:
                sock.close()
            for client in clients:
                client.close()
        with children.Raw(manager.address, KEY) as client:
            assert client.ask(ident_of(items), "__len__") == (RETURN, 1)


def test_a_server_in_a_thread_ends_with_its_event():
    server = children.LoopManager(authkey=KEY).get_server()
    thread = threading.Thread(target=_serve, args=(server,))
    thread.start()
    with children.Raw(server.address, KEY) as client:
        assert client.ask(None, "number_of_objects") == (RETURN, 0)
        server.stop_event.set()
        thread.join()
        with pytest.raises((EOFError, OSError)):
            client.conn.recv()
    server.listener.close()


def _serve(server):
    with pytest.raises(SystemExit):
        server.serve_forever()
