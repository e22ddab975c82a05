/* SPDX-License-Identifier: MIT */

/* Putting a pickle and its large buffers into shared memory, each with one copy.
 *
 * The pickler calls the collector with every buffer that an object offers. A small one
 * stays in the pickle. One that lies in a sealed parcel (share()) goes by reference.
 * Any other is exported, so that its owner can neither free nor move it, until it has
 * been copied.
 *
 * Where they go decides what a receiver keeps alive that keeps one of them: a view
 * holds the parcel it looks at and nothing else. So a buffer of more than `pack` bytes
 * has a parcel of its own, and the others lie together in parcels of at most `pack`
 * bytes. `pack` is 64 KiB, or a 64th of all bytes when there are more than 4 MiB: then
 * a message has at most 130 parcels. The message's own parcel has the pickle and holds
 * the others, and what reducers named. If there is nothing to hold and all is smaller
 * than a pack, the buffers lie in it, too: one parcel for the most frequent messages.
 *
 * The copy is made before anything is put, without the GIL when it is long (copy.c),
 * and signals are looked at on the way: a handler that raises leaves nothing behind. A
 * thread that writes into an array meanwhile gets what it asks for, a message with some
 * old bytes and some new ones.
 *
 * Where shared memory is short the message is made of slices: who waits for room anyway
 * may send it piece by piece.
 *
 * Shared memory is written here, but only what nobody else has seen: a process that
 * dies in the middle leaves parcels which its held table frees. */

#include "buffers.h"

#include <string.h>

#include "compat.h"
#include "copy.h"
#include "errors.h"
#include "pickle.h"

enum {
    BUFFER_ALIGN = 64,
    SLICE_ALIGN = 16, /* of buffers in a message without a parcel */
    PACK_MIN = 64 * 1024,
    PACK_PART = 64, /* a pack has this part of all bytes, or the above */
};

/* ---- Collecting ---- */

struct sstpy_collector *
sstpy_collector_new(struct sstpy_state *state)
{
    PyTypeObject *const type = state->collector_type;
    struct sstpy_collector *const self =
        (struct sstpy_collector *)type->tp_alloc(type, 0);

    if (self != NULL) {
        self->state = state;
    }
    return self;
}

void
sstpy_collector_clear(struct sstpy_collector *collector)
{
    while (collector->count > 0) {
        /* Whose buffer it is may be called, and collect more. */
        Py_buffer view = collector->buffers[--collector->count].view;
        PyBuffer_Release(&view);
    }
}

void
sstpy_collector_close(struct sstpy_collector *collector)
{
    collector->closed = true;
}

static int
collector_grow(struct sstpy_collector *self)
{
    const uint32_t room = self->room != 0 ? self->room * 2 : 4;

    if (room > UINT32_MAX / 4) {
        (void)PyErr_NoMemory();
        return -1;
    }

    struct sstpy_buffer *const buffers =
        PyMem_Realloc(self->buffers, room * sizeof(*buffers));
    if (buffers == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    self->buffers = buffers;
    self->room = room;
    return 0;
}

/* 1: put aside; 0: it stays in the pickle; -1. */
static int
collector_take(struct sstpy_collector *self, PyObject *obj)
{
    struct sst_arena *const arena = sstpy_arena_peek();

    if (self->count == self->room && collector_grow(self) < 0) {
        return -1;
    }

    struct sstpy_buffer *const buffer = &self->buffers[self->count];
    if (PyObject_GetBuffer(obj, &buffer->view, PyBUF_FULL_RO) < 0) {
        return -1;
    }
    if (buffer->view.len < SSTPY_BUFFER_MIN ||
        !PyBuffer_IsContiguous(&buffer->view, 'A')) {
        PyBuffer_Release(&buffer->view);
        return 0;
    }
    buffer->handle.kind = SST_KIND_NONE;
    if (arena != NULL) {
        (void)sst_parcel_find(arena, buffer->view.buf, (uint64_t)buffer->view.len,
                              &buffer->handle, &buffer->offset);
    }
    self->count++;
    return 1;
}

/* buffer_callback(PickleBuffer): what is false goes beside the pickle. */
static PyObject *
collector_call(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    struct sstpy_collector *const self = (struct sstpy_collector *)obj;

    if (PyTuple_GET_SIZE(args) != 1 || kwargs != NULL) {
        PyErr_SetString(PyExc_TypeError, "a buffer callback takes one argument");
        return NULL;
    }
    if (self->closed) {
        Py_RETURN_TRUE;
    }

    const int taken = collector_take(self, PyTuple_GET_ITEM(args, 0));
    return taken < 0 ? NULL : PyBool_FromLong(taken == 0);
}

static void
collector_dealloc(PyObject *obj)
{
    struct sstpy_collector *const self = (struct sstpy_collector *)obj;

    sstpy_collector_clear(self);
    PyMem_Free(self->buffers);
    sstpy_free(obj);
}

static PyType_Slot collector_slots[] = {
    {Py_tp_call, collector_call},
    {Py_tp_dealloc, collector_dealloc},
    {0, NULL},
};

static PyType_Spec collector_spec = {
    .name = "sidestep._core._Collector",
    .basicsize = sizeof(struct sstpy_collector),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = collector_slots,
};

/* ---- Planning ---- */

/* A parcel with one or more buffers. The first is the message's own. */
struct pack {
    struct sst_parcel *parcel;
    uint64_t size;
};

struct plan {
    struct sstpy_collector *collector;
    const struct sst_slice *parts; /* of the pickle */
    uint32_t part_count;
    struct sst_parcel *held; /* holds what reducers named, or NULL */
    struct sstpy_buffers_head head;
    struct sstpy_buffers_row *rows;
    struct pack *packs;
    uint32_t pack_count;
    uint32_t reference_count;
};

static uint64_t
align_up(uint64_t size)
{
    return (size + BUFFER_ALIGN - 1) & ~(uint64_t)(BUFFER_ALIGN - 1);
}

static bool
is_reference(const struct sstpy_buffer *buffer)
{
    return buffer->handle.kind != SST_KIND_NONE;
}

/* The bytes in front of the first buffer: head, rows, pickle. */
static uint64_t
plan_front(const struct plan *plan)
{
    return sizeof(plan->head) + plan->head.count * sizeof(*plan->rows) +
           plan->head.pickle_size;
}

static uint64_t
plan_pack_max(const struct plan *plan)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < plan->head.count; i++) {
        total += (uint64_t)plan->collector->buffers[i].view.len;
    }
    total /= PACK_PART;
    return total > PACK_MIN ? total : PACK_MIN;
}

