/* SPDX-License-Identifier: MIT */

/* A program of four processes that share a lock, a queue and an event.
 *
 * The children wait for the start, add up squares, put their sums into the queue, and
 * count under the lock that they have done so.
 *
 *     cc alone.c $(pkg-config --cflags --libs sidestep) -o alone && ./alone */

#include <sidestep/sidestep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    WORKERS = 3,
    NUMBERS = 3000,
};

/* Everything the processes share. The children get these pointers over the fork. */
struct shared {
    struct sst_mutex *lock;
    struct sst_queue *sums;
    struct sst_event *start;
    struct sst_block *counter;
};

static void
must(int status, const char *what)
{
    if (status < 0) {
        (void)fprintf(stderr, "%s: %s\n", what, sst_status_text(status));
        exit(1);
    }
}

static void
work(const struct shared *shared, int worker)
{
    int *const done = sst_block_data(shared->counter);
    long sum = 0;

    must(sst_event_wait(shared->start, SST_FOREVER), "wait for the start");
    for (long i = worker; i < NUMBERS; i += WORKERS) {
        sum += i * i;
    }
    must(sst_queue_put(shared->sums, &sum, sizeof sum, SST_FOREVER), "put");

    must(sst_mutex_acquire(shared->lock, SST_FOREVER), "acquire");
    *done += 1;
    must(sst_mutex_release(shared->lock), "release");
}

static long
collect(const struct shared *shared)
{
    long total = 0;

    for (int i = 0; i < WORKERS; i++) {
        struct sst_message message;
        long sum;

        must(sst_queue_get(shared->sums, &message, SST_FOREVER), "get");
        memcpy(&sum, message.data, sizeof sum);
        sst_message_free(&message);
        total += sum;
    }
    return total;
}

int
main(void)
{
    struct sst_arena *arena;
    struct shared shared;
    struct sst_error err = {0};
    long total;

    must(sst_arena_create(NULL, &arena, &err), err.text);
    must(sst_mutex_create(arena, 0, &shared.lock, NULL), "make a lock");
    must(sst_queue_create(arena, NULL, &shared.sums, NULL), "make a queue");
    must(sst_event_create(arena, &shared.start, NULL), "make an event");
    must(sst_block_create(arena, sizeof(int), &shared.counter, NULL), "make a counter");

    for (int worker = 0; worker < WORKERS; worker++) {
        const pid_t child = fork();

        must(child, "fork");
        if (child == 0) {
            work(&shared, worker);
            _exit(0); /* what it has put stays in the queue */
        }
    }
    sst_event_set(shared.start);
    total = collect(&shared);
    while (wait(NULL) > 0) {
        /* Until the last child is gone. */
    }
    (void)printf("%d workers, sum of squares %ld\n",
                 *(int *)sst_block_data(shared.counter), total);

    shared.counter = sst_block_close(shared.counter);
    shared.start = sst_event_close(shared.start);
    shared.sums = sst_queue_close(shared.sums);
    shared.lock = sst_mutex_close(shared.lock);
    arena = sst_arena_detach(arena);
    return 0;
}
