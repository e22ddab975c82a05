# SPDX-License-Identifier: MIT
"""What clients do in the tests of calls that wait; importable, for spawn."""

import queue
import signal

from sidestep import managers, process


def call(proxy, name, args, told):
    """Call a method that waits."""
    told.set()
    getattr(proxy, name)(*args)


def ask(proxy, name, told):
    """Ask for something and never read the answer."""
    proxy._session.conn().send((proxy._id, name, (), {}))
    told.set()
    signal.pause()


def take_and_linger(proxy, told):
    """Get an item and keep it."""
    item = proxy.get()
    told.set()
    signal.pause()
    return item


def put_and_linger(manager, items, told):
    """Put something that this process alone refers to, and refer to it for ever."""
    outer = manager.list([1, manager.list(["inner"])])
    items.put(outer)
    told.set()
    signal.pause()
    return outer


def wait_holding(condition, told):
    """Wait at a condition."""
    with condition:
        told.set()
        condition.wait()


class Look:
    """What a server says of itself."""

    def waiting(self):
        return _server()._loop.statistics()["waiting"]

    def deadlines(self):
        return _server().calls.count_deadlines()

    def threads(self):
        with open("/proc/self/status", encoding="ascii") as file:
            return int(file.read().partition("Threads:")[2].split()[0])


def _server():
    return process.current_process()._manager_server


class WaitManager(managers.SyncManager):
    """A manager that can be looked into."""


WaitManager.register("Look", Look)
WaitManager.register("Priorities", queue.PriorityQueue)
WaitManager.register("Stack", queue.LifoQueue)
