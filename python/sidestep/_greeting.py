# SPDX-License-Identifier: MIT
"""Accepting peers that have to show a key, several at a time.

The standard library's challenge has three messages each way. A listener that goes
through them with one peer at a time is held up by the first that says nothing. Here all
that have connected are half open side by side, and `accept` returns the first that is
done: for Unix sockets with a key, and for ``security="stdlib"``.
"""

from __future__ import annotations

import collections
import errno
import os
import select
import threading
from time import monotonic

from . import _challenge, connection, util
from .context import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Generator
    from typing import Any

__all__ = ["HALF_OPEN_MAX", "HANDSHAKE_SECONDS", "Greeter", "greeting"]

#: Seconds that a peer has to show that it knows the key.
HANDSHAKE_SECONDS = 5.0
#: Peers that have not shown it yet; the oldest gives way to one more.
HALF_OPEN_MAX = 64

_HEADER_SIZE = 4


def greeting(authkey: bytes, *, legacy_md5: bool) -> Generator[bytes, bytes]:
    """Yield what is to be sent, get what comes: the listener's side of the challenge.

    Raises AuthenticationError when the peer does not know the key.
    """
    message = b"{sha256}" + os.urandom(_challenge.MESSAGE_LENGTH)
    response = yield _challenge.CHALLENGE + message
    try:
        if not legacy_md5:
            _challenge._refuse_md5(response)
        _challenge._verify_challenge(authkey, message, response)
    except AuthenticationError:
        yield _challenge.FAILURE
        raise
    challenge = yield _challenge.WELCOME
    message = _challenge._challenge_in(challenge, legacy_md5=legacy_md5)
    if (yield _challenge._create_response(authkey, message)) != _challenge.WELCOME:
        raise AuthenticationError("digest sent was rejected: the peer has another key")


class _HalfOpen:
    """A peer that has connected, and how far it has come."""

    def __init__(
        self, sock: socket.socket, address: Any, steps: Generator[bytes, bytes]
    ) -> None:
        sock.settimeout(0)
        self.sock, self.address = sock, address
        self.deadline = monotonic() + HANDSHAKE_SECONDS
        self._steps = steps
        self._unsent = b""
        self._came = bytearray()
        self._frame_size: int | None = None
        self._is_failing = False
        self._say(next(steps))

    def _say(self, message: bytes) -> None:
        self._unsent += len(message).to_bytes(_HEADER_SIZE, "big") + message
        self._is_failing = message == _challenge.FAILURE

    @property
    def events(self) -> int:
        return select.POLLOUT if self._unsent else select.POLLIN

    def go_on(self) -> bool:
        """Move what can be moved; True when the peer has shown the key.

        Raises BlockingIOError when it is the peer's turn, AuthenticationError when it
        does not know the key, and EOFError or OSError when it has gone.
        """
        while True:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            try:
                # It is told of its failure, and has nothing more to say.
                self._say(self._steps.send(b"" if self._is_failing else self._frame()))
            except StopIteration:
                return True

    def _frame(self) -> bytes:
        """Read one frame, and not a byte of what comes after it."""
        if self._frame_size is None:
            size = int.from_bytes(self._read(_HEADER_SIZE), "big")
            if size > _challenge._REPLY_LENGTH_MAX:
                raise AuthenticationError("the peer does not speak this protocol")
            self._frame_size = size
        frame = self._read(self._frame_size)
        self._frame_size = None
        return frame

    def _read(self, size: int) -> bytes:
        while len(self._came) < size:
            data = self.sock.recv(size - len(self._came))
            if not data:
                raise EOFError
            self._came += data
        whole = bytes(self._came)
        self._came.clear()
        return whole


class Greeter:
    """Accepts at a listening socket those who know the key."""

    def __init__(
        self, listener: Any, authkey: bytes, allow_uids: Any, *, legacy_md5: bool
    ) -> None:
        self._listener, self._sock = listener, listener._socket
        self._authkey, self._legacy_md5 = authkey, legacy_md5
        self._allow_uids = allow_uids
        self._half_open: collections.deque[_HalfOpen] = collections.deque()
        self._ended = self._ender = -1
        self._begin()
        # A peer may be another process's by the time that it is asked for.
        self._sock.settimeout(0)

    def _begin(self) -> None:
        """Be this process's: a forked child has its parent's until it accepts."""
        self._lock = threading.Lock()
        self._close_pipe()
        self._ended, self._ender = os.pipe()  # readable once it is closed
        self._pid = os.getpid()

    def accept(self) -> connection.Connection:
        """Return the connection to the next peer that knows the key.

        AuthenticationError when one does not. Who takes too long, or goes, is dropped.
        """
        if self._pid != os.getpid():  # those that there are are our parent's
            self._begin()
            self._drop_all()
        with self._lock:
            while True:
                ready = self._wait()
                if self._ended in ready:
                    self._drop_all()
                    raise OSError(errno.EBADF, "listener is closed")
                if self._sock.fileno() in ready:
                    self._let_in()
                for peer in [*self._half_open]:
                    if peer.sock.fileno() in ready and self._go_on(peer):
                        self._listener._last_accepted = peer.address
                        return connection._connection_over(peer.sock)

    def close(self) -> None:
        """Drop those that are half open, and have `accept` raise OSError."""
        ender, self._ender = self._ender, -1
        if ender >= 0:
            if self._pid == os.getpid():
                os.write(ender, b".")  # a child may have a copy, that stays open
            os.close(ender)
        if self._lock.acquire(blocking=False):
            try:
                self._drop_all()
            finally:
                self._lock.release()

    def __del__(self) -> None:
        self.close()
        self._close_pipe()

    def _close_pipe(self) -> None:
        for fd in (self._ended, self._ender):
            if fd >= 0:
                os.close(fd)
        self._ended = self._ender = -1

    def _drop_all(self) -> None:
        while self._half_open:
            self._half_open.popleft().sock.close()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        now = monotonic()
        while self._half_open and self._half_open[0].deadline <= now:
            self._drop_oldest("took too long")
        for peer in self._half_open:
            poll.register(peer.sock.fileno(), peer.events)
        timeout = (
            (self._half_open[0].deadline - now) * 1000 + 1 if self._half_open else None
        )
        return {fd for fd, _ in poll.poll(timeout)}

    def _drop_oldest(self, why: str) -> None:
        peer = self._half_open.popleft()
        util.info("a peer that has not shown the key %s", why)
        peer.sock.close()

    def _let_in(self) -> None:
        try:
            sock, address = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE} and self._half_open:
                self._drop_oldest("gives way, there are no descriptors left")
                return
            raise
        if not connection._is_trusted(sock, self._allow_uids, has_key=True):
            util.info("a connection of another user was turned away")
            sock.close()
            return
        if len(self._half_open) >= HALF_OPEN_MAX:
            self._drop_oldest("gives way, there are too many")
        steps = greeting(self._authkey, legacy_md5=self._legacy_md5)
        self._half_open.append(_HalfOpen(sock, address, steps))

    def _go_on(self, peer: _HalfOpen) -> bool:
        try:
            done = peer.go_on()
        except BlockingIOError:
            return False
        except AuthenticationError:
            self._half_open.remove(peer)
            peer.sock.close()
            raise
        except (EOFError, OSError) as error:
            util.info("a peer went before it had shown the key: %r", error)
            self._half_open.remove(peer)
            peer.sock.close()
            return False
        if done:
            self._half_open.remove(peer)
        return done
