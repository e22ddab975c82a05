/* SPDX-License-Identifier: MIT */

/* Extents: the large memory of an arena, from 4 KiB up, in powers of two.
 *
 * A buddy allocator over 4 KiB units. Each block is described at its first unit: its
 * order, and whether it is used, free and warm (its pages are there), or free and cold
 * (it has none, and reads as zero). These descriptions are the truth; they tile [0,
 * high) at every instant, for splitting writes the upper halves before the lower one
 * shrinks, and merging is one store. The lists of free blocks are derived from them and
 * rebuilt by a walk after a death.
 *
 * An extent belongs to whatever word names it: a held entry, or a field of an object.
 * Block and words change together, through the heap's intent, as in slots.c. An extent
 * may have several shares, one for each process that got it over a fork.
 *
 * Warm and cold blocks do not merge with each other, so that recycled pages are found
 * again, and what is cold is known to be zero. Of what is warm for no use (warmth.c)
 * somebody punches a hole: it takes a warm block as an extent of its own, gives its
 * pages back, and frees it cold. If it dies meanwhile that extent is freed like any
 * other it held.
 *
 * Death table (process dies after ...)
 *   splitting or merging a part   the tiles are whole; lists are rebuilt by the next to
 *                                 lock
 *   writing the intent's unit     redone by the next to lock; lists are rebuilt
 *   freeing, before merging       a free block more than need be: merged by the rebuild
 *   taking a block to punch it    its held entry frees it warm
 *
 * docs/internals/memory.rst. */

#include <inttypes.h>
#include <string.h>

#include "base/assert.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "shm/heap.h"
#include "shm/view.h"

#define ASK_MIN (UINT64_C(1) << 20) /* growth below is not worth a question each time */

enum {
    COLD,
    WARM,
};

/* ---- Blocks ---- */

static struct sst_heap_shm *
heap_of(const struct sst_arena *arena)
{
    return &arena->control->heap;
}

static struct sst_unit_shm *
unit_at(struct sst_arena *arena, uint64_t unit)
{
    if (unit >= arena->map.unit_count) {
        return NULL;
    }
    return ssti_arena_ptr(arena, arena->map.units + unit * sizeof(struct sst_unit_shm),
                          sizeof(struct sst_unit_shm));
}

static uint32_t
order_of(uint32_t state)
{
    return state & SSTI_UNIT_ORDER;
}

static uint32_t
kind_of(uint32_t state)
{
    return state & SSTI_UNIT_KIND;
}

static uint32_t
free_state(uint32_t warmth, uint32_t order)
{
    return (warmth == WARM ? SSTI_UNIT_WARM : SSTI_UNIT_COLD) | order;
}

static uint64_t
extent_offset(const struct sst_arena *arena, uint64_t unit)
{
    return arena->map.heap + unit * SSTI_UNIT;
}

/* The unit an extent starts at; UINT64_MAX for an offset that is none's. */
static uint64_t
extent_unit(const struct sst_arena *arena, uint64_t offset)
{
    if (offset < arena->map.heap || offset >= arena->map.size ||
        offset % SSTI_UNIT != 0) {
        return UINT64_MAX;
    }
    return (offset - arena->map.heap) / SSTI_UNIT;
}

/* ---- Lists of free blocks; the caller holds the leaf ---- */

static void
list_add(struct sst_arena *arena, uint64_t unit, uint32_t warmth, uint32_t order)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    struct sst_unit_shm *const block = unit_at(arena, unit);
    const uint32_t first = ssti_load_rlx(&heap->list[warmth][order]);
    struct sst_unit_shm *const next = first != 0 ? unit_at(arena, first - 1) : NULL;

    ssti_store_rlx(&block->previous, 0);
    ssti_store_rlx(&block->next, next != NULL ? first : 0);
    if (next != NULL) {
        ssti_store_rlx(&next->previous, (uint32_t)unit + 1);
    }
    ssti_store_rlx(&heap->list[warmth][order], (uint32_t)unit + 1);
    ssti_store_rlx(&heap->mask[warmth],
                   ssti_load_rlx(&heap->mask[warmth]) | 1U << order);
    if (warmth == WARM) {
        ssti_store_rlx(&heap->warm,
                       ssti_load_rlx(&heap->warm) + (UINT64_C(1) << order));
    }
}

