/* SPDX-License-Identifier: MIT */

/* Lanes: the rings of a pool, whose records begin with a head.
 *
 * A record is always inline in its ring: the head, and the payload if that is short.
 * The head of a task that needs no more is a brief one: its id says so.
 * A long payload is in an extent, or in a parcel, which the head's `word` names exactly
 * as the entry of a held table would. So what a task is can be read under the leaf
 * before it is taken, whatever its size; and extents and parcels change hands by the
 * same store into an entry.
 *
 * Two things happen here in one step that touch several words, and have a redo record:
 *
 *   PUT   a record goes into a lane. `word` leaves the putter's held entry, and with a
 *         seat the lease of that seat ends: this is how a task is finished, or lost.
 *   TAKE  a record leaves a lane. `word` goes to the taker's held entry, and with a
 *         seat its lease begins.
 *
 * Both are committed by the one store of a cursor that the ring does; the rest follows
 * from whether the cursor has moved. So a task is in one lane of tasks, or in one
 * lease, or its result is in the lane of results, at every instant for whoever has the
 * leaf after a repair.
 *
 * Marks: a table with 32 bits for each index that ids of tasks may have. The taker of a
 * task notes its generation there; who cancels notes it with a flag, unless it was
 * taken. A record that is older than its mark, or cancelled, is skipped.
 *
 * Death table (owner of the leaf dies after ...)
 *   writing a part of the intent  its kind is written last: nothing happened
 *   the PUT intent                the cursor is where it was: nothing happened, the
 *                                 lease goes on, and is lost once its worker is buried
 *   the put                       the cursor says so: the entry is emptied, the lease
 *                                 ended
 *   the TAKE intent, entry set    the cursor is where it was: the entry is emptied
 *   the take                      the cursor says so: the lease begins, and is lost
 *                                 with its worker; the mark is set
 *   making a block of marks       it is in the dead's held table, or given: one step */

#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crashpoint.h"
#include "pool/pool.h"
#include "ring/chunk.h"
#include "ring/record.h"
#include "shm/arena.h"
#include "shm/parcel.h"

enum ssti_pool_intent {
    POOL_NONE,
    POOL_PUT,  /* lane's put cursor becomes cursor: entry is emptied, the lease of seat
                * ends */
    POOL_TAKE, /* lane's get cursor leaves (chunk, cursor): entry keeps what it has, the
                * lease of seat becomes id; else entry is emptied */
};

enum {
    HEAD_SIZE = SSTI_HEAD_MAX,
    BRIEF_SIZE = sizeof(struct sst_pool_brief_shm),
    TAG_BITS = 8, /* of a brief head's call */
    PLACE_SIZE = sizeof(uint64_t),
    MISFITS_MAX = 3,
};
_Static_assert(SSTI_RING_INLINE_MAX >= HEAD_SIZE + PLACE_SIZE, "a head fits");

#define HELD_NONE UINT32_MAX

static uint64_t
generation_of(uint64_t id)
{
    return id >> 32;
}

/* ---- Marks ---- */

/* The block in which an index is, and its place there. */
static uint32_t
block_of(uint64_t id, uint64_t *place)
{
    const uint64_t number = (uint64_t)(uint32_t)id / SSTI_POOL_MARK_FIRST + 1;
    const uint32_t block = 63 - (uint32_t)__builtin_clzll(number);

    *place = (uint32_t)id - ((UINT64_C(1) << block) - 1) * SSTI_POOL_MARK_FIRST;
    return block;
}

_Atomic uint32_t *
ssti_mark_locked(struct sst_pool *pool, uint64_t id)
{
    uint64_t place;
    const uint32_t block = block_of(id, &place);

    if (block >= SSTI_POOL_MARK_BLOCKS || pool->marks[block] == NULL) {
        return NULL;
    }
    return pool->marks[block] + place;
}

