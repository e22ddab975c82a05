# SPDX-License-Identifier: MIT
"""Hand out descriptors that were pickled into a message, to whoever takes it.

Who gets a message is unknown while it is put, so there is no socket to send its
descriptors over. The sender keeps a duplicate and a thread with a listening Unix
socket; the receiver connects, names the duplicate, gets it. The thread starts at the
first descriptor and ends when all were taken, or by `stop`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from . import process, reduction, util

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection, Listener

__all__ = ["DupFd", "DupPipe", "stop"]

_Ident = tuple[Any, int]


class DupFd:
    """A picklable duplicate of a descriptor, for one taker."""

    def __init__(self, fd: int) -> None:
        duplicate = os.dup(fd)

        def send(conn: Connection, pid: int) -> None:
            reduction.send_handle(conn, duplicate, pid)

        self._id = _resource_sharer.register(send, lambda: os.close(duplicate))

    def detach(self) -> int:
        """Take the descriptor; possible once."""
        with _resource_sharer.get_connection(self._id) as conn:
            return reduction.recv_handle(conn)


class DupPipe:
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

        self._id = _resource_sharer.register(send, held.close)

    def attach(self, handle: bytes, end: int) -> Connection:
        """Take the end; possible once."""
        from .connection import Connection

        with _resource_sharer.get_connection(self._id) as giver:
            fd = reduction.recv_handle(giver)
            conn = Connection.from_parts(handle, end, fd)
            giver.send_bytes(b"")
        return conn


class _ResourceSharer:
    """The table of what waits to be taken, and the thread that serves it."""

    def __init__(self) -> None:
        self._key = 0
        self._cache: dict[
            int, tuple[Callable[[Connection, int], None], Callable[[], None]]
        ] = {}
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._address: Any = None
        self._thread: threading.Thread | None = None
        util.register_after_fork(self, _ResourceSharer._afterfork)

    def register(
        self, send: Callable[[Connection, int], None], close: Callable[[], None]
    ) -> _Ident:
        """Keep a resource for one taker; returns what names it anywhere."""
        with self._lock:
            if self._address is None:
                self._start()
            self._key += 1
            self._cache[self._key] = (send, close)
            return self._address, self._key

    @staticmethod
    def get_connection(ident: _Ident) -> Connection:
        """Return a connection over which the named resource is about to come."""
        from .connection import Client

        address, key = ident
        conn = Client(address, authkey=process.current_process().authkey)
        conn.send((key, os.getpid()))
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
        for _, close in self._cache.values():
            close()
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
            authkey=process.current_process().authkey, backlog=128
        )
        self._address = self._listener.address
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

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
            message = conn.recv()
            if message is None:
                return False
            key, pid = message
            send, close = self._cache.pop(key)
            try:
                send(conn, pid)
            finally:
                close()
        return True


_resource_sharer = _ResourceSharer()
stop = _resource_sharer.stop
