# SPDX-License-Identifier: MIT
"""The sum of all primes below 100,000 in every worker, nothing shared."""

import math

LIMIT = 100_000
SUM_BELOW_LIMIT = 454_396_537


def is_prime(number: int) -> bool:
    if number < 2:
        return False
    if number % 2 == 0:
        return number == 2
    return all(number % factor for factor in range(3, math.isqrt(number) + 1, 2))


def work() -> None:
    total = sum(number for number in range(LIMIT) if is_prime(number))
    if total != SUM_BELOW_LIMIT:
        raise AssertionError(total)
