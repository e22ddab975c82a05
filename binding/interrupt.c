/* SPDX-License-Identifier: MIT */

#include "interrupt.h"

#include "errors.h"

enum {
    TRIES = 3,
};

/* Owned. A thread that ends with one has nobody to raise it in. */
static _Thread_local PyObject *held;

bool
sstpy_interrupt_hold(void)
{
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        return false;
    }
    if (held == NULL) {
        held = sstpy_take_exception();
    }
    else {
        PyErr_Clear();
    }
    return true;
}

int
sstpy_interrupt_raise(void)
{
    PyObject *const error = held;

    if (error == NULL) {
        return 0;
    }
    held = NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return -1;
}

static int
raise_pending(void *error)
{
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), error);
    Py_DECREF((PyObject *)error);
    return -1;
}

void
sstpy_interrupt_raise_later(void)
{
    if (held == NULL) {
        return;
    }
    /* The main thread's state is the oldest; there pending calls are made. Is there no
     * room for one, it stays held until the thread waits for the next result. */
    if (PyThreadState_Next(PyThreadState_Get()) != NULL) {
        (void)sstpy_interrupt_raise();
        PyErr_WriteUnraisable(NULL);
    }
    else if (Py_AddPendingCall(raise_pending, held) == 0) {
        held = NULL;
    }
}

bool
sstpy_retry(struct sstpy_retry *retry)
{
    const bool first = held == NULL;

    if (++retry->count < TRIES && sstpy_interrupt_hold()) {
        retry->held = retry->held || first;
        return true;
    }
    if (retry->held && !PyErr_ExceptionMatches(PyExc_Exception)) {
        Py_CLEAR(held); /* it was its own all the time */
    }
    return false;
}
