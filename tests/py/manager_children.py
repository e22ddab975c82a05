# SPDX-License-Identifier: MIT
"""What children and servers do in the tests of managers; importable, for spawn."""

import os
import queue
import signal
import sys
from typing import ClassVar

from sidestep import managers

_shared = queue.Queue()


class Counter:
    """A type of one's own."""

    def __init__(self, start=0):
        self.count = start

    def add(self, number=1):
        self.count += number
        return self.count

    def fail(self):
        raise LookupError("on purpose")

    def unpicklable(self):
        return (i for i in ())

    def pid(self):
        return os.getpid()

    def squares(self, count):
        return [i * i for i in range(count)]

    def _hidden(self):
        return "hidden"


class Leaving:
    """Says when it goes."""

    left: ClassVar = []

    def __init__(self, name):
        self.name = name

    def __del__(self):
        self.left.append(self.name)

    def nothing(self):
        pass


def left():
    return Leaving.left


def get_shared():
    return _shared


class LastWish:
    """Something whose end is a signal to its process."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass  # its handler may run here, in the main thread


class Mine(managers.BaseManager):
    """A manager with types of one's own."""


Mine.register("Counter", Counter)
Mine.register("Peeking", Counter, exposed=("add", "_hidden"))
Mine.register("Squares", Counter, method_to_typeid={"squares": "Squared"})
Mine.register("Squared", proxytype=managers.ListProxy, create_method=False)
Mine.register("get_shared", get_shared)
Mine.register("Leaving", Leaving)
Mine.register("LastWish", LastWish)
Mine.register("left", left, managers.ListProxy)


def initialize(value):
    os.environ["SST_INITIALIZED"] = value


def get_environment():
    return os.environ.copy()


def fail_to_initialize():
    raise LookupError("not today")


def serve_until_told(conn):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    server = Mine(authkey=b"key").get_server()
    conn.send(server.address)
    server.serve_forever()


def connect_to(address):
    managers.SyncManager(address).connect()


def fill(shared, items):
    shared["child"] = os.getpid()
    items.append([1, 2])


def hold(lock, told):
    lock.acquire()
    told.set()
    signal.pause()


def keep(proxy, told):
    told.set()
    signal.pause()


def get_one(items, told):
    told.set()
    items.get()


def put_to(address, authkey, item):
    manager = Mine(address, authkey)
    manager.connect()
    manager.get_shared().put(item)


def try_key(address, authkey, out):
    try:
        Mine(address, authkey).connect()
    except Exception as error:
        out.put(repr(error))
    else:
        out.put("connected")
