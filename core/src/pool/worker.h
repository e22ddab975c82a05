/* SPDX-License-Identifier: MIT */
#ifndef SSTI_POOL_WORKER_H
#define SSTI_POOL_WORKER_H

/* Seats, as workers and owner name them. */

#include "pool/pool.h"

/* A seat by its number: generation << 32 | index + 1. */
static inline uint32_t
ssti_seat_index(uint64_t seat)
{
    return (uint32_t)seat - 1;
}

static inline uint64_t
ssti_seat_number(uint32_t generation, uint32_t index)
{
    return (uint64_t)generation << 32 | (index + 1);
}

/* The seat, NULL when it was given to somebody else since. The leaf is held. */
struct sst_pool_seat_shm *ssti_seat_locked(struct sst_pool *pool, uint64_t seat);

/* Put a result: 0, SSTI_RING_CHUNK, or why it cannot be put. */
int ssti_pool_deliver_locked(struct sst_pool *pool, struct ssti_cargo *cargo,
                             uint32_t seat);

/* The soft deadline of the task that this seat had in hand has passed: true when it
 * still has it. */
bool ssti_seat_soften(struct sst_pool *pool, uint64_t seat, uint64_t id);
/* Has the worker come to its first take? */
bool ssti_seat_was_ready(struct sst_pool *pool, uint64_t seat);

#endif
