/* SPDX-License-Identifier: MIT */

/* Iterators over views: they make one element at a time and keep none. */

#include "share.h"

typedef struct {
    PyObject_HEAD
    PyObject *view; /* owned; NULL when exhausted */
    Py_ssize_t next, left, step;
    enum share_iterate what;
} IteratorObject;

PyObject *
sstpy_share_iterator(PyObject *view, enum share_iterate what, bool reversed)
{
    const struct sstpy_state *const state = ((struct share_view *)view)->share->state;
    PyTypeObject *const type = state->share_types[SSTPY_SHARE_ITERATOR];
    const Py_ssize_t count = PyObject_Size(view);
    IteratorObject *const self =
        count >= 0 ? (IteratorObject *)type->tp_alloc(type, 0) : NULL;

    if (self != NULL) {
        self->view = Py_NewRef(view);
        self->what = what;
        self->left = count;
        self->next = reversed ? count - 1 : 0;
        self->step = reversed ? -1 : 1;
    }
    return (PyObject *)self;
}

static PyObject *
table_next(TableView *view, Py_ssize_t index, enum share_iterate what)
{
    const struct share_cell key =
        sstpy_share_table_cell(&view->table, (uint64_t)index, 0);

    if (what == SHARE_ITERATE_ITEMS) {
        return sstpy_share_cell_object(view->view.share, key);
    }

    const struct share_cell value =
        sstpy_share_table_cell(&view->table, (uint64_t)index, 1);
    if (what == SHARE_ITERATE_VALUES) {
        return sstpy_share_cell_object(view->view.share, value);
    }

    PyObject *const pair = PyTuple_New(2);
    if (pair == NULL) {
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, sstpy_share_cell_object(view->view.share, key));
    PyTuple_SET_ITEM(pair, 1, sstpy_share_cell_object(view->view.share, value));
    if (PyTuple_GET_ITEM(pair, 0) == NULL || PyTuple_GET_ITEM(pair, 1) == NULL) {
        Py_DECREF(pair);
        return NULL;
    }
    return pair;
}

static PyObject *
iterator_next(PyObject *obj)
{
    IteratorObject *const self = (IteratorObject *)obj;

    if (self->left <= 0) {
        Py_CLEAR(self->view);
        return NULL;
    }

    const Py_ssize_t index = self->next;
    ShareObject *const share = ((struct share_view *)self->view)->share;
    self->next += self->step;
    self->left--;
    if (sstpy_share_is_table(share->state, self->view)) {
        return table_next((TableView *)self->view, index, self->what);
    }
    return sstpy_share_cell_object(share,
                                   sstpy_share_sequence_cell((SequenceView *)self->view,
                                                             index));
}

static PyObject *
iterator_length_hint(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSsize_t(((IteratorObject *)obj)->left);
}

static void
iterator_dealloc(PyObject *obj)
{
    Py_CLEAR(((IteratorObject *)obj)->view);
    sstpy_free(obj);
}

static PyMethodDef iterator_methods[] = {
    {"__length_hint__", iterator_length_hint, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {Py_tp_methods, iterator_methods},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "sidestep._core._ShareIterator",
    .basicsize = sizeof(IteratorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = iterator_slots,
};

int
sstpy_share_iterator_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &iterator_spec,
                          &state->share_types[SSTPY_SHARE_ITERATOR]);
}
