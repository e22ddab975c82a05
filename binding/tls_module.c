/* SPDX-License-Identifier: MIT */

/* sidestep._tls: what sidestep.connection needs of TLS. */

#include "compat.h"

#include <openssl/ssl.h>

#include "tls.h"
#include "transport.h"

/* -Wmissing-prototypes wants one. */
PyMODINIT_FUNC PyInit__tls(void);

enum {
    HALF_OPEN_MAX = 256,
};

static PyObject *
raise_status(int status, const char *why)
{
    switch (status) {
    case SSTPY_TLS_REFUSED:
        PyErr_SetString(PyExc_ConnectionRefusedError,
                        why[0] != '\0'
                            ? why
                            : "the peer has another key, or does not speak this "
                              "protocol");
        break;
    case SSTPY_TLS_LATE:
        PyErr_SetString(PyExc_TimeoutError, "the peer took too long to show its key");
        break;
    default:
        (void)PyErr_SetFromErrno(PyExc_OSError);
        break;
    }
    return NULL;
}

/* ---- Settings ---- */

static const char context_name[] = "sidestep._tls.context";

static void
context_free(PyObject *capsule)
{
    SSL_CTX_free(PyCapsule_GetPointer(capsule, context_name));
}

static PyObject *
context_wrap(SSL_CTX *context)
{
    PyObject *const capsule = PyCapsule_New(context, context_name, context_free);

    if (capsule == NULL) {
        SSL_CTX_free(context);
    }
    return capsule;
}

PyDoc_STRVAR(context_doc,
             "context($module, server, key, context, /)\n--\n\n"
             "The settings of one side for those that have `key` and mean the listener "
             "`context`. What is derived from the key stays inside.");

