# SPDX-License-Identifier: MIT
"""Logging, finalizers, fork hooks, and what else third parties use of util."""

import gc
import io
import logging
import os
import subprocess
import sys
import threading

import children
import pytest

import sidestep
from sidestep import process, resource_tracker, util


class Thing:
    """Something to weakly refer to."""


@pytest.fixture(autouse=True)
def own_registry():
    kept = util._finalizer_registry.copy()
    util._finalizer_registry.clear()
    yield
    util._finalizer_registry.clear()
    util._finalizer_registry.update(kept)


def test_finalizer_runs_when_its_object_goes(mp):
    calls = []
    thing = Thing()
    finalizer = mp.util.Finalize(thing, calls.append, args=(1,))
    assert finalizer.still_active()
    del thing
    gc.collect()
    assert calls == [1]
    assert not finalizer.still_active()
    finalizer()
    assert calls == [1]


def test_finalizer_called_by_hand(mp):
    thing = Thing()
    finalizer = mp.util.Finalize(thing, dict, kwargs={"a": 1})
    assert finalizer() == {"a": 1}
    assert finalizer() is None


def test_finalizer_cancelled(mp):
    calls = []
    thing = Thing()
    finalizer = mp.util.Finalize(thing, calls.append, args=(1,))
    finalizer.cancel()
    finalizer.cancel()
    del thing
    gc.collect()
    assert calls == []


def test_finalizer_arguments(mp):
    with pytest.raises(TypeError, match="must be None or int"):
        mp.util.Finalize(None, print, exitpriority="high")
    with pytest.raises(ValueError, match="Without object"):
        mp.util.Finalize(None, print)


def test_finalizer_representation(mp):
    thing = Thing()
    finalizer = mp.util.Finalize(thing, len, args=("x",), exitpriority=3)
    assert repr(finalizer) == (
        "<Finalize object, callback=len, args=('x',), exitpriority=3>"
    )
    finalizer.cancel()
    assert repr(finalizer) == "<Finalize object, dead>"


def test_finalizers_run_by_priority():
    calls = []
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -1)):
        util.Finalize(None, calls.append, args=(name,), exitpriority=priority)
    util._run_finalizers(0)
    assert calls == ["b", "c", "a"]
    util._run_finalizers()
    assert calls == ["b", "c", "a", "d"]


def test_finalizer_that_raises_does_not_stop_the_others(capsys):
    calls = []
    util.Finalize(None, calls.append, args=("last",), exitpriority=0)
    util.Finalize(None, lambda: 1 / 0, exitpriority=1)
    util._run_finalizers()
    assert calls == ["last"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_finalizers_at_exit_of_a_child(ctx, start):
    reader, writer = ctx.Pipe(duplex=False)
    start(ctx, children.run_finalizers, writer).join()
    assert [reader.recv() for _ in range(4)] == ["a", "c", "b", "d"]


def test_finalizers_of_the_parent_are_not_the_childs(start):
    ctx = sidestep.get_context("fork")
    queue = ctx.SimpleQueue()
    util.Finalize(None, queue.put, args=("mine",), exitpriority=0)
    child = start(ctx, util._run_finalizers)
    child.join()
    assert child.exitcode == 0
    assert queue.empty()


def test_register_after_fork(start):
    ctx = sidestep.get_context("fork")
    queue, things = ctx.SimpleQueue(), [Thing(), Thing()]
    for number, thing in enumerate(things):
        thing.number = number
        util.register_after_fork(thing, lambda t: queue.put(t.number))
    start(ctx, children.nap, 0).join()
    assert [queue.get(), queue.get()] == [0, 1]


def test_fork_aware_lock_is_free_in_a_child(start):
    ctx = sidestep.get_context("fork")
    lock, queue = util.ForkAwareThreadLock(), ctx.SimpleQueue()
    with lock:
        start(ctx, lambda: queue.put(lock.acquire(False))).join()
    assert queue.get() is True


def test_fork_aware_local_is_empty_in_a_child(start):
    ctx = sidestep.get_context("fork")
    local, queue = util.ForkAwareLocal(), ctx.SimpleQueue()
    local.x = 1
    start(ctx, lambda: queue.put(vars(local))).join()
    assert queue.get() == {}
    assert local.x == 1


def test_logging():
    logger = sidestep.get_logger()
    assert logger is sidestep.get_logger()
    assert logger is logging.getLogger("multiprocessing")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        logging.Formatter("%(levelname)s %(processName)s %(filename)s")
    )
    logger.addHandler(handler)
    logger.setLevel(util.SUBDEBUG)
    try:
        util.sub_debug("x")
        util.debug("x")
        util.info("x")
        util.sub_warning("x")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    here = os.path.basename(__file__)
    assert stream.getvalue().splitlines() == [
        f"{level} MainProcess {here}"
        for level in ("Level 5", "DEBUG", "INFO", "Level 25")
    ]


