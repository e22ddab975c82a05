/* SPDX-License-Identifier: MIT */

/* A peer that scribbles over a pool in shared memory.
 *
 * The input is a list of steps: some write bytes into the words of a lane, the records
 * and heads in its first chunk, the seats, a post, or the redo record; the others use
 * the pool as its owner and as a worker. Whatever the answers are, nothing crashes and
 * nothing waits. The leaf, the slots' headers and the words that name the tables are
 * left alone: a peer that writes to these can stop others, which is what one arena
 * being one trust domain means. */

#include <string.h>

#include "fuzz.h"
#include "pool/pool.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"

enum {
    STEP_MAX = 64,
    LARGE = 10000, /* a payload that gets an extent */
    RECORDS = 512, /* bytes of a chunk that are scribbled over */
    SEATS = 2,
};

struct world {
    struct sst_arena *arena;
    struct sst_pool *pool;
    struct sst_pool_worker *worker;
    struct sst_handle handle;
    struct sst_pool_shm *shm;
    void *chunks[SSTI_POOL_LANES]; /* where they were before anybody scribbled */
    uint64_t seat;
    uint64_t post;
    uint32_t index; /* of the last task */
};

static const uint8_t large[LARGE];

/* ---- Using ---- */

static void
submit(struct world *world, uint32_t priority, uint64_t size)
{
    const struct sst_slice slice = {large, size};
    struct sst_parcel *parcel = NULL;
    struct sst_pool_task task = {
        .id = UINT64_C(1) << 32 | ++world->index,
        .priority = priority % SST_POOL_PRIORITIES,
        .slices = &slice,
        .slice_count = 1,
    };

    if (size == 0 && sst_parcel_create(world->arena, 100, 0, &parcel, NULL) == 0) {
        task.parcel = &parcel;
    }
    fuzz_any(sst_pool_submit(world->pool, &task, SST_NOW));
    if (parcel != NULL) {
        (void)sst_parcel_close(parcel);
    }
}

static uint8_t
look(const void *data, uint64_t size)
{
    const uint8_t *const bytes = data;

    return size > 0 ? (uint8_t)(bytes[0] ^ bytes[size / 2] ^ bytes[size - 1]) : 0;
}

static void
take(struct world *world)
{
    struct sst_pool_job job;

    if (sst_pool_take(world->worker, &job, SST_NOW) == 0) {
        (void)look(job.message.data, job.message.size);
        sst_message_free(&job.message);
    }
}

static void
finish(struct world *world, uint64_t size)
{
    const struct sst_slice slice = {large, size};
    const struct sst_pool_outcome outcome = {.slices = &slice, .slice_count = 1};

    fuzz_any(sst_pool_finish(world->worker, &outcome, NULL, SST_NOW));
}

static void
take_results(struct world *world)
{
    static struct sst_pool_result results[4];
    const int count = sst_pool_results(world->pool, results, 4, SST_NOW);

    for (int i = 0; i < count; i++) {
        (void)look(results[i].message.data, results[i].message.size);
        sst_message_free(&results[i].message);
    }
}

static void
look_around(struct world *world)
{
    struct sst_pool_statistics statistics;
    struct sst_message message;
    struct sst_pool_seat seat;

    sst_pool_statistics(world->pool, &statistics);
    fuzz_any(sst_pool_seat(world->pool, 0, &seat));
    fuzz_any(sst_pool_cancel(world->pool, UINT64_C(1) << 32 | world->index));
    fuzz_any(sst_pool_condemn(world->pool, UINT64_C(1) << 32 | 1, SST_POOL_BY_CANCEL,
                              &world->seat));
    if (sst_pool_fetch(world->pool, world->post, &message) == 0) {
        (void)look(message.data, message.size);
        sst_message_free(&message);
    }
}

/* As a worker does that has never seen it. */
static void
work_anew(struct world *world)
{
    struct sst_pool_worker *worker = NULL;
    struct sst_pool *other = NULL;
    struct sst_pool_job job;
    uint64_t seat;

    if (sst_pool_attach(world->arena, &world->handle, &other, NULL) != 0) {
        return;
    }
    if (sst_pool_reserve(world->pool, 0, &seat) == 0) {
        if (sst_pool_enter(other, seat, &worker, NULL) == 0) {
            if (sst_pool_take(worker, &job, SST_NOW) == 0) {
                sst_message_free(&job.message);
            }
            (void)sst_pool_leave(worker);
        }
        fuzz_any(sst_pool_bury(world->pool, seat, -9));
    }
    (void)sst_pool_close(other);
}

