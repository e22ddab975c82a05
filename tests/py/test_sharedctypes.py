# SPDX-License-Identifier: MIT
"""Values and arrays in shared memory, with ctypes and without."""

import ctypes
import subprocess
import sys

import children
import pytest
from shapes import Point

import sidestep
from sidestep import heap

CODES = [
    ("i", 0, -7),
    ("I", 0, 2**32 - 1),
    ("b", 0, -128),
    ("B", 0, 255),
    ("h", 0, -1),
    ("H", 0, 65535),
    ("l", 0, -(2**63)),
    ("L", 0, 2**64 - 1),
    ("q", 0, -1),
    ("Q", 0, 1),
    ("f", 0.0, 1.5),
    ("d", 0.0, 1e300),
    ("c", b"\0", b"x"),
    ("u", "\0", "ü"),
]


@pytest.mark.parametrize(("code", "zero", "value"), CODES)
@pytest.mark.parametrize("kind", ["Value", "RawValue"])
def test_values(mp, kind, code, zero, value):
    made = getattr(mp, kind)(code)
    assert made.value == zero
    made.value = value
    assert made.value == value
    assert getattr(mp, kind)(code, value).value == value


def test_integers_wrap_around(mp):
    value = mp.Value("b", 0)
    value.value = 130
    assert value.value == -126
    with pytest.raises(TypeError):
        value.value = "text"


def test_arrays(mp):
    array = mp.Array("i", 5)
    assert len(array) == 5
    assert array[:] == [0] * 5
    array[0], array[-1] = 1, 2
    array[1:3] = [3, 4]
    assert list(array) == [1, 3, 4, 0, 2]
    assert array[::2] == [1, 4, 2]
    for index in (5, -6):
        with pytest.raises(IndexError):
            array[index]
    with pytest.raises(ValueError, match="same size"):
        array.get_obj()[1:3] = [1]
    assert mp.RawArray("d", [1, 2.5])[:] == [1.0, 2.5]
    assert mp.Array("i", range(3))[:] == [0, 1, 2]
    assert len(mp.Array("i", 0)) == 0
    with pytest.raises(ValueError, match="length must be"):
        mp.RawArray("i", -1)


def test_strings(mp):
    text = mp.Array("c", 10)
    text.value = b"hello"
    assert text.value == b"hello"
    assert text.raw == b"hello\0\0\0\0\0"
    assert text[1:3] == b"el"
    assert mp.Array("c", b"abc").raw == b"abc"


def test_locks(mp):
    lock = mp.Lock()
    assert mp.Value("i", lock=lock).get_lock() is lock
    assert not hasattr(mp.Value("i", lock=False), "get_lock")
    assert not hasattr(mp.Array("i", 3, lock=False), "get_lock")
    with pytest.raises(AttributeError, match="no method 'acquire'"):
        mp.Value("i", lock="no lock")
    value = mp.Value("i", 1)
    with value, value.get_lock():
        value.value += 1
    value.acquire()
    value.release()
    assert value.get_obj().value == 2


def test_structures(mp):
    point = mp.Value(Point, 1.0, 2.0)
    assert (point.x, point.y) == (1.0, 2.0)
    point.x = 5.0
    assert point.get_obj().x == 5.0
    duplicate = mp.sharedctypes.copy(point.get_obj())
    point.y = 0.0
    assert (duplicate.x, duplicate.y) == (5.0, 2.0)
    assert type(point).__name__ == "SynchronizedPoint"


def test_representation(mp):
    assert repr(mp.Value("i", 3)) == "<Synchronized wrapper for c_int(3)>"


def test_shared_with_children(ctx, start):
    value, array, point = ctx.Value("i"), ctx.Array("h", 5), ctx.Value(Point)
    start(ctx, children.write_values, value, array, point).join()
    assert value.value == 42
    assert array[:] == [-1, 7, 8, 0, 0]
    assert (point.x, point.y) == (1.5, 2.5)


def test_buffer_wrapper(ctx, start):
    wrapper = heap.BufferWrapper(100)
    view = wrapper.create_memoryview()
    assert len(view) == 100
    assert bytes(view) == bytes(100)
    start(ctx, children.write_buffer, wrapper).join()
    assert bytes(view[:6]) == b"hello\0"


