/* SPDX-License-Identifier: MIT */

/* Leaves of a share, and the memo. What fits a word is one; a str or bytes with a
 * reference of its own may be, as nothing can tell it from another. */

#include "share_builder.h"

/* Make room for one more in an array of structs. */
void *
sstpy_share_grow(void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room) {
        return array;
    }

    const size_t larger = *room == 0 ? 32 : *room * 2;
    void *const grown = PyMem_RawRealloc(array, larger * size);
    if (grown == NULL) {
        return PyErr_NoMemory();
    }
    *room = larger;
    return grown;
}

/* ---- Memo ---- */

/* 1: *word is what the object was written as; 0: it was not; and *flags is what its
 * record needs. */
int
sstpy_share_memo_find(const struct builder *builder, PyObject *obj, uint64_t *word,
                      unsigned *flags)
{
    *flags = 0;
    if (Py_REFCNT(obj) == 1) {
        return 0;
    }

    const uint64_t *const found =
        sstpy_share_map_find(&builder->memo, (uint64_t)(uintptr_t)obj);
    if (found != NULL) {
        *word = *found;
        return 1;
    }
    *flags = SHARE_FLAG_MEMO;
    return 0;
}

int
sstpy_share_memo_add(struct builder *builder, PyObject *obj, uint64_t word,
                     unsigned flags)
{
    if (flags == 0) {
        return 0;
    }
    if (sstpy_share_map_insert(&builder->memo, (uint64_t)(uintptr_t)obj, word) < 0) {
        return -1;
    }
    Py_INCREF(obj); /* its address stays its own */
    return 0;
}

/* ---- Leaves ---- */

int
sstpy_share_far_add(struct builder *builder, struct far far)
{
    struct far *const fars =
        sstpy_share_grow(builder->fars, builder->far_count, &builder->far_room,
                         sizeof(*builder->fars));

    if (fars == NULL) {
        return -1;
    }
    builder->fars = fars;
    fars[builder->far_count++] = far;
    return 0;
}

static uint64_t
short_word(enum share_tag tag, const void *data, uint64_t length)
{
    uint64_t payload = 0;

    memcpy(&payload, data, (size_t)length);
    return share_word(tag, payload << 8 | length);
}

/* The record of a str or bytes; its data too unless they are large. */
static int
text_record(struct builder *builder, PyObject *obj, enum share_kind kind,
            unsigned flags, const void *data, uint64_t length, unsigned width,
            uint64_t *word)
{
    const uint64_t size = length * width;
    const bool is_long = length > 0xFFFF;
    const bool is_far = size >= FAR_SIZE && is_long;
    const unsigned wide = width == 4   ? SHARE_FLAG_WIDER
                          : width == 2 ? SHARE_FLAG_WIDE
                                       : 0;
    const unsigned all = flags | wide | (is_long ? SHARE_FLAG_LONG : 0);
    const uint64_t head_size = is_long ? 24 : 8;
    uint64_t hash = 0;
    uint64_t offset = 0;

    if (sstpy_share_hash(builder->state, builder->seed, obj, &hash) < 0) {
        return -1;
    }

    uint64_t *const at =
        sstpy_share_writer_alloc(&builder->writer, head_size + (is_far ? 0 : size),
                                 &offset);
    if (at == NULL) {
        return -1;
    }
    at[0] = share_text_head(kind, all, is_long ? 0 : length, hash);
    if (is_long) {
        at[1] = length;
        at[2] = offset + head_size;
    }
    if (!is_far) {
        const uint64_t rest = size & ~UINT64_C(7);
        if (rest != size) {
            at[(head_size + rest) / 8] = 0; /* what pads it is defined */
        }
        memcpy((unsigned char *)at + head_size, data, (size_t)size);
    }
    *word = share_word(SHARE_TAG_RECORD, offset);
    if (sstpy_share_memo_add(builder, obj, *word, flags) < 0) {
        return -1;
    }
    if (!is_far) {
        return 0;
    }
    return sstpy_share_far_add(builder, (struct far){.owner = Py_NewRef(obj),
                                                     .data = data,
                                                     .size = size,
                                                     .place = &at[2]});
}

int
sstpy_share_put_str(struct builder *builder, PyObject *obj, uint64_t *word)
{
    const uint64_t length = (uint64_t)PyUnicode_GET_LENGTH(obj);
    const unsigned width = (unsigned)PyUnicode_KIND(obj);
    unsigned flags = 0;

    if (length == 0 ||
        (length <= SHARE_SHORT_MAX && width == 1 && Py_REFCNT(obj) == 1)) {
        *word = short_word(SHARE_TAG_STR, PyUnicode_DATA(obj), length);
        return 0;
    }
    if (sstpy_share_memo_find(builder, obj, word, &flags) != 0) {
        return 0;
    }
    return text_record(builder, obj, SHARE_KIND_STR, flags, PyUnicode_DATA(obj), length,
                       width, word);
}