static void
plan_place(struct plan *plan, uint32_t index, uint32_t pack)
{
    const struct sstpy_buffer *const buffer = &plan->collector->buffers[index];
    const uint64_t offset = align_up(plan->packs[pack].size);

    plan->rows[index].parcel = pack;
    plan->rows[index].offset = offset;
    plan->packs[pack].size = offset + (uint64_t)buffer->view.len;
}

/* Whether all of it is so little that it may lie in the message's parcel, and stay as
 * long as any part does. Not when that parcel holds something: this would stay, too. */
static bool
plan_is_simple(const struct plan *plan, uint64_t pack_max)
{
    uint64_t size = plan_front(plan);

    for (uint32_t i = 0; i < plan->head.count; i++) {
        const struct sstpy_buffer *const buffer = &plan->collector->buffers[i];
        if (is_reference(buffer)) {
            return false;
        }
        size = align_up(size) + (uint64_t)buffer->view.len;
    }
    return size <= pack_max && plan->held == NULL;
}

/* The number of a new pack. */
static uint32_t
plan_open(struct plan *plan)
{
    plan->packs[plan->pack_count] = (struct pack){NULL, 0};
    return plan->pack_count++;
}

/* Which buffer goes where: large ones alone, the others into the pack that is open
 * until it is full. */
static void
plan_make(struct plan *plan)
{
    const uint64_t pack_max = plan_pack_max(plan);
    const bool simple = plan_is_simple(plan, pack_max);
    uint32_t open = 0;

    plan->packs[0] = (struct pack){NULL, plan_front(plan)};
    plan->pack_count = 1;
    for (uint32_t i = 0; i < plan->head.count; i++) {
        const struct sstpy_buffer *const buffer = &plan->collector->buffers[i];
        const uint64_t size = (uint64_t)buffer->view.len;

        plan->rows[i].flags = buffer->view.readonly ? SSTPY_ROW_READONLY : 0;
        plan->rows[i].size = size;
        if (is_reference(buffer)) {
            plan->reference_count++;
        }
        else if (size > pack_max) {
            plan_place(plan, i, plan_open(plan));
        }
        else {
            const uint64_t used = align_up(plan->packs[open].size);
            if (!simple && (open == 0 || used + size > pack_max)) {
                open = plan_open(plan);
            }
            plan_place(plan, i, open);
        }
    }
}

/* ---- Filling ---- */

/* The message's parcel, which holds the others. What reducers named is held by a parcel
 * already, whose bytes do when the pickle is small and has no buffers. */
