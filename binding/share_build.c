/* SPDX-License-Identifier: MIT */

/* Plain objects to a share.
 *
 * One pass: a record is allocated in private memory when its object is met, its word is
 * known at once, and what it contains is written into it later, from a stack of
 * containers that are not done. So depth is bounded by memory alone, and an object that
 * contains itself is one whose word is known already. Then everything is copied into a
 * parcel of the right size, which is sealed.
 *
 * Identity: an object with one reference is named by one word. Every other container,
 * str, bytes and array goes into a memo by its address, with a reference of the memo's
 * own, and its record is flagged. Numbers have no identity.
 *
 * Python code runs where an object is no built-in type (the registered functions), and
 * may change what is being shared: sizes are looked at again at every step, and what
 * changed is an error. The content of arrays and large bytes is read last of all.
 *
 * Nothing shared is written before the copy into the parcel, which nobody else knows:
 * share_root.c has the death table. */

#include "share_builder.h"

/* ---- Errors ---- */

/* obj['a'][3] as far as the stack knows it. */
static PyObject *
builder_path(const struct builder *builder)
{
    PyObject *path = PyUnicode_FromString("obj");

    for (size_t i = 0; i < builder->frame_count && path != NULL; i++) {
        const struct frame *const frame = &builder->frames[i];
        PyObject *next = NULL;
        if (frame->kind == SHARE_KIND_LIST || frame->kind == SHARE_KIND_TUPLE) {
            next = PyUnicode_FromFormat("%U[%zd]", path, frame->index - 1);
        }
        else if (frame->kind == SHARE_KIND_DICT && frame->key != NULL) {
            next = PyUnicode_FromFormat("%U[%.100R]", path, frame->key);
        }
        else if (frame->kind == SHARE_KIND_DICT) {
            next = PyUnicode_FromFormat("a key of %U", path);
        }
        else {
            next = PyUnicode_FromFormat("an element of %U", path);
        }
        Py_SETREF(path, next);
    }
    return path;
}

static int
raise_refused(const struct builder *builder, PyObject *obj, PyObject *advice)
{
    PyObject *const path = builder_path(builder);

    if (path != NULL) {
        PyErr_Format(PyExc_TypeError, "share() cannot take %U, of type %.200s: %U",
                     path, Py_TYPE(obj)->tp_name, advice);
        Py_DECREF(path);
    }
    return -1;
}

static int
raise_changed(void)
{
    PyErr_SetString(PyExc_RuntimeError, "an object changed while it was being shared");
    return -1;
}

/* ---- Containers ---- */

static int
frame_push(struct builder *builder, struct frame frame)
{
    struct frame *const frames =
        sstpy_share_grow(builder->frames, builder->frame_count, &builder->frame_room,
                         sizeof(*builder->frames));

    if (frames == NULL) {
        return -1;
    }
    builder->frames = frames;
    Py_INCREF(frame.obj);
    frames[builder->frame_count++] = frame;
    return 0;
}

/* Are all of them exact integers of 64 bits, and some of more than 48? */
static bool
wants_int64(PyObject *const *items, Py_ssize_t count)
{
    bool is_wide = false;

    for (Py_ssize_t i = 0; i < count; i++) {
        int overflow = 0;
        if (!PyLong_CheckExact(items[i])) {
            return false;
        }
        const int64_t value = PyLong_AsLongLongAndOverflow(items[i], &overflow);
        if (overflow != 0) {
            return false;
        }
        is_wide = is_wide || !share_int_fits(value);
    }
    return is_wide;
}

static PyObject **
sequence_items(PyObject *obj)
{
    return PyTuple_CheckExact(obj) ? &PyTuple_GET_ITEM(obj, 0)
                                   : ((PyListObject *)obj)->ob_item;
}

static int
put_sequence(struct builder *builder, PyObject *obj, enum share_kind kind,
             unsigned flags, uint64_t *word)
{
    const Py_ssize_t count = Py_SIZE(obj);
    PyObject *const *const items = sequence_items(obj);
    const bool is_int64 = wants_int64(items, count);
    uint64_t offset = 0;
    uint64_t *const at =
        sstpy_share_writer_alloc(&builder->writer, 8 + (uint64_t)count * 8, &offset);

    if (at == NULL) {
        return -1;
    }
    *at = share_head(kind, flags | (is_int64 ? SHARE_FLAG_KEYS : 0), (uint64_t)count);
    *word = share_word(SHARE_TAG_RECORD, offset);
    if (sstpy_share_memo_add(builder, obj, *word, flags) < 0) {
        return -1;
    }
    if (is_int64) {
        for (Py_ssize_t i = 0; i < count; i++) {
            at[1 + i] = (uint64_t)PyLong_AsLongLong(items[i]);
        }
        return 0;
    }
    return frame_push(builder, (struct frame){.obj = obj,
                                              .kind = kind,
                                              .count = count,
                                              .cells = at + 1});
}