int
sstpy_share_put_bytes(struct builder *builder, PyObject *obj, uint64_t *word)
{
    const uint64_t length = (uint64_t)PyBytes_GET_SIZE(obj);
    const bool is_root = builder->frame_count == 0; /* that one has to be a record */
    unsigned flags = 0;

    if (!is_root &&
        (length == 0 || (length <= SHARE_SHORT_MAX && Py_REFCNT(obj) == 1))) {
        *word = short_word(SHARE_TAG_BYTES, PyBytes_AS_STRING(obj), length);
        return 0;
    }
    if (sstpy_share_memo_find(builder, obj, word, &flags) != 0) {
        return 0;
    }
    return text_record(builder, obj, SHARE_KIND_BYTES, flags, PyBytes_AS_STRING(obj),
                       length, 1, word);
}

/* A head and some words behind it. */
uint64_t *
sstpy_share_small_record(struct builder *builder, enum share_kind kind, unsigned flags,
                         uint64_t count, uint64_t size, uint64_t *word)
{
    uint64_t offset = 0;
    uint64_t *const at = sstpy_share_writer_alloc(&builder->writer, 8 + size, &offset);

    if (at != NULL) {
        memset(at, 0, 8 + ((size + 7) & ~UINT64_C(7)));
        at[0] = share_head(kind, flags, count);
        *word = share_word(SHARE_TAG_RECORD, offset);
    }
    return at;
}

static int
put_big_int(struct builder *builder, PyObject *obj, uint64_t *word)
{
    PyObject *const magnitude = PyNumber_Absolute(obj);
    PyObject *const bits =
        magnitude != NULL ? PyObject_CallMethod(magnitude, "bit_length", NULL) : NULL;
    const Py_ssize_t size = bits != NULL ? PyLong_AsSsize_t(bits) / 8 + 1 : -1;
    PyObject *bytes = NULL;
    int rc = -1;

    if (size > 0) {
        bytes = PyObject_CallMethod(magnitude, "to_bytes", "ns", size, "little");
    }
    if (bytes != NULL) {
        PyObject *const zero = PyLong_FromLong(0);
        const int negative =
            zero != NULL ? PyObject_RichCompareBool(obj, zero, Py_LT) : -1;
        Py_XDECREF(zero);
        uint64_t *const at =
            negative < 0
                ? NULL
                : sstpy_share_small_record(builder, SHARE_KIND_INT,
                                           negative > 0 ? SHARE_FLAG_NEGATIVE : 0,
                                           (uint64_t)size, (uint64_t)size, word);
        if (at != NULL) {
            memcpy(at + 1, PyBytes_AS_STRING(bytes), (size_t)size);
            rc = 0;
        }
    }
    Py_XDECREF(bytes);
    Py_XDECREF(bits);
    Py_XDECREF(magnitude);
    return rc;
}

int
sstpy_share_put_int(struct builder *builder, PyObject *obj, uint64_t *word)
{
    int overflow = 0;
    const int64_t value = PyLong_AsLongLongAndOverflow(obj, &overflow);
    uint64_t offset = 0;

    if (overflow != 0) {
        return put_big_int(builder, obj, word);
    }
    if (share_int_fits(value)) {
        *word = share_word(SHARE_TAG_INT, (uint64_t)value);
        return 0;
    }

    uint64_t *const at = sstpy_share_writer_alloc(&builder->writer, 8, &offset);
    if (at == NULL) {
        return -1;
    }
    *at = (uint64_t)value;
    *word = share_word(SHARE_TAG_INT64, offset);
    return 0;
}

int
sstpy_share_put_float(struct builder *builder, PyObject *obj, uint64_t *word)
{
    const double value = PyFloat_AS_DOUBLE(obj);

    memcpy(word, &value, sizeof(value));
    if (share_is_double(*word)) {
        return 0;
    }

    uint64_t *const at =
        sstpy_share_small_record(builder, SHARE_KIND_FLOAT, 0, 0, 8, word);
    if (at == NULL) {
        return -1;
    }
    memcpy(at + 1, &value, sizeof(value));
    return 0;
}

int
sstpy_share_put_complex(struct builder *builder, PyObject *obj, uint64_t *word)
{
    const Py_complex value = PyComplex_AsCComplex(obj);
    uint64_t *const at =
        sstpy_share_small_record(builder, SHARE_KIND_COMPLEX, 0, 0, 16, word);

    if (at == NULL) {
        return -1;
    }
    memcpy(at + 1, &value.real, sizeof(value.real));
    memcpy(at + 2, &value.imag, sizeof(value.imag));
    return 0;
}
