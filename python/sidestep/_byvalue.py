# SPDX-License-Identifier: MIT
"""Functions and classes by value, for a receiver to whom their name means nothing.

`sidestep.reduction` pickles by name first, always. This module comes in when that has
failed, or when the name is one of a ``__main__`` that the receiver cannot have. It is
cloudpickle's pickler, over the pickler in use, with the reducers registered there, and
with these rules of our own:

* what a name reaches goes by name, also in ``__main__`` when a child can import that;
* a class that arrives again is left as it is (cloudpickle would set all its attributes
  each time, in the process it comes from too);
* a process that has the very function or class in its ``__main__``, because it was
  forked when that was there, goes on with its own;
* what cloudpickle makes of files and of memory views, copies of what was in them, would
  be a surprise: they do not pickle, as ever.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import types
import weakref

from . import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["install_hint", "main_is_unknown", "pickler_class"]


def install_hint() -> str:
    """Say what is missing for sending by value; empty when nothing is."""
    if _cloudpickle() is not None:
        return ""
    return "install cloudpickle to send functions and classes without a name by value"


@functools.cache
def _cloudpickle() -> Any:
    from importlib import import_module

    try:
        return import_module("cloudpickle")
    except ImportError:
        return None


# ---- Whose names the receiver has ----


def main_is_unknown() -> bool:
    """Tell whether a child that is not forked lacks what is in our ``__main__``."""
    from . import _main

    data = _main.describe()
    name = data.get("init_main_from_name")
    if name is not None:
        return name == "__main__" or name.endswith(".__main__")
    path = data.get("init_main_from_path")
    if path is None or hasattr(sys, "ps1"):
        return True
    stem = os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122
    return stem == "ipython" or not os.path.exists(path)  # noqa: PTH110


def _reach(module_name: str, qualname: str) -> Any:
    """Return what a name means here, None if nothing."""
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _is_of_main_file(obj: Any) -> bool:
    """Tell whether a function or class was read from the file of ``__main__``."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None:
        return False
    members = [obj, *vars(obj).values()] if isinstance(obj, type) else [obj]
    codes = (getattr(member, "__code__", None) for member in members)
    return any(code is not None and code.co_filename == path for code in codes)


def _has_name(obj: Any, unknown_main: bool) -> bool:
    """Tell whether something of ``__main__`` goes by name."""
    if _reach("__main__", obj.__qualname__) is not obj:
        return False
    if not unknown_main:
        return True
    if not context.has_strangers():
        name = obj.__qualname__.partition(".")[0]
        return name in _known_to_forks and _known_to_forks[name] == _serial_in_main(
            name
        )
    # In an interactive session after a script, the child has what the script had.
    from . import _main

    return "init_main_from_path" in _main.describe() and _is_of_main_file(obj)


# ---- What forked processes have in common ----

# By number, because a metaclass may compare as it likes. An address may be used again,
# a serial is not; it is given at the first fork that the object lives to see.
_serials: dict[int, tuple[weakref.ref[Any], bytes]] = {}
# The functions and classes of ``__main__`` that have been the same at every fork.
_known_to_forks: dict[str, bytes] = {}
_has_forked = False


def note_fork() -> None:
    """Remember what a child that is about to be forked has in its ``__main__``."""
    global _has_forked, _known_to_forks  # noqa: PLW0603
    names = dict(_definitions())
    for number, (reference, _) in list(_serials.items()):
        if reference() is None:
            _serials.pop(number, None)
    for obj in names.values():
        if _serial_of(obj) is None:
            _serials[id(obj)] = weakref.ref(obj), os.urandom(12)
    serials = {name: _serials[id(obj)][1] for name, obj in names.items()}
    if _has_forked:
        serials = {
            name: serial
            for name, serial in serials.items()
            if _known_to_forks.get(name) == serial
        }
    _known_to_forks = serials
    _has_forked = True


def forks_know_main() -> bool:
    """Tell whether every function and class of ``__main__`` is in all forked children."""
    return all(
        _known_to_forks.get(name, b"") == _serial_of(obj)
        for name, obj in _definitions()
    )


def _definitions() -> list[tuple[str, Any]]:
    return [
        (name, obj)
        for name, obj in list(vars(sys.modules["__main__"]).items())
        if isinstance(obj, (types.FunctionType, type)) and obj.__module__ == "__main__"
    ]


