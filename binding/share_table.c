/* SPDX-License-Identifier: MIT */

/* DictView, SetView and FrozenSetView: a dict or set of a share.
 *
 * Looking up hashes the key as building did (share_hash.c), walks the slots from there
 * until a free one, and compares where the bits of the hash agree. A damaged table
 * without a free slot ends the walk after one round. */

#include "args.h"
#include "share.h"

struct share_cell
sstpy_share_table_cell(const struct share_table *table, uint64_t index, unsigned column)
{
    const unsigned flag = column == 0 ? SHARE_FLAG_KEYS : SHARE_FLAG_VALUES;
    const uint64_t at = index * table->stride + column;

    return (struct share_cell){share_load(table->entries + at * 8),
                               (table->flags & flag) != 0};
}

PyObject *
sstpy_share_table(ShareObject *share, uint64_t word, uint64_t offset, uint64_t head)
{
    const enum share_kind kind = share_head_kind(head);
    struct share_table table;

    if (!share_table_read(&share->span, offset, head, &table)) {
        return sstpy_share_damaged();
    }

    const enum sstpy_share_type which = kind == SHARE_KIND_DICT ? SSTPY_SHARE_DICT
                                        : kind == SHARE_KIND_SET
                                            ? SSTPY_SHARE_SET
                                            : SSTPY_SHARE_FROZENSET;
    PyTypeObject *const type = share->state->share_types[which];
    TableView *const self = (TableView *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->view.share = (ShareObject *)Py_NewRef(share);
        self->view.word = word;
        self->table = table;
        self->is_dict = kind == SHARE_KIND_DICT;
    }
    return (PyObject *)self;
}

bool
sstpy_share_is_table(const struct sstpy_state *state, PyObject *obj)
{
    return Py_IS_TYPE(obj, state->share_types[SSTPY_SHARE_DICT]) ||
           Py_IS_TYPE(obj, state->share_types[SSTPY_SHARE_SET]) ||
           Py_IS_TYPE(obj, state->share_types[SSTPY_SHARE_FROZENSET]);
}

/* ---- Looking up ---- */

static int
entry_matches(const TableView *self, uint64_t entry, const struct share_needle *needle)
{
    return sstpy_share_matches(self->view.share,
                               sstpy_share_table_cell(&self->table, entry, 0), needle);
}

static Py_ssize_t
find_small(const TableView *self, const struct share_needle *needle, uint64_t hash)
{
    for (uint64_t i = 0; i < self->table.count; i++) {
        if (self->table.slots[i] == (unsigned char)hash) {
            const int rc = entry_matches(self, i, needle);
            if (rc != 0) {
                return rc < 0 ? -2 : (Py_ssize_t)i;
            }
        }
    }
    return -1;
}

static Py_ssize_t
find_large(const TableView *self, const struct share_needle *needle, uint64_t hash)
{
    const uint64_t count = self->table.count;
    const uint64_t slots = share_table_slots(count);
    const unsigned width = share_table_width(count);
    const unsigned bits = share_table_bits(count);
    const uint64_t tag = share_table_tag(hash, count);
    uint64_t at = share_table_start(hash, slots);

    for (uint64_t i = 0; i < slots; i++) {
        const uint64_t slot = share_slot_read(self->table.slots, width, at);
        const uint64_t number = slot & ((UINT64_C(1) << bits) - 1);
        if (slot == 0) {
            return -1;
        }
        if (number == 0 || number > count) {
            sstpy_share_damaged();
            return -2;
        }
        if ((slot ^ number) == tag) {
            const int rc = entry_matches(self, number - 1, needle);
            if (rc != 0) {
                return rc < 0 ? -2 : (Py_ssize_t)number - 1;
            }
        }
        at = at + 1 < slots ? at + 1 : 0;
    }
    return -1;
}

/* The entry of a key: -1 for none, -2 with an exception set. */
static Py_ssize_t
table_find(const TableView *self, PyObject *key)
{
    const ShareObject *const share = self->view.share;
    struct share_needle needle;
    uint64_t hash = 0;

    if (sstpy_share_hash(share->state, share->seed, key, &hash) < 0) {
        return -2;
    }
    sstpy_share_needle_init(&needle, key);
    needle.has_hash = true;
    needle.hash = (uint32_t)(hash >> 32);
    return self->table.count <= SHARE_SMALL_TABLE ? find_small(self, &needle, hash)
                                                  : find_large(self, &needle, hash);
}

static PyObject *
entry_object(const TableView *self, Py_ssize_t entry, unsigned column)
{
    return sstpy_share_cell_object(self->view.share,
                                   sstpy_share_table_cell(&self->table, (uint64_t)entry,
                                                          column));
}

