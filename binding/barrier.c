/* SPDX-License-Identifier: MIT */

/* Barrier: arrive, let the last one run its action and open, wait. The rounds, a dead
 * waiter and broken barriers are the core's concern. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_barrier *barrier; /* set before use, then const */
} BarrierObject;

/* The barrier of the core, or NULL with ValueError set. */
static struct sst_barrier *
barrier_of(PyObject *self)
{
    struct sst_barrier *const barrier = ((BarrierObject *)self)->barrier;

    return barrier != NULL ? barrier : sstpy_raise_empty(self);
}

struct barrier_call {
    struct sst_barrier *barrier;
    uint64_t ticket;
};

static int
barrier_call_arrive(void *context, int64_t deadline_ns)
{
    struct barrier_call *const call = context;

    return sst_barrier_arrive(call->barrier, &call->ticket, deadline_ns);
}

static int
barrier_call_wait(void *context, int64_t deadline_ns)
{
    const struct barrier_call *const call = context;

    return sst_barrier_wait(call->barrier, call->ticket, deadline_ns);
}

static int
barrier_to_ticket(PyObject *obj, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(obj);
    return *out == (uint64_t)-1 && PyErr_Occurred() != NULL ? -1 : 0;
}

/* In a barrier running out of time breaks it for everybody. */
static PyObject *
barrier_raise(const BarrierObject *self, int rc)
{
    return sstpy_raise(self->state, rc == SST_ETIMEDOUT ? SST_EBROKEN : rc, NULL);
}

PyDoc_STRVAR(
    barrier_arrive_doc,
    "arrive($self, /, timeout=None)\n--\n\n"
    "Arrive: (index, ticket). The one with index parties - 1 runs the action, "
    "then open(ticket) or abort(); all others wait(ticket).\n\n"
    "Waits while the previous round leaves. BrokenBarrierError when the barrier "
    "is or gets broken.");

static PyObject *
barrier_arrive(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("arrive", 0, names);
    BarrierObject *const self = (BarrierObject *)obj;
    struct barrier_call call = {.barrier = self->barrier};
    PyObject *given[1];
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_duration(given[0], &duration_ns) < 0 || barrier_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sstpy_wait(barrier_call_arrive, &call, duration_ns);
    if (rc < 0) {
        return barrier_raise(self, rc);
    }
    return Py_BuildValue("iK", rc, (unsigned long long)call.ticket);
}

PyDoc_STRVAR(barrier_open_doc, "open($self, ticket, /)\n--\n\nLet everybody through.");

