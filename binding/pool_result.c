/* SPDX-License-Identifier: MIT */

/* PoolResult: what is to come of a call, a map or an iterator over a pool; PoolJobs:
 * the unfinished ones of one pool.
 *
 * A result is listed in its jobs from its making until it is finished, and the list
 * owns it: who drops it does not stop it. While the list is not empty it owns the pool.
 * A result is finished once every item has an outcome; then its callback is called,
 * then its watchers are told, then `news` is set, then who waits looks. Who comes while
 * the callback runs waits for its end.
 *
 * Watchers are callables of the Python side, told of every outcome: an event loop that
 * is to wake, a progress bar that is to move. They stand behind the callbacks, in the
 * same tuple, so that a result that nobody watches is no larger for it.
 *
 * In a pool of threads outcomes come from its workers, by _deliver(), and who waits
 * sleeps on a lock of his own. In a pool of processes who waits drives: he takes
 * results from the core, for all (jobs->drive).
 *
 * Everything is guarded by the GIL; `news` is read by the core without it. */

#include "pool.h"

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "interrupt.h"

static uint64_t result_counter;

static void
wake(ResultObject *self)
{
    sstpy_result_set_news(self, 1);
    if (self->jobs == NULL) {
        return;
    }
    for (struct sstpy_waiter *w = self->jobs->waiters; w != NULL; w = w->next) {
        if (w->result == self && !w->woken) {
            w->woken = true;
            PyThread_release_lock(w->lock);
        }
    }
}

/* ---- Outcomes ---- */

/* What a callback raises harms nobody, but is seen. Who interrupts the program means
 * the program: -1. */
static int
call_back(PyObject *callback, PyObject *value)
{
    if (callback == NULL || callback == Py_None) {
        return 0;
    }

    PyObject *const result = PyObject_CallOneArg(callback, value);
    if (result != NULL) {
        Py_DECREF(result);
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyErr_PrintEx(0);
    return 0;
}

/* A watcher is ours and raises only what comes from outside of it: Ctrl-C, which is
 * held for who raises what is held, or what a user's progress function raises. */
static void
tell_watchers(const ResultObject *self)
{
    if (self->callbacks == NULL) {
        return;
    }

    PyObject *const all = Py_NewRef(self->callbacks);
    for (Py_ssize_t i = 2; i < PyTuple_GET_SIZE(all); i++) {
        PyObject *const result = PyObject_CallNoArgs(PyTuple_GET_ITEM(all, i));
        if (result == NULL && !sstpy_interrupt_hold()) {
            PyErr_PrintEx(0);
        }
        Py_XDECREF(result);
    }
    Py_DECREF(all);
}

bool
sstpy_result_is_settled(const ResultObject *self)
{
    if (!self->finished) {
        return false;
    }
    for (const struct sstpy_call *call = self->jobs->calls; call != NULL;
         call = call->next) {
        if (call->result == self) {
            return call->thread == PyThread_get_thread_ident();
        }
    }
    return true;
}

/* Call back, and be known to do so. -1 with an exception, as call_back. */
static int
run_callback(ResultObject *self, PyObject *callback)
{
    JobsObject *const jobs = self->jobs;
    struct sstpy_call call = {jobs->calls, self, PyThread_get_thread_ident()};
    struct sstpy_call **link = &jobs->calls;

    jobs->calls = &call;
    const int rc = call_back(callback, *sstpy_result_value(self));
    while (*link != &call) {
        link = &(*link)->next;
    }
    *link = call.next;
    return rc;
}

int
sstpy_result_finish(ResultObject *self)
{
    PyObject *raised = NULL;

    (void)Py_NewRef(self); /* the list may own the last reference */
    self->finished = true;
    if (self->callbacks != NULL) {
        PyObject *const callback =
            Py_NewRef(PyTuple_GET_ITEM(self->callbacks, self->success ? 0 : 1));

        if (run_callback(self, callback) < 0) {
            raised = sstpy_take_exception();
        }
        Py_DECREF(callback);
        tell_watchers(self);
        Py_CLEAR(self->callbacks);
    }
    wake(self);
    if (self->feed != NULL && self->jobs->unfeed != NULL) {
        self->jobs->unfeed(self);
    }
    sstpy_jobs_delist(self);
    Py_DECREF(self);
    if (raised != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(raised), raised);
        Py_DECREF(raised);
        return -1;
    }
    return 0;
}

