# SPDX-License-Identifier: MIT
"""`_core.pyi` says of the binding what the binding says of itself."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ALLOWED = Path(__file__).parents[2] / "tools" / "stubtest.txt"


@pytest.mark.slow
def test_the_stub_agrees_with_the_module(tmp_path):
    pytest.importorskip("mypy")
    modules = ["sidestep._core"]
    if importlib.util.find_spec("sidestep._tls") is not None:
        modules.append("sidestep._tls")
    command = [sys.executable, "-m", "mypy.stubtest", *modules]
    command += ["--ignore-unused-allowlist", "--allowlist", str(ALLOWED)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
