# SPDX-License-Identifier: MIT
"""What has a thread in a manager's server: links, mostly over pipes in shared memory.

The thread is what makes a call fast. How many of these pipes there may be is
counted here, and the two threads of one are kept apart.
"""

from __future__ import annotations

import os
import resource
import threading

from . import connection, reduction, util
from ._manager_wire import close_quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Channels", "Company", "ThreadLink"]

#: Links over pipes in shared memory; others stay on their sockets, in the loop.
CHANNELS_MAX = 256
#: Seconds that a client has to send the pipe it has announced.
CHANNEL_SECONDS = 5.0


class Channels:
    """The pipes that a server has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def receive(self, courier: Any, handle: bytes, end: int) -> Any:
        """Return an end of a pipe whose descriptor comes over a socket.

        None when there are too many, and the descriptor is closed; or there was no room
        for it, and it is lost. Each that was returned is to `leave`.
        """
        if not courier.poll(CHANNEL_SECONDS):
            raise EOFError("nothing came")
        try:
            fd = reduction.recv_handle(courier)
        except RuntimeError as error:
            util.info("a client's pipe was lost: %s", error)
            return None
        with self._lock:
            has_room = self._count < CHANNELS_MAX
            self._count += has_room
        if not has_room:
            os.close(fd)
            return None
        try:
            return connection.Connection.from_parts(handle, end, fd)
        except BaseException as error:
            self.leave()
            if not isinstance(error, MemoryError):  # which may come when it has it
                os.close(fd)
            raise

    def leave(self) -> None:
        """Note that one has ended."""
        with self._lock:
            self._count -= 1


class Company:
    """Keeps the two threads of a busy channel from sharing one CPU.

    A thread that is woken mostly starts where its waker runs. Two that wake each other
    in turn then stay together, and sleep at every message, though another CPU is free:
    where CPUs share no cache the kernel does not part them. Who serves looks now and
    then, and moves if it sleeps all the time and sits on the other's CPU.
    """

    FIRST = 16  # requests until the first look
    PERIOD = 256  # and between looks

    def __init__(self, pid: int, tid: int) -> None:
        self._other = f"/proc/{pid}/task/{tid}/stat"
        self._left = self.FIRST
        self._period = self.FIRST
        self._sleeps = 0

    def count_request(self) -> None:
        """Note that another request is about to be waited for."""
        self._left -= 1
        if self._left == 0:
            self._look()

    def _look(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        slept = usage.ru_nvcsw - self._sleeps
        if slept > self._period // 2:
            cpus = os.sched_getaffinity(0)
            try:
                here = _processor("/proc/thread-self/stat")
                if len(cpus) > 1 and _processor(self._other) == here:
                    os.sched_setaffinity(0, cpus - {here})
                    os.sched_setaffinity(0, cpus)
            except (OSError, ValueError, IndexError):
                util.debug("cannot tell on which CPU the client runs")
        self._sleeps = usage.ru_nvcsw
        self._left = self._period = self.PERIOD


def _processor(path: str) -> int:
    """Return the CPU that a thread ran on last."""
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
        return int(file.read().rpartition(")")[2].split()[36])


class ThreadLink:
    """A connection to a client, served by one thread."""

    is_starter = False

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.process: Any = None
        self.company: Company | None = None
        #: Brings the pipes of the starter's other threads, if it is its control.
        self.courier: Any = None
        self.call: Any = None  # that waits
        self.is_over = False
        #: Guards sending by other threads, and the end.
        self.lock = threading.Lock()
        #: The last reply, if it can be taken back; who pops it does.
        self.owed: list[tuple[str, str, Any]] = []
        #: Whether the client says that it has what was taken for it; whether it is to.
        self.tells = False
        self.is_to_tell = False
        #: What the last reply carried references to.
        self.carried: list[str] = []

    def send(self, message: tuple[str, Any]) -> None:
        self.conn.send(message)

    def has_read(self) -> bool:
        """Tell whether the client has read all that was sent, as far as that is known."""
        conn = self.conn
        if self.is_to_tell:
            return False
        return not (hasattr(conn, "statistics") and conn.statistics()["unread"])

    def close(self) -> None:
        close_quietly(self.conn, self.courier)
