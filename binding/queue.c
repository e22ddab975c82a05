/* SPDX-License-Identifier: MIT */

/* Queue: put and get of objects over a message ring of the core.
 *
 * put:  encode (Python may run) -> try -> detach and wait -> committed, nothing after
 * it get:  try -> detach and wait -> taken -> decode (Python may run)
 *
 * No signal is looked at between a commit and the return, and none between a take and
 * the decoding, so nothing is lost to a handler that raises.
 *
 * close() closes this object only: later puts and gets raise. The view of the core
 * stays open until the object goes, so that empty() and qsize() still answer, as in the
 * stdlib, and no blocked thread loses the ground under its feet. `closed` is guarded by
 * the GIL. */

#include "queue.h"

#include "args.h"
#include "codec.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

struct sst_queue *
sstpy_queue_of(PyObject *self)
{
    struct sst_queue *const queue = ((QueueObject *)self)->queue;

    return queue != NULL ? queue : sstpy_raise_empty(self);
}

/* ---- Errors ---- */

/* Raise what _closed_error() returns: subclasses have other words for it. */
PyObject *
sstpy_queue_raise_closed(QueueObject *self)
{
    if (self->queue == NULL) {
        return sstpy_raise_empty((PyObject *)self);
    }

    PyObject *const error =
        PyObject_CallMethodNoArgs((PyObject *)self, self->state->str_closed_error);

    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

PyDoc_STRVAR(queue_closed_error_doc,
             "_closed_error($self, /)\n--\n\n"
             "The exception to raise when a closed queue is used.");

static PyObject *
queue_closed_error(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *const text = PyUnicode_FromFormat("Queue %R is closed", self);

    if (text == NULL) {
        return NULL;
    }

    PyObject *const error = PyObject_CallOneArg(PyExc_ValueError, text);
    Py_DECREF(text);
    return error;
}

static PyObject *
queue_raise_limit(const QueueObject *self)
{
    struct sst_arena_statistics s = {0};
    struct sst_arena *const arena = sstpy_arena(self->state);

    if (arena == NULL) {
        return NULL;
    }
    (void)sst_arena_statistics(arena,
                               &s); /* the text then says 0: still the right error */
    PyErr_Format(PyExc_MemoryError,
                 "no memory for the message: %llu bytes are queued here, %llu of the "
                 "%llu bytes that may be shared are in use",
                 (unsigned long long)sst_queue_bytes(self->queue),
                 (unsigned long long)s.used, (unsigned long long)s.budget);
    return NULL;
}

PyObject *
sstpy_queue_raise_put(const QueueObject *self, int rc)
{
    if (rc == SST_ETIMEDOUT) {
        PyErr_SetNone(self->state->full);
        return NULL;
    }
    if (rc == SST_ELIMIT || rc == SST_ENOMEM) {
        return queue_raise_limit(self);
    }
    return sstpy_raise(self->state, rc, NULL);
}

PyObject *
sstpy_queue_raise_get(const QueueObject *self, int rc)
{
    if (rc == SST_ETIMEDOUT) {
        PyErr_SetNone(self->state->empty);
        return NULL;
    }
    return sstpy_raise(self->state, rc, NULL);
}

/* ---- put ---- */

struct queue_put_call {
    struct sst_queue *queue;
    struct sstpy_encoded *encoded;
};

static int
queue_call_put(void *context, int64_t deadline_ns)
{
    const struct queue_put_call *const call = context;

    return sstpy_encoded_put(call->encoded, call->queue, deadline_ns);
}

static int
queue_commit(const QueueObject *self, struct sstpy_encoded *encoded,
             int64_t duration_ns)
{
    struct queue_put_call call = {self->queue, encoded};

    if (encoded->size >= SSTPY_DETACH_SIZE) {
        return sstpy_wait_until(queue_call_put, &call, sstpy_deadline(duration_ns));
    }

    const int rc = sstpy_wait(queue_call_put, &call, duration_ns);
    if (rc == SST_ELIMIT && duration_ns != SSTPY_POLL) {
        /* in pieces, perhaps, to who takes them: that the first look does not try */
        return sstpy_wait_until(queue_call_put, &call, sstpy_deadline(duration_ns));
    }
    return rc;
}

/* An object did not pickle. A subclass may take the exception by a method
 * _put_failed(exception, object) that returns true; otherwise it stays set. */
static PyObject *
queue_put_failed(QueueObject *self, PyObject *obj)
{
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *traceback = NULL;
    int truth = 0;

    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return NULL;
    }

    PyErr_Fetch(&type, &value, &traceback);
    if (PyObject_HasAttr((PyObject *)Py_TYPE(self), self->state->str_put_failed)) {
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback != NULL) {
            (void)PyException_SetTraceback(value, traceback);
        }
        PyObject *const handled =
            PyObject_CallMethodObjArgs((PyObject *)self, self->state->str_put_failed,
                                       value, obj, NULL);
        truth = handled != NULL ? PyObject_IsTrue(handled) : -1;
        Py_XDECREF(handled);
    }
    if (truth == 0) {
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    if (truth < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
queue_put_for(QueueObject *self, PyObject *obj, int64_t duration_ns)
{
    struct sstpy_encoded encoded;

    if (self->closed || self->queue == NULL) {
        return sstpy_queue_raise_closed(self);
    }

    int rc = sstpy_encode(self->state, obj, &encoded);
    if (rc == SSTPY_RAISED) {
        return queue_put_failed(self, obj);
    }
    if (rc == 0) {
        rc = queue_commit(self, &encoded, duration_ns);
        sstpy_encoded_release(&encoded);
    }
    if (rc < 0) {
        return sstpy_queue_raise_put(self, rc);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    queue_put_doc,
    "put($self, /, obj, block=True, timeout=None)\n--\n\n"
    "Put an object. Visible to every process at return.\n\n"
    "Waits for room only in a bounded queue: queue.Full when there was none. An "
    "object that cannot be pickled raises here. MemoryError when the memory that "
    "may be shared is used up, ShutDown after shutdown(), ValueError after "
    "close().");

static PyObject *
queue_put(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"obj", "block", "timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("put", 1, names);
    PyObject *given[3];
    int64_t duration_ns = SSTPY_FOREVER;

    if (nargs == 1 && kwnames == NULL) {
        return queue_put_for((QueueObject *)self, args[0], SSTPY_FOREVER);
    }
    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_patience(given[1], given[2], &duration_ns) < 0) {
        return NULL;
    }
    return queue_put_for((QueueObject *)self, given[0], duration_ns);
}

PyDoc_STRVAR(queue_put_nowait_doc, "put_nowait($self, obj, /)\n--\n\nput(obj, False).");

static PyObject *
queue_put_nowait(PyObject *self, PyObject *obj)
{
    return queue_put_for((QueueObject *)self, obj, SSTPY_POLL);
}

PyDoc_STRVAR(queue_put_bytes_doc,
             "put_bytes($self, /, data, block=True, timeout=None)\n--\n\n"
             "Put a message as it is, for programs in C. get() does not understand it "
             "unless it has the format of an object.");

static PyObject *
queue_put_bytes(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"data", "block", "timeout"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("put_bytes", 1, names);
    QueueObject *const self = (QueueObject *)obj;
    struct sstpy_encoded encoded;
    PyObject *given[3];
    Py_buffer view;
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_patience(given[1], given[2], &duration_ns) < 0) {
        return NULL;
    }
    if (self->closed || self->queue == NULL) {
        return sstpy_queue_raise_closed(self);
    }
    if (PyObject_GetBuffer(given[0], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }

    sstpy_encode_whole(view.buf, (uint64_t)view.len, &encoded);
    const int rc = queue_commit(self, &encoded, duration_ns);
    sstpy_encoded_release(&encoded);
    PyBuffer_Release(&view);
    if (rc < 0) {
        return sstpy_queue_raise_put(self, rc);
    }
    Py_RETURN_NONE;
}

/* ---- get ---- */

struct queue_get_call {
    struct sst_queue *queue;
    struct sst_message *message;
};

static int
queue_call_get(void *context, int64_t deadline_ns)
{
    const struct queue_get_call *const call = context;

    return sst_queue_get(call->queue, call->message, deadline_ns);
}

static int
queue_take(const QueueObject *self, struct sst_message *message, int64_t duration_ns)
{
    struct queue_get_call call = {self->queue, message};

    return sstpy_wait(queue_call_get, &call, duration_ns);
}

static PyObject *
queue_get_for(QueueObject *self, int64_t duration_ns)
{
    struct sst_message message;

    if (self->closed || self->queue == NULL) {
        return sstpy_queue_raise_closed(self);
    }

    const int rc = queue_take(self, &message, duration_ns);
    if (rc < 0) {
        return sstpy_queue_raise_get(self, rc);
    }
    return sstpy_decode(self->state, &message);
}

PyDoc_STRVAR(
    queue_get_doc,
    "get($self, /, block=True, timeout=None)\n--\n\n"
    "Take the next object. queue.Empty when none came in time, ShutDown when the "
    "queue was shut down and is empty, ValueError after close().");

static PyObject *
queue_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"block", "timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("get", 0, names);
    PyObject *given[2];
    int64_t duration_ns = SSTPY_FOREVER;

    if (nargs != 0 || kwnames != NULL) {
        if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
            sstpy_to_patience(given[0], given[1], &duration_ns) < 0) {
            return NULL;
        }
    }
    return queue_get_for((QueueObject *)self, duration_ns);
}

