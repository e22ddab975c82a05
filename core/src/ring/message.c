/* SPDX-License-Identifier: MIT */

/* Messages that were taken: where their bytes are, and giving those back.
 *
 *     owner NULL,  extent 0   in message->small
 *     owner block, extent 0   in a block of the process's heap
 *     owner arena, extent n   in the extent that the held entry n - 1 holds
 *
 * Writes no shared memory of its own: who dies with an extent loses it to the sweeper,
 * with everything else that is in its held table. */

#include "base/alloc.h"
#include "shm/arena.h"
#include "sidestep/sidestep.h"

void
sst_message_free(struct sst_message *message)
{
    if (message == NULL) {
        return;
    }
    if (message->extent != 0) {
        ssti_extent_drop(message->owner, (uint32_t)(message->extent - 1));
    }
    else {
        ssti_free(message->owner);
    }
    message->data = NULL;
    message->size = 0;
    message->owner = NULL;
    message->extent = 0;
}
