/* SPDX-License-Identifier: MIT */

/* What a fork does to the arenas a process has open.
 *
 * Before the fork the parent reserves a seat for the child and copies its held table
 * into the seat's, raising the count of every slot; so nothing the child has inherited
 * can go away between the fork and the child's first instruction, whatever the parent
 * does. The child then stamps the seat with its pid and takes its life words. If there
 * is no child after all, or it dies first, the seat stays unborn and is swept.
 *
 * Entries keep their index: a view the child has inherited finds its own hold where the
 * parent's was. Extents are shared only where that was asked for; other extents belong
 * to calls that are under way in the parent.
 *
 * The process-local mutexes are taken in `prepare`, so that the child finds the tables
 * they guard whole, and never a leaf: leaves are taken and released within the copying.
 * A child for which there was no seat is no member: it can use no object until it
 * attaches anew.
 *
 * Death table
 *   parent dies while copying      its child's seat is unborn and orphaned: swept, and
 *                                  its entries are worth one count each, as any entry
 *                                  is
 *   parent dies after the fork     the child stamps within the grace of sweep.c
 *   child dies before the stamp    swept like a fork that failed */

#include "base/assert.h"
#include "base/atomic.h"
#include "base/crashpoint.h"
#include "os/os.h"
#include "os/self.h"
#include "shm/view.h"

static struct ssti_local open_lock = SSTI_LOCAL_INIT;
static struct sst_arena *open_arenas; /* guarded by open_lock */
static bool is_registered;            /* guarded by open_lock */

static _Thread_local bool watch_next;

int
ssti_fork_register(struct sst_arena *arena)
{
    int rc = 0;

    ssti_local_lock(&open_lock);
    if (!is_registered) {
        /* os/self.c registers first, so that its handler has run when ours does. */
        (void)ssti_self();
        rc = ssti_os_atfork(ssti_fork_prepare, ssti_fork_parent, ssti_fork_child);
        is_registered = rc == 0;
    }
    if (rc == 0) {
        arena->next = open_arenas;
        open_arenas = arena;
    }
    ssti_local_unlock(&open_lock);
    return rc;
}

void
ssti_fork_unregister(struct sst_arena *arena)
{
    struct sst_arena **link = &open_arenas;

    ssti_local_lock(&open_lock);
    while (*link != NULL && *link != arena) {
        link = &(*link)->next;
    }
    if (*link == arena) {
        *link = arena->next;
    }
    ssti_local_unlock(&open_lock);
}

/* ---- Before ---- */

static void
copy_entry(struct sst_arena *arena, uint32_t seat, uint32_t child_seat, uint32_t index)
{
    const struct sst_held_shm *const entry = ssti_held_at(arena, seat, index);
    const uint64_t copy = ssti_held_offset_at(arena, child_seat, index);
    const uint64_t value = entry != NULL ? ssti_load_acq(&entry->value) : 0;

    if (entry != NULL && ssti_load_acq(&entry->tie) != 0) {
        return; /* a parcel on its way into a queue, or out of it */
    }
    if ((value & SSTI_HELD_SLOT) != 0) {
        (void)ssti_slot_share(arena, entry, copy); /* false: dropped meanwhile, fine */
    }
    else if ((value & SSTI_HELD_INHERIT) != 0) {
        (void)ssti_extent_share(arena, entry, copy); /* the same */
    }
    SST_CRASHPOINT(fork_copying);
}

static void
copy_table(struct sst_arena *arena)
{
    const uint32_t high = ssti_load_rlx(&arena->seat->held_high);
    const uint32_t child_seat = ssti_proc_index(arena->child);
    struct sst_process_shm *const seat = ssti_proc_seat(arena, child_seat);

    ssti_store_rel(&seat->held_high, high); /* before any entry is written */
    for (uint32_t i = 0; i < high; i++) {
        copy_entry(arena, ssti_proc_index(arena->proc), child_seat, i);
    }
}

static void
prepare(struct sst_arena *arena)
{
    arena->child = 0;
    arena->child_area = NULL;
    /* Children that came before are gone by now, more often than not. */
    (void)ssti_proc_sweep(arena);
    ssti_local_lock(&arena->ledger.lock);
    ssti_local_lock(&arena->held_lock);
    if (arena->proc != 0 && !arena->has_left &&
        ssti_proc_seat_reserve(arena, watch_next, &arena->child) != 0) {
        arena->child = 0;
    }
    if (arena->child != 0) {
        arena->child_area = ssti_proc_area(arena, ssti_proc_index(arena->child));
        copy_table(arena);
        SST_CRASHPOINT(fork_prepared);
    }
    ssti_local_lock(&arena->presence_lock);
    ssti_local_lock(&arena->map_lock);
}

void
ssti_fork_prepare(void)
{
    ssti_local_lock(&open_lock);
    for (struct sst_arena *arena = open_arenas; arena != NULL; arena = arena->next) {
        prepare(arena);
    }
}

/* ---- After ---- */

static void
unlock_tables(struct sst_arena *arena)
{
    ssti_local_unlock(&arena->map_lock);
    ssti_local_unlock(&arena->presence_lock);
    ssti_local_unlock(&arena->held_lock);
    ssti_local_unlock(&arena->ledger.lock);
}

void
ssti_fork_parent(void)
{
    for (struct sst_arena *arena = open_arenas; arena != NULL; arena = arena->next) {
        arena->last_child = arena->child;
        unlock_tables(arena);
    }
    watch_next = false;
    ssti_local_unlock(&open_lock);
}

static void
become_child(struct sst_arena *arena)
{
    const uint64_t child = arena->child_area != NULL ? arena->child : 0;

    for (uint32_t i = 0; i < SSTI_AREA_WAITS; i++) {
        ssti_store_rlx(&arena->waits_taken[i], 0);
    }
    ssti_store_rlx(&arena->sweeping, 0);
    arena->last_child = 0;
    arena->proc = child;
    /* What the parent has had to do with names is not this process's to look after. */
    arena->ledger.has_used = arena->ledger.open != NULL;
    if (child == 0) {
        arena->seat = NULL;
        arena->area = NULL;
        return;
    }
    arena->seat = ssti_proc_seat(arena, ssti_proc_index(child));
    arena->area = arena->child_area;
    SST_CRASHPOINT(child_unstamped);

    const int rc = ssti_proc_stamp(arena, child);

    /* Swept after having been stopped for longer than the grace: what we inherited is
     * gone, and to go on would be to use other people's objects. */
    sst_assert(rc == 0);
}

void
ssti_fork_child(void)
{
    ssti_self_refresh();
    for (struct sst_arena *arena = open_arenas; arena != NULL; arena = arena->next) {
        unlock_tables(arena);
        become_child(arena);
    }
    /* When all tables are free, lest the arenas' locks are taken in two orders. */
    for (struct sst_arena *arena = open_arenas; arena != NULL; arena = arena->next) {
        if (arena->proc != 0 && ssti_load_rlx(&arena->seat->left_names) == 0) {
            ssti_ledger_join(arena);
        }
    }
    watch_next = false;
    ssti_local_unlock(&open_lock);
}

/* ---- Asking for the child's seat ---- */

void
ssti_proc_watch_next_fork(void)
{
    watch_next = true;
}

uint64_t
ssti_proc_last_child(struct sst_arena *arena)
{
    return arena->last_child;
}
