/* SPDX-License-Identifier: MIT */

/* Server: many connections in one thread. The core does all of it; here its events
 * become tuples. */

#include "args.h"
#include "compat.h"
#include "copy.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_server *server; /* NULL: closed, or never opened */
    uint32_t users;            /* threads inside a call; guarded by the GIL, as all */
    bool is_closing;           /* the last one out closes it */
    unsigned long epoch;       /* of fork, to which `users` belongs */
} ServerObject;

/* ---- Who is inside ---- */

/* The core's server, which stays until server_leave(). NULL with an exception set. */
static struct sst_server *
server_enter(PyObject *obj)
{
    ServerObject *const self = (ServerObject *)obj;

    if (self->server == NULL || self->is_closing) {
        PyErr_SetString(PyExc_ValueError, "the server is closed");
        return NULL;
    }
    if (self->epoch != sstpy_fork_epoch()) {
        self->epoch = sstpy_fork_epoch();
        self->users = 0; /* threads of the parent */
    }
    self->users++;
    return self->server;
}

static void
server_leave(PyObject *obj)
{
    ServerObject *const self = (ServerObject *)obj;

    self->users--;
    if (self->users == 0 && self->is_closing) {
        self->server = sst_server_close(self->server);
    }
}

PyDoc_STRVAR(server_close_doc, "close($self, /)\n--\n\n"
                               "Close all connections and stop listening. A thread "
                               "inside take() leaves first.");

static PyObject *
server_close(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ServerObject *const self = (ServerObject *)obj;
    struct sst_server *server = NULL;

    if (self->server == NULL || self->is_closing) {
        Py_RETURN_NONE;
    }
    server = server_enter(obj);
    self->is_closing = true;
    sst_server_wake(server);
    server_leave(obj);
    Py_RETURN_NONE;
}

/* None, or the exception for what the core said of a connection: that it has gone is a
 * BrokenPipeError. */
