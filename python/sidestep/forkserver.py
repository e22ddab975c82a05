# SPDX-License-Identifier: MIT
"""The fork server: a small process, the zygote, that makes children by copying itself.

It is a fresh interpreter with the modules that ``set_forkserver_preload`` names, and
one thread. Its children are children of the process that asked for them, not of the
zygote: they neither notice nor mind its end. Each process that starts children this
way has a zygote of its own; it ends with that process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading

from . import _compat, _core, context, process, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from typing_extensions import Buffer

    from . import _preload

__all__ = [
    "connect_to_new_process",
    "ensure_running",
    "get_inherited_fds",
    "set_forkserver_preload",
    "statistics",
]

MAXFDS_TO_SEND = 256
_TRIES = 3  # zygotes, until it is clear that no zygote lives long enough


class ForkServer:
    """This process's zygote, started when it is needed and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zygote: _core.Child | None = None
        self._owner_pid = 0
        self._inherited_fds: list[int] | None = None
        self._preload_modules: list[str] = []
        self._preload_on_error = "ignore"
        self._preload_timeout: float | None = None
        self._preloading: _preload.Watch | None = None
        self._environ: dict[bytes, bytes] | None = None  # of the zygote's start

    @property
    def _forkserver_pid(self) -> int | None:
        return None if self._zygote is None else self._zygote.pid

    def _stop(self) -> None:
        """End the zygote, and wait until it is gone."""
        with self._lock:
            self._stop_unlocked()

    def _stop_unlocked(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote is not None and self._owner_pid == os.getpid():
            if self._preloading is not None:
                self._preloading.close()
            # Not ours to kill when we have dropped privileges: close() sees to that.
            with contextlib.suppress(PermissionError):
                zygote.signal(signal.SIGKILL)
                zygote.wait(gone=True)
            zygote.close()

    def set_forkserver_preload(
        self,
        modules_names: list[str],
        *,
        on_error: str = "ignore",
        timeout: float | None = 300.0,
    ) -> None:
        """Set the modules that the next zygote imports before its first child.

        ``__main__`` among them means the program's main script. Of one that cannot be
        imported nothing is said, each child that needs it finds out; with ``on_error``
        "warn" the server warns, with "fail" it ends, and no process can be started. One whose
        import takes longer than ``timeout`` seconds makes ``start()`` raise TimeoutError;
        what the server needs before it imports is not counted.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        if on_error not in {"ignore", "warn", "fail"}:
            raise ValueError(
                f"on_error must be 'ignore', 'warn' or 'fail', not {on_error!r}"
            )
        self._preload_modules = modules_names
        self._preload_on_error = on_error
        self._preload_timeout = timeout

    def get_inherited_fds(self) -> list[int] | None:
        """Return the descriptors that came with the job, None outside of children."""
        return self._inherited_fds

    def connect_to_new_process(self, fds: Sequence[int]) -> tuple[int, int]:
        """Raise: here a child is started by a Process, which has its job by then."""
        raise RuntimeError(
            "sidestep's fork server makes a child and its job in one step; "
            "use Process with the context 'forkserver'"
        )

    def ensure_running(self) -> None:
        """Start the zygote unless it runs."""
        with self._lock:
            self._running()

    def start(
        self, child: _core.Child, setup: Buffer, data: Buffer, fds: Sequence[int]
    ) -> None:
        """Have the zygote make a child, in a new zygote if that is what it takes."""
        if len(fds) + 4 >= MAXFDS_TO_SEND:
            raise ValueError("too many fds")
        with self._lock:
            for _ in range(_TRIES):
                zygote = self._running()
                self._await_preload()
                try:
                    zygote.start(child, setup, data, fds)
                except (BrokenPipeError, PermissionError):
                    # Dead, or not what this process is any more.
                    self._stop_unlocked()
                    if self._preloading is not None and self._preloading.error:
                        break  # another one would find the same
                except ChildProcessError:
                    pass  # somebody has killed the child that was to get the job
                else:
                    return
        raise RuntimeError(self._why_it_ends())

    def _await_preload(self) -> None:
        """Wait until the zygote has imported its modules, if it has any."""
        if self._preloading is not None:
            try:
                self._preloading.wait()
            except TimeoutError:
                self._stop_unlocked()
                raise

    def _why_it_ends(self) -> str:
        text = "the fork server ends before it can start a process; "
        failure = "" if self._preloading is None else self._preloading.failure()
        return text + (failure or "standard error may say why")

    def expect(self, count: int) -> None:
        """Have the zygote make so many children at once: their starts follow."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            # Dead: the next start finds out, and makes another.
            self._running().expect(count)

    def refill(self) -> None:
        """Have the zygote make children in place of those that starts have taken."""
        if self._lock.acquire(blocking=False):
            try:
                if self._zygote is not None and self._owner_pid == os.getpid():
                    self._zygote.refill()
            finally:
                self._lock.release()

    def statistics(self) -> dict[str, int]:
        """Tell what this process's zygote does; empty when there is none.

        ``warm`` children are ready, ``coming`` ones are being made, ``wanted`` are
        to be kept ready. Of the ``started`` ones ``from_warm`` found a child ready;
        ``given_back`` ones ended because nobody needed them. ``memory`` is the number
        of bytes that the zygote and its warm children share with nobody.
        """
        with self._lock:
            if self._zygote is None or self._owner_pid != os.getpid():
                return {}
            return self._zygote.statistics()

    def changed_environment(self) -> dict[bytes, bytes | None]:
        """Tell the variables that have changed since the zygote started; None: gone."""
        now, then = _environment(), self._environ
        if now == then or now is None or then is None:
            return {}
        changed: dict[bytes, bytes | None] = dict.fromkeys(then.keys() - now.keys())
        changed.update(now.items() - then.items())
        return changed

    def _running(self) -> _core.Child:
        if self._owner_pid != os.getpid():
            self._zygote = None  # our parent's
        if self._zygote is not None and self._zygote.poll() is not None:
            self._stop_unlocked()
        if self._zygote is None:
            self._zygote = self._launch()
            self._owner_pid = os.getpid()
        return self._zygote

    def _launch(self) -> _core.Child:
        zygote = _core.Child(True, True)  # noqa: FBT003 - dies with us, keeps packets
        self._environ = _environment()
        if self._environ is not None:
            self._environ = self._environ.copy()
        arguments = {
            "tether": zygote.tether,
            "parent_pid": os.getpid(),
            "arena_fd": _core.arena_fd(),
            "process_id": zygote.reserve(),
            "preload": self._preload_modules,
            "on_error": self._preload_on_error,
            **self._preload_data(),
        }
        fds = [] if self._preloading is None else [self._preloading.theirs]
        code = spawn.import_line("forkserver", "main") + f"; main(**{arguments!r})"
        options = util._args_from_interpreter_flags()
        command = [spawn.get_executable(), *options, "-c", code]
        zygote.spawn(*spawn.encode_command(command), fds)
        if self._preloading is not None:
            self._preloading.started()
        return zygote

    def _preload_data(self) -> dict[str, Any]:
        self._preloading = None
        if not self._preload_modules:
            return {}
        from . import _preload

        data = spawn.get_preparation_data("ignore")
        self._preloading = _preload.Watch(self._preload_timeout)
        return {
            "report_fd": self._preloading.theirs,
            "main": {name: data[name] for name in data if name.startswith("init_main")},
            "sys_path": data["sys_path"],
            "alias": data["alias"],
        }


def _environment() -> dict[bytes, bytes] | None:
    """Return what is behind ``os.environ``; None if a program put its own there."""
    return getattr(os.environ, "_data", None)


def main(
    tether: int,
    parent_pid: int,
    arena_fd: int,
    process_id: int,
    preload: Iterable[str],
    on_error: str = "ignore",
    report_fd: int = -1,
    main: dict[str, str] | None = None,
    sys_path: list[str] | None = None,
    alias: bool = False,
) -> None:
    """Be the zygote: import what is asked for, then make children until the owner ends."""
    spawn.adopt(arena_fd, process_id, tether, parent_pid, True)  # noqa: FBT003
    if sys_path is not None:
        sys.path[:] = sys_path
    if alias:
        from . import _alias

        _alias.install()
    _preload_own()
    if report_fd >= 0:
        from . import _preload

        _preload.preload(preload, main, on_error, report_fd)
    util._close_stdin()
    util._flush_std_streams()
    # Ctrl-C is for the owner, who decides about its children.
    old_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    _share_what_is_loaded()
    job = _core.zygote_serve(tether, _settle, _rehearse)
    if job is False:
        _core.process_exit(0)
    elif job is not None:
        # Ctrl-C waits until the job is loaded.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, old_handler)
        _serve_one(mask, *job)


def _settle(setup: bytes) -> None:
    """Become what all children of the owner are, once for all of them."""
    spawn.load_setup(setup)
    _share_what_is_loaded()


def _share_what_is_loaded() -> None:
    """Prepare the pages that children share with us: those they do not write to."""
    # The interpreter adapts its code to what it runs: now, once, and not in each child.
    for _ in range(_REHEARSALS):
        threading._after_fork()  # type: ignore[attr-defined]
        _rehearse()
    gc.collect()
    # Neither references nor the marks of the collector are written from now on.
    _core.keep_forever(gc.get_objects())
    gc.freeze()


_REHEARSALS = 20
_rehearsal = b""


def _rehearse() -> None:
    """Go the way of a job that does nothing: each page that it writes is ours then."""
    global _rehearsal  # noqa: PLW0603
    if not _rehearsal:
        popen: Any = None
        job = context.ForkServerProcess(target=_do_nothing, args=(b"", 0.5))
        job._config["authkey"] = b""
        _rehearsal = spawn.dump_task(popen, job).getvalue()
    process.rehearse(lambda: spawn.load_task(_rehearsal))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _do_nothing(*args: object) -> None:
    pass


def _preload_own() -> None:
    """Import what each child needs between its birth and its target."""
    import runpy  # noqa: F401

    from . import popen_forkserver, reduction  # noqa: F401


def _serve_one(
    mask: set[Any], setup: bytes | None, data: bytes, fds: Sequence[int]
) -> None:
    """Be a child of the owner; never returns."""
    from .popen_fork import exit_process

    code = 1
    _forkserver._inherited_fds = list(fds)
    try:
        if _compat.ATEXIT_IN_CHILDREN:
            atexit._clear()
            atexit.register(util._exit_function)
        if setup is not None:
            spawn.load_setup(setup)
        process_obj = spawn.load_task(data)
        _core.process_settle()
        if not process_obj._starts_deaf:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = process_obj._bootstrap()
    except Exception:  # noqa: BLE001 - as for an interpreter of its own
        sys.excepthook(*sys.exc_info())
        util._flush_std_streams()
    finally:
        if _compat.ATEXIT_IN_CHILDREN:
            atexit._run_exitfuncs()
        exit_process(code)


_forkserver = ForkServer()
ensure_running: Callable[[], None] = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
connect_to_new_process = _forkserver.connect_to_new_process
set_forkserver_preload = _forkserver.set_forkserver_preload
statistics = _forkserver.statistics
