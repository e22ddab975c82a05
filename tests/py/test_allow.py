# SPDX-License-Identifier: MIT
"""What may be unpickled where ``allow=`` says so, and what is tried against it."""

import collections
import copyreg
import datetime as dt
import io
import os
import pickle
import socket
import threading

import allow_types
import pytest

import sidestep
from sidestep import managers
from sidestep._allow import AllowList
from sidestep.connection import Client, Listener

KEY = b"a key of thirty-two bytes at the least"

PLAIN = [
    None,
    True,
    -(2**70),
    1.5,
    "text",
    b"bytes",
    bytearray(b"more"),
    [1, (2, 3), {"a": {4}}, frozenset({5})],
    1 + 2j,
    range(3),
    slice(1, 2),
]


def refused(allow, data):
    with pytest.raises(pickle.UnpicklingError, match="allow="):
        AllowList(allow).loads(data)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_plain_data_is_allowed_always(protocol):
    # Protocol 2 names sets and bytes as Python 2 does.
    for item in PLAIN[:5] if protocol == 2 else PLAIN:
        assert AllowList().loads(pickle.dumps(item, protocol)) == item


def test_errors_are_allowed_always():
    error = AllowList().loads(pickle.dumps(KeyError("k")))
    assert isinstance(error, KeyError)
    refused([], pickle.dumps(SystemExit(1)))


def test_what_is_listed():
    good = allow_types.Good(1)
    for allow in (
        [allow_types.Good],
        ["allow_types"],
        ["allow_types:Good"],
        [allow_types.Good, dt.date],
    ):
        assert AllowList(allow).loads(pickle.dumps(good)) == good
    for allow in ([], [allow_types.Other], ["allow_type"], ["allow_types.Good"]):
        refused(allow, pickle.dumps(good))
    assert AllowList([allow_types.double]).loads(pickle.dumps(allow_types.double))


def test_a_module_covers_those_below():
    data = pickle.dumps(collections.OrderedDict(a=1))
    assert AllowList(["collections"]).loads(data) == {"a": 1}
    data = pickle.dumps(collections.abc.Mapping)
    assert AllowList(["collections"]).loads(data) is collections.abc.Mapping
    refused(["collections.abc"], pickle.dumps(collections.Counter("a")))


@pytest.mark.parametrize("entry", [3, None, object(), [], allow_types.Good(1)])
def test_entries_that_are_none(entry):
    with pytest.raises(TypeError, match="allow: "):
        AllowList([entry])
    with pytest.raises((ValueError, TypeError)):
        Listener(allow="allow_types")
    for text in ("", ":name", "module:"):
        with pytest.raises(ValueError, match="allow: "):
            AllowList([text])


def test_nothing_is_imported_for_a_name_that_is_refused():
    import sys

    sys.modules.pop("allow_unwanted", None)
    refused(["allow_types"], b"callow_unwanted\nname\n.")
    assert "allow_unwanted" not in sys.modules


# ---- Attacks ----


class Bomb:
    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


def test_code_is_not_run():
    for function, args in [
        (os.system, ("touch /tmp/pwned",)),
        (eval, ("1/0",)),
        (exec, ("1/0",)),
        (getattr, (allow_types.Good, "__init__")),
        (__import__, ("os",)),
        (os.open, ("/dev/null", 0)),
        (pickle.loads, (b"N.",)),
        (type, ("x", (), {})),
    ]:
        for allow in ([], [allow_types.Good], ["allow_types"]):
            refused(allow, pickle.dumps(Bomb(function, *args)))


@pytest.mark.parametrize(
    "name", [b"os.system", b"system", b"Good.__init__.__globals__", b"os", b"TABLE"]
)
def test_a_name_that_leads_out_of_its_module(name):
    """From an allowed module by dots, or by what it has imported itself."""
    text = b"\x80\x04\x8c\x0ballow_types\x8c" + bytes([len(name)]) + name + b"\x93."
    refused(["allow_types"], text)


def test_what_is_shared_is_not_changed():
    """BUILD sets attributes: also of a class, if one lets it."""
    pickler = io.BytesIO()
    pickler.write(b"\x80\x04callow_types\nGood\n")  # the class itself
    pickler.write(b"N}\x8c\x06double\x8c\x03oh!s\x86b.")  # (None, {...}), BUILD
    with pytest.raises(pickle.UnpicklingError, match="would change"):
        AllowList(["allow_types"]).loads(pickler.getvalue())
    assert not hasattr(allow_types.Good, "double")
    function = b"\x80\x04callow_types\ndouble\nN}\x8c\x01xK\x01s\x86b."
    with pytest.raises(pickle.UnpicklingError, match="would change"):
        AllowList(["allow_types"]).loads(function)
    assert not hasattr(allow_types.double, "x")


