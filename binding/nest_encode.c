/* SPDX-License-Identifier: MIT */

/* Plain nests to bytes, in one pass.
 *
 * Only exact built-in types are encoded: of these pickle asks no reducer, so what it
 * would make is known. Everything else, and what pickle does in a way of its own
 * (cycles, great depth), is left to it: the pass ends and what it wrote is forgotten.
 *
 * Identity. pickle gives an object that it meets twice once. We meet an object twice
 * only if two references lead to it: one with a reference count of 1 is met once, if
 * the container that holds it is. So containers, strings and bytes with any other
 * count, which includes the immortal ones, are remembered and looked up, the others
 * are not. A count can be too high, because somebody outside looks on, and costs a
 * look-up; it cannot be too low, because references in containers are always counted.
 * The root is remembered by its address alone: who meets it again is inside of it.
 * Numbers and what exists only once anyway (None, (), strings of up to one Latin
 * character) are not, as in pickle.
 *
 * Nothing here runs Python code or allocates a Python object: no collection starts, no
 * container changes under the pass, borrowed references stay good. (Without a GIL each
 * container's critical section would have to be held while its items are copied to
 * the scratch as new references, and the count be read after that.)
 *
 * The bytes go to a scratch buffer that is kept for the next time. It is taken from a
 * list, not from the thread: a signal handler or another thread that encodes while a
 * put waits takes another. Large strings and bytes are not copied to it; they become
 * slices of their own and a reference is held, as the put may let go of the GIL. A
 * bytearray is copied, since it may change.
 *
 * The guard of the list and of everything in this file is the GIL. */

#include <string.h>

#include "compat.h"
#include "nest.h"
#include "nest_format.h"

enum {
    SCRATCH_ROOM = 4096,    /* bytes of a new one */
    SCRATCH_KEEP = 1 << 20, /* a larger one is not kept */
    SCRATCH_SPARE_MAX = 4,  /* more are not kept */
    MEMO_SIZE = 256,        /* entries of a new one, a power of two */
    MEMO_KEEP = 1 << 13,    /* a larger one is not kept */
    ITEM_ROOM = 16,         /* what the tag and the size of any item need */
    SLICE_SIZE_MIN = 4096,  /* smaller ones are cheaper to copy */
    CUT_MAX = (SST_SLICES_MAX - 1) / 2,
};

enum outcome {
    DONE = 0,
    ASIDE = 1,
    NO_MEMORY = 2
};

/* An object that was written and may be met again. */
struct memo_entry {
    PyObject *object;    /* borrowed; compared, not looked into */
    uint32_t generation; /* of the pass that wrote it; any other: empty */
    uint32_t index;
};

/* Where the scratch is interrupted by an object's own memory. */
struct cut {
    size_t offset; /* in the scratch */
    const void *data;
    uint64_t size;
    PyObject *owner; /* reference held */
};

struct sstpy_nest_scratch {
    struct sstpy_nest_spare *spare;  /* the list it comes from */
    struct sstpy_nest_scratch *next; /* in it */
    unsigned char *bytes;
    size_t room;
    struct memo_entry *memo;
    uint32_t memo_size; /* a power of two */
    uint32_t generation;
    uint32_t cut_count;
    struct cut cuts[CUT_MAX];
};

struct encoder {
    struct sstpy_nest_scratch *scratch;
    unsigned char *at;
    unsigned char *end;
    uint64_t cut_size;  /* of what is not in the scratch */
    uint32_t kept;      /* objects remembered */
    int key_depth;      /* inside so many hashed objects */
    uint64_t hash_cost; /* of references inside them */
    int depth;
    PyObject *open[NEST_DEPTH_MAX]; /* containers that are being written */
};

static enum outcome encode(struct encoder *self, PyObject *obj);

/* ---- Scratch ---- */

static void
scratch_free(struct sstpy_nest_scratch *scratch)
{
    PyMem_RawFree(scratch->bytes);
    PyMem_RawFree(scratch->memo);
    PyMem_RawFree(scratch);
}

static struct sstpy_nest_scratch *
scratch_new(struct sstpy_nest_spare *spare)
{
    struct sstpy_nest_scratch *const scratch = PyMem_RawCalloc(1, sizeof(*scratch));

    if (scratch == NULL) {
        return NULL;
    }
    scratch->spare = spare;
    scratch->bytes = PyMem_RawMalloc(SCRATCH_ROOM);
    scratch->room = SCRATCH_ROOM;
    scratch->memo = PyMem_RawCalloc(MEMO_SIZE, sizeof(*scratch->memo));
    scratch->memo_size = MEMO_SIZE;
    if (scratch->bytes == NULL || scratch->memo == NULL) {
        scratch_free(scratch);
        return NULL;
    }
    return scratch;
}

