# SPDX-License-Identifier: MIT
"""progress= of maps and iterators: what is told, by whom, and what is drawn."""

import io
import sys
import threading
import time

import pool_tasks as tasks
import pytest

import sidestep
from sidestep import _progress
from sidestep.pool import ThreadPool


@pytest.fixture(params=["processes", "threads"])
def pool(request):
    if request.param == "threads":
        made = ThreadPool(2)
    else:
        made = sidestep.get_context("fork").Pool(2)
    yield made
    made.terminate()
    made.join()


class Told(list):
    """Notes what it is told, and that it is never told twice at a time."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def __call__(self, done, total):
        assert self.lock.acquire(blocking=False)
        self.append((done, total))
        self.lock.release()

    def is_right(self, total, first_total):
        done = [pair[0] for pair in self]
        assert done == sorted(set(done))
        assert self[0] == (0, first_total)
        assert self[-1] == (total, total)
        return True


def wait_until(is_so):
    while not is_so():
        time.sleep(0.001)


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_maps(pool, chunksize):
    told = Told()
    squares = [x * x for x in range(30)]
    assert pool.map(tasks.square, range(30), chunksize, progress=told) == squares
    assert told.is_right(30, 30)
    told = Told()
    pairs = ((x, x) for x in range(30))
    assert len(pool.starmap(tasks.add, pairs, chunksize, progress=told)) == 30
    assert told.is_right(30, 30)


def test_nothing_to_do(pool):
    told = Told()
    assert pool.map(tasks.square, [], progress=told) == []
    assert told == [(0, 0)]


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_iterators(pool, name):
    told = Told()
    imap = getattr(pool, name)
    assert len(list(imap(tasks.square, range(30), progress=told))) == 30
    wait_until(lambda: told[-1][0] == 30)
    assert told.is_right(30, 30)
    told = Told()
    assert len(list(imap(tasks.square, iter(range(30)), progress=told))) == 30
    wait_until(lambda: told[-1][0] == 30)
    assert told[0] == (0, None)


def test_failed_items_count(pool):
    told = Told()
    with pytest.raises(TypeError):
        pool.map(tasks.square, [1, None, 3, 4], 1, progress=told)
    assert told.is_right(4, 4)


def test_what_is_cancelled_does_not_count():
    told = Told()
    gate = sidestep.Event()
    with sidestep.get_context("fork").Pool(1) as pool:
        result = pool.map_async(tasks.wait_for, [gate] * 5, 1, progress=told)
        result.cancel()
        wait_until(result.ready)
    assert told[-1][0] < 5


def test_a_function_that_raises_is_called_no_more(pool, capsys):
    calls = []

    def progress(done, total):
        calls.append(done)
        if done:
            raise ValueError("in progress")

    assert pool.map(tasks.square, range(9), 1, progress=progress)[8] == 64
    assert len(calls) == 2
    said = []
    wait_until(
        lambda: said.append(capsys.readouterr().err) or "in progress" in said[-1]
    )


def test_a_function_that_takes_something_else_raises_here(pool):
    with pytest.raises(TypeError):
        pool.map(tasks.square, range(9), progress=lambda: None)
    assert pool.map(tasks.square, [2]) == [4]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def only(monkeypatch):
    """Make some packages impossible to import."""

    def hide(*hidden):
        real = _progress.importlib.import_module

        def import_module(name):
            if name.split(".")[0] in hidden:
                raise ImportError(name)
            return real(name)

        monkeypatch.setattr(_progress.importlib, "import_module", import_module)

    return hide


def test_a_line_on_a_terminal(only, monkeypatch):
    only("tqdm", "rich")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with sidestep.get_context("fork").Pool(2) as pool:
        pool.map(tasks.square, range(20), progress=True)
        assert sys.stderr.getvalue().endswith("\r20/20 (100 %)\n")
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert len(list(pool.imap(tasks.square, iter(range(5)), progress=True))) == 5
        wait_until(lambda: sys.stderr.getvalue().endswith("\n"))
        assert "\r5/5 (100 %)\n" in sys.stderr.getvalue()


def test_nothing_elsewhere(only, capsys):
    only("tqdm", "rich")
    with ThreadPool(2) as pool:
        pool.map(tasks.square, range(20), progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("package", "hidden"), [("tqdm", "rich"), ("rich", "tqdm")])
def test_bars_have_no_threads(pool, package, hidden, only, monkeypatch):
    pytest.importorskip(package)
    only(hidden)
    monkeypatch.setattr(sys, "stderr", Terminal())
    before = set(threading.enumerate())
    pool.map(tasks.square, range(20), progress=True)
    assert set(threading.enumerate()) == before
    assert "20/20" in sys.stderr.getvalue()


def test_asyncio(pool):
    import asyncio

    told = Told()

    async def main():
        return await pool.amap(tasks.square, range(30), progress=told)

    assert asyncio.run(main())[29] == 29 * 29
    wait_until(lambda: told[-1][0] == 30)
    assert told.is_right(30, 30)
