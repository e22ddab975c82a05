# SPDX-License-Identifier: MIT
"""Worker processes of a pool: how the parent starts and mourns them, what they do.

`Crew` has the methods that ``_core.PoolEngine`` calls for all that is Python about a
worker; it knows the pool by a weak reference only. `work` is a worker's main function.
``docs/internals/pool_python.rst`` tells the whole. What a worker needs is imported here,
so that forked workers have it already.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import signal
import threading
import weakref

from . import _core, _equip, _memory, _remote, context, process, reduction
from ._options import BUDGET_KEY, default_count, environment
from ._remote import MaybeEncodingError, Quoted, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._options import Options
    from .context import BaseContext

__all__ = ["CancelledError", "Crew", "MemoryLimitExceeded", "WorkerLost", "work"]

#: The tags of notes: the initializer raised; a log record.
NOTE_FAILED, NOTE_RECORD = 1, 2

#: Why a worker was killed, as the core numbers it.
BY_DEADLINE, BY_CANCEL, BY_TERMINATE, BY_MEMORY = 1, 2, 3, 4

#: As binding/pool_engine.h numbers the payloads.
MODE_KEYWORDS, MODE_CHUNK, MODE_INLINE = 1, 3, 8


class CancelledError(Exception):
    """The result was given up by ``cancel()``."""


class WorkerLost(RuntimeError):  # noqa: N818 - says what happened, like OwnerDied
    """The worker that ran a task ended before the task did.

    ``pid`` is its process id, ``exitcode`` its exit code, negative for a signal;
    ``task`` the call that it ran, with shortened arguments; ``out_of_memory`` whether
    the kernel killed it for want of memory, None when nobody can say; ``stack`` the
    Python stack at a crash, as ``faulthandler`` prints it, or None.
    """

    pid: int | None = None
    exitcode: int | None = None
    task: str | None = None
    out_of_memory: bool | None = None
    stack: str | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\n{self.stack}" if self.stack else text


class MemoryLimitExceeded(WorkerLost):
    """The worker that ran a task used more than the pool's ``memory_limit``.

    ``size`` is how many bytes it and its descendants had when it was killed, ``limit``
    how many were allowed.
    """

    size: int | None = None
    limit: int | None = None


def describe_exit(code: int | None) -> str:
    """Say how a process ended."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def describe_call(func: object, args: Any, mode: int) -> str:
    """Write down the call of a task, its arguments shortened."""
    if mode & MODE_INLINE:
        func, args = args
    name = getattr(func, "__qualname__", None) or shorten(func, 60)
    mode &= ~MODE_INLINE
    if mode == 0:
        inside = ", ".join(shorten(arg, 60) for arg in args)
    elif mode == MODE_KEYWORDS:
        parts = [shorten(arg, 60) for arg in args[0]]
        parts += [f"{key}={shorten(value, 60)}" for key, value in args[1].items()]
        inside = ", ".join(parts)
    elif mode >= MODE_CHUNK:
        return f"{name} for the {len(args)} items {shorten(args, 100)}"
    else:
        inside = shorten(args, 100)
    return f"{name}({inside[:200]})"


# ---- In the parent ----


