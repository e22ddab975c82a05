# SPDX-License-Identifier: MIT
"""The first 50,000 Fibonacci numbers in every worker, nothing shared."""

COUNT = 50_000


def work() -> None:
    a, b = 0, 1
    for _ in range(COUNT):
        a, b = b, a + b
