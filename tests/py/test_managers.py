# SPDX-License-Identifier: MIT
"""Managers: what the stdlib defines, on both packages, and what sidestep adds."""

import gc
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import MutableMapping, MutableSequence, MutableSet
from concurrent.futures import ThreadPoolExecutor

import manager_children as children
import pytest

import sidestep
from sidestep import _manager_session, managers, reduction
from sidestep.managers import SyncManager


@pytest.fixture
def manager(mp):
    with mp.Manager() as manager:
        yield manager


@pytest.fixture(params=["memory", "sockets"])
def ours(request, monkeypatch):
    """A manager of ours, whose clients are of its tree, or as if of another one."""
    if request.param == "sockets":
        monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    with sidestep.Manager() as manager:
        yield manager


def test_a_list_is_a_list(manager):
    items = manager.list([1, 2])
    items.append(3)
    items += [4]
    items *= 2
    assert items[:] == [1, 2, 3, 4] * 2
    assert len(items) == 8
    assert 3 in items
    assert str(items) == "[1, 2, 3, 4, 1, 2, 3, 4]"
    with pytest.raises(IndexError):
        items[99]


def test_a_dictionary_is_a_dictionary(manager):
    table = manager.dict(a=1)
    table["b"] = {"nested": [1]}
    assert dict(table) == {"a": 1, "b": {"nested": [1]}}
    assert sorted(table.keys()) == ["a", "b"]
    assert list(iter(table)) == ["a", "b"]
    assert table.pop("a") == 1
    with pytest.raises(KeyError):
        table["a"]


def test_what_proxies_can_since_python_3_14(ours):
    table, items = ours.dict(a=1), ours.list([1, 2])
    assert (table | {"b": 2}, {"b": 2} | table) == ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    same = table
    table |= {"c": 3}
    assert same is table
    assert list(reversed(table)) == ["c", "a"]
    assert table.fromkeys("x") == {"x": None}
    assert items.copy() == [1, 2]
    items.clear()
    assert len(items) == 0
    assert isinstance(table, MutableMapping)
    assert isinstance(items, MutableSequence)
    assert isinstance(ours.set(), MutableSet)
    for lock in (ours.Lock(), ours.RLock()):
        with lock:
            assert lock.locked()
        assert not lock.locked()


def test_a_namespace_an_array_and_a_value(manager):
    space = manager.Namespace(x=1)
    space.y = 2
    del space.x
    assert str(space) == "Namespace(y=2)"
    with pytest.raises(AttributeError):
        space.x  # noqa: B018
    array = manager.Array("i", [1, 2])
    array[0] = 7
    assert list(array) == [7, 2]
    value = manager.Value("i", 1)
    value.value += 1
    assert value.get() == 2


def test_a_set_is_a_set(ours):
    members = ours.set([1])
    members.add(2)
    members |= {3}
    assert sorted(members) == [1, 2, 3]
    assert members & {2, 3, 4} == {2, 3}


def test_queues_and_locks(manager):
    items = manager.Queue(1)
    items.put("a")
    with pytest.raises(queue.Full):
        items.put("b", timeout=0.01)
    assert items.get() == "a"
    with pytest.raises(queue.Empty):
        items.get_nowait()
    lock = manager.Lock()
    with lock:
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=0.01)
    with pytest.raises(RuntimeError):
        lock.release()
    rlock = manager.RLock()
    with rlock, rlock:
        pass
    with pytest.raises(RuntimeError):
        rlock.release()


def test_a_recursive_lock_belongs_to_a_thread(manager):
    lock = manager.RLock()
    seen = []

    def try_it():
        seen.append(lock.acquire(False))

    with lock:
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert seen == [False]


def test_a_condition_notifies(manager, eventually):
    condition = manager.Condition()
    state = manager.list()
    seen = []

    def wait():
        with condition:
            state.append("waits")
            seen.append(condition.wait_for(lambda: "done" in state[:]))

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: len(state) == 1)
    with condition:
        state.append("done")
        condition.notify_all()
    thread.join()
    assert seen == [True]


