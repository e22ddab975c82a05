/* SPDX-License-Identifier: MIT */

#include "base/crashpoint.h"

#ifdef SST_CRASHPOINTS

# include <pthread.h>
# include <signal.h>
# include <stdatomic.h>
# include <stddef.h>
# include <stdlib.h>
# include <string.h>
# include <unistd.h>

extern struct ssti_crashpoint *const __start_sst_crashpoints[] __attribute__((weak));
extern struct ssti_crashpoint *const __stop_sst_crashpoints[] __attribute__((weak));

static const char *armed;
static size_t armed_size;
static _Atomic uint64_t left;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;

static void
read_environment(void)
{
    const char *const value = getenv("SST_CRASHPOINT");
    const char *colon;

    if (value == NULL || armed != NULL) {
        return;
    }
    colon = strchr(value, ':');
    armed = value;
    armed_size = colon != NULL ? (size_t)(colon - value) : strlen(value);
    atomic_store(&left, colon != NULL ? strtoull(colon + 1, NULL, 10) : 1);
}

void
ssti_crashpoint_reached(struct ssti_crashpoint *crashpoint)
{
    (void)pthread_once(&environment_once,
                       read_environment); /* fails for no valid once */
    __atomic_fetch_add(&crashpoint->hits, 1, __ATOMIC_RELAXED);
    if (armed == NULL || strncmp(crashpoint->name, armed, armed_size) != 0 ||
        crashpoint->name[armed_size] != '\0') {
        return;
    }
    if (atomic_fetch_sub(&left, 1) == 1) {
        (void)kill(getpid(), SIGKILL); /* cannot fail for oneself */
        for (;;) {
            (void)pause();
        }
    }
}

void
ssti_crashpoint_arm(const char *name, uint64_t nth)
{
    (void)pthread_once(&environment_once, read_environment);
    armed = name;
    armed_size = name != NULL ? strlen(name) : 0;
    atomic_store(&left, nth);
}

const struct ssti_crashpoint *
ssti_crashpoint_at(uint32_t index)
{
    const size_t count = (size_t)(__stop_sst_crashpoints - __start_sst_crashpoints);

    return index < count ? __start_sst_crashpoints[index] : NULL;
}

#else
/* An empty translation unit is no C. */
extern const int ssti_crashpoints_are_off;
#endif
