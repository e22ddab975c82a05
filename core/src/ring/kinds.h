/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_KINDS_H
#define SSTI_RING_KINDS_H

/* What the registry's sweeper and the last drop need to know of queues and pipes. Each
 * is valid for ever and the same at every call. */

#include "shm/arena.h"

const struct ssti_kind_ops *ssti_queue_kind(void);
const struct ssti_kind_ops *ssti_pipe_kind(void);

#endif
