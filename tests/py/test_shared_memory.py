# SPDX-License-Identifier: MIT
"""Shared memory by names: what the standard library promises, and how long it lives."""

import contextlib
import errno
import gc
import importlib
import multiprocessing.shared_memory
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import name_children
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sidestep
from sidestep import shared_memory
from sidestep.shared_memory import ShareableList, SharedMemory

NAMES = Path("/dev/shm")
needs_place = pytest.mark.skipif(not os.access(NAMES, os.W_OK), reason="no /dev/shm")


@pytest.fixture
def block():
    """A block of 100 bytes."""
    shm = SharedMemory(create=True, size=100)
    yield shm
    shm.close()
    with contextlib.suppress(FileNotFoundError):
        shm.unlink()


@pytest.fixture
def module(mp):
    return importlib.import_module(mp.__name__ + ".shared_memory")


def run(code, *args, **kwargs):
    """Run a program of its own, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def begin(code, *args):
    """Begin a program that prints a line and then waits for its input to end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code + "\nsys.stdout.flush(); sys.stdin.read()", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return child, child.stdout.readline().strip()


def end(child, how=None):
    if how is not None:
        child.send_signal(how)
    child.communicate()


MAKE = """
import sys
from sidestep.shared_memory import SharedMemory
shm = SharedMemory(create=True, size=10)
print(shm.name)
"""


def exists(name):
    try:
        shm = multiprocessing.shared_memory.SharedMemory(name)
    except FileNotFoundError:
        return False
    multiprocessing.resource_tracker.unregister(shm._name, "shared_memory")
    shm.close()
    return True


# ---- What both packages do ----


def test_a_block(module):
    shm = module.SharedMemory(create=True, size=100)
    try:
        assert shm.size == len(shm.buf) == 100
        assert bytes(shm.buf) == bytes(100)
        assert shm._name == "/" + shm.name
        assert repr(shm) == f"SharedMemory({shm.name!r}, size=100)"
        shm.buf[:3] = b"abc"
        other = module.SharedMemory(shm.name, size=5)
        assert other.size == 100
        assert bytes(other.buf[:3]) == b"abc"
        third = pickle.loads(pickle.dumps(shm))
        third.buf[0] = 0
        assert other.buf[0] == 0
        other.close()
        other.close()
        assert other.buf is None
        third.close()
        with pytest.raises(FileExistsError):
            module.SharedMemory(shm.name, create=True, size=1)
    finally:
        shm.close()
        shm.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        module.SharedMemory(shm.name)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"create": True}, ValueError),
        ({"create": True, "size": -1}, ValueError),
        ({"size": -1, "name": "x"}, ValueError),
        ({}, ValueError),
        ({"name": "no such block"}, FileNotFoundError),
        ({"name": "a/b"}, OSError),
        ({"name": ""}, OSError),
        ({"name": "x" * 300}, OSError),
        ({"name": "x" * 300, "create": True, "size": 1}, OSError),
    ],
)
def test_what_is_refused(module, arguments, error):
    with pytest.raises(error):
        module.SharedMemory(**arguments)


def test_a_name_with_a_null():
    # The standard library does the same from 3.13 on.
    with pytest.raises(ValueError, match="null"):
        SharedMemory("a\0b")
    with pytest.raises(ValueError, match="null"):
        SharedMemory("a\0b", create=True, size=1)


def test_flags_of_a_subclass(module):
    class Optional(module.SharedMemory):
        _flags = os.O_CREAT | os.O_RDWR

    shm = module.SharedMemory(create=True, size=10)
    try:
        other = Optional(shm.name)
        assert other.size == 10
        other.close()
    finally:
        shm.close()
        shm.unlink()


