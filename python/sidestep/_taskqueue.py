# SPDX-License-Identifier: MIT
"""What programs look for inside of a standard library's pool.

Two habits are common: to look at ``pool._taskqueue.qsize()`` before more is submitted,
and to add a method of one's own (``istarmap``, for progress bars) that makes an
``IMapIterator`` and puts tasks for it into ``pool._taskqueue``. Both work on ours, which
has no such queue: the first asks the engine, the second becomes an ``imap``.
"""

from __future__ import annotations

import itertools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

    from .pool import Pool

    #: Number of the job and of the task in it, and the call.
    Task = tuple[int, int, Callable[..., Any], tuple[Any, ...], dict[str, Any]]

__all__ = ["HandMade", "TaskQueue", "batches_of", "tasks_of"]


class TaskQueue:
    """The tasks of a pool that no worker has."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def qsize(self) -> int:
        """Return how many there are; of a map those that were sent ahead."""
        return int(self._pool._engine.statistics()["queued"])

    def empty(self) -> bool:
        """Tell whether there is none."""
        return self.qsize() == 0

    def put(self, item: tuple[Iterable[Task], Callable[[int], object] | None]) -> None:
        """Have the tasks of a hand-made iterator done."""
        tasks, set_length = item
        iterator = getattr(set_length, "__self__", None)
        if not isinstance(iterator, HandMade):
            raise NotImplementedError(
                "the pool takes the tasks of an IMapIterator only: put((tasks, "
                "iterator._set_length)); for others there are apply_async and map_async"
            )
        iterator._start(tasks)


class HandMade:
    """An iterator of results that the program made, and not its pool.

    It is nothing until `TaskQueue.put` has got its tasks, and then what ``imap`` gives.
    """

    _results: Any = None

    def __init__(self, pool: Pool, job: int, *, is_ordered: bool) -> None:
        self._pool = pool
        self._job = job
        self._is_ordered = is_ordered

    def _set_length(self, length: int) -> None:
        """Say of which iterator the tasks are."""

    def _start(self, tasks: Iterable[Task]) -> None:
        imap = self._pool.imap if self._is_ordered else self._pool.imap_unordered
        self._results = imap(_call, (task[2:] for task in tasks))

    def _started(self) -> Any:
        if self._results is None:
            raise RuntimeError("the iterator has got no tasks")
        return self._results

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._started())

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; TimeoutError when it is not there in time."""
        return self._started().next(timeout)


def _call(call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> Any:
    func, args, kwds = call
    return func(*args, **kwds)


def batches_of(
    func: Callable[..., Any], iterable: Iterable[Any], size: int
) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Cut an iterable into batches, each with the function: for `mapstar`."""
    items = iter(iterable)
    while batch := tuple(itertools.islice(items, size)):
        yield func, batch


def tasks_of(
    job: int, func: Callable[..., Any], iterable: Iterable[Any]
) -> Iterator[Task]:
    """Give the calls of a function for each item, numbered."""
    for number, item in enumerate(iterable):
        yield job, number, func, (item,), {}
