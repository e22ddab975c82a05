/* SPDX-License-Identifier: MIT */

/* What it costs to hash a key that is remembered.
 *
 * The bytes of a message bound the work of reading it, except here: a tuple is hashed
 * by hashing what is in it, again each time, and references make a few bytes stand for
 * a tuple of any size. The encoder asks before it writes such a reference into a key
 * and leaves a nest that would be too dear to pickle; so the decoder may refuse one. */

#include "compat.h"
#include "nest_format.h"

static bool
weigh(PyObject *obj, uint64_t *budget, int depth)
{
    uint64_t cost = 1;

    if (PyLong_CheckExact(obj)) {
        cost += (uint64_t)sstpy_long_digits(obj);
    }
    if (cost > *budget) {
        return false;
    }
    *budget -= cost;
    if (!PyTuple_CheckExact(obj)) {
        return true; /* strings and frozen sets remember their hash */
    }
    if (depth == NEST_DEPTH_MAX) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(obj); i++) {
        if (!weigh(PyTuple_GET_ITEM(obj, i), budget, depth + 1)) {
            return false;
        }
    }
    return true;
}

bool
sstpy_nest_weigh(PyObject *obj, uint64_t *budget)
{
    return weigh(obj, budget, 0);
}
