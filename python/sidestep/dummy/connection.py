# SPDX-License-Identifier: MIT
"""Connections between threads, over queues."""

from __future__ import annotations

from queue import Queue
from typing import Any, Self

__all__ = ["Client", "Listener", "Pipe"]

families = [None]

_Queue = Queue[Any]


class Connection:
    """One end: what the other sends comes out of a queue."""

    def __init__(self, _in: _Queue, _out: _Queue) -> None:
        self._out = _out
        self._in = _in
        self.send = self.send_bytes = _out.put
        self.recv = self.recv_bytes = _in.get

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether something is there, waiting up to ``timeout`` seconds for it."""
        with self._in.not_empty:
            if not self._in._qsize() and (timeout is None or timeout > 0):
                self._in.not_empty.wait_for(self._in._qsize, timeout)
            return self._in._qsize() > 0

    def close(self) -> None:
        """Do nothing: the queues go with their last user."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class Listener:
    """Its address is a queue, over which clients hand in connections."""

    def __init__(
        self, address: Any = None, family: Any = None, backlog: int = 1
    ) -> None:
        self._backlog_queue: _Queue | None = Queue(backlog)

    def accept(self) -> Connection:
        """Wait for a client and return the connection to it."""
        assert self._backlog_queue is not None
        return Connection(*self._backlog_queue.get())

    def close(self) -> None:
        """Stop listening."""
        self._backlog_queue = None

    @property
    def address(self) -> _Queue | None:
        """What to give to `Client`."""
        return self._backlog_queue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def Client(address: _Queue) -> Connection:
    """Return a connection to the listener at an address."""
    incoming: _Queue = Queue()
    outgoing: _Queue = Queue()
    address.put((outgoing, incoming))
    return Connection(incoming, outgoing)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Return two connected ends."""
    a: _Queue = Queue()
    b: _Queue = Queue()
    return Connection(a, b), Connection(b, a)
