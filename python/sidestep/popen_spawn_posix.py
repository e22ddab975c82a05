# SPDX-License-Identifier: MIT
"""Starting a child as a fresh interpreter."""

from __future__ import annotations

import os

from . import _core, popen_fork, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .process import BaseProcess

__all__ = ["Popen"]


class _DupFd:
    """A descriptor that the child has under the same number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        return self.fd


class Popen(popen_fork.Popen):
    """A child that was told by its command line where its job is."""

    method = "spawn"
    DupFd = _DupFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Return the number under which the child will have this descriptor."""
        self._fds.append(fd)
        return fd

    def hold(self, handle: bytes) -> None:
        """Keep a shared object for the child until it has it open itself."""
        self._child.hold(handle)

    def _launch(self, process_obj: BaseProcess) -> None:
        job = spawn.dump_job(self, process_obj)
        command = spawn.get_command_line(
            pipe_handle=self._child.tether,
            parent_pid=os.getpid(),
            arena_fd=_core.arena_fd(),
            process_id=self._child.reserve(),
            die_with_parent=int(process_obj.die_with_parent),
        )
        self._child.spawn(*spawn.encode_command(command), self._fds)
        spawn.send_job(self._child, job)