static PyObject *
server_result(const ServerObject *self, int rc)
{
    if (rc == SST_ESTALE) {
        return sstpy_raise_errno(SST_EPIPE);
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

static int
server_to_connection(PyObject *obj, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(obj);
    return *out == (uint64_t)-1 && PyErr_Occurred() != NULL ? -1 : 0;
}

/* ---- Connections come ---- */

PyDoc_STRVAR(server_listen_doc, "listen($self, fd, /)\n--\n\n"
                                "Accept at a listening socket, whose descriptor "
                                "becomes the server's.");

static PyObject *
server_listen(PyObject *obj, PyObject *arg)
{
    struct sst_server *server = NULL;
    int fd = 0;

    if (sstpy_to_int(arg, 0, &fd) < 0 || (server = server_enter(obj)) == NULL) {
        return NULL;
    }

    const int rc = sst_server_listen(server, fd);
    server_leave(obj);
    return server_result((ServerObject *)obj, rc);
}

PyDoc_STRVAR(server_add_doc, "add($self, /, fd, greeted=False)\n--\n\n"
                             "Serve a connected socket, whose descriptor becomes the "
                             "server's: the connection's number.");

static PyObject *
server_add(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"fd", "greeted"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("add", 1, names);
    struct sst_server *server = NULL;
    PyObject *given[2];
    uint64_t connection = 0;
    bool is_greeted = false;
    int fd = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_int(given[0], 0, &fd) < 0 ||
        sstpy_to_bool(given[1], false, &is_greeted) < 0 ||
        (server = server_enter(obj)) == NULL) {
        return NULL;
    }

    const int rc = sst_server_add(server, fd, is_greeted, &connection);
    server_leave(obj);
    if (rc < 0) {
        return server_result((ServerObject *)obj, rc);
    }
    return PyLong_FromUnsignedLongLong(connection);
}

/* ---- Taking ---- */

struct server_call {
    struct sst_server *server;
    struct sst_server_event event;
};

static int
server_call_take(void *context, int64_t deadline_ns)
{
    struct server_call *const call = context;

    return sst_server_take(call->server, &call->event, deadline_ns);
}

static PyObject *
server_message(const struct sst_server_event *event)
{
    PyObject *bytes = NULL;

    if (event->size <= PY_SSIZE_T_MAX) {
        bytes = PyBytes_FromStringAndSize(event->data, (Py_ssize_t)event->size);
    }
    else {
        (void)PyErr_NoMemory();
    }
    sst_server_free(event->data);
    return Py_BuildValue("(iKNO)", (int)event->what,
                         (unsigned long long)event->connection, bytes, Py_None);
}

static PyObject *
server_event(const struct sst_server_event *event)
{
    const unsigned long long connection = event->connection;

    switch (event->what) {
    case SST_SERVER_OPENED:
        if (!event->peer_is_known) {
            return Py_BuildValue("(iKOO)", (int)event->what, connection, Py_None,
                                 Py_None);
        }
        return Py_BuildValue("(iKIi)", (int)event->what, connection,
                             (unsigned int)event->peer_uid, (int)event->peer_pid);
    case SST_SERVER_MESSAGE:
        return server_message(event);
    case SST_SERVER_ENDED:
        return Py_BuildValue("(iKsK)", (int)event->what, connection,
                             sst_status_text(event->status),
                             (unsigned long long)event->size);
    default:
        return Py_BuildValue("(iKOO)", (int)event->what, connection, Py_None, Py_None);
    }
}

PyDoc_STRVAR(server_take_doc,
             "take($self, /, timeout=None)\n--\n\n"
             "What happened next: (SERVER_OPENED, connection, uid, pid), both None "
             "where the kernel does not know;\n"
             "(SERVER_MESSAGE, connection, bytes, None);\n"
             "(SERVER_ENDED, connection, why, bytes that were not sent, or 1 if the "
             "peer left some unread);\n"
             "(SERVER_WOKEN, 0, None, None). None at the time-out, in seconds.\n\n"
             "One thread at a time. MemoryError loses the message and ends its "
             "connection.");

static PyObject *
server_take(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("take", 0, names);
    ServerObject *const self = (ServerObject *)obj;
    struct server_call call = {0};
    PyObject *given[1];
    PyObject *result = NULL;
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_duration(given[0], &duration_ns) < 0 ||
        (call.server = server_enter(obj)) == NULL) {
        return NULL;
    }

    const int rc = sstpy_wait(server_call_take, &call, duration_ns);
    if (rc == SST_ETIMEDOUT) {
        result = Py_NewRef(Py_None);
    }
    else if (rc == SST_ESTALE) {
        PyErr_SetString(PyExc_ValueError, "the server is another process's");
    }
    else if (rc < 0) {
        (void)sstpy_raise(self->state, rc, NULL);
    }
    else {
        result = server_event(&call.event);
        if (result == NULL) {
            (void)!sst_server_end(call.server, call.event.connection); /* has gone */
        }
    }
    server_leave(obj);
    return result;
}

/* ---- Answering ---- */

PyDoc_STRVAR(server_send_doc,
             "send($self, connection, data, /)\n--\n\n"
             "Send a message. Never waits: whether the system has taken all of it. "
             "BrokenPipeError when the connection has gone.");

