# SPDX-License-Identifier: MIT
"""Named blocks of shared memory: not in this version.

The names are here, so that programs that only import them run; what one makes with
them comes in a later version. Until then `sidestep.Array`, `sidestep.RawArray` and
`sidestep.heap.BufferWrapper` give shared memory to child processes.
"""

from __future__ import annotations

from types import GenericAlias
from typing import Any, NoReturn

__all__ = ["ShareableList", "SharedMemory"]


def _later(name: str) -> NoReturn:
    raise NotImplementedError(
        f"sidestep.shared_memory.{name} comes in a later version; until then use "
        "sidestep.RawArray or sidestep.heap.BufferWrapper for memory that child "
        "processes share"
    )


class SharedMemory:
    """A named block of shared memory; raises NotImplementedError in this version."""

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool = True,
    ) -> None:
        _later("SharedMemory")


class ShareableList:
    """A list in a named block; raises NotImplementedError in this version."""

    def __init__(self, sequence: Any = None, *, name: str | None = None) -> None:
        _later("ShareableList")

    __class_getitem__: Any = classmethod(GenericAlias)
