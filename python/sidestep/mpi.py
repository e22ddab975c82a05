# SPDX-License-Identifier: MIT
"""Run a program in the first rank of an MPI job, and have the others work for it.

``mpiexec -n 5 python -m sidestep.mpi program.py ...``, or by ``srun``: `Pool`s with
``cluster="mpi"``, and what ``get_context("mpi")`` makes, use the four other ranks. As with
``python -m sidestep``, ``multiprocessing`` is answered by sidestep.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

#: Marks the second time around, when mpi4py runs us as the program.
_PROGRAM = "--program"

USAGE = """\
usage: mpiexec -n N python -m sidestep.mpi script.py [arguments]
       mpiexec -n N python -m sidestep.mpi -m module [arguments]
       mpiexec -n N python -m sidestep.mpi -c code [arguments]

Run a program in the first rank; the N - 1 others work for its pools and contexts.
"""


def main() -> None:
    """Run a program in the first rank; the others serve it until it ends."""
    if len(sys.argv) < 2 or sys.argv[1] in {"-h", "--help"}:
        sys.stdout.write(USAGE)
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    try:
        from mpi4py import MPI
        from mpi4py.futures.__main__ import main as serve
    except ImportError as error:
        from .cluster.backends import missing

        sys.exit(str(missing("mpi", error)))
    from .cluster import mpi

    _check_ranks(MPI.COMM_WORLD.Get_size())
    mpi.hosts[:] = MPI.COMM_WORLD.allgather(MPI.Get_processor_name())
    sys.argv[1:] = ["-m", "sidestep.mpi", _PROGRAM, *sys.argv[1:]]
    serve()


def _check_ranks(size: int) -> None:
    """Exit when a launcher has started many programs that know nothing of each other.

    Each would be a first rank, and do all of the work.
    """
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        count = os.environ.get(name, "")
        if size == 1 and count.isdecimal() and int(count) > 1:
            sys.exit(
                f"{count} processes were started ({name}), and each is an MPI job of its "
                "own: the launcher is of another MPI than mpi4py. Use the mpiexec of "
                "mpi4py's MPI, or one of the kinds that  srun --mpi=list  names, such as "
                "srun --mpi=pmix"
            )


def _run_program(argv: list[str]) -> None:
    """Be the first rank: run the program, then end what mpi4py would wait for."""
    from . import __main__ as runner

    try:
        runner.main(argv)
    finally:
        context = sys.modules.get("sidestep.cluster.context")
        if context is not None:
            context._close_all()


if __name__ == "__main__":
    if sys.argv[1:2] == [_PROGRAM]:
        _run_program(sys.argv[2:])
    else:
        main()