static void
map_block_locked(struct sst_pool *pool, uint32_t block)
{
    const uint64_t size = (UINT64_C(4) * SSTI_POOL_MARK_FIRST) << block;
    const uint64_t offset = ssti_load_acq(&pool->shm->marks[block]);

    if (pool->marks[block] == NULL && offset != 0) {
        pool->marks[block] = ssti_arena_pin(pool->view.arena, offset, size);
    }
}

/* Make a block; another thread may do so at the same time. */
static int
make_block(struct sst_pool *pool, uint32_t block, uint64_t size)
{
    struct sst_arena *const arena = pool->view.arena;
    const uint64_t word = pool->view.offset + offsetof(struct sst_pool_shm, marks) +
                          block * sizeof(uint64_t);
    uint64_t offset;
    uint32_t held;
    int rc = ssti_extent_create_zeroed(arena, size, &held, &offset, NULL);

    if (rc != 0) {
        return rc;
    }
    SST_CRASHPOINT(pool_marks_made);
    ssti_view_lock(&pool->view);
    if (ssti_load_rlx(&pool->shm->marks[block]) == 0) {
        ssti_extent_give(arena, held, word);
        held = HELD_NONE;
    }
    ssti_pool_unlock(pool);
    if (held != HELD_NONE) {
        ssti_extent_drop(arena, held);
    }
    return 0;
}

int
ssti_mark_map(struct sst_pool *pool, uint64_t id, bool make)
{
    uint64_t place;
    const uint32_t block = block_of(id, &place);
    const uint64_t size = (UINT64_C(4) * SSTI_POOL_MARK_FIRST) << block;

    if (block >= SSTI_POOL_MARK_BLOCKS) {
        return make ? SST_EINVAL : SST_ECORRUPT;
    }
    if (ssti_load_acq(&pool->shm->marks[block]) == 0) {
        const int rc = make ? make_block(pool, block, size) : SST_ECORRUPT;

        if (rc != 0) {
            return rc;
        }
    }
    ssti_view_lock(&pool->view);
    map_block_locked(pool, block);
    ssti_pool_unlock(pool);
    return pool->marks[block] != NULL ? 0 : SST_ENOMEM;
}

/* ---- Heads ---- */

/* Make the brief head of a task, if it can have one. */
static bool
abbreviate(uint32_t lane, struct ssti_cargo *cargo)
{
    const struct sst_pool_head_shm *const head = &cargo->head;

    if (lane == SSTI_POOL_RESULTS || head->word != 0 || head->first_ns != 0 ||
        head->second_ns != 0 || head->tag >> TAG_BITS != 0 ||
        head->function >> (64 - TAG_BITS) != 0) {
        return false;
    }
    cargo->brief.id = head->id | SSTI_POOL_BRIEF;
    cargo->brief.call = head->function << TAG_BITS | head->tag;
    return true;
}

uint32_t
ssti_head_decode(const void *bytes, uint64_t size, struct sst_pool_head_shm *head)
{
    struct sst_pool_brief_shm brief;

    if (size < BRIEF_SIZE) {
        return 0;
    }
    memcpy(&brief, bytes, BRIEF_SIZE);
    if ((brief.id & SSTI_POOL_BRIEF) == 0) {
        if (size < HEAD_SIZE) {
            return 0;
        }
        memcpy(head, bytes, HEAD_SIZE);
        return HEAD_SIZE;
    }
    *head = (struct sst_pool_head_shm){
        .id = brief.id & ~SSTI_POOL_BRIEF,
        .function = brief.call >> TAG_BITS,
        .tag = brief.call & ((1U << TAG_BITS) - 1),
        .size = size - BRIEF_SIZE,
        .seat = SSTI_SEAT_NONE,
    };
    return BRIEF_SIZE;
}

/* ---- In ---- */

static void
copy_slices(unsigned char *to, const struct sst_slice *slices, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (slices[i].size != 0) {
            ssti_copy_in(to, slices[i].data, slices[i].size);
            to += slices[i].size;
        }
    }
}

