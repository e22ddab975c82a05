# SPDX-License-Identifier: MIT
"""Processes as easy as threads: ``multiprocessing``, with an engine in C.

``import sidestep as multiprocessing`` is meant to work unchanged; unmodified programs
run with ``python -m sidestep script.py``. Everything that the standard library's
package documents for the running Python is here under the same name. Over it:
`OwnerDied`, raised instead of a hang when the holder of a lock has died, and the
extra methods of queues, locks and values that their modules describe.
"""

from __future__ import annotations

import sys

from ._compat import unsupported_reason, use_stdlib

TYPE_CHECKING = False  # type checkers know the name; importing typing takes 2 ms
if TYPE_CHECKING:
    from typing import Any

    from .futures import ProcessPoolExecutor as ProcessPoolExecutor

__version__ = "0.1.0"

_SUBMODULES = frozenset(
    {
        "connection",
        "context",
        "dummy",
        "forkserver",
        "futures",
        "heap",
        "managers",
        "pool",
        "popen_fork",
        "popen_forkserver",
        "popen_spawn_posix",
        "process",
        "queues",
        "reduction",
        "resource_sharer",
        "resource_tracker",
        "shared_memory",
        "sharedctypes",
        "spawn",
        "synchronize",
        "tasks",
        "util",
    }
)

# Found in _share at their first use.
_SHARED = (
    "SharedArray",
    "SharedBytes",
    "SharedDict",
    "SharedFrozenSet",
    "SharedList",
    "SharedSet",
    "SharedTuple",
    "share",
)

_reason = unsupported_reason()
if _reason is None:
    from . import context
    from ._core import OwnerDied
    from .context import (
        AuthenticationError,
        BufferTooShort,
        Process,
        ProcessError,
        TimeoutError,
    )
    from .process import active_children, current_process, parent_process

    _default = context._default_context

    Array = _default.Array
    Barrier = _default.Barrier
    BoundedSemaphore = _default.BoundedSemaphore
    Condition = _default.Condition
    Event = _default.Event
    JoinableQueue = _default.JoinableQueue
    Lock = _default.Lock
    Manager = _default.Manager
    Pipe = _default.Pipe
    Pool = _default.Pool
    Queue = _default.Queue
    RLock = _default.RLock
    RawArray = _default.RawArray
    RawValue = _default.RawValue
    Semaphore = _default.Semaphore
    SimpleQueue = _default.SimpleQueue
    Value = _default.Value
    allow_connection_pickling = _default.allow_connection_pickling
    cpu_count = _default.cpu_count
    freeze_support = _default.freeze_support
    get_all_start_methods = _default.get_all_start_methods
    get_context = _default.get_context
    get_logger = _default.get_logger
    get_start_method = _default.get_start_method
    log_to_stderr = _default.log_to_stderr
    set_executable = _default.set_executable
    set_forkserver_preload = _default.set_forkserver_preload
    set_start_method = _default.set_start_method
    start_all = _default.start_all

    __all__ = [
        "Array",
        "AuthenticationError",
        "Barrier",
        "BoundedSemaphore",
        "BufferTooShort",
        "Condition",
        "Event",
        "JoinableQueue",
        "Lock",
        "Manager",
        "OwnerDied",
        "Pipe",
        "Pool",
        "Process",
        "ProcessError",
        "Queue",
        "RLock",
        "RawArray",
        "RawValue",
        "Semaphore",
        "SharedArray",
        "SharedBytes",
        "SharedDict",
        "SharedFrozenSet",
        "SharedList",
        "SharedSet",
        "SharedTuple",
        "SimpleQueue",
        "TimeoutError",
        "Value",
        "active_children",
        "allow_connection_pickling",
        "cpu_count",
        "current_process",
        "freeze_support",
        "get_all_start_methods",
        "get_context",
        "get_logger",
        "get_start_method",
        "log_to_stderr",
        "parent_process",
        "reducer",
        "serve",
        "set_executable",
        "set_forkserver_preload",
        "set_start_method",
        "share",
        "start_all",
    ]
else:
    use_stdlib(_reason, globals())

SUBDEBUG = 5
SUBWARNING = 25

# What a child that does not fork finds the parent's main module under.
if "__main__" in sys.modules:
    sys.modules["__mp_main__"] = sys.modules["__main__"]


del TYPE_CHECKING  # no name of the stdlib's package


def __getattr__(name: str) -> Any:
    """Import a submodule at its first use; ``reducer`` is one as well."""
    if name == "reducer" and _reason is None:
        return context._default_context.reducer
    if name in _SHARED and _reason is None:
        from . import _share

        return getattr(_share, name)
    if name == "serve" and _reason is None:
        from .tasks import serve

        return serve
    if name == "ProcessPoolExecutor":
        from .futures import ProcessPoolExecutor

        return ProcessPoolExecutor
    if name in _SUBMODULES:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
