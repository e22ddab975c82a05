/* SPDX-License-Identifier: MIT */

/* Words of a share to objects, and comparing without making any.
 *
 * Nothing that is read is trusted: an offset is checked against the share's bounds
 * before it is used (share_format.h), a kind before it chooses what to do. What is
 * damaged gives RuntimeError. Sealed memory does not change, so what was checked stays
 * true; who writes into it all the same gets wrong values, at worst. */

#include "compat.h"
#include "share.h"

void *
sstpy_share_damaged(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "shared memory is damaged: this is not what share() wrote");
    return NULL;
}

uint64_t
sstpy_share_head(const ShareObject *share, uint64_t word, uint64_t *offset)
{
    if (!share_is(word, SHARE_TAG_RECORD)) {
        return 0;
    }
    *offset = share_payload(word);

    const void *const at = share_at(&share->span, *offset, 8);
    return at != NULL ? share_load(at) : 0;
}

/* ---- Leaves ---- */

static PyObject *
text_object(const struct share_text *text)
{
    if (text->width == 4) {
        const Py_UCS4 *const points = text->data;
        for (uint64_t i = 0; i < text->length; i++) {
            if (points[i] > 0x10FFFF) {
                return sstpy_share_damaged();
            }
        }
    }
    return PyUnicode_FromKindAndData((int)text->width, text->data,
                                     (Py_ssize_t)text->length);
}

static PyObject *
big_int(ShareObject *share, uint64_t offset, uint64_t head)
{
    const uint64_t size = share_head_count(head);
    const char *const at = share_at(&share->span, offset + 8, size);

    if (at == NULL) {
        return sstpy_share_damaged();
    }

    PyObject *const magnitude =
        PyObject_CallMethod((PyObject *)&PyLong_Type, "from_bytes", "y#s", at,
                            (Py_ssize_t)size, "little");
    if (magnitude == NULL || (share_head_flags(head) & SHARE_FLAG_NEGATIVE) == 0) {
        return magnitude;
    }

    PyObject *const negative = PyNumber_Negative(magnitude);
    Py_DECREF(magnitude);
    return negative;
}

static PyObject *
floats(ShareObject *share, uint64_t offset, enum share_kind kind)
{
    const bool is_complex = kind == SHARE_KIND_COMPLEX;
    const void *const at = share_at(&share->span, offset + 8, is_complex ? 16 : 8);
    double parts[2] = {0, 0};

    if (at == NULL) {
        return sstpy_share_damaged();
    }
    memcpy(parts, at, is_complex ? 16 : 8);
    return is_complex ? PyComplex_FromDoubles(parts[0], parts[1])
                      : PyFloat_FromDouble(parts[0]);
}

PyObject *
sstpy_share_leaf(ShareObject *share, uint64_t offset, uint64_t head)
{
    const enum share_kind kind = share_head_kind(head);
    struct share_text text;

    switch (kind) {
    case SHARE_KIND_STR:
        return share_text_read(&share->span, offset, head, &text)
                   ? text_object(&text)
                   : sstpy_share_damaged();
    case SHARE_KIND_BYTES:
        return share_text_read(&share->span, offset, head, &text)
                   ? PyBytes_FromStringAndSize(text.data, (Py_ssize_t)text.length)
                   : sstpy_share_damaged();
    case SHARE_KIND_INT:
        return big_int(share, offset, head);
    case SHARE_KIND_FLOAT:
    case SHARE_KIND_COMPLEX:
        return floats(share, offset, kind);
    default:
        return sstpy_share_damaged();
    }
}

/* ---- Any word ---- */

static PyObject *
record_object(ShareObject *share, uint64_t word)
{
    uint64_t offset = 0;
    const uint64_t head = sstpy_share_head(share, word, &offset);

    switch (share_head_kind(head)) {
    case SHARE_KIND_TUPLE:
    case SHARE_KIND_LIST:
        return sstpy_share_sequence(share, word, offset, head);
    case SHARE_KIND_DICT:
    case SHARE_KIND_SET:
    case SHARE_KIND_FROZENSET:
        return sstpy_share_table(share, word, offset, head);
    case SHARE_KIND_ARRAY:
        return sstpy_share_array(share, word, offset, head);
    default:
        return sstpy_share_leaf(share, offset, head);
    }
}

static PyObject *
special_object(uint64_t word)
{
    switch (share_payload(word)) {
    case SHARE_NONE:
        Py_RETURN_NONE;
    case SHARE_FALSE:
        Py_RETURN_FALSE;
    case SHARE_TRUE:
        Py_RETURN_TRUE;
    default:
        return sstpy_share_damaged();
    }
}