def test_children_have_the_loggers_level(ctx, start):
    logger = sidestep.get_logger()
    reader, writer = ctx.Pipe(duplex=False)
    logger.setLevel(32)
    try:
        start(ctx, children.level_of_logger, writer).join()
    finally:
        logger.setLevel(logging.NOTSET)
    assert reader.recv() == 32


LOGGING = """
import sidestep
def child():
    sidestep.get_logger().warning("from the child")
if __name__ == "__main__":
    sidestep.log_to_stderr("INFO")
    p = sidestep.Process(target=child, name="Worker")
    p.start()
    p.join()
"""


def test_log_to_stderr(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(LOGGING)
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "[WARNING/Worker] from the child" in done.stderr
    assert "[INFO/MainProcess] process shutting down" in done.stderr


def test_abstract_addresses():
    assert util.abstract_sockets_supported
    for address, expected in [
        ("\0x", True),
        (b"\0x", True),
        ("/x", False),
        (b"/x", False),
        ("", False),
        (None, False),
    ]:
        assert util.is_abstract_socket_namespace(address) is expected
    with pytest.raises(TypeError, match="unrecognized"):
        util.is_abstract_socket_namespace(17)


def test_temp_dir_goes_at_exit():
    code = "from sidestep import util; print(util.get_temp_dir())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert os.path.basename(done.stdout).startswith("pymp-")
    assert not os.path.exists(done.stdout.strip())


def test_temp_dir_is_the_trees(monkeypatch):
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)
    assert util.get_temp_dir() == util.get_temp_dir()
    assert process.current_process()._config["tempdir"] == util.get_temp_dir()
    util._run_finalizers()
    assert process.current_process()._config["tempdir"] is None


def test_spawnv_passfds():
    r, w = os.pipe()
    other = os.dup(w)
    os.set_inheritable(other, True)
    code = f"import os; os.write({w}, b'here'); os.fstat({other})"
    pid = util.spawnv_passfds(
        os.fsencode(sys.executable), [sys.executable, "-c", code, "2>/dev/null"], [w]
    )
    os.close(w)
    os.close(other)
    assert os.read(r, 10) == b"here"
    os.close(r)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1  # no such descriptor


def test_close_fds():
    r, w = os.pipe()
    util.close_fds(r, w)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(r)


def test_interpreter_flags():
    assert util._args_from_interpreter_flags() == (
        subprocess._args_from_interpreter_flags()
    )


def test_exit_waits_for_children_and_ends_daemons():
    code = (
        "import sidestep, time, sys\n"
        "ctx = sidestep.get_context('fork')\n"
        "said = ctx.Event()\n"
        "def say(): said.wait(); time.sleep(.1); print('child', flush=True)\n"
        "ctx.Process(target=say).start()\n"
        "ctx.Process(target=time.sleep, args=(100,), daemon=True).start()\n"
        "print('main', flush=True)\n"
        "said.set()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr, done.returncode) == ("main\nchild\n", "", 0)


# ---- resource_tracker: names, without a process ----


def test_tracker_forgets_what_is_unregistered(tmp_path):
    resource_tracker.ensure_running()
    assert resource_tracker._resource_tracker._check_alive()
    resource_tracker.register("/name", "shared_memory")
    resource_tracker.unregister("/name", "shared_memory")
    assert resource_tracker._resource_tracker._names["shared_memory"] == set()
    with pytest.raises(ValueError, match="unknown resource type"):
        resource_tracker.register("/name", "nothing known")
    with pytest.raises(ValueError, match="unknown resource type"):
        resource_tracker.register("/name", "dummy")
    with pytest.raises(ValueError, match="msg too long"):
        resource_tracker.register("/" + "x" * 600, "shared_memory")
    fd = resource_tracker.getfd()
    assert os.write(fd, b"REGISTER:x:noop\n")
    resource_tracker._resource_tracker._stop()


TRACKED = """
import os, sidestep
from sidestep import resource_tracker
def child():
    resource_tracker.register(NAME, "shared_memory")
NAME = "/sidestep-test-{pid}"
if __name__ == "__main__":
    open("/dev/shm" + NAME, "w").close()
    p = sidestep.Process(target=child)
    p.start()
    p.join()
    assert os.path.exists("/dev/shm" + NAME)
    resource_tracker.register(NAME, "shared_memory")
"""


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
def test_tracker_removes_at_the_end_of_the_tree(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(TRACKED.format(pid=os.getpid()))
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "1 leaked shared_memory objects" in done.stderr
    assert not os.path.exists(f"/dev/shm/sidestep-test-{os.getpid()}")


def test_no_extra_thread():
    before = threading.active_count()  # other tests leave feeder threads
    sidestep.Queue().put(1)
    sidestep.Lock()
    sidestep.Value("i")
    assert threading.active_count() <= before
