# SPDX-License-Identifier: MIT
"""What Hypothesis thinks of to say to a listener, and to put into a pickle."""

import contextlib
import os
import pickle
import resource
import select
import socket

import allow_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep import _greeting, connection
from sidestep._allow import AllowList

KEY = b"a key of thirty-two bytes at the least"

FRAMES = st.sampled_from(
    [
        connection.WELCOME,
        connection.FAILURE,
        connection.CHALLENGE,
        connection.CHALLENGE + b"x" * 20,
        connection.CHALLENGE + b"{sha256}" + b"x" * 40,
        b"{sha256}" + b"x" * 32,
        b"{md5}" + b"x" * 16,
        b"x" * 16,
        b"",
    ]
).map(lambda data: len(data).to_bytes(4, "big") + data)


def greet(pieces):
    """A listener's side of what a peer says in these pieces; True if it lets it in."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = _greeting._HalfOpen(ours, None, _greeting.greeting(KEY, legacy_md5=True))
        for piece in pieces:
            with contextlib.suppress(BlockingIOError):
                if peer.go_on():
                    return True
            if piece:
                theirs.sendall(piece)
        theirs.shutdown(socket.SHUT_WR)
        while True:
            select.select([ours], [], [])
            with contextlib.suppress(BlockingIOError):
                return peer.go_on()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300) | FRAMES, max_size=8))
def test_whoever_does_not_know_the_key_is_not_let_in(pieces):
    with contextlib.suppress(connection.AuthenticationError, EOFError, OSError):
        assert not greet(pieces)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_who_knows_it_is_let_in_however_its_bytes_come(sizes):
    """And nothing of what it says afterwards is read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = _greeting._HalfOpen(
            ours, None, _greeting.greeting(KEY, legacy_md5=False)
        )
        steps = _client()
        unsent, answer, turn, done = b"", b"", 0, False
        next(steps)
        while not done:
            with contextlib.suppress(BlockingIOError):
                done = peer.go_on()
            with contextlib.suppress(BlockingIOError):
                answer += theirs.recv(1 << 16, socket.MSG_DONTWAIT)
            while len(answer) >= 4 and len(answer) >= 4 + int.from_bytes(
                answer[:4], "big"
            ):
                size = int.from_bytes(answer[:4], "big")
                unsent += steps.send(answer[4 : 4 + size])
                answer = answer[4 + size :]
            size = sizes[turn % len(sizes)]
            theirs.sendall(unsent[:size])
            unsent, turn = unsent[size:], turn + 1
        theirs.sendall(unsent)
        ours.settimeout(20)
        assert ours.recv(13, socket.MSG_WAITALL) == b"first message"


def _client():
    """Yield what a client says after each frame; a message follows its last word."""
    import hmac

    def frame(data):
        return len(data).to_bytes(4, "big") + data

    challenge = (yield b"")[len(connection.CHALLENGE) :]
    welcome = yield frame(connection._create_response(KEY, challenge))
    assert welcome == connection.WELCOME
    mine = b"{sha256}" + os.urandom(40)
    answer = yield frame(connection.CHALLENGE + mine)
    assert answer == b"{sha256}" + hmac.new(KEY, mine, "sha256").digest()
    yield frame(connection.WELCOME) + b"first message"


# ---- Pickles ----


@pytest.fixture(scope="module")
def bounded():
    """A few bytes of a pickle may ask for gigabytes: they get an error here."""
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (512 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


PICKLES = [
    pickle.dumps(obj, protocol)
    for protocol in (0, 2, 4, 5)
    for obj in (
        [1, "two", {"three": (4.0, b"five")}],
        allow_types.Good(3),
        KeyError("k"),
        {1, 2},
        os.getcwd,
        allow_types.double,
    )
]


@pytest.mark.usefixtures("bounded")
@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(PICKLES),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=4),
)
def test_changed_pickles_name_nothing_that_is_not_allowed(data, changes):
    """Whatever comes of them is plain data, or of the one class that is allowed."""
    for place, piece in changes:
        place %= len(data)
        data = data[:place] + piece + data[place + len(piece) :]
    named = []

    class Watched(AllowList):
        def find(self, module, name):
            found = super().find(module, name)
            named.append(found)
            return found

    with contextlib.suppress(Exception):
        Watched([allow_types.Good]).loads(data)
    for found in named:
        assert found is allow_types.Good or found.__module__ == "builtins", found
        assert isinstance(found, type)