static void
list_remove(struct sst_arena *arena, uint64_t unit, uint32_t warmth, uint32_t order)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    struct sst_unit_shm *const block = unit_at(arena, unit);
    const uint32_t next = ssti_load_rlx(&block->next);
    const uint32_t previous = ssti_load_rlx(&block->previous);
    struct sst_unit_shm *const after = next != 0 ? unit_at(arena, next - 1) : NULL;
    struct sst_unit_shm *const before =
        previous != 0 ? unit_at(arena, previous - 1) : NULL;

    if (after != NULL) {
        ssti_store_rlx(&after->previous, previous);
    }
    if (before != NULL) {
        ssti_store_rlx(&before->next, next);
    }
    else {
        ssti_store_rlx(&heap->list[warmth][order], next);
        if (next == 0) {
            ssti_store_rlx(&heap->mask[warmth],
                           ssti_load_rlx(&heap->mask[warmth]) & ~(1U << order));
        }
    }
    if (warmth == WARM) {
        ssti_store_rlx(&heap->warm,
                       ssti_load_rlx(&heap->warm) - (UINT64_C(1) << order));
    }
}

/* Warm memory was needed, and no more than that is left. */
static void
note_use(struct sst_heap_shm *heap)
{
    const uint64_t warm = ssti_load_rlx(&heap->warm);

    if (warm < ssti_load_rlx(&heap->idle_low)) {
        ssti_store_rlx(&heap->idle_low, warm);
    }
}

/* Merge a free block that is in no list with its free neighbours of the same warmth, as
 * far as they are below `end`, then list it. Free blocks below `end` are listed. */
static void
merge_below(struct sst_arena *arena, uint64_t unit, uint32_t warmth, uint32_t order,
            uint64_t end)
{
    while (order + 1 < SSTI_ORDERS) {
        const uint64_t other = unit ^ (UINT64_C(1) << order);
        struct sst_unit_shm *const buddy = other < end ? unit_at(arena, other) : NULL;
        struct sst_unit_shm *lower;

        if (buddy == NULL ||
            ssti_load_rlx(&buddy->state) != free_state(warmth, order)) {
            break;
        }
        list_remove(arena, other, warmth, order);
        unit &= ~(UINT64_C(1) << order);
        order++;
        lower = unit_at(arena, unit);
        ssti_store_rel(&lower->state, free_state(warmth, order));
        SST_CRASHPOINT(heap_merged);
    }
    list_add(arena, unit, warmth, order);
}

static void
merge_and_list(struct sst_arena *arena, uint64_t unit, uint32_t warmth, uint32_t order)
{
    merge_below(arena, unit, warmth, order, ssti_load_rlx(&heap_of(arena)->high));
}

/* ---- After a death ---- */

static void
apply(struct sst_arena *arena, struct sst_heap_shm *heap)
{
    const uint64_t unit = ssti_load_acq(&heap->intent_unit) - 1;
    const uint64_t from = ssti_load_rlx(&heap->intent_from);
    const uint64_t to = ssti_load_rlx(&heap->intent_to);
    struct sst_unit_shm *const block = unit_at(arena, unit);
    _Atomic uint64_t *word;

    if (block != NULL) {
        ssti_store_rel(&block->state, (uint32_t)ssti_load_rlx(&heap->intent_state));
    }
    SST_CRASHPOINT(heap_half_applied);
    if (from != 0 && (word = ssti_arena_word(arena, from)) != NULL) {
        ssti_store_rel(word, ssti_load_rlx(&heap->intent_from_value));
    }
    if (to != 0 && (word = ssti_arena_word(arena, to)) != NULL) {
        ssti_store_rel(word, ssti_load_rlx(&heap->intent_to_value));
    }
    SST_CRASHPOINT(heap_applied);
    ssti_store_rel(&heap->intent_unit, 0);
}

