/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_RECORD_H
#define SSTI_RING_RECORD_H

/* Records: how messages lie in a chunk. A word with the payload's size and the kind,
 * then the payload, 8-aligned. */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/bits.h"
#include "ring/chunk.h"
#include "ring/ring.h"
#include "shm/layout.h"

enum ssti_record_kind {
    SSTI_RECORD_INLINE = 1,
    SSTI_RECORD_EXTENT = 2, /* payload: offset and size of the extent */
    SSTI_RECORD_SKIP =
        3, /* nothing up to the chunk's end; the size counts the header */
    SSTI_RECORD_SLOT = 4, /* payload: offset of a parcel's slot, its size, its bytes */
};

enum {
    SSTI_RECORD_HEADER_SIZE = sizeof(uint64_t),
    SSTI_RECORD_EXTENT_SIZE = 2 * sizeof(uint64_t),
    SSTI_RECORD_SLOT_SIZE = 3 * sizeof(uint64_t),
};
_Static_assert(SSTI_RING_INLINE_MAX >= SSTI_RECORD_SLOT_SIZE, "it fits like any other");

/* One record, copied and checked. */
struct ssti_record {
    uint32_t kind; /* not SKIP */
    uint32_t size; /* of the payload in the chunk */
    uint32_t at;   /* of the payload */
    uint32_t next; /* the cursor behind it */
};

static inline uint32_t
ssti_cursor_place(uint32_t cursor)
{
    return cursor & ~SSTI_CURSOR_LAP;
}

static inline bool
ssti_cursor_same_lap(uint32_t left, uint32_t right)
{
    return ((left ^ right) & SSTI_CURSOR_LAP) == 0;
}

/* The cursor for `place` in the lap of `cursor`, or for 0 in the next at the chunk's
 * end. */
static inline uint32_t
ssti_cursor_at(uint32_t cursor, uint32_t place, uint32_t size)
{
    const uint32_t lap = cursor & SSTI_CURSOR_LAP;

    return place == size ? lap ^ SSTI_CURSOR_LAP : lap | place;
}

static inline bool
ssti_cursor_is_sane(uint32_t cursor, uint32_t size)
{
    return ssti_cursor_place(cursor) < size && cursor % SSTI_RECORD_HEADER_SIZE == 0;
}

static inline uint32_t
ssti_record_length(uint64_t payload)
{
    return SSTI_RECORD_HEADER_SIZE +
           (uint32_t)ssti_round_up(payload, SSTI_RECORD_HEADER_SIZE);
}

static inline _Atomic uint64_t *
ssti_record_header(struct sst_chunk_shm *chunk, uint32_t at)
{
    return (_Atomic uint64_t *)(void *)ssti_chunk_data(chunk, at);
}

static inline uint64_t
ssti_record_word(enum ssti_record_kind kind, uint32_t size)
{
    return (uint64_t)kind << 32 | size;
}

/* The record at `cursor`, in a chunk of `size` bytes that is filled up to `limit`. 0,
 * SSTI_RING_EMPTY at the limit, SST_ECORRUPT. */
int ssti_record_read(struct sst_chunk_shm *chunk, uint32_t size, uint32_t cursor,
                     uint32_t limit, struct ssti_record *out);

/* Count the messages from `cursor` to `limit`, adding to *count and *bytes.
 * SST_ECORRUPT. */
int ssti_record_count(struct sst_chunk_shm *chunk, uint32_t size, uint32_t cursor,
                      uint32_t limit, uint64_t *count, uint64_t *bytes);

#endif
