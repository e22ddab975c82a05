# SPDX-License-Identifier: MIT
"""Who changes its identity, limits or surroundings gets children that have them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import stranger

PROGRAM = Path(__file__).with_name("standing.py")
METHODS = ["fork", "spawn", "forkserver"]
BY_ANYBODY = [
    "environment", "mask", "nice", "policy", "cpus", "cwd", "umask", "limits", "session",
    "no_new_privileges", "filters",
]  # fmt: skip
BY_ROOT = ["groups", "gid", "name space"]
BY_ROOT_WITHOUT_RETURN = ["uid", "effective_uid"]


def run(*command):
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TZ": "UTC"},
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", BY_ANYBODY)
def test_children_are_as_their_parent_is_now(method, change):
    if change == "cpus" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU cannot be made fewer")
    run(sys.executable, PROGRAM, method, change)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", BY_ROOT)
def test_children_of_who_has_changed_groups(method, change):
    run(sys.executable, PROGRAM, method, change)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", BY_ROOT_WITHOUT_RETURN)
def test_children_of_who_is_no_longer_root(method, change, tmp_path):
    """It has no power over its zygote any more, and cannot go where it is again."""
    run(*stranger.launcher(tmp_path), sys.executable, PROGRAM, method, change)
