/* SPDX-License-Identifier: MIT */

/* Bytes to plain nests, read where the message lies.
 *
 * The bytes may be anything, and a peer that is hostile may change them while they are
 * read. So each byte that decides something is read once, into a local, and checked
 * before it is used; characters are copied into the new string first and checked there.
 *
 *   out-of-proportion  a container of n items is made only when n bytes are left that
 *     memory             no container around it waits for; a string only when its
 *                        bytes are there
 *   C stack            NEST_DEPTH_MAX
 *   time               one look at each byte, and hashing keys: what references add to
 *                        that has a budget (nest_weigh.c). Keys that collide on purpose
 *                        cost what they cost in any dict.
 *   Python code        keys are of exact built-in types: hashing and comparing them
 *                        runs none. Making containers may start a collection, which may
 *                        run any; nothing of ours depends on what it does.
 *
 * What is refused is a ValueError.
 *
 * Keys come again in message after message. A table of short ones that were seen gives
 * the same string again, with its hash; but once in a message only, since two that are
 * equal and not the same must stay two. So each entry knows the message that had it
 * last, and a message that is decoded while another is (by another thread, by a
 * finalizer that a collection ran, in a child that was forked meanwhile) does without
 * the table. The GIL guards it. */

#include <string.h>

#include "codec.h"
#include "compat.h"
#include "nest.h"
#include "nest_format.h"

enum {
    KEPT_FEW = 32
};

struct decoder {
    const unsigned char *at;
    const unsigned char *end;
    uint64_t owed; /* items that open containers wait for, a byte each at least */
    uint64_t hash_budget; /* steps */
    int depth;
    int key_depth;
    uint32_t kept_count;
    uint32_t kept_room;
    PyObject **kept; /* remembered, references held; NULL while not finished */
    const unsigned char *begin;
    struct sstpy_nest_names *names; /* or NULL: somebody else has them */
    PyObject *few[KEPT_FEW];
};

static PyObject *decode(struct decoder *self);

/* SST_ECORRUPT of a message: the queue is whole, so it is not a RuntimeError. */
static void *
corrupt(const struct decoder *self)
{
    return PyErr_Format(PyExc_ValueError, "the message is damaged: byte %zd of its %zd",
                        (Py_ssize_t)(self->at - self->begin),
                        (Py_ssize_t)(self->end - self->begin));
}

/* ---- Reading ---- */

static inline uint64_t
left(const struct decoder *self)
{
    return (uint64_t)(self->end - self->at);
}

/* A size in seven bits a byte. False when there is none, or it is above 2^56. */
static inline bool
read_size(struct decoder *self, uint64_t *size)
{
    uint64_t sum = 0;

    for (int shift = 0; shift < 56 && self->at < self->end; shift += 7) {
        const unsigned char byte = *self->at++;
        sum |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *size = sum;
            return true;
        }
    }
    return false;
}

static inline bool
read_fixed(struct decoder *self, void *to, size_t size)
{
    if (left(self) < size) {
        return false;
    }
    memcpy(to, self->at, size);
    self->at += size;
    return true;
}

/* Copy what is checked to be there; without the GIL when it takes long. */
static void
copy_out(struct decoder *self, void *to, size_t size)
{
    if (size >= SSTPY_DETACH_SIZE) {
        Py_BEGIN_ALLOW_THREADS
        memcpy(to, self->at, size);
        Py_END_ALLOW_THREADS
    }
    else {
        memcpy(to, self->at, size);
    }
    self->at += size;
}

/* ---- What is remembered ---- */

static bool
kept_grow(struct decoder *self)
{
    const uint32_t room = 2 * self->kept_room;
    PyObject **const old = self->kept == self->few ? NULL : self->kept;
    PyObject **kept = NULL;

    if (room > self->kept_room) {
        kept = PyMem_Realloc(old, room * sizeof(*kept));
    }
    if (kept == NULL) {
        PyErr_NoMemory();
        return false;
    }
    if (old == NULL) {
        memcpy(kept, self->few, sizeof(self->few));
    }
    self->kept = kept;
    self->kept_room = room;
    return true;
}

