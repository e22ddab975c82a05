# SPDX-License-Identifier: MIT
"""Hand out descriptors that were pickled into a message, to whoever takes it.

Who gets a message is unknown while it is put, so there is no socket to send its
descriptors over. The sender keeps a duplicate and a thread with a listening Unix
socket; the receiver connects, names the duplicate, gets it. The thread starts at the
first descriptor and ends when all were taken, or by `stop`.

The socket has no file (an abstract address), and either side proves to the other that
it knows the process's ``authkey`` and is of the same user, or root. When the sender has
ended before the descriptor was taken, the receiver gets `sidestep.OwnerDied`.

A message that nobody takes must not keep a descriptor open for ever. So it carries a
token besides, a shared object that nobody but the message and its receiver hold: when
it is gone, so is the message. That is looked at whenever something is offered or taken.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from . import _core, process, reduction, util

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection, Listener

__all__ = ["DupFd", "DupPipe", "stop"]

_Ident = tuple[Any, int]


class _Offer:
    """What is picklable about a resource: what names it, and the message's token."""

    _id: _Ident
    _token: _core.Event | None = None

    def __getstate__(self) -> tuple[_Ident, bytes | None]:
        if self._token is not None and _core.message_hold(self._token.handle):
            return self._id, self._token.handle  # handed on by one who got it
        return self._id, _resource_sharer.send_out(self._id)

    def __setstate__(self, state: tuple[_Ident, bytes | None]) -> None:
        self._id, handle = state
        if handle is not None:
            self._token = _core.Event.from_handle(handle)


class DupFd(_Offer):
    """A picklable duplicate of a descriptor, for one taker."""

    def __init__(self, fd: int) -> None:
        duplicate = os.dup(fd)

        def send(conn: Connection, pid: int) -> None:
            reduction.send_handle(conn, duplicate, pid)

        try:
            self._id = _resource_sharer.register(
                send, lambda: os.close(duplicate), self
            )
        except BaseException:
            os.close(duplicate)
            raise

    def detach(self) -> int:
        """Take the descriptor; possible once. OwnerDied when its sender has ended."""
        with _resource_sharer.get_connection(self._id) as conn:
            return _receive(conn, self._id)


class DupPipe(_Offer):
    """A picklable end of a pipe, for one taker.

    It holds the end until the taker has it, so that the sender may close its own.
    """

    def __init__(self, conn: Connection) -> None:
        handle, end, fd = conn._parts()
        assert handle is not None, "not an end of a pipe"
        held = type(conn).from_parts(handle, end, os.dup(fd))

        def send(taker: Connection, pid: int) -> None:
            reduction.send_handle(taker, held._parts()[2], pid)
            taker.recv_bytes()

        self._id = _resource_sharer.register(send, held.close, self)

    def attach(self, handle: bytes, end: int) -> Connection:
        """Take the end; possible once. OwnerDied when its sender has ended."""
        from .connection import Connection

        with _resource_sharer.get_connection(self._id) as giver:
            fd = _receive(giver, self._id)
            conn = Connection.from_parts(handle, end, fd)
            giver.send_bytes(b"")
        return conn


# ---- The receiver's side ----


def _owner_died(ident: _Ident) -> _core.OwnerDied:
    return _core.OwnerDied(
        "the process that sent a descriptor has ended before it was taken"
        f" ({_describe(ident[0])})"
    )


def _describe(address: Any) -> str:
    text = os.fsdecode(address) if isinstance(address, bytes) else str(address)
    return text.replace("\0", "@")


def _receive(conn: Connection, ident: _Ident) -> int:
    try:
        is_there = conn.recv()
        if is_there:
            return reduction.recv_handle(conn)
    except (EOFError, ConnectionError):
        raise _owner_died(ident) from None
    raise RuntimeError(
        "the descriptor is not there any more: it was taken already, or given up by"
        f" resource_sharer.stop() ({_describe(ident[0])})"
    )


def _check_peer(conn: Connection) -> None:
    """Raise AuthenticationError unless the peer is of the same user, or one is root."""
    from .context import AuthenticationError

    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid() and 0 not in {uid, os.geteuid()}:
        raise AuthenticationError(f"the peer is a process of user {uid}")


# ---- The sender's side ----


class _Kept:
    """A resource that waits to be taken."""

    def __init__(
        self,
        send: Callable[[Connection, int], None],
        close: Callable[[], None],
        offer: object,
    ) -> None:
        self.send = send
        self.close = close
        self._offer = weakref.ref(offer)
        self._tokens: list[bytes] = []
        self._may_be_anywhere = False

    def send_out(self) -> bytes | None:
        """Give it to the message that is being made; the token if there is one."""
        token = _core.Event()
        if not _core.message_hold(token.handle):
            self._may_be_anywhere = True
            return None
        self._tokens.append(token.handle)
        return token.handle

    def is_wanted(self) -> bool:
        """Tell whether somebody may still take it."""
        if self._may_be_anywhere or self._offer() is not None:
            return True
        self._tokens = [token for token in self._tokens if _lives(token)]
        return bool(self._tokens)


