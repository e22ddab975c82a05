/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_LEAF_H
#define SSTI_SHM_LEAF_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/layout.h"

struct sst_arena;
struct ssti_os_wait;

/* For what a sleeper may wait, besides the lock itself; the object gives the classes
 * their meaning. Masks, to be or-ed in `wake`. */
enum ssti_leaf_class {
    SSTI_LEAF_A = 1,
    SSTI_LEAF_B = 2,
    SSTI_LEAF_C = 4,
    SSTI_LEAF_ALL = 7,
};

enum {
    SSTI_LEAF_EVERYBODY = INT32_MAX,
};

/* Take the lock. Returns 0, or SST_EOWNERDEAD when the previous owner died holding it:
 * the lock is held then too, and the caller must repair what it guards before anything
 * else and release with SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY. Never fails otherwise and
 * never takes long: sections under a leaf are a handful of lines. Not re-entrant. */
int ssti_leaf_lock(struct sst_arena *arena, struct sst_leaf_shm *leaf);

/* Release the lock, wake up to `count` sleepers in each class of the mask `wake`, and
 * one contender if there is any. `wake` must follow from the state of the object, not
 * from what this call changed ("there are items", not "I put one"): whoever is woken in
 * place of somebody dead relies on it. Costs no system call when nobody sleeps. */
void ssti_leaf_unlock(struct sst_leaf_shm *leaf, uint32_t wake, int count);

/* How to sleep. */
struct ssti_leaf_sleep {
    enum ssti_leaf_class class; /* exactly one */
    uint32_t wake;              /* for others, as for unlock */
    int count;
    int64_t deadline_ns;
    _Atomic uint32_t *life; /* optional second word to wake on, */
    uint32_t life_value;    /* and the value it has while there is reason to sleep */
    const struct ssti_os_wait
        *others; /* more such words, SSTI_LEAF_OTHERS_MAX at most */
    uint32_t other_count;
};

enum {
    SSTI_LEAF_OTHERS_MAX = 5,
};

/* Release the lock, sleep until woken, take the lock again. The caller holds the lock
 * before and after, whatever is returned: 0 when woken (look at the condition again:
 * the wake may stand in for a dead process's), SST_ETIMEDOUT past the deadline,
 * SST_EINTR after a signal, SST_EOWNERDEAD as ssti_leaf_lock, which takes
 * precedence. */
int ssti_leaf_wait(struct sst_arena *arena, struct sst_leaf_shm *leaf,
                   const struct ssti_leaf_sleep *sleep);

/* The number asleep in a class (one bit). The caller holds the lock. Counts the dead
 * until their process is swept: may be too high, never too low. */
uint32_t ssti_leaf_waiting(const struct sst_leaf_shm *leaf, enum ssti_leaf_class class);

/* The process that owned this wait record is dead: take it out of the leaf's counts.
 * For the registry's sweeper, which holds the registry's claim on the dead process. The
 * leaf is not locked. Wakes everybody in the record's class, so that they look
 * again. */
void ssti_leaf_forget(struct sst_arena *arena, struct sst_wait_shm *record);

#endif
