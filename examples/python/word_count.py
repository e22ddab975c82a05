# SPDX-License-Identifier: MIT
"""Count words with a pipeline of processes: a reader, several counters, one collector.

Plain `multiprocessing`: run it with `python word_count.py`, or on sidestep with
`python -m sidestep word_count.py`.
"""

import collections
import multiprocessing
import random

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "while",
    "five",
    "wizards",
    "box",
]
LINES = 2_000
COUNTERS = 3


def read(lines, ready):
    """Make up a text and hand it on line by line; None ends it for one counter."""
    ready.wait()
    dice = random.Random(7)
    for _ in range(LINES):
        lines.put(" ".join(dice.choices(WORDS, k=8)))
    for _ in range(COUNTERS):
        lines.put(None)


def count(lines, counts):
    counter = collections.Counter()
    for line in iter(lines.get, None):
        counter.update(line.split())
    counts.put(counter)


def main():
    lines = multiprocessing.Queue()
    counts = multiprocessing.Queue()
    ready = multiprocessing.Event()
    workers = [multiprocessing.Process(target=read, args=(lines, ready), name="reader")]
    workers += [
        multiprocessing.Process(target=count, args=(lines, counts), name=f"counter-{n}")
        for n in range(COUNTERS)
    ]
    for worker in workers:
        worker.start()
    ready.set()

    total = sum((counts.get() for _ in range(COUNTERS)), collections.Counter())
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, worker
    for word, times in sorted(total.items()):
        print(f"{word:8} {times}")
    print("words in all:", sum(total.values()))


if __name__ == "__main__":
    main()
