# SPDX-License-Identifier: MIT
"""The back end for Dask: its client as it is, or a cluster of our own on this machine.

A cluster that we start listens on loopback, with certificates made for it alone: without
them any user of the machine could have it run code. It does not run a task again whose
worker died, which Dask does four times by default; elsewhere that is for the one who
configures the scheduler: ``distributed.scheduler.allowed-failures: 0``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import warnings

from . import far
from .backends import CountedBackend, is_loopback, missing, route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .far import Batch, Reply

try:
    import distributed
except ImportError as error:
    raise missing("dask", error) from error

__all__ = ["DaskBackend", "start"]

#: Bytes from which on a batch is data to Dask, not part of the graph.
LARGE = 1 << 20


class _LocalCluster(distributed.LocalCluster):  # type: ignore[misc, unused-ignore]
    """A cluster on this machine that waits for a worker as long as it takes.

    Dask looks 15 s after a worker's end whether another is there in its place, and gives
    the place up if not, also if that one has ended just now: without this, tasks that are
    stopped often enough leave a cluster without workers.
    """

    def _update_worker_status(self, op: str, msg: Any) -> None:
        distributed.deploy.Cluster._update_worker_status(self, op, msg)


#: What a cluster of our own has otherwise than others. Scheduler and workers tell of
#: their tasks and logs over HTTP, to whoever asks on this machine: these do not.
_CONFIG = {
    "distributed.scheduler.allowed-failures": 0,
    # A worker that has a task gets no second one while another has none.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@contextlib.contextmanager
def start(workers: int | None = None) -> Iterator[distributed.Client]:
    """Start a cluster on this machine, encrypted and with keys of its own."""
    with contextlib.ExitStack() as stack:
        yield _start(workers, stack)


def _start(workers: int | None, stack: contextlib.ExitStack) -> distributed.Client:
    import dask

    from sidestep import cpu_count

    # For the scheduler, which is in this process, and is configured when it is made.
    with dask.config.set(_CONFIG):
        cluster = stack.enter_context(
            _LocalCluster(
                n_workers=workers or cpu_count(),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                security=distributed.Security.temporary(),
                silence_logs="CRITICAL",
            )
        )
    return stack.enter_context(cluster.get_client())


def _connect(
    address: str, security: Any, timeout: float | None, *, allow_insecure: bool
) -> distributed.Client:
    if _is_clear(address):
        if not allow_insecure:
            raise ValueError(
                f"{address} is not encrypted, and whoever reaches it can run code there: "
                "use tls:// with security=, or say allow_insecure=True"
            )
        warnings.warn(f"tasks and results go to {address} in clear text", stacklevel=5)
    given = {} if timeout is None else {"timeout": timeout}
    return distributed.Client(address, security=security, **given)


def _is_clear(address: str) -> bool:
    """Tell whether what goes to an address is there for others to read."""
    scheme = address.partition("://")[0]
    return scheme in {"tcp", "ws", "ucx"} and not is_loopback(_host(address))


def _host(address: str) -> str:
    rest = address.partition("://")[2]
    return rest.rpartition(":")[0] or rest


class _Answer:
    """The future of a batch: its answer is fetched as soon as it is there.

    A callback of Dask's own future comes on another thread, from which to ask for the
    result is one more way to the client's loop and back.
    """

    def __init__(self, client: distributed.Client, future: Any) -> None:
        self.future = future
        self._client = client
        self._value: Any = None
        self._error: BaseException | None = None

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Fetch the answer, then call on the thread of the client's loop. Once only."""
        self._client.loop.add_callback(self._fetch, call)

    async def _fetch(self, call: Callable[[Any], object]) -> None:
        try:
            self._value = await self.future.result()
        except BaseException as error:  # noqa: BLE001 - the engine's, or a cancellation
            self._error = error
        call(self)

    def result(self) -> Any:
        """Return the answer, or raise; for who was called."""
        if self._error is not None:
            raise self._error
        return self._value

    def cancel(self) -> bool:
        """Return False: Dask says True of a task that runs on; that is for kill()."""
        return False