static void
use(struct world *world, struct fuzz_input *input)
{
    static const uint64_t sizes[] = {24, 700, LARGE, 0};
    const uint8_t what = fuzz_byte(input);

    switch (what % 6) {
    case 0:
        submit(world, what >> 6, sizes[what >> 4 & 3]);
        break;
    case 1:
        take(world);
        break;
    case 2:
        finish(world, sizes[what >> 4 & 3]);
        break;
    case 3:
        take_results(world);
        break;
    case 4:
        look_around(world);
        break;
    default:
        work_anew(world);
        break;
    }
}

/* ---- Scribbling ---- */

static void
scribble(struct fuzz_input *input, void *memory, size_t size)
{
    uint8_t *const bytes = memory;
    const size_t offset = fuzz_byte(input) | (size_t)fuzz_byte(input) << 8;
    const size_t count = 1 + fuzz_byte(input) % 8;

    for (size_t i = 0; i < count; i++) {
        if (offset % size + i < size) {
            bytes[offset % size + i] = fuzz_byte(input);
        }
    }
}

/* A peer dies with a redo record of its own making. */
static void
die(struct world *world, struct fuzz_input *input)
{
    const struct ssti_ring_section section = ssti_pool_section(world->pool);
    const size_t begin = offsetof(struct sst_pool_shm, intent);
    const size_t size = offsetof(struct sst_pool_shm, intent_id) + 8 - begin;

    section.lock(section.object);
    for (int i = 1 + fuzz_byte(input) % 4; i > 0; i--) {
        scribble(input, (uint8_t *)world->shm + begin, size);
    }
    ssti_lane_repair_locked(world->pool);
    section.unlock(section.object);
}

static void
scribble_somewhere(struct world *world, struct fuzz_input *input)
{
    const uint8_t what = fuzz_byte(input);
    const uint32_t lane = what >> 4 & 3;
    struct sst_pool_seat_shm *const seats = world->pool->seats;

    switch (what % 5) {
    case 0:
        scribble(input, &world->shm->ring[lane], offsetof(struct sst_ring_shm, intent));
        break;
    case 1:
        scribble(input, &seats[0].task,
                 sizeof(seats[0]) - offsetof(struct sst_pool_seat_shm, task));
        break;
    case 2:
        die(world, input);
        break;
    default:
        scribble(input, world->chunks[lane], sizeof(struct sst_chunk_shm) + RECORDS);
        break;
    }
}

/* ---- The world ---- */

static void
world_open(struct world *world)
{
    const struct sst_arena_options options = {
        .size_of = sizeof(options),
        .process_max = 16,
        .size = UINT64_C(1) << 30,
        .budget = UINT64_C(1) << 26,
    };
    const struct sst_pool_options pool_options = {
        .size_of = sizeof(pool_options),
        .seat_max = SEATS,
    };
    const struct sst_slice slice = {"post", 4};

    *world = (struct world){0};
    fuzz_expect(sst_arena_create(&options, &world->arena, NULL) == 0);
    fuzz_expect(sst_pool_create(world->arena, &pool_options, &world->pool, NULL) == 0);
    sst_pool_handle(world->pool, &world->handle);
    world->shm = world->pool->shm;
    fuzz_expect(sst_pool_post(world->pool, &slice, 1, &world->post) == 0);
    fuzz_expect(sst_pool_reserve(world->pool, 0, &world->seat) == 0);
    fuzz_expect(sst_pool_enter(world->pool, world->seat, &world->worker, NULL) == 0);
    for (uint32_t priority = 0; priority < SST_POOL_PRIORITIES; priority++) {
        submit(world, priority, 24);
        submit(world, priority, LARGE);
        submit(world, priority, 0);
    }
    take(world);
    finish(world, LARGE);
    take(world);
    for (uint32_t lane = 0; lane < SSTI_POOL_LANES; lane++) {
        world->chunks[lane] =
            ssti_arena_ptr(world->arena,
                           ssti_load_rlx(&world->shm->ring[lane].get_chunk),
                           sizeof(struct sst_chunk_shm) + RECORDS);
        fuzz_expect(world->chunks[lane] != NULL);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, data + size};
    struct world world;

    world_open(&world);
    for (int i = 0; i < STEP_MAX && fuzz_more(&input); i++) {
        if (fuzz_byte(&input) % 2 == 0) {
            scribble_somewhere(&world, &input);
        }
        else {
            use(&world, &input);
        }
    }
    (void)sst_pool_leave(world.worker);
    take_results(&world);
    (void)sst_pool_close(world.pool);
    (void)sst_arena_detach(world.arena);
    return 0;
}
