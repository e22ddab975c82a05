# SPDX-License-Identifier: MIT
"""Starting a child on Windows: the stdlib has this module, so the name exists."""

from __future__ import annotations

import sys

__all__: list[str] = []

if sys.platform != "win32":
    raise ImportError("popen_spawn_win32 is for Windows only")
