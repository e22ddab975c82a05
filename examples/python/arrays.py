# SPDX-License-Identifier: MIT
"""Arrays through a queue, a stage of workers, and back."""

import multiprocessing

import numpy as np

WORKERS = 2
FRAMES = 12
SHAPE = (480, 640, 3)


def brighten(frames, done):
    while True:
        item = frames.get()
        if item is None:
            return
        number, frame = item
        frame += 10  # what arrives is writable, and nobody else's
        done.put((number, frame))


def keep_corners(done):
    """Keep a little of each array, and not the array."""
    corners = {}
    for _ in range(FRAMES):
        number, frame = done.get()
        corners[number] = frame[:2, :2].copy()  # a view would keep all of it
    return corners


def main():
    frames = multiprocessing.Queue(maxsize=4)  # no more than four are under way
    done = multiprocessing.Queue()
    workers = [
        multiprocessing.Process(target=brighten, args=(frames, done))
        for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for number in range(FRAMES):
        frames.put((number, np.full(SHAPE, number, np.uint8)))
    for _ in workers:
        frames.put(None)

    corners = keep_corners(done)
    for worker in workers:
        worker.join()
    print("frames:", len(corners), "brightest:", max(c.max() for c in corners.values()))
    assert all((corners[n] == n + 10).all() for n in range(FRAMES))


if __name__ == "__main__":
    main()
