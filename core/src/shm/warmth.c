/* SPDX-License-Identifier: MIT */

/* How much of the heap's free memory stays warm.
 *
 * Warm memory is what the next large message is copied into, at a seventh of the price
 * of fresh pages; kept for nothing it is missing elsewhere. Two rules:
 *
 *   - never more than WARM_MAX, a quarter of the user's own limit if he set one;
 *   - of what nobody needed for PERIOD_NS, all but KEEP goes back. `idle_low` is the
 *     least that was warm at any time since `idle_since`: that much was not needed.
 *
 * There is no thread that would look at a clock. Whoever frees an extent does, and who
 * leaves the arena, STEP bytes at a time, so that no single call pays for all of it. In
 * a tree in which nobody does either, warm memory stays as it is.
 *
 * Death table: the two words are hints. Whoever writes them late, or not at all, has
 * memory given back a period sooner or later. */

#include "base/atomic.h"
#include "base/bits.h"
#include "os/os.h"
#include "shm/heap.h"
#include "shm/view.h"

#define WARM_MAX  (UINT64_C(256) << 20)
#define KEEP      (UINT64_C(16) << 20)
#define STEP      (UINT64_C(64) << 20)
#define PERIOD_NS UINT64_C(1000000000)

/* Give back some of what was idle for a whole period. */
static void
trim_idle(struct sst_arena *arena, uint64_t warm)
{
    struct sst_heap_shm *const heap = &arena->control->heap;
    const uint64_t now_ns = (uint64_t)ssti_os_now_ns();
    const uint64_t low = ssti_load_rlx(&heap->idle_low) * SSTI_UNIT;

    if (now_ns - ssti_load_rlx(&heap->idle_since) < PERIOD_NS) {
        return;
    }
    ssti_store_rlx(&heap->idle_since, now_ns);
    ssti_store_rlx(&heap->idle_low, warm / SSTI_UNIT);
    if (low > KEEP) {
        ssti_heap_trim(arena, warm - ssti_min(ssti_min(low - KEEP, STEP), warm));
    }
}

void
ssti_heap_look_after(struct sst_arena *arena)
{
    const uint64_t limit = ssti_load_rlx(&arena->header->budget);
    const uint64_t bound = limit != 0 ? ssti_min(WARM_MAX, limit / 4) : WARM_MAX;
    const uint64_t warm = ssti_load_rlx(&arena->control->heap.warm) * SSTI_UNIT;

    if (warm > bound) {
        ssti_heap_trim(arena, bound);
    }
    else if (warm > KEEP) {
        trim_idle(arena, warm);
    }
}
