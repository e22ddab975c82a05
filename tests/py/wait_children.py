# SPDX-License-Identifier: MIT
"""What clients do in the tests of calls that wait; importable, for spawn."""

import os
import queue
import signal
import threading

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


def ask_and_drop(proxy, name, told, go):
    """Ask for something, and give the link up with the answer unread, alive."""
    proxy._session.open()
    proxy._session.conn().send((proxy._id, name, (), {}))
    told.set()
    go.wait()
    proxy._session.drop_link()
    signal.pause()


def take_from_the_stopped(proxy, pid, told):
    """Get an item from a server that is stopped as soon as it has sent it."""
    conn = proxy._session.conn()

    class Stopping:
        send = conn.send

        def recv(self):
            reply = conn.recv()
            os.kill(pid, signal.SIGSTOP)
            return reply

    proxy._session.conn = Stopping
    proxy.get()
    told.set()
    signal.pause()


def hold(lock, told):
    """Take a lock and keep it."""
    lock.acquire()
    told.set()
    signal.pause()


def enter(gate):
    """Wait in a method of a type that no manager knows."""
    gate.enter()


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

    def is_held(self, ident):
        held = _server().id_to_obj[ident][0]
        if isinstance(held, threading.Semaphore):
            return held._value == 0
        return getattr(held, "_lock", held).locked()


def _server():
    return process.current_process()._manager_server


class Gate:
    """What blocks the thread that calls it."""

    def __init__(self):
        self.opened = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.count = 0

    def enter(self):
        with self.lock:
            self.count += 1
        self.opened.acquire()
        with self.lock:
            self.count -= 1

    def inside(self):
        return self.count

    def open(self, count):
        self.opened.release(count)


class WaitManager(managers.SyncManager):
    """A manager that can be looked into."""


WaitManager.register("Gate", Gate)
WaitManager.register("Look", Look)
WaitManager.register("Priorities", queue.PriorityQueue)
WaitManager.register("Stack", queue.LifoQueue)
