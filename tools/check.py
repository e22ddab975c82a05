#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Set up and run sidestep's checks.

    python3 tools/check.py            fast: what a change needs, a few minutes
    python3 tools/check.py full       what .ci/run runs, about forty minutes on two cores
    python3 tools/check.py soak       the random tests again and again, until interrupted

Everything it makes is under build/check; each stage's output is in build/check/logs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine

if TYPE_CHECKING:
    import workshop

# What each level runs, by the level that a stage has.
LEVELS = {"fast": {"fast", "fast only"}, "full": {"fast", "full"}, "soak": {"soak"}}


def restart_with_newer_python() -> None:
    """The checks need Python 3.11; find one when called with something older."""
    if sys.version_info < machine.OLDEST:
        import os

        path = machine.require_python().path
        os.execv(path, [path, *sys.argv])


def run(chosen: list[workshop.Stage], *, endless: bool) -> workshop.Outcome:
    """Run the stages once, or again and again until one fails or Ctrl-C."""
    import signal

    import workshop

    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as Ctrl-C: end the children
    shop = workshop.Workshop()
    total = workshop.run_stages(shop, chosen)
    try:
        while endless and not total.failed:
            total.add(workshop.run_stages(shop, chosen))
    except KeyboardInterrupt:
        print("interrupted")
    return total


def main() -> int:
    import argparse

    import stages

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("level", nargs="?", default="fast", choices=list(LEVELS))
    parser.add_argument("--only", help="a comma list of stages, of any level")
    parser.add_argument("--list", action="store_true", help="only name the stages")
    options = parser.parse_args()

    if options.list:
        for stage in stages.STAGES:
            print(f"{stage.name:14} {stage.level}")
        return 0
    only = set(options.only.split(",")) if options.only else None
    unknown = (only or set()) - {stage.name for stage in stages.STAGES}
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; see --list")
    if only is not None:
        chosen = [stage for stage in stages.STAGES if stage.name in only]
    else:
        chosen = [
            stage for stage in stages.STAGES if stage.level in LEVELS[options.level]
        ]

    total = run(chosen, endless=options.level == "soak" and only is None)
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    restart_with_newer_python()
    sys.exit(main())