def test_a_list(module):
    items = ["howdy", b"HoWdY", -273.154, 100, None, True, 42, ""]
    names = module.ShareableList(items)
    try:
        assert list(names) == items
        assert names.format == "8s8sdqxxxxxx?xxxxxxxx?q8s"
        assert len(names) == 8
        assert names[-2] == 42
        assert names.count(42) == 1
        assert names.index(100) == 3
        with pytest.raises(ValueError, match=r"not in (this container|list)"):
            names.index("100")
        with pytest.raises(IndexError):
            names[8]
        with pytest.raises(IndexError):
            names[8] = 1
        names[4] = "some"
        assert names.format == "8s8sdq8sxxxxxxx?q8s"
        with pytest.raises(ValueError, match="exceeds available storage"):
            names[4] = "far too long"
        assert names._get_packing_format(-1) == "8s"
        other = pickle.loads(pickle.dumps(names))
        other[0] = 1
        assert names[0] == 1
        other.shm.close()
        with pytest.raises(KeyError):
            names[0] = object()
    finally:
        names.shm.close()
        names.shm.unlink()
    with pytest.raises(KeyError):
        module.ShareableList([object()])


# ---- With the standard library ----


@needs_place
@pytest.mark.parametrize("first", ["multiprocessing", "sidestep"])
def test_the_other_package_attaches(first):
    modules = [multiprocessing.shared_memory, shared_memory]
    if first == "sidestep":
        modules.reverse()
    items = ["a", b"bc", 1, 2.5, None, True, "12345678"]
    names = modules[0].ShareableList(items)
    shm = modules[1].SharedMemory(names.shm.name)
    other = modules[1].ShareableList(name=names.shm.name)
    try:
        assert shm.size == names.shm.size
        assert bytes(shm.buf) == bytes(names.shm.buf)
        assert list(other) == items
        other[0] = "öß"
        assert names[0] == "öß"
        names[1] = 7
        assert other[1] == 7
    finally:
        for each in (shm, other.shm, names.shm):
            each.close()
        names.shm.unlink()
        # The one that attached in the standard library has registered the name.
        if first == "sidestep":
            multiprocessing.resource_tracker.unregister(shm._name, "shared_memory")


@needs_place
def test_the_standard_library_writes_where_the_length_is_exact():
    names = ShareableList(["a\0", 1])
    theirs = multiprocessing.shared_memory.ShareableList(name=names.shm.name)
    try:
        assert names[0] == "a\0"
        assert theirs[0] == "a"  # as ever with it
        theirs[0] = "longer"
        assert names[0] == "longer"
        names[0] = b"\0\0"
        assert names[0] == b"\0\0"
        assert list(ShareableList(name=names.shm.name)) == [b"\0\0", 1]
    finally:
        theirs.shm.close()
        multiprocessing.resource_tracker.unregister(names.shm._name, "shared_memory")
        names.shm.close()
        names.shm.unlink()


@given(
    st.lists(
        st.one_of(
            st.text(st.characters()),
            st.binary(),
            st.text("a\0"),
            st.integers(-(1 << 63), (1 << 63) - 1),
            st.floats(allow_nan=False),
            st.booleans(),
            st.none(),
        ),
        max_size=8,
    )
)
@settings(max_examples=100, deadline=None)
def test_every_list_comes_back(items):
    names = ShareableList(items)
    try:
        assert list(names) == items
        assert [type(item) for item in names] == [type(item) for item in items]
        for position, item in enumerate(items):
            names[position] = item
        assert list(ShareableList(name=names.shm.name)) == items
    finally:
        names.shm.close()
        names.shm.unlink()


def test_a_value_that_does_not_fit_changes_nothing():
    names = ShareableList(["a", 1])
    with pytest.raises(struct.error):
        names[0] = 1 << 64
    assert list(names) == ["a", 1]
    names.shm.unlink()


def test_items_that_are_too_long():
    with pytest.raises(ValueError, match="too long"):
        ShareableList([b"x" * 10_000_000])
    with pytest.raises(ValueError, match="too long"):
        ShareableList([bytes(1_000_000)])


def test_what_is_no_list(block):
    block.buf[:8] = struct.pack("q", 1 << 40)
    with pytest.raises(ValueError, match="is no ShareableList"):
        ShareableList(name=block.name)


# ---- Closing ----


def test_views_outlive_close(block):
    view = block.buf[1:3]
    block.close()
    view[0] = 7
    assert SharedMemory(block.name).buf[1] == 7
    with pytest.raises(TypeError):
        block.buf[0]
    with pytest.raises(ValueError, match="closed"):
        block.resize(1000)


