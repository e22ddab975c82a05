/* SPDX-License-Identifier: MIT */

/* Sweeping: finding dead members and undoing what they held.
 *
 * Looking costs two loads per seat while all is well: a life word that names a thread
 * means a living process. One that does not is checked with the kernel, because a main
 * thread may end while others run on, and because a process must have stopped
 * altogether before its records are touched: in a process that is being killed one
 * thread may still run while another has died already.
 *
 * A sweeper claims a dead seat under the registry's leaf. Then, in this order:
 *   1  settle classes and heap, whose intents may be about to write one of its entries,
 *      and the objects its entries are tied to, so that moves under way are done with
 *   2  forget where its threads waited
 *   3  tell objects it took part in
 *   4  drop its entries one by one, destroying what it held last
 *   5  give the seat back, or keep it for the parent who watches; forget its own
 *      watching
 * Each step of each record is a change that happens wholly or not at all, and leaves
 * the record empty. So a sweeper that dies is replaced by anybody, who finds what is
 * left.
 *
 * Death table
 *   claimed                    SWEEPING with a dead sweeper: claimed again
 *   any record                 empty already, or undone by the next
 *   telling an object          told again by the next (arena.h)
 *   last record, seat not free swept again, finding nothing */

#include "base/atomic.h"
#include "base/crashpoint.h"
#include "os/os.h"
#include "shm/view.h"

#include <linux/futex.h>
#include <string.h>

enum {
    /* How long a seat may be unborn. A child stamps its seat as its first act, so this
     * is only ever reached by seats whose fork failed, and by children that were
     * stopped right then. */
    GRACE_ORPHANED_S = 10,
    GRACE_S = 600,
    DYING_NS = 5 * 1000 *
        1000, /* for the other threads of a killed process to be gone */
    TICKS_PER_SECOND = 100,
};

/* ---- Who is dead ---- */

/* Nobody sat down in a seat. Its parent may have died, or its fork failed. */
static bool
is_stillborn(struct sst_arena *arena, const struct sst_process_shm *seat)
{
    const uint64_t parent = ssti_load_rlx(&seat->parent);
    const uint64_t age = ssti_os_boot_ticks() - ssti_load_rlx(&seat->born);
    const uint64_t orphaned = (uint64_t)GRACE_ORPHANED_S * TICKS_PER_SECOND;

    if (age < orphaned) {
        return false;
    }
    return age > (uint64_t)GRACE_S * TICKS_PER_SECOND || parent == 0 ||
           !ssti_proc_alive(arena, parent);
}

/* What the kernel says about a process whose life word, if it has one, names nobody. */
static bool
is_gone(const struct sst_process_shm *seat, bool has_life_word)
{
    const int pid = (int)ssti_load_acq(&seat->pid);
    struct ssti_os_process now;
    const int rc = ssti_os_process_look(pid, &now);

    if (rc == SST_ESRCH) {
        return true;
    }
    if (rc != 0) {
        return ssti_os_process_is_gone(pid, SST_NOW) == 1;
    }
    if (now.start_ticks > ssti_load_rlx(&seat->born)) {
        return true; /* the number was given to another process */
    }
    if (!now.is_exiting) {
        /* It runs, but the thread that held the life word is no more: if that was the
         * main thread, the process has become another program. */
        return has_life_word && ssti_load_rlx(&seat->life_is_main) != 0;
    }
    return now.threads <= 1 ||
           ssti_os_process_is_gone(pid, ssti_os_now_ns() + DYING_NS) == 1;
}

/* 0: none; a thread that lives: true. */
static bool
life_says_alive(const struct sst_process_shm *seat, bool *has_word)
{
    const uint32_t offset = ssti_load_acq(&seat->life_word);
    const _Atomic uint32_t *word;

    *has_word = offset == 1 || offset == 5;
    if (!*has_word) {
        return false;
    }
    word =
        (const _Atomic uint32_t *)(const void *)((const char *)seat->life + offset - 1);
    return (ssti_load_acq(word) & FUTEX_TID_MASK) != 0;
}

