# SPDX-License-Identifier: MIT
"""What the rest of the package leans on: logging, finalizers, fork hooks, exit.

The names, also the private ones, are those of ``multiprocessing.util``, because
joblib, loky, pebble and ``concurrent.futures`` use them. Finalizers with an exit
priority run when the process exits, highest priority first, and in a forked child
they are forgotten: what the parent made is the parent's to clean up.
"""

from __future__ import annotations

import atexit
import errno
import itertools
import os
import sys
import weakref
from _thread import _local, allocate_lock

from . import _core, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = [
    "DEBUG",
    "DEFAULT_LOGGING_FORMAT",
    "INFO",
    "LOGGER_NAME",
    "NOTSET",
    "SUBDEBUG",
    "SUBWARNING",
    "WARNING",
    "Finalize",
    "ForkAwareLocal",
    "ForkAwareThreadLock",
    "abstract_sockets_supported",
    "close_all_fds_except",
    "close_fds",
    "debug",
    "get_logger",
    "get_temp_dir",
    "info",
    "is_abstract_socket_namespace",
    "is_exiting",
    "log_to_stderr",
    "register_after_fork",
    "spawnv_passfds",
    "sub_debug",
    "sub_warning",
    "warn",
]

NOTSET = 0
SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25
WARNING = 30

LOGGER_NAME = "multiprocessing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"

_logger: logging.Logger | None = None
_log_to_stderr = False


def sub_debug(msg: str, *args: object) -> None:
    """Log below DEBUG, if anybody asked for the logger."""
    if _logger:
        _logger.log(SUBDEBUG, msg, *args, stacklevel=2)


def debug(msg: str, *args: object) -> None:
    """Log at DEBUG, if anybody asked for the logger."""
    if _logger:
        _logger.log(DEBUG, msg, *args, stacklevel=2)


def info(msg: str, *args: object) -> None:
    """Log at INFO, if anybody asked for the logger."""
    if _logger:
        _logger.log(INFO, msg, *args, stacklevel=2)


def sub_warning(msg: str, *args: object) -> None:
    """Log below WARNING, if anybody asked for the logger."""
    if _logger:
        _logger.log(SUBWARNING, msg, *args, stacklevel=2)


def warn(msg: str, *args: object) -> None:
    """Log at WARNING, if anybody asked for the logger."""
    if _logger:
        _logger.log(WARNING, msg, *args, stacklevel=2)


def _name_process(record: logging.LogRecord) -> bool:
    """Put the process's name into a record: ``logging`` knows only the stdlib's."""
    current = process.current_process()
    if current is not None and record.process == os.getpid():
        record.processName = current.name
    return True


def get_logger() -> logging.Logger:
    """Return the package's logger, making it at the first call."""
    global _logger  # noqa: PLW0603
    import logging

    if _logger is None:
        logger = logging.getLogger(LOGGER_NAME)
        logger.propagate = False
        logger.addFilter(_name_process)
        _logger = logger
        # Importing logging registered its own exit hook after ours; ours logs, so
        # it has to run first, which means to be registered last.
        atexit.unregister(_exit_function)
        atexit.register(_exit_function)
    return _logger


def log_to_stderr(level: int | str | None = None) -> logging.Logger:
    """Return the logger, after adding a handler that prints to stderr."""
    global _log_to_stderr  # noqa: PLW0603
    import logging

    logger = get_logger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(DEFAULT_LOGGING_FORMAT))
    logger.addHandler(handler)
    if level:
        logger.setLevel(level)
    _log_to_stderr = True
    return logger


abstract_sockets_supported: bool = sys.platform in {"linux", "android"}


def is_abstract_socket_namespace(address: str | bytes | None) -> bool:
    """Tell whether a Unix socket address has no file (Linux: a leading NUL)."""
    if not address:
        return False
    if isinstance(address, bytes):
        return address[0] == 0
    if isinstance(address, str):
        return address[0] == "\0"
    raise TypeError(f"address type of {address!r} unrecognized")


# Of the path of a Unix socket, without its NUL; and what comes behind the directory's
# parent in those of listeners.
_SUN_PATH_MAX = 107
_SOCKET_NAME_SIZE = len("/sidestep-ray-") + 10 + len("/listener-") + 8


def _has_room_for_sockets(parent: str) -> bool:
    return len(os.fsencode(parent)) + _SOCKET_NAME_SIZE <= _SUN_PATH_MAX


def _temp_parents() -> list[str]:
    """Return where directories may be made, best first, as ``tempfile`` has it.

    Where a path would become too long for a socket comes last.
    """
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None and tempfile.tempdir is not None:
        parents = [os.fsdecode(tempfile.tempdir)]
    else:
        named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
        # pathlib is slow to import.
        parents = [os.path.abspath(parent) for parent in named if parent]  # noqa: PTH100
    parents += ["/tmp", "/var/tmp", "/usr/tmp"]  # noqa: S108 - made with a random name
    try:
        parents.append(os.getcwd())  # noqa: PTH109
    except OSError:
        pass
    return sorted(parents, key=_has_room_for_sockets, reverse=True)


