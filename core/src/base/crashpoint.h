/* SPDX-License-Identifier: MIT */
#ifndef SSTI_BASE_CRASHPOINT_H
#define SSTI_BASE_CRASHPOINT_H

/* Places where a test kills the process. SST_CRASHPOINT(name) goes between the steps of
 * everything that writes shared memory; it is nothing unless built with
 * -DSST_CRASHPOINTS. A process with SST_CRASHPOINT="name" or "name:nth" in its
 * environment, or one that called ssti_crashpoint_arm, sends itself SIGKILL when it
 * comes by there for the nth time. The names are collected in a linker section, so that
 * a test can list them all and fail on one it never reached. */

#include <stdint.h>

#ifdef SST_CRASHPOINTS

# define SST_CRASHPOINT(name)                                                        \
     do {                                                                            \
         static struct ssti_crashpoint crashpoint_##name = {#name, 0};               \
         static struct ssti_crashpoint *const crashpoint_entry_##name                \
             __attribute__((used, section("sst_crashpoints"))) = &crashpoint_##name; \
         (void)crashpoint_entry_##name;                                              \
         ssti_crashpoint_reached(&crashpoint_##name);                                \
     } while (0)

struct ssti_crashpoint {
    const char *name;
    /* of this process and those it was forked from; not exact over threads */
    uint64_t hits;
};

void ssti_crashpoint_reached(struct ssti_crashpoint *crashpoint);

/* Die at the nth pass from now; NULL disarms. `name` must stay valid. */
void ssti_crashpoint_arm(const char *name, uint64_t nth);

/* All of them: index 0.. until NULL. */
const struct ssti_crashpoint *ssti_crashpoint_at(uint32_t index);

#else
# define SST_CRASHPOINT(name) ((void)0)
#endif
#endif
