/* SPDX-License-Identifier: MIT */

/* Whether the ordinary pickler does for an object, which saves making one of ours.
 *
 * A pickler that knows the registered reducers costs five times what it takes to
 * pickle a small message. Of exact built-in objects it asks no reducer, so for these
 * the function pickle.dumps writes the same bytes. The look is bounded: what is larger
 * gains little, and large bytes are better not copied, which a PickleFile sees to.
 *
 * Runs no Python code and allocates nothing. */

#include "compat.h"
#include "pickle.h"

enum {
    DEPTH_MAX = 8,
    ITEMS_MAX = 64,
    BYTES_MAX = 4096, /* of one string or of one number */
    DIGITS_MAX = 64,
};

static bool is_plain(PyObject *obj, int depth, int *left);

static bool
are_plain(PyObject *const *items, Py_ssize_t count, int depth, int *left)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!is_plain(items[i], depth, left)) {
            return false;
        }
    }
    return true;
}

static bool
is_plain_dict(PyObject *obj, int depth, int *left)
{
    PyObject *key = NULL;
    PyObject *value = NULL;
    Py_ssize_t at = 0;

    while (PyDict_Next(obj, &at, &key, &value) != 0) {
        if (!is_plain(key, depth, left) || !is_plain(value, depth, left)) {
            return false;
        }
    }
    return true;
}

static bool
is_plain(PyObject *obj, int depth, int *left)
{
    if (--*left < 0 || depth == DEPTH_MAX) {
        return false;
    }
    if (PyUnicode_CheckExact(obj)) {
        return PyUnicode_GET_LENGTH(obj) <= BYTES_MAX;
    }
    if (PyBytes_CheckExact(obj)) {
        return PyBytes_GET_SIZE(obj) <= BYTES_MAX;
    }
    if (PyLong_CheckExact(obj)) {
        return sstpy_long_digits(obj) <= DIGITS_MAX;
    }
    if (PyTuple_CheckExact(obj)) {
        return are_plain(((PyTupleObject *)obj)->ob_item, PyTuple_GET_SIZE(obj),
                         depth + 1, left);
    }
    if (PyList_CheckExact(obj)) {
        return are_plain(((PyListObject *)obj)->ob_item, PyList_GET_SIZE(obj),
                         depth + 1, left);
    }
    if (PyDict_CheckExact(obj)) {
        return is_plain_dict(obj, depth + 1, left);
    }
    return obj == Py_None || PyBool_Check(obj) || PyFloat_CheckExact(obj);
}

PyDoc_STRVAR(is_plain_doc,
             "is_plain($module, obj, /)\n--\n\n"
             "Whether it is a small nest of exact built-in objects, for which no "
             "registered reducer is asked: pickle.dumps does for it.");

static PyObject *
core_is_plain(PyObject *Py_UNUSED(module), PyObject *obj)
{
    int left = ITEMS_MAX;

    return PyBool_FromLong(is_plain(obj, 0, &left));
}

PyMethodDef sstpy_plain_methods[] = {
    {"is_plain", core_is_plain, METH_O, is_plain_doc},
    {NULL, NULL, 0, NULL},
};
