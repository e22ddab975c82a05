/* SPDX-License-Identifier: MIT */

/* SemLock: the mutexes and semaphores, behind the attributes of the stdlib's
 * _multiprocessing.SemLock, because that is what `lock._semlock` is known to be.
 *
 *   kind              core object           who may release
 *   RECURSIVE_MUTEX   recursive mutex       the owner thread
 *   SEMAPHORE         semaphore             anybody
 *   MUTEX             mutex                 anybody
 *
 * `count` and `last_ident` are this process's bookkeeping, as in the stdlib: they serve
 * _count(), _is_mine() and reprs and decide nothing. Guarded by the GIL. */

#include <errno.h>

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

enum semlock_kind {
    SEMLOCK_RECURSIVE_MUTEX = 0,
    SEMLOCK_SEMAPHORE = 1,
    SEMLOCK_MUTEX = 2,
};

enum {
    SEMLOCK_VALUE_MAX = INT32_MAX,
};

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_mutex *mutex; /* set before use, then const; NULL for SEMAPHORE */
    struct sst_semaphore *semaphore; /* the same; NULL for the others */
    int kind;
    int value_max;
    int count;                /* acquired less released in this process */
    unsigned long epoch;      /* of the fork that `count` belongs to */
    unsigned long last_ident; /* thread that acquired last */
} SemLockObject;

/* A forked child has acquired nothing yet. */
static int *
semlock_own_count(SemLockObject *self)
{
    const unsigned long epoch = sstpy_fork_epoch();

    if (self->epoch != epoch) {
        self->epoch = epoch;
        self->count = 0;
    }
    return &self->count;
}

static int
semlock_call_mutex(void *context, int64_t deadline_ns)
{
    return sst_mutex_acquire(context, deadline_ns);
}

static int
semlock_call_semaphore(void *context, int64_t deadline_ns)
{
    return sst_semaphore_acquire(context, deadline_ns);
}

/* ---- acquire and release ---- */

static PyObject *
semlock_acquire_wait(SemLockObject *self, int64_t duration_ns)
{
    int rc = 0;

    if (self->mutex != NULL) {
        rc = sstpy_wait(semlock_call_mutex, self->mutex, duration_ns);
    }
    else if (self->semaphore != NULL) {
        rc = sstpy_wait(semlock_call_semaphore, self->semaphore, duration_ns);
    }
    else {
        return sstpy_raise_empty((PyObject *)self);
    }
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    ++*semlock_own_count(self);
    self->last_ident = sstpy_thread_ident();
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(
    semlock_acquire_doc,
    "acquire($self, /, block=True, timeout=None)\n--\n\n"
    "Take it. False when it could not be had within `timeout` seconds.\n\n"
    "None waits for ever, zero and less do not wait. Raises OwnerDied when the "
    "process that held the lock died holding it; see recover().");

static PyObject *
semlock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"block", "timeout"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("acquire", 0, names);
    PyObject *given[2];
    int64_t duration_ns = SSTPY_FOREVER;

    if (nargs != 0 || kwnames != NULL) {
        if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
            sstpy_to_patience(given[0], given[1], &duration_ns) < 0) {
            return NULL;
        }
    }
    return semlock_acquire_wait((SemLockObject *)self, duration_ns);
}

static PyObject *
semlock_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return semlock_acquire_wait((SemLockObject *)self, SSTPY_FOREVER);
}

/* The stdlib's exceptions and texts. */
static PyObject *
semlock_release_failed(const SemLockObject *self, int rc)
{
    if (rc == SST_ENOTOWNER ||
        (rc == SST_EOVERFLOW && self->kind == SEMLOCK_RECURSIVE_MUTEX)) {
        PyErr_SetString(PyExc_AssertionError, "attempt to release recursive lock not "
                                              "owned by thread");
        return NULL;
    }
    if (rc == SST_EOVERFLOW) {
        PyErr_SetString(PyExc_ValueError, "semaphore or lock released too many times");
        return NULL;
    }
    return sstpy_raise(self->state, rc, NULL);
}

PyDoc_STRVAR(semlock_release_doc,
             "release($self, /)\n--\n\n"
             "Give it back. ValueError when it was not taken, AssertionError when a "
             "recursive lock belongs to another thread.");

