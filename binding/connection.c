/* SPDX-License-Identifier: MIT */

/* Connection: one class for two things.
 *
 *   an end of a pipe of ours     messages in shared memory, a socket pair underneath
 *                                for sleeping and for end of file (Connection._pipe)
 *   a byte stream                any descriptor, with the stdlib's framing
 *                                (Connection(fd))
 *
 * A stream may have a transport besides, which encrypts it (transport.h). Who asks for
 * the descriptor gets that of a plain stream: the transport sees to it.
 *
 * Error texts and the order of checks are those of Lib/multiprocessing/connection.py.
 *
 * close() in one thread while another is inside a blocking call: the object is closed
 * at once, what is underneath when the last such thread leaves. A forked child has none
 * of the parent's other threads, so it starts counting afresh. */

#include "connection.h"

#include "compat.h"
#include "errors.h"

/* ---- Checks ---- */

static int
connection_check_open(const ConnectionObject *self)
{
    if (self->closed) {
        PyErr_SetString(PyExc_OSError, "handle is closed");
        return -1;
    }
    return 0;
}

int
sstpy_connection_check_readable(const ConnectionObject *self)
{
    if (connection_check_open(self) < 0) {
        return -1;
    }
    if (!self->readable) {
        PyErr_SetString(PyExc_OSError, "connection is write-only");
        return -1;
    }
    return 0;
}

int
sstpy_connection_check_writable(const ConnectionObject *self)
{
    if (connection_check_open(self) < 0) {
        return -1;
    }
    if (!self->writable) {
        PyErr_SetString(PyExc_OSError, "connection is read-only");
        return -1;
    }
    return 0;
}

/* ---- Closing ---- */

static int
connection_release(ConnectionObject *self)
{
    struct sstpy_transport *const transport = self->transport;
    const int fd = self->fd;

    self->fd = -1;
    self->transport = NULL;
    self->pipe = sst_pipe_close(self->pipe);
    if (transport != NULL && transport->close(transport)) {
        return 0;
    }
    return fd >= 0 ? sst_stream_close(fd) : 0;
}

static void
connection_count(ConnectionObject *self)
{
    const unsigned long epoch = sstpy_fork_epoch();

    if (self->epoch != epoch) {
        self->epoch = epoch;
        self->users = 0;
    }
}

void
sstpy_connection_pin(ConnectionObject *self)
{
    connection_count(self);
    self->users++;
}

void
sstpy_connection_unpin(ConnectionObject *self)
{
    /* a signal handler may have forked: then the child counts this thread no more */
    if (self->epoch == sstpy_fork_epoch() && self->users > 0) {
        self->users--;
    }
    if (self->closed && self->users == 0) {
        (void)connection_release(self); /* close() has returned: nobody to tell */
    }
}

