# SPDX-License-Identifier: MIT
"""Plain nests: what comes out is what pickle would have given, identities included."""

import contextlib
import gc
import pickle
import sys

import pytest
from awkward import MyBytes, MyInt, Point
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestep import _core

DEPTH_MAX = 100


def encode(obj):
    q = _core.Queue()
    q.put(obj)
    return q.get_bytes()


def decode(data):
    q = _core.Queue()
    q.put_bytes(data)
    return q.get()


def is_nest(obj):
    return encode(obj)[:1] == b"n"


def check_as_pickle(obj):
    """Through the queue and through pickle it becomes the same."""
    ours = decode(encode(obj))
    theirs = pickle.loads(pickle.dumps(obj, protocol=5))
    compare(ours, theirs)
    return ours


def compare(ours, theirs):
    """The same types, values, order and identities."""
    forth, back = {}, {}
    alive = []
    stack = [(ours, theirs)]
    while stack:
        a, b = stack.pop()
        assert type(a) is type(b)
        if id(a) in forth or id(b) in back:
            assert forth[id(a)] == id(b)
            assert back[id(b)] == id(a)
            continue
        forth[id(a)] = id(b)
        back[id(b)] = id(a)
        alive.append((a, b))
        if isinstance(a, dict):
            assert len(a) == len(b)
            stack.extend(zip(a, b, strict=True))
            stack.extend(zip(a.values(), b.values(), strict=True))
        elif isinstance(a, (list, tuple, set, frozenset)):
            assert len(a) == len(b)
            stack.extend(zip(a, b, strict=True))
        else:
            assert repr(a) == repr(b)


# -- Random graphs ----------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 3000), 1 << 3000),
    st.sampled_from(
        [1 << n for n in (6, 7, 8, 15, 16, 30, 31, 32, 60, 62, 63, 64, 65)]
    ),
    st.floats(),
    st.sampled_from([0.0, -0.0, float("nan"), float("inf")]),
    st.text(max_size=40),
    st.text(st.characters(categories=["Cs", "Lu"]), max_size=5),
    st.text(st.characters(max_codepoint=0xFF), max_size=5),
    st.sampled_from(["id", "name", "x" * 31, "x" * 32, "\U0001f600", "\xe9", "\x00"]),
    st.binary(max_size=40),
    st.sampled_from([b"x" * 4095, b"y" * 4096, "z" * 5000, "\u20ac" * 3000]),
    st.binary(max_size=5).map(bytearray),
    st.just(()),
)
KINDS = [tuple, list, set, frozenset, dict]


def is_hashable(obj):
    try:
        hash(obj)
    except TypeError:
        return False
    return True


def has_nan(obj):
    """Such a key hashes by its identity, so that no copy of a set keeps the order."""
    if isinstance(obj, (tuple, frozenset)):
        return any(map(has_nan, obj))
    return isinstance(obj, float) and repr(obj) == "nan"


@st.composite
def graphs(draw):
    """Containers of what was there before them: anything may be shared, also keys."""
    made = draw(st.lists(LEAVES, min_size=1, max_size=8))
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(KINDS))
        items = draw(st.lists(st.sampled_from(range(len(made))), max_size=6))
        chosen = [made[i] for i in items]
        if kind in (set, frozenset):
            keys = filter(is_hashable, chosen)
            made.append(kind(key for key in keys if not has_nan(key)))
        elif kind is dict:
            keys = filter(is_hashable, reversed(chosen))
            made.append(dict(zip(keys, chosen, strict=False)))
        else:
            made.append(kind(chosen))
    return made[-1]


@settings(max_examples=700, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_any_graph_comes_out_as_from_pickle(graph):
    back = check_as_pickle(graph)
    # What came out has no reference from elsewhere: now counts of 1 are met, too.
    del graph
    fresh = pickle.loads(pickle.dumps(back))
    del back
    if isinstance(fresh, (dict, list, tuple, set, frozenset)):
        assert is_nest(fresh)
    check_as_pickle(fresh)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.data())