static int
load_extent(struct sst_pool *pool, struct ssti_cargo *cargo,
            const struct sst_slice *slices, uint32_t count)
{
    struct sst_arena *const arena = pool->view.arena;
    uint64_t offset;
    void *data;
    const int rc =
        ssti_extent_create(arena, cargo->head.size, &cargo->held, &offset, NULL);

    if (rc != 0) {
        return rc;
    }
    data = ssti_arena_pin(arena, offset, cargo->head.size);
    if (data == NULL) {
        ssti_extent_drop(arena, cargo->held);
        return SST_ENOMEM;
    }
    copy_slices(data, slices, count);
    ssti_arena_unpin(arena, offset, cargo->head.size);
    ssti_held_tie(arena, cargo->held, pool->view.offset);
    SST_CRASHPOINT(pool_cargo_loaded);
    cargo->head.word = offset;
    return 0;
}

int
ssti_cargo_init(struct sst_pool *pool, struct ssti_cargo *cargo, uint32_t lane,
                const struct sst_slice *slices, uint32_t count,
                struct sst_parcel *parcel)
{
    uint32_t inline_count = 0;
    int rc = 0;

    if (count > SST_SLICES_MAX) {
        return SST_EINVAL;
    }
    cargo->head.word = 0;
    cargo->head.size = 0;
    cargo->parcel = parcel;
    cargo->held = HELD_NONE;
    cargo->is_moved = false;
    for (uint32_t i = 0; i < count && parcel == NULL; i++) {
        if (slices[i].size > INT64_MAX - cargo->head.size) {
            return SST_EINVAL;
        }
        cargo->head.size += slices[i].size;
    }
    if (parcel != NULL) {
        cargo->head.word = parcel->offset | SSTI_HELD_SLOT;
        cargo->head.size = parcel->size;
        cargo->place = parcel->data_offset;
        cargo->held = parcel->held;
        cargo->slices[++inline_count] = (struct sst_slice){&cargo->place, PLACE_SIZE};
        ssti_held_tie(pool->view.arena, cargo->held, pool->view.offset);
    }
    else if (cargo->head.size <= SSTI_RING_INLINE_MAX - HEAD_SIZE) {
        for (uint32_t i = 0; i < count; i++) {
            cargo->slices[++inline_count] = slices[i];
        }
    }
    else {
        rc = load_extent(pool, cargo, slices, count);
    }
    cargo->slices[0] = abbreviate(lane, cargo)
                           ? (struct sst_slice){&cargo->brief, BRIEF_SIZE}
                           : (struct sst_slice){&cargo->head, HEAD_SIZE};
    return rc != 0 ? rc
                   : ssti_deposit_init(&pool->lane[lane], &cargo->deposit,
                                       cargo->slices, inline_count + 1);
}

void
ssti_cargo_fini(struct sst_pool *pool, struct ssti_cargo *cargo, uint32_t lane)
{
    struct sst_arena *const arena = pool->view.arena;

    ssti_deposit_fini(&pool->lane[lane], &cargo->deposit);
    if (cargo->held == HELD_NONE) {
        return;
    }
    ssti_held_tie(arena, cargo->held, 0);
    if (cargo->is_moved) {
        ssti_held_release(arena, cargo->held);
        if (cargo->parcel != NULL) {
            ssti_parcel_forget(cargo->parcel);
        }
    }
    else if (cargo->parcel == NULL) {
        ssti_extent_drop(arena, cargo->held);
    }
}

int
ssti_lane_fit_locked(struct sst_pool *pool, uint32_t lane, struct ssti_cargo *cargo)
{
    return ssti_ring_fit_locked(&pool->lane[lane], &cargo->deposit);
}