static PyObject *
semlock_release(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    SemLockObject *const self = (SemLockObject *)obj;
    int rc = 0;

    if (self->mutex != NULL) {
        rc = sst_mutex_release(self->mutex);
    }
    else if (self->semaphore != NULL) {
        rc = sst_semaphore_release(self->semaphore, 1);
    }
    else {
        return sstpy_raise_empty(obj);
    }
    if (rc < 0) {
        return semlock_release_failed(self, rc);
    }
    --*semlock_own_count(self);
    Py_RETURN_NONE;
}

static PyObject *
semlock_exit(PyObject *self, PyObject *const *Py_UNUSED(args),
             Py_ssize_t Py_UNUSED(nargs))
{
    return semlock_release(self, NULL);
}

PyDoc_STRVAR(semlock_recover_doc,
             "recover($self, /)\n--\n\n"
             "Free a lock whose owner died holding it, or the units of a bounded "
             "semaphore that dead processes hold. False when there was nothing to "
             "recover.");

static PyObject *
semlock_recover(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    SemLockObject *const self = (SemLockObject *)obj;

    if (self->mutex == NULL && self->semaphore == NULL) {
        Py_RETURN_FALSE;
    }

    const int rc = self->mutex != NULL ? sst_mutex_recover(self->mutex)
                                       : sst_semaphore_recover(self->semaphore);
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : PyBool_FromLong(rc != 0);
}

/* ---- looking ---- */

static uint32_t
semlock_value(const SemLockObject *self)
{
    if (self->mutex != NULL) {
        return sst_mutex_is_locked(self->mutex) ? 0 : 1;
    }
    return self->semaphore != NULL ? sst_semaphore_value(self->semaphore) : 0;
}

/* How often it is taken: by this thread, or as far as this process knows by others of
 * it. */
static long
semlock_count_now(SemLockObject *self)
{
    if (self->mutex == NULL) {
        return *semlock_own_count(self);
    }

    const uint32_t held = sst_mutex_count(self->mutex);
    if (held > 0) {
        return held;
    }
    const int count = *semlock_own_count(self);
    return sst_mutex_is_locked(self->mutex) && count > 0 ? count : 0;
}

PyDoc_STRVAR(semlock_count_doc, "_count($self, /)\n--\n\n"
                                "How often this process holds it.");

static PyObject *
semlock_count(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(semlock_count_now((SemLockObject *)self));
}

PyDoc_STRVAR(semlock_is_mine_doc,
             "_is_mine($self, /)\n--\n\n"
             "Whether the calling thread took it last and holds it.");

static PyObject *
semlock_is_mine(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    SemLockObject *const self = (SemLockObject *)obj;

    if (self->mutex != NULL && self->kind == SEMLOCK_RECURSIVE_MUTEX) {
        return PyBool_FromLong(sst_mutex_count(self->mutex) > 0);
    }
    return PyBool_FromLong(semlock_count_now(self) > 0 &&
                           self->last_ident == sstpy_thread_ident());
}

PyDoc_STRVAR(semlock_get_value_doc, "_get_value($self, /)\n--\n\n"
                                    "The units that are free; for a lock 0 or 1.");

static PyObject *
semlock_get_value(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(semlock_value((SemLockObject *)self));
}

PyDoc_STRVAR(semlock_is_zero_doc, "_is_zero($self, /)\n--\n\n"
                                  "Whether nothing is free.");

static PyObject *
semlock_is_zero(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(semlock_value((SemLockObject *)self) == 0);
}

PyDoc_STRVAR(semlock_locked_doc, "locked($self, /)\n--\n\n"
                                 "Whether acquire() would have to wait now.");

PyDoc_STRVAR(semlock_after_fork_doc,
             "_after_fork($self, /)\n--\n\n"
             "In a forked child: what the parent's threads hold is not held here.");

static PyObject *
semlock_after_fork(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    *semlock_own_count((SemLockObject *)obj) = 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(semlock_statistics_doc, "statistics($self, /)\n--\n\n"
                                     "kind, value, maxvalue, and count: what this "
                                     "process holds.");

static PyObject *
semlock_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    SemLockObject *const self = (SemLockObject *)obj;

    return Py_BuildValue("{s:i,s:I,s:i,s:l}", "kind", self->kind, "value",
                         semlock_value(self), "maxvalue", self->value_max, "count",
                         semlock_count_now(self));
}

