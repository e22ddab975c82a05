/* SPDX-License-Identifier: MIT */

/* Wait records: where the threads of each process sleep. The protocol is leaf.c's; here
 * is only who may use which record.
 *
 * A record belongs to the thread that claimed it in the process's own table of claims,
 * which is not shared: nobody else needs to know. `leaf` is not 0 while it is claimed,
 * so the sweeper forgets every record that names a leaf, also one whose state is FREE:
 * an intent of its dead owner may still be about to count it.
 *
 * Death table
 *   claimed, leaf written    forgotten by the sweeper; nothing was counted
 *   counted, asleep, woken   leaf.c
 *   given back               leaf is 0: nothing to forget */

#include "shm/waits.h"

#include "base/crashpoint.h"
#include "os/os.h"
#include "shm/view.h"

static _Thread_local uint32_t last_claim = UINT32_MAX;
static _Atomic uint32_t next_thread;

static struct sst_wait_shm *
our_records(struct sst_arena *arena)
{
    return (struct sst_wait_shm *)(void *)arena->area;
}

/* Start where this thread found a free record last time; threads start apart. */
static uint32_t
claim(struct sst_arena *arena)
{
    if (last_claim == UINT32_MAX) {
        last_claim = ssti_fetch_add(&next_thread, 1) % SSTI_AREA_WAITS;
    }
    for (uint32_t i = 0; i < SSTI_AREA_WAITS; i++) {
        const uint32_t index = (last_claim + i) % SSTI_AREA_WAITS;
        uint8_t free = 0;

        if (ssti_load_rlx(&arena->waits_taken[index]) == 0 &&
            ssti_cas(&arena->waits_taken[index], &free, 1)) {
            last_claim = index;
            return index;
        }
    }
    return UINT32_MAX;
}

/* Records the sweeper looks at. */
static void
raise_high(struct sst_arena *arena, uint32_t count)
{
    uint32_t high = ssti_load_rlx(&arena->seat->waits_high);

    while (high < count && !ssti_cas(&arena->seat->waits_high, &high, count)) {
    }
}

struct sst_wait_shm *
ssti_waits_take(struct sst_arena *arena, _Atomic uint32_t *leaf_word, uint32_t class)
{
    const uint64_t leaf = ssti_windows_offset(arena, leaf_word);
    struct sst_wait_shm *record;
    uint32_t index;

    if (arena->proc == 0 || leaf == 0) {
        return NULL;
    }
    index = claim(arena);
    if (index == UINT32_MAX) {
        return NULL;
    }
    raise_high(arena, index + 1);
    record = our_records(arena) + index;
    ssti_store_rlx(&record->class, class);
    ssti_store_rlx(&record->state, SSTI_WAIT_FREE);
    ssti_store_rel(&record->leaf, leaf); /* pairs with ssti_waits_undo */
    SST_CRASHPOINT(wait_record_claimed);
    return record;
}

void
ssti_waits_give(struct sst_arena *arena, struct sst_wait_shm *record)
{
    const uint32_t index = (uint32_t)(record - our_records(arena));

    ssti_store_rel(&record->leaf, 0);
    ssti_store_rel(&arena->waits_taken[index], 0); /* pairs with claim() */
}

uint64_t
ssti_waits_offset(struct sst_arena *arena, const struct sst_wait_shm *record)
{
    const uint64_t area =
        arena->map.areas + ssti_proc_index(arena->proc) * arena->map.area_size;

    return area + (uint64_t)((uintptr_t)record - (uintptr_t)arena->area);
}

struct sst_wait_shm *
ssti_waits_at(struct sst_arena *arena, uint64_t offset)
{
    const struct ssti_geometry *const map = &arena->map;

    if (offset < map->areas || offset >= map->slots ||
        (offset - map->areas) % map->area_size >= SSTI_AREA_PRESENCE_OFFSET ||
        offset % sizeof(struct sst_wait_shm) != 0) {
        return NULL;
    }
    return ssti_arena_ptr(arena, offset, sizeof(struct sst_wait_shm));
}

struct sst_leaf_shm *
ssti_waits_leaf(struct sst_arena *arena, const struct sst_wait_shm *record)
{
    const uint64_t offset = ssti_load_acq(&record->leaf);

    if (offset % sizeof(uint64_t) != 0 || offset < SSTI_CONTROL_OFFSET ||
        offset / SSTI_UNIT != (offset + sizeof(struct sst_leaf_shm) - 1) / SSTI_UNIT) {
        return NULL;
    }
    return ssti_arena_ptr(arena, offset, sizeof(struct sst_leaf_shm));
}

void
ssti_waits_undo(struct sst_arena *arena, uint32_t index)
{
    const struct sst_process_shm *const seat = ssti_proc_seat(arena, index);
    struct sst_wait_shm *const records =
        (struct sst_wait_shm *)(void *)ssti_proc_area(arena, index);
    uint32_t high = ssti_load_acq(&seat->waits_high);

    if (records == NULL) {
        return;
    }
    high = high < SSTI_AREA_WAITS ? high : SSTI_AREA_WAITS;
    for (uint32_t i = 0; i < high; i++) {
        if (ssti_load_acq(&records[i].leaf) != 0) {
            ssti_leaf_forget(arena, &records[i]);
            SST_CRASHPOINT(wait_record_forgotten);
            ssti_store_rel(&records[i].leaf, 0);
        }
    }
}
