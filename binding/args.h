/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_ARGS_H
#define SSTPY_ARGS_H

/* One parser for every call, driven by a table, with the messages of Python functions,
 * and converters that are separate from it. */

#include <stdbool.h>
#include <stdint.h>

#include "compat.h"

struct sstpy_signature {
    const char *function;     /* as messages name it, without parentheses */
    int required;             /* how many of the names have no default */
    int count;                /* of names */
    const char *const *names; /* in order; each may be given by position or keyword */
};

/* static const struct sstpy_signature put_signature = SSTPY_SIGNATURE("put", 1,
 * put_names); */
#define SSTPY_SIGNATURE(function, required, names) \
    {(function), (required), (int)(sizeof(names) / sizeof(*(names))), (names)}

/* Fill out[0..count) with borrowed references, NULL where nothing was given. -1 with
 * TypeError set. */
int sstpy_parse(const struct sstpy_signature *signature, PyObject *const *args,
                Py_ssize_t nargs, PyObject *kwnames, PyObject **out);

/* The same for tp_new. */
int sstpy_parse_tuple(const struct sstpy_signature *signature, PyObject *args,
                      PyObject *kwargs, PyObject **out);

/* How long a call may block: a duration in nanoseconds, or one of these. */
#define SSTPY_FOREVER INT64_MAX
#define SSTPY_POLL    INT64_C(0)

/* None and NULL: forever. Negative: poll. Anything else that float() accepts: seconds.
 * */
int sstpy_to_duration(PyObject *timeout, int64_t *out);

/* The pair (block=True, timeout=None) of the stdlib. Without block, timeout is not
 * looked at, as in the stdlib. */
int sstpy_to_patience(PyObject *block, PyObject *timeout, int64_t *out);

/* The absolute deadline of a duration that starts now. */
int64_t sstpy_deadline(int64_t duration_ns);

/* NULL gives the default. */
int sstpy_to_bool(PyObject *obj, bool default_value, bool *out);
int sstpy_to_ssize(PyObject *obj, Py_ssize_t default_value, Py_ssize_t *out);
int sstpy_to_int(PyObject *obj, int default_value, int *out);

#endif
