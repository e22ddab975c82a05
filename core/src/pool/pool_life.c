/* SPDX-License-Identifier: MIT */

/* The life of a pool: made, attached, shut down, closed, destroyed; and what is posted
 * in it.
 *
 * Death table: pool.c's and lane.c's; and (process dies while ...)
 *   creating    the slot is in its held table: dropped with it, and what was given to
 *               it by then is freed by destroy
 *   posting     the extent is in its held table, or given: one step. The owner died, so
 *               nobody needs the number
 *   destroying  the sweeper runs destroy again, on what is left */

#include <stddef.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "pool/kinds.h"
#include "pool/pool.h"
#include "shm/arena.h"

enum {
    SEATS_DEFAULT = 64,
    POSTS_SIZE = SSTI_POOL_POSTS * (int)sizeof(struct sst_pool_post_shm),
    POST_HEAD = 16, /* the size, and alignment */
};

static uint64_t
word_of(const struct sst_pool *pool, size_t field)
{
    return pool->view.offset + field;
}

static uint64_t
seats_size(uint32_t seat_max)
{
    return (uint64_t)seat_max * sizeof(struct sst_pool_seat_shm);
}

static void
repair(const struct ssti_view *view)
{
    struct sst_pool *const pool = ((const struct sst_pool *)view)->self;

    ssti_lane_repair_locked(pool);
    ssti_bell_repair_locked(pool->shm->bell);
}

/* Make a view of the object at `shm`; view.arena and view.offset are set. Tables that
 * cannot be mapped are left out. */
static void
bind(struct sst_pool *pool, struct sst_pool_shm *shm)
{
    struct sst_arena *const arena = pool->view.arena;
    const uint64_t seats = ssti_load_acq(&shm->seats);
    const uint64_t posts = ssti_load_acq(&shm->posts);
    const uint32_t seat_max = ssti_load_rlx(&shm->seat_max);

    pool->shm = shm;
    pool->self = pool;
    pool->view.leaf = &shm->leaf;
    pool->view.repair = repair;
    if (seats != 0 && seat_max <= SST_POOL_SEATS_MAX) {
        pool->seats = ssti_arena_ptr(arena, seats, seats_size(seat_max));
    }
    if (posts != 0) {
        pool->posts = ssti_arena_ptr(arena, posts, POSTS_SIZE);
    }
    pool->seat_max = pool->seats != NULL ? seat_max : 0;
    for (uint32_t i = 0; i < SSTI_POOL_LANES; i++) {
        ssti_ring_view(&pool->lane[i], arena, &shm->ring[i], pool->view.offset);
    }
    ssti_bell_init(&pool->bell, arena, shm->bell, &shm->bells_armed);
}

/* An extent of zeroes for a word of the pool. */
static int
give_table(struct sst_pool *pool, uint64_t size, size_t field, struct sst_error *err)
{
    uint64_t offset;
    uint32_t held;
    const int rc =
        ssti_extent_create_zeroed(pool->view.arena, size, &held, &offset, err);

    if (rc == 0) {
        ssti_extent_give(pool->view.arena, held, word_of(pool, field));
        SST_CRASHPOINT(pool_table_given);
    }
    return rc;
}

int
sst_pool_create(struct sst_arena *arena, const struct sst_pool_options *options,
                struct sst_pool **out, struct sst_error *err)
{
    struct sst_pool_options wanted = {0};
    struct sst_pool_shm *shm;
    struct sst_pool *pool;
    void *object;
    int rc;

    if (options != NULL) {
        if (options->size_of != sizeof wanted ||
            options->seat_max > SST_POOL_SEATS_MAX) {
            return ssti_error_set(err, SST_EINVAL, "a pool has %d seats at most",
                                  SST_POOL_SEATS_MAX);
        }
        wanted = *options;
    }
    pool = ssti_alloc(sizeof *pool);
    if (pool == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a pool");
    }
    *pool = (struct sst_pool){0};
    rc = ssti_view_create(&pool->view, arena, SST_KIND_POOL, sizeof *shm, &object, err);
    if (rc < 0) {
        ssti_free(pool);
        return rc;
    }

