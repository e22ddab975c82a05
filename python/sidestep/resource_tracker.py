# SPDX-License-Identifier: MIT
"""Names that have to be removed when the program ends; without a tracker process.

What sidestep makes it removes by itself, so it registers nothing here. The module is for
programs that call ``register`` and ``unregister`` for names that they made in another
way. Shared memory and semaphores that are registered go with the last process of the
tree, however that ends, or else by the next process of this user; the *main* process
warns of those that are left when it exits. ``unregister`` of a ``SharedMemory`` that this
process made has it stay until ``unlink()``; of any other one it changes nothing, so that
the work-around for the standard library's tracker does no harm.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import _core, process, util

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ensure_running", "getfd", "register", "unregister"]

_MESSAGE_SIZE_MAX = 512


def _ignore(name: str) -> None:
    """Clean up nothing: for kinds that have no system-wide name."""


def _unlink_shared_memory(name: str) -> None:
    _core.named_unlink(name.lstrip("/"))


def _unlink_semaphore(name: str) -> None:
    _core.named_unlink("sem." + name.lstrip("/"))


#: What stands before the name in the folder of names, for the kinds that have one there.
_PREFIXES = {"semaphore": "sem.", "shared_memory": ""}


_CLEANUP_FUNCS: dict[str, Callable[[str], None]] = {
    "noop": _ignore,
    "semaphore": _unlink_semaphore,
    "shared_memory": _unlink_shared_memory,
}


class ResourceTracker:
    """The names registered in this process."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._fd: int | None = None
        self._pid: int | None = None
        self._exitcode: int | None = None
        self._cleanup: util.Finalize | None = None
        util.register_after_fork(self, ResourceTracker._after_fork)

    def _after_fork(self) -> None:
        self._names.clear()
        self._cleanup = None

    def ensure_running(self) -> None:
        """Make sure that what is registered is cleaned up at exit."""
        if self._cleanup is None or not self._cleanup.still_active():
            self._cleanup = util.Finalize(None, self._stop, exitpriority=-1000)

    def _check_alive(self) -> bool:
        """Say that it can be used: there is no process that could have died."""
        return True

    def getfd(self) -> int:
        """Return a descriptor to pass on: there is no tracker, so what is written goes."""
        self.ensure_running()
        if self._fd is None:
            self._fd = os.open(os.devnull, os.O_WRONLY)
        return self._fd

    def register(self, name: str, rtype: str) -> None:
        """Remove the name at the end of the program, unless unregistered."""
        self._check(name, rtype)
        self.ensure_running()
        self._names.setdefault(rtype, set()).add(name)
        if rtype in _PREFIXES:
            _core.named_keep(_PREFIXES[rtype] + name.lstrip("/"))

    def unregister(self, name: str, rtype: str) -> None:
        """Forget the name."""
        self._check(name, rtype)
        self._names.setdefault(rtype, set()).discard(name)
        if rtype in _PREFIXES:
            _core.named_forget(_PREFIXES[rtype] + name.lstrip("/"))

    def _removed(self, name: str, rtype: str) -> None:
        """Note that what was registered is gone: that is no leak."""
        for form in (name, name.lstrip("/")):
            self._names.get(rtype, set()).discard(form)

    @staticmethod
    def _check(name: str, rtype: str) -> None:
        if len(f"UNREGISTER:{name}:{rtype}\n".encode("ascii")) > _MESSAGE_SIZE_MAX:
            raise ValueError("msg too long")
        if rtype not in _CLEANUP_FUNCS:
            raise ValueError(
                f"Cannot register {name} for automatic cleanup: "
                f"unknown resource type {rtype}"
            )

    def _stop(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        left, self._names = self._names, {}
        if process.parent_process() is None:
            for rtype, names in left.items():
                _remove(rtype, names)


def _remove(rtype: str, names: set[str]) -> None:
    import warnings

    if names:
        warnings.warn(
            f"resource_tracker: There appear to be {len(names)} leaked {rtype} "
            f"objects to clean up at shutdown: {names}",
            stacklevel=2,
        )
    if rtype in _PREFIXES:
        return  # they go with the last process
    for name in names:
        try:
            _CLEANUP_FUNCS[rtype](name)
        except Exception as error:  # noqa: BLE001 - the rest has to be removed too
            warnings.warn(f"resource_tracker: {name!r}: {error}", stacklevel=2)


_resource_tracker = ResourceTracker()
ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd
