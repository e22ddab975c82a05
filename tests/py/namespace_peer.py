# SPDX-License-Identifier: MIT
"""What runs in the network namespaces of ``test_namespaces``: a program for each part.

``serve HOST SECURITY`` prints the ports of a listener and a manager; ``use HOST PORT
PORT SECURITY`` speaks to both; ``capture INTERFACE FILE`` writes down what goes over it.
"""

import socket
import sys
import threading
import warnings

KEY = b"a key of thirty-two bytes at the least"
SECRET = b"something that nobody else is to read"


def options(security):
    warnings.simplefilter("ignore")
    return {} if security == "tls" else {"security": security}


def say(*words):
    print(*words, flush=True)


def serve(host, security):
    from sidestep.connection import Listener
    from sidestep.managers import SyncManager

    with Listener((host, 0), authkey=KEY, **options(security)) as listener:
        with SyncManager((host, 0), KEY, **options(security)) as manager:
            say(listener.address[1], manager.address[1])
            with listener.accept() as conn:
                say("from", listener.last_accepted[0])
                conn.send([conn.recv()])
            sys.stdin.read()


def use(host, port, manager_port, security):
    from sidestep.connection import Client, wait
    from sidestep.managers import SyncManager

    with Client((host, int(port)), authkey=KEY, **options(security)) as conn:
        conn.send(SECRET)
        assert wait([conn], 20) == [conn]
        assert conn.recv() == [SECRET]
    manager = SyncManager((host, int(manager_port)), KEY, **options(security))
    manager.connect()
    table = manager.dict(secret=SECRET)
    table["more"] = SECRET * 10_000
    assert table["secret"] == SECRET
    assert len(table["more"]) == len(SECRET) * 10_000
    queue = manager.Queue()
    threading.Timer(0.1, queue.put, (1,)).start()
    assert queue.get() == 1
    say("done")


def capture(interface, path):
    everything = 3
    with socket.socket(
        socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything)
    ) as sock:
        sock.bind((interface, 0))
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        say("listening")
        with open(path, "wb", buffering=0) as file:
            while True:
                file.write(sock.recv(1 << 17))


if __name__ == "__main__":
    parts = {"serve": serve, "use": use, "capture": capture}
    parts[sys.argv[1]](*sys.argv[2:])