static struct sstpy_nest_scratch *
scratch_take(struct sstpy_nest_spare *spare)
{
    struct sstpy_nest_scratch *const scratch = spare->first;

    if (scratch == NULL) {
        return scratch_new(spare);
    }
    spare->first = scratch->next;
    spare->count--;
    return scratch;
}

static void
scratch_give(struct sstpy_nest_scratch *scratch)
{
    struct sstpy_nest_spare *const spare = scratch->spare;

    for (uint32_t i = 0; i < scratch->cut_count; i++) {
        Py_DECREF(scratch->cuts[i].owner); /* of an exact type: no Python code */
    }
    scratch->cut_count = 0;
    if (spare->count >= SCRATCH_SPARE_MAX || scratch->room > SCRATCH_KEEP ||
        scratch->memo_size > MEMO_KEEP) {
        scratch_free(scratch);
        return;
    }
    scratch->next = spare->first;
    spare->first = scratch;
    spare->count++;
}

void
sstpy_nest_spare_free(struct sstpy_nest_spare *spare)
{
    while (spare->first != NULL) {
        struct sstpy_nest_scratch *const scratch = spare->first;
        spare->first = scratch->next;
        scratch_free(scratch);
    }
    spare->count = 0;
}

/* ---- Writing ---- */

static enum outcome
room_grow(struct encoder *self, size_t size)
{
    struct sstpy_nest_scratch *const scratch = self->scratch;
    const size_t used = (size_t)(self->at - scratch->bytes);
    size_t room = scratch->room;

    if (size > PY_SSIZE_T_MAX / 2 - used) {
        return NO_MEMORY;
    }
    while (room < used + size) {
        room *= 2;
    }

    unsigned char *const bytes = PyMem_RawRealloc(scratch->bytes, room);
    if (bytes == NULL) {
        return NO_MEMORY;
    }
    scratch->bytes = bytes;
    scratch->room = room;
    self->at = bytes + used;
    self->end = bytes + room;
    return DONE;
}

static inline enum outcome
room_make(struct encoder *self, size_t size)
{
    if ((size_t)(self->end - self->at) >= size) {
        return DONE;
    }
    return room_grow(self, size);
}

static inline void
write_tag(struct encoder *self, int tag)
{
    *self->at++ = (unsigned char)tag;
}

/* Seven bits a byte, the low ones first. */
static inline void
write_size(struct encoder *self, uint64_t size)
{
    while (size >= 0x80) {
        *self->at++ = (unsigned char)(size | 0x80);
        size >>= 7;
    }
    *self->at++ = (unsigned char)size;
}

static inline void
write_fixed(struct encoder *self, int tag, const void *value, size_t size)
{
    write_tag(self, tag);
    memcpy(self->at, value, size);
    self->at += size;
}

/* ---- Memo ---- */

static inline uint32_t
memo_start(const struct sstpy_nest_scratch *scratch, const PyObject *obj)
{
    const uint64_t mixed = ((uintptr_t)obj >> 4) * UINT64_C(0x9e3779b97f4a7c15);

    return (uint32_t)(mixed >> 32) & (scratch->memo_size - 1);
}

/* The entry of `obj`, or the empty one where it belongs. */
static inline struct memo_entry *
memo_find(const struct sstpy_nest_scratch *scratch, const PyObject *obj)
{
    uint32_t i = memo_start(scratch, obj);

    for (;;) {
        struct memo_entry *const entry = &scratch->memo[i];
        if (entry->generation != scratch->generation || entry->object == obj) {
            return entry;
        }
        i = (i + 1) & (scratch->memo_size - 1);
    }
}

static enum outcome
memo_grow(struct sstpy_nest_scratch *scratch)
{
    struct memo_entry *const old = scratch->memo;
    const uint32_t old_size = scratch->memo_size;

    if (old_size > UINT32_MAX / 4) {
        return ASIDE; /* bits of memo_start; and indices */
    }

    struct memo_entry *const memo =
        PyMem_RawCalloc(2 * (size_t)old_size, sizeof(*memo));
    if (memo == NULL) {
        return NO_MEMORY;
    }
    scratch->memo = memo;
    scratch->memo_size = 2 * old_size;
    for (uint32_t i = 0; i < old_size; i++) {
        if (old[i].generation == scratch->generation) {
            *memo_find(scratch, old[i].object) = old[i];
        }
    }
    PyMem_RawFree(old);
    return DONE;
}