static int
put_table(struct builder *builder, PyObject *obj, enum share_kind kind, unsigned flags,
          uint64_t *word)
{
    const Py_ssize_t count =
        kind == SHARE_KIND_DICT ? PyDict_GET_SIZE(obj) : PySet_GET_SIZE(obj);
    const unsigned stride = kind == SHARE_KIND_DICT ? 2 : 1;
    const bool is_small = count > 0 && count <= SHARE_SMALL_TABLE;
    const uint64_t size = share_table_size((uint64_t)count, stride);
    uint64_t offset = 0;
    uint64_t *const at = sstpy_share_writer_alloc(&builder->writer, size, &offset);

    if (at == NULL) {
        return -1;
    }

    uint64_t *const cells = at + (is_small ? 2 : 1);
    struct frame frame = {
        .obj = obj,
        .kind = kind,
        .count = count,
        .cells = cells,
        .slots = (unsigned char *)(is_small ? at + 1 : cells + count * stride),
    };
    *at = share_head(kind, flags, (uint64_t)count);
    if (is_small) {
        at[1] = 0;
    }
    else {
        memset(frame.slots, 0, (size_t)(size - 8 - (uint64_t)count * stride * 8));
    }
    *word = share_word(SHARE_TAG_RECORD, offset);
    if (sstpy_share_memo_add(builder, obj, *word, flags) < 0) {
        return -1;
    }
    if (kind != SHARE_KIND_DICT) {
        frame.iterator = PyObject_GetIter(obj);
        if (frame.iterator == NULL) {
            return -1;
        }
    }
    if (frame_push(builder, frame) < 0) {
        Py_XDECREF(frame.iterator);
        return -1;
    }
    return 0;
}

/* ---- Arrays, and what else describe() knows ---- */

static int put_any(struct builder *builder, PyObject *obj, uint64_t *word);
static int builder_run(struct builder *builder, size_t floor);

/* A word for an object, with all that it contains. */
static int
put_whole(struct builder *builder, PyObject *obj, uint64_t *word)
{
    const size_t floor = builder->frame_count;

    return put_any(builder, obj, word) < 0 ? -1 : builder_run(builder, floor);
}

static int
put_buffer(struct builder *builder, PyObject *obj, unsigned flags, PyObject *meta,
           Py_buffer *view, uint64_t *word)
{
    const bool is_fortran = view->ndim > 1 && PyBuffer_IsContiguous(view, 'F') &&
                            !PyBuffer_IsContiguous(view, 'C');
    const uint64_t dims = (uint64_t)view->ndim;
    PyObject *const format =
        PyBytes_FromString(view->format != NULL ? view->format : "B");
    uint64_t format_word = 0;
    uint64_t meta_word = 0;

    if (format == NULL) {
        return -1;
    }

    const int rc = put_whole(builder, meta, &meta_word) < 0
                       ? -1
                       : put_whole(builder, format, &format_word);
    Py_DECREF(format);
    if (rc < 0) {
        return -1;
    }

    uint64_t *const at =
        sstpy_share_small_record(builder, SHARE_KIND_ARRAY,
                                 flags | (is_fortran ? SHARE_FLAG_FORTRAN : 0), dims,
                                 sizeof(struct share_array) + dims * 8, word);
    if (at == NULL) {
        return -1;
    }

    struct share_array *const record = (struct share_array *)(at + 1);
    record->size = (uint64_t)view->len;
    record->item_size = (uint64_t)view->itemsize;
    record->format = format_word;
    record->meta = meta_word;
    for (int i = 0; i < view->ndim; i++) {
        record->shape[i] = (uint64_t)view->shape[i];
    }
    if (sstpy_share_memo_add(builder, obj, *word, flags) < 0) {
        return -1;
    }
    return sstpy_share_far_add(builder,
                               (struct far){.view = *view,
                                            .data = view->buf,
                                            .is_strided =
                                                !PyBuffer_IsContiguous(view, 'A'),
                                            .size = (uint64_t)view->len,
                                            .place = &record->data});
}

