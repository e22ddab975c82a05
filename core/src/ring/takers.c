/* SPDX-License-Identifier: MIT */

/* Takers: the bookkeeping of a joinable queue.
 *
 * An item is unfinished from its put until somebody calls task_done. So
 *
 *     unfinished = items in the ring + taken taken = sum of all takers' counts + lost
 *
 * where a taker is a process and its count the items it took less the times it called
 * task_done: negative where items are handed on, since any process may call it. Of a
 * taker that died the count goes to `lost`: nobody will call task_done for those, which
 * is what join has to say. A put changes none of this.
 *
 * The table is an extent of its own, made at the first take. Its entry 0 is everybody's
 * who found no other: items taken there are not noticed when their taker dies.
 *
 * A take moves the ring's cursor and the taker's count. The count goes first, under a
 * record of what it was; whether the take was committed shows in the cursor. All sums
 * are counted anew after a death.
 *
 * Death table (owner of the leaf dies after ...)
 *   making the table           it is in the dead's held table: dropped with it
 *   TABLE intent               the next owner moves it into the queue
 *   TAKE intent, count raised  the cursor is where it was: the count is put back, the
 *                              item is still there
 *   taking, before the end     the cursor has moved: the count stands, and is lost with
 *                              the dead taker
 *   lowering a count in done   taken is counted anew: the item is done
 *   BURY intent                the next owner sets `lost` and frees the entry
 * A process that dies without the leaf is found by those who join: they sleep on the
 * life words of the takers (queue_life.c). */

#include "ring/takers.h"

#include "base/assert.h"
#include "base/crashpoint.h"
#include "ring/chunk.h"
#include "shm/arena.h"
#include "sidestep/sidestep.h"

enum ssti_takers_intent {
    TAKERS_NONE,
    TAKERS_TABLE, /* extent moves from the held entry `value` to the queue */
    TAKERS_TAKE,  /* undo: its count was `value` while the ring was at cursor, extent */
    TAKERS_BURY,  /* lost becomes `value`, and taker's entry free */
    TAKERS_FREE,  /* the table moves to the held entry `value` */
};

#define EVERYBODY UINT64_MAX /* proc of entry 0 */

static void
intend(struct ssti_takers *takers, enum ssti_takers_intent kind, uint64_t value,
       uint64_t extent)
{
    ssti_store_rlx(&takers->shm->intent_value, value);
    ssti_store_rlx(&takers->shm->intent_extent, extent);
    SST_CRASHPOINT(takers_intent_written);
    ssti_store_rel(&takers->shm->intent, (uint32_t)kind);
    SST_CRASHPOINT(takers_intent_valid);
}

static void
intended(struct ssti_takers *takers)
{
    ssti_store_rel(&takers->shm->intent, TAKERS_NONE);
}

/* The table in this process's mapping, NULL while there is none. It is never replaced,
 * only made. */
static struct sst_taker_shm *
map_table(const struct ssti_takers *takers)
{
    const uint64_t offset = ssti_load_acq(&takers->shm->takers);

    return offset != 0
               ? ssti_arena_ptr(takers->view->arena, offset,
                                SSTI_QUEUE_TAKERS * sizeof(struct sst_taker_shm))
               : NULL;
}

/* The same under the leaf: not NULL after a successful prepare. */
static struct sst_taker_shm *
table_of(struct ssti_takers *takers)
{
    if (takers->table == NULL) {
        takers->table = map_table(takers);
    }
    return takers->table;
}

int
ssti_takers_prepare(struct ssti_takers *takers)
{
    struct sst_arena *const arena = takers->view->arena;
    const uint64_t size = SSTI_QUEUE_TAKERS * sizeof(struct sst_taker_shm);
    bool moved = false;
    uint64_t offset;
    uint32_t held;
    int rc;

    if (map_table(takers) != NULL) {
        return 0;
    }
    if (ssti_load_acq(&takers->shm->takers) != 0) {
        /* Somebody made it just now, or it cannot be mapped. */
        return map_table(takers) != NULL ? 0 : SST_ENOMEM;
    }
    rc = ssti_extent_create_zeroed(arena, size, &held, &offset, NULL);
    if (rc != 0) {
        return rc;
    }

    struct sst_taker_shm *const table = ssti_arena_ptr(arena, offset, size);

    if (table == NULL) {
        ssti_extent_drop(arena, held);
        return SST_ENOMEM;
    }
    ssti_store_rlx(&table[0].proc, EVERYBODY);
    ssti_held_tie(arena, held, takers->view->offset);

    ssti_view_lock(takers->view);
    if (ssti_load_rlx(&takers->shm->takers) == 0) {
        const uint64_t entry = ssti_held_offset(arena, held);

        intend(takers, TAKERS_TABLE, entry, offset);
        ssti_store_rel(&takers->shm->takers, offset);
        SST_CRASHPOINT(takers_table_linked);
        ssti_held_set(arena, entry, 0);
        intended(takers);
        moved = true;
    }
    /* The wake may have been meant for any class: the leaf's owner passes it on. */
    ssti_view_unlock(takers->view, SSTI_LEAF_ALL, 1);

    ssti_held_tie(arena, held, 0);
    if (moved) {
        ssti_held_release(arena, held);
    }
    else {
        ssti_extent_drop(arena, held);
    }
    return map_table(takers) != NULL ? 0 : SST_ENOMEM;
}

