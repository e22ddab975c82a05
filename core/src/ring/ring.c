/* SPDX-License-Identifier: MIT */

/* Message rings: any number of processes put, any number take, one at a time, under the
 * leaf of the queue or pipe that the ring is part of.
 *
 * Records lie one behind the other in chunks (chunk.c), 8-aligned: a word with the
 * payload's size and the kind of record, then the payload. Payloads above
 * SSTI_RING_INLINE_MAX are written to an extent of their own before the leaf is taken
 * (deposit.c), and the record names it, or a parcel's slot; so a section under the leaf
 * copies a page at most. What is said of extents here holds for parcels as well. When
 * the rest of a circle is too short for a record, a record of kind SKIP fills it and
 * the next begins at 0.
 *
 *     header | payload ... | header | payload ... | free ......... | skip
 *     ^ get_cursor                                ^ put_cursor
 *
 * A put is committed by one store of put_cursor, a take by one store of get_cursor. The
 * counts and bytes follow, and are hints for those who look without the leaf; who finds
 * that the leaf's owner died counts them anew from the records between the cursors. An
 * extent changes hands together with the cursor: that takes a redo record (PUT, TAKE).
 * A put is rolled forward, the record being complete; a take is rolled back unless it
 * was committed, so that a message is lost only with a process that really had it.
 *
 * Cursors, sizes and offsets come from shared memory, where a wild process may have
 * written: each is copied once and checked against the chunk before it is used. What
 * cannot be is SST_ECORRUPT, for this and all later calls.
 *
 * Death table (owner of the leaf dies after ...)
 *   writing a record         put_cursor is behind it: it is not there
 *   moving put_cursor        the message is there; counts are recounted
 *   the PUT intent           the next owner moves the cursor and empties the held entry
 *   making extent or chunk   they are in the dead's held table: dropped with it
 *   copying a message out    get_cursor is before it: still there
 *   the TAKE intent, before  the held entry is emptied again, the message still there
 *    get_cursor moved
 *   moving get_cursor        the message is gone with the one who took it; its extent
 *                            is in the dead's held table: dropped with it
 *
 * docs/internals/rings.rst has the reasons and what else was considered. */

#include "ring/ring.h"

#include <linux/futex.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "ring/chunk.h"
#include "ring/record.h"
#include "shm/arena.h"
#include "shm/parcel.h"

enum {
    MISFITS_MAX = 8, /* others may be faster, and put the like there again */
};

_Static_assert(SSTI_RING_CHUNK_MIN >= sizeof(struct sst_chunk_shm) +
                                          SSTI_RECORD_HEADER_SIZE +
                                          SSTI_RING_INLINE_MAX,
               "a record fits into any chunk");
_Static_assert(SSTI_RING_CHUNK_MAX < SSTI_CURSOR_LAP, "a cursor holds any place");

/* Sticky: the first to find damage keeps all others from following it. */
static int
damaged(struct ssti_ring *ring)
{
    ssti_store_rel(&ring->shm->flags,
                   ssti_load_rlx(&ring->shm->flags) | SSTI_RING_CORRUPT);
    return SST_ECORRUPT;
}

/* Begin a section: is the ring sound, are the view's addresses the present ones? */
static inline int
enter(struct ssti_ring *ring)
{
    if (__builtin_expect((ssti_load_rlx(&ring->shm->flags) & SSTI_RING_CORRUPT) != 0,
                         0)) {
        return SST_ECORRUPT;
    }
    if (__builtin_expect(ssti_load_rlx(&ring->shm->generation) != ring->generation,
                         0)) {
        const int rc = ssti_chunk_refresh(ring);

        return rc == SST_ECORRUPT ? damaged(ring) : rc;
    }
    return 0;
}

void
ssti_ring_format(struct sst_ring_shm *shm, uint32_t item_max, uint64_t byte_max)
{
    ssti_store_rlx(&shm->generation, 1);
    ssti_store_rlx(&shm->item_max, item_max);
    ssti_store_rlx(&shm->byte_max, byte_max);
}

