/* SPDX-License-Identifier: MIT */

/* The registry: who is a member of the arena.
 *
 * Each member has a seat: its pid, a bound on when it started, its life words, and an
 * area for what it holds and where it waits. A seat is reserved under the registry's
 * leaf, by the member itself or by its parent before the member exists, and given back
 * by the member in order or by whoever swept it (sweep.c). A process is known to others
 * by its id: seat and generation, so a seat that was given to somebody else is noticed.
 *
 *     FREE -> UNBORN -> LIVE -> SWEEPING -> FREE
 *                                        -> DONE -> FREE     when a parent watches
 *
 * A life word is a lock word held from stamping to death, so the kernel tells who
 * sleeps on it. It wakes one sleeper, who wakes the others (ssti_proc_wake_all); the
 * parent has a word of its own, lest the one who was woken dies too. For the remaining
 * case, sleepers killed together with whom they waited for, ssti_proc_patience bounds a
 * sleep to a second.
 *
 * Invariants
 *   I1  a state is changed by one store, after everything that belongs to it
 *   I2  only the holder of the registry's leaf changes a state, except that a member
 *       makes its own seat LIVE, by compare and swap
 *   I3  between UNBORN and LIVE the seat and its area are written by the reserving
 *       process, then by the member, then by the sweeper
 *
 * Death table (process dies after ...)
 *   reserving, before UNBORN     the seat is still FREE
 *   reserving                    the seat is UNBORN and its parent dead: swept after
 *                                GRACE
 *   stamping a part              UNBORN with a pid that is dead: swept
 *   holding the leaf             hint is recomputed; states are whole (I1)
 *   freeing the seat             FREE, or still what it was: swept again, finding
 *                                nothing
 *
 * docs/internals/memory.rst. */

#include "base/assert.h"
#include "base/atomic.h"
#include "base/crashpoint.h"
#include "os/life.h"
#include "os/os.h"
#include "os/self.h"
#include "shm/heap.h"
#include "shm/view.h"

#include <linux/futex.h>

enum {
    PATIENCE_NS = 1000 * 1000 * 1000, /* when the kernel tells of the death */
    SLICE_NS = 20 * 1000 * 1000,      /* when nobody does */
};

_Static_assert(SSTI_LIFE_SIZE <= sizeof((struct sst_process_shm){0}.life), "life fits");

/* ---- Seats ---- */

struct sst_process_shm *
ssti_proc_seat(struct sst_arena *arena, uint32_t index)
{
    return ssti_arena_ptr(arena,
                          arena->map.seats + index * sizeof(struct sst_process_shm),
                          sizeof(struct sst_process_shm));
}

struct sst_process_shm *
ssti_proc_find(struct sst_arena *arena, uint64_t proc)
{
    const uint32_t index = ssti_proc_index(proc);
    struct sst_process_shm *seat;

    if (index >= arena->map.process_max) {
        return NULL;
    }
    seat = ssti_proc_seat(arena, index);
    if (seat == NULL || ssti_load_acq(&seat->generation) != (uint32_t)(proc >> 32) ||
        ssti_load_acq(&seat->state) == SSTI_PROCESS_FREE) {
        return NULL;
    }
    return seat;
}

char *
ssti_proc_area(struct sst_arena *arena, uint32_t index)
{
    return ssti_arena_ptr(arena, arena->map.areas + index * arena->map.area_size,
                          arena->map.area_size);
}