    shm = object;
    ssti_store_rlx(&shm->owner, ssti_proc_self(arena));
    ssti_store_rlx(&shm->seat_max,
                   wanted.seat_max != 0 ? wanted.seat_max : SEATS_DEFAULT);
    ssti_store_rlx(&shm->task_max, wanted.task_max);
    for (uint32_t i = 0; i < SSTI_POOL_LANES; i++) {
        ssti_ring_format(&shm->ring[i], 0, 0);
    }
    ssti_store_rel(&shm->offset, pool->view.offset);
    rc = give_table(pool, seats_size(ssti_load_rlx(&shm->seat_max)),
                    offsetof(struct sst_pool_shm, seats), err);
    if (rc == 0) {
        rc = give_table(pool, POSTS_SIZE, offsetof(struct sst_pool_shm, posts), err);
    }
    if (rc == 0) {
        bind(pool, shm);
        rc = pool->seats != NULL && pool->posts != NULL ? 0 : SST_ENOMEM;
    }
    if (rc != 0) {
        ssti_view_fini(&pool->view);
        ssti_free(pool);
        return rc;
    }
    *out = pool;
    return 0;
}

int
sst_pool_attach(struct sst_arena *arena, const struct sst_handle *handle,
                struct sst_pool **out, struct sst_error *err)
{
    struct sst_pool *const pool = ssti_alloc(sizeof *pool);
    void *object;
    int rc;

    if (pool == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a pool");
    }
    *pool = (struct sst_pool){0};
    rc = ssti_view_attach(&pool->view, arena, SST_KIND_POOL,
                          sizeof(struct sst_pool_shm), handle, &object, err);
    if (rc < 0) {
        ssti_free(pool);
        return rc;
    }
    bind(pool, object);
    if (pool->seats == NULL || pool->posts == NULL) {
        ssti_view_fini(&pool->view);
        ssti_free(pool);
        return ssti_error_set(err, SST_ENOMEM, "the tables of a pool cannot be mapped");
    }
    *out = pool;
    return 0;
}

void
sst_pool_handle(const struct sst_pool *pool, struct sst_handle *out)
{
    ssti_view_handle(&pool->view, out);
}

struct sst_pool *
sst_pool_close(struct sst_pool *pool)
{
    if (pool == NULL) {
        return NULL;
    }
    if (ssti_bell_is_mine(&pool->bell)) {
        ssti_view_lock(&pool->view);
        ssti_bell_leave_locked(&pool->bell);
        ssti_pool_unlock(pool);
    }
    ssti_bell_fini(&pool->bell);
    ssti_view_fini(&pool->view);
    return ssti_free(pool);
}

/* ---- Ending ---- */

/* A task is dropped: true unless it was cancelled before. It cannot be any more. */
static bool
drop_locked(struct sst_pool *pool, uint64_t id)
{
    _Atomic uint32_t *const mark = ssti_mark_locked(pool, id);
    const uint32_t generation = (uint32_t)(id >> 32);

    if (mark == NULL ||
        (ssti_load_rlx(mark) & ~SSTI_POOL_MARK_CANCELLED) >= generation) {
        return mark == NULL;
    }
    ssti_store_rel(mark, generation | SSTI_POOL_MARK_CANCELLED);
    return true;
}

/* Empty a lane: how many records, but those cancelled. */
static uint64_t
drop_lane(struct sst_pool *pool, uint32_t lane)
{
    struct sst_message message;
    struct ssti_claim claim;
    uint64_t count = 0;
    int rc = 0;

    ssti_claim_init(&claim);
    while (rc == 0) {
        ssti_view_lock(&pool->view);
        rc = ssti_lane_front_locked(pool, lane, &claim);
        if (rc == 0) {
            count += lane == SSTI_POOL_RESULTS || drop_locked(pool, claim.head.id);
            rc = ssti_lane_take_locked(pool, lane, &claim, SSTI_SEAT_NONE, &message);
        }
        ssti_pool_unlock(pool);
        if (rc == 0) {
            sst_message_free(&message);
        }
        else if (rc == SSTI_RING_RECEIPT) {
            rc = ssti_claim_prepare(pool, &claim);
        }
    }
    ssti_claim_fini(pool, &claim);
    return count;
}

