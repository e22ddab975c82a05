# SPDX-License-Identifier: MIT
"""The parent's ``__main__`` in a child that was not forked.

It is run again under the name ``__mp_main__``, as in the standard library, but not
before somebody looks for something in it: a pickle that names one of its functions or
classes, or code that imports ``__main__``. Until then a module that knows where to find
it stands in its place. To run it may take longer than all else that a child does, and
a target of another module does not need it.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import types

from . import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["describe", "load", "old_main_modules", "stand_in"]

# What people ask every module for, and never mean a program's own.
_ASKED_OF_ALL = frozenset({"__path__", "__warningregistry__", "__wrapped__"})

# The modules whose place was taken: they must not go while their functions run.
old_main_modules: list[types.ModuleType] = []


def describe() -> dict[str, str]:
    """Say how a child gets the names of ``__main__``: by module name, path, or not."""
    main_module = sys.modules["__main__"]
    name = getattr(main_module.__spec__, "name", None)
    if name is not None:
        return {"init_main_from_name": name}
    path = getattr(main_module, "__file__", None)
    if path is None or path == "<stdin>":
        return {}
    if process.ORIGINAL_DIR is not None:
        path = os.path.join(process.ORIGINAL_DIR, path)  # noqa: PTH118
    return {"init_main_from_path": os.path.normpath(path)}


_dict_of: Callable[[types.ModuleType], dict[str, Any]] = vars(types.ModuleType)[
    "__dict__"
].__get__


class _StandIn(types.ModuleType):
    """In the place of ``__main__`` until somebody needs something of it."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        load()
        return _dict_of(self)

    def __getattr__(self, name: str) -> Any:
        if name not in _ASKED_OF_ALL:
            load()
            if name in (found := _dict_of(self)):
                return found[name]
        raise AttributeError(f"module '__main__' has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return list(self.__dict__)


# Guards what is below. Whoever needs ``__main__`` while it is being run by another
# thread waits; the thread that runs it sees it incomplete, as with any import.
_lock = threading.RLock()
_pending: tuple[_StandIn, Callable[[], dict[str, Any]]] | None = None
_is_running = False


def load() -> None:
    """Run ``__main__`` if it has not been."""
    global _pending, _is_running  # noqa: PLW0603
    with _lock:
        if _pending is None or _is_running:
            return
        module, run = _pending
        _is_running = True
        try:
            with inheriting():
                _dict_of(module).update(run())
            _pending = None
            module.__class__ = types.ModuleType  # type: ignore[assignment]
        finally:
            _is_running = False
            sys.modules["__main__"] = sys.modules["__mp_main__"] = module


class inheriting:  # noqa: N801 - it is used like a function
    """While the parent's ``__main__`` and the job are read no process may start."""

    def __enter__(self) -> None:
        self._process: Any = process.current_process()
        self._was = getattr(self._process, "_inheriting", False)
        self._process._inheriting = True  # type: ignore[attr-defined]

    def __exit__(self, *args: object) -> None:
        if not self._was:
            del self._process._inheriting


def stand_in(data: dict[str, str]) -> None:
    """Put a module that finds the parent's ``__main__`` in the place of ours."""
    if "init_main_from_name" in data:
        _stand_in_for_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _stand_in_for_path(data["init_main_from_path"])


def _stand_in_for_name(name: str) -> None:
    # __main__.py of packages, folders and archives is all "main only" code.
    if name == "__main__" or name.endswith(".__main__"):
        return
    # A child of the fork server may have it already.
    if getattr(sys.modules["__main__"].__spec__, "name", None) == name:
        return
    from importlib.machinery import ModuleSpec

    known = {"__spec__": ModuleSpec(name, None), "__package__": name.rpartition(".")[0]}
    _replace(known, lambda: _run_name(name))


def _stand_in_for_path(path: str) -> None:
    # IPython's launcher had no "if __name__ == '__main__'" for long.
    if os.path.splitext(os.path.basename(path))[0] == "ipython":  # noqa: PTH119, PTH122
        return
    if getattr(sys.modules["__main__"], "__file__", None) == path:
        return
    known = {"__file__": path, "__cached__": None, "__package__": ""}
    _replace(known, lambda: _run_path(path))


def _replace(known: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
    global _pending, _lock  # noqa: PLW0603
    module = _StandIn("__mp_main__")
    _dict_of(module).update(known)
    old_main_modules.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    _lock = threading.RLock()
    _pending = module, run


def _run_name(name: str) -> dict[str, Any]:
    import runpy

    return runpy.run_module(name, run_name="__mp_main__", alter_sys=True)


def _run_path(path: str) -> dict[str, Any]:
    """Do what ``runpy.run_path`` does; a plain script needs no runpy, which is slow."""
    if not (path.endswith(".py") and os.path.isfile(path)):  # noqa: PTH113
        import runpy

        return runpy.run_path(path, run_name="__mp_main__")
    with io.open_code(path) as source:
        code = compile(source.read(), path, "exec")
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(__file__=path, __cached__=None, __package__="")
    argv0, sys.argv[0] = sys.argv[0], path
    sys.modules["__mp_main__"] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - it is the program
    finally:
        sys.argv[0] = argv0
    return module.__dict__


if hasattr(os, "register_at_fork"):

    def _after_fork_in_child() -> None:
        global _lock, _is_running  # noqa: PLW0603
        _lock = threading.RLock()
        _is_running = False

    os.register_at_fork(after_in_child=_after_fork_in_child)
