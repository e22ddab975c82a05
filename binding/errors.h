/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_ERRORS_H
#define SSTPY_ERRORS_H

#include <limits.h>

#include "state.h"

/* A status that the core never returns: an exception is set already. */
#define SSTPY_RAISED INT_MIN

/* The one door from statuses to exceptions: set the exception that belongs to a
 * negative status, with the text of *err when there is any. Returns NULL. SSTPY_RAISED
 * passes through. Callers map first what the stdlib raises only there (queue.Full,
 * queue.Empty, the texts of Connection). */
PyObject *sstpy_raise(const struct sstpy_state *state, int status,
                      const struct sst_error *err);

/* The same for functions that return int: -1. */
int sstpy_fail(const struct sstpy_state *state, int status,
               const struct sst_error *err);

/* OSError (or its subclass) of a status that is -errno, with errno set. */
PyObject *sstpy_raise_errno(int status);

/* The exception that is set, as an object; it is not set any more. */
PyObject *sstpy_take_exception(void);

#endif
