/* SPDX-License-Identifier: MIT */

/* The memory of a share, what all views have in common, and the functions of the
 * module.
 *
 * A share is one sealed parcel. This process holds it through a ShareObject, which its
 * views keep alive; messages and processes that are being started hold it by handle.
 *
 * Death table: a process that dies while it builds a share leaves a parcel that only it
 * held, and the sweeper drops it. Afterwards nobody writes. */

#include "args.h"
#include "errors.h"
#include "share.h"

/* ---- ShareObject ---- */

static ShareObject *
share_new(struct sstpy_state *state, struct sst_parcel *parcel)
{
    PyTypeObject *const type = state->share_types[SSTPY_SHARE_ROOT];
    ShareObject *const self = (ShareObject *)type->tp_alloc(type, 0);

    if (self == NULL) {
        (void)sst_parcel_close(parcel);
        return NULL;
    }
    self->state = state;
    self->parcel = parcel;
    self->span.base = sst_parcel_data(parcel);
    self->span.size = sst_parcel_size(parcel);
    return self;
}

ShareObject *
sstpy_share_create(struct sstpy_state *state, uint64_t size)
{
    struct sst_arena *const arena = sstpy_arena(state);
    struct sst_parcel *parcel = NULL;
    struct sst_error err = {0};

    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_parcel_create(arena, size, 0, &parcel, &err);
    if (rc < 0) {
        sstpy_raise(state, rc, &err);
        return NULL;
    }
    return share_new(state, parcel);
}

unsigned char *
sstpy_share_memory(const ShareObject *share)
{
    return sst_parcel_data(share->parcel);
}

/* What a reader believes without looking again. */
static int
share_check(ShareObject *share)
{
    struct share_header header;

    if (share->span.size < sizeof(header) || share->span.size > SHARE_LOW48) {
        sstpy_share_damaged();
        return -1;
    }
    memcpy(&header, share->span.base, sizeof(header));
    if (header.magic != SHARE_MAGIC || header.size > share->span.size) {
        sstpy_share_damaged();
        return -1;
    }
    if (header.version != SHARE_VERSION) {
        PyErr_Format(PyExc_RuntimeError,
                     "the share has format %llu, this version of sidestep reads %d",
                     (unsigned long long)header.version, SHARE_VERSION);
        return -1;
    }
    share->span.size = header.size;
    share->root = header.root;
    share->seed = header.seed;
    return 0;
}

int
sstpy_share_seal(ShareObject *share)
{
    const int rc = sst_parcel_seal(share->parcel);

    if (rc < 0) {
        return sstpy_fail(share->state, rc, NULL);
    }
    return share_check(share);
}

static void
share_dealloc(PyObject *obj)
{
    ShareObject *const self = (ShareObject *)obj;

    self->parcel = sst_parcel_close(self->parcel);
    sstpy_free(obj);
}

static PyType_Slot share_slots[] = {
    {Py_tp_dealloc, share_dealloc},
    {0, NULL},
};

static PyType_Spec share_spec = {
    .name = "sidestep._core._Share",
    .basicsize = sizeof(ShareObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = share_slots,
};

/* ---- What views have in common ---- */

bool
sstpy_share_is_view(const struct sstpy_state *state, PyObject *obj)
{
    return sstpy_share_is_sequence(state, obj) || sstpy_share_is_table(state, obj) ||
           Py_IS_TYPE(obj, state->share_types[SSTPY_SHARE_ARRAY]) ||
           Py_IS_TYPE(obj, state->share_types[SSTPY_SHARE_BYTES]);
}

void
sstpy_share_view_dealloc(PyObject *obj)
{
    Py_CLEAR(((struct share_view *)obj)->share);
    sstpy_free(obj);
}

const char sstpy_share_reference_doc[] =
    "_reference($self, /)\n--\n\n"
    "The handle of the share, and which of its objects this is: share_open(*pair).";

PyObject *
sstpy_share_view_reference(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const struct share_view *const view = (struct share_view *)obj;
    struct sst_handle handle;

    sst_parcel_handle(view->share->parcel, &handle);
    return Py_BuildValue("NK", sstpy_handle_new(&handle),
                         (unsigned long long)view->word);
}

PyObject *
sstpy_share_view_self(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(obj);
}

const char sstpy_share_copy_doc[] =
    "copy($self, /)\n--\n\n"
    "Return the plain object again, all of it: equal in values, types and in what is "
    "the same object.";

const char sstpy_share_statistics_doc[] =
    "statistics($self, /)\n--\n\n"
    "size: bytes of the whole share that this is a part of.";

PyObject *
sstpy_share_view_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const struct share_view *const view = (struct share_view *)obj;

    return Py_BuildValue("{s:K}", "size", (unsigned long long)view->share->span.size);
}

/* ---- Refusing changes ---- */

const char sstpy_share_frozen_doc[] =
    "Raises TypeError: what is shared stays as it is.";

static void
raise_frozen(PyObject *obj)
{
    PyErr_Format(PyExc_TypeError,
                 "%s cannot be changed: other processes may be reading it. Change a "
                 "plain object, which copy() makes, and share() that",
                 Py_TYPE(obj)->tp_name);
}

PyObject *
sstpy_share_view_frozen(PyObject *obj, PyObject *Py_UNUSED(args),
                        PyObject *Py_UNUSED(kwargs))
{
    raise_frozen(obj);
    return NULL;
}

