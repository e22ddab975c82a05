# SPDX-License-Identifier: MIT
"""Count the words of many files: one task for each file, counts added as they come.

Plain `multiprocessing`: `python gallery_words.py [FOLDER]`, or on sidestep with
`python -m sidestep gallery_words.py [FOLDER]`.
"""

import collections
import pathlib
import re
import sys
import tempfile
from multiprocessing import Pool


def count_words(path):
    return collections.Counter(re.findall(r"\w+", path.read_text().lower()))


def main(folder):
    total = collections.Counter()
    paths = sorted(folder.rglob("*.txt"))
    with Pool() as pool:
        for words in pool.imap_unordered(count_words, paths, chunksize=4):
            total += words
    print(f"{len(paths)} files, {total.total()} words")
    for word, times in total.most_common(3):
        print(f"{times:6} {word}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(pathlib.Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            for number in range(40):
                page = "the cat saw the dog and the dog ran\n" * (number + 1)
                pathlib.Path(name, f"{number}.txt").write_text(page)
            main(pathlib.Path(name))
