# SPDX-License-Identifier: MIT
"""Immutable copies of plain objects in shared memory, and the views that read them.

`share` copies once; its views travel to other processes by reference, and reading one
element makes that element and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from collections.abc import (
    Set as AbstractSet,
)

from . import _core, context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "SharedArray",
    "SharedBytes",
    "SharedDict",
    "SharedFrozenSet",
    "SharedList",
    "SharedSet",
    "SharedTuple",
    "share",
]

_SHOWN = 6  # elements that a representation names


def share(obj: Any) -> Any:
    """Return an immutable copy of ``obj`` in shared memory.

    Containers come back as `SharedList`, `SharedTuple`, `SharedDict`, `SharedSet` and
    `SharedFrozenSet`, ``bytes`` as `SharedBytes`, NumPy arrays as read-only
    ``numpy.ndarray``, other arrays as `SharedArray`. Numbers, ``None`` and ``str`` have
    nothing to map and are returned as they are, and so is what is shared already.

    TypeError names the path to what cannot be shared.
    """
    if obj is None or type(obj) in {bool, int, float, complex, str}:
        return obj
    if isinstance(obj, _VIEWS) or _is_shared_ndarray(obj):
        return obj
    return _core.share_build(obj)


def _hold(handle: bytes) -> bool:
    """Have the message being made, or the child being started, keep a share."""
    popen = context.get_spawning_popen()
    if popen is None:
        return _core.message_hold(handle)
    popen.hold(handle)
    return True


def _open(handle: bytes, word: int) -> Any:
    return _core.share_open(handle, word)


def _open_part(handle: bytes, word: int, part: tuple[int, int, int]) -> Any:
    return _core.share_open(handle, word)._part(*part)


class _View:
    """What all views have in common: how they travel."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        view: Any = self
        handle, word = view._reference()
        if _hold(handle):
            return _open, (handle, word)
        return share, (view.copy(),)


def _shown(items: Iterable[str], count: int) -> str:
    from itertools import islice

    words = list(islice(items, _SHOWN))
    if count > _SHOWN:
        words.append(f"... {count} in all")
    return ", ".join(words)


class _SequenceView(_View):
    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        view: Any = self
        handle, word = view._reference()
        if _hold(handle):
            return _open_part, (handle, word, view._slice())
        return share, (view.copy(),)


class SharedList(_SequenceView, _core.ListView, Sequence):  # type: ignore[type-arg]
    """A list in shared memory; slices are views of the same elements."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"SharedList([{_shown(map(repr, self), len(self))}])"


class SharedTuple(_SequenceView, _core.TupleView, Sequence):  # type: ignore[type-arg]
    """A tuple in shared memory, equal to the tuple and with its hash."""

    __slots__ = ()

    def __repr__(self) -> str:
        comma = "," if len(self) == 1 else ""
        return f"SharedTuple(({_shown(map(repr, self), len(self))}{comma}))"


class _Keys(KeysView):  # type: ignore[type-arg]
    __slots__ = ()
    _mapping: SharedDict

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._iterate(0, 1)


class _Values(ValuesView):  # type: ignore[type-arg]
    __slots__ = ()
    _mapping: SharedDict

    def __iter__(self) -> Iterator[Any]:
        return self._mapping._iterate(1, 0)

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._iterate(1, 1)


class _Items(ItemsView):  # type: ignore[type-arg]
    __slots__ = ()
    _mapping: SharedDict

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._iterate(2, 0)

    def __reversed__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._iterate(2, 1)


class SharedDict(_View, _core.DictView, Mapping):  # type: ignore[type-arg]
    """A dict in shared memory, in the order of insertion."""

    __slots__ = ()

    def __repr__(self) -> str:
        pairs = (f"{key!r}: {value!r}" for key, value in self.items())
        return f"SharedDict({{{_shown(pairs, len(self))}}})"

    def keys(self) -> KeysView[Any]:
        """Return a view of the keys."""
        return _Keys(self)

    def values(self) -> ValuesView[Any]:
        """Return a view of the values."""
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:
        """Return a view of the pairs of key and value."""
        return _Items(self)

    def __or__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**dict(self.items()), **dict(other.items())}

    def __ror__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**dict(other.items()), **dict(self.items())}


class SharedSet(_View, _core.SetView, AbstractSet):  # type: ignore[type-arg]
    """A set in shared memory; its operators give plain sets."""

    __slots__ = ()

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return set(it)

    def __repr__(self) -> str:
        return f"SharedSet({{{_shown(map(repr, self), len(self))}}})"


class SharedFrozenSet(_View, _core.FrozenSetView, AbstractSet):  # type: ignore[type-arg]
    """A frozenset in shared memory, equal to the frozenset and with its hash."""

    __slots__ = ()

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return frozenset(it)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __repr__(self) -> str:
        return f"SharedFrozenSet({{{_shown(map(repr, self), len(self))}}})"


class SharedBytes(_View, _core.BytesView, Sequence):  # type: ignore[type-arg]
    """Bytes in shared memory: ``bytes(view)`` copies, ``memoryview(view)`` does not."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        found = memoryview(self)[index]
        return found.tobytes() if isinstance(found, memoryview) else found

    def __iter__(self) -> Iterator[int]:
        return iter(memoryview(self))

    def __contains__(self, item: Any) -> bool:
        return item in self.copy()  # also what is longer than one

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (SharedBytes, bytes, bytearray, memoryview)):
            return NotImplemented
        return memoryview(self) == memoryview(other)

    def __hash__(self) -> int:
        return hash(self.copy())

    def __repr__(self) -> str:
        return f"<SharedBytes of {len(self)}: {self[:24]!r}>"

    def copy(self) -> bytes:
        """Return the bytes as a plain object."""
        return bytes(memoryview(self))


