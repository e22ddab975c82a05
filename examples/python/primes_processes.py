# SPDX-License-Identifier: MIT
"""The same program in processes: only the imports differ."""

# start-imports
from multiprocessing import Process as Worker
from multiprocessing import Queue

# end-imports

# start-body
LIMIT = 50_000
WORKERS = 4


def is_prime(number):
    return number > 1 and all(number % n for n in range(2, int(number**0.5) + 1))


def count_primes(ranges, counts):
    for start, stop in iter(ranges.get, None):
        counts.put(sum(is_prime(number) for number in range(start, stop)))


def main():
    ranges, counts = Queue(), Queue()
    workers = [
        Worker(target=count_primes, args=(ranges, counts)) for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    starts = range(0, LIMIT, 1_000)
    for start in starts:
        ranges.put((start, start + 1_000))
    for _ in workers:
        ranges.put(None)
    print("primes:", sum(counts.get() for _ in starts))
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
# end-body
