/* SPDX-License-Identifier: MIT */

/* base/alloc.h and sync/spin.h for simulated processes.
 *
 * The heap of all processes is one pool, emptied between seeds, so that the killed leak
 * nothing; a freed block is overwritten. How long to look before sleeping is a matter
 * of time, of which the simulation has none: chance decides. */

#include "base/alloc.h"

#include <string.h>

#include "sim.h"
#include "sync/spin.h"

enum {
    POOL_SIZE = 1 << 20,
    HEADER_SIZE = 16,
};

static uint8_t pool[POOL_SIZE] __attribute__((aligned(16)));
static size_t pool_used;

void
sim_alloc_reset(void)
{
    pool_used = 0;
}

void *
ssti_alloc(size_t size)
{
    uint8_t *const block = pool + pool_used;

    if (pool_used + size + 2 * HEADER_SIZE > POOL_SIZE) {
        sim_fail("the simulated heap is too small");
    }
    memcpy(block, &size, sizeof(size));
    memset(block + HEADER_SIZE, 0, size);
    pool_used += (size + 2 * HEADER_SIZE - 1) / HEADER_SIZE * HEADER_SIZE;
    return block + HEADER_SIZE;
}

void *
ssti_free(void *block)
{
    size_t size;

    if (block != NULL) {
        memcpy(&size, (uint8_t *)block - HEADER_SIZE, sizeof(size));
        memset(block, 0xdd, size);
    }
    return NULL;
}

void *
ssti_realloc(void *block, size_t size)
{
    void *const grown = ssti_alloc(size);
    size_t old = 0;

    if (block != NULL) {
        memcpy(&old, (uint8_t *)block - HEADER_SIZE, sizeof(old));
        memcpy(grown, block, old < size ? old : size);
        (void)ssti_free(block);
    }
    return grown;
}

void
ssti_spin_begin(struct ssti_spin_run *run, struct ssti_spin *spin, int64_t deadline_ns)
{
    (void)deadline_ns;
    run->useless = &spin->useless[0];
    run->budget_ns = sim_below(4);
    sim.current->self.just_woke = 0;
    sim.current->self.was_woken = 0;
}

bool
ssti_spin_next(struct ssti_spin_run *run)
{
    if (run->budget_ns == 0) {
        return false;
    }
    run->budget_ns--;
    ssti_pause();
    return true;
}

void
ssti_spin_end(const struct ssti_spin_run *run, bool useful)
{
    (void)run;
    (void)useful;
}
