# SPDX-License-Identifier: MIT
"""`_core.Block`: shared bytes and the atomic operations on them."""

import struct

import pytest
from forked import forked, run_forked

from sidestep import _core

CODES = "bBhHiIlLqQ"


def test_memory_is_zeroed_shared_and_writable():
    block = _core.Block(10000)
    assert block.size == 10000
    with memoryview(block) as view:
        assert view.nbytes == 10000
        assert not view.readonly
        assert bytes(view) == bytes(10000)
        view[:5] = b"hello"

        def write():
            assert bytes(view[:5]) == b"hello"
            view[5:10] = b"world"

        run_forked(write)
        assert bytes(view[:10]) == b"helloworld"


@pytest.mark.parametrize("size", [0, 1, 100, 5000, 1 << 20, 40 << 20])
def test_sizes(size):
    block = _core.Block(size)
    assert block.size == size
    with memoryview(block) as view:
        assert view.nbytes == size
        if size:
            view[-1] = 7
            assert view[-1] == 7


def test_bad_sizes():
    with pytest.raises(ValueError, match="negative"):
        _core.Block(-1)
    with pytest.raises(TypeError):
        _core.Block("big")
    with pytest.raises(MemoryError):
        _core.Block(1 << 60)


def test_recycled_memory_is_zeroed():
    for size in (64, 3000, 200000):
        for _ in range(4):
            block = _core.Block(size)
            view = memoryview(block)
            assert not any(view)
            view[:] = b"x" * size
            view.release()


def test_views_keep_it_open():
    block = _core.Block(16)
    view = memoryview(block)
    assert block.statistics() == {"size": 16, "exports": 1}
    with pytest.raises(BufferError, match="exported pointers exist"):
        block.close()
    view.release()
    block.close()
    for use in (lambda: memoryview(block), lambda: block.size, lambda: block.handle):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        block.load(0, "b")
    block.close()

    view = memoryview(_core.Block(16))
    view[0] = 1
    assert view[0] == 1


def test_a_handle_names_the_same_block():
    block = _core.Block(64)
    other = _core.Block.from_handle(block.handle)
    memoryview(block)[3] = 9
    assert memoryview(other)[3] == 9
    handle = block.handle
    del block
    assert memoryview(other)[3] == 9
    del other
    with pytest.raises((RuntimeError, ValueError)):
        _core.Block.from_handle(handle)


def test_memory_is_given_back():
    _core.Block(1 << 20)
    before = _core.arena_statistics()
    blocks = [_core.Block(1 << 20) for _ in range(8)]
    assert _core.arena_statistics()["extents"] >= before["extents"] + 8
    del blocks
    after = _core.arena_statistics()
    assert after["extents"] == before["extents"]
    assert after["slots"] == before["slots"]


@pytest.mark.parametrize("code", CODES)
def test_atomic_operations(code):
    width = struct.calcsize(code)
    block = _core.Block(64)
    top = (1 << (8 * width - (1 if code.islower() else 0))) - 1
    bottom = -top - 1 if code.islower() else 0
    offset = 2 * width

    assert block.load(offset, code) == 0
    block.store(offset, code, top)
    assert block.load(offset, code) == top
    assert memoryview(block).cast(code)[2] == top
    assert block.fetch_add(offset, code, 1) == top
    assert block.load(offset, code) == bottom
    assert block.fetch_add(offset, code, -1) == bottom
    assert block.exchange(offset, code, 5) == top
    assert block.compare_exchange(offset, code, 4, 9) == 5
    assert block.load(offset, code) == 5
    assert block.compare_exchange(offset, code, expected=5, new=bottom) == 5
    assert block.load(offset, code) == bottom
    for value in (top + 1, bottom - 1, 1 << 70):
        with pytest.raises(OverflowError, match="does not fit"):
            block.store(offset, code, value)
    # its neighbours are untouched
    assert not any(bytes(memoryview(block))[: 2 * width])
    assert not any(bytes(memoryview(block))[3 * width :])


def test_atomic_arguments():
    block = _core.Block(16)
    for code in ("d", "ii", "", 5, "é"):
        with pytest.raises(TypeError, match="typecode must be one of"):
            block.load(0, code)
    for offset in (-8, 16, 9):
        with pytest.raises(IndexError):
            block.load(offset, "q")
    with pytest.raises(ValueError, match="multiple of 8"):
        block.load(4, "q")
    with pytest.raises(TypeError):
        block.store(0, "q", 1.5)
    with pytest.raises(TypeError):
        block.fetch_add(0, "q", "1")
    with pytest.raises(TypeError, match="missing required argument: 'value'"):
        block.exchange(0, "q")


def test_an_argument_that_closes_the_block():
    block = _core.Block(1 << 16)

    class Closing:
        def __index__(self):
            block.close()
            return 1

    with pytest.raises(ValueError, match="closed"):
        block.fetch_add(0, "q", Closing())


def test_additions_of_processes_add_up():
    block = _core.Block(8)

    def add():
        for _ in range(20000):
            block.fetch_add(0, "q", 1)

    with forked(add), forked(add):
        add()
    assert block.load(0, "q") == 60000