def test_any_cycle_comes_out_as_from_pickle(graph, data):
    found = []
    stack = [graph]
    while stack:
        one = stack.pop()
        if any(one is other for other in found):
            continue
        if isinstance(one, (list, dict)):
            found.append(one)
        if isinstance(one, dict):
            stack.extend(one.values())
        elif isinstance(one, (list, tuple)):
            stack.extend(one)
    if not found:
        return
    chosen = data.draw(st.sampled_from(found))
    if isinstance(chosen, list):
        chosen.append(graph)
    else:
        chosen["again"] = graph
    assert encode(graph)[:1] in b"PB"
    check_as_pickle(graph)


# -- Identity ---------------------------------------------------------------------------


def test_shared_objects_stay_one():
    row = ["same"]
    pair = (row, "text")
    key = ("k" * 40, 1)
    buffer = bytearray(b"buffer")
    frozen = frozenset([1, 2])
    equal = ["same"]
    graph = [row, pair, pair, row, equal, buffer, buffer, frozen, frozen]
    graph += [{key: key}, {key}, "text", b"bytes", b"bytes", "t" * 3, ((), ())]
    back = check_as_pickle(graph)
    assert back[0] is back[1][0] is back[3]
    assert back[1] is back[2]
    assert back[0] is not back[4]
    assert back[5] is back[6]
    assert back[7] is back[8]
    assert next(iter(back[9])) is next(iter(back[10])) is next(iter(back[9].values()))
    assert is_nest(graph)


def test_counts_of_one_on_two_paths():
    """The inner list has one reference, and two ways lead to it."""
    outer = ([1],)
    assert gc.get_referrers(outer[0]) == [outer]
    back = check_as_pickle([outer, outer])
    assert back[0] is back[1]
    assert back[0][0] is back[1][0]


def test_equal_strings_stay_two():
    one = "hello world"
    other = one[:5] + one[5:]
    back = check_as_pickle([one, other, one, {one: other}])
    assert back[0] is not back[1]
    assert back[0] is back[2] is next(iter(back[3]))


def test_equal_keys_stay_two():
    """The decoder has keys that it gave before, but gives each once a message."""
    names = ["id", "name", "eightchr", "nine chars", "seventeen letters", "x" * 31]
    for _ in range(3):
        for name in names:
            other = name[:1] + name[1:]
            rows = [{name: 1}, {other: 2}, {name: 3}]
            back = check_as_pickle(rows)
            keys = [next(iter(row)) for row in back]
            assert keys[0] is keys[2]
            assert keys[0] is not keys[1]
            assert keys == [name] * 3


def test_keys_that_look_alike():
    names = [
        a * 8 + b * n + c * 8 for a in "ab" for b in "ab" for c in "ab" for n in (0, 9)
    ]
    names += [chr(65 + i) * n for i in range(26) for n in range(1, 32)]
    for _ in range(2):
        for name in names:
            assert decode(encode({name: name}))[name] == name
        check_as_pickle({name: [name] for name in names})


