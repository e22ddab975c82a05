/* SPDX-License-Identifier: MIT */

/* Atomic operations on the integers in a block: those of the machine, of the width of
 * the type code, sequentially consistent, without a lock. They run on user data, not on
 * the core's structures, hence on plain addresses and not through base/atomic.h.
 *
 * A value travels as 64 bits: sign-extended for signed codes, zero-extended for others.
 * Additions wrap around at the width. */

#include "block.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>

#include "args.h"
#include "compat.h"

struct atomic_code {
    char code;
    uint8_t width;
    bool is_signed;
};

static const struct atomic_code atomic_codes[] = {
    {'b', sizeof(char), true},      {'B', sizeof(char), false},
    {'h', sizeof(short), true},     {'H', sizeof(short), false},
    {'i', sizeof(int), true},       {'I', sizeof(int), false},
    {'l', sizeof(long), true},      {'L', sizeof(long), false},
    {'q', sizeof(long long), true}, {'Q', sizeof(long long), false},
};

/* An integer in the block. */
struct atomic_place {
    void *ptr;
    const struct atomic_code *code;
};

enum atomic_op {
    ATOMIC_LOAD,
    ATOMIC_ADD,
    ATOMIC_EXCHANGE,
};

static const struct atomic_code *
atomic_find_code(PyObject *obj)
{
    if (PyUnicode_Check(obj) && PyUnicode_GetLength(obj) == 1) {
        const Py_UCS4 wanted = PyUnicode_ReadChar(obj, 0);
        for (size_t i = 0; i < sizeof(atomic_codes) / sizeof(*atomic_codes); i++) {
            if ((Py_UCS4)atomic_codes[i].code == wanted) {
                return &atomic_codes[i];
            }
        }
    }
    PyErr_Format(PyExc_TypeError, "typecode must be one of b B h H i I l L q Q, not %R",
                 obj);
    return NULL;
}

/* Call last: a conversion before it may have run Python code that closed the block. */
static int
atomic_find(const BlockObject *self, Py_ssize_t offset, const struct atomic_code *code,
            struct atomic_place *out)
{
    if (sstpy_block_check(self) < 0) {
        return -1;
    }

    const uint64_t size = sst_block_size(self->block);
    if (offset < 0 || size < code->width || (uint64_t)offset > size - code->width) {
        PyErr_SetString(PyExc_IndexError, "offset is out of range");
        return -1;
    }
    out->code = code;
    out->ptr = (char *)sst_block_data(self->block) + offset;
    if ((uintptr_t)out->ptr % code->width != 0) {
        PyErr_Format(PyExc_ValueError, "offset is not a multiple of %d",
                     (int)code->width);
        return -1;
    }
    return 0;
}

static int
atomic_raise_range(const struct atomic_code *code)
{
    PyErr_Format(PyExc_OverflowError, "value does not fit typecode '%c'", code->code);
    return -1;
}

/* A value that must fit the type. */
static int
atomic_to_value(PyObject *obj, const struct atomic_code *code, uint64_t *out)
{
    const int shift = 64 - code->width * 8;

    if (code->is_signed) {
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(obj, &overflow);
        if (value == -1 && PyErr_Occurred() != NULL) {
            return -1;
        }
        if (overflow != 0 || value < INT64_MIN >> shift || value > INT64_MAX >> shift) {
            return atomic_raise_range(code);
        }
        *out = (uint64_t)value;
        return 0;
    }

    PyObject *const number = PyNumber_Index(obj);
    if (number == NULL) {
        return -1;
    }
    *out = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (*out == (uint64_t)-1 && PyErr_Occurred() != NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        return atomic_raise_range(code);
    }
    return *out > UINT64_MAX >> shift ? atomic_raise_range(code) : 0;
}

/* A number to add: modulo 2^64. */
static int
atomic_to_delta(PyObject *obj, uint64_t *out)
{
    PyObject *const number = PyNumber_Index(obj);

    if (number == NULL) {
        return -1;
    }
    *out = PyLong_AsUnsignedLongLongMask(number);
    Py_DECREF(number);
    return *out == (uint64_t)-1 && PyErr_Occurred() != NULL ? -1 : 0;
}

/* What the arguments say: offset, type code, and `count` values behind them. */
struct atomic_args {
    Py_ssize_t offset;
    const struct atomic_code *code;
    uint64_t values[2];
};