static int
fill_first(struct sst_arena *arena, struct plan *plan, struct sst_error *err)
{
    const uint32_t others = plan->pack_count - 1 + plan->reference_count;
    struct pack *const first = &plan->packs[0];
    struct sst_handle handle;

    if (plan->held != NULL && others == 0 &&
        first->size <= sst_parcel_size(plan->held)) {
        first->parcel = plan->held;
        plan->held = NULL;
        return 0;
    }

    int rc = sst_parcel_create(arena, first->size, others + (plan->held != NULL),
                               &first->parcel, err);
    for (uint32_t i = 1; rc == 0 && i < plan->pack_count; i++) {
        sst_parcel_handle(plan->packs[i].parcel, &handle);
        rc = sst_parcel_hold(first->parcel, &handle, err);
    }
    for (uint32_t i = 0; rc == 0 && i < plan->head.count; i++) {
        const struct sstpy_buffer *const buffer = &plan->collector->buffers[i];
        if (is_reference(buffer)) {
            rc = sst_parcel_hold(first->parcel, &buffer->handle, err);
            plan->rows[i].parcel = sst_parcel_count(first->parcel);
            plan->rows[i].offset = buffer->offset;
        }
    }
    if (rc == 0 && plan->held != NULL) {
        sst_parcel_handle(plan->held, &handle);
        rc = sst_parcel_hold(first->parcel, &handle, err);
    }
    return rc;
}

static int
fill_parcels(struct sst_arena *arena, struct plan *plan, struct sst_error *err)
{
    for (uint32_t i = 1; i < plan->pack_count; i++) {
        struct pack *const pack = &plan->packs[i];
        const int rc = sst_parcel_create(arena, pack->size, 0, &pack->parcel, err);
        if (rc < 0) {
            return rc;
        }
    }
    return fill_first(arena, plan, err);
}

static int
fill_copy(const struct plan *plan)
{
    const uint64_t rows_size = plan->head.count * sizeof(*plan->rows);
    char *to = sst_parcel_data(plan->packs[0].parcel);

    memcpy(to, &plan->head, sizeof(plan->head));
    to += sizeof(plan->head);
    if (rows_size > 0) {
        memcpy(to, plan->rows, rows_size);
        to += rows_size;
    }
    for (uint32_t i = 0; i < plan->part_count; i++) {
        if (sstpy_copy_checked(to, plan->parts[i].data, plan->parts[i].size) < 0) {
            return SSTPY_RAISED;
        }
        to += plan->parts[i].size;
    }
    for (uint32_t i = 0; i < plan->head.count; i++) {
        const struct sstpy_buffer *const buffer = &plan->collector->buffers[i];
        const struct sstpy_buffers_row *const row = &plan->rows[i];

        if (is_reference(buffer)) {
            continue;
        }
        to = (char *)sst_parcel_data(plan->packs[row->parcel].parcel) + row->offset;
        if (sstpy_copy_checked(to, buffer->view.buf, row->size) < 0) {
            return SSTPY_RAISED;
        }
    }
    return 0;
}

/* ---- Without memory for parcels ---- */

/* Head and rows as an object, for a message in which everything lies itself: each
 * buffer behind the one before and a gap that aligns it. */
static PyObject *
slices_front(struct plan *plan)
{
    const uint64_t rows_size = plan->head.count * sizeof(*plan->rows);
    PyObject *const front =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(sizeof(plan->head) + rows_size));
    uint64_t at = plan_front(plan);

    if (front == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < plan->head.count; i++) {
        at += -at & (SLICE_ALIGN - 1);
        plan->rows[i].parcel = 0;
        plan->rows[i].offset = at;
        at += plan->rows[i].size;
    }
    memcpy(PyBytes_AS_STRING(front), &plan->head, sizeof(plan->head));
    memcpy(PyBytes_AS_STRING(front) + sizeof(plan->head), plan->rows, rows_size);
    return front;
}

static void
slices_add(struct sstpy_encoded *out, const void *data, uint64_t size)
{
    out->slices[out->count++] = (struct sst_slice){data, size};
    out->size += size;
}

/* The message as slices of what was to be copied, which a queue that waits, or a pipe,
 * may take piece by piece. False when there are too many, or an exception is set. */
static bool
slices_make(struct plan *plan, PyObject *pickled, struct sstpy_encoded *out)
{
    static const char zeros[SLICE_ALIGN];
    const uint64_t needed = 1 + plan->part_count + 2 * (uint64_t)plan->head.count;

    if (needed > SST_SLICES_MAX || plan->reference_count > 0 || plan->held != NULL) {
        return false;
    }

    PyObject *const front = slices_front(plan);
    PyObject *view =
        NULL; /* keeps the pickle where it is; a file's parts stay anyway */
    if (front != NULL) {
        view = sstpy_is_pickle_file(plan->collector->state, pickled)
                   ? Py_NewRef(pickled)
                   : PyMemoryView_FromObject(pickled);
    }
    if (view != NULL) {
        out->owner = PyTuple_Pack(3, front, view, plan->collector);
    }
    Py_XDECREF(view);
    Py_XDECREF(front);
    if (out->owner == NULL) {
        return false;
    }

    slices_add(out, PyBytes_AS_STRING(front), (uint64_t)PyBytes_GET_SIZE(front));
    for (uint32_t i = 0; i < plan->part_count; i++) {
        slices_add(out, plan->parts[i].data, plan->parts[i].size);
    }
    for (uint32_t i = 0; i < plan->head.count; i++) {
        const Py_buffer *const buffer = &plan->collector->buffers[i].view;
        slices_add(out, zeros, plan->rows[i].offset - out->size);
        slices_add(out, buffer->buf, (uint64_t)buffer->len);
    }
    return true;
}

