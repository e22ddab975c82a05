/* SPDX-License-Identifier: MIT */

/* Calling the pickler.
 *
 * Python registers two functions: dumps(obj, buffer_callback) and loads(data, buffers).
 * What dumps gives may be any bytes-like object. A PickleFile is the best: a pickler
 * writes the frames of a pickle as bytes objects of its own, and large bytes as the
 * objects they are, so a file that keeps what it was given has the whole pickle without
 * a copy, and the message is put together from the parts.
 *
 * A reducer of a shared object says so by message_hold(handle): then a parcel holds the
 * object from that moment, and the message holds the parcel. Messages being made form a
 * stack per thread, because a reducer may put into a queue itself. The stack lives in
 * stack frames of C: whoever begins also ends. A forked child that goes on inside a
 * reducer (a process started there) has a copy of the stack, but the messages are its
 * parent's: the number of forks tells.
 *
 * A parcel is made with room for a few objects. When it is full the next, twice as
 * large, holds the one before. */

#include "pickle.h"

#include <string.h>

#include "buffers.h"
#include "compat.h"
#include "errors.h"
#include "interrupt.h"

/* ---- The functions ---- */

/* The stdlib's function under that name, for when none was registered. */
static PyObject *
pickle_default(const char *name)
{
    PyObject *const module = PyImport_ImportModule("pickle");

    if (module == NULL) {
        return NULL;
    }

    PyObject *const function = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return function;
}

/* pickle.dumps(obj, protocol=5, buffer_callback=callback) */
static PyObject *
pickle_dumps_default(PyObject *obj, PyObject *callback)
{
    PyObject *const function = pickle_default("dumps");
    PyObject *const kwargs =
        Py_BuildValue("{s:i,s:O}", "protocol", 5, "buffer_callback", callback);
    PyObject *const args = PyTuple_Pack(1, obj);
    PyObject *result = NULL;

    if (function != NULL && kwargs != NULL && args != NULL) {
        result = PyObject_Call(function, args, kwargs);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(function);
    return result;
}

/* pickle.loads(data, buffers=buffers) */
static PyObject *
pickle_loads_default(PyObject *data, PyObject *buffers)
{
    PyObject *const function = pickle_default("loads");
    PyObject *const kwargs = Py_BuildValue("{s:O}", "buffers", buffers);
    PyObject *const args = PyTuple_Pack(1, data);
    PyObject *result = NULL;

    if (function != NULL && kwargs != NULL && args != NULL) {
        result = PyObject_Call(function, args, kwargs);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(function);
    return result;
}

static PyObject *
pickle_call(PyObject *function, PyObject *first, PyObject *second)
{
    PyObject *const args[] = {first, second};
    /* set_pickler may replace it while it runs */
    PyObject *const held = Py_NewRef(function);
    PyObject *const result = PyObject_Vectorcall(held, args, 2, NULL);

    Py_DECREF(held);
    return result;
}

PyObject *
sstpy_pickle(struct sstpy_state *state, PyObject *obj, PyObject *callback)
{
    PyObject *const second = callback != NULL ? callback : Py_None;

    return state->dumps != NULL ? pickle_call(state->dumps, obj, second)
                                : pickle_dumps_default(obj, second);
}

/* Of a connection whose peer may not name everything. */
static _Thread_local PyObject *loads_here;

PyObject *
sstpy_loads_swap(PyObject *loads)
{
    PyObject *const before = loads_here;

    loads_here = loads;
    return before;
}

PyObject *
sstpy_unpickle(struct sstpy_state *state, PyObject *data, PyObject *buffers)
{
    PyObject *const second = buffers != NULL ? buffers : Py_None;

    if (loads_here != NULL) {
        return pickle_call(loads_here, data, second);
    }
    return state->loads != NULL ? pickle_call(state->loads, data, second)
                                : pickle_loads_default(data, second);
}

PyObject *
sstpy_unpickle_whole(struct sstpy_state *state, PyObject *data, PyObject *buffers,
                     bool again)
{
    struct sstpy_retry retry = {0};
    PyObject *object = NULL;

    do {
        object = sstpy_unpickle(state, data, buffers);
    } while (object == NULL && again && sstpy_retry(&retry));
    return object;
}

PyDoc_STRVAR(
    set_pickler_doc,
    "set_pickler($module, dumps, loads, /)\n--\n\n"
    "The functions that pickle what the codec does not know.\n\n"
    "dumps(obj, buffer_callback) gives a bytes-like object, best a PickleFile, and "
    "calls buffer_callback as pickle does, unless it is None. loads(data, buffers) "
    "gives the object; buffers is a sequence or None. Until told, those of the module "
    "pickle.");

static PyObject *
core_set_pickler(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct sstpy_state *const state = sstpy_module_state(module);

    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "set_pickler() takes 2 positional arguments");
        return NULL;
    }
    if (!PyCallable_Check(args[0]) || !PyCallable_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "dumps and loads must be callable");
        return NULL;
    }
    Py_XSETREF(state->dumps, Py_NewRef(args[0]));
    Py_XSETREF(state->loads, Py_NewRef(args[1]));
    Py_RETURN_NONE;
}

