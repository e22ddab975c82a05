/* SPDX-License-Identifier: MIT */

/* PoolWorker: a worker's place in a pool, and its main loop.
 *
 * take -> decode -> call -> encode -> finish, which delivers the outcome and takes the
 * next task in one step. The outcome is encoded before it is delivered, so what does
 * not pickle is an outcome as well, and nothing of Python runs between the delivery and
 * the next task.
 *
 * What a task raises is its outcome, whatever it is: SystemExit and KeyboardInterrupt
 * belong to the caller like any other exception. A KeyboardInterrupt between tasks is
 * the terminal's: the parent has got it as well, and decides. */

#include "args.h"
#include "codec.h"
#include "compat.h"
#include "errors.h"
#include "pool_engine.h"
#include "wait.h"

enum {
    FUNCTIONS = 32, /* kept by a worker */
};

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_pool *pool;
    struct sst_pool_worker *worker;
    struct {
        uint64_t number;
        PyObject *object;
    } functions[FUNCTIONS];
    uint32_t next;   /* to be replaced */
    bool in_task;    /* the user's code runs */
    int64_t idle_ns; /* it waits for a task no longer */
    PyObject *after; /* called after each task; true: leave. NULL: there is nothing */
    PyObject *late;  /* called instead of a task that is over its soft limit already */
} WorkerObject;

/* ---- Functions ---- */

/* A new reference. */
static PyObject *
worker_function(WorkerObject *self, uint64_t number)
{
    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        if (self->functions[i].number == number && self->functions[i].object != NULL) {
            return Py_NewRef(self->functions[i].object);
        }
    }

    struct sst_message message;
    const int rc = sst_pool_fetch(self->pool, number, &message);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }

    PyObject *const object = sstpy_decode(self->state, &message);
    if (object != NULL) {
        PyObject *const old = self->functions[self->next].object;

        self->functions[self->next].number = number;
        self->functions[self->next].object = Py_NewRef(object);
        self->next = (self->next + 1) % FUNCTIONS;
        Py_XDECREF(old);
    }
    return object;
}

/* ---- One task ---- */

static PyObject *
call_item(PyObject *func, PyObject *item, bool star)
{
    if (!star) {
        return PyObject_CallOneArg(func, item);
    }

    PyObject *const args = PySequence_Tuple(item);
    PyObject *const value = args != NULL ? PyObject_CallObject(func, args) : NULL;

    Py_XDECREF(args);
    return value;
}

static PyObject *
call_each(PyObject *func, PyObject *items, bool star)
{
    if (!PyList_CheckExact(items) && !PyRange_Check(items)) {
        PyErr_SetString(PyExc_RuntimeError, "the task is not ours");
        return NULL;
    }

    const Py_ssize_t count = PySequence_Size(items);
    PyObject *const iterator = count >= 0 ? PyObject_GetIter(items) : NULL;
    PyObject *values = iterator != NULL ? PyList_New(count) : NULL;
    for (Py_ssize_t i = 0; values != NULL && i < count; i++) {
        PyObject *const item = PyIter_Next(iterator);
        PyObject *const value = item != NULL ? call_item(func, item, star) : NULL;

        Py_XDECREF(item);
        if (value != NULL) {
            PyList_SET_ITEM(values, i, value);
        }
        else {
            Py_CLEAR(values);
        }
    }
    Py_XDECREF(iterator);
    if (values == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError, "the items of the task went away");
    }
    return values;
}

static PyObject *
call_mode(PyObject *func, PyObject *args, unsigned int mode)
{
    switch (mode) {
    case SSTPY_MODE_ITEM:
        return PyObject_CallOneArg(func, args);
    case SSTPY_MODE_CHUNK:
    case SSTPY_MODE_STAR_CHUNK:
        return call_each(func, args, mode == SSTPY_MODE_STAR_CHUNK);
    case SSTPY_MODE_CALL:
        if (PyTuple_CheckExact(args)) {
            return PyObject_CallObject(func, args);
        }
        break;
    case SSTPY_MODE_KEYWORDS:
        if (PyTuple_CheckExact(args) && PyTuple_GET_SIZE(args) == 2 &&
            PyTuple_CheckExact(PyTuple_GET_ITEM(args, 0)) &&
            PyDict_CheckExact(PyTuple_GET_ITEM(args, 1))) {
            return PyObject_Call(func, PyTuple_GET_ITEM(args, 0),
                                 PyTuple_GET_ITEM(args, 1));
        }
        break;
    default:
        break;
    }
    PyErr_SetString(PyExc_RuntimeError, "the task is not ours");
    return NULL;
}

