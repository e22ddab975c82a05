/* SPDX-License-Identifier: MIT */

/* Connection.recv, recv_bytes, recv_bytes_into, poll and pending.
 *
 * A message from a pipe of ours arrives whole, in memory of the core, and is decoded
 * after it was taken. One from a byte stream is read into the object that the caller
 * gets, once its length is known. When a signal handler raises in the middle, what came
 * so far is kept and the next call goes on.
 *
 * A stream may say that a message is as long as it likes: memory for it is had as its
 * bytes come. */

#include "connection.h"

#include <string.h>

#include "codec.h"
#include "compat.h"
#include "errors.h"
#include "pickle.h"
#include "wait.h"

/* ---- Errors ---- */

static PyObject *
connection_raise_recv(const ConnectionObject *self, int rc)
{
    if (rc == SSTPY_RAISED) {
        return NULL;
    }
    if (rc == SST_EOF) {
        PyErr_SetNone(PyExc_EOFError);
        return NULL;
    }
    if (self->pipe != NULL) {
        return sstpy_raise(self->state, rc, NULL);
    }
    if (rc == SST_EPIPE) {
        PyErr_SetString(PyExc_OSError, "got end of file during message");
        return NULL;
    }
    return sstpy_raise_errno(rc);
}

/* The stdlib's answer to a message longer than allowed: the stream cannot be trusted.
 * */
static PyObject *
connection_bad_length(ConnectionObject *self, int64_t size_max)
{
    if (self->writable) {
        self->readable = false;
    }
    else if (sstpy_connection_close(self) < 0) {
        return NULL;
    }
    if (size_max >= 0 && size_max == self->size_max) {
        PyErr_Format(PyExc_OSError,
                     "bad message length: more than max_message, %lld bytes",
                     (long long)size_max);
    }
    else {
        PyErr_SetString(PyExc_OSError, "bad message length");
    }
    return NULL;
}

/* What is received at most when the caller wants no more than `wanted`; < 0: any. */
static int64_t
connection_limit(const ConnectionObject *self, int64_t wanted)
{
    return wanted >= 0 && (self->size_max < 0 || wanted < self->size_max)
               ? wanted
               : self->size_max;
}

/* ---- Pipes ---- */

struct connection_recv_call {
    struct sst_pipe *pipe;
    struct sst_message *message;
};

static int
connection_call_recv(void *context, int64_t deadline_ns)
{
    const struct connection_recv_call *const call = context;

    return sst_pipe_recv(call->pipe, call->message, deadline_ns);
}

static int
connection_take(ConnectionObject *self, struct sst_message *message)
{
    struct connection_recv_call call = {self->pipe, message};

    sstpy_connection_pin(self);
    const int rc = sstpy_wait(connection_call_recv, &call, SSTPY_FOREVER);
    sstpy_connection_unpin(self);
    return rc;
}

/* ---- Streams ---- */

enum {
    STREAM_ROOM_FIRST = 16 << 20, /* for a message before any of it has come */
    STREAM_GROWTH = 4,
    SCRATCH_FROM = 64 << 10, /* shorter ones: malloc has their pages at hand */
    SCRATCH_TO = 4 << 20,    /* that much stays in a process */
};

/* A message on its way. Who receives takes it out of the connection, and puts it back
 * when it has to break off (a signal handler raised, memory ran out), so that the next
 * one goes on where it stopped. */
struct connection_stream {
    int fd;
    struct sst_stream_progress progress;
    struct sst_stream_look look; /* the connection's, while it has no other thread */
    PyObject *bytes;             /* where it goes, or NULL: */
    char *data;                  /* the same, or the caller's own memory */
};

static int
connection_call_size(void *context, int64_t deadline_ns)
{
    struct connection_stream *const stream = context;

    return sst_stream_recv_size(stream->fd, &stream->progress, deadline_ns);
}

static int
connection_call_body(void *context, int64_t deadline_ns)
{
    struct connection_stream *const stream = context;

    return sst_stream_recv(stream->fd, &stream->progress, stream->data, deadline_ns);
}

static void
connection_stream_begin(ConnectionObject *self, struct connection_stream *out)
{
    out->fd = self->fd;
    out->progress = self->progress;
    out->progress.io = sstpy_connection_io(self);
    out->progress.look = &out->look;
    out->look = self->look;
    out->bytes = self->partial;
    out->data = out->bytes != NULL ? PyBytes_AS_STRING(out->bytes) : NULL;
    self->progress = (struct sst_stream_progress){0};
    self->partial = NULL;
    sstpy_connection_pin(self);
}