PyDoc_STRVAR(queue_get_nowait_doc, "get_nowait($self, /)\n--\n\nget(False).");

static PyObject *
queue_get_nowait(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return queue_get_for((QueueObject *)self, SSTPY_POLL);
}

PyDoc_STRVAR(queue_get_bytes_doc,
             "get_bytes($self, /, block=True, timeout=None)\n--\n\n"
             "Take the next message as it is, for programs in C and put_bytes().");

static PyObject *
queue_get_bytes(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"block", "timeout"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("get_bytes", 0, names);
    QueueObject *const self = (QueueObject *)obj;
    struct sst_message message;
    PyObject *given[2];
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_patience(given[0], given[1], &duration_ns) < 0) {
        return NULL;
    }
    if (self->closed || self->queue == NULL) {
        return sstpy_queue_raise_closed(self);
    }

    const int rc = queue_take(self, &message, duration_ns);
    if (rc < 0) {
        return sstpy_queue_raise_get(self, rc);
    }

    PyObject *const bytes = sstpy_copy_bytes(message.data, message.size);
    sst_message_free(&message);
    return bytes;
}

/* ---- Looking ---- */

PyDoc_STRVAR(queue_qsize_doc,
             "qsize($self, /)\n--\n\nHow many objects are there, exactly.");

