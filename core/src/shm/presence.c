/* SPDX-License-Identifier: MIT */

/* Presence: that a process takes part in an object, in a number that means something to
 * the object alone, written where the sweeper finds it when the process is dead.
 *
 * The table is a hash table of the process's own area with linear probing; records are
 * never moved, because their addresses are given out. Records are found and made under
 * a process-local mutex, their values changed by any thread of the process.
 *
 * Death table
 *   object written, value 0       nothing to tell
 *   value changed                 the sweeper tells the object, if it is still the same
 *                                 one
 *   sweeper dies after telling    told once more by the next: arena.h says so */

#include "base/atomic.h"
#include "base/crashpoint.h"
#include "shm/view.h"

_Static_assert((SSTI_AREA_PRESENCES & (SSTI_AREA_PRESENCES - 1)) == 0,
               "a power of two");

enum {
    USED_BEFORE = 1, /* a record that was forgotten: probing goes on behind it */
};

static struct sst_presence_shm *
records_of(char *area)
{
    return (struct sst_presence_shm *)(void *)(area + SSTI_AREA_PRESENCE_OFFSET);
}

static uint32_t
hash_of(uint64_t offset)
{
    return (uint32_t)((offset / SSTI_SLOT_SIZE_MIN * UINT64_C(0x9e3779b97f4a7c15)) >>
                      40);
}

static uint32_t
generation_at(struct sst_arena *arena, uint64_t object)
{
    const struct sst_slot_shm *const slot =
        ssti_arena_ptr(arena, object, sizeof(struct sst_slot_shm));

    return slot != NULL ? ssti_load_acq(&slot->generation) : 0;
}

/* The record of an object, or the one to make it in; NULL when neither is there. */
static struct sst_presence_shm *
find(struct sst_arena *arena, uint64_t object, bool *is_new)
{
    struct sst_presence_shm *const records = records_of(arena->area);
    struct sst_presence_shm *vacant = NULL;

    *is_new = true;
    for (uint32_t i = 0; i < SSTI_AREA_PRESENCES; i++) {
        struct sst_presence_shm *const record =
            &records[(hash_of(object) + i) % SSTI_AREA_PRESENCES];
        const uint64_t found = ssti_load_rlx(&record->object);

        if (found == object) {
            *is_new = false;
            return record;
        }
        if (found <= USED_BEFORE && vacant == NULL) {
            vacant = record;
        }
        if (found == 0) {
            break;
        }
    }
    return vacant;
}

/* Forget a record. Probing must go on behind it only if something is there. */
static void
vacate(struct sst_presence_shm *records, uint32_t index)
{
    const uint32_t last = SSTI_AREA_PRESENCES - 1;

    ssti_store_rel(&records[index].object, USED_BEFORE);
    if (ssti_load_rlx(&records[(index + 1) & last].object) != 0) {
        return;
    }
    while (ssti_load_rlx(&records[index].object) == USED_BEFORE) {
        ssti_store_rel(&records[index].object, 0);
        index = (index - 1) & last;
    }
}

_Atomic int64_t *
ssti_presence(struct sst_arena *arena, uint64_t object_offset)
{
    struct sst_presence_shm *record;
    uint32_t generation;
    bool is_new;

    if (arena->proc == 0 || object_offset <= USED_BEFORE) {
        return NULL;
    }
    generation = generation_at(arena, object_offset);
    ssti_local_lock(&arena->presence_lock);
    record = find(arena, object_offset, &is_new);
    /* A record of an object that went without being forgotten is as good as none. */
    if (record != NULL &&
        (is_new || ssti_load_rlx(&record->generation) != generation)) {
        if (is_new) {
            ssti_fetch_add(&arena->seat->presence_count, 1);
        }
        ssti_store_rlx(&record->value, 0);
        ssti_store_rlx(&record->generation, generation);
        SST_CRASHPOINT(presence_made);
        ssti_store_rel(&record->object, object_offset); /* pairs with the sweeper */
    }
    ssti_local_unlock(&arena->presence_lock);
    return record != NULL ? &record->value : NULL;
}

void
ssti_presence_forget(struct sst_arena *arena, uint64_t object_offset)
{
    struct sst_presence_shm *record;
    bool is_new;

    if (arena->proc == 0 || object_offset <= USED_BEFORE ||
        ssti_load_rlx(&arena->seat->presence_count) == 0) {
        return;
    }
    ssti_local_lock(&arena->presence_lock);
    record = find(arena, object_offset, &is_new);
    if (record != NULL && !is_new) {
        vacate(records_of(arena->area), (uint32_t)(record - records_of(arena->area)));
        ssti_fetch_sub(&arena->seat->presence_count, 1);
    }
    ssti_local_unlock(&arena->presence_lock);
}

static void
tell(struct sst_arena *arena, const struct sst_presence_shm *record)
{
    const uint64_t object = ssti_load_acq(&record->object);
    const int64_t value = ssti_load_rlx(&record->value);
    struct sst_slot_shm *slot;
    const struct ssti_kind_ops *ops;

    if (object <= USED_BEFORE || value == 0) {
        return;
    }
    slot = object % SSTI_SLOT_SIZE_MIN == 0
               ? ssti_arena_ptr(arena, object, SSTI_SLOT_SIZE_MIN)
               : NULL;
    if (slot == NULL || ssti_load_acq(&slot->state) != SSTI_SLOT_LIVE ||
        ssti_load_rlx(&slot->generation) != ssti_load_rlx(&record->generation)) {
        return;
    }
    ops = ssti_kind_ops(ssti_load_rlx(&slot->kind));
    if (ops != NULL && ops->presence_died != NULL) {
        ops->presence_died(arena, slot, value);
    }
}

void
ssti_presence_undo(struct sst_arena *arena, uint32_t index)
{
    struct sst_process_shm *const seat = ssti_proc_seat(arena, index);
    char *const area = ssti_proc_area(arena, index);

    if (area == NULL || ssti_load_acq(&seat->presence_count) == 0) {
        return;
    }
    for (uint32_t i = 0; i < SSTI_AREA_PRESENCES; i++) {
        struct sst_presence_shm *const record = &records_of(area)[i];

        if (ssti_load_acq(&record->object) != 0) {
            tell(arena, record);
            SST_CRASHPOINT(presence_told);
            ssti_store_rlx(&record->value, 0);
            ssti_store_rel(&record->object, 0);
        }
    }
    ssti_store_rel(&seat->presence_count, 0);
}
