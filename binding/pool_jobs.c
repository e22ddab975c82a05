/* SPDX-License-Identifier: MIT */

/* PoolJobs: the list of the unfinished results of one pool. The list owns them, and
 * while it is not empty it owns the pool. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "pool.h"

void
sstpy_jobs_enlist(JobsObject *jobs, ResultObject *self, PyObject *pool)
{
    if (jobs->pool == NULL) {
        jobs->pool = Py_NewRef(pool);
    }
    self->prev = jobs->last;
    if (jobs->last != NULL) {
        jobs->last->next = self;
    }
    else {
        jobs->first = self;
    }
    jobs->last = (ResultObject *)Py_NewRef(self);
    jobs->count++;
    jobs->empty = 0;
    self->listed = true;
}

void
sstpy_jobs_delist(ResultObject *self)
{
    JobsObject *const jobs = self->jobs;

    if (!self->listed) {
        return;
    }
    self->listed = false;
    if (self->prev != NULL) {
        self->prev->next = self->next;
    }
    else {
        jobs->first = self->next;
    }
    if (self->next != NULL) {
        self->next->prev = self->prev;
    }
    else {
        jobs->last = self->prev;
    }
    self->next = self->prev = NULL;
    jobs->count--;
    if (jobs->count == 0) {
        jobs->empty = 1;
        Py_CLEAR(jobs->pool);
    }
    Py_DECREF(self);
}

/* One whose callback runs is finished, and still listed. */
static ResultObject *
first_unfinished(const JobsObject *self)
{
    ResultObject *result = self->first;

    while (result != NULL && result->finished) {
        result = result->next;
    }
    return result;
}

void
sstpy_jobs_abandon(JobsObject *self, PyObject *error)
{
    ResultObject *result = NULL;

    while ((result = first_unfinished(self)) != NULL) {
        sstpy_result_abandon(result, error);
    }
}

int
sstpy_jobs_traverse(PyObject *obj, visitproc visit, void *arg)
{
    const JobsObject *const self = (JobsObject *)obj;

    Py_VISIT(Py_TYPE(obj));
    Py_VISIT(self->pool);
    for (ResultObject *r = self->first; r != NULL; r = r->next) {
        Py_VISIT(r);
    }
    return 0;
}

int
sstpy_jobs_clear(PyObject *obj)
{
    JobsObject *const self = (JobsObject *)obj;

    while (self->first != NULL) {
        sstpy_jobs_delist(self->first);
    }
    return 0;
}

static void
jobs_dealloc(PyObject *obj)
{
    PyObject_GC_UnTrack(obj);
    if (((JobsObject *)obj)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(obj);
    }
    (void)sstpy_jobs_clear(obj);
    sstpy_free(obj);
}

PyDoc_STRVAR(
    jobs_result_doc,
    "result($self, type, pool, kind, length, callback=None, error_callback=None, "
    "chunksize=1, /)\n--\n\n"
    "A new result: kind 0 one value, 1 a list, 2 an iterator, 3 an iterator in "
    "any order.");

static PyObject *
jobs_result(PyObject *obj, PyObject *args)
{
    JobsObject *const self = (JobsObject *)obj;
    PyObject *type = NULL;
    PyObject *pool = NULL;
    PyObject *callback = NULL;
    PyObject *error_callback = NULL;
    unsigned long long length = 0;
    unsigned int chunk = 1;
    int kind = 0;

    if (!PyArg_ParseTuple(args, "OOiK|OOI:result", &type, &pool, &kind, &length,
                          &callback, &error_callback, &chunk)) {
        return NULL;
    }
    if (kind < 0 || kind > SSTPY_RESULT_UNORDERED || length > PY_SSIZE_T_MAX ||
        !PyType_Check(type) ||
        !PyType_IsSubtype((PyTypeObject *)type, kind >= SSTPY_RESULT_IMAP
                                                    ? self->state->pool_iterator_type
                                                    : self->state->pool_result_type)) {
        PyErr_SetString(PyExc_ValueError, "no such kind of result");
        return NULL;
    }

    ResultObject *const result =
        sstpy_result_new(type, self, pool, (enum sstpy_result_kind)kind, length,
                         callback, error_callback);
    if (result == NULL) {
        return NULL;
    }
    result->chunk = chunk;
    if (kind == SSTPY_RESULT_MAP && length == 0 && sstpy_result_finish(result) < 0) {
        Py_CLEAR(*(PyObject **)&result);
    }
    return (PyObject *)result;
}

