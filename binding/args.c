/* SPDX-License-Identifier: MIT */

/* The argument parser and the converters.
 *
 * A call by position costs one comparison and a loop over the given arguments; keywords
 * are compared by text, which is cheap enough for signatures of at most five names and
 * needs no interned strings in the state. */

#include "args.h"

#include <math.h>

#include "sidestep/sidestep.h"

static int
parse_too_many(const struct sstpy_signature *signature, Py_ssize_t given)
{
    if (signature->required < signature->count) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes from %d to %d positional arguments but %zd were given",
                     signature->function, signature->required, signature->count, given);
    }
    else {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes %d positional arguments but %zd were given",
                     signature->function, signature->count, given);
    }
    return -1;
}

static int
parse_keyword(const struct sstpy_signature *signature, PyObject *name, PyObject *value,
              PyObject **out)
{
    for (int i = 0; i < signature->count; i++) {
        if (PyUnicode_CompareWithASCIIString(name, signature->names[i]) != 0) {
            continue;
        }
        if (out[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'",
                         signature->function, signature->names[i]);
            return -1;
        }
        out[i] = value;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
                 signature->function, name);
    return -1;
}

static int
parse_check_required(const struct sstpy_signature *signature, PyObject *const *out)
{
    for (int i = 0; i < signature->required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'",
                         signature->function, signature->names[i]);
            return -1;
        }
    }
    return 0;
}

int
sstpy_parse(const struct sstpy_signature *signature, PyObject *const *args,
            Py_ssize_t nargs, PyObject *kwnames, PyObject **out)
{
    if (nargs > signature->count) {
        return parse_too_many(signature, nargs);
    }
    for (int i = 0; i < signature->count; i++) {
        out[i] = i < nargs ? args[i] : NULL;
    }
    if (kwnames != NULL) {
        const Py_ssize_t kwcount = PyTuple_Size(kwnames);
        for (Py_ssize_t i = 0; i < kwcount; i++) {
            PyObject *const name =
                PyTuple_GetItem(kwnames, i); /* borrowed from kwnames */
            if (parse_keyword(signature, name, args[nargs + i], out) < 0) {
                return -1;
            }
        }
    }
    return parse_check_required(signature, out);
}

int
sstpy_parse_tuple(const struct sstpy_signature *signature, PyObject *args,
                  PyObject *kwargs, PyObject **out)
{
    const Py_ssize_t nargs = PyTuple_Size(args);

    if (nargs > signature->count) {
        return parse_too_many(signature, nargs);
    }
    for (int i = 0; i < signature->count; i++) {
        /* borrowed from the tuple, which the caller holds */
        out[i] = i < nargs ? PyTuple_GetItem(args, i) : NULL;
    }
    if (kwargs != NULL) {
        PyObject *name = NULL;
        PyObject *value = NULL;
        Py_ssize_t position = 0;
        /* the dictionary was made for this call: nobody else can change it */
        while (PyDict_Next(kwargs, &position, &name, &value)) {
            if (parse_keyword(signature, name, value, out) < 0) {
                return -1;
            }
        }
    }
    return parse_check_required(signature, out);
}

int
sstpy_to_duration(PyObject *timeout, int64_t *out)
{
    if (timeout == NULL || timeout == Py_None) {
        *out = SSTPY_FOREVER;
        return 0;
    }

    const double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred() != NULL) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout is not a number");
        return -1;
    }
    if (seconds <= 0.0) {
        *out = SSTPY_POLL;
    }
    else if (seconds >= 9.2e9) { /* INT64_MAX nanoseconds are 292 years */
        *out = SSTPY_FOREVER;
    }
    else {
        /* rounded up: a call never gives up before its time */
        *out = (int64_t)ceil(seconds * 1e9);
    }
    return 0;
}

int
sstpy_to_patience(PyObject *block, PyObject *timeout, int64_t *out)
{
    bool wait = true;

    if (sstpy_to_bool(block, true, &wait) < 0) {
        return -1;
    }
    if (!wait) {
        *out = SSTPY_POLL;
        return 0;
    }
    return sstpy_to_duration(timeout, out);
}

int64_t
sstpy_deadline(int64_t duration_ns)
{
    if (duration_ns == SSTPY_POLL) {
        return SST_NOW;
    }
    if (duration_ns == SSTPY_FOREVER) {
        return SST_FOREVER;
    }
    return sst_deadline_after(duration_ns);
}

int
sstpy_to_bool(PyObject *obj, bool default_value, bool *out)
{
    if (obj == NULL) {
        *out = default_value;
        return 0;
    }

    const int truth = PyObject_IsTrue(obj);
    if (truth < 0) {
        return -1;
    }
    *out = truth != 0;
    return 0;
}

int
sstpy_to_ssize(PyObject *obj, Py_ssize_t default_value, Py_ssize_t *out)
{
    if (obj == NULL) {
        *out = default_value;
        return 0;
    }
    *out = PyNumber_AsSsize_t(obj, PyExc_OverflowError);
    return *out == -1 && PyErr_Occurred() != NULL ? -1 : 0;
}

int
sstpy_to_int(PyObject *obj, int default_value, int *out)
{
    if (obj == NULL) {
        *out = default_value;
        return 0;
    }

    Py_ssize_t value = 0;
    if (sstpy_to_ssize(obj, 0, &value) < 0) {
        return -1;
    }
    if (value < INT32_MIN || value > INT32_MAX) {
        PyErr_SetString(PyExc_OverflowError,
                        "Python int too large to convert to C int");
        return -1;
    }
    *out = (int)value;
    return 0;
}
