# SPDX-License-Identifier: MIT
"""The program in examples/embedding, which has Python inside of it, is built and runs."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import sidestep

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "embedding" / "host.c"


def flags():
    """What a program needs to have this Python inside of it; or skip."""
    version = sysconfig.get_python_version()
    config = Path(sys.base_prefix, "bin", f"python{version}-config")
    if not config.exists():
        pytest.skip(f"there is no {config}: Python's headers are not installed")
    command = [config, "--cflags", "--ldflags", "--embed"]
    return subprocess.check_output(command, text=True).split()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("embedding") / "host"
    command = [compiler, "-Werror", SOURCE, *flags(), "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find -lpython" in done.stderr:
        pytest.skip("this Python has no library to be embedded")
    assert done.returncode == 0, done.stderr
    return program


def test_children_are_the_program_itself(host):
    done = subprocess.run(
        [host],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "PYTHONHOME": sys.base_prefix,
            "PYTHONPATH": str(Path(sidestep.__file__).parents[1]),
            "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"),
        },
    )
    assert done.stdout.splitlines() == [
        "spawn [0, 1, 4, 9, 16]",
        "forkserver [0, 1, 4, 9, 16]",
    ], done.stderr
    assert done.stderr == ""