PyDoc_STRVAR(jobs_results_doc, "results($self, /)\n--\n\n"
                               "Those that are unfinished, by number.");

static PyObject *
jobs_results(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const JobsObject *const self = (JobsObject *)obj;
    PyObject *const dict = PyDict_New();

    for (ResultObject *r = self->first; dict != NULL && r != NULL; r = r->next) {
        PyObject *const number = PyLong_FromUnsignedLongLong(r->number);
        const int rc =
            number != NULL ? PyDict_SetItem(dict, number, (PyObject *)r) : -1;

        Py_XDECREF(number);
        if (rc < 0) {
            Py_DECREF(dict);
            return NULL;
        }
    }
    return dict;
}

PyDoc_STRVAR(jobs_abandon_doc, "abandon($self, error, /)\n--\n\n"
                               "Give all of them up, with this exception.");

static PyObject *
jobs_abandon(PyObject *obj, PyObject *error)
{
    JobsObject *const self = (JobsObject *)obj;

    if (!PyExceptionInstance_Check(error)) {
        PyErr_SetString(PyExc_TypeError, "abandon() takes an exception");
        return NULL;
    }
    sstpy_jobs_abandon(self, error);
    Py_RETURN_NONE;
}

static Py_ssize_t
jobs_length(PyObject *obj)
{
    return ((JobsObject *)obj)->count;
}

static PyObject *
jobs_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct sstpy_state *const state = sstpy_state_of(type);
    JobsObject *const self =
        state != NULL ? (JobsObject *)PyType_GenericAlloc(type, 0) : NULL;

    if (self != NULL) {
        self->state = state;
        self->epoch = sstpy_fork_epoch();
    }
    return (PyObject *)self;
}

static PyMethodDef jobs_methods[] = {
    {"result", jobs_result, METH_VARARGS, jobs_result_doc},
    {"results", jobs_results, METH_NOARGS, jobs_results_doc},
    {"abandon", jobs_abandon, METH_O, jobs_abandon_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef jobs_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(JobsObject, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot jobs_slots[] = {
    {Py_tp_doc, "The unfinished results of one pool."},
    {Py_tp_new, jobs_new},
    {Py_tp_dealloc, jobs_dealloc},
    {Py_tp_traverse, sstpy_jobs_traverse},
    {Py_tp_clear, sstpy_jobs_clear},
    {Py_tp_methods, jobs_methods},
    {Py_tp_members, jobs_members},
    {Py_sq_length, jobs_length},
    {0, NULL},
};

static PyType_Spec jobs_spec = {
    .name = "sidestep._core.PoolJobs",
    .basicsize = sizeof(JobsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = jobs_slots,
};

/* ---- What Python registers ---- */

PyDoc_STRVAR(
    set_pool_doc,
    "set_pool($module, timeout_error, pack, /)\n--\n\n"
    "The exception that get(timeout) raises, and pack(error, value, has_value), which "
    "gives the object to send for an exception, or for a value that did not pickle.");

static PyObject *
core_set_pool(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct sstpy_state *const state = sstpy_module_state(module);

    if (nargs != 2 || !PyExceptionClass_Check(args[0]) || !PyCallable_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError,
                        "an exception class and a callable are needed");
        return NULL;
    }
    Py_XSETREF(state->pool_timeout, Py_NewRef(args[0]));
    Py_XSETREF(state->pool_pack, Py_NewRef(args[1]));
    Py_RETURN_NONE;
}

static PyMethodDef pool_methods[] = {
    {"set_pool", (PyCFunction)(void (*)(void))core_set_pool, METH_FASTCALL,
     set_pool_doc},
    {NULL, NULL, 0, NULL},
};

int
sstpy_pool_jobs_exec(PyObject *module, struct sstpy_state *state)
{
    if (PyModule_AddFunctions(module, pool_methods) < 0) {
        return -1;
    }
    return sstpy_type_add(module, &jobs_spec, &state->pool_jobs_type);
}
