/* SPDX-License-Identifier: MIT */

/* A process that holds a mutex and the only writing end of a pipe is killed at each
 * crash point it comes by, whatever it was about. Who waits for the mutex is told that
 * its owner died, who waits for the pipe that it has ended, within 50 ms. Built with
 * -Dcrashpoints=true only. */

#include <string.h>
#include <sys/wait.h>

#include "base/crashpoint.h"
#include "c/peers.h"

enum {
    LOCK_TOLD, /* words: when the one was told, */
    PIPE_TOLD, /* and the other */
    ASLEEP,    /* sleepers that have begun */
    HOLDING,   /* the victim has what they wait for */
    TRIES = 3, /* on a machine that is busy with other things */
    LONG = 6000,
    LEAST_POINTS = 40, /* that the victim comes by, or this tests little */
};

static struct sst_arena *arena;
static struct sst_mutex *held;
static struct sst_pipe *reader, *writer;

static void
wait_for_lock(void *arg)
{
    int rc;

    (void)arg;
    reader = sst_pipe_close(reader);
    writer = sst_pipe_close(writer);
    eventually(word(HOLDING) == 1);
    word_add(ASLEEP, 1);
    do {
        rc = sst_mutex_acquire(held, SST_FOREVER);
    } while (rc == SST_EINTR);
    word_set(LOCK_TOLD, test_now_ns());
    check_status(rc, SST_EOWNERDEAD);
}

static void
wait_for_pipe(void *arg)
{
    struct sst_message message;
    int rc;

    (void)arg;
    writer = sst_pipe_close(writer);
    word_add(ASLEEP, 1);
    do {
        rc = sst_pipe_recv(reader, &message, SST_FOREVER);
    } while (rc == SST_EINTR);
    word_set(PIPE_TOLD, test_now_ns());
    check_status(rc, SST_EOF);
}

/* ---- The victim ---- */

static void
use_queue(void)
{
    const struct sst_queue_options options = {.size_of = sizeof(options),
                                              .joinable = 1};
    static uint8_t data[LONG];
    struct sst_message message;
    struct sst_queue *queue;

    check_ok(sst_queue_create(arena, &options, &queue, NULL));
    for (int i = 0; i < 400; i++) {
        check_status(sst_queue_put(queue, data, i % 40 == 0 ? LONG : 200, SST_NOW), 0);
    }
    for (int i = 0; i < 400; i++) {
        check_status(sst_queue_get(queue, &message, SST_NOW), 0);
        sst_message_free(&message);
        check_status(sst_queue_task_done(queue), 0);
    }
    check_ok(sst_queue_fd(queue, NULL));
    check_status(sst_queue_put(queue, data, 8, SST_NOW), 0);
    sst_queue_shutdown(queue, true);
    queue = sst_queue_close(queue);
}

static void
use_locks(void)
{
    struct sst_mutex *mutex;
    struct sst_semaphore *semaphore;

    check_ok(sst_mutex_create(arena, SST_MUTEX_RECURSIVE, &mutex, NULL));
    check_ok(sst_semaphore_create(arena, 1, 1, &semaphore, NULL));
    for (int i = 0; i < 2; i++) {
        check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    }
    for (int i = 0; i < 2; i++) {
        check_status(sst_mutex_release(mutex), 0);
    }
    check_status(sst_semaphore_acquire(semaphore, SST_NOW), 0);
    check_status(sst_semaphore_acquire(semaphore, in_ms(1)), SST_ETIMEDOUT);
    check_status(sst_semaphore_release(semaphore, 1), 0);
    mutex = sst_mutex_close(mutex);
    semaphore = sst_semaphore_close(semaphore);
}

static void
use_others(void)
{
    struct sst_condition *condition;
    struct sst_event *event;
    struct sst_barrier *barrier;
    struct sst_block *block;
    uint64_t ticket;

    check_ok(sst_condition_create(arena, &condition, NULL));
    check_ok(sst_event_create(arena, &event, NULL));
    check_ok(sst_barrier_create(arena, 1, &barrier, NULL));
    check_ok(sst_block_create(arena, 100000, &block, NULL));
    check_status(sst_condition_enter(condition, &ticket), 0);
    check_int(sst_condition_notify(condition, 1), ==, 1);
    check_status(sst_condition_wait(condition, ticket, SST_NOW), 0);
    sst_event_set(event);
    sst_event_clear(event);
    check_status(sst_event_wait(event, in_ms(1)), SST_ETIMEDOUT);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    check_status(sst_barrier_open(barrier, ticket), 0);
    sst_barrier_abort(barrier);
    condition = sst_condition_close(condition);
    event = sst_event_close(event);
    barrier = sst_barrier_close(barrier);
    block = sst_block_close(block);
}

static void
be_victim(void *arg)
{
    const struct ssti_crashpoint *const point = arg;

    reader = sst_pipe_close(reader);
    check_status(sst_mutex_acquire(held, SST_NOW), 0);
    word_set(HOLDING, 1);
    eventually(word(ASLEEP) == 2);
    ssti_crashpoint_arm(point->name, 1);
    use_queue();
    use_locks();
    use_others();
    ssti_crashpoint_arm(NULL, 0);
    check_int(raise(SIGKILL), ==, 0);
}

/* ---- The test ---- */

/* Nanoseconds from the death until both were told. */
static int64_t
die_at(const struct ssti_crashpoint *point)
{
    pid_t peers[3];
    int64_t died_ns;
    int64_t last_ns;

    arena = arena_open();
    check_ok(sst_mutex_create(arena, 0, &held, NULL));
    check_ok(sst_pipe_create(arena, false, &reader, &writer, NULL));
    peers[0] = test_fork(be_victim, (void *)(uintptr_t)point);
    peers[1] = test_fork(wait_for_lock, NULL);
    peers[2] = test_fork(wait_for_pipe, NULL);
    reader = sst_pipe_close(reader);
    writer = sst_pipe_close(writer);

    test_join_killed(peers[0], SIGKILL);
    died_ns = test_now_ns();
    test_join(peers[1]);
    test_join(peers[2]);
    last_ns = word(LOCK_TOLD) > word(PIPE_TOLD) ? word(LOCK_TOLD) : word(PIPE_TOLD);

    held = sst_mutex_close(held);
    (void)sst_arena_sweep(arena);
    arena_close(arena);
    return last_ns - died_ns;
}

/* A run that is not killed, in a process of its own: how many points it comes by. */
static void
count_hits(void *arg)
{
    uint32_t count = 0;

    (void)arg;
    arena = arena_open();
    use_queue();
    use_locks();
    use_others();
    arena_close(arena);
    for (uint32_t i = 0; ssti_crashpoint_at(i) != NULL; i++) {
        count += ssti_crashpoint_at(i)->hits != 0;
    }
    check_int(count, >=, LEAST_POINTS);
}

TEST(the_victim_gets_about)
{
    test_join(test_fork(count_hits, NULL));
}

TEST(death_shows_at_every_point)
{
    const struct ssti_crashpoint *point;

    for (uint32_t i = 0; (point = ssti_crashpoint_at(i)) != NULL; i++) {
        int64_t took_ns = die_at(point);

        for (int t = 1; t < TRIES && took_ns > DEATH_SHOWS_NS * test_slowness(); t++) {
            took_ns = die_at(point);
        }
        if (took_ns > DEATH_SHOWS_NS * test_slowness()) {
            test_fail(__FILE__, __LINE__, "a death at %s shows after %lld us",
                      point->name, (long long)took_ns / 1000);
        }
    }
}
