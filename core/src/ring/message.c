/* SPDX-License-Identifier: MIT */

/* Messages that were taken: where their bytes are, and giving those back.
 *
 *     owner NULL,   extent 0        in message->small
 *     owner block,  extent 0        in a block of the process's heap
 *     owner arena,  extent n        in the extent that the held entry n - 1 holds; or,
 *                                   with data NULL, nobody wants to know
 *     owner parcel, extent all ones in the parcel, of which this is a view
 *
 * Writes no shared memory of its own: who dies with an extent or a parcel loses it to
 * the sweeper, with everything else that is in its held table. */

#include "base/alloc.h"
#include "ring/ring.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/parcel.h"
#include "sidestep/sidestep.h"

static void
drop_held(const struct sst_message *message)
{
    struct sst_arena *const arena = message->owner;
    const uint32_t held = (uint32_t)(message->extent - SSTI_MESSAGE_HELD);
    const uint64_t value = ssti_held_value(arena, held);

    if (message->data != NULL) {
        ssti_arena_unpin(arena, value & ~(uint64_t)SSTI_HELD_FLAGS, message->size);
    }
    if ((value & SSTI_HELD_SLOT) != 0) {
        ssti_slot_drop(arena, held);
    }
    else {
        ssti_extent_drop(arena, held);
    }
}

void
sst_message_free(struct sst_message *message)
{
    if (message == NULL) {
        return;
    }
    if (message->extent == SSTI_MESSAGE_PARCEL) {
        (void)sst_parcel_close(message->owner);
    }
    else if (message->extent != 0) {
        drop_held(message);
    }
    else {
        ssti_free(message->owner);
    }
    message->data = NULL;
    message->size = 0;
    message->owner = NULL;
    message->extent = 0;
}

struct sst_parcel *
sst_message_parcel(const struct sst_message *message)
{
    return message->extent == SSTI_MESSAGE_PARCEL ? message->owner : NULL;
}
