# SPDX-License-Identifier: MIT
"""``python -m sidestep``: run an unmodified program on sidestep.

The program is ``__main__``, finds ``multiprocessing`` and all its submodules answered
by this package, and sees the arguments, the path, the tracebacks and the exit code
that it would with plain ``python``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType, TracebackType

__all__ = ["main"]

USAGE = """\
usage: python -m sidestep [options] script.py [arguments]
       python -m sidestep [options] -m module [arguments]
       python -m sidestep [options] -c code [arguments]
       python -m sidestep serve [-h] HOST:PORT [options]

Run a program with `multiprocessing` answered by sidestep, in it, in every process it
starts through multiprocessing, and in concurrent.futures. With `serve`, work for a server
of tasks on another machine; `serve -h` tells more. (A script of that name is ./serve.)

options:
  -h, --help     show this text and exit
  -V, --version  show sidestep's version and exit
"""


def main(argv: list[str]) -> None:
    """Run what the arguments say."""
    if not argv or argv[0] in {"-h", "--help"}:
        sys.stdout.write(USAGE)
        raise SystemExit(0 if argv else 2)
    if argv[0] in {"-V", "--version"}:
        from . import __version__

        sys.stdout.write(f"sidestep {__version__}\n")
        return
    first, rest = argv[0], argv[1:]
    if first == "serve":
        from .tasks.service import main as serve

        raise SystemExit(serve(rest))
    if first in {"-m", "-c"} and not rest:
        _fail(f"Argument expected for the {first} option")
    if first.startswith("-") and first not in {"-m", "-c", "-"}:
        _fail(f"unknown option {first}\n{USAGE}")
    _install()
    if first == "-m":
        _run_module(rest[0], rest[1:])
    elif first == "-c":
        _run_code(rest[0], rest[1:])
    else:
        _run_path(first, rest)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"{sys.executable} -m sidestep: {message}\n")
    raise SystemExit(2)


def _install() -> None:
    import sidestep

    from . import _alias

    if sidestep._reason is None:  # else multiprocessing answers for us, not we for it
        _alias.install()


def _fresh_main() -> ModuleType:
    """Return a new ``__main__``, in place of this module."""
    import builtins
    from types import ModuleType

    from ._compat import MODULES_HAVE_ANNOTATIONS

    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    if MODULES_HAVE_ANNOTATIONS:
        module.__dict__.update(__annotations__={})
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module


def _set_first_path(directory: str) -> None:
    """Replace what ``-m sidestep`` put in front of the path."""
    if not sys.flags.safe_path:
        sys.path[0] = directory


def _run_module(name: str, args: list[str]) -> None:
    import runpy

    sys.argv[:] = ["-m", *args]
    _fresh_main()
    _shielded(lambda: runpy._run_module_as_main(name))  # type: ignore[attr-defined]


def _run_code(code: str, args: list[str]) -> None:
    sys.argv[:] = ["-c", *args]
    if not sys.flags.safe_path:
        sys.path[0] = ""
    module = _fresh_main()
    _execute(lambda: compile(code, "<string>", "exec", dont_inherit=True), module)


def _run_path(path: str, args: list[str]) -> None:
    sys.argv[:] = [path, *args]
    if path == "-":
        _set_first_path("")
        module = _fresh_main()
        source = sys.stdin.buffer.read()
        _execute(lambda: compile(source, "<stdin>", "exec", dont_inherit=True), module)
    elif _is_archive(path):
        import runpy

        sys.path.insert(0, path) if sys.flags.safe_path else _set_first_path(path)
        _fresh_main()
        _shielded(
            lambda: runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        )
    else:
        _run_script(path)


def _is_archive(path: str) -> bool:
    """Tell whether the path is a directory or a zip file with a main module."""
    if os.path.isdir(path):  # noqa: PTH112 - pathlib is slow to import
        return True
    import zipimport

    try:
        zipimport.zipimporter(path)
    except ImportError:
        return False
    return True


def _run_script(path: str) -> None:
    from importlib.machinery import SourceFileLoader

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            source = file.read()
    except OSError as error:
        # The words of the interpreter itself.
        sys.stderr.write(
            f"{sys.executable}: can't open file {os.path.abspath(path)!r}: "  # noqa: PTH100
            f"[Errno {error.errno}] {error.strerror}\n"
        )
        raise SystemExit(2) from None
    # A script that is a symbolic link finds its neighbours where it really is.
    directory = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    _set_first_path(directory)
    module = _fresh_main()
    full = os.path.abspath(path)  # noqa: PTH100
    module.__dict__.update(
        __file__=full, __cached__=None, __loader__=SourceFileLoader("__main__", full)
    )
    _execute(lambda: compile(source, full, "exec", dont_inherit=True), module)


def _execute(compile_it: Callable[[], CodeType], module: ModuleType) -> None:
    _shielded(lambda: exec(compile_it(), module.__dict__))  # noqa: S102


def _shielded(run: Callable[[], object]) -> None:
    """Run the program; its uncaught exception is reported as if we were not there."""
    try:
        run()
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - all are reported, as at top level
        _report(error)


def _report(error: BaseException) -> None:
    traceback = error.__traceback__
    while traceback is not None and _filename(traceback) == __file__:
        traceback = traceback.tb_next
    error = error.with_traceback(traceback)
    # What the interpreter leaves for a debugger.
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
    sys.last_exc = error  # type: ignore[attr-defined]
    sys.excepthook(type(error), error, traceback)
    if isinstance(error, KeyboardInterrupt):
        _die_of_interrupt()
    if not sys.flags.inspect:  # else the interpreter goes on to its prompt
        raise SystemExit(1)


def _filename(traceback: TracebackType) -> str:
    return traceback.tb_frame.f_code.co_filename


def _die_of_interrupt() -> NoReturn:
    """End as an interrupted program does: after all exit handlers, by SIGINT."""
    _at_last[:] = [True]
    raise SystemExit(130)


_at_last: list[Any] = []


def _exit_by_signal() -> None:
    if _at_last:
        import signal

        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    import atexit

    # The first registered runs last.
    atexit.register(_exit_by_signal)
    main(sys.argv[1:])
