/* SPDX-License-Identifier: MIT */

/* Connection.send and send_bytes.
 *
 * To a pipe of ours a message goes in the codec's format, raw bytes under a tag of
 * their own, so that recv() and recv_bytes() at the other end can both read both, as in
 * the stdlib. To a byte stream it goes as the stdlib sends it: a pickle or the bytes,
 * with a length in front. */

#include "connection.h"

#include "codec.h"
#include "compat.h"
#include "errors.h"
#include "pickle.h"
#include "wait.h"

struct connection_send_call {
    struct sst_pipe *pipe;
    struct sstpy_encoded *encoded;
};

static int
connection_call_send(void *context, int64_t deadline_ns)
{
    const struct connection_send_call *const call = context;

    return sstpy_encoded_send(call->encoded, call->pipe, deadline_ns);
}

struct connection_stream_call {
    int fd;
    struct sst_stream_progress *progress;
    const void *data;
    uint64_t size;
};

static int
connection_call_stream(void *context, int64_t deadline_ns)
{
    const struct connection_stream_call *const call = context;

    return sst_stream_send(call->fd, call->progress, call->data, call->size,
                           deadline_ns);
}

/* Encoding may have run Python code: whether it is open is asked here, not before. */
static PyObject *
connection_send_encoded(ConnectionObject *self, struct sstpy_encoded *encoded)
{
    if (sstpy_connection_check_writable(self) < 0) {
        return NULL;
    }
    if (self->pipe == NULL) { /* became a stream meanwhile: __init__ was called */
        return sstpy_raise_empty((PyObject *)self);
    }

    struct connection_send_call call = {self->pipe, encoded};
    int rc = 0;

    sstpy_connection_pin(self);
    if (encoded->size >= SSTPY_DETACH_SIZE) {
        rc = sstpy_wait_until(connection_call_send, &call, SST_FOREVER);
    }
    else {
        rc = sstpy_wait(connection_call_send, &call, SSTPY_FOREVER);
    }
    if (rc == SST_ELIMIT) { /* in pieces: that the first look does not try */
        rc = sstpy_wait_until(connection_call_send, &call, SST_FOREVER);
    }
    sstpy_connection_unpin(self);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

static PyObject *
connection_send_stream(ConnectionObject *self, const void *data, Py_ssize_t size)
{
    struct sst_stream_progress progress = {.io = sstpy_connection_io(self)};
    struct connection_stream_call call = {self->fd, &progress, data, (uint64_t)size};

    if (sstpy_connection_check_writable(self) < 0) {
        return NULL;
    }

    sstpy_connection_pin(self);
    const int rc = sstpy_wait_until(connection_call_stream, &call, SST_FOREVER);
    sstpy_connection_unpin(self);
    if (rc == SSTPY_RAISED) {
        return NULL;
    }
    if (rc < 0) {
        return sstpy_raise_errno(rc);
    }
    Py_RETURN_NONE;
}

static PyObject *
connection_send_pickled(ConnectionObject *self, PyObject *obj)
{
    PyObject *const pickled = sstpy_pickle(self->state, obj, NULL);
    PyObject *result = NULL;
    Py_buffer view;

    if (pickled == NULL) {
        return NULL;
    }
    if (PyObject_GetBuffer(pickled, &view, PyBUF_SIMPLE) == 0) {
        result = connection_send_stream(self, view.buf, view.len);
        PyBuffer_Release(&view);
    }
    Py_DECREF(pickled);
    return result;
}

const char sstpy_connection_send_doc[] =
    PyDoc_STR("send($self, obj, /)\n--\n\n"
              "Send an object. Waits while the other end's buffer is full. "
              "BrokenPipeError when nobody can receive any more.");

PyObject *
sstpy_connection_send(PyObject *self_obj, PyObject *obj)
{
    ConnectionObject *const self = (ConnectionObject *)self_obj;
    struct sstpy_encoded encoded;

    if (sstpy_connection_check_writable(self) < 0) {
        return NULL;
    }
    if (self->pipe == NULL) {
        return connection_send_pickled(self, obj);
    }

    const int rc = sstpy_encode(self->state, obj, &encoded);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }

    PyObject *const result = connection_send_encoded(self, &encoded);
    sstpy_encoded_release(&encoded);
    return result;
}

/* The range [offset, offset + *size) of `whole` bytes, with the stdlib's texts. */
static int
connection_check_range(Py_ssize_t whole, Py_ssize_t offset, PyObject *size_obj,
                       Py_ssize_t *size)
{
    const char *complaint = NULL;

    if (offset < 0) {
        complaint = "offset is negative";
    }
    else if (whole < offset) {
        complaint = "buffer length < offset";
    }
    else if (size_obj == NULL || size_obj == Py_None) {
        *size = whole - offset;
    }
    else if (sstpy_to_ssize(size_obj, 0, size) < 0) {
        return -1;
    }
    else if (*size < 0) {
        complaint = "size is negative";
    }
    else if (*size > whole - offset) {
        complaint = "buffer length < offset + size";
    }
    if (complaint != NULL) {
        PyErr_SetString(PyExc_ValueError, complaint);
        return -1;
    }
    return 0;
}

static PyObject *
connection_send_range(ConnectionObject *self, const void *data, Py_ssize_t size)
{
    struct sstpy_encoded encoded;

    if (self->pipe == NULL) {
        return connection_send_stream(self, data, size);
    }
    if (sstpy_encode_raw(self->state, data, (uint64_t)size, &encoded) < 0) {
        return NULL;
    }

    PyObject *const result = connection_send_encoded(self, &encoded);
    sstpy_encoded_release(&encoded);
    return result;
}

const char sstpy_connection_send_bytes_doc[] =
    PyDoc_STR("send_bytes($self, /, buf, offset=0, size=None)\n--\n\n"
              "Send a bytes-like object, or `size` bytes of it from `offset`, as one "
              "message.");

PyObject *
sstpy_connection_send_bytes(PyObject *self_obj, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"buf", "offset", "size"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("send_bytes", 1, names);
    ConnectionObject *const self = (ConnectionObject *)self_obj;
    PyObject *result = NULL;
    PyObject *given[3];
    Py_buffer view;
    Py_ssize_t offset = 0;
    Py_ssize_t size = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_connection_check_writable(self) < 0 ||
        sstpy_to_ssize(given[1], 0, &offset) < 0 ||
        PyObject_GetBuffer(given[0], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (connection_check_range(view.len, offset, given[2], &size) == 0) {
        result = connection_send_range(self, (const char *)view.buf + offset, size);
    }
    PyBuffer_Release(&view);
    return result;
}
