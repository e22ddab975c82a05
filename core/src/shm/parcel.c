/* SPDX-License-Identifier: MIT */

/* Parcels: messages prepared in shared memory, with what they keep alive.
 *
 *     slot:    header | hold words | bytes       all of it, when it fits into a slot
 *     slot:    header | hold words               else the bytes are in an extent,
 *     extent:  bytes  | hold words               and the words, too, when too many
 *
 * A hold word is worth one count of the slot it names, exactly like the entry of a held
 * table, and is written and cleared together with that count (slots.c). So a parcel
 * holds what it names for as long as it is held itself, whoever holds it: an entry of a
 * process, or a message in a queue (ring.c). The last to drop it drops its holds one by
 * one, then the extent. Each of these steps is whole or not done and leaves its word
 * empty, so the whole may be run again.
 *
 * What a parcel holds may be another parcel, or a queue with parcels in it, and so on.
 * Dropping is not recursive for all that: ssti_slot_drop_word takes the last hold of
 * something over into our own table and puts it off (slots.c).
 *
 * A sealed parcel never changes again. Its ranges of addresses are listed per process,
 * so that what is inside one can be sent by reference (sst_parcel_find).
 *
 * Death table (process dies after ...)
 *   making the extent           its held entry frees it
 *   zeroing the words there     the same
 *   making the slot             its held entry destroys it; it names no extent yet, and
 *                               words in an extent it does not name are left alone
 *   moving the extent to it     one step (heap.c)
 *   signing a hold              redone by the next to lock the class; the word is below
 *                               hold_max, which is what destroy looks at
 *   dropping some holds         destroyed again: those words are empty
 *   freeing the extent          the slot names none any more
 *
 * docs/internals/parcels.rst. */

#include "shm/parcel.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "shm/view.h"

enum {
    WORD = sizeof(uint64_t),
    ALIGNMENT = 16, /* of bytes in a slot */
    SLOT_ROOM = SSTI_SLOT_SIZE_MAX - (int)sizeof(struct sst_parcel_shm),
};

/* Where the parts of a parcel go. */
struct plan {
    uint64_t slot_size;
    uint64_t extent_size; /* 0 = none */
    uint64_t words;       /* from the start of the extent, if that has them, */
    uint64_t data;        /* else of the slot; the same */
    bool words_in_extent;
};

static struct plan
plan_of(uint64_t size, uint32_t hold_max)
{
    const uint64_t words_size = (uint64_t)hold_max * WORD;
    const uint64_t words_room = ssti_round_up(words_size, ALIGNMENT);
    struct plan plan = {
        .slot_size = sizeof(struct sst_parcel_shm),
        .words = sizeof(struct sst_parcel_shm),
    };

    if (words_room <= SLOT_ROOM && size <= SLOT_ROOM - words_room) {
        plan.slot_size += words_room + size;
        plan.data = plan.words + words_room;
        return plan;
    }
    if (words_size <= SLOT_ROOM) {
        plan.slot_size += words_size;
        plan.extent_size = size;
    }
    else {
        plan.words_in_extent = true;
        plan.words = ssti_round_up(size, WORD);
        plan.extent_size = plan.words + words_size;
    }
    return plan;
}

/* ---- Holds ---- */

/* Where the hold words are, and how many: only what lies in memory that is surely the
 * parcel's. */
static uint64_t
words_of(struct sst_arena *arena, const struct sst_parcel_shm *shm, uint64_t offset,
         uint32_t *count)
{
    const uint64_t words = ssti_load_acq(&shm->words);
    const uint64_t extent = ssti_load_acq(&shm->extent);
    const bool is_inside = words >= offset && words < offset + SSTI_SLOT_SIZE_MAX;
    const uint64_t start = is_inside ? offset : extent;
    const uint64_t room =
        is_inside ? ssti_slot_room(arena, offset) : ssti_extent_size(arena, extent);
    const uint32_t hold_max = ssti_load_acq(&shm->hold_max);

    *count = 0;
    if (words % WORD == 0 && words >= start && words - start <= room &&
        (uint64_t)hold_max * WORD <= room - (words - start)) {
        *count = hold_max;
    }
    return words;
}

