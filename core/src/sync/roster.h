/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SYNC_ROSTER_H
#define SSTI_SYNC_ROSTER_H

/* Who takes part in an object: a table of (process, round, times) in its shared struct.
 * Small, searched from the front, guarded by the object's leaf, as every call here. */

#include <stdint.h>

#include "base/atomic.h"
#include "shm/layout.h"

/* The process-local description of a table. */
struct ssti_roster {
    struct sst_stay_shm *stays;
    _Atomic uint32_t *used; /* stays[i] is free from here on */
    uint32_t max; /* entries there are; const, never read from shared memory */
};

enum {
    SSTI_STAY_BITS = 20,
    SSTI_STAY_MASK = (1 << SSTI_STAY_BITS) - 1, /* times */
};

static inline uint32_t
ssti_stay_times(uint64_t stay)
{
    return (uint32_t)(stay & SSTI_STAY_MASK);
}

static inline uint64_t
ssti_stay_round(uint64_t stay)
{
    return stay >> SSTI_STAY_BITS;
}

static inline uint64_t
ssti_stay_make(uint64_t round, uint32_t times)
{
    return round << SSTI_STAY_BITS | times;
}

/* Entries to look at. The word was written by others: bounded here. */
static inline uint32_t
ssti_roster_used(const struct ssti_roster *roster)
{
    const uint32_t used = ssti_load_rlx(roster->used);

    return used < roster->max ? used : roster->max;
}

/* The entry of a process in a round; -1 when it has none. */
int ssti_roster_find(const struct ssti_roster *roster, uint64_t proc, uint64_t round);

/* An entry that is free or of a round before `oldest`, with `proc` in it and not yet
 * counted; -1 when the table is full. */
int ssti_roster_claim(const struct ssti_roster *roster, uint64_t proc, uint64_t oldest);

/* Once more, once less. Each is one store. join returns SST_ELIMIT when the table is
 * full. */
int ssti_roster_join(const struct ssti_roster *roster, uint64_t proc, uint64_t round,
                     uint64_t oldest);
void ssti_roster_leave(const struct ssti_roster *roster, int index);

/* Lower `used` to the last entry that is not free. */
void ssti_roster_trim(const struct ssti_roster *roster);

/* A process other than `self` that takes part in `oldest` or later, to keep an eye on:
 * `preferred` if it does, else the one behind self in the table. 0 = none. */
uint64_t ssti_roster_other(const struct ssti_roster *roster, uint64_t self,
                           uint64_t preferred, uint64_t oldest);

#endif
