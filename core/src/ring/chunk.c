/* SPDX-License-Identifier: MIT */

/* Chunks: the extents a ring's records live in, and the chain they form.
 *
 *     get_chunk -> chunk -> ... -> put_chunk      spare      retired -> ... -> 0
 *     (taken from)  next     (put into)        (one drained) (to be freed)
 *
 * Mostly there is one chunk, which is both ends of the chain and used as a circle. When
 * a record does not fit, a chunk twice as large (up to SSTI_RING_CHUNK_MAX) is appended
 * and the old one's put cursor is final: it is drained, left by the takers, and becomes
 * the spare, from which the next growth is served, or is retired. Freeing needs the
 * heap's lock, and no two shared locks are ever held at once: so a retired chunk is
 * first moved to a held entry of whoever comes by, under the ring's leaf, and dropped
 * from there without it. A ring that is empty keeps no large chunk, and a ring that was
 * never used has none.
 *
 * Every change of the chain writes more than one word: it is a redo record. Each of the
 * apply_ functions below may be run again from any point of itself, and is what both
 * the living and the repair run. The view caches addresses under a generation that
 * changes before the chain does, so a process that looks later never follows an old
 * one.
 *
 * Death table (owner of the leaf dies after ...)
 *   making a chunk, before LINK     it is in the dead's held table: dropped with it
 *   writing a part of an intent     its kind is written last: nothing happened
 *   the intent, or any step of it   the next owner of the leaf redoes all of it. The
 *                                   held entry it names still is the dead's: it is tied
 *                                   to the object, whose leaf a sweeper takes first
 *   FREE, before the drop           the chunk is in the dead's held table */

#include "ring/chunk.h"

#include "base/assert.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "shm/arena.h"

#define MAGIC UINT64_C(0x6b6e7568632d7473) /* "st-chunk" */

void
ssti_ring_intend(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    struct sst_ring_shm *const shm = ring->shm;

    sst_dassert(ssti_load_rlx(&shm->intent) == SSTI_INTENT_NONE);
    ssti_store_rlx(&shm->intent_cursor, intent->cursor);
    ssti_store_rlx(&shm->intent_entry, intent->entry);
    ssti_store_rlx(&shm->intent_extent, intent->extent);
    ssti_store_rlx(&shm->intent_next, intent->next);
    SST_CRASHPOINT(ring_intent_written);
    ssti_store_rel(&shm->intent, (uint32_t)intent->kind);
    SST_CRASHPOINT(ring_intent_valid);
}

struct sst_chunk_shm *
ssti_chunk_at(struct ssti_ring *ring, uint64_t offset, uint32_t *size)
{
    struct sst_chunk_shm *const chunk =
        offset % sizeof(uint64_t) == 0 && offset != 0
            ? ssti_arena_ptr(ring->arena, offset, sizeof *chunk)
            : NULL;

    if (chunk == NULL || ssti_load_rlx(&chunk->magic) != MAGIC) {
        return NULL;
    }
    *size = ssti_load_rlx(&chunk->size);
    if (*size == 0 || *size % sizeof(uint64_t) != 0 ||
        *size > SSTI_RING_CHUNK_MAX - sizeof *chunk) {
        return NULL;
    }
    return ssti_arena_ptr(ring->arena, offset, sizeof *chunk + *size);
}

/* Is a chunk that is not at hand damaged, or is it this process that has no addresses
 * left to map it? */
static bool
can_map(struct ssti_ring *ring, uint64_t offset)
{
    return !ssti_arena_has(ring->arena, offset, sizeof(struct sst_chunk_shm)) ||
           ssti_arena_ptr(ring->arena, offset, sizeof(struct sst_chunk_shm)) != NULL;
}

int
ssti_chunk_refresh(struct ssti_ring *ring)
{
    const uint32_t generation = ssti_load_rlx(&ring->shm->generation);
    const uint64_t put = ssti_load_rlx(&ring->shm->put_chunk);
    const uint64_t get = ssti_load_rlx(&ring->shm->get_chunk);

    if (generation == ring->generation) {
        return 0;
    }
    /* A fork of another thread may copy the view at any instant: never half of it under
     * a valid generation. */
    ring->generation = 0;
    ssti_compiler_fence();
    ring->put = put != 0 ? ssti_chunk_at(ring, put, &ring->put_size) : NULL;
    ring->get = get == put ? ring->put : ssti_chunk_at(ring, get, &ring->get_size);
    if (get == put) {
        ring->get_size = ring->put_size;
    }
    if (!can_map(ring, put) || !can_map(ring, get)) {
        return SST_ENOMEM;
    }
    if ((put != 0) != (ring->put != NULL) || (get != 0) != (ring->get != NULL) ||
        (put != 0) != (get != 0)) {
        return SST_ECORRUPT;
    }
    ssti_compiler_fence();
    ring->generation = generation;
    return 0;
}

