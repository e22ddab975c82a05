/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SYNC_KINDS_H
#define SSTI_SYNC_KINDS_H

/* What the registry's sweeper and the last drop need to know of the objects in sync/.
 * Each is valid for ever and the same at every call. */

#include "shm/arena.h"

const struct ssti_kind_ops *ssti_mutex_kind(void);
const struct ssti_kind_ops *ssti_semaphore_kind(void);
const struct ssti_kind_ops *ssti_condition_kind(void);
const struct ssti_kind_ops *ssti_event_kind(void);
const struct ssti_kind_ops *ssti_barrier_kind(void);

#endif
