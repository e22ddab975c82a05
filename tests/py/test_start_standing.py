# SPDX-License-Identifier: MIT
"""Who changes its identity, limits or surroundings gets children that have them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("standing.py")
METHODS = ["fork", "spawn", "forkserver"]
BY_ANYBODY = [
    "environment", "mask", "nice", "policy", "cpus", "cwd", "umask", "limits", "session",
]  # fmt: skip
BY_ROOT = ["groups", "gid"]
BY_ROOT_WITHOUT_RETURN = ["uid", "effective_uid"]
STRANGER = 1000


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


def closed_folders():
    """Find the folders on the way to Python and to the test that others cannot enter."""
    wanted = {sys.executable, sys.prefix, sys.base_prefix, PROGRAM}
    wanted |= {os.path.realpath(path) for path in wanted}
    for path in map(Path, wanted):
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 1:
                yield folder, path.relative_to(folder).parts[0]
                break


def open_up(tmp_path):
    """Say how the folders become ones that anybody can enter, in a mount name space."""
    lines = []
    for number, (folder, inner) in enumerate(sorted(set(closed_folders()))):
        kept = tmp_path / str(number)
        kept.mkdir()
        lines += [
            f"mount --bind '{folder / inner}' '{kept}'",
            f"mount -t tmpfs -o mode=755 none '{folder}'",
            f"mkdir '{folder / inner}'",
            f"mount --move '{kept}' '{folder / inner}'",
        ]
    return "\n".join(["set -e", *lines, 'exec "$@"'])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", BY_ROOT_WITHOUT_RETURN)
def test_children_of_who_is_no_longer_root(method, change, tmp_path):
    """It has no power over its zygote any more, and cannot go where it is again."""
    launcher = []
    if any(closed_folders()):
        launcher = ["unshare", "-m", "sh", "-c", open_up(tmp_path), "sh"]
        probe = [*launcher[:-2], "true"]
        if (
            shutil.which("unshare") is None
            or subprocess.run(probe, check=False).returncode
        ):
            pytest.skip("Python is where only root can go, and no mount is allowed")
    run(*launcher, sys.executable, PROGRAM, method, change)
