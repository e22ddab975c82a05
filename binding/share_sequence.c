/* SPDX-License-Identifier: MIT */

/* ListView and TupleView: a list or tuple of a share, or a slice of one.
 *
 * A view knows where its elements lie, checked once when it is made; reading one makes
 * that one and keeps nothing. A slice is a view of the same elements with another
 * start, step and count. */

#include "args.h"
#include "share.h"

struct share_cell
sstpy_share_sequence_cell(const SequenceView *view, Py_ssize_t index)
{
    const Py_ssize_t at = view->start + index * view->step;

    return (struct share_cell){share_load(view->items + at * 8), view->is_int64};
}

static PyObject *
sequence_object(const SequenceView *view, Py_ssize_t index)
{
    return sstpy_share_cell_object(view->view.share,
                                   sstpy_share_sequence_cell(view, index));
}

static SequenceView *
sequence_new(ShareObject *share, bool is_tuple)
{
    const enum sstpy_share_type which = is_tuple ? SSTPY_SHARE_TUPLE : SSTPY_SHARE_LIST;
    PyTypeObject *const type = share->state->share_types[which];
    SequenceView *const self = (SequenceView *)type->tp_alloc(type, 0);

    if (self != NULL) {
        self->view.share = (ShareObject *)Py_NewRef(share);
        self->is_tuple = is_tuple;
    }
    return self;
}

PyObject *
sstpy_share_sequence(ShareObject *share, uint64_t word, uint64_t offset, uint64_t head)
{
    const uint64_t count = share_head_count(head);
    const void *const items = count <= share->span.size
                                  ? share_at(&share->span, offset + 8, count * 8)
                                  : NULL;

    if (items == NULL) {
        return sstpy_share_damaged();
    }

    SequenceView *const self =
        sequence_new(share, share_head_kind(head) == SHARE_KIND_TUPLE);
    if (self != NULL) {
        self->view.word = word;
        self->items = items;
        self->step = 1;
        self->count = (Py_ssize_t)count;
        self->is_int64 = (share_head_flags(head) & SHARE_FLAG_KEYS) != 0;
    }
    return (PyObject *)self;
}

bool
sstpy_share_is_sequence(const struct sstpy_state *state, PyObject *obj)
{
    return Py_IS_TYPE(obj, state->share_types[SSTPY_SHARE_LIST]) ||
           Py_IS_TYPE(obj, state->share_types[SSTPY_SHARE_TUPLE]);
}

/* ---- Reading ---- */

static Py_ssize_t
sequence_length(PyObject *obj)
{
    return ((SequenceView *)obj)->count;
}

static PyObject *
sequence_item(PyObject *obj, Py_ssize_t index)
{
    const SequenceView *const self = (SequenceView *)obj;

    if (index < 0 || index >= self->count) {
        PyErr_SetString(PyExc_IndexError, self->is_tuple ? "tuple index out of range"
                                                         : "list index out of range");
        return NULL;
    }
    return sequence_object(self, index);
}

static PyObject *
sequence_part(const SequenceView *self, Py_ssize_t start, Py_ssize_t step,
              Py_ssize_t count)
{
    SequenceView *const part = sequence_new(self->view.share, self->is_tuple);

    if (part != NULL) {
        part->view.word = self->view.word;
        part->items = self->items;
        part->is_int64 = self->is_int64;
        part->start = self->start + start * self->step;
        part->step = self->step * step;
        part->count = count;
        if (count == 0) {
            part->start = 0; /* it may be one past an end */
            part->step = 1;
        }
    }
    return (PyObject *)part;
}

static PyObject *
sequence_subscript(PyObject *obj, PyObject *key)
{
    const SequenceView *const self = (SequenceView *)obj;

    if (PyIndex_Check(key)) {
        const Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
        if (index == -1 && PyErr_Occurred()) {
            return NULL;
        }
        return sequence_item(obj, index < 0 ? index + self->count : index);
    }
    if (PySlice_Check(key)) {
        Py_ssize_t start = 0;
        Py_ssize_t stop = 0;
        Py_ssize_t step = 0;
        if (PySlice_Unpack(key, &start, &stop, &step) < 0) {
            return NULL;
        }
        const Py_ssize_t count =
            PySlice_AdjustIndices(self->count, &start, &stop, step);
        return sequence_part(self, start, count > 1 ? step : 1, count);
    }
    PyErr_Format(PyExc_TypeError, "%s indices must be integers or slices, not %.200s",
                 self->is_tuple ? "tuple" : "list", Py_TYPE(key)->tp_name);
    return NULL;
}

