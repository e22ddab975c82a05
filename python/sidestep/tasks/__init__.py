# SPDX-License-Identifier: MIT
"""Tasks on other machines: pools and futures over a manager, and who works for them.

``manager.submit(f, ...)`` and ``sidestep.Pool(cluster=manager)`` have a manager's server
do calls, in processes of its own and in those of all who `serve` it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ServeError", "VersionMismatchError", "read_key", "serve"]

_WHERE = {
    "ServeError": "service",
    "VersionMismatchError": "broker",
    "read_key": "service",
    "serve": "service",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a client needs no workers' code, nor the reverse."""
    if name in _WHERE:
        from importlib import import_module

        module = import_module(f"{__name__}.{_WHERE[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