/* One block during the walk: how many units it has, or 0 when it cannot be one. */
static uint64_t
account(struct sst_arena *arena, uint64_t unit, uint64_t high)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    const struct sst_unit_shm *const block = unit_at(arena, unit);
    const uint32_t state = block != NULL ? ssti_load_rlx(&block->state) : 0;
    const uint32_t order = order_of(state);
    uint64_t size;

    if (kind_of(state) == 0 || order >= SSTI_ORDERS) {
        return 0;
    }
    size = UINT64_C(1) << order;
    if (unit % size != 0 || size > high - unit) {
        return 0;
    }
    if (kind_of(state) == SSTI_UNIT_USED) {
        ssti_store_rlx(&heap->used, ssti_load_rlx(&heap->used) + size);
        ssti_store_rlx(&heap->extents, ssti_load_rlx(&heap->extents) + 1);
    }
    else {
        const uint32_t warmth = kind_of(state) == SSTI_UNIT_WARM ? WARM : COLD;

        merge_below(arena, unit, warmth, order, unit);
    }
    return size;
}

/* Derive the lists and sums from the descriptions. */
static void
rebuild(struct sst_arena *arena)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    const uint64_t high = ssti_min(ssti_load_rlx(&heap->high), arena->map.unit_count);
    uint64_t unit = 0;

    for (uint32_t warmth = COLD; warmth <= WARM; warmth++) {
        ssti_store_rlx(&heap->mask[warmth], 0);
        for (uint32_t order = 0; order < SSTI_ORDERS; order++) {
            ssti_store_rlx(&heap->list[warmth][order], 0);
        }
    }
    ssti_store_rlx(&heap->used, 0);
    ssti_store_rlx(&heap->warm, 0);
    ssti_store_rlx(&heap->extents, 0);
    while (unit < high) {
        /* A tile that is damaged, and what is behind it, is never given out again. */
        const uint64_t size = account(arena, unit, high);

        if (size == 0) {
            return;
        }
        unit += size;
    }
}

static void
lock(struct sst_arena *arena)
{
    struct sst_heap_shm *const heap = heap_of(arena);

    while (ssti_leaf_lock(arena, &heap->leaf) != 0) {
        if (ssti_load_acq(&heap->intent_unit) != 0) {
            apply(arena, heap);
        }
        rebuild(arena);
        SST_CRASHPOINT(heap_rebuilt);
        ssti_leaf_unlock(&heap->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    }
}

static void
unlock(struct sst_arena *arena)
{
    ssti_leaf_unlock(&heap_of(arena)->leaf, 0, 0);
}

void
ssti_heap_settle(struct sst_arena *arena)
{
    lock(arena);
    unlock(arena);
}

/* ---- Changes ---- */

struct change {
    uint64_t unit;
    uint32_t state;
    uint64_t from; /* offset of a word, and what it becomes */
    uint64_t from_value;
    uint64_t to;
    uint64_t to_value;
};

static void
commit(struct sst_arena *arena, const struct change *change)
{
    struct sst_heap_shm *const heap = heap_of(arena);

    ssti_store_rlx(&heap->intent_state, change->state);
    ssti_store_rlx(&heap->intent_from, change->from);
    ssti_store_rlx(&heap->intent_from_value, change->from_value);
    ssti_store_rlx(&heap->intent_to, change->to);
    ssti_store_rlx(&heap->intent_to_value, change->to_value);
    SST_CRASHPOINT(heap_intent_unsigned);
    ssti_store_rel(&heap->intent_unit, change->unit + 1); /* pairs with lock() */
    SST_CRASHPOINT(heap_intent_signed);
    apply(arena, heap);
}

/* ---- Finding a block ---- */

/* Free units from the never used end, up to `high` aligned for the order, then the
 * block. */
static bool
raise_high(struct sst_arena *arena, uint32_t order, uint64_t *unit)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    const uint64_t size = UINT64_C(1) << order;

    for (;;) {
        const uint64_t high = ssti_load_rlx(&heap->high);
        const bool is_aligned = high % size == 0;
        const uint32_t part = is_aligned ? order : (uint32_t)__builtin_ctzll(high);
        struct sst_unit_shm *block;

        if (size > arena->map.unit_count ||
            ssti_round_up(high, size) > arena->map.unit_count - size ||
            (block = unit_at(arena, high)) == NULL) {
            return false;
        }
        ssti_store_rlx(&block->state, free_state(COLD, part));
        SST_CRASHPOINT(heap_high_unraised);
        ssti_store_rel(&heap->high, high + (UINT64_C(1) << part));
        SST_CRASHPOINT(heap_high_raised);
        if (is_aligned) {
            *unit = high;
            return true;
        }
        merge_and_list(arena, high, COLD, part);
    }
}