/* The chain is about to change: cached addresses are void. */
static void
renew(struct ssti_ring *ring)
{
    const uint32_t next = ssti_load_rlx(&ring->shm->generation) + 1;

    ssti_store_rel(&ring->shm->generation, next != 0 ? next : 1);
}

void
ssti_chunk_format(struct sst_chunk_shm *chunk, uint32_t size)
{
    ssti_store_rlx(&chunk->next, 0);
    ssti_store_rlx(&chunk->end, 0);
    ssti_store_rlx(&chunk->size, size);
    ssti_store_rlx(&chunk->magic, MAGIC);
}

/* Bytes, header included, that the next chunk should have. */
static uint32_t
next_size(const struct ssti_ring *ring)
{
    const uint64_t now = ring->put != NULL ? ring->put_size + sizeof *ring->put : 0;

    return (uint32_t)ssti_min(ssti_max(2 * now, SSTI_RING_CHUNK_MIN),
                              SSTI_RING_CHUNK_MAX);
}

/* ---- The steps of each intent; see the essay ---- */

/* extent: the chunk; entry: where it was held, 0: it was the spare; cursor: where the
 * last chunk ends; next: that chunk, 0 = the chain was empty. */
static void
apply_link(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    struct sst_ring_shm *const shm = ring->shm;
    uint32_t size;

    if (ssti_load_rlx(&shm->put_chunk) != intent->extent) {
        struct sst_chunk_shm *const last =
            intent->next != 0 ? ssti_chunk_at(ring, intent->next, &size) : NULL;

        if (last != NULL) {
            ssti_store_rel(&last->end, intent->cursor);
            ssti_store_rel(&last->next, intent->extent);
        }
        else {
            ssti_store_rel(&shm->get_cursor, 0);
            ssti_store_rel(&shm->get_chunk, intent->extent);
        }
        SST_CRASHPOINT(ring_link_chained);
        ssti_store_rel(&shm->put_cursor, 0);
        ssti_store_rel(&shm->put_chunk, intent->extent);
        SST_CRASHPOINT(ring_link_last);
    }
    if (intent->entry != 0) {
        ssti_held_set(ring->arena, intent->entry, 0);
    }
    else {
        ssti_store_rel(&shm->spare, 0);
    }
    SST_CRASHPOINT(ring_link_moved);
}

/* Put a chunk that is in no chain at the head of the retired. */
static void
retire(struct ssti_ring *ring, uint64_t offset)
{
    uint32_t size;
    struct sst_chunk_shm *const chunk = ssti_chunk_at(ring, offset, &size);
    const uint64_t head = ssti_load_rlx(&ring->shm->retired);

    if (chunk == NULL || head == offset) {
        return;
    }
    ssti_store_rel(&chunk->next, head);
    ssti_store_rel(&ring->shm->retired, offset);
    SST_CRASHPOINT(ring_retired);
}

/* extent: the drained chunk; next: the one after it; cursor: 1 to retire, 0 to
 * spare. */
static void
apply_advance(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    struct sst_ring_shm *const shm = ring->shm;

    if (ssti_load_rlx(&shm->get_chunk) == intent->extent) {
        ssti_store_rel(&shm->get_cursor, 0);
        ssti_store_rel(&shm->get_chunk, intent->next);
    }
    SST_CRASHPOINT(ring_advanced);
    if (intent->cursor != 0) {
        retire(ring, intent->extent);
    }
    else {
        ssti_store_rel(&shm->spare, intent->extent);
    }
}

/* extent: the only chunk, drained. */
static void
apply_empty(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    struct sst_ring_shm *const shm = ring->shm;

    ssti_store_rel(&shm->put_chunk, 0);
    SST_CRASHPOINT(ring_emptied_half);
    ssti_store_rel(&shm->get_chunk, 0);
    ssti_store_rel(&shm->put_cursor, 0);
    ssti_store_rel(&shm->get_cursor, 0);
    SST_CRASHPOINT(ring_emptied);
    retire(ring, intent->extent);
}

/* extent: the spare. */
static void
apply_spare(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    retire(ring, intent->extent);
    ssti_store_rel(&ring->shm->spare, 0);
}

/* extent: the first of the retired; next: the one after it; entry: where it goes. */
static void
apply_free(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    ssti_held_set(ring->arena, intent->entry, intent->extent);
    SST_CRASHPOINT(ring_free_held);
    ssti_store_rel(&ring->shm->retired, intent->next);
}

