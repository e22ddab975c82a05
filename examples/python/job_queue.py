# SPDX-License-Identifier: MIT
"""A queue of jobs between two programs, which share an address and a key."""

import subprocess
import sys
from queue import Queue

from sidestep.managers import BaseManager

KEY = b"make yours with secrets.token_bytes(32)"


# start-types
class Jobs(BaseManager):
    """Served by one program; others connect and use the same two queues."""


_jobs: Queue[str | None] = Queue()
_results: Queue[tuple[str, int]] = Queue()


def get_jobs():
    return _jobs


def get_results():
    return _results


Jobs.register("jobs", callable=get_jobs)
Jobs.register("results", callable=get_results)
# end-types


# start-consumer
def consume(host, port):
    """Be the second program."""
    manager = Jobs((host, port), KEY)
    manager.connect()
    jobs, results = manager.jobs(), manager.results()
    while (word := jobs.get()) is not None:
        results.put((word, len(word)))
    # end-consumer


def main():
    # start-producer
    with Jobs(("127.0.0.1", 0), KEY) as manager:
        jobs, results = manager.jobs(), manager.results()
        words = ["remote", "queue", "of", "jobs"]
        for word in words:
            jobs.put(word)
        jobs.put(None)
        host, port = manager.address
        consumer = subprocess.Popen([sys.executable, __file__, host, str(port)])
        for _ in words:
            word, length = results.get()
            print(word, length)
        consumer.wait()
    # end-producer


if __name__ == "__main__":
    if len(sys.argv) > 1:
        consume(sys.argv[1], int(sys.argv[2]))
    else:
        main()
