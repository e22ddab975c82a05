# SPDX-License-Identifier: MIT
"""`_core.pyi` says of the binding what the binding says of itself."""

import subprocess
import sys

import pytest

# The buffer protocol has names in Python only since 3.12; the stub has them always.
UNNAMED = [
    "sidestep._core.Block.__buffer__",
    "sidestep._core.Block.__release_buffer__",
    "sidestep._core.PickleFile.__buffer__",
]


@pytest.mark.slow
def test_the_stub_agrees_with_the_module(tmp_path):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy.stubtest", "sidestep._core"]
    if sys.version_info < (3, 12):
        allowed = tmp_path / "allowed"
        allowed.write_text("\n".join(UNNAMED))
        command += ["--ignore-unused-allowlist", "--allowlist", str(allowed)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
