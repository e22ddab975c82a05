# SPDX-License-Identifier: MIT
"""Values and arrays in shared memory, bare or with a lock around them.

With `ctypes` they are ctypes objects. Where an interpreter was built without it, the
type codes of `array` still work, over memory views, with the same attributes.

A `Value` of an integer code has atomic ``fetch_add``, ``exchange`` and
``compare_exchange``, which need no lock and never wait.
"""

from __future__ import annotations

import weakref

from . import get_context, heap
from .context import assert_spawning
from .reduction import ForkingPickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType
    from typing import Any

    from .context import BaseContext

__all__ = [
    "Array",
    "RawArray",
    "RawValue",
    "Synchronized",
    "SynchronizedArray",
    "SynchronizedBase",
    "SynchronizedString",
    "Value",
    "copy",
    "synchronized",
]

_INTEGER_CODES = "bBhHiIlLqQ"
_CODES = {
    "c": "c_char",
    "u": "c_wchar",
    "b": "c_byte",
    "B": "c_ubyte",
    "h": "c_short",
    "H": "c_ushort",
    "i": "c_int",
    "I": "c_uint",
    "l": "c_long",
    "L": "c_ulong",
    "q": "c_longlong",
    "Q": "c_ulonglong",
    "f": "c_float",
    "d": "c_double",
}


def _ctypes() -> ModuleType | None:
    """Return ctypes, None where there is none; imported when first needed."""
    try:
        import ctypes
    except ImportError:
        return None
    return ctypes


def _types_of_codes() -> dict[str, Any]:
    ctypes = _ctypes()
    if ctypes is None:
        return {}
    return {code: getattr(ctypes, name) for code, name in _CODES.items()}


def __getattr__(name: str) -> Any:
    if name == "typecode_to_type":
        types = globals()[name] = _types_of_codes()
        return types
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _resolve(typecode_or_type: Any) -> Any:
    """Return the ctypes type that is meant, or the code itself without ctypes."""
    if not isinstance(typecode_or_type, str):
        return typecode_or_type
    types = globals().get("typecode_to_type")
    if types is None:
        types = __getattr__("typecode_to_type")
    if types:
        return types.get(typecode_or_type, typecode_or_type)
    if typecode_or_type not in _CODES:
        raise TypeError(f"unknown type code {typecode_or_type!r}")
    return typecode_or_type


# ---- Without ctypes ----


class _Plain:
    """What values and arrays of a type code share: memory seen as items."""

    _SIGNED = frozenset("bhilq")

    def __init__(self, code: str, length: int, wrapper: heap.BufferWrapper) -> None:
        self._code = code
        self._length_ = length
        self._wrapper = wrapper
        # A wide character is a number here; memoryview knows no such format.
        self._view: memoryview[Any] = wrapper.create_memoryview().cast(
            "I" if code == "u" else code  # type: ignore[call-overload]
        )

    @classmethod
    def create(cls, code: str, length: int) -> Any:
        import struct

        size = struct.calcsize("I" if code == "u" else code)
        return cls(code, length, heap.BufferWrapper(size * length))

    def __reduce__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        return type(self), (self._code, self._length_, self._wrapper)

    def _encode(self, item: Any) -> Any:
        code = self._code
        if code == "u":
            return ord(item)
        if code not in _INTEGER_CODES:
            return item
        if not isinstance(item, int):
            raise TypeError(f"an integer is required, not {type(item).__name__}")
        bits = 8 * self._view.itemsize
        item &= (1 << bits) - 1  # as C does, and ctypes
        return (
            item - (1 << bits) if code in self._SIGNED and item >> (bits - 1) else item
        )

    def _decode(self, item: Any) -> Any:
        return chr(item) if self._code == "u" else item


class _PlainValue(_Plain):
    """One item, in the attribute ``value``."""

    @property
    def value(self) -> Any:
        return self._decode(self._view[0])

    @value.setter
    def value(self, item: Any) -> None:
        self._view[0] = self._encode(item)

    def __repr__(self) -> str:
        return f"{_CODES[self._code]}({self.value!r})"