/* `broken_off`: what came so far is kept, with the exception that is set. */
static void
connection_stream_end(ConnectionObject *self, struct connection_stream *stream,
                      bool broken_off)
{
    self->look = stream->look;
    if (broken_off && self->progress.header_size == 0) {
        self->progress = stream->progress;
        self->progress.look = NULL;
        self->partial = stream->bytes;
        stream->bytes = NULL;
    }
    Py_CLEAR(stream->bytes);
    sstpy_connection_unpin(self);
}

/* A bytes object for the message, whose size is known, or for its beginning; what the
 * caller's memory has of it is copied. */
static int
connection_stream_allocate(struct connection_stream *stream)
{
    const struct sst_stream_progress *const progress = &stream->progress;
    uint64_t room = progress->size;

    if (stream->bytes != NULL) {
        return 0;
    }
    if (room > PY_SSIZE_T_MAX) {
        (void)PyErr_NoMemory();
        return -1;
    }
    if (room > STREAM_ROOM_FIRST && stream->data == NULL) {
        room = STREAM_ROOM_FIRST;
    }

    PyObject *const bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
    if (bytes == NULL) {
        return -1;
    }
    if (stream->data != NULL) {
        memcpy(PyBytes_AS_STRING(bytes), stream->data,
               (size_t)(progress->done - progress->header_size));
    }
    stream->bytes = bytes;
    stream->data = PyBytes_AS_STRING(bytes);
    return 0;
}

/* The room is full: more, up to the size of the message. Without memory what came is
 * lost, and with it the stream. */
static int
connection_stream_grow(ConnectionObject *self, struct connection_stream *stream)
{
    const uint64_t room = (uint64_t)PyBytes_GET_SIZE(stream->bytes) * STREAM_GROWTH;
    const uint64_t whole = stream->progress.size;

    if (_PyBytes_Resize(&stream->bytes, (Py_ssize_t)(room < whole ? room : whole)) <
        0) {
        self->readable = false;
        return -1;
    }
    stream->data = PyBytes_AS_STRING(stream->bytes);
    return 0;
}

/* The whole message into stream->bytes; SSTPY_RAISED, or a status. */
static int
connection_stream_body(ConnectionObject *self, struct connection_stream *stream)
{
    const uint64_t whole = stream->progress.size;
    int rc = 0;

    if (connection_stream_allocate(stream) < 0) {
        return SSTPY_RAISED;
    }
    for (;;) {
        const uint64_t room = (uint64_t)PyBytes_GET_SIZE(stream->bytes);
        stream->progress.size = room;
        rc = sstpy_wait_until(connection_call_body, stream, SST_FOREVER);
        stream->progress.size = whole;
        if (rc < 0 || room == whole) {
            return rc;
        }
        if (connection_stream_grow(self, stream) < 0) {
            return SSTPY_RAISED;
        }
    }
}

/* Before memory of the caller's, or the scratch, goes: keep what it has of the message.
 * The exception that is set stays. Without memory for it the message is lost, and the
 * stream with it. */
static void
connection_stream_rescue(ConnectionObject *self, struct connection_stream *stream)
{
    PyObject *type = NULL;
    PyObject *error = NULL;
    PyObject *traceback = NULL;

    PyErr_Fetch(&type, &error, &traceback);
    if (connection_stream_allocate(stream) < 0) {
        PyErr_Clear(); /* the first error matters more */
        self->readable = false;
    }
    PyErr_Restore(type, error, traceback);
}

/* Wait for the length of the message. As sstpy_wait_until; *too_long: it is longer than
 * `size_max`, < 0: any length. */
static int
connection_stream_size(struct connection_stream *stream, int64_t size_max,
                       bool *too_long)
{
    const int rc = sstpy_wait_until(connection_call_size, stream, SST_FOREVER);

    *too_long = rc == SST_EMSGSIZE || (rc == 0 && size_max >= 0 &&
                                       stream->progress.size > (uint64_t)size_max);
    return rc;
}

/* The whole message into memory that is large enough, or with NULL into stream->bytes.
 * When it is broken off, what came is in the latter. SSTPY_RAISED, or a status. */
