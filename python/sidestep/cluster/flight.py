# SPDX-License-Identifier: MIT
"""`Flight`: a batch of tasks from when the engine gets it until all have outcomes."""

from __future__ import annotations

import itertools
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import feed

__all__ = ["Flight", "places", "runs"]


class Flight:
    """A batch under way."""

    __slots__ = (
        "begun", "deadline", "done", "future", "is_dropped", "number", "settled",
        "tasks",
    )  # fmt: skip

    numbers = itertools.count()

    def __init__(self, tasks: list[feed.Task], deadline: float | None) -> None:
        self.number = next(self.numbers)
        self.tasks = tasks  # without those that were given back
        self.settled = 0  # so many of them have outcomes
        self.deadline = deadline
        self.future: Any = None
        self.begun = time.monotonic()
        self.is_dropped = False  # its tasks have their outcomes already
        self.done: set[int] = set()  # those that have, by their places


def places(flight: Flight, result: Any) -> list[int]:
    """Return which tasks of a batch are of a result."""
    return [i for i, task in enumerate(flight.tasks) if task.feed.result is result]


def runs(future: Any) -> bool:
    """Tell whether the engine says of a future that its batch runs."""
    running = getattr(future, "running", None)
    return bool(future is not None and running is not None and running())