def make_private_dir(prefix: str) -> str:
    """Make a directory of this user's alone, whose name begins like that; its path.

    It goes with this tree of processes, however that ends, or with
    ``_core.folder_remove``.
    """
    parents = _temp_parents()
    for parent in parents:
        try:
            return _core.folder_make(parent, prefix)
        except OSError:
            continue
    raise FileNotFoundError(
        errno.ENOENT, f"No usable temporary directory found in {parents}"
    )


def _remove_temp_dir(tempdir: str) -> None:
    try:
        _core.folder_remove(tempdir)
    except OSError as error:
        info("temp directory %s stays for now: %s", tempdir, error)
    current = process.current_process()
    if current is not None:
        current._config["tempdir"] = None


def get_temp_dir() -> str:
    """Return the directory of this tree of processes, removed when its maker exits.

    If its maker is killed it is removed when all others of the tree have ended: by
    the last one, or by the next program of this user's.
    """
    config = process.current_process()._config
    tempdir: str | None = config.get("tempdir")
    if tempdir is None:
        tempdir = make_private_dir("pymp-")
        info("created temp directory %s", tempdir)
        Finalize(None, _remove_temp_dir, args=(tempdir,), exitpriority=-100)
        config["tempdir"] = tempdir
    return tempdir


_afterfork_registry: weakref.WeakValueDictionary[
    tuple[int, int, Callable[[Any], object]], Any
] = weakref.WeakValueDictionary()
_afterfork_counter = itertools.count()


def _run_after_forkers() -> None:
    items = sorted(_afterfork_registry.items(), key=lambda item: item[0][:2])
    for (_, _, func), obj in items:
        try:
            func(obj)
        except Exception as error:  # noqa: BLE001 - the child has to start anyway
            info("after forker raised exception %s", error)


def register_after_fork(obj: Any, func: Callable[[Any], object]) -> None:
    """Call ``func(obj)`` in every child forked by a Process, while obj lives."""
    _afterfork_registry[next(_afterfork_counter), id(obj), func] = obj


_Key = tuple["int | None", int]
_finalizer_registry: dict[_Key, Finalize] = {}
_finalizer_counter = itertools.count()


class Finalize:
    """Call something once: when ``obj`` goes, at exit, or when called itself.

    With ``exitpriority`` it also runs at the exit of the process that made it,
    highest first; those with a priority of 0 or more before the children are joined.
    """

    def __init__(
        self,
        obj: object,
        callback: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        exitpriority: int | None = None,
    ) -> None:
        if exitpriority is not None and not isinstance(exitpriority, int):
            raise TypeError(
                f"Exitpriority ({exitpriority!r}) must be None or int, "
                f"not {type(exitpriority)!s}"
            )
        if obj is not None:
            self._weakref: Any = weakref.ref(obj, self)
        elif exitpriority is None:
            raise ValueError("Without object, exitpriority cannot be None")
        self._callback: Callable[..., Any] | None = callback
        self._args: Any = args
        self._kwargs: Any = kwargs or {}
        self._key: _Key | None = (exitpriority, next(_finalizer_counter))
        self._pid = os.getpid()
        _finalizer_registry[self._key] = self

    def __call__(
        self,
        wr: object = None,
        # Bound here because a module's globals may be gone when this runs.
        _registry: dict[_Key, Finalize] = _finalizer_registry,
        _sub_debug: Callable[..., None] = sub_debug,
        _getpid: Callable[[], int] = os.getpid,
    ) -> Any:
        """Run the callback, unless that was done, cancelled, or is another process's."""
        if _registry.pop(self._key, None) is None:  # type: ignore[arg-type]
            _sub_debug("finalizer no longer registered")
            return None
        result = None
        if self._pid != _getpid():
            _sub_debug("finalizer ignored because different process")
        else:
            _sub_debug(
                "finalizer calling %s with args %s and kwargs %s",
                self._callback,
                self._args,
                self._kwargs,
            )
            assert self._callback is not None
            result = self._callback(*self._args, **self._kwargs)
        self._forget()
        return result

    def _forget(self) -> None:
        self._weakref = self._callback = self._args = self._kwargs = self._key = None

    def cancel(self) -> None:
        """Never run the callback."""
        if _finalizer_registry.pop(self._key, None) is not None:  # type: ignore[arg-type]
            self._forget()

    def still_active(self) -> bool:
        """Tell whether the callback is still to come."""
        return self._key in _finalizer_registry

    def __repr__(self) -> str:
        name = type(self).__name__
        reference = getattr(self, "_weakref", None)
        if reference is None or reference() is None or self._key is None:
            return f"<{name} object, dead>"
        callback = getattr(self._callback, "__name__", self._callback)
        text = f"<{name} object, callback={callback}"
        if self._args:
            text += f", args={self._args}"
        if self._kwargs:
            text += f", kwargs={self._kwargs}"
        if self._key[0] is not None:
            text += f", exitpriority={self._key[0]}"
        return text + ">"