/* The first index from `start` up to `stop` where `value` is: -1 for none, -2 with an
 * exception set. */
static Py_ssize_t
sequence_search(const SequenceView *self, PyObject *value, Py_ssize_t start,
                Py_ssize_t stop)
{
    struct share_needle needle;

    sstpy_share_needle_init(&needle, value);
    for (Py_ssize_t i = start; i < stop; i++) {
        const int rc = sstpy_share_matches(self->view.share,
                                           sstpy_share_sequence_cell(self, i), &needle);
        if (rc != 0) {
            return rc < 0 ? -2 : i;
        }
        if (i % (1 << 20) == (1 << 20) - 1 && PyErr_CheckSignals() < 0) {
            return -2;
        }
    }
    return -1;
}

static int
sequence_contains(PyObject *obj, PyObject *value)
{
    const SequenceView *const self = (SequenceView *)obj;
    const Py_ssize_t found = sequence_search(self, value, 0, self->count);

    return found == -2 ? -1 : found >= 0;
}

static Py_ssize_t
clamp_index(Py_ssize_t index, Py_ssize_t count)
{
    if (index < 0) {
        index += count;
    }
    return index < 0 ? 0 : index > count ? count : index;
}

PyDoc_STRVAR(sequence_index_doc,
             "index($self, value, start=0, stop=sys.maxsize, /)\n--\n\n"
             "Return first index of value. ValueError if it is not there.");

static PyObject *
sequence_index(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    const SequenceView *const self = (SequenceView *)obj;
    Py_ssize_t bounds[2] = {0, PY_SSIZE_T_MAX};

    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError, "index expected 1 to 3 arguments, got %zd",
                     nargs);
        return NULL;
    }
    for (Py_ssize_t i = 1; i < nargs; i++) {
        bounds[i - 1] = PyNumber_AsSsize_t(args[i], NULL);
        if (bounds[i - 1] == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }

    const Py_ssize_t found =
        sequence_search(self, args[0], clamp_index(bounds[0], self->count),
                        clamp_index(bounds[1], self->count));
    if (found == -1) {
        PyErr_Format(PyExc_ValueError, "%R is not in %s", args[0],
                     self->is_tuple ? "tuple" : "list");
    }
    return found < 0 ? NULL : PyLong_FromSsize_t(found);
}

PyDoc_STRVAR(sequence_count_doc, "count($self, value, /)\n--\n\n"
                                 "Return number of occurrences of value.");

static PyObject *
sequence_count(PyObject *obj, PyObject *value)
{
    const SequenceView *const self = (SequenceView *)obj;
    Py_ssize_t count = 0;
    Py_ssize_t at = -1;

    while ((at = sequence_search(self, value, at + 1, self->count)) >= 0) {
        count++;
    }
    return at == -2 ? NULL : PyLong_FromSsize_t(count);
}

static PyObject *
sequence_iter(PyObject *obj)
{
    return sstpy_share_iterator(obj, SHARE_ITERATE_ITEMS, false);
}

static PyObject *
sequence_reversed(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    return sstpy_share_iterator(obj, SHARE_ITERATE_ITEMS, true);
}

/* ---- Comparing and hashing ---- */

/* A list or tuple as the other side of a comparison: plain, or a view. */
static bool
is_alike(const SequenceView *self, PyObject *other)
{
    const struct sstpy_state *const state = self->view.share->state;

    if (sstpy_share_is_sequence(state, other)) {
        return ((SequenceView *)other)->is_tuple == self->is_tuple;
    }
    return self->is_tuple ? PyTuple_Check(other) : PyList_Check(other);
}

