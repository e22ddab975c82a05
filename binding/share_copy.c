/* SPDX-License-Identifier: MIT */

/* A share back to plain objects.
 *
 * Records that more than one word may name carry a flag; for these the object that was
 * made is remembered by its offset, so that what was one object becomes one again. A
 * list or dict is remembered before it is filled, so that it may contain itself; a
 * tuple too, which only a cycle through a list or dict can reach so early: as part of a
 * key, which would be hashed, it is damage. Depth is bounded by Python's recursion
 * limit. */

#include "share.h"

struct copier {
    ShareObject *share;
    struct share_map made; /* offset -> object, owned */
};

static PyObject *copy_word(struct copier *copier, uint64_t word);

static PyObject *
copy_cell(struct copier *copier, struct share_cell cell)
{
    return cell.is_int64 ? PyLong_FromLongLong((long long)cell.bits)
                         : copy_word(copier, cell.bits);
}

/* Remember an object if another word may name it; passes it on. */
static PyObject *
copy_made(struct copier *copier, uint64_t offset, uint64_t head, PyObject *obj)
{
    if (obj == NULL || (share_head_flags(head) & SHARE_FLAG_MEMO) == 0) {
        return obj;
    }
    if (sstpy_share_map_insert(&copier->made, offset, (uint64_t)(uintptr_t)obj) < 0) {
        Py_DECREF(obj);
        return NULL;
    }
    return Py_NewRef(obj);
}

static PyObject *
copy_sequence(struct copier *copier, const SequenceView *view, uint64_t offset,
              uint64_t head)
{
    PyObject *const obj =
        copy_made(copier, offset, head,
                  view->is_tuple ? PyTuple_New(view->count) : PyList_New(view->count));
    if (obj == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < view->count; i++) {
        PyObject *const item = copy_cell(copier, sstpy_share_sequence_cell(view, i));
        if (item == NULL) {
            Py_DECREF(obj);
            return NULL;
        }
        if (view->is_tuple) {
            PyTuple_SET_ITEM(obj, i, item);
        }
        else {
            PyList_SET_ITEM(obj, i, item);
        }
    }
    return obj;
}

/* Refuse a key with a tuple in it that is not finished: it cannot be hashed. */
static int
check_key(PyObject *key)
{
    int rc = 0;

    if (!PyTuple_CheckExact(key)) {
        return 0;
    }
    if (Py_EnterRecursiveCall(" while copying a share") != 0) {
        return -1; /* nor one that contains itself */
    }
    for (Py_ssize_t i = PyTuple_GET_SIZE(key); i > 0 && rc == 0; i--) {
        PyObject *const item = PyTuple_GET_ITEM(key, i - 1); /* filled from the front */
        rc = item != NULL ? check_key(item) : -1;
        if (item == NULL) {
            sstpy_share_damaged();
        }
    }
    Py_LeaveRecursiveCall();
    return rc;
}

static int
copy_entry(struct copier *copier, const struct share_table *table, uint64_t index,
           PyObject *obj)
{
    PyObject *const key = copy_cell(copier, sstpy_share_table_cell(table, index, 0));
    int rc = -1;

    if (key == NULL || check_key(key) < 0) {
        Py_XDECREF(key);
        return -1;
    }
    if (table->stride == 1) {
        rc = PySet_Add(obj, key);
    }
    else {
        PyObject *const value =
            copy_cell(copier, sstpy_share_table_cell(table, index, 1));
        if (value != NULL) {
            rc = PyDict_SetItem(obj, key, value);
            Py_DECREF(value);
        }
    }
    Py_DECREF(key);
    return rc;
}

