# SPDX-License-Identifier: MIT
"""Every crash point is some test's.

    coverage.py CORE_SRC TEST...

The tests kill at the points they name, one by one ("sweep_claimed") or by prefix ("ring_"), and
fail at one that was never reached; this program fails when there is a point that
none of them names, or that two places of the core share.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path


def points_in(core: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for source in sorted(core.rglob("*.c")):
        found.update(re.findall(r"SST_CRASHPOINT\((\w+)\)", source.read_text()))
    return found


def names_in(tests: list[Path]) -> set[str]:
    names: set[str] = set()
    for test in tests:
        names.update(re.findall(r'"(\w+)"', test.read_text()))
    return names


def main() -> int:
    core, tests = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    points, names = points_in(core), names_in(tests)
    prefixes = tuple(name for name in names if name.endswith("_"))
    failed = 0
    for point, count in sorted(points.items()):
        if point not in names and not point.startswith(prefixes):
            print(f"no test dies at {point}")
            failed += 1
        elif count > 1:
            print(f"{count} places are called {point}")
            failed += 1
    print(f"{len(points) - failed} passed, {failed} failed")
    return int(failed != 0 or not points)


if __name__ == "__main__":
    sys.exit(main())
