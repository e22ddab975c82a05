# SPDX-License-Identifier: MIT
"""The package's interface with threads instead of processes."""

from __future__ import annotations

import array
import sys
import threading
import weakref
from queue import Queue
from threading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
)
from typing import TYPE_CHECKING, Any

from .connection import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType

    from sidestep.pool import ThreadPool

__all__ = [
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Namespace",
    "Pipe",
    "Pool",
    "Process",
    "Queue",
    "RLock",
    "Semaphore",
    "Value",
    "active_children",
    "current_process",
    "dict",
    "freeze_support",
    "list",
    "shutdown",
]

_Children = weakref.WeakKeyDictionary["DummyProcess", None]


class DummyProcess(threading.Thread):
    """A thread with a process's attributes."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(group, target, name, args, kwargs)
        self._pid: int | None = None
        self._children: _Children = weakref.WeakKeyDictionary()
        self._start_called = False
        self._parent = current_process()

    def start(self) -> None:
        """Start the thread; only the thread that made it may."""
        current = current_process()
        if self._parent is not current:
            raise RuntimeError(
                f"Parent is {self._parent!r} but current_process is {current!r}"
            )
        self._start_called = True
        if hasattr(self._parent, "_children"):
            self._parent._children[self] = None
        super().start()

    @property
    def exitcode(self) -> int | None:
        """None until the thread has ended, then 0."""
        if self._start_called and not self.is_alive():
            return 0
        return None


Process = DummyProcess
current_process = threading.current_thread
current_process()._children = weakref.WeakKeyDictionary()  # type: ignore[attr-defined]


def active_children() -> list[DummyProcess]:
    """Return the threads that this one started and that still run."""
    children: _Children = current_process()._children  # type: ignore[attr-defined]
    for child in [*children]:
        if not child.is_alive():
            children.pop(child, None)
    return [*children]


def freeze_support() -> None:
    """Do nothing: there is no child program."""


class Namespace:
    """Attributes of one's own choice."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        shown = sorted(
            f"{name}={value!r}"
            for name, value in self.__dict__.items()
            if not name.startswith("_")
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def Array(typecode: str, sequence: Iterable[Any], lock: Any = True) -> array.array[Any]:
    """Return an array; threads need nothing shared."""
    return array.array(typecode, sequence)


class Value:
    """Something in the attribute ``value``."""

    def __init__(self, typecode: Any, value: Any, lock: Any = True) -> None:
        self._typecode = typecode
        self._value = value

    @property
    def value(self) -> Any:
        """The value."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._typecode!r}, {self._value!r})>"


def Manager() -> ModuleType:
    """Return this module, which has a manager's methods."""
    return sys.modules[__name__]


def shutdown() -> None:
    """Do nothing: there is no server."""


def Pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> ThreadPool:
    """Return a pool of threads."""
    from sidestep.pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)


JoinableQueue = Queue

# A manager's methods of these names. Last, for above they mean the built-ins.
dict = dict  # noqa: PLW0127
list = list  # noqa: PLW0127
