# SPDX-License-Identifier: MIT
"""Blocks of shared memory that any process finds by their names.

The names are those of POSIX shared memory, so that a process which uses the standard
library attaches to a block that was made here, and the other way round. A block lives
until ``unlink()``, or until the processes that belong together, the program and its
children, have ended, however they did; no tracker process is needed for that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import sys
from functools import partial
from types import GenericAlias

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, ClassVar

__all__ = ["ShareableList", "SharedMemory"]

_USE_POSIX = True
_O_CREX = os.O_CREAT | os.O_EXCL
_SHM_SAFE_NAME_LENGTH = 14  # some systems allow no more
_SHM_NAME_PREFIX = "/psm_"


def _make_filename() -> str:
    """Return a name that is probably free."""
    count = (_SHM_SAFE_NAME_LENGTH - len(_SHM_NAME_PREFIX)) // 2
    return _SHM_NAME_PREFIX + secrets.token_hex(count)


def _plain(name: str) -> str:
    return name.lstrip("/")


class SharedMemory:
    """A block of shared memory with a name.

    ``create=True`` makes one of ``size`` bytes, all zero, under the name or one of its
    own choice, and raises FileExistsError if the name is in use; otherwise the block
    that has the name is attached. The bytes are in ``buf``.

    ``close()`` when this process is done with the block, ``unlink()`` once when
    everybody is. What the tree of processes that made it leaves behind is removed when
    its last process has ended, unless another program has it attached. With
    ``track=False`` a block that is made stays until ``unlink()``, and one that is
    attached is not kept for our sake.

    OSError (ENOSPC) when there is no room for a block.
    """

    _name: str | None = None
    _memory: _core.NamedMemory | None = None
    _buf: memoryview | None = None
    _size = 0
    _flags = os.O_RDWR
    _mode = 0o600
    _prepend_leading_slash = True
    _track = True

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool = True,
    ) -> None:
        if size < 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = _O_CREX | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        if name is None:
            self._make_unnamed(size)
        else:
            full = "/" + name if self._prepend_leading_slash else name
            self._open(full, size)
        self._look()

    def _make_unnamed(self, size: int) -> None:
        while True:
            with contextlib.suppress(FileExistsError):
                return self._open(_make_filename(), size)

    def _open(self, name: str, size: int) -> None:
        if self._flags & os.O_EXCL:
            self._memory = self._make(name, size)
        else:
            try:
                self._memory = self._attach(name)
            except FileNotFoundError:
                if size == 0 or not self._flags & os.O_CREAT:
                    raise
                self._memory = self._make_or_attach(name, size)
        self._name = name

    def _make(self, name: str, size: int) -> _core.NamedMemory:
        return _core.NamedMemory(_plain(name), size, self._track, self._mode)

    def _attach(self, name: str) -> _core.NamedMemory:
        return _core.NamedMemory(_plain(name), 0, self._track)

    def _make_or_attach(self, name: str, size: int) -> _core.NamedMemory:
        try:
            return self._make(name, size)
        except FileExistsError:  # somebody else was faster
            return self._attach(name)

    def _look(self) -> None:
        assert self._memory is not None
        self._size = self._memory.size
        self._buf = memoryview(self._memory)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The bytes; None once the block is closed."""
        return self._buf  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """The name by which other processes attach."""
        assert self._name is not None
        return self._name.removeprefix("/")

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    @property
    def _fd(self) -> int:
        return -1 if self._memory is None else self._memory.fileno()

    def close(self) -> None:
        """Give up the block; it stays for others, and under its name.

        Arrays and views of ``buf`` that are left stay valid, and keep the memory until
        they are gone.
        """
        buf, self._buf = self._buf, None
        if buf is not None:
            with contextlib.suppress(BufferError):  # somebody has a view of it
                buf.release()
        self._memory = None

    def unlink(self) -> None:
        """Remove the name, once for all processes; who is attached stays so.

        FileNotFoundError when it was removed before.
        """
        if self._name:
            _core.named_unlink(_plain(self._name))
            tracker = sys.modules.get(f"{__package__}.resource_tracker")
            if tracker is not None:  # else nobody can have registered it
                tracker._resource_tracker._removed(self._name, "shared_memory")

    def resize(self, size: int = 0) -> None:
        """Make the block larger, or with no size see what others have made of it.

        ``buf`` is another one afterwards; views of the one before show what they did,
        the same memory. A block cannot become smaller, because others may have mapped
        it: ValueError.
        """
        if self._memory is None:
            raise ValueError("the shared memory is closed")
        self._memory.resize(size)
        self._look()