/* A new pass: what is in the memo belongs to none. */
static void
memo_begin(struct sstpy_nest_scratch *scratch)
{
    if (++scratch->generation == 0) {
        memset(scratch->memo, 0, scratch->memo_size * sizeof(*scratch->memo));
        scratch->generation = 1;
    }
}

static bool
is_open(const struct encoder *self, const PyObject *obj)
{
    for (int i = 0; i < self->depth; i++) {
        if (self->open[i] == obj) {
            return true;
        }
    }
    return false;
}

static enum outcome
write_reference(struct encoder *self, PyObject *obj, uint32_t index)
{
    if (is_open(self, obj)) {
        return ASIDE; /* a cycle */
    }
    if (self->key_depth > 0 && PyTuple_CheckExact(obj)) {
        const uint64_t written = (uint64_t)(self->at - self->scratch->bytes);
        const uint64_t most = NEST_HASH_RATE * written + NEST_HASH_FREE;
        uint64_t left = most - self->hash_cost;
        if (!sstpy_nest_weigh(obj, &left)) {
            return ASIDE;
        }
        self->hash_cost = most - left;
    }
    if (index <= NEST_NEAR_MAX) {
        write_tag(self, NEST_NEAR + (int)index);
        return DONE;
    }
    write_tag(self, NEST_FAR);
    write_size(self, index);
    return DONE;
}

/* Look an object up that may be met twice. True and *outcome when that is all: it was
 * met before; false when it is remembered from now on and must be written. */
static inline bool
recall(struct encoder *self, PyObject *obj, enum outcome *outcome)
{
    struct sstpy_nest_scratch *const scratch = self->scratch;
    struct memo_entry *entry = memo_find(scratch, obj);

    if (entry->generation == scratch->generation) {
        *outcome = write_reference(self, obj, entry->index);
        return true;
    }
    if (self->kept >= scratch->memo_size / 2) {
        *outcome = memo_grow(scratch);
        if (*outcome != DONE) {
            return true;
        }
        entry = memo_find(scratch, obj);
    }
    *entry = (struct memo_entry){obj, scratch->generation, self->kept++};
    return false;
}

/* ---- Leaves ---- */

static enum outcome
encode_int(struct encoder *self, PyObject *obj)
{
    int overflow = 0;
    const int64_t value = sstpy_long_value(obj, &overflow);

    if (overflow != 0) {
        const size_t size = sstpy_long_size(obj);
        if (room_make(self, ITEM_ROOM + size) != DONE) {
            return NO_MEMORY;
        }
        write_tag(self, NEST_INT_BIG);
        write_size(self, size);
        sstpy_long_to_bytes(obj, self->at, size);
        self->at += size;
    }
    else if (value >= 0 && value < NEST_SHORT) {
        write_tag(self, (int)value);
    }
    else if (value == (int8_t)value) {
        write_fixed(self, NEST_INT8, &value, 1);
    }
    else if (value == (int16_t)value) {
        write_fixed(self, NEST_INT16, &value, 2);
    }
    else if (value == (int32_t)value) {
        write_fixed(self, NEST_INT32, &value, 4);
    }
    else {
        write_fixed(self, NEST_INT64, &value, 8);
    }
    return DONE;
}

/* The object's own memory, behind a tag and size that are written. */
static enum outcome
write_bytes(struct encoder *self, PyObject *owner, const void *data, size_t size)
{
    struct sstpy_nest_scratch *const scratch = self->scratch;

    if (size >= SLICE_SIZE_MIN && scratch->cut_count < CUT_MAX &&
        !PyByteArray_CheckExact(owner)) {
        const size_t offset = (size_t)(self->at - scratch->bytes);
        scratch->cuts[scratch->cut_count++] =
            (struct cut){offset, data, size, Py_NewRef(owner)};
        self->cut_size += size;
        return DONE;
    }
    if (room_make(self, size) != DONE) {
        return NO_MEMORY;
    }
    memcpy(self->at, data, size);
    self->at += size;
    return DONE;
}

static enum outcome
encode_wide(struct encoder *self, PyObject *obj, int kept)
{
    const int kind = PyUnicode_KIND(obj);
    const size_t length = (size_t)PyUnicode_GET_LENGTH(obj);
    const int tag = kind == PyUnicode_1BYTE_KIND   ? NEST_LATIN1
                    : kind == PyUnicode_2BYTE_KIND ? NEST_UCS2
                                                   : NEST_UCS4;

    write_tag(self, tag + kept);
    write_size(self, length);
    return write_bytes(self, obj, PyUnicode_DATA(obj), length * (size_t)kind);
}

