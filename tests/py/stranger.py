# SPDX-License-Identifier: MIT
"""Running a test's program as somebody who is not root, wherever Python is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Has no other process, whatever else runs: limits of processes count those of a user.
UID = 20_000 + os.getpid() % 40_000


def closed_folders():
    """Find the folders on the way to Python and the tests that others cannot enter."""
    wanted = {sys.executable, sys.prefix, sys.base_prefix, __file__}
    wanted |= {os.path.realpath(path) for path in wanted}
    for path in map(Path, wanted):
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 1:
                yield folder, path.relative_to(folder).parts[0]
                break


def opening(tmp_path):
    """Say how those become ones that anybody can enter, in a mount name space."""
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


def launcher(tmp_path):
    """Return what to put before a command that drops its privileges; or skip."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    if not any(closed_folders()):
        return []
    unshare = ["unshare", "-m", "sh", "-c"]
    allowed = shutil.which("unshare") and not subprocess.call([*unshare, "true"])
    if not allowed:
        pytest.skip("Python is where only root can go, and no mount is allowed")
    return [*unshare, opening(tmp_path), "sh"]
