# SPDX-License-Identifier: MIT
"""What the fork server imports before its first child, and how its owner follows that.

The server says in a pipe what it is about to import, one line each, and closes the pipe
when all is imported. So the owner can tell which module takes too long, which one ended
the server, and what was raised. The line of an error begins with ``!``.
"""

from __future__ import annotations

import os

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


# ---- Owner ----

#: How long the server may take to begin, at least, in seconds: its own start is not the
#: modules' fault, and takes long on a machine that is busy.
_BEGIN_SECONDS = 60.0


class Watch:
    """What the server says of its imports, for the process that started it."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._fd = self.theirs = -1
        self._fd, self.theirs = os.pipe()
        self._module = self.error = ""

    def close(self) -> None:
        """Listen no more."""
        self.started()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = close

    def started(self) -> None:
        """Close the server's end, which it has now or never will."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def wait(self) -> None:
        """Wait until all is imported, or the server is dead."""
        while self._fd >= 0:
            limit = self._timeout
            if limit is not None and not self._module:
                limit = max(limit, _BEGIN_SECONDS)
            if not _core.process_wait_fd(self._fd, limit):
                what = (
                    f"imported {self._module!r}" if self._module else "begun to import"
                )
                raise TimeoutError(
                    f"the fork server has not {what} within {limit:g} seconds; "
                    "set_forkserver_preload() takes a timeout"
                )
            if said := os.read(self._fd, 1 << 16):
                self._take(said)
            else:
                self.close()

    def _take(self, said: bytes) -> None:
        # A line comes whole: it is short, and written at once.
        for line in said.decode("utf-8", "replace").splitlines():
            if line.startswith("!"):
                self.error = line[1:]
            else:
                self._module = line

    def failure(self) -> str:
        """Say what has ended the server, "" if that was no module."""
        if self.error:
            return f"a preloaded module cannot be imported: {self.error}"
        if self._module:
            return f"it was importing {self._module!r}"
        return ""


# ---- Server ----


def preload(
    names: Iterable[str], main: dict[str, str] | None, on_error: str, report_fd: int
) -> None:
    """Import the modules; with a report to the owner, whose pipe is closed in the end."""
    os.set_inheritable(report_fd, False)  # noqa: FBT003
    with_threads = []
    try:
        for name in names:
            os.write(report_fd, f"{name}\n".encode())
            before = _count_threads()
            try:
                _import(name, main)
            except (Exception, SystemExit) as error:
                if on_error == "fail":
                    _tell(report_fd, name, error)
                    raise
                _warn_of_error(name, error, on_error)
            if _count_threads() > before:
                with_threads.append(name)
        if with_threads and _keeps_threads():
            _warn_of_threads(with_threads)
        os.write(report_fd, b"\n")
    except KeyboardInterrupt:
        # Ctrl-C is the owner's to report: it waits for us.
        os._exit(1)
    finally:
        os.close(report_fd)


def _import(name: str, main: dict[str, str] | None) -> None:
    if name != "__main__":
        __import__(name)
    elif main is not None:
        from . import _main

        _main.stand_in(main)
        _main.load()


def _describe(name: str, error: BaseException) -> str:
    return f"{name!r}: {type(error).__name__}: {error}"


def _tell(report_fd: int, name: str, error: BaseException) -> None:
    line = " ".join(_describe(name, error).split())[:1000]
    os.write(report_fd, f"!{line}\n".encode("utf-8", "replace"))


def _warn_of_error(name: str, error: BaseException, on_error: str) -> None:
    if on_error != "warn":
        return
    import warnings

    text = f"Failed to preload module {name!r}: {error}"
    if isinstance(error, SystemExit):
        text = f"Failed to preload module {name!r}: it calls sys.exit({error.code!r})"
    warnings.warn(text, ImportWarning, stacklevel=1)


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are wanted


def _keeps_threads() -> bool:
    """Whether threads are left that do not end when the process forks."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return _count_threads() > 1


def _warn_of_threads(names: list[str]) -> None:
    import warnings

    which = ", ".join(map(repr, names))
    warnings.warn(
        f"preloading {which} has started threads: no child has them, and the fork "
        "server is slower with them",
        RuntimeWarning,
        stacklevel=1,
    )