static PyObject *
queue_qsize(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct sst_queue *const queue = sstpy_queue_of(self);

    return queue != NULL ? PyLong_FromUnsignedLongLong(sst_queue_count(queue)) : NULL;
}

PyDoc_STRVAR(queue_empty_doc, "empty($self, /)\n--\n\nWhether there is none, exactly.");

static PyObject *
queue_empty(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct sst_queue *const queue = sstpy_queue_of(self);

    return queue != NULL ? PyBool_FromLong(sst_queue_count(queue) == 0) : NULL;
}

PyDoc_STRVAR(queue_full_doc,
             "full($self, /)\n--\n\n"
             "Whether there is no room, exactly. Never without maxsize.");

static PyObject *
queue_full(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const struct sst_queue *const queue = sstpy_queue_of(obj);

    if (queue == NULL) {
        return NULL;
    }

    const uint32_t item_max = sst_queue_item_max(queue);
    return PyBool_FromLong(item_max != 0 && sst_queue_count(queue) >= item_max);
}

static int
queue_call_poll(void *context, int64_t deadline_ns)
{
    const int rc = sst_queue_poll(context, deadline_ns);

    return rc == 0 ? SST_ETIMEDOUT : rc;
}

PyDoc_STRVAR(queue_poll_doc,
             "poll($self, /, timeout=0.0)\n--\n\n"
             "Whether an object is there within `timeout` seconds; None "
             "waits for ever.");