void
ssti_ring_view(struct ssti_ring *ring, struct sst_arena *arena,
               struct sst_ring_shm *shm, uint64_t object)
{
    *ring = (struct ssti_ring){.arena = arena, .shm = shm, .object = object};
}

bool
ssti_ring_is_orphaned(const struct sst_leaf_shm *leaf)
{
    return (ssti_load_acq(&leaf->word) & FUTEX_OWNER_DIED) != 0;
}

bool
ssti_ring_is_held(const struct sst_leaf_shm *leaf)
{
    return (ssti_load_acq(&leaf->word) & FUTEX_TID_MASK) != 0;
}

bool
ssti_ring_is_full(const struct ssti_ring *ring)
{
    const uint32_t item_max = ssti_load_rlx(&ring->shm->item_max);
    const uint64_t byte_max = ssti_load_rlx(&ring->shm->byte_max);

    if (item_max == 0 && byte_max == 0) {
        return false;
    }

    const uint64_t count = ssti_ring_count(ring);
    /* Heads count, or there would be no bound for empty messages. */
    const uint64_t bytes = ssti_ring_bytes(ring) + count * SSTI_RECORD_HEADER_SIZE;

    return (item_max != 0 && count >= item_max) || (byte_max != 0 && bytes >= byte_max);
}

/* ---- Putting ---- */

/* A place for the deposit in the last chunk. 0, SST_EAGAIN, SST_ECORRUPT. */
static int
find_place(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    const uint32_t size = ring->put_size;
    const uint32_t put = ssti_load_rlx(&ring->shm->put_cursor);
    /* Nobody takes yet from a last chunk that is not also the first. */
    const uint32_t get =
        ring->put == ring->get ? ssti_load_rlx(&ring->shm->get_cursor) : 0;
    const uint32_t at = ssti_cursor_place(put);
    const uint32_t end = ssti_cursor_place(get);
    const bool circle_is_open =
        ssti_cursor_same_lap(put, get); /* free: [at, size) and [0, end) */

    if (!ssti_cursor_is_sane(put, size) || !ssti_cursor_is_sane(get, size) ||
        (circle_is_open ? at < end : at > end)) {
        return SST_ECORRUPT;
    }

    deposit->put_cursor = put;
    deposit->at = at;
    deposit->skip = 0;
    if ((circle_is_open ? size : end) - at >= deposit->length) {
        deposit->next_cursor = ssti_cursor_at(put, at + deposit->length, size);
        return 0;
    }
    if (!circle_is_open || end < deposit->length) {
        return SST_EAGAIN;
    }
    deposit->at = 0;
    deposit->skip = size - at;
    deposit->next_cursor = ssti_cursor_at(put ^ SSTI_CURSOR_LAP, deposit->length, size);
    return 0;
}

int
ssti_ring_fit_locked(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    int rc = enter(ring);

    if (rc != 0) {
        return rc;
    }
    if (ssti_ring_is_full(ring)) {
        return SSTI_RING_FULL;
    }
    rc = ring->put != NULL ? find_place(ring, deposit) : SST_EAGAIN;
    if (rc == SST_EAGAIN) {
        rc = ssti_chunk_link(ring, deposit);
        if (rc == 0) {
            rc = find_place(ring, deposit);
        }
    }
    return rc == SST_ECORRUPT || rc == SST_EAGAIN ? damaged(ring) : rc;
}

/* Commit a put of an extent or a parcel: cursor and held entry change together. */
static void
commit_extent(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    const uint64_t entry = ssti_held_offset(ring->arena, deposit->extent_held);

    ssti_ring_intend(ring, &(struct ssti_intent){
                               .kind = SSTI_INTENT_PUT,
                               .cursor = deposit->next_cursor,
                               .entry = entry,
                           });
    ssti_store_rel(&ring->shm->put_cursor, deposit->next_cursor);
    SST_CRASHPOINT(ring_put_extent_committed);
    ssti_held_set(ring->arena, entry, 0);
    SST_CRASHPOINT(ring_put_extent_moved);
    ssti_ring_intended(ring);
    deposit->extent = 0;
}

