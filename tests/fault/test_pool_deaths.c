/* SPDX-License-Identifier: MIT */

/* A worker is killed at every crash point of pools in turn, and so is the owner of a
 * pool. Each task of the survivor's pool has exactly one result, and no memory is left
 * behind. Built with -Dcrashpoints=true only. */

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crashpoint.h"
#include "c/peers.h"
#include "pool/pool.h"

enum {
    TASKS = 6,
    HITS_MAX = 3,
};

static const char prefix[] = "pool_";
static struct sst_arena *arena;
static struct sst_pool *pool;
static uint64_t seat;

static void
submit(struct sst_pool *to, uint32_t index, uint32_t number)
{
    static uint8_t data[9000];
    const struct sst_slice slice = {data, index % 2 == 0 ? 24 : 9000};
    const struct sst_pool_task task = {
        .id = UINT64_C(1) << 32 | number,
        .slices = &slice,
        .slice_count = 1,
    };

    check_status(sst_pool_submit(to, &task, SST_NOW), 0);
}

static void
take_all(struct sst_pool *from, uint64_t number)
{
    static uint8_t data[9000];
    struct sst_pool_worker *worker;
    struct sst_pool_job job;

    check_status(sst_pool_enter(from, number, &worker, NULL), 0);
    while (sst_pool_take(worker, &job, SST_NOW) == 0) {
        const struct sst_slice slice = {data, job.message.size};
        const struct sst_pool_outcome outcome = {.slices = &slice, .slice_count = 1};

        check_status(sst_pool_finish(worker, &outcome, NULL, SST_NOW), SST_EAGAIN);
        sst_message_free(&job.message);
    }
    (void)sst_pool_leave(worker);
}

/* Comes by every crash point. */
static void
live(void *arg)
{
    const struct ssti_crashpoint *const point = ((void **)arg)[0];
    const uint64_t nth = *(const uint64_t *)((void **)arg)[1];
    struct sst_pool_result result;
    struct sst_pool_worker *worker;
    struct sst_pool_job job;
    struct sst_pool *own;
    uint64_t number;

    ssti_crashpoint_arm(point->name, nth);
    take_all(pool, seat);
    for (int round = 0; round < HITS_MAX; round++) {
        check_status(sst_pool_create(arena, NULL, &own, NULL), 0);
        for (uint32_t i = 0; i < 4; i++) {
            submit(own, i, i * 5000); /* marks in several blocks */
        }
        check_status(sst_pool_cancel(own, UINT64_C(1) << 32), 1);
        check_status(sst_pool_reserve(own, 0, &number), 0);
        check_status(sst_pool_enter(own, number, &worker, NULL), 0);
        check_status(sst_pool_take(worker, &job, SST_NOW), 0);
        sst_message_free(&job.message);
        (void)sst_pool_leave(worker);
        check_status(sst_pool_bury(own, number, 0), 1);
        check_status(sst_pool_results(own, &result, 1, SST_NOW), 1);
        sst_message_free(&result.message);
        sst_pool_shutdown(own, true);
        own = sst_pool_close(own);
    }
    ssti_crashpoint_arm(NULL, 0);
}

/* One death; false when the point was not reached that often. */
static bool
die_at(const struct ssti_crashpoint *point, uint64_t nth)
{
    void *arg[2] = {(void *)(uintptr_t)point, &nth};
    struct sst_arena_statistics before;
    struct sst_arena_statistics after;
    struct sst_pool_result result;
    uint8_t seen[TASKS] = {0};
    uint64_t other;
    int status;
    pid_t pid;

    check_ok(sst_arena_statistics(arena, &before));
    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    for (uint32_t i = 0; i < TASKS; i++) {
        submit(pool, i, i);
    }
    check_status(sst_pool_reserve(pool, 0, &seat), 0);
    pid = test_fork(live, arg);
    check_int(waitpid(pid, &status, 0), ==, pid);
    check(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    check_ok(sst_pool_bury(pool, seat, -9));
    check_status(sst_pool_reserve(pool, 0, &other), 0);
    take_all(pool, other);
    check_status(sst_pool_bury(pool, other, 0), 0);
    while (sst_pool_results(pool, &result, 1, SST_NOW) == 1) {
        check_int((uint32_t)result.id, <, TASKS);
        check_int(seen[(uint32_t)result.id]++, ==, 0);
        sst_message_free(&result.message);
    }
    for (uint32_t i = 0; i < TASKS; i++) {
        check_int(seen[i], ==, 1);
    }
    check_int(sst_pool_outstanding(pool), ==, 0);
    pool = sst_pool_close(pool);
    (void)sst_arena_sweep(arena);
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.slots, ==, before.slots);
    check_int(after.extents, ==, before.extents);
    return WIFSIGNALED(status);
}

