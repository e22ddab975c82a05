/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_HEAP_H
#define SSTI_SHM_HEAP_H

/* What the heap offers beyond arena.h to those who look after it. */

#include <stdint.h>

struct sst_arena;

/* Give pages of free extents back to the system until at most `keep` bytes are left
 * warm. */
void ssti_heap_trim(struct sst_arena *arena, uint64_t keep);
/* Something was freed, or a process leaves: keep what is warm within its bounds. */
void ssti_heap_look_after(struct sst_arena *arena);

#endif
