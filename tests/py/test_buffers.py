# SPDX-License-Identifier: MIT
"""Arrays and other large buffers in messages: one copy in, none out."""

import array
import gc
import os
import pickle
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from awkward import Point
from forked import forked

import sidestep
from sidestep import _core

np = pytest.importorskip("numpy")

LARGE = 300_000  # bytes; has a parcel of its own
MIDDLE = 5_000  # beside the pickle, in the message's parcel
SMALL = 100  # inside the pickle


@pytest.fixture
def queue():
    return _core.Queue()


def usage():
    gc.collect()
    _core.arena_sweep()  # of children that have gone
    told = _core.arena_statistics()
    return {name: told[name] for name in ("slots", "extents", "held")}


@pytest.fixture
def nothing_left(queue):
    """The test gives back all the shared memory it used."""
    queue.put(bytes(5000))  # the queue keeps a chunk once it was used
    queue.get()
    before = usage()
    yield
    assert usage() == before


def there_and_back(queue, obj):
    queue.put(obj)
    return queue.get()


# -- What arrives -----------------------------------------------------------------------

DTYPES = [
    "?", "i1", "u1", "<i2", ">i2", "i4", "u8", "f2", "f4", "f8", "g", "c8", "c16",
    "U3", "S5", "V7", "M8[ns]", "m8[s]", [("a", "i4"), ("b", "f8", (2,))],
]  # fmt: skip


