# SPDX-License-Identifier: MIT
"""The programs of examples/cluster, where the package is installed that one needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "cluster"


def run(*words, **environment):
    return subprocess.run(
        [str(word) for word in words],
        check=True, capture_output=True, text=True, timeout=100,
        env={**os.environ, **environment},
    ).stdout  # fmt: skip


def test_the_job_script_in_the_docs_is_what_is_printed(tmp_path):
    pytest.importorskip("dask_jobqueue")
    output = run(sys.executable, FOLDER / "slurm_workers.py", TMPDIR=str(tmp_path))
    output = output.replace(sys.executable, "PYTHON").replace(str(tmp_path), "FOLDER")
    output = re.sub(r"tls://[\d.]+:\d+", "tls://HOST:PORT", output)
    output = re.sub(r"(worker\.(?:ca_file|cert|key))\.\w+", r"\1.1", output)
    shown = (FOLDER / "slurm_workers.txt").read_text().replace(" \\\n    ", " ")
    assert output.strip() == shown.strip()


@pytest.mark.slow
def test_ranks_are_scheduler_and_workers():
    pytest.importorskip("dask_mpi")
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if mpiexec is None:
        pytest.skip("no mpiexec beside this Python")
    is_open = "Open MPI" in run(mpiexec, "--version")
    more = ["--oversubscribe"] if is_open else []
    output = run(
        mpiexec, *more, "-n", "4", sys.executable, FOLDER / "dask_mpi_ranks.py",
        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )  # fmt: skip
    assert "1000000" in output.split()