class _CrashFile:
    """What ``faulthandler`` writes when workers crash: a file in memory, a part each."""

    #: Bytes of a part; those that nobody wrote take no memory.
    PART = 1 << 20

    fd = -1

    def __init__(self) -> None:
        self.fd = os.memfd_create("sidestep-crashes")
        self._parts: dict[Any, int] = {}

    def close(self) -> None:
        """Give the file back; no worker is left."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close

    def part(self) -> int:
        """Return the number of a part that no worker has."""
        taken = set(self._parts.values())
        return next(part for part in itertools.count() if part not in taken)

    def give(self, worker: Any, part: int) -> None:
        """Keep the part until the worker has ended."""
        self._parts[worker] = part

    def read(self, worker: Any) -> str | None:
        """Return what the worker has written, from its innermost frame to `work`."""
        start = self._parts[worker] * self.PART
        text = os.pread(self.fd, 65536, start).partition(b"\0")[0]
        lines = text.decode("utf-8", "replace").splitlines()
        # What called `work` is how the worker was started: of no interest.
        ours = [i for i, line in enumerate(lines) if f'"{__file__}"' in line]
        return "\n".join(lines[: ours[0]] if ours else lines).strip() or None

    def take_back(self, worker: Any) -> None:
        """Take the part of a worker that has ended."""
        start = self._parts.pop(worker) * self.PART
        while used := len(os.pread(self.fd, 65536, start).rstrip(b"\0")):
            os.pwrite(self.fd, bytes(used), start)
            start += used


class _Place:
    """What a worker needs to know before anything: its pool, its seat, its crash file."""

    def __init__(
        self,
        handle: bytes,
        seat: int,
        crash_fd: int,
        part: int,
        environ: dict[str, str],
    ) -> None:
        self.handle = handle
        self.seat = seat
        self.crash_fd = crash_fd
        self.part = part
        self.environ = environ

    def __reduce__(self) -> tuple[Any, ...]:
        # Only ever pickled for a child that is being started.
        handle = context.hold(self, self.handle)
        crash_file = reduction.DupFd(self.crash_fd)
        known = (handle, self.seat, crash_file, self.part, self.environ)
        return _rebuild_place, known


def _rebuild_place(
    handle: bytes, seat: int, crash_file: Any, part: int, environ: dict[str, str]
) -> _Place:
    # Before anything of the user's is unpickled, and imports what looks there.
    os.environ.update(environ)
    return _Place(handle, seat, crash_file.detach(), part, environ)


def _memory_kills() -> int | None:
    """Count the processes of our control group that the kernel killed for memory."""
    for line in _lines("/proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            events = f"/sys/fs/cgroup{group}/memory.events"
        elif controllers == "memory":  # groups of the first generation
            events = f"/sys/fs/cgroup/memory{group}/memory.oom_control"
        else:
            continue
        for event in _lines(events):
            name, _, count = event.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _lines(path: str) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(fd, 65536).decode("utf-8", "replace").splitlines()
    finally:
        os.close(fd)


class Crew:
    """The workers of one pool, as the engine asks for them."""

    def __init__(
        self,
        pool: Any,
        ctx: BaseContext,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        options: Options,
    ) -> None:
        told = options.for_worker(ctx, pool._processes)
        threads = told.get("threads")
        self._pool = weakref.ref(pool)
        self._ctx = ctx
        self._job = (initializer, initargs, told)
        self._name = options.name if options.is_named else None
        self._environ = {} if threads is None else environment(threads)
        self._share = max(1, default_count(ctx) // pool._processes)
        self._memory_limit = options.hard
        self._sizes: dict[int, int] = {}  # of those killed for it, by pid
        self._workers: list[Any] = pool._pool
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._crashes = _CrashFile()
        self._ready_fds: dict[Any, int] = {}
        self._stacks: dict[int | None, str | None] = {}
        self._failure: BaseException | None = None
        self._last_end: tuple[int | None, int | None] = (None, None)
        self._kills = _memory_kills()
        self.engine: Any = None

    def start(self, seat: int) -> Any:
        """Start a worker and return its process object."""
        pool = self._pool()
        if pool is None:
            raise RuntimeError("the pool is gone")
        part = self._crashes.part()
        place = _Place(self.engine.handle, seat, self._crashes.fd, part, self._environ)
        worker = pool.Process(
            self._ctx, target=work, args=(place, self._mask, *self._job)
        )
        worker.name = worker.name.replace("Process", "PoolWorker")
        if self._name is not None:
            worker.name = f"{self._name}-{_equip.index_of(seat)}"
        worker.daemon = True
        if isinstance(worker, process.BaseProcess):
            worker._starts_deaf = True
            worker._die_with_parent = True
            worker._config[BUDGET_KEY] = self._share
        _start_undisturbed(worker)
        self._workers.append(worker)
        self._crashes.give(worker, part)
        return worker

    def fd(self, worker: Any) -> int:
        """Return what is readable once the worker has ended."""
        sentinel: int | None = getattr(worker, "sentinel", None)
        if sentinel is None:  # somebody's own class: to be asked again and again
            sentinel = self._ready_fds[worker] = os.eventfd(1)
        return sentinel

    def exit_code(self, worker: Any) -> int | None:
        """Return how the worker ended, None if it has not."""
        code: int | None = worker.exitcode
        if code is None and not isinstance(worker, process.BaseProcess):
            return None if worker.is_alive() else 0
        return code

    def signal(self, worker: Any, number: int) -> None:
        """Send the worker a signal."""
        if number == signal.SIGTERM:
            worker.terminate()
            if not hasattr(worker, "sentinel"):
                worker.join()  # nothing else would tell us of its end
        elif number == signal.SIGKILL:
            worker.kill()
        elif worker.exitcode is None:
            worker._popen._send_signal(number)

    def is_over(self, worker: Any) -> bool:
        """Tell whether a worker with a task is to be killed for the memory it uses."""
        limit, pid = self._memory_limit, worker.pid
        if limit is None or (size := _memory.used_by(pid)) <= limit:
            return False
        self._sizes[pid] = size
        _memory.kill_descendants(pid)
        return True

    def ended(self, worker: Any, code: int, had_task: bool) -> None:
        """Forget a worker that has ended."""
        self._last_end = pid, _ = getattr(worker, "pid", None), code
        if had_task:
            self._stacks[pid] = self._crashes.read(worker)
        self._crashes.take_back(worker)
        if worker in self._ready_fds:
            os.close(self._ready_fds.pop(worker))
        worker.join()
        if worker in self._workers:
            self._workers.remove(worker)

    def start_feeder(self) -> None:
        """Start the thread that pulls iterators which are code of the user's."""
        engine = weakref.ref(self.engine)
        threading.Thread(
            target=_feed, args=(engine,), name="sidestep-pool-input", daemon=True
        ).start()

    def note(self, tag: int, pid: int, obj: Any) -> None:
        """Take note of what a worker tells."""
        if tag == NOTE_FAILED:
            self._failure = obj
        elif tag == NOTE_RECORD:
            from . import _logs

            _logs.handle(obj)

    def stuck(self) -> BaseException:
        """Return what all results get, now that no worker will start any more."""
        if self._failure is not None:
            return self._failure
        pid, code = self._last_end
        error = WorkerLost(
            f"no worker of the pool starts: the last one, {pid}, {describe_exit(code)}"
            " before it took a task"
        )
        error.pid, error.exitcode = pid, code
        return error

    def not_rebuilt(self, error: BaseException) -> BaseException:
        """Return what a result gets that arrived and does not unpickle."""
        wrapped = MaybeEncodingError(error, Quoted("<a result that does not unpickle>"))
        wrapped.__cause__ = error
        return wrapped

    def lost(
        self,
        pid: int,
        code: int,
        reason: int,
        duration_ns: int,
        func: object,
        args: Any,
        mode: int,
    ) -> BaseException:
        """Return what the result of a lost task gets."""
        task = describe_call(func, args, mode)
        if reason == BY_DEADLINE:
            return context.TimeoutError(
                f"{task} had not ended after {duration_ns / 1e9:.3g} s, and was killed"
            )
        if reason == BY_CANCEL:
            return CancelledError(f"{task} was cancelled")
        if reason == BY_MEMORY:
            return self._over_limit(pid, code, task)
        killed = _memory_kills() if code == -signal.SIGKILL else None
        known = killed is not None and self._kills is not None
        out_of_memory = killed != self._kills if known else None
        self._kills = killed if known else self._kills
        why = " (out of memory)" if out_of_memory else ""
        error = WorkerLost(
            f"worker {pid} {describe_exit(code)}{why} while it ran {task}"
        )
        error.pid, error.exitcode, error.task = pid, code, task
        error.out_of_memory = out_of_memory if code == -signal.SIGKILL else False
        error.stack = self._stack_of(pid)
        return error

    def _over_limit(self, pid: int, code: int, task: str) -> MemoryLimitExceeded:
        size = self._sizes.pop(pid, None)
        error = MemoryLimitExceeded(
            f"worker {pid} used {size} bytes, of {self._memory_limit} that it may, and"
            f" was killed while it ran {task}"
        )
        error.pid, error.exitcode, error.task = pid, code, task
        error.size, error.limit, error.out_of_memory = size, self._memory_limit, False
        return error

    def _stack_of(self, pid: int) -> str | None:
        if pid in self._stacks:
            return self._stacks.pop(pid)
        for worker in self._workers:
            if worker.pid == pid:
                return self._crashes.read(worker)
        return None

    def terminate(self) -> None:
        """End all workers and give up what is unfinished."""
        engine = self.engine
        engine.stop(signal.SIGTERM, RuntimeError("the pool was terminated"))
        if engine.on_crew_thread():
            # A callback dropped the pool: this thread cannot wait for itself.
            threading.Thread(target=self._end, name="sidestep-pool-end").start()
        else:
            self._end()

    def _end(self) -> None:
        if not self.engine.join(GRACE):
            self.engine.stop(signal.SIGKILL, RuntimeError("the pool was terminated"))
            self.engine.join()
        self.engine.take()  # what workers have told since the last result
        self.engine.release()
        self._crashes.close()


