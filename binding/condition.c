/* SPDX-License-Identifier: MIT */

/* Condition: the three steps of waiting, so that Python can release and retake whatever
 * lock it uses between them. Death and passing on of notifications are the core's
 * concern. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_condition *condition; /* set before use, then const */
} ConditionObject;

/* The condition of the core, or NULL with ValueError set. */
static struct sst_condition *
condition_of(PyObject *self)
{
    struct sst_condition *const condition = ((ConditionObject *)self)->condition;

    return condition != NULL ? condition : sstpy_raise_empty(self);
}

struct condition_call {
    struct sst_condition *condition;
    uint64_t ticket;
};

static int
condition_call(void *context, int64_t deadline_ns)
{
    const struct condition_call *const call = context;

    return sst_condition_wait(call->condition, call->ticket, deadline_ns);
}

static int
condition_to_ticket(PyObject *obj, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(obj);
    return *out == (uint64_t)-1 && PyErr_Occurred() != NULL ? -1 : 0;
}

PyDoc_STRVAR(condition_enter_doc,
             "enter($self, /)\n--\n\n"
             "Begin to wait, while holding the lock: a ticket for wait().");

static PyObject *
condition_enter(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ConditionObject *const self = (ConditionObject *)obj;
    uint64_t ticket = 0;

    if (condition_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sst_condition_enter(self->condition, &ticket);
    return rc < 0 ? sstpy_raise(self->state, rc, NULL)
                  : PyLong_FromUnsignedLongLong(ticket);
}

PyDoc_STRVAR(condition_wait_doc,
             "wait($self, /, ticket, timeout=None)\n--\n\n"
             "Wait for a notification, without the lock. False when none came within "
             "`timeout` seconds.\n\n"
             "Unless it returned True, also when it raised, call leave().");

static PyObject *
condition_wait(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"ticket", "timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("wait", 1, names);
    ConditionObject *const self = (ConditionObject *)obj;
    struct condition_call call = {.condition = self->condition};
    PyObject *given[2];
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        condition_to_ticket(given[0], &call.ticket) < 0 ||
        sstpy_to_duration(given[1], &duration_ns) < 0 || condition_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sstpy_wait(condition_call, &call, duration_ns);
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(condition_leave_doc, "leave($self, ticket, /)\n--\n\n"
                                  "Give up waiting. True when a notification had come "
                                  "all the same: it is used up.");

static PyObject *
condition_leave(PyObject *obj, PyObject *arg)
{
    struct sst_condition *const condition = condition_of(obj);
    uint64_t ticket = 0;

    if (condition == NULL || condition_to_ticket(arg, &ticket) < 0) {
        return NULL;
    }
    return PyBool_FromLong(sst_condition_leave(condition, ticket));
}

PyDoc_STRVAR(condition_notify_doc, "notify($self, /, n=1)\n--\n\n"
                                   "Wake up to `n` that wait, while holding the lock. "
                                   "Returns how many.");

static PyObject *
condition_notify(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"n"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("notify", 0, names);
    ConditionObject *const self = (ConditionObject *)obj;
    PyObject *given[1];
    Py_ssize_t count = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_ssize(given[0], 1, &count) < 0 || condition_of(obj) == NULL) {
        return NULL;
    }
    if (count <= 0) {
        return PyLong_FromLong(0);
    }

    const uint32_t wanted = count < INT32_MAX ? (uint32_t)count : INT32_MAX;
    const int rc = sst_condition_notify(self->condition, wanted);
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : PyLong_FromLong(rc);
}

PyDoc_STRVAR(condition_waiters_doc, "waiters($self, /)\n--\n\nHow many wait.");

static PyObject *
condition_waiters(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct sst_condition *const condition = condition_of(self);

    return condition != NULL ? PyLong_FromUnsignedLong(sst_condition_waiters(condition))
                             : NULL;
}

PyDoc_STRVAR(condition_statistics_doc, "statistics($self, /)\n--\n\nwaiters.");

static PyObject *
condition_statistics(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("{s:N}", "waiters", condition_waiters(self, NULL));
}

static int
condition_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const struct sstpy_signature signature = {"Condition", 0, 0, NULL};
    ConditionObject *const self = (ConditionObject *)obj;
    struct sst_error err = {0};

    if (sstpy_parse_tuple(&signature, args, kwargs, NULL) < 0) {
        return -1;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->condition);
    if (arena == NULL) {
        return -1;
    }

    const int rc = sst_condition_create(arena, &self->condition, &err);
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

PyDoc_STRVAR(condition_attach_doc,
             "_attach($self, handle, /)\n--\n\n"
             "Be the condition that a handle names; for objects made by "
             "__new__ alone.");

static PyObject *
condition_attach(PyObject *obj, PyObject *arg)
{
    ConditionObject *const self = (ConditionObject *)obj;
    struct sst_error err = {0};
    struct sst_handle handle;

    if (sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->condition);
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_condition_attach(arena, &handle, &self->condition, &err);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(condition_from_handle_doc, "from_handle($type, handle, /)\n--\n\n"
                                        "The same condition in another process.");

static void
condition_dealloc(PyObject *obj)
{
    ConditionObject *const self = (ConditionObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->condition = sst_condition_close(self->condition);
    sstpy_free(obj);
}

static PyObject *
condition_get_handle(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_condition *const condition = condition_of(self);
    struct sst_handle handle;

    if (condition == NULL) {
        return NULL;
    }
    sst_condition_handle(condition, &handle);
    return sstpy_handle_new(&handle);
}

static PyMethodDef condition_methods[] = {
    {"enter", condition_enter, METH_NOARGS, condition_enter_doc},
    {"wait", (PyCFunction)(void (*)(void))condition_wait, METH_FASTCALL | METH_KEYWORDS,
     condition_wait_doc},
    {"leave", condition_leave, METH_O, condition_leave_doc},
    {"notify", (PyCFunction)(void (*)(void))condition_notify,
     METH_FASTCALL | METH_KEYWORDS, condition_notify_doc},
    {"waiters", condition_waiters, METH_NOARGS, condition_waiters_doc},
    {"statistics", condition_statistics, METH_NOARGS, condition_statistics_doc},
    {"_attach", condition_attach, METH_O, condition_attach_doc},
    {"from_handle", sstpy_from_handle, METH_O | METH_CLASS, condition_from_handle_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef condition_getset[] = {
    {"handle", condition_get_handle, NULL, "Names it in other processes: bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(condition_doc,
             "Condition()\n--\n\nThe waiting half of a condition variable.");

static PyType_Slot condition_slots[] = {
    {Py_tp_doc, (void *)condition_doc},    {Py_tp_new, sstpy_new},
    {Py_tp_init, condition_init},          {Py_tp_dealloc, condition_dealloc},
    {Py_tp_traverse, sstpy_traverse_type}, {Py_tp_methods, condition_methods},
    {Py_tp_getset, condition_getset},      {0, NULL},
};

static PyType_Spec condition_spec = {
    .name = "sidestep._core.Condition",
    .basicsize = sizeof(ConditionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = condition_slots,
};

int
sstpy_condition_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &condition_spec, &state->condition_type);
}
