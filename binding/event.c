/* SPDX-License-Identifier: MIT */

/* Event. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_event *event; /* set before use, then const */
} EventObject;

/* The event of the core, or NULL with ValueError set. */
static struct sst_event *
event_of(PyObject *self)
{
    struct sst_event *const event = ((EventObject *)self)->event;

    return event != NULL ? event : sstpy_raise_empty(self);
}

static int
event_call(void *context, int64_t deadline_ns)
{
    return sst_event_wait(context, deadline_ns);
}

PyDoc_STRVAR(event_wait_doc,
             "wait($self, /, timeout=None)\n--\n\n"
             "Wait until the event is set. False when it was not within "
             "`timeout` seconds.");

static PyObject *
event_wait(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("wait", 0, names);
    EventObject *const self = (EventObject *)obj;
    PyObject *given[1];
    int64_t duration_ns = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_duration(given[0], &duration_ns) < 0 || event_of(obj) == NULL) {
        return NULL;
    }

    const int rc = sstpy_wait(event_call, self->event, duration_ns);
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(event_set_doc,
             "set($self, /)\n--\n\nSet it and wake everybody who waits.");

static PyObject *
event_set(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct sst_event *const event = event_of(self);

    if (event == NULL) {
        return NULL;
    }
    sst_event_set(event);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_clear_doc, "clear($self, /)\n--\n\nMake it unset.");

static PyObject *
event_clear(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct sst_event *const event = event_of(self);

    if (event == NULL) {
        return NULL;
    }
    sst_event_clear(event);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_is_set_doc, "is_set($self, /)\n--\n\nWhether it is set.");

static PyObject *
event_is_set(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct sst_event *const event = event_of(self);

    return event != NULL ? PyBool_FromLong(sst_event_is_set(event)) : NULL;
}

PyDoc_STRVAR(event_statistics_doc, "statistics($self, /)\n--\n\nis_set.");

static PyObject *
event_statistics(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("{s:N}", "is_set", event_is_set(self, NULL));
}

static int
event_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const struct sstpy_signature signature = {"Event", 0, 0, NULL};
    EventObject *const self = (EventObject *)obj;
    struct sst_error err = {0};

    if (sstpy_parse_tuple(&signature, args, kwargs, NULL) < 0) {
        return -1;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->event);
    if (arena == NULL) {
        return -1;
    }

    const int rc = sst_event_create(arena, &self->event, &err);
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

PyDoc_STRVAR(event_attach_doc, "_attach($self, handle, /)\n--\n\n"
                               "Be the event that a handle names; for objects made by "
                               "__new__ alone.");

static PyObject *
event_attach(PyObject *obj, PyObject *arg)
{
    EventObject *const self = (EventObject *)obj;
    struct sst_error err = {0};
    struct sst_handle handle;

    if (sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->event);
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_event_attach(arena, &handle, &self->event, &err);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_from_handle_doc, "from_handle($type, handle, /)\n--\n\n"
                                    "The same event in another process.");

static void
event_dealloc(PyObject *obj)
{
    EventObject *const self = (EventObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->event = sst_event_close(self->event);
    sstpy_free(obj);
}

static PyObject *
event_get_handle(PyObject *self, void *Py_UNUSED(closure))
{
    const struct sst_event *const event = event_of(self);
    struct sst_handle handle;

    if (event == NULL) {
        return NULL;
    }
    sst_event_handle(event, &handle);
    return sstpy_handle_new(&handle);
}

static PyMethodDef event_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))event_wait, METH_FASTCALL | METH_KEYWORDS,
     event_wait_doc},
    {"set", event_set, METH_NOARGS, event_set_doc},
    {"clear", event_clear, METH_NOARGS, event_clear_doc},
    {"is_set", event_is_set, METH_NOARGS, event_is_set_doc},
    {"statistics", event_statistics, METH_NOARGS, event_statistics_doc},
    {"_attach", event_attach, METH_O, event_attach_doc},
    {"from_handle", sstpy_from_handle, METH_O | METH_CLASS, event_from_handle_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef event_getset[] = {
    {"handle", event_get_handle, NULL, "Names it in other processes: bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(event_doc, "Event()\n--\n\nA flag that processes can wait for.");

static PyType_Slot event_slots[] = {
    {Py_tp_doc, (void *)event_doc},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, event_init},
    {Py_tp_dealloc, event_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, event_methods},
    {Py_tp_getset, event_getset},
    {0, NULL},
};

static PyType_Spec event_spec = {
    .name = "sidestep._core.Event",
    .basicsize = sizeof(EventObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = event_slots,
};

int
sstpy_event_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &event_spec, &state->event_type);
}
