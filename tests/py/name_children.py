# SPDX-License-Identifier: MIT
"""What children do with named memory in the tests; importable, for spawn."""

from sidestep import resource_tracker
from sidestep.shared_memory import SharedMemory


def write(name, data):
    shm = SharedMemory(name)
    shm.buf[: len(data)] = data


def make(queue):
    queue.put(SharedMemory(create=True, size=10).name)


def unregister(name):
    """As the work-around for the standard library's tracker does."""
    shm = SharedMemory(name)
    resource_tracker.unregister(shm._name, "shared_memory")
