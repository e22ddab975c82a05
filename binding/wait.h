/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_WAIT_H
#define SSTPY_WAIT_H

/* The one way in which the binding blocks.
 *
 *   try without detaching      most calls end here, without touching the GIL
 *   detach                     other Python threads run
 *   call the core              until the deadline or a signal
 *   attach
 *   check signals              only after SST_EINTR: whatever the core took or put is
 *                              never lost to an exception from a signal handler
 *   again, same deadline
 *
 * The caller pins whatever close() could take away meanwhile. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "sidestep/sidestep.h"

/* A call into the core, bound to its arguments. May run without the GIL: no Python in
 * it. */
typedef int (*sstpy_call_fn)(void *context, int64_t deadline_ns);

/* Always detaches. For calls that copy much, and behind sstpy_wait. */
int sstpy_wait_until(sstpy_call_fn call, void *context, int64_t deadline_ns);

/* What the core returned, SST_ETIMEDOUT when the time is up, or SSTPY_RAISED. */
static inline int
sstpy_wait(sstpy_call_fn call, void *context, int64_t duration_ns)
{
    const int rc = call(context, SST_NOW);

    if (rc == SST_EINTR || (rc == SST_ETIMEDOUT && duration_ns != SSTPY_POLL)) {
        return sstpy_wait_until(call, context, sstpy_deadline(duration_ns));
    }
    return rc;
}

/* The same for a deadline that several calls share. */
static inline int
sstpy_wait_deadline(sstpy_call_fn call, void *context, int64_t deadline_ns)
{
    const int rc = call(context, SST_NOW);

    if (rc == SST_EINTR || (rc == SST_ETIMEDOUT && deadline_ns != SST_NOW)) {
        return sstpy_wait_until(call, context, deadline_ns);
    }
    return rc;
}

#endif
