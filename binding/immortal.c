/* SPDX-License-Identifier: MIT */

/* What a zygote's children use and never give up: its functions, classes and modules.
 *
 * A child that calls an inherited function counts a reference to it, and the kernel
 * copies the page: a third of what a child copies between its birth and its job, and
 * most of what it takes until then. Since 3.12 an object whose count has a certain
 * value is not counted, and lives as long as the process.
 *
 * Only kinds of objects are chosen that have no finalizer to miss: nothing that a
 * program made is kept from its end. Functions, code, classes with their bases,
 * modules, descriptors, and the constants of code. Without the GIL, and before 3.12,
 * this does nothing. */

#include "compat.h"
#include "process.h"

#if PY_VERSION_HEX >= 0x030c0000 && !defined(Py_GIL_DISABLED) && SIZEOF_VOID_P > 4

static bool
is_kept(PyObject *obj)
{
    static PyTypeObject *const kinds[] = {
        &PyFunction_Type,     &PyCFunction_Type,    &PyCode_Type,
        &PyModule_Type,       &PyGetSetDescr_Type,  &PyMemberDescr_Type,
        &PyMethodDescr_Type,  &PyWrapperDescr_Type, &PyClassMethodDescr_Type,
        &PyStaticMethod_Type, &PyClassMethod_Type,  &PyProperty_Type,
    };

    if (PyType_Check(obj)) {
        return true;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(kinds); i++) {
        if (Py_IS_TYPE(obj, kinds[i])) {
            return true;
        }
    }
    return false;
}

/* For a visitor: what it has kept. */
struct keeping {
    Py_ssize_t count;
    bool with_tuples; /* those of classes and of code have nothing else in them */
};

static void
keep(PyObject *obj, struct keeping *keeping)
{
    if (Py_REFCNT(obj) != (Py_ssize_t)SSTPY_IMMORTAL) {
        Py_SET_REFCNT(obj, SSTPY_IMMORTAL);
        keeping->count++;
    }
}

static void
keep_constants(PyObject *tuple, struct keeping *keeping)
{
    keep(tuple, keeping);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        PyObject *const item = PyTuple_GET_ITEM(tuple, i);

        if (PyCode_Check(item)) {
            keep(item, keeping);
            keep_constants(((PyCodeObject *)item)->co_consts, keeping);
        }
        else if (PyTuple_CheckExact(item)) {
            keep_constants(item, keeping);
        }
        else if (!PyUnicode_Check(item)) { /* those have rules of their own */
            keep(item, keeping);
        }
    }
}

static int
visit(PyObject *obj, void *arg)
{
    struct keeping *const keeping = arg;

    if (is_kept(obj) || (keeping->with_tuples && PyTuple_CheckExact(obj))) {
        keep(obj, keeping);
    }
    if (PyCode_Check(obj)) {
        keep_constants(((PyCodeObject *)obj)->co_consts, keeping);
    }
    return 0;
}

Py_ssize_t
sstpy_keep_forever(PyObject *objects)
{
    struct keeping keeping = {0};

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(objects); i++) {
        PyObject *const obj = PyList_GET_ITEM(objects, i);
        const traverseproc traverse = Py_TYPE(obj)->tp_traverse;

        keeping.with_tuples = false;
        (void)visit(obj, &keeping);
        keeping.with_tuples = PyType_Check(obj);
        if (traverse != NULL) {
            (void)traverse(obj, visit, &keeping);
        }
    }
    return keeping.count;
}

#else

Py_ssize_t
sstpy_keep_forever(PyObject *Py_UNUSED(objects))
{
    return 0;
}

#endif