static int
put_array(struct builder *builder, PyObject *obj, unsigned flags, PyObject *meta,
          PyObject *exporter, uint64_t *word)
{
    Py_buffer view;

    if (PyObject_GetBuffer(exporter, &view, PyBUF_FULL_RO) < 0) {
        return -1;
    }
    if (view.ndim > SHARE_DIMENSIONS_MAX) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "an array of more than 64 dimensions");
        return -1;
    }
    if (put_buffer(builder, obj, flags, meta, &view, word) < 0) {
        PyBuffer_Release(&view);
        return -1;
    }
    return 0;
}

/* describe() answers with a text that says why not, (replacement,) or (meta, exporter).
 */
static int
put_described(struct builder *builder, PyObject *obj, unsigned flags, PyObject *answer,
              uint64_t *word)
{
    if (PyUnicode_Check(answer)) {
        return raise_refused(builder, obj, answer);
    }
    if (PyTuple_Check(answer) && PyTuple_GET_SIZE(answer) == 1) {
        return put_whole(builder, PyTuple_GET_ITEM(answer, 0), word) < 0
                   ? -1
                   : sstpy_share_memo_add(builder, obj, *word, flags);
    }
    if (PyTuple_Check(answer) && PyTuple_GET_SIZE(answer) == 2) {
        return put_array(builder, obj, flags, PyTuple_GET_ITEM(answer, 0),
                         PyTuple_GET_ITEM(answer, 1), word);
    }
    PyErr_SetString(PyExc_TypeError, "describe() must return a str or a tuple");
    return -1;
}

static int
put_other(struct builder *builder, PyObject *obj, uint64_t *word)
{
    unsigned flags = 0;

    if (sstpy_share_memo_find(builder, obj, word, &flags) != 0) {
        return 0;
    }
    if (builder->state->share_describe == NULL) {
        PyErr_SetString(PyExc_TypeError, "only built-in types can be shared");
        return -1;
    }
    if (Py_EnterRecursiveCall(" while sharing") != 0) {
        return -1;
    }

    PyObject *const held = Py_NewRef(obj);
    PyObject *const describe = Py_NewRef(builder->state->share_describe);
    PyObject *const answer = PyObject_CallOneArg(describe, obj);
    const int rc =
        answer != NULL ? put_described(builder, obj, flags, answer, word) : -1;
    Py_XDECREF(answer);
    Py_DECREF(describe);
    Py_DECREF(held);
    Py_LeaveRecursiveCall();
    return rc;
}

/* ---- Everything ---- */

static int
put_container(struct builder *builder, PyObject *obj, enum share_kind kind,
              uint64_t *word)
{
    unsigned flags = 0;

    if (sstpy_share_memo_find(builder, obj, word, &flags) != 0) {
        return 0;
    }
    if (kind == SHARE_KIND_TUPLE || kind == SHARE_KIND_LIST) {
        return put_sequence(builder, obj, kind, flags, word);
    }
    return put_table(builder, obj, kind, flags, word);
}

static int
put_any(struct builder *builder, PyObject *obj, uint64_t *word)
{
    PyTypeObject *const type = Py_TYPE(obj);

    if (type == &PyLong_Type) {
        return sstpy_share_put_int(builder, obj, word);
    }
    if (type == &PyUnicode_Type) {
        return sstpy_share_put_str(builder, obj, word);
    }
    if (type == &PyFloat_Type) {
        return sstpy_share_put_float(builder, obj, word);
    }
    if (obj == Py_None || type == &PyBool_Type) {
        *word = share_word(SHARE_TAG_SPECIAL, obj == Py_None    ? SHARE_NONE
                                              : obj == Py_False ? SHARE_FALSE
                                                                : SHARE_TRUE);
        return 0;
    }
    if (type == &PyTuple_Type) {
        return put_container(builder, obj, SHARE_KIND_TUPLE, word);
    }
    if (type == &PyList_Type) {
        return put_container(builder, obj, SHARE_KIND_LIST, word);
    }
    if (type == &PyDict_Type) {
        return put_container(builder, obj, SHARE_KIND_DICT, word);
    }
    if (type == &PyBytes_Type) {
        return sstpy_share_put_bytes(builder, obj, word);
    }
    if (type == &PySet_Type) {
        return put_container(builder, obj, SHARE_KIND_SET, word);
    }
    if (type == &PyFrozenSet_Type) {
        return put_container(builder, obj, SHARE_KIND_FROZENSET, word);
    }
    if (type == &PyComplex_Type) {
        return sstpy_share_put_complex(builder, obj, word);
    }
    return put_other(builder, obj, word);
}