_ALIGNMENT = 8
_FORMAT_SIZE = 8  # of the field that holds the struct format of an item
_EXACT = " "  # behind a format: no padding in it; struct passes over blanks


def _encode(value: str | bytes) -> bytes:
    return value.encode("utf8", "surrogatepass") if isinstance(value, str) else value


class ShareableList:
    """A list of fixed length in a block of shared memory.

    Items are int (64 bits), float, bool, None, str and bytes. An item can be replaced
    by one of any type; a str or bytes by one that needs no more room. The layout is
    the standard library's.
    """

    # The block holds, each as 8 bytes unless said: the number of items n; n + 1
    # offsets into the data; the data; n struct formats; n codes of one byte, that say
    # what becomes of what struct returns. Strings are filled up with zero bytes, and
    # the standard library takes all zero bytes at their ends away again. Where that
    # would be wrong the format gives the exact length and has a blank behind it.

    _types_mapping: ClassVar[dict[type, str]] = {
        int: "q",
        float: "d",
        bool: "xxxxxxx?",
        str: "%ds",
        bytes: "%ds",
        type(None): "xxxxxx?x",
    }
    _alignment = _ALIGNMENT
    _back_transforms_mapping: ClassVar[dict[int, Callable[[Any], Any]]] = {
        0: lambda value: value,
        1: lambda value: value.decode("utf8", "surrogatepass"),
        2: lambda value: value,
        3: lambda _value: None,
    }

    shm: SharedMemory
    _list_len: int
    _allocated_offsets: list[int]

    def __init__(
        self, sequence: Iterable[Any] | None = None, *, name: str | None = None
    ) -> None:
        if name is not None and sequence is None:
            self.shm = SharedMemory(name)
            self._read_layout()
        else:
            self._make(list(sequence or ()), name)

    def _make(self, items: list[Any], name: str | None) -> None:
        formats = []
        self._allocated_offsets = [0]
        for item in items:
            room = _ALIGNMENT
            if isinstance(item, (str, bytes)):
                room = self._room_for(item)
            formats.append(self._format_for(item, room))
            self._allocated_offsets.append(self._allocated_offsets[-1] + room)
        self._list_len = len(items)
        size = self._offset_back_transform_codes + self._list_len
        self.shm = SharedMemory(name, create=True, size=size)
        struct.pack_into(
            self._format_size_metainfo + "q",
            self.shm.buf,
            0,
            self._list_len,
            *self._allocated_offsets,
        )
        for position, (item, fmt) in enumerate(zip(items, formats, strict=True)):
            self._store(position, fmt, item)

    def _read_layout(self) -> None:
        buf = self.shm.buf
        count = len(self)
        if not 0 <= count <= len(buf) // _ALIGNMENT - 2:
            raise ValueError(f"{self.shm.name!r} is no ShareableList")
        self._list_len = count
        self._allocated_offsets = list(
            struct.unpack_from(self._format_size_metainfo, buf, 8)
        )

    # -- Items --------------------------------------------------------------------------

    @staticmethod
    def _room_for(value: str | bytes) -> int:
        # What the standard library gives: by characters, which may be too little.
        room = (len(value) // _ALIGNMENT + 1) * _ALIGNMENT
        return max(room, -(-len(_encode(value)) // _ALIGNMENT) * _ALIGNMENT)

    def _format_for(self, value: object, room: int) -> str:
        fmt = self._types_mapping[
            next((t for t in (str, bytes) if isinstance(value, t)), type(value))
        ]
        if not isinstance(value, (str, bytes)):
            return fmt
        data = _encode(value)
        fmt = fmt % len(data) + _EXACT if data.endswith(b"\0") else fmt % room
        if len(fmt) > _FORMAT_SIZE:
            raise ValueError(f"an item of {len(data)} bytes is too long")
        return fmt

    @staticmethod
    def _extract_recreation_code(value: object) -> int:
        if isinstance(value, str):
            return 1
        if isinstance(value, bytes):
            return 2
        return 3 if value is None else 0

    def _check(self, position: int) -> int:
        if position < 0:
            position += self._list_len
        if not 0 <= position < self._list_len:
            raise IndexError("Requested position out of range.")
        return position

    def _get_packing_format(self, position: int) -> str:
        """Return the struct format of an item."""
        position = self._check(position)
        (fmt,) = struct.unpack_from(
            "8s",
            self.shm.buf,
            self._offset_packing_formats + position * _FORMAT_SIZE,
        )
        return str(fmt.rstrip(b"\0").decode("ascii"))

    def _get_back_transform(self, position: int) -> Callable[[Any], Any]:
        """Return what makes an item of what struct returns."""
        offset = self._offset_back_transform_codes + self._check(position)
        (code,) = struct.unpack_from("b", self.shm.buf, offset)
        return self._back_transforms_mapping[code]

    def _set_packing_format_and_transform(
        self, position: int, fmt_as_str: str, value: object
    ) -> None:
        position = self._check(position)
        struct.pack_into(
            "8s",
            self.shm.buf,
            self._offset_packing_formats + position * _FORMAT_SIZE,
            fmt_as_str.encode("ascii"),
        )
        struct.pack_into(
            "b",
            self.shm.buf,
            self._offset_back_transform_codes + position,
            self._extract_recreation_code(value),
        )

    def _store(self, position: int, fmt: str, value: object) -> None:
        data = _encode(value) if isinstance(value, (str, bytes)) else value
        offset = self._offset_data_start + self._allocated_offsets[position]
        packed = struct.pack(fmt, data)  # before anything is changed
        self._set_packing_format_and_transform(position, fmt, value)
        self.shm.buf[offset : offset + len(packed)] = packed

    def __getitem__(self, position: int) -> Any:
        try:
            position = self._check(position)
        except IndexError:
            raise IndexError("index out of range") from None
        fmt = self._get_packing_format(position)
        offset = self._offset_data_start + self._allocated_offsets[position]
        (value,) = struct.unpack_from(fmt, self.shm.buf, offset)
        if isinstance(value, bytes) and not fmt.endswith(_EXACT):
            value = value.rstrip(b"\0")
        return self._get_back_transform(position)(value)

    def __setitem__(self, position: int, value: Any) -> None:
        try:
            position = self._check(position)
        except IndexError:
            raise IndexError("assignment index out of range") from None
        room = self._allocated_offsets[position + 1] - self._allocated_offsets[position]
        if isinstance(value, (str, bytes)) and len(_encode(value)) > room:
            raise ValueError("bytes/str item exceeds available storage")
        self._store(position, self._format_for(value, room), value)

    def __len__(self) -> int:
        return int(struct.unpack_from("q", self.shm.buf, 0)[0])

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(self._list_len))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(self.__class__, name=self.shm.name), ()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({list(self)}, name={self.shm.name!r})"

    def count(self, value: object) -> int:
        """Return how often the value is in the list."""
        return sum(value == item for item in self)

    def index(self, value: object) -> int:
        """Return the position of the first such value, or raise ValueError."""
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} not in this container")

    # -- Layout -------------------------------------------------------------------------

    @property
    def format(self) -> str:
        """The struct formats of all items, one behind the other."""
        return "".join(self._get_packing_format(i) for i in range(self._list_len))

    @property
    def _format_size_metainfo(self) -> str:
        return "q" * (self._list_len + 1)

    @property
    def _format_packing_metainfo(self) -> str:
        return "8s" * self._list_len

    @property
    def _format_back_transform_codes(self) -> str:
        return "b" * self._list_len

    @property
    def _offset_data_start(self) -> int:
        return (self._list_len + 2) * _ALIGNMENT

    @property
    def _offset_packing_formats(self) -> int:
        return self._offset_data_start + self._allocated_offsets[-1]

    @property
    def _offset_back_transform_codes(self) -> int:
        return self._offset_packing_formats + self._list_len * _FORMAT_SIZE

    __class_getitem__: Any = classmethod(GenericAlias)
