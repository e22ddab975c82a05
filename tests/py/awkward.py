# SPDX-License-Identifier: MIT
"""Objects that test what pickling does with them."""


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    __hash__ = None


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not this one")


class NotBack:
    """Pickles well, and raises when unpickled."""

    def __reduce__(self):
        return refuse, ()


def refuse():
    raise LookupError("cannot be made here")


class MyInt(int):
    pass


class MyBytes(bytes):
    __slots__ = ()