void
ssti_registry_lock(struct sst_arena *arena)
{
    struct sst_registry_shm *const registry = &arena->control->registry;

    while (ssti_leaf_lock(arena, &registry->leaf) != 0) {
        ssti_store_rlx(&registry->hint, 0);
        ssti_leaf_unlock(&registry->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    }
}

void
ssti_registry_unlock(struct sst_arena *arena)
{
    ssti_leaf_unlock(&arena->control->registry.leaf, 0, 0);
}

static uint32_t
find_free_seat(struct sst_arena *arena)
{
    struct sst_registry_shm *const registry = &arena->control->registry;

    for (uint32_t i = ssti_load_rlx(&registry->hint); i < arena->map.process_max; i++) {
        struct sst_process_shm *const seat = ssti_proc_seat(arena, i);

        if (seat == NULL) {
            break;
        }
        if (ssti_load_rlx(&seat->state) == SSTI_PROCESS_FREE) {
            return i;
        }
    }
    return UINT32_MAX;
}

static void
prepare_seat(const struct sst_arena *arena, struct sst_process_shm *seat,
             bool is_watched)
{
    const uint64_t parent = arena->proc;
    uint32_t generation = ssti_load_rlx(&seat->generation) + 1;

    generation += generation == 0;
    ssti_store_rlx(&seat->generation, generation);
    ssti_store_rlx(&seat->pid, 0);
    ssti_store_rlx(&seat->watched, is_watched);
    ssti_store_rlx(&seat->parent, parent);
    ssti_store_rlx(&seat->sweeper, 0);
    ssti_store_rlx(&seat->born, ssti_os_boot_ticks());
    ssti_store_rlx(&seat->held_high, 0);
    ssti_store_rlx(&seat->waits_high, 0);
    ssti_store_rlx(&seat->presence_count, 0);
    ssti_store_rlx(&seat->gifts, 0);
    ssti_store_rlx(&seat->life_word, 0);
    ssti_store_rlx(&seat->life_is_main, 0);
    ssti_store_rlx(&seat->done, 0);
    ssti_store_rlx(&seat->exit_code, 0);
    /* A zygote's children stand aside like it, until they have a job. */
    ssti_store_rlx(&seat->left_names,
                   parent != 0 ? ssti_load_rlx(&arena->seat->left_names) : 0);
    SST_CRASHPOINT(seat_prepared);
    ssti_store_rel(&seat->state, SSTI_PROCESS_UNBORN);
}

int
ssti_proc_seat_reserve(struct sst_arena *arena, bool is_watched, uint64_t *proc)
{
    struct sst_registry_shm *const registry = &arena->control->registry;
    uint32_t index;

    ssti_registry_lock(arena);
    index = find_free_seat(arena);
    if (index != UINT32_MAX) {
        struct sst_process_shm *const seat = ssti_proc_seat(arena, index);

        if (index >= ssti_load_rlx(&registry->high)) {
            ssti_store_rel(&registry->high, index + 1); /* pairs with the sweep */
        }
        prepare_seat(arena, seat, is_watched);
        SST_CRASHPOINT(seat_reserved);
        ssti_store_rlx(&registry->hint, index + 1);
        *proc = ssti_proc_id(ssti_load_rlx(&seat->generation), index);
    }
    ssti_registry_unlock(arena);
    return index != UINT32_MAX ? 0 : SST_ELIMIT;
}

int
ssti_proc_stamp(struct sst_arena *arena, uint64_t proc)
{
    struct sst_process_shm *const seat = ssti_proc_find(arena, proc);
    uint32_t unborn = SSTI_PROCESS_UNBORN;
    int word;

    if (seat == NULL || ssti_load_acq(&seat->state) != SSTI_PROCESS_UNBORN) {
        return SST_ESTALE;
    }
    ssti_store_rlx(&seat->born, ssti_os_boot_ticks());
    ssti_store_rel(&seat->pid, (uint32_t)ssti_os_pid());
    SST_CRASHPOINT(seat_stamped);
    word = ssti_life_start(seat->life);
    if (word >= 0 && ssti_life_start(seat->life_parent) == word &&
        ssti_os_kernel()->sees_deaths) {
        ssti_store_rlx(&seat->life_is_main, (int)ssti_self()->tid == ssti_os_pid());
        ssti_store_rel(&seat->life_word, (uint32_t)word + 1);
    }
    SST_CRASHPOINT(seat_alive);
    if (!ssti_cas(&seat->state, &unborn, SSTI_PROCESS_LIVE)) {
        ssti_life_stop(seat->life);
        ssti_life_stop(seat->life_parent);
        return SST_ESTALE;
    }
    return 0;
}

void
ssti_proc_free_seat(struct sst_arena *arena, uint64_t proc)
{
    struct sst_registry_shm *const registry = &arena->control->registry;
    struct sst_process_shm *seat;

    ssti_registry_lock(arena);
    seat = ssti_proc_find(arena, proc);
    if (seat != NULL) {
        ssti_store_rel(&seat->state, SSTI_PROCESS_FREE);
        SST_CRASHPOINT(seat_freed);
        if (ssti_proc_index(proc) < ssti_load_rlx(&registry->hint)) {
            ssti_store_rlx(&registry->hint, ssti_proc_index(proc));
        }
    }
    ssti_registry_unlock(arena);
}

void
ssti_proc_give_seat(struct sst_arena *arena, uint64_t proc)
{
    struct sst_process_shm *seat;
    bool is_watched = false;

    ssti_registry_lock(arena);
    seat = ssti_proc_find(arena, proc);
    if (seat != NULL && ssti_load_acq(&seat->watched) != 0) {
        is_watched = true;
        ssti_store_rel(&seat->state, SSTI_PROCESS_DONE);
        SST_CRASHPOINT(seat_kept);
    }
    ssti_registry_unlock(arena);
    if (!is_watched) {
        ssti_proc_free_seat(arena, proc);
    }
}

/* ---- Who lives ---- */

uint64_t
ssti_proc_self(struct sst_arena *arena)
{
    return arena->proc;
}

static _Atomic uint32_t *
life_word(struct sst_arena *arena, struct sst_process_shm *seat)
{
    const uint32_t offset = ssti_load_acq(&seat->life_word);
    uint64_t *const life =
        ssti_load_rlx(&seat->parent) == arena->proc ? seat->life_parent : seat->life;

    if (offset != 1 && offset != 5) {
        return NULL; /* none; what others wrote is not followed anywhere else */
    }
    return (_Atomic uint32_t *)(void *)((char *)life + offset - 1);
}

/* Of whoever has the seat now. */
static bool
seat_is_alive(struct sst_arena *arena, struct sst_process_shm *seat)
{
    _Atomic uint32_t *word;
    uint32_t state;

    if (ssti_load_acq(&seat->done) != 0) {
        return false;
    }
    state = ssti_load_acq(&seat->state);
    if (state != SSTI_PROCESS_LIVE && state != SSTI_PROCESS_UNBORN) {
        return false;
    }
    word = life_word(arena, seat);
    if (state == SSTI_PROCESS_LIVE && word != NULL &&
        (ssti_load_acq(word) & FUTEX_TID_MASK) != 0) {
        return true;
    }
    if (!ssti_proc_is_dead(arena, seat)) {
        return true;
    }
    ssti_proc_wake_all(seat);
    return false;
}

bool
ssti_proc_alive(struct sst_arena *arena, uint64_t proc)
{
    struct sst_process_shm *const seat = ssti_proc_find(arena, proc);

    if (seat == NULL || proc == arena->proc) {
        return seat != NULL && ssti_load_acq(&seat->done) == 0;
    }
    /* Still the same afterwards: then what was read was about this process. */
    return seat_is_alive(arena, seat) && ssti_proc_find(arena, proc) != NULL;
}

_Atomic uint32_t *
ssti_proc_life(struct sst_arena *arena, uint64_t proc, uint32_t *value)
{
    struct sst_process_shm *const seat = ssti_proc_find(arena, proc);
    _Atomic uint32_t *word;
    uint32_t now;

    if (!ssti_proc_alive(arena, proc)) {
        return NULL;
    }
    word = life_word(arena, seat);
    if (word == NULL) {
        *value = 0;
        return &seat->done;
    }
    now = ssti_load_acq(word);
    /* The kernel wakes only where it finds this bit. */
    while ((now & FUTEX_TID_MASK) != 0 && (now & FUTEX_WAITERS) == 0) {
        if (ssti_cas(word, &now, now | FUTEX_WAITERS)) {
            now |= FUTEX_WAITERS;
        }
    }
    *value = now;
    return ssti_proc_find(arena, proc) != NULL ? word : NULL;
}

int64_t
ssti_proc_patience(struct sst_arena *arena, uint64_t proc, int64_t deadline_ns)
{
    struct sst_process_shm *const seat = ssti_proc_find(arena, proc);
    _Atomic uint32_t *const word = seat != NULL ? life_word(arena, seat) : NULL;
    const bool is_told = word != NULL && (ssti_load_acq(word) & FUTEX_TID_MASK) != 0;
    const int64_t until = ssti_os_now_ns() + (is_told ? PATIENCE_NS : SLICE_NS);

    return deadline_ns < until ? deadline_ns : until;
}

void
ssti_proc_wake_all(struct sst_process_shm *seat)
{
    const uint32_t offset = ssti_load_acq(&seat->life_word);

    if (offset == 1 || offset == 5) {
        char *const life = (char *)seat->life + offset - 1;
        char *const life_parent = (char *)seat->life_parent + offset - 1;

        (void)ssti_os_futex_wake((_Atomic uint32_t *)(void *)life, INT32_MAX);
        (void)ssti_os_futex_wake((_Atomic uint32_t *)(void *)life_parent, INT32_MAX);
    }
    (void)ssti_os_futex_wake(&seat->done, INT32_MAX);
}

/* ---- Seats for children ---- */

int
ssti_proc_reserve(struct sst_arena *arena, uint64_t *proc)
{
    if (arena->proc == 0) {
        return SST_ELIMIT;
    }
    (void)ssti_proc_sweep(arena);
    return ssti_proc_seat_reserve(arena, true, proc);
}

int
ssti_proc_hold_for(struct sst_arena *arena, uint64_t proc,
                   const struct sst_handle *handle)
{
    struct sst_process_shm *const seat = ssti_proc_find(arena, proc);
    uint32_t gifts;
    int rc;

    if (seat == NULL || ssti_load_acq(&seat->state) != SSTI_PROCESS_UNBORN) {
        return SST_ESTALE;
    }
    gifts = ssti_load_rlx(&seat->gifts);
    if (gifts >= arena->map.held_max) {
        return SST_ELIMIT;
    }
    ssti_store_rel(&seat->held_high, gifts + 1); /* before the entry is written */
    rc = ssti_slot_hold_into(arena, handle,
                             ssti_held_offset_at(arena, ssti_proc_index(proc), gifts),
                             NULL);
    SST_CRASHPOINT(gift_held);
    if (rc == 0) {
        ssti_store_rlx(&seat->gifts, gifts + 1);
    }
    return rc;
}

void
ssti_proc_drop_gifts(struct sst_arena *arena)
{
    uint32_t gifts;

    if (arena->proc == 0) {
        return;
    }
    gifts = ssti_load_rlx(&arena->seat->gifts);
    ssti_store_rlx(&arena->seat->gifts, 0);
    for (uint32_t i = 0; i < gifts; i++) {
        ssti_slot_drop(arena, i);
    }
}

void
ssti_proc_abandon(struct sst_arena *arena, uint64_t proc)
{
    struct sst_process_shm *const seat = ssti_proc_find(arena, proc);

    if (seat == NULL) {
        return;
    }
    /* Once a pid is in it, a sweeper may be at work there: it is his. */
    if (ssti_load_acq(&seat->state) != SSTI_PROCESS_UNBORN ||
        ssti_load_acq(&seat->pid) != 0) {
        ssti_proc_release(arena, proc);
        return;
    }
    if (ssti_proc_undo_seat(arena, ssti_proc_index(proc))) {
        ssti_proc_free_seat(arena, proc);
    }
}

void
ssti_proc_release(struct sst_arena *arena, uint64_t proc)
{
    struct sst_process_shm *seat;
    bool is_over = false;

    ssti_registry_lock(arena);
    seat = ssti_proc_find(arena, proc);
    if (seat != NULL) {
        ssti_store_rel(&seat->watched, 0);
        is_over = ssti_load_acq(&seat->state) == SSTI_PROCESS_DONE;
    }
    ssti_registry_unlock(arena);
    if (is_over) {
        ssti_proc_free_seat(arena, proc);
    }
}

_Atomic uint32_t *
ssti_proc_done(struct sst_arena *arena, uint64_t proc, int32_t *exit_code)
{
    struct sst_process_shm *const seat = ssti_proc_find(arena, proc);

    if (seat == NULL) {
        return NULL;
    }
    *exit_code = (int32_t)ssti_load_acq(&seat->exit_code);
    return &seat->done;
}

/* ---- Leaving ---- */

_Thread_local bool ssti_is_leaving;

void
ssti_proc_undo(struct sst_arena *arena)
{
    if (arena->proc == 0 || arena->has_left) {
        return;
    }
    arena->has_left = true;
    ssti_is_leaving = true;
    /* What had to be left is swept by somebody who can. */
    (void)ssti_proc_undo_seat(arena, ssti_proc_index(arena->proc));
    ssti_heap_look_after(arena);
    ssti_is_leaving = false;
}

void
ssti_proc_leave(struct sst_arena *arena, int32_t exit_code)
{
    if (arena->proc == 0) {
        return;
    }
    ssti_proc_undo(arena);
    ssti_store_rlx(&arena->seat->exit_code, (uint32_t)exit_code);
    SST_CRASHPOINT(leaving);
    ssti_store_rel(&arena->seat->done, 1); /* pairs with ssti_proc_done */
    (void)ssti_os_futex_wake(&arena->seat->done, INT32_MAX);
}