static void
parcel_destroy(struct sst_arena *arena, void *object)
{
    struct sst_parcel_shm *const shm = object;
    const uint64_t offset = ssti_load_acq(&shm->offset);
    uint64_t words;
    uint32_t count;

    if (offset == 0 || ssti_arena_ptr(arena, offset, sizeof *shm) != object) {
        return; /* it was never finished, or is damaged */
    }
    words = words_of(arena, shm, offset, &count);
    for (uint32_t i = 0; i < count; i++) {
        ssti_slot_drop_word(arena, words + (uint64_t)i * WORD);
        SST_CRASHPOINT(parcel_hold_dropped);
    }
    if (ssti_load_acq(&shm->extent) != 0) {
        ssti_extent_free_at(arena, offset + offsetof(struct sst_parcel_shm, extent), 0);
        SST_CRASHPOINT(parcel_destroyed);
    }
}

const struct ssti_kind_ops *
ssti_parcel_kind(void)
{
    static struct ssti_kind_ops ops = {.destroy = parcel_destroy};

    ops.layout = SSTI_LAYOUT_HASH(sizeof(struct sst_parcel_shm),
                                  offsetof(struct sst_parcel_shm, size),
                                  offsetof(struct sst_parcel_shm, words),
                                  offsetof(struct sst_parcel_shm, hold_max));
    return &ops;
}

int
sst_parcel_hold(struct sst_parcel *parcel, const struct sst_handle *handle,
                struct sst_error *err)
{
    struct sst_parcel_shm *const shm = parcel->shm;
    const uint32_t index = ssti_load_rlx(&shm->hold_count);
    uint32_t count;
    const uint64_t words = words_of(parcel->arena, shm, parcel->offset, &count);
    int rc;

    if (handle->offset == parcel->offset || ssti_load_rlx(&shm->sealed) != 0) {
        return ssti_error_set(err, SST_EINVAL, "this parcel cannot hold that");
    }
    if (index >= count) {
        return ssti_error_set(err, SST_ELIMIT,
                              "the parcel has room for %" PRIu32 " handles", count);
    }
    rc =
        ssti_slot_hold_into(parcel->arena, handle, words + (uint64_t)index * WORD, err);
    if (rc == 0) {
        SST_CRASHPOINT(parcel_held);
        ssti_store_rel(&shm->hold_count, index + 1);
    }
    return rc;
}

uint32_t
sst_parcel_count(const struct sst_parcel *parcel)
{
    uint32_t count;

    (void)words_of(parcel->arena, parcel->shm, parcel->offset, &count);
    return (uint32_t)ssti_min(count, ssti_load_acq(&parcel->shm->hold_count));
}

int
sst_parcel_handle_at(const struct sst_parcel *parcel, uint32_t index,
                     struct sst_handle *out)
{
    struct sst_arena *const arena = parcel->arena;
    const struct sst_slot_shm *slot;
    const _Atomic uint64_t *word;
    uint64_t words;
    uint32_t count;
    uint64_t offset;

    if (index >= sst_parcel_count(parcel)) {
        return SST_EINVAL;
    }
    words = words_of(arena, parcel->shm, parcel->offset, &count);
    word = ssti_arena_word(arena, words + (uint64_t)index * WORD);
    offset = word != NULL ? ssti_load_acq(word) & ~(uint64_t)SSTI_HELD_FLAGS : 0;
    slot = ssti_slot_room(arena, offset) != 0
               ? ssti_arena_ptr(arena, offset, sizeof *slot)
               : NULL;
    if (slot == NULL) {
        return SST_ECORRUPT;
    }
    *out = (struct sst_handle){
        .arena = arena->id,
        .offset = offset,
        .generation = ssti_load_rlx(&slot->generation),
        .kind = ssti_load_rlx(&slot->kind),
    };
    return 0;
}

/* ---- Sealed ones, by address ---- */

/* The first in the list whose bytes begin above `address`. The list is in order; the
 * caller holds map_lock. */
