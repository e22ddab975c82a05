/* SPDX-License-Identifier: MIT */

/* The sizes of a map's chunks, with workers that are numbers: how much later than ideal
 * they have done items of skewed lengths. Computed, not timed. */

#include <stdint.h>

#include "../../binding/pool_pace.h"
#include "runner.h"

enum {
    WORKERS_MAX = 16,
    QUEUE_MAX = WORKERS_MAX * SSTPY_PACE_WINDOW,
    ITEMS_MAX = 20000,
    US = 1000, /* in nanoseconds */
    MS = 1000000,
};

static int64_t item_ns[ITEMS_MAX];
static uint32_t item_count;

/* ---- A pool of numbers ---- */

struct task {
    uint32_t first;
    uint32_t count;
};

struct worker {
    struct task task; /* count 0: idle */
    int64_t until_ns;
};

struct map {
    struct sstpy_pace pace;
    struct task queue[QUEUE_MAX];
    uint32_t queued;
    uint32_t outstanding;
    uint32_t at;
    uint32_t worker_count;
    struct worker workers[WORKERS_MAX];
    uint32_t tasks;
};

static int64_t
cost_of(const struct task *task)
{
    int64_t sum_ns = 0;

    for (uint32_t i = 0; i < task->count; i++) {
        sum_ns += item_ns[task->first + i];
    }
    return sum_ns;
}

/* What pool_feed.c does: top up to the window. */
static void
feed(struct map *map)
{
    while (map->at < item_count &&
           map->outstanding < SSTPY_PACE_WINDOW * map->worker_count) {
        const uint32_t left = item_count - map->at;
        const uint32_t chunk = sstpy_pace_chunk(&map->pace, left, map->worker_count);
        const struct task task = {map->at, chunk < left ? chunk : left};

        check_int(task.count, >, 0);
        map->queue[map->queued++] = task;
        map->outstanding++;
        map->at += task.count;
        map->tasks++;
    }
}

static void
take(struct map *map, struct worker *worker, int64_t now_ns)
{
    worker->task = (struct task){0, 0};
    if (map->queued == 0) {
        return;
    }
    worker->task = map->queue[0];
    worker->until_ns = now_ns + cost_of(&worker->task);
    map->queued--;
    for (uint32_t i = 0; i < map->queued; i++) {
        map->queue[i] = map->queue[i + 1];
    }
}

/* Who is through first; NULL: nobody works. */
static struct worker *
next_done(struct map *map)
{
    struct worker *first = NULL;

    for (uint32_t i = 0; i < map->worker_count; i++) {
        struct worker *const worker = &map->workers[i];

        if (worker->task.count > 0 &&
            (first == NULL || worker->until_ns < first->until_ns)) {
            first = worker;
        }
    }
    return first;
}

/* When all is done, in nanoseconds from the beginning. */
static int64_t
run_map(struct map *map, uint32_t worker_count)
{
    struct worker *worker;
    int64_t now_ns = 0;

    *map = (struct map){.worker_count = worker_count};
    feed(map);
    for (uint32_t i = 0; i < worker_count; i++) {
        take(map, &map->workers[i], 0);
    }
    while ((worker = next_done(map)) != NULL) {
        const struct task done = worker->task;

        now_ns = worker->until_ns;
        take(map, worker, now_ns); /* in the same step as it delivers */
        map->outstanding--;
        sstpy_pace_note(&map->pace, cost_of(&done), done.count);
        feed(map);
        for (uint32_t i = 0; i < worker_count; i++) {
            if (map->workers[i].task.count == 0) {
                take(map, &map->workers[i], now_ns);
            }
        }
    }
    check_int(map->at, ==, item_count);
    return now_ns;
}

/* ---- Lengths ---- */

static uint64_t random_state;

static uint64_t
draw(uint64_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % below;
}

static int64_t
even(uint32_t i)
{
    (void)i;
    return MS;
}

static int64_t
rising(uint32_t i)
{
    return US + (int64_t)i * US;
}

static int64_t
falling(uint32_t i)
{
    return rising(item_count - 1 - i);
}

static int64_t
long_ones_last(uint32_t i)
{
    return i < item_count - item_count / 10 ? US : MS;
}

static int64_t
long_ones_first(uint32_t i)
{
    return long_ones_last(item_count - 1 - i);
}

static int64_t
every_hundredth_long(uint32_t i)
{
    return i % 100 == 99 ? 10 * MS : 20 * US;
}

static int64_t
spread(uint32_t i)
{
    (void)i;
    return US << draw(12); /* up to 2 ms, as many of each power of two */
}

static int64_t
tiny(uint32_t i)
{
    (void)i;
    return US / 2;
}

static const struct {
    const char *name;
    int64_t (*length)(uint32_t i);
    uint32_t count;
} cases[] = {
    {"even", even, 1000},
    {"rising", rising, 5000},
    {"falling", falling, 5000},
    {"long ones last", long_ones_last, 20000},
    {"long ones first", long_ones_first, 20000},
    {"every hundredth long", every_hundredth_long, 20000},
    {"spread", spread, 20000},
    {"tiny", tiny, 20000},
};

static void
fill(uint32_t which)
{
    item_count = cases[which].count;
    random_state = 1;
    for (uint32_t i = 0; i < item_count; i++) {
        item_ns[i] = cases[which].length(i);
    }
}

TEST(skewed_lengths_end_near_the_ideal)
{
    static const uint32_t counts[] = {1, 2, 4, 8, 16};
    struct map map;

    for (uint32_t which = 0; which < sizeof(cases) / sizeof(cases[0]); which++) {
        for (uint32_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
            int64_t sum_ns = 0;
            int64_t end_ns;

            fill(which);
            for (uint32_t item = 0; item < item_count; item++) {
                sum_ns += item_ns[item];
            }
            end_ns = run_map(&map, counts[i]);
            /* Of ideal: the sum over the number of workers. */
            check_int(end_ns * counts[i] * 10, <=, sum_ns * 11);
        }
    }
}

TEST(short_items_travel_together)
{
    struct map map;

    for (uint32_t which = 0; which < sizeof(cases) / sizeof(cases[0]); which++) {
        fill(which);
        if (cases[which].length == tiny) {
            (void)run_map(&map, 2);
            check_int(map.tasks, <, item_count / 100);
        }
    }
}
