# SPDX-License-Identifier: MIT
"""Let another package's name mean this one: ``multiprocessing.X is sidestep.X``.

``python -m sidestep`` installs it before the program runs, and the preparation data
of spawn and forkserver tell a child to do the same. The modules are the very same
objects, so classes, pickles and patches agree whichever name was used. Only this
interpreter and the processes that sidestep starts are concerned: a program that the
user starts with ``subprocess`` gets the plain standard library.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

__all__ = ["AliasFinder", "JoblibFinder", "install", "is_installed"]

_HERE = __name__.rpartition(".")[0]


class AliasFinder:
    """Meta-path finder and loader that answers ``alias[.x]`` with ``target[.x]``."""

    def __init__(self, alias: str, target: str) -> None:
        self.alias = alias
        self.target = target

    def _real_spec(self, fullname: str) -> ModuleSpec | None:
        from importlib.util import find_spec  # slow to import

        return find_spec(self._real_name(fullname))

    def _real_name(self, fullname: str) -> str:
        return self.target + fullname[len(self.alias) :]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return a spec for the alias or a submodule of it, None for the rest."""
        if fullname != self.alias and not fullname.startswith(self.alias + "."):
            return None
        real = self._real_spec(fullname)
        if real is None:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        spec = ModuleSpec(fullname, self, origin=real.origin)  # type: ignore[arg-type]
        spec.submodule_search_locations = real.submodule_search_locations
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the real module, imported under its own name."""
        module = import_module(self._real_name(spec.name))
        # The import system puts the alias's spec into the module it gets.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back; it has run already."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state

    def get_code(self, fullname: str) -> object:
        """Return the real module's code: ``-m multiprocessing.x`` asks for it."""
        spec = self._real_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        return spec.loader.get_code(spec.name)  # type: ignore[attr-defined]


class JoblibFinder:
    """Meta-path finder that has our backend put in loky's place once joblib is there."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of ``joblib.parallel``, with more to do, None for the rest."""
        if fullname != "joblib.parallel":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        loader: Any = spec.loader if spec is not None else None
        if loader is None:
            return spec
        execute = loader.exec_module

        def execute_and_replace(module: ModuleType) -> None:
            execute(module)
            try:
                import_module(_HERE + ".joblib").replace_loky()
            except ImportError:
                pass  # too old a joblib for us: it goes its own way

        loader.exec_module = execute_and_replace
        return spec


def install(alias: str = "multiprocessing", target: str = _HERE) -> None:
    """Answer ``alias`` and its submodules with ``target`` from now on."""
    if is_installed(alias):
        return
    sys.meta_path.insert(0, AliasFinder(alias, target))
    if alias == _HERE:  # the fallback: our own few modules are running now
        return
    for name in [n for n in sys.modules if n == alias or n.startswith(alias + ".")]:
        del sys.modules[name]
    import_module(alias)
    if alias == "multiprocessing":
        sys.meta_path.insert(0, JoblibFinder())


def is_installed(alias: str = "multiprocessing") -> bool:
    """Tell whether the name is answered by another package."""
    return any(
        isinstance(finder, AliasFinder) and finder.alias == alias
        for finder in sys.meta_path
    )
