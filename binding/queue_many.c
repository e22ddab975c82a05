/* SPDX-License-Identifier: MIT */

/* Queue.put_many and Queue.get_many: many messages by one call of the core.
 *
 * put_many collects small messages one behind the other and puts them together; a large
 * one goes by itself, behind what was collected, so that the order stays. It behaves
 * like a loop of put(): what came before an error has been put. get_many decodes
 * everything it took, also behind a message that fails, so that nothing taken is lost.
 * */

#include "queue.h"

#include <string.h>

#include "args.h"
#include "codec.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

enum {
    QUEUE_BATCH = 16,          /* messages taken by one call of the core */
    QUEUE_SCRATCH = 16 * 1024, /* bytes of small messages collected by put_many */
    QUEUE_SMALL = 1024,        /* bytes of what is collected there */
};

/* Small messages that put_many collected, one behind the other. */
struct queue_batch {
    QueueObject *queue;
    int64_t deadline_ns;
    Py_ssize_t put; /* so far */
    uint32_t count; /* collected */
    uint32_t used;  /* bytes of scratch */
    struct sst_slice slices[QUEUE_SCRATCH / 16];
    unsigned char scratch[QUEUE_SCRATCH];
};

struct queue_slices_call {
    struct sst_queue *queue;
    const struct sst_slice *slices;
    uint32_t count;
};

static int
queue_call_put_many(void *context, int64_t deadline_ns)
{
    const struct queue_slices_call *const call = context;

    return sst_queue_put_many(call->queue, call->slices, call->count, deadline_ns);
}

struct queue_encoded_call {
    struct sst_queue *queue;
    struct sstpy_encoded *encoded;
};

static int
queue_call_put_encoded(void *context, int64_t deadline_ns)
{
    const struct queue_encoded_call *const call = context;

    return sstpy_encoded_put(call->encoded, call->queue, deadline_ns);
}

static int
queue_batch_flush(struct queue_batch *batch)
{
    uint32_t done = 0;

    while (done < batch->count) {
        struct queue_slices_call call = {batch->queue->queue, batch->slices + done,
                                         batch->count - done};
        const int rc =
            sstpy_wait_deadline(queue_call_put_many, &call, batch->deadline_ns);
        if (rc < 0) {
            return rc;
        }
        done += (uint32_t)rc;
        batch->put += rc;
    }
    batch->count = 0;
    batch->used = 0;
    return 0;
}

/* Collect a small message, or put a large one behind all that were collected. */
static int
queue_batch_add(struct queue_batch *batch, struct sstpy_encoded *encoded)
{
    const uint32_t slots = (uint32_t)(sizeof(batch->slices) / sizeof(*batch->slices));
    const bool small = encoded->count == 1 && encoded->size <= QUEUE_SMALL;
    const bool fits =
        small && batch->count < slots && batch->used + encoded->size <= QUEUE_SCRATCH;

    if (!fits) {
        const int rc = queue_batch_flush(batch);
        if (rc < 0) {
            return rc;
        }
    }
    if (small) {
        unsigned char *const to = batch->scratch + batch->used;
        memcpy(to, encoded->slices[0].data, encoded->size);
        batch->slices[batch->count] = (struct sst_slice){to, encoded->size};
        batch->count++;
        batch->used += (uint32_t)encoded->size;
        return 0;
    }

    struct queue_encoded_call call = {batch->queue->queue, encoded};
    const int rc =
        sstpy_wait_deadline(queue_call_put_encoded, &call, batch->deadline_ns);
    if (rc == 0) {
        batch->put++;
    }
    return rc;
}

/* Set an attribute on the exception that is set; an exception that takes none stays as
 * it is. Steals `value`, which may be NULL. */
static void
exception_annotate(PyObject *name, PyObject *value)
{
    PyObject *type = NULL;
    PyObject *error = NULL;
    PyObject *traceback = NULL;

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (value == NULL || PyObject_SetAttr(error, name, value) < 0) {
        PyErr_Clear(); /* the first error matters more */
    }
    Py_XDECREF(value);
    PyErr_Restore(type, error, traceback);
}

static int
queue_put_each(struct queue_batch *batch, PyObject *iterator)
{
    struct sstpy_encoded encoded;
    PyObject *obj = NULL;
    int rc = 0;

    while (rc == 0 && (obj = PyIter_Next(iterator)) != NULL) {
        rc = sstpy_encode(batch->queue->state, obj, &encoded);
        if (rc == 0) {
            rc = queue_batch_add(batch, &encoded);
            sstpy_encoded_release(&encoded);
        }
        Py_DECREF(obj);
    }
    return rc == 0 && PyErr_Occurred() != NULL ? SSTPY_RAISED : rc;
}

/* Put what was collected before an exception of the iterator or of pickling, as a loop
 * of puts would have done. The exception stays set. */
static void
queue_batch_flush_failed(struct queue_batch *batch)
{
    PyObject *type = NULL;
    PyObject *error = NULL;
    PyObject *traceback = NULL;

    PyErr_Fetch(&type, &error, &traceback);
    if (queue_batch_flush(batch) == SSTPY_RAISED) {
        PyErr_Clear(); /* the first error matters more */
    }
    PyErr_Restore(type, error, traceback);
}