/* Cut a free block, which is in no list, down to the order; what is cut off is
 * listed. */
static void
split(struct sst_arena *arena, uint64_t unit, uint32_t warmth, uint32_t order,
      uint32_t wanted)
{
    struct sst_unit_shm *const block = unit_at(arena, unit);

    while (order > wanted) {
        struct sst_unit_shm *upper;

        order--;
        upper = unit_at(arena, unit + (UINT64_C(1) << order));
        ssti_store_rlx(&upper->state, free_state(warmth, order));
        SST_CRASHPOINT(heap_split_unseen);
        ssti_store_rel(&block->state, free_state(warmth, order));
        list_add(arena, unit + (UINT64_C(1) << order), warmth, order);
    }
}

/* A listed block of at least the order, unlisted and cut. */
static bool
take_listed(struct sst_arena *arena, uint32_t warmth, uint32_t order, uint64_t *unit)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    const uint32_t mask = ssti_load_rlx(&heap->mask[warmth]) & ~((1U << order) - 1);
    uint32_t found;

    if (mask == 0) {
        return false;
    }
    found = (uint32_t)__builtin_ctz(mask);
    *unit = (uint64_t)ssti_load_rlx(&heap->list[warmth][found]) - 1;
    if (unit_at(arena, *unit) == NULL) {
        return false;
    }
    list_remove(arena, *unit, warmth, found);
    split(arena, *unit, warmth, found, order);
    return true;
}

/* Is there room under the user's own limit for so many bytes more? */
static bool
is_within_limit(const struct sst_arena *arena, uint64_t bytes)
{
    const struct sst_heap_shm *const heap = heap_of(arena);
    const uint64_t limit = ssti_load_rlx(&arena->header->budget);
    const uint64_t resident =
        (ssti_load_rlx(&heap->used) + ssti_load_rlx(&heap->warm)) * SSTI_UNIT;

    return limit == 0 || (bytes <= limit && resident <= limit - bytes);
}

/* What a caller wants, and how far it has come. */
struct wish {
    uint32_t order;
    uint64_t granted; /* bytes of growth the budget has allowed meanwhile */
    bool is_zero;     /* of the block that was found */
};

/* SST_EAGAIN: ask the budget first. SST_ENOSPC: pages must be given back first. */
static int
take_block(struct sst_arena *arena, struct wish *wish, uint64_t *unit)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    const uint64_t bytes = (uint64_t)SSTI_UNIT << wish->order;
    uint64_t credit = ssti_load_rlx(&heap->credit);

    wish->is_zero = false;
    if (take_listed(arena, WARM, wish->order, unit)) {
        note_use(heap);
        return 0;
    }
    if (!is_within_limit(arena, bytes)) {
        return ssti_load_rlx(&heap->warm) != 0 ? SST_ENOSPC : SST_ELIMIT;
    }
    credit = ssti_max(credit, wish->granted);
    if (credit < bytes) {
        return SST_EAGAIN;
    }
    if (!take_listed(arena, COLD, wish->order, unit) &&
        !raise_high(arena, wish->order, unit)) {
        return SST_ELIMIT;
    }
    ssti_store_rlx(&heap->credit, credit - bytes);
    wish->is_zero = true;
    return 0;
}