/* ---- The message being made ---- */

static _Thread_local struct sstpy_making *making_now;

void
sstpy_making_begin(struct sstpy_making *making, struct sstpy_collector *collector)
{
    making->outer = making_now;
    making->epoch = sstpy_fork_epoch();
    making->parcel = NULL;
    making->hold_max = 0;
    making->collector = collector;
    making_now = making;
}

void
sstpy_making_end(struct sstpy_making *making)
{
    making_now = making->outer;
}

/* The innermost message of this thread that this process is making, or NULL. */
static struct sstpy_making *
making_find(void)
{
    struct sstpy_making *const making = making_now;

    return making != NULL && making->epoch == sstpy_fork_epoch() ? making : NULL;
}

enum {
    MAKING_BYTES = 800, /* with these a parcel fits into a slot of 1 KiB */
    MAKING_HOLDS = 8,
};

/* A parcel with more room, which holds the one before. */
static int
making_grow(struct sst_arena *arena, struct sstpy_making *making, struct sst_error *err)
{
    const uint32_t holds = making->parcel == NULL
                               ? (uint32_t)MAKING_HOLDS
                               : sst_parcel_count(making->parcel) * 2;
    struct sst_parcel *parcel = NULL;
    struct sst_handle before;

    int rc = sst_parcel_create(arena, MAKING_BYTES, holds, &parcel, err);
    if (rc == 0 && making->parcel != NULL) {
        sst_parcel_handle(making->parcel, &before);
        rc = sst_parcel_hold(parcel, &before, err);
        if (rc < 0) {
            (void)sst_parcel_close(parcel);
        }
    }
    if (rc < 0) {
        return rc;
    }
    (void)sst_parcel_close(making->parcel);
    making->parcel = parcel;
    making->hold_max = holds;
    return 0;
}

static int
making_hold(struct sst_arena *arena, struct sstpy_making *making,
            const struct sst_handle *handle, struct sst_error *err)
{
    if (making->parcel == NULL ||
        sst_parcel_count(making->parcel) >= making->hold_max) {
        const int rc = making_grow(arena, making, err);
        if (rc < 0) {
            return rc;
        }
    }
    return sst_parcel_hold(making->parcel, handle, err);
}

PyDoc_STRVAR(
    message_hold_doc,
    "message_hold($module, handle, /)\n--\n\n"
    "Let the message that is being made on this thread hold a shared object, so that "
    "it lives until the message is received: for reducers. False when none is being "
    "made.");

static PyObject *
core_message_hold(PyObject *module, PyObject *arg)
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sstpy_making *const making = making_find();
    struct sst_error err = {0};
    struct sst_handle handle;

    if (sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }
    if (making == NULL) {
        Py_RETURN_FALSE;
    }

    struct sst_arena *const arena = sstpy_arena(state);
    if (arena == NULL) {
        return NULL;
    }

    const int rc = making_hold(arena, making, &handle, &err);
    if (rc < 0) {
        return sstpy_raise(state, rc, &err);
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(message_active_doc, "message_active($module, /)\n--\n\n"
                                 "Whether a message is being made on this thread.");

static PyObject *
core_message_active(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(making_find() != NULL);
}

PyDoc_STRVAR(
    message_reset_doc,
    "message_reset($module, /)\n--\n\n"
    "Let the message that is being made on this thread forget what it holds and the "
    "buffers put aside for it: a try to pickle it failed and another begins. Nothing "
    "when none is being made.");

static PyObject *
core_message_reset(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    struct sstpy_making *const making = making_find();

    if (making != NULL) {
        making->parcel = sst_parcel_close(making->parcel);
        making->hold_max = 0;
        sstpy_collector_clear(making->collector); /* may run Python code */
    }
    Py_RETURN_NONE;
}

/* ---- PickleFile ---- */

bool
sstpy_is_pickle_file(const struct sstpy_state *state, PyObject *obj)
{
    return Py_TYPE(obj) == state->pickle_file_type;
}

static PyObject *
file_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) != 0 ||
        (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "PickleFile() takes no arguments");
        return NULL;
    }

    struct sstpy_pickle_file *const self =
        (struct sstpy_pickle_file *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->parts = self->few;
        self->room = (Py_ssize_t)(sizeof(self->few) / sizeof(*self->few));
    }
    return (PyObject *)self;
}