def make(dtype, size, order="C"):
    kind = np.dtype(dtype)
    count = max(1, size // kind.itemsize // 6) * 6
    noise = np.random.default_rng(7).integers(0, 2, count * kind.itemsize, np.uint8)
    flat = np.frombuffer(noise.tobytes(), kind)
    return np.array(flat.reshape(2, count // 6, 3), order=order)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
def test_every_type_arrives(queue, nothing_left, dtype, order, size):
    sent = make(dtype, size, order)
    got = there_and_back(queue, sent)
    assert got.dtype == sent.dtype
    assert got.shape == sent.shape
    assert got.tobytes() == sent.tobytes()
    for name in ("c_contiguous", "f_contiguous", "writeable", "aligned"):
        assert getattr(got.flags, name) == getattr(sent.flags, name), name
    if sent.nbytes >= MIDDLE and sent.dtype.kind not in "mM":  # those offer no buffer
        assert got.ctypes.data % 64 == 0


def test_objects_in_arrays_are_pickled(queue):
    sent = np.array([Point(1), None, "text"] * 5000, dtype=object)
    assert (there_and_back(queue, sent) == sent).all()


@pytest.mark.parametrize("size", [MIDDLE, LARGE])
def test_slices_arrive_packed(queue, size):
    whole = np.arange(size).reshape(-1, 10)
    for part in (whole[::2, ::3], whole[::-1], whole.T[1:3]):
        got = there_and_back(queue, part)
        assert (got == part).all()
        assert got.flags.writeable
    assert there_and_back(queue, np.empty((0, 5))).shape == (0, 5)


@pytest.mark.parametrize("size", [MIDDLE, LARGE])
def test_what_was_writable_is(queue, size):
    sent = np.zeros(size, np.uint8)
    got = there_and_back(queue, sent)
    got[:] = 1
    assert got.all()
    assert not sent.any()
    sent.flags.writeable = False
    got = there_and_back(queue, sent)
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.flags.writeable = True


def test_structure_stays(queue, nothing_left):
    one, two = np.arange(MIDDLE), np.arange(LARGE)
    sent = {"one": one, "list": [two, one, {"two": two}], "small": np.arange(3)}
    got = there_and_back(queue, sent)
    assert got["one"] is got["list"][1]
    assert got["list"][0] is got["list"][2]["two"]
    assert (got["list"][0] == two).all()
    assert (got["small"] == [0, 1, 2]).all()


def test_other_buffers(queue, nothing_left):
    for size in (SMALL, MIDDLE, LARGE):
        data = random.Random(size).randbytes(size)
        frozen, open_ = pickle.PickleBuffer(data), pickle.PickleBuffer(bytearray(data))
        for obj in (bytearray(data), array.array("B", data), Point(data)):
            got = there_and_back(queue, obj)
            assert type(got) is type(obj)
            assert got == obj
        got = there_and_back(queue, [frozen, open_])
        assert got == [data, data]
        assert [memoryview(part).readonly for part in got] == [True, False]
        del got


def test_large_pickles(queue, nothing_left):
    parts = [Point(random.Random(n).randbytes(70_000)) for n in range(30)]
    assert there_and_back(queue, parts) == parts
    text = Point("ü" * 500_000)
    assert there_and_back(queue, text) == text
    assert there_and_back(queue, parts[:3]) == parts[:3]


def large_bytes(size):
    return (random.Random(size).randbytes(4099) * (size // 4099 + 1))[:size]


def check_large(queue):
    left, right = _core.pipe()
    for size in ((8 << 20) - 1, (8 << 20) + 3, (33 << 20) + 1, 64 << 20):
        data = large_bytes(size)
        assert there_and_back(queue, data) == data
        left.send_bytes(data)
        assert right.recv_bytes() == data
        got = there_and_back(queue, np.frombuffer(data, np.uint8))
        assert got.tobytes() == data
        assert not got.flags.writeable


def test_very_large_ones(queue, nothing_left):
    check_large(queue)
    text = "ü" * (6 << 20)
    assert there_and_back(queue, text) == text


def test_very_large_ones_with_one_processor(queue):
    def child():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        check_large(queue)

    with forked(child):
        pass


@pytest.mark.slow
def test_more_than_four_gigabytes(queue, nothing_left):
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 14 << 30:
        pytest.skip("needs 14 GB")
    sent = np.zeros((4 << 30) + 17, np.uint8)
    sent[-1] = sent[1 << 32] = 9
    queue.put(sent)
    sent[:] = 1
    got = queue.get()
    assert got.nbytes == sent.nbytes
    assert (got[-1], got[1 << 32], got[5]) == (9, 9, 0)
    del got


def test_pandas(queue):
    pd = pytest.importorskip("pandas")
    sent = pd.DataFrame(
        {
            "number": np.arange(20_000),
            "float": np.linspace(0, 1, 20_000),
            "text": [f"row {n % 100}" for n in range(20_000)],
            "when": pd.date_range("2026-01-01", periods=20_000, freq="s"),
        }
    )
    sent["kind"] = sent["text"].astype("category")
    got = there_and_back(queue, sent)
    pd.testing.assert_frame_equal(got, sent)
    got.loc[0, "float"] = 7.0
    assert got["float"][0] == 7.0


def test_pyarrow(queue):
    pa = pytest.importorskip("pyarrow")
    sent = pa.table({"x": list(range(50_000)), "y": [f"{n}" for n in range(50_000)]})
    got = there_and_back(queue, sent)
    assert got.equals(sent)
    assert pa.compute.sum(got["x"]).as_py() == sum(range(50_000))


# -- Ways -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIDDLE, LARGE])
def test_every_way_and_both_directions(size, start):
    ctx = sidestep.get_context("fork")
    sent = np.arange(size, dtype=np.uint8)

    def echo(there, back):
        while (item := there()) is not None:
            item[0] += 1
            back(item)

    left, right = ctx.Pipe()
    queues = [(kind(), kind()) for kind in (ctx.Queue, ctx.SimpleQueue)]
    queues.append((ctx.JoinableQueue(3), ctx.JoinableQueue(3)))
    ways = [(left.send, right.recv, right.send, left.recv)]
    ways += [(there.put, there.get, back.put, back.get) for there, back in queues]
    for put, get, put_back, get_back in ways:
        start(ctx, echo, get, put_back)
        for first in range(3):
            sent[0] = first
            put(sent)
            got = get_back()
            assert got[0] == first + 1
            assert (got[1:] == sent[1:]).all()
        put(None)


def test_many_at_once(queue, nothing_left):
    sent = [np.full(n * 999, n) for n in range(1, 40)]
    queue.put_many([*sent, "end"])
    got = []
    while len(got) < 40:
        got += queue.get_many(16)
    assert got.pop() == "end"
    for left, right in zip(sent, got, strict=True):
        assert (left == right).all()
    del got, left, right


def test_streams_are_as_the_stdlibs(start):
    from multiprocessing.connection import Connection as Theirs

    left, right = socket.socketpair()
    ours, theirs = _core.Connection(left.detach()), Theirs(right.detach())
    sent = np.arange(3000)
    ours.send(sent)
    assert (theirs.recv() == sent).all()
    theirs.send(sent)
    assert (ours.recv() == sent).all()
    theirs.close()
    ours.close()


def test_the_pickle_of_a_message_with_buffers():
    left, right = _core.pipe()
    sent = {"a": np.arange(LARGE)}
    left.send(sent)
    pickled = right.recv_bytes()
    assert (pickle.loads(pickled)["a"] == sent["a"]).all()
    left.send(sent)
    into = bytearray(len(pickled))
    assert right.recv_bytes_into(into) == len(pickled)
    assert (pickle.loads(into)["a"] == sent["a"]).all()
    left.send_bytes(pickled)
    assert (right.recv()["a"] == sent["a"]).all()
    left.send(sent)
    with pytest.raises(OSError, match="bad message length"):
        right.recv_bytes(100)


# -- Lifetime ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIDDLE, LARGE])
def test_an_array_outlives_its_queue(size):
    sent = np.arange(size)
    queue = _core.Queue()
    queue.put(sent)
    got = queue.get()
    view = got[100:200]
    queue.close()
    del queue, got
    gc.collect()
    assert (view == sent[100:200]).all()


def test_one_of_many_keeps_its_own_memory_only(queue, nothing_left):
    sent = [np.full(1_000_000, n, np.uint8) for n in range(20)]
    sent += [np.full(10_000, n, np.uint8) for n in range(20)]
    before = _core.arena_statistics()["used"]
    got = there_and_back(queue, sent)
    assert _core.arena_statistics()["used"] > before + 20_000_000
    one, other = got[7], got[30]
    del got
    gc.collect()
    assert _core.arena_statistics()["used"] < before + 2_500_000
    assert (one == 7).all()
    assert (other == 10).all()
    del one
    assert _core.arena_statistics()["used"] < before + 1_100_000
    del other


def test_ten_thousand_arrays_in_a_message(queue, nothing_left):
    sent = [np.full(5000, n % 251, np.uint8) for n in range(10_000)]
    before = usage()
    queue.put(sent)
    assert usage()["slots"] < before["slots"] + 200
    got = queue.get()
    assert all((left == right).all() for left, right in zip(sent, got, strict=True))
    one = got[5000]
    del got
    gc.collect()
    assert usage()["extents"] == before["extents"] + 1
    assert (one == 5000 % 251).all()
    del one


def test_a_forked_child_keeps_what_it_sees(queue, nothing_left):
    read, write = os.pipe()
    queue.put([np.full(LARGE, 5), np.full(MIDDLE, 6)])
    arrays = [queue.get()]

    def child():
        os.close(write)
        os.read(read, 1)  # the parent has dropped it and written elsewhere
        assert (arrays[0][0] == 5).all()
        assert (arrays[0][1] == 6).all()
        arrays[0][1][0] = 1

    with forked(child):
        os.close(read)
        arrays.clear()
        other = there_and_back(queue, [np.full(LARGE, 7), np.full(MIDDLE, 8)])
        os.close(write)
    assert (other[0] == 7).all()
    assert (other[1] == 8).all()
    del other


def test_the_sender_may_die(queue, nothing_left):
    def sender():
        queue.put([np.full(LARGE, 1), np.full(MIDDLE, 2)])
        queue.put("sent")
        time.sleep(60)

    with forked(sender) as child:
        assert queue.poll(20)
        first = queue.get()
        assert queue.get() == "sent"
        child.kill()
    assert (first[0] == 1).all()
    assert (first[1] == 2).all()
    with forked(lambda: queue.put(np.full(LARGE, 3))):
        pass
    second = queue.get()
    assert (second == 3).all()
    del first, second


def test_senders_and_receivers_may_be_killed_anywhere(queue, nothing_left):
    other = _core.Queue()
    noise = random.Random(3)

    event = _core.Event()

    def sender(handle):
        for n in range(1 << 30):
            queue.put([np.full(LARGE, n), np.full(MIDDLE, n), Carried(handle)])

    def passer(other):
        kept = []
        while True:
            kept.append(queue.get())
            other.put(kept[-1][:2])
            del kept[:-3]

    for _ in range(8):
        with forked(sender, event.handle) as first, forked(passer, other) as second:
            for _ in range(noise.randrange(1, 30)):
                large, middle = other.get()
                assert (large == large[0]).all()
                assert (middle == large[0]).all()
            for child in noise.sample([first, second], 2):
                child.kill()
        for left in (queue, other):
            while not left.empty():
                large, middle, *_ = left.get()
                assert (large == middle[0]).all()
    del large, middle, _, left, other, event


def test_what_is_queued_goes_with_the_queue(nothing_left):
    queue = _core.Queue()
    for n in range(10):
        queue.put([np.full(LARGE, n), np.full(MIDDLE, n), np.full(2 * LARGE, n)])
    del queue


def test_messages_leave_nothing_behind(queue, nothing_left):
    middle, large = np.zeros(MIDDLE, np.uint8), np.zeros(70_000, np.uint8)
    for _ in range(50_000):
        queue.put(middle)
        queue.put(large)
        queue.get()
        queue.get()


def test_a_message_may_be_sent_on(queue, nothing_left):
    item = np.full(LARGE, 3)
    for _ in range(5):
        item = there_and_back(queue, item)
        item += 1
    assert (item == 8).all()
    del item


# -- While it is sent -------------------------------------------------------------------


def test_others_may_write_meanwhile(queue):
    sent = np.zeros(8_000_000, np.uint8)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            sent[:] = 1 - sent[0]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            got = there_and_back(queue, sent)
            assert set(np.unique(got)) <= {0, 1}
    finally:
        stop.set()
        thread.join()


def test_a_buffer_cannot_be_resized_while_it_is_sent(queue):
    data = bytearray(LARGE)

    class Meddler:
        def __reduce__(self):
            with pytest.raises(BufferError):
                data.append(1)
            return int, ()

    got = there_and_back(queue, [pickle.PickleBuffer(data), Meddler()])
    assert got[0] == data
    data.append(1)


def test_threads_send_at_once(queue, nothing_left):
    def send(n):
        for _ in range(50):
            queue.put([np.full(LARGE, n, np.uint8), n])

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        item, n = queue.get()
        assert (item == n).all()
    for thread in threads:
        thread.join()
    del item


def test_a_signal_handler_may_raise(queue, nothing_left):
    sent = np.zeros(100_000_000, np.uint8)
    done = threading.Event()

    class StopError(Exception):
        pass

    def handler(_number, frame):
        if frame.f_code is put.__code__:
            raise StopError

    def put():
        queue.put(sent)

    def disturb(thread):
        while not done.wait(0.001):
            signal.pthread_kill(thread, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    disturber = threading.Thread(target=disturb, args=(threading.get_ident(),))
    disturber.start()
    try:
        for _ in range(1000):
            with pytest.raises(StopError):
                put()
            if queue.empty():
                break
            queue.get()
        else:
            pytest.fail("it was always put before the signal came")
    finally:
        done.set()
        disturber.join()
        signal.signal(signal.SIGUSR1, before)


def test_what_fails_leaves_nothing(queue, nothing_left):
    class Refuses:
        def __reduce__(self):
            raise LookupError

    for item in ([np.zeros(LARGE), Refuses()], [np.zeros(MIDDLE), Refuses()]):
        with pytest.raises(LookupError):
            queue.put(item)
        assert queue.empty()


# -- Memory that runs out ---------------------------------------------------------------


def limit_memory(room):
    """Leave this process so much more address space, of which an arena needs some."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + room, hard))


def be_short_of_memory():
    limit_memory(400 << 20)
    queue, count = _core.Queue(), 0
    item = np.ones(20_000_000, np.uint8)
    with pytest.raises(MemoryError, match="bytes are queued"):
        while True:
            queue.put(item)
            count += 1
    assert queue.qsize() == count >= 3
    for _ in range(count):
        assert queue.get().all()
    assert there_and_back(queue, item).all()


def test_memory_runs_out():
    # A program of its own: what this one has mapped of its arena stays mapped.
    code = [sys.executable, "-c", "import test_buffers as t; t.be_short_of_memory()"]
    subprocess.run(code, cwd=Path(__file__).parent, check=True, timeout=100)


@pytest.mark.slow  # 600 MB, a page at a time
def test_without_memory_it_goes_in_pieces():
    left, right = _core.pipe()
    bounded = _core.Queue(2)
    sent = np.random.default_rng(5).integers(0, 250, 300_000_000, np.uint8)

    def child():
        limit_memory(250 << 20)
        bounded.put({"first": sent, "second": sent[7:100_000]})
        left.send([sent])

    with forked(child):
        assert bounded.poll(20)
        got = bounded.get()
        assert (got["first"] == sent).all()
        assert (got["second"] == sent[7:100_000]).all()
        assert got["first"].flags.writeable
        assert right.poll(20)
        assert (right.recv()[0] == sent).all()


# -- What travels along -----------------------------------------------------------------


class Carried:
    """Names a shared object that the message is to hold."""

    def __init__(self, handle, times=1):
        self.handle = handle
        self.times = times

    def __reduce__(self):
        assert _core.message_active()
        for _ in range(self.times):
            assert _core.message_hold(self.handle)
        return _core.Event.from_handle, (self.handle,)


@pytest.mark.parametrize("times", [1, 8, 9, 1000])
@pytest.mark.parametrize("size", [0, MIDDLE, LARGE])
def test_a_message_holds_what_it_names(queue, nothing_left, times, size):
    event = _core.Event()
    event.set()
    queue.put([Carried(event.handle, times), np.zeros(size), "x" * size])
    del event
    got = queue.get()
    assert got[0].is_set()
    assert got[1].shape == (size,)
    del got


def test_what_it_names_goes_with_the_queue(nothing_left):
    queue, event = _core.Queue(), _core.Event()
    queue.put(Carried(event.handle))
    queue.put([Carried(event.handle)] * 3)
    del queue, event


def test_a_second_try_begins_anew(queue, nothing_left):
    from sidestep import reduction

    event, other = _core.Event(), _core.Event()
    handle = other.handle

    def dumps_twice(obj, callback):
        reduction._dumps([obj[::-1], Carried(handle)], callback)
        _core.message_reset()
        return reduction._dumps(obj, callback)

    sent = [np.full(size, size) for size in (MIDDLE, LARGE, 2 * MIDDLE)]
    _core.set_pickler(dumps_twice, reduction._loads)
    try:
        queue.put([*sent, Carried(event.handle)])
    finally:
        _core.set_pickler(reduction._dumps, reduction._loads)
    del other
    with pytest.raises(RuntimeError, match="no longer exists"):
        _core.Event.from_handle(handle)
    *arrays, _ = queue.get()
    for left, right in zip(sent, arrays, strict=True):
        assert (left == right).all()
    _core.message_reset()  # nothing is being made
    del arrays, left, right, _, event


def test_messages_within_messages(queue, nothing_left):
    event, inner = _core.Event(), [_core.Queue()]
    handle = event.handle

    class Nested:
        def __reduce__(self):
            inner[0].put([Carried(handle), 1])
            assert _core.message_active()
            return int, ()

    queue.put([Nested(), Carried(handle)])
    assert not _core.message_active()
    assert not _core.message_hold(handle)
    del event
    outer = queue.get()
    first = inner[0].get()
    assert first[0].handle == outer[1].handle
    del outer, first
    inner.clear()


def test_what_is_gone_cannot_be_named(queue, nothing_left):
    handle = _core.Event().handle
    with pytest.raises(RuntimeError, match="no longer exists"):
        queue.put(Carried(handle))
    with pytest.raises(TypeError):
        _core.message_hold("text")


def test_a_child_does_not_make_its_parents_message(queue):
    class Forks:
        def __reduce__(self):
            with forked(self.look):
                pass
            return int, ()

        def look(self):
            assert not _core.message_active()

    queue.put(Forks())
    assert queue.get() == 0


# -- Files of picklers ------------------------------------------------------------------


def test_pickle_files():
    file = _core.PickleFile()
    assert bytes(file) == b""
    for part in (b"one", bytearray(b"two"), memoryview(b"three")):
        assert file.write(part) == len(part)
    view = memoryview(file)
    assert bytes(view) == b"onetwothree"
    for _ in range(100):
        file.write(b"x")
    assert bytes(file) == b"onetwothree" + b"x" * 100
    assert bytes(view) == b"onetwothree"
    with pytest.raises(TypeError, match="bytes-like"):
        file.write("text")
    with pytest.raises(TypeError, match="no arguments"):
        _core.PickleFile(1)
    file = _core.PickleFile()
    for part in (b"one", b"two" * 1000, b"three"):
        file.write(part)
    assert file.mentions(b"three")
    assert file.mentions(b"two" * 1000)
    assert not file.mentions(b"onetwo")
    with pytest.raises(TypeError, match="bytes-like"):
        file.mentions("text")
    obj = {"a": np.arange(10), "b": b"x" * 1_000_000}
    pickle.Pickler(file := _core.PickleFile(), 5).dump(obj)
    assert pickle.loads(file)["b"] == obj["b"]


# -- Damage -----------------------------------------------------------------------------

HEAD, ROW = struct.Struct("<B3xIQ"), struct.Struct("<IIQQ")


def test_the_format(queue):
    data = b"d" * MIDDLE
    pickled = pickle.dumps(pickle.PickleBuffer(data), 5, buffer_callback=lambda _: None)
    queue.put(pickle.PickleBuffer(data))
    message = queue.get_bytes()
    tag, count, size = HEAD.unpack_from(message)
    flags, parcel, offset, length = ROW.unpack_from(message, HEAD.size)
    assert (tag, count, flags, parcel, length) == (ord("B"), 1, 1, 0, MIDDLE)
    at = HEAD.size + ROW.size
    assert pickle.loads(message[at : at + size], buffers=[data]) == data
    assert pickled.startswith(b"\x80\x05")
    assert offset % 64 == 0
    assert message[offset:] == data
    queue.put_bytes(message)  # by hand: it is the same without a parcel
    assert queue.get() == data


def by_hand(rows, pickled=b"N.", count=None, size=None, tail=bytes(100)):
    count = len(rows) if count is None else count
    size = len(pickled) if size is None else size
    head = HEAD.pack(ord("B"), count, size)
    return head + b"".join(ROW.pack(*row) for row in rows) + pickled + tail


@pytest.mark.parametrize(
    "message",
    [
        b"B",
        b"B" + bytes(14),
        by_hand([], size=1 << 63),
        by_hand([], size=103),
        by_hand([], count=1 << 31),
        by_hand([(0, 0, 0, 1000)]),
        by_hand([(0, 0, 1000, 0)]),
        by_hand([(0, 0, (1 << 64) - 1, 2)]),
        by_hand([(0, 0, 1, (1 << 64) - 1)]),
        by_hand([(0, 1, 0, 1)]),
        by_hand([(0, (1 << 32) - 1, 0, 1)]),
        by_hand([(2, 0, 0, 1)]),
        by_hand([(0, 0, 0, 1)] * 50 + [(0, 0, 5000, 1)], tail=bytes(1000)),
    ],
    ids=repr,
)
def test_damaged_messages_raise(queue, nothing_left, message):
    queue.put_bytes(message)
    with pytest.raises(ValueError, match=r"damaged.*SST_ECORRUPT"):
        queue.get()
    queue.put_bytes(by_hand([(0, 0, 50, 10)]))
    assert queue.get() is None


def test_random_damage_raises_or_not(queue, nothing_left):
    noise = random.Random(1)
    queue.put([pickle.PickleBuffer(b"d" * MIDDLE)] * 3)
    whole = queue.get_bytes()
    front = HEAD.size + 3 * ROW.size
    for _ in range(3000):
        message = bytearray(whole)
        for _ in range(noise.randrange(1, 4)):
            message[noise.randrange(1, front)] = noise.choice([0, 1, 7, 64, 128, 255])
        queue.put_bytes(message[: noise.randrange(front, len(whole))])
        try:
            for part in queue.get():
                bytes(part)
        except (ValueError, pickle.UnpicklingError, EOFError, TypeError, MemoryError):
            pass