/* The fields, then the kind. */
static void
intend(struct sst_pool_shm *shm, enum ssti_pool_intent kind, uint32_t lane,
       uint32_t seat, uint32_t cursor, uint64_t entry)
{
    ssti_store_rlx(&shm->intent_lane, lane);
    ssti_store_rlx(&shm->intent_seat, seat);
    ssti_store_rlx(&shm->intent_cursor, cursor);
    ssti_store_rlx(&shm->intent_entry, entry);
    SST_CRASHPOINT(pool_intent_written);
    ssti_store_rel(&shm->intent, (uint32_t)kind);
    SST_CRASHPOINT(pool_intent_valid);
}

static void
intended(struct sst_pool_shm *shm)
{
    ssti_store_rel(&shm->intent, POOL_NONE);
}

/* After the cursor has moved. May be run again. */
static void
apply_put(struct sst_pool *pool, uint32_t seat, uint64_t entry)
{
    if (entry != 0) {
        ssti_held_set(pool->view.arena, entry, 0);
        SST_CRASHPOINT(pool_put_moved);
    }
    if (seat < pool->seat_max) {
        ssti_store_rel(&pool->seats[seat].task, 0);
        SST_CRASHPOINT(pool_lease_ended);
    }
}

void
ssti_lane_put_locked(struct sst_pool *pool, uint32_t lane, struct ssti_cargo *cargo,
                     uint32_t seat)
{
    const uint64_t entry =
        cargo->held != HELD_NONE ? ssti_held_offset(pool->view.arena, cargo->held) : 0;

    intend(pool->shm, POOL_PUT, lane, seat, cargo->deposit.next_cursor, entry);
    ssti_ring_put_locked(&pool->lane[lane], &cargo->deposit);
    SST_CRASHPOINT(pool_put_done);
    apply_put(pool, seat, entry);
    intended(pool->shm);
    cargo->is_moved = true;
}

/* ---- Out ---- */

void
ssti_claim_init(struct ssti_claim *claim)
{
    *claim = (struct ssti_claim){0};
    ssti_receipt_init(&claim->receipt, NULL);
}

/* The payload that was prepared is not taken. */
static void
unprepare(struct sst_pool *pool, struct ssti_claim *claim)
{
    if (claim->parcel != NULL) {
        ssti_parcel_forget(claim->parcel);
    }
    if (claim->mapped != NULL) {
        ssti_arena_unpin(pool->view.arena, claim->want, claim->want_size);
    }
    claim->parcel = NULL;
    claim->mapped = NULL;
}

void
ssti_claim_fini(struct sst_pool *pool, struct ssti_claim *claim)
{
    unprepare(pool, claim);
    ssti_receipt_fini(&pool->lane[0], &claim->receipt);
    if (claim->has_held) {
        ssti_held_tie(pool->view.arena, claim->held, 0);
        ssti_held_release(pool->view.arena, claim->held);
    }
}

int
ssti_claim_prepare(struct sst_pool *pool, struct ssti_claim *claim)
{
    struct sst_arena *const arena = pool->view.arena;
    int rc = 0;

    if (claim->wants_mark) {
        claim->wants_mark = false;
        return ssti_mark_map(pool, claim->head.id, false);
    }
    if (claim->receipt.buffer == NULL) {
        claim->receipt.want_extent = 0;
        rc = ssti_receipt_prepare(&pool->lane[0], &claim->receipt);
    }
    if (rc != 0 || claim->want == 0) {
        return rc;
    }
    if (!claim->has_held) {
        rc = ssti_held_reserve(arena, &claim->held);
        if (rc != 0) {
            return rc;
        }
        ssti_held_tie(arena, claim->held, pool->view.offset);
        claim->has_held = true;
    }
    unprepare(pool, claim);
    /* It may be taken and freed by others meanwhile: then the next try finds
     * another. */
    if ((claim->want & SSTI_HELD_SLOT) != 0) {
        rc = ssti_parcel_prepare(arena, claim->want & ~(uint64_t)SSTI_HELD_FLAGS,
                                 claim->want_place, claim->want_size, &claim->parcel);
    }
    else if (ssti_extent_size(arena, claim->want) < claim->want_size) {
        rc = SST_EAGAIN;
    }
    else {
        claim->mapped = ssti_arena_pin(arena, claim->want, claim->want_size);
        rc = claim->mapped != NULL ? 0 : SST_ENOMEM;
    }
    if (rc == SST_EAGAIN) {
        return ++claim->misfits < MISFITS_MAX ? 0 : SST_ECORRUPT;
    }
    return rc;
}

