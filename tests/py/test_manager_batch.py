# SPDX-License-Identifier: MIT
"""Several calls of managed objects in one round trip."""

import queue
from concurrent import futures

import pytest
import remote_programs as programs

import sidestep
from sidestep.managers import RemoteError, SyncManager


@pytest.fixture(params=["memory", "socket", "network"])
def manager(request, tmp_path):
    """A manager whose calls go through memory, over a Unix socket, over TLS."""
    if request.param == "memory":
        with sidestep.Manager() as made:
            yield made
        return
    if request.param == "network":
        pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
    where = str(tmp_path / "s") if request.param == "socket" else ("127.0.0.1", 0)
    with programs.server(where) as (_, address):
        made = SyncManager(address, programs.KEY)
        made.connect()
        yield made


class Refuses:
    def __reduce__(self):
        raise TypeError("not for sending")


def refuse():
    raise TypeError("does not arrive")


class RefusesToArrive:
    def __reduce__(self):
        return refuse, ()


def test_results_are_there_after_the_block(manager):
    table, items, jobs = manager.dict(), manager.list(), manager.Queue()
    with manager.batch() as batch:
        several = batch(table)
        several["x"] = 1
        read = several["x"]
        several["x"] = 2
        again = several.get("x")
        batch(items).extend([1, 2, 3])
        length = batch.call(items, "__len__")
        batch(jobs).put("job")
        job = batch(jobs).get()
        whole = several.copy()
        assert not read.done()
        assert table.copy() == {}
    assert isinstance(read, futures.Future)
    assert [one.result(0) for one in (read, again, length, job, whole)] == [
        1,
        2,
        3,
        "job",
        {"x": 2},
    ]
    assert list(items) == [1, 2, 3]


def test_proxies_of_all_kinds(manager):
    space, value = manager.Namespace(x=1), manager.Value("i", 7)
    with manager.batch() as batch:
        batch(space).y = 5
        both = batch(space).x, batch(space).y
        batch(value).value = 8
        number = batch(value).value
        keys = batch.call(manager.dict(a=1), "__iter__")
    assert [one.result(0) for one in both] == [1, 5]
    assert number.result(0) == 8
    assert list(keys.result(0)) == ["a"]


def test_each_call_has_its_own_error(manager):
    table, jobs = manager.dict(), manager.Queue()
    with manager.batch(check=False) as batch:
        missing = batch(table)["no"]
        batch(table)["yes"] = 1
        empty = batch(jobs).get_nowait()
        unknown = batch.call(table, "no_such_method")
        found = batch(table)["yes"]
    assert type(missing.exception(0)) is KeyError
    assert "no_such_method" in str(unknown.exception(0))
    assert isinstance(unknown.exception(0), RemoteError)
    assert type(empty.exception(0)) is queue.Empty
    assert found.result(0) == 1


def test_the_first_error_raises(manager):
    table = manager.dict()
    with pytest.raises(KeyError) as caught, manager.batch() as batch:
        batch(table)["a"] = 1
        batch(table)["no"]
        batch(table)["b"] = 2
    assert caught.value.__notes__ == ["call 1 of the batch, __getitem__()"]
    assert table.copy() == {"a": 1, "b": 2}


def test_what_cannot_be_sent_raises_where_it_is_written(manager):
    table = manager.dict()
    with manager.batch() as batch:
        with pytest.raises(TypeError, match="not for sending"):
            batch(table)["x"] = Refuses()
        batch(table)["y"] = 1
    assert table.copy() == {"y": 1}


def test_what_does_not_arrive_costs_its_call_alone(manager):
    table = manager.dict()
    with manager.batch(check=False) as batch:
        batch(table)["x"] = 1
        lost = batch.call(table, "setdefault", "z", RefusesToArrive())
        batch(table)["y"] = 2
    assert isinstance(lost.exception(0), Exception)
    assert table.copy() == {"x": 1, "y": 2}


def test_arguments_are_what_they_were(manager):
    items = manager.list()
    argument = [1]
    with manager.batch() as batch:
        batch(items).append(argument)
        argument.append(2)
        batch(items).append(argument)
        batch(items).append(manager.list(["kept until it is there"]))
    assert items[:2] == [[1], [1, 2]]
    assert list(items[2]) == ["kept until it is there"]


def test_a_block_that_raises_sends_nothing(manager):
    table = manager.dict()
    with pytest.raises(ZeroDivisionError), manager.batch() as batch:
        reply = batch(table).get("x")
        batch(table)["x"] = 1
        1 / 0  # noqa: B018
    assert reply.cancelled()
    assert table.copy() == {}
    with pytest.raises(ValueError, match="has ended"):
        batch(table).clear()


def test_a_call_that_was_cancelled_is_not_made(manager):
    items = manager.list()
    with manager.batch() as batch:
        first, second = batch(items).append(1), batch(items).append(2)
        assert first.cancel()
    assert (first.cancelled(), second.result(0)) == (True, None)
    assert items[:] == [2]
    with manager.batch() as batch:
        batch(items).append(3).cancel()
    assert items[:] == [2]


def test_what_is_not_known_yet_is_not_true(manager):
    table = manager.dict(x=1)
    with manager.batch() as batch, pytest.raises(TypeError, match="after the block"):
        "x" in batch(table)  # noqa: B015
    with manager.batch():
        pass


def test_order_is_kept(manager):
    items = manager.list()
    with manager.batch() as batch:
        several = batch(items)
        for number in range(500):
            several.append(number)
        assert len(batch) == 500
    assert list(items) == list(range(500))


def test_a_killed_server_fails_the_batch(tmp_path):
    with programs.server(str(tmp_path / "s")) as (program, address):
        manager = SyncManager(address, programs.KEY)
        manager.connect()
        items, jobs = manager.list(), manager.Queue()
        items.append(1)
        with pytest.raises((EOFError, OSError)), manager.batch() as batch:
            reply = batch(jobs).get()  # would wait for ever
            program.kill()
    assert isinstance(reply.exception(0), (EOFError, OSError))
