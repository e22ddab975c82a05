/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_BLOCK_H
#define SSTPY_BLOCK_H

/* What block.c and block_atomic.c share. */

#include "state.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_block *block; /* NULL once closed */
    Py_ssize_t exports;      /* views of it; guarded by the GIL */
} BlockObject;

/* -1 with ValueError set when it is closed. */
int sstpy_block_check(const BlockObject *self);

extern const char sstpy_block_load_doc[];
extern const char sstpy_block_store_doc[];
extern const char sstpy_block_fetch_add_doc[];
extern const char sstpy_block_exchange_doc[];
extern const char sstpy_block_compare_exchange_doc[];

PyObject *sstpy_block_load(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *sstpy_block_store(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
PyObject *sstpy_block_fetch_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *sstpy_block_exchange(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
PyObject *sstpy_block_compare_exchange(PyObject *self, PyObject *const *args,
                                       Py_ssize_t nargs, PyObject *kwnames);

#endif