int
sstpy_connection_close(ConnectionObject *self)
{
    if (self->closed) {
        return 0;
    }
    self->closed = true;
    connection_count(self);
    if (self->users > 0) {
        return 0;
    }

    const int rc = connection_release(self);
    if (rc < 0) {
        (void)sstpy_raise_errno(rc);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(connection_close_doc, "close($self, /)\n--\n\n"
                                   "Close it. The other end sees the end of file once "
                                   "every process has closed this one.");

static PyObject *
connection_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (sstpy_connection_close((ConnectionObject *)self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
connection_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

static PyObject *
connection_exit(PyObject *self, PyObject *const *Py_UNUSED(args),
                Py_ssize_t Py_UNUSED(nargs))
{
    return connection_close(self, NULL);
}

/* -1 with OSError set. */
static int
connection_make_plain(ConnectionObject *self)
{
    const int rc =
        self->transport != NULL ? self->transport->make_plain(self->transport) : 0;

    if (rc < 0) {
        (void)sstpy_raise_errno(rc);
    }
    return rc;
}

PyDoc_STRVAR(connection_attach_doc,
             "_attach($self, transport, /)\n--\n\n"
             "Have the bytes of this stream moved by a transport, in a capsule.");

static PyObject *
connection_attach(PyObject *obj, PyObject *capsule)
{
    ConnectionObject *const self = (ConnectionObject *)obj;
    struct sstpy_transport *const transport =
        PyCapsule_GetPointer(capsule, SSTPY_TRANSPORT_NAME);

    if (transport == NULL || connection_check_open(self) < 0) {
        return NULL;
    }
    if (self->pipe != NULL || self->transport != NULL) {
        PyErr_SetString(PyExc_ValueError, "it has a transport");
        return NULL;
    }
    if (PyCapsule_SetDestructor(capsule, NULL) < 0 ||
        PyCapsule_SetName(capsule, "taken") < 0) {
        return NULL;
    }
    self->transport = transport;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    connection_keep_private_doc,
    "_keep_private($self, patience=None, /)\n--\n\n"
    "Forked children do without this connection, which therefore need not "
    "become slower for them; they close it. What is sent over a network has to "
    "be taken within `patience` seconds; None: for ever.");

static PyObject *
connection_keep_private(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"patience"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("_keep_private", 0, names);
    const ConnectionObject *const self = (ConnectionObject *)obj;
    int64_t patience_ns = SST_FOREVER;
    PyObject *given[1];

    if (sstpy_parse(&signature, args, nargs, NULL, given) < 0 ||
        (given[0] != NULL && sstpy_to_duration(given[0], &patience_ns) < 0)) {
        return NULL;
    }
    if (self->transport != NULL) {
        self->transport->keep_private(self->transport, patience_ns);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_detach_doc, "_detach($self, /)\n--\n\n"
                                    "The descriptor of a byte stream, which is the "
                                    "caller's from now on; the connection is closed.");

static PyObject *
connection_detach(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ConnectionObject *const self = (ConnectionObject *)obj;

    if (connection_check_open(self) < 0) {
        return NULL;
    }
    if (self->pipe != NULL) {
        PyErr_SetString(PyExc_ValueError, "an end of a pipe is more than a descriptor");
        return NULL;
    }
    if (connection_make_plain(self) < 0) {
        return NULL;
    }

    PyObject *const fd = PyLong_FromLong(self->fd);
    if (fd != NULL) {
        self->fd = -1;
        self->closed = true;
    }
    return fd;
}

/* ---- Looking ---- */

PyDoc_STRVAR(connection_fileno_doc,
             "fileno($self, /)\n--\n\n"
             "A descriptor that is readable whenever a message or "
             "the end is there.");

static PyObject *
connection_fileno(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ConnectionObject *const self = (ConnectionObject *)obj;

    if (connection_check_open(self) < 0 || connection_make_plain(self) < 0) {
        return NULL;
    }

    const int fd = self->pipe != NULL ? sst_pipe_fd(self->pipe) : self->fd;
    return fd < 0 ? sstpy_raise(self->state, fd, NULL) : PyLong_FromLong(fd);
}

PyDoc_STRVAR(
    connection_statistics_doc,
    "statistics($self, /)\n--\n\n"
    "kind (\"pipe\" or \"stream\"), closed, users: threads of this process inside "
    "a call; unread: messages sent from here that nobody has taken, of a pipe; looks, "
    "of an encrypted one: how often a receiver looked before it slept; looks_found: "
    "such looks as saved the sleep.");

static PyObject *
connection_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ConnectionObject *const self = (ConnectionObject *)obj;

    connection_count(self);
    return Py_BuildValue("{s:s,s:N,s:I,s:K,s:I,s:I}", "kind",
                         self->pipe != NULL ? "pipe" : "stream", "closed",
                         PyBool_FromLong(self->closed), "users",
                         (unsigned int)self->users, "unread",
                         self->pipe != NULL
                             ? (unsigned long long)sst_pipe_unread(self->pipe)
                             : 0ULL,
                         "looks", (unsigned int)self->look.looks, "looks_found",
                         (unsigned int)self->look.found);
}

PyDoc_STRVAR(connection_restrict_doc,
             "_restrict($self, loads, max_message, /)\n--\n\n"
             "Unpickle what comes with loads(data, buffers), and receive no message "
             "above `max_message` bytes. None: as ever, and any.");

static PyObject *
connection_restrict(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"loads", "max_message"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("_restrict", 2, names);
    ConnectionObject *const self = (ConnectionObject *)obj;
    PyObject *given[2];
    Py_ssize_t size_max = -1;

    if (sstpy_parse(&signature, args, nargs, NULL, given) < 0 ||
        (given[1] != Py_None && sstpy_to_ssize(given[1], 0, &size_max) < 0)) {
        return NULL;
    }
    if (given[0] != Py_None && !PyCallable_Check(given[0])) {
        PyErr_SetString(PyExc_TypeError, "loads must be callable");
        return NULL;
    }
    if (given[1] != Py_None && size_max < 0) {
        PyErr_SetString(PyExc_ValueError, "max_message must not be negative");
        return NULL;
    }
    Py_XSETREF(self->loads, given[0] == Py_None ? NULL : Py_NewRef(given[0]));
    self->size_max = size_max;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_restrictions_doc,
             "_restrictions($self, /)\n--\n\n"
             "(loads, max_message), as _restrict() was told.");

static PyObject *
connection_restrictions(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const ConnectionObject *const self = (ConnectionObject *)obj;
    PyObject *const loads = self->loads != NULL ? self->loads : Py_None;

    if (self->size_max < 0) {
        return Py_BuildValue("OO", loads, Py_None);
    }
    return Py_BuildValue("OL", loads, (long long)self->size_max);
}

static PyObject *
connection_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ConnectionObject *)self)->closed);
}

