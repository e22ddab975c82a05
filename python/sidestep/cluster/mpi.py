# SPDX-License-Identifier: MIT
"""The back end for MPI, over ``mpi4py.futures``.

The ranks but the first are the workers. `sidestep.mpi` starts the program so; in the
ranks that are workers the program does not run. A rank that dies takes the whole job
with it: that is how MPI is.
"""

from __future__ import annotations

import socket
import sys

from .backends import ExecutorBackend, missing, route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["MpiBackend"]

#: The names of the ranks' machines, from the first rank on, as far as they are known.
hosts: list[str] = []


class MpiBackend(ExecutorBackend):
    """The workers of an MPI job.

    What goes between the ranks is not encrypted: on several machines keys go over it only
    with ``allow_insecure``.
    """

    def __init__(
        self, workers: int | None = None, *, allow_insecure: bool = False
    ) -> None:
        try:
            from mpi4py.futures import MPIPoolExecutor
        except ImportError as error:
            raise missing("mpi", error) from error
        _check_launched()
        # Nothing is looked up in a worker's __main__: what is there goes by value.
        # Modules are found where they are found here.
        paths = [path for path in sys.path if path]
        self._pool = MPIPoolExecutor(max_workers=workers, main=False, path=paths)
        super().__init__(self._pool, workers)
        self.name = "MPI"
        self.allow_insecure = allow_insecure

    def workers(self) -> int:
        """Return the number of ranks that are workers, or what was asked for if fewer."""
        count: int = self._pool.num_workers
        return min(count, self._workers or count)

    def kill(self, running: Iterable[Any]) -> bool:
        """Return False: to end a rank ends them all."""
        return False

    def close(self, *, wait: bool) -> None:
        """Let the workers go."""
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def is_private(self) -> bool:
        """Tell whether all ranks are known to be on this machine."""
        return bool(hosts) and not _others()

    def address(self) -> str:
        """Return the address from which packets go to the other machines."""
        if self.is_private():
            return "127.0.0.1"
        return route(min(_others(), default=socket.gethostname()))


def _others() -> set[str]:
    """Return the names of the other machines, as far as they are known."""
    return set(hosts[1:]) - set(hosts[:1])


def _check_launched() -> None:
    """Raise when there are no ranks that wait for work: MPI would abort the program."""
    from mpi4py.futures import _core

    if getattr(_core, "SharedPool", True) is None:
        raise RuntimeError(
            "no ranks of an MPI job wait for work: start the program by  "
            "mpiexec -n 5 python -m sidestep.mpi program.py"
        )