static void
fail_with(ResultObject *self, PyObject *error)
{
    PyObject **const value = sstpy_result_value(self);
    PyObject *const old = *value;

    self->success = false;
    *value = error;
    Py_XDECREF(old);
}

static bool
is_chunk(PyObject *value, uint64_t count)
{
    return PyList_CheckExact(value) && (uint64_t)PyList_GET_SIZE(value) == count;
}

/* A worker that answers a chunk with anything but a list of that length is not ours. */
static PyObject *
bad_chunk(PyObject *value)
{
    Py_DECREF(value);
    PyErr_SetString(PyExc_RuntimeError, "a worker's answer has another length");
    return sstpy_take_exception();
}

static void
deliver_to_list(ResultObject *self, uint64_t first, uint64_t count, bool bare,
                PyObject *value)
{
    PyObject *const list = self->many->value;

    if (!self->success) {
        Py_DECREF(value);
        return;
    }
    if (bare) {
        PyObject *const old = PyList_GET_ITEM(list, (Py_ssize_t)first);
        PyList_SET_ITEM(list, (Py_ssize_t)first, value);
        Py_XDECREF(old);
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        PyObject *const old = PyList_GET_ITEM(list, (Py_ssize_t)(first + i));
        PyList_SET_ITEM(list, (Py_ssize_t)(first + i),
                        Py_NewRef(PyList_GET_ITEM(value, (Py_ssize_t)i)));
        Py_XDECREF(old);
    }
    Py_DECREF(value);
}

static int
deliver_to_map(ResultObject *self, uint64_t first, uint64_t count, bool bare, bool ok,
               PyObject *value)
{
    if (ok) {
        deliver_to_list(self, first, count, bare, value);
    }
    else if (self->success) {
        /* The first error counts, and only when all chunks are through, so that
         * nothing of this job runs any more when the caller sees it. */
        fail_with(self, value);
    }
    else {
        Py_DECREF(value);
    }
    self->many->left -= count;
    if (self->many->left == 0) {
        return sstpy_result_finish(self);
    }
    tell_watchers(self);
    return 0;
}

static int
finish_if_complete(ResultObject *self)
{
    return self->many->left >= self->many->items.length && !self->finished
               ? sstpy_result_finish(self)
               : 0;
}

static int
deliver_to_iterator(ResultObject *self, uint64_t first, uint64_t count, bool bare,
                    bool ok, PyObject *value)
{
    struct sstpy_items *const items = &self->many->items;
    uint64_t at = self->kind == SSTPY_RESULT_IMAP ? first : items->tail;

    if (sstpy_items_reserve(items, at + count - 1) < 0) {
        /* Not even room for one pointer each: the iterator's end is the error. */
        Py_DECREF(value);
        PyErr_Clear();
        items->length = items->head;
        return finish_if_complete(self);
    }
    if (bare || !ok) {
        sstpy_items_set(items, at, ok, value, (uint32_t)count - 1);
        if (items->tail < at + count) {
            items->tail = at + count;
        }
    }
    else {
        for (uint64_t i = 0; i < count; i++) {
            sstpy_items_set(items, at + i, true,
                            Py_NewRef(PyList_GET_ITEM(value, (Py_ssize_t)i)), 0);
        }
        Py_DECREF(value);
    }
    self->many->left += count;
    wake(self);
    if (self->many->left < items->length) {
        tell_watchers(self);
    }
    return finish_if_complete(self);
}