int
sstpy_share_view_frozen_item(PyObject *obj, PyObject *Py_UNUSED(key),
                             PyObject *Py_UNUSED(value))
{
    raise_frozen(obj);
    return -1;
}

/* ---- Functions of the module ---- */

PyDoc_STRVAR(share_build_doc,
             "share_build($module, obj, /)\n--\n\n"
             "A view of an immutable copy of obj in shared memory. TypeError names the "
             "path to what cannot be shared.");

/* The object at the root; bytes as a view there, and nowhere else. */
static PyObject *
share_object(ShareObject *share, uint64_t word)
{
    uint64_t offset = 0;
    const uint64_t head = sstpy_share_head(share, word, &offset);

    if (share_head_kind(head) == SHARE_KIND_BYTES) {
        return sstpy_share_bytes(share, word, offset, head);
    }
    return sstpy_share_object(share, word);
}

static PyObject *
core_share_build(PyObject *module, PyObject *obj)
{
    PyObject *const share = sstpy_share_build(sstpy_module_state(module), obj);

    if (share == NULL) {
        return NULL;
    }

    PyObject *const view =
        share_object((ShareObject *)share, ((ShareObject *)share)->root);
    Py_DECREF(share);
    return view;
}

PyDoc_STRVAR(share_open_doc,
             "share_open($module, handle, word, /)\n--\n\n"
             "The view that _reference() described, in any process of the tree.");

static PyObject *
core_share_open(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sst_parcel *parcel = NULL;
    struct sst_handle handle;
    struct sst_error err = {0};

    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "share_open() takes 2 positional arguments");
        return NULL;
    }
    if (sstpy_handle_parse(args[0], &handle) < 0) {
        return NULL;
    }

    const unsigned long long word = PyLong_AsUnsignedLongLong(args[1]);
    if (word == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }

    struct sst_arena *const arena = sstpy_arena(state);
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_parcel_attach(arena, &handle, &parcel, &err);
    if (rc < 0) {
        return sstpy_raise(state, rc, &err);
    }

    ShareObject *const share = share_new(state, parcel);
    PyObject *view = NULL;
    if (share != NULL && share_check(share) == 0) {
        view = share_object(share, word);
    }
    Py_XDECREF(share);
    return view;
}

PyDoc_STRVAR(
    share_setup_doc,
    "share_setup($module, types, describe, restore, /)\n--\n\n"
    "Register the classes of views, by the name of the base that they "
    "extend; describe(obj), asked about objects that are no built-in type, and "
    "restore(view), which makes an array of a view.");

static int
setup_types(struct sstpy_state *state, PyObject *types)
{
    if (!PyTuple_Check(types)) {
        PyErr_SetString(PyExc_TypeError, "types must be a tuple");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types); i++) {
        PyObject *const type = PyTuple_GET_ITEM(types, i);
        PyTypeObject **const slot = &state->share_types[SSTPY_SHARE_LIST + i];
        if (i > SSTPY_SHARE_BYTES - SSTPY_SHARE_LIST || !PyType_Check(type) ||
            !PyType_IsSubtype((PyTypeObject *)type, *slot)) {
            PyErr_SetString(PyExc_TypeError, "not the class of a view");
            return -1;
        }
        Py_INCREF(type);
        Py_XSETREF(*slot, (PyTypeObject *)type);
    }
    return 0;
}

static PyObject *
core_share_setup(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct sstpy_state *const state = sstpy_module_state(module);

    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "share_setup() takes 3 positional arguments");
        return NULL;
    }
    if (setup_types(state, args[0]) < 0) {
        return NULL;
    }
    Py_XSETREF(state->share_describe, Py_NewRef(args[1]));
    Py_XSETREF(state->share_restore, Py_NewRef(args[2]));
    Py_RETURN_NONE;
}

PyMethodDef sstpy_share_methods[] = {
    {"share_build", core_share_build, METH_O, share_build_doc},
    {"share_open", (PyCFunction)(void (*)(void))core_share_open, METH_FASTCALL,
     share_open_doc},
    {"share_setup", (PyCFunction)(void (*)(void))core_share_setup, METH_FASTCALL,
     share_setup_doc},
    {NULL, NULL, 0, NULL},
};

int
sstpy_share_traverse(const struct sstpy_state *state, visitproc visit, void *arg)
{
    for (int i = 0; i < SSTPY_SHARE_TYPES; i++) {
        Py_VISIT(state->share_types[i]);
    }
    Py_VISIT(state->share_describe);
    Py_VISIT(state->share_restore);
    return 0;
}

void
sstpy_share_clear(struct sstpy_state *state)
{
    for (int i = 0; i < SSTPY_SHARE_TYPES; i++) {
        Py_CLEAR(state->share_types[i]);
    }
    Py_CLEAR(state->share_describe);
    Py_CLEAR(state->share_restore);
}

int
sstpy_share_exec(PyObject *module, struct sstpy_state *state)
{
    if (sstpy_type_add(module, &share_spec, &state->share_types[SSTPY_SHARE_ROOT]) <
            0 ||
        sstpy_share_sequence_exec(module, state) < 0 ||
        sstpy_share_table_exec(module, state) < 0 ||
        sstpy_share_array_exec(module, state) < 0) {
        return -1;
    }
    return sstpy_share_iterator_exec(module, state);
}
