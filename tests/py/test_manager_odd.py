# SPDX-License-Identifier: MIT
"""Managers and what is odd: methods that exit, replies that cannot be sent, requests
that are none, a server without descriptors. Each costs its caller an error that says
what happened, and nobody else anything."""

import os
import resource
import signal
import threading
import time

import pytest

import sidestep
from sidestep import _manager_session, managers

KEY = b"a key of thirty-two bytes at the least"

ADDRESSES = [None, ("127.0.0.1", 0)]


class ReprRaisesError(Exception):
    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __repr__


class Exits:
    """Ends whoever pickles it."""

    def __reduce__(self):
        raise SystemExit(3)


class ExitsThere:
    """Ends whoever unpickles it."""

    def __reduce__(self):
        return exit_now, ()


def exit_now():
    raise SystemExit("in the server")


class Odd:
    @property
    def attribute(self):
        raise LookupError("not today")

    def raise_(self, name):
        raise {"exit": SystemExit(5), "interrupt": KeyboardInterrupt()}[name]

    def raise_odd(self):
        raise ReprRaisesError

    def give(self, name):
        return {"lock": threading.Lock(), "exits": Exits()}[name]

    def take(self, thing):
        return type(thing).__name__


class Manager(managers.SyncManager):
    pass


Manager.register(
    "Odd", Odd, exposed=["attribute", "raise_", "raise_odd", "give", "take"]
)


@pytest.fixture(params=["pipe", "unix", "tls"])
def odd(request, monkeypatch):
    """An object over the three ways to a server: see ``docs/internals/net.rst``."""
    if request.param == "tls":
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    address = ("127.0.0.1", 0) if request.param == "tls" else None
    if request.param == "unix":  # as a client of another tree, which has its own arena
        monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    with Manager(address, KEY) as manager:
        yield manager.Odd()
        assert manager.list([1])[0] == 1


@pytest.mark.parametrize("name", ["exit", "interrupt"])
def test_a_method_that_exits_ends_nobody(odd, name):
    for _ in range(3):
        with pytest.raises(managers.RemoteError, match=r"SystemExit|KeyboardInterrupt"):
            odd._callmethod("raise_", (name,))
    assert odd._callmethod("take", (1,)) == "int"


@pytest.mark.parametrize("name", ["lock", "exits"])
def test_what_cannot_be_sent_back(odd, name):
    with pytest.raises(managers.RemoteError, match=r"cannot pickle|SystemExit"):
        odd._callmethod("give", (name,))
    assert odd._callmethod("take", (1,)) == "int"


def test_what_cannot_be_unpickled_there(odd):
    with pytest.raises(managers.RemoteError, match="in the server"):
        odd._callmethod("take", (ExitsThere(),))
    assert odd._callmethod("take", (1,)) == "int"


def test_an_exception_that_cannot_be_shown(odd):
    with pytest.raises(ReprRaisesError):
        odd._callmethod("raise_odd")
    assert odd._callmethod("take", (1,)) == "int"


def test_a_property_that_raises(odd):
    with pytest.raises(managers.RemoteError, match="not today"):
        odd._callmethod("attribute")
    assert odd._callmethod("take", (1,)) == "int"


@pytest.mark.parametrize("name", [["take"], {}, None, 3, b"take"])
def test_names_of_methods_that_are_none(odd, name):
    with pytest.raises((managers.RemoteError, TypeError)):
        odd._callmethod(name, (1,))
    assert odd._callmethod("take", (1,)) == "int"


@pytest.mark.parametrize("args", [(5,), ((1,), [3]), (None,)])
def test_arguments_that_are_none(odd, args):
    with pytest.raises((managers.RemoteError, TypeError)):
        odd._callmethod("take", *args)
    assert odd._callmethod("take", (1,)) == "int"


def leave_few():
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.timeout(120)
def test_a_server_without_descriptors(address):
    """Of more clients than it has descriptors for, each is served or told at once."""
    if address is not None:
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    manager = managers.SyncManager(address, KEY)
    manager.start(leave_few)
    table = manager.dict()
    count = 80
    ends = []
    all_done, may_end = threading.Event(), threading.Event()

    def be_client(number):
        try:
            table[number] = number
            ends.append(table[number] == number)
        except (OSError, EOFError, sidestep.AuthenticationError) as error:
            ends.append(error)
        if len(ends) == count:
            all_done.set()
        may_end.wait()

    threads = [threading.Thread(target=be_client, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    assert all_done.wait(60)
    may_end.set()
    for thread in threads:
        thread.join()
    del threads
    good = [end for end in ends if end is True]
    assert len(good) >= 10
    assert False not in ends

    # Now that they have gone, others get in.
    for _ in range(5):
        thread = threading.Thread(target=table.__setitem__, args=("after", 1))
        thread.start()
        thread.join(60)
    assert table["after"] == 1
    manager.shutdown()


class SlowlyMade:
    """Something that is made once there is a file, and says when it has begun."""

    def __init__(self, path):
        with open(path + ".begun", "w"):
            pass
        while not os.path.exists(path):
            time.sleep(0.01)


class SlowManager(managers.SyncManager):
    pass


SlowManager.register("SlowlyMade", SlowlyMade)


@pytest.mark.parametrize("is_interrupted", [False, True])
@pytest.mark.parametrize("is_near", [False, True])
def test_what_takes_long_to_make_holds_up_nobody(
    tmp_path, monkeypatch, eventually, is_near, is_interrupted
):
    if not is_near:
        monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    path = tmp_path / "go"
    errors = []

    def make():
        try:
            manager.SlowlyMade(str(path))
        except (EOFError, OSError) as error:
            errors.append(error)

    def interrupt():
        eventually(path.with_suffix(".begun").exists)
        os.kill(os.getpid(), signal.SIGINT)

    def use_and_end():
        eventually(path.with_suffix(".begun").exists)
        table = manager.dict(a=1)
        assert table["a"] == 1
        del table
        manager.shutdown()
        done.append(True)

    done = []
    manager = SlowManager(ctx=sidestep.get_context("fork"), shutdown_timeout=20)
    manager.start()
    if is_interrupted:
        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            make()
        other.join()
    else:
        threading.Thread(target=make, daemon=True).start()
    user = threading.Thread(target=use_and_end, daemon=True)
    user.start()
    user.join(20)
    is_done = bool(done)  # before it was made
    path.touch()
    user.join()
    assert is_done


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(TypeError, match="authkey should be a byte string"):
        managers.SyncManager(authkey="text")
    manager = managers.SyncManager()
    with pytest.raises(AssertionError, match=r"call start\(\) or connect\(\)"):
        manager.dict()
    with manager:
        pass
    with pytest.raises(AssertionError, match="has shut down"):
        manager.dict()
    path = str(tmp_path / "socket")
    manager = managers.SyncManager(path)
    manager.start()
    manager._process.kill()
    manager.join()
    with pytest.raises(OSError, match=r"in use \(.*remove the file\): .*socket"):
        managers.SyncManager(path).get_server()
    with sidestep.Manager() as manager:
        stranger = managers.SyncManager(manager.address, b"another key")
        with pytest.raises(sidestep.AuthenticationError, match="has another key"):
            stranger.connect()
