/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_TAKERS_H
#define SSTI_RING_TAKERS_H

/* Who took how many items of a joinable queue and has not called task_done for them.
 * Functions named _locked want the queue's leaf. takers.c has the protocol. */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "ring/ring.h"
#include "shm/layout.h"
#include "sync/view.h"

struct ssti_takers {
    struct ssti_view *view;
    struct ssti_ring *ring;
    struct sst_queue_shm *shm;
    struct sst_taker_shm *table; /* NULL until looked up; guarded by the leaf, */
    uint32_t index;              /* as is where this process was found last */
};

/* Put, and not yet done. */
static inline int64_t
ssti_takers_unfinished(const struct ssti_takers *takers)
{
    return (int64_t)(ssti_ring_count(takers->ring) +
                     ssti_load_acq(&takers->shm->taken));
}

/* Must joiners be woken? */
static inline bool
ssti_takers_have_news_locked(const struct ssti_takers *takers)
{
    const struct sst_queue_shm *const shm = takers->shm;

    return ssti_takers_unfinished(takers) <= 0 || ssti_load_rlx(&shm->lost) != 0 ||
           ssti_load_rlx(&shm->takers_new) != 0;
}

/* Make the table if there is none, without the leaf. SST_ELIMIT, SST_ENOMEM. */
int ssti_takers_prepare(struct ssti_takers *takers);

/* Around one take: enter, then take from the ring, then leave with whether that
 * worked. */
void ssti_takers_enter_locked(struct ssti_takers *takers);
void ssti_takers_leave_locked(struct ssti_takers *takers, bool taken);

/* One item less. SST_EOVERFLOW when there is none. */
int ssti_takers_done_locked(struct ssti_takers *takers);

/* Move what dead takers had to `lost`. The dead are found first, without the leaf: the
 * bits of their entries. */
struct ssti_takers_dead {
    uint64_t proc[SSTI_QUEUE_TAKERS]; /* 0 = lives, or there is none */
    uint64_t
        watch[SSTI_LEAF_OTHERS_MAX]; /* living takers besides us, the busy first; */
    uint32_t watch_count;            /* so many of them */
    uint32_t living;                 /* of how many */
};
void ssti_takers_find_dead(struct ssti_takers *takers, struct ssti_takers_dead *dead);
void ssti_takers_bury_locked(struct ssti_takers *takers,
                             const struct ssti_takers_dead *dead);
/* Items that dead takers took and nobody finished. */
int64_t ssti_takers_lost_locked(struct ssti_takers *takers);
/* Count those as done: how many. */
int64_t ssti_takers_recover_locked(struct ssti_takers *takers);

/* This process takes no more. */
void ssti_takers_quit_locked(struct ssti_takers *takers);

/* After ssti_ring_repair_locked. */
void ssti_takers_repair_locked(struct ssti_takers *takers);
/* Give the table to the held entry at `entry`, as the queue is being destroyed. False:
 * none. */
bool ssti_takers_free_locked(struct ssti_takers *takers, uint64_t entry);

#endif