static PyObject *
short_object(uint64_t word, bool is_str)
{
    const unsigned length = share_short_length(word);
    unsigned char data[8];

    if (length > SHARE_SHORT_MAX) {
        return sstpy_share_damaged();
    }
    word >>= 8;
    memcpy(data, &word, sizeof(word));
    return is_str ? PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, data, length)
                  : PyBytes_FromStringAndSize((const char *)data, length);
}

static PyObject *
int64_object(const ShareObject *share, uint64_t word)
{
    const void *const at = share_at(&share->span, share_payload(word), 8);

    return at != NULL ? PyLong_FromLongLong((long long)share_load(at))
                      : sstpy_share_damaged();
}

PyObject *
sstpy_share_object(ShareObject *share, uint64_t word)
{
    if (share_is_double(word)) {
        double value = 0;
        memcpy(&value, &word, sizeof(value));
        return PyFloat_FromDouble(value);
    }
    switch ((enum share_tag)(word >> 48 & 7)) {
    case SHARE_TAG_INT:
        return PyLong_FromLongLong(share_int_value(word));
    case SHARE_TAG_RECORD:
        return record_object(share, word);
    case SHARE_TAG_STR:
        return short_object(word, true);
    case SHARE_TAG_BYTES:
        return short_object(word, false);
    case SHARE_TAG_INT64:
        return int64_object(share, word);
    case SHARE_TAG_SPECIAL:
        return special_object(word);
    default:
        return sstpy_share_damaged();
    }
}

/* ---- Comparing ---- */

void
sstpy_share_needle_init(struct share_needle *needle, PyObject *obj)
{
    *needle = (struct share_needle){.obj = obj};
    if (PyUnicode_CheckExact(obj)) {
        needle->width = (unsigned)PyUnicode_KIND(obj);
        needle->data = PyUnicode_DATA(obj);
        needle->length = (uint64_t)PyUnicode_GET_LENGTH(obj);
    }
    else if (PyLong_CheckExact(obj)) {
        int overflow = 0;
        needle->number = PyLong_AsLongLongAndOverflow(obj, &overflow);
        needle->is_number = overflow == 0;
    }
}

static bool
text_matches(const struct share_text *text, const struct share_needle *needle)
{
    return text->length == needle->length && text->width == needle->width &&
           (!needle->has_hash || text->hash == needle->hash) &&
           memcmp(text->data, needle->data, text->length * text->width) == 0;
}

/* By making the object. */
static int
object_matches(ShareObject *share, struct share_cell cell,
               const struct share_needle *needle)
{
    PyObject *const obj = sstpy_share_cell_object(share, cell);

    if (obj == NULL) {
        return -1;
    }

    const int rc = PyObject_RichCompareBool(obj, needle->obj, Py_EQ);
    Py_DECREF(obj);
    return rc;
}

/* Is the text that a word stands for the one looked for? 1, 0, -1. */
static int
str_matches(ShareObject *share, uint64_t word, const struct share_needle *needle)
{
    uint64_t offset = 0;

    if (share_is(word, SHARE_TAG_STR)) {
        const uint64_t data = word >> 8;
        return needle->width == 1 && share_short_length(word) == needle->length &&
               needle->length <= SHARE_SHORT_MAX &&
               memcmp(&data, needle->data, needle->length) == 0;
    }

    const uint64_t head = sstpy_share_head(share, word, &offset);
    struct share_text text;
    if (share_head_kind(head) == SHARE_KIND_ARRAY) {
        return object_matches(share, (struct share_cell){word, false}, needle);
    }
    if (share_head_kind(head) != SHARE_KIND_STR) {
        return 0; /* an exact str equals nothing else, but numpy's str */
    }
    if (!share_text_read(&share->span, offset, head, &text)) {
        sstpy_share_damaged();
        return -1;
    }
    return text_matches(&text, needle);
}

int
sstpy_share_matches(ShareObject *share, struct share_cell cell,
                    const struct share_needle *needle)
{
    if (needle->width != 0) {
        return cell.is_int64 ? 0 : str_matches(share, cell.bits, needle);
    }
    if (needle->is_number) {
        if (cell.is_int64) {
            return (int64_t)cell.bits == needle->number;
        }
        if (share_is(cell.bits, SHARE_TAG_INT)) {
            return share_int_value(cell.bits) == needle->number;
        }
    }
    return object_matches(share, cell, needle);
}