/* Give the next object its number. False with an exception set. */
static inline bool
kept_begin(struct decoder *self, uint32_t *index)
{
    if (self->kept_count == self->kept_room && !kept_grow(self)) {
        return false;
    }
    *index = self->kept_count++;
    self->kept[*index] = NULL;
    return true;
}

/* A leaf, NULL passing through: remembered at once if the tag says so. */
static inline PyObject *
leaf_done(struct decoder *self, PyObject *obj, int kept)
{
    uint32_t index = 0;

    if (!kept || obj == NULL) {
        return obj;
    }
    if (!kept_begin(self, &index)) {
        Py_DECREF(obj);
        return NULL;
    }
    self->kept[index] = Py_NewRef(obj);
    return obj;
}

static PyObject *
decode_reference(struct decoder *self, uint64_t index)
{
    if (index >= self->kept_count) {
        return corrupt(self);
    }

    PyObject *const obj = self->kept[index];
    if (obj == NULL) {
        return corrupt(self);
    }
    if (self->key_depth > 0 && PyTuple_CheckExact(obj) &&
        !sstpy_nest_weigh(obj, &self->hash_budget)) {
        return corrupt(self);
    }
    return Py_NewRef(obj);
}

static void
kept_free(struct decoder *self)
{
    for (uint32_t i = 0; i < self->kept_count; i++) {
        Py_XDECREF(self->kept[i]);
    }
    if (self->kept != self->few) {
        PyMem_Free(self->kept);
    }
}

/* ---- Leaves ---- */

static PyObject *
decode_ascii(struct decoder *self, uint64_t length, int kept)
{
    unsigned char any = 0;

    if (length > left(self)) {
        return corrupt(self);
    }
    if (length <= 1) {
        const unsigned char single = length == 1 ? *self->at++ : 0;
        if (single >= 0x80) {
            return corrupt(self);
        }
        return leaf_done(self,
                         PyUnicode_FromStringAndSize((const char *)&single,
                                                     (Py_ssize_t)length),
                         kept);
    }

    PyObject *const obj = PyUnicode_New((Py_ssize_t)length, 0x7f);
    if (obj == NULL) {
        return NULL;
    }

    unsigned char *const text = PyUnicode_1BYTE_DATA(obj);
    copy_out(self, text, length);
    for (uint64_t i = 0; i < length; i++) {
        any |= text[i];
    }
    if (any >= 0x80) {
        Py_DECREF(obj);
        return corrupt(self);
    }
    return leaf_done(self, obj, kept);
}

/* The largest character of a string that was copied: it decides the string's kind. */
static Py_UCS4
largest(PyObject *obj, Py_ssize_t length)
{
    const int kind = PyUnicode_KIND(obj);
    const void *const data = PyUnicode_DATA(obj);
    Py_UCS4 most = 0;

    for (Py_ssize_t i = 0; i < length; i++) {
        const Py_UCS4 one = PyUnicode_READ(kind, data, i);
        most = one > most ? one : most;
    }
    return most;
}

/* A string with a character from `least` to `most`, and none above. */
static PyObject *
decode_wide(struct decoder *self, uint64_t length, Py_UCS4 least, Py_UCS4 most)
{
    const size_t kind = most == 0xff ? 1 : most == 0xffff ? 2 : 4;

    if (length == 0 || length > left(self) / kind) {
        return corrupt(self);
    }

    PyObject *const obj = PyUnicode_New((Py_ssize_t)length, most);
    if (obj == NULL) {
        return NULL;
    }
    copy_out(self, PyUnicode_DATA(obj), length * kind);

    const Py_UCS4 found = largest(obj, (Py_ssize_t)length);
    if (found < least || found > most) {
        Py_DECREF(obj);
        return corrupt(self);
    }
    if (length == 1 && kind == 1) {
        Py_DECREF(obj); /* of these Python has one each */
        return PyUnicode_FromOrdinal((int)found);
    }
    return obj;
}

