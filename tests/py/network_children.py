# SPDX-License-Identifier: MIT
"""What children and threads do in the tests of network connections."""

import contextlib
import sys
import threading
import time

from sidestep.connection import AuthenticationError, Client, Listener


def _echo(conn):
    with conn, contextlib.suppress(EOFError, OSError):
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


def greet(listener, count):
    for _ in range(count):
        with listener.accept() as conn:
            conn.send("hello")