def _lives(handle: bytes) -> bool:
    try:
        _core.Event.from_handle(handle)
    except RuntimeError:
        return False
    return True


class _ResourceSharer:
    """The table of what waits to be taken, and the thread that serves it."""

    def __init__(self) -> None:
        self._key = 0
        self._cache: dict[int, _Kept] = {}
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._address: Any = None
        self._thread: threading.Thread | None = None
        # Every fork: a copy of the socket would answer for a sender that has ended.
        os.register_at_fork(after_in_child=self._afterfork)

    def register(
        self,
        send: Callable[[Connection, int], None],
        close: Callable[[], None],
        offer: object,
    ) -> _Ident:
        """Keep a resource for one taker; returns what names it anywhere.

        It is kept while ``offer`` lives, or a message that ``offer`` was pickled into.
        """
        with self._lock:
            self._drop_unwanted()
            if self._address is None:
                self._start()
            self._key += 1
            self._cache[self._key] = _Kept(send, close, offer)
            return self._address, self._key

    def send_out(self, ident: _Ident) -> bytes | None:
        """Note that a message takes a resource along; its token if there is one."""
        kept = self._cache.get(ident[1]) if ident[0] == self._address else None
        return None if kept is None else kept.send_out()

    def sweep(self) -> None:
        """Close what nobody can take any more."""
        with self._lock:
            self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        for key, kept in list(self._cache.items()):
            # The thread may have handed it out meanwhile.
            if not kept.is_wanted() and self._cache.pop(key, None) is not None:
                kept.close()

    @staticmethod
    def get_connection(ident: _Ident) -> Connection:
        """Return a connection over which the named resource is about to come."""
        from .connection import Client

        address, key = ident
        try:
            conn = Client(address, authkey=process.current_process().authkey)
        except (EOFError, ConnectionError, FileNotFoundError):
            raise _owner_died(ident) from None
        try:
            _check_peer(conn)
            conn.send((key, os.getpid()))
        except ConnectionError:
            conn.close()
            raise _owner_died(ident) from None
        except BaseException:
            conn.close()
            raise
        return conn

    def stop(self, timeout: float | None = None) -> None:
        """End the thread and drop what nobody took."""
        from .connection import Client

        with self._lock:
            if self._address is None:
                return
            assert self._thread is not None
            assert self._listener is not None
            with Client(
                self._address, authkey=process.current_process().authkey
            ) as conn:
                conn.send(None)
            self._thread.join(timeout)
            if self._thread.is_alive():
                util.sub_warning("_ResourceSharer thread did not stop when asked")
            self._listener.close()
            self._forget()

    def _forget(self) -> None:
        self._thread = self._address = self._listener = None
        for kept in self._cache.values():
            kept.close()
        self._cache.clear()

    def _afterfork(self) -> None:
        self._lock = threading.Lock()
        if self._listener is not None:
            self._listener.close()
        self._forget()

    def _start(self) -> None:
        from .connection import Listener

        util.debug("starting listener and thread for sending handles")
        self._listener = Listener(
            f"\0sidestep-{os.getpid()}-{os.urandom(12).hex()}",
            "AF_UNIX",
            backlog=128,
            authkey=process.current_process().authkey,
        )
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._address = self._listener.address  # only now: there may be no threads left

    def _serve(self) -> None:
        # Signals belong to the program's own threads.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                if not self._serve_one() or self._retire():
                    return
            except Exception:  # noqa: BLE001 - one bad taker must not stop the others
                if not util.is_exiting():
                    sys.excepthook(*sys.exc_info())

    def _retire(self) -> bool:
        """End the service if nothing is left to be taken."""
        # Whoever has the lock is about to need this thread.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._drop_unwanted()
            if self._cache or self._listener is None:
                return False
            self._listener.close()
            self._forget()
        finally:
            self._lock.release()
        return True

    def _serve_one(self) -> bool:
        listener = self._listener
        assert listener is not None
        with listener.accept() as conn:
            _check_peer(conn)
            message = conn.recv()
            if message is None:
                return False
            key, pid = message
            kept = self._cache.pop(key, None)
            try:
                conn.send(kept is not None)
                if kept is not None:
                    kept.send(conn, pid)
            finally:
                if kept is not None:
                    kept.close()
        return True


_resource_sharer = _ResourceSharer()
sweep = _resource_sharer.sweep
stop = _resource_sharer.stop
