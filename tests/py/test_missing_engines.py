# SPDX-License-Identifier: MIT
"""What is said where the package of an engine is not installed, or its keys are left."""

import os
import signal
import subprocess
import sys

import pytest

#: A package of an engine, as it is where it is not installed.
ABSENT = 'raise ModuleNotFoundError(f"No module named {__name__!r}", name=__name__)\n'


@pytest.fixture
def without_engines(tmp_path):
    """The environment of a program that has none of them."""
    for name in ("mpi4py", "distributed", "ray", "cryptography"):
        (tmp_path / f"{name}.py").write_text(ABSENT)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def run(environment, *words):
    return subprocess.run(
        [sys.executable, *words],
        check=False, capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "sidestep.Pool(cluster={!r})",
        "sidestep.get_context({!r}).Pool()",
        "sidestep.get_context({!r}).Queue()",
        "sidestep.get_context({!r}).Process(target=print).start()",
    ],
)
@pytest.mark.parametrize("engine", ["dask", "mpi", "ray"])
def test_the_error_has_the_command_that_installs_it(without_engines, engine, text):
    done = run(without_engines, "-c", f"import sidestep\n{text.format(engine)}")
    assert done.returncode == 1
    assert "MissingEngineError" in done.stderr.splitlines()[-1]
    assert f"pip install 'sidestep[{engine}]'" in done.stderr.splitlines()[-1]


def test_an_address_of_dask(without_engines):
    text = "import sidestep; sidestep.Pool(cluster='tls://nowhere.invalid:8786')"
    assert "pip install 'sidestep[dask]'" in run(without_engines, "-c", text).stderr


def test_the_program_that_starts_programs_under_mpi(without_engines):
    done = run(without_engines, "-m", "sidestep.mpi", "program.py")
    assert done.returncode == 1
    assert "pip install 'sidestep[mpi]' mpich" in done.stderr
    assert "Traceback" not in done.stderr


def test_many_first_ranks_are_refused(tmp_path):
    """What srun does without the plug-in of the MPI that mpi4py has."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("")
    (tmp_path / "mpi4py" / "MPI.py").write_text(
        "class COMM_WORLD:\n    Get_size = staticmethod(lambda: 1)\n"
    )
    (tmp_path / "mpi4py" / "futures").mkdir()
    (tmp_path / "mpi4py" / "futures" / "__init__.py").write_text("MPIPoolExecutor = 0")
    (tmp_path / "mpi4py" / "futures" / "__main__.py").write_text("main = exit\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "SLURM_STEP_NUM_TASKS": "4",
    }
    done = run(environment, "-m", "sidestep.mpi", "program.py")
    assert done.returncode == 1
    assert "4 processes were started" in done.stderr
    assert "srun --mpi=" in done.stderr


MAKE_FOLDER = """
import sys
from sidestep.cluster import ray
folder = ray._make_folder()
open(folder + "/key.pem", "w").close()
print(folder, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, None])
def test_the_folder_of_rays_keys_goes_with_the_program(number, eventually):
    program = subprocess.Popen(
        [sys.executable, "-c", MAKE_FOLDER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = program.stdout.readline().strip()
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.listdir(folder) == ["key.pem"]
    if number is not None:
        program.send_signal(number)
    program.communicate("\n")
    eventually(lambda: is_gone(folder))


def is_gone(folder):
    """Who was killed leaves it to the next program of this user's."""
    run(dict(os.environ), "-c", "import sidestep; sidestep.Lock()")
    return not os.path.exists(folder)