/* This process's entry; with `add` a new one if it has none. Else entry 0. */
static struct sst_taker_shm *
find(struct ssti_takers *takers, bool add)
{
    const uint64_t self = ssti_proc_self(takers->view->arena);
    struct sst_taker_shm *const table = table_of(takers);
    uint32_t free_index = 0;

    if (ssti_load_rlx(&table[takers->index].proc) == self) {
        return &table[takers->index];
    }
    for (uint32_t i = SSTI_QUEUE_TAKERS - 1; i > 0; i--) {
        const uint64_t proc = ssti_load_rlx(&table[i].proc);

        if (proc == self) {
            takers->index = i;
            return &table[i];
        }
        if (proc == 0) {
            free_index = i;
        }
    }
    if (add && free_index != 0) {
        ssti_store_rlx(&table[free_index].count, 0);
        ssti_store_rlx(&takers->shm->takers_new, 1);
        SST_CRASHPOINT(takers_entry_written);
        ssti_store_rel(&table[free_index].proc, self);
        takers->index = free_index;
        return &table[free_index];
    }
    return &table[0];
}

void
ssti_takers_enter_locked(struct ssti_takers *takers)
{
    struct sst_taker_shm *const taker = find(takers, true);
    const uint64_t count = ssti_load_rlx(&taker->count);

    ssti_store_rlx(&takers->shm->intent_taker, (uint32_t)(taker - takers->table));
    ssti_store_rlx(&takers->shm->intent_cursor,
                   ssti_load_rlx(&takers->ring->shm->get_cursor));
    intend(takers, TAKERS_TAKE, count, ssti_load_rlx(&takers->ring->shm->get_chunk));
    ssti_store_rel(&taker->count, count + 1);
    SST_CRASHPOINT(takers_count_raised);
}

void
ssti_takers_leave_locked(struct ssti_takers *takers, bool taken)
{
    struct sst_queue_shm *const shm = takers->shm;

    if (taken) {
        ssti_store_rel(&shm->taken, ssti_load_rlx(&shm->taken) + 1);
    }
    else {
        struct sst_taker_shm *const taker =
            &takers->table[ssti_load_rlx(&shm->intent_taker) % SSTI_QUEUE_TAKERS];

        ssti_store_rel(&taker->count, ssti_load_rlx(&taker->count) - 1);
    }
    SST_CRASHPOINT(takers_taken);
    intended(takers);
}

int
ssti_takers_done_locked(struct ssti_takers *takers)
{
    struct sst_queue_shm *const shm = takers->shm;

    if (ssti_takers_unfinished(takers) <= 0) {
        return SST_EOVERFLOW;
    }

    struct sst_taker_shm *const taker = find(takers, true);

    ssti_store_rel(&taker->count, ssti_load_rlx(&taker->count) - 1);
    SST_CRASHPOINT(takers_count_lowered);
    ssti_store_rel(&shm->taken, ssti_load_rlx(&shm->taken) - 1);
    SST_CRASHPOINT(takers_done);
    return 0;
}

/* Choose whom to watch: the busy before the idle. */
static void
watch(const struct sst_taker_shm *table, const uint64_t *living, bool busy,
      struct ssti_takers_dead *dead)
{
    for (uint32_t i = 1; i < SSTI_QUEUE_TAKERS; i++) {
        const bool is_busy = ssti_load_rlx(&table[i].count) != 0;

        if (living[i] != 0 && is_busy == busy &&
            dead->watch_count < SSTI_LEAF_OTHERS_MAX) {
            dead->watch[dead->watch_count++] = living[i];
        }
    }
}

void
ssti_takers_find_dead(struct ssti_takers *takers, struct ssti_takers_dead *dead)
{
    struct sst_arena *const arena = takers->view->arena;
    const uint64_t self = ssti_proc_self(arena);
    const struct sst_taker_shm *const table = map_table(takers);
    uint64_t living[SSTI_QUEUE_TAKERS] = {0};

    *dead = (struct ssti_takers_dead){0};
    for (uint32_t i = 1; table != NULL && i < SSTI_QUEUE_TAKERS; i++) {
        const uint64_t proc = ssti_load_acq(&table[i].proc);

        if (proc == 0 || proc == self) {
            continue;
        }
        if (ssti_proc_alive(arena, proc)) {
            living[i] = proc;
            dead->living++;
        }
        else {
            dead->proc[i] = proc;
        }
    }
    if (table != NULL) {
        watch(table, living, true, dead);
        watch(table, living, false, dead);
    }
}

