/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_QUEUE_H
#define SSTI_RING_QUEUE_H

/* What queue.c (put, get) and queue_life.c (the rest) share. */

#include <stdbool.h>
#include <stdint.h>

#include "ring/bell.h"
#include "ring/ring.h"
#include "ring/takers.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"
#include "sync/spin.h"
#include "sync/view.h"

struct sst_queue {
    struct ssti_view view;  /* first: the repair gets it */
    struct sst_queue *self; /* this view, where only a constant pointer is at hand */
    struct sst_queue_shm *shm;
    struct ssti_ring ring;
    struct ssti_bell bell;
    struct ssti_takers takers;
    struct ssti_spin get_spin;
    struct ssti_spin put_spin;
    bool joinable;
};

/* What the next unlock must wake, from the state. The leaf is held. */
uint32_t ssti_queue_wake_locked(const struct sst_queue *queue);
/* Release the leaf and wake. */
void ssti_queue_unlock(struct sst_queue *queue);
/* How ring.c takes and releases it. */
struct ssti_ring_section ssti_queue_section(struct sst_queue *queue);
/* sst_queue_get, of a message as it lies in the ring. */
int ssti_queue_take(struct sst_queue *queue, struct sst_message *message,
                    int64_t deadline_ns);
/* Bring back into order what a dead holder of the leaf left. */
void ssti_queue_repair(const struct ssti_view *view);

/* This process found nothing, under the leaf: its descriptor is not to be readable any
 * more. */
void ssti_queue_settle_bell_locked(struct sst_queue *queue);
/* After an immediate shutdown: drop what is left, whoever did not live to. */
void ssti_queue_discard(struct sst_queue *queue);

#endif
