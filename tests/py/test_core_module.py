# SPDX-License-Identifier: MIT
"""The module `_core` itself: its arena, its signatures, its end."""

import gc
import inspect
import os
import subprocess
import sys
import weakref

import pytest
from forked import run_forked

from sidestep import _core

TYPES = ["Barrier", "Block", "Condition", "Connection", "Event", "Queue", "SemLock"]


def run_python(code, *args, **kwargs):
    result = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", ["queue", "threading"])
def test_ctrl_c_in_an_import_of_the_core(module):
    said = run_python(
        "import sys, sidestep._core\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        f"sys.meta_path.insert(0, Finder); sys.modules.pop({module!r}, None)\n"
        "del sys.modules['sidestep._core']\n"
        "try: import sidestep._core\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    assert said == "interrupted\n"


def test_the_arena_is_the_same_in_a_child():
    fd, number = _core.arena_fd(), _core.arena_id()

    def look():
        assert (_core.arena_fd(), _core.arena_id()) == (fd, number)

    assert number != 0
    assert not os.get_inheritable(fd)
    run_forked(look)


def test_the_arena_is_made_at_first_use():
    code = """
import os, sys
from sidestep import _core
count = len(os.listdir("/proc/self/fd"))
lock = _core.SemLock(2, 1, 1)
assert len(os.listdir("/proc/self/fd")) > count
"""
    run_python(code)


def test_another_program_attaches():
    queue = _core.Queue()
    queue.put("for you")
    fd = os.dup(_core.arena_fd())
    code = """
import sys
from sidestep import _core
_core.arena_attach(int(sys.argv[1]))
queue = _core.Queue.from_handle(bytes.fromhex(sys.argv[2]))
assert queue.get(timeout=20) == "for you"
queue.put("thanks")
"""
    run_python(code, str(fd), queue.handle.hex(), pass_fds=[fd])
    os.close(fd)
    assert queue.get(timeout=20) == "thanks"


def test_attaching_twice_or_to_something_else():
    _core.arena_fd()
    with pytest.raises(RuntimeError, match="has an arena already"):
        _core.arena_attach(0)
    code = """
import os
from sidestep import _core
for fd in (os.open("/dev/null", os.O_RDONLY), 12345, os.memfd_create("no arena")):
    try:
        _core.arena_attach(fd)
    except (OSError, RuntimeError, ValueError) as error:
        print(type(error).__name__)
_core.SemLock(2, 1, 1)
"""
    assert len(run_python(code).split()) == 3


def test_arena_statistics():
    statistics = _core.arena_statistics()
    assert set(statistics) == {
        "size", "budget", "used", "slots", "extents", "processes", "swept", "windows",
        "held",
    }  # fmt: skip
    assert statistics["processes"] >= 1
    assert isinstance(_core.arena_sweep(), int)


@pytest.mark.parametrize("name", TYPES)
def test_types(name):
    kind = getattr(_core, name)
    assert kind.__module__ == "sidestep._core"
    assert kind.__doc__
    assert inspect.signature(kind)
    for key, member in vars(kind).items():
        if callable(member) and not key.startswith("__"):
            assert member.__doc__, key
            assert inspect.signature(member), key
    if name != "SemLock":
        with pytest.raises(TypeError, match="immutable type"):
            kind.surprise = 1


def test_functions_have_signatures():
    for name, member in vars(_core).items():
        if inspect.isbuiltin(member):
            assert inspect.signature(member), name
            assert member.__doc__, name


def test_subclasses_take_part_in_garbage_collection():
    class Mine(_core.Queue):
        pass

    queue = Mine()
    queue.itself = queue
    queue.kind = Mine
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None


def test_exceptions():
    assert issubclass(_core.OwnerDied, RuntimeError)
    assert _core.OwnerDied.__module__ == "sidestep"
    with pytest.raises(TypeError, match="exception class"):
        _core.set_exceptions(5)


def test_a_second_import_shares_the_arena():
    code = """
import sys
from sidestep import _core
queue = _core.Queue()
first = sys.modules.pop("sidestep._core")
del sys.modules["sidestep"]
import importlib
again = importlib.import_module("sidestep._core")
assert again.arena_id() == first.arena_id()
queue.put(1)
assert again.Queue.from_handle(queue.handle).get() == 1
"""
    run_python(code)


@pytest.mark.parametrize("how", ["sys.exit(0)", "os._exit(0)", "pass"])
def test_live_objects_at_exit(how):
    code = f"""
import os, sys, threading
from sidestep import _core
keep = [_core.SemLock(k, 1, 1) for k in (0, 1, 2)] + [_core.Queue(), _core.Event(),
    _core.Block(100), _core.Condition(), _core.Barrier(2), *_core.pipe()]
view = memoryview(_core.Block(5000))
keep[3].put("left behind")
keep[0].acquire()
class Cycle:
    pass
cycle = Cycle()
cycle.me, cycle.queue = cycle, _core.Queue()
daemon = threading.Thread(target=_core.Queue().get, daemon=True)
daemon.start()
sys.late = _core.Queue()
{how}
"""
    run_python(code)


def test_a_fork_while_another_thread_is_inside():
    code = """
import os, threading
from sidestep import _core
first, second = _core.pipe()
thread = threading.Thread(target=second.recv, daemon=True)
thread.start()
while second.statistics()["users"] != 1:
    pass
import warnings
warnings.simplefilter("ignore")
pid = os.fork()
if pid == 0:
    assert second.statistics()["users"] == 0
    first.close()
    second.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
first.send(1)
thread.join()
"""
    run_python(code)


def names():
    """What is in /dev/shm, if there is one, but for notes of other programs."""
    notes = f"sidestep-{os.geteuid()}"
    return set(os.listdir("/dev/shm")) - {notes} if os.path.isdir("/dev/shm") else set()


def test_no_traces_are_left(tmp_path):
    before = names()
    code = """
import os, signal
from sidestep import _core
queue = _core.Queue()
queue.put(b"x" * 1000000)
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, timeout=60, check=False
    )
    assert result.returncode == -9
    assert names() == before
    assert not list(tmp_path.iterdir())