static PyObject *
decode_bytes(struct decoder *self, uint64_t size)
{
    if (size > left(self)) {
        return corrupt(self);
    }
    if (size <= 1) {
        const char single = size == 1 ? (char)*self->at++ : 0;
        return PyBytes_FromStringAndSize(&single, (Py_ssize_t)size);
    }

    PyObject *const obj = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (obj != NULL) {
        copy_out(self, PyBytes_AS_STRING(obj), size);
    }
    return obj;
}

static PyObject *
decode_bytearray(struct decoder *self, uint64_t size)
{
    if (size > left(self)) {
        return corrupt(self);
    }

    PyObject *const obj = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (obj != NULL) {
        copy_out(self, PyByteArray_AS_STRING(obj), size);
    }
    return obj;
}

static PyObject *
decode_int_big(struct decoder *self)
{
    uint64_t size = 0;

    if (!read_size(self, &size) || size > left(self)) {
        return corrupt(self);
    }

    unsigned char *const bytes = PyMem_Malloc(size + 1);
    if (bytes == NULL) {
        return PyErr_NoMemory();
    }
    copy_out(self, bytes, size);

    PyObject *const obj = sstpy_long_from_bytes(bytes, size);
    PyMem_Free(bytes);
    return obj;
}

static PyObject *
decode_int(struct decoder *self, size_t size)
{
    uint64_t raw = 0;

    if (!read_fixed(self, &raw, size)) {
        return corrupt(self);
    }

    const int unused = (int)(64 - 8 * size);
    return PyLong_FromLongLong((int64_t)(raw << unused) >> unused);
}

/* What has a size, the tag with its lowest bit cleared. */
static PyObject *
decode_sized_leaf(struct decoder *self, int tag, uint64_t size)
{
    switch (tag) {
    case NEST_LATIN1:
        return decode_wide(self, size, 0x80, 0xff);
    case NEST_UCS2:
        return decode_wide(self, size, 0x100, 0xffff);
    case NEST_UCS4:
        return decode_wide(self, size, 0x10000, 0x10ffff);
    case NEST_BYTES:
        return decode_bytes(self, size);
    default:
        return decode_bytearray(self, size);
    }
}

/* ---- Containers ---- */

static inline PyObject *
decode_item(struct decoder *self)
{
    self->owed--;
    return decode(self);
}

/* What identifies a name of up to 16 characters, and nearly identifies a longer one. */
struct name_words {
    uint64_t first; /* eight characters; fewer are followed by zeros */
    uint64_t last;  /* the last eight; of a shorter name the same */
};

/* `room` bytes may be read, of which the first `length` are the name. */
static inline struct name_words
name_words(const unsigned char *at, size_t length, uint64_t room)
{
    struct name_words words = {0, 0};

    if (length >= 8) {
        memcpy(&words.first, at, 8);
        memcpy(&words.last, at + length - 8, 8);
        return words;
    }
    if (room >= 8) {
        memcpy(&words.first, at, 8);
        words.first &= (UINT64_C(1) << 8 * length) - 1;
    }
    else {
        for (size_t i = 0; i < length; i++) {
            words.first |= (uint64_t)at[i] << 8 * i;
        }
    }
    words.last = words.first;
    return words;
}

static inline struct sstpy_nest_name *
name_entry(const struct decoder *self, const struct name_words *words, size_t length)
{
    uint64_t mixed = (words->first ^ length) * UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ mixed >> 32 ^ words->last) * UINT64_C(0x9e3779b97f4a7c15);
    return &self->names->name[mixed >> 32 & (SSTPY_NEST_NAMES - 1)];
}

static inline bool
name_is(const struct sstpy_nest_name *name, const struct name_words *words,
        const unsigned char *at, size_t length)
{
    return name->first == words->first && name->last == words->last &&
           name->length == length &&
           (length <= 16 || memcmp(PyUnicode_1BYTE_DATA(name->text), at, length) == 0);
}

/* A new name, under what it is: what the message is may have changed since. */
static void
name_add(const struct decoder *self, PyObject *made)
{
    const unsigned char *const text = PyUnicode_1BYTE_DATA(made);
    const size_t length = (size_t)PyUnicode_GET_LENGTH(made);
    const struct name_words words = name_words(text, length, length);
    struct sstpy_nest_name *const name = name_entry(self, &words, length);

    Py_XSETREF(name->text, Py_NewRef(made));
    name->pass = self->names->pass;
    name->first = words.first;
    name->last = words.last;
    name->length = length;
}