static int
connection_stream_fill(ConnectionObject *self, struct connection_stream *stream,
                       char *memory)
{
    if (memory == NULL) {
        return connection_stream_body(self, stream);
    }
    stream->data = memory;
    const int rc = sstpy_wait_until(connection_call_body, stream, SST_FOREVER);
    if (rc == SSTPY_RAISED) {
        connection_stream_rescue(self, stream);
    }
    return rc;
}

/* What a message is read into that is decoded and then dropped: a bytearray, kept for
 * the next one. In fresh memory every page costs a fault, all together more than the
 * copy and the encryption. NULL without an exception: read it into an object of its
 * own. */
static PyObject *
connection_scratch_take(const ConnectionObject *self,
                        const struct connection_stream *stream)
{
    const uint64_t size = stream->progress.size;
    PyObject *scratch = self->state->scratch;

    if (self->loads != NULL || stream->bytes != NULL || size < SCRATCH_FROM ||
        size > SCRATCH_TO) {
        return NULL;
    }
    self->state->scratch = NULL;
    if (scratch == NULL) {
        scratch = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
    }
    else if (PyByteArray_Resize(scratch, (Py_ssize_t)size) < 0) {
        Py_CLEAR(scratch); /* somebody looks into it still, or memory is short */
    }
    if (scratch == NULL) {
        PyErr_Clear();
    }
    return scratch;
}

static void
connection_scratch_give(const ConnectionObject *self, PyObject *data)
{
    if (PyByteArray_CheckExact(data) && Py_REFCNT(data) == 1 &&
        self->state->scratch == NULL) {
        self->state->scratch = data;
        return;
    }
    Py_DECREF(data);
}

/* A message as bytes, or where it `is_passing` maybe in the scratch. `size_max` < 0: of
 * any length. NULL with *too_long set and without an exception: it is longer. */
static PyObject *
connection_stream_take(ConnectionObject *self, int64_t size_max, bool is_passing,
                       bool *too_long)
{
    struct connection_stream stream;
    PyObject *scratch = NULL;
    PyObject *data = NULL;

    connection_stream_begin(self, &stream);
    int rc = connection_stream_size(&stream, size_max, too_long);
    if (rc == 0 && !*too_long) {
        scratch = is_passing ? connection_scratch_take(self, &stream) : NULL;
        rc = connection_stream_fill(self, &stream,
                                    scratch != NULL ? PyByteArray_AS_STRING(scratch)
                                                    : NULL);
    }

    if (rc == 0 && !*too_long) {
        data = Py_NewRef(scratch != NULL ? scratch : stream.bytes);
    }
    else if (!*too_long) {
        (void)connection_raise_recv(self, rc);
    }
    connection_stream_end(self, &stream, rc == SSTPY_RAISED);
    Py_XDECREF(scratch);
    return data;
}

/* ---- recv ---- */

const char sstpy_connection_recv_doc[] =
    PyDoc_STR("recv($self, /)\n--\n\n"
              "Receive an object. Waits for one; EOFError when none is left and nobody "
              "can send any more.");

/* The object of a message, or of a pickle in a bytes-like object. The restrictions are
 * those of now: the code that a pickle runs may set others. */
static PyObject *
connection_open(const ConnectionObject *self, struct sst_message *message,
                PyObject *bytes)
{
    PyObject *const loads = Py_XNewRef(self->loads);
    PyObject *const before = sstpy_loads_swap(loads);
    PyObject *const obj = bytes != NULL ? sstpy_unpickle(self->state, bytes, NULL)
                                        : sstpy_decode(self->state, message);

    (void)sstpy_loads_swap(before);
    Py_XDECREF(loads);
    return obj;
}

static PyObject *
connection_recv_pipe(ConnectionObject *self)
{
    struct sst_message message;
    const int rc = connection_take(self, &message);

    if (rc < 0) {
        return connection_raise_recv(self, rc);
    }
    if (self->size_max >= 0 && message.size > (uint64_t)self->size_max) {
        sst_message_free(&message);
        return connection_bad_length(self, self->size_max);
    }
    return connection_open(self, &message, NULL);
}

PyObject *
sstpy_connection_recv(PyObject *self_obj, PyObject *Py_UNUSED(ignored))
{
    ConnectionObject *const self = (ConnectionObject *)self_obj;
    bool too_long = false;

    if (sstpy_connection_check_readable(self) < 0) {
        return NULL;
    }
    if (self->pipe != NULL) {
        return connection_recv_pipe(self);
    }

    PyObject *const data =
        connection_stream_take(self, self->size_max, true, &too_long);
    if (data == NULL) {
        return too_long ? connection_bad_length(self, self->size_max) : NULL;
    }

    PyObject *const obj = connection_open(self, NULL, data);
    connection_scratch_give(self, data);
    return obj;
}