int
sstpy_result_deliver(ResultObject *self, uint64_t first, uint64_t count, bool bare,
                     bool ok, PyObject *value)
{
    if (self->finished) {
        Py_DECREF(value); /* it was abandoned meanwhile */
        return 0;
    }
    if (ok && !bare && !is_chunk(value, count)) {
        value = bad_chunk(value);
        ok = false;
    }
    if (sstpy_result_is_iterator(self)) {
        return deliver_to_iterator(self, first, count, bare, ok, value);
    }
    if (self->kind == SSTPY_RESULT_MAP) {
        return deliver_to_map(self, first, count, bare, ok, value);
    }
    self->success = ok;
    self->value = value;
    return sstpy_result_finish(self);
}

void
sstpy_result_set_length(ResultObject *self, uint64_t length)
{
    self->many->items.length = length;
    wake(self);
    (void)finish_if_complete(self); /* iterators have no callbacks: nothing raises */
    sstpy_interrupt_raise_later();
}

void
sstpy_result_abandon(ResultObject *self, PyObject *error)
{
    if (self->finished) {
        return;
    }
    (void)Py_NewRef(self);
    if (sstpy_result_is_iterator(self)) {
        /* what is ready comes first, then the error in place of the rest */
        struct sstpy_items *const items = &self->many->items;
        uint64_t end = self->kind == SSTPY_RESULT_IMAP ? items->head : items->tail;

        while (end < items->tail &&
               items->ring[end & (items->capacity - 1)].value != NULL) {
            end += 1 + items->ring[end & (items->capacity - 1)].skip;
        }
        if (sstpy_items_reserve(items, end) == 0) {
            sstpy_items_set(items, end, false, Py_NewRef(error), 0);
            items->length = end + 1;
        }
        else {
            PyErr_Clear();
            items->length = end;
        }
    }
    else if (self->success || *sstpy_result_value(self) == NULL) {
        fail_with(self, Py_NewRef(error));
    }
    if (sstpy_result_finish(self) < 0 && !sstpy_interrupt_hold()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    sstpy_interrupt_raise_later();
    Py_DECREF(self);
}

/* ---- Making ---- */

static PyObject *
list_of_none(uint64_t length)
{
    PyObject *const list = PyList_New((Py_ssize_t)length);

    for (Py_ssize_t i = 0; list != NULL && i < (Py_ssize_t)length; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(Py_None));
    }
    return list;
}

static int
prepare(ResultObject *self, uint64_t length)
{
    if (self->kind == SSTPY_RESULT_APPLY) {
        return 0;
    }
    self->many = PyMem_Calloc(1, sizeof(*self->many));
    if (self->many == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    sstpy_items_init(&self->many->items);
    if (self->kind == SSTPY_RESULT_MAP) {
        self->many->left = length;
        self->many->value = list_of_none(length);
        self->success = true;
        return self->many->value != NULL ? 0 : -1;
    }
    return 0;
}

ResultObject *
sstpy_result_new(PyObject *type, JobsObject *jobs, PyObject *pool,
                 enum sstpy_result_kind kind, uint64_t length, PyObject *callback,
                 PyObject *error_callback)
{
    const bool called = (callback != NULL && callback != Py_None) ||
                        (error_callback != NULL && error_callback != Py_None);
    ResultObject *const self =
        (ResultObject *)PyType_GenericAlloc((PyTypeObject *)type, 0);

    if (self == NULL) {
        return NULL;
    }
    self->kind = kind;
    self->chunk = 1;
    self->number = result_counter++;
    self->jobs = (JobsObject *)Py_NewRef(jobs);
    if (called) {
        self->callbacks =
            PyTuple_Pack(2, callback != NULL ? callback : Py_None,
                         error_callback != NULL ? error_callback : Py_None);
    }
    if ((called && self->callbacks == NULL) || prepare(self, length) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    sstpy_jobs_enlist(jobs, self, pool);
    return self;
}
