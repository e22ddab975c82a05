/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_CHUNK_H
#define SSTI_RING_CHUNK_H

/* The chain of chunks under a ring. All functions want the leaf held. */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "ring/ring.h"
#include "shm/layout.h"

#define SSTI_CURSOR_LAP UINT32_C(0x80000000)

enum ssti_ring_intent {
    SSTI_INTENT_NONE,
    SSTI_INTENT_PUT,  /* an extent moves from entry into the record at the put cursor */
    SSTI_INTENT_TAKE, /* an extent moves from the record at the get cursor to entry */
    SSTI_INTENT_LINK, /* a chunk moves from entry, or spare, to the chain's end */
    SSTI_INTENT_ADVANCE, /* the first chunk is drained: it becomes spare, or retired */
    SSTI_INTENT_EMPTY,   /* the only chunk is drained and too large to keep: retired */
    SSTI_INTENT_SPARE,   /* the spare is retired */
    SSTI_INTENT_FREE,    /* a retired chunk moves to entry */
};

/* What ring.c and chunk.c intend, in the words of the redo record. */
struct ssti_intent {
    enum ssti_ring_intent kind;
    uint32_t cursor;
    uint64_t entry;
    uint64_t extent;
    uint64_t next;
};

/* Write the record: the kind last. */
void ssti_ring_intend(struct ssti_ring *ring, const struct ssti_intent *intent);
/* It is all done. */
static inline void
ssti_ring_intended(struct ssti_ring *ring)
{
    ssti_store_rel(&ring->shm->intent, SSTI_INTENT_NONE);
}

/* The records of a chunk: `at` is below its size. */
static inline unsigned char *
ssti_chunk_data(struct sst_chunk_shm *chunk, uint32_t at)
{
    return (unsigned char *)(chunk + 1) + at;
}

/* A chunk's address and the size of its records, checked. NULL when it cannot be
 * one. */
struct sst_chunk_shm *ssti_chunk_at(struct ssti_ring *ring, uint64_t offset,
                                    uint32_t *size);

/* Bring the view's pointers up to date. 0, SST_ECORRUPT; SST_ENOMEM: this process
 * cannot map them. */
int ssti_chunk_refresh(struct ssti_ring *ring);

/* Write the header of a chunk nobody else knows yet. */
void ssti_chunk_format(struct sst_chunk_shm *chunk, uint32_t size);

/* Append the spare, if the deposit's record fits, or the chunk it brings. 0,
 * SSTI_RING_CHUNK when there is neither, SST_ECORRUPT. */
int ssti_chunk_link(struct ssti_ring *ring, struct ssti_deposit *deposit);
/* The first chunk is drained and another follows. */
int ssti_chunk_advance(struct ssti_ring *ring);
/* The only chunk is drained: give it back if it is large. With `all` whatever its
 * size. */
void ssti_chunk_empty(struct ssti_ring *ring, bool all);
/* Move one retired chunk to the held entry at `entry`. False when there is none. */
bool ssti_chunk_free(struct ssti_ring *ring, uint64_t entry);

/* Finish an intent of this file, left by a dead owner. */
void ssti_chunk_redo(struct ssti_ring *ring, const struct ssti_intent *intent);

#endif