void
ssti_chunk_redo(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    renew(ring);
    switch (intent->kind) {
    case SSTI_INTENT_LINK:
        apply_link(ring, intent);
        break;
    case SSTI_INTENT_ADVANCE:
        apply_advance(ring, intent);
        break;
    case SSTI_INTENT_EMPTY:
        apply_empty(ring, intent);
        break;
    case SSTI_INTENT_SPARE:
        apply_spare(ring, intent);
        break;
    case SSTI_INTENT_FREE:
        apply_free(ring, intent);
        break;
    case SSTI_INTENT_NONE:
    case SSTI_INTENT_PUT:
    case SSTI_INTENT_TAKE:
        break;
    }
}

/* Write down what is to be done, do it, and say that it is done. */
static void
carry_out(struct ssti_ring *ring, const struct ssti_intent *intent)
{
    ssti_ring_intend(ring, intent);
    ssti_chunk_redo(ring, intent);
    ssti_ring_intended(ring);
}

/* ---- What ring.c asks for ---- */

/* Is the spare good for a record of `length`, and not smaller than what it follows? */
static bool
spare_serves(struct ssti_ring *ring, uint32_t length)
{
    const uint64_t spare = ssti_load_rlx(&ring->shm->spare);
    uint32_t size;

    if (spare == 0 || ssti_chunk_at(ring, spare, &size) == NULL) {
        return false;
    }
    return size >= length && (ring->put == NULL || size >= ring->put_size);
}

int
ssti_chunk_link(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    struct sst_ring_shm *const shm = ring->shm;
    struct ssti_intent intent = {
        .kind = SSTI_INTENT_LINK,
        .cursor = ssti_load_rlx(&shm->put_cursor),
        .next = ssti_load_rlx(&shm->put_chunk),
    };
    struct sst_chunk_shm *chunk;
    uint32_t size;

    if (spare_serves(ring, deposit->length)) {
        intent.extent = ssti_load_rlx(&shm->spare);
        chunk = ssti_chunk_at(ring, intent.extent, &size);
        if (chunk == NULL) {
            return SST_ECORRUPT;
        }
        ssti_store_rlx(&chunk->next, 0);
    }
    else if (deposit->chunk != 0) {
        intent.extent = deposit->chunk;
        intent.entry = ssti_held_offset(ring->arena, deposit->chunk_held);
    }
    else {
        deposit->chunk_size = next_size(ring);
        return SSTI_RING_CHUNK;
    }

    carry_out(ring, &intent);

    if (intent.entry != 0) {
        deposit->chunk = 0; /* the entry is empty now, and given back by deposit_fini */
    }
    return ssti_chunk_refresh(ring);
}

/* Retire the spare if it is smaller than `size`. True when there is no spare then. */
static bool
spare_makes_way(struct ssti_ring *ring, uint32_t size)
{
    const uint64_t spare = ssti_load_rlx(&ring->shm->spare);
    uint32_t spare_size;

    if (spare == 0) {
        return true;
    }
    if (ssti_chunk_at(ring, spare, &spare_size) != NULL && spare_size >= size) {
        return false;
    }
    carry_out(ring, &(struct ssti_intent){.kind = SSTI_INTENT_SPARE, .extent = spare});
    return true;
}

int
ssti_chunk_advance(struct ssti_ring *ring)
{
    const uint64_t first = ssti_load_rlx(&ring->shm->get_chunk);
    const uint64_t next = ssti_load_rlx(&ring->get->next);

    if (next == 0 || next == first) {
        return SST_ECORRUPT;
    }
    carry_out(ring, &(struct ssti_intent){
                        .kind = SSTI_INTENT_ADVANCE,
                        .cursor = spare_makes_way(ring, ring->get_size) ? 0 : 1,
                        .extent = first,
                        .next = next,
                    });
    return ssti_chunk_refresh(ring);
}

void
ssti_chunk_empty(struct ssti_ring *ring, bool all)
{
    const uint64_t only = ssti_load_rlx(&ring->shm->put_chunk);

    if (!all && ring->put_size + sizeof *ring->put <= SSTI_RING_CHUNK_KEEP) {
        return;
    }
    (void)spare_makes_way(ring, UINT32_MAX);
    if (only != 0) {
        carry_out(ring,
                  &(struct ssti_intent){.kind = SSTI_INTENT_EMPTY, .extent = only});
    }
}

bool
ssti_chunk_free(struct ssti_ring *ring, uint64_t entry)
{
    const uint64_t first = ssti_load_rlx(&ring->shm->retired);
    uint32_t size;
    struct sst_chunk_shm *const chunk =
        first != 0 ? ssti_chunk_at(ring, first, &size) : NULL;

    if (chunk == NULL) {
        if (can_map(ring, first)) { /* else somebody else may free it */
            ssti_store_rel(&ring->shm->retired, 0);
        }
        return false;
    }
    carry_out(ring, &(struct ssti_intent){
                        .kind = SSTI_INTENT_FREE,
                        .entry = entry,
                        .extent = first,
                        .next = ssti_load_rlx(&chunk->next),
                    });
    return true;
}
