# SPDX-License-Identifier: MIT
"""share(): views equal what was shared, travel by reference, and give memory back."""

import array
import collections
import copy
import ctypes
import gc
import os
import pickle
import struct
import sys

import numpy as np
import pytest
import share_children
from hypothesis import given, settings
from hypothesis import strategies as st

import sidestep
from sidestep import _core, _share, share

KEYS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=12),
    max_leaves=6,
)
OBJECTS = st.recursive(
    KEYS,
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.dictionaries(KEYS, inner, max_size=20)
        | st.sets(KEYS, max_size=20)
        | st.tuples(inner, inner)
    ),
    max_leaves=30,
)


def same(one, other):
    """Equal in value, type, order and in what is the same object."""
    return pickle.dumps(one) == pickle.dumps(other)


@settings(max_examples=300, deadline=None)
@given(OBJECTS)
def test_round_trip(obj):
    shared = share([obj])
    assert shared == [obj]
    back = shared.copy()[0]
    assert back == obj
    assert type(back) is type(obj)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, st.integers(), max_size=40), KEYS)
def test_keys_find_each_other_as_in_python(plain, other):
    shared = share(plain)
    for key, value in plain.items():
        assert shared[key] == value
    assert (other in shared) == (other in plain)
    assert list(shared.values()) == list(plain.values())
    assert shared == plain
    assert plain == shared


def test_equal_numbers_are_one_key():
    shared = share({1: "one", 2.5: "x", "1": "text", b"1": "bytes"})
    assert shared[True] == shared[1.0] == shared[1 + 0j] == shared[np.int64(1)] == "one"
    assert shared["1"] == "text"
    assert shared[b"1"] == "bytes"
    assert None not in shared
    with pytest.raises(TypeError, match="unhashable"):
        assert [] in shared


def test_sequences():
    plain = [*range(50), 2**60, -(2**63), 2**100]
    shared = share(plain)
    assert shared[3:40:4] == plain[3:40:4]
    assert shared[::-1][2:7] == plain[::-1][2:7]
    assert shared[40:10] == []
    assert shared[10:20].copy() == plain[10:20]
    assert shared.index(2**60) == 50
    assert shared.count(7) == 1
    assert 2**100 in shared
    assert list(reversed(shared)) == plain[::-1]
    assert hash(share((1, "a", (2,)))) == hash((1, "a", (2,)))
    assert share((1, 2)) < (1, 3)
    with pytest.raises(IndexError):
        shared[len(plain)]


def test_sets():
    shared = share({1, 2, 3})
    assert shared == {1, 2, 3}
    assert shared & {1, 9} == {1}
    assert {1, 9} | shared == {1, 2, 3, 9}
    assert hash(share(frozenset("ab"))) == hash(frozenset("ab"))
    assert {1} in share({frozenset([1])})


def test_identity_and_cycles():
    name = "a long name of something"
    inner = [name]
    plain = [inner, inner, (inner, name), {}]
    plain[3]["self"] = plain
    back = share(plain).copy()
    assert back[0] is back[1] is back[2][0]
    assert back[0][0] is back[2][1]
    assert back[3]["self"] is back


def test_no_change():
    for change in (
        lambda: share([1]).append(2),
        lambda: share([1]).__setitem__(0, 2),
        lambda: share({1: 2}).update({}),
        lambda: share({1}).add(2),
    ):
        with pytest.raises(TypeError, match=r"copy\(\) makes, and share\(\)"):
            change()


@pytest.mark.parametrize(
    "bad",
    [
        collections.OrderedDict(a=1),
        collections.namedtuple("P", "x")(1),  # noqa: PYI024
        object(),
        np.array([object()]),
    ],
)
def test_what_cannot_be_shared_is_named(bad):
    with pytest.raises(TypeError, match=r"obj\['x'\]\[1\]"):
        share({"x": [0, bad]})


@pytest.mark.parametrize(
    "plain",
    [
        np.arange(24.0).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(20)[::3],
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.zeros((0, 3)),
        np.array(3.5),
    ],
)
def test_numpy(plain):
    shared = share(plain)
    assert type(shared) is np.ndarray
    assert shared.dtype == plain.dtype
    assert shared.shape == plain.shape
    assert (shared == plain).all()
    assert not shared.flags.writeable
    assert share(shared) is shared


def test_other_arrays():
    numbers = array.array("d", [1, 2.5])
    shared = share([numbers, bytearray(b"xy"), memoryview(b"abc"), np.float64(2)])
    assert shared[0][1] == 2.5
    assert memoryview(shared[0]).format == "d"
    back = shared.copy()
    assert back == [numbers, b"xy", b"abc", 2.0]
    assert [type(x) for x in back] == [
        array.array, bytearray, memoryview, np.float64,
    ]  # fmt: skip


def test_bytes():
    data = os.urandom(100_000)
    shared = share(data)
    assert shared == data
    assert hash(shared) == hash(data)
    assert shared[10:20] == data[10:20]
    assert share([data])[0] == data


def test_itself():
    shared = share([1])
    assert share(shared) is shared
    assert copy.copy(shared) is shared
    assert copy.deepcopy(shared) is shared
    assert share("text") == "text"


def test_by_value_outside_messages():
    for plain in ([1, [2]], {"a": 1}, (1,), {1}, frozenset([1]), b"x" * 9):
        again = pickle.loads(pickle.dumps(share(plain)))
        assert again == plain
        assert type(again) is type(share(plain))


