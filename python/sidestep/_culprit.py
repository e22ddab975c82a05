# SPDX-License-Identifier: MIT
"""Find what cannot be pickled in something that cannot be pickled.

Only after a failure, for the text of the error. From the object downwards, each part
is pickled on its own into nothing, and the first that fails is looked into next. That
runs reducers once more, so it is bounded: in time, in depth, and in bytes per part.
"""

from __future__ import annotations

import dis
import functools
import itertools
import types
from time import monotonic

from . import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    _Part = tuple[str, Any]

__all__ = ["describe", "find"]

SECONDS = 0.25
DEPTH_MAX = 40
BYTES_MAX = 1 << 24


class _EnoughError(Exception):
    """The search has taken long enough."""


class _Sink:
    """A file that keeps nothing, for a limited time."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._left = BYTES_MAX

    def write(self, data: Any) -> int:
        size = len(data)
        self._left -= size
        if self._left < 0 or monotonic() > self._deadline:
            raise _EnoughError
        return size


class _Rehearsal:
    """The child that is being started, while nothing is sent: it keeps nothing."""

    @staticmethod
    def hold(handle: bytes) -> None:
        """Hold nothing."""

    @staticmethod
    def duplicate_for_child(fd: int) -> int:
        return fd

    @staticmethod
    def DupFd(fd: int) -> int:
        return fd


def find(obj: Any, make: Callable[[Any], Any], *, by_value: bool) -> tuple[str, Any]:
    """Return the path from ``obj`` to the part of it that does not pickle, and that.

    The path is empty when it is ``obj`` itself, or when time was over. ``make`` makes a
    pickler for a file; ``by_value`` says whether it looks into functions and classes.
    """
    popen = context.get_spawning_popen()
    context.set_spawning_popen(_Rehearsal())  # type: ignore[arg-type]
    try:
        return _Search(make, by_value=by_value).descend(obj)
    finally:
        context.set_spawning_popen(popen)


def describe(obj: Any) -> str:
    """Say in a word or two what something is."""
    cls = type(obj)
    if cls.__module__ == "builtins":
        return f"a {cls.__name__}"
    return f"a {cls.__module__}.{cls.__qualname__}"


class _Search:
    def __init__(self, make: Callable[[Any], Any], *, by_value: bool) -> None:
        self._make = make
        self._by_value = by_value
        self._deadline = monotonic() + SECONDS

    def descend(self, obj: Any) -> tuple[str, Any]:
        path = ""
        trail = [obj]
        for _ in range(DEPTH_MAX):
            step = self._first_bad(obj, trail)
            if step is None:
                break
            path += step[0]
            obj = step[1]
            trail.append(obj)
        return path, obj

    def _first_bad(self, obj: Any, trail: list[Any]) -> _Part | None:
        try:
            for step in self._parts(obj):
                part = step[1]
                if not any(part is seen for seen in trail) and self._fails(part):
                    return step
        except Exception:  # noqa: BLE001 - code of others, and our own time limit
            return None
        return None

    def _fails(self, obj: Any) -> bool:
        try:
            self._make(_Sink(self._deadline)).dump(obj)
        except (_EnoughError, RecursionError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - any will do
            return True
        return False

    def _parts(self, obj: Any) -> Iterator[_Part]:
        kind = type(obj)
        parts = _PARTS.get(kind)
        if parts is not None:
            return parts(obj)
        if kind is types.FunctionType or isinstance(obj, type):
            if not self._by_value:
                return iter(())
            return (
                _parts_of_class(obj)
                if isinstance(obj, type)
                else _parts_of_function(obj)
            )
        return self._parts_of_reduced(obj)

    def _parts_of_reduced(self, obj: Any) -> Iterator[_Part]:
        """Give what the object's own way of being pickled takes along."""
        table = getattr(self._make(_Sink(self._deadline)), "dispatch_table", {})
        reducer = table.get(type(obj))
        reduced = reducer(obj) if reducer is not None else obj.__reduce_ex__(5)
        if not isinstance(reduced, tuple):
            return
        func, args, state, items, pairs = (*reduced, None, None, None)[:5]
        names = {id(value): name for name, value in _attributes(obj)}
        yield from _parts_of_state(state)
        for i, value in enumerate(args or ()):
            name = names.get(id(value))
            yield f".__reduce__()[1][{i}]" if name is None else f".{name}", value
        for i, item in enumerate(items or ()):
            yield f"[{i}]", item
        for key, value in pairs or ():
            yield from _parts_of_pair(key, value)
        yield ".__reduce__()[0]", func


