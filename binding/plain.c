/* SPDX-License-Identifier: MIT */

/* Is an object plain data: small, and made of nothing but exact built-in types?
 *
 * No reducer can be registered for such an object (pickle asks none for exact
 * built-ins), so the fastest pickler there is gives the same result as the one that was
 * registered, whose construction alone costs more than the whole of a small message.
 *
 * The look runs no Python code: it reads types and items, calls nothing and allocates
 * nothing, so borrowed references stay good and no size changes under it. */

#include "codec.h"

#include "compat.h"

enum {
    PLAIN_DEPTH_MAX = 4,  /* beyond, and for cycles, pickling takes its usual way */
    PLAIN_ITEMS_MAX = 64, /* larger ones do not notice the difference */
};

static bool plain_look(PyObject *obj, int depth, int *budget);

static bool
plain_atom(PyObject *obj)
{
    return PyLong_CheckExact(obj) || PyUnicode_CheckExact(obj) || obj == Py_None ||
           PyFloat_CheckExact(obj) || PyBool_Check(obj) || PyBytes_CheckExact(obj);
}

static bool
plain_dict(PyObject *obj, int depth, int *budget)
{
    PyObject *key = NULL;
    PyObject *value = NULL;
    Py_ssize_t position = 0;

    while (PyDict_Next(obj, &position, &key, &value)) {
        if (!plain_look(key, depth, budget) || !plain_look(value, depth, budget)) {
            return false;
        }
    }
    return true;
}

static bool
plain_list(PyObject *obj, int depth, int *budget)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(obj); i++) {
        if (!plain_look(PyList_GET_ITEM(obj, i), depth, budget)) {
            return false;
        }
    }
    return true;
}

static bool
plain_tuple(PyObject *obj, int depth, int *budget)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(obj); i++) {
        if (!plain_look(PyTuple_GET_ITEM(obj, i), depth, budget)) {
            return false;
        }
    }
    return true;
}

static bool
plain_look(PyObject *obj, int depth, int *budget)
{
    if (--*budget < 0) {
        return false;
    }
    if (plain_atom(obj)) {
        return true;
    }
    if (depth == 0) {
        return false;
    }
    if (PyDict_CheckExact(obj)) {
        return plain_dict(obj, depth - 1, budget);
    }
    if (PyList_CheckExact(obj)) {
        return plain_list(obj, depth - 1, budget);
    }
    return PyTuple_CheckExact(obj) && plain_tuple(obj, depth - 1, budget);
}

bool
sstpy_is_plain(PyObject *obj)
{
    int budget = PLAIN_ITEMS_MAX;

    return plain_look(obj, PLAIN_DEPTH_MAX, &budget);
}