/* ---- The stack ---- */

static void
frame_fini(struct frame *frame)
{
    Py_XDECREF(frame->obj);
    Py_XDECREF(frame->iterator);
    Py_XDECREF(frame->key);
    Py_XDECREF(frame->value);
}

static int
table_index(struct builder *builder, const struct frame *frame, uint64_t entry,
            PyObject *key)
{
    const uint64_t count = (uint64_t)frame->count;
    uint64_t hash = 0;

    if (sstpy_share_hash(builder->state, builder->seed, key, &hash) < 0) {
        return -1;
    }
    if (count <= SHARE_SMALL_TABLE) {
        frame->slots[entry] = (unsigned char)hash;
        return 0;
    }

    const uint64_t slots = share_table_slots(count);
    const unsigned width = share_table_width(count);
    uint64_t at = share_table_start(hash, slots);
    while (share_slot_read(frame->slots, width, at) != 0) {
        at = at + 1 < slots ? at + 1 : 0;
    }
    share_slot_write(frame->slots, width, at,
                     share_table_tag(hash, count) | (entry + 1));
    return 0;
}

/* Each step writes one element and returns 1, 0 when there is none left. The frame may
 * have moved afterwards: put_any pushes. */

static int
step_sequence(struct builder *builder, struct frame *frame)
{
    if (Py_SIZE(frame->obj) != frame->count) {
        return raise_changed();
    }
    if (frame->index == frame->count) {
        return 0;
    }

    PyObject *const item = sequence_items(frame->obj)[frame->index];
    uint64_t *const cell = &frame->cells[frame->index++];
    return put_any(builder, item, cell) < 0 ? -1 : 1;
}

/* Give up a reference to what a container still has: one reference more would hide that
 * it has the only one. -1 when it has it no longer. */
static int
release_shared(PyObject *obj)
{
    const bool is_last = Py_REFCNT(obj) == 1;

    Py_DECREF(obj);
    return is_last ? -1 : 0;
}

static int
step_set(struct builder *builder, struct frame *frame)
{
    PyObject *const item = PyIter_Next(frame->iterator);

    if (item == NULL) {
        if (PyErr_Occurred()) {
            return -1;
        }
        return frame->index == frame->count ? 0 : raise_changed();
    }

    const uint64_t entry = (uint64_t)frame->index++;
    int rc = frame->index > frame->count ? raise_changed()
                                         : table_index(builder, frame, entry, item);
    if (release_shared(item) < 0 && rc == 0) {
        rc = raise_changed();
    }
    return rc < 0 || put_any(builder, item, &frame->cells[entry]) < 0 ? -1 : 1;
}

/* The value of the key before. */
static int
step_value(struct builder *builder, struct frame *frame)
{
    uint64_t *const cell = &frame->cells[2 * frame->index - 1];
    PyObject *const value = frame->value;

    frame->value = NULL;
    if (release_shared(value) < 0) {
        return raise_changed();
    }
    return put_any(builder, value, cell) < 0 ? -1 : 1;
}

static int
step_dict(struct builder *builder, struct frame *frame)
{
    PyObject *key = NULL;
    PyObject *value = NULL;

    if (PyDict_GET_SIZE(frame->obj) != frame->count) {
        return raise_changed();
    }
    if (frame->value != NULL) {
        return step_value(builder, frame);
    }
    Py_CLEAR(frame->key);

    const Py_ssize_t before = frame->position;
    if (!PyDict_Next(frame->obj, &frame->position, &key, &value)) {
        return frame->index == frame->count ? 0 : raise_changed();
    }
    if (frame->index == frame->count) {
        return raise_changed();
    }

    const uint64_t entry = (uint64_t)frame->index++;
    uint64_t *const cell = &frame->cells[2 * entry];
    const size_t at = builder->frame_count - 1;
    Py_ssize_t again = before;
    PyObject *still = NULL;
    Py_INCREF(key);
    frame->value = Py_NewRef(value);
    const int rc = table_index(builder, frame, entry, key);
    if (release_shared(key) < 0) {
        return rc < 0 ? -1 : raise_changed();
    }
    if (rc < 0 || put_any(builder, key, cell) < 0) {
        return -1;
    }
    /* what put_any called may have dropped it */
    if (!PyDict_Next(builder->frames[at].obj, &again, &still, NULL) || still != key) {
        return raise_changed();
    }
    builder->frames[at].key = Py_NewRef(key); /* for the path in an error */
    return 1;
}