static PyObject *
barrier_open(PyObject *obj, PyObject *arg)
{
    BarrierObject *const self = (BarrierObject *)obj;
    uint64_t ticket = 0;

    if (barrier_of(obj) == NULL || barrier_to_ticket(arg, &ticket) < 0) {
        return NULL;
    }

    const int rc = sst_barrier_open(self->barrier, ticket);
    if (rc < 0) {
        return barrier_raise(self, rc);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    barrier_wait_doc,
    "wait($self, /, ticket, timeout=None)\n--\n\n"
    "Wait until the barrier opens. BrokenBarrierError when it breaks first, also "
    "by running out of time here or by the death of one that waits.");

static PyObject *
barrier_wait(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"ticket", "timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("wait", 1, names);
    BarrierObject *const self = (BarrierObject *)obj;
    struct barrier_call call = {.barrier = self->barrier};
    PyObject *given[2];
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        barrier_to_ticket(given[0], &call.ticket) < 0 ||
        sstpy_to_duration(given[1], &duration_ns) < 0 || barrier_of(obj) == NULL) {
        return NULL;
    }

    /* No attempt without detaching: here a deadline that has passed breaks the barrier.
     * */
    const int rc =
        sstpy_wait_until(barrier_call_wait, &call, sstpy_deadline(duration_ns));
    if (rc < 0) {
        return barrier_raise(self, rc);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(barrier_leave_doc, "leave($self, ticket, /)\n--\n\n"
                                "Give up waiting, as if never arrived, unless all "
                                "have come.");

static PyObject *
barrier_leave(PyObject *obj, PyObject *arg)
{
    struct sst_barrier *const barrier = barrier_of(obj);
    uint64_t ticket = 0;

    if (barrier == NULL || barrier_to_ticket(arg, &ticket) < 0) {
        return NULL;
    }
    sst_barrier_leave(barrier, ticket);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(barrier_abort_doc, "abort($self, /)\n--\n\nBreak it.");

static PyObject *
barrier_abort(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct sst_barrier *const barrier = barrier_of(self);

    if (barrier == NULL) {
        return NULL;
    }
    sst_barrier_abort(barrier);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(barrier_reset_doc, "reset($self, /)\n--\n\n"
                                "Make it empty and whole. Those that wait get "
                                "BrokenBarrierError.");

static PyObject *
barrier_reset(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct sst_barrier *const barrier = barrier_of(self);

    if (barrier == NULL) {
        return NULL;
    }
    sst_barrier_reset(barrier);
    Py_RETURN_NONE;
}

static PyObject *
barrier_get_parties(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_barrier *const barrier = barrier_of(self);

    return barrier != NULL ? PyLong_FromUnsignedLong(sst_barrier_parties(barrier))
                           : NULL;
}

static PyObject *
barrier_get_waiting(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_barrier *const barrier = barrier_of(self);

    return barrier != NULL ? PyLong_FromUnsignedLong(sst_barrier_waiting(barrier))
                           : NULL;
}

static PyObject *
barrier_get_broken(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_barrier *const barrier = barrier_of(self);

    return barrier != NULL ? PyBool_FromLong(sst_barrier_is_broken(barrier)) : NULL;
}

PyDoc_STRVAR(barrier_statistics_doc, "statistics($self, /)\n--\n\n"
                                     "parties, n_waiting, broken.");

static PyObject *
barrier_statistics(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("{s:N,s:N,s:N}", "parties", barrier_get_parties(self, NULL),
                         "n_waiting", barrier_get_waiting(self, NULL), "broken",
                         barrier_get_broken(self, NULL));
}

static int
barrier_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"parties"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("Barrier", 1, names);
    BarrierObject *const self = (BarrierObject *)obj;
    PyObject *given[1];
    struct sst_error err = {0};
    int parties = 0;

    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0 ||
        sstpy_to_int(given[0], 0, &parties) < 0) {
        return -1;
    }
    if (parties < 1) {
        PyErr_SetString(PyExc_ValueError, "parties must be > 0");
        return -1;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->barrier);
    if (arena == NULL) {
        return -1;
    }

    const int rc = sst_barrier_create(arena, (uint32_t)parties, &self->barrier, &err);
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

PyDoc_STRVAR(barrier_attach_doc,
             "_attach($self, handle, /)\n--\n\n"
             "Be the barrier that a handle names; for objects made by "
             "__new__ alone.");

static PyObject *
barrier_attach(PyObject *obj, PyObject *arg)
{
    BarrierObject *const self = (BarrierObject *)obj;
    struct sst_error err = {0};
    struct sst_handle handle;

    if (sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->barrier);
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_barrier_attach(arena, &handle, &self->barrier, &err);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(barrier_from_handle_doc, "from_handle($type, handle, /)\n--\n\n"
                                      "The same barrier in another process.");

static void
barrier_dealloc(PyObject *obj)
{
    BarrierObject *const self = (BarrierObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->barrier = sst_barrier_close(self->barrier);
    sstpy_free(obj);
}

static PyObject *
barrier_get_handle(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_barrier *const barrier = barrier_of(self);
    struct sst_handle handle;

    if (barrier == NULL) {
        return NULL;
    }
    sst_barrier_handle(barrier, &handle);
    return sstpy_handle_new(&handle);
}

static PyMethodDef barrier_methods[] = {
    {"arrive", (PyCFunction)(void (*)(void))barrier_arrive,
     METH_FASTCALL | METH_KEYWORDS, barrier_arrive_doc},
    {"open", barrier_open, METH_O, barrier_open_doc},
    {"wait", (PyCFunction)(void (*)(void))barrier_wait, METH_FASTCALL | METH_KEYWORDS,
     barrier_wait_doc},
    {"leave", barrier_leave, METH_O, barrier_leave_doc},
    {"abort", barrier_abort, METH_NOARGS, barrier_abort_doc},
    {"reset", barrier_reset, METH_NOARGS, barrier_reset_doc},
    {"statistics", barrier_statistics, METH_NOARGS, barrier_statistics_doc},
    {"_attach", barrier_attach, METH_O, barrier_attach_doc},
    {"from_handle", sstpy_from_handle, METH_O | METH_CLASS, barrier_from_handle_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef barrier_getset[] = {
    {"parties", barrier_get_parties, NULL, "How many must arrive.", NULL},
    {"n_waiting", barrier_get_waiting, NULL, "How many have arrived.", NULL},
    {"broken", barrier_get_broken, NULL, "Whether it is broken.", NULL},
    {"handle", barrier_get_handle, NULL, "Names it in other processes: bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(barrier_doc, "Barrier(parties)\n--\n\nA meeting point of processes.");

static PyType_Slot barrier_slots[] = {
    {Py_tp_doc, (void *)barrier_doc},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, barrier_init},
    {Py_tp_dealloc, barrier_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, barrier_methods},
    {Py_tp_getset, barrier_getset},
    {0, NULL},
};

static PyType_Spec barrier_spec = {
    .name = "sidestep._core.Barrier",
    .basicsize = sizeof(BarrierObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = barrier_slots,
};

int
sstpy_barrier_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &barrier_spec, &state->barrier_type);
}