static int
damaged(struct ssti_ring *ring)
{
    ssti_store_rel(&ring->shm->flags,
                   ssti_load_rlx(&ring->shm->flags) | SSTI_RING_CORRUPT);
    return SST_ECORRUPT;
}

int
ssti_lane_front_locked(struct sst_pool *pool, uint32_t lane, struct ssti_claim *claim)
{
    struct ssti_ring *const ring = &pool->lane[lane];
    struct ssti_record record;
    unsigned char bytes[HEAD_SIZE];
    uint64_t place = 0;
    int rc = ssti_ring_peek_locked(ring);

    if (rc != 0) {
        return rc;
    }
    rc = ssti_record_read(ring->get, ring->get_size,
                          ssti_load_rlx(&ring->shm->get_cursor),
                          ring->get == ring->put ? ssti_load_rlx(&ring->shm->put_cursor)
                                                 : ssti_load_rlx(&ring->get->end),
                          &record);
    if (rc != 0 || record.kind != SSTI_RECORD_INLINE) {
        return damaged(ring);
    }
    ssti_copy_out(bytes, ssti_chunk_data(ring->get, record.at),
                  ssti_min(record.size, HEAD_SIZE));
    claim->head_size = ssti_head_decode(bytes, record.size, &claim->head);
    if (claim->head_size == 0) {
        return damaged(ring);
    }
    if ((claim->head.word & SSTI_HELD_SLOT) != 0) {
        if (record.size != HEAD_SIZE + PLACE_SIZE) {
            return damaged(ring);
        }
        ssti_copy_out(&place, ssti_chunk_data(ring->get, record.at) + HEAD_SIZE,
                      PLACE_SIZE);
    }
    if (record.size > sizeof claim->receipt.message->small &&
        claim->receipt.buffer == NULL) {
        claim->want = 0;
        return SSTI_RING_RECEIPT;
    }
    if (claim->head.word != 0 &&
        ((claim->mapped == NULL && claim->parcel == NULL) ||
         claim->want != claim->head.word || claim->want_size != claim->head.size ||
         claim->want_place != place)) {
        unprepare(pool, claim);
        claim->want = claim->head.word;
        claim->want_size = claim->head.size;
        claim->want_place = place;
        return SSTI_RING_RECEIPT;
    }
    if (lane != SSTI_POOL_RESULTS && ssti_mark_locked(pool, claim->head.id) == NULL) {
        claim->wants_mark = true;
        return SSTI_RING_RECEIPT;
    }
    return 0;
}

/* After the cursor has moved. May be run again. */
static void
apply_take(struct sst_pool *pool, uint32_t seat, uint64_t id)
{
    _Atomic uint32_t *const mark = ssti_mark_locked(pool, id);

    if (seat >= pool->seat_max) {
        return;
    }
    ssti_store_rel(&pool->seats[seat].task, id);
    SST_CRASHPOINT(pool_lease_begun);
    if (mark != NULL) {
        ssti_store_rel(mark, (uint32_t)generation_of(id));
        SST_CRASHPOINT(pool_lease_marked);
    }
}

