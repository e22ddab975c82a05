# SPDX-License-Identifier: MIT
"""Locks, queues, pipes and sockets as parts of messages."""

import socket

import sidestep as mp


def serve(requests):
    """Answer each request on the queue that came with it."""
    for number, lock, total, answer in iter(requests.get, None):
        with lock:
            total.value += number
        answer.put(number * number)


def send_line(requests):
    """Write a line to the socket that came with the message."""
    with requests.get() as sock:
        sock.sendall(b"a line\n")


def main():
    requests = mp.Queue()
    worker = mp.Process(target=serve, args=(requests,))
    worker.start()
    # All of these are made after the worker was started.
    lock, total, answer = mp.Lock(), mp.Value("i", 0, lock=False), mp.SimpleQueue()
    for number in (3, 4):
        requests.put((number, lock, total, answer))
    print(answer.get(), answer.get(), total.value)
    requests.put(None)
    worker.join()

    writer = mp.Process(target=send_line, args=(requests,))
    writer.start()
    ours, theirs = socket.socketpair()
    requests.put(theirs)
    theirs.close()
    with ours, ours.makefile() as lines:
        print(lines.readline().rstrip())
    writer.join()


if __name__ == "__main__":
    main()