static int
create_locked(struct sst_arena *arena, struct wish *wish, uint64_t entry,
              uint64_t *offset)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    uint64_t unit;
    const int rc = take_block(arena, wish, &unit);

    if (rc != 0) {
        return rc;
    }
    *offset = extent_offset(arena, unit);
    commit(arena, &(struct change){
                      .unit = unit,
                      .state = SSTI_UNIT_USED | SSTI_UNIT_SHARE | wish->order,
                      .to = entry,
                      .to_value = *offset,
                  });
    ssti_store_rlx(&heap->used,
                   ssti_load_rlx(&heap->used) + (UINT64_C(1) << wish->order));
    ssti_store_rlx(&heap->extents, ssti_load_rlx(&heap->extents) + 1);
    return 0;
}

static int
explain(struct sst_arena *arena, int rc, uint64_t bytes, struct sst_error *err)
{
    struct sst_arena_statistics now;

    if (rc == SST_ELIMIT && err != NULL && sst_arena_statistics(arena, &now) == 0) {
        return ssti_error_set(err, rc,
                              "%" PRIu64 " bytes are needed; %" PRIu64
                              " are in use, the limit is %" PRIu64,
                              bytes, now.used, now.budget != 0 ? now.budget : now.size);
    }
    return rc;
}

/* Ask the budget; before a no is final, give back what is only kept for later. */
static int
ask(struct sst_arena *arena, uint64_t bytes, uint64_t *granted, struct sst_error *err)
{
    int rc = ssti_budget_ask(bytes, granted, NULL);

    if (rc != 0) {
        ssti_heap_trim(arena, 0);
        ssti_windows_shed(arena);
        rc = ssti_budget_ask(bytes, granted, err);
    }
    return rc;
}

static int
create(struct sst_arena *arena, uint64_t size, uint32_t held, uint64_t *offset,
       struct wish *wish, struct sst_error *err)
{
    int trims_left = 3; /* others may free and trim meanwhile, but not for ever */
    uint64_t bytes;
    int rc;

    if (size > arena->map.unit_count * SSTI_UNIT) {
        return explain(arena, SST_ELIMIT, size, err);
    }
    wish->order = ssti_log2_above((size + SSTI_UNIT - 1) / SSTI_UNIT);
    bytes = (uint64_t)SSTI_UNIT << wish->order;
    for (;;) {
        lock(arena);
        rc = create_locked(arena, wish, ssti_held_offset(arena, held), offset);
        unlock(arena);
        if (rc == SST_EAGAIN) {
            rc = ask(arena, ssti_max(bytes, ASK_MIN), &wish->granted, err);
            if (rc != 0) {
                return rc;
            }
        }
        else if (rc == SST_ENOSPC && trims_left-- > 0) {
            ssti_heap_trim(arena, 0);
        }
        else {
            return explain(arena, rc == SST_ENOSPC ? SST_ELIMIT : rc, bytes, err);
        }
    }
}

int
ssti_extent_create(struct sst_arena *arena, uint64_t size, uint32_t *held,
                   uint64_t *offset, struct sst_error *err)
{
    struct wish wish = {.order = 0};
    int rc = ssti_held_reserve(arena, held);

    if (rc != 0) {
        return ssti_error_set(err, rc, "this process cannot hold more extents");
    }
    rc = create(arena, size, *held, offset, &wish, err);
    if (rc != 0) {
        ssti_held_release(arena, *held);
    }
    return rc;
}

