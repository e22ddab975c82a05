/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_PROCESS_H
#define SSTPY_PROCESS_H

#include "state.h"

/* Functions that process.c adds to the module, and what it does when the module starts.
 * */
extern PyMethodDef sstpy_process_methods[];
int sstpy_process_exec(PyObject *module, struct sstpy_state *state);

/* Of the type Child, in child.c. */
extern PyType_Spec sstpy_child_spec;

/* In immortal.c: the classes, functions, modules and code among these objects (a list)
 * and those that they refer to are not counted any more. How many there were. */
Py_ssize_t sstpy_keep_forever(PyObject *objects);

#endif
