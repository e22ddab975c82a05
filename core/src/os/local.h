/* SPDX-License-Identifier: MIT */
#ifndef SSTI_OS_LOCAL_H
#define SSTI_OS_LOCAL_H

/* A mutex among the threads of one process. For process-local tables only: held for a
 * few lines, across no system call that may block. What may be taken while a local
 * mutex is held is said where it is declared. */

#include <pthread.h>
#include <stdbool.h>

#include "base/assert.h"

struct ssti_local {
    pthread_mutex_t mutex;
};

#define SSTI_LOCAL_INIT {PTHREAD_MUTEX_INITIALIZER}

static inline void
ssti_local_init(struct ssti_local *local)
{
    const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    local->mutex = fresh;
}

static inline void
ssti_local_lock(struct ssti_local *local)
{
    const int rc = pthread_mutex_lock(&local->mutex);

    sst_dassert(rc == 0);
    (void)rc; /* a plain mutex that is initialised cannot fail */
}

/* False: another thread has it. */
static inline bool
ssti_local_try_lock(struct ssti_local *local)
{
    return pthread_mutex_trylock(&local->mutex) == 0;
}

static inline void
ssti_local_unlock(struct ssti_local *local)
{
    const int rc = pthread_mutex_unlock(&local->mutex);

    sst_dassert(rc == 0);
    (void)rc;
}

#endif