int
ssti_extent_create_zeroed(struct sst_arena *arena, uint64_t size, uint32_t *held,
                          uint64_t *offset, struct sst_error *err)
{
    struct wish wish = {.order = 0};
    int rc = ssti_held_reserve(arena, held);
    void *bytes;

    if (rc != 0) {
        return ssti_error_set(err, rc, "this process cannot hold more extents");
    }
    rc = create(arena, size, *held, offset, &wish, err);
    if (rc != 0) {
        ssti_held_release(arena, *held);
        return rc;
    }
    if (wish.is_zero) {
        return 0;
    }
    bytes = ssti_arena_ptr(arena, *offset, size);
    if (bytes == NULL) {
        ssti_extent_drop(arena, *held);
        return ssti_error_set(err, SST_ENOMEM, "%" PRIu64 " bytes cannot be mapped",
                              size);
    }
    memset(bytes, 0, size);
    return 0;
}

/* ---- Freeing ---- */

/* The block a word names loses a share; with the last it is free. The word becomes
 * `value`. */
static void
free_word(struct sst_arena *arena, uint64_t word_offset, uint64_t value,
          uint32_t warmth)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    _Atomic uint64_t *const word = ssti_arena_word(arena, word_offset);
    struct sst_unit_shm *block;
    uint64_t unit;
    uint32_t state;

    if (word == NULL) {
        return;
    }
    lock(arena);
    unit = extent_unit(arena, ssti_load_acq(word) & ~(uint64_t)SSTI_HELD_FLAGS);
    block = unit_at(arena, unit);
    state = block != NULL ? ssti_load_rlx(&block->state) : 0;
    if (kind_of(state) != SSTI_UNIT_USED) {
        unlock(arena);
        return;
    }
    if (state >= 2 * SSTI_UNIT_SHARE) {
        commit(arena, &(struct change){.unit = unit,
                                       .state = state - SSTI_UNIT_SHARE,
                                       .from = word_offset,
                                       .from_value = value});
    }
    else {
        commit(arena, &(struct change){.unit = unit,
                                       .state = free_state(warmth, order_of(state)),
                                       .from = word_offset,
                                       .from_value = value});
        ssti_store_rlx(&heap->used,
                       ssti_load_rlx(&heap->used) - (UINT64_C(1) << order_of(state)));
        ssti_store_rlx(&heap->extents, ssti_load_rlx(&heap->extents) - 1);
        merge_and_list(arena, unit, warmth, order_of(state));
    }
    unlock(arena);
}

void
ssti_extent_free_entry(struct sst_arena *arena, uint64_t word_offset, uint64_t value)
{
    free_word(arena, word_offset, value, WARM);
}

void
ssti_extent_drop(struct sst_arena *arena, uint32_t held)
{
    uint64_t entry;
    _Atomic uint64_t *value;

    if (ssti_arena_is_left(arena)) {
        return;
    }
    entry = ssti_held_offset(arena, held);
    value = ssti_arena_word(arena, entry);
    ssti_arena_unmap_large(arena, ssti_load_rlx(value) & ~(uint64_t)SSTI_HELD_FLAGS);
    free_word(arena, entry, 0, WARM);
    ssti_held_release(arena, held);
    ssti_heap_look_after(arena);
}

void
ssti_extent_free_at(struct sst_arena *arena, uint64_t word_offset, uint64_t value)
{
    free_word(arena, word_offset, value, WARM);
    ssti_heap_look_after(arena);
}

void
ssti_extent_free(struct sst_arena *arena, uint64_t offset)
{
    uint32_t held;

    if (ssti_extent_size(arena, offset) == 0 || ssti_held_reserve(arena, &held) != 0) {
        return;
    }
    ssti_held_set(arena, ssti_held_offset(arena, held), offset);
    ssti_extent_drop(arena, held);
}

uint64_t
ssti_extent_size(struct sst_arena *arena, uint64_t offset)
{
    const struct sst_unit_shm *const block = unit_at(arena, extent_unit(arena, offset));
    const uint32_t state = block != NULL ? ssti_load_acq(&block->state) : 0;

    if (kind_of(state) != SSTI_UNIT_USED || order_of(state) >= SSTI_ORDERS) {
        return 0;
    }
    return (uint64_t)SSTI_UNIT << order_of(state);
}

/* ---- Moving and sharing ---- */