def _attributes(obj: Any) -> Iterator[_Part]:
    yield from getattr(obj, "__dict__", {}).items()
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(obj, name):
                yield name, getattr(obj, name)


def _parts_of_state(state: Any) -> Iterator[_Part]:
    halves = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if all(half is None or type(half) is dict for half in halves):
        for name, value in itertools.chain.from_iterable(
            half.items() for half in halves if half
        ):
            yield f".{name}", value
    else:
        yield ".__getstate__()", state


def _parts_of_items(obj: Any) -> Iterator[_Part]:
    return ((f"[{i}]", item) for i, item in enumerate(obj))


def _parts_of_set(obj: Any) -> Iterator[_Part]:
    return ((f".{{{_short(item)}}}", item) for item in obj)


def _parts_of_pair(key: Any, value: Any) -> Iterator[_Part]:
    yield f"[{_short(key)}]", value
    yield f".key({_short(key)})", key


def _parts_of_dict(obj: Any) -> Iterator[_Part]:
    for key, value in obj.items():
        yield from _parts_of_pair(key, value)


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else text[:57] + "..."


def _parts_of_function(obj: Any) -> Iterator[_Part]:
    """Give what a function by value takes along."""
    code = obj.__code__
    for name, cell in zip(code.co_freevars, obj.__closure__ or (), strict=False):
        try:
            yield f".__closure__[{name!r}]", cell.cell_contents
        except ValueError:  # empty
            continue
    for name in _global_names(code):
        if name in obj.__globals__:
            yield f".__globals__[{name!r}]", obj.__globals__[name]
    for i, value in enumerate(obj.__defaults__ or ()):
        yield f".__defaults__[{i}]", value
    for name, value in (obj.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", value
    for name, value in obj.__dict__.items():
        yield f".{name}", value
    yield ".__annotations__", obj.__annotations__


def _global_names(code: types.CodeType) -> set[str]:
    names = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if "GLOBAL" in instruction.opname
    }
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= _global_names(inner)
    return names


def _parts_of_class(obj: type) -> Iterator[_Part]:
    """Give what a class by value takes along."""
    for i, base in enumerate(obj.__bases__):
        yield f".__bases__[{i}]", base
    slots = types.MemberDescriptorType, types.GetSetDescriptorType
    for name, value in vars(obj).items():
        if not isinstance(value, slots):
            yield f".{name}", value


def _parts_of_partial(obj: functools.partial[Any]) -> Iterator[_Part]:
    yield ".func", obj.func
    for i, value in enumerate(obj.args):
        yield f".args[{i}]", value
    for name, value in obj.keywords.items():
        yield f".keywords[{name!r}]", value


def _parts_of_method(obj: types.MethodType) -> Iterator[_Part]:
    yield ".__self__", obj.__self__
    yield ".__func__", obj.__func__


def _parts_of_wrapper(obj: Any) -> Iterator[_Part]:
    yield ".__func__", obj.__func__


def _parts_of_property(obj: property) -> Iterator[_Part]:
    for name in ("fget", "fset", "fdel"):
        yield f".{name}", getattr(obj, name)


_PARTS: dict[type, Callable[[Any], Iterator[_Part]]] = {
    list: _parts_of_items,
    tuple: _parts_of_items,
    set: _parts_of_set,
    frozenset: _parts_of_set,
    dict: _parts_of_dict,
    functools.partial: _parts_of_partial,
    types.MethodType: _parts_of_method,
    staticmethod: _parts_of_wrapper,
    classmethod: _parts_of_wrapper,
    property: _parts_of_property,
}
