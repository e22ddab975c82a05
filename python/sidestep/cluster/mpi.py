# SPDX-License-Identifier: MIT
"""The back end for MPI, over ``mpi4py.futures``.

The ranks but the first are the workers. The program is started with all of them:
``mpiexec -n 5 python -m sidestep.cluster.mpi program.py``, or by ``srun``; in the ranks
that are workers the program does not run. A rank that dies takes the whole job with it:
that is how MPI is.
"""

from __future__ import annotations

import sys

from .backends import ExecutorBackend, missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["MpiBackend", "main"]


class MpiBackend(ExecutorBackend):
    """The workers of an MPI job."""

    def __init__(self, workers: int | None = None) -> None:
        try:
            from mpi4py.futures import MPIPoolExecutor
        except ImportError as error:
            raise missing("mpi", error) from error
        self._pool = MPIPoolExecutor(max_workers=workers)
        super().__init__(self._pool, workers)
        self.name = "MPI"

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


def main() -> None:
    """Run a program in the first rank, and have the others work for its pools."""
    try:
        from mpi4py.futures.__main__ import main as run
    except ImportError as error:
        raise missing("mpi", error) from error
    if len(sys.argv) < 2:
        sys.exit("usage: mpiexec -n N python -m sidestep.cluster.mpi program.py ...")
    from sidestep import _alias

    _alias.install()
    run()


if __name__ == "__main__":
    main()
