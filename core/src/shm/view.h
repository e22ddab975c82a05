/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_VIEW_H
#define SSTI_SHM_VIEW_H

/* The process-local side of an arena, for the files of shm/ alone. */

#include <stdbool.h>
#include <stdint.h>

#include "os/local.h"
#include "os/os.h"
#include "shm/arena.h"
#include "shm/geometry.h"
#include "shm/layout.h"
#include "shm/ledger.h"

enum {
    SSTI_WINDOWS_MAX = 4096, /* mapped at a time */
};

/* A window that is mapped; never changes until the arena is detached. */
struct ssti_window {
    uint64_t offset;
    char *address;
};

/* A mapping of a range that fits no window. */
struct ssti_large {
    uint64_t offset;
    uint64_t size;
    char *address;
    uint32_t pins;  /* blocks that use it */
    bool is_in_use; /* its address was given out since ssti_arena_unmap_large */
    uint64_t use;   /* when it was last asked for, to evict the oldest */
};

struct sst_arena {
    int fd;
    struct ssti_os_file file; /* what fd stands for, unless the program has closed it */
    uint64_t id;
    struct ssti_geometry map;
    struct sst_header_shm *header;
    struct sst_control_shm *control;
    struct sst_arena *next; /* in the list of open arenas; guarded by its mutex */

    /* Who we are; changed by the hooks of a fork only. */
    uint64_t proc; /* 0: no seat, objects cannot be made or held */
    struct sst_process_shm *seat;
    char *area;    /* of the seat */
    bool has_left; /* ssti_proc_undo was called: holds are gone */

    /* A fork under way; written and read by the forking thread. */
    uint64_t child;
    char *child_area;
    uint64_t last_child;

    /* Mappings. The table is read without the lock. */
    uint32_t window_shift;
    char *_Atomic *windows;     /* by window number */
    struct ssti_local map_lock; /* guards what follows */
    struct ssti_window *mapped;
    _Atomic uint32_t mapped_count; /* written under map_lock, read without */
    struct ssti_large *large;
    uint32_t large_count;
    uint32_t large_room;
    uint64_t large_uses;
    struct sst_parcel **sealed; /* those open here, by address (parcel.c) */
    uint32_t sealed_count;
    uint32_t sealed_room;

    /* The free entries of our held table: a stack, and what was never used. While
     * held_lock is held leaves of classes, heap and registry may be taken (by a fork),
     * never the other way round. */
    struct ssti_local held_lock;
    uint32_t *held_free; /* guarded by held_lock */
    uint32_t held_free_count;
    uint32_t held_free_room;

    struct ssti_ledger ledger;

    struct ssti_local presence_lock;
    _Atomic uint8_t *waits_taken; /* SSTI_AREA_WAITS; claimed by compare and swap */
    _Atomic uint32_t sweeping;    /* a thread of this process sweeps */
    uint32_t kinds_seen; /* kinds that were registered when beyond_us was last right */
    /* By seat: the dead process that holds objects of kinds unknown here. */
    uint64_t *beyond_us;
};

/* ---- segment.c ---- */

/* An 8-byte word somewhere in the arena, by an offset that was read from shared memory;
 * NULL when that is no place for one. */
_Atomic uint64_t *ssti_arena_word(struct sst_arena *arena, uint64_t offset);

/* This thread undoes what the process holds: destroys that run meanwhile hold things
 * for a while, as ever. */
extern _Thread_local bool ssti_is_leaving;

/* Holds are gone, or never could be had. */
static inline bool
ssti_arena_is_left(const struct sst_arena *arena)
{
    return arena->proc == 0 || (arena->has_left && !ssti_is_leaving);
}

/* ---- windows.c ---- */

/* Is the descriptor still the arena's? */
bool ssti_arena_has_fd(const struct sst_arena *arena);
int ssti_windows_init(struct sst_arena *arena);
void ssti_windows_fini(struct sst_arena *arena);
/* Unmap the large ranges that are only kept because they may be wanted again. */
void ssti_windows_shed(struct sst_arena *arena);
/* The offset an address of ours has; 0 when it is in no window. */
uint64_t ssti_windows_offset(const struct sst_arena *arena, const void *address);

/* ---- held.c ---- */

int ssti_held_init(struct sst_arena *arena);
void ssti_held_fini(struct sst_arena *arena);
/* After sitting down in a seat that has entries already. */
void ssti_held_adopt(struct sst_arena *arena);
/* Entry `index` of a seat's table, NULL when there is none. */
struct sst_held_shm *ssti_held_at(struct sst_arena *arena, uint32_t seat,
                                  uint32_t index);