def test_a_condition_on_a_lock_of_the_manager(ours):
    lock = ours.Lock()
    condition = ours.Condition(lock)
    with condition:
        assert not lock.acquire(False)
        assert condition.wait(0) is False
    assert lock.acquire(False)
    lock.release()


@pytest.mark.slow
def test_children_of_every_method_use_proxies(mp_ctx):
    with mp_ctx.Manager() as manager:
        shared, items = manager.dict(), manager.list()
        child = mp_ctx.Process(target=children.fill, args=(shared, items))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert shared["child"] == child.pid
        assert items[0] == [1, 2]


def test_nested_proxies_are_counted(ours):
    outer = ours.list()
    outer.append(ours.dict(a=1))
    gc.collect()
    assert ours._number_of_objects() == 2
    outer[0]["b"] = 2
    assert outer[0].copy() == {"a": 1, "b": 2}
    gc.collect()
    assert ours._number_of_objects() == 2
    del outer[0]
    assert ours._number_of_objects() == 1
    del outer
    gc.collect()
    assert ours._number_of_objects() == 0


def test_nested_proxies_refer_to_one_object(manager):
    inner = manager.list()
    outer = manager.dict(a=inner, b=inner)
    outer["a"].append(1)
    inner.append(2)
    assert outer["b"][:] == [1, 2]
    assert str(outer["a"]) == "[1, 2]"


def test_a_killed_client_keeps_nothing(ours, start, eventually):
    told = ours.Event()
    kept = ours.list()
    child = start(sidestep.get_context("fork"), children.keep, kept, told)
    told.wait()
    del kept
    gc.collect()
    assert ours._number_of_objects() == 2
    child.kill()
    eventually(lambda: ours._number_of_objects() == 1)


def test_who_gives_back_what_is_not_his_takes_nothing(ours):
    table = ours.dict(a=1)
    ident = table._token.id
    other = ours.list()
    session = _manager_session.Session(ours.address, bytes(ours._authkey), "pickle", {})
    for call in (("decref", ident), ("decref_all", [ident, ident])):
        with pytest.raises(managers.RemoteError, match="not the caller's to give back"):
            session.control(*call)
    session.close()
    assert table["a"] == 1
    del other


def test_a_lock_whose_holder_died_says_so(ours, start):
    told = ours.Event()
    for lock in (ours.Lock(), ours.RLock()):
        told.clear()
        child = start(sidestep.get_context("fork"), children.hold, lock, told)
        told.wait()
        assert not lock.acquire(timeout=0)
        assert not lock.recover()
        child.kill()
        with pytest.raises(sidestep.OwnerDied):
            lock.acquire()
        assert lock.recover()
        assert lock.acquire(False)
        lock.release()


def test_what_a_killed_client_was_to_get_stays(ours, start, eventually):
    items = ours.Queue()
    told = ours.Event()
    child = start(sidestep.get_context("fork"), children.get_one, items, told)
    told.wait()
    child.kill()
    child.join(gone=True)
    for item in "abc":
        items.put(item)
    eventually(lambda: items.qsize() == 3)
    assert [items.get() for _ in range(3)] == ["a", "b", "c"]


def test_an_exception_brings_its_traceback(ours):
    with pytest.raises(KeyError) as raised:
        ours.dict()["nothing"]
    assert "KeyError: 'nothing'" in str(raised.value.__cause__)


