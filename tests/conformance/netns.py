# SPDX-License-Identifier: MIT
"""Programs of tests on hosts that are network namespaces of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unittest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import contextlib


def ip(*args: str) -> str:
    """Run `ip`; what it prints."""
    return subprocess.run(
        ["ip", *args], check=True, capture_output=True, text=True
    ).stdout


def main(
    case: type[unittest.TestCase], network: contextlib.AbstractContextManager[object]
) -> int:
    """Run a case's tests in a network, where one can be made; the exit code."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("0 passed, 0 failed, 1 skipped: root and ip make network namespaces")
        return 0
    try:
        with network:
            tests = unittest.TestLoader().loadTestsFromTestCase(case)
            result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(tests)
    except subprocess.CalledProcessError as error:
        print(f"0 passed, 0 failed, 1 skipped: {error.cmd}: {error.stderr.strip()}")
        return 0
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed, 0 skipped", flush=True)
    return 1 if failed or not result.testsRun else 0