class SharedArray(_View, _core.ArrayView):
    """An array in shared memory: ``memoryview(view)`` shows it without copying."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(memoryview(self))

    def __getitem__(self, index: Any) -> Any:
        return memoryview(self)[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(memoryview(self))

    def __eq__(self, other: object) -> bool:
        try:
            return memoryview(self) == memoryview(other)  # type: ignore[arg-type]
        except TypeError:
            return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = memoryview(self)
        return f"<SharedArray of {self._meta()[0]} {shown.format!r} {shown.shape}>"

    def copy(self) -> Any:
        """Return an object as it was shared, writable if such objects are."""
        meta = self._meta()
        kind = meta[0]
        if kind in {"ndarray", "scalar"}:
            return _numpy_copy(self)
        if kind == "bytearray":
            return bytearray(memoryview(self))
        if kind == "array":
            from array import array

            return array(meta[1], memoryview(self).tobytes())
        return _memoryview_copy(memoryview(self))


_VIEWS = (
    SharedList,
    SharedTuple,
    SharedDict,
    SharedSet,
    SharedFrozenSet,
    SharedArray,
    SharedBytes,
)


def _memoryview_copy(view: memoryview) -> memoryview:
    plain = memoryview(view.tobytes())
    if view.format == "B" and view.ndim == 1:
        return plain
    try:
        return plain.cast(view.format, view.shape)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError):
        return view  # no cast makes zeros in a shape, nor formats of other machines


# -- Arrays -----------------------------------------------------------------------------


def _describe(obj: Any) -> str | tuple[Any, ...]:
    """Tell the core how to share an object that is no built-in container or value."""
    if isinstance(obj, _VIEWS):
        return (obj.copy(),)
    if isinstance(obj, bytearray) and type(obj) is bytearray:
        return ("bytearray",), obj
    if type(obj) is memoryview:
        return ("memoryview",), obj
    array = sys.modules.get("array")
    if array is not None and type(obj) is array.array:
        return ("array", obj.typecode), obj
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, (numpy.ndarray, numpy.generic)):
        return _describe_numpy(numpy, obj)
    if isinstance(obj, (tuple, list, dict, set, frozenset, str, bytes, int, float)):
        return _advice(obj)
    try:
        memoryview(obj)
    except TypeError:
        return (
            "only plain tuples, lists, dicts, sets, str, bytes, numbers, None and "
            "arrays can be shared; send it by itself, or share what it is made of"
        )
    return ("memoryview",), obj


def _advice(obj: Any) -> str:
    bases = (bytes, bool, int, float, str, tuple, list, dict, set, frozenset)
    base = next(base for base in bases if isinstance(obj, base)).__name__
    return f"its type would be lost; make it a plain one with {base}(...)"


def _describe_numpy(numpy: Any, obj: Any) -> str | tuple[Any, ...]:
    kind = "scalar" if isinstance(obj, numpy.generic) else "ndarray"
    if kind == "ndarray" and type(obj) not in {numpy.ndarray, numpy.memmap}:
        return "its type would be lost; make it a plain one with numpy.asarray(...)"
    plain = numpy.asarray(obj)
    if plain.dtype.hasobject:
        return "its elements are Python objects, which have addresses of one process"
    is_fortran = plain.flags.f_contiguous and not plain.flags.c_contiguous
    if not is_fortran:
        plain = numpy.ascontiguousarray(plain).reshape(plain.shape)
    descr = plain.dtype.str
    if plain.dtype.names is not None or plain.dtype.subdtype is not None:
        descr = numpy.lib.format.dtype_to_descr(plain.dtype)
    meta = (kind, descr, plain.shape, "F" if is_fortran else "C")
    try:
        memoryview(plain)
    except (ValueError, TypeError, BufferError):
        flat = plain.ravel(order="K")
        plain = flat.view(numpy.uint8) if flat.size else b""
    return meta, plain


def _restore(view: SharedArray) -> Any:
    """Make of a view what the reader expects: numpy's own type where numpy is."""
    kind = view._meta()[0]
    if kind not in {"ndarray", "scalar"} or _import_numpy() is None:
        return view
    made = _numpy_view(view)
    return made if kind == "ndarray" else made[()]