def _run_finalizers(minpriority: int | None = None) -> None:
    """Run the finalizers that have an exit priority, and at least this one.

    Highest first, newer before older. Others may come and go meanwhile: a
    finalizer, a collection or another thread may touch the registry.
    """

    def due(key: _Key) -> bool:
        return key[0] is not None and (minpriority is None or key[0] >= minpriority)

    # list() of a dictionary is one step; a generator over it would not be.
    for key in sorted(filter(due, list(_finalizer_registry)), reverse=True):
        finalizer = _finalizer_registry.get(key)
        if finalizer is None:
            continue
        sub_debug("calling %s", finalizer)
        try:
            finalizer()
        except Exception:  # noqa: BLE001 - the others must run
            import traceback

            traceback.print_exc()
    if minpriority is None:
        _finalizer_registry.clear()


_exiting = False


def is_exiting() -> bool:
    """Tell whether this process is shutting down."""
    return _exiting


def _exit_function() -> None:
    """End the daemonic children, join the others, run the finalizers; once."""
    global _exiting  # noqa: PLW0603
    if _exiting:
        return
    _exiting = True
    info("process shutting down")
    debug('running all "atexit" finalizers with priority >= 0')
    _run_finalizers(0)
    # None when somebody emptied the module process, as setuptools once did.
    if process.current_process() is not None:
        for child in process.active_children():
            if child.daemon:
                info("calling terminate() for daemon %s", child.name)
                child._popen.terminate()  # type: ignore[union-attr]
        for child in process.active_children():
            info("calling join() for process %s", child.name)
            child.join()
    debug('running the remaining "atexit" finalizers')
    _run_finalizers()


atexit.register(_exit_function)


class ForkAwareThreadLock:
    """A lock between threads that is free again in a forked child."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        register_after_fork(self, ForkAwareThreadLock._at_fork_reinit)

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *args: object) -> None:
        self._lock.__exit__(*args)  # type: ignore[arg-type]


class ForkAwareLocal(_local):
    """Thread-local data that is empty again in a forked child."""

    def __init__(self) -> None:
        register_after_fork(self, lambda obj: obj.__dict__.clear())

    def __reduce__(self) -> tuple[type[ForkAwareLocal], tuple[()]]:
        return type(self), ()


def _maximum_fd() -> int:
    try:
        return os.sysconf("SC_OPEN_MAX")
    except (OSError, ValueError):
        return 256


MAXFD = _maximum_fd()


def close_all_fds_except(fds: Iterable[int]) -> None:
    """Close every descriptor but these."""
    kept = sorted([*fds, -1, MAXFD])
    assert kept[-1] == MAXFD, "fd too large"
    for low, high in itertools.pairwise(kept):
        os.closerange(low + 1, high)


def close_fds(*fds: int) -> None:
    """Close each of the descriptors."""
    for fd in fds:
        os.close(fd)


_empty_stdin: Any = None


def _close_stdin() -> None:
    """Give a child an empty standard input instead of its parent's."""
    global _empty_stdin  # noqa: PLW0603
    if sys.stdin is None or (sys.stdin is _empty_stdin and not sys.stdin.closed):
        return
    try:
        sys.stdin.close()
    except (OSError, ValueError):
        pass
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
        try:
            sys.stdin = open(fd, encoding="utf-8", closefd=False)  # noqa: SIM115
            _empty_stdin = sys.stdin
        except BaseException:
            os.close(fd)
            raise
    except (OSError, ValueError):
        pass


def _flush_std_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass


def _args_from_interpreter_flags() -> list[str]:
    """Return the options that make a new interpreter run as this one does."""
    import subprocess

    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]


def spawnv_passfds(path: str | bytes, args: list[Any], passfds: Iterable[int]) -> int:
    """Start a program with only these descriptors (and 0 to 2) open; its pid."""
    from ._compat import fork_exec

    return fork_exec(path, args, tuple(sorted(map(int, passfds))))


def _cleanup_tests() -> None:
    """Release what CPython's own test suite checks for after its last test."""
    from test import support  # type: ignore[import-not-found]

    from . import forkserver, resource_tracker

    process._cleanup()
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()
    _run_finalizers()
    support.gc_collect()
    _core.process_reap()
    support.reap_children()
