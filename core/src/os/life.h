/* SPDX-License-Identifier: MIT */
#ifndef SSTI_OS_LIFE_H
#define SSTI_OS_LIFE_H

/* A life word: a lock word in shared memory that a thread takes and never gives back,
 * so that the kernel writes FUTEX_OWNER_DIED into it, and wakes one sleeper if
 * FUTEX_WAITERS is set, when the thread ends for whatever reason, exec included. It is
 * the word inside a robust pthread mutex, because the list of robust locks of a thread
 * belongs to libc. */

#include <stdbool.h>
#include <stdint.h>

enum {
    SSTI_LIFE_SIZE = 64, /* of the memory it needs */
};

/* Make and take a life word for the calling thread. The memory may hold the remains of
 * a dead process. Returns the offset of the word in it, or SST_ENOSYS when the libc
 * hides its word. */
int ssti_life_start(void *memory);

/* Did the calling thread take it? */
bool ssti_life_is_ours(void *memory);

/* Give it back, on the thread that took it: the word is 0 then. */
void ssti_life_stop(void *memory);

#endif
