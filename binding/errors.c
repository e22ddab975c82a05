/* SPDX-License-Identifier: MIT */

/* Statuses of the core become exceptions here and nowhere else. The table is the one in
 * the public header: its third column names the Python exception. */

#include "errors.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "compat.h"

struct status_row {
    int status;
    const char *exception;
};

static const struct status_row status_rows[] = {
#define STATUS_ROW(name, value, category, python, text) {(value), (python)},
    SST_STATUS_TABLE(STATUS_ROW)
#undef STATUS_ROW
};

/* Our own exceptions and those that are not builtins. Borrowed; NULL for any other. */
static PyObject *
exception_from_state(const struct sstpy_state *state, const char *name)
{
    if (strcmp(name, "OwnerDied") == 0) {
        return state->owner_died;
    }
    if (strcmp(name, "BrokenBarrierError") == 0) {
        return state->broken_barrier;
    }
    if (strcmp(name, "ShutDown") == 0) {
        return state->shut_down;
    }
    return NULL;
}

static PyObject *
exception_builtin(const char *name)
{
    if (strcmp(name, "ValueError") == 0) {
        return PyExc_ValueError;
    }
    if (strcmp(name, "MemoryError") == 0) {
        return PyExc_MemoryError;
    }
    if (strcmp(name, "RuntimeError") == 0) {
        return PyExc_RuntimeError;
    }
    if (strcmp(name, "AssertionError") == 0) {
        return PyExc_AssertionError;
    }
    if (strcmp(name, "EOFError") == 0) {
        return PyExc_EOFError;
    }
    if (strcmp(name, "NotImplementedError") == 0) {
        return PyExc_NotImplementedError;
    }
    return PyExc_OSError; /* and its subclasses, which OSError chooses by errno */
}

static const char *
exception_name(int status)
{
    for (size_t i = 0; i < sizeof(status_rows) / sizeof(*status_rows); i++) {
        if (status_rows[i].status == status) {
            return status_rows[i].exception;
        }
    }
    return "OSError";
}

PyObject *
sstpy_raise_errno(int status)
{
    errno = -status;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* Which limit it is that was reached: where a call fails with EAGAIN and a text, it was
 * one that makes a process or a thread. */
static const char *
limit_hint(int status)
{
    switch (status) {
    case SST_EMFILE:
        return " (open files: ulimit -n)";
    case SST_EAGAIN:
        return " (processes: ulimit -u, or pids.max of the control group)";
    default:
        return "";
    }
}

/* OSError(errno, text): the constructor picks the subclass that belongs to the errno.
 * */
static void
raise_os_error(int status, const char *text)
{
    const char *const hint = limit_hint(status);
    PyObject *const said = PyUnicode_FromFormat("%s%s", text, hint);
    PyObject *const error =
        said != NULL ? PyObject_CallFunction(PyExc_OSError, "iO", -status, said) : NULL;

    Py_XDECREF(said);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

PyObject *
sstpy_raise(const struct sstpy_state *state, int status, const struct sst_error *err)
{
    if (status == SSTPY_RAISED) {
        return NULL;
    }

    const char *const name = exception_name(status);
    const bool told = err != NULL && err->text[0] != '\0';
    const char *const text = told ? err->text : sst_status_text(status);
    PyObject *const own = exception_from_state(state, name);
    PyObject *const exception = own != NULL ? own : exception_builtin(name);

    if (exception == PyExc_OSError && status > -4096) {
        if (told || status == SST_EMFILE) {
            raise_os_error(status, told ? text : strerror(-status));
        }
        else {
            sstpy_raise_errno(status);
        }
    }
    else if (exception == PyExc_EOFError) {
        PyErr_SetNone(exception); /* the stdlib gives it no text */
    }
    else {
        PyErr_SetString(exception, text);
    }
    return NULL;
}

int
sstpy_fail(const struct sstpy_state *state, int status, const struct sst_error *err)
{
    (void)sstpy_raise(state, status, err);
    return -1;
}

PyObject *
sstpy_take_exception(void)
{
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *traceback = NULL;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        (void)PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}
