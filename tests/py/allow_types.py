# SPDX-License-Identifier: MIT
"""Types that the tests of ``allow=`` allow, or do not."""

import os
from os import system

TABLE = {}
__all__ = ["Failing", "Good", "Other", "array_makers", "double", "os", "system"]


class Good:
    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Good) and self.number == other.number

    __hash__ = None


class Other(Good):
    pass


class UnknownError(Exception):
    pass


class Failing:
    def fail_known(self):
        raise ValueError("known")

    def fail_unknown(self):
        raise UnknownError("what is this?")


def double(number):
    return 2 * number


def array_makers():
    """The functions that pickles of arrays name, wherever this NumPy has them."""
    import pickle
    import pickletools

    import numpy as np

    found = set()
    array = np.arange(10)
    for data in (pickle.dumps(array, 4), pickle.dumps(array, 5, buffer_callback=id)):
        strings = []
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STACK_GLOBAL":
                found.add(":".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    return sorted(found)
