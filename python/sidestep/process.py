# SPDX-License-Identifier: MIT
"""The ``Process`` class and what goes with it: who I am, who made me, who is mine.

What starts and ends a process is behind ``Process._Popen`` (popen_fork and its
siblings), and behind that in the core. ``docs/internals/processes.rst`` tells what
*done*, *gone* and a daemonic child's death with its parent mean.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from _weakref import ref
from _weakrefset import WeakSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .popen_fork import Popen

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]


def _describe_exit(exitcode: int) -> str:
    """Give the code, or the name of the signal that it stands for: ``-SIGKILL``."""
    import signal

    try:
        return f"-{signal.Signals(-exitcode).name}"
    except ValueError:
        return str(exitcode)


def _original_dir() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib costs more than all of this
    except OSError:
        return None


ORIGINAL_DIR = _original_dir()


def current_process() -> BaseProcess:
    """Return the object of the process this runs in."""
    return _current_process


def parent_process() -> BaseProcess | None:
    """Return the object of the process that started this one, None in the first."""
    return _parent_process


def active_children() -> list[BaseProcess]:
    """Return the children that have not ended; those that have are reaped."""
    _cleanup()
    return list(_children)


def _cleanup() -> None:
    """Forget the children that have ended, and take away what is left of them."""
    from . import _core

    for child in list(_children):
        _forget_if_ended(child)
    _core.process_reap()


_AT_A_TIME = 8
_to_look_at: list[ref[BaseProcess]] = []


def _cleanup_some() -> None:
    """Do for a few children what `_cleanup` does, and for others the next time.

    Each start looks at more children than it adds, so that what has ended does not heap
    up, and takes no longer when thousands of them run.
    """
    if len(_children) <= _AT_A_TIME:
        _cleanup()
        return
    if not _to_look_at:
        _to_look_at.extend(map(ref, _children.copy()))
    for _ in range(_AT_A_TIME):
        try:
            child = _to_look_at.pop()()
        except IndexError:  # another thread took the last one
            break
        if child is not None:
            _forget_if_ended(child)


def _forget_if_ended(child: BaseProcess) -> None:
    if (popen := child._popen) is not None and popen.poll() is not None:
        _children.discard(child)


class BaseProcess:
    """An activity that runs in a process of its own, after the model of ``Thread``.

    ``die_with_parent`` is a keyword and an attribute over the stdlib's: the child is
    killed when this process ends, however it ends. Daemonic children always are;
    None means what the context says, whose default is False.
    """

    _start_method: str | None = None

    # Set by start(), and removed again so that no cycle keeps the arguments alive.
    _identity: tuple[int, ...]
    _config: dict[str, Any]
    _target: Callable[..., object] | None
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _sentinel: int

    #: Whether SIGINT stays blocked in the child until its target lets it through.
    _starts_deaf = False

    def _Popen(self) -> Popen:
        raise NotImplementedError

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
        die_with_parent: bool | None = None,
    ) -> None:
        assert group is None, "group argument must be None for now"
        count = next(_process_counter)
        self._identity = (*_current_process._identity, count)
        self._config = _current_process._config.copy()
        self._parent_pid: int | None = os.getpid()
        self._parent_name = _current_process.name
        self._popen: Popen | None = None
        self._closed = False
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs)
        self._name = (
            name or f"{type(self).__name__}-{':'.join(map(str, self._identity))}"
        )
        self._die_with_parent = die_with_parent
        if daemon is not None:
            self.daemon = daemon
        _dangling.add(self)

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError("process object is closed")

    def run(self) -> None:
        """Do the work, in the child; subclasses may override it."""
        if self._target:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Start the child."""
        self._check_closed()
        assert self._popen is None, "cannot start a process twice"
        assert self._parent_pid == os.getpid(), (
            "can only start a process object created by current process"
        )
        _cleanup_some()
        self._popen = self._Popen(self)  # type: ignore[call-arg]
        self._sentinel = self._popen.sentinel
        # The target may refer to this very object.
        del self._target, self._args, self._kwargs
        _children.add(self)

    def _started(self) -> Popen:
        self._check_closed()
        if self._popen is None:
            raise AttributeError("process not started")
        return self._popen

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._started().terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._started().kill()

    def kill_tree(self) -> int:
        """Send SIGKILL to it and to all it has started, as far down as they go.

        Returns how many processes that were. Those that are being started at this
        moment are found as well; those whose parent had ended before are not.
        """
        return self._started().kill_tree()

    def interrupt(self) -> None:
        """Send SIGINT, which raises KeyboardInterrupt unless the child says otherwise."""
        self._started().interrupt()

    def join(self, timeout: float | None = None, *, gone: bool = False) -> None:
        """Wait until the child is done, or for ``timeout`` seconds.

        Done means that its code has run, its descriptors are closed and its exit code
        is known; the kernel takes its memory and pid back within about a millisecond
        after that. With ``gone`` wait for this too.
        """
        self._check_closed()
        assert self._parent_pid == os.getpid(), "can only join a child process"
        assert self._popen is not None, "can only join a started process"
        if self._popen.wait(timeout, gone=gone) is not None:
            _children.discard(self)

    def is_alive(self) -> bool:
        """Tell whether the child has yet to end."""
        self._check_closed()
        if self is _current_process:
            return True
        assert self._parent_pid == os.getpid(), "can only test a child process"
        if self._popen is None:
            return False
        if self._popen.poll() is None:
            return True
        _children.discard(self)
        return False

    def close(self) -> None:
        """Give up the object and its descriptor; ValueError while the child runs."""
        if self._popen is not None:
            if self._popen.poll() is None:
                raise ValueError(
                    "Cannot close a process while it is still running. "
                    "You should first call join() or terminate()."
                )
            self._popen.close()
            self._popen = None
            del self._sentinel
            _children.discard(self)
        self._closed = True

    @property
    def name(self) -> str:
        """The name, for people; not unique."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        assert isinstance(name, str), "name must be a string"
        self._name = name

    @property
    def daemon(self) -> bool:
        """Whether the child ends when this process does, instead of being joined."""
        return bool(self._config.get("daemon", False))

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        assert self._popen is None, "process has already started"
        self._config["daemon"] = daemonic

    @property
    def die_with_parent(self) -> bool:
        """Whether the child is killed when this process ends, however it ends."""
        if self.daemon:
            return True
        if self._die_with_parent is None:
            from . import context

            return context._die_with_parent(self._start_method)
        return self._die_with_parent

    @die_with_parent.setter
    def die_with_parent(self, die: bool | None) -> None:
        assert self._popen is None, "process has already started"
        self._die_with_parent = die

    @property
    def authkey(self) -> AuthenticationString:
        """The key that processes of one tree show each other."""
        key: AuthenticationString = self._config["authkey"]
        return key

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._config["authkey"] = AuthenticationString(authkey)

    @property
    def exitcode(self) -> int | None:
        """The exit code, -N when signal N killed it, None while it runs."""
        self._check_closed()
        return None if self._popen is None else self._popen.poll()

    @property
    def ident(self) -> int | None:
        """The pid, None before start()."""
        self._check_closed()
        if self is _current_process:
            return os.getpid()
        return None if self._popen is None else self._popen.pid

    pid = ident

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process is gone."""
        self._check_closed()
        try:
            return self._sentinel
        except AttributeError:
            raise ValueError("process not started") from None

    def _status(self) -> tuple[str, int | None]:
        if self is _current_process:
            return "started", None
        if self._closed:
            return "closed", None
        if self._parent_pid != os.getpid():
            return "unknown", None
        if self._popen is None:
            return "initial", None
        exitcode = self._popen.poll()
        return ("started" if exitcode is None else "stopped"), exitcode

    def __repr__(self) -> str:
        status, exitcode = self._status()
        info = [type(self).__name__, f"name={self._name!r}"]
        if self._popen is not None:
            info.append(f"pid={self._popen.pid}")
        info += [f"parent={self._parent_pid}", status]
        if exitcode is not None:
            info.append(f"exitcode={_describe_exit(exitcode)}")
        if self.daemon:
            info.append("daemon")
        return f"<{' '.join(info)}>"

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        """Run the child from its first line of Python to its exit code."""
        from . import util

        exitcode = 1
        try:
            self._become_current(parent_sentinel)
            exitcode = self._run_to_exit()
        except SystemExit as error:
            exitcode = _code_of_exit(error)
        except BaseException:  # noqa: BLE001 - it is reported, and is the exit code
            import traceback

            sys.stderr.write(f"Process {self.name}:\n")
            traceback.print_exc()
        finally:
            threading._shutdown()  # type: ignore[attr-defined]
            util.info("process exiting with exitcode %d", exitcode)
            util._flush_std_streams()
        return exitcode

    def _become_current(self, parent_sentinel: int | None) -> None:
        global _current_process, _parent_process, _process_counter, _children  # noqa: PLW0603
        from . import context, util

        if self._start_method is not None:
            context._force_start_method(self._start_method)
        _process_counter = itertools.count(1)
        _children = set()
        _to_look_at.clear()
        util._close_stdin()
        # Kept until the hooks have run: its end may run finalizers of the parent.
        old_process = _current_process
        _current_process = self
        assert self._parent_pid is not None
        _parent_process = _ParentProcess(
            self._parent_name, self._parent_pid, parent_sentinel
        )
        if threading._HAVE_THREAD_NATIVE_ID:  # type: ignore[attr-defined]
            threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
        try:
            self._after_fork()
        finally:
            del old_process

    def _run_to_exit(self) -> int:
        from . import _compat, util

        util.info("child process calling self.run()")
        try:
            self.run()
        finally:
            if not _compat.ATEXIT_IN_CHILDREN:
                util._exit_function()
        return 0

    @staticmethod
    def _after_fork() -> None:
        from . import util

        util._finalizer_registry.clear()
        util._run_after_forkers()