static PyObject *
connection_get_readable(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ConnectionObject *)self)->readable);
}

static PyObject *
connection_get_writable(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ConnectionObject *)self)->writable);
}

static PyObject *
connection_get_handle(PyObject *obj, void *Py_UNUSED(closure))
{
    ConnectionObject *const self = (ConnectionObject *)obj;

    if (self->closed) {
        Py_RETURN_NONE;
    }
    if (connection_make_plain(self) < 0) {
        return NULL;
    }
    return PyLong_FromLong(self->pipe != NULL ? sst_pipe_socket(self->pipe) : self->fd);
}

/* Programs set it to None to keep a connection from closing its descriptor. */
static int
connection_set_handle(PyObject *obj, PyObject *value, void *Py_UNUSED(closure))
{
    ConnectionObject *const self = (ConnectionObject *)obj;
    int fd = -1;

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete _handle");
        return -1;
    }
    if (self->pipe != NULL) {
        PyErr_SetString(PyExc_AttributeError, "_handle of an end of a pipe is fixed");
        return -1;
    }
    if ((value != Py_None && sstpy_to_int(value, 0, &fd) < 0) ||
        connection_make_plain(self) < 0) {
        return -1;
    }
    if (self->transport != NULL && self->users == 0) {
        (void)self->transport->close(self->transport); /* the descriptor stays */
        self->transport = NULL;
    }
    self->fd = fd;
    self->closed = fd < 0;
    self->progress = (struct sst_stream_progress){0};
    Py_CLEAR(self->partial);
    return 0;
}

/* ---- Life ---- */

static int
connection_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"handle", "readable", "writable"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("Connection", 1, names);
    ConnectionObject *const self = (ConnectionObject *)obj;
    PyObject *given[3];
    bool readable = true;
    bool writable = true;
    int fd = -1;

    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0 ||
        sstpy_to_int(given[0], 0, &fd) < 0 ||
        sstpy_to_bool(given[1], true, &readable) < 0 ||
        sstpy_to_bool(given[2], true, &writable) < 0) {
        return -1;
    }
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, "invalid handle");
        return -1;
    }
    if (!readable && !writable) {
        PyErr_SetString(PyExc_ValueError,
                        "at least one of `readable` and `writable` must be True");
        return -1;
    }
    if (!self->closed) {
        PyErr_SetString(PyExc_RuntimeError, "the object is initialised already");
        return -1;
    }
    self->fd = fd;
    self->readable = readable;
    self->writable = writable;
    self->closed = false;
    return 0;
}

static PyObject *
connection_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ConnectionObject *const self = (ConnectionObject *)sstpy_new(type, args, kwargs);

    if (self != NULL) {
        self->fd = -1;
        self->closed = true; /* until it has something to be open on */
        self->size_max = -1;
        self->epoch = sstpy_fork_epoch();
    }
    return (PyObject *)self;
}

/* An object of the type around an end, which is closed when there is none. */
static PyObject *
connection_wrap(PyTypeObject *type, struct sst_pipe *pipe)
{
    ConnectionObject *const self = (ConnectionObject *)connection_new(type, NULL, NULL);

    if (self == NULL) {
        (void)sst_pipe_close(pipe);
        return NULL;
    }
    self->pipe = pipe;
    self->readable = sst_pipe_is_readable(pipe);
    self->writable = sst_pipe_is_writable(pipe);
    self->closed = false;
    return (PyObject *)self;
}

PyDoc_STRVAR(connection_pipe_doc, "_pipe($type, duplex=True, /)\n--\n\n"
                                  "Two connections to each other. Without duplex the "
                                  "first can only receive, the second only send.");

