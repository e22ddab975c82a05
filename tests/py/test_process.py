# SPDX-License-Identifier: MIT
"""Process: what it promises on both packages, and what only sidestep promises."""

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from multiprocessing.connection import wait as stdlib_wait

import process_children as children
import pytest

import sidestep
from sidestep import process as sidestep_process


def run(ctx, target, *args, **kwargs):
    child = ctx.Process(target=target, args=args, **kwargs)
    child.start()
    child.join()
    return child


# ---- Both packages ----


@pytest.mark.parametrize(
    ("target", "args", "code"),
    [
        (children.nothing, (), 0),
        (children.exit_with, (None,), 0),
        (children.exit_with, (7,), 7),
        (children.exit_with, (-1,), 255),
        (children.exit_with, (256,), 0),
        (children.exit_with, ("words",), 1),
        (children.exit_with, ((1, 2),), 1),
        (children.os_exit_with, (9,), 9),
        (children.raise_error, (), 1),
        (children.kill_self, (signal.SIGTERM,), -signal.SIGTERM),
        (children.kill_self, (signal.SIGKILL,), -signal.SIGKILL),
    ],
)
def test_exit_code(mp_ctx, target, args, code):
    assert run(mp_ctx, target, *args).exitcode == code


def test_child_knows_itself_and_its_parent(mp, mp_ctx):
    ours, theirs = mp_ctx.Pipe()
    child = run(mp_ctx, children.tell, theirs, mp.__name__, name="Somebody")
    told = ours.recv()
    assert told["name"] == "Somebody"
    assert told["pid"] == child.pid
    assert told["daemon"] is False
    assert told["authkey"] == bytes(mp.current_process().authkey)
    assert told["parent_name"] == mp.current_process().name
    assert told["parent_pid"] == os.getpid()
    assert told["parent_alive"] is True
    assert told["start_method"] == mp_ctx.get_start_method()
    assert told["cwd"] == os.getcwd()
    assert told["argv"] == sys.argv
    assert told["stdin"] == ""


def test_life_of_a_process(mp_ctx):
    child = mp_ctx.Process(target=children.wait_for_ever, daemon=True)
    assert (child.pid, child.exitcode, child.is_alive()) == (None, None, False)
    assert "initial" in repr(child)
    with pytest.raises(ValueError, match="process not started"):
        _ = child.sentinel
    child.start()
    assert child.is_alive()
    assert child.exitcode is None
    assert "started daemon" in repr(child)
    assert child in mp_ctx.active_children()
    child.join(0)
    child.join(-1)
    child.join(0.01)
    assert child.is_alive()
    with pytest.raises(ValueError, match="Cannot close a process"):
        child.close()
    child.terminate()
    child.join()
    assert child.exitcode == -signal.SIGTERM
    assert "stopped exitcode=-SIGTERM" in repr(child)
    assert child not in mp_ctx.active_children()
    child.terminate()
    child.join()
    child.close()
    child.close()
    assert "closed" in repr(child)
    for call in (child.join, child.is_alive, child.terminate, child.kill, child.start):
        with pytest.raises(ValueError, match="process object is closed"):
            call()


def test_wrong_uses(mp_ctx):
    with pytest.raises(AssertionError, match="group argument must be None"):
        mp_ctx.Process("group")
    child = mp_ctx.Process(target=children.nothing)
    with pytest.raises(AssertionError, match="can only join a started process"):
        child.join()
    with pytest.raises(AssertionError, match="name must be a string"):
        child.name = 3
    child.start()
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        child.start()
    with pytest.raises(AssertionError, match="process has already started"):
        child.daemon = True
    child.join()


def test_authentication_string(mp):
    process = mp.process
    key = process.AuthenticationString(b"secret")
    with pytest.raises(TypeError, match="disallowed for security reasons"):
        pickle.dumps(key)
    mp.current_process().authkey, before = b"other", mp.current_process().authkey
    try:
        assert isinstance(mp.current_process().authkey, process.AuthenticationString)
    finally:
        mp.current_process().authkey = before


def test_target_and_arguments_are_let_go(mp_ctx):
    class Target:
        pass

    if mp_ctx.get_start_method() != "fork":
        pytest.skip("a local class cannot be pickled")
    argument = Target()
    seen = weakref.ref(argument)
    child = mp_ctx.Process(target=children.nothing, kwargs={})
    child._args = (argument,)
    child._target = lambda _: None
    child.start()
    del argument
    gc.collect()
    assert seen() is None
    child.join()


def test_dangling_knows_the_living(mp):
    child = mp.Process(target=children.nothing)
    assert child in mp.process._dangling
    del child
    gc.collect()
    assert not any(p._parent_pid == os.getpid() for p in mp.process._dangling.copy())