const char sstpy_queue_put_many_doc[] =
    ("put_many($self, /, iterable, block=True, timeout=None)\n--\n\n"
     "Put each object of an iterable, as a loop of put() would, but faster.\n\n"
     "`timeout` is for all of them together. When something raises, what came "
     "before it has been put; the attribute `count` of the exception says how "
     "many.");

PyObject *
sstpy_queue_put_many(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    static const char *const names[] = {"iterable", "block", "timeout"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("put_many", 1, names);
    QueueObject *const self = (QueueObject *)obj;
    PyObject *given[3];
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_patience(given[1], given[2], &duration_ns) < 0) {
        return NULL;
    }
    if (self->closed || self->queue == NULL) {
        return sstpy_queue_raise_closed(self);
    }

    PyObject *const iterator = PyObject_GetIter(given[0]);
    if (iterator == NULL) {
        return NULL;
    }
    struct queue_batch *const batch = PyMem_Malloc(sizeof(*batch));
    if (batch == NULL) {
        Py_DECREF(iterator);
        return PyErr_NoMemory();
    }
    batch->queue = self;
    batch->deadline_ns = sstpy_deadline(duration_ns);
    batch->put = 0;
    batch->count = 0;
    batch->used = 0;

    int rc = queue_put_each(batch, iterator);
    if (rc == SSTPY_RAISED && batch->count > 0) {
        queue_batch_flush_failed(batch);
    }
    else if (rc == 0) {
        rc = queue_batch_flush(batch);
    }

    const Py_ssize_t put = batch->put;
    PyMem_Free(batch);
    Py_DECREF(iterator);
    if (rc < 0) {
        (void)sstpy_queue_raise_put(self, rc);
        exception_annotate(self->state->str_count, PyLong_FromSsize_t(put));
        return NULL;
    }
    Py_RETURN_NONE;
}

struct queue_get_many_call {
    struct sst_queue *queue;
    struct sst_message *messages;
    uint32_t count;
};

static int
queue_call_get_many(void *context, int64_t deadline_ns)
{
    const struct queue_get_many_call *const call = context;

    return sst_queue_get_many(call->queue, call->messages, call->count, deadline_ns);
}

/* Decode all that were taken, also behind one that fails: none may be lost. -1 with the
 * first exception set. */
static int
queue_decode_each(QueueObject *self, struct sst_message *messages, int count,
                  PyObject *list)
{
    PyObject *type = NULL;
    PyObject *error = NULL;
    PyObject *traceback = NULL;

    for (int i = 0; i < count; i++) {
        PyObject *const obj = sstpy_decode(self->state, &messages[i]);
        if (obj != NULL && PyList_Append(list, obj) == 0) {
            Py_DECREF(obj);
            continue;
        }
        Py_XDECREF(obj);
        if (type == NULL) {
            PyErr_Fetch(&type, &error, &traceback);
        }
        else {
            PyErr_Clear(); /* the first is raised */
        }
    }
    if (type != NULL) {
        PyErr_Restore(type, error, traceback);
        return -1;
    }
    return 0;
}

const char sstpy_queue_get_many_doc[] =
    ("get_many($self, /, max_items, block=True, timeout=None)\n--\n\n"
     "Wait for one object as get(), then take up to `max_items` that are there: a "
     "list, never empty.\n\n"
     "When one does not unpickle its exception is raised, with the others in its "
     "attribute `received`.");

PyObject *
sstpy_queue_get_many(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    static const char *const names[] = {"max_items", "block", "timeout"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("get_many", 1, names);
    QueueObject *const self = (QueueObject *)obj;
    struct sst_message messages[QUEUE_BATCH];
    PyObject *given[3];
    int64_t duration_ns = 0;
    Py_ssize_t wanted = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_ssize(given[0], 0, &wanted) < 0 ||
        sstpy_to_patience(given[1], given[2], &duration_ns) < 0) {
        return NULL;
    }
    if (self->closed || self->queue == NULL) {
        return sstpy_queue_raise_closed(self);
    }
    if (wanted < 1) {
        PyErr_SetString(PyExc_ValueError, "max_items must be at least 1");
        return NULL;
    }

    PyObject *const list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    while (wanted > 0) {
        struct queue_get_many_call call = {self->queue, messages,
                                           wanted < QUEUE_BATCH
                                               ? (uint32_t)wanted
                                               : (uint32_t)QUEUE_BATCH};
        const bool first = PyList_Size(list) == 0;
        const int rc =
            sstpy_wait(queue_call_get_many, &call, first ? duration_ns : SSTPY_POLL);
        if (rc < 0 && first) {
            Py_DECREF(list);
            return sstpy_queue_raise_get(self, rc);
        }
        if (rc <= 0) {
            break; /* no more there; an error comes back at the next call */
        }
        wanted -= rc;
        if (queue_decode_each(self, messages, rc, list) < 0) {
            exception_annotate(self->state->str_received, list);
            return NULL;
        }
    }
    return list;
}
