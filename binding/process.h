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

#endif
