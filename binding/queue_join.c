/* SPDX-License-Identifier: MIT */

/* Queue.task_done, join and recover: counting what was got but not yet worked on. Which
 * process owes what is the core's knowledge. */

#include "queue.h"

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

const char sstpy_queue_task_done_doc[] =
    PyDoc_STR("task_done($self, /)\n--\n\n"
              "An object that was got has been worked on. ValueError "
              "when called more often than there were objects.");

PyObject *
sstpy_queue_task_done(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    QueueObject *const self = (QueueObject *)obj;

    if (sstpy_queue_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sst_queue_task_done(self->queue);
    if (rc == SST_EOVERFLOW) {
        PyErr_SetString(PyExc_ValueError, "task_done() called too many times");
        return NULL;
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

static int
queue_call_join(void *context, int64_t deadline_ns)
{
    return sst_queue_join(context, deadline_ns);
}

const char sstpy_queue_join_doc[] = PyDoc_STR(
    "join($self, /, timeout=None)\n--\n\n"
    "Wait until every object has been worked on; False when `timeout` seconds did "
    "not suffice.\n\n"
    "OwnerDied when a process died between get() and task_done(); recover() "
    "counts its objects as done.");

PyObject *
sstpy_queue_join(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("join", 0, names);
    QueueObject *const self = (QueueObject *)obj;
    PyObject *given[1];
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_duration(given[0], &duration_ns) < 0 || sstpy_queue_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sstpy_wait(queue_call_join, self->queue, duration_ns);
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_TRUE;
}

const char sstpy_queue_recover_doc[] =
    PyDoc_STR("recover($self, /)\n--\n\n"
              "Count as done what dead processes had got. Returns how "
              "many that were.");

PyObject *
sstpy_queue_recover(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    QueueObject *const self = (QueueObject *)obj;

    if (sstpy_queue_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sst_queue_recover(self->queue);
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : PyLong_FromLong(rc);
}
