/* SPDX-License-Identifier: MIT */

/* A pool of worker processes whose tasks are functions in C. One of them kills its
 * worker: the pool says which task was lost, starts another worker, and goes on. */

#include <sidestep/sidestep.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORKERS = 2,
    TASKS = 8,
    RANGE = 25000,
};

struct range {
    uint64_t begin, end;
    uint64_t is_cursed;
};

static struct sst_arena *arena;
static struct sst_pool *pool;

static void
must(int status, const char *what)
{
    if (status < 0) {
        (void)fprintf(stderr, "%s: %s\n", what, sst_status_text(status));
        exit(1);
    }
}

/* ---- What workers can do: a task names its function by the number here ---- */

static uint64_t
count_primes(const struct range *range)
{
    uint64_t count = 0;

    if (range->is_cursed) {
        (void)raise(SIGKILL);
    }
    for (uint64_t number = range->begin; number < range->end; number++) {
        uint64_t divisor = 2;

        while (divisor * divisor <= number && number % divisor != 0) {
            divisor++;
        }
        count += number > 1 && divisor * divisor > number;
    }
    return count;
}

static uint64_t
add_up(const struct range *range)
{
    return (range->end - range->begin) * (range->begin + range->end - 1) / 2;
}

static uint64_t (*const functions[])(const struct range *) = {count_primes, add_up};

/* A worker's life, in a child process: take a task, then finish it and take the next in
 * one step, until there will be none. */
static int
work(void *seat)
{
    uint64_t answer;
    const struct sst_slice slice = {&answer, sizeof answer};
    const struct sst_pool_outcome outcome = {.slices = &slice, .slice_count = 1};
    struct sst_pool_worker *worker;
    struct sst_pool_job job;
    struct range range;
    int rc;

    must(sst_pool_enter(pool, *(const uint64_t *)seat, &worker, NULL), "enter");
    for (rc = sst_pool_take(worker, &job, SST_FOREVER); rc == 0;
         rc = sst_pool_finish(worker, &outcome, &job, SST_FOREVER)) {
        memcpy(&range, job.message.data, sizeof range);
        sst_message_free(&job.message);
        answer = functions[job.function](&range);
    }
    worker = sst_pool_leave(worker);
    return 0;
}

/* ---- The owner ---- */

static int
start_worker(void *context, uint64_t seat, void **worker)
{
    static uint64_t own_seat; /* the child has a copy */
    struct sst_process *process;
    int rc = sst_process_new(arena, NULL, &process, NULL);

    (void)context;
    own_seat = seat;
    if (rc == 0) {
        rc = sst_process_run(process, work, &own_seat, NULL);
    }
    *worker = process;
    return rc;
}

static void
submit(uint64_t index, uint32_t generation, bool is_cursed)
{
    const uint64_t begin = index / 2 * RANGE;
    const struct range range = {begin, begin + RANGE, is_cursed};
    const struct sst_slice slice = {&range, sizeof range};
    const struct sst_pool_task task = {
        .id = (uint64_t)generation << 32 | index, /* never the same again */
        .function = index % 2,
        .slices = &slice,
        .slice_count = 1,
    };

    must(sst_pool_submit(pool, &task, SST_FOREVER), "submit");
}

/* Print a result, or give a task that was lost to another worker: is one settled? */
static bool
see_to(struct sst_pool_result *result)
{
    static const char *const names[] = {"primes", "sum"};
    const uint64_t index = result->id & UINT32_MAX;
    uint64_t answer;

    if (result->kind == SST_POOL_LOST) {
        (void)printf("task %d was lost with its worker, signal %d: once more\n",
                     (int)index, -result->code);
        submit(index, 2, false);
        return false;
    }
    memcpy(&answer, result->message.data, sizeof answer);
    sst_message_free(&result->message);
    (void)printf("task %d: %s from %d on: %llu\n", (int)index, names[result->function],
                 (int)(index / 2 * RANGE), (unsigned long long)answer);
    return true;
}

int
main(void)
{
    const struct sst_crew_backend backend = {
        .size_of = sizeof backend,
        .start = start_worker,
    };
    const struct sst_crew_options options = {
        .size_of = sizeof options,
        .worker_count = WORKERS,
        .backend = &backend,
    };
    struct sst_pool_result result;
    struct sst_crew *crew;
    int settled = 0;

    must(sst_arena_create(NULL, &arena, NULL), "make an arena");
    must(sst_pool_create(arena, NULL, &pool, NULL), "make a pool");
    must(sst_crew_create(pool, &options, &crew, NULL), "make a crew");
    must(sst_crew_fill(crew), "start workers");

    for (uint64_t index = 0; index < TASKS; index++) {
        submit(index, 1, index == 4);
    }
    must(sst_crew_wake(crew), "wake the crew");
    while (settled < TASKS) {
        must(sst_pool_results(pool, &result, 1, SST_FOREVER), "take a result");
        settled += see_to(&result);
    }

    sst_pool_shutdown(pool, false);
    must(sst_crew_join(crew, SST_FOREVER), "wait for the workers");
    crew = sst_crew_close(crew);
    pool = sst_pool_close(pool);
    arena = sst_arena_detach(arena);
    return 0;
}