def test_types_of_ones_own():
    with children.Mine() as manager:
        counter = manager.Counter(5)
        assert counter.add(2) == 7
        assert counter.pid() == manager._process.pid != os.getpid()
        assert not hasattr(counter, "_hidden")
        with pytest.raises(LookupError, match="on purpose"):
            counter.fail()
        with pytest.raises(managers.RemoteError, match="Unserializable"):
            counter.unpicklable()
        with pytest.raises(managers.RemoteError, match="not in exposed"):
            counter._callmethod("_hidden")
        peeking = manager.Peeking()
        assert peeking._hidden() == "hidden"
        squares = manager.Squares().squares(4)
        assert isinstance(squares, managers.ListProxy)
        assert squares[3] == 9


def test_what_is_given_up_has_gone_by_the_next_call(ctx):
    manager = children.Mine(ctx=ctx)
    with manager:
        left = manager.left()
        for number in range(100):
            manager.Leaving(number)
            assert left[number] == number
        assert manager._number_of_objects() == 1


def test_the_server_is_initialized():
    SyncManager.register("environment", children.get_environment)
    try:
        manager = SyncManager()
        manager.start(children.initialize, ("yes",))
        with manager:
            assert manager.environment().get("SST_INITIALIZED") == "yes"
        with pytest.raises(TypeError, match="callable"):
            SyncManager().start(1)
    finally:
        del SyncManager._registry["environment"], SyncManager.environment


def test_an_initializer_that_fails(mp, capfd):
    manager = mp.managers.SyncManager(ctx=mp.get_context("fork"))  # for the capture
    with pytest.raises(EOFError) as caught:
        manager.start(children.fail_to_initialize)
    if mp is sidestep:
        assert "did not start: LookupError: not today" in str(caught.value)
    manager._process.join()
    assert manager._process.exitcode == 1
    assert "not today" in capfd.readouterr().err


def test_an_interrupted_start_leaves_no_server(monkeypatch):
    """Nobody would ask it to end, and this process would wait for it at its exit."""

    def await_address(manager, reader):
        raise KeyboardInterrupt

    monkeypatch.setattr(SyncManager, "_await_address", await_address)
    manager = SyncManager()
    with pytest.raises(KeyboardInterrupt):
        manager.start(signal.pause)
    manager._process.join()
    assert manager._process.exitcode == -signal.SIGKILL


def test_an_address_that_is_taken_is_named(mp, capfd):
    with mp.connection.Listener(("127.0.0.1", 0), authkey=b"k" * 32) as listener:
        forking = mp.get_context("fork")  # for the capture
        manager = mp.managers.SyncManager(listener.address, b"k" * 32, ctx=forking)
        with pytest.raises(EOFError) as caught:
            manager.start()
        manager._process.join()
        address = listener.address
    if mp is sidestep:
        assert f"already in use: {address}" in str(caught.value)
    assert "in use" in capfd.readouterr().err


def test_a_nested_proxy_of_a_manager_with_a_key_of_its_own():
    with SyncManager(None, b"a key that is not this process's one") as manager:
        outer = manager.list([manager.dict(a=manager.list([1]))])
        assert outer[0]["a"][0] == 1


def test_a_server_that_nobody_has_called_is_one_thread(ctx):
    with ctx.Manager() as manager:
        assert manager._number_of_objects() == 0  # it is there
        with open(f"/proc/{manager._process.pid}/status", encoding="ascii") as file:
            assert "\nThreads:\t1\n" in file.read()
        process = manager._process
    assert process.exitcode == 0


def test_the_fork_server_imports_managers_once():
    look = "import os, sys; os._exit('sidestep.managers' in sys.modules)"
    ctx = sidestep.get_context("forkserver")
    ctx.Manager().shutdown()
    process = ctx.Process(target=exec, args=(look,))
    process.start()
    process.join()
    assert process.exitcode == 1


def test_a_server_is_used_before_it_is_there(start):
    # Stopped on its way to the server: the fork's handlers run before that.
    child_stops = Stopper()
    sidestep.util.register_after_fork(child_stops, Stopper.stop)
    manager = sidestep.get_context("fork").Manager()
    child_stops.is_set = False
    pid = manager._process.pid
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    os.kill(pid, signal.SIGINT)  # which is not for it
    client = start(sidestep.get_context("fork"), children.connect_to, manager.address)
    os.kill(pid, signal.SIGCONT)
    assert manager.list([1])[:] == [1]
    client.join()
    assert client.exitcode == 0
    process = manager._process
    manager.shutdown()
    assert process.exitcode == 0


