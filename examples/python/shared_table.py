# SPDX-License-Identifier: MIT
"""Workers look things up in one shared table instead of each having a copy."""

import sidestep


def look_up(table, names, found):
    found.put({name: table[name]["size"] for name in names})


def main():
    table = {f"name-{n}": {"size": n * n, "tags": ("a", "b")} for n in range(10_000)}
    shared = sidestep.share(table)
    found = sidestep.Queue()
    workers = [
        sidestep.Process(target=look_up, args=(shared, [f"name-{n}"], found))
        for n in (3, 9_999)
    ]
    for worker in workers:
        worker.start()
    sizes = found.get() | found.get()
    for worker in workers:
        worker.join()
    print(sorted(sizes.items()))


if __name__ == "__main__":
    main()
