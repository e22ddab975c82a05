# SPDX-License-Identifier: MIT
"""A peer that uses the standard library alone, in any Python: tests run it as a program
with ``listen``, ``connect PORT``, ``serve`` or ``use PORT``.
"""

import sys
from multiprocessing import connection, managers

KEY = b"a key of thirty-two bytes at the least"


def say(*words):
    print(*words, flush=True)


def listen():
    with connection.Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        say(listener.address[1])
        with listener.accept() as conn:
            conn.send([conn.recv()])
            say("done")


def connect(port):
    with connection.Client(("127.0.0.1", int(port)), authkey=KEY) as conn:
        conn.send({"a": 1})
        say(conn.recv())


def serve():
    server = managers.SyncManager(("127.0.0.1", 0), KEY).get_server()
    say(server.address[1])
    server.serve_forever()


def use(port):
    manager = managers.SyncManager(("127.0.0.1", int(port)), KEY)
    manager.connect()
    table = manager.dict(a=1)
    table["b"] = 2
    say(table.copy(), len(table))


if __name__ == "__main__":
    commands = {"listen": listen, "connect": connect, "serve": serve, "use": use}
    try:
        commands[sys.argv[1]](*sys.argv[2:])
    except (OSError, EOFError, connection.AuthenticationError) as error:
        say(type(error).__name__)
