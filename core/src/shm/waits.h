/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_WAITS_H
#define SSTI_SHM_WAITS_H

/* Wait records: each process has a table of them in shared memory, from which a sweeper
 * learns where a dead process's threads were asleep. */

#include <stdint.h>

#include "shm/layout.h"

struct sst_arena;

/* A free record of this process, with `leaf` (the leaf whose word this is) and `class`
 * set and state FREE; NULL when the table is full: sleep without one, a death then
 * costs a count that stays too high. */
struct sst_wait_shm *ssti_waits_take(struct sst_arena *arena,
                                     _Atomic uint32_t *leaf_word, uint32_t class);

/* Return a record whose state is FREE again. */
void ssti_waits_give(struct sst_arena *arena, struct sst_wait_shm *record);

/* Offset of a record and back. NULL for an offset that is no wait record's. */
uint64_t ssti_waits_offset(struct sst_arena *arena, const struct sst_wait_shm *record);
struct sst_wait_shm *ssti_waits_at(struct sst_arena *arena, uint64_t offset);

/* The leaf a record names; NULL when the offset is out of range or misaligned. */
struct sst_leaf_shm *ssti_waits_leaf(struct sst_arena *arena,
                                     const struct sst_wait_shm *record);

#endif