static PyObject *
call_task(WorkerObject *self, struct sst_pool_job *job)
{
    const unsigned int mode = (unsigned int)(job->tag & 0xff);
    PyObject *args = sstpy_decode(self->state, &job->message);
    PyObject *func = NULL;
    PyObject *value = NULL;

    if (args == NULL) {
        return NULL;
    }
    if ((mode & SSTPY_MODE_INLINE) != 0) {
        if (PyTuple_CheckExact(args) && PyTuple_GET_SIZE(args) == 2) {
            func = Py_NewRef(PyTuple_GET_ITEM(args, 0));
            Py_SETREF(args, Py_NewRef(PyTuple_GET_ITEM(args, 1)));
        }
        else {
            PyErr_SetString(PyExc_RuntimeError, "the task is not ours");
        }
    }
    else {
        func = worker_function(self, job->function);
    }
    /* A function in C does not look for a Ctrl-C that came since the task was taken. */
    if (func != NULL && PyErr_CheckSignals() == 0) {
        self->in_task = true;
        /* A signal that came while we decoded was told that nothing runs. */
        value = self->late != NULL && sst_pool_soft_deadline(self->worker)
                    ? PyObject_CallNoArgs(self->late)
                    : call_mode(func, args, mode & ~(unsigned int)SSTPY_MODE_INLINE);
        self->in_task = false;
    }
    Py_XDECREF(func);
    Py_DECREF(args);
    return value;
}

/* The object to send for the exception that is set, from pool_pack; `value` is the
 * result that did not pickle, or NULL. NULL: not even that can be had. */
static PyObject *
pack_exception(WorkerObject *self, PyObject *value)
{
    PyObject *const error = sstpy_take_exception();
    PyObject *const packed =
        self->state->pool_pack != NULL
            ? PyObject_CallFunctionObjArgs(self->state->pool_pack, error,
                                           value != NULL ? value : Py_None,
                                           value != NULL ? Py_True : Py_False, NULL)
            : Py_NewRef(error);

    Py_DECREF(error);
    return packed;
}

/* Encode the exception that is set. What can be said at least is its class. */
static int
encode_exception(WorkerObject *self, PyObject *value, struct sstpy_encoded *out)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        PyObject *const packed = pack_exception(self, value);
        int rc = SSTPY_RAISED;

        if (packed != NULL) {
            rc = sstpy_encode(self->state, packed, out);
            Py_DECREF(packed);
        }
        if (rc >= 0) {
            return 0;
        }
        if (rc != SSTPY_RAISED) {
            (void)sstpy_raise(self->state, rc, NULL);
        }
        value = NULL;
    }
    PyErr_Clear();
    sstpy_encode_whole("N", 1, out); /* None: the owner says what that means */
    return 0;
}

/* Run a task: its outcome, encoded, and what the encoding borrows from. */
static int
run_task(WorkerObject *self, struct sst_pool_job *job, struct sstpy_encoded *out,
         PyObject **value)
{
    *value = call_task(self, job);
    if (*value != NULL) {
        const int rc = sstpy_encode(self->state, *value, out);
        if (rc >= 0) {
            return SSTPY_CODE_VALUE;
        }
        if (rc != SSTPY_RAISED) {
            (void)sstpy_raise(self->state, rc, NULL);
        }
    }
    (void)encode_exception(self, *value, out);
    return SSTPY_CODE_EXCEPTION;
}

/* ---- The loop ---- */

struct worker_call {
    struct sst_pool_worker *worker;
    struct sst_pool_job *job;
};

static int
worker_call_take(void *context, int64_t deadline_ns)
{
    const struct worker_call *const call = context;

    return sst_pool_take(call->worker, call->job, deadline_ns);
}

