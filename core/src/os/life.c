/* SPDX-License-Identifier: MIT */

#include "os/life.h"

#include <linux/futex.h>
#include <pthread.h>
#include <string.h>

#include "base/atomic.h"
#include "os/self.h"
#include "sidestep/sidestep.h"

_Static_assert(sizeof(pthread_mutex_t) <= SSTI_LIFE_SIZE, "room for the mutex");

/* Where the libc keeps the lock word: 0 in glibc, 4 in musl. Found by looking, so that
 * a libc that does otherwise is noticed. */
static int
find_word(const void *memory, uint32_t tid)
{
    for (int offset = 0; offset <= 4; offset += 4) {
        uint32_t word;

        memcpy(&word, (const char *)memory + offset, sizeof word);
        if ((word & FUTEX_TID_MASK) == tid) {
            return offset;
        }
    }
    return SST_ENOSYS;
}

int
ssti_life_start(void *memory)
{
    pthread_mutex_t *const mutex = memory;
    pthread_mutexattr_t attributes;
    int rc;

    if (pthread_mutexattr_init(&attributes) != 0) {
        return SST_ENOSYS;
    }
    memset(memory, 0, SSTI_LIFE_SIZE);
    rc = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (rc == 0) {
        rc = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    }
    if (rc == 0) {
        rc = pthread_mutex_init(mutex, &attributes);
    }
    (void)pthread_mutexattr_destroy(&attributes); /* initialised: cannot fail */
    if (rc != 0 || pthread_mutex_lock(mutex) != 0) {
        return SST_ENOSYS;
    }
    rc = find_word(memory, ssti_self()->tid);
    if (rc < 0) {
        ssti_life_stop(memory);
    }
    return rc;
}

bool
ssti_life_is_ours(void *memory)
{
    return find_word(memory, ssti_self()->tid) >= 0;
}

void
ssti_life_stop(void *memory)
{
    /* EPERM from another thread than the one that took it: then its end will tell. */
    (void)pthread_mutex_unlock(memory);
}