static PyObject *
connection_pipe(PyObject *cls, PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"duplex"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("_pipe", 0, names);
    PyTypeObject *const type = (PyTypeObject *)cls;
    struct sst_pipe *end0 = NULL;
    struct sst_pipe *end1 = NULL;
    struct sst_error err = {0};
    PyObject *given[1];
    bool duplex = true;

    if (sstpy_parse(&signature, args, nargs, NULL, given) < 0 ||
        sstpy_to_bool(given[0], true, &duplex) < 0) {
        return NULL;
    }

    struct sstpy_state *const state = sstpy_state_of(type);
    struct sst_arena *const arena = state != NULL ? sstpy_arena(state) : NULL;
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_pipe_create(arena, duplex, &end0, &end1, &err);
    if (rc < 0) {
        return sstpy_raise(state, rc, &err);
    }

    PyObject *const first = connection_wrap(type, end0);
    PyObject *const second = connection_wrap(type, end1);
    PyObject *const pair =
        first != NULL && second != NULL ? PyTuple_Pack(2, first, second) : NULL;
    Py_XDECREF(first);
    Py_XDECREF(second);
    return pair;
}

PyDoc_STRVAR(connection_parts_doc,
             "_parts($self, /)\n--\n\n"
             "What from_parts() needs in another process: (handle, end, fd), or for a "
             "byte stream (None, 0, fd). The descriptor is still ours.");

static PyObject *
connection_parts(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ConnectionObject *const self = (ConnectionObject *)obj;
    struct sst_handle handle;
    int end = 0;

    if (connection_check_open(self) < 0 || connection_make_plain(self) < 0) {
        return NULL;
    }
    if (self->pipe == NULL) {
        return Py_BuildValue("Oii", Py_None, 0, self->fd);
    }
    sst_pipe_handle(self->pipe, &handle, &end);
    return Py_BuildValue("Nii", sstpy_handle_new(&handle), end,
                         sst_pipe_socket(self->pipe));
}

PyDoc_STRVAR(connection_end_handle_doc,
             "_end_handle($self, /)\n--\n\n"
             "Names this end of the pipe itself, to be held for a child that gets it.");

static PyObject *
connection_end_handle(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const ConnectionObject *const self = (ConnectionObject *)obj;
    struct sst_handle handle;

    if (connection_check_open(self) < 0) {
        return NULL;
    }
    if (self->pipe == NULL) {
        PyErr_SetString(PyExc_ValueError, "not an end of a pipe");
        return NULL;
    }
    sst_pipe_end_handle(self->pipe, &handle);
    return sstpy_handle_new(&handle);
}

PyDoc_STRVAR(connection_from_parts_doc,
             "from_parts($type, handle, end, fd, /)\n--\n\n"
             "The end of a pipe that another process took apart. Takes over the "
             "descriptor.");

static PyObject *
connection_from_parts(PyObject *cls, PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"handle", "end", "fd"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("from_parts", 3, names);
    PyTypeObject *const type = (PyTypeObject *)cls;
    struct sst_pipe *pipe = NULL;
    struct sst_handle handle;
    struct sst_error err = {0};
    PyObject *given[3];
    int end = 0;
    int fd = 0;

    if (sstpy_parse(&signature, args, nargs, NULL, given) < 0 ||
        sstpy_handle_parse(given[0], &handle) < 0 ||
        sstpy_to_int(given[1], 0, &end) < 0 || sstpy_to_int(given[2], 0, &fd) < 0) {
        return NULL;
    }

    struct sstpy_state *const state = sstpy_state_of(type);
    struct sst_arena *const arena = state != NULL ? sstpy_arena(state) : NULL;
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_pipe_attach(arena, &handle, end, fd, &pipe, &err);
    return rc < 0 ? sstpy_raise(state, rc, &err) : connection_wrap(type, pipe);
}

static int
connection_traverse(PyObject *obj, visitproc visit, void *arg)
{
    Py_VISIT(((ConnectionObject *)obj)->loads);
    return sstpy_traverse_type(obj, visit, arg);
}

static int
connection_clear(PyObject *obj)
{
    Py_CLEAR(((ConnectionObject *)obj)->loads);
    return 0;
}

static void
connection_dealloc(PyObject *obj)
{
    PyObject_GC_UnTrack(obj);
    (void)connection_clear(obj);
    Py_CLEAR(((ConnectionObject *)obj)->partial);
    (void)connection_release((ConnectionObject *)obj); /* nobody to tell */
    sstpy_free(obj);
}

