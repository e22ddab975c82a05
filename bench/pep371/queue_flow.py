# SPDX-License-Identifier: MIT
"""Each worker puts 1,000 items into one shared queue and takes 1,000 out.

This is the PEP's last table (Alec Thomas's run_bench_queue.py, whose source is lost): the
price of serializing objects.
"""

from typing import Protocol

ITEMS = 1_000


class AnyQueue(Protocol):
    def put(self, obj: object) -> None: ...

    def get(self) -> object: ...


def work(queue: AnyQueue) -> None:
    for number in range(ITEMS):
        queue.put(number)
    for _ in range(ITEMS):
        queue.get()