def test_a_number_for_a_name_that_somebody_looked_up():
    copyreg.add_extension("os", "system", 0xF1)
    try:
        data = b"\x80\x02\x82\xf1."
        assert pickle.loads(data) is os.system  # now it is in the cache
        refused([], data)
        copyreg.remove_extension("os", "system", 0xF1)
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            AllowList().loads(data)
        copyreg.add_extension("os", "system", 0xF1)
    finally:
        copyreg.remove_extension("os", "system", 0xF1)


def test_functions_by_value_are_refused():
    captured = 3
    ours, theirs = sidestep.Pipe()
    theirs._restrict(AllowList(["allow_types"]).loads, None)
    ours.send(lambda: captured)
    with pytest.raises(pickle.UnpicklingError, match="allow="):
        theirs.recv()
    ours.send("next")
    assert theirs.recv() == "next"


def test_shared_objects_and_descriptors_are_refused():
    """Reducers of our own: a lock, an end of a pipe, a socket, an array's buffer."""
    numpy = pytest.importorskip("numpy")
    ours, theirs = sidestep.Pipe()
    theirs._restrict(AllowList().loads, None)
    one, other = socket.socketpair()
    with one, other:
        for item in (
            sidestep.Lock(),
            sidestep.Queue(),
            sidestep.Pipe()[0],
            one,
            numpy.zeros(100_000),
        ):
            ours.send(item)
            with pytest.raises(pickle.UnpicklingError, match="allow="):
                theirs.recv()
    ours.send(1)
    assert theirs.recv() == 1


def test_arrays_can_be_allowed():
    numpy = pytest.importorskip("numpy")
    allow = AllowList([numpy.ndarray, numpy.dtype, *allow_types.array_makers()])
    ours, theirs = sidestep.Pipe()
    theirs._restrict(allow.loads, None)
    array = numpy.arange(100_000)
    ours.send(array)  # with its buffer out of band
    assert (theirs.recv() == array).all()
    assert (allow.loads(pickle.dumps(array)) == array).all()


def test_restrictions_go_with_a_connection():
    ours, theirs = sidestep.Pipe()
    one, other = sidestep.Pipe()
    theirs._restrict(AllowList().loads, 1000)
    one.send(theirs)
    theirs.close()
    moved = other.recv()
    ours.send(allow_types.Good(1))
    with pytest.raises(pickle.UnpicklingError, match="allow="):
        moved.recv()
    ours.send(b"x" * 2000)
    with pytest.raises(OSError, match="max_message"):
        moved.recv()


# ---- Listeners, clients, managers ----


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_listener_and_client(family):
    if family != "AF_UNIX":
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    allow = [allow_types.Good]
    with Listener(family=family, authkey=KEY, allow=allow) as listener:
        got = []
        thread = threading.Thread(target=lambda: got.append(listener.accept()))
        thread.start()
        with Client(listener.address, authkey=KEY, allow=[]) as client:
            thread.join(20)
            with got[0] as server:
                client.send(Bomb(os.system, "false"))
                with pytest.raises(pickle.UnpicklingError, match=r"posix\.system"):
                    server.recv()
                client.send([allow_types.Good(3)])
                assert server.recv() == [allow_types.Good(3)]
                server.send(allow_types.Good(3))
                with pytest.raises(pickle.UnpicklingError, match="Good"):
                    client.recv()


class Careful(managers.BaseManager):
    pass


Careful.register("dict", dict, managers.DictProxy)
Careful.register("Failing", allow_types.Failing)


@pytest.mark.parametrize("address", [None, ("127.0.0.1", 0)])
def test_a_manager(address):
    if address is not None:
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    with Careful(address, KEY, allow=[allow_types.Good]) as manager:
        table = manager.dict(a=1)
        table["good"] = allow_types.Good(2)
        assert table["good"] == allow_types.Good(2)
        with pytest.raises(managers.RemoteError, match="not in allow="):
            table["other"] = allow_types.Other(3)
        with pytest.raises(managers.RemoteError, match="not in allow="):
            table["bomb"] = Bomb(os.system, "false")
        captured = 1
        with pytest.raises(managers.RemoteError, match="not in allow="):
            table["function"] = lambda: captured
        with pytest.raises(KeyError, match="nothing") as caught:
            table["nothing"]
        assert "Traceback" in str(caught.value.__cause__)
        assert dict(table.items()) == {"a": 1, "good": allow_types.Good(2)}


def test_a_batch_of_calls_brings_nothing_in():
    """Its arguments are pickles inside of a pickle."""
    with Careful(None, KEY, allow=[allow_types.Good]) as manager:
        table = manager.dict(a=1)
        with manager.batch(check=False) as batch:
            several = batch(table)
            replies = [
                batch.call(several, "__setitem__", "k", item)
                for item in (allow_types.Good(2), Bomb(os.system, "false"), 3)
            ]
            got = several.copy()
        assert replies[0].exception() is None
        assert "not in allow=" in str(replies[1].exception())
        assert got.result() == {"a": 1, "k": 3}
        with manager.batch(check=False) as batch:
            reply = batch(table).pop("k")
        assert reply.result() == 3