def test_arrays_outlive_close(block):
    np = pytest.importorskip("numpy")
    kept = np.ndarray((25,), np.int32, buffer=block.buf)
    kept[3] = 9
    block.close()
    assert kept[3] == 9
    kept[3] = 10
    assert np.ndarray((25,), np.int32, buffer=SharedMemory(block.name).buf)[3] == 10


def test_memory_goes_with_its_last_view(block):
    number = os.fstat(block._fd).st_ino

    def mapped():
        return Path("/proc/self/maps").read_text().count(f" {number} ")

    assert mapped() == 1
    view = memoryview(block.buf)
    block.close()
    assert mapped() == 1
    del view
    gc.collect()
    assert mapped() == 0


def test_no_descriptor_is_left(block):
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(10):
        SharedMemory(block.name)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before  # a thread may be closing others


def test_it_grows(block):
    old = block.buf
    other = SharedMemory(block.name)
    view = old[:5]
    block.resize(10_000)
    assert block.size == len(block.buf) == 10_000
    block.buf[:5] = b"12345"
    block.buf[-1] = 1
    assert bytes(view) == b"12345"
    assert other.size == 100
    other.resize()
    assert other.size == 10_000
    assert other.buf[-1] == 1
    with pytest.raises(ValueError, match="only grow"):
        block.resize(5_000)


def test_forked_children_close_for_themselves(block, start):
    ctx = sidestep.get_context("fork")
    process = start(ctx, block.close)
    process.join()
    assert process.exitcode == 0
    block.buf[0] = 1
    assert SharedMemory(block.name).buf[0] == 1


def test_children_attach(block, ctx, start):
    process = start(ctx, name_children.write, block.name, b"hello")
    process.join()
    assert process.exitcode == 0
    assert bytes(block.buf[:5]) == b"hello"


def test_a_name_outlives_the_child_that_made_it(ctx, start):
    queue = ctx.SimpleQueue()
    process = start(ctx, name_children.make, queue)
    shm = SharedMemory(queue.get())
    process.join()
    shm.close()
    SharedMemory(shm.name).unlink()


# ---- How long a name lives ----


@needs_place
@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind(how):
    child, name = begin(MAKE)
    assert exists(name)
    end(child, how)
    if how is None:
        assert not exists(name)
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    assert not exists(name)


@needs_place
@pytest.mark.parametrize("track", [True, False])
def test_a_reader_destroys_nothing(block, track):
    code = (
        "import sys\nfrom sidestep.shared_memory import SharedMemory\n"
        f"shm = SharedMemory(sys.argv[1], track={track})\nprint(shm.size)"
    )
    assert run(code, block.name) == (0, "100\n")
    child, _ = begin(code, block.name)
    end(child, signal.SIGKILL)
    block.close()
    assert run(code, block.name) == (0, "100\n")


@needs_place
def test_a_reader_keeps_what_its_maker_left():
    child, name = begin(MAKE)
    reader = SharedMemory(name)
    end(child, signal.SIGKILL)
    other = SharedMemory(name)
    other.close()
    reader.close()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


@needs_place
def test_untracked_names_stay():
    code = MAKE.replace("size=10", "size=10, track=False")
    _, name = run(code)
    shm = SharedMemory(name.strip(), track=False)
    shm.unlink()


TREE = """
import os, signal, sys, time, sidestep
from sidestep.shared_memory import SharedMemory
def child():
    print(name, os.getpid(), flush=True)
    time.sleep(100)
if __name__ == "__main__":
    ctx = sidestep.get_context("fork")
    name = SharedMemory(create=True, size=10).name
    ctx.Process(target=child).start()
    time.sleep(100)
"""


@needs_place
def test_a_child_keeps_the_names_of_a_killed_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", TREE], stdout=subprocess.PIPE, text=True
    )
    name, pid = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    SharedMemory(name).close()
    SharedMemory(name).close()
    fd = os.pidfd_open(int(pid))
    os.kill(int(pid), signal.SIGKILL)
    select.select([fd], [], [])
    os.close(fd)
    parent.stdout.close()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


