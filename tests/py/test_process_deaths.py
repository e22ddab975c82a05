# SPDX-License-Identifier: MIT
"""Who dies with whom: parents, children, zygotes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import process_children as children
import pytest

import sidestep


def is_alive(pid):
    """Whether a process that may not be ours runs: a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def orphan(ctx, start, *, daemon=False, die_with_parent=None):
    """Start a child with a grandchild, kill the child; the grandchild's pid."""
    ours, theirs = ctx.Pipe()
    method = ctx.get_start_method()
    child = start(ctx, children.start_and_tell, method, theirs, daemon, die_with_parent)
    grandchild = ours.recv()
    assert is_alive(grandchild)
    child.kill()
    child.join()
    return grandchild


def test_daemonic_children_die_with_a_killed_parent(ctx, start, eventually):
    grandchild = orphan(ctx, start, daemon=True)
    eventually(lambda: not is_alive(grandchild))


def test_so_do_those_that_were_told_to(ctx, start, eventually):
    grandchild = orphan(ctx, start, die_with_parent=True)
    eventually(lambda: not is_alive(grandchild))


def test_the_others_outlive_it(ctx, start):
    grandchild = orphan(ctx, start)
    try:
        time.sleep(0.1)  # nothing announces that something does not happen
        assert is_alive(grandchild)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_daemonic_children_outlive_the_thread_that_started_them(ctx, start, eventually):
    ours, theirs = ctx.Pipe()
    child = start(ctx, children.start_and_exit, ctx.get_start_method(), theirs)
    grandchild, survived = ours.recv()
    assert survived
    child.join()
    eventually(lambda: not is_alive(grandchild))


def test_the_family_of_a_killed_owner(ctx, start, eventually):
    """Those that are to, whichever thread started them, end with it; the others do not."""
    ours, theirs = ctx.Pipe()
    method = ctx.get_start_method()
    owner = start(ctx, children.have_a_family, method, theirs)
    pids = ours.recv()
    assert all(map(is_alive, pids.values()))
    kinds = {kind for kind, _ in pids}
    assert (method == "forkserver") == ({"server", "warm"} <= kinds)
    owner.kill()
    staying = {pid for (kind, _), pid in pids.items() if kind == "other"}
    try:
        for pid in set(pids.values()) - staying:
            eventually(lambda pid=pid: not is_alive(pid))
        assert all(map(is_alive, staying))
    finally:
        for pid in staying:
            os.kill(pid, signal.SIGKILL)


def test_a_context_decides_for_its_processes(ctx):
    method = ctx.get_start_method()
    assert ctx.Process().die_with_parent is False
    assert ctx.Process(die_with_parent=True).die_with_parent is True
    assert ctx.Process(daemon=True).die_with_parent is True
    ctx.die_with_parent = True
    try:
        assert ctx.Process().die_with_parent is True
        assert ctx.Process(die_with_parent=False).die_with_parent is False
        if method == sidestep.get_start_method():
            assert sidestep.Process().die_with_parent is True
    finally:
        del ctx.die_with_parent


def test_a_child_notices_the_end_of_its_parent(ctx, start):
    ours, theirs = ctx.Pipe()
    code = f"""if 1:
        import sidestep, process_children as children, sys
        from sidestep.connection import Client
        ctx = sidestep.get_context({ctx.get_start_method()!r})
        if __name__ == "__main__":
            conn = Client(sys.argv[1], authkey=b"x")
            child = ctx.Process(target=children.join_parent, args=(conn,))
            child.start()
            conn.close()
            input()
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
    """
    from sidestep.connection import Listener

    with Listener(family="AF_UNIX", authkey=b"x") as listener:
        program = subprocess.Popen(
            [sys.executable, "-c", code, listener.address],
            stdin=subprocess.PIPE,
            cwd=Path(__file__).parent,
        )
        with listener.accept() as conn:
            assert conn.recv() is True
            program.communicate(b"\n")
            assert conn.recv() is False
    ours.close()
    theirs.close()


# ---- The zygote ----


@pytest.fixture
def server():
    """The fork server of this process, running."""
    forkserver = sidestep.forkserver._forkserver
    forkserver.ensure_running()
    yield forkserver
    forkserver._stop()


def start_one(target=children.nothing, *args):
    child = sidestep.get_context("forkserver").Process(target=target, args=args)
    child.start()
    return child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_dead_zygote_is_replaced(server, number, eventually):
    start_one().join()
    pid = server._forkserver_pid
    os.kill(pid, number)
    eventually(lambda: not is_alive(pid))
    child = start_one()
    child.join()
    assert child.exitcode == 0
    assert server._forkserver_pid != pid


