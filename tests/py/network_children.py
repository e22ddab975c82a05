# SPDX-License-Identifier: MIT
"""What children and threads do in the tests of network connections."""

import contextlib
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
import traceback
import warnings

from sidestep.connection import AuthenticationError, Client, Listener


def _echo(conn):
    with conn, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            conn.send(conn.recv())


def _serve(listener):
    while True:
        try:
            conn = listener.accept()
        except AuthenticationError:
            continue
        except OSError:
            return
        threading.Thread(target=_echo, args=(conn,), daemon=True).start()


@contextlib.contextmanager
def echoing(address, key, **options):
    """The address of a listener that sends back what comes."""
    with Listener(address, authkey=key, **options) as listener:
        thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.address
    thread.join(20)


def echo_one(listener):
    with listener.accept() as conn:
        conn.send(conn.recv())


def accept_anything(listener):
    with contextlib.suppress(Exception):
        listener.accept().close()


def send_one(address, key, item):
    with Client(address, authkey=key) as conn:
        conn.send(item)


def send_over_given(pipe):
    with pipe.recv() as conn:
        conn.send("from the child")


def send_and_sleep(address, key):
    with Client(address, authkey=key) as conn:
        conn.send("before it sleeps")
        time.sleep(600)


def expect_the_end(conn):
    try:
        conn.recv()
    except EOFError:
        sys.exit(0)
    sys.exit(1)


def greet(listener):
    with contextlib.suppress(OSError):
        while True:
            with listener.accept() as conn:
                conn.send("hello")


def accept_and_sleep(pipe, key):
    with Listener(("127.0.0.1", 0), authkey=key) as listener:
        pipe.send(listener.address)
        with listener.accept():
            pipe.send("accepted")
            time.sleep(600)


def write_to_nobody(pipe, address, key):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    closed, written = (Client(address, authkey=key) for _ in range(2))
    for conn in (closed, written):
        conn.send("nobody reads this")
    pipe.send("sent")
    pipe.recv()
    closed.close()
    with contextlib.suppress(OSError):
        while True:
            written.send("and now?")
    written.close()


# ---- For test_attacks ----

TURNED_AWAY = 3
serve = _serve


def serve_with_few(pipe, address, key, options):
    """Serve with room for 40 descriptors more than there are."""
    warnings.simplefilter("ignore")
    with Listener(address, authkey=key, **options) as listener:
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, used + 40))
        pipe.send(listener.address)
        while True:
            try:
                with listener.accept() as conn, contextlib.suppress(EOFError):
                    while True:
                        conn.send(conn.recv())
            except (AuthenticationError, OSError):
                continue


def send_half(pipe, address, key, options):
    warnings.simplefilter("ignore")
    with Client(address, authkey=key, **options) as conn:
        os.write(conn.fileno(), b"\0\1\0\0" + b"x" * 30_000)
        pipe.send("half of it is sent")
        time.sleep(600)


def reply_half(pipe, address, key, options):
    warnings.simplefilter("ignore")
    with Listener(address, authkey=key, **options) as listener:
        pipe.send(listener.address)
        with listener.accept() as conn:
            conn.recv()
            os.write(conn.fileno(), b"\0\1\0\0" + b"x" * 30_000)
            # A killed relay takes along what it has not sent yet: see that it has.
            tls = sys.modules.get("sidestep._tls")
            if tls is not None:
                tls.flush(20)
            pipe.send("half of it is sent")
            time.sleep(600)


def as_user(uid, function, *args):
    """Call it in a child that is this user; its exit code.

    That user may not be allowed to read our Python: so it is called by ourselves, first,
    and imports what it needs.
    """
    assert function(*args) == 0
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            status = function(*args)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_let_in(address, key):
    """0, or TURNED_AWAY; a socket of its own, for ours looks who is there as well."""
    try:
        # The listener's user is root, whom everybody trusts.
        with Client(address, authkey=key) as conn:
            conn.send("let me in")
            return 0 if conn.recv() == "let me in" else 1
    except (EOFError, OSError, AuthenticationError):
        return TURNED_AWAY


def squat(address, uid, writer):
    """Listen there as another user, tell how many bytes a client sends, and exit."""
    try:
        os.setgid(uid)
        os.setuid(uid)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(address)
            os.chmod(address, 0o777)
            sock.listen(1)
            os.write(writer, b"l")
            with sock.accept()[0] as peer:
                peer.settimeout(20)
                os.write(writer, str(len(peer.recv(1000))).encode())
    finally:
        os._exit(0)


def pass_on(rogue, real):
    """Let one client of a rogue listener speak with the real one."""
    client, _ = rogue.accept()
    with client, socket.create_connection(real) as server:
        ways = [(client, server), (server, client)]
        threads = [threading.Thread(target=_pass, args=way) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)


def _pass(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