static Py_ssize_t
alike_length(const SequenceView *self, PyObject *other)
{
    if (sstpy_share_is_sequence(self->view.share->state, other)) {
        return ((SequenceView *)other)->count;
    }
    return Py_SIZE(other);
}

/* A new reference; NULL with IndexError set when a list has become shorter. */
static PyObject *
alike_item(const SequenceView *self, PyObject *other, Py_ssize_t index)
{
    if (sstpy_share_is_sequence(self->view.share->state, other)) {
        return sequence_item(other, index);
    }
    return PySequence_GetItem(other, index);
}

/* Compare what comes first and differs, else the lengths. */
static PyObject *
sequence_compare(const SequenceView *self, PyObject *other, int op)
{
    for (Py_ssize_t i = 0; i < self->count && i < alike_length(self, other); i++) {
        PyObject *const theirs = alike_item(self, other, i);
        if (theirs == NULL) {
            return NULL;
        }
        struct share_needle needle;
        sstpy_share_needle_init(&needle, theirs);
        const int rc = sstpy_share_matches(self->view.share,
                                           sstpy_share_sequence_cell(self, i), &needle);
        if (rc > 0) {
            Py_DECREF(theirs);
            continue;
        }
        PyObject *result = NULL;
        if (rc == 0 && (op == Py_EQ || op == Py_NE)) {
            result = PyBool_FromLong(op == Py_NE);
        }
        else if (rc == 0) {
            PyObject *const mine = sequence_object(self, i);
            result = mine != NULL ? PyObject_RichCompare(mine, theirs, op) : NULL;
            Py_XDECREF(mine);
        }
        Py_DECREF(theirs);
        return result;
    }

    const Py_ssize_t length = alike_length(self, other);
    Py_RETURN_RICHCOMPARE(self->count, length, op);
}

