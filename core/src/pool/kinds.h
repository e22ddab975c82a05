/* SPDX-License-Identifier: MIT */
#ifndef SSTI_POOL_KINDS_H
#define SSTI_POOL_KINDS_H

/* What the registry's sweeper and the last drop need to know of pools. */

#include "shm/arena.h"

const struct ssti_kind_ops *ssti_pool_kind(void);

#endif