void
ssti_ring_put_locked(struct ssti_ring *ring, struct ssti_deposit *deposit)
{
    struct sst_ring_shm *const shm = ring->shm;
    _Atomic uint64_t *const header = ssti_record_header(ring->put, deposit->at);
    unsigned char *const payload =
        ssti_chunk_data(ring->put, deposit->at + SSTI_RECORD_HEADER_SIZE);

    sst_dassert(ssti_load_rlx(&shm->put_cursor) == deposit->put_cursor);
    if (deposit->skip != 0) {
        ssti_store_rlx(ssti_record_header(ring->put,
                                          ssti_cursor_place(deposit->put_cursor)),
                       ssti_record_word(SSTI_RECORD_SKIP, deposit->skip));
    }
    if (deposit->extent != 0) {
        const uint64_t record[3] = {deposit->extent, deposit->size, deposit->data};
        const bool is_parcel = deposit->data != 0;
        const uint32_t size =
            is_parcel ? SSTI_RECORD_SLOT_SIZE : SSTI_RECORD_EXTENT_SIZE;

        ssti_copy_in(payload, record, size);
        ssti_store_rlx(header, ssti_record_word(is_parcel ? SSTI_RECORD_SLOT
                                                          : SSTI_RECORD_EXTENT,
                                                size));
        commit_extent(ring, deposit);
    }
    else {
        ssti_ring_copy_slices(payload, deposit->slices, deposit->count);
        ssti_store_rlx(header,
                       ssti_record_word(SSTI_RECORD_INLINE, (uint32_t)deposit->size));
        SST_CRASHPOINT(ring_put_written);
        ssti_store_rel(&shm->put_cursor, deposit->next_cursor);
    }
    SST_CRASHPOINT(ring_put_committed);
    ssti_store_rlx(&shm->put_bytes, ssti_load_rlx(&shm->put_bytes) + deposit->size);
    /* Pairs with ssti_ring_count: who sees the count may look for the message. */
    ssti_store_rel(&shm->put_count, ssti_load_rlx(&shm->put_count) + 1);
    SST_CRASHPOINT(ring_put_counted);
}

/* ---- Taking ---- */

/* The next record to take, leaving drained chunks behind. */
static int
next_record(struct ssti_ring *ring, struct ssti_record *out)
{
    struct sst_ring_shm *const shm = ring->shm;
    int rc = enter(ring);

    while (rc == 0) {
        if (ring->get == NULL) {
            return SSTI_RING_EMPTY;
        }

        const bool is_last = ring->get == ring->put;

        rc =
            ssti_record_read(ring->get, ring->get_size, ssti_load_rlx(&shm->get_cursor),
                             is_last ? ssti_load_rlx(&shm->put_cursor)
                                     : ssti_load_rlx(&ring->get->end),
                             out);
        if (rc != SSTI_RING_EMPTY || is_last) {
            break;
        }
        rc = ssti_chunk_advance(ring);
    }
    return rc == SST_ECORRUPT ? damaged(ring) : rc;
}

int
ssti_ring_peek_locked(struct ssti_ring *ring)
{
    struct ssti_record record;

    return next_record(ring, &record);
}

void
ssti_receipt_init(struct ssti_receipt *receipt, struct sst_message *message)
{
    receipt->message = message;
    receipt->buffer = NULL;
    receipt->mapped = NULL;
    receipt->parcel = NULL;
    receipt->is_ready = false;
    receipt->want_extent = 0;
    receipt->want_size = 0;
    receipt->want_data = 0;
    receipt->has_held = false;
    receipt->is_unread = false;
    receipt->misfits = 0;
}

/* Somebody else took what was prepared for. */
static void
forget_want(struct ssti_ring *ring, struct ssti_receipt *receipt)
{
    if (receipt->mapped != NULL) {
        ssti_arena_unpin(ring->arena, receipt->want_extent, receipt->want_size);
    }
    if (receipt->parcel != NULL) {
        ssti_parcel_forget(receipt->parcel);
    }
    receipt->mapped = NULL;
    receipt->parcel = NULL;
    receipt->is_ready = false;
    receipt->want_extent = 0;
}

void
ssti_receipt_next(struct ssti_receipt *receipt, struct sst_message *message)
{
    receipt->message = message;
    receipt->misfits = 0;
}