void
ssti_extent_give(struct sst_arena *arena, uint32_t held, uint64_t word_offset)
{
    const uint64_t entry = ssti_held_offset(arena, held);
    _Atomic uint64_t *const value = ssti_arena_word(arena, entry);
    struct sst_unit_shm *block;
    uint64_t offset;

    lock(arena);
    offset = ssti_load_rlx(value) & ~(uint64_t)SSTI_HELD_FLAGS;
    block = unit_at(arena, extent_unit(arena, offset));
    sst_assert(block != NULL);
    commit(arena, &(struct change){.unit = extent_unit(arena, offset),
                                   .state = ssti_load_rlx(&block->state),
                                   .from = entry,
                                   .from_value = 0,
                                   .to = word_offset,
                                   .to_value = offset});
    unlock(arena);
    ssti_held_release(arena, held);
}

void
ssti_extent_inherit(struct sst_arena *arena, uint32_t held)
{
    _Atomic uint64_t *const value =
        ssti_arena_word(arena, ssti_held_offset(arena, held));

    if (arena->proc != 0 && ssti_load_rlx(value) != 0) {
        ssti_store_rel(value, ssti_load_rlx(value) | SSTI_HELD_INHERIT);
    }
}

bool
ssti_extent_share(struct sst_arena *arena, const struct sst_held_shm *from,
                  uint64_t entry_offset)
{
    const uint64_t value = ssti_load_acq(&from->value);
    const uint64_t unit = extent_unit(arena, value & ~(uint64_t)SSTI_HELD_FLAGS);
    struct sst_unit_shm *const block = unit_at(arena, unit);
    uint32_t state;
    bool is_held;

    if ((value & SSTI_HELD_INHERIT) == 0 || block == NULL) {
        return false;
    }
    lock(arena);
    /* The entry may have been dropped by another thread meanwhile. */
    state = ssti_load_rlx(&block->state);
    is_held = ssti_load_acq(&from->value) == value && kind_of(state) == SSTI_UNIT_USED;
    if (is_held) {
        commit(arena, &(struct change){.unit = unit,
                                       .state = state + SSTI_UNIT_SHARE,
                                       .to = entry_offset,
                                       .to_value = value});
    }
    unlock(arena);
    return is_held;
}

/* ---- Giving pages back ---- */

/* Take about `excess` bytes of warm memory as an extent of our own. */
static bool
take_warm(struct sst_arena *arena, uint64_t keep, uint64_t entry, uint64_t *offset)
{
    struct sst_heap_shm *const heap = heap_of(arena);
    struct wish wish = {.order = 0};
    bool is_taken = false;

    lock(arena);

    const uint64_t warm = ssti_load_rlx(&heap->warm) * SSTI_UNIT;
    const uint32_t mask = ssti_load_rlx(&heap->mask[WARM]);

    if (warm > keep && mask != 0) {
        const uint32_t enough =
            ssti_log2_above((warm - keep + SSTI_UNIT - 1) / SSTI_UNIT);
        const uint32_t largest = 31 - (uint32_t)__builtin_clz(mask);

        wish.order = enough < largest ? enough : largest;
        is_taken = create_locked(arena, &wish, entry, offset) == 0;
    }
    unlock(arena);
    return is_taken;
}

void
ssti_heap_trim(struct sst_arena *arena, uint64_t keep)
{
    uint64_t offset;
    uint64_t entry;
    uint32_t held;

    if (ssti_held_reserve(arena, &held) != 0) {
        return;
    }
    entry = ssti_held_offset(arena, held);
    while (take_warm(arena, keep, entry, &offset)) {
        const uint64_t size = ssti_extent_size(arena, offset);
        const bool is_punched = ssti_arena_has_fd(arena) &&
                                ssti_os_memory_punch(arena->fd, offset, size) == 0;

        SST_CRASHPOINT(heap_punched);
        free_word(arena, entry, 0, is_punched ? COLD : WARM);
        if (!is_punched) {
            break;
        }
    }
    ssti_held_release(arena, held);
}