/* ---- Encoding ---- */

static int
plan_run(struct sstpy_state *state, struct plan *plan, struct sstpy_encoded *out)
{
    struct sst_arena *const arena = sstpy_arena(state);
    struct sst_error err = {0};

    if (arena == NULL) {
        return SSTPY_RAISED;
    }
    plan_make(plan);

    int rc = fill_parcels(arena, plan, &err);
    if (rc == 0) {
        rc = fill_copy(plan);
    }
    if (rc == 0) {
        out->parcel = plan->packs[0].parcel;
        plan->packs[0].parcel = NULL;
    }
    for (uint32_t i = 0; i < plan->pack_count; i++) {
        (void)sst_parcel_close(plan->packs[i].parcel); /* the message holds it */
    }
    return rc;
}

/* The parts of a pickle: what a PickleFile was given, or one buffer. */
struct parts {
    struct sst_slice few[4];
    struct sst_slice *slices;
    uint32_t count;
    Py_buffer view; /* view.obj is NULL when it is a PickleFile */
};

static int
parts_get(const struct sstpy_state *state, PyObject *pickled, struct parts *out)
{
    const uint32_t few = (uint32_t)(sizeof(out->few) / sizeof(*out->few));

    out->slices = out->few;
    out->view.obj = NULL;
    if (!sstpy_is_pickle_file(state, pickled)) {
        if (PyObject_GetBuffer(pickled, &out->view, PyBUF_SIMPLE) < 0) {
            out->view.obj = NULL;
            return -1;
        }
        out->few[0] = (struct sst_slice){out->view.buf, (uint64_t)out->view.len};
        out->count = 1;
        return 0;
    }

    const struct sstpy_pickle_file *const file =
        (const struct sstpy_pickle_file *)pickled;
    if (file->count > (Py_ssize_t)few) {
        out->slices = PyMem_Malloc((size_t)file->count * sizeof(*out->slices));
        if (out->slices == NULL) {
            (void)PyErr_NoMemory();
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < file->count; i++) {
        PyObject *const part = file->parts[i];
        out->slices[i] = (struct sst_slice){PyBytes_AS_STRING(part),
                                            (uint64_t)PyBytes_GET_SIZE(part)};
    }
    out->count = (uint32_t)file->count;
    return 0;
}

static void
parts_release(struct parts *parts)
{
    if (parts->view.obj != NULL) {
        PyBuffer_Release(&parts->view);
    }
    if (parts->slices != parts->few) {
        PyMem_Free(parts->slices);
    }
}

int
sstpy_buffers_encode(struct sstpy_state *state, PyObject *pickled,
                     struct sstpy_collector *collector, struct sst_parcel *held,
                     struct sstpy_encoded *out)
{
    struct plan plan = {.collector = collector, .held = held};
    struct parts parts = {.slices = parts.few};
    int rc = SSTPY_RAISED;

    plan.head.tag = SSTPY_TAG_BUFFERS;
    plan.head.count = collector->count;
    plan.rows = PyMem_Calloc((size_t)collector->count + 1, sizeof(*plan.rows));
    plan.packs = PyMem_Calloc((size_t)collector->count + 1, sizeof(*plan.packs));
    if (plan.rows == NULL || plan.packs == NULL) {
        (void)PyErr_NoMemory();
    }
    else if (parts_get(state, pickled, &parts) == 0) {
        plan.parts = parts.slices;
        plan.part_count = parts.count;
        for (uint32_t i = 0; i < parts.count; i++) {
            plan.head.pickle_size += parts.slices[i].size;
        }
        rc = plan_run(state, &plan, out);
        if ((rc == SST_ELIMIT || rc == SST_ENOMEM) &&
            slices_make(&plan, pickled, out)) {
            rc = 0;
        }
        else if (rc < 0 && PyErr_Occurred() != NULL) {
            rc = SSTPY_RAISED;
        }
    }
    parts_release(&parts);
    (void)sst_parcel_close(plan.held);
    PyMem_Free(plan.packs);
    PyMem_Free(plan.rows);
    return rc;
}

int
sstpy_buffers_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &collector_spec, &state->collector_type);
}