void
ssti_receipt_fini(struct ssti_ring *ring, struct ssti_receipt *receipt)
{
    ssti_free(receipt->buffer);
    if (receipt->want_extent != 0) {
        forget_want(ring, receipt);
    }
    if (receipt->has_held) {
        ssti_ring_give_back(ring, 0, receipt->held);
    }
}

/* Map what is wanted. SST_EAGAIN: it is nothing of the kind (any more). */
static int
map_want(struct ssti_ring *ring, struct ssti_receipt *receipt)
{
    if (receipt->want_data != 0 && receipt->is_unread) {
        return ssti_parcel_is_at(ring->arena, receipt->want_extent) ? 0 : SST_EAGAIN;
    }
    if (receipt->want_data != 0) {
        return ssti_parcel_prepare(ring->arena, receipt->want_extent,
                                   receipt->want_data, receipt->want_size,
                                   &receipt->parcel);
    }
    if (ssti_extent_size(ring->arena, receipt->want_extent) < receipt->want_size) {
        return SST_EAGAIN;
    }
    if (receipt->is_unread) {
        return 0;
    }
    receipt->mapped =
        ssti_arena_pin(ring->arena, receipt->want_extent, receipt->want_size);
    return receipt->mapped != NULL ? 0 : SST_ENOMEM;
}

int
ssti_receipt_prepare(struct ssti_ring *ring, struct ssti_receipt *receipt)
{
    int rc = 0;

    if (receipt->want_extent == 0) {
        receipt->buffer = ssti_alloc(SSTI_RING_INLINE_MAX);
        return receipt->buffer != NULL ? 0 : SST_ENOMEM;
    }
    if (!receipt->has_held) {
        rc = ssti_held_reserve(ring->arena, &receipt->held);
        if (rc != 0) {
            return rc;
        }
        ssti_held_tie(ring->arena, receipt->held, ring->object);
        receipt->has_held = true;
    }
    rc = map_want(ring, receipt);
    receipt->is_ready = rc == 0;
    /* It may be taken and freed by others meanwhile: then the next try finds
     * another. */
    if (rc == SST_EAGAIN) {
        rc = ++receipt->misfits < MISFITS_MAX ? 0 : SST_ECORRUPT;
    }
    return rc;
}

/* Copy an inline message out. 0, SSTI_RING_RECEIPT. */
static int
copy_out(struct ssti_ring *ring, struct ssti_receipt *receipt,
         const struct ssti_record *record)
{
    struct sst_message *const message = receipt->message;
    void *to = message->small;

    message->owner = NULL;
    message->extent = 0;
    if (record->size > sizeof message->small) {
        if (receipt->buffer == NULL) {
            forget_want(ring, receipt);
            return SSTI_RING_RECEIPT;
        }
        to = receipt->buffer;
        message->owner = to;
        receipt->buffer = NULL;
    }
    ssti_copy_out(to, ssti_chunk_data(ring->get, record->at), record->size);
    message->data = to;
    message->size = record->size;
    return 0;
}

/* Is what the record names at hand? 0; SSTI_RING_RECEIPT: now it is wanted;
 * SST_ECORRUPT. */
static int
meet_want(struct ssti_ring *ring, struct ssti_receipt *receipt,
          const struct ssti_record *record)
{
    const bool is_parcel = record->kind == SSTI_RECORD_SLOT;
    uint64_t named[3] = {0, 0, 0};

    ssti_copy_out(named, ssti_chunk_data(ring->get, record->at),
                  is_parcel ? SSTI_RECORD_SLOT_SIZE : SSTI_RECORD_EXTENT_SIZE);
    if (named[0] == 0 || named[0] % SSTI_SLOT_SIZE_MIN != 0 || named[1] > INT64_MAX ||
        (is_parcel ? named[2] == 0 : named[1] == 0)) {
        return damaged(ring);
    }
    if (receipt->has_held && receipt->want_extent == named[0] &&
        receipt->want_size == named[1] && receipt->want_data == named[2] &&
        receipt->is_ready) {
        return 0;
    }
    if (receipt->want_extent != named[0]) {
        receipt->misfits = 0;
    }
    forget_want(ring, receipt);
    receipt->want_extent = named[0];
    receipt->want_size = named[1];
    receipt->want_data = named[2];
    return SSTI_RING_RECEIPT;
}