/* Free a dead taker's entry and set `lost`; may be run again. */
static void
apply_bury(struct ssti_takers *takers, uint32_t index, uint64_t lost)
{
    ssti_store_rel(&takers->shm->lost, lost);
    SST_CRASHPOINT(takers_buried_half);
    ssti_store_rel(&takers->table[index].count, 0);
    ssti_store_rel(&takers->table[index].proc, 0);
    SST_CRASHPOINT(takers_buried);
}

void
ssti_takers_bury_locked(struct ssti_takers *takers, const struct ssti_takers_dead *dead)
{
    struct sst_taker_shm *const table = table_of(takers);

    for (uint32_t i = 1; table != NULL && i < SSTI_QUEUE_TAKERS; i++) {
        if (dead->proc[i] == 0 || ssti_load_rlx(&table[i].proc) != dead->proc[i]) {
            continue;
        }

        const uint64_t lost =
            ssti_load_rlx(&takers->shm->lost) + ssti_load_rlx(&table[i].count);

        ssti_store_rlx(&takers->shm->intent_taker, i);
        intend(takers, TAKERS_BURY, lost, 0);
        apply_bury(takers, i, lost);
        intended(takers);
    }
}

int64_t
ssti_takers_lost_locked(struct ssti_takers *takers)
{
    const int64_t unfinished = ssti_takers_unfinished(takers);
    int64_t lost = (int64_t)ssti_load_rlx(&takers->shm->lost);
    struct sst_taker_shm *const table = table_of(takers);

    /* Who finished more than it took was handed items: perhaps those of the dead. */
    for (uint32_t i = 0; table != NULL && lost > 0 && i < SSTI_QUEUE_TAKERS; i++) {
        const int64_t count = (int64_t)ssti_load_rlx(&table[i].count);

        lost += count < 0 ? count : 0;
    }
    lost = lost < unfinished ? lost : unfinished;
    return lost > 0 ? lost : 0;
}

int64_t
ssti_takers_recover_locked(struct ssti_takers *takers)
{
    struct sst_queue_shm *const shm = takers->shm;
    const int64_t count = ssti_takers_lost_locked(takers);

    if (count == 0) {
        return 0;
    }
    ssti_store_rel(&shm->lost, ssti_load_rlx(&shm->lost) - (uint64_t)count);
    SST_CRASHPOINT(takers_recovered_half);
    ssti_store_rel(&shm->taken, ssti_load_rlx(&shm->taken) - (uint64_t)count);
    SST_CRASHPOINT(takers_recovered);
    return count;
}

void
ssti_takers_quit_locked(struct ssti_takers *takers)
{
    if (table_of(takers) == NULL) {
        return;
    }

    struct sst_taker_shm *const taker = find(takers, false);

    if (taker != takers->table && ssti_load_rlx(&taker->count) == 0) {
        ssti_store_rel(&taker->proc, 0);
    }
}

void
ssti_takers_repair_locked(struct ssti_takers *takers)
{
    struct sst_queue_shm *const shm = takers->shm;
    const uint32_t intent = ssti_load_acq(&shm->intent);
    const uint64_t value = ssti_load_rlx(&shm->intent_value);
    const uint64_t extent = ssti_load_rlx(&shm->intent_extent);
    const uint32_t index = ssti_load_rlx(&shm->intent_taker) % SSTI_QUEUE_TAKERS;
    struct sst_arena *const arena = takers->view->arena;
    uint64_t taken = ssti_load_rlx(&shm->lost);

    if (intent == TAKERS_TABLE) {
        ssti_store_rel(&shm->takers, extent);
        ssti_held_set(arena, value, 0);
    }
    else if (intent == TAKERS_FREE) {
        ssti_held_set(arena, value, extent);
        ssti_store_rel(&shm->takers, 0);
        takers->table = NULL;
    }

    struct sst_taker_shm *const table = table_of(takers);

    if (table == NULL) {
        intended(takers);
        return;
    }
    if (intent == TAKERS_TAKE &&
        extent == ssti_load_rlx(&takers->ring->shm->get_chunk) &&
        ssti_load_rlx(&shm->intent_cursor) ==
            ssti_load_rlx(&takers->ring->shm->get_cursor)) {
        ssti_store_rel(&table[index].count, value);
    }
    else if (intent == TAKERS_BURY) {
        apply_bury(takers, index, value);
        taken = value;
    }
    intended(takers);

    for (uint32_t i = 0; i < SSTI_QUEUE_TAKERS; i++) {
        taken += ssti_load_rlx(&table[i].count);
    }
    ssti_store_rel(&shm->taken, taken);
    ssti_store_rlx(&shm->takers_new, 1);
}

bool
ssti_takers_free_locked(struct ssti_takers *takers, uint64_t entry)
{
    const uint64_t table = ssti_load_rlx(&takers->shm->takers);

    if (table == 0) {
        return false;
    }
    intend(takers, TAKERS_FREE, entry, table);
    ssti_held_set(takers->view->arena, entry, table);
    ssti_store_rel(&takers->shm->takers, 0);
    intended(takers);
    takers->table = NULL;
    return true;
}