def test_subclass_with_run(mp):
    class Doubling(mp.get_context("fork").Process):
        def __init__(self, conn):
            super().__init__(daemon=True)
            self.conn = conn

        def run(self):
            self.conn.send(2 * self.conn.recv())

    ours, theirs = mp.Pipe()
    child = Doubling(theirs)
    child.start()
    ours.send(21)
    assert ours.recv() == 42
    child.join()
    assert child.exitcode == 0


def test_traceback_goes_to_stderr(mp_ctx, capfd):
    if mp_ctx.get_start_method() == "forkserver":
        pytest.skip("its standard streams are those of the server")
    run(mp_ctx, children.raise_error, name="Unlucky")
    err = capfd.readouterr().err
    assert err.startswith("Process Unlucky:\nTraceback (most recent call last):\n")
    assert err.endswith("ZeroDivisionError: on purpose\n")


def test_join_is_interrupted_by_an_exception_of_a_handler(mp_ctx, start, interrupt):
    child = start(mp_ctx, children.wait_for_ever)
    begun = threading.Event()

    def join():
        begun.set()
        child.join()

    with pytest.raises(interrupt(begun.is_set)):
        join()
    assert child.is_alive()


def test_sentinel_tells_of_the_end(mp_ctx):
    child = mp_ctx.Process(target=children.wait_for_ever)
    child.start()
    assert stdlib_wait([child.sentinel], 0) == []
    child.kill()
    assert stdlib_wait([child.sentinel], 20) == [child.sentinel]
    child.join()
    assert child.exitcode == -signal.SIGKILL


# ---- Sidestep alone ----


def test_daemonic_processes_may_have_children(ctx, start):
    ours, theirs = ctx.Pipe()
    child = start(
        ctx,
        children.have_grandchildren,
        ctx.get_start_method(),
        theirs,
        2,
        daemon=True,
    )
    assert [ours.recv() for _ in range(3)] == [0, 1, 2]
    child.join()
    assert child.exitcode == 0


def test_interrupt(ctx, start):
    ours, theirs = ctx.Pipe()
    child = start(ctx, children.wait_for_ever, theirs)
    ours.recv()
    child.interrupt()
    child.join()
    assert child.exitcode == 1


def test_sigint_is_not_ignored_in_children(ctx):
    ours, theirs = ctx.Pipe()
    run(ctx, children.signal_dispositions, theirs)
    assert ours.recv() is True


def test_join_means_that_locks_on_files_are_free(ctx, tmp_path):
    import fcntl

    path = tmp_path / "lock"
    for _ in range(5):
        run(ctx, children.lock_file, path)
        with path.open("w") as out:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_join_gone(ctx):
    child = ctx.Process(target=children.nothing)
    child.start()
    child.join(gone=True)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    assert stdlib_wait([child.sentinel], 0) == [child.sentinel]
    assert child.exitcode == 0


def test_what_is_done_is_reaped_by_later_calls(ctx, eventually):
    child = run(ctx, children.nothing)

    def gone():
        sidestep.active_children()
        try:
            os.kill(child.pid, 0)
        except ProcessLookupError:
            return True
        return False

    eventually(gone)


def test_other_children_are_left_to_others(ctx):
    other = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    run(ctx, children.nothing)
    sidestep.active_children()
    assert other.wait() == 5
    pid = os.fork()
    if pid == 0:
        os._exit(6)
    run(ctx, children.nothing)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6


def test_exit_code_taken_by_others(ctx):
    child = ctx.Process(target=children.wait_for_ever)
    child.start()
    child.kill()
    os.waitpid(child.pid, 0)
    child.join()
    assert child.exitcode == 255


def test_threads_left_behind(ctx):
    assert run(ctx, children.leave_thread_behind).exitcode == 11


def test_two_threads_join(ctx):
    child = ctx.Process(target=children.wait_for_ever)
    child.start()
    threads = [threading.Thread(target=child.join) for _ in range(4)]
    for thread in threads:
        thread.start()
    child.kill()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert child.exitcode == -signal.SIGKILL


def test_a_process_that_closes_its_descriptors_lives(ctx):
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=children.close_descriptors_and_wait, args=(theirs,))
    child.start()
    assert ours.recv() == "now"
    child.join(0.1)
    assert child.is_alive()
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_finalizers_and_exit_functions(ctx, tmp_path):
    path = tmp_path / "out"
    run(ctx, children.register_at_exit, path)
    words = path.read_text().split()
    assert words[:1] == ["run"]
    assert "finalizer" in words
    # Before 3.13 only a spawned interpreter runs what was registered with atexit.
    expected = sys.version_info >= (3, 13) or ctx.get_start_method() == "spawn"
    assert ("atexit" in words) is expected


