# SPDX-License-Identifier: MIT
"""What a worker does not begin goes back: the line from workers to the program.

Tasks that wait for each other may have come into one batch. So a batch that takes long
gives back what it has not begun, and tells what is done, while its task runs on:
``docs/internals/cluster.rst``, "What has not begun goes back". Here are both ends.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time

from sidestep import connection, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .parcel import Parcel

    #: Address, key, and the number of a batch.
    Where = tuple[Any, bytes, int]

__all__ = ["Line", "Run", "is_there", "watch"]

#: Seconds from a batch's begin until what it has not begun goes back.
BATCH_LIMIT = 0.1
#: Seconds that a worker tries to reach the program.
DIAL_SECONDS = 5.0
#: Seconds that the thread of a worker waits for another batch.
LINGER = 1.0

_TAKEN = b"taken"


# ---- In the program ----


class Line:
    """Listens for what workers give back.

    ``on_back(number, begun, outcomes)`` is called for it, on a thread of this object's:
    so many tasks of the batch were begun, the first of them have these outcomes, and no
    other will begin.
    """

    def __init__(
        self,
        host: str,
        on_back: Callable[[int, int, list[tuple[int, Parcel]]], object],
    ) -> None:
        self._key = os.urandom(32)
        self._on_back = on_back
        self._listener = connection.Listener((host, 0), backlog=64, authkey=self._key)
        self._is_closed = False
        self.address = self._listener.address
        threading.Thread(
            target=self._accept, name="sidestep-cluster-line", daemon=True
        ).start()

    def to(self, number: int) -> Where:
        """Return what a worker has to know about a batch."""
        return self.address, self._key, number

    def _accept(self) -> None:
        while True:
            try:
                conn = self._listener.accept()
            except Exception:  # noqa: BLE001 - who knocked has no key, or it is closed
                if self._is_closed:
                    return
                continue
            # One that is slow keeps nobody waiting.
            threading.Thread(
                target=self._take, args=(conn,), name="sidestep-cluster-line",
                daemon=True,
            ).start()  # fmt: skip

    def _take(self, conn: Any) -> None:
        try:
            with conn:
                self._on_back(*pickle.loads(conn.recv_bytes()))
                conn.send_bytes(_TAKEN)
        except (EOFError, OSError):
            pass  # it only tried the way here, or it is gone

    def close(self) -> None:
        """Listen no more."""
        self._is_closed = True
        self._listener.close()


# ---- In a worker ----

_lock = threading.Lock()
_found: dict[bytes, bool] = {}  # by key: whether there is a way; guarded by _lock
FOUND_MAX = 256


def is_there(where: Where) -> bool:
    """Tell whether the program can be reached from here; found out once."""
    key = where[1]
    with _lock:
        found = _found.get(key)
        if found is None:
            try:
                _dial(where).close()
                found = True
            except Exception:  # noqa: BLE001 - any reason is one
                found = False
            _found[key] = found
            while len(_found) > FOUND_MAX:
                del _found[next(iter(_found))]
        return found


def _dial(where: Where) -> Any:
    address, key, _ = where
    # Where packets go nowhere, the system would try for minutes.
    socket.create_connection(address, DIAL_SECONDS).close()
    return connection.Client(address, authkey=key)


class Run:
    """A batch that runs: how far it has come, and what may still begin."""

    def __init__(self, where: Where, count: int) -> None:
        self.outcomes: list[tuple[int, Parcel]] = []  # grows while it runs
        self._where = where
        self._begun = 0  # tasks; guarded by _guard
        self._end = count  # tasks that may begin; guarded by _guard
        self._guard = threading.Lock()
        self.due = time.monotonic() + BATCH_LIMIT

    def begin(self) -> bool:
        """Note that the next task begins; False: there is none, or it is given back."""
        with self._guard:
            if self._begun >= self._end:
                return False
            self._begun += 1
            return True

    def give_back(self) -> None:
        """Tell the program what is done, and that nothing else will begin."""
        with self._guard:
            self._end = self._begun
            message = pickle.dumps((self._where[2], self._end, self.outcomes), 5)
        for _ in range(2):
            try:
                with _dial(self._where) as conn:
                    conn.send_bytes(message)
                    if conn.recv_bytes() == _TAKEN:
                        return
            except Exception as error:  # noqa: BLE001 - the batch's answer says it, too
                util.info("what was not begun cannot be given back: %r", error)


_runs: list[Run] = []  # in the order in which they are due; guarded by _wake
_wake = threading.Condition()
_has_thread = False


def watch(run: Run) -> None:
    """Have a batch give back what it has not begun, when it takes too long."""
    global _has_thread  # noqa: PLW0603
    with _wake:
        _runs.append(run)
        if not _has_thread:
            threading.Thread(
                target=_watch, name="sidestep-cluster-watch", daemon=True
            ).start()
            _has_thread = True
        elif len(_runs) == 1:
            _wake.notify()


def forget(run: Run) -> None:
    """Note that a batch has ended."""
    with _wake:
        if run in _runs:
            _runs.remove(run)


def _watch() -> None:
    global _has_thread  # noqa: PLW0603
    while True:
        with _wake:
            if not _runs and not _wake.wait(LINGER) and not _runs:
                _has_thread = False
                return
            if not _runs:
                continue
            run = _runs[0]
            left = run.due - time.monotonic()
            if left > 0:
                _wake.wait(left)
                continue
            del _runs[0]
        run.give_back()


def _begin_in_child() -> None:
    global _has_thread, _wake, _lock  # noqa: PLW0603
    _has_thread = False
    _wake = threading.Condition()
    _lock = threading.Lock()
    _runs.clear()


os.register_at_fork(after_in_child=_begin_in_child)
