/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_POOL_PACE_H
#define SSTPY_POOL_PACE_H

/* How many items of a map go into its next task, when we choose. Without Python, so
 * that tests/c/test_pool_pace.c can try it on workers that exist as numbers only.
 *
 * The first tasks have one item each; then a chunk is what takes CHUNK_NS by the
 * measure of those done, and never more than a share of what is left, so that workers
 * end together whatever the items cost; but no less than what takes FLOOR_NS, for a
 * task costs the parent a wake-up. */

#include <stdint.h>

enum {
    SSTPY_PACE_WINDOW = 2, /* tasks ahead of each worker */
    SSTPY_PACE_CHUNK_NS = 2000000,
    SSTPY_PACE_FLOOR_NS = 50000,
    SSTPY_PACE_CHUNK_MAX = 65536,
    SSTPY_PACE_SHARE = 3, /* of what is left, over the number of workers: one chunk */
};

struct sstpy_pace {
    double item_ns; /* how long an item takes, 0 = unknown */
};

/* A task of `count` items took so long. */
static inline void
sstpy_pace_note(struct sstpy_pace *pace, int64_t duration_ns, uint32_t count)
{
    const double one = (double)duration_ns / count;

    /* rises at once, falls slowly: too small a chunk costs less than too large */
    pace->item_ns = one > pace->item_ns ? one : 0.5 * (pace->item_ns + one);
}

/* How many items take so long, as far as we know. */
static inline uint64_t
sstpy_pace_items(const struct sstpy_pace *pace, int64_t duration_ns)
{
    const double count = (double)duration_ns / pace->item_ns;

    return count < 1                      ? 1
           : count < SSTPY_PACE_CHUNK_MAX ? (uint64_t)count
                                          : SSTPY_PACE_CHUNK_MAX;
}

/* The size of the next chunk, of `left` items. */
static inline uint32_t
sstpy_pace_chunk(const struct sstpy_pace *pace, uint64_t left, uint32_t workers)
{
    if (pace->item_ns <= 0) {
        return 1;
    }

    const uint64_t share = left / ((uint64_t)SSTPY_PACE_SHARE * workers) + 1;
    const uint64_t least = sstpy_pace_items(pace, SSTPY_PACE_FLOOR_NS);
    const uint64_t most = sstpy_pace_items(pace, SSTPY_PACE_CHUNK_NS);

    return (uint32_t)(share < least ? least : share < most ? share : most);
}

#endif