def rehearse(load: Callable[[], BaseProcess]) -> None:
    """Go the way of a process object that does nothing, and leave no trace.

    What is written here is not to be copied from the zygote when there is a job.
    """
    global _current_process, _parent_process, _process_counter, _children
    from . import context, util

    default = context._default_context
    was = _current_process, _parent_process, _process_counter, _children
    method, name = default._actual_context, _current_process.name
    registries = util._finalizer_registry, util._afterfork_registry
    shutdown = threading._shutdown  # type: ignore[attr-defined]
    util._finalizer_registry, util._afterfork_registry = {}, type(registries[1])()
    threading._shutdown = _do_not_shut_down  # type: ignore[attr-defined]
    try:
        load()._bootstrap()
        util._exit_function()
    finally:
        threading._shutdown = shutdown  # type: ignore[attr-defined]
        util._exiting = False
        util._finalizer_registry, util._afterfork_registry = registries
        _current_process, _parent_process, _process_counter, _children = was
        default._actual_context, _current_process.name = method, name


def _do_not_shut_down() -> None:
    """Stand for what ends the threads of a process: once only."""


def _code_of_exit(error: SystemExit) -> int:
    """Return the exit code that ``sys.exit`` of the same argument would give."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    sys.stderr.write(f"{error.code}\n")
    return 1


class AuthenticationString(bytes):
    """A key that pickles only on its way into a child, lest it leave by accident.

    Nor does it show what it is: tracebacks and logs are read by many.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<AuthenticationString of {len(self)} bytes>"

    __str__ = __repr__

    def __reduce__(self) -> tuple[type[AuthenticationString], tuple[bytes]]:
        from .context import get_spawning_popen

        if get_spawning_popen() is None:
            raise TypeError(
                "Pickling an AuthenticationString object is "
                "disallowed for security reasons"
            )
        return AuthenticationString, (bytes(self),)


