# SPDX-License-Identifier: MIT
"""A worker crashes: its task says so, all others are done, the pool goes on."""

import ctypes

from sidestep.pool import Pool, WorkerLost


def halve(number):
    if number == 3:
        ctypes.string_at(0)  # reads address 0: a segmentation fault
    return number / 2


def main():
    with Pool(2) as pool:
        halves = pool.imap(halve, range(6))
        while True:
            try:
                print(next(halves))
            except StopIteration:
                break
            except WorkerLost as lost:
                print(f"{lost.task} ended with {lost.exitcode}")
        print("and again:", pool.apply(halve, (8,)))


if __name__ == "__main__":
    main()
