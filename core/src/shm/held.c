/* SPDX-License-Identifier: MIT */

/* Held tables: what each process holds, written where others can read it when it is
 * dead.
 *
 * An entry is one hold: of a slot, or of an extent. Its value changes together with
 * what it counts in, under the leaf of the slot's class or of the heap and through that
 * leaf's intent, or under the leaf of an object into which it moves. So whatever the
 * instant of a death, an entry is worth exactly one count, and the sweeper undoes the
 * table entry by entry without asking how it came about.
 *
 * Which entries are free is known to the process alone. A free entry is 0; an entry
 * that is taken but not yet written is 0 too, and lost on nobody when the process dies.
 *
 * Death table
 *   after held_high was raised     the sweeper looks at an entry that is 0
 *   between tie and the move       the sweeper first settles the object, then reads
 *   anywhere in a change of value  the intent of the leaf under which it happens is
 *                                  redone
 *
 * docs/internals/memory.rst has the whole story. */

#include "base/alloc.h"
#include "base/assert.h"
#include "base/atomic.h"
#include "base/crashpoint.h"
#include "shm/view.h"

int
ssti_held_init(struct sst_arena *arena)
{
    ssti_local_init(&arena->held_lock);
    arena->held_free = NULL;
    arena->held_free_count = 0;
    arena->held_free_room = 0;
    return 0;
}

void
ssti_held_fini(struct sst_arena *arena)
{
    arena->held_free = ssti_free(arena->held_free);
}

uint64_t
ssti_held_offset_at(const struct sst_arena *arena, uint32_t seat, uint32_t index)
{
    return arena->map.areas + seat * arena->map.area_size + SSTI_AREA_HELD_OFFSET +
           (uint64_t)index * sizeof(struct sst_held_shm);
}

struct sst_held_shm *
ssti_held_at(struct sst_arena *arena, uint32_t seat, uint32_t index)
{
    if (seat >= arena->map.process_max || index >= arena->map.held_max) {
        return NULL;
    }
    return ssti_arena_ptr(arena, ssti_held_offset_at(arena, seat, index),
                          sizeof(struct sst_held_shm));
}

static struct sst_held_shm *
our_entry(struct sst_arena *arena, uint32_t held)
{
    sst_assert(held < arena->map.held_max);
    return (struct sst_held_shm *)(void *)(arena->area + SSTI_AREA_HELD_OFFSET) + held;
}

/* Room in the stack of free entries for one more than are in use, so that giving one
 * back never needs memory. */
static bool
make_room(struct sst_arena *arena, uint32_t high)
{
    uint32_t room = arena->held_free_room;
    uint32_t *grown;

    if (high < room) {
        return true;
    }
    room = room == 0 ? 64 : room * 2;
    grown = ssti_realloc(arena->held_free, room * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    arena->held_free = grown;
    arena->held_free_room = room;
    return true;
}

static int
reserve_locked(struct sst_arena *arena, uint32_t *held)
{
    const uint32_t high = ssti_load_rlx(&arena->seat->held_high);

    if (arena->held_free_count > 0) {
        *held = arena->held_free[--arena->held_free_count];
        return 0;
    }
    if (high >= arena->map.held_max) {
        return SST_ELIMIT;
    }
    if (!make_room(arena, high)) {
        return SST_ENOMEM;
    }
    ssti_store_rel(&arena->seat->held_high, high + 1); /* before the entry is written */
    SST_CRASHPOINT(held_high_raised);
    *held = high;
    return 0;
}

int
ssti_held_reserve(struct sst_arena *arena, uint32_t *held)
{
    int rc;

    if (ssti_arena_is_left(arena)) {
        return SST_ELIMIT; /* no seat was free at the fork, or the process has left */
    }
    ssti_local_lock(&arena->held_lock);
    do {
        rc = reserve_locked(arena, held);
        /* One that is not empty was written to by somebody who had no business there:
         * it is not used again. */
    } while (rc == 0 && ssti_load_rlx(&our_entry(arena, *held)->value) != 0);
    ssti_local_unlock(&arena->held_lock);
    return rc;
}

void
ssti_held_release(struct sst_arena *arena, uint32_t held)
{
    struct sst_held_shm *entry;

    if (ssti_arena_is_left(arena)) {
        return;
    }
    entry = our_entry(arena, held);
    if (ssti_load_rlx(&entry->value) != 0) {
        return; /* damage: what it names is not ours to drop */
    }
    ssti_store_rel(&entry->tie, 0);
    ssti_local_lock(&arena->held_lock);
    /* Without room the entry is simply not used again. */
    if (arena->held_free_count < arena->held_free_room) {
        arena->held_free[arena->held_free_count++] = held;
    }
    ssti_local_unlock(&arena->held_lock);
}

void
ssti_held_adopt(struct sst_arena *arena)
{
    const uint32_t high = ssti_load_rlx(&arena->seat->held_high);

    ssti_local_lock(&arena->held_lock);
    while (arena->held_free_room <= high && make_room(arena, arena->held_free_room)) {
    }
    ssti_local_unlock(&arena->held_lock);
}

uint64_t
ssti_held_offset(struct sst_arena *arena, uint32_t held)
{
    return ssti_held_offset_at(arena, ssti_proc_index(arena->proc), held);
}

uint64_t
ssti_held_value(struct sst_arena *arena, uint32_t held)
{
    return arena->proc != 0 ? ssti_load_rlx(&our_entry(arena, held)->value) : 0;
}

void
ssti_held_tie(struct sst_arena *arena, uint32_t held, uint64_t object_offset)
{
    if (arena->proc != 0) {
        ssti_store_rel(&our_entry(arena, held)->tie, object_offset);
    }
}

/* Offsets come out of redo records: only a word that is an entry is written. */
static bool
is_entry(const struct sst_arena *arena, uint64_t offset)
{
    const uint64_t from_first = offset - ssti_held_offset_at(arena, 0, 0);
    const uint64_t inside = from_first % arena->map.area_size;

    return offset >= ssti_held_offset_at(arena, 0, 0) &&
           from_first / arena->map.area_size < arena->map.process_max &&
           inside / sizeof(struct sst_held_shm) < arena->map.held_max &&
           inside % sizeof(struct sst_held_shm) == 0;
}

void
ssti_held_set(struct sst_arena *arena, uint64_t entry_offset, uint64_t extent)
{
    _Atomic uint64_t *const value = ssti_arena_word(arena, entry_offset);

    if (value != NULL && is_entry(arena, entry_offset)) {
        ssti_store_rel(value, extent);
    }
}
