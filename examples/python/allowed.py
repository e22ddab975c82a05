# SPDX-License-Identifier: MIT
"""A listener that takes what a list allows, from a client that sends something else."""

import os
import pickle
import threading

from sidestep.connection import Client, Listener


# start-types
class Order:
    def __init__(self, item, count):
        self.item, self.count = item, count


class Surprise:
    """What it says is run by who unpickles it."""

    def __reduce__(self):
        return os.system, ("echo this never shows",)


# end-types


def serve(listener):
    # start-serve
    with listener.accept() as conn:
        while True:
            try:
                order = conn.recv()
            except pickle.UnpicklingError as error:
                conn.send(f"refused: {error}")
            except EOFError:
                return
            else:
                conn.send(f"{order.count} x {order.item}")
    # end-serve


def main():
    # start-listen
    key = os.urandom(32)
    listener = Listener(
        ("localhost", 0), authkey=key, allow=[Order], max_message=1_000_000
    )
    # end-listen
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    with Client(listener.address, authkey=key) as conn:
        for thing in (Order("apple", 3), Surprise(), Order("pear", 1)):
            conn.send(thing)
            print(conn.recv())
    thread.join()
    listener.close()


if __name__ == "__main__":
    main()
