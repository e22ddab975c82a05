/* SPDX-License-Identifier: MIT */
#ifndef SSTI_BASE_ALLOC_H
#define SSTI_BASE_ALLOC_H

/* The process's own heap, for views and tables. Counted, so that tests see leaks, and
 * able to fail on request, so that tests see what happens then. Never called while a
 * leaf is held. */

#include <stddef.h>
#include <stdint.h>

/* Zeroed; NULL when there is none. */
void *ssti_alloc(size_t size);
/* Grow or shrink; the new part is not zeroed. On NULL the old block is still there. */
void *ssti_realloc(void *block, size_t size);
/* Returns NULL. Safe on NULL. */
void *ssti_free(void *block);

/* Blocks allocated and not freed. */
size_t ssti_alloc_live(void);

/* The nth allocation from now fails (1 = the next), and with `lasting` all after it; 0
 * = never. For tests. */
void ssti_alloc_fail(uint64_t nth, int lasting);

#endif
