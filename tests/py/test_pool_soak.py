# SPDX-License-Identifier: MIT
"""The short form of `tests/stress/pool_kills.py`: workers killed under load."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "stress" / "pool_kills.py"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kills"), [("fork", 40), ("forkserver", 10)])
def test_workers_killed_under_load(method, kills):
    command = [sys.executable, str(SOAK), "--kills", str(kills), "--method", method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