def test_a_server_that_never_comes(start):
    child_ends = Stopper(signal.SIGKILL)
    sidestep.util.register_after_fork(child_ends, Stopper.stop)
    manager = sidestep.get_context("fork").Manager()
    child_ends.is_set = False
    with pytest.raises((EOFError, OSError)):
        manager.list()
    manager.shutdown()
    assert not os.path.exists(manager.address)


class Stopper:
    """Sends a signal to the children that are forked, while it is set."""

    def __init__(self, number=signal.SIGSTOP):
        self.number, self.is_set = number, True

    def stop(self):
        if self.is_set:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_server_of_ones_own(start, number):
    ours, theirs = sidestep.Pipe()
    process = start(sidestep.get_context("fork"), children.serve_until_told, theirs)
    client = children.Mine(ours.recv(), b"key")
    client.connect()
    assert client.Counter(1).add() == 2
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 0


def test_a_signal_ends_a_server_whatever_it_does(start):
    """Also where nobody is there to hear of what the handler raises."""
    ours, theirs = sidestep.Pipe()
    server = start(sidestep.get_context("fork"), children.serve_until_told, theirs)
    client = children.Mine(ours.recv(), b"key")
    client.connect()
    client.LastWish()  # and the server lets go of it
    server.join(20)
    assert server.exitcode == 0


def test_a_registry_on_its_way():
    registry = children.Mine._registry | SyncManager._registry
    registry["list"] = (tuple, (), None, managers.ListProxy)
    del registry["dict"]
    sent = managers._Registry(registry)
    assert pickle.loads(pickle.dumps(sent)) == registry


def test_what_is_no_xml_is_an_error(mp):
    manager = mp.managers.SyncManager(("127.0.0.1", 0), b"key", "xmlrpclib")
    with manager:
        items = manager.Queue()
        items.put([1])
        with pytest.raises(TypeError, match="cannot marshal"):
            items.put(time.sleep)
        assert items.get() == [1]


def test_a_manager_is_started_once(mp):
    manager = mp.managers.SyncManager()
    with manager:
        with pytest.raises(mp.ProcessError, match="Already started"):
            manager.start()
        process = manager._process
    assert process.exitcode == 0
    with pytest.raises(mp.ProcessError, match="shut down"):
        manager.start()
    with pytest.raises(mp.ProcessError, match="shut down"), manager:
        pass
    manager.join()


def test_nothing_is_left_behind():
    manager = sidestep.Manager()
    address = manager.address
    assert os.path.exists(address)
    mode = os.stat(os.path.dirname(address)).st_mode
    assert mode & 0o077 == 0
    manager._process.kill()
    manager._process.join()
    manager.shutdown()
    assert not os.path.exists(address)


def test_a_server_that_was_killed_is_an_error(ours):
    items = ours.list()
    ours._process.kill()
    ours._process.join(gone=True)
    with pytest.raises((EOFError, OSError)):
        items.append(1)
    with pytest.raises(OSError, match=f": '{ours.address}'") as caught:
        items.append(2)
    assert "not any more" in caught.value.__notes__[0]


def test_a_client_of_another_version_is_told(ours, monkeypatch):
    items = ours.list([1])
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.setattr(_manager_session, "_arena_id", lambda: -1)
        patch.setattr(ours._session._control, "courier", None)
        patch.setattr(_manager_session, "VERSION", 99)
        future = executor.submit(items.append, 2)  # which opens a link of its own
        with pytest.raises(managers.RemoteError, match="version 99 of the manager's"):
            future.result()
    assert items[:] == [1]


