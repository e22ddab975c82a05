/* SPDX-License-Identifier: MIT */

/* Deposits: what a message brings along before it can be put into a ring.
 *
 * A long payload is written to an extent, a chunk is made for the ring to link, both
 * without the leaf and held by this process; their entries are tied to the object, so
 * that a sweeper has the object's redo record carried out before it looks at them. What
 * the ring did not take over is given back. A parcel is its owner's all the time.
 *
 * Death table (process dies after ...)
 *   making extent or chunk   they are in its held table: dropped with it
 *   the tie                  the object is settled first, then the same */

#include "base/crashpoint.h"
#include "ring/chunk.h"
#include "ring/record.h"
#include "ring/ring.h"
#include "shm/arena.h"
#include "shm/parcel.h"

#define HELD_NONE UINT32_MAX /* no held entry */

void
ssti_ring_copy_slices(unsigned char *to, const struct sst_slice *slices, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (slices[i].size != 0) {
            ssti_copy_in(to, slices[i].data, slices[i].size);
            to += slices[i].size;
        }
    }
}

/* Write a long payload to an extent of its own. */
static int
make_extent(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    uint64_t extent;
    int rc = ssti_extent_create(ring->arena, deposit->size, &deposit->extent_held,
                                &extent, NULL);

    if (rc != 0) {
        return rc;
    }

    void *const data = ssti_arena_pin(ring->arena, extent, deposit->size);

    if (data == NULL) {
        ssti_extent_drop(ring->arena, deposit->extent_held);
        return SST_ENOMEM;
    }
    ssti_ring_copy_slices(data, deposit->slices, deposit->count);
    ssti_arena_unpin(ring->arena, extent, deposit->size);
    SST_CRASHPOINT(ring_extent_written);
    ssti_held_tie(ring->arena, deposit->extent_held, ring->object);
    deposit->extent = extent;
    return 0;
}

int
ssti_deposit_init(struct ssti_ring *ring, struct ssti_deposit *deposit,
                  const struct sst_slice *slices, uint32_t count)
{
    uint64_t size = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (slices[i].size > INT64_MAX - size) {
            return SST_EINVAL;
        }
        size += slices[i].size;
    }

    deposit->slices = slices;
    deposit->count = count;
    deposit->size = size;
    deposit->extent = 0;
    deposit->data = 0;
    deposit->chunk = 0;
    deposit->extent_held = HELD_NONE;
    deposit->chunk_held = HELD_NONE;
    if (size <= SSTI_RING_INLINE_MAX) {
        deposit->length = ssti_record_length(size);
        return 0;
    }
    deposit->length = ssti_record_length(SSTI_RECORD_EXTENT_SIZE);
    return make_extent(ring, deposit);
}

void
ssti_deposit_parcel(struct ssti_ring *ring, struct ssti_deposit *deposit,
                    const struct sst_parcel *parcel)
{
    *deposit = (struct ssti_deposit){
        .length = ssti_record_length(SSTI_RECORD_SLOT_SIZE),
        .size = parcel->size,
        .extent = parcel->offset,
        .data = parcel->data_offset,
        .extent_held = parcel->held,
        .chunk_held = HELD_NONE,
    };
    ssti_held_tie(ring->arena, parcel->held, ring->object);
}

void
ssti_ring_give_back(struct ssti_ring *ring, uint64_t extent, uint32_t held)
{
    if (held == HELD_NONE) {
        return;
    }
    ssti_held_tie(ring->arena, held, 0);
    if (extent != 0) {
        ssti_extent_drop(ring->arena, held);
    }
    else {
        ssti_held_release(ring->arena, held);
    }
}

void
ssti_deposit_fini(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    if (deposit->data != 0 && deposit->extent != 0) {
        ssti_held_tie(ring->arena, deposit->extent_held, 0);
    }
    else {
        ssti_ring_give_back(ring, deposit->extent, deposit->extent_held);
    }
    ssti_ring_give_back(ring, deposit->chunk, deposit->chunk_held);
    deposit->extent_held = HELD_NONE;
    deposit->chunk_held = HELD_NONE;
}

int
ssti_ring_make_chunk(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    const uint32_t size = deposit->chunk_size;
    uint64_t offset;
    int rc = ssti_extent_create(ring->arena, size, &deposit->chunk_held, &offset, NULL);

    if (rc != 0) {
        return rc;
    }

    struct sst_chunk_shm *const chunk = ssti_arena_ptr(ring->arena, offset, size);

    if (chunk == NULL) {
        ssti_extent_drop(ring->arena, deposit->chunk_held);
        deposit->chunk_held = HELD_NONE;
        return SST_ENOMEM;
    }
    ssti_chunk_format(chunk, size - (uint32_t)sizeof *chunk);
    ssti_held_tie(ring->arena, deposit->chunk_held, ring->object);
    deposit->chunk = offset;
    return 0;
}