static uint32_t
place_of(const struct sst_arena *arena, const char *address)
{
    uint32_t low = 0;
    uint32_t high = arena->sealed_count;

    while (low < high) {
        const uint32_t middle = (low + high) / 2;

        if ((const char *)arena->sealed[middle]->data <= address) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

/* Without memory it is not found, and what is in it is copied. */
static void
list(struct sst_parcel *parcel)
{
    struct sst_arena *const arena = parcel->arena;
    struct sst_parcel **grown = arena->sealed;
    uint32_t at;

    if (parcel->size == 0) {
        return;
    }
    ssti_local_lock(&arena->map_lock);
    if (!parcel->is_found && arena->sealed_count == arena->sealed_room) {
        const uint32_t room = arena->sealed_room * 2 + 8;

        grown = ssti_realloc(grown, room * sizeof(struct sst_parcel *));
        if (grown != NULL) {
            arena->sealed = grown;
            arena->sealed_room = room;
        }
    }
    if (!parcel->is_found && grown != NULL) {
        at = place_of(arena, parcel->data);
        memmove(arena->sealed + at + 1, arena->sealed + at,
                (arena->sealed_count - at) * sizeof(struct sst_parcel *));
        arena->sealed[at] = parcel;
        arena->sealed_count++;
        parcel->is_found = true;
    }
    ssti_local_unlock(&arena->map_lock);
}

static void
unlist(struct sst_parcel *parcel)
{
    struct sst_arena *const arena = parcel->arena;
    uint32_t at;

    if (!parcel->is_found) {
        return;
    }
    ssti_local_lock(&arena->map_lock);
    /* The same parcel may be open several times, at the same address. */
    at = place_of(arena, parcel->data);
    while (at > 0 && arena->sealed[at - 1] != parcel) {
        at--;
    }
    if (at > 0) {
        memmove(arena->sealed + at - 1, arena->sealed + at,
                (arena->sealed_count - at) * sizeof(struct sst_parcel *));
        arena->sealed_count--;
    }
    if (arena->sealed_count == 0) {
        arena->sealed = ssti_free(arena->sealed);
        arena->sealed_room = 0;
    }
    parcel->is_found = false;
    ssti_local_unlock(&arena->map_lock);
}

int
sst_parcel_seal(struct sst_parcel *parcel)
{
    ssti_store_rel(&parcel->shm->sealed, 1);
    list(parcel);
    return 0;
}

bool
sst_parcel_is_sealed(const struct sst_parcel *parcel)
{
    return ssti_load_acq(&parcel->shm->sealed) != 0;
}

bool
sst_parcel_find(struct sst_arena *arena, const void *address, uint64_t size,
                struct sst_handle *out, uint64_t *offset)
{
    bool is_found = false;
    uint32_t at;

    ssti_local_lock(&arena->map_lock);
    at = place_of(arena, address);
    if (at > 0) {
        const struct sst_parcel *const parcel = arena->sealed[at - 1];
        const uint64_t distance =
            (uint64_t)((const char *)address - (const char *)parcel->data);

        is_found = distance <= parcel->size && size <= parcel->size - distance;
        if (is_found) {
            sst_parcel_handle(parcel, out);
            *offset = distance;
        }
    }
    ssti_local_unlock(&arena->map_lock);
    return is_found;
}

/* ---- Life ---- */

/* Fill in the view of a slot that is held, and map its bytes. */
static int
open_view(struct sst_parcel *parcel, struct sst_error *err)
{
    struct sst_arena *const arena = parcel->arena;
    struct sst_parcel_shm *const shm =
        ssti_arena_ptr(arena, parcel->offset, sizeof *shm);

    if (shm == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "the parcel's slot cannot be mapped");
    }
    parcel->shm = shm;
    parcel->generation = ssti_load_rlx(&shm->slot.generation);
    parcel->size = ssti_load_acq(&shm->size);
    parcel->data_offset = ssti_load_acq(&shm->data);
    if (!ssti_arena_has(arena, parcel->data_offset, parcel->size)) {
        return ssti_error_set(err, SST_ECORRUPT, "the parcel's bytes are nowhere");
    }
    parcel->data = ssti_arena_pin(arena, parcel->data_offset, parcel->size);
    if (parcel->data == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "%" PRIu64 " bytes cannot be mapped",
                              parcel->size);
    }
    if (ssti_load_acq(&shm->sealed) != 0) {
        list(parcel);
    }
    return 0;
}