/* Make the message of what was taken. */
static void
unpack(struct sst_pool *pool, struct ssti_claim *claim, struct sst_message *message)
{
    struct sst_arena *const arena = pool->view.arena;

    if (claim->head.word == 0) {
        message->data = (const char *)message->data + claim->head_size;
        message->size -= claim->head_size;
        return;
    }
    ssti_held_tie(arena, claim->held, 0);
    message->size = claim->head.size;
    if (claim->parcel != NULL) {
        ssti_parcel_taken(claim->parcel, claim->held);
        message->data = sst_parcel_data(claim->parcel);
        message->owner = claim->parcel;
        message->extent = SSTI_MESSAGE_PARCEL;
    }
    else {
        ssti_extent_inherit(arena, claim->held);
        message->data = claim->mapped;
        message->owner = arena;
        message->extent = (uint64_t)claim->held + SSTI_MESSAGE_HELD;
    }
    claim->parcel = NULL;
    claim->mapped = NULL;
    claim->want = 0;
    claim->has_held = false;
}

int
ssti_lane_take_locked(struct sst_pool *pool, uint32_t lane, struct ssti_claim *claim,
                      uint32_t seat, struct sst_message *message)
{
    struct ssti_ring *const ring = &pool->lane[lane];
    struct sst_pool_shm *const shm = pool->shm;
    const uint64_t entry =
        claim->head.word != 0 ? ssti_held_offset(pool->view.arena, claim->held) : 0;
    int rc;

    ssti_store_rlx(&shm->intent_id, claim->head.id);
    ssti_store_rlx(&shm->intent_chunk, ssti_load_rlx(&ring->shm->get_chunk));
    intend(shm, POOL_TAKE, lane, seat, ssti_load_rlx(&ring->shm->get_cursor), entry);
    if (entry != 0) {
        ssti_held_set(pool->view.arena, entry, claim->head.word);
        SST_CRASHPOINT(pool_take_moved);
    }
    claim->receipt.message = message;
    rc = ssti_ring_take_locked(ring, &claim->receipt);
    SST_CRASHPOINT(pool_take_done);
    if (rc == 0) {
        apply_take(pool, seat, claim->head.id);
    }
    else if (entry != 0) {
        ssti_held_set(pool->view.arena, entry, 0);
    }
    intended(shm);
    claim->receipt.message = NULL;
    claim->misfits = 0;
    if (rc == 0) {
        unpack(pool, claim, message);
    }
    return rc > 0 ? SST_ECORRUPT : rc;
}

/* ---- Repair ---- */

void
ssti_lane_repair_locked(struct sst_pool *pool)
{
    struct sst_pool_shm *const shm = pool->shm;
    const uint32_t intent = ssti_load_acq(&shm->intent);
    const uint32_t lane = ssti_load_rlx(&shm->intent_lane) % SSTI_POOL_LANES;
    const uint32_t seat = ssti_load_rlx(&shm->intent_seat);
    const uint32_t cursor = ssti_load_rlx(&shm->intent_cursor);
    const uint64_t chunk = ssti_load_rlx(&shm->intent_chunk);
    const uint64_t entry = ssti_load_rlx(&shm->intent_entry);
    const uint64_t id = ssti_load_rlx(&shm->intent_id);
    struct sst_ring_shm *const ring = pool->lane[lane].shm;

    for (uint32_t i = 0; i < SSTI_POOL_LANES; i++) {
        ssti_ring_repair_locked(&pool->lane[i]);
    }
    if (intent == POOL_PUT && ssti_load_rlx(&ring->put_cursor) == cursor) {
        apply_put(pool, seat, entry);
    }
    else if (intent == POOL_TAKE) {
        if (ssti_load_rlx(&ring->get_chunk) != chunk ||
            ssti_load_rlx(&ring->get_cursor) != cursor) {
            uint64_t place;
            const uint32_t block = block_of(id, &place);

            if (block < SSTI_POOL_MARK_BLOCKS) {
                map_block_locked(pool, block);
            }
            if (ssti_mark_locked(pool, id) == NULL) {
                /* Who cannot mark it as taken must not leave it to be cancelled. */
                (void)damaged(&pool->lane[lane]);
            }
            apply_take(pool, seat, id);
        }
        else if (entry != 0) {
            ssti_held_set(pool->view.arena, entry, 0);
        }
    }
    intended(shm);
}
