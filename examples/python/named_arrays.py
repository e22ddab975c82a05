# SPDX-License-Identifier: MIT
"""An array in shared memory that workers find by its name."""

import multiprocessing
from multiprocessing.shared_memory import SharedMemory

import numpy as np

SHAPE = (1000, 1000)
WORKERS = 4


def fill(name, part):
    """Fill a part of the array that has the name; nothing is copied."""
    block = SharedMemory(name)
    array = np.ndarray(SHAPE, np.float64, buffer=block.buf)
    rows = SHAPE[0] // WORKERS
    array[part * rows : (part + 1) * rows] = part
    del array
    block.close()


def main():
    block = SharedMemory(create=True, size=SHAPE[0] * SHAPE[1] * 8)
    try:
        array = np.ndarray(SHAPE, np.float64, buffer=block.buf)
        workers = [
            multiprocessing.Process(target=fill, args=(block.name, part))
            for part in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print("mean:", array.mean())
        del array
    finally:
        block.close()
        block.unlink()


if __name__ == "__main__":
    main()
