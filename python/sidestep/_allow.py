# SPDX-License-Identifier: MIT
"""Unpickling what a list allows, and nothing else.

For peers that have the key and are yet not to run whatever they like. A pickle names
functions and classes, which unpickling imports and calls; here a name that the list
does not have is refused before anything is imported.

Three things beyond the look at names, each because a list of names alone is fooled:

* a name with dots may lead from an allowed module to another (``mine`` imports ``os``:
  ``mine``, ``os.system``), so what a name gives must come from an allowed module, too;
* unpickling also sets attributes (``BUILD``), of classes and functions as well: that is
  refused, or a peer could change what an allowed class does for everybody;
* an exception from a manager is a pickle inside a pickle: the inner one is read with
  the same list.

Pickles that name nothing, which is plain data, go the fast way. For the others it is
the pickler written in Python, where ``BUILD`` can be watched.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import io
import pickle
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, ClassVar

__all__ = ["AllowList"]

#: Builtins that hold data and do nothing, besides the exceptions.
_PLAIN = (
    "bool", "int", "float", "complex", "str", "bytes", "bytearray", "list", "tuple",
    "dict", "set", "frozenset", "range", "slice", "object",
)  # fmt: skip

#: What unpickling must not change, for everybody uses it.
_SHARED = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
)


class _NamesSomething(Exception):  # noqa: N818 - nobody but us sees it
    pass


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _NamesSomething


@functools.cache
def _always() -> frozenset[tuple[str, str]]:
    """Return the names that every list has: plain data, and errors."""
    names = {("builtins", name) for name in _PLAIN}
    for name, value in vars(builtins).items():
        if isinstance(value, type) and issubclass(value, Exception):
            names.add(("builtins", name))
    # What replies of managers are made of.
    names.add((f"{__package__}._manager_wire", "Token"))
    # An item of a queue of a cluster context: bytes, which who gets them unpickles, by
    # its own list if it has one.
    names.add((f"{__package__}.cluster.shared", "_Packed"))
    names.add((f"{__package__}._remote", "Quoted"))
    names.add((f"{__package__}._remote", "MaybeEncodingError"))
    names.add((f"{__package__}._remote", "RemoteTraceback"))
    return frozenset(names)


class AllowList:
    """Types, functions and modules that a pickle may name.

    An entry is a class or a function, which is allowed as itself; ``"package.module"``,
    which allows the classes and functions that are defined there or below; or
    ``"package.module:name"``. Numbers, text, bytes, the built-in containers and the
    built-in exceptions are allowed always.

    Raises TypeError for an entry that is none of these.
    """

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        self._entries = tuple(entries)
        self._names: set[Any] = set(_always())
        self._modules: set[str] = set()
        for entry in self._entries:
            self._add(entry)

    def _add(self, entry: Any) -> None:
        if isinstance(entry, str):
            module, colon, name = entry.partition(":")
            if not module or (colon and not name):
                raise ValueError(f"allow: {entry!r} is no 'module' or 'module:name'")
            if colon:
                self._names.add((module, name))
            else:
                self._modules.add(module)
            return
        place = tuple(
            getattr(entry, attribute, None)
            for attribute in ("__module__", "__qualname__")
        )
        if not all(isinstance(part, str) for part in place):
            raise TypeError(
                f"allow: {entry!r} is neither a class or function nor the name of a "
                "module"
            )
        self._names.add(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._entries,)

    def __repr__(self) -> str:
        return f"AllowList({list(self._entries)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllowList) and self._entries == other._entries

    def __hash__(self) -> int:
        return hash(self._entries)

    # ---- Looking up ----

    def find(self, module: str, name: str) -> Any:
        """Return what a pickle names; UnpicklingError when it is not allowed."""
        if (module, name) == (f"{__package__}._remote", "_unpack"):
            return self._unpack_error
        is_exact = (module, name) in self._names
        if not is_exact and not self._has_module(module):
            raise self._refusal(module, name)
        __import__(module)
        found: Any = sys.modules[module]
        for part in name.split("."):
            if part.startswith("<"):
                raise self._refusal(module, name)
            found = getattr(found, part)
        if not is_exact and not self._comes_from_allowed(found):
            raise self._refusal(module, name)
        return found

    def has(self, place: str) -> bool:
        """Tell whether ``"package.module:name"`` is one of the names of the list."""
        return tuple(place.split(":")) in self._names

    def _has_module(self, module: object) -> bool:
        if not isinstance(module, str):
            return False
        while module:
            if module in self._modules:
                return True
            module = module.rpartition(".")[0]
        return False

    def _comes_from_allowed(self, found: Any) -> bool:
        # Only these know where they come from; anything else is data of the module,
        # which a pickle could change.
        kinds = (type, types.FunctionType, types.BuiltinFunctionType)
        return isinstance(found, kinds) and self._has_module(found.__module__)

    @staticmethod
    def _refusal(module: str, name: str) -> pickle.UnpicklingError:
        return pickle.UnpicklingError(
            f"{module}.{name} is not in allow=[...], so what was sent is not unpickled; "
            f"'{module}:{name}' in the list would allow it"
        )

    # ---- Unpickling ----

    def loads(self, data: Any, buffers: Sequence[Any] | None = None) -> Any:
        """Return the object of a pickle, if it names nothing that is not allowed."""
        # A number may stand for a name that was looked up before: who uses these
        # (copyreg.add_extension) goes the slow way always.
        if not copyreg._inverted_registry:  # type: ignore[attr-defined]
            try:
                return _PlainUnpickler(io.BytesIO(data), buffers=buffers).load()
            except _NamesSomething:
                pass
        return _Unpickler(io.BytesIO(data), self.find, buffers).load()

    def _unpack_error(
        self, text: str, value: str, data: bytes | None, reason: str
    ) -> BaseException:
        from . import _remote

        return _remote._unpack(text, value, data, reason, self.loads)


#: The unpickler that is written in Python; of its inside the stubs know nothing.
_Base: Any = pickle._Unpickler


class _Unpickler(_Base):  # type: ignore[misc]
    """Asks whether a name is allowed, and changes nothing that is shared."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Base.dispatch)

    def __init__(
        self,
        file: io.BytesIO,
        find: Callable[[str, str], Any],
        buffers: Sequence[Any] | None,
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._find = find

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names."""
        return self._find(module, name)

    def get_extension(self, code: int) -> None:
        """Look up what a number stands for, whoever has looked it up before."""
        key = copyreg._inverted_registry.get(code)  # type: ignore[attr-defined]
        if key is None:
            raise pickle.UnpicklingError(f"unregistered extension code {code}")
        self.append(self.find_class(*key))

    def _load_build(self) -> None:
        target = self.stack[-2]
        if isinstance(target, _SHARED):
            raise pickle.UnpicklingError(
                f"what was sent would change {target!r}; with allow= that is refused"
            )
        super().load_build()

    dispatch[pickle.BUILD[0]] = _load_build


def allow_list(allow: Iterable[Any] | AllowList | None) -> AllowList | None:
    """Return the list for an ``allow=``; None, which is no list, stays None."""
    if allow is None or isinstance(allow, AllowList):
        return allow
    if isinstance(allow, str):
        raise TypeError("allow must be a list; of one module: allow=['module']")
    return AllowList(allow)
