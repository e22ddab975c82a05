# SPDX-License-Identifier: MIT
"""Starting a child as a copy of a small server process, the zygote."""

from __future__ import annotations

from . import forkserver, popen_fork, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .process import BaseProcess

__all__ = ["Popen"]


class _DupFd:
    """A descriptor that the child finds by its place in the list it was given."""

    def __init__(self, ind: int) -> None:
        self.ind = ind

    def detach(self) -> int:
        fds = forkserver.get_inherited_fds()
        assert fds is not None, "not in a child of the fork server"
        return fds[self.ind]


class Popen(popen_fork.Popen):
    """A child that the zygote made; it is this process's own child all the same."""

    method = "forkserver"
    DupFd = _DupFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Return the place of this descriptor in the list that the child gets."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def hold(self, handle: bytes) -> None:
        """Keep a shared object for the child until it has ended."""
        self._child.hold(handle)

    def wait(self, timeout: float | None = None, *, gone: bool = False) -> int | None:
        """Wait until the child is done, or gone; None when ``timeout`` is over."""
        code = super().wait(timeout, gone=gone)
        if code is not None:
            forkserver._forkserver.refill()
        return code

    def _launch(self, process_obj: BaseProcess) -> None:
        server = forkserver._forkserver
        setup = spawn.dump_setup(self, server.changed_environment())
        task = spawn.dump_task(self, process_obj)
        with task.getbuffer() as data:
            server.start(self._child, setup, data, self._fds)
