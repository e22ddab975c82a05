# SPDX-License-Identifier: MIT
"""Pickles that any machine can read which has the same packages installed.

What an import reaches goes by name, what is in ``__main__`` or has no name by value,
buffers out of band. Objects in the shared memory of this machine refuse.
"""

from __future__ import annotations

import io
import pickle

from sidestep import reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Parcel", "dumps", "dumps_in_band"]


class Parcel:
    """A pickle and its buffers; for the engine an opaque object."""

    __slots__ = ("buffers", "data")

    def __init__(self, data: bytes, buffers: list[Any]) -> None:
        self.data = data
        self.buffers = buffers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            return Parcel, (self.data, [pickle.PickleBuffer(b) for b in self.buffers])
        return Parcel, (self.data, [bytes(buffer) for buffer in self.buffers])

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return len(self.data) + sum(memoryview(b).nbytes for b in self.buffers)

    def loads(self) -> Any:
        """Return a new copy of what was pickled; its arrays are writable."""
        return pickle.loads(self.data, buffers=map(_writable, self.buffers))

    def loads_plain(self) -> Any:
        """Do the same for what has no classes of its own in it; UnpicklingError else."""
        return _Plain(io.BytesIO(self.data), buffers=self.buffers).load()


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} may be anything")


def _writable(buffer: Any) -> Any:
    view = memoryview(buffer)
    return bytearray(view) if view.readonly else buffer


#: What any pickler writes in the same way, without asking for a reducer.
_ATOMS = frozenset({type(None), bool, int, float, str, bytes})


def _is_plain(obj: Any, depth: int = 2) -> bool:
    kind = type(obj)
    if kind is tuple:
        return (
            depth > 0
            and len(obj) < 8
            and all(_is_plain(each, depth - 1) for each in obj)
        )
    return kind in _ATOMS or (kind is dict and not obj)


def dumps(obj: Any) -> Parcel:
    """Pickle for another machine."""
    if _is_plain(obj):
        return Parcel(pickle.dumps(obj, 5), [])
    buffers: list[pickle.PickleBuffer] = []
    data = reduction.dumps_elsewhere(obj, buffers)
    return Parcel(data, [buffer.raw() for buffer in buffers])


def dumps_in_band(obj: Any) -> bytes:
    """Pickle for another machine, all in one."""
    return reduction.dumps_elsewhere(obj, None)
