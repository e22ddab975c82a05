# SPDX-License-Identifier: MIT
"""A function that does nothing: what starting and joining a worker costs."""


def work() -> None:
    pass