static Py_ssize_t
table_length(PyObject *obj)
{
    return (Py_ssize_t)((TableView *)obj)->table.count;
}

static int
table_contains(PyObject *obj, PyObject *key)
{
    const TableView *const self = (TableView *)obj;
    PyObject *frozen = NULL;

    /* as a set does: a set that is looked for stands for its frozen copy */
    if (!self->is_dict &&
        (PySet_CheckExact(key) ||
         Py_IS_TYPE(key, self->view.share->state->share_types[SSTPY_SHARE_SET]))) {
        frozen = PyFrozenSet_New(key);
        if (frozen == NULL) {
            return -1;
        }
        key = frozen;
    }

    const Py_ssize_t found = table_find(self, key);
    Py_XDECREF(frozen);
    return found == -2 ? -1 : found >= 0;
}

static PyObject *
dict_subscript(PyObject *obj, PyObject *key)
{
    const Py_ssize_t found = table_find((TableView *)obj, key);

    if (found >= 0) {
        return entry_object((TableView *)obj, found, 1);
    }
    if (found == -1) {
        PyErr_SetObject(PyExc_KeyError, key);
    }
    return NULL;
}

PyDoc_STRVAR(dict_get_doc, "get($self, key, default=None, /)\n--\n\n"
                           "Return the value for key if it is there, else default.");

static PyObject *
dict_get(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        PyErr_Format(PyExc_TypeError, "get expected 1 or 2 arguments, got %zd", nargs);
        return NULL;
    }

    const Py_ssize_t found = table_find((TableView *)obj, args[0]);
    if (found >= 0) {
        return entry_object((TableView *)obj, found, 1);
    }
    if (found == -2) {
        return NULL;
    }
    return Py_NewRef(nargs == 2 ? args[1] : Py_None);
}

static PyObject *
table_iter(PyObject *obj)
{
    return sstpy_share_iterator(obj, SHARE_ITERATE_ITEMS, false);
}

PyDoc_STRVAR(dict_iterate_doc,
             "_iterate($self, what, reverse, /)\n--\n\n"
             "An iterator: what is 0 for keys, 1 for values, 2 for pairs.");

static PyObject *
dict_iterate(PyObject *obj, PyObject *args)
{
    int what = 0;
    int reversed = 0;

    if (!PyArg_ParseTuple(args, "ip", &what, &reversed)) {
        return NULL;
    }
    if (what < SHARE_ITERATE_ITEMS || what > SHARE_ITERATE_PAIRS) {
        PyErr_SetString(PyExc_ValueError, "what is 0, 1 or 2");
        return NULL;
    }
    return sstpy_share_iterator(obj, (enum share_iterate)what, reversed != 0);
}

static PyObject *
dict_reversed(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    return sstpy_share_iterator(obj, SHARE_ITERATE_ITEMS, true);
}

/* ---- Comparing ---- */

/* A new reference to what the other has under a key; NULL when there is nothing, or
 * with an exception set. A dict is not asked what it would make of a missing key. */
static PyObject *
other_value(PyObject *other, PyObject *key)
{
    if (PyDict_Check(other) && PyDict_Contains(other, key) <= 0) {
        return NULL;
    }

    PyObject *const value = PyObject_GetItem(other, key);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
    }
    return value;
}

/* Has the other dict what this entry has? 1, 0, -1. */
static int
entry_is_in(const TableView *self, Py_ssize_t entry, PyObject *other)
{
    PyObject *const key = entry_object(self, entry, 0);
    if (key == NULL) {
        return -1;
    }

    PyObject *const theirs = other_value(other, key);
    Py_DECREF(key);
    if (theirs == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }

    struct share_needle needle;
    sstpy_share_needle_init(&needle, theirs);
    const int rc =
        sstpy_share_matches(self->view.share,
                            sstpy_share_table_cell(&self->table, (uint64_t)entry, 1),
                            &needle);
    Py_DECREF(theirs);
    return rc;
}

static PyObject *
dict_richcompare(PyObject *obj, PyObject *other, int op)
{
    const TableView *const self = (TableView *)obj;
    const bool is_view =
        Py_IS_TYPE(other, self->view.share->state->share_types[SSTPY_SHARE_DICT]);
    int equal = 1;

    if ((op != Py_EQ && op != Py_NE) || (!is_view && !PyDict_Check(other))) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (PyObject_Size(other) != table_length(obj)) {
        return PyErr_Occurred() ? NULL : PyBool_FromLong(op == Py_NE);
    }
    if (Py_EnterRecursiveCall(" in comparison") != 0) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < table_length(obj) && equal > 0; i++) {
        equal = entry_is_in(self, i, other);
    }
    Py_LeaveRecursiveCall();
    return equal < 0 ? NULL : PyBool_FromLong((op == Py_EQ) == (equal > 0));
}

