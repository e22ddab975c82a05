/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_PIECES_H
#define SSTI_RING_PIECES_H

/* Messages that go piece by piece, where there is no memory for them at once. */

#include <stdbool.h>
#include <stdint.h>

#include "ring/ring.h"
#include "sidestep/sidestep.h"

/* Where the announcement of such a message goes. */
struct ssti_pieces_way {
    struct sst_arena *arena;
    void *object;
    int (*announce)(void *object, struct sst_parcel **parcel, int64_t deadline_ns);
    /* 0 while somebody may still take the announcement; else what the sender gets. */
    int (*look)(void *object);
};

/* Send a message; blocks until it is taken. 0 also when it is gone with who took it.
 * SST_ETIMEDOUT and SST_EINTR before anything of it was taken: then it was not sent.
 * Statuses of announce and look; SST_ELIMIT. */
int ssti_pieces_send(const struct ssti_pieces_way *way, const struct sst_slice *slices,
                     uint32_t count, int64_t deadline_ns);

/* If what was taken is the announcement of such a message, put it together. 0;
 * SST_EAGAIN: it was withdrawn; SST_EOWNERDEAD: its sender died; SST_ENOMEM,
 * SST_ECORRUPT. But for 0 the message is freed. */
int ssti_pieces_gather(struct sst_message *message);

/* Can it be such an announcement at all? */
static inline bool
ssti_pieces_possible(const struct sst_message *message)
{
    return __builtin_expect(message->extent == SSTI_MESSAGE_PARCEL, 0);
}

#endif
