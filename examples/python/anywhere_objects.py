# SPDX-License-Identifier: MIT
"""One program of processes and shared objects, on this machine or on many.

python anywhere_objects.py [forkserver | spawn | dask | ray]
mpiexec -n 5 python -m sidestep.mpi anywhere_objects.py mpi
"""

import sys

import sidestep


def count_words(lines, counts, lock, done):
    while (line := lines.get()) is not None:
        for word in line.split():
            with lock:
                counts[word] = counts.get(word, 0) + 1
        with done.get_lock():
            done.value += 1


def main():
    ctx = sidestep.get_context(sys.argv[1] if len(sys.argv) > 1 else "forkserver")
    lines, lock, done = ctx.Queue(), ctx.Lock(), ctx.Value("i", 0)
    counts = ctx.Manager().dict()
    args = lines, counts, lock, done
    workers = [ctx.Process(target=count_words, args=args) for _ in range(2)]
    for worker in workers:
        worker.start()
    for line in ["spam eggs spam", "ham spam", "eggs"]:
        lines.put(line)
    for _ in workers:
        lines.put(None)
    for worker in workers:
        worker.join()
    print(done.value, "lines:", dict(sorted(counts.items())))


if __name__ == "__main__":
    main()