static PyObject *
sequence_richcompare(PyObject *obj, PyObject *other, int op)
{
    const SequenceView *const self = (SequenceView *)obj;

    if (!is_alike(self, other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if ((op == Py_EQ || op == Py_NE) && alike_length(self, other) != self->count) {
        return PyBool_FromLong(op == Py_NE);
    }
    if (Py_EnterRecursiveCall(" in comparison") != 0) {
        return NULL;
    }

    PyObject *const result = sequence_compare(self, other, op);
    Py_LeaveRecursiveCall();
    return result;
}

/* What the tuple would hash to, here: by way of one whose elements are read. */
static Py_hash_t
tuple_hash(PyObject *obj)
{
    if (Py_EnterRecursiveCall(" while hashing a shared tuple") != 0) {
        return -1;
    }

    PyObject *const tuple = PySequence_Tuple(obj);
    const Py_hash_t hash = tuple != NULL ? PyObject_Hash(tuple) : -1;
    Py_XDECREF(tuple);
    Py_LeaveRecursiveCall();
    return hash;
}

static PyObject *
sequence_copy(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    return sstpy_share_copy_slice(obj);
}

/* ---- References ---- */

PyDoc_STRVAR(sequence_slice_doc,
             "_slice($self, /)\n--\n\n"
             "Which elements of the shared object these are: start, step, count.");

static PyObject *
sequence_slice(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const SequenceView *const self = (SequenceView *)obj;

    return Py_BuildValue("nnn", self->start, self->step, self->count);
}

PyDoc_STRVAR(sequence_part_doc,
             "_part($self, start, step, count, /)\n--\n\n"
             "The view that _slice() described. ValueError when it has other bounds.");

static PyObject *
sequence_part_method(PyObject *obj, PyObject *args)
{
    const SequenceView *const self = (SequenceView *)obj;
    Py_ssize_t start = 0;
    Py_ssize_t step = 0;
    Py_ssize_t count = 0;

    if (!PyArg_ParseTuple(args, "nnn", &start, &step, &count)) {
        return NULL;
    }

    const Py_ssize_t whole = self->count;
    const Py_ssize_t room = step < 0 ? start : whole - 1 - start;
    const bool is_one = count == 1 && start >= 0 && start < whole;
    const bool is_many = count > 1 && count <= whole && start >= 0 && start < whole &&
                         step != 0 && step > -whole && step < whole &&
                         (step < 0 ? -step : step) <= room / (count - 1);
    if (count != 0 && !is_one && !is_many) {
        PyErr_SetString(PyExc_ValueError, "this slice does not lie in its sequence");
        return NULL;
    }
    return sequence_part(self, start, step, count);
}

#define SEQUENCE_FASTCALL(function) (PyCFunction)(void (*)(void))(function)

#define SEQUENCE_METHODS                                                             \
    {"index", SEQUENCE_FASTCALL(sequence_index), METH_FASTCALL, sequence_index_doc}, \
        {"count", sequence_count, METH_O, sequence_count_doc},                       \
        {"copy", sequence_copy, METH_NOARGS, sstpy_share_copy_doc},                  \
        {"statistics", sstpy_share_view_statistics, METH_NOARGS,                     \
         sstpy_share_statistics_doc},                                                \
        {"__reversed__", sequence_reversed, METH_NOARGS, NULL},                      \
        {"__copy__", sstpy_share_view_self, METH_NOARGS, NULL},                      \
        {"__deepcopy__", sstpy_share_view_self, METH_O, NULL},                       \
        {"_reference", sstpy_share_view_reference, METH_NOARGS,                      \
         sstpy_share_reference_doc},                                                 \
        {"_slice", sequence_slice, METH_NOARGS, sequence_slice_doc},                 \
    {                                                                                \
        "_part", sequence_part_method, METH_VARARGS, sequence_part_doc               \
    }

static PyMethodDef list_methods[] = {
    SEQUENCE_METHODS,
    {"append", SSTPY_SHARE_FROZEN},
    {"extend", SSTPY_SHARE_FROZEN},
    {"insert", SSTPY_SHARE_FROZEN},
    {"remove", SSTPY_SHARE_FROZEN},
    {"pop", SSTPY_SHARE_FROZEN},
    {"clear", SSTPY_SHARE_FROZEN},
    {"sort", SSTPY_SHARE_FROZEN},
    {"reverse", SSTPY_SHARE_FROZEN},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef tuple_methods[] = {
    SEQUENCE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(list_doc, "A list in shared memory, which nobody can change.");
PyDoc_STRVAR(tuple_doc, "A tuple in shared memory.");

#define SEQUENCE_SLOTS                                                              \
    {Py_tp_dealloc, sstpy_share_view_dealloc}, {Py_tp_iter, sequence_iter},         \
        {Py_tp_richcompare, sequence_richcompare}, {Py_sq_length, sequence_length}, \
        {Py_sq_item, sequence_item}, {Py_sq_contains, sequence_contains},           \
        {Py_mp_length, sequence_length}, {Py_mp_subscript, sequence_subscript},     \
    {                                                                               \
        Py_mp_ass_subscript, sstpy_share_view_frozen_item                           \
    }

static PyType_Slot list_slots[] = {
    {Py_tp_doc, (void *)list_doc},
    SEQUENCE_SLOTS,
    {Py_tp_methods, list_methods},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {0, NULL},
};

static PyType_Slot tuple_slots[] = {
    {Py_tp_doc, (void *)tuple_doc}, SEQUENCE_SLOTS, {Py_tp_methods, tuple_methods},
    {Py_tp_hash, tuple_hash},       {0, NULL},
};

static PyType_Spec list_spec = {
    .name = "sidestep._core.ListView",
    .basicsize = sizeof(SequenceView),
    .flags = SSTPY_SHARE_VIEW_FLAGS,
    .slots = list_slots,
};

static PyType_Spec tuple_spec = {
    .name = "sidestep._core.TupleView",
    .basicsize = sizeof(SequenceView),
    .flags = SSTPY_SHARE_VIEW_FLAGS,
    .slots = tuple_slots,
};

int
sstpy_share_sequence_exec(PyObject *module, struct sstpy_state *state)
{
    if (sstpy_type_add(module, &list_spec, &state->share_types[SSTPY_SHARE_LIST]) < 0) {
        return -1;
    }
    return sstpy_type_add(module, &tuple_spec, &state->share_types[SSTPY_SHARE_TUPLE]);
}
