# SPDX-License-Identifier: MIT
"""The only place that looks at the running Python's version and at the system."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "ATEXIT_IN_CHILDREN",
    "DEFAULT_START_METHOD",
    "MINIMUM_KERNEL",
    "MODULES_HAVE_ANNOTATIONS",
    "cpu_count_override",
    "fork_exec",
    "kernel_release",
    "unsupported_reason",
    "use_stdlib",
]

#: pidfd waits came with 5.4, the wake-up of a dying lock owner's waiters with 5.5.
MINIMUM_KERNEL = (5, 5)

#: Children run their ``atexit`` functions (gh-83856).
ATEXIT_IN_CHILDREN: bool = sys.version_info >= (3, 13)

#: Every module has an ``__annotations__`` from its beginning.
MODULES_HAVE_ANNOTATIONS: bool = sys.version_info < (3, 14)

#: How processes start unless told otherwise.
DEFAULT_START_METHOD: str = "forkserver" if sys.version_info >= (3, 14) else "fork"


def cpu_count_override() -> int | None:
    """Return the number that ``-X cpu_count`` or ``PYTHON_CPU_COUNT`` asks for."""
    text = sys._xoptions.get("cpu_count")
    if text is None and not sys.flags.ignore_environment:
        text = os.environ.get("PYTHON_CPU_COUNT")
    if not isinstance(text, str) or not text.isdecimal():
        return None
    return int(text) or None


def kernel_release() -> tuple[int, int]:
    """Return major and minor version of the running kernel, (0, 0) if unreadable."""
    parts = os.uname().release.split(".")
    try:
        return int(parts[0]), int("".join(c for c in parts[1] if c.isdigit()) or 0)
    except (IndexError, ValueError):
        return 0, 0


def unsupported_reason() -> str | None:
    """Say why the core cannot run here, None if it can."""
    if sys.platform != "linux":
        return f"sidestep's core runs on Linux only, this is {sys.platform}"
    if kernel_release() < MINIMUM_KERNEL:
        return (
            f"sidestep's core needs Linux {MINIMUM_KERNEL[0]}.{MINIMUM_KERNEL[1]} or "
            f"newer, this is {os.uname().release}"
        )
    return None


def use_stdlib(reason: str, namespace: dict[str, Any]) -> None:
    """Let the stdlib's package answer under our names, after one warning."""
    import importlib
    import warnings

    from . import _alias

    warnings.warn(
        f"{reason}; the standard library's multiprocessing answers instead",
        RuntimeWarning,
        stacklevel=4,
    )
    stdlib = importlib.import_module("multiprocessing")
    _alias.install("sidestep", "multiprocessing")
    for name in stdlib.__all__:
        namespace[name] = getattr(stdlib, name)
    namespace["__all__"] = list(stdlib.__all__)


def fork_exec(path: str | bytes, args: list[Any], passfds: tuple[int, ...]) -> int:
    """Start a program with only ``passfds`` and 0 to 2 open; returns its pid."""
    import _posixsubprocess
    import subprocess

    errpipe_read, errpipe_write = os.pipe()
    # Its arguments differ from version to version.
    fork_exec: Any = _posixsubprocess.fork_exec
    tail: tuple[Any, ...] = (False, False, -1, None, None, None, -1, None)
    if sys.version_info < (3, 14):
        tail += (subprocess._USE_VFORK,)
    try:
        pid: int = fork_exec(
            args,
            [os.fsencode(path)],
            True,  # noqa: FBT003 - close_fds
            passfds,
            None,
            None,
            *([-1] * 6),
            errpipe_read,
            errpipe_write,
            *tail,
        )
    finally:
        os.close(errpipe_read)
        os.close(errpipe_write)
    return pid