/* ---- recv_bytes ---- */

/* The bytes of a message; of an object, which is decoded first, those of its pickle. */
static PyObject *
connection_open_bytes(const ConnectionObject *self, struct sst_message *message,
                      int64_t size_max)
{
    PyObject *const loads = Py_XNewRef(self->loads);
    PyObject *const before = sstpy_loads_swap(loads);
    PyObject *const bytes = sstpy_decode_bytes(self->state, message, size_max);

    (void)sstpy_loads_swap(before);
    Py_XDECREF(loads);
    return bytes;
}

static PyObject *
connection_take_bytes(ConnectionObject *self, int64_t wanted)
{
    const int64_t size_max = connection_limit(self, wanted);
    bool too_long = false;
    PyObject *bytes = NULL;

    if (self->pipe != NULL) {
        struct sst_message message;
        const int rc = connection_take(self, &message);
        if (rc < 0) {
            return connection_raise_recv(self, rc);
        }
        bytes = connection_open_bytes(self, &message, size_max);
        too_long = bytes == NULL && PyErr_Occurred() == NULL;
    }
    else {
        bytes = connection_stream_take(self, size_max, false, &too_long);
    }
    return too_long ? connection_bad_length(self, size_max) : bytes;
}

const char sstpy_connection_recv_bytes_doc[] =
    PyDoc_STR("recv_bytes($self, /, maxlength=None)\n--\n\n"
              "Receive a message as bytes. OSError when it is longer than `maxlength`; "
              "the connection can then not be read any more.");

PyObject *
sstpy_connection_recv_bytes(PyObject *self_obj, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"maxlength"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("recv_bytes", 0, names);
    ConnectionObject *const self = (ConnectionObject *)self_obj;
    PyObject *given[1];
    Py_ssize_t size_max = -1;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    if (given[0] != NULL && given[0] != Py_None) {
        if (sstpy_to_ssize(given[0], 0, &size_max) < 0) {
            return NULL;
        }
        if (size_max < 0) {
            if (sstpy_connection_check_readable(self) == 0) {
                PyErr_SetString(PyExc_ValueError, "negative maxlength");
            }
            return NULL;
        }
    }
    if (sstpy_connection_check_readable(self) < 0) {
        return NULL;
    }
    return connection_take_bytes(self, size_max);
}

/* ---- recv_bytes_into ---- */

/* The buffer is too small: the exception carries the whole message. */
static PyObject *
connection_raise_short(const ConnectionObject *self, PyObject *bytes)
{
    PyObject *const exception = self->state->buffer_too_short;
    PyObject *const error = PyObject_CallOneArg(exception, bytes);

    if (error != NULL) {
        PyErr_SetObject(exception, error);
        Py_DECREF(error);
    }
    return NULL;
}

/* From a stream straight into the buffer when there is room; what came earlier of the
 * message lies in an object of its own. */
static PyObject *
connection_stream_into(ConnectionObject *self, char *to, uint64_t room)
{
    struct connection_stream stream;
    PyObject *result = NULL;
    bool too_long = false;

    connection_stream_begin(self, &stream);
    int rc = connection_stream_size(&stream, self->size_max, &too_long);
    const bool direct =
        rc == 0 && !too_long && stream.bytes == NULL && stream.progress.size <= room;
    if (rc == 0 && !too_long) {
        rc = connection_stream_fill(self, &stream, direct ? to : NULL);
    }

    if (too_long) {
        result = NULL;
    }
    else if (rc == 0 && stream.progress.size > room) {
        result = connection_raise_short(self, stream.bytes);
    }
    else if (rc == 0) {
        if (!direct) {
            memcpy(to, stream.data, (size_t)stream.progress.size);
        }
        result = PyLong_FromUnsignedLongLong(stream.progress.size);
    }
    else {
        result = connection_raise_recv(self, rc);
    }
    connection_stream_end(self, &stream, rc == SSTPY_RAISED);
    return too_long ? connection_bad_length(self, self->size_max) : result;
}

