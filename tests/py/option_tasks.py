# SPDX-License-Identifier: MIT
"""What workers do in the tests of pools' options; importable by every start method."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time

import sidestep
from sidestep.pool import SoftTimeLimitExceeded, current_worker

MIB = 1 << 20
KEPT = []


def whoami(_=None):
    worker = current_worker()
    return worker.index, worker.name, worker.pool, worker.pid


def seed_of(_=None):
    return current_worker().seed


def put_state(key, value):
    current_worker().state[key] = value


def get_state(key):
    return current_worker().state.get(key)


def write_index(path):
    with open(path, "a") as file:
        file.write(
            f"{current_worker().index}{current_worker().state.get('key', '-')}\n"
        )


class WriteIndex:
    """An exit hook that leaves something to be found."""

    def __init__(self, path):
        self.path = path

    def __call__(self):
        write_index(self.path)


def catch_soft_limit(seconds):
    """Sleep; return how it ended."""
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "caught"
    return "slept"


def sleep_in_c(pattern_length):
    """Run long in one call into C."""
    return sum(range(pattern_length))


def draw(_=None):
    return random.random()


def draw_numpy(_=None):
    import numpy as np

    return float(np.random.random())


def environment(name):
    return os.environ.get(name)


def blas_threads(_=None):
    import numpy as np  # noqa: F401 - loads the library
    import threadpoolctl

    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]


def affinity(_=None):
    return current_worker().index, os.sched_getaffinity(0)


def filled(size):
    """Return memory that is really there."""
    return bytearray(b"x") * size


def use_and_wait(size, event):
    memory = filled(size)
    event.wait()
    return len(memory)


def keep(size):
    KEPT.append(filled(size))
    return os.getpid()


CHILD = f"import time; memory = bytearray(b'x') * {200 * MIB}; time.sleep(1000)"


def use_in_a_child(path):
    """Have a child, which is no worker, use memory."""
    child = subprocess.Popen([sys.executable, "-c", CHILD])
    with open(path, "w") as file:
        file.write(str(child.pid))
    child.wait()


def log(name, text):
    logging.getLogger(name).warning("%s of %s", text, current_worker().index)


def log_exception(name):
    try:
        {}["missing"]
    except KeyError:
        logging.getLogger(name).exception(
            "it failed", extra={"thing": threading.Lock()}
        )


def log_and_die(name):
    logging.getLogger(name).error("last words")
    os.kill(os.getpid(), signal.SIGKILL)


def default_size(depth):
    """Return how many workers pools in pools have by default, from here down."""
    with sidestep.Pool() as pool:
        below = pool.apply(default_size, (depth - 1,)) if depth > 1 else []
        return [pool._processes, *below]


def size_in_a_process(queue):
    pool = sidestep.Pool()
    queue.put(pool._processes)
    pool.terminate()


def default_size_of_child(method):
    ctx = sidestep.get_context(method)
    queue = ctx.SimpleQueue()
    process = ctx.Process(target=size_in_a_process, args=(queue,))
    process.start()
    size = queue.get()
    process.join()
    return size
