/* SPDX-License-Identifier: MIT */

/* The types of results: how a thread waits for one, and what Python sees of it. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "interrupt.h"
#include "pool.h"

static int
result_traverse(PyObject *obj, visitproc visit, void *arg)
{
    ResultObject *const self = (ResultObject *)obj;

    Py_VISIT(Py_TYPE(obj));
    Py_VISIT(self->dict);
    Py_VISIT(self->jobs);
    Py_VISIT(self->callbacks);
    if (self->kind == SSTPY_RESULT_APPLY) {
        Py_VISIT(self->value);
        return 0;
    }
    if (self->many == NULL) {
        return 0;
    }
    Py_VISIT(self->many->value);
    return sstpy_items_traverse(&self->many->items, visit, arg);
}

static int
result_clear(PyObject *obj)
{
    ResultObject *const self = (ResultObject *)obj;

    Py_CLEAR(self->dict);
    Py_CLEAR(self->callbacks);
    if (self->kind == SSTPY_RESULT_APPLY) {
        Py_CLEAR(self->value);
    }
    else if (self->many != NULL) {
        Py_CLEAR(self->many->value);
        sstpy_items_fini(&self->many->items);
    }
    return 0;
}

static void
result_dealloc(PyObject *obj)
{
    ResultObject *const self = (ResultObject *)obj;

    PyObject_GC_UnTrack(obj);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(obj);
    }
    if (self->feed != NULL && self->jobs->unfeed != NULL) {
        self->jobs->unfeed(self);
    }
    (void)result_clear(obj);
    if (self->kind != SSTPY_RESULT_APPLY) {
        PyMem_Free(self->many);
    }
    Py_CLEAR(self->jobs);
    sstpy_free(obj);
}

/* ---- Waiting ---- */

/* Sleep until somebody delivers. 1 woken, 0 deadline, -1 exception. */
static int
sleep_on_lock(ResultObject *self, int64_t deadline_ns)
{
    struct sstpy_waiter waiter = {.result = self, .lock = PyThread_allocate_lock()};
    PyLockStatus status = PY_LOCK_FAILURE;
    int rc = 0;

    if (waiter.lock == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    (void)PyThread_acquire_lock(waiter.lock, WAIT_LOCK);
    waiter.next = self->jobs->waiters;
    self->jobs->waiters = &waiter;
    do {
        const int64_t now = sst_deadline_after(1); /* of 0 it is SST_NOW */
        const int64_t left =
            deadline_ns == SST_FOREVER ? -1 : (deadline_ns - now + 999) / 1000;

        if (deadline_ns != SST_FOREVER && left <= 0) {
            status = PyThread_acquire_lock(waiter.lock, NOWAIT_LOCK) ? PY_LOCK_ACQUIRED
                                                                     : PY_LOCK_FAILURE;
            break;
        }
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(waiter.lock, left, 1);
        Py_END_ALLOW_THREADS
        rc = status == PY_LOCK_INTR ? PyErr_CheckSignals() : 0;
    } while (rc == 0 && status == PY_LOCK_INTR);

    struct sstpy_waiter **link = &self->jobs->waiters;
    while (*link != &waiter) {
        link = &(*link)->next;
    }
    *link = waiter.next;
    if (status == PY_LOCK_ACQUIRED || !waiter.woken) {
        PyThread_release_lock(waiter.lock);
    }
    PyThread_free_lock(waiter.lock);
    return rc < 0 ? -1 : status == PY_LOCK_ACQUIRED;
}

static bool
has_news(const ResultObject *self)
{
    if (!sstpy_result_is_iterator(self)) {
        return sstpy_result_is_settled(self);
    }
    return sstpy_items_ready(&self->many->items) ||
           sstpy_items_at_end(&self->many->items);
}

/* In a forked child nothing will come. */
static int
check_owner(const ResultObject *self)
{
    if (self->jobs->epoch == sstpy_fork_epoch()) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, "the pool belongs to the process that made it");
    return -1;
}

/* 1: there is something to see; 0: the time is up; -1. */
static int
result_wait_until(ResultObject *self, int64_t deadline_ns)
{
    while (!has_news(self)) {
        if (check_owner(self) < 0) {
            return -1;
        }
        sstpy_result_set_news(self, 0);
        const int rc = self->jobs->drive != NULL
                           ? self->jobs->drive(self->jobs, &self->news, deadline_ns)
                           : sleep_on_lock(self, deadline_ns);
        if (rc < 0) {
            return -1;
        }
        if (rc == 0) {
            return has_news(self);
        }
    }
    return 1;
}