/* What was taken becomes the message's. */
static void
hand_over(struct ssti_ring *ring, struct ssti_receipt *receipt)
{
    struct sst_message *const message = receipt->message;

    if (receipt->parcel != NULL) {
        ssti_parcel_taken(receipt->parcel, receipt->held);
        message->data = receipt->parcel->data;
        message->owner = receipt->parcel;
        message->extent = SSTI_MESSAGE_PARCEL;
    }
    else {
        message->data = receipt->mapped; /* NULL when it is only to be freed */
        message->owner = ring->arena;
        message->extent = (uint64_t)receipt->held + SSTI_MESSAGE_HELD;
    }
    message->size = receipt->want_size;
    receipt->has_held = false;
    receipt->mapped = NULL;
    receipt->parcel = NULL;
    receipt->is_ready = false;
    receipt->want_extent = 0;
}

/* Take over the extent of a message, or a parcel, and commit. 0, SSTI_RING_RECEIPT,
 * SST_ECORRUPT. */
static int
move_out(struct ssti_ring *ring, struct ssti_receipt *receipt,
         const struct ssti_record *record)
{
    const bool is_parcel = record->kind == SSTI_RECORD_SLOT;
    const int rc = meet_want(ring, receipt, record);

    if (rc != 0) {
        return rc;
    }

    const uint64_t entry = ssti_held_offset(ring->arena, receipt->held);

    ssti_ring_intend(ring, &(struct ssti_intent){
                               .kind = SSTI_INTENT_TAKE,
                               .cursor = record->next,
                               .entry = entry,
                           });
    ssti_held_set(ring->arena, entry,
                  receipt->want_extent | (is_parcel ? SSTI_HELD_SLOT : 0));
    SST_CRASHPOINT(ring_take_moved);
    ssti_store_rel(&ring->shm->get_cursor, record->next);
    SST_CRASHPOINT(ring_take_extent_committed);
    ssti_ring_intended(ring);
    ssti_held_tie(ring->arena, receipt->held, 0);
    if (!is_parcel) {
        ssti_extent_inherit(ring->arena, receipt->held);
    }
    hand_over(ring, receipt);
    return 0;
}

int
ssti_ring_take_locked(struct ssti_ring *ring, struct ssti_receipt *receipt)
{
    struct sst_ring_shm *const shm = ring->shm;
    struct ssti_record record;
    int rc = next_record(ring, &record);

    if (rc != 0) {
        return rc;
    }
    if (record.kind != SSTI_RECORD_INLINE) {
        rc = move_out(ring, receipt, &record);
    }
    else {
        rc = copy_out(ring, receipt, &record);
        if (rc == 0) {
            SST_CRASHPOINT(ring_take_copied);
            ssti_store_rel(&shm->get_cursor, record.next);
        }
    }
    if (rc != 0) {
        return rc;
    }
    SST_CRASHPOINT(ring_take_committed);

    ssti_store_rlx(&shm->got_bytes,
                   ssti_load_rlx(&shm->got_bytes) + receipt->message->size);
    ssti_store_rel(&shm->got_count, ssti_load_rlx(&shm->got_count) + 1);
    SST_CRASHPOINT(ring_take_counted);
    if (ring->get == ring->put && record.next == ssti_load_rlx(&shm->put_cursor)) {
        ssti_chunk_empty(ring, false);
    }
    return 0;
}

/* ---- Life ---- */