def test_others_connect_by_address(ours, start):
    with children.Mine(authkey=b"a key of thirty-two bytes at least") as manager:
        child = start(
            sidestep.get_context("fork"),
            children.put_to,
            manager.address,
            b"a key of thirty-two bytes at least",
            "hello",
        )
        assert manager.get_shared().get() == "hello"
        child.join()


def test_a_wrong_key_is_refused(start):
    out = sidestep.Queue()
    with children.Mine() as manager:
        start(
            sidestep.get_context("fork"), children.try_key, manager.address, b"no", out
        )
        assert "AuthenticationError" in out.get(timeout=20)
        assert manager.Counter().add() == 1


def test_who_says_nothing_holds_up_nobody(ours):
    silent = []
    try:
        for _ in range(100):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(ours.address)
            silent.append(sock)
        assert sidestep.managers.BaseManager(ours.address).connect() is None
    finally:
        for sock in silent:
            sock.close()


def test_garbage_from_a_client_is_survived(ours):
    for data in (b"\xff" * 100, b"\x7f\xff\xff\xff", b"\0\0\0\5hello"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(ours.address)
            sock.sendall(data)
    assert ours.list([1])[0] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_other_users_are_turned_away():
    out = sidestep.Queue()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with children.Mine(f"{folder}/socket") as manager:
            os.chmod(manager.address, 0o777)
            child = sidestep.get_context("fork").Process(
                target=_as_nobody, args=(manager.address, out)
            )
            child.start()
            assert out.get(timeout=20) in {"EOFError", "ConnectionResetError"}
            child.join()


def _as_nobody(address, out):
    os.setuid(65533)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address)
            out.put("EOFError" if not sock.recv(1) else "answered")
    except OSError as error:
        out.put(type(error).__name__)


def test_proxies_go_through_queues(ours):
    items = ours.list()
    messages = sidestep.Queue()
    messages.put(items)
    messages.get().append(1)
    assert items[:] == [1]


def test_many_threads_at_once(manager):
    table = manager.dict()

    def work(number):
        for i in range(50):
            table[number] = i

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.copy() == dict.fromkeys(range(8), 49)


def test_an_interrupted_call_spoils_nothing(ours, monkeypatch):
    items = ours.Queue()
    items.put(1)
    link = items._session._local.link
    link.conn = Interrupted(link.conn)
    with pytest.raises(KeyboardInterrupt):
        items.qsize()
    assert items.get() == 1


class Interrupted:
    """The connection of somebody who is interrupted when the request is out."""

    def __init__(self, conn):
        self.conn = conn
        self.send, self.close = conn.send, conn.close

    def recv(self):
        raise KeyboardInterrupt


def test_who_is_interrupted_while_it_makes_something_keeps_the_rest(eventually):
    with sidestep.Manager() as manager:
        items = manager.list([1])
        control = manager._session._control
        conn = control.conn
        for interrupted in (manager.list, items.__len__):
            manager._session.drop_link()  # it is to be opened
            control.conn = Interrupted(conn)
            with pytest.raises(KeyboardInterrupt):
                interrupted()
            control.conn = conn
            # When the reply is there, what nobody has goes.
            eventually(lambda: manager._session.is_alive() and not control.awaits)
            assert manager._number_of_objects() == 1
        assert items[:] == [1]