class _PlainArray(_Plain):
    """A fixed number of items."""

    def _join(self, items: list[Any]) -> Any:
        if self._code == "c":
            return b"".join(items)
        return "".join(items) if self._code == "u" else items

    def __len__(self) -> int:
        return self._length_

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._join([self._decode(item) for item in self._view[index]])
        return self._decode(self._view[index])

    def __setitem__(self, index: Any, item: Any) -> None:
        if not isinstance(index, slice):
            self._view[index] = self._encode(item)
            return
        places = range(*index.indices(self._length_))
        items = (
            [item[i : i + 1] for i in range(len(item))] if self._code == "c" else item
        )
        if len(places) != len(items):
            raise ValueError("Can only assign sequence of same size")
        for place, each in zip(places, items, strict=True):
            self._view[place] = self._encode(each)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self._length_))

    @property
    def raw(self) -> bytes:
        return bytes(self._bytes())

    @raw.setter
    def raw(self, data: bytes) -> None:
        if len(data) > self._length_:
            raise ValueError("byte string too long")
        self._bytes()[: len(data)] = data

    @property
    def value(self) -> Any:
        if self._code == "u":
            return self[:].partition("\0")[0]
        return self.raw.partition(b"\0")[0]

    @value.setter
    def value(self, data: Any) -> None:
        if len(data) > self._length_:
            raise ValueError("string too long")
        ended = len(data) < self._length_
        if self._code == "u":
            self[: len(data) + ended] = data + "\0" * ended
        else:
            self.raw = data + b"\0" * ended

    def _bytes(self) -> memoryview:
        if self._code != "c":
            raise AttributeError("only arrays of characters have bytes")
        return self._view.cast("B")

    def __repr__(self) -> str:
        return f"<{_CODES[self._code]}_Array_{self._length_} object at {id(self):#x}>"


# ---- Bare values and arrays ----


def _new_value(type_: Any) -> Any:
    ctypes = _ctypes()
    assert ctypes is not None
    return rebuild_ctype(type_, heap.BufferWrapper(ctypes.sizeof(type_)), None)


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """Return a value in shared memory: zero, or made from ``args``."""
    type_ = _resolve(typecode_or_type)
    if isinstance(type_, str) and type_ in _CODES:
        plain = _PlainValue.create(type_, 1)
        if args:
            (plain.value,) = args
        return plain
    obj = _new_value(type_)
    obj.__init__(*args)
    return obj


def RawArray(typecode_or_type: Any, size_or_initializer: Any) -> Any:
    """Return an array in shared memory: of so many zeros, or of these items."""
    type_ = _resolve(typecode_or_type)
    if isinstance(size_or_initializer, int):
        length, items = size_or_initializer, None
        if length < 0:
            raise ValueError("Array length must be >= 0")
    else:
        length, items = len(size_or_initializer), size_or_initializer
    if isinstance(type_, str) and type_ in _CODES:
        plain = _PlainArray.create(type_, length)
        if items is not None:
            plain[:] = items
        return plain
    result = _new_value(type_ * length)
    if items is not None:
        result.__init__(*items)
    return result


def copy(obj: Any) -> Any:
    """Return a copy of a bare value or array, in shared memory of its own."""
    if isinstance(obj, _Plain):
        plain = type(obj).create(obj._code, obj._length_)
        plain._view[:] = obj._view
        return plain
    ctypes = _ctypes()
    assert ctypes is not None
    new = _new_value(type(obj))
    ctypes.pointer(new)[0] = obj
    return new


def reduce_ctype(obj: Any) -> tuple[Any, ...]:
    """Reduce a ctypes object in shared memory, for a child or a message."""
    assert_spawning(obj)
    ctypes = _ctypes()
    assert ctypes is not None
    if isinstance(obj, ctypes.Array):
        return rebuild_ctype, (obj._type_, obj._wrapper, obj._length_)
    return rebuild_ctype, (type(obj), obj._wrapper, None)


def rebuild_ctype(type_: Any, wrapper: heap.BufferWrapper, length: int | None) -> Any:
    """Make a ctypes object that lives in given shared memory."""
    if length is not None:
        type_ *= length
    ForkingPickler.register(type_, reduce_ctype)
    obj = type_.from_buffer(wrapper.create_memoryview())
    obj._wrapper = wrapper
    return obj


# ---- With a lock around ----


def _with_lock(obj: Any, lock: Any, ctx: BaseContext | None) -> Any:
    if lock is False:
        return obj
    if lock in (True, None):
        lock = (ctx or get_context()).RLock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(obj, lock, ctx=ctx)


def Value(
    typecode_or_type: Any, *args: Any, lock: Any = True, ctx: BaseContext | None = None
) -> Any:
    """Return a value in shared memory with a lock around it.

    ``lock``: True for a new one, a lock to use, or False for none (`RawValue`).
    """
    return _with_lock(RawValue(typecode_or_type, *args), lock, ctx)


