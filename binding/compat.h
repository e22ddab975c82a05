/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_COMPAT_H
#define SSTPY_COMPAT_H

/* What older Pythons lack, and nothing else. Everything in binding/ includes Python.h
 * through this file. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

/* 3.12 moved the member types to Python.h under names with a prefix. */
#if PY_VERSION_HEX < 0x030c0000
# define Py_T_PYSSIZET T_PYSSIZET
# define Py_READONLY   READONLY
#endif

/* The thread's identity as threading.get_ident() gives it. */
#define sstpy_thread_ident() PyThread_get_thread_ident()

#endif