static PyObject *
queue_poll(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("poll", 0, names);
    QueueObject *const self = (QueueObject *)obj;
    PyObject *given[1];
    int64_t duration_ns = SSTPY_POLL;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        (given[0] != NULL && sstpy_to_duration(given[0], &duration_ns) < 0) ||
        sstpy_queue_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sstpy_wait(queue_call_poll, self->queue, duration_ns);
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(
    queue_fileno_doc,
    "fileno($self, /)\n--\n\n"
    "A descriptor for select and the like, made at the first call.\n\n"
    "Readable at the latest when an object is there; may be readable once with "
    "none: when a get_nowait() after it found nothing call drain().");

static PyObject *
queue_fileno(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    QueueObject *const self = (QueueObject *)obj;
    struct sst_error err = {0};

    if (self->closed || self->queue == NULL) {
        return sstpy_queue_raise_closed(self);
    }

    const int fd = sst_queue_fd(self->queue, &err);
    return fd < 0 ? sstpy_raise(self->state, fd, &err) : PyLong_FromLong(fd);
}

PyDoc_STRVAR(queue_drain_doc,
             "drain($self, /)\n--\n\n"
             "Quiet the descriptor of fileno(). True: an object is there "
             "after all.");

static PyObject *
queue_drain(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    QueueObject *const self = (QueueObject *)obj;

    if (sstpy_queue_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sst_queue_fd_drain(self->queue);
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : PyBool_FromLong(rc);
}

PyDoc_STRVAR(
    queue_statistics_doc,
    "statistics($self, /)\n--\n\n"
    "count and bytes of what is queued, maxsize (0: unbounded), and unfinished: "
    "the items of a joinable queue that no task_done() answered. Arrays of more than "
    "64 KiB have memory of their own, which `bytes` leaves out.");

static PyObject *
queue_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const struct sst_queue *const queue = sstpy_queue_of(obj);

    if (queue == NULL) {
        return NULL;
    }
    return Py_BuildValue("{s:K,s:K,s:I,s:K}", "count",
                         (unsigned long long)sst_queue_count(queue), "bytes",
                         (unsigned long long)sst_queue_bytes(queue), "maxsize",
                         (unsigned int)sst_queue_item_max(queue), "unfinished",
                         (unsigned long long)sst_queue_unfinished(queue));
}

/* ---- Ending ---- */

PyDoc_STRVAR(
    queue_shutdown_doc,
    "shutdown($self, /, immediate=False)\n--\n\n"
    "End the queue for every process: put() raises ShutDown, get() too once it is "
    "empty, which `immediate` makes it.");

static PyObject *
queue_shutdown(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"immediate"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("shutdown", 0, names);
    PyObject *given[1];
    bool immediate = false;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_bool(given[0], false, &immediate) < 0 || sstpy_queue_of(obj) == NULL) {
        return NULL;
    }
    sst_queue_shutdown(((QueueObject *)obj)->queue, immediate);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(queue_close_doc, "close($self, /)\n--\n\n"
                              "No more of this object: later puts and gets raise.");

static PyObject *
queue_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ((QueueObject *)self)->closed = true;
    Py_RETURN_NONE;
}

/* ---- Life ---- */

static int
queue_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"maxsize", "joinable"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("Queue", 0, names);
    QueueObject *const self = (QueueObject *)obj;
    struct sst_queue_options options = {.size_of = sizeof(options)};
    PyObject *given[2];
    struct sst_error err = {0};
    Py_ssize_t item_max = 0;
    bool joinable = false;

    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0 ||
        sstpy_to_ssize(given[0], 0, &item_max) < 0 ||
        sstpy_to_bool(given[1], false, &joinable) < 0) {
        return -1;
    }
    /* what cannot be reached is no bound, as in the stdlib */
    options.item_max = item_max > 0 && item_max < INT32_MAX ? (uint32_t)item_max : 0;
    options.joinable = joinable;

    struct sst_arena *const arena = sstpy_begin(self->state, self->queue);
    if (arena == NULL) {
        return -1;
    }

    const int rc = sst_queue_create(arena, &options, &self->queue, &err);
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

PyDoc_STRVAR(queue_attach_doc, "_attach($self, handle, /)\n--\n\n"
                               "Be the queue that a handle names; for objects made by "
                               "__new__ alone.");

