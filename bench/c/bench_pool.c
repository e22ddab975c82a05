/* SPDX-License-Identifier: MIT */

/* What a task costs in C, in nanoseconds, the best of several rounds: all its steps in
 * one process; a flow of tasks to worker processes and back; one there and back.
 *
 *     bench_pool [rounds]
 *     bench_pool alone COUNT      so many tasks in one process: to be counted by
 *                                 perf stat -e instructions:u, where there are such
 *                                 counters. Valgrind stops at the engine's clone(). */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sidestep/sidestep.h"

enum {
    ROUNDS = 5,
    BATCH = 64,
    AHEAD = 512, /* tasks under way in a flow */
    PAYLOAD = 24,
    FLOW = 200000,
    TRIPS = 20000,
    WORKERS_MAX = 4,
};

static struct sst_arena *arena;
static struct sst_pool *pool;
static uint64_t next_task;
static uint8_t payload[PAYLOAD];
static const struct sst_slice slice = {payload, PAYLOAD};

static int64_t
now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int
must(int rc)
{
    if (rc < 0) {
        (void)fprintf(stderr, "failed: %s\n", sst_status_name(rc));
        exit(EXIT_FAILURE);
    }
    return rc;
}

/* ---- Workers ---- */

/* Send back what came, until there will be nothing. */
static void
work(uint64_t seat)
{
    const struct sst_pool_outcome outcome = {.slices = &slice, .slice_count = 1};
    struct sst_pool_worker *worker;
    struct sst_pool_job job;
    int rc;

    must(sst_pool_enter(pool, seat, &worker, NULL));
    for (rc = sst_pool_take(worker, &job, SST_FOREVER); rc == 0;
         rc = sst_pool_finish(worker, &outcome, &job, SST_FOREVER)) {
        sst_message_free(&job.message);
    }
    worker = sst_pool_leave(worker);
}

static void
start_workers(int count)
{
    for (int i = 0; i < count; i++) {
        uint64_t seat;
        pid_t pid;

        must(sst_pool_reserve(pool, 0, &seat));
        pid = fork();
        must(pid < 0 ? SST_ENOMEM : 0);
        if (pid == 0) {
            work(seat);
            _exit(0);
        }
    }
}

/* ---- The owner ---- */

static void
fill(struct sst_pool_task *task)
{
    const uint64_t number = next_task++;

    *task = (struct sst_pool_task){
        .id = (1 + number / 1024) << 32 | number % 1024,
        .priority = 1,
        .slices = &slice,
        .slice_count = 1,
    };
}

static void
submit(uint32_t count)
{
    struct sst_pool_task tasks[BATCH];
    uint32_t done = 0;

    for (uint32_t i = 0; i < count; i++) {
        fill(&tasks[i]);
    }
    while (done < count) {
        done += (uint32_t)must(
            sst_pool_submit_many(pool, tasks + done, count - done, SST_FOREVER));
    }
}

static uint32_t
take(void)
{
    static struct sst_pool_result results[BATCH];
    const int count = must(sst_pool_results(pool, results, BATCH, SST_FOREVER));

    for (int i = 0; i < count; i++) {
        sst_message_free(&results[i].message);
    }
    return (uint32_t)count;
}

static void
flow(int64_t count)
{
    const int64_t all = count / BATCH * BATCH;
    int64_t put = 0;
    int64_t got = 0;

    while (got < all) {
        while (put < all && put - got < AHEAD) {
            submit(BATCH);
            put += BATCH;
        }
        got += take();
    }
}

static void
trips(int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        struct sst_pool_task task;

        fill(&task);
        must(sst_pool_submit(pool, &task, SST_FOREVER));
        (void)take();
    }
}

/* All steps by one process, one after the other. */
static void
alone(int64_t count)
{
    const struct sst_pool_outcome outcome = {.slices = &slice, .slice_count = 1};
    struct sst_pool_worker *worker;
    struct sst_pool_job job;
    uint64_t seat;

    must(sst_pool_reserve(pool, 0, &seat));
    must(sst_pool_enter(pool, seat, &worker, NULL));
    for (int64_t i = 0; i < count; i++) {
        struct sst_pool_task task;

        fill(&task);
        must(sst_pool_submit(pool, &task, SST_FOREVER));
        must(sst_pool_take(worker, &job, SST_FOREVER));
        sst_message_free(&job.message);
        if (sst_pool_finish(worker, &outcome, NULL, SST_NOW) != SST_EAGAIN) {
            must(SST_EINVAL); /* nothing is taken with it */
        }
        (void)take();
    }
    worker = sst_pool_leave(worker);
    must(sst_pool_bury(pool, seat, 0));
}

/* ---- Rows ---- */

static double
measure(void (*run)(int64_t count), int64_t count, int workers)
{
    int64_t start_ns;

    must(sst_pool_create(arena, NULL, &pool, NULL));
    start_workers(workers);
    run(count / 10); /* to warm up */
    start_ns = now_ns();
    run(count);
    start_ns = now_ns() - start_ns;
    sst_pool_shutdown(pool, false);
    while (wait(NULL) > 0) {
        /* All workers. */
    }
    pool = sst_pool_close(pool);
    return (double)start_ns / (double)count;
}

static void
row(const char *name, void (*run)(int64_t count), int64_t count, int workers,
    int rounds)
{
    double best = measure(run, count, workers);

    for (int i = 1; i < rounds; i++) {
        const double again = measure(run, count, workers);

        best = again < best ? again : best;
    }
    printf("%-40s %8.0f\n", name, best);
}

int
main(int argc, char **argv)
{
    const int rounds = argc == 2 ? atoi(argv[1]) : ROUNDS;

    must(sst_arena_create(NULL, &arena, NULL));
    if (argc == 3 && strcmp(argv[1], "alone") == 0) {
        must(sst_pool_create(arena, NULL, &pool, NULL));
        alone(strtoll(argv[2], NULL, 10));
        return 0;
    }
    printf("%-40s %8s\n", "nanoseconds for a task of 24 bytes", "best");
    row("all steps in one process", alone, FLOW, 0, rounds);
    row("flow, 1 worker", flow, FLOW, 1, rounds);
    row("flow, 2 workers", flow, FLOW, 2, rounds);
    row("flow, 4 workers", flow, FLOW, WORKERS_MAX, rounds);
    row("there and back, 1 worker", trips, TRIPS, 1, rounds);
    row("there and back, 2 workers", trips, TRIPS, 2, rounds);
    arena = sst_arena_detach(arena);
    return 0;
}