def test_parent_is_known_to_children_of_os_fork(ctx):
    if ctx.get_start_method() == "spawn":
        pytest.skip("known through getppid alone")
    ours, theirs = ctx.Pipe()
    run(ctx, children.fork_and_tell, theirs)
    assert ours.recv() is (ctx.get_start_method() == "fork")


def test_no_descriptor_is_left(ctx, no_leaked_descriptors):
    for _ in range(3):
        child = run(ctx, children.nothing)
        child.join(gone=True)  # what is not yet gone keeps its pidfd
        child.close()
    if ctx.get_start_method() == "forkserver":
        sidestep.forkserver._forkserver._stop()


def test_fork_warns_of_threads():
    if sys.version_info < (3, 12):
        pytest.skip("no such warning yet")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    child = sidestep.get_context("fork").Process(target=children.nothing)
    try:
        with pytest.warns(DeprecationWarning, match="is multi-threaded, use of fork"):
            child.start()
    finally:
        stop.set()
        thread.join()
        child.join()


def test_no_room_for_descriptors():
    code = """if 1:
        import os, resource, sidestep
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
        kept = [os.dup(0)]
        try:
            while True:
                kept.append(os.dup(0))
        except OSError:
            pass
        child = sidestep.get_context("fork").Process(target=print)
        try:
            child.start()
        except (OSError, MemoryError) as error:
            print(type(error).__name__)
        for fd in kept:
            os.close(fd)
        child = sidestep.get_context("fork").Process(target=print, args=("child",))
        child.start()
        child.join()
        print(child.exitcode)
    """
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert out.stdout.split()[1:] == ["child", "0"], out.stderr


def test_exit_code_is_small(ctx):
    assert run(ctx, children.exit_with, 1 << 40).exitcode in {0, 255}


def test_forked_child_forgets_its_siblings():
    ctx = sidestep.get_context("fork")
    sibling = ctx.Process(target=children.wait_for_ever)
    sibling.start()
    ours, theirs = ctx.Pipe()

    def look():
        theirs.send(len(sidestep.active_children()))
        with pytest.raises(AssertionError):
            sibling.join()
        sibling.kill()

    child = run(ctx, look)
    assert ours.recv() == 0
    assert child.exitcode == 0
    sibling.join()
    assert sibling.exitcode == -signal.SIGKILL


def test_cleanup_survives_a_closed_child():
    child = run(sidestep.get_context("fork"), children.nothing)
    sidestep_process._children.add(child)
    child._popen = None
    sidestep_process._cleanup()
    sidestep_process._children.discard(child)


def test_missing_executable():
    ctx = sidestep.get_context("spawn")
    ctx.set_executable("/nowhere/python")
    try:
        with pytest.raises(OSError, match="python") as caught:
            ctx.Process(target=children.nothing).start()
    finally:
        ctx.set_executable(sys.executable)
    assert caught.value.errno in {errno.ENOENT, None}


def test_start_does_not_wait_for_the_child(ctx):
    """The starter goes on while the child sleeps."""
    child = ctx.Process(target=time.sleep, args=(100,))
    child.start()
    assert child.is_alive()
    child.kill()
    child.join()


def test_a_start_looks_at_a_few_of_many_children(monkeypatch):
    """With thousands of them it must not take longer; each has its turn."""

    class Running:
        looks = 0

        def poll(self):
            Running.looks += 1

    class Child:
        def __init__(self):
            self._popen = Running()

    fakes = {Child() for _ in range(100)}
    monkeypatch.setattr(sidestep_process, "_children", fakes)
    sidestep_process._to_look_at.clear()  # those of other tests
    for _ in range(13):
        sidestep_process._cleanup_some()
    assert 100 <= Running.looks <= 13 * 8
    sidestep_process._to_look_at.clear()


def test_children_that_ended_do_not_heap_up(ctx):
    ended = [ctx.Process(target=children.nothing) for _ in range(20)]
    for child in ended:
        child.start()
    for child in ended:
        stdlib_wait([child.sentinel], 20)
    for _ in range(8):
        child = ctx.Process(target=children.nothing)
        child.start()
        child.join()
    assert not sidestep_process._children & set(ended)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_copy_by_os_fork_can_start_processes(ctx, start):
    """Though it knows of children that are not its own."""
    sibling = start(ctx, children.wait_for_ever)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child = run(ctx, children.exit_with, 3)
            code = child.exitcode if sibling.exitcode is None else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert sibling.is_alive()
