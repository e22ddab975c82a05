/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_ARENA_H
#define SSTI_SHM_ARENA_H

/* The arena: one sparse sealed memfd of a tree of processes, mapped by windows. This
 * header is what sync/, ring/ and proc/ build on. docs/internals/memory.rst explains
 * it. */

#include <stdbool.h>
#include <stdint.h>

#include "shm/leaf.h"
#include "sidestep/sidestep.h"

struct sst_arena;

/* ---- Addresses ---- */

/* The address of [offset, offset + size), mapping a window if need be; NULL when out of
 * range or when it cannot be mapped. A range within one heap extent or slot never
 * straddles windows unless it is larger than a window: then it gets a mapping of its
 * own that stays until ssti_arena_unmap_large (or ssti_extent_drop). Lock-free when
 * mapped. */
void *ssti_arena_ptr(struct sst_arena *arena, uint64_t offset, uint64_t size);
/* This process is done with the address of a large range for now: the mapping becomes
 * evictable but stays cached while there is room. Nothing for ranges within a
 * window. */
void ssti_arena_unmap_large(struct sst_arena *arena, uint64_t offset);

/* Is that a range of the arena at all? If so, and it has no address, it cannot be
 * mapped in this process. */
bool ssti_arena_has(const struct sst_arena *arena, uint64_t offset, uint64_t size);

/* The same for a range that several threads may use at a time, each from pin to
 * unpin. */
void *ssti_arena_pin(struct sst_arena *arena, uint64_t offset, uint64_t size);
void ssti_arena_unpin(struct sst_arena *arena, uint64_t offset, uint64_t size);

/* ---- Slots: small objects ---- */

/* A slot starts with struct sst_slot_shm (layout.h), which is this directory's; the
 * rest is the object's. */

/* A slot of `size` bytes (rounded up to a class: 128, 256, 512, 1024, 2048, 4096),
 * zeroed behind its header, held once by this process: *held is the index of the held
 * entry. SST_ELIMIT, SST_ENOMEM. */
int ssti_slot_create(struct sst_arena *arena, enum sst_kind kind, uint32_t size,
                     uint32_t *held, uint64_t *offset, struct sst_error *err);

/* Hold the slot a handle names. Checks arena, range, alignment, kind, generation,
 * layout hash. SST_ESTALE, SST_EINVAL, SST_ELAYOUT. */
int ssti_slot_hold(struct sst_arena *arena, const struct sst_handle *handle,
                   uint32_t *held, struct sst_error *err);

/* Drop a hold. With the last one the kind's destroy runs, then the slot is free. */
void ssti_slot_drop(struct sst_arena *arena, uint32_t held);

/* What the sweeper and the last drop do to objects of a kind. `object` is the slot's
 * address. */
struct ssti_kind_ops {
    /* Hash of the struct in shared memory. */
    uint32_t layout;
    /* Idempotent: may be run again after a death. */
    void (*destroy)(struct sst_arena *arena, void *object);
    /* Take the leaf, redo what a dead owner left, release. False: it cannot be done in
     * this process, which has not touched the leaf. May be NULL. */
    bool (*settle)(struct sst_arena *arena, void *object);
    /* A process died while its presence was `value`. May be NULL. */
    void (*presence_died)(struct sst_arena *arena, void *object, int64_t value);
};
void ssti_kind_register(enum sst_kind kind, const struct ssti_kind_ops *ops);
/* Registers all kinds there are; defined above all of them, in kinds.c. For create and
 * attach of an arena. */
void ssti_kinds_init(void);

/* ---- Heap: extents ---- */

/* An extent of at least `size` bytes: power of two from 4 KiB; the content is
 * undefined. It belongs to this process through the held entry *held until moved. Above
 * 1 MiB asks the budget. SST_ELIMIT with text. */
int ssti_extent_create(struct sst_arena *arena, uint64_t size, uint32_t *held,
                       uint64_t *offset, struct sst_error *err);
/* As above, and all bytes zero. */
int ssti_extent_create_zeroed(struct sst_arena *arena, uint64_t size, uint32_t *held,
                              uint64_t *offset, struct sst_error *err);
/* A child forked from now on gets its own share of this extent through the same entry
 * (else its entry is empty): for extents that user code looks at. An extent with
 * several shares is free when the last is dropped. */
void ssti_extent_inherit(struct sst_arena *arena, uint32_t held);
/* Free an extent that this process owns through `held`. */
void ssti_extent_drop(struct sst_arena *arena, uint32_t held);
/* Free the extent that an 8-byte word in shared memory names, and store `value` (0, or
 * the next one of a chain) there, as one step: for a destroy, which may be run again
 * after a death. Nothing when the word names none. */
void ssti_extent_free_at(struct sst_arena *arena, uint64_t word_offset, uint64_t value);
/* Free an extent by its offset. Only where it cannot happen twice: in between somebody
 * else may have got it. */
void ssti_extent_free(struct sst_arena *arena, uint64_t offset);
/* Move an extent from a held entry, which is given back, to such a word, as one
 * step. */
void ssti_extent_give(struct sst_arena *arena, uint32_t held, uint64_t word_offset);
/* Usable size of an extent; 0 when `offset` is not the start of a live one. */
uint64_t ssti_extent_size(struct sst_arena *arena, uint64_t offset);

/* Moving an extent between a held entry and a shared object happens under the object's
 * leaf with a redo intent: the object's intent names the held entry's offset and the
 * value to be stored there. */
