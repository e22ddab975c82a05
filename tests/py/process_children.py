# SPDX-License-Identifier: MIT
"""What children do in the tests of processes; importable, for spawn and forkserver."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path


def nothing():
    pass


def exit_with(code):
    sys.exit(code)


def os_exit_with(code):
    os._exit(code)


def raise_error():
    raise ZeroDivisionError("on purpose")


def kill_self(number):
    os.kill(os.getpid(), number)


def end_when_told(conn, end, how):
    conn.recv()
    end(how)


def wait_for_ever(ready=None):
    if ready is not None:
        ready.send(os.getpid())
    while True:
        time.sleep(100)


def tell(conn, package):
    """Send what the package says about the process this runs in."""
    import importlib

    mp = importlib.import_module(package)
    current, parent = mp.current_process(), mp.parent_process()
    conn.send(
        {
            "name": current.name,
            "pid": current.pid,
            "daemon": current.daemon,
            "authkey": bytes(current.authkey),
            "parent_name": parent.name,
            "parent_pid": parent.pid,
            "parent_alive": parent.is_alive(),
            "getppid": os.getppid(),
            "start_method": mp.get_start_method(),
            "cwd": os.getcwd(),
            "path": sys.path,
            "argv": sys.argv,
            "stdin": sys.stdin.read(),
        }
    )


def leave_thread_behind():
    threading.Thread(target=wait_for_ever, daemon=True).start()
    sys.exit(11)


def start_and_tell(method, conn, daemon, die_with_parent):
    """Start a grandchild, tell its pid, and wait for the end."""
    import sidestep

    ctx = sidestep.get_context(method)
    child = ctx.Process(
        target=wait_for_ever,
        args=(conn,),
        daemon=daemon,
        die_with_parent=die_with_parent,
    )
    child.start()
    wait_for_ever()


def start_and_exit(method, conn):
    """Start a daemonic grandchild from a thread that ends, then end in order."""
    import sidestep

    ours, theirs = sidestep.Pipe()
    child = sidestep.get_context(method).Process(
        target=wait_for_ever, args=(theirs,), daemon=True
    )
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    pid = ours.recv()
    time.sleep(0.05)  # nothing announces that the thread's end did no harm
    conn.send((pid, child.is_alive()))


def join_parent(conn):
    import sidestep

    parent = sidestep.parent_process()
    conn.send(parent.is_alive())
    parent.join(20)
    conn.send(parent.is_alive())


def have_grandchildren(method, conn, depth):
    import sidestep

    if depth:
        child = sidestep.get_context(method).Process(
            target=have_grandchildren, args=(method, conn, depth - 1)
        )
        child.start()
        child.join()
        assert child.exitcode == 0
    conn.send(depth)


def register_at_exit(path):
    from sidestep import util

    with open(path, "w") as out:
        out.write("run ")

    def write(what):
        with open(path, "a") as out:
            out.write(what)

    atexit.register(write, "atexit ")
    util.Finalize(None, write, ("finalizer ",), exitpriority=1)


def lock_file(path):
    import fcntl

    out = open(path, "w")  # noqa: SIM115 - held until the end
    fcntl.flock(out, fcntl.LOCK_EX)


def fork_and_tell(conn):
    """A child of os.fork() asks after its grandparent, Process-wise its parent."""
    import sidestep

    pid = os.fork()
    if pid == 0:
        conn.send(sidestep.parent_process().is_alive())
        os._exit(0)
    os.waitpid(pid, 0)


def close_descriptors_and_wait(conn):
    conn.send("now")
    os.closerange(3, 1000)
    wait_for_ever()


def signal_dispositions(conn):
    conn.send(signal.getsignal(signal.SIGINT) is signal.default_int_handler)


def set_event(event):
    event.set()


def send_modules(conn):
    conn.send(sorted(sys.modules))


def echo_descriptor(conn):
    fd = conn.fileno()
    conn.send(os.fstat(fd).st_ino)


def tell_references(conn):
    """Send the counts of references of what every child has from its server."""
    import sidestep
    from sidestep import process

    loaded = [process, process.BaseProcess.start, sidestep.Process]
    loaded.append(process.BaseProcess.start.__code__)
    conn.send([sys.getrefcount(thing) for thing in loaded])


def children_of_this_process():
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            found |= set(map(int, (task / "children").read_text().split()))
    return found


def have_a_family(method, conn):
    """Start children of all kinds, by this thread and by one that ends; wait."""
    import sidestep
    from sidestep import forkserver

    ctx = sidestep.get_context(method)
    kinds = {
        "daemon": {"daemon": True},
        "told to": {"die_with_parent": True},
        "other": {},
    }
    family = {
        (kind, thread): ctx.Process(target=wait_for_ever, **how)
        for kind, how in kinds.items()
        for thread in ("main", "ended")
    }
    for (_, who), child in family.items():
        if who == "main":
            child.start()
        else:
            thread = threading.Thread(target=child.start)
            thread.start()
            thread.join()
    pids = {key: child.pid for key, child in family.items()}
    if method == "forkserver":
        while not (told := forkserver.statistics())["warm"] or told["coming"]:
            time.sleep(0.001)
        pids["server", ""] = told["pid"]
    others = children_of_this_process() - set(pids.values())
    pids.update({("warm", pid): pid for pid in others})
    conn.send(pids)
    wait_for_ever()


def have_descendants(method, conn):
    """Start a process that starts another, and a program; and fork."""
    import subprocess

    import sidestep

    ctx = sidestep.get_context(method)
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=start_and_tell, args=(method, theirs, False, None))
    child.start()
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    fork = os.fork()
    if fork == 0:
        wait_for_ever()
    conn.send([child.pid, ours.recv(), program.pid, fork])
    wait_for_ever()
