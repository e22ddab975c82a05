/* SPDX-License-Identifier: MIT */

/* Hashes of keys that are the same in every process.
 *
 * Python's own hash of text differs from process to process; that of numbers does not,
 * and it makes equal numbers of different types meet. So numbers keep it, text is
 * hashed by content, tuples and frozen sets by their elements. An object of any other
 * type that is looked for is taken as a number by its Python hash: numpy's integers,
 * Decimal and Fraction find what they equal. A subclass of a built-in type counts as
 * that type while it hashes like it.
 *
 * The seed is the share's own: who can choose keys cannot choose collisions. */

#include "share.h"

#define PRIME_0 UINT64_C(0xA0761D6478BD642F)
#define PRIME_1 UINT64_C(0xE7037ED1A0B428DB)
#define PRIME_2 UINT64_C(0x8EBC6AF09C88C6E3)
#define PRIME_3 UINT64_C(0x589965CC75374CC3)

enum salt {
    SALT_NUMBER = 1,
    SALT_NONE,
    SALT_BYTES,
    SALT_TUPLE,
    SALT_SET,
    SALT_STR, /* and the width */
};

static inline uint64_t
mix(uint64_t a, uint64_t b)
{
    const share_u128 product = (share_u128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t
load_up_to_8(const unsigned char *at, uint64_t size)
{
    uint64_t value = 0;

    memcpy(&value, at, (size_t)size);
    return value;
}

static uint64_t
hash_data(uint64_t seed, enum salt salt, const void *data, uint64_t size)
{
    const unsigned char *at = data;
    uint64_t left = size;
    uint64_t hash = seed ^ mix((uint64_t)salt ^ PRIME_0, PRIME_1);

    for (; left > 16; left -= 16, at += 16) {
        hash = mix(share_load(at) ^ PRIME_1, share_load(at + 8) ^ hash);
    }

    const uint64_t low = load_up_to_8(at, left < 8 ? left : 8);
    const uint64_t high = left > 8 ? load_up_to_8(at + 8, left - 8) : 0;
    hash = mix(low ^ PRIME_2, high ^ hash);
    return mix(hash ^ PRIME_3, size ^ PRIME_1);
}

static uint64_t
hash_number(uint64_t seed, enum salt salt, uint64_t number)
{
    return mix(mix(number ^ PRIME_0, seed ^ PRIME_1 ^ (uint64_t)salt), PRIME_2);
}

/* Does it hash as the built-in type that it is, or derives from? 1, 0, -1. */
static int
hashes_like(PyObject *obj, PyTypeObject *base)
{
    if (Py_IS_TYPE(obj, base)) {
        return 1;
    }

    const Py_hash_t theirs = PyObject_Hash(obj);
    if (theirs == -1) {
        return -1;
    }

    const Py_hash_t plain = base->tp_hash(obj);
    return plain == -1 ? -1 : theirs == plain;
}

static int
hash_tuple(struct sstpy_state *state, uint64_t seed, PyObject *obj, uint64_t *out)
{
    uint64_t hash = seed ^ PRIME_2;

    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(obj); i++) {
        uint64_t element = 0;
        if (sstpy_share_hash(state, seed, PyTuple_GET_ITEM(obj, i), &element) < 0) {
            return -1;
        }
        hash = mix(hash ^ element, PRIME_1);
    }
    *out = hash_number(hash, SALT_TUPLE, (uint64_t)PyTuple_GET_SIZE(obj));
    return 0;
}

/* Elements come in any order: their hashes are added up. */
static int
hash_set(struct sstpy_state *state, uint64_t seed, PyObject *obj, uint64_t *out)
{
    PyObject *const iterator = PyObject_GetIter(obj);
    uint64_t sum = 0;
    uint64_t count = 0;
    PyObject *item = NULL;

    if (iterator == NULL) {
        return -1;
    }
    while ((item = PyIter_Next(iterator)) != NULL) {
        uint64_t element = 0;
        const int rc = sstpy_share_hash(state, seed, item, &element);
        Py_DECREF(item);
        if (rc < 0) {
            break;
        }
        sum += mix(element ^ PRIME_3, PRIME_0);
        count++;
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) {
        return -1;
    }
    *out = hash_number(seed ^ sum, SALT_SET, count);
    return 0;
}

static int
hash_view(struct sstpy_state *state, uint64_t seed, PyObject *obj, uint64_t *out)
{
    if (sstpy_share_is_sequence(state, obj) && ((SequenceView *)obj)->is_tuple) {
        PyObject *const tuple = PySequence_Tuple(obj);
        const int rc = tuple != NULL ? hash_tuple(state, seed, tuple, out) : -1;
        Py_XDECREF(tuple);
        return rc;
    }
    if (sstpy_share_is_table(state, obj)) {
        return hash_set(state, seed, obj, out);
    }
    *out = hash_data(seed, SALT_BYTES, ((ArrayView *)obj)->data,
                     (uint64_t)((ArrayView *)obj)->size);
    return 0;
}

static int
hash_other(struct sstpy_state *state, uint64_t seed, PyObject *obj, uint64_t *out)
{
    const Py_hash_t hash = PyObject_Hash(obj); /* TypeError: it can be no key */

    if (hash == -1) {
        return -1;
    }
    if (sstpy_share_is_view(state, obj)) {
        return hash_view(state, seed, obj, out);
    }
    /* a NaN's hash is its address; nothing equals it, so any will do */
    const bool is_nan =
        PyFloat_Check(obj) && PyFloat_AS_DOUBLE(obj) != PyFloat_AS_DOUBLE(obj);
    *out = hash_number(seed, SALT_NUMBER, is_nan ? 0 : (uint64_t)hash);
    return 0;
}

static int
hash_builtin(struct sstpy_state *state, uint64_t seed, PyObject *obj, uint64_t *out)
{
    int like = 0;

    if (PyUnicode_Check(obj)) {
        like = hashes_like(obj, &PyUnicode_Type);
        if (like > 0) {
            const unsigned width = (unsigned)PyUnicode_KIND(obj);
            *out = hash_data(seed, (enum salt)(SALT_STR + width), PyUnicode_DATA(obj),
                             (uint64_t)PyUnicode_GET_LENGTH(obj) * width);
        }
    }
    else if (PyBytes_Check(obj)) {
        like = hashes_like(obj, &PyBytes_Type);
        if (like > 0) {
            *out = hash_data(seed, SALT_BYTES, PyBytes_AS_STRING(obj),
                             (uint64_t)PyBytes_GET_SIZE(obj));
        }
    }
    else if (PyTuple_Check(obj)) {
        like = hashes_like(obj, &PyTuple_Type);
        if (like > 0 && hash_tuple(state, seed, obj, out) < 0) {
            return -1;
        }
    }
    else if (PyFrozenSet_Check(obj)) {
        like = hashes_like(obj, &PyFrozenSet_Type);
        if (like > 0 && hash_set(state, seed, obj, out) < 0) {
            return -1;
        }
    }
    return like;
}

int
sstpy_share_hash(struct sstpy_state *state, uint64_t seed, PyObject *obj, uint64_t *out)
{
    if (obj == Py_None) {
        *out = hash_number(seed, SALT_NONE, 0);
        return 0;
    }
    if (PyLong_CheckExact(obj)) {
        return hash_other(state, seed, obj, out);
    }
    if (Py_EnterRecursiveCall(" while hashing a key of a share") != 0) {
        return -1;
    }

    int rc = hash_builtin(state, seed, obj, out);
    if (rc == 0) {
        rc = hash_other(state, seed, obj, out);
    }
    Py_LeaveRecursiveCall();
    return rc < 0 ? -1 : 0;
}
