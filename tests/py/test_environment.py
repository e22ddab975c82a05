# SPDX-License-Identifier: MIT
"""Poor surroundings: few descriptors, no /dev/shm, no rights; and no idle CPU."""

import os
import subprocess
import sys
import textwrap
import time

import children
import pytest

import sidestep

PACKAGES = sidestep.__path__[0].rpartition("/")[0]

WORK = """
import sys
sys.path.insert(0, {here!r})
import sidestep, children

def work():
    for method in ("fork", "spawn", "forkserver"):
        ctx = sidestep.get_context(method)
        requests, replies, lock = ctx.Queue(), ctx.Queue(), ctx.Lock()
        value, event = ctx.Value("i"), ctx.Event()
        workers = [
            ctx.Process(target=children.echo_queue, args=(requests, replies))
            for _ in range(3)
        ]
        workers.append(ctx.Process(target=children.count_with_lock, args=(lock, value, 9)))
        for worker in workers:
            worker.start()
        for i in range(100):
            requests.put([i])
        assert sorted(replies.get(timeout=60) for _ in range(100)) == [[i] for i in range(100)]
        for _ in range(3):
            requests.put(None)
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
        assert value.value == 9
        a, b = ctx.Pipe()
        a.send(1)
        assert b.recv() == 1
        assert sidestep.connection.wait([a, replies._reader], 0) == []

if __name__ == "__main__":
    {before}
    work()
    print("fine")
"""


def run(tmp_path, before="", prefix=(), **kwargs):
    program = tmp_path / "program.py"
    here = os.path.dirname(children.__file__)
    program.write_text(WORK.format(here=here, before=before))
    return subprocess.run(
        [*prefix, sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )


def assert_fine(done):
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_with_64_descriptors(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    assert_fine(run(tmp_path, limit))


def test_hundreds_of_objects_with_64_descriptors():
    code = textwrap.dedent("""
        import resource, sidestep
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        kept = [(sidestep.Queue(), sidestep.Lock(), sidestep.Event(), sidestep.Value("i"))
                for _ in range(500)]
        for queue, *_ in kept:
            queue.put(1)
            assert queue.get() == 1
    """)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def can_unshare():
    try:
        done = subprocess.run(
            ["unshare", "-r", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"],
            capture_output=True,
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="no mount namespaces here")
def test_without_dev_shm(tmp_path):
    hide = 'mount -t tmpfs -o ro,size=4k none /dev/shm && exec "$@"'
    prefix = ("unshare", "-r", "-m", "sh", "-c", hide, "sh")
    no_shm = "import os; assert not os.access('/dev/shm', os.W_OK), 'still writable'"
    assert_fine(run(tmp_path, no_shm, prefix))


def test_nothing_is_left_in_dev_shm(tmp_path):
    def names():
        return {n for n in os.listdir("/dev/shm") if "sidestep" in n or "sst" in n}

    before = names() if os.path.isdir("/dev/shm") else None
    assert_fine(run(tmp_path))
    if before is not None:
        assert names() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_an_unprivileged_user(tmp_path):
    # The interpreter and the package may lie where others cannot read: drop the
    # rights once everything is imported, and only fork.
    code = textwrap.dedent("""
        import os, sidestep, sidestep.queues, sidestep.synchronize, sidestep.popen_fork
        import sidestep.connection, sidestep.util, threading, traceback
        os.setgid(65534); os.setuid(65534)
        ctx = sidestep.get_context("fork")
        queue, lock = ctx.Queue(), ctx.Lock()
        def child():
            with lock:
                queue.put({"a": 1})
        p = ctx.Process(target=child)
        p.start()
        assert queue.get(timeout=20) == {"a": 1}
        p.join(20)
        assert p.exitcode == 0
        fd = queue.fileno()
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_without_the_stdlibs_c_modules(tmp_path):
    hide = (
        "import sys; "
        "sys.modules['_multiprocessing'] = sys.modules['_posixshmem'] = None"
    )
    assert_fine(run(tmp_path, hide))


def test_idle_processes_use_no_cpu(start, eventually):
    ctx = sidestep.get_context("fork")
    queue, event, lock, other = ctx.Queue(), ctx.Event(), ctx.Lock(), ctx.Event()
    replies = ctx.Queue()
    ready, woken = ctx.Semaphore(0), ctx.Semaphore(0)
    lock.acquire()
    idle = [
        start(ctx, children.echo_queue, queue, replies),
        start(ctx, children.wait_for_event, event, ready, woken),
        start(ctx, children.acquire_once, lock, other, other),
    ]

    queue.put("you have begun")
    assert replies.get(timeout=20)
    assert ready.acquire(timeout=20)
    assert other.wait(20)

    def asleep():
        return all(state(process.pid)[0] == "S" for process in idle)

    eventually(asleep)
    before = [state(process.pid)[1:] for process in idle]
    time.sleep(0.5)
    assert [state(process.pid)[1:] for process in idle] == before


def state(pid):
    """The state, and the ticks of CPU used in user mode and in the kernel."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return fields[0], int(fields[11]), int(fields[12])


def test_idle_queues_cost_little():
    from sidestep import _core

    sidestep.Queue().put(1)
    kept = [sidestep.Queue() for _ in range(10)]
    before = _core.arena_statistics()["used"]
    kept += [sidestep.Queue() for _ in range(1000)]
    grown = _core.arena_statistics()["used"] - before
    assert grown / 1000 < 16 << 10
