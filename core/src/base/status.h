/* SPDX-License-Identifier: MIT */
#ifndef SSTI_BASE_STATUS_H
#define SSTI_BASE_STATUS_H

/* Filling `struct sst_error`, the optional last argument of cold functions. Both return
 * `status`, so that a failure is one line, and do nothing else when `err` is NULL. */

#include "sidestep/sidestep.h"

/* What went wrong, replacing what was there. */
int ssti_error_set(struct sst_error *err, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* What an outer layer knows, put after what is there. */
int ssti_error_append(struct sst_error *err, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The status for an errno: -errno where the table has it, else SST_EIO. */
int ssti_status_of_errno(int number);

#endif