static PyObject *
tls_context(PyObject *Py_UNUSED(module), PyObject *args)
{
    SSL_CTX *made = NULL;
    Py_buffer key;
    Py_buffer context;
    int server;

    if (!PyArg_ParseTuple(args, "py*y*:context", &server, &key, &context)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    made = sstpy_tls_context_with_key(server != 0, key.buf, (size_t)key.len,
                                      context.buf, (size_t)context.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&key);
    PyBuffer_Release(&context);
    if (made == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL cannot use the key");
        return NULL;
    }
    return context_wrap(made);
}

PyDoc_STRVAR(certified_doc,
             "certified($module, server, certificate, key, authority, peer, /)\n--\n\n"
             "The settings of one side that shows a certificate and wants one that the "
             "authority has signed and that names `peer`, unless that is None. Files "
             "are PEM; ValueError says what is wrong with them.");

static PyObject *
tls_certified(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct sstpy_tls_certificates files = {0};
    char why[SSTPY_TLS_WHY_SIZE * 4];
    SSL_CTX *made = NULL;
    int server;

    if (!PyArg_ParseTuple(args, "psssz:certified", &server, &files.certificate,
                          &files.key, &files.authority, &files.peer)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    made = sstpy_tls_context_certified(server != 0, &files, why, sizeof why);
    Py_END_ALLOW_THREADS
    if (made == NULL) {
        PyErr_SetString(PyExc_ValueError, why);
        return NULL;
    }
    return context_wrap(made);
}

/* ---- Connections ---- */

static void
transport_free(PyObject *capsule)
{
    struct sstpy_transport *const transport =
        PyCapsule_GetPointer(capsule, SSTPY_TRANSPORT_NAME);

    (void)transport->close(transport); /* nobody took it out */
}

static PyObject *
transport_wrap(struct sstpy_transport *transport)
{
    PyObject *const capsule =
        PyCapsule_New(transport, SSTPY_TRANSPORT_NAME, transport_free);

    if (capsule == NULL) {
        (void)transport->close(transport);
    }
    return capsule;
}

PyDoc_STRVAR(connect_doc,
             "connect($module, fd, context, timeout, /)\n--\n\n"
             "Do the handshake with the listener behind a connected socket, which is "
             "taken in any case. The transport that goes with the descriptor.");

static PyObject *
tls_connect(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct sstpy_transport *transport = NULL;
    char why[SSTPY_TLS_WHY_SIZE];
    PyObject *given = NULL;
    double timeout;
    int fd;
    int rc;

    if (!PyArg_ParseTuple(args, "iOd:connect", &fd, &given, &timeout)) {
        return NULL;
    }
    SSL_CTX *const context = PyCapsule_GetPointer(given, context_name);
    if (context == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = sstpy_tls_connect(fd, context, (int64_t)(timeout * 1000), &transport, why,
                           sizeof why);
    Py_END_ALLOW_THREADS
    return rc == SSTPY_TLS_OK ? transport_wrap(transport) : raise_status(rc, why);
}

PyDoc_STRVAR(listen_doc,
             "listen($module, fd, context, timeout, /)\n--\n\n"
             "Let peers come to a listening socket, which is taken in any case. The "
             "descriptor of a socket that gives struct sstpy_tls_arrival; shutting it "
             "down ends the listener.");

static PyObject *
tls_listen(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *given = NULL;
    double timeout;
    int fd;
    int rc;

    if (!PyArg_ParseTuple(args, "iOd:listen", &fd, &given, &timeout)) {
        return NULL;
    }
    SSL_CTX *const context = PyCapsule_GetPointer(given, context_name);
    if (context == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = sstpy_tls_listen(fd, context, (int64_t)(timeout * 1000), HALF_OPEN_MAX);
    Py_END_ALLOW_THREADS
    return rc >= 0 ? PyLong_FromLong(rc) : raise_status(rc, "");
}

PyDoc_STRVAR(take_doc, "take($module, fd, /)\n--\n\n"
                       "The transport of a connection that arrived at a listener.");

static PyObject *
tls_take(PyObject *Py_UNUSED(module), PyObject *arg)
{
    struct sstpy_transport *transport = NULL;
    const long fd = PyLong_AsLong(arg);

    if (fd == -1 && PyErr_Occurred() != NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    transport = sstpy_tls_take((int)fd);
    Py_END_ALLOW_THREADS
    if (transport == NULL) {
        PyErr_SetString(PyExc_ValueError, "no connection arrived under this number");
        return NULL;
    }
    return transport_wrap(transport);
}

PyDoc_STRVAR(flush_doc, "flush($module, timeout, /)\n--\n\n"
                        "Wait until what was written is on its way; False if it is not "
                        "in time.");

static PyObject *
tls_flush(PyObject *Py_UNUSED(module), PyObject *arg)
{
    const double timeout = PyFloat_AsDouble(arg);
    bool done;

    if (PyErr_Occurred() != NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    done = sstpy_tls_flush((int64_t)(timeout * 1000));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

PyDoc_STRVAR(statistics_doc, "statistics($module, /)\n--\n\n"
                             "Connections and handshakes of this process.");

static PyObject *
tls_statistics(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    uint32_t direct;
    uint32_t relayed;
    uint32_t half_open;

    Py_BEGIN_ALLOW_THREADS
    sstpy_tls_count(&direct, &relayed, &half_open);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("{s:I,s:I,s:I}", "direct", (unsigned)direct, "relayed",
                         (unsigned)relayed, "half_open", (unsigned)half_open);
}

static PyMethodDef tls_methods[] = {
    {"context", tls_context, METH_VARARGS, context_doc},
    {"certified", tls_certified, METH_VARARGS, certified_doc},
    {"take", tls_take, METH_O, take_doc},
    {"connect", tls_connect, METH_VARARGS, connect_doc},
    {"listen", tls_listen, METH_VARARGS, listen_doc},
    {"flush", tls_flush, METH_O, flush_doc},
    {"statistics", tls_statistics, METH_NOARGS, statistics_doc},
    {NULL, NULL, 0, NULL},
};

static int
tls_exec(PyObject *Py_UNUSED(module))
{
    if (sstpy_tls_setup() < 0) {
        (void)PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot tls_slots[] = {
    {Py_mod_exec, (void *)tls_exec},
    {0, NULL},
};

static struct PyModuleDef tls_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "sidestep._tls",
    .m_doc = "TLS for sidestep.connection.",
    .m_methods = tls_methods,
    .m_slots = tls_slots,
};

PyMODINIT_FUNC
PyInit__tls(void)
{
    return PyModuleDef_Init(&tls_module);
}
