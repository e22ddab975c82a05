# SPDX-License-Identifier: MIT
"""What is left of a call's input, as tasks: one call, or an item or chunk at a time."""

from __future__ import annotations

import collections
import hashlib
import itertools
import threading

from . import far, parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

__all__ = ["Feed", "Function", "Limits", "Prefetch", "Task", "source"]

#: Iterating over these runs no code of the user's.
HARMLESS = (list, tuple, range, str, bytes, dict, set, frozenset)


class Function:
    """A function as it travels: pickled once, known by its digest."""

    __slots__ = ("digest", "func", "parcel")

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        self.parcel = parcel.dumps(func)
        digest = hashlib.blake2b(self.parcel.data, digest_size=16)
        for buffer in self.parcel.buffers:
            digest.update(buffer)
        self.digest = digest.digest()


class Limits:
    """What a call asks for besides its result."""

    __slots__ = ("kept", "priority", "retries", "timeout")

    def __init__(
        self,
        timeout: float | None = None,
        priority: int = 1,
        retries: int = 0,
        kept: tuple[float | None, float | None] = (None, None),
    ) -> None:
        self.timeout = timeout
        self.kept = kept  # timeout and soft timeout that the back end sees to
        self.priority = priority
        self.retries = retries

    @property
    def is_single(self) -> bool:
        """Whether each item is a task: limits and retries are those of items."""
        return bool(self.timeout or self.retries or any(self.kept))


class Task:
    """A call, one item, or a chunk of them, pickled."""

    __slots__ = ("args", "count", "feed", "first", "mode", "parcel", "retries")

    def __init__(
        self, feed: Feed, first: int, count: int, mode: int, args: Any
    ) -> None:
        self.feed = feed
        self.first = first
        self.count = count
        self.mode = mode
        self.args = args  # for the text of WorkerLost
        self.parcel = parcel.dumps(args)
        self.retries = feed.limits.retries

    def deliver(self, value: Any, *, ok: bool) -> None:
        """Give the result what became of this task."""
        is_bare = self.mode < far.CHUNK
        self.feed.result._deliver(self.first, self.count, is_bare, ok, value)


class Prefetch:
    """An iterator that is code of the user's, pulled by a thread of its own.

    It may wait for what the consumer does next, or for a result of the same pool.
    """

    AHEAD = 256

    def __init__(
        self, iterator: Iterator[Any], on_ready: Callable[[], None], limit: int
    ) -> None:
        self._iterator = iterator
        self._on_ready = on_ready
        self._cond = threading.Condition()
        self._items: collections.deque[Any] = collections.deque()
        self._wanted = min(limit or self.AHEAD, self.AHEAD)
        #: How many more items the consumer lets be read, None: as many as we like.
        self.room: Callable[[], int] | None = None
        self._error: BaseException | None = None
        self._ended = False
        threading.Thread(
            target=self._pull, name="sidestep-cluster-input", daemon=True
        ).start()

    def _pull(self) -> None:
        while not self._ended:
            try:
                item = next(self._iterator)
            except StopIteration:
                self._ended = True
            except Exception as error:  # noqa: BLE001 - the caller gets it
                self._error = error
                self._ended = True
            else:
                self._items.append(item)
                del item
            self._on_ready()
            with self._cond:
                while self._is_full() and not self._ended:
                    self._cond.wait()

    def _is_full(self) -> bool:
        held = len(self._items)
        return held >= self._wanted or (self.room is not None and held >= self.room())

    def nudge(self) -> None:
        """Have another look whether there is room."""
        with self._cond:
            self._cond.notify()

    def ready(self) -> bool:
        """Tell whether ``next`` has an answer."""
        return bool(self._items) or self._ended

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._cond:
            if self._items:
                self._cond.notify()
                return self._items.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        """Pull nothing more."""
        with self._cond:
            self._ended = True
            self._cond.notify()