def _import_numpy() -> Any:
    try:
        import numpy as np
    except ImportError:
        return None
    return np


def _numpy_view(view: SharedArray) -> Any:
    numpy = _import_numpy()
    _, descr, shape, order = view._meta()
    if isinstance(descr, str):
        dtype = numpy.dtype(descr)
    else:
        dtype = numpy.lib.format.descr_to_dtype(descr)
    if dtype.hasobject:  # addresses, which nobody shares
        raise RuntimeError("shared memory is damaged: this is not what share() wrote")
    _register_ndarray(numpy.ndarray)
    return numpy.ndarray(shape, dtype, view, order=order)


def _numpy_copy(view: SharedArray) -> Any:
    if _import_numpy() is None:
        return memoryview(memoryview(view).tobytes())
    made = _numpy_view(view)
    return made[()] if view._meta()[0] == "scalar" else made.copy(order="K")


def _shared_base(obj: Any) -> SharedArray | None:
    """Return the view whose memory an array is, the whole of it."""
    base = getattr(obj, "base", None)
    if not isinstance(base, SharedArray) or base._meta()[0] != "ndarray":
        return None
    whole = _numpy_view(base)
    same = (
        obj.__array_interface__["data"] == whole.__array_interface__["data"]
        and obj.shape == whole.shape
        and obj.strides == whole.strides
        and obj.dtype == whole.dtype
    )
    return base if same else None


def _is_shared_ndarray(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and type(obj) is numpy.ndarray
        and _shared_base(obj) is not None
    )


def _reduce_ndarray(obj: Any) -> Any:
    base = _shared_base(obj)
    if base is not None:
        handle, word = base._reference()
        if _hold(handle):
            return _open, (handle, word)
    if obj.dtype.hasobject:
        return obj.__reduce__()
    return _same, (_Unshared(obj),)


class _Unshared:
    """An array by value, in the protocol of whichever pickler asks."""

    __slots__ = ("_array",)

    def __init__(self, array: Any) -> None:
        self._array = array

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._array.__reduce_ex__(protocol)


def _same(obj: Any) -> Any:
    return obj


def _register_ndarray(ndarray: type) -> None:
    """Have arrays over a share travel by reference, once there is one here."""
    reducers = context.reduction.ForkingPickler._extra_reducers
    if ndarray not in reducers:
        context.reduction.register(ndarray, _reduce_ndarray)


_core.share_setup(_VIEWS, _describe, _restore)
