/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_BELL_H
#define SSTI_RING_BELL_H

/* Doorbells: descriptors that become readable when a queue has something for whoever
 * polls them. bell.c has the protocol. */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"

/* This process's part in the bells of one queue, in the queue's view. */
struct ssti_bell {
    struct sst_arena *arena;
    struct sst_bell_shm *list; /* SSTI_QUEUE_BELLS of them */
    _Atomic uint32_t *armed;   /* bit i: list[i] wants to be rung */
    uint64_t owner; /* ssti_proc_self() of who made `fd`; another's in a forked child */
    uint32_t index; /* of its entry */
    _Atomic int fd; /* the bell; -1 = nobody asked. Written under the leaf, last */
    int ringer;     /* rings others' bells; -1 = none yet. Guarded by the leaf */
};

void ssti_bell_init(struct ssti_bell *bell, struct sst_arena *arena,
                    struct sst_bell_shm *list, _Atomic uint32_t *armed);

/* Somebody wants to be rung? */
static inline bool
ssti_bell_is_wanted(const struct ssti_bell *bell)
{
    return ssti_load_rlx(bell->armed) != 0;
}

/* Ring all that want it. The leaf is held, and what they are to see is not there yet.
 * 0, or why somebody could not be told: then it must not come to be there.
 * SST_EMFILE. */
int ssti_bell_ring_locked(struct ssti_bell *bell);

/* This process found nothing, under the leaf: take back the rings and want a new
 * one. */
void ssti_bell_settle_locked(struct ssti_bell *bell);

/* The last owner of the leaf died, perhaps after it rang. */
void ssti_bell_repair_locked(struct sst_bell_shm *list);

/* Does this process, not its parent, have a bell here? */
bool ssti_bell_is_mine(const struct ssti_bell *bell);
/* Does the view have any, perhaps the parent's? */
static inline bool
ssti_bell_is_there(const struct ssti_bell *bell)
{
    return ssti_load_rlx(&bell->fd) >= 0;
}
/* Close the parent's. */
void ssti_bell_disown(struct ssti_bell *bell);

/* Make the socket, and find out which entries belong to the dead: without the leaf.
 * Then, with it, enter the list, wanting to be rung; SST_ELIMIT when it is full. `rung`
 * says that there is something already. Finally, without it: the descriptor, or the
 * error. */
struct ssti_bell_opening {
    uint64_t owner;
    uint64_t name;
    uint64_t dead[SSTI_QUEUE_BELLS]; /* owners to be swept; 0 = none */
    uint32_t name_size;
    int fd;
};
int ssti_bell_prepare(struct ssti_bell *bell, struct ssti_bell_opening *opening,
                      struct sst_error *err);
int ssti_bell_enter_locked(struct ssti_bell *bell,
                           const struct ssti_bell_opening *opening, bool rung);
int ssti_bell_opened(struct ssti_bell *bell, struct ssti_bell_opening *opening, int rc,
                     struct sst_error *err);

/* Leave the list; the leaf is held. */
void ssti_bell_leave_locked(struct ssti_bell *bell);
/* Close the descriptors. */
void ssti_bell_fini(struct ssti_bell *bell);

#endif
