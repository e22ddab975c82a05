# SPDX-License-Identifier: MIT
"""``security="stdlib"`` and the standard library of every Python there is here."""

import contextlib
import glob
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import network_children as children
import pytest

import sidestep
from sidestep.connection import Client, Listener
from sidestep.managers import SyncManager

PEER = Path(__file__).with_name("stdlib_peer.py")
KEY = b"a key of thirty-two bytes at the least"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")

pytestmark = pytest.mark.filterwarnings("ignore:security=:RuntimeWarning")


def find(version):
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    home = os.path.expanduser("~/.pyenv/versions")
    found = sorted(glob.glob(f"{home}/{version}.*/bin/python{version}"))
    return found[-1] if found else shutil.which(f"python{version}")


def is_old(version):
    return version == "3.11"


@pytest.fixture(params=VERSIONS)
def peer(request):
    """Start the program with these words: the process, and the version it runs in."""
    program = find(request.param)
    if program is None:
        pytest.skip(f"no Python {request.param} here")
    with contextlib.ExitStack() as stack:

        def run(*words):
            process = stack.enter_context(
                subprocess.Popen(
                    [program, str(PEER), *map(str, words)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        run.version = request.param
        yield run


@pytest.mark.parametrize("md5", [False, True])
def test_its_client(peer, md5):
    with Listener(
        ("127.0.0.1", 0), authkey=KEY, security="stdlib", legacy_md5=md5
    ) as listener:
        process = peer("connect", listener.address[1])
        if is_old(peer.version) and not md5:
            with pytest.raises(sidestep.AuthenticationError, match="legacy_md5=True"):
                listener.accept()
            assert process.stdout.readline() == "AuthenticationError\n"
        else:
            with listener.accept() as conn:
                conn.send([conn.recv()])
            assert process.stdout.readline() == "[{'a': 1}]\n"


@pytest.mark.parametrize("md5", [False, True])
def test_its_listener(peer, md5):
    process = peer("listen")
    address = ("127.0.0.1", int(process.stdout.readline()))
    options = {"authkey": KEY, "security": "stdlib", "legacy_md5": md5}
    if is_old(peer.version) and not md5:
        with pytest.raises(sidestep.AuthenticationError, match="legacy_md5=True"):
            Client(address, **options)
        assert process.stdout.readline() in {
            "AuthenticationError\n",
            "EOFError\n",
            "ConnectionResetError\n",
        }
    else:
        with Client(address, **options) as conn:
            conn.send("x")
            assert conn.recv() == ["x"]
        assert process.stdout.readline() == "done\n"


def test_its_client_of_our_manager(peer):
    md5 = is_old(peer.version)
    with SyncManager(("127.0.0.1", 0), KEY, security="stdlib", legacy_md5=md5) as ours:
        process = peer("use", ours.address[1])
        assert process.stdout.readline() == "{'a': 1, 'b': 2} 2\n"


def test_our_client_of_its_manager(peer):
    process = peer("serve")
    address = ("127.0.0.1", int(process.stdout.readline()))
    md5 = is_old(peer.version)
    ours = SyncManager(address, KEY, security="stdlib", legacy_md5=md5)
    ours.connect()
    table = ours.dict(a=1)
    table["b"] = 2
    assert table.copy() == {"a": 1, "b": 2}
    del table


def test_a_unix_socket_takes_either():
    """The kernel says who the peer is; and old peers are to go on working."""
    old = pytest.importorskip("multiprocessing.connection")
    with Listener(authkey=KEY) as listener:
        thread = threading.Thread(target=children.echo_one, args=(listener,))
        thread.start()
        with old.Client(listener.address, authkey=KEY) as conn:
            conn.send(1)
            assert conn.recv() == 1
        thread.join(20)


def test_it_warns_where_it_is_called():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with Listener(("127.0.0.1", 0), authkey=KEY, security="stdlib"):
            pass
    assert [one.category for one in seen] == [RuntimeWarning]
    assert "in the clear" in str(seen[0].message)
    assert seen[0].filename == __file__


def test_md5_is_not_for_tls():
    for make in (Listener, Client):
        with pytest.raises(ValueError, match="legacy_md5"):
            make(("127.0.0.1", 1), authkey=KEY, legacy_md5=True)


def falling_back(listener):
    """A man in the middle who takes the digest's name out of the challenge."""
    peer, _ = listener.accept()
    with peer:
        peer.sendall((31).to_bytes(4, "big") + b"#CHALLENGE#" + b"x" * 20)
        return peer.recv(1000)


def test_a_downgrade_is_refused():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        got = []
        thread = threading.Thread(target=lambda: got.append(falling_back(listener)))
        thread.start()
        with pytest.raises(sidestep.AuthenticationError, match="MD5"):
            Client(listener.getsockname(), authkey=KEY, security="stdlib")
        thread.join(20)
        assert got == [b""]  # nothing was proved to it