static int
wait_for(ResultObject *self, PyObject *timeout)
{
    int64_t duration_ns = 0;

    if (has_news(self)) {
        return 1;
    }
    if (sstpy_to_duration(timeout, &duration_ns) < 0) {
        return -1;
    }
    return result_wait_until(self, sstpy_deadline(duration_ns));
}

/* A method's only argument, `timeout`. */
static int
parse_timeout(const char *function, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, PyObject **timeout)
{
    static const char *const names[] = {"timeout"};
    const struct sstpy_signature signature = {function, 0, 1, names};

    *timeout = NULL;
    return nargs == 0 && kwnames == NULL
               ? 0
               : sstpy_parse(&signature, args, nargs, kwnames, timeout);
}

static PyObject *
raise_timeout(ResultObject *self)
{
    PyObject *const error = self->jobs->state->pool_timeout;

    PyErr_SetNone(error != NULL ? error : PyExc_TimeoutError);
    return NULL;
}

static PyObject *
raise_value(PyObject *error)
{
    /* Ctrl-C reaches us and the worker, who may be faster: ours comes first. */
    if (PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt) &&
        PyErr_CheckSignals() < 0) {
        return NULL;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    return NULL;
}

/* ---- Methods ---- */

PyDoc_STRVAR(result_ready_doc, "ready($self, /)\n--\n\n"
                               "Tell whether there is something to take, or an end.");

static PyObject *
result_ready(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(has_news((ResultObject *)obj));
}

PyDoc_STRVAR(result_successful_doc,
             "successful($self, /)\n--\n\n"
             "Tell whether the call returned; ValueError while it has not ended.");

static PyObject *
result_successful(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const ResultObject *const self = (ResultObject *)obj;

    if (!sstpy_result_is_settled(self)) {
        return PyErr_Format(PyExc_ValueError, "%R not ready", obj);
    }
    return PyBool_FromLong(self->success);
}

PyDoc_STRVAR(result_wait_doc, "wait($self, /, timeout=None)\n--\n\n"
                              "Wait for the result, up to timeout seconds.");

