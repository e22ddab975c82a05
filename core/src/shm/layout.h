/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_LAYOUT_H
#define SSTI_SHM_LAYOUT_H

/* Every struct that lives in shared memory, and nothing else. Fixed widths, no pointers,
 * sizes and offsets asserted. A value read from here was written by another process, which
 * may be dead, old or hostile: copy it, check its range, then use it.
 *
 * See docs/internals/memory.rst for the map of the arena. */

#include <stdint.h>

#define SST_LINE_PAIR 128

/* ---- Leaf locks (shm/leaf.c) ---- */

enum {
    SSTI_LEAF_CLASSES = 3,
};

/* The lock inside every shared object: a futex word that carries its owner, and what it
 * takes to lose no sleeper when any process dies at any instruction. leaf.c has the
 * protocol. "Guarded by word" means: written only while holding the lock. */
struct sst_leaf_shm {
    _Atomic uint32_t word;                       /* TID | FUTEX_WAITERS | FUTEX_OWNER_DIED */
    _Atomic uint32_t contenders;                 /* asleep wanting the lock; any writer */
    _Atomic uint32_t waiting[SSTI_LEAF_CLASSES]; /* asleep per class; guarded by word */
    _Atomic uint32_t seq[SSTI_LEAF_CLASSES];     /* what a class sleeps on; guarded by word */
    _Atomic uint32_t intent_class;               /* redo record, guarded by word: */
    _Atomic uint32_t intent_waiting;             /*   waiting[intent_class] becomes this, */
    _Atomic uint32_t intent_state;               /*   the wait record's state this, */
    _Atomic uint32_t reserved;
    _Atomic uint64_t intent_record;              /*   of the record at this offset; 0 = none */
};
_Static_assert(sizeof(struct sst_leaf_shm) == 56, "leaf layout");

/* A thread of some process is asleep on a leaf. Writer: that thread, or the sweeper once
 * its process is dead. */
struct sst_wait_shm {
    _Atomic uint64_t leaf;  /* offset of the leaf in the arena */
    _Atomic uint32_t state; /* enum ssti_wait_state */
    _Atomic uint32_t class; /* index into waiting[], or SSTI_LEAF_CLASSES for a contender */
};
_Static_assert(sizeof(struct sst_wait_shm) == 16, "wait record layout");

enum ssti_wait_state {
    SSTI_WAIT_FREE,
    SSTI_WAIT_MOVING,  /* a contender's count is being changed: the sweeper leaves it alone */
    SSTI_WAIT_COUNTED, /* counted in the leaf: the sweeper must take one off */
};

#endif