void
sst_pool_shutdown(struct sst_pool *pool, bool immediate)
{
    const uint32_t flags = SSTI_POOL_SHUT | (immediate ? SSTI_POOL_DISCARD : 0);
    uint64_t dropped = 0;

    ssti_view_lock(&pool->view);
    ssti_store_rel(&pool->shm->flags, ssti_load_rlx(&pool->shm->flags) | flags);
    SST_CRASHPOINT(pool_shut);
    ssti_view_unlock(&pool->view, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    for (uint32_t i = 0; immediate && i < SSTI_POOL_RESULTS; i++) {
        dropped += drop_lane(pool, i);
    }
    if (dropped != 0) {
        ssti_fetch_sub(&pool->outstanding, dropped);
    }
    ssti_pool_trim(pool);
}

/* ---- Posts ---- */

int
sst_pool_post(struct sst_pool *pool, const struct sst_slice *slices,
              uint32_t slice_count, uint64_t *number)
{
    struct sst_arena *const arena = pool->view.arena;
    uint64_t size = 0;
    uint64_t offset;
    uint32_t index = 0;
    uint32_t held;
    unsigned char *data;
    int rc;

    for (uint32_t i = 0; i < slice_count; i++) {
        size += slices[i].size;
    }
    rc = ssti_extent_create(arena, size + POST_HEAD, &held, &offset, NULL);
    if (rc != 0) {
        return rc;
    }
    data = ssti_arena_pin(arena, offset, size + POST_HEAD);
    if (data == NULL) {
        ssti_extent_drop(arena, held);
        return SST_ENOMEM;
    }
    ssti_copy_in(data, &size, sizeof size);
    for (uint64_t i = 0, at = POST_HEAD; i < slice_count; at += slices[i].size, i++) {
        if (slices[i].size != 0) {
            ssti_copy_in(data + at, slices[i].data, slices[i].size);
        }
    }
    ssti_arena_unpin(arena, offset, size + POST_HEAD);

    ssti_view_lock(&pool->view);
    while (index < SSTI_POOL_POSTS && ssti_load_rlx(&pool->posts[index].extent) != 0) {
        index++;
    }
    if (index < SSTI_POOL_POSTS) {
        const uint64_t count = ssti_load_rlx(&pool->shm->post_count) + 1;

        ssti_extent_give(arena, held,
                         ssti_load_rlx(&pool->shm->posts) +
                             index * sizeof(struct sst_pool_post_shm) +
                             offsetof(struct sst_pool_post_shm, extent));
        ssti_store_rlx(&pool->shm->post_count, count);
        *number = count * SSTI_POOL_POSTS + index;
        ssti_store_rel(&pool->posts[index].number, *number);
    }
    ssti_pool_unlock(pool);
    if (index == SSTI_POOL_POSTS) {
        ssti_extent_drop(arena, held);
        return SST_ELIMIT;
    }
    return 0;
}

/* Free the extent of a post. */
static void
free_post(struct sst_arena *arena, uint64_t posts, uint32_t index)
{
    ssti_extent_free_at(arena,
                        posts + index * sizeof(struct sst_pool_post_shm) +
                            offsetof(struct sst_pool_post_shm, extent),
                        0);
}

void
sst_pool_unpost(struct sst_pool *pool, uint64_t number)
{
    const uint32_t index = (uint32_t)(number % SSTI_POOL_POSTS);

    if (number != 0 && ssti_load_acq(&pool->posts[index].number) == number) {
        ssti_store_rel(&pool->posts[index].number, 0);
        free_post(pool->view.arena, ssti_load_rlx(&pool->shm->posts), index);
    }
}

int
sst_pool_fetch(struct sst_pool *pool, uint64_t number, struct sst_message *message)
{
    struct sst_arena *const arena = pool->view.arena;
    const struct sst_pool_post_shm *const post = &pool->posts[number % SSTI_POOL_POSTS];
    const uint64_t offset = ssti_load_acq(&post->extent);
    const uint64_t room = offset != 0 ? ssti_extent_size(arena, offset) : 0;
    uint64_t size = 0;
    unsigned char *data;
    void *copy;

    if (number == 0 || ssti_load_acq(&post->number) != number || room < POST_HEAD) {
        return SST_ESTALE;
    }
    data = ssti_arena_pin(arena, offset, room);
    if (data == NULL) {
        return SST_ENOMEM;
    }
    ssti_copy_out(&size, data, sizeof size);
    size = ssti_min(size, room - POST_HEAD);
    copy = ssti_alloc(size + 1);
    if (copy != NULL) {
        ssti_copy_out(copy, data + POST_HEAD, size);
    }
    ssti_arena_unpin(arena, offset, room);
    if (copy == NULL) {
        return SST_ENOMEM;
    }
    if (ssti_load_acq(&post->number) != number) {
        ssti_free(copy); /* taken back while we copied */
        return SST_ESTALE;
    }
    message->data = copy;
    message->size = size;
    message->owner = copy;
    message->extent = 0;
    return 0;
}

/* ---- For the registry's sweeper and the last drop ---- */

/* A view for the time of a call; it holds nothing. False when it was never finished. */
static bool
borrow(struct sst_pool *pool, struct sst_arena *arena, struct sst_pool_shm *shm)
{
    *pool = (struct sst_pool){
        .view.arena = arena,
        .view.offset = ssti_load_acq(&shm->offset),
    };
    if (pool->view.offset == 0) {
        return false;
    }
    bind(pool, shm);
    return true;
}

static void
destroy(struct sst_arena *arena, void *object)
{
    struct sst_pool_shm *const shm = object;
    struct ssti_ring_section section;
    struct sst_pool pool;

    if (!borrow(&pool, arena, shm)) {
        return;
    }
    section = ssti_pool_section(&pool);
    for (uint32_t i = 0; i < SSTI_POOL_LANES; i++) {
        (void)drop_lane(&pool, i);
        ssti_ring_clear(&pool.lane[i], &section, true);
    }
    for (uint32_t i = 0; pool.posts != NULL && i < SSTI_POOL_POSTS; i++) {
        if (ssti_load_acq(&pool.posts[i].extent) != 0) {
            free_post(arena, ssti_load_rlx(&shm->posts), i);
        }
    }
    for (uint32_t i = 0; i < SSTI_POOL_MARK_BLOCKS; i++) {
        if (ssti_load_acq(&shm->marks[i]) != 0) {
            ssti_extent_free_at(arena,
                                word_of(&pool, offsetof(struct sst_pool_shm, marks)) +
                                    i * sizeof(uint64_t),
                                0);
        }
    }
    if (ssti_load_acq(&shm->posts) != 0) {
        ssti_extent_free_at(arena, word_of(&pool, offsetof(struct sst_pool_shm, posts)),
                            0);
    }
    if (ssti_load_acq(&shm->seats) != 0) {
        ssti_extent_free_at(arena, word_of(&pool, offsetof(struct sst_pool_shm, seats)),
                            0);
    }
    SST_CRASHPOINT(pool_destroyed);
}

static bool
settle(struct sst_arena *arena, void *object)
{
    struct sst_pool pool;

    if (!borrow(&pool, arena, object)) {
        return true;
    }
    if (pool.seats == NULL) {
        return false; /* a lease may have to begin or end, and is not in reach */
    }
    ssti_view_lock(&pool.view);
    ssti_pool_unlock(&pool);
    return true;
}

const struct ssti_kind_ops *
ssti_pool_kind(void)
{
    static struct ssti_kind_ops ops = {.destroy = destroy, .settle = settle};

    ops.layout =
        SSTI_LAYOUT_HASH(sizeof(struct sst_pool_shm), sizeof(struct sst_pool_seat_shm),
                         sizeof(struct sst_pool_head_shm),
                         sizeof(struct sst_pool_brief_shm),
                         offsetof(struct sst_pool_shm, ring),
                         offsetof(struct sst_pool_shm, seats),
                         sizeof(struct sst_ring_shm), sizeof(struct sst_chunk_shm),
                         SSTI_RING_INLINE_MAX);
    return &ops;
}