bool
ssti_proc_is_dead(struct sst_arena *arena, struct sst_process_shm *seat)
{
    bool has_word;

    if (ssti_load_acq(&seat->pid) == 0) {
        return is_stillborn(arena, seat);
    }
    return !life_says_alive(seat, &has_word) && is_gone(seat, has_word);
}

/* ---- Undoing ---- */

/* The object an entry is tied to redoes what its dead owner was about. False when its
 * kind is unknown here, or it cannot be mapped. */
static bool
settle(struct sst_arena *arena, struct sst_held_shm *entry)
{
    const uint64_t object = ssti_load_acq(&entry->tie);
    const struct ssti_kind_ops *ops;
    struct sst_slot_shm *slot;

    if (object == 0) {
        return true;
    }
    slot = object % SSTI_SLOT_SIZE_MIN == 0
               ? ssti_arena_ptr(arena, object, SSTI_SLOT_SIZE_MIN)
               : NULL;
    if (slot == NULL && ssti_arena_has(arena, object, SSTI_SLOT_SIZE_MIN)) {
        return false; /* not here, where it cannot be mapped */
    }
    if (slot != NULL && ssti_load_acq(&slot->state) != SSTI_SLOT_FREE) {
        ops = ssti_kind_ops(ssti_load_rlx(&slot->kind));
        if (ops == NULL) {
            return false;
        }
        if (ops->settle != NULL && !ops->settle(arena, slot)) {
            return false;
        }
    }
    SST_CRASHPOINT(settled);
    ssti_store_rel(&entry->tie, 0);
    return true;
}

static uint32_t
entries_of(struct sst_arena *arena, uint32_t index)
{
    const uint32_t high = ssti_load_acq(&ssti_proc_seat(arena, index)->held_high);

    return high < arena->map.held_max ? high : arena->map.held_max;
}

static bool
undo_entries(struct sst_arena *arena, uint32_t index, uint32_t high)
{
    bool is_all = true;

    for (uint32_t i = 0; i < high; i++) {
        struct sst_held_shm *const entry = ssti_held_at(arena, index, i);
        const uint64_t offset = ssti_held_offset_at(arena, index, i);
        uint64_t value;

        if (entry == NULL) {
            return false;
        }
        value = ssti_load_acq(&entry->value);
        if (value == 0) {
            continue;
        }
        if (ssti_load_acq(&entry->tie) != 0) {
            is_all = false; /* it could not be settled */
        }
        else if ((value & SSTI_HELD_SLOT) != 0) {
            is_all &= ssti_slot_drop_entry(arena, offset);
        }
        else {
            ssti_extent_free_entry(arena, offset, 0);
        }
        SST_CRASHPOINT(entry_undone);
    }
    return is_all;
}

bool
ssti_proc_undo_seat(struct sst_arena *arena, uint32_t index)
{
    const uint32_t high = entries_of(arena, index);
    bool is_all = true;

    /* An intent that the dead process signed may be about to write one of its
     * entries. */
    ssti_slots_settle(arena);
    ssti_heap_settle(arena);
    for (uint32_t i = 0; i < high; i++) {
        struct sst_held_shm *const entry = ssti_held_at(arena, index, i);

        is_all &= entry != NULL && settle(arena, entry);
    }
    ssti_waits_undo(arena, index);
    ssti_presence_undo(arena, index);
    return undo_entries(arena, index, high) && is_all;
}

/* ---- Claiming ---- */

static bool
claim(struct sst_arena *arena, struct sst_process_shm *seat, uint32_t generation)
{
    const uint64_t sweeper = ssti_load_acq(&seat->sweeper);
    const uint32_t seen = ssti_load_acq(&seat->state);
    uint32_t state;
    bool is_ours = false;

    /* Asked before the leaf is taken: it may take a look at /proc. */
    if (seen == SSTI_PROCESS_SWEEPING && sweeper != arena->proc && sweeper != 0 &&
        ssti_proc_alive(arena, sweeper)) {
        return false;
    }
    ssti_registry_lock(arena);
    state = ssti_load_acq(&seat->state);
    if (ssti_load_rlx(&seat->generation) == generation && state == seen &&
        ssti_load_rlx(&seat->sweeper) == sweeper) {
        ssti_store_rel(&seat->sweeper, arena->proc);
        SST_CRASHPOINT(sweep_claiming);
        /* A child that is just being born loses the race for its seat here, or wins
         * it. */
        is_ours = ssti_cas(&seat->state, &state, SSTI_PROCESS_SWEEPING);
    }
    ssti_registry_unlock(arena);
    return is_ours;
}

