/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_PIPE_H
#define SSTI_RING_PIPE_H

/* What pipe.c (send, recv) and pipe_life.c (the rest) share. */

#include <stdbool.h>
#include <stdint.h>

#include "ring/ring.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"
#include "sync/spin.h"
#include "sync/view.h"

#ifndef SSTI_PIPE_BYTES
/* A way that holds less takes another message, however long. Heads of records count, so
 * that 256 KiB of messages of a size worth sending fit. */
# define SSTI_PIPE_BYTES 327680
#endif

struct sst_pipe {
    struct ssti_view view; /* first: the repair gets it */
    struct sst_pipe *self; /* this view, where only a constant pointer is at hand */
    struct sst_pipe_shm *shm;
    uint32_t end;      /* 0 or 1 */
    uint32_t end_held; /* the held entry for the end's own slot */
    int fd;
    bool can_recv;
    bool can_send;
    bool is_polled; /* sst_pipe_fd was called: rings are taken back at once */
    struct sst_slot_shm *other_hold; /* the slot of the other end, */
    uint32_t other_generation;       /* as long as it has this generation */
    struct ssti_ring in;
    struct ssti_ring out;
    struct ssti_spin recv_spin;
    struct ssti_spin send_spin;
    _Atomic uint32_t unread; /* sends since somebody took; any thread writes, a guess */
    _Atomic uint64_t last_got; /* takes there had been then */
};

/* Bring back into order what a dead holder of the leaf left. */
void ssti_pipe_repair(const struct ssti_view *view);
/* Release the leaf. */
void ssti_pipe_unlock(struct sst_pipe *pipe);
/* How ring.c takes and releases it. */
struct ssti_ring_section ssti_pipe_section(struct sst_pipe *pipe);

#endif
