# SPDX-License-Identifier: MIT
"""The options of a pool that the standard library does not have, checked.

What concerns a worker goes to it as a dictionary of plain values (`Options.for_worker`),
and `_equip` does what it says; the rest is read by ``_workers.Crew``.
"""

from __future__ import annotations

import itertools
import os

from . import _core, context, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, TypedDict

    from .context import BaseContext

    Limit = int | tuple[int | None, int | None] | None
    Threads = int | Literal["auto"] | None

    class PoolOptions(TypedDict, total=False):
        """What ``Pool`` takes by keyword alone."""

        name: str | None
        memory_limit: Limit
        idle_timeout: float | None
        worker_exit: Callable[[], object] | None
        seed: int | str | bytes | None
        threads: Threads
        pin: bool
        log: bool


__all__ = [
    "BUDGET_KEY",
    "Options",
    "default_count",
    "environment",
    "options_of",
    "refuse_for_threads",
]

#: Where a process keeps how many workers a pool that it makes has by default. All
#: descendants inherit it.
BUDGET_KEY = "pool_budget"

#: Where libraries look for their number of threads, when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

_NOT_FORKED = {"spawn", "forkserver"}

_pool_counter = itertools.count(1)


def default_count(ctx: BaseContext) -> int:
    """Return how many workers a pool has that was not told: the CPUs, or our share."""
    share: int | None = process.current_process()._config.get(BUDGET_KEY)
    if share is None:
        # A context of another make may have no more than processes.
        is_ours = isinstance(ctx, context.BaseContext)
        share = ctx.cpu_count() if is_ours else _core.cpu_count()
    return share


def options_of(who: str, given: PoolOptions) -> Options:
    """Return the options that the constructor of a class was given."""
    for name in given:
        if name not in _NAMES:
            raise TypeError(f"{who}() got an unexpected keyword argument {name!r}")
    return Options(**given)


_NAMES = {
    "name", "memory_limit", "idle_timeout", "worker_exit", "seed", "threads", "pin",
    "log",
}  # fmt: skip


class Options:
    """The options of one pool. Raises TypeError or ValueError for what makes no sense."""

    __slots__ = (
        "exit", "hard", "idle", "is_named", "log", "name", "pin", "seed", "soft", "threads",
    )  # fmt: skip

    def __init__(
        self,
        name: str | None = None,
        memory_limit: Limit = None,
        idle_timeout: float | None = None,
        worker_exit: Callable[[], object] | None = None,
        seed: int | str | bytes | None = None,
        threads: Threads = "auto",
        pin: bool = False,
        log: bool = False,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if worker_exit is not None and not callable(worker_exit):
            raise TypeError("worker_exit must be a callable")
        if idle_timeout is not None and not idle_timeout > 0:
            raise ValueError(f"idle_timeout must be positive, not {idle_timeout!r}")
        if seed is not None and not isinstance(seed, (int, str, bytes)):
            raise TypeError("seed must be an int, a string or bytes")
        if threads != "auto" and threads is not None:
            if not isinstance(threads, int) or isinstance(threads, bool):
                raise TypeError("threads must be an int, 'auto' or None")
            if threads < 1:
                raise ValueError("threads must be at least 1")
        self.is_named = name is not None
        self.name = f"Pool-{next(_pool_counter)}" if name is None else name
        self.soft, self.hard = _limits(memory_limit)
        self.idle = idle_timeout
        self.exit = worker_exit
        self.seed = seed
        self.threads = threads
        self.pin = bool(pin)
        self.log = bool(log)

    def for_worker(self, ctx: BaseContext, workers: int) -> dict[str, Any]:
        """Return what a worker is told; without what is to be left alone."""
        told: dict[str, Any] = {"pool": self.name}
        if (threads := self.thread_count(ctx, workers)) is not None:
            told["threads"] = threads
        if self.pin:
            told["cpus"] = sorted(os.sched_getaffinity(0))
        if self.log:
            from . import _logs

            told["log"] = _logs.levels()
        others = {
            "soft": self.soft, "idle": self.idle, "exit": self.exit, "seed": self.seed,
        }  # fmt: skip
        told.update((key, value) for key, value in others.items() if value is not None)
        return told

    def thread_count(self, ctx: BaseContext, workers: int) -> int | None:
        """Return the number of BLAS and OpenMP threads of a worker, None: as it is.

        Unless told, it leaves alone workers that are forked, which have the libraries
        as their parent has, and those whose environment has a say.
        """
        if self.threads != "auto":
            return self.threads
        if getattr(ctx.Process, "_start_method", None) not in _NOT_FORKED or any(
            name in os.environ for name in THREAD_VARIABLES
        ):
            return None
        return -(-default_count(ctx) // workers)


def _limits(limit: Limit) -> tuple[int | None, int | None]:
    soft, hard = limit if isinstance(limit, tuple) else (limit, limit)
    for size in (soft, hard):
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError("memory_limit is a number of bytes, or two: (soft, hard)")
        if size <= 0:
            raise ValueError("memory_limit must be positive")
    if soft is not None and hard is not None and soft > hard:
        raise ValueError("memory_limit: the soft limit is above the hard one")
    return soft, hard


def environment(threads: int) -> dict[str, str]:
    """Return the variables that ask for so many threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


#: Why a pool of threads does not have an option.
_NOT_FOR_THREADS = {
    "memory_limit": "threads share their memory",
    "idle_timeout": "threads that wait cost next to nothing",
    "seed": "threads share the generators of random numbers",
    "threads": "threads share the libraries' threads",
    "pin": "threads run where their process does",
}


def refuse_for_threads(options: Any) -> None:
    """Raise ValueError for options that mean nothing in a pool of threads."""
    for key, why in _NOT_FOR_THREADS.items():
        value = options.pop(key, None)
        if value is not None and value is not False and value != "auto":
            raise ValueError(f"{key}= is for pools of processes: {why}")
