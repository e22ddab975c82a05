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

from .backends import Backend, missing

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

#: How long what the scheduler said of its workers is believed, in seconds.
FRESH = 1.0

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


@contextlib.contextmanager
def start(workers: int | None = None) -> Iterator[distributed.Client]:
    """Start a cluster on this machine, encrypted and with keys of its own."""
    with contextlib.ExitStack() as stack:
        yield _start(workers, stack)


def _start(workers: int | None, stack: contextlib.ExitStack) -> distributed.Client:
    import dask

    from sidestep import cpu_count

    # For the scheduler, which is in this process, and is configured when it is made.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = stack.enter_context(
            distributed.LocalCluster(
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
    address: str, security: Any, *, allow_insecure: bool
) -> distributed.Client:
    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0] or rest
    if scheme in {"tcp", "ws"} and host not in LOOPBACK:
        if not allow_insecure:
            raise ValueError(
                f"{address} is not encrypted, and whoever reaches it can run code there: "
                "use tls:// with security=, or say allow_insecure=True"
            )
        warnings.warn(f"tasks and results go to {address} in clear text", stacklevel=5)
    return distributed.Client(address, security=security)


class DaskBackend(Backend):
    """A Dask ``Client``, a cluster object, an address, or ``"dask"``: one of our own.

    With ``may_restart`` a worker that runs what nobody wants any more is restarted, as
    those of a cluster of our own are: say so when nobody else uses the cluster.
    """

    name = "Dask"

    def __init__(
        self,
        cluster: Any = "dask",
        workers: int | None = None,
        *,
        security: Any = None,
        allow_insecure: bool = False,
        may_restart: bool = False,
    ) -> None:
        self._stack = contextlib.ExitStack()
        is_ours = isinstance(cluster, str) and cluster == "dask"
        self._may_restart = may_restart or is_ours
        self._limit = workers
        self._asked = 0.0
        self._workers = 1
        self._names = map("sidestep-{}-{}".format, itertools.repeat(os.urandom(8).hex()),
                          itertools.count())  # fmt: skip
        if isinstance(cluster, distributed.Client):
            self._client = cluster
        elif isinstance(cluster, str) and not is_ours:
            self._client = self._stack.enter_context(
                _connect(cluster, security, allow_insecure=allow_insecure)
            )
        elif is_ours:
            self._client = _start(workers, self._stack)
        else:
            self._client = self._stack.enter_context(cluster.get_client())

    def submit(self, run: Callable[[Batch], Reply], batch: Batch) -> Any:
        """Have a worker call ``run(batch)``: one opaque argument, no option of the task."""
        return self._client.submit(run, batch, key=next(self._names), pure=False)

    def workers(self) -> int:
        """Return the number of the workers' threads, or what was asked for if fewer."""
        now = time.monotonic()
        if now - self._asked > FRESH:
            self._asked = now
            self._workers = sum(self._client.nthreads().values()) or 1
        return min(self._workers, self._limit or self._workers)

    def kill(self, running: Iterable[Any]) -> bool:
        """Restart the workers that run these, where that is allowed."""
        if not self._may_restart:
            return False
        keys = {future.key for future in running}
        victims = [
            address
            for address, has in self._client.processing().items()
            if keys.intersection(has)
        ]
        if victims:
            self._client.restart_workers(victims, raise_for_error=False)
        return True

    def close(self, *, wait: bool) -> None:
        """Close what was started or connected for the pool."""
        del wait  # a client has nothing to wait for
        self._stack.close()