/* A key that is short text. */
static PyObject *
decode_name(struct decoder *self, size_t length, int kept)
{
    if (length <= 1 || length > left(self) || self->names == NULL) {
        return decode_ascii(self, length, kept);
    }

    const struct name_words words = name_words(self->at, length, left(self));
    struct sstpy_nest_name *const name = name_entry(self, &words, length);
    if (name->pass == self->names->pass) {
        return decode_ascii(self, length, kept);
    }
    if (name_is(name, &words, self->at, length)) {
        self->at += length;
        name->pass = self->names->pass;
        return leaf_done(self, Py_NewRef(name->text), kept);
    }

    PyObject *const made = decode_ascii(self, length, kept);
    if (made != NULL) {
        name_add(self, made);
    }
    return made;
}

static PyObject *
decode_key(struct decoder *self)
{
    self->owed--;
    if (self->at < self->end) {
        const int tag = *self->at;
        if (tag >= NEST_SHORT && tag < NEST_NEAR) {
            self->at++;
            return decode_name(self, tag & NEST_SHORT_MAX, tag >= NEST_SHORT_KEPT);
        }
    }
    self->key_depth++;

    PyObject *const key = decode(self);
    self->key_depth--;
    return key;
}

/* An unhashable key is not an error of whoever reads. */
static PyObject *
refuse_key(const struct decoder *self, PyObject *container)
{
    Py_DECREF(container);
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        return corrupt(self);
    }
    return NULL;
}

static PyObject *
decode_dict(struct decoder *self, uint64_t count)
{
    PyObject *const dict = sstpy_dict_new((Py_ssize_t)count);

    if (dict == NULL) {
        return NULL;
    }
    for (uint64_t i = 0; i < count; i++) {
        PyObject *const key = decode_key(self);
        PyObject *const value = key != NULL ? decode_item(self) : NULL;
        const bool made = value != NULL;
        const int rc = made ? PyDict_SetItem(dict, key, value) : -1;
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (rc < 0) {
            if (made) {
                return refuse_key(self, dict);
            }
            Py_DECREF(dict);
            return NULL;
        }
    }
    return dict;
}

static PyObject *
decode_set(struct decoder *self, int tag, uint64_t count)
{
    PyObject *const set = tag == NEST_SET ? PySet_New(NULL) : PyFrozenSet_New(NULL);

    if (set == NULL) {
        return NULL;
    }
    for (uint64_t i = 0; i < count; i++) {
        PyObject *const key = decode_key(self);
        const bool made = key != NULL;
        const int rc = made ? PySet_Add(set, key) : -1;
        Py_XDECREF(key);
        if (rc < 0) {
            if (made) {
                return refuse_key(self, set);
            }
            Py_DECREF(set);
            return NULL;
        }
    }
    return set;
}