/* ---- life ---- */

static const void *
semlock_core(const SemLockObject *self)
{
    return self->mutex != NULL ? (const void *)self->mutex : self->semaphore;
}

/* The kind and the bound of what was attached. */
static void
semlock_describe(SemLockObject *self)
{
    if (self->mutex == NULL) {
        self->kind = SEMLOCK_SEMAPHORE;
        self->value_max = (int)sst_semaphore_value_max(self->semaphore);
        return;
    }
    self->kind =
        sst_mutex_is_recursive(self->mutex) ? SEMLOCK_RECURSIVE_MUTEX : SEMLOCK_MUTEX;
    self->value_max = 1;
}

static int
semlock_open(SemLockObject *self, int kind, int value, int value_max)
{
    struct sst_arena *const arena = sstpy_begin(self->state, semlock_core(self));
    struct sst_error err = {0};
    int rc = 0;

    if (arena == NULL) {
        return -1;
    }
    self->kind = kind;
    self->value_max = value_max;
    if (kind == SEMLOCK_SEMAPHORE) {
        rc = sst_semaphore_create(arena, (uint32_t)value, (uint32_t)value_max,
                                  &self->semaphore, &err);
        return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
    }

    rc = sst_mutex_create(arena,
                          kind == SEMLOCK_RECURSIVE_MUTEX ? SST_MUTEX_RECURSIVE : 0,
                          &self->mutex, &err);
    if (rc < 0) {
        return sstpy_fail(self->state, rc, &err);
    }
    if (value == 0) { /* born locked */
        rc = sst_mutex_acquire(self->mutex, SST_NOW);
        return rc < 0 ? sstpy_fail(self->state, rc, NULL) : 0;
    }
    return 0;
}

static int
semlock_check(int kind, int value, int value_max)
{
    if (kind < SEMLOCK_RECURSIVE_MUTEX || kind > SEMLOCK_MUTEX) {
        PyErr_SetString(PyExc_ValueError, "unrecognized kind");
        return -1;
    }
    if (value < 0 || value_max < 1 || value > value_max) {
        /* what the stdlib's sem_open answers */
        (void)sstpy_raise_errno(-EINVAL);
        return -1;
    }
    return 0;
}

static int
semlock_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"kind", "value", "maxvalue"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("SemLock", 3, names);
    SemLockObject *const self = (SemLockObject *)obj;
    PyObject *given[3];
    int kind = 0;
    int value = 0;
    int value_max = 0;

    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0 ||
        sstpy_to_int(given[0], 0, &kind) < 0 || sstpy_to_int(given[1], 0, &value) < 0 ||
        sstpy_to_int(given[2], 0, &value_max) < 0 ||
        semlock_check(kind, value, value_max) < 0) {
        return -1;
    }
    return semlock_open(self, kind, value, value_max);
}

PyDoc_STRVAR(semlock_attach_doc, "_attach($self, handle, /)\n--\n\n"
                                 "Be the lock that a handle names; for objects made by "
                                 "__new__ alone.");

