# SPDX-License-Identifier: MIT
"""Estimate pi by throwing darts; the same number in each run, on any number of CPUs.

The seed is part of the task, so it does not matter which worker runs it.
"""

import random
from multiprocessing import Pool

THROWS = 20_000


def hits(seed):
    dice = random.Random(seed)
    return sum(dice.random() ** 2 + dice.random() ** 2 < 1 for _ in range(THROWS))


def main():
    with Pool() as pool:
        found = pool.map(hits, range(32))
    print(f"pi is about {4 * sum(found) / (THROWS * len(found)):.4f}")


if __name__ == "__main__":
    main()