static PyObject *
copy_table(struct copier *copier, uint64_t offset, uint64_t head)
{
    const enum share_kind kind = share_head_kind(head);
    struct share_table table;

    if (!share_table_read(&copier->share->span, offset, head, &table)) {
        return sstpy_share_damaged();
    }

    PyObject *obj = kind == SHARE_KIND_DICT  ? PyDict_New()
                    : kind == SHARE_KIND_SET ? PySet_New(NULL)
                                             : PyFrozenSet_New(NULL);
    if (kind == SHARE_KIND_FROZENSET && obj != NULL && table.count > 0) {
        /* PySet_Add fills a frozen set while nobody else has it: not yet remembered */
        for (uint64_t i = 0; i < table.count; i++) {
            if (copy_entry(copier, &table, i, obj) < 0) {
                Py_DECREF(obj);
                return NULL;
            }
        }
        return copy_made(copier, offset, head, obj);
    }
    obj = copy_made(copier, offset, head, obj);
    for (uint64_t i = 0; obj != NULL && i < table.count; i++) {
        if (copy_entry(copier, &table, i, obj) < 0) {
            Py_CLEAR(obj);
        }
    }
    return obj;
}

/* Arrays are copied by their view, which the Python side has made able to. */
static PyObject *
copy_array(struct copier *copier, uint64_t word, uint64_t offset, uint64_t head)
{
    PyObject *const view = sstpy_share_array_view(copier->share, word, offset, head);

    if (view == NULL) {
        return NULL;
    }

    PyObject *const copy = PyObject_HasAttrString(view, "copy")
                               ? PyObject_CallMethod(view, "copy", NULL)
                               : Py_NewRef(view);
    Py_DECREF(view);
    return copy_made(copier, offset, head, copy);
}

static PyObject *
copy_record(struct copier *copier, uint64_t word, uint64_t offset, uint64_t head)
{
    switch (share_head_kind(head)) {
    case SHARE_KIND_TUPLE:
    case SHARE_KIND_LIST: {
        PyObject *const view = sstpy_share_sequence(copier->share, word, offset, head);
        PyObject *const obj =
            view != NULL ? copy_sequence(copier, (SequenceView *)view, offset, head)
                         : NULL;
        Py_XDECREF(view);
        return obj;
    }
    case SHARE_KIND_DICT:
    case SHARE_KIND_SET:
    case SHARE_KIND_FROZENSET:
        return copy_table(copier, offset, head);
    case SHARE_KIND_ARRAY:
        return copy_array(copier, word, offset, head);
    default:
        return copy_made(copier, offset, head,
                         sstpy_share_leaf(copier->share, offset, head));
    }
}

static PyObject *
copy_word(struct copier *copier, uint64_t word)
{
    uint64_t offset = 0;

    if (!share_is(word, SHARE_TAG_RECORD)) {
        return sstpy_share_object(copier->share, word);
    }

    const uint64_t head = sstpy_share_head(copier->share, word, &offset);
    const uint64_t *const made = sstpy_share_map_find(&copier->made, offset);
    if (made != NULL) {
        return Py_NewRef((PyObject *)(uintptr_t)*made);
    }
    if (Py_EnterRecursiveCall(" while copying a share") != 0) {
        return NULL;
    }

    PyObject *const obj = copy_record(copier, word, offset, head);
    Py_LeaveRecursiveCall();
    return obj;
}

static void
copier_fini(struct copier *copier)
{
    for (uint64_t i = 0; i < copier->made.capacity; i++) {
        if (copier->made.entries[i].key != 0) {
            Py_DECREF((PyObject *)(uintptr_t)copier->made.entries[i].value);
        }
    }
    sstpy_share_map_fini(&copier->made);
}

PyObject *
sstpy_share_copy(ShareObject *share, uint64_t word)
{
    struct copier copier = {.share = share};
    PyObject *const obj = copy_word(&copier, word);

    copier_fini(&copier);
    return obj;
}

PyObject *
sstpy_share_copy_slice(PyObject *obj)
{
    const SequenceView *const view = (SequenceView *)obj;
    ShareObject *const share = view->view.share;
    uint64_t offset = 0;
    const uint64_t head = sstpy_share_head(share, view->view.word, &offset);

    if (view->start == 0 && view->step == 1 &&
        (uint64_t)view->count == share_head_count(head)) {
        return sstpy_share_copy(share, view->view.word);
    }

    struct copier copier = {.share = share};
    /* a slice is no record: nothing in it can be the slice itself */
    PyObject *const copy = copy_sequence(&copier, view, 0, 0);
    copier_fini(&copier);
    return copy;
}
