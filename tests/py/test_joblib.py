# SPDX-License-Identifier: MIT
"""The backend of joblib."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading

import pool_tasks as tasks
import pytest

import sidestep

joblib = pytest.importorskip("joblib")


@pytest.fixture(autouse=True)
def backend():
    import sidestep.joblib

    yield
    sidestep.joblib._kept.end()


@pytest.fixture(params=["fork", "forkserver"])
def parallel(request):
    with joblib.parallel_config("sidestep", n_jobs=2, context=request.param):
        yield joblib.Parallel


def squares(parallel, count):
    return parallel(joblib.delayed(tasks.square)(i) for i in range(count))


def test_calls(parallel):
    assert squares(parallel(), 50) == [i * i for i in range(50)]
    assert squares(parallel(batch_size=7), 50) == [i * i for i in range(50)]
    pids = parallel()(joblib.delayed(tasks.pid_of)() for _ in range(20))
    assert os.getpid() not in pids
    with parallel() as kept:
        assert squares(kept, 5) == squares(kept, 5)


@pytest.mark.slow
def test_calls_in_workers_of_another_context():
    with joblib.parallel_config("sidestep", n_jobs=2, context="spawn"):
        test_calls(joblib.Parallel)


def test_a_pool_is_kept(parallel):
    first = set(parallel()(joblib.delayed(tasks.pid_of)() for _ in range(20)))
    second = set(parallel()(joblib.delayed(tasks.pid_of)() for _ in range(20)))
    assert first & second
    assert len(first | second) <= 2


def test_lambdas_and_arrays(parallel):
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(100_000, i) for i in range(4)]
    doubled = parallel()(joblib.delayed(lambda a: 2 * a)(array) for array in arrays)
    assert [array[-1] for array in doubled] == [0, 2, 4, 6]


def test_generators(parallel):
    results = squares(parallel(return_as="generator"), 20)
    assert next(results) == 0
    assert list(results) == [i * i for i in range(1, 20)]
    unordered = squares(parallel(return_as="generator_unordered"), 20)
    assert sorted(unordered) == [i * i for i in range(20)]


def test_an_error_stops_the_call(parallel):
    gate = sidestep.Event()
    calls = [joblib.delayed(tasks.raise_value_error)(7)]
    calls += [joblib.delayed(tasks.wait_for)(gate) for _ in range(5)]
    with pytest.raises(ValueError, match="7"):
        parallel(batch_size=1)(calls)
    assert squares(parallel(), 5) == [0, 1, 4, 9, 16]


def test_a_lost_worker(parallel):
    with pytest.raises(sidestep.pool.WorkerLost):
        parallel()(joblib.delayed(tasks.kill_self)() for _ in range(2))
    assert squares(parallel(), 5) == [0, 1, 4, 9, 16]


def test_a_time_limit(parallel):
    gate = sidestep.Event()
    with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
        parallel(timeout=0.1)(joblib.delayed(tasks.wait_for)(gate) for _ in range(2))
    assert squares(parallel(), 5) == [0, 1, 4, 9, 16]


def nested(backend):
    import sidestep.joblib  # noqa: F401 - in a worker that is no fork

    with joblib.parallel_config(backend, n_jobs=2):
        return squares(joblib.Parallel(), 5)


@pytest.mark.parametrize("inner", ["sidestep", "threading"])
def test_nested(parallel, inner):
    calls = [joblib.delayed(nested)(inner) for _ in range(2)]
    assert parallel()(calls) == [[0, 1, 4, 9, 16]] * 2


def nested_by_default():
    return squares(joblib.Parallel(n_jobs=2), 5)


def test_nested_by_default(parallel):
    calls = [joblib.delayed(nested_by_default)() for _ in range(2)]
    assert parallel()(calls) == [[0, 1, 4, 9, 16]] * 2


def test_two_calls_at_a_time():
    got = {}

    def call(n_jobs):
        with joblib.parallel_config("sidestep", n_jobs=n_jobs):
            got[n_jobs] = squares(joblib.Parallel(), 50)

    threads = [threading.Thread(target=call, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[2] == got[3] == [i * i for i in range(50)]


def test_numbers_of_jobs():
    backend = sidestep.joblib.SidestepBackend(nesting_level=0)
    assert backend.effective_n_jobs(3) == 3
    assert backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(-1) == sidestep.cpu_count()
    assert backend.effective_n_jobs(-1000) == 1
    with pytest.raises(ValueError, match="no meaning"):
        backend.effective_n_jobs(0)
    with joblib.parallel_config("sidestep", n_jobs=1):
        assert squares(joblib.Parallel(), 3) == [0, 1, 4]


def test_without_joblib(tmp_path):
    code = """
        import sys
        sys.modules["joblib"] = None
        try:
            import sidestep.joblib
        except ImportError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "needs joblib" in done.stdout, done.stderr