/* Words that are to be in an extent which nobody else knows yet. */
static int
clear_words(struct sst_arena *arena, uint64_t extent, const struct plan *plan,
            struct sst_error *err)
{
    char *bytes;

    if (!plan->words_in_extent) {
        return 0;
    }
    bytes = ssti_arena_pin(arena, extent, plan->extent_size);
    if (bytes == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "%" PRIu64 " bytes cannot be mapped",
                              plan->extent_size);
    }
    memset(bytes + plan->words, 0, plan->extent_size - plan->words);
    ssti_arena_unpin(arena, extent, plan->extent_size);
    SST_CRASHPOINT(parcel_words_cleared);
    return 0;
}

/* Write what is constant into a new slot; with this it is whole but for the extent. */
static int
format(struct sst_parcel *parcel, uint64_t size, uint32_t hold_max, uint64_t extent,
       const struct plan *plan)
{
    struct sst_parcel_shm *const shm =
        ssti_arena_ptr(parcel->arena, parcel->offset, sizeof *shm);

    if (shm == NULL) {
        return SST_ENOMEM;
    }
    ssti_store_rlx(&shm->size, size);
    ssti_store_rlx(&shm->data, (extent != 0 ? extent : parcel->offset) + plan->data);
    ssti_store_rlx(&shm->words,
                   (plan->words_in_extent ? extent : parcel->offset) + plan->words);
    ssti_store_rlx(&shm->hold_max, hold_max);
    SST_CRASHPOINT(parcel_sized);
    ssti_store_rel(&shm->offset, parcel->offset); /* pairs with parcel_destroy */
    return 0;
}

/* The shared part of a new parcel. */
static int
make(struct sst_parcel *parcel, uint64_t size, uint32_t hold_max, struct sst_error *err)
{
    struct sst_arena *const arena = parcel->arena;
    const struct plan plan = plan_of(size, hold_max);
    uint32_t extent_held = 0;
    uint64_t extent = 0;
    int rc = 0;

    if (plan.extent_size != 0) {
        rc = ssti_extent_create(arena, plan.extent_size, &extent_held, &extent, err);
        if (rc != 0) {
            return rc;
        }
        rc = clear_words(arena, extent, &plan, err);
        if (rc != 0) {
            goto fail_slot;
        }
    }
    rc = ssti_slot_create(arena, SST_KIND_PARCEL, (uint32_t)plan.slot_size,
                          &parcel->held, &parcel->offset, err);
    if (rc != 0) {
        goto fail_slot;
    }
    rc = format(parcel, size, hold_max, extent, &plan);
    if (rc != 0) {
        ssti_error_set(err, rc, "the parcel's slot cannot be mapped");
        goto fail_format;
    }
    if (extent != 0) {
        ssti_extent_give(arena, extent_held,
                         parcel->offset + offsetof(struct sst_parcel_shm, extent));
        SST_CRASHPOINT(parcel_made);
    }
    return 0;

fail_format:
    ssti_slot_drop(arena, parcel->held);
fail_slot:
    if (extent != 0) {
        ssti_extent_drop(arena, extent_held);
    }
    return rc;
}

static struct sst_parcel *
new_view(struct sst_arena *arena, struct sst_error *err)
{
    struct sst_parcel *const parcel = ssti_alloc(sizeof *parcel);

    if (parcel != NULL) {
        parcel->arena = arena;
    }
    else {
        (void)ssti_error_set(err, SST_ENOMEM, "%s", sst_status_text(SST_ENOMEM));
    }
    return parcel;
}

int
sst_parcel_create(struct sst_arena *arena, uint64_t size, uint32_t handle_max,
                  struct sst_parcel **out, struct sst_error *err)
{
    struct sst_parcel *parcel;
    int rc;

    if (size > INT64_MAX) {
        return ssti_error_set(err, SST_EINVAL, "no parcel has %" PRIu64 " bytes", size);
    }
    parcel = new_view(arena, err);
    if (parcel == NULL) {
        return SST_ENOMEM;
    }
    rc = make(parcel, size, handle_max, err);
    if (rc != 0) {
        goto fail_make;
    }
    rc = open_view(parcel, err);
    if (rc != 0) {
        goto fail_open;
    }
    *out = parcel;
    return 0;

fail_open:
    ssti_slot_drop(arena, parcel->held);
fail_make:
    ssti_free(parcel);
    return rc;
}

