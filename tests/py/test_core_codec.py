# SPDX-License-Identifier: MIT
"""Messages of `_core`: what goes in comes out, and nothing else gets in."""

import functools

import pytest
from awkward import MyBytes, MyInt, Point

from sidestep import _core, reduction

OBJECTS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    2**31,
    -(2**63),
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**100,
    0.0,
    -0.0,
    1.5,
    float("inf"),
    "",
    "plain",
    "größer",
    "\U0001f600 and more",
    "\x00",
    "lone \ud800 surrogate",
    "x" * 247,
    "x" * 248,
    "ß" * 300,
    b"",
    b"\x00\xff",
    b"y" * 246,
    b"y" * 247,
    b"y" * 248,
    b"y" * 4096,
    b"y" * 70000,
    b"z" * (3 << 20),
    bytearray(b"mutable"),
    (),
    (1, "two", b"three", None),
    [],
    {"a": [1, 2, {"b": ()}]},
    {1, 2},
    range(5),
    complex(1, 2),
    Point([1, 2, 3]),
    Point("p" * 100000),
    MyInt(5),
    MyBytes(b"sub"),
    int,
    len,
]


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: repr(obj)[:30])
def test_objects_come_out_as_they_went_in(obj):
    q = _core.Queue()
    assert q.put(obj) is None
    back = q.get()
    assert type(back) is type(obj)
    assert repr(back) == repr(obj) or back == obj


def test_not_a_number():
    q = _core.Queue()
    q.put(float("nan"))
    assert q.get() != q  # it came out at all
    nan = float("nan")
    q.put(nan)
    back = q.get()
    assert back != back  # noqa: PLR0124 - that is what a NaN is


def test_raw_messages():
    q = _core.Queue()
    for data in (b"", b"abc", bytearray(b"x" * 5000), memoryview(b"y" * 100000)):
        q.put_bytes(data)
        assert q.get_bytes() == bytes(data)
    q.put_bytes(b"\x90 unknown")
    with pytest.raises(ValueError, match="first is 0x90"):
        q.get()
    q.put_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        q.get()
    q.put_bytes(b"i123")
    with pytest.raises(ValueError, match="not an object"):
        q.get()
    q.put_bytes(b"s\xff")
    with pytest.raises(UnicodeDecodeError):
        q.get()
    q.put_bytes(data=b"b by hand")
    assert q.get() == b" by hand"
    with pytest.raises(TypeError):
        q.put_bytes("text")


def test_a_message_lives_as_long_as_somebody_looks_at_it():
    kept = []

    def loads(buffer, buffers):
        assert buffers is None
        kept.append(buffer)
        return bytes(buffer[:4])

    q = _core.Queue()
    _core.set_pickler(lambda _obj, _callback: b"data" * 50000, loads)
    try:
        q.put(Point(1))
        assert q.get() == b"data"
        assert bytes(kept[0]) == b"data" * 50000
        assert kept[0].readonly
        with pytest.raises(TypeError, match="must be callable"):
            _core.set_pickler(1, 2)
        _core.set_pickler(lambda _obj, _callback: "text", loads)
        with pytest.raises(TypeError, match="bytes-like"):
            q.put(Point(1))
    finally:
        restore_pickler()
    assert q.empty()


def test_plain_data_needs_no_registered_pickler():
    def refuse_all(_first, _second):
        raise AssertionError

    plain = [[], (), {}, {"a": [1, (2.5, None)], b"k": True}, [[[[1]]]], [0] * 63]
    plain += [[{1}], [[[[[1]]]]], [0] * 64, {"a": bytearray()}, 1 << 99, "\ud800"]
    other = [[Point(1)], [MyInt(1)], [1j], 1j]
    cycle = []
    cycle.append(cycle)
    q = _core.Queue()
    _core.set_pickler(refuse_all, refuse_all)
    try:
        for obj in plain:
            q.put(obj)
            assert q.get() == obj
        for obj in [*other, cycle]:
            with pytest.raises(AssertionError):
                q.put(obj)
    finally:
        restore_pickler()
    shared = ["same"]
    q.put([shared, shared, {"k": shared}])
    back = q.get()
    assert back[0] is back[1] is back[2]["k"]
    q.put(cycle)
    back = q.get()
    assert back[0] is back


def restore_pickler():
    _core.set_pickler(reduction._dumps, reduction._loads)


@pytest.mark.parametrize(
    ("obj", "plain"),
    [
        (("id", "__getitem__", ("k", 1, 1.5, None, True), {"a": [b"x"]}), True),
        ([[[[]]]], True),
        (functools.partial(int), False),
        (type("Text", (str,), {})("x"), False),
        (b"x" * 5000, False),
        ([0] * 100, False),
        ({1, 2}, False),
    ],
)
def test_what_the_ordinary_pickler_does_for(obj, plain):
    assert _core.is_plain(obj) is plain
    if plain:
        data = reduction._dumps(obj, None)
        assert type(data) is bytes
        assert data == bytes(reduction.ForkingPickler.dumps(obj, 5))
    circle = []
    circle.append(circle)
    assert not _core.is_plain(circle)
