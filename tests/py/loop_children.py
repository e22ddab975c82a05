# SPDX-License-Identifier: MIT
"""What servers and their clients do in the tests of the loop; importable, for spawn."""

import os
import resource
import signal
import threading

import wait_children

from sidestep import _manager_session, connection, managers


class Own:
    """A type of the user's, that cares which thread it is called by."""

    def __init__(self):
        self.local = threading.local()

    def thread(self):
        return threading.get_ident()

    def remember(self, value):
        self.local.value = value

    def recall(self):
        return getattr(self.local, "value", None)

    def wait(self, path):
        return read(path)

    def leave(self):
        raise SystemExit(3)

    def unpicklable(self):
        return (i for i in ())


def read(path):
    """Wait until somebody has written to the FIFO and closed it."""
    with open(path, "rb") as file:
        return file.read()


class Waits:
    """Unpickling it waits for a FIFO."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return read, (self.path,)


class KeepsUp:
    """Pickling it waits for a FIFO."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return str, (read(self.path).decode(),)


class Slow:
    """Making one waits for a FIFO; when it goes there is a file."""

    def __init__(self, path):
        self.path = path
        read(path)

    def __del__(self):
        open(f"{self.path}.gone", "w", encoding="ascii").close()


def kept(path):
    return [KeepsUp(path)]


def fork():
    """Leave a child that does nothing."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return Pid(pid)


class Pid:
    def __init__(self, pid):
        self.pid = pid

    def get(self):
        return self.pid


def threads():
    return Threads()


class Threads:
    def count(self):
        with open("/proc/self/status", encoding="ascii") as file:
            return int(file.read().partition("Threads:")[2].split()[0])


class LoopManager(managers.SyncManager):
    """A manager with what the tests need."""


LoopManager.register("Own", Own)
LoopManager.register("kept", kept, managers.ListProxy)
LoopManager.register("RealRLock", threading.RLock, exposed=("acquire", "release"))
LoopManager.register("Slow", Slow)
LoopManager.register("fork", fork)
LoopManager.register("threads", threads)
LoopManager.register("Look", wait_children.Look)


def few_descriptors(spare):
    """Leave this process so many descriptors."""
    fd = os.dup(0)
    os.close(fd)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + spare, hard))


class Raw:
    """A client that speaks for itself: one connection, no threads, no session's cache.

    One that tells has to say of each item that it has it, as clients of a network do.
    """

    def __init__(self, address, authkey, session=None, *, tells=False):
        self.conn = connection.Client(address, authkey=authkey)
        self.session = session or os.urandom(8).hex()
        words = "raw", self.session, _manager_session.VERSION, tells
        assert self.ask(None, "accept_connection", *words)[0] == "#RETURN"

    def send(self, ident, name, *args):
        self.conn.send((ident, name, args, {}))

    def ask(self, ident, name, *args):
        self.send(ident, name, *args)
        return self.conn.recv()

    def close(self):
        self.conn.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask_and_linger(address, authkey, ident, name, told):
    """Ask for something, and be there when the answer comes, or dead."""
    client = Raw(address, authkey, tells=isinstance(address, tuple))
    client.send(ident, name)
    told.set()
    signal.pause()