int
sst_parcel_attach(struct sst_arena *arena, const struct sst_handle *handle,
                  struct sst_parcel **out, struct sst_error *err)
{
    struct sst_parcel *parcel;
    int rc;

    if (handle->kind != SST_KIND_PARCEL) {
        return ssti_error_set(err, SST_EINVAL, "the handle names no parcel");
    }
    parcel = new_view(arena, err);
    if (parcel == NULL) {
        return SST_ENOMEM;
    }
    parcel->offset = handle->offset;
    rc = ssti_slot_hold(arena, handle, &parcel->held, err);
    if (rc != 0) {
        goto fail_hold;
    }
    rc = open_view(parcel, err);
    if (rc != 0) {
        goto fail_open;
    }
    *out = parcel;
    return 0;

fail_open:
    ssti_slot_drop(arena, parcel->held);
fail_hold:
    ssti_free(parcel);
    return rc;
}

static struct sst_parcel_shm *
parcel_at(struct sst_arena *arena, uint64_t offset)
{
    struct sst_parcel_shm *const shm = ssti_slot_room(arena, offset) >= sizeof *shm
                                           ? ssti_arena_ptr(arena, offset, sizeof *shm)
                                           : NULL;

    if (shm == NULL || ssti_load_acq(&shm->slot.state) != SSTI_SLOT_LIVE ||
        ssti_load_rlx(&shm->slot.kind) != SST_KIND_PARCEL) {
        return NULL;
    }
    return shm;
}

bool
ssti_parcel_is_at(struct sst_arena *arena, uint64_t offset)
{
    return parcel_at(arena, offset) != NULL;
}

int
ssti_parcel_prepare(struct sst_arena *arena, uint64_t offset, uint64_t data_offset,
                    uint64_t size, struct sst_parcel **out)
{
    struct sst_parcel_shm *const shm = parcel_at(arena, offset);
    struct sst_parcel *parcel;

    if (shm == NULL || !ssti_arena_has(arena, data_offset, size)) {
        return SST_EAGAIN;
    }
    parcel = new_view(arena, NULL);
    if (parcel == NULL) {
        return SST_ENOMEM;
    }
    parcel->shm = shm;
    parcel->offset = offset;
    parcel->data_offset = data_offset;
    parcel->size = size;
    parcel->data = ssti_arena_pin(arena, data_offset, size);
    if (parcel->data == NULL) {
        ssti_free(parcel);
        return SST_ENOMEM;
    }
    *out = parcel;
    return 0;
}

void
ssti_parcel_taken(struct sst_parcel *parcel, uint32_t held)
{
    parcel->held = held;
    parcel->generation = ssti_load_rlx(&parcel->shm->slot.generation);
    if (ssti_load_acq(&parcel->shm->sealed) != 0) {
        list(parcel);
    }
}

void
ssti_parcel_forget(struct sst_parcel *parcel)
{
    unlist(parcel);
    ssti_arena_unpin(parcel->arena, parcel->data_offset, parcel->size);
    ssti_free(parcel);
}

struct sst_parcel *
sst_parcel_close(struct sst_parcel *parcel)
{
    if (parcel != NULL) {
        struct sst_arena *const arena = parcel->arena;
        const uint32_t held = parcel->held;

        ssti_parcel_forget(parcel);
        ssti_slot_drop(arena, held);
    }
    return NULL;
}

void
sst_parcel_handle(const struct sst_parcel *parcel, struct sst_handle *out)
{
    *out = (struct sst_handle){
        .arena = parcel->arena->id,
        .offset = parcel->offset,
        .generation = parcel->generation,
        .kind = SST_KIND_PARCEL,
    };
}

void *
sst_parcel_data(const struct sst_parcel *parcel)
{
    return parcel->data;
}

uint64_t
sst_parcel_size(const struct sst_parcel *parcel)
{
    return parcel->size;
}
