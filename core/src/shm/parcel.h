/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_PARCEL_H
#define SSTI_SHM_PARCEL_H

/* What ring/ needs of parcels beyond the public functions: how they are put into a
 * record and taken out of one. parcel.c has the protocol. */

#include <stdbool.h>
#include <stdint.h>

#include "shm/arena.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"

/* This process's view. */
struct sst_parcel {
    struct sst_arena *arena;
    struct sst_parcel_shm *shm;
    void *data;
    uint64_t offset;      /* of the slot */
    uint64_t data_offset; /* of the bytes */
    uint64_t size;
    uint32_t held; /* the entry that holds it */
    uint32_t generation;
    bool is_found; /* sst_parcel_find knows of it; guarded by the arena's map_lock */
};

/* Is there a living parcel in the slot at `offset`? */
bool ssti_parcel_is_at(struct sst_arena *arena, uint64_t offset);

/* The next two take a hold over from a record of a ring.
 *
 * A view of the parcel that a record names, which is not held yet, so that what is read
 * here may be anything: memory is obtained and the bytes are mapped. SST_EAGAIN when it
 * cannot be a parcel (any more); SST_ENOMEM. */
int ssti_parcel_prepare(struct sst_arena *arena, uint64_t offset, uint64_t data_offset,
                        uint64_t size, struct sst_parcel **out);
/* The entry `held` holds it now. Cannot fail. */
void ssti_parcel_taken(struct sst_parcel *parcel, uint32_t held);
/* The view alone: unmap and free. For one that was prepared and not taken, and for one
 * whose hold has moved into a record. */
void ssti_parcel_forget(struct sst_parcel *parcel);

const struct ssti_kind_ops *ssti_parcel_kind(void);

#endif
