# SPDX-License-Identifier: MIT
"""Every program in examples/python runs, and says the same on both packages."""

import subprocess
import sys
from pathlib import Path

import pytest

#: A pool that replaces a worker forks on a thread of its own, of which Python 3.12 warns.
FORKS = "ignore::DeprecationWarning:sidestep.popen_fork"
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "python"
PROGRAMS = sorted(FOLDER.glob("*.py"))


def needs_sidestep(path):
    return "sidestep" in {
        word
        for line in path.read_text().splitlines()
        if line.startswith(("import ", "from "))
        for word in line.replace(".", " ").split()
    }


def run(*command):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", FORKS, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


def test_there_are_examples():
    assert len(PROGRAMS) >= 6


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_runs_on_sidestep(path):
    assert run("-m", "sidestep", path)


@pytest.mark.parametrize(
    "path", [p for p in PROGRAMS if not needs_sidestep(p)], ids=lambda path: path.stem
)
def test_says_the_same_on_multiprocessing(path):
    assert run(path) == run("-m", "sidestep", path)