def test_a_collection_that_decodes_inside_a_decode():
    table = [{f"key {i % 7}": [i], "id": {}, f"only {i}": ()} for i in range(300)]
    other = _core.Queue()
    inside = []

    def collected(phase, _info):
        other.put({f"key {i}": i for i in range(7)} | {"id": 1})
        inside.append(other.get()["id"])

    data = encode(table)
    threshold = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(5)
    try:
        for _ in range(5):
            compare(decode(data), pickle.loads(pickle.dumps(table)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collected)
    assert inside


def test_many_shared_objects():
    """More than fit the first tables of either side."""
    rows = [[i] for i in range(5000)]
    texts = [f"text {i}" for i in range(5000)]
    back = check_as_pickle([rows, texts, rows[::-1], texts[::7], {t: t for t in texts}])
    assert back[0][4999] is back[2][0]
    assert is_nest([rows, texts, rows])


def test_order_stays():
    made = {str(i): i for i in range(100)}
    for i in range(0, 100, 3):
        del made[str(i)]
    made["0"] = "again"
    assert list(check_as_pickle(made)) == list(made)
    numbers = {i * 8 for i in range(40)}
    for i in range(0, 40, 2):
        numbers.remove(i * 8)
    check_as_pickle([numbers, frozenset(numbers)])
    check_as_pickle({float("nan"): 1, -0.0: 2, float("inf"): 3})


# -- What is not a nest -----------------------------------------------------------------


def nested(depth, kind=list):
    obj = kind()
    for _ in range(depth - 1):
        obj = kind([obj])
    return obj


def test_depth():
    assert is_nest(nested(DEPTH_MAX))
    assert not is_nest(nested(DEPTH_MAX + 1))
    check_as_pickle(nested(DEPTH_MAX, tuple))
    check_as_pickle(nested(DEPTH_MAX + 1))
    with pytest.raises(RecursionError):
        encode(nested(200_000))


def test_what_pickle_must_do():
    for obj in (Point(1), MyInt(1), MyBytes(b"x"), 1j, range(3), len):
        for nest in ([obj], (1, [obj]), {1: obj}, [{"k": ({1: [obj]},)}]):
            assert not is_nest(nest)
            assert decode(encode(nest)) == nest
    assert not is_nest({MyInt(1)})


def test_cycles():
    row = []
    row.append(row)
    table = {}
    table["self"] = [table]
    inner = []
    pair = (inner, 1)
    inner.append(pair)
    for cycle in (row, table, pair, [1, row], (table,), [pair, pair]):
        assert not is_nest(cycle)
        check_as_pickle(cycle)


def test_a_dear_key_is_left_to_pickle():
    key = ("x" * 3,)
    for _ in range(18):  # a quarter of a million steps to hash
        key = (key, key)
    assert is_nest([key])
    assert not is_nest({key: 1})
    check_as_pickle({key: 1})
    points = [(i, i + 1) for i in range(50)]
    edges = {(a, b): 1 for a in points for b in points}
    assert is_nest(edges)
    check_as_pickle(edges)


# -- Encoding runs nothing --------------------------------------------------------------


def test_encoding_runs_no_python_and_starts_no_collection():
    nest = [
        {
            "id": i,
            "name": f"name {i}",
            "v": (i / 3, {i}, frozenset([i]), [bytearray(9)]),
        }
        for i in range(500)
    ]
    nest += [1 << 100, "\u20ac" * 9, b"x" * 10_000, nested(50), nest[0]]
    q = _core.Queue()
    events, collections = [], []
    put = q.put
    put([1])  # what is made at the first time is there
    gc.callbacks.append(lambda *_: collections.append(1))
    threshold = gc.get_threshold()
    try:
        gc.collect()
        gc.set_threshold(1)
        before = len(collections)
        put(nest)
        after = len(collections)
        gc.set_threshold(*threshold)
        sys.setprofile(lambda _frame, event, _arg: events.append(event))
        put(nest)
        sys.setprofile(None)
    finally:
        sys.setprofile(None)
        gc.set_threshold(*threshold)
        gc.callbacks.pop()
    assert after == before
    assert events[:2] == ["c_call", "c_return"]
    assert events[2:] == ["c_call"]  # setprofile itself
    assert q.get_bytes() == b"n\x01\xf8\x01\x01"
    assert q.get() == nest


# -- Large leaves and long stays --------------------------------------------------------


def test_large_leaves():
    leaves = [bytes([i]) * 5000 for i in range(40)] + ["\u20ac" * 50_000, "x" * 100_000]
    graph = {
        "leaves": leaves,
        "again": leaves[::-1],
        "buffer": bytearray(b"x" * 200_000),
    }
    check_as_pickle(graph)
    assert is_nest(graph)


def test_a_waiting_put_keeps_what_it_encoded(start_thread, eventually):
    """While it waits for room others encode, and may drop what it refers to."""
    q = _core.Queue(1)
    q.put("full")
    large = b"a" * 100_000
    rows = [large, "b" * 100_000, list(range(1000))]
    wanted = list(rows)
    before = sys.getrefcount(large)
    thread = start_thread(q.put, rows)
    eventually(lambda: sys.getrefcount(large) > before)
    rows.clear()
    other = _core.Queue()
    for i in range(50):
        other.put([i, b"c" * 100_000, {"x": "d" * 100_000}])
    assert q.get() == "full"
    assert q.get() == wanted
    thread.join()


@pytest.fixture
def start_thread():
    import threading

    threads = []

    def start(target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    for thread in threads:
        thread.join()


def test_put_inside_a_put():
    """A signal handler that puts while a put waits has a buffer of its own."""
    import signal
    import threading

    q = _core.Queue(1)
    other = _core.Queue()
    q.put("full")
    seen = []

    def handler(*_):
        other.put([["inner"] * 500])
        seen.append(q.get())

    old = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
    try:
        timer.start()
        q.put([["outer"] * 500])
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)
    assert seen == ["full"]
    assert q.get() == [["outer"] * 500]
    assert other.get() == [["inner"] * 500]


def test_a_pipe_gives_the_pickle_of_an_object_sent():
    import sidestep

    left, right = sidestep.Pipe()
    with left, right:
        left.send({"a": [1, (2,)]})
        assert pickle.loads(right.recv_bytes()) == {"a": [1, (2,)]}
        left.send_bytes(pickle.dumps([1]))
        assert right.recv() == [1]


# -- Hostile bytes ----------------------------------------------------------------------

HOSTILE = {
    "nothing": b"n",
    "another version": b"n\x02\x01",
    "no object": b"n\x01",
    "two objects": b"n\x01\x01\x02",
    "half a float": b"n\x01\xe8\x00\x00",
    "half an int": b"n\x01\xe6\x00",
    "a large int without its bytes": b"n\x01\xe7\xff\xff\xff\xff\x0f",
    "a size without end": b"n\x01\xf8" + b"\xff" * 20,
    "a list without its items": b"n\x01\xf8\xff\xff\xff\xff\xff\x7f",
    "a dict without its items": b"n\x01\xfa\xff\xff\xff\x7f\x01\x01",
    "a tuple in a tuple that claims the same bytes": b"n\x01\xf6\x10\xf6\x10"
    + bytes(16),
    "text without its end": b"n\x01\x85abcd",
    "text that is not ASCII": b"n\x01\x82a\xff",
    "one character that is not ASCII": b"n\x01\x81\xff",
    "latin text that is ASCII": b"n\x01\xec\x02ab",
    "wide text that is narrow": b"n\x01\xee\x01a\x00",
    "characters there are not": b"n\x01\xf0\x01\x00\x00\x11\x00",
    "empty wide text": b"n\x01\xee\x00",
    "a reference to nothing": b"n\x01\xc0",
    "a far reference to nothing": b"n\x01\xe9\xff\xff\x03",
    "a reference to what is not finished": b"n\x01\xf9\x01\xc0",
    "a list as a key": b"n\x01\xfa\x01\xf8\x00\x01",
    "a list in a tuple as a key": b"n\x01\xfc\x01\xf6\x01\xf8\x00",
    "deeper than allowed": b"n\x01" + b"\xf8\x01" * DEPTH_MAX + b"\xf8\x00",
    "a key that takes for ever to hash": b"n\x01\xf8\x3d\xf7\x01\x01"
    + b"".join(b"\xf7\x02" + bytes([0xC0 + min(i, 31)]) * 2 for i in range(31))
    + b"".join(
        b"\xf7\x02" + b"\xe9" + bytes([i]) + b"\xe9" + bytes([i]) for i in range(31, 59)
    )
    + b"\xfc\x01\xe9\x3b",
    "a key that is a long chain": b"n\x01\xf8\x84\x01\xf7\x01\x01"
    + b"".join(
        b"\xf7\x01\xe9" + (bytes([i]) if i < 128 else bytes([i - 128 + 128, 1]))
        for i in range(130)
    )
    + b"\xfc\x01\xe9\x82\x01",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes(data):
    with pytest.raises(ValueError, match="the message is damaged"):
        decode(data)


def test_no_prefix_and_no_flip_does_harm():
    graph = [{"id": 1, "t": (1.5, "\u20ac\xe9", b"xy")}, {frozenset([1, (2, 3)])}]
    graph.append(graph[0])
    data = encode(graph)
    for end in range(1, len(data)):
        with pytest.raises(ValueError):
            decode(data[:end])
    for i in range(1, len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[i] ^= 1 << bit
            with contextlib.suppress(ValueError):
                decode(flipped)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(data):
    with contextlib.suppress(ValueError):
        decode(b"n\x01" + data)
