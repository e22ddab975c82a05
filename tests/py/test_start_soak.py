# SPDX-License-Identifier: MIT
"""The short form of `tests/stress/starts.py`: many starts, and nothing grows."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "stress" / "starts.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "starts"), [("fork", 600), ("forkserver", 600), ("spawn", 60)]
)
def test_nothing_grows(method, starts):
    command = [sys.executable, str(SOAK), "--starts", str(starts), "--method", method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
