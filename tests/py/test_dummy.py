# SPDX-License-Identifier: MIT
"""The interface with threads, on both packages."""

import importlib
import queue
import threading

import pytest


@pytest.fixture
def dummy(mp):
    return importlib.import_module(mp.__name__ + ".dummy")


def test_process(dummy):
    seen = []
    process = dummy.Process(target=seen.append, args=(1,), name="Mine")
    assert process.exitcode is None
    process.start()
    process.join()
    assert process.exitcode == 0
    assert process.name == "Mine"
    assert seen == [1]


def test_active_children(dummy):
    gate = threading.Event()
    process = dummy.Process(target=gate.wait)
    process.start()
    assert process in dummy.active_children()
    assert dummy.current_process() is threading.current_thread()
    gate.set()
    process.join()
    assert process not in dummy.active_children()


def test_only_the_maker_starts(dummy):
    process = dummy.Process()
    errors = []

    def start():
        try:
            process.start()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "Parent is" in errors[0]


def test_pipe(dummy):
    a, b = dummy.Pipe()
    with a, b:
        a.send([1])
        assert b.poll()
        assert b.recv() == [1]
        assert not b.poll()
        assert not b.poll(0.001)
        b.send_bytes(b"x")
        assert a.recv_bytes() == b"x"


def test_listener(dummy):
    with dummy.connection.Listener() as listener:
        client = dummy.connection.Client(listener.address)
        conn = listener.accept()
    client.send(1)
    assert conn.recv() == 1


def test_values(dummy):
    value = dummy.Value("i", 3)
    value.value += 1
    assert repr(value) == "<Value('i', 4)>"
    assert dummy.Array("i", [1, 2]).tolist() == [1, 2]
    namespace = dummy.Namespace(a=1, _b=2)
    assert repr(namespace) == "Namespace(a=1)"


def test_the_module_is_its_own_manager(dummy):
    manager = dummy.Manager()
    assert manager is dummy
    assert manager.dict(a=1) == {"a": 1}
    assert manager.list((1,)) == [1]
    assert isinstance(manager.Queue(), queue.Queue)
    assert dummy.JoinableQueue is dummy.Queue
    manager.shutdown()
    manager.freeze_support()
