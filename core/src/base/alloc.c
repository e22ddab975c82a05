/* SPDX-License-Identifier: MIT */

#include "base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

static _Atomic size_t live;
static _Atomic uint64_t countdown; /* 0 = no failure asked for */
static _Atomic bool lasting_failure;

/* Whether this allocation is the one a test wants to see fail. */
static bool
is_to_fail(void)
{
    uint64_t left = atomic_load_explicit(&countdown, memory_order_relaxed);

    while (left > 1) {
        if (atomic_compare_exchange_weak(&countdown, &left, left - 1)) {
            return false;
        }
    }
    if (left == 0) {
        return false;
    }
    if (!atomic_load(&lasting_failure)) {
        atomic_store(&countdown, 0);
    }
    return true;
}

void *
ssti_alloc(size_t size)
{
    void *const block = is_to_fail() ? NULL : calloc(1, size);

    if (block != NULL) {
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    }
    return block;
}

void *
ssti_realloc(void *block, size_t size)
{
    void *const moved = is_to_fail() ? NULL : realloc(block, size);

    if (moved != NULL && block == NULL) {
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    }
    return moved;
}

void *
ssti_free(void *block)
{
    if (block != NULL) {
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
        free(block);
    }
    return NULL;
}

size_t
ssti_alloc_live(void)
{
    return atomic_load(&live);
}

void
ssti_alloc_fail(uint64_t nth, int lasting)
{
    atomic_store(&lasting_failure, lasting != 0);
    atomic_store(&countdown, nth);
}