static PyObject *
connection_pipe_into(ConnectionObject *self, char *to, uint64_t room)
{
    struct sst_message message;
    const void *data = NULL;
    uint64_t size = 0;
    const int rc = connection_take(self, &message);

    if (rc < 0) {
        return connection_raise_recv(self, rc);
    }
    if (sstpy_message_bytes(&message, &data, &size) && size <= room) {
        sstpy_copy(to, data, size);
        sst_message_free(&message);
        return PyLong_FromUnsignedLongLong(size);
    }

    /* Too long, or an object of which the pickle is wanted. */
    PyObject *const bytes = connection_open_bytes(self, &message, -1);
    PyObject *result = NULL;
    if (bytes == NULL) {
        return NULL;
    }
    size = (uint64_t)PyBytes_GET_SIZE(bytes);
    if (size <= room) {
        sstpy_copy(to, PyBytes_AS_STRING(bytes), size);
        result = PyLong_FromUnsignedLongLong(size);
    }
    else {
        result = connection_raise_short(self, bytes);
    }
    Py_DECREF(bytes);
    return result;
}

const char sstpy_connection_recv_bytes_into_doc[] = PyDoc_STR(
    "recv_bytes_into($self, /, buf, offset=0)\n--\n\n"
    "Receive a message into a writable buffer, from `offset` on; its length. "
    "BufferTooShort, with the message as its argument, when it does not fit.");

PyObject *
sstpy_connection_recv_bytes_into(PyObject *self_obj, PyObject *const *args,
                                 Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"buf", "offset"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("recv_bytes_into", 1, names);
    ConnectionObject *const self = (ConnectionObject *)self_obj;
    PyObject *result = NULL;
    PyObject *given[2];
    Py_buffer view;
    Py_ssize_t offset = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_ssize(given[1], 0, &offset) < 0 ||
        sstpy_connection_check_readable(self) < 0 ||
        PyObject_GetBuffer(given[0], &view, PyBUF_WRITABLE) < 0) {
        return NULL;
    }

    char *const to = (char *)view.buf + offset;
    if (offset < 0) {
        PyErr_SetString(PyExc_ValueError, "negative offset");
    }
    else if (offset > view.len) {
        PyErr_SetString(PyExc_ValueError, "offset too large");
    }
    else if (self->pipe != NULL) {
        result = connection_pipe_into(self, to, (uint64_t)(view.len - offset));
    }
    else {
        result = connection_stream_into(self, to, (uint64_t)(view.len - offset));
    }
    PyBuffer_Release(&view);
    return result;
}

/* ---- poll ---- */

static int
connection_call_poll(void *context, int64_t deadline_ns)
{
    const ConnectionObject *const self = context;
    int rc = 0;

    if (self->pipe != NULL) {
        rc = sst_pipe_poll(self->pipe, deadline_ns);
    }
    else if (self->transport != NULL) {
        rc = self->transport->poll(self->transport, deadline_ns);
    }
    else {
        rc = sst_stream_poll(self->fd, deadline_ns);
    }
    return rc == 0 ? SST_ETIMEDOUT : rc;
}

const char sstpy_connection_poll_doc[] =
    PyDoc_STR("poll($self, /, timeout=0.0)\n--\n\n"
              "Whether a message, or the end, is there within `timeout` seconds; None "
              "waits for ever.");

PyObject *
sstpy_connection_poll(PyObject *self_obj, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("poll", 0, names);
    ConnectionObject *const self = (ConnectionObject *)self_obj;
    PyObject *given[1];
    int64_t duration_ns = SSTPY_POLL;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        (given[0] != NULL && sstpy_to_duration(given[0], &duration_ns) < 0) ||
        sstpy_connection_check_readable(self) < 0) {
        return NULL;
    }

    sstpy_connection_pin(self);
    const int rc = sstpy_wait(connection_call_poll, self, duration_ns);
    sstpy_connection_unpin(self);
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return connection_raise_recv(self, rc);
    }
    Py_RETURN_TRUE;
}

const char sstpy_connection_pending_doc[] =
    PyDoc_STR("pending($self, /)\n--\n\n"
              "Whether a message lies in memory already, without a look at the "
              "descriptor. Never for a byte stream.");

PyObject *
sstpy_connection_pending(PyObject *self_obj, PyObject *Py_UNUSED(ignored))
{
    const ConnectionObject *const self = (ConnectionObject *)self_obj;

    if (sstpy_connection_check_readable(self) < 0) {
        return NULL;
    }
    if (self->pipe == NULL) {
        Py_RETURN_FALSE;
    }

    const int rc = sst_pipe_poll(self->pipe, SST_NOW);
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : PyBool_FromLong(rc);
}