@pytest.mark.parametrize("is_sent", [False, True])
@pytest.mark.parametrize("address", [None, ("127.0.0.1", 0)])
def test_who_is_interrupted_while_it_sends_keeps_what_it_has(
    address, is_sent, monkeypatch
):
    """Ctrl-C at the first call of a thread: the request for its link is half out."""
    if address is not None:
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    with SyncManager(address, b"a key of thirty-two bytes at the least") as manager:
        items = manager.list([1])
        whole = reduction.send_handle

        def interrupted(*args):
            if is_sent:
                whole(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(reduction, "send_handle", interrupted)
        for _ in range(3):
            items._session.drop_link()
            try:
                items.append(2)
            except KeyboardInterrupt:
                assert manager._session.is_alive()
        monkeypatch.undo()
        assert items[0] == 1
        assert manager._number_of_objects() == 1
        del items
        assert manager._number_of_objects() == 0


class HandlerError(Exception):
    """What a program's handler of a signal raises, of an alarm for instance."""


class InterruptedSend:
    """The connection of somebody whom a signal's handler interrupts then."""

    def __init__(self, conn, is_sent):
        self.conn, self.is_sent = conn, is_sent
        self.recv, self.close = conn.recv, conn.close

    def send(self, message):
        if self.is_sent:
            self.conn.send(message)
        raise HandlerError


@pytest.mark.parametrize("is_sent", [False, True])
def test_an_error_of_a_handler_leaves_no_reply_behind(ours, is_sent, eventually):
    """The next call would get it, and each one that of the one before."""
    items = ours.list([1, 2, 3])
    table = ours.dict(a="a")
    assert len(items) == 3
    link = items._session._local.link
    link.conn = InterruptedSend(link.conn, is_sent)
    with pytest.raises(HandlerError):
        items[:]
    assert table["a"] == "a"

    session = ours._session
    session._control.conn = InterruptedSend(session._control.conn, is_sent)
    with pytest.raises(HandlerError):
        ours.list()
    assert table["a"] == "a"
    assert items[:] == [1, 2, 3]
    assert eventually(lambda: ours._number_of_objects() == (3 if is_sent else 2))


def test_what_cannot_be_pickled_costs_no_link(ours):
    """Nothing was sent, and what the thread holds stays held."""
    lock = ours.Lock()
    items = ours.list()
    lock.acquire()
    link = items._session._local.link
    with pytest.raises(TypeError, match="cannot pickle"):
        items.append(threading.Lock())
    with pytest.raises(TypeError, match="cannot pickle"):
        ours.list([threading.Lock()])
    assert items._session._local.link is link
    lock.release()


def test_the_starter_connects_nowhere():
    program = """if True:
        import sys, threading
        import sidestep
        with sidestep.get_context("fork").Manager() as manager:
            items = manager.list()
            items.append(1)
            thread = threading.Thread(target=items.append, args=(2,))
            thread.start()
            thread.join()
            assert items[:] == [1, 2]
        assert not {"socket", "hmac"} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_types_can_be_registered():
    class Own(managers.BaseManager):
        pass

    proxy = managers.MakeProxyType("Proxy", ("get",))
    Own.register("Thing", dict, proxytype=proxy, exposed=("get",))
    Own.register("Hidden", create_method=False)
    assert set(Own._registry) == {"Thing", "Hidden"}
    assert managers.BaseManager._registry == {}
    assert callable(Own.Thing)
    assert not hasattr(Own, "Hidden")
    assert proxy._exposed_ == ("get",)


@pytest.mark.slow
def test_a_pool_in_the_server(manager):
    pool = manager.Pool(2)
    assert pool.map(abs, [-1, 2]) == [1, 2]
    assert pool.starmap_async(pow, [(2, 3)]).get(20) == [8]
    assert list(pool.imap(abs, [-3])) == [3]
    pool.terminate()
    pool.join()


def test_a_slot_without_a_value_is_no_method():
    class Slotted:
        __slots__ = ("empty",)

        def method(self):
            pass

    assert managers.public_methods(Slotted()) == ["method"]


def test_a_fork_beside_a_proxy_of_a_manager_that_is_shut_down():
    # Another thread may be inside of the session, and hold its lock, when the child is
    # forked: nobody would ever release that in the child.
    with sidestep.Manager() as manager:
        left = manager.list()
        session = left._session
    with session._lock:
        process = sidestep.get_context("fork").Process(target=int)
        process.start()
        process.join(20)
    assert process.exitcode == 0
