/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_COMPAT_H
#define SSTPY_COMPAT_H

/* What older Pythons lack, and nothing else. Everything in binding/ includes Python.h
 * through this file. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <structmember.h>

/* 3.12 moved the member types to Python.h under names with a prefix. */
#if PY_VERSION_HEX < 0x030c0000
# define Py_T_PYSSIZET T_PYSSIZET
# define Py_READONLY   READONLY
#endif

/* ---- int ---- */

/* Digits of its magnitude, 30 bits each. */
static inline Py_ssize_t
sstpy_long_digits(PyObject *obj)
{
#if PY_VERSION_HEX >= 0x030c0000
    return (Py_ssize_t)(((PyLongObject *)obj)->long_value.lv_tag >> 3);
#else
    return Py_ABS(Py_SIZE(obj));
#endif
}

/* The value of an exact int; *overflow is set when it is none of 64 bits. */
static inline int64_t
sstpy_long_value(PyObject *obj, int *overflow)
{
#if PY_VERSION_HEX >= 0x030c0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)obj)) {
        return PyUnstable_Long_CompactValue((PyLongObject *)obj);
    }
#else
    if (Py_ABS(Py_SIZE(obj)) <= 1) {
        return Py_SIZE(obj) * (int64_t)((PyLongObject *)obj)->ob_digit[0];
    }
#endif
    return PyLong_AsLongLongAndOverflow(obj, overflow);
}

/* Bytes of an exact int in two's complement, sign included, and their conversion, which
 * cannot fail in a buffer of that size. */
static inline size_t
sstpy_long_size(PyObject *obj)
{
#if PY_VERSION_HEX >= 0x030d0000
    return (size_t)PyLong_AsNativeBytes(obj, NULL, 0, Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
    return _PyLong_NumBits(obj) / 8 + 1;
#endif
}

static inline void
sstpy_long_to_bytes(PyObject *obj, unsigned char *to, size_t size)
{
#if PY_VERSION_HEX >= 0x030d0000
    (void)PyLong_AsNativeBytes(obj, to, (Py_ssize_t)size,
                               Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
    (void)_PyLong_AsByteArray((PyLongObject *)obj, to, size, 1, 1);
#endif
}

static inline PyObject *
sstpy_long_from_bytes(const unsigned char *from, size_t size)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyLong_FromNativeBytes(from, size, Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
    return _PyLong_FromByteArray(from, size, 1, 1);
#endif
}

/* ---- str and dict ---- */

/* Before 3.12 a str may lack its characters: one of a deprecated function's. */
#if PY_VERSION_HEX >= 0x030c0000
# define sstpy_str_ready(obj) true
#else
# define sstpy_str_ready(obj) (PyUnicode_IS_READY(obj) != 0)
#endif

/* With room for that many items. */
#if PY_VERSION_HEX < 0x030e0000
# define sstpy_dict_new(size) _PyDict_NewPresized(size)
#else
# define sstpy_dict_new(size) ((void)(size), PyDict_New())
#endif

/* ---- Immortal objects ---- */

/* The count of references of an object that is not counted, from 3.12 on. */
#if PY_VERSION_HEX >= 0x030e0000
# define SSTPY_IMMORTAL _Py_IMMORTAL_INITIAL_REFCNT
#elif PY_VERSION_HEX >= 0x030c0000
# define SSTPY_IMMORTAL _Py_IMMORTAL_REFCNT
#endif

/* ---- Threads ---- */

/* The thread's identity as threading.get_ident() gives it. */
#define sstpy_thread_ident() PyThread_get_thread_ident()

#endif