def test_its_children_do_not_mind(server):
    ours, theirs = sidestep.Pipe()
    child = start_one(children.wait_for_ever, theirs)
    assert ours.recv() == child.pid
    os.kill(server._forkserver_pid, signal.SIGKILL)
    child.join(0.05)
    assert child.is_alive()
    child.terminate()
    child.join()
    assert child.exitcode == -signal.SIGTERM


def test_their_exit_codes_are_known_all_the_same(server):
    """Whatever way they end, and whatever the zygote was doing."""
    ours, theirs = sidestep.Pipe()
    ends = [
        (children.exit_with, 3),
        (children.os_exit_with, 4),
        (children.kill_self, 9),
    ]
    started = []
    for target, code in ends * 3:
        child = start_one(children.end_when_told, theirs, target, code)
        started.append((child, -code if code == 9 else code))
    os.kill(server._forkserver_pid, signal.SIGKILL)
    for _ in started:
        ours.send("now")
    for child, code in started:
        child.join()
        assert child.exitcode == code


def test_ctrl_c_is_not_for_the_zygote(server):
    start_one().join()
    pid = server._forkserver_pid
    os.kill(pid, signal.SIGINT)
    child = start_one()
    child.join()
    assert (child.exitcode, server._forkserver_pid) == (0, pid)


def test_it_ends_with_its_owner(eventually):
    code = """if 1:
        import os, signal, sidestep
        server = sidestep.forkserver._forkserver
        server.ensure_running()
        print(server._forkserver_pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    import sidestep.forkserver  # noqa: F401 - the program says only `import sidestep`

    out = subprocess.run(
        [sys.executable, "-c", code.replace("sidestep\n", "sidestep.forkserver\n", 1)],
        check=False,
        capture_output=True,
        text=True,
    )
    zygote = int(out.stdout)
    eventually(lambda: not is_alive(zygote))


def test_kills_of_zygotes_while_many_start(server):
    """Every start either gives a child or a new zygote gives it."""
    stop = threading.Event()

    def killer():
        while not stop.wait(0.05):
            pid = server._forkserver_pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    codes = []
    try:
        for _ in range(20):
            try:
                child = start_one(children.exit_with, 3)
            except RuntimeError:
                continue  # three zygotes in a row were killed before they could start it
            child.join()
            codes.append(child.exitcode)
    finally:
        stop.set()
        thread.join()
    assert set(codes) <= {3}
    child = start_one(children.exit_with, 3)
    child.join()
    assert child.exitcode == 3


def test_a_zygote_that_cannot_start_is_an_error(server, tmp_path, monkeypatch):
    server._stop()
    (tmp_path / "suicidal.py").write_text("import os; os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(server, "_preload_modules", ["suicidal"])
    with pytest.raises(RuntimeError, match="the fork server ends before"):
        start_one()


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def work_of(pid):
    """What a process has done so far: ticks of the processor, and times it slept."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[11:13], status_of(pid)["voluntary_ctxt_switches"]


def test_those_that_wait_for_a_job_cost_nothing(server, eventually):
    """No processor time, no thread, no lock; and it is told how many they are."""
    before = children.children_of_this_process()
    held = sidestep._core.arena_statistics()["held"]
    for _ in range(3):
        start_one().join(gone=True)
    told = eventually(
        lambda: (
            (now := sidestep.forkserver.statistics())["warm"] >= 2
            and now["coming"] == 0
            and now
        )
    )
    idle = children.children_of_this_process() - before | {told["pid"]}
    assert len(idle) == told["warm"] + 1
    assert told["memory"] > 0
    assert {status_of(pid)["Threads"] for pid in idle} == {"1"}
    locks = Path("/proc/locks").read_text()
    assert not any(f" {pid} " in locks for pid in idle)
    assert sidestep._core.arena_statistics()["held"] == held
    eventually(lambda: {status_of(pid)["State"][0] for pid in idle} == {"S"})
    works = {pid: work_of(pid) for pid in idle}
    time.sleep(0.5)  # nothing announces that something does not happen
    assert {pid: work_of(pid) for pid in idle} == works


def test_killing_a_whole_tree(ctx, start, eventually):
    """Programs and processes that no Process object knows of are in it."""
    ours, theirs = ctx.Pipe()
    child = start(ctx, children.have_descendants, ctx.get_start_method(), theirs)
    pids = ours.recv()
    assert len(set(pids)) == 4
    assert all(map(is_alive, pids))
    # and the resource of its start method: a fork server
    assert child.kill_tree() >= 5
    child.join()
    assert child.exitcode == -signal.SIGKILL
    for pid in pids:
        eventually(lambda pid=pid: not is_alive(pid))
    assert child.kill_tree() == 0