static PyObject *
decode_list(struct decoder *self, uint64_t count)
{
    PyObject *const list = PyList_New((Py_ssize_t)count);

    if (list == NULL) {
        return NULL;
    }
    for (uint64_t i = 0; i < count; i++) {
        PyObject *const item = decode_item(self);
        if (item == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *
decode_tuple(struct decoder *self, uint64_t count)
{
    PyObject *const tuple = PyTuple_New((Py_ssize_t)count);

    if (tuple == NULL) {
        return NULL;
    }
    for (uint64_t i = 0; i < count; i++) {
        PyObject *const item = decode_item(self);
        if (item == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
    }
    return tuple;
}

static PyObject *
decode_inside(struct decoder *self, int tag, uint64_t count)
{
    switch (tag) {
    case NEST_DICT:
        return decode_dict(self, count);
    case NEST_LIST:
        return decode_list(self, count);
    case NEST_TUPLE:
        return decode_tuple(self, count);
    default:
        return decode_set(self, tag, count);
    }
}

static PyObject *
decode_container(struct decoder *self, int tag, uint64_t count, int kept)
{
    const uint64_t items = tag == NEST_DICT ? 2 * count : count;
    uint32_t index = 0;

    if (self->owed > left(self) || items > left(self) - self->owed ||
        self->depth == NEST_DEPTH_MAX) {
        return corrupt(self);
    }
    if (kept && !kept_begin(self, &index)) {
        return NULL;
    }
    self->owed += items;
    self->depth++;

    PyObject *const obj = decode_inside(self, tag, count);
    self->depth--;
    if (kept && obj != NULL) {
        self->kept[index] = Py_NewRef(obj);
    }
    return obj;
}

/* ---- Objects ---- */

static PyObject *
decode_sized(struct decoder *self, int tag)
{
    const int kept = tag & NEST_KEPT;
    uint64_t size = 0;

    tag -= kept;
    if (!read_size(self, &size)) {
        return corrupt(self);
    }
    if (tag == NEST_ASCII) {
        return decode_ascii(self, size, kept);
    }
    if (tag < NEST_TUPLE) {
        return leaf_done(self, decode_sized_leaf(self, tag, size), kept);
    }
    return decode_container(self, tag, size, kept);
}

static PyObject *
decode_float(struct decoder *self)
{
    double value = 0;

    if (!read_fixed(self, &value, sizeof(value))) {
        return corrupt(self);
    }
    return PyFloat_FromDouble(value);
}

static PyObject *
decode_far(struct decoder *self)
{
    uint64_t index = 0;

    if (!read_size(self, &index)) {
        return corrupt(self);
    }
    return decode_reference(self, index);
}

static PyObject *
decode_tag(struct decoder *self, int tag)
{
    switch (tag) {
    case NEST_NONE:
        Py_RETURN_NONE;
    case NEST_FALSE:
        Py_RETURN_FALSE;
    case NEST_TRUE:
        Py_RETURN_TRUE;
    case NEST_INT8:
        return decode_int(self, 1);
    case NEST_INT16:
        return decode_int(self, 2);
    case NEST_INT32:
        return decode_int(self, 4);
    case NEST_INT64:
        return decode_int(self, 8);
    case NEST_INT_BIG:
        return decode_int_big(self);
    case NEST_FLOAT:
        return decode_float(self);
    case NEST_FAR:
        return decode_far(self);
    default:
        return decode_sized(self, tag);
    }
}

static PyObject *
decode(struct decoder *self)
{
    if (self->at == self->end) {
        return corrupt(self);
    }

    const int tag = *self->at++;
    if (tag < NEST_SHORT) {
        return PyLong_FromLong(tag);
    }
    if (tag < NEST_NEAR) {
        return decode_ascii(self, tag & NEST_SHORT_MAX, tag >= NEST_SHORT_KEPT);
    }
    if (tag < NEST_TAGS) {
        return decode_reference(self, tag & NEST_NEAR_MAX);
    }
    return decode_tag(self, tag);
}

PyObject *
sstpy_nest_decode(struct sstpy_state *state, const void *data, uint64_t size)
{
    struct sstpy_nest_names *const names = &state->nest_names;
    struct decoder self;
    const unsigned char *const bytes = data;

    self.begin = bytes;
    self.at = bytes;
    self.end = bytes + size;
    if (size == 0 || *self.at++ != NEST_VERSION) {
        return corrupt(&self);
    }
    self.owed = 0;
    self.hash_budget = NEST_HASH_RATE * size + NEST_HASH_FREE;
    self.depth = 0;
    self.key_depth = 0;
    self.kept_count = 0;
    self.kept_room = KEPT_FEW;
    self.kept = self.few;

    self.names = names->is_used ? NULL : names;
    if (self.names != NULL) {
        names->is_used = true;
        names->pass++;
    }

    PyObject *obj = decode(&self);
    if (self.names != NULL) {
        names->is_used = false;
    }
    if (obj != NULL && self.at != self.end) {
        Py_CLEAR(obj);
        (void)corrupt(&self);
    }
    kept_free(&self);
    return obj;
}

void
sstpy_nest_names_free(struct sstpy_nest_names *names)
{
    for (int i = 0; i < SSTPY_NEST_NAMES; i++) {
        Py_CLEAR(names->name[i].text);
        names->name[i].length = 0;
    }
}
