# SPDX-License-Identifier: MIT
"""Queues between processes.

A message is in shared memory when ``put`` returns: there is no feeder thread, so an
object that cannot be pickled raises at the line of the ``put``, the process may exit
at once, and what it put stays readable. ``qsize``, ``empty`` and ``full`` are exact.
A queue has a descriptor only once somebody asks for it, with ``fileno()``,
``connection.wait()`` or ``aget()``.
"""

from __future__ import annotations

import types
from queue import Empty, Full

from . import _core, context, reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any, Self

    from .context import BaseContext

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "ShutDown", "SimpleQueue"]

#: ``queue.ShutDown`` where the standard library has it (3.13), else our own.
ShutDown = _core.ShutDown

# joblib imports it; here no feeder thread is told to end by it.
_sentinel = object()


class _End:
    """One side of a queue as the stdlib's pipe end, for those who reach for it."""

    def __init__(self, queue: _Base, *, readable: bool) -> None:
        self._queue = queue
        self.readable = readable
        self.writable = not readable
        self._closed = False
        self._watched = False  # somebody has the descriptor

    @property
    def closed(self) -> bool:
        """Whether this side, or the queue, was closed in this process."""
        return self._closed or self._queue.closed

    def _open_queue(self, *, readable: bool) -> _Base:
        if self.closed:
            raise OSError("handle is closed")
        if self.readable != readable:
            kind = "read" if self.readable else "write"
            raise OSError(f"connection is {kind}-only")
        return self._queue

    def fileno(self) -> int:
        """Return a descriptor that is readable whenever a message is there."""
        if self.closed:
            raise OSError("handle is closed")
        self._watched = True
        return self._queue.fileno()

    def close(self) -> None:
        """Close this side for this object only; the queue stays as it is."""
        self._closed = True

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether a message is there, waiting up to ``timeout`` for one."""
        return _core.Queue.poll(self._open_queue(readable=True), timeout)

    def _look(self) -> bool:
        return self.readable and self._queue._look()

    def _confirm(self) -> bool:
        return not self.readable or self._queue._confirm()

    def recv(self) -> Any:
        """Take the next object."""
        queue = self._open_queue(readable=True)
        obj = queue.get()
        if self._watched:
            # A look that finds nothing makes the descriptor unreadable: who waits for it
            # by other means than ours believes that recv() will not block.
            _core.Queue.poll(queue, 0.0)
        return obj

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Take the next object, pickled."""
        return bytes(reduction.ForkingPickler.dumps(self.recv()))

    def send(self, obj: Any) -> None:
        """Put an object."""
        self._open_queue(readable=False).put(obj)

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Put a pickled object."""
        end = None if size is None else offset + size
        self.send(reduction.ForkingPickler.loads(memoryview(buf)[offset:end]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class _Absent:
    """An attribute that is not there, though a base class has it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, obj: object, owner: type) -> Any:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}"
        )


class _Base(_core.Queue):
    """What the three kinds of queue share: the core's queue, pickled while spawning."""

    # logging's QueueListener and others ask whether a queue has these.
    task_done: Any = _Absent()
    join: Any = _Absent()
    recover: Any = _Absent()

    _ends: tuple[_End, _End] | None = None

    def _look(self) -> bool:
        return self.poll()

    def _confirm(self) -> bool:
        return self.poll() or self.drain()

    def _both_ends(self) -> tuple[_End, _End]:
        if self._ends is None:
            self._ends = _End(self, readable=True), _End(self, readable=False)
        return self._ends

    @property
    def _reader(self) -> _End:
        return self._both_ends()[0]

    @property
    def _writer(self) -> _End:
        return self._both_ends()[1]

    def __getstate__(self) -> Any:
        return context.hold(self, self.handle)

    def __setstate__(self, state: Any) -> None:
        self._attach(state)

    __class_getitem__: Any = classmethod(types.GenericAlias)


def _note_receivers(ctx: BaseContext | None) -> None:
    """Have messages prepared for receivers that are not forked, if they will not be."""
    if ctx is not None and ctx.get_start_method() != "fork":
        context.expect_strangers()