static int
file_grow(struct sstpy_pickle_file *self)
{
    const Py_ssize_t room = self->room * 4;
    PyObject **const parts = PyMem_Malloc((size_t)room * sizeof(*parts));

    if (parts == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    memcpy(parts, self->parts, (size_t)self->count * sizeof(*parts));
    if (self->parts != self->few) {
        PyMem_Free(self->parts);
    }
    self->parts = parts;
    self->room = room;
    return 0;
}

PyDoc_STRVAR(file_write_doc,
             "write($self, data, /)\n--\n\n"
             "Append. Exact bytes objects are kept, anything else is copied.");

static PyObject *
file_write(PyObject *obj, PyObject *data)
{
    struct sstpy_pickle_file *const self = (struct sstpy_pickle_file *)obj;

    if (!PyBytes_CheckExact(data) && !PyObject_CheckBuffer(data)) {
        PyErr_Format(PyExc_TypeError, "a bytes-like object is required, not '%.100s'",
                     Py_TYPE(data)->tp_name);
        return NULL;
    }

    PyObject *const bytes =
        PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    if (bytes == NULL) {
        return NULL;
    }
    if (self->count == self->room && file_grow(self) < 0) {
        Py_DECREF(bytes);
        return NULL;
    }
    self->parts[self->count++] = bytes;
    self->size += (uint64_t)PyBytes_GET_SIZE(bytes);
    return PyLong_FromSsize_t(PyBytes_GET_SIZE(bytes));
}

PyDoc_STRVAR(file_mentions_doc,
             "mentions($self, data, /)\n--\n\n"
             "Whether these bytes are somewhere in what was written by one call.");

static PyObject *
file_mentions(PyObject *obj, PyObject *data)
{
    const struct sstpy_pickle_file *const self = (struct sstpy_pickle_file *)obj;
    Py_buffer view;
    bool found = false;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < self->count && !found; i++) {
        PyObject *const part = self->parts[i];
        found = memmem(PyBytes_AS_STRING(part), (size_t)PyBytes_GET_SIZE(part),
                       view.buf, (size_t)view.len) != NULL;
    }
    PyBuffer_Release(&view);
    return PyBool_FromLong(found);
}

/* All parts in one, which takes their place. */
static PyObject *
file_join(struct sstpy_pickle_file *self)
{
    if (self->count == 1) {
        return self->parts[0];
    }
    if (self->size > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }

    PyObject *const whole = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)self->size);
    if (whole == NULL) {
        return NULL;
    }

    char *to = PyBytes_AS_STRING(whole);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        const Py_ssize_t size = PyBytes_GET_SIZE(self->parts[i]);
        memcpy(to, PyBytes_AS_STRING(self->parts[i]), (size_t)size);
        to += size;
        Py_DECREF(self->parts[i]);
    }
    self->parts[0] = whole;
    self->count = 1;
    return whole;
}

/* The buffer is that of the bytes object: it stays when more is written. */
static int
file_getbuffer(PyObject *obj, Py_buffer *view, int flags)
{
    PyObject *const whole = file_join((struct sstpy_pickle_file *)obj);

    if (whole == NULL) {
        view->obj = NULL;
        return -1;
    }
    return PyObject_GetBuffer(whole, view, flags);
}

static void
file_dealloc(PyObject *obj)
{
    struct sstpy_pickle_file *const self = (struct sstpy_pickle_file *)obj;

    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_DECREF(self->parts[i]);
    }
    if (self->parts != self->few) {
        PyMem_Free(self->parts);
    }
    sstpy_free(obj);
}

static PyMethodDef file_methods[] = {
    {"write", file_write, METH_O, file_write_doc},
    {"mentions", file_mentions, METH_O, file_mentions_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(file_doc,
             "PickleFile()\n--\n\n"
             "A file for picklers that keeps the bytes objects written to it, and is "
             "bytes-like itself.");

static PyType_Slot file_slots[] = {
    {Py_tp_doc, (void *)file_doc},     {Py_tp_new, file_new},
    {Py_tp_dealloc, file_dealloc},     {Py_tp_methods, file_methods},
    {Py_bf_getbuffer, file_getbuffer}, {0, NULL},
};

static PyType_Spec file_spec = {
    .name = "sidestep._core.PickleFile",
    .basicsize = sizeof(struct sstpy_pickle_file),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = file_slots,
};

/* ---- Registration ---- */

PyMethodDef sstpy_pickle_methods[] = {
    {"set_pickler", (PyCFunction)(void (*)(void))core_set_pickler, METH_FASTCALL,
     set_pickler_doc},
    {"message_hold", core_message_hold, METH_O, message_hold_doc},
    {"message_reset", core_message_reset, METH_NOARGS, message_reset_doc},
    {"message_active", core_message_active, METH_NOARGS, message_active_doc},
    {NULL, NULL, 0, NULL},
};

int
sstpy_pickle_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &file_spec, &state->pickle_file_type);
}