static PyObject *
queue_attach(PyObject *obj, PyObject *arg)
{
    QueueObject *const self = (QueueObject *)obj;
    struct sst_error err = {0};
    struct sst_handle handle;

    if (sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->queue);
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_queue_attach(arena, &handle, &self->queue, &err);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(queue_from_handle_doc, "from_handle($type, handle, /)\n--\n\n"
                                    "The same queue in another process.");

static void
queue_dealloc(PyObject *obj)
{
    QueueObject *const self = (QueueObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->queue = sst_queue_close(self->queue);
    sstpy_free(obj);
}

static PyObject *
queue_get_handle(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_queue *const queue = sstpy_queue_of(self);
    struct sst_handle handle;

    if (queue == NULL) {
        return NULL;
    }
    sst_queue_handle(queue, &handle);
    return sstpy_handle_new(&handle);
}

static PyObject *
queue_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((QueueObject *)self)->closed);
}

static PyObject *
queue_get_maxsize(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_queue *const queue = sstpy_queue_of(self);

    return queue != NULL ? PyLong_FromUnsignedLong(sst_queue_item_max(queue)) : NULL;
}

#define QUEUE_FASTCALL(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef queue_methods[] = {
    {"put", QUEUE_FASTCALL(queue_put), METH_FASTCALL | METH_KEYWORDS, queue_put_doc},
    {"get", QUEUE_FASTCALL(queue_get), METH_FASTCALL | METH_KEYWORDS, queue_get_doc},
    {"put_nowait", queue_put_nowait, METH_O, queue_put_nowait_doc},
    {"get_nowait", queue_get_nowait, METH_NOARGS, queue_get_nowait_doc},
    {"put_bytes", QUEUE_FASTCALL(queue_put_bytes), METH_FASTCALL | METH_KEYWORDS,
     queue_put_bytes_doc},
    {"get_bytes", QUEUE_FASTCALL(queue_get_bytes), METH_FASTCALL | METH_KEYWORDS,
     queue_get_bytes_doc},
    {"put_many", QUEUE_FASTCALL(sstpy_queue_put_many), METH_FASTCALL | METH_KEYWORDS,
     sstpy_queue_put_many_doc},
    {"get_many", QUEUE_FASTCALL(sstpy_queue_get_many), METH_FASTCALL | METH_KEYWORDS,
     sstpy_queue_get_many_doc},
    {"qsize", queue_qsize, METH_NOARGS, queue_qsize_doc},
    {"empty", queue_empty, METH_NOARGS, queue_empty_doc},
    {"full", queue_full, METH_NOARGS, queue_full_doc},
    {"poll", QUEUE_FASTCALL(queue_poll), METH_FASTCALL | METH_KEYWORDS, queue_poll_doc},
    {"fileno", queue_fileno, METH_NOARGS, queue_fileno_doc},
    {"drain", queue_drain, METH_NOARGS, queue_drain_doc},
    {"statistics", queue_statistics, METH_NOARGS, queue_statistics_doc},
    {"task_done", sstpy_queue_task_done, METH_NOARGS, sstpy_queue_task_done_doc},
    {"join", QUEUE_FASTCALL(sstpy_queue_join), METH_FASTCALL | METH_KEYWORDS,
     sstpy_queue_join_doc},
    {"recover", sstpy_queue_recover, METH_NOARGS, sstpy_queue_recover_doc},
    {"shutdown", QUEUE_FASTCALL(queue_shutdown), METH_FASTCALL | METH_KEYWORDS,
     queue_shutdown_doc},
    {"close", queue_close, METH_NOARGS, queue_close_doc},
    {"_closed_error", queue_closed_error, METH_NOARGS, queue_closed_error_doc},
    {"_attach", queue_attach, METH_O, queue_attach_doc},
    {"from_handle", sstpy_from_handle, METH_O | METH_CLASS, queue_from_handle_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef queue_getset[] = {
    {"handle", queue_get_handle, NULL, "Names it in other processes: bytes.", NULL},
    {"closed", queue_get_closed, NULL, "Whether close() was called.", NULL},
    {"maxsize", queue_get_maxsize, NULL, "Most objects at a time; 0: unbounded.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(queue_doc, "Queue(maxsize=0, joinable=False)\n--\n\n"
                        "A queue of objects between processes.");

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, (void *)queue_doc},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, queue_init},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, queue_methods},
    {Py_tp_getset, queue_getset},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    .name = "sidestep._core.Queue",
    .basicsize = sizeof(QueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = queue_slots,
};

int
sstpy_queue_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &queue_spec, &state->queue_type);
}
