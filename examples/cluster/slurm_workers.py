# SPDX-License-Identifier: MIT
"""Workers that are jobs of Slurm: a pool over them, and what Slurm is told.

Needs dask-jobqueue, and Slurm to do more than show the job.
"""

import os
import shutil
import sys

import dask
from dask_jobqueue import SLURMCluster
from distributed import Security

import sidestep


# start
def start_cluster(folder):
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    return SLURMCluster(
        cores=8,
        processes=8,
        memory="16GB",
        walltime="02:00:00",
        protocol="tls",
        security=Security.temporary(),
        shared_temp_directory=folder,  # for the certificates
        scheduler_options={"dashboard_address": None},
    )


def use(cluster):
    cluster.scale(jobs=2)
    with sidestep.Pool(cluster=cluster) as pool:
        print(sum(pool.map(abs, range(-1000, 1000))))
    # end


def main():
    with start_cluster(os.environ.get("TMPDIR", "/tmp")) as cluster:  # noqa: S108
        print(cluster.job_script())
        if shutil.which("sbatch") and "--run" in sys.argv:
            use(cluster)


if __name__ == "__main__":
    main()