/* Nobody reads the exit codes of a dead process's children any more. */
static void
forget_watched(struct sst_arena *arena, uint64_t parent)
{
    const uint32_t high = ssti_load_acq(&arena->control->registry.high);

    for (uint32_t i = 0; i < high && i < arena->map.process_max; i++) {
        struct sst_process_shm *const seat = ssti_proc_seat(arena, i);
        uint64_t proc;

        if (seat == NULL || ssti_load_acq(&seat->state) == SSTI_PROCESS_FREE ||
            ssti_load_acq(&seat->parent) != parent ||
            ssti_load_acq(&seat->watched) == 0) {
            continue;
        }
        proc = ssti_proc_id(ssti_load_acq(&seat->generation), i);
        SST_CRASHPOINT(unwatching);
        ssti_proc_release(arena, proc);
    }
}

static void
finish(struct sst_arena *arena, uint64_t proc)
{
    struct sst_registry_shm *const registry = &arena->control->registry;

    forget_watched(arena, proc);
    ssti_fetch_add(&registry->swept, 1);
    SST_CRASHPOINT(sweep_finishing);
    ssti_proc_give_seat(arena, proc);
}

/* Sweep one seat if its process is dead. */
static bool
sweep_seat(struct sst_arena *arena, uint32_t index)
{
    struct sst_process_shm *const seat = ssti_proc_seat(arena, index);
    uint32_t generation;
    uint32_t state;
    uint64_t proc;

    if (seat == NULL) {
        return false;
    }
    /* The generation first: if it is the same when we claim, all that is read in
     * between is about one process. Pairs with prepare_seat(), which writes the state
     * last. */
    generation = ssti_load_acq(&seat->generation);
    state = ssti_load_acq(&seat->state);
    if (state == SSTI_PROCESS_FREE || state == SSTI_PROCESS_DONE) {
        return false;
    }
    proc = ssti_proc_id(generation, index);
    if (proc == arena->proc || arena->beyond_us[index] == proc) {
        return false;
    }
    if (state != SSTI_PROCESS_SWEEPING && !ssti_proc_is_dead(arena, seat)) {
        return false;
    }
    if (!claim(arena, seat, generation)) {
        return false;
    }
    SST_CRASHPOINT(sweep_claimed);
    ssti_proc_wake_all(seat);
    if (!ssti_proc_undo_seat(arena, index)) {
        /* Somebody who knows the kinds of what is left will go on: nobody sweeps it
         * now. */
        arena->beyond_us[index] = proc;
        ssti_store_rel(&seat->sweeper, 0);
        return false;
    }
    finish(arena, proc);
    ssti_proc_wake_all(seat);
    return true;
}

int
ssti_proc_sweep(struct sst_arena *arena)
{
    uint32_t idle = 0;
    uint32_t high;
    int swept = 0;

    /* One thread of a process at a time: a claim names the process only. */
    if (arena->proc == 0 || !ssti_cas(&arena->sweeping, &idle, 1)) {
        return 0;
    }
    if (arena->kinds_seen != ssti_kinds_known()) {
        arena->kinds_seen = ssti_kinds_known();
        memset(arena->beyond_us, 0, arena->map.process_max * sizeof *arena->beyond_us);
    }
    high = ssti_load_acq(&arena->control->registry.high);
    for (uint32_t i = 0; i < high && i < arena->map.process_max; i++) {
        swept += sweep_seat(arena, i);
    }
    ssti_store_rel(&arena->sweeping, 0);
    return swept;
}

int
sst_arena_sweep(struct sst_arena *arena)
{
    return ssti_proc_sweep(arena);
}