static PyObject *
server_send(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    struct sst_server *server = NULL;
    uint64_t connection = 0;
    Py_buffer view;
    int rc = 0;

    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "send() takes exactly 2 arguments");
        return NULL;
    }
    if (server_to_connection(args[0], &connection) < 0 ||
        PyObject_GetBuffer(args[1], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    server = server_enter(obj);
    if (server == NULL) {
        PyBuffer_Release(&view);
        return NULL;
    }
    if (view.len < SSTPY_DETACH_SIZE) {
        rc = sst_server_send(server, connection, view.buf, (uint64_t)view.len);
    }
    else {
        Py_BEGIN_ALLOW_THREADS
        rc = sst_server_send(server, connection, view.buf, (uint64_t)view.len);
        Py_END_ALLOW_THREADS
    }
    server_leave(obj);
    PyBuffer_Release(&view);
    if (rc < 0) {
        return server_result((ServerObject *)obj, rc);
    }
    return PyBool_FromLong(rc == 0);
}

/* Have the core do something about a connection: what it returned, or SSTPY_RAISED. */
static int
server_do(PyObject *obj, PyObject *arg,
          int (*call)(struct sst_server *server, uint64_t connection))
{
    struct sst_server *server = NULL;
    uint64_t connection = 0;

    if (server_to_connection(arg, &connection) < 0 ||
        (server = server_enter(obj)) == NULL) {
        return SSTPY_RAISED;
    }

    const int rc = call(server, connection);
    server_leave(obj);
    return rc;
}

PyDoc_STRVAR(server_greet_doc, "greet($self, connection, /)\n--\n\n"
                               "It has shown who it is. Its next message is read.");

static PyObject *
server_greet(PyObject *obj, PyObject *arg)
{
    return server_result((ServerObject *)obj, server_do(obj, arg, sst_server_greet));
}

PyDoc_STRVAR(server_finish_doc, "finish($self, connection, /)\n--\n\n"
                                "End it as soon as its answers are out.");

static PyObject *
server_finish(PyObject *obj, PyObject *arg)
{
    return server_result((ServerObject *)obj, server_do(obj, arg, sst_server_finish));
}

PyDoc_STRVAR(server_end_doc, "end($self, connection, /)\n--\n\nEnd it now.");

static PyObject *
server_end(PyObject *obj, PyObject *arg)
{
    return server_result((ServerObject *)obj, server_do(obj, arg, sst_server_end));
}

PyDoc_STRVAR(server_release_doc,
             "release($self, connection, /)\n--\n\n"
             "Take it out of the server, between two messages: its descriptor.");

static PyObject *
server_release(PyObject *obj, PyObject *arg)
{
    const int rc = server_do(obj, arg, sst_server_release);

    return rc < 0 ? server_result((ServerObject *)obj, rc) : PyLong_FromLong(rc);
}

PyDoc_STRVAR(server_wake_doc, "wake($self, /)\n--\n\n"
                              "Have take() return SERVER_WOKEN, in any thread.");

static PyObject *
server_wake(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    struct sst_server *const server = server_enter(obj);

    if (server == NULL) {
        return NULL;
    }
    sst_server_wake(server);
    server_leave(obj);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(server_statistics_doc,
             "statistics($self, /)\n--\n\n"
             "connections, half_open, moving, at_work: now; accepted, refused, "
             "displaced, late, messages: ever.");

static PyObject *
server_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    struct sst_server *const server = server_enter(obj);
    struct sst_server_statistics found;

    if (server == NULL) {
        return NULL;
    }
    sst_server_statistics(server, &found);
    server_leave(obj);
    return Py_BuildValue("{sIsIsIsIsKsKsKsKsK}", "connections", found.connections,
                         "half_open", found.half_open, "moving", found.moving,
                         "at_work", found.at_work, "accepted",
                         (unsigned long long)found.accepted, "refused",
                         (unsigned long long)found.refused, "displaced",
                         (unsigned long long)found.displaced, "late",
                         (unsigned long long)found.late, "messages",
                         (unsigned long long)found.messages);
}

/* ---- The type ---- */

static int
server_to_count(PyObject *obj, uint64_t most, uint64_t *out)
{
    *out = obj != NULL ? PyLong_AsUnsignedLongLong(obj) : 0;
    if (*out == (uint64_t)-1 && PyErr_Occurred() != NULL) {
        return -1;
    }
    if (*out > most) {
        PyErr_SetString(PyExc_OverflowError, "the limit is too large");
        return -1;
    }
    return 0;
}

static int
server_to_patience(PyObject *obj, int64_t *out)
{
    *out = 0;
    if (obj == NULL) {
        return 0;
    }
    return sstpy_to_duration(obj, out);
}

static int
server_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {
        "connections_max",
        "half_open_max",
        "greeting_size_max",
        "message_size_max",
        "greeting",
        "stall",
        "idle",
    };
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("Server", 0, names);
    ServerObject *const self = (ServerObject *)obj;
    struct sst_server_options options = {.size_of = sizeof(options)};
    struct sst_error err = {0};
    PyObject *given[7];
    uint64_t counts[3];

    if (self->server != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the object is initialised already");
        return -1;
    }
    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0) {
        return -1;
    }
    for (int i = 0; i < 3; i++) {
        if (server_to_count(given[i], UINT32_MAX, &counts[i]) < 0) {
            return -1;
        }
    }
    options.connections_max = (uint32_t)counts[0];
    options.half_open_max = (uint32_t)counts[1];
    options.greeting_size_max = (uint32_t)counts[2];
    if (server_to_count(given[3], INT64_MAX, &options.message_size_max) < 0 ||
        server_to_patience(given[4], &options.greeting_ns) < 0 ||
        server_to_patience(given[5], &options.stall_ns) < 0 ||
        server_to_patience(given[6], &options.idle_ns) < 0) {
        return -1;
    }

    const int rc = sst_server_open(&options, &self->server, &err);
    self->epoch = sstpy_fork_epoch();
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

