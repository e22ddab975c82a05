# SPDX-License-Identifier: MIT
"""A structure that children can import."""

import ctypes


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_double), ("y", ctypes.c_double))
