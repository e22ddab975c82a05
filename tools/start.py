#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Set sidestep up in this checkout and show it at work.

Makes .venv, builds and installs sidestep there, runs an unmodified multiprocessing program
on it, and ends with PEP 371's benchmarks on this machine. About two minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine

VENV = machine.ROOT / ".venv"
PROGRAM = "examples/python/word_count.py"
BENCHMARKS = "bench/pep371/run_benchmarks.py"


def say(text: str) -> None:
    print("\n== " + text, flush=True)


def run(*command: str) -> None:
    """Run a command of the tour; its failure ends the tour with its exit code."""
    print("$ " + " ".join(command), flush=True)
    code = subprocess.run(command, cwd=str(machine.ROOT), check=False).returncode
    if code != 0:
        sys.exit(code if code > 0 else 1)


def install(python: str) -> None:
    """Build and install, unless what is installed was made from the very same files."""
    stamp = VENV / "sidestep.stamp"
    wanted = machine.build_inputs_hash()
    if stamp.exists() and stamp.read_text() == wanted:
        print("sidestep is installed and up to date")
        return
    run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", ".")
    stamp.write_text(wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--no-benchmarks", action="store_true", help="stop before the tables"
    )
    options = parser.parse_args()

    begin = time.monotonic()
    say("a virtual environment in .venv")
    found = machine.require_python()
    python = str(machine.make_venv(VENV, found).relative_to(machine.ROOT))
    print("Python " + found.version + ", " + str(machine.find_compiler()))
    say("building and installing sidestep (half a minute)")
    install(python)
    say("an unmodified multiprocessing program, run on sidestep")
    run(python, "-m", "sidestep", PROGRAM)
    if not options.no_benchmarks:
        say("PEP 371's benchmarks (about a minute)")
        run(python, BENCHMARKS, "--quick")
    print("\ndone in %.0f seconds. Yours: .venv/bin/python -m sidestep PROGRAM.py"
          % (time.monotonic() - begin))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
