# SPDX-License-Identifier: MIT
"""Each worker seeks at random in lorem.txt and writes the lines it finds to /dev/null."""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

SEEKS = 10_000
LINES = 20_000
WORDS = [
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consectetur",
    "adipiscing",
    "elit",
    "sed",
    "do",
    "eiusmod",
    "tempor",
    "incididunt",
    "ut",
    "labore",
    "et",
    "dolore",
    "magna",
    "aliqua",
    "ut",
    "enim",
    "ad",
    "minim",
    "veniam",
    "quis",
    "nostrud",
]

_path = ""


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """Write lorem.txt for the time of the benchmark; workers inherit its path."""
    global _path
    dice = random.Random(371)
    with tempfile.TemporaryDirectory() as folder:
        _path = os.environ["SST_BENCH_LOREM"] = str(Path(folder) / "lorem.txt")
        with open(_path, "w") as lorem:
            for _ in range(LINES):
                print(*dice.choices(WORDS, k=12), file=lorem)
        yield


def work() -> None:
    path = _path or os.environ["SST_BENCH_LOREM"]
    size = os.stat(path).st_size
    with open(path, "rb") as lorem, open(os.devnull, "wb") as sink:
        for _ in range(SEEKS):
            lorem.seek(random.randrange(size))
            lorem.readline()
            sink.write(lorem.readline())