static void
server_dealloc(PyObject *obj)
{
    ServerObject *const self = (ServerObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->server = sst_server_close(self->server);
    sstpy_free(obj);
}

static PyMethodDef server_methods[] = {
    {"listen", server_listen, METH_O, server_listen_doc},
    {"add", (PyCFunction)(void (*)(void))server_add, METH_FASTCALL | METH_KEYWORDS,
     server_add_doc},
    {"take", (PyCFunction)(void (*)(void))server_take, METH_FASTCALL | METH_KEYWORDS,
     server_take_doc},
    {"send", (PyCFunction)(void (*)(void))server_send, METH_FASTCALL, server_send_doc},
    {"greet", server_greet, METH_O, server_greet_doc},
    {"finish", server_finish, METH_O, server_finish_doc},
    {"end", server_end, METH_O, server_end_doc},
    {"release", server_release, METH_O, server_release_doc},
    {"wake", server_wake, METH_NOARGS, server_wake_doc},
    {"close", server_close, METH_NOARGS, server_close_doc},
    {"statistics", server_statistics, METH_NOARGS, server_statistics_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(server_doc,
             "Server(connections_max=0, half_open_max=0, greeting_size_max=0, "
             "message_size_max=0, greeting=0, stall=0, idle=0)\n--\n\n"
             "Many connections in one thread. Times are in seconds; 0 is the core's "
             "default.");

static PyType_Slot server_slots[] = {
    {Py_tp_doc, (void *)server_doc},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, server_init},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, server_methods},
    {0, NULL},
};

static PyType_Spec server_spec = {
    .name = "sidestep._core.Server",
    .basicsize = sizeof(ServerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = server_slots,
};

int
sstpy_server_exec(PyObject *module, struct sstpy_state *state)
{
    if (PyModule_AddIntConstant(module, "SERVER_OPENED", SST_SERVER_OPENED) < 0 ||
        PyModule_AddIntConstant(module, "SERVER_MESSAGE", SST_SERVER_MESSAGE) < 0 ||
        PyModule_AddIntConstant(module, "SERVER_ENDED", SST_SERVER_ENDED) < 0 ||
        PyModule_AddIntConstant(module, "SERVER_WOKEN", SST_SERVER_WOKEN) < 0) {
        return -1;
    }
    return sstpy_type_add(module, &server_spec, &state->server_type);
}
