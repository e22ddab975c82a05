# SPDX-License-Identifier: MIT
"""A program that changes what it is and sees whether its children are that too.

``standing.py METHOD CHANGE``: prints one line for each child that differs.
"""

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
import time

import sidestep


def look():
    """Tell all that a process hands down to its children."""
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return {
        "uid": (os.getuid(), os.geteuid()),
        "gid": (os.getgid(), os.getegid()),
        "groups": os.getgroups(),
        "capabilities": lines["CapEff"].strip(),
        "umask": lines["Umask"].strip(),
        "cwd": os.getcwd(),
        "root": (os.stat("/").st_dev, os.stat("/").st_ino),
        "limits": [resource.getrlimit(n) for n in range(16)],
        "nice": os.nice(0),
        "policy": os.sched_getscheduler(0),
        "cpus": os.sched_getaffinity(0),
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "session": (os.getpgid(0), os.getsid(0)),
        "environment": {**os.environ, "LC_CTYPE": ""},
        "host": os.uname().nodename,
        "no_new_privileges": lines["NoNewPrivs"].strip(),
        "filters": lines.get("Seccomp_filters", "").strip(),
        "hour": time.localtime(0).tm_hour,
    }


def tell(conn):
    conn.send(look())


def get_resource_limits_down():
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def call(name, *args):
    """Call a function of libc, which sets errno."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args) != 0:
        raise OSError(ctypes.get_errno(), f"{name} failed")


def get_a_name_space():
    call("unshare", 0x04000000)  # CLONE_NEWUTS
    socket.sethostname("somewhere-else")


def add_filter():
    """A second one, which like the first allows everything."""
    allow = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET, SECCOMP_RET_ALLOW
    instructions = ctypes.create_string_buffer(allow, len(allow))
    program = struct.pack("HP", 1, ctypes.addressof(instructions))
    call("prctl", 22, 2, ctypes.create_string_buffer(program, len(program)))


def change_environment():
    os.environ["COLOUR"] = "red"
    os.environ["TZ"] = "UTC-5"
    time.tzset()
    del os.environ["HOME"]


CHANGES = {
    "environment": change_environment,
    "mask": lambda: signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGINT}
    ),
    "nice": lambda: os.nice(3),
    "policy": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "cpus": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    "cwd": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o77),
    "limits": get_resource_limits_down,
    "session": lambda: os.setpgid(0, 0),
    "no_new_privileges": lambda: call("prctl", 38, 1, 0, 0, 0),
    "filters": add_filter,
    # as root
    "name space": get_a_name_space,
    "groups": lambda: os.setgroups([1234]),
    "gid": lambda: os.setresgid(1000, 1000, 1000),
    "uid": lambda: os.setresuid(1000, 1000, 1000),
    "effective_uid": lambda: os.seteuid(1000),
}


def ask_child(context):
    ours, theirs = context.Pipe()
    child = context.Process(target=tell, args=(theirs,))
    child.start()
    theirs.close()
    answer = ours.recv()
    child.join()
    assert child.exitcode == 0
    return answer


def prepare(change):
    if change == "filters":
        call("prctl", 38, 1, 0, 0, 0)
        add_filter()


def wait_until_warm(context):
    """Start processes until one is ready before it is needed."""
    for _ in range(3):
        ask_child(context)
    if context.get_start_method() == "forkserver":
        while not sidestep.forkserver.statistics()["warm"]:
            time.sleep(0.001)


def main():
    context = sidestep.get_context(sys.argv[1])
    prepare(sys.argv[2])
    wait_until_warm(context)
    before = look()
    CHANGES[sys.argv[2]]()
    me = look()
    assert me != before, "nothing has changed"
    for _ in range(3):
        child = ask_child(context)
        different = {
            name: (me[name], child[name]) for name in me if me[name] != child[name]
        }
        if different:
            print(different)


if __name__ == "__main__":
    main()