PyDoc_STRVAR(connection_enter_doc, "__enter__($self, /)\n--\n\n");
PyDoc_STRVAR(connection_exit_doc, "__exit__($self, /, *args)\n--\n\n");

#define CONNECTION_FASTCALL(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef connection_methods[] = {
    {"send", sstpy_connection_send, METH_O, sstpy_connection_send_doc},
    {"recv", sstpy_connection_recv, METH_NOARGS, sstpy_connection_recv_doc},
    {"send_bytes", CONNECTION_FASTCALL(sstpy_connection_send_bytes),
     METH_FASTCALL | METH_KEYWORDS, sstpy_connection_send_bytes_doc},
    {"recv_bytes", CONNECTION_FASTCALL(sstpy_connection_recv_bytes),
     METH_FASTCALL | METH_KEYWORDS, sstpy_connection_recv_bytes_doc},
    {"recv_bytes_into", CONNECTION_FASTCALL(sstpy_connection_recv_bytes_into),
     METH_FASTCALL | METH_KEYWORDS, sstpy_connection_recv_bytes_into_doc},
    {"poll", CONNECTION_FASTCALL(sstpy_connection_poll), METH_FASTCALL | METH_KEYWORDS,
     sstpy_connection_poll_doc},
    {"pending", sstpy_connection_pending, METH_NOARGS, sstpy_connection_pending_doc},
    {"fileno", connection_fileno, METH_NOARGS, connection_fileno_doc},
    {"close", connection_close, METH_NOARGS, connection_close_doc},
    {"__enter__", connection_enter, METH_NOARGS, connection_enter_doc},
    {"__exit__", CONNECTION_FASTCALL(connection_exit), METH_FASTCALL,
     connection_exit_doc},
    {"statistics", connection_statistics, METH_NOARGS, connection_statistics_doc},
    {"_restrict", CONNECTION_FASTCALL(connection_restrict), METH_FASTCALL,
     connection_restrict_doc},
    {"_restrictions", connection_restrictions, METH_NOARGS,
     connection_restrictions_doc},
    {"_attach", connection_attach, METH_O, connection_attach_doc},
    {"_keep_private", CONNECTION_FASTCALL(connection_keep_private), METH_FASTCALL,
     connection_keep_private_doc},
    {"_detach", connection_detach, METH_NOARGS, connection_detach_doc},
    {"_parts", connection_parts, METH_NOARGS, connection_parts_doc},
    {"_end_handle", connection_end_handle, METH_NOARGS, connection_end_handle_doc},
    {"_pipe", CONNECTION_FASTCALL(connection_pipe), METH_FASTCALL | METH_CLASS,
     connection_pipe_doc},
    {"from_parts", CONNECTION_FASTCALL(connection_from_parts),
     METH_FASTCALL | METH_CLASS, connection_from_parts_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef connection_getset[] = {
    {"closed", connection_get_closed, NULL, "Whether it is closed.", NULL},
    {"readable", connection_get_readable, NULL, "Whether it can receive.", NULL},
    {"writable", connection_get_writable, NULL, "Whether it can send.", NULL},
    {"_handle", connection_get_handle, connection_set_handle,
     "The descriptor underneath; None when closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(connection_doc,
             "Connection(handle, readable=True, writable=True)\n--\n\n"
             "Messages over a descriptor, which it takes over, or one end of a pipe.");

static PyType_Slot connection_slots[] = {
    {Py_tp_doc, (void *)connection_doc},
    {Py_tp_new, connection_new},
    {Py_tp_init, connection_init},
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {Py_tp_methods, connection_methods},
    {Py_tp_getset, connection_getset},
    {0, NULL},
};

static PyType_Spec connection_spec = {
    .name = "sidestep._core.Connection",
    .basicsize = sizeof(ConnectionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = connection_slots,
};

PyDoc_STRVAR(pipe_doc, "pipe($module, duplex=True, /)\n--\n\n"
                       "Two connections to each other: Connection._pipe(duplex).");

static PyObject *
core_pipe(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    const struct sstpy_state *const state = sstpy_module_state(module);

    return connection_pipe((PyObject *)state->connection_type, args, nargs);
}

PyMethodDef sstpy_connection_methods[] = {
    {"pipe", CONNECTION_FASTCALL(core_pipe), METH_FASTCALL, pipe_doc},
    {NULL, NULL, 0, NULL},
};

int
sstpy_connection_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &connection_spec, &state->connection_type);
}
