/* SPDX-License-Identifier: MIT */

/* A model of shm/parcel.c for the simulation: a parcel is an extent of the modelled
 * heap, and the word of whoever holds it says that it is a slot. What the rings do with
 * such a word, and what becomes of it when they die meanwhile, is what is tried. */

#include "shm/parcel.h"

#include <sidestep/sidestep.h>

#include "base/alloc.h"
#include "ring/pieces.h"
#include "shm/arena.h"
#include "sim.h"

static struct sst_parcel *
view_of(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    struct sst_parcel *const parcel = ssti_alloc(sizeof *parcel);

    sim_check(parcel != NULL);
    parcel->arena = arena;
    parcel->offset = offset;
    parcel->data_offset = offset;
    parcel->size = size;
    parcel->data = ssti_arena_ptr(arena, offset, size);
    return parcel;
}

int
sst_parcel_create(struct sst_arena *arena, uint64_t size, uint32_t handle_max,
                  struct sst_parcel **out, struct sst_error *err)
{
    uint64_t offset;
    uint32_t held;
    const int rc = ssti_extent_create(arena, size, &held, &offset, err);

    (void)handle_max;
    if (rc == 0) {
        ssti_held_set(arena, ssti_held_offset(arena, held), offset | SSTI_HELD_SLOT);
        *out = view_of(arena, offset, size);
        (*out)->held = held;
    }
    return rc;
}

bool
ssti_parcel_is_at(struct sst_arena *arena, uint64_t offset)
{
    return ssti_extent_size(arena, offset) != 0;
}

int
ssti_parcel_prepare(struct sst_arena *arena, uint64_t offset, uint64_t data_offset,
                    uint64_t size, struct sst_parcel **out)
{
    sim_step();
    sim_check(data_offset == offset);
    if (ssti_extent_size(arena, offset) < size) {
        return SST_EAGAIN;
    }
    *out = view_of(arena, offset, size);
    return 0;
}

void
ssti_parcel_taken(struct sst_parcel *parcel, uint32_t held)
{
    parcel->held = held;
}

void
ssti_parcel_forget(struct sst_parcel *parcel)
{
    ssti_free(parcel);
}

struct sst_parcel *
sst_parcel_close(struct sst_parcel *parcel)
{
    struct sst_arena *const arena = parcel->arena;
    const uint32_t held = parcel->held;

    ssti_parcel_forget(parcel);
    ssti_slot_drop(arena, held);
    return NULL;
}

void *
sst_parcel_data(const struct sst_parcel *parcel)
{
    return parcel->data;
}

/* Messages in pieces are queues and parcels and nothing else; they are not tried
 * here. */
int
ssti_pieces_send(const struct ssti_pieces_way *way, const struct sst_slice *slices,
                 uint32_t count, int64_t deadline_ns)
{
    (void)way;
    (void)slices;
    (void)count;
    (void)deadline_ns;
    return SST_ELIMIT;
}

int
ssti_pieces_gather(struct sst_message *message)
{
    (void)message;
    return 0;
}