static PyObject *
semlock_attach(PyObject *obj, PyObject *arg)
{
    SemLockObject *const self = (SemLockObject *)obj;
    struct sst_error err = {0};
    struct sst_handle handle;
    int rc = 0;

    if (sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, semlock_core(self));
    if (arena == NULL) {
        return NULL;
    }
    if (handle.kind == SST_KIND_SEMAPHORE) {
        rc = sst_semaphore_attach(arena, &handle, &self->semaphore, &err);
    }
    else {
        rc = sst_mutex_attach(arena, &handle, &self->mutex, &err);
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    semlock_describe(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(semlock_from_handle_doc, "from_handle($type, handle, /)\n--\n\n"
                                      "The same lock in another process, or again in "
                                      "this one.");

static void
semlock_dealloc(PyObject *obj)
{
    SemLockObject *const self = (SemLockObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->mutex = sst_mutex_close(self->mutex);
    self->semaphore = sst_semaphore_close(self->semaphore);
    sstpy_free(obj);
}

static PyObject *
semlock_get_handle(PyObject *obj, void *Py_UNUSED(closure))
{
    const SemLockObject *const self = (SemLockObject *)obj;
    struct sst_handle handle;

    if (self->mutex != NULL) {
        sst_mutex_handle(self->mutex, &handle);
    }
    else if (self->semaphore != NULL) {
        sst_semaphore_handle(self->semaphore, &handle);
    }
    else {
        return sstpy_raise_empty(obj);
    }
    return sstpy_handle_new(&handle);
}

static PyObject *
semlock_get_kind(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((SemLockObject *)self)->kind);
}

static PyObject *
semlock_get_maxvalue(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((SemLockObject *)self)->value_max);
}

static PyObject *
semlock_get_name(PyObject *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    Py_RETURN_NONE; /* nothing here has a name in the file system */
}

PyDoc_STRVAR(semlock_enter_doc, "__enter__($self, /)\n--\n\n");
PyDoc_STRVAR(semlock_exit_doc, "__exit__($self, /, *args)\n--\n\n");

static PyMethodDef semlock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))semlock_acquire,
     METH_FASTCALL | METH_KEYWORDS, semlock_acquire_doc},
    {"release", semlock_release, METH_NOARGS, semlock_release_doc},
    {"__enter__", semlock_enter, METH_NOARGS, semlock_enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))semlock_exit, METH_FASTCALL,
     semlock_exit_doc},
    {"recover", semlock_recover, METH_NOARGS, semlock_recover_doc},
    {"locked", semlock_is_zero, METH_NOARGS, semlock_locked_doc},
    {"_count", semlock_count, METH_NOARGS, semlock_count_doc},
    {"_is_mine", semlock_is_mine, METH_NOARGS, semlock_is_mine_doc},
    {"_get_value", semlock_get_value, METH_NOARGS, semlock_get_value_doc},
    {"_is_zero", semlock_is_zero, METH_NOARGS, semlock_is_zero_doc},
    {"_after_fork", semlock_after_fork, METH_NOARGS, semlock_after_fork_doc},
    {"statistics", semlock_statistics, METH_NOARGS, semlock_statistics_doc},
    {"_attach", semlock_attach, METH_O, semlock_attach_doc},
    {"from_handle", sstpy_from_handle, METH_O | METH_CLASS, semlock_from_handle_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef semlock_getset[] = {
    {"handle", semlock_get_handle, NULL, "Names it in other processes: bytes.", NULL},
    {"kind", semlock_get_kind, NULL, "RECURSIVE_MUTEX 0, SEMAPHORE 1, MUTEX 2.", NULL},
    {"maxvalue", semlock_get_maxvalue, NULL, "The most units that can be free.", NULL},
    {"name", semlock_get_name, NULL, "None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(semlock_doc,
             "SemLock(kind, value, maxvalue)\n--\n\n"
             "A lock, recursive lock or semaphore shared between processes.");

static PyType_Slot semlock_slots[] = {
    {Py_tp_doc, (void *)semlock_doc},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, semlock_init},
    {Py_tp_dealloc, semlock_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, semlock_methods},
    {Py_tp_getset, semlock_getset},
    {0, NULL},
};

static PyType_Spec semlock_spec = {
    .name = "sidestep._core.SemLock",
    .basicsize = sizeof(SemLockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = semlock_slots,
};

int
sstpy_semlock_exec(PyObject *module, struct sstpy_state *state)
{
    static const struct {
        const char *name;
        long value;
    } constants[] = {
        {"SEM_VALUE_MAX", SEMLOCK_VALUE_MAX},
        {"RECURSIVE_MUTEX", SEMLOCK_RECURSIVE_MUTEX},
        {"SEMAPHORE", SEMLOCK_SEMAPHORE},
        {"MUTEX", SEMLOCK_MUTEX},
    };

    if (sstpy_type_add(module, &semlock_spec, &state->semlock_type) < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof(constants) / sizeof(*constants); i++) {
        PyObject *const value = PyLong_FromLong(constants[i].value);
        if (value == NULL || PyObject_SetAttrString((PyObject *)state->semlock_type,
                                                    constants[i].name, value) < 0) {
            Py_XDECREF(value);
            return -1;
        }
        Py_DECREF(value);
    }
    return 0;
}
