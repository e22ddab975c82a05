#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Keep core/libsidestep.map equal to the functions of sidestep.h.

`tools/symbols.py --write` writes the version script; without it the differences are shown.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine

HEADER = "core/include/sidestep/sidestep.h"
MAP = "core/libsidestep.map"
SCRIPT = """\
/* SPDX-License-Identifier: MIT */
/* Every function of sidestep.h and nothing else; tools/symbols.py --write makes it. */
SIDESTEP_0 {{
    global:
{names}
    local:
        *;
}};
"""


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def header_functions(text: str) -> set[str]:
    """Names declared with SST_API."""
    declarations = re.findall(r"\bSST_API\b[^;]*;", without_comments(text))
    found = (
        re.search(r"\b(sst_\w+)\s*\(", declaration) for declaration in declarations
    )
    return {match.group(1) for match in found if match}


def mapped_functions(text: str) -> set[str]:
    return set(re.findall(r"^\s+(sst_\w+);", without_comments(text), re.MULTILINE))


def script(names: set[str]) -> str:
    return SCRIPT.format(names="\n".join(f"        {name};" for name in sorted(names)))


def main() -> int:
    header = header_functions((machine.ROOT / HEADER).read_text())
    path = machine.ROOT / MAP
    if "--write" in sys.argv[1:]:
        path.write_text(script(header))
        return 0
    differences = header ^ mapped_functions(path.read_text())
    for name in sorted(differences):
        print(name, "is in the", "header only" if name in header else "map only")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
