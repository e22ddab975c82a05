/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_QUEUE_H
#define SSTPY_QUEUE_H

/* What queue.c and queue_many.c share. */

#include "state.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_queue *queue; /* set before use, then const */
    bool closed;             /* guarded by the GIL */
} QueueObject;

/* The queue of the core, or NULL with ValueError set. */
struct sst_queue *sstpy_queue_of(PyObject *self);

/* Each sets the exception of a failed operation and returns NULL. */
PyObject *sstpy_queue_raise_closed(QueueObject *self);
PyObject *sstpy_queue_raise_put(const QueueObject *self, int rc);
PyObject *sstpy_queue_raise_get(const QueueObject *self, int rc);

/* queue_many.c */
extern const char sstpy_queue_put_many_doc[];
extern const char sstpy_queue_get_many_doc[];
PyObject *sstpy_queue_put_many(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
PyObject *sstpy_queue_get_many(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);

/* queue_join.c */
extern const char sstpy_queue_task_done_doc[];
extern const char sstpy_queue_join_doc[];
extern const char sstpy_queue_recover_doc[];
PyObject *sstpy_queue_task_done(PyObject *obj, PyObject *ignored);
PyObject *sstpy_queue_join(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *sstpy_queue_recover(PyObject *obj, PyObject *ignored);

#endif