def Array(
    typecode_or_type: Any,
    size_or_initializer: Any,
    *,
    lock: Any = True,
    ctx: BaseContext | None = None,
) -> Any:
    """Return an array in shared memory with a lock around it.

    ``lock``: True for a new one, a lock to use, or False for none (`RawArray`).
    """
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock, ctx)


def synchronized(obj: Any, lock: Any = None, ctx: BaseContext | None = None) -> Any:
    """Return a wrapper whose attributes take the lock."""
    assert not isinstance(obj, SynchronizedBase), "object already synchronized"
    return _wrapper_class(obj)(obj, lock, ctx or get_context())


def _wrapper_class(obj: Any) -> type[SynchronizedBase]:
    if isinstance(obj, _PlainValue):
        return Synchronized
    if isinstance(obj, _PlainArray):
        return SynchronizedString if obj._code == "c" else SynchronizedArray
    ctypes = _ctypes()
    assert ctypes is not None
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized
    if isinstance(obj, ctypes.Array):
        is_string = obj._type_ is ctypes.c_char
        return SynchronizedString if is_string else SynchronizedArray
    return _structure_class(type(obj))


def _structure_class(cls: Any) -> type[SynchronizedBase]:
    """Return the wrapper of a structure: each field a property that takes the lock."""
    found = class_cache.get(cls)
    if found is None:
        fields = {field[0]: make_property(field[0]) for field in cls._fields_}
        found = type("Synchronized" + cls.__name__, (SynchronizedBase,), fields)
        class_cache[cls] = found
    return found


def make_property(name: str) -> property:
    """Return a property that passes an attribute through, under the lock."""
    if name not in prop_cache:
        # Not `with self`: two calls of C functions are a third of its cost.
        def get(self: SynchronizedBase) -> Any:
            self.acquire()
            try:
                return getattr(self._obj, name)
            finally:
                self.release()

        def put(self: SynchronizedBase, value: Any) -> None:
            self.acquire()
            try:
                setattr(self._obj, name, value)
            finally:
                self.release()

        prop_cache[name] = property(get, put)
    return prop_cache[name]


prop_cache: dict[str, property] = {}
class_cache: weakref.WeakKeyDictionary[Any, type[SynchronizedBase]] = (
    weakref.WeakKeyDictionary()
)


class SynchronizedBase:
    """A bare object and its lock; itself a context manager that holds the lock."""

    def __init__(
        self, obj: Any, lock: Any = None, ctx: BaseContext | None = None
    ) -> None:
        self._obj = obj
        self._lock = lock or (ctx or get_context()).RLock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *args: object) -> None:
        self._lock.__exit__(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        return synchronized, (self._obj, self._lock)

    def get_obj(self) -> Any:
        """Return the bare object."""
        return self._obj

    def get_lock(self) -> Any:
        """Return the lock."""
        return self._lock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


class Synchronized(SynchronizedBase):
    """A value with a lock around it.

    The atomic operations do not take the lock: use either them or the lock for one
    value. They raise TypeError unless the value is an integer.
    """

    value = make_property("value")

    def _integer_code(self) -> str:
        obj = self._obj
        code = obj._code if isinstance(obj, _PlainValue) else type(obj)._type_
        if code not in _INTEGER_CODES:
            raise TypeError(f"no atomic operations on {obj!r}: it is not an integer")
        return str(code)

    def fetch_add(self, delta: int = 1) -> int:
        """Add, wrapping around like C; returns the value before."""
        code = self._integer_code()
        return self._obj._wrapper._block.fetch_add(0, code, delta)  # type: ignore[no-any-return]

    def exchange(self, value: int) -> int:
        """Set; returns the value before."""
        code = self._integer_code()
        return self._obj._wrapper._block.exchange(0, code, value)  # type: ignore[no-any-return]

    def compare_exchange(self, expected: int, value: int) -> int:
        """Set if the value is as expected; returns the value before in any case."""
        code = self._integer_code()
        block = self._obj._wrapper._block
        return block.compare_exchange(0, code, expected, value)  # type: ignore[no-any-return]


class SynchronizedArray(SynchronizedBase):
    """An array with a lock around it, taken for each access."""

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, i: Any) -> Any:
        with self:
            return self._obj[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        with self:
            self._obj[i] = value

    def __getslice__(self, start: int, stop: int) -> Any:
        with self:
            return self._obj[start:stop]

    def __setslice__(self, start: int, stop: int, values: Any) -> None:
        with self:
            self._obj[start:stop] = values


class SynchronizedString(SynchronizedArray):
    """An array of characters with a lock around it."""

    value = make_property("value")
    raw = make_property("raw")
