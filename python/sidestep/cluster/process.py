# SPDX-License-Identifier: MIT
"""`Process` of a cluster context: a child of a worker of the engine.

Starting one makes a task for the engine. The worker that gets it starts a process of
its own, which runs the target, and stays with it: so it has an exit code, can be killed,
and takes nobody along when it crashes, whatever the engine is. Orders reach the worker
over a `Desk` of the context's manager; the worker kills its child when the manager is
gone.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import warnings

from sidestep import context, process, util
from sidestep._manager_session import remember_key

from . import far, feed, parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .context import ClusterContext

__all__ = ["ClusterProcess", "process_class"]


class ClusterProcess(process.BaseProcess):
    """A process that runs where the engine has a worker free."""

    _cluster: Any = None

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:  # type: ignore[override]
        assert isinstance(process_obj, ClusterProcess)
        return Popen(process_obj, process_obj._cluster)

    @property
    def host(self) -> str | None:
        """The name of the machine it runs on, None before it runs."""
        where = None if self._popen is None else self._popen.where()  # type: ignore[attr-defined]
        return None if where is None else where[0]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_popen"] = None
        state["_config"] = {}  # with our key
        state.pop("_sentinel", None)
        return state


_classes = 0


def process_class(cluster: ClusterContext) -> type[ClusterProcess]:
    """Return the class of a context's processes.

    It goes by name, as a base of the user's classes; elsewhere the name stands for
    `ClusterProcess`, which has no context.
    """
    global _classes  # noqa: PLW0603
    _classes += 1
    name = f"Process{_classes}"
    body = {"_cluster": cluster, "__module__": __name__, "__qualname__": name}
    made = globals()[name] = type("Process", (ClusterProcess,), body)
    return made


def __getattr__(name: str) -> Any:
    if name.startswith("Process") and name[7:].isdigit():
        return ClusterProcess
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Popen:
    """What a process object knows of the process it stands for."""

    method = "cluster"

    def __init__(self, process_obj: ClusterProcess, cluster: ClusterContext) -> None:
        util._flush_std_streams()
        self._cluster = cluster
        self.is_daemon = process_obj.daemon
        self._kept = process_obj.__getstate__()  # proxies keep their objects alive
        self._done = threading.Event()
        self._where: tuple[str, int] | None = None
        self.returncode: int | None = None
        self.desk = cluster.manager().Desk()  # type: ignore[attr-defined]
        job = process_obj.name, parcel.dumps(process_obj), cluster.keys(), self.desk
        self.sentinel, signal_end = os.pipe()
        self._close = util.Finalize(self, util.close_fds, (self.sentinel,))
        self._signal = util.Finalize(self, util.close_fds, (signal_end,))
        try:
            self._future = _submit(cluster, job)
        except BaseException:
            self._signal()
            self._close()
            raise
        cluster.note_start(self)
        self._future.add_done_callback(self._finish)

    def _finish(self, future: Any) -> None:
        """Take the exit code; any thread of the engine calls this."""
        try:
            kind, packed = far.reply_of(future.result()).outcomes[0]
            value = packed.loads()
            if kind == far.VALUE:
                code, *where = value
                self._where = tuple(where)
                self._end(code)
                return
            warnings.warn(f"a process could not be started: {value!r}", stacklevel=1)
            self._end(1)
        except BaseException as error:  # noqa: BLE001 - the engine's, whatever it is
            util.info("the engine has lost a process: %r", error)
            names = [each.__name__ for each in type(error).__mro__]
            # asyncio has a class of that name, too.
            cancelled = "CancelledError" in names
            self._end(-signal.SIGTERM if cancelled else -signal.SIGKILL)

    def _end(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
        self._kept = {}
        self._cluster.note_end(self)
        self._done.set()
        self._signal()

    def where(self) -> tuple[str, int] | None:
        """Return host and pid, None before it runs."""
        if self._where is None and self.returncode is None:
            self._where = self.desk.where()
        return self._where

    @property
    def pid(self) -> int | None:
        """The pid on the machine where it runs, None before."""
        where = self.where()
        return None if where is None else where[1]

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.returncode

    def wait(
        self,
        timeout: float | None = None,
        *,
        gone: bool = False,
    ) -> int | None:
        """Wait for the end and return the exit code; None: not in time."""
        self._done.wait(timeout)
        return self.returncode

    def _order(self, name: str) -> None:
        if self.returncode is not None:
            return
        self.desk.order(name)
        if self.where() is None:
            self._future.cancel()  # it has not begun: perhaps it need not

    def terminate(self) -> None:
        """Have its worker send it SIGTERM."""
        self._order("terminate")

    def kill(self) -> None:
        """Have its worker send it SIGKILL."""
        self._order("kill")

    def interrupt(self) -> None:
        """Have its worker send it SIGINT."""
        self._order("interrupt")

    def close(self) -> None:
        """Give up what is left."""
        self._close()


def _submit(cluster: ClusterContext, job: tuple[Any, ...]) -> Any:
    function = feed.Function(look_after)
    task = function.digest, far.CALL, parcel.dumps((job, {}))
    batch = far.Batch(
        b"process", None, {function.digest: function.parcel}, [task], cluster.keys()
    )
    return cluster.backend().submit(far.run, batch)


# ---- In the worker ----


def look_after(name: str, packed: parcel.Parcel, keys: Any, desk: Any) -> Any:
    """Run a process to its end; its exit code, host and pid."""
    child = context._concrete_contexts["forkserver"].Process(
        target=_run, name=name, args=(packed, keys), die_with_parent=True
    )
    child.start()
    where = socket.gethostname(), child.pid
    desk.report(*where)
    threading.Thread(
        target=_obey, args=(desk, child), name="sidestep-orders", daemon=True
    ).start()
    child.join()
    assert child.exitcode is not None
    desk.order(None)
    return child.exitcode, *where


def _obey(desk: Any, child: process.BaseProcess) -> None:
    try:
        while (order := desk.next_order()) is not None:
            getattr(child, order)()
    except (EOFError, OSError):
        child.kill()  # who started it is gone


# ---- In the child ----


def _run(packed: parcel.Parcel, keys: Any) -> None:
    for address, key in keys:
        remember_key(address, key)
    packed.loads().run()