class Feed:
    """The tasks to come of one result. One thread at a time pulls."""

    def __init__(
        self,
        result: Any,
        function: Function,
        limits: Limits,
        items: Iterator[Any],
        *,
        single: int = far.ITEM,
        chunk: int | None = 1,
        length: int | None = None,
        buffersize: int = 0,
        is_quick: bool = False,
    ) -> None:
        self.result = result
        self.is_quick = is_quick  # no code of the user's runs when it is done
        self.function = function
        self.limits = limits
        self.length = length
        self.chunk = chunk  # None: the engine says how many
        self.at = 0  # items that were submitted or delivered
        self.open = 0  # tasks under way
        self.is_over = False
        self._items = items
        self._single = single  # the mode of one item
        self._buffersize = buffersize
        self._again: collections.deque[Task] = collections.deque()
        if buffersize and isinstance(items, Prefetch):
            items.room = lambda: buffersize - self.at + result.taken

    def push_back(self, task: Task) -> None:
        """Have a task pulled again, before the others."""
        self._again.append(task)

    def has_more(self) -> bool:
        """Tell whether there may be another task."""
        return bool(self._again) or not self.is_over

    def can_pull(self) -> bool:
        """Tell whether ``pull`` would have something, without waiting."""
        if self._again:
            return True
        if self._buffersize and isinstance(self._items, Prefetch):
            self._items.nudge()
        if self.is_over or (
            isinstance(self._items, Prefetch) and not self._items.ready()
        ):
            return False
        return not self._buffersize or self.at - self.result.taken < self._buffersize

    def left(self) -> int | None:
        """Return how many items are left, None if nobody knows."""
        return None if self.length is None else self.length - self.at

    def pull(self, timely: int) -> Task | None:
        """Return the next task, None when there is none now.

        ``timely`` is how many items it should have when the caller of ``map`` did not
        say. What goes wrong with the input or the pickling is delivered.
        """
        if self._again:
            return self._again.popleft()
        while self.can_pull():
            first = self.at
            items = self._take(self.chunk or timely)
            if not items:
                return None
            self.at += len(items)
            is_single = self.chunk == 1
            args = items[0] if is_single else items
            mode = self._single if is_single else self._mode_of_chunk()
            try:
                return Task(self, first, len(items), mode, args)
            except Exception as error:  # noqa: BLE001 - it is the outcome
                count = len(items)
                self.result._deliver(first, count, is_single, False, error)  # noqa: FBT003
        return None

    def _mode_of_chunk(self) -> int:
        return far.STAR_CHUNK if self._single == far.STAR else far.CHUNK

    def _take(self, count: int) -> list[Any]:
        items: list[Any] = []
        try:
            if isinstance(self._items, Prefetch):
                while len(items) < count and self._items.ready():
                    items.append(next(self._items))
            else:
                items.extend(itertools.islice(self._items, count))
                if len(items) < count or self.at + len(items) == self.length:
                    self._end(self.at + len(items))
        except StopIteration:
            self._end(self.at + len(items))
        except Exception as error:  # noqa: BLE001 - the input's; the caller's
            # A chunk that its iterator broke off is lost, as ever.
            items.clear()
            self._end(self.at + 1)
            self.at += 1
            self.result._deliver(self.at - 1, 1, True, False, error)  # noqa: FBT003
        return items

    def _end(self, length: int) -> None:
        self.is_over = True
        if self.length is None:
            self.length = length
            self.result._set_length(length)

    def drop(self) -> None:
        """Forget what is left."""
        self.is_over = True
        self._again.clear()
        if isinstance(self._items, Prefetch):
            self._items.close()


def source(
    iterable: Iterable[Any], on_ready: Callable[[], None], limit: int
) -> Iterator[Any]:
    """Return an iterator over an input, with a thread of its own if it needs one.

    Such a thread pulls no more than ``limit`` items ahead, 0: as many as it likes.
    """
    iterator = iter(iterable)
    if type(iterable) in HARMLESS:
        return iterator
    return Prefetch(iterator, on_ready, limit)
