# SPDX-License-Identifier: MIT
"""What all the Python tests share: options, the two packages, and the leak check."""

import importlib
import os

import pytest


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run tests marked slow")
    parser.addoption("--run-stress", action="store_true", help="run tests marked stress")


def pytest_collection_modifyitems(config, items):
    for mark in ("slow", "stress"):
        if config.getoption(f"--run-{mark}"):
            continue
        skip = pytest.mark.skip(reason=f"needs --run-{mark}")
        for item in items:
            if mark in item.keywords:
                item.add_marker(skip)


@pytest.fixture(params=["multiprocessing", "sidestep"])
def mp(request):
    """Both packages in turn: the same test holds for the standard library."""
    return importlib.import_module(request.param)


@pytest.fixture
def no_leaked_descriptors():
    """The test must close what it opens."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {
        fd: os.readlink(f"/proc/self/fd/{fd}")
        for fd in set(os.listdir("/proc/self/fd")) - before
        if os.path.exists(f"/proc/self/fd/{fd}")
    }
    assert not left