#: How often the memory of workers with a task is looked at, in seconds.
MEMORY_INTERVAL = 0.05

#: How long a worker has from SIGTERM to SIGKILL, in seconds.
GRACE = 5.0


def _feed(engine: weakref.ref[Any]) -> None:
    if (alive := engine()) is not None:
        alive.feed_foreign()


def _start_undisturbed(worker: Any) -> None:
    """Start a worker that learns of no Ctrl-C before it can deal with it."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


# ---- In the worker ----


def work(
    place: _Place,
    mask: set[signal.Signals],
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Do what a worker does, from its first line to its last."""
    _enable_faulthandler(place)
    try:
        worker = _core.PoolWorker(place.handle, place.seat)
    except (RuntimeError, OSError):
        return  # the pool is gone
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except KeyboardInterrupt:
        pass  # it came while we started, and is the parent's
    try:
        _equip.equip(worker, place.seat, options)
        if initializer is not None:
            initializer(*initargs)
    except BaseException as error:  # noqa: BLE001 - it belongs to the caller
        _report_failure(worker, error)
        worker.leave()
        raise SystemExit(1) from None
    _run(worker, options)
    if "exit" in options:
        options["exit"]()
    worker.leave()


def _run(worker: Any, options: dict[str, Any]) -> None:
    """Run tasks until there are no more; beside them Ctrl-C is the parent's."""
    while True:
        try:
            after = _equip.after_task(options)
            worker.run(options.get("idle"), after, _equip.stop_softly)
        except KeyboardInterrupt:
            continue
        return


def _enable_faulthandler(place: _Place) -> None:
    path = f"/proc/self/fd/{place.crash_fd}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # with a position of its own
    except OSError:
        return  # no /proc here: a crash will be told without its stack
    os.lseek(fd, place.part * _CrashFile.PART, os.SEEK_SET)
    faulthandler.enable(fd)


def _report_failure(worker: Any, error: BaseException) -> None:
    try:
        worker.tell(NOTE_FAILED, _remote.pack(error))
    except Exception as why:  # noqa: BLE001 - something must be said
        worker.tell(NOTE_FAILED, _remote.pack(MaybeEncodingError(why, error)))


def _pack(error: BaseException, value: object, has_value: bool) -> Any:
    """Return the object to send for an exception, or for a value that did not pickle."""
    if has_value:
        return _remote.pack(MaybeEncodingError(error, value), _remote.text_of(error))
    return _remote.pack(error)


_core.set_pool(context.TimeoutError, _pack)
