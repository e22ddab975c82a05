# SPDX-License-Identifier: MIT
"""How much memory a worker and its descendants use.

Counted is what is resident and not shared: arrays in shared memory and the code of
libraries are everybody's. What a forked worker has in common with its parent counts, as
the kernel cannot tell cheaply.
"""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Watch", "descendants", "kill_descendants", "used_by"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def _pages(statm: bytes) -> int:
    _, resident, shared, *_ = statm.split()
    return int(resident) - int(shared)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def _children(pid: int | str) -> Iterator[int]:
    # Each thread has children of its own.
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names are wanted
    except OSError:
        return
    for thread in threads:
        with contextlib.suppress(OSError):
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def descendants(pid: int | str) -> Iterator[int]:
    """Yield the process ids of a process's children, and of theirs."""
    for child in _children(pid):
        yield child
        yield from descendants(child)


def used_by(pid: int) -> int:
    """Return the bytes that a process and its descendants use; 0 when it has ended."""
    pages = 0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError, ValueError):
            pages += _pages(_read(f"/proc/{each}/statm"))
    return pages * _PAGE


def _parent_of(pid: int) -> int:
    # The second field, the program's name, may have anything in it.
    return int(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])


def kill_descendants(pid: int) -> None:
    """Kill a process's children, and theirs, but not itself."""
    family = {pid}
    for each in descendants(pid):
        with contextlib.suppress(OSError, ValueError):
            fd = os.pidfd_open(each)
            try:
                # Now that it cannot be somebody else any more: is it still the one?
                if _parent_of(each) in family:
                    family.add(each)
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)


class Watch:
    """What a worker looks at after each task: its own memory against a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def is_over(self) -> bool:
        """Tell whether this process and its descendants use more than the limit."""
        pages = _pages(os.pread(self._fd, 256, 0))
        if pages * _PAGE > self._limit:
            return True
        for pid in descendants("self"):
            with contextlib.suppress(OSError, ValueError):
                pages += _pages(_read(f"/proc/{pid}/statm"))
        return pages * _PAGE > self._limit