/* Take the next task: SST_ETIMEDOUT when none comes. A KeyboardInterrupt meanwhile is
 * the parent's. */
static int
worker_take(WorkerObject *self, struct sst_pool_job *job)
{
    struct worker_call call = {self->worker, job};

    for (;;) {
        const int rc = sstpy_wait(worker_call_take, &call, self->idle_ns);
        if (rc != SSTPY_RAISED || !PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
            return rc;
        }
        PyErr_Clear();
    }
}

static int
finish_once(WorkerObject *self, struct sstpy_encoded *encoded, int code,
            struct sst_pool_job *next)
{
    const struct sst_pool_outcome outcome = {
        .code = code,
        .slice_count = encoded->parcel != NULL ? 0 : encoded->count,
        .slices = encoded->slices,
        .parcel = encoded->parcel != NULL ? &encoded->parcel : NULL,
    };

    return sst_pool_finish(self->worker, &outcome, next, SST_NOW);
}

/* Deliver, and take the next one if it is there at once. When there is no memory for
 * the outcome, that is the outcome. */
static int
worker_finish(WorkerObject *self, struct sstpy_encoded *encoded, int code,
              struct sst_pool_job *next)
{
    int rc = finish_once(self, encoded, code, next);

    if (rc == SST_ENOMEM || rc == SST_ELIMIT) {
        sstpy_encoded_release(encoded);
        (void)sstpy_raise(self->state, rc, NULL);
        (void)encode_exception(self, NULL, encoded);
        rc = finish_once(self, encoded, SSTPY_CODE_EXCEPTION, next);
    }
    return rc;
}

/* Between two tasks: SST_EAGAIN to go on, SST_EOF to leave. */
static int
worker_look(WorkerObject *self)
{
    PyObject *const leave = PyObject_CallNoArgs(self->after);
    const bool leaves = leave == Py_True;

    if (leave == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
            return SSTPY_RAISED;
        }
        PyErr_Clear();
    }
    Py_XDECREF(leave);
    return leaves ? SST_EOF : SST_EAGAIN;
}

static int
worker_loop(WorkerObject *self)
{
    struct sst_pool_job job;
    int rc = worker_take(self, &job);

    while (rc == 0) {
        struct sstpy_encoded encoded;
        PyObject *value = NULL;
        const int code = run_task(self, &job, &encoded, &value);

        /* Who looks between two tasks takes the next one only then. */
        rc = worker_finish(self, &encoded, code, self->after == NULL ? &job : NULL);
        sstpy_encoded_release(&encoded);
        Py_XDECREF(value); /* nothing is kept while waiting for the next task */
        if (rc == SST_EAGAIN && self->after != NULL) {
            rc = worker_look(self);
        }
        if (rc == SST_EAGAIN || rc == SST_ETIMEDOUT || rc == SST_EINTR) {
            rc = worker_take(self, &job);
        }
    }
    return rc;
}

PyDoc_STRVAR(
    worker_run_doc,
    "run($self, idle_timeout=None, after=None, late=None, /)\n--\n\n"
    "Do tasks until there are none any more, none comes for so many seconds, "
    "or after(), called after each task, returns True. late() is called instead "
    "of a task that is over its soft limit before it begins.");

static PyObject *
worker_run(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    WorkerObject *const self = (WorkerObject *)obj;

    if (nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "run() takes 3 arguments");
        return NULL;
    }
    if (self->worker == NULL) {
        return sstpy_raise_empty(obj);
    }
    self->idle_ns = SSTPY_FOREVER;
    if (nargs > 0 && sstpy_to_duration(args[0], &self->idle_ns) < 0) {
        return NULL;
    }
    Py_XSETREF(self->after,
               nargs > 1 && args[1] != Py_None ? Py_NewRef(args[1]) : NULL);
    Py_XSETREF(self->late, nargs > 2 && args[2] != Py_None ? Py_NewRef(args[2]) : NULL);

    const int rc = worker_loop(self);
    if (rc == SST_ESHUTDOWN || rc == SST_EOF || rc == SST_ECLOSED ||
        rc == SST_ETIMEDOUT) {
        Py_RETURN_NONE;
    }
    return sstpy_raise(self->state, rc, NULL);
}