class _ParentProcess(BaseProcess):
    """What a child knows of the process that started it."""

    def __init__(self, name: str, pid: int, sentinel: int | None) -> None:
        self._identity = ()
        self._name = name
        self._pid = pid
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._config = {}
        self._die_with_parent = False
        if sentinel is not None:
            self._sentinel = sentinel

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the parent is gone."""
        try:
            return self._sentinel
        except AttributeError:
            from . import _core

            self._sentinel = _core.process_watch_parent(self._pid)
            return self._sentinel

    def is_alive(self) -> bool:
        """Tell whether the parent has yet to end."""
        from . import _core

        return not _core.process_wait_fd(self.sentinel, 0)

    def join(self, timeout: float | None = None, *, gone: bool = False) -> None:
        """Wait until the parent has ended, or for ``timeout`` seconds."""
        from . import _core

        _core.process_wait_fd(self.sentinel, timeout)

    @property
    def ident(self) -> int:
        """The parent's pid."""
        return self._pid

    pid = ident


class _MainProcess(BaseProcess):
    """The first process of a tree, which no Process object started."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._die_with_parent = False
        # All of this is inherited by every descendant.
        self._config = {
            "authkey": AuthenticationString(os.urandom(32)),
            "semprefix": "/mp",
        }

    def close(self) -> None:
        """Do nothing: this process cannot be given up from inside."""


_parent_process: BaseProcess | None = None
_current_process: BaseProcess = _MainProcess()
_process_counter = itertools.count(1)
_children: set[BaseProcess] = set()
del _MainProcess

# The objects that are still referred to, for tests that look for leaks.
_dangling: WeakSet[BaseProcess] = WeakSet()
