/* SPDX-License-Identifier: MIT */

/* sidestep._tls: what sidestep.connection needs of TLS. */

#include "compat.h"

#include <string.h>

#include "tls.h"

/* -Wmissing-prototypes wants one. */
PyMODINIT_FUNC PyInit__tls(void);

enum {
    HALF_OPEN_MAX = 256,
};

static PyObject *
raise_status(int status)
{
    switch (status) {
    case SSTPY_TLS_REFUSED:
        PyErr_SetString(PyExc_ConnectionRefusedError,
                        "the peer has another key, or does not speak this protocol");
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

static int
secret_of(const Py_buffer *given, struct sstpy_tls_secret *out)
{
    if (given->len != sizeof *out) {
        PyErr_SetString(PyExc_ValueError, "no secret of derive()");
        return -1;
    }
    memcpy(out, given->buf, sizeof *out);
    return 0;
}

PyDoc_STRVAR(derive_doc, "derive($module, key, context, /)\n--\n\n"
                         "What listener and client of `context` that have `key` know.");

static PyObject *
tls_derive(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct sstpy_tls_secret secret;
    Py_buffer key;
    Py_buffer context;
    PyObject *result = NULL;
    int rc;

    if (!PyArg_ParseTuple(args, "y*y*:derive", &key, &context)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = sstpy_tls_derive(key.buf, (size_t)key.len, context.buf, (size_t)context.len,
                          &secret);
    Py_END_ALLOW_THREADS
    if (rc == 0) {
        result = PyBytes_FromStringAndSize((const char *)&secret, sizeof secret);
    }
    else {
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL cannot derive the key");
    }
    explicit_bzero(&secret, sizeof secret);
    PyBuffer_Release(&key);
    PyBuffer_Release(&context);
    return result;
}

PyDoc_STRVAR(connect_doc,
             "connect($module, fd, secret, timeout, /)\n--\n\n"
             "The descriptor of a plain stream to the listener behind a connected "
             "socket, which is taken in any case.");

static PyObject *
tls_connect(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct sstpy_tls_secret secret;
    Py_buffer given;
    double timeout;
    int fd;
    int rc;

    if (!PyArg_ParseTuple(args, "iy*d:connect", &fd, &given, &timeout)) {
        return NULL;
    }
    rc = secret_of(&given, &secret);
    PyBuffer_Release(&given);
    if (rc < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = sstpy_tls_connect(fd, &secret, (int64_t)(timeout * 1000));
    Py_END_ALLOW_THREADS
    explicit_bzero(&secret, sizeof secret);
    return rc >= 0 ? PyLong_FromLong(rc) : raise_status(rc);
}

PyDoc_STRVAR(listen_doc,
             "listen($module, fd, secret, timeout, /)\n--\n\n"
             "Let peers come to a listening socket, which is taken in any case. The "
             "descriptor of a socket that gives struct sstpy_tls_arrival; shutting it "
             "down ends the listener.");

static PyObject *
tls_listen(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct sstpy_tls_secret secret;
    Py_buffer given;
    double timeout;
    int fd;
    int rc;

    if (!PyArg_ParseTuple(args, "iy*d:listen", &fd, &given, &timeout)) {
        return NULL;
    }
    rc = secret_of(&given, &secret);
    PyBuffer_Release(&given);
    if (rc < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = sstpy_tls_listen(fd, &secret, (int64_t)(timeout * 1000), HALF_OPEN_MAX);
    Py_END_ALLOW_THREADS
    explicit_bzero(&secret, sizeof secret);
    return rc >= 0 ? PyLong_FromLong(rc) : raise_status(rc);
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
    uint32_t relayed;
    uint32_t half_open;

    Py_BEGIN_ALLOW_THREADS
    sstpy_tls_count(&relayed, &half_open);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("{s:I,s:I}", "relayed", (unsigned)relayed, "half_open",
                         (unsigned)half_open);
}

static PyMethodDef tls_methods[] = {
    {"derive", tls_derive, METH_VARARGS, derive_doc},
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
    .m_doc = "TLS with a key that both sides know, for sidestep.connection.",
    .m_methods = tls_methods,
    .m_slots = tls_slots,
};

PyMODINIT_FUNC
PyInit__tls(void)
{
    return PyModuleDef_Init(&tls_module);
}
