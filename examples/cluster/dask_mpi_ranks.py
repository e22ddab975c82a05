# SPDX-License-Identifier: MIT
"""The ranks of an MPI job as scheduler and workers of Dask.

mpiexec -n 4 python dask_mpi_ranks.py; needs dask-mpi.
"""

# start
import dask
import dask_mpi
from distributed import Client

import sidestep


def main():
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    # Rank 0 goes on as the scheduler, 2 and those after as workers, 1 from here.
    dask_mpi.initialize(nthreads=1, nanny=False, dashboard=False)
    with Client() as client, sidestep.Pool(cluster=client) as pool:
        print(sum(pool.map(abs, range(-1000, 1000))))


if __name__ == "__main__":
    main()
# end
