/* SPDX-License-Identifier: MIT */
#ifndef SSTI_POOL_POOL_H
#define SSTI_POOL_POOL_H

/* What the files of pool/ share. docs/internals/pool.rst explains it. */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "ring/bell.h"
#include "ring/ring.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"
#include "sync/spin.h"
#include "sync/view.h"

enum ssti_pool_flag {
    SSTI_POOL_SHUT = 1,
    SSTI_POOL_DISCARD = 2, /* what is queued is to be dropped */
};

enum {
    SSTI_POOL_RESULTS = SSTI_POOL_LANES - 1, /* the lane of results */
};
#define SSTI_SEAT_NONE UINT32_MAX

/* This process's view of a pool. */
struct sst_pool {
    struct ssti_view view; /* first: the repair gets it */
    struct sst_pool *self; /* this view, where only a constant pointer is at hand */
    struct sst_pool_shm *shm;
    struct sst_pool_seat_shm *seats;
    struct sst_pool_post_shm *posts;
    uint32_t seat_max;
    struct ssti_ring lane[SSTI_POOL_LANES];
    struct ssti_bell bell;
    struct ssti_spin result_spin;
    struct ssti_spin room_spin;
    _Atomic uint32_t *marks[SSTI_POOL_MARK_BLOCKS]; /* mapped; guarded by the leaf */

    /* Of the owner's threads alone. */
    _Atomic uint64_t outstanding; /* tasks whose result was not taken */
    _Atomic uint64_t shortest_ns; /* deadline any of them has; 0 = none */
    _Atomic uint32_t leading;     /* 1: some thread leads */
    _Atomic uint32_t turn;        /* changes when it stops, or has handed out */
    _Atomic uint32_t nudged;      /* 1: who waits for results is to look up */
    _Atomic uint32_t followers;   /* asleep on `turn` */
    /* the crew's, so that a waiter can ask for its thread; NULL: there is none */
    void (*on_sleep)(void *crew);
    void (*on_follow)(void *crew);
    void *crew;
};

/* ---- lane.c: records with heads ---- */

/* Something on its way into a lane. */
struct ssti_cargo {
    struct sst_pool_head_shm head; /* word and size are init's, the rest the caller's */
    struct sst_pool_brief_shm brief;
    struct ssti_deposit deposit;
    struct sst_slice slices[SST_SLICES_MAX + 1];
    struct sst_parcel *parcel;
    uint64_t place; /* where the bytes of the parcel are */
    uint32_t held;  /* the entry of what `word` names */
    bool is_moved;  /* it is in the lane */
};
/* The head of a task is filled in before, that of a result before it is put.
 * 0, SST_EINVAL, SST_ENOMEM, SST_ELIMIT. Needs a fini in any case of success. */
int ssti_cargo_init(struct sst_pool *pool, struct ssti_cargo *cargo, uint32_t lane,
                    const struct sst_slice *slices, uint32_t count,
                    struct sst_parcel *parcel);
void ssti_cargo_fini(struct sst_pool *pool, struct ssti_cargo *cargo, uint32_t lane);
/* Find a place: 0, SSTI_RING_CHUNK, a status. */
int ssti_lane_fit_locked(struct sst_pool *pool, uint32_t lane,
                         struct ssti_cargo *cargo);
/* Put it; with a seat its lease ends in the same step. */
void ssti_lane_put_locked(struct sst_pool *pool, uint32_t lane,
                          struct ssti_cargo *cargo, uint32_t seat);

/* The head at the start of a record of `size` bytes, of which SSTI_HEAD_MAX at most are
 * in `bytes`: its own size, 0 when it is none. */
uint32_t ssti_head_decode(const void *bytes, uint64_t size,
                          struct sst_pool_head_shm *head);
enum {
    SSTI_HEAD_MAX = sizeof(struct sst_pool_head_shm),
};

/* Something on its way out: what must be at hand before it can be taken. */
struct ssti_claim {
    struct sst_pool_head_shm head;
    uint32_t head_size; /* in the record */
    struct ssti_receipt receipt;
    struct sst_parcel *parcel; /* the payload of `want`, or its address: not yet held */
    void *mapped;
    uint64_t want;
    uint64_t want_size;
    uint64_t want_place;
    uint32_t held; /* an empty entry for it */
    bool has_held;
    bool wants_mark; /* the mark of head.id is to be mapped */
    uint8_t misfits;
};
void ssti_claim_init(struct ssti_claim *claim);
void ssti_claim_fini(struct sst_pool *pool, struct ssti_claim *claim);
/* Get what the last try lacked. SST_ENOMEM, SST_ELIMIT, SST_ECORRUPT. */
int ssti_claim_prepare(struct sst_pool *pool, struct ssti_claim *claim);
/* The head of the next record, in claim->head: 0, SSTI_RING_EMPTY, SSTI_RING_RECEIPT,
 * SST_ECORRUPT. */
int ssti_lane_front_locked(struct sst_pool *pool, uint32_t lane,
                           struct ssti_claim *claim);
/* Take what front found; with a seat a lease begins in the same step. 0,
 * SST_ECORRUPT. */
int ssti_lane_take_locked(struct sst_pool *pool, uint32_t lane,
                          struct ssti_claim *claim, uint32_t seat,
                          struct sst_message *message);
/* The last owner of the leaf died. */
void ssti_lane_repair_locked(struct sst_pool *pool);

/* The mark of a task, NULL while its block is not mapped here; and mapped. */
_Atomic uint32_t *ssti_mark_locked(struct sst_pool *pool, uint64_t id);
int ssti_mark_map(struct sst_pool *pool, uint64_t id, bool make);

/* ---- pool.c ---- */

static inline uint64_t
ssti_pool_queued(const struct sst_pool *pool)
{
    return ssti_ring_count(&pool->lane[0]) + ssti_ring_count(&pool->lane[1]) +
           ssti_ring_count(&pool->lane[2]);
}

static inline bool
ssti_pool_is_full(const struct sst_pool *pool)
{
    const uint32_t task_max = ssti_load_rlx(&pool->shm->task_max);

    return task_max != 0 && ssti_pool_queued(pool) >= task_max;
}

/* What the next unlock must wake, from the state. The leaf is held. */
uint32_t ssti_pool_wake_locked(const struct sst_pool *pool);
void ssti_pool_unlock(struct sst_pool *pool);
struct ssti_ring_section ssti_pool_section(struct sst_pool *pool);
/* Free what the lanes have done with. */
void ssti_pool_trim(struct sst_pool *pool);
/* After a shutdown at once: drop what is queued. With `all` the results, too. */
void ssti_pool_drop(struct sst_pool *pool, bool all);

#endif