def _serial_of(obj: Any) -> bytes | None:
    reference, serial = _serials.get(id(obj), (None, None))
    return serial if reference is not None and reference() is obj else None


def _serial_in_main(name: str) -> bytes | None:
    return _serial_of(_reach("__main__", name))


# ---- What is here already ----

# Classes that went out, and those that came in and are complete. By number, because a
# metaclass may compare as it likes.
_complete: weakref.WeakValueDictionary[int, type] = weakref.WeakValueDictionary()


def _find_or_make(
    serial: bytes, qualname: str, make: Callable[..., Any], args: Any
) -> Any:
    """Return our own of what the message describes if we have it, else make it."""
    if _serial_in_main(qualname.partition(".")[0]) == serial:
        own = _reach("__main__", qualname)
        if own is not None:
            if isinstance(own, type):
                _complete[id(own)] = own
            return own
    return make(*args)


def _complete_class(cls: type, how: tuple[Callable[[Any, Any], Any], Any]) -> None:
    """Give a class its attributes, unless it was here before its message came."""
    if _complete.get(id(cls)) is cls:
        return
    setter, state = how
    setter(cls, state)
    _complete[id(cls)] = cls


def _complete_function(
    function: types.FunctionType, how: tuple[Callable[[Any, Any], Any], Any]
) -> None:
    """Give a function its attributes, unless it is our own."""
    if function.__globals__ is not vars(sys.modules["__main__"]):
        setter, state = how
        setter(function, state)


# ---- The pickler ----


class _ByValue:
    """What is put in front of cloudpickle's pickler and the one in use."""

    _base: Any
    # The pickler's own slot, which an attribute of cloudpickle's class hides.
    dispatch_table: Any = vars(pickle.Pickler)["dispatch_table"]

    def __init__(
        self,
        file: Any,
        buffer_callback: Any = None,
        *,
        unknown_main: bool = False,
        elsewhere: bool = False,
    ) -> None:
        self._unknown_main = unknown_main
        self._elsewhere = elsewhere
        if buffer_callback is None:
            self._base.__init__(self, file, 5)
        else:
            self._base.__init__(self, file, 5, True, buffer_callback)  # noqa: FBT003
        self.dispatch_table = {**_reducers(), **self.dispatch_table}
        # What cloudpickle's constructor does besides.
        self.globals_ref: dict[int, dict[str, Any]] = {}
        self.proto = 5

    def reducer_override(self, obj: Any) -> Any:
        own = getattr(self._base, "reducer_override", None)
        if own is not None:
            reduced = own(self, obj)
            if reduced is not NotImplemented:
                return reduced
        is_class = issubclass(type(obj), type)
        if not is_class and type(obj) is not types.FunctionType:
            return NotImplemented
        if obj.__module__ == "__main__" and self._goes_by_name(obj):
            return NotImplemented
        reduced = super().reducer_override(obj)  # type: ignore[misc]
        if not isinstance(reduced, tuple) or len(reduced) != 6:
            return reduced
        make, args, state, _, _, setter = reduced
        if _reach("__main__", obj.__qualname__) is obj:
            serial = _serial_in_main(obj.__qualname__.partition(".")[0])
            if serial is not None:
                args = serial, obj.__qualname__, make, args
                make = _find_or_make
        complete: Callable[[Any, Any], None] = _complete_function
        if is_class:
            _complete[id(obj)] = obj
            complete = _complete_class
        return make, args, (setter, state), None, None, complete

    def _goes_by_name(self, obj: Any) -> bool:
        return not self._elsewhere and _has_name(obj, self._unknown_main)


@functools.cache
def _reducers() -> dict[Any, Any]:
    reducers = dict(_cloudpickle().Pickler.dispatch_table)
    for kind in (io.TextIOWrapper, memoryview):
        reducers.pop(kind, None)
    return reducers


@functools.cache
def pickler_class(base: type) -> Any:
    """Return the pickler by value over a pickler class; None if there can be none.

    Its constructor takes the file, a buffer callback or None, whether the names of
    ``__main__`` mean nothing to a receiver that was not forked from here, and whether the
    receiver is ``elsewhere``, where they mean nothing in any case.
    """
    cloudpickle = _cloudpickle()
    if cloudpickle is None:
        return None
    try:
        return type(
            "ByValuePickler", (_ByValue, cloudpickle.Pickler, base), {"_base": base}
        )
    except TypeError:  # not a pickler in C
        return None