PyDoc_STRVAR(worker_tell_doc, "tell($self, tag, obj, /)\n--\n\n"
                              "Send the owner a note.");

static PyObject *
worker_tell(PyObject *obj, PyObject *args)
{
    WorkerObject *const self = (WorkerObject *)obj;
    struct sstpy_encoded encoded;
    unsigned long long tag = 0;
    PyObject *note = NULL;

    if (!PyArg_ParseTuple(args, "KO:tell", &tag, &note)) {
        return NULL;
    }
    if (self->worker == NULL) {
        return sstpy_raise_empty(obj);
    }

    int rc = sstpy_encode(self->state, note, &encoded);
    if (rc >= 0) {
        rc = encoded.parcel != NULL
                 ? SST_EINVAL
                 : sst_pool_tell(self->worker, tag, encoded.slices, encoded.count);
        sstpy_encoded_release(&encoded);
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(worker_late_doc,
             "soft_deadline($self, /)\n--\n\n"
             "Whether the task in hand is over its soft limit, and that is news.");

static PyObject *
worker_late(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const WorkerObject *const self = (WorkerObject *)obj;

    return PyBool_FromLong(self->worker != NULL && self->in_task &&
                           sst_pool_soft_deadline(self->worker));
}

PyDoc_STRVAR(worker_leave_doc, "leave($self, /)\n--\n\nGet up.");

static PyObject *
worker_leave(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *const self = (WorkerObject *)obj;

    if (self->worker != NULL) {
        self->worker = sst_pool_leave(self->worker);
    }
    Py_RETURN_NONE;
}

/* ---- Life ---- */

static int
worker_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"handle", "seat", NULL};
    WorkerObject *const self = (WorkerObject *)obj;
    struct sst_error err = {0};
    struct sst_handle handle;
    PyObject *bytes = NULL;
    unsigned long long seat = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OK:PoolWorker", names, &bytes,
                                     &seat) ||
        sstpy_handle_parse(bytes, &handle) < 0) {
        return -1;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->pool);
    if (arena == NULL) {
        return -1;
    }

    int rc = sst_pool_attach(arena, &handle, &self->pool, &err);
    if (rc == 0) {
        rc = sst_pool_enter(self->pool, seat, &self->worker, &err);
    }
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

static int
worker_traverse(PyObject *obj, visitproc visit, void *arg)
{
    WorkerObject *const self = (WorkerObject *)obj;

    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        Py_VISIT(self->functions[i].object);
    }
    Py_VISIT(self->after);
    Py_VISIT(self->late);
    Py_VISIT(Py_TYPE(obj));
    return 0;
}

static int
worker_clear(PyObject *obj)
{
    WorkerObject *const self = (WorkerObject *)obj;

    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        Py_CLEAR(self->functions[i].object);
    }
    Py_CLEAR(self->after);
    Py_CLEAR(self->late);
    return 0;
}

static void
worker_dealloc(PyObject *obj)
{
    WorkerObject *const self = (WorkerObject *)obj;

    PyObject_GC_UnTrack(obj);
    if (self->worker != NULL) {
        self->worker = sst_pool_leave(self->worker);
    }
    self->pool = sst_pool_close(self->pool);
    (void)worker_clear(obj);
    sstpy_free(obj);
}

static PyMethodDef worker_methods[] = {
    {"run", (PyCFunction)(void (*)(void))worker_run, METH_FASTCALL, worker_run_doc},
    {"tell", worker_tell, METH_VARARGS, worker_tell_doc},
    {"soft_deadline", worker_late, METH_NOARGS, worker_late_doc},
    {"leave", worker_leave, METH_NOARGS, worker_leave_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot worker_slots[] = {
    {Py_tp_doc, "A worker's place in a pool."},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, worker_init},
    {Py_tp_dealloc, worker_dealloc},
    {Py_tp_traverse, worker_traverse},
    {Py_tp_clear, worker_clear},
    {Py_tp_methods, worker_methods},
    {0, NULL},
};

static PyType_Spec worker_spec = {
    .name = "sidestep._core.PoolWorker",
    .basicsize = sizeof(WorkerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = worker_slots,
};

int
sstpy_pool_worker_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &worker_spec, &state->pool_worker_type);
}