class DaskBackend(CountedBackend):
    """A Dask ``Client``, a cluster object, an address, or ``"dask"``: one of our own.

    With ``may_restart`` a worker that runs what nobody wants any more is restarted, as
    those of a cluster of our own are: say so when nobody else uses the cluster. With
    ``direct`` large arguments go straight to a worker, as they do there: say so when this
    machine reaches the workers at the addresses that they have.
    """

    name = "Dask"
    # What waits in a worker behind a task that kills it dies as well.
    ahead = 1

    def __init__(
        self,
        cluster: Any = "dask",
        workers: int | None = None,
        *,
        security: Any = None,
        timeout: float | None = None,
        allow_insecure: bool = False,
        may_restart: bool = False,
        direct: bool | None = None,
    ) -> None:
        self._stack = contextlib.ExitStack()
        is_ours = isinstance(cluster, str) and cluster == "dask"
        self._direct = direct or is_ours or None
        self._may_restart = may_restart or is_ours
        self._limit = workers
        self.allow_insecure = allow_insecure
        self._names = map("sidestep-{}-{}".format, itertools.repeat(os.urandom(8).hex()),
                          itertools.count())  # fmt: skip
        if isinstance(cluster, distributed.Client):
            self._client = cluster
        elif isinstance(cluster, str) and not is_ours:
            self._client = self._stack.enter_context(
                _connect(cluster, security, timeout, allow_insecure=allow_insecure)
            )
        elif is_ours:
            self._client = _start(workers, self._stack)
        else:
            self._client = self._stack.enter_context(cluster.get_client())

    def submit(self, run: Callable[[Batch], Reply], batch: Batch) -> Any:
        """Have a worker call ``run(batch)``: one opaque argument, no option of the task."""
        call: Any
        sent: Any
        if batch.size > LARGE:
            # Straight to a worker; as part of the graph it would go through the
            # scheduler, and be kept there.
            call = run
            sent = self._client.scatter(batch, hash=False, direct=self._direct)
        else:
            call, sent = far.message(batch)
        future = self._client.submit(call, sent, key=next(self._names), pure=False)
        return _Answer(self._client, future)

    def count(self) -> int:
        """Return the number of the workers' threads."""
        threads: dict[str, int] = self._client.nthreads()
        return sum(threads.values())

    def kill(self, running: Iterable[Any]) -> bool:
        """Cancel these; end the workers that run them, where that is allowed."""
        futures = [answer.future for answer in running]
        self._client.cancel(futures)
        if not self._may_restart:
            return False
        keys = {future.key for future in futures}
        # The second time for what was on its way to a worker the first time.
        end = time.monotonic() + _PATIENCE
        looks = 0
        while True:
            having = self._client.run(_leave_if_busy, keys, on_error="ignore")
            victims = [address for address, state in having.items() if state == "busy"]
            if victims:
                # What else is there goes to others, and nobody is to blame for it.
                self._client.run_on_scheduler(_let_go, victims)
            looks += 1
            # One that still has to learn that it need not begin might begin.
            is_over = looks >= 2 and not any(having.values())
            if is_over or time.monotonic() > end:
                return True
            time.sleep(_PAUSE)

    def is_private(self) -> bool:
        """Tell whether the scheduler is encrypted, or on loopback."""
        return not _is_clear(self._client.scheduler.address)

    def address(self) -> str:
        """Return the address from which packets go to the scheduler."""
        address = self._client.scheduler.address
        host = _host(address)
        if address.startswith("inproc:") or is_loopback(host):
            return "127.0.0.1"
        return route(host.strip("[]"))

    def close(self, *, wait: bool) -> None:
        """Close what was started or connected for the pool."""
        del wait  # a client has nothing to wait for
        self._stack.close()


# These run in the scheduler or in workers. A worker that exits is replaced at once by its
# nanny; to ask the nanny for it would take 4 s, in which it waits for the task to end.


#: Seconds that a worker still lives when it has said that it will exit.
_FAREWELL = 0.1

#: Seconds in which every worker has learned what is cancelled; and between two looks.
_PATIENCE = 3.0
_PAUSE = 0.01

_RUNNING = {"executing", "long-running", "cancelled", "resumed"}
_TO_COME = {"ready", "constrained", "waiting", "fetch", "flight"}


def _leave_if_busy(keys: set[str], dask_worker: Any) -> str:
    """Tell whether this worker is "busy" with one of these, and exit soon if it is.

    "waits" when it has one that it may yet begin, not knowing that nobody wants it.
    """
    tasks = dask_worker.state.tasks
    states = {tasks[key].state for key in keys if key in tasks}
    if states & _RUNNING:
        # A heartbeat may yet learn that the scheduler has let this worker go; then it
        # closes, and would have its nanny close too: nobody would take its place.
        dask_worker.nanny = None
        dask_worker.loop.call_later(_FAREWELL, os._exit, 1)
        return "busy"
    return "waits" if states & _TO_COME else ""


async def _let_go(addresses: list[str], dask_scheduler: Any) -> None:
    for address in addresses:
        await dask_scheduler.remove_worker(
            address, stimulus_id="sidestep-kill", expected=True, close=False
        )