def test_a_batch_takes_nothing_out():
    """Nor does a client unpickle what a server puts into a reply's pickle."""
    with Careful(None, KEY) as server:
        table = server.dict(other=allow_types.Other(1), a=2)
        client = Careful(server.address, KEY, allow=[])
        client.connect()
        with client.batch(check=False) as batch:
            other = batch(table).get("other")
            plain = batch(table).get("a")
        assert "not in allow=" in str(other.exception())
        assert plain.result() == 2


@pytest.mark.parametrize("client_allow", [None, []])
def test_tasks_are_refused(client_allow):
    """A task is a function to run: a list of what may be named has none."""
    with Careful(("127.0.0.1", 0), KEY, allow=[allow_types.Good]) as server:
        manager = Careful(server.address, KEY, allow=client_allow)
        manager.connect()
        for ask in (
            lambda: manager.submit(os.getpid),
            lambda: sidestep.Pool(cluster=manager),
        ):
            with pytest.raises(Exception, match=r"sidestep\.cluster\.far:Batch"):
                ask()
        with pytest.raises(sidestep.tasks.ServeError, match="does no tasks"):
            sidestep.serve(server.address, KEY, workers=1)
        assert manager.dict(a=1)["a"] == 1


def test_tasks_where_the_list_has_what_the_error_says():
    from sidestep.tasks.broker import TASK_NAMES

    with Careful(None, KEY, allow=TASK_NAMES) as manager:
        assert manager.submit(allow_types.Good, 3).result(60).number == 3
        with sidestep.Pool(cluster=manager) as pool:
            assert pool.map(len, ["a", "bc"]) == [1, 2]


@pytest.mark.parametrize("client_allow", [None, [], [allow_types.Good]])
def test_the_objects_of_a_cluster_context(client_allow):
    """The server has bytes; who gets them has a list, or has none."""
    from sidestep.cluster.shared import ClusterManager

    with ClusterManager(("127.0.0.1", 0), KEY, allow=[]) as server:
        assert server.Value("i", (3,), True).value == 3
        assert server.Array("i", [1, 2], True)[:] == [1, 2]
        assert server.Barrier(1, None, None).wait() == 0
        sender = ClusterManager(server.address, KEY)
        sender.connect()
        client = ClusterManager(server.address, KEY, allow=client_allow)
        client.connect()
        queue, plain = sender.JoinableQueue(), {"a": [1]}
        address = queue._token
        queue.put(plain)
        queue.put(allow_types.Good(1))
        token = type(queue)(address, "pickle", authkey=KEY, manager=client)
        token._session = client._session_now()
        assert token.get(timeout=20) == plain
        if client_allow == []:
            with pytest.raises(pickle.UnpicklingError, match="allow_types:Good"):
                token.get(timeout=20)
        else:
            assert token.get(timeout=20).number == 1


def test_an_error_from_a_manager_that_is_not_allowed():
    with Careful(None, KEY, allow=[]) as manager:
        failing = manager.Failing()
        with pytest.raises(ValueError, match="known"):
            failing.fail_known()
        with pytest.raises(Exception, match="not in allow=") as caught:
            failing.fail_unknown()
        assert "Unknown" in str(caught.value.__cause__)


# ---- max_message ----


def connected(listener):
    got = []
    thread = threading.Thread(target=lambda: got.append(listener.accept()))
    thread.start()
    client = Client(listener.address, authkey=KEY)
    thread.join(20)
    return client, got[0]


def test_messages_that_are_too_long():
    with Listener(authkey=KEY, max_message=10_000) as listener:
        for send in (
            lambda conn: conn.send(b"x" * 20_000),
            lambda conn: conn.send_bytes(b"x" * 10_001),
            lambda conn: os.write(conn.fileno(), b"\x7f\xff\xff\xff"),
            lambda conn: os.write(conn.fileno(), b"\xff" * 4 + b"\x7f" + b"\xff" * 7),
        ):
            client, server = connected(listener)
            with client, server:
                client.send_bytes(b"x" * 10_000)
                assert len(server.recv_bytes()) == 10_000
                send(client)
                with pytest.raises(OSError, match="max_message, 10000 bytes"):
                    server.recv_bytes()
    with pytest.raises(ValueError, match="negative"):
        Listener(authkey=KEY, max_message=-1)


def test_memory_comes_with_the_bytes():
    """A length that is promised costs nothing; one that is kept arrives."""
    import resource

    reader, writer = socket.socketpair()
    conn = sidestep.connection.Connection(reader.detach())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    writer.sendall(b"\xff\xff\xff\xff" + (1 << 40).to_bytes(8, "big") + b"some")
    writer.close()
    with pytest.raises(OSError, match="end of file during message"):
        conn.recv_bytes()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)
    reader, writer = socket.socketpair()
    conn = sidestep.connection.Connection(reader.detach())
    data = os.urandom(1 << 20) * 100
    sender = sidestep.connection.Connection(writer.detach())
    thread = threading.Thread(target=sender.send_bytes, args=(data,))
    thread.start()
    assert conn.recv_bytes() == data
    thread.join(20)
