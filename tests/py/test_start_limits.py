# SPDX-License-Identifier: MIT
"""Starts where there is no room: an error that names the limit, and nothing is left."""

import subprocess
import sys
from pathlib import Path

import pytest
import stranger

PROGRAM = Path(__file__).with_name("limits.py")
METHODS = ["fork", "spawn", "forkserver"]
SLOWER = [
    pytest.param(method, what, marks=pytest.mark.slow)
    for method in METHODS
    for what in ("start_all", "pool")
]
CASES = [*((method, "process") for method in METHODS), *SLOWER]


def reasons(*command):
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("method", "what"), [*CASES, ("forkserver", "warm")])
def test_no_room_for_descriptors(method, what):
    for reason in reasons(sys.executable, PROGRAM, method, what, "files"):
        # Python's own calls, of which a pool makes one, know no more than this.
        assert "ulimit -n" in reason or reason == "[Errno 24] Too many open files"


@pytest.mark.parametrize(("method", "what"), CASES)
def test_no_room_for_processes(method, what, tmp_path):
    launcher = stranger.launcher(tmp_path)
    for reason in reasons(
        *launcher, sys.executable, PROGRAM, method, what, "processes"
    ):
        assert "ulimit -u" in reason