/* Finish or undo what the dead owner had begun. */
static void
redo(struct ssti_ring *ring)
{
    struct sst_ring_shm *const shm = ring->shm;
    const struct ssti_intent intent = {
        .kind = (enum ssti_ring_intent)ssti_load_acq(&shm->intent),
        .cursor = ssti_load_rlx(&shm->intent_cursor),
        .entry = ssti_load_rlx(&shm->intent_entry),
        .extent = ssti_load_rlx(&shm->intent_extent),
        .next = ssti_load_rlx(&shm->intent_next),
    };

    if (intent.kind == SSTI_INTENT_PUT) {
        ssti_store_rel(&shm->put_cursor, intent.cursor);
        ssti_held_set(ring->arena, intent.entry, 0);
    }
    else if (intent.kind == SSTI_INTENT_TAKE) {
        if (ssti_load_rlx(&shm->get_cursor) != intent.cursor) {
            ssti_held_set(ring->arena, intent.entry, 0);
        }
    }
    else if (intent.kind != SSTI_INTENT_NONE) {
        ssti_chunk_redo(ring, &intent);
    }
    ssti_ring_intended(ring);
}

/* Make counts and bytes agree with the records between the cursors. */
static int
recount(struct ssti_ring *ring)
{
    struct sst_ring_shm *const shm = ring->shm;
    uint64_t offset = ssti_load_rlx(&shm->get_chunk);
    const uint64_t last = ssti_load_rlx(&shm->put_chunk);
    uint32_t cursor = ssti_load_rlx(&shm->get_cursor);
    uint64_t count = 0;
    uint64_t bytes = 0;

    while (offset != 0) {
        uint32_t size;
        struct sst_chunk_shm *const chunk = ssti_chunk_at(ring, offset, &size);

        if (chunk == NULL) {
            return SST_ECORRUPT;
        }

        const uint32_t limit = offset == last ? ssti_load_rlx(&shm->put_cursor)
                                              : ssti_load_rlx(&chunk->end);

        if (ssti_record_count(chunk, size, cursor, limit, &count, &bytes) != 0) {
            return SST_ECORRUPT;
        }
        offset = offset == last ? 0 : ssti_load_rlx(&chunk->next);
        cursor = 0;
    }

    ssti_store_rlx(&shm->put_bytes, ssti_load_rlx(&shm->got_bytes) + bytes);
    ssti_store_rel(&shm->put_count, ssti_load_rlx(&shm->got_count) + count);
    return 0;
}

void
ssti_ring_repair_locked(struct ssti_ring *ring)
{
    if ((ssti_load_rlx(&ring->shm->flags) & SSTI_RING_CORRUPT) != 0) {
        return;
    }
    redo(ring);
    /* Who cannot map the chunks cannot count either, and nobody else would. */
    if (enter(ring) != 0 || recount(ring) != 0) {
        (void)damaged(ring);
    }
}

bool
ssti_ring_has_retired(const struct ssti_ring *ring)
{
    return ssti_load_rlx(&ring->shm->retired) != 0;
}

void
ssti_ring_trim(struct ssti_ring *ring, const struct ssti_ring_section *section)
{
    uint32_t held;
    bool found = true;

    while (found && ssti_ring_has_retired(ring)) {
        if (ssti_held_reserve(ring->arena, &held) != 0) {
            return; /* the next one to come by tries again */
        }
        ssti_held_tie(ring->arena, held, ring->object);
        section->lock(section->object);
        found = enter(ring) == 0 &&
                ssti_chunk_free(ring, ssti_held_offset(ring->arena, held));
        section->unlock(section->object);
        ssti_ring_give_back(ring, found ? 1 : 0, held);
    }
}

void
ssti_ring_clear(struct ssti_ring *ring, const struct ssti_ring_section *section,
                bool last)
{
    struct sst_message message;
    struct ssti_receipt receipt;
    int rc = 0;

    ssti_receipt_init(&receipt, &message);
    receipt.is_unread = true;
    while (rc == 0) {
        section->lock(section->object);
        rc = ssti_ring_take_locked(ring, &receipt);
        if (rc == SSTI_RING_EMPTY && last) {
            ssti_chunk_empty(ring, true);
        }
        section->unlock(section->object);
        if (rc == 0) {
            sst_message_free(&message);
            ssti_receipt_next(&receipt, &message);
        }
        else if (rc == SSTI_RING_RECEIPT) {
            rc = ssti_receipt_prepare(ring, &receipt);
        }
    }
    ssti_receipt_fini(ring, &receipt);
    ssti_ring_trim(ring, section);
}
