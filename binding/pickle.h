/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_PICKLE_H
#define SSTPY_PICKLE_H

/* The pickler that Python registered, the file it writes to, and the message that is
 * being made while it runs. */

#include <stdbool.h>

#include "state.h"

/* ---- The message being made ---- */

struct sstpy_collector; /* buffers.h */

/* While an object is pickled for a message, its reducers may name shared objects that
 * are to travel with it: these are held by a parcel from then on. On the stack of who
 * encodes; the innermost of a thread counts. */
struct sstpy_making {
    struct sstpy_making *outer;
    unsigned long epoch; /* of fork: a child is not making its parent's messages */
    struct sst_parcel *parcel; /* holds what was named; NULL while nothing was */
    uint32_t hold_max;         /* of that parcel */
    struct sstpy_collector *collector; /* of its buffers; borrowed */
};

void sstpy_making_begin(struct sstpy_making *making, struct sstpy_collector *collector);
/* Before `making` goes; its parcel is the caller's. */
void sstpy_making_end(struct sstpy_making *making);

/* ---- Pickling ---- */

/* dumps(obj, callback) as registered, else the stdlib's; NULL for no callback. A
 * bytes-like object: one of the type below, or any other. */
PyObject *sstpy_pickle(struct sstpy_state *state, PyObject *obj, PyObject *callback);

/* loads(data, buffers); NULL for no buffers. */
PyObject *sstpy_unpickle(struct sstpy_state *state, PyObject *data, PyObject *buffers);

/* From now on sstpy_unpickle of this thread calls this function; NULL: the registered
 * one again. The one before, for who comes after. Both are borrowed. */
PyObject *sstpy_loads_swap(PyObject *loads);

/* The same; with `again` it is done anew after what a signal handler raises in it. */
PyObject *sstpy_unpickle_whole(struct sstpy_state *state, PyObject *data,
                               PyObject *buffers, bool again);

/* ---- PickleFile ---- */

/* What a pickler wrote, as the bytes objects it wrote: none is copied. */
struct sstpy_pickle_file {
    PyObject_HEAD
    Py_ssize_t count;
    Py_ssize_t room;
    uint64_t size;    /* of all parts */
    PyObject **parts; /* bytes objects, owned */
    PyObject *few[2]; /* where they are kept first */
};

/* Whether it is one, so that its parts may be looked at. */
bool sstpy_is_pickle_file(const struct sstpy_state *state, PyObject *obj);

extern PyMethodDef sstpy_pickle_methods[];
extern PyMethodDef sstpy_plain_methods[]; /* plain.c */
int sstpy_pickle_exec(PyObject *module, struct sstpy_state *state);

#endif