static int
atomic_to_args(PyObject *const *given, int count, struct atomic_args *out)
{
    out->code = atomic_find_code(given[1]);
    if (out->code == NULL || sstpy_to_ssize(given[0], 0, &out->offset) < 0) {
        return -1;
    }
    for (int i = 0; i < count; i++) {
        if (atomic_to_value(given[2 + i], out->code, &out->values[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
atomic_from_value(uint64_t value, const struct atomic_code *code)
{
    const int shift = 64 - code->width * 8;

    if (code->is_signed) {
        return PyLong_FromLongLong((int64_t)(value << shift) >> shift);
    }
    return PyLong_FromUnsignedLongLong(value << shift >> shift);
}

/* One body per width: the builtins choose the instruction by the type of the pointer.
 * */
#define ATOMIC_DO(type)                                                               \
    static uint64_t atomic_do_##type(type *ptr, enum atomic_op op, uint64_t operand)  \
    {                                                                                 \
        switch (op) {                                                                 \
        case ATOMIC_ADD:                                                              \
            return __atomic_fetch_add(ptr, (type)operand, __ATOMIC_SEQ_CST);          \
        case ATOMIC_EXCHANGE:                                                         \
            return __atomic_exchange_n(ptr, (type)operand, __ATOMIC_SEQ_CST);         \
        case ATOMIC_LOAD:                                                             \
        default:                                                                      \
            return __atomic_load_n(ptr, __ATOMIC_SEQ_CST);                            \
        }                                                                             \
    }                                                                                 \
                                                                                      \
    static uint64_t atomic_cas_##type(type *ptr, uint64_t expected, uint64_t desired) \
    {                                                                                 \
        type old = (type)expected;                                                    \
        (void)__atomic_compare_exchange_n(ptr, &old, (type)desired, 0,                \
                                          __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
        return old;                                                                   \
    }

ATOMIC_DO(uint8_t)
ATOMIC_DO(uint16_t)
ATOMIC_DO(uint32_t)
ATOMIC_DO(uint64_t)

static uint64_t
atomic_do(const struct atomic_place *place, enum atomic_op op, uint64_t operand)
{
    switch (place->code->width) {
    case 1:
        return atomic_do_uint8_t(place->ptr, op, operand);
    case 2:
        return atomic_do_uint16_t(place->ptr, op, operand);
    case 4:
        return atomic_do_uint32_t(place->ptr, op, operand);
    default:
        return atomic_do_uint64_t(place->ptr, op, operand);
    }
}

static uint64_t
atomic_cas(const struct atomic_place *place, uint64_t expected, uint64_t desired)
{
    switch (place->code->width) {
    case 1:
        return atomic_cas_uint8_t(place->ptr, expected, desired);
    case 2:
        return atomic_cas_uint16_t(place->ptr, expected, desired);
    case 4:
        return atomic_cas_uint32_t(place->ptr, expected, desired);
    default:
        return atomic_cas_uint64_t(place->ptr, expected, desired);
    }
}

const char sstpy_block_load_doc[] =
    PyDoc_STR("load($self, /, offset, typecode)\n--\n\n"
              "The integer at `offset` (bytes, a multiple of its width).");

PyObject *
sstpy_block_load(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"offset", "typecode"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("load", 2, names);
    struct atomic_place place;
    struct atomic_args a;
    PyObject *given[2];

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        atomic_to_args(given, 0, &a) < 0 ||
        atomic_find((BlockObject *)self, a.offset, a.code, &place) < 0) {
        return NULL;
    }
    return atomic_from_value(atomic_do(&place, ATOMIC_LOAD, 0), place.code);
}

const char sstpy_block_store_doc[] =
    PyDoc_STR("store($self, /, offset, typecode, value)\n--\n\n"
              "Set the integer at `offset`.");

PyObject *
sstpy_block_store(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const char *const names[] = {"offset", "typecode", "value"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("store", 3, names);
    struct atomic_place place;
    struct atomic_args a;
    PyObject *given[3];

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        atomic_to_args(given, 1, &a) < 0 ||
        atomic_find((BlockObject *)self, a.offset, a.code, &place) < 0) {
        return NULL;
    }
    (void)atomic_do(&place, ATOMIC_EXCHANGE,
                    a.values[0]); /* the old value is not asked for */
    Py_RETURN_NONE;
}

const char sstpy_block_fetch_add_doc[] =
    PyDoc_STR("fetch_add($self, /, offset, typecode, delta)\n--\n\n"
              "Add to the integer at `offset`, wrapping around; its value before.");

PyObject *
sstpy_block_fetch_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const char *const names[] = {"offset", "typecode", "delta"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("fetch_add", 3, names);
    struct atomic_place place;
    struct atomic_args a;
    PyObject *given[3];
    uint64_t delta = 0;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        atomic_to_args(given, 0, &a) < 0 || atomic_to_delta(given[2], &delta) < 0 ||
        atomic_find((BlockObject *)self, a.offset, a.code, &place) < 0) {
        return NULL;
    }
    return atomic_from_value(atomic_do(&place, ATOMIC_ADD, delta), place.code);
}

const char sstpy_block_exchange_doc[] =
    PyDoc_STR("exchange($self, /, offset, typecode, value)\n--\n\n"
              "Set the integer at `offset`; its value before.");

PyObject *
sstpy_block_exchange(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    static const char *const names[] = {"offset", "typecode", "value"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("exchange", 3, names);
    struct atomic_place place;
    struct atomic_args a;
    PyObject *given[3];

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        atomic_to_args(given, 1, &a) < 0 ||
        atomic_find((BlockObject *)self, a.offset, a.code, &place) < 0) {
        return NULL;
    }
    return atomic_from_value(atomic_do(&place, ATOMIC_EXCHANGE, a.values[0]),
                             place.code);
}

const char sstpy_block_compare_exchange_doc[] =
    PyDoc_STR("compare_exchange($self, /, offset, typecode, expected, new)\n--\n\n"
              "Set the integer at `offset` to `new` if it is `expected`; its value "
              "before, which tells whether it was.");

PyObject *
sstpy_block_compare_exchange(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const char *const names[] = {"offset", "typecode", "expected", "new"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("compare_exchange", 4, names);
    struct atomic_place place;
    struct atomic_args a;
    PyObject *given[4];

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        atomic_to_args(given, 2, &a) < 0 ||
        atomic_find((BlockObject *)self, a.offset, a.code, &place) < 0) {
        return NULL;
    }
    return atomic_from_value(atomic_cas(&place, a.values[0], a.values[1]), place.code);
}