static int
frame_step(struct builder *builder, struct frame *frame)
{
    switch (frame->kind) {
    case SHARE_KIND_DICT:
        return step_dict(builder, frame);
    case SHARE_KIND_SET:
    case SHARE_KIND_FROZENSET:
        return step_set(builder, frame);
    default:
        return step_sequence(builder, frame);
    }
}

/* Until no container above `floor` is left. */
static int
builder_run(struct builder *builder, size_t floor)
{
    uint64_t steps = 0;

    while (builder->frame_count > floor) {
        struct frame *const top = &builder->frames[builder->frame_count - 1];
        const int rc = frame_step(builder, top);
        if (rc < 0) {
            return -1;
        }
        if (rc == 0) {
            struct frame done = builder->frames[--builder->frame_count];
            frame_fini(&done);
        }
        if (++steps % (1 << 20) == 0 && PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- The parcel ---- */

static uint64_t
align64(uint64_t offset)
{
    return (offset + 63) & ~UINT64_C(63);
}

/* Give the large pieces their places; the size of everything. */
static uint64_t
place_fars(struct builder *builder)
{
    uint64_t offset = builder->writer.size;

    for (size_t i = 0; i < builder->far_count; i++) {
        offset = align64(offset);
        *builder->fars[i].place = offset;
        offset += builder->fars[i].size;
    }
    return offset;
}

static int
copy_far(const struct far *far, unsigned char *to)
{
    if (far->is_strided) {
        return PyBuffer_ToContiguous(to, &far->view, far->view.len, 'C');
    }

    if (far->size == 0) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, far->data, (size_t)far->size);
    Py_END_ALLOW_THREADS
    return 0;
}

static ShareObject *
builder_finish(struct builder *builder, uint64_t *header, uint64_t root)
{
    const uint64_t size = place_fars(builder);
    ShareObject *const share = sstpy_share_create(builder->state, size);

    if (share == NULL) {
        return NULL;
    }

    unsigned char *const memory = sstpy_share_memory(share);
    const struct share_header head = {
        .magic = SHARE_MAGIC,
        .version = SHARE_VERSION,
        .size = size,
        .root = root,
        .seed = builder->seed,
    };
    uint64_t end = builder->writer.size;
    memcpy(header, &head, sizeof(head));

    /* The offsets of the large pieces are kept: draining frees the records they are
     * in. */
    for (size_t i = 0; i < builder->far_count; i++) {
        const uint64_t offset = *builder->fars[i].place;
        memset(memory + end, 0, (size_t)(offset - end));
        end = offset + builder->fars[i].size;
        if (copy_far(&builder->fars[i], memory + offset) < 0) {
            Py_DECREF(share);
            return NULL;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    sstpy_share_writer_drain(&builder->writer, memory);
    Py_END_ALLOW_THREADS
    if (sstpy_share_seal(share) < 0) {
        Py_DECREF(share);
        return NULL;
    }
    return share;
}

static void
builder_fini(struct builder *builder)
{
    for (size_t i = 0; i < builder->frame_count; i++) {
        frame_fini(&builder->frames[i]);
    }
    for (size_t i = 0; i < builder->far_count; i++) {
        Py_XDECREF(builder->fars[i].owner);
        if (builder->fars[i].view.obj != NULL) {
            PyBuffer_Release(&builder->fars[i].view);
        }
    }
    for (uint64_t i = 0; i < builder->memo.capacity; i++) {
        if (builder->memo.entries[i].key != 0) {
            Py_DECREF((PyObject *)(uintptr_t)builder->memo.entries[i].key);
        }
    }
    PyMem_RawFree(builder->frames);
    PyMem_RawFree(builder->fars);
    sstpy_share_map_fini(&builder->memo);
    sstpy_share_writer_fini(&builder->writer);
}

PyObject *
sstpy_share_build(struct sstpy_state *state, PyObject *obj)
{
    struct builder builder = {.state = state};
    PyObject *share = NULL;
    uint64_t offset = 0;
    uint64_t root = 0;

    /* as unpredictable as Python's own hashes are in this process */
    builder.seed = (uint64_t)PyObject_Hash(state->str_attach);
    uint64_t *const header =
        sstpy_share_writer_alloc(&builder.writer, sizeof(struct share_header), &offset);
    if (header != NULL && put_whole(&builder, obj, &root) == 0) {
        share = (PyObject *)builder_finish(&builder, header, root);
    }
    builder_fini(&builder);
    return share;
}