TEST(every_point)
{
    const struct ssti_crashpoint *point;
    uint32_t count = 0;

    arena = arena_open();
    for (uint32_t i = 0; (point = ssti_crashpoint_at(i)) != NULL; i++) {
        if (strncmp(point->name, prefix, sizeof prefix - 1) != 0) {
            continue;
        }
        if (!die_at(point, 1)) {
            test_fail(__FILE__, __LINE__, "%s was never reached", point->name);
        }
        for (uint64_t nth = 2; nth <= HITS_MAX; nth++) {
            (void)die_at(point, nth);
        }
        count++;
    }
    check_int(count, >, 15);
    arena_close(arena);
}

/* ---- Without addresses ---- */

enum {
    BLOCKS = 4096,
    BLOCK_SIZE = SST_POOL_SEATS_MAX * sizeof(struct sst_pool_seat_shm),
};

static struct sst_block *blocks[BLOCKS];
static uint32_t block_count;
static struct sst_pool *near_pool;
static int gate[2];

/* Make a pool whose seats are where a process that was forked before has nothing. */
static void
make_far_pool(void)
{
    const struct sst_pool_options options = {
        .size_of = sizeof options,
        .seat_max = SST_POOL_SEATS_MAX,
    };
    uint64_t first = 0;

    for (;;) {
        check_ok(sst_pool_create(arena, &options, &pool, NULL));
        first = first == 0 ? ssti_load_acq(&pool->shm->seats) : first;
        if (ssti_load_acq(&pool->shm->seats) > first + (UINT64_C(128) << 20)) {
            return;
        }
        pool = sst_pool_close(pool);
        check_int(block_count, <, BLOCKS);
        check_ok(sst_block_create(arena, BLOCK_SIZE, &blocks[block_count++], NULL));
    }
}

static void
sweep_without_addresses(void *arg)
{
    FILE *const file = fopen("/proc/self/statm", "r");
    unsigned long long pages = 0;
    struct rlimit limit;
    char byte;

    (void)arg;
    check_ptr(file, !=, NULL);
    check_int(fscanf(file, "%llu", &pages), ==, 1);
    (void)fclose(file);
    check_int(read(gate[0], &byte, 1), ==, 1);
    check_int(getrlimit(RLIMIT_AS, &limit), ==, 0);
    limit.rlim_cur = pages * 4096 + (1 << 20);
    check_int(setrlimit(RLIMIT_AS, &limit), ==, 0);
    (void)sst_arena_sweep(arena);
}

static void
die_when_the_result_is_there(void *arg)
{
    (void)arg;
    ssti_crashpoint_arm("pool_put_done", 1);
    take_all(pool, seat);
}

TEST(who_cannot_map_the_seats_leaves_the_step_to_others)
{
    struct sst_pool_result result;
    pid_t sweeper;
    pid_t worker;

    if (test_slowness() > 1) {
        test_skip("sanitizers need addresses, too");
    }
    arena = arena_open();
    check_int(pipe(gate), ==, 0);
    /* Where slots and rings are, the sweeper has, but not the seats. */
    check_ok(sst_pool_create(arena, NULL, &near_pool, NULL));
    submit(near_pool, 1, 0);
    sweeper = test_fork(sweep_without_addresses, NULL);
    make_far_pool();
    submit(pool, 1, 0); /* long: its result is tied to the pool on its way */
    check_ok(sst_pool_reserve(pool, 0, &seat));
    worker = test_fork(die_when_the_result_is_there, NULL);
    test_join_killed(worker, SIGKILL);
    check_int(write(gate[1], "", 1), ==, 1);
    test_join(sweeper);

    check_status(sst_pool_bury(pool, seat, -9), 0); /* it had none in hand any more */
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
    check_int(result.kind, ==, SST_POOL_DONE);
    sst_message_free(&result.message);
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), SST_ETIMEDOUT);
    check_int(sst_pool_outstanding(pool), ==, 0);
    pool = sst_pool_close(pool);
    near_pool = sst_pool_close(near_pool);
    while (block_count > 0) {
        sst_block_close(blocks[--block_count]);
    }
    (void)close(gate[0]);
    (void)close(gate[1]);
    arena_close(arena);
}