def test_views_keep_the_memory():
    view = heap.BufferWrapper(8).create_memoryview()
    heap.BufferWrapper(8).create_memoryview()[:] = b"12345678"
    assert bytes(view) == bytes(8)


def test_pickling_needs_a_start(mp):
    import pickle

    for obj in (mp.Value("i"), mp.Array("i", 2)):
        with pytest.raises(RuntimeError, match="should only be shared"):
            pickle.dumps(obj)


INTEGERS = "bBhHiIlLqQ"


@pytest.mark.parametrize("code", INTEGERS)
def test_atomic_operations(code):
    value = sidestep.Value(code, 5)
    assert value.fetch_add(3) == 5
    assert value.value == 8
    assert value.exchange(1) == 8
    assert value.compare_exchange(2, 9) == 1
    assert value.value == 1
    assert value.compare_exchange(1, 9) == 1
    assert value.value == 9


@pytest.mark.parametrize("code", INTEGERS)
def test_atomic_operations_wrap_around(code):
    bits = 8 * ctypes.sizeof(type(sidestep.RawValue(code)))
    greatest = 2**bits - 1 if code.isupper() else 2 ** (bits - 1) - 1
    value = sidestep.Value(code, greatest)
    assert value.fetch_add(1) == greatest
    assert value.value == (0 if code.isupper() else -(2 ** (bits - 1)))


def test_atomic_operations_are_for_integers():
    with pytest.raises(TypeError, match="not an integer"):
        sidestep.Value("d").fetch_add(1)


def test_atomic_operations_count_everything(ctx, start):
    value = ctx.Value("q", 0)
    workers = [start(ctx, children.count_atomically, value, 20_000) for _ in range(3)]
    for worker in workers:
        worker.join()
    assert value.value == 60_000


WITHOUT_CTYPES = """
import sys
sys.modules["ctypes"] = sys.modules["_ctypes"] = None
sys.path.insert(0, {here!r})
import sidestep, children
if __name__ == "__main__":
    for code, zero, item in {codes!r}:
        for value in (sidestep.Value(code), sidestep.RawValue(code)):
            assert value.value == zero, code
            value.value = item
            assert value.value == item, code
        assert sidestep.Value(code, item).value == item
    value = sidestep.Value("b", 130)
    assert value.value == -126
    for method in ("fork", "spawn", "forkserver"):
        ctx = sidestep.get_context(method)
        value, array, text = ctx.Value("i"), ctx.Array("h", 5), ctx.Array("c", 10)
        child = ctx.Process(target=children.write_plain, args=(value, array, text))
        child.start()
        child.join()
        assert value.value == 42
        assert array[:] == [-1, 7, 8, 0, 0] and list(array) == array[:]
        assert text.value == b"hello" and text.raw == b"hello" + bytes(5)
        assert text[1:3] == b"el" and text[0] == b"h"
    assert value.fetch_add(1) == 42 and value.exchange(7) == 43
    assert value.compare_exchange(7, 8) == 7 and value.value == 8
    assert sidestep.RawArray("d", [1, 2.5])[:] == [1.0, 2.5]
    assert sidestep.Array("u", "abc").get_obj().value == "abc"
    assert repr(value) == "<Synchronized wrapper for c_int(8)>"
    duplicate = sidestep.sharedctypes.copy(array.get_obj())
    array[0] = 0
    assert duplicate[:] == [-1, 7, 8, 0, 0]
    for wrong in (lambda: sidestep.Value("z"), lambda: sidestep.Value("i", "text")):
        try:
            wrong()
        except TypeError:
            pass
        else:
            raise AssertionError
    for index in (5, -6):
        try:
            array[index]
        except IndexError:
            pass
        else:
            raise AssertionError
    print("fine")
"""


def test_without_ctypes(tmp_path):
    program = tmp_path / "program.py"
    here = children.__file__.rpartition("/")[0]
    program.write_text(WITHOUT_CTYPES.format(here=here, codes=CODES))
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
