/* SPDX-License-Identifier: MIT */
#ifndef SSTI_OS_OS_H
#define SSTI_OS_OS_H

/* The porting contract: the only door to the kernel. Nothing above core/src/os knows which
 * system it is on. Functions return 0 or a count, or a negative status; descriptors are
 * close-on-exec at birth. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/atomic.h"

/* ---- Time ---- */

int64_t ssti_os_now_ns(void); /* CLOCK_MONOTONIC */

/* ---- Sleeping on shared words ---- */

struct ssti_os_wait {
    _Atomic uint32_t *word;
    uint32_t value;
};

/* Sleep while *word == value. 0 when woken, SST_EAGAIN when the value is another,
 * SST_ETIMEDOUT, SST_EINTR. */
int ssti_os_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t deadline_ns);

/* Sleep while all words have their values (at most 8). The same results. Where the kernel
 * lacks futex_waitv it sleeps on the first word in slices of 20 ms and looks at the others in between. */
int ssti_os_futex_waitv(const struct ssti_os_wait *words, uint32_t count,
                        int64_t deadline_ns);

/* Wake up to `count` sleepers; returns how many. Sets self->just_woke when any. */
int ssti_os_futex_wake(_Atomic uint32_t *word, int count);

/* More declarations (memory, processes, sockets, limits) below, by section. */

#endif
