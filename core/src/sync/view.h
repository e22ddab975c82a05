/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SYNC_VIEW_H
#define SSTI_SYNC_VIEW_H

/* What the process-local views of the objects in sync/ have in common: the slot they
 * stand for, its leaf, and how that is taken, slept on, and repaired after a death. */

#include <stdbool.h>
#include <stdint.h>

#include "shm/arena.h"
#include "shm/leaf.h"
#include "sidestep/sidestep.h"

struct ssti_view;

/* Bring what the leaf guards into order after its holder died. The leaf is held. */
typedef void (*ssti_repair_fn)(const struct ssti_view *view);

/* First member of every view. Set at create or attach, then const. */
struct ssti_view {
    struct sst_arena *arena;
    struct sst_leaf_shm *leaf;
    ssti_repair_fn repair; /* NULL: every step is a single store */
    uint64_t offset;       /* of the slot */
    uint32_t generation;   /* of the slot */
    uint32_t kind;
    uint32_t held; /* entry of this process's held table; a fork's child has it too */
};

/* Make a slot of `size` bytes, or hold the one that `handle` names; *object is its
 * address. Zeroed behind the header when made. The caller sets leaf and repair. */
int ssti_view_create(struct ssti_view *view, struct sst_arena *arena,
                     enum sst_kind kind, uint32_t size, void **object,
                     struct sst_error *err);
int ssti_view_attach(struct ssti_view *view, struct sst_arena *arena,
                     enum sst_kind kind, uint32_t size, const struct sst_handle *handle,
                     void **object, struct sst_error *err);
void ssti_view_fini(struct ssti_view *view);
void ssti_view_handle(const struct ssti_view *view, struct sst_handle *out);

/* The rest of ssti_view_lock when the leaf's last holder died: repair, wake everybody,
 * and take the leaf again. */
void ssti_view_lock_repair(const struct ssti_view *view);

/* Take the leaf; what it guards is in order. */
static inline void
ssti_view_lock(const struct ssti_view *view)
{
    if (__builtin_expect(ssti_leaf_lock(view->arena, view->leaf) != 0, 0)) {
        ssti_view_lock_repair(view);
    }
}

static inline void
ssti_view_unlock(const struct ssti_view *view, uint32_t wake, int count)
{
    ssti_leaf_unlock(view->leaf, wake, count);
}

/* Sleep; the leaf is held before and after. 0 when it is time to look again,
 * SST_ETIMEDOUT past `deadline_ns`, SST_EINTR. `sleep->deadline_ns` may be earlier than
 * `deadline_ns`: then it is time to look again. */
int ssti_view_wait(const struct ssti_view *view, const struct ssti_leaf_sleep *sleep,
                   int64_t deadline_ns);

/* Let `sleep` end when the process `proc` dies, too. False when it is dead already.
 * Sets life, life_value and deadline_ns, from `deadline_ns`. */
bool ssti_view_watch(const struct ssti_view *view, uint64_t proc,
                     struct ssti_leaf_sleep *sleep, int64_t deadline_ns);

#endif