class Queue(_Base):
    """A queue of any number of objects, or of ``maxsize`` at most."""

    # For concurrent.futures; there is no pipe whose breaking could be ignored.
    _ignore_epipe = False

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext | None = None) -> None:
        super().__init__(maxsize, self._joinable)
        _note_receivers(ctx)

    _joinable = False
    _loop_reader: _LoopReader | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_on_queue_feeder_error" in cls.__dict__:
            cls._put_failed = _report_failed_put  # type: ignore[attr-defined]

    def __getstate__(self) -> Any:
        return super().__getstate__(), self._ignore_epipe

    def __setstate__(self, state: Any) -> None:
        handle, self._ignore_epipe = state
        super().__setstate__(handle)

    def empty(self) -> bool:
        """Tell whether nothing is there; OSError if a closed queue has something."""
        is_empty = super().empty()
        if self.closed and not is_empty:
            raise OSError("handle is closed")
        return is_empty

    def join_thread(self) -> None:
        """Do nothing: what was put is in the queue already."""
        assert self.closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Do nothing: a process that has put may exit at any time, losing nothing."""

    def _terminate_broken(self) -> None:
        """Close the queue; ``concurrent.futures`` calls it when its workers died."""
        self._reader.close()
        self.close()
        self.join_thread()

    @staticmethod
    def _on_queue_feeder_error(e: BaseException, obj: object) -> None:
        """Get what ``put`` would raise, in a subclass that overrides this."""
        import traceback

        traceback.print_exception(e)

    async def aget(self) -> Any:
        """Take the next object, waiting in the running asyncio loop, without a thread."""
        reader: _LoopReader | None = None
        while True:
            try:
                return self.get_nowait()
            except Empty:
                pass
            if reader is None:
                # From here on a message makes the descriptor readable: look again.
                reader = _LoopReader.of(self)
            elif not self.drain():
                await reader.wait()

    async def aput(self, obj: Any) -> None:
        """Put an object, without blocking the running asyncio loop while it is full.

        There is no descriptor that tells of room, so this looks again after a
        millisecond, and after twice as long each time up to 50.
        """
        import asyncio

        delay = 0.001
        while True:
            try:
                self.put_nowait(obj)
            except Full:
                await asyncio.sleep(delay)
                delay = min(2 * delay, 0.05)
            else:
                return


class _LoopReader:
    """The tasks of one event loop that wait for messages of one queue.

    A loop has one callback per descriptor; here it wakes all the tasks, each of which
    looks for itself.
    """

    def __init__(self, queue: Queue, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = queue.fileno()
        self._waiters: set[asyncio.Future[None]] = set()

    @classmethod
    def of(cls, queue: Queue) -> _LoopReader:
        """Return the running loop's one for a queue."""
        import asyncio

        loop = asyncio.get_running_loop()
        reader = queue._loop_reader
        if reader is None or reader._loop is not loop:
            reader = queue._loop_reader = cls(queue, loop)
        return reader

    async def wait(self) -> None:
        """Sleep until there may be a message."""
        waiter = self._loop.create_future()
        if not self._waiters:
            self._loop.add_reader(self._fd, self._wake)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._loop.remove_reader(self._fd)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def _report_failed_put(self: Queue, error: BaseException, obj: object) -> bool:
    """Give what ``put`` would raise to the subclass's hook; the core calls this."""
    self._on_queue_feeder_error(error, obj)
    return True


class JoinableQueue(Queue):
    """A queue that knows how many of its items are unfinished."""

    _joinable = True

    task_done = _core.Queue.task_done
    join = _core.Queue.join
    recover = _core.Queue.recover


class SimpleQueue(_Base):
    """A queue with little more than ``put`` and ``get``."""

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        super().__init__()
        _note_receivers(ctx)

    def empty(self) -> bool:
        """Tell whether nothing is there; OSError after ``close()``."""
        if self.closed:
            raise self._closed_error()
        return super().empty()

    def _closed_error(self) -> Exception:
        return OSError("handle is closed")