def test_memory_goes_with_the_last_view():
    gc.collect()
    before = _core.arena_statistics()["slots"]
    shared = share({"a": [1, 2]})
    inner = shared["a"]
    del shared
    assert inner == [1, 2]
    queue = sidestep.Queue()
    during = _core.arena_statistics()["slots"]
    queue.put(inner)
    del inner
    received = queue.get()
    assert received == [1, 2]
    del received, queue
    gc.collect()
    assert during > before
    assert _core.arena_statistics()["slots"] == before


def test_every_start_method(ctx, start):
    here, there = ctx.Pipe()
    parts = (share(list(range(1000)))[5:], share({"k": 9}), share(np.arange(4.0)))
    start(ctx, share_children.read, parts, there)
    there.close()
    assert here.recv() == ["SharedList", "SharedDict", "ndarray"]
    assert here.recv() == ([5, 6, 7], 9, 1.0)


def test_a_share_outlives_who_made_it(ctx, start):
    queue = ctx.Queue()
    process = start(ctx, share_children.share_and_die, queue)
    process.join()
    shared = queue.get()
    assert shared["left"][9_999] == 9_999


def test_damage_is_an_error():
    shared = share([[1], "text" * 10, {"k": 1}])
    handle, word = shared._reference()
    for offset in (8, 1 << 40, (1 << 48) - 8, 65):
        with pytest.raises(RuntimeError, match="damaged"):
            _core.share_open(handle, (word >> 48 << 48) | offset)


BYTES = 70_000  # they lie behind everything, as they are


def forged(*words):
    """Open the first record of a share that share() did not write."""
    start = share([bytes(BYTES)]).statistics()["size"] - BYTES
    cells = [
        start + word[0] * 8 | RECORD if type(word) is list else word for word in words
    ]
    content = struct.pack(f"<{len(cells)}Q", *cells).ljust(BYTES, b"\0")
    shared = share([content])
    handle, _ = shared._reference()
    return _core.share_open(handle, start | RECORD)


RECORD = 0xFFFD << 48
TUPLE, LIST, SET, ARRAY = 6, 7, 9, 11


@pytest.mark.parametrize(
    "words",
    [
        # a tuple of a set of that tuple; the tuple is not finished when it is hashed
        (TUPLE | 2 << 16, [3], [3], SET | 1 << 16, 0, [0]),
        # a list of a tuple of itself, and of a set of that
        (LIST | 2 << 16, [3], [5], TUPLE | 1 << 16, [3], SET | 1 << 16, 0, [3]),
        (
            LIST | 2 << 16,
            [3],
            [5],
            TUPLE | 1 << 8 | 1 << 16,
            [3],
            SET | 1 << 16,
            0,
            [3],
        ),
    ],
)
def test_keys_that_cannot_be(words):
    view = forged(*words)
    with pytest.raises(RuntimeError, match=r"damaged|recursion|overflow"):
        view.copy()


def test_a_format_that_is_the_array():
    with pytest.raises(RuntimeError, match="damaged"):
        forged(ARRAY, 1, 64, 1, [0], [0])


def test_dicts_are_asked_for_what_they_have():
    other = collections.defaultdict(int, {"b": 0})
    assert share({"a": 0}) != other
    assert other == {"b": 0}
    assert share({"a": 0}) != collections.Counter(b=1)
    assert share({"b": 0}) == other


def test_text_of_numpy():
    keys = list(np.array(["a", "bb", "ccc"]))
    shared = share({key: i for i, key in enumerate(keys)})
    assert [shared[str(key)] for key in keys] == [0, 1, 2]
    assert "bb" in share(keys)
    assert share(keys) == ["a", "bb", "ccc"]


def test_memory_that_no_cast_makes():
    for plain in (np.zeros((0, 3)), np.zeros(3, ">f8"), (ctypes.c_int * 3)(1, 2, 3)):
        view = memoryview(plain)
        copied = share([view]).copy()[0]
        assert (copied.format, copied.shape) == (view.format, view.shape)
        assert copied.tobytes() == view.tobytes()


def test_bytes_in_bytes():
    shared = share(b"abc")
    assert b"bc" in shared
    assert b"cb" not in shared
    assert 97 in shared


@pytest.mark.parametrize("protocol", [None, 2, 4, 5])
def test_plain_arrays_pickle_in_any_protocol(protocol):
    keep = share(np.arange(4.0))
    plain, itself = np.arange(5000.0), np.empty(1, object)
    itself[0] = itself
    dumps = sidestep.reduction.ForkingPickler.dumps
    assert (pickle.loads(dumps(plain, protocol)) == plain).all()
    again = pickle.loads(dumps(itself, protocol))
    assert again[0] is again
    del keep


def test_a_key_that_goes_while_it_is_described(monkeypatch):
    value = object()
    changing = {np.float64(1.5): value}
    describe = _share._describe

    def change(obj):
        answer = describe(obj)
        changing.clear()
        changing["other"] = value
        return answer

    _core.share_setup(_share._VIEWS, change, _share._restore)
    try:
        with pytest.raises(RuntimeError, match="changed while"):
            share(changing)
    finally:
        _core.share_setup(_share._VIEWS, describe, _share._restore)


def test_ten_million(request):
    if not request.config.getoption("--run-slow"):
        pytest.skip("needs --run-slow")
    shared = share(list(range(10_000_000)))
    assert shared.statistics()["size"] < 9 * 10_000_000
    assert shared[9_999_999] == 9_999_999
    assert sys.getsizeof(shared) < 200
