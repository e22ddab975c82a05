# SPDX-License-Identifier: MIT
"""What a worker has and does besides its tasks, by the options of its pool.

`equip` is called before the initializer. What it sets up, numbers of threads, random
numbers, CPUs, logging, is of the worker's whole process.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import threading

from . import _memory, context, process
from ._options import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType
    from typing import Any

__all__ = ["SoftTimeLimitExceeded", "Worker", "current_worker", "equip"]

#: By which the crew tells a worker that its task is over its soft limit.
SOFT_SIGNAL = int(signal.SIGRTMAX) - 1


class SoftTimeLimitExceeded(context.TimeoutError):
    """Raised inside of a task that has run for its ``soft_timeout``.

    The task may catch it, to clean up or to return what it has; if it does not, it is
    the result's exception.
    """


class Worker:
    """A worker of a pool, as its own tasks see it.

    ``index`` counts the workers there are, from 0; one that is replaced leaves its index
    to another. ``name`` is that of its process or thread, ``pool`` that of the pool.
    ``state`` is a dictionary for what initializer, tasks and ``worker_exit`` share;
    ``seed`` an integer made from the pool's ``seed`` for this worker alone, or None.
    """

    __slots__ = ("index", "name", "pid", "pool", "seed", "state")

    def __init__(
        self, index: int, name: str, pool: str, seed: int | None = None
    ) -> None:
        self.index = index
        self.pid = os.getpid()
        self.name = name
        self.pool = pool
        self.state: dict[Any, Any] = {}
        self.seed = seed

    def __repr__(self) -> str:
        return f"<Worker {self.index} of {self.pool}: {self.name}, pid {self.pid}>"


#: The worker that this process is; in pools of threads, the one that a thread is.
_process_worker: Worker | None = None
_thread_worker = threading.local()


def current_worker() -> Worker:
    """Return the worker that runs the caller. RuntimeError: none does."""
    worker: Worker | None = getattr(_thread_worker, "worker", None) or _process_worker
    if worker is None or worker.pid != os.getpid():
        raise RuntimeError("current_worker() is for code that a worker of a pool runs")
    return worker


def enter_thread(index: int, pool: str) -> None:
    """Make the calling thread a worker."""
    name = threading.current_thread().name
    _thread_worker.worker = Worker(index, name, pool)


def index_of(seat: int) -> int:
    """Return the index of a worker, by the core's name for its seat."""
    return (seat & 0xFFFFFFFF) - 1


def equip(worker: Any, seat: int, options: dict[str, Any]) -> None:
    """Make this process what the options of its pool say."""
    global _process_worker  # noqa: PLW0603
    index, generation = index_of(seat), seat >> 32
    me = Worker(index, process.current_process().name, options["pool"])
    _process_worker = me
    if "log" in options:
        from . import _logs

        _logs.send_to(worker, options["log"])
    if "cpus" in options:
        cpus = options["cpus"]
        os.sched_setaffinity(0, {cpus[index % len(cpus)]})
    if "threads" in options:
        _limit_threads(options["threads"])
    if "seed" in options:
        me.seed = _seed_of(options["seed"], index, generation)
        _sow(me.seed)
    _listen(worker)


def after_task(options: dict[str, Any]) -> Callable[[], bool] | None:
    """Return what is called after each task, and says whether the worker is to leave."""
    if "soft" not in options:
        return None
    return _memory.Watch(options["soft"]).is_over


# ---- Soft limits ----


def stop_softly() -> None:
    """Raise what a task gets that is over its soft limit."""
    raise SoftTimeLimitExceeded("the task is over its soft time limit")


def _listen(worker: Any) -> None:
    """Raise in the task when the crew says that its time is over."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if worker.soft_deadline():
            stop_softly()

    if threading.current_thread() is threading.main_thread():
        signal.signal(SOFT_SIGNAL, on_signal)


# ---- Threads of libraries ----


def _limit_threads(count: int) -> None:
    os.environ.update(environment(count))
    if "numpy" in sys.modules:
        # It has its libraries loaded, and they do not look at the environment again.
        try:
            control: Any = importlib.import_module("threadpoolctl")
        except ImportError:
            return
        control.threadpool_limits(count)


# ---- Random numbers ----


def _seed_of(seed: int | str | bytes, index: int, generation: int) -> int:
    """Mix the pool's seed with who we are: 128 bits, the same in each run."""
    return random.Random(f"{seed!r}:{index}:{generation}").getrandbits(128)  # noqa: S311 - reproducible


def _sow(seed: int) -> None:
    random.seed(seed)
    if (module := sys.modules.get("numpy.random")) is not None:
        _sow_numpy(module, seed)
    else:
        sys.meta_path.insert(0, _Sower(seed))


def _sow_numpy(module: ModuleType, seed: int) -> None:
    module.seed(module.SeedSequence(seed).generate_state(8))


class _Sower:
    """An importer that seeds NumPy's generator when a task first imports it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "numpy.random":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute, seed = loader.exec_module, self._seed

            def execute_and_sow(module: ModuleType) -> None:
                execute(module)
                _sow_numpy(module, seed)

            loader.exec_module = execute_and_sow
        return spec
