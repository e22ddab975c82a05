#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a message, a lock and a process cost, against the standard library in the same run.

Each line is measured on both packages in turns, several rounds; the table shows the best
and the median of the rounds in microseconds, and how many times faster the best is than
the standard library's. The aims are those of the design. Times are of this machine and
this moment; the ratios travel better.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import statistics
import sys
from typing import Any

import rows


def measure(
    row: rows.Row, packages: list[str], rounds: int, scale: float
) -> dict[str, Any]:
    """Best and median in microseconds, by package."""
    count = max(2, int(row.count * scale))
    times: dict[str, list[float]] = {name: [] for name in packages}
    for _ in range(rounds):
        for name in packages:
            context = importlib.import_module(name).get_context(row.method)
            times[name].append(row.measure(context, count) * 1e6)
    return {
        name: {"min": min(values), "median": statistics.median(values)}
        for name, values in times.items()
    }


def line(row: rows.Row, result: dict[str, Any]) -> str:
    cells = [f"{row.name:36}"]
    for name in rows.PACKAGES:
        if name in result:
            cells.append(f"{result[name]['min']:11.2f} {result[name]['median']:11.2f}")
        else:
            cells.append(" " * 23)
    if len(result) == len(rows.PACKAGES):
        ratio = result["multiprocessing"]["min"] / result["sidestep"]["min"]
        cells.append(f"{ratio:8.1f}x")
    else:
        cells.append(" " * 9)
    cells.append(f"{row.aim:>9g}" if row.aim is not None else " " * 9)
    return " ".join(cells)


def main() -> int:
    options = rows.parser(__doc__, "a fifth").parse_args()
    rounds, scale = (3, 0.2) if options.quick else (options.rounds, 1.0)
    packages = options.packages.split(",")
    cpus = len(os.sched_getaffinity(0))
    print(
        f"microseconds, {rounds} rounds; Python {platform.python_version()}, {cpus} CPUs"
    )
    print(f"{'':36} {'multiprocessing':>23} {'sidestep':>23}")
    print(f"{'':36} {'best':>11} {'median':>11} {'best':>11} {'median':>11} "
          f"{'faster':>9} {'aim':>9}")  # fmt: skip
    results = {}
    for row in rows.ROWS:
        if re.search(options.only, row.name):
            results[row.name] = measure(row, packages, rounds, scale)
            print(line(row, results[row.name]), flush=True)
    if options.json:
        about = {
            "python": platform.python_version(),
            "cpus": cpus,
            "unit": "microseconds",
        }
        options.json.write_text(json.dumps({**about, "rows": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