static PyObject *
table_copy(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const TableView *const self = (TableView *)obj;

    return sstpy_share_copy(self->view.share, self->view.word);
}

#define TABLE_METHODS                                            \
    {"copy", table_copy, METH_NOARGS, sstpy_share_copy_doc},     \
        {"statistics", sstpy_share_view_statistics, METH_NOARGS, \
         sstpy_share_statistics_doc},                            \
        {"__copy__", sstpy_share_view_self, METH_NOARGS, NULL},  \
        {"__deepcopy__", sstpy_share_view_self, METH_O, NULL},   \
    {                                                            \
        "_reference", sstpy_share_view_reference, METH_NOARGS,   \
            sstpy_share_reference_doc                            \
    }

#define DICT_FASTCALL(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef dict_methods[] = {
    TABLE_METHODS,
    {"get", DICT_FASTCALL(dict_get), METH_FASTCALL, dict_get_doc},
    {"_iterate", dict_iterate, METH_VARARGS, dict_iterate_doc},
    {"__reversed__", dict_reversed, METH_NOARGS, NULL},
    {"clear", SSTPY_SHARE_FROZEN},
    {"pop", SSTPY_SHARE_FROZEN},
    {"popitem", SSTPY_SHARE_FROZEN},
    {"setdefault", SSTPY_SHARE_FROZEN},
    {"update", SSTPY_SHARE_FROZEN},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef set_methods[] = {
    TABLE_METHODS,
    {"add", SSTPY_SHARE_FROZEN},
    {"clear", SSTPY_SHARE_FROZEN},
    {"discard", SSTPY_SHARE_FROZEN},
    {"pop", SSTPY_SHARE_FROZEN},
    {"remove", SSTPY_SHARE_FROZEN},
    {"update", SSTPY_SHARE_FROZEN},
    {"difference_update", SSTPY_SHARE_FROZEN},
    {"intersection_update", SSTPY_SHARE_FROZEN},
    {"symmetric_difference_update", SSTPY_SHARE_FROZEN},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef frozenset_methods[] = {
    TABLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(dict_doc, "A dict in shared memory, which nobody can change.");
PyDoc_STRVAR(set_doc, "A set in shared memory, which nobody can change.");
PyDoc_STRVAR(frozenset_doc, "A frozenset in shared memory.");

static PyType_Slot dict_slots[] = {
    {Py_tp_doc, (void *)dict_doc},
    {Py_tp_dealloc, sstpy_share_view_dealloc},
    {Py_tp_iter, table_iter},
    {Py_tp_richcompare, dict_richcompare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_sq_contains, table_contains},
    {Py_mp_length, table_length},
    {Py_mp_subscript, dict_subscript},
    {Py_mp_ass_subscript, sstpy_share_view_frozen_item},
    {Py_tp_methods, dict_methods},
    {0, NULL},
};

static PyType_Slot set_slots[] = {
    {Py_tp_doc, (void *)set_doc},
    {Py_tp_dealloc, sstpy_share_view_dealloc},
    {Py_tp_iter, table_iter},
    {Py_sq_contains, table_contains},
    {Py_sq_length, table_length},
    {Py_tp_methods, set_methods},
    {0, NULL},
};

static PyType_Slot frozenset_slots[] = {
    {Py_tp_doc, (void *)frozenset_doc},
    {Py_tp_dealloc, sstpy_share_view_dealloc},
    {Py_tp_iter, table_iter},
    {Py_sq_contains, table_contains},
    {Py_sq_length, table_length},
    {Py_tp_methods, frozenset_methods},
    {0, NULL},
};

static PyType_Spec specs[] = {
    {
        .name = "sidestep._core.DictView",
        .basicsize = sizeof(TableView),
        .flags = SSTPY_SHARE_VIEW_FLAGS,
        .slots = dict_slots,
    },
    {
        .name = "sidestep._core.SetView",
        .basicsize = sizeof(TableView),
        .flags = SSTPY_SHARE_VIEW_FLAGS,
        .slots = set_slots,
    },
    {
        .name = "sidestep._core.FrozenSetView",
        .basicsize = sizeof(TableView),
        .flags = SSTPY_SHARE_VIEW_FLAGS,
        .slots = frozenset_slots,
    },
};

int
sstpy_share_table_exec(PyObject *module, struct sstpy_state *state)
{
    PyTypeObject **const types = state->share_types;

    if (sstpy_type_add(module, &specs[0], &types[SSTPY_SHARE_DICT]) < 0 ||
        sstpy_type_add(module, &specs[1], &types[SSTPY_SHARE_SET]) < 0) {
        return -1;
    }
    return sstpy_type_add(module, &specs[2], &types[SSTPY_SHARE_FROZENSET]);
}
