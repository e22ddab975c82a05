# SPDX-License-Identifier: MIT
"""Throw dice in several processes; a Value counts them, an Array holds the histogram."""

import multiprocessing
import random

THROWERS = 4
THROWS = 2_000


def throw(seed, thrown, histogram):
    dice = random.Random(seed)
    for _ in range(THROWS):
        face = dice.randrange(6)
        with histogram.get_lock():
            histogram[face] += 1
        with thrown.get_lock():
            thrown.value += 1


def main():
    thrown = multiprocessing.Value("i", 0)
    histogram = multiprocessing.Array("l", 6)
    throwers = [
        multiprocessing.Process(target=throw, args=(seed, thrown, histogram))
        for seed in range(THROWERS)
    ]
    for thrower in throwers:
        thrower.start()
    for thrower in throwers:
        thrower.join()

    for face, times in enumerate(histogram, start=1):
        print(face, times)
    print("thrown:", thrown.value)
    assert thrown.value == sum(histogram) == THROWERS * THROWS


if __name__ == "__main__":
    main()
