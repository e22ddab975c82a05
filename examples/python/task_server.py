# SPDX-License-Identifier: MIT
"""A task server, two programs that work for it, and one that has work.

Here all run on one machine; any of them may be on another.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from concurrent.futures import as_completed
from pathlib import Path

import sidestep
from sidestep.managers import SyncManager
from sidestep.tasks import read_key


# start-server
def start_server(key_file):
    manager = SyncManager(("127.0.0.1", 0), read_key(key_file))
    manager.task_processes = 0  # none here: tasks wait for those who serve
    manager.start()
    return manager
    # end-server


def start_worker(address, key_file):
    host, port = address
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "sidestep", "serve", f"{host}:{port}"),
            *("--key-file", key_file, "--workers", "1", "--quiet"),
        ]
    )


def is_prime(number):
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))


# start-client
def use(address, key_file):
    manager = SyncManager(address, read_key(key_file))
    manager.connect()

    futures = [manager.submit(pow, 2, exponent) for exponent in range(8)]
    print("powers:", sorted(future.result() for future in as_completed(futures)))

    with sidestep.Pool(cluster=manager) as pool:
        print("primes:", sum(pool.map(is_prime, range(10_000))))
        # Two at the same time: each of the two workers has one.
        gate = manager.Barrier(2)
        both = pool.starmap(meet, [(gate,)] * 2, chunksize=1)
        print("workers:", len(set(both)))
    # end-client


def meet(gate):
    gate.wait()
    return os.getpid()


def main():
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder) / "key"
        key_file.touch(mode=0o600)
        key_file.write_text(secrets.token_hex(32))
        with start_server(key_file) as server:
            workers = [start_worker(server.address, key_file) for _ in range(2)]
            use(server.address, key_file)
            for worker in workers:
                worker.terminate()  # as Ctrl-C: leaves when what runs is done
            for worker in workers:
                worker.wait()


if __name__ == "__main__":
    main()