uint64_t ssti_held_offset_at(const struct sst_arena *arena, uint32_t seat,
                             uint32_t index);

/* ---- slots.c ---- */

/* Raise the count of the slot that an entry holds and write the same into another
 * entry, as one step. False when the entry holds no living slot (any more). */
bool ssti_slot_share(struct sst_arena *arena, const struct sst_held_shm *from,
                     uint64_t entry_offset);
/* Drop what the entry of a living or dead process holds. False when the last hold needs
 * a destroy that this process does not know: then nothing was changed. */
bool ssti_slot_drop_entry(struct sst_arena *arena, uint64_t entry_offset);
int ssti_slot_hold_into(struct sst_arena *arena, const struct sst_handle *handle,
                        uint64_t entry_offset, struct sst_error *err);
/* Drop what a hold word of an object in shared memory holds: for the destroy of that
 * object. A last hold is put off until the destroys under way on this thread are
 * done. */
void ssti_slot_drop_word(struct sst_arena *arena, uint64_t word_offset);
/* Bytes of the slot that starts at `offset`; 0 when none can start there. */
uint64_t ssti_slot_room(const struct sst_arena *arena, uint64_t offset);
const struct ssti_kind_ops *ssti_kind_ops(uint32_t kind);
uint32_t ssti_kinds_known(void);
/* Have intents of the dead redone. */
void ssti_slots_settle(struct sst_arena *arena);
uint64_t ssti_slots_live(struct sst_arena *arena);
uint64_t ssti_slots_bytes(struct sst_arena *arena);

/* ---- heap.c ---- */

/* Have an intent of the dead redone. */
void ssti_heap_settle(struct sst_arena *arena);
bool ssti_extent_share(struct sst_arena *arena, const struct sst_held_shm *from,
                       uint64_t entry_offset);
/* The extent a word names becomes free (or loses a share) and the word becomes
 * `value`. */
void ssti_extent_free_entry(struct sst_arena *arena, uint64_t word_offset,
                            uint64_t value);

/* ---- budget.c ---- */

/* May memory grow by that many bytes? 0 and how much more is granted beforehand, or
 * SST_ELIMIT. */
int ssti_budget_ask(uint64_t bytes, uint64_t *granted, struct sst_error *err);

/* ---- registry.c ---- */

static inline uint32_t
ssti_proc_index(uint64_t proc)
{
    return (uint32_t)proc - 1;
}

static inline uint64_t
ssti_proc_id(uint32_t generation, uint32_t index)
{
    return ((uint64_t)generation << 32) | (index + 1);
}

struct sst_process_shm *ssti_proc_seat(struct sst_arena *arena, uint32_t index);
/* The seat of a process; NULL when it was given to somebody else since. */
struct sst_process_shm *ssti_proc_find(struct sst_arena *arena, uint64_t proc);
char *ssti_proc_area(struct sst_arena *arena, uint32_t index);
int ssti_proc_seat_reserve(struct sst_arena *arena, bool is_watched, uint64_t *proc);
/* Sit down in a reserved seat. SST_ESTALE when it was swept in between. */
int ssti_proc_stamp(struct sst_arena *arena, uint64_t proc);
/* The member is gone and holds nothing: free its seat, or keep it for who watches. */
void ssti_proc_give_seat(struct sst_arena *arena, uint64_t proc);
void ssti_proc_free_seat(struct sst_arena *arena, uint64_t proc);
/* Take and release the registry's leaf, repairing what a dead owner left. */
void ssti_registry_lock(struct sst_arena *arena);
void ssti_registry_unlock(struct sst_arena *arena);

/* ---- sweep.c ---- */

/* Dead for sure: nobody of it runs any more. The seat is LIVE or UNBORN. */
bool ssti_proc_is_dead(struct sst_arena *arena, struct sst_process_shm *seat);
/* Tell everybody who sleeps on the process's words. */
void ssti_proc_wake_all(struct sst_process_shm *seat);
/* Undo what a seat's entries hold. False when something had to be left. */
bool ssti_proc_undo_seat(struct sst_arena *arena, uint32_t index);

/* ---- fork.c ---- */

int ssti_fork_register(struct sst_arena *arena);
void ssti_fork_unregister(struct sst_arena *arena);

/* ---- presence.c, waits.c ---- */

void ssti_presence_undo(struct sst_arena *arena, uint32_t index);
void ssti_waits_undo(struct sst_arena *arena, uint32_t index);

/* ---- block.c ---- */

void ssti_block_register(void);

#endif
