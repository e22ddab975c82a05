#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run CPython's own, unmodified tests of Pool on a pool over an engine.

    python -m sidestep tests/conformance/cluster_pool.py executor
    python -m sidestep tests/conformance/cluster_pool.py dask
    python -m sidestep tests/conformance/cluster_pool.py ray
    mpiexec -n 5 python -m sidestep.mpi tests/conformance/cluster_pool.py mpi

``-m sidestep`` makes ``multiprocessing`` mean sidestep in the tests. The last line is
`N passed, N failed`.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import unittest
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestep.cluster import ClusterPool

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 4

#: It takes an unpicklable result for one that is a lambda, which travels here.
KNOWN = "test_unpickleable_result"

#: Gives what a pool is made over, while tests run.
cluster: Any = None


class Executors:
    """A new executor for each pool: what a terminated pool ran, it runs to its end."""

    def __init__(self) -> None:
        self._made: list[ProcessPoolExecutor] = []

    def __call__(self, processes: int | None) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("forkserver")
        executor = ProcessPoolExecutor(processes or WORKERS, mp_context=context)
        self._made.append(executor)
        return executor

    def close(self) -> None:
        for executor in self._made:
            workers = dict(executor._processes or {})
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in workers.values():
                worker.kill()


@contextlib.contextmanager
def open_cluster(name: str) -> Iterator[Any]:
    """What gives a `ClusterPool` its cluster, for the name of an engine."""
    if name == "executor":
        executors = Executors()
        try:
            yield executors
        finally:
            executors.close()
    elif name == "dask":
        from sidestep.cluster.dask import DaskBackend, start

        with start(WORKERS) as client:
            yield lambda processes: DaskBackend(client, processes, may_restart=True)
    elif name == "ray":
        from sidestep.cluster.ray import RayBackend

        ours = RayBackend(workers=WORKERS)
        try:
            yield lambda processes: RayBackend(workers=processes)
        finally:
            ours.close(wait=False)
    else:
        yield lambda _: name


class Mixin:
    """What the tests of pools ask of the module under test."""

    TYPE = "processes"
    Process = multiprocessing.Process
    current_process = staticmethod(multiprocessing.current_process)

    @staticmethod
    def Pool(processes: int | None = None, *args: Any, **kwds: Any) -> Any:  # noqa: N802
        """Make a pool over the cluster."""
        return ClusterPool(cluster(processes), processes, *args, **kwds)


def load_tests() -> unittest.TestSuite:
    """The tests of Pool as methods of classes that workers can import from here."""
    from test import _test_multiprocessing as suite  # type: ignore[import-not-found]

    loader = unittest.TestLoader()
    tests = unittest.TestSuite()
    for base in (suite._TestPool, suite._TestPoolWorkerErrors):
        name = f"Cluster{base.__name__}"
        body = {"__module__": __name__}
        globals()[name] = type(name, (base, Mixin, unittest.TestCase), body)
        tests.addTest(loader.loadTestsFromTestCase(globals()[name]))
    return tests


def __getattr__(name: str) -> Any:
    if name.startswith("Cluster_Test"):
        load_tests()
        return globals()[name]
    raise AttributeError(name)


def flatten(tests: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("engine", choices=["executor", "dask", "mpi", "ray"])
    parser.add_argument("-k", help="only tests whose name has this")
    options = parser.parse_args()
    with open_cluster(options.engine) as opened:
        global cluster
        cluster = opened
        chosen = unittest.TestSuite(
            test
            for test in flatten(load_tests())
            if (options.k or "") in test.id() and KNOWN not in test.id()
        )
        result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(chosen)
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(result.skipped)
    print(
        f"{passed} passed, {failed} failed, {len(result.skipped)} skipped", flush=True
    )
    code = 1 if failed or not passed else 0
    if options.engine == "mpi":
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(code)  # ranks that run what was terminated never end
    return code


if __name__ == "__main__":
    # Under the name by which workers import it.
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [here, os.environ.get("PYTHONPATH")])
    )
    sys.path.insert(0, here)
    import cluster_pool

    sys.exit(cluster_pool.main())