static PyObject *
result_wait(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *timeout = NULL;

    if (parse_timeout("wait", args, nargs, kwnames, &timeout) < 0 ||
        wait_for((ResultObject *)obj, timeout) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(result_get_doc,
             "get($self, /, timeout=None)\n--\n\n"
             "Return the result, or raise what the call raised, or TimeoutError.");

static PyObject *
result_get(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    ResultObject *const self = (ResultObject *)obj;
    PyObject *timeout = NULL;

    if (parse_timeout("get", args, nargs, kwnames, &timeout) < 0) {
        return NULL;
    }

    const int rc = wait_for(self, timeout);
    if (rc < 0) {
        return NULL;
    }
    if (rc == 0) {
        return raise_timeout(self);
    }

    PyObject *const value = *sstpy_result_value(self);
    return self->success ? Py_NewRef(value) : raise_value(value);
}

static PyObject *
next_until(ResultObject *self, PyObject *timeout)
{
    const int rc = wait_for(self, timeout);
    bool ok = false;

    if (rc < 0) {
        return NULL;
    }
    if (rc == 0) {
        return raise_timeout(self);
    }
    if (!sstpy_items_ready(&self->many->items)) {
        return NULL; /* the end */
    }

    PyObject *const value = sstpy_items_take(&self->many->items, &ok);
    if (!self->finished && self->jobs->taken != NULL) {
        self->jobs->taken(self->jobs, self);
    }
    if (ok) {
        return value;
    }
    (void)raise_value(value);
    Py_DECREF(value);
    return NULL;
}

static PyObject *
result_iternext(PyObject *obj)
{
    return next_until((ResultObject *)obj, NULL);
}

PyDoc_STRVAR(
    result_next_doc,
    "next($self, /, timeout=None)\n--\n\n"
    "Return the next result, waiting for it; TimeoutError after timeout seconds.");

static PyObject *
result_next(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *timeout = NULL;

    if (parse_timeout("next", args, nargs, kwnames, &timeout) < 0) {
        return NULL;
    }

    PyObject *const value = next_until((ResultObject *)obj, timeout);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return value;
}

static bool
has_items(const ResultObject *self, uint64_t first, uint64_t count)
{
    if (count == 0 || sstpy_result_is_iterator(self)) {
        return count > 0;
    }
    if (self->kind == SSTPY_RESULT_MAP && self->success &&
        first + count > (uint64_t)PyList_GET_SIZE(self->many->value)) {
        return false;
    }
    return self->finished || count <= sstpy_result_left(self);
}

PyDoc_STRVAR(result_deliver_doc,
             "_deliver($self, first, count, bare, ok, value, /)\n--\n\n"
             "The outcome of count items from first on, of a pool of threads.");

static PyObject *
result_deliver(PyObject *obj, PyObject *args)
{
    unsigned long long first = 0;
    unsigned long long count = 0;
    int bare = 0;
    int ok = 0;
    PyObject *value = NULL;

    if (!PyArg_ParseTuple(args, "KKppO:_deliver", &first, &count, &bare, &ok, &value)) {
        return NULL;
    }
    if (!has_items((ResultObject *)obj, first, count)) {
        PyErr_SetString(PyExc_ValueError, "no such items");
        return NULL;
    }
    if (sstpy_result_deliver((ResultObject *)obj, first, count, bare != 0, ok != 0,
                             Py_NewRef(value)) < 0) {
        return NULL;
    }
    sstpy_interrupt_raise_later();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(result_set_length_doc, "_set_length($self, length, /)\n--\n\n"
                                    "Say how many items an iterator has.");

static PyObject *
result_set_length(PyObject *obj, PyObject *arg)
{
    ResultObject *const self = (ResultObject *)obj;
    const unsigned long long length = PyLong_AsUnsignedLongLong(arg);

    if (PyErr_Occurred()) {
        return NULL;
    }
    if (!sstpy_result_is_iterator(self)) {
        PyErr_SetString(PyExc_ValueError, "not an iterator");
        return NULL;
    }
    if (!self->finished) {
        sstpy_result_set_length(self, length);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(result_abandon_doc,
             "_abandon($self, error, /)\n--\n\n"
             "Give up: the exception takes the place of what is missing.");

static PyObject *
result_abandon(PyObject *obj, PyObject *error)
{
    if (!PyExceptionInstance_Check(error)) {
        PyErr_SetString(PyExc_TypeError, "_abandon() takes an exception");
        return NULL;
    }
    sstpy_result_abandon((ResultObject *)obj, error);
    Py_RETURN_NONE;
}

/* ---- Watchers ---- */

/* The callbacks with one watcher more or one less; either may be NULL. */
static int
replace_watcher(ResultObject *self, PyObject *added, PyObject *removed)
{
    PyObject *const list = self->callbacks != NULL
                               ? PySequence_List(self->callbacks)
                               : Py_BuildValue("[OO]", Py_None, Py_None);
    int rc = list != NULL && added != NULL ? PyList_Append(list, added) : 0;

    for (Py_ssize_t i = 2; list != NULL && i < PyList_GET_SIZE(list); i++) {
        if (PyList_GET_ITEM(list, i) == removed) {
            rc = PyList_SetSlice(list, i, i + 1, NULL);
            break;
        }
    }

    PyObject *const callbacks = list != NULL && rc == 0 ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    if (callbacks == NULL) {
        return -1;
    }
    Py_XSETREF(self->callbacks, callbacks);
    return 0;
}

PyDoc_STRVAR(result_watch_doc,
             "_watch($self, watcher, /)\n--\n\n"
             "Have it called at each outcome, on any thread; False: there are all.");

static PyObject *
result_watch(PyObject *obj, PyObject *watcher)
{
    ResultObject *const self = (ResultObject *)obj;

    if (!PyCallable_Check(watcher)) {
        PyErr_SetString(PyExc_TypeError, "_watch() takes a callable");
        return NULL;
    }
    if (sstpy_result_is_settled(self)) {
        Py_RETURN_FALSE;
    }
    if (check_owner(self) < 0 || replace_watcher(self, watcher, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(result_unwatch_doc, "_unwatch($self, watcher, /)\n--\n\n"
                                 "Have it called no more.");

static PyObject *
result_unwatch(PyObject *obj, PyObject *watcher)
{
    ResultObject *const self = (ResultObject *)obj;

    if (self->callbacks != NULL && replace_watcher(self, NULL, watcher) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- Attributes that programs read though nobody promised them ---- */

static PyObject *
result_number(PyObject *obj, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((ResultObject *)obj)->number);
}

static PyObject *
result_number_left(PyObject *obj, void *Py_UNUSED(closure))
{
    const ResultObject *const self = (ResultObject *)obj;
    const uint64_t chunk = self->chunk > 0 ? self->chunk : 1;

    return PyLong_FromUnsignedLongLong((sstpy_result_left(self) + chunk - 1) / chunk);
}

static PyObject *
result_left(PyObject *obj, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(sstpy_result_left((ResultObject *)obj));
}

static PyObject *
result_finished(PyObject *obj, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ResultObject *)obj)->finished);
}

static PyObject *
result_chunk(PyObject *obj, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((ResultObject *)obj)->chunk);
}

static PyObject *
result_length(PyObject *obj, void *Py_UNUSED(closure))
{
    const ResultObject *const self = (ResultObject *)obj;

    if (self->many->items.length == UINT64_MAX) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(self->many->items.length);
}

static PyObject *
result_pool(PyObject *obj, void *Py_UNUSED(closure))
{
    const ResultObject *const self = (ResultObject *)obj;
    PyObject *const pool = self->listed ? self->jobs->pool : NULL;

    return Py_NewRef(pool != NULL ? pool : Py_None);
}

#define RESULT_METHOD(name, flags) \
    {#name, (PyCFunction)(void (*)(void))result_##name, (flags), result_##name##_doc}

static PyMethodDef apply_methods[] = {
    RESULT_METHOD(ready, METH_NOARGS),
    RESULT_METHOD(successful, METH_NOARGS),
    RESULT_METHOD(wait, METH_FASTCALL | METH_KEYWORDS),
    RESULT_METHOD(get, METH_FASTCALL | METH_KEYWORDS),
    {"_watch", result_watch, METH_O, result_watch_doc},
    {"_unwatch", result_unwatch, METH_O, result_unwatch_doc},
    {"_deliver", result_deliver, METH_VARARGS, result_deliver_doc},
    {"_abandon", result_abandon, METH_O, result_abandon_doc},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef iterator_methods[] = {
    RESULT_METHOD(ready, METH_NOARGS),
    RESULT_METHOD(next, METH_FASTCALL | METH_KEYWORDS),
    {"_watch", result_watch, METH_O, result_watch_doc},
    {"_unwatch", result_unwatch, METH_O, result_unwatch_doc},
    {"_deliver", result_deliver, METH_VARARGS, result_deliver_doc},
    {"_abandon", result_abandon, METH_O, result_abandon_doc},
    {"_set_length", result_set_length, METH_O, result_set_length_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef result_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(ResultObject, dict), Py_READONLY, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(ResultObject, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef apply_getset[] = {
    {"_job", result_number, NULL, "Number of the call.", NULL},
    {"_finished", result_finished, NULL, "Whether there are all outcomes.", NULL},
    {"_pool", result_pool, NULL, "The pool, until it is finished.", NULL},
    {"_number_left", result_number_left, NULL, "Tasks that have no outcome.", NULL},
    {"_left", result_left, NULL, "Items that have no outcome.", NULL},
    {"_chunksize", result_chunk, NULL, "Items of a task.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef iterator_getset[] = {
    {"_job", result_number, NULL, "Number of the call.", NULL},
    {"_finished", result_finished, NULL, "Whether there are all outcomes.", NULL},
    {"_pool", result_pool, NULL, "The pool, until all is there.", NULL},
    {"_index", result_left, NULL, "Items that have an outcome.", NULL},
    {"_length", result_length, NULL, "Of the input, None while unknown.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define RESULT_FLAGS                                                 \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | \
     Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Slot apply_slots[] = {
    {Py_tp_doc, "The result to come of a call over a pool."},
    {Py_tp_dealloc, result_dealloc},
    {Py_tp_traverse, result_traverse},
    {Py_tp_clear, result_clear},
    {Py_tp_methods, apply_methods},
    {Py_tp_members, result_members},
    {Py_tp_getset, apply_getset},
    {0, NULL},
};

static PyType_Spec apply_spec = {
    .name = "sidestep._core.PoolResult",
    .basicsize = sizeof(ResultObject),
    .flags = RESULT_FLAGS,
    .slots = apply_slots,
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, "The results to come of the items of an iterable."},
    {Py_tp_dealloc, result_dealloc},
    {Py_tp_traverse, result_traverse},
    {Py_tp_clear, result_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, result_iternext},
    {Py_tp_methods, iterator_methods},
    {Py_tp_members, result_members},
    {Py_tp_getset, iterator_getset},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "sidestep._core.PoolIterator",
    .basicsize = sizeof(ResultObject),
    .flags = RESULT_FLAGS,
    .slots = iterator_slots,
};

int
sstpy_pool_result_exec(PyObject *module, struct sstpy_state *state)
{
    if (sstpy_type_add(module, &apply_spec, &state->pool_result_type) < 0) {
        return -1;
    }
    return sstpy_type_add(module, &iterator_spec, &state->pool_iterator_type);
}