uint64_t ssti_held_offset(struct sst_arena *arena, uint32_t held);
/* For a redo; 0 clears. */
void ssti_held_set(struct sst_arena *arena, uint64_t entry_offset, uint64_t extent);
/* Between an object's intent and its redo the owner of the entry may die, and its table
 * must not be swept first: an entry is tied to the object it is about to be moved into
 * or out of (object = offset of its slot, 0 unties; a store into one's own entry,
 * before the object's leaf is taken). Before the sweeper undoes a tied entry, or gives
 * the dead process's index away, it calls the `settle` of the object's kind, then reads
 * the entry again. */
void ssti_held_tie(struct sst_arena *arena, uint32_t held, uint64_t object_offset);
/* An empty entry to receive an extent. */
int ssti_held_reserve(struct sst_arena *arena, uint32_t *held);
/* Give an entry back that was cleared or never set. */
void ssti_held_release(struct sst_arena *arena, uint32_t held);
/* The offset of what this process holds through an entry, with the flags of
 * layout.h. */
uint64_t ssti_held_value(struct sst_arena *arena, uint32_t held);

/* ---- Processes ---- */

/* Who I am: registry index and generation, as stored in owners. 0 only in a forked
 * child for which no seat was free: it can use no object. */
uint64_t ssti_proc_self(struct sst_arena *arena);
/* Is that process alive? A false answer has been confirmed by the kernel. */
bool ssti_proc_alive(struct sst_arena *arena, uint64_t proc);
/* Its life word and the value the word has while it lives, to be slept on. NULL when it
 * is dead or gone. */
_Atomic uint32_t *ssti_proc_life(struct sst_arena *arena, uint64_t proc,
                                 uint32_t *value);
/* Until when one may sleep on that life word: `deadline_ns`, or less where the kernel
 * does not report every death on it; past it look at ssti_proc_alive again. Use it as
 * the sleep's deadline. */
int64_t ssti_proc_patience(struct sst_arena *arena, uint64_t proc, int64_t deadline_ns);
/* Find dead processes and undo what they held. Cheap when nobody died. Returns how many
 * were swept. */
int ssti_proc_sweep(struct sst_arena *arena);

/* How a process ended: *done is the word that is 1 once it has left in order (woken
 * when set), *exit_code the code it left. Valid until ssti_proc_release for a process
 * that is watched, else until it is swept. NULL when gone. */
_Atomic uint32_t *ssti_proc_done(struct sst_arena *arena, uint64_t proc,
                                 int32_t *exit_code);

/* ---- Starting processes (proc/) ---- */

/* fork(): hooks run by pthread_atfork copy the held table to a seat for the child.
 * proc/ may ask for that seat: ssti_proc_watch_next_fork() before fork() makes the
 * calling thread's next child *watched* (its seat, done word and exit code stay until
 * ssti_proc_release); afterwards the parent reads the child's id with
 * ssti_proc_last_child. fork() failed: ssti_proc_abandon. */
void ssti_proc_watch_next_fork(void);
uint64_t ssti_proc_last_child(struct sst_arena *arena);
/* The same three steps around a raw clone(), which runs no hooks. */
void ssti_fork_prepare(void);
void ssti_fork_parent(void);
void ssti_fork_child(void);

/* A watched seat for a child that will attach by descriptor (spawn). Until it has, only
 * the reserving process writes to it. */
int ssti_proc_reserve(struct sst_arena *arena, uint64_t *proc);
/* Hold the slot a handle names for the child; dropped by the child with
 * ssti_proc_drop_gifts once it has its own holds. */
int ssti_proc_hold_for(struct sst_arena *arena, uint64_t proc,
                       const struct sst_handle *handle);
/* In the child: join the arena behind the descriptor (duplicated) in the reserved
 * seat. */
int ssti_arena_attach_as(int fd, uint64_t proc, struct sst_arena **out,
                         struct sst_error *err);
void ssti_proc_drop_gifts(struct sst_arena *arena);
/* The child never came to be, or is known to be dead: give the seat and its holds back
 * if it never sat down there, else as ssti_proc_release. */
void ssti_proc_abandon(struct sst_arena *arena, uint64_t proc);
/* The watcher has read how the child ended. */
void ssti_proc_release(struct sst_arena *arena, uint64_t proc);
/* Undo what this process holds; objects must not be used any more. Before descriptors
 * are closed, because what it destroys may have to be mapped. */
void ssti_proc_undo(struct sst_arena *arena);
/* Leave in order: undo what this process holds, store the exit code, set done, wake.
 * Only _exit may follow. */
void ssti_proc_leave(struct sst_arena *arena, int32_t exit_code);

/* ---- Presence ---- */

/* This process takes part in an object (waits in a barrier or condition, holds units or
 * unfinished tasks): a number that ssti_kind_ops.presence_died gets when the process
 * dies while it is not zero. Returns the shared word of this process for this object:
 * create on first use; changed only by this process's threads (atomic add). NULL when
 * the table is full. */
_Atomic int64_t *ssti_presence(struct sst_arena *arena, uint64_t object_offset);
void ssti_presence_forget(struct sst_arena *arena, uint64_t object_offset);
/* The word belongs to the process that asked: in a forked child ask again (keep it
 * together with ssti_proc_self). presence_died may be called twice for one record when
 * the sweeper itself dies in between. */

#endif