@needs_place
def test_names_that_are_registered_go_with_the_tree():
    code = """
import sys, _posixshmem, os
from sidestep import resource_tracker
name = "/sidestep-py-" + str(os.getpid())
fd = _posixshmem.shm_open(name, os.O_CREAT | os.O_RDWR, mode=0o600)
os.ftruncate(fd, 10)
os.close(fd)
resource_tracker.register(name, "shared_memory")
print(name[1:])
"""
    child, name = begin(code)
    assert exists(name)
    end(child, signal.SIGKILL)
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


@needs_place
def test_unregister_gives_a_name_away():
    code = MAKE + (
        "from sidestep import resource_tracker\n"
        "resource_tracker.unregister(shm._name, 'shared_memory')"
    )
    _, name = run(code)
    SharedMemory(name.strip()).unlink()


@needs_place
def test_the_work_around_changes_nothing():
    code = MAKE + (
        "import os, name_children, sidestep\n"
        "p = sidestep.get_context('fork').Process(\n"
        "    target=name_children.unregister, args=(shm.name,))\n"
        "p.start(); p.join(); os._exit(p.exitcode)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    code = code.replace("print(shm.name)", "print(shm.name, flush=True)")
    returned, name = run(code, env=environment)
    assert returned == 0
    with pytest.raises(FileNotFoundError):
        SharedMemory(name.strip())


# ---- Where there is no room ----


def test_more_than_there_is():
    with pytest.raises(OSError, match="bytes") as caught:
        SharedMemory(create=True, size=1 << 50)
    assert caught.value.errno == errno.ENOSPC


IN_A_SPACE = ["unshare", "--mount", "--map-root-user"]


def can_mount():
    command = [*IN_A_SPACE, "sh", "-c", "mount -t tmpfs none /dev/shm"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="cannot mount here")
def test_a_full_file_system():
    code = """
import errno
from sidestep.shared_memory import SharedMemory
kept = []
for _ in range(100):
    try:
        kept.append(SharedMemory(create=True, size=100_000))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        break
assert 3 < len(kept) < 11, len(kept)
for shm in kept:
    shm.buf[:] = b"x" * 100_000
    shm.unlink()
    shm.close()
"""
    mount = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'
    done = subprocess.run(
        [*IN_A_SPACE, "sh", "-c", mount, "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not can_mount(), reason="cannot mount here")
def test_without_a_place():
    code = """
import sidestep, os
from sidestep.shared_memory import SharedMemory, ShareableList
shm = SharedMemory(create=True, size=100)
def child(name):
    SharedMemory(name).buf[0] = 1
p = sidestep.get_context("fork").Process(target=child, args=(shm.name,))
p.start()
p.join()
assert shm.buf[0] == 1
print(shm.name)
"""
    mount = 'mount -t tmpfs -o ro,mode=555 none /dev/shm && exec "$@"'
    done = subprocess.run(
        [*IN_A_SPACE, "sh", "-c", mount, "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    names = Path(f"/tmp/sidestep-{os.geteuid()}/names")
    assert not (names / done.stdout.strip()).exists()


@needs_place
def test_descriptors_run_out():
    code = """
import errno, resource
from sidestep.shared_memory import SharedMemory
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
kept = []
try:
    while True:
        kept.append(SharedMemory(create=True, size=10))
except OSError as error:
    assert error.errno == errno.EMFILE, error
print(*(shm.name for shm in kept))
while kept:
    kept.pop().unlink()
SharedMemory(create=True, size=10).unlink()
"""
    returned, names = run(code)
    assert returned == 0
    assert len(names.split()) > 10
    assert not any(exists(name) for name in names.split())


@needs_place
def test_what_was_unlinked_is_no_leak():
    """Whoever registered it, as libraries do, and under either form of the name."""
    code = """
from sidestep import resource_tracker
from sidestep.shared_memory import SharedMemory
for form in (str, lambda name: name.lstrip("/")):
    shm = SharedMemory(create=True, size=10)
    resource_tracker.register(form(shm._name), "shared_memory")
    shm.unlink()
"""
    assert run(code) == (0, "")
