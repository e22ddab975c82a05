# SPDX-License-Identifier: MIT
"""Shared memory without a type: what `sidestep.sharedctypes` builds on.

The allocator is the core's. A piece lives until the last process that has it open
closes it or ends, so nothing has to be given back by hand.
"""

from __future__ import annotations

from . import _core, context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Arena", "BufferWrapper"]


class Arena:
    """A piece of shared memory, zeroed, that a child or a message may take along."""

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"Size {size} out of range")
        self.size = size
        # The core has no empty blocks; a view of no bytes needs some memory too.
        self._block = _core.Block(max(size, 1))

    @property
    def buffer(self) -> memoryview:
        """The memory, writable."""
        return memoryview(self._block)[: self.size]

    def __getstate__(self) -> tuple[bytes, int]:
        return context.hold(self, self._block.handle), self.size

    def __setstate__(self, state: tuple[bytes, int]) -> None:
        handle, self.size = state
        self._block = _core.Block.from_handle(handle)


class BufferWrapper:
    """A piece of shared memory of ``size`` bytes, as `create_memoryview` shows it."""

    def __init__(self, size: int) -> None:
        self._arena = Arena(size)

    @property
    def _block(self) -> _core.Block:
        return self._arena._block

    @property
    def _state(self) -> tuple[tuple[Arena, int, int], int]:
        # (block, size), a block being (arena, start, stop): the stdlib's layout.
        size = self._arena.size
        return (self._arena, 0, size), size

    def create_memoryview(self) -> memoryview:
        """Return a writable view of the bytes; it keeps them alive."""
        return self._arena.buffer

    def __getstate__(self) -> Any:
        return self._arena

    def __setstate__(self, state: Any) -> None:
        self._arena = state