static inline enum outcome
encode_str(struct encoder *self, PyObject *obj)
{
    const size_t length = (size_t)PyUnicode_GET_LENGTH(obj);
    const bool single = length <= 1 && PyUnicode_IS_COMPACT_ASCII(obj);
    const int kept = Py_REFCNT(obj) != 1 && !single;
    enum outcome outcome = DONE;

    if (kept && recall(self, obj, &outcome)) {
        return outcome;
    }
    if (!PyUnicode_IS_COMPACT_ASCII(obj)) {
        return sstpy_str_ready(obj) ? encode_wide(self, obj, kept) : ASIDE;
    }
    if (length > NEST_SHORT_MAX) {
        write_tag(self, NEST_ASCII + kept);
        write_size(self, length);
        return write_bytes(self, obj, PyUnicode_DATA(obj), length);
    }
    if (room_make(self, 1 + NEST_SHORT_MAX) != DONE) {
        return NO_MEMORY;
    }
    write_tag(self, (kept ? NEST_SHORT_KEPT : NEST_SHORT) + (int)length);
    memcpy(self->at, PyUnicode_DATA(obj), length);
    self->at += length;
    return DONE;
}

static enum outcome
encode_bytes(struct encoder *self, PyObject *obj)
{
    const size_t size = (size_t)PyBytes_GET_SIZE(obj);
    const int kept = Py_REFCNT(obj) != 1 && size > 1;
    enum outcome outcome = DONE;

    if (kept && recall(self, obj, &outcome)) {
        return outcome;
    }
    write_tag(self, NEST_BYTES + kept);
    write_size(self, size);
    return write_bytes(self, obj, PyBytes_AS_STRING(obj), size);
}

static enum outcome
encode_bytearray(struct encoder *self, PyObject *obj)
{
    const size_t size = (size_t)PyByteArray_GET_SIZE(obj);
    const int kept = Py_REFCNT(obj) != 1;
    enum outcome outcome = DONE;

    if (kept && recall(self, obj, &outcome)) {
        return outcome;
    }
    write_tag(self, NEST_BYTEARRAY + kept);
    write_size(self, size);
    return write_bytes(self, obj, PyByteArray_AS_STRING(obj), size);
}

/* ---- Containers ---- */

static enum outcome
encode_key(struct encoder *self, PyObject *obj)
{
    self->key_depth++;

    const enum outcome outcome = encode(self, obj);
    self->key_depth--;
    return outcome;
}

static enum outcome
encode_dict(struct encoder *self, PyObject *obj)
{
    PyObject *key = NULL;
    PyObject *value = NULL;
    Py_ssize_t position = 0;
    enum outcome outcome = DONE;

    while (outcome == DONE && PyDict_Next(obj, &position, &key, &value)) {
        outcome = encode_key(self, key);
        if (outcome == DONE) {
            outcome = encode(self, value);
        }
    }
    return outcome;
}

static enum outcome
encode_items(struct encoder *self, PyObject *const *items, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        const enum outcome outcome = encode(self, items[i]);
        if (outcome != DONE) {
            return outcome;
        }
    }
    return DONE;
}

/* In the order of the table, which is that of iteration. */
static enum outcome
encode_set(struct encoder *self, PyObject *obj)
{
    const PySetObject *const set = (PySetObject *)obj;

    for (Py_ssize_t i = 0; i <= set->mask; i++) {
        const setentry *const entry = &set->table[i];
        if (entry->key == NULL || entry->hash == -1) {
            continue; /* -1 marks one that was removed: no object has that hash */
        }
        const enum outcome outcome = encode_key(self, entry->key);
        if (outcome != DONE) {
            return outcome;
        }
    }
    return DONE;
}

static enum outcome
encode_inside(struct encoder *self, PyObject *obj, int tag)
{
    switch (tag) {
    case NEST_DICT:
        return encode_dict(self, obj);
    case NEST_LIST:
        return encode_items(self, ((PyListObject *)obj)->ob_item, PyList_GET_SIZE(obj));
    case NEST_TUPLE:
        return encode_items(self, ((PyTupleObject *)obj)->ob_item,
                            PyTuple_GET_SIZE(obj));
    default:
        return encode_set(self, obj);
    }
}

