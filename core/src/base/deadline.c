/* SPDX-License-Identifier: MIT */

/* Absolute monotonic deadlines, so that an interrupted wait goes on without
 * arithmetic. */

#include <time.h>

#include "sidestep/sidestep.h"

int64_t
sst_deadline_after(int64_t duration_ns)
{
    struct timespec now;
    int64_t now_ns;

    if (duration_ns <= 0) {
        return SST_NOW;
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (duration_ns >= SST_FOREVER - now_ns) {
        return SST_FOREVER;
    }
    return now_ns + duration_ns;
}