static enum outcome
encode_container(struct encoder *self, PyObject *obj, int tag, Py_ssize_t count)
{
    const bool nothing = tag == NEST_TUPLE && count == 0;
    const bool root = self->depth == 0;
    const int kept = Py_REFCNT(obj) != 1 && !nothing && !root;
    enum outcome outcome = DONE;

    if (kept && (obj == self->open[0] || recall(self, obj, &outcome))) {
        return obj == self->open[0] ? ASIDE : outcome;
    }
    if (self->depth == NEST_DEPTH_MAX) {
        return ASIDE;
    }
    write_tag(self, tag + kept);
    write_size(self, (uint64_t)count);
    self->open[self->depth++] = obj;
    outcome = encode_inside(self, obj, tag);
    self->depth--;
    return outcome;
}

/* ---- Objects ---- */

static enum outcome
encode_rare(struct encoder *self, PyObject *obj)
{
    if (PyBytes_CheckExact(obj)) {
        return encode_bytes(self, obj);
    }
    if (PySet_CheckExact(obj)) {
        return encode_container(self, obj, NEST_SET, PySet_GET_SIZE(obj));
    }
    if (PyFrozenSet_CheckExact(obj)) {
        return encode_container(self, obj, NEST_FROZENSET, PySet_GET_SIZE(obj));
    }
    if (PyByteArray_CheckExact(obj)) {
        return encode_bytearray(self, obj);
    }
    return ASIDE;
}

static enum outcome
encode(struct encoder *self, PyObject *obj)
{
    if (room_make(self, ITEM_ROOM) != DONE) {
        return NO_MEMORY;
    }
    if (PyUnicode_CheckExact(obj)) {
        return encode_str(self, obj);
    }
    if (PyLong_CheckExact(obj)) {
        return encode_int(self, obj);
    }
    if (PyFloat_CheckExact(obj)) {
        const double value = PyFloat_AS_DOUBLE(obj);
        write_fixed(self, NEST_FLOAT, &value, sizeof(value));
        return DONE;
    }
    if (obj == Py_None) {
        write_tag(self, NEST_NONE);
        return DONE;
    }
    if (PyBool_Check(obj)) {
        write_tag(self, obj == Py_True ? NEST_TRUE : NEST_FALSE);
        return DONE;
    }
    if (PyDict_CheckExact(obj)) {
        return encode_container(self, obj, NEST_DICT, PyDict_GET_SIZE(obj));
    }
    if (PyList_CheckExact(obj)) {
        return encode_container(self, obj, NEST_LIST, PyList_GET_SIZE(obj));
    }
    if (PyTuple_CheckExact(obj)) {
        return encode_container(self, obj, NEST_TUPLE, PyTuple_GET_SIZE(obj));
    }
    return encode_rare(self, obj);
}

/* The slices: pieces of the scratch and what interrupts them, in turn. */
static void
slices_fill(const struct encoder *self, struct sstpy_nest *out)
{
    const struct sstpy_nest_scratch *const scratch = self->scratch;
    const size_t used = (size_t)(self->at - scratch->bytes);
    struct sst_slice *slice = out->slices;
    size_t begin = 0;

    for (uint32_t i = 0; i < scratch->cut_count; i++) {
        const struct cut *const cut = &scratch->cuts[i];
        *slice++ = (struct sst_slice){scratch->bytes + begin, cut->offset - begin};
        *slice++ = (struct sst_slice){cut->data, cut->size};
        begin = cut->offset;
    }
    if (begin < used) {
        *slice++ = (struct sst_slice){scratch->bytes + begin, used - begin};
    }
    out->count = (uint32_t)(slice - out->slices);
    out->size = used + self->cut_size;
}

int
sstpy_nest_encode(struct sstpy_state *state, PyObject *obj, unsigned char tag,
                  struct sstpy_nest *out)
{
    struct encoder self;

    self.scratch = scratch_take(&state->nest_spare);
    if (self.scratch == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memo_begin(self.scratch);
    self.at = self.scratch->bytes;
    self.end = self.at + self.scratch->room;
    self.cut_size = 0;
    self.kept = 0;
    self.key_depth = 0;
    self.hash_cost = 0;
    self.depth = 0;
    write_tag(&self, tag);
    write_tag(&self, NEST_VERSION);

    const enum outcome outcome = encode(&self, obj);
    if (outcome == DONE) {
        slices_fill(&self, out);
        out->scratch = self.scratch;
        return 1;
    }
    scratch_give(self.scratch);
    if (outcome == NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

void
sstpy_nest_release(struct sstpy_nest_scratch *scratch)
{
    if (scratch != NULL) {
        scratch_give(scratch);
    }
}
