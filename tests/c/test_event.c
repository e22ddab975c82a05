/* SPDX-License-Identifier: MIT */

/* Events: set, clear, wait, over threads, processes and deaths. Names that begin with
 * "threads" start no process. */

#include <pthread.h>
#include <stdlib.h>

#include "peers.h"

enum {
    GONE, /* words: waiters that went */
    COUNTER,
};

static struct sst_event *event, *answer;

static struct sst_arena *
open_event(void)
{
    struct sst_arena *const arena = arena_open();

    check_ok(sst_event_create(arena, &event, NULL));
    check_ok(sst_event_create(arena, &answer, NULL));
    return arena;
}

static void
close_event(struct sst_arena *arena)
{
    event = sst_event_close(event);
    answer = sst_event_close(answer);
    arena_close(arena);
}

TEST(threads_set_and_clear)
{
    struct sst_arena *const arena = open_event();

    check(!sst_event_is_set(event));
    check_status(sst_event_wait(event, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_event_wait(event, in_ms(5)), SST_ETIMEDOUT);
    sst_event_set(event);
    sst_event_set(event);
    check(sst_event_is_set(event));
    check_status(sst_event_wait(event, SST_NOW), 0);
    check_status(sst_event_wait(event, SST_FOREVER), 0);
    sst_event_clear(event);
    sst_event_clear(event);
    check(!sst_event_is_set(event));
    check_status(sst_event_wait(event, SST_NOW), SST_ETIMEDOUT);
    close_event(arena);
}

static void *
wait_in_thread(void *arg)
{
    check_status(sst_event_wait(event, soon()), 0);
    return arg;
}

TEST(threads_all_go)
{
    struct sst_arena *const arena = open_event();
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        check_int(pthread_create(&threads[i], NULL, wait_in_thread, NULL), ==, 0);
    }
    sst_event_set(event);
    for (int i = 0; i < 4; i++) {
        check_int(pthread_join(threads[i], NULL), ==, 0);
    }
    close_event(arena);
}

static int payload; /* without atomics: the events order it */

static void *
answer_in_thread(void *arg)
{
    for (int i = 1; i <= 1000; i++) {
        check_status(sst_event_wait(event, soon()), 0);
        sst_event_clear(event);
        check_int(payload, ==, 2 * i - 1);
        payload = 2 * i;
        sst_event_set(answer);
    }
    return arg;
}

TEST(threads_events_order_what_they_announce)
{
    struct sst_arena *const arena = open_event();
    pthread_t thread;

    check_int(pthread_create(&thread, NULL, answer_in_thread, NULL), ==, 0);
    for (int i = 1; i <= 1000; i++) {
        payload = 2 * i - 1;
        sst_event_set(event);
        check_status(sst_event_wait(answer, soon()), 0);
        sst_event_clear(answer);
        check_int(payload, ==, 2 * i);
    }
    check_int(pthread_join(thread, NULL), ==, 0);
    close_event(arena);
}

static void
wait_in_child(void *arg)
{
    (void)arg;
    check_status(sst_event_wait(event, soon()), 0);
    word_add(GONE, 1);
}

TEST(a_pulse_lets_all_go_who_waited)
{
    struct sst_arena *const arena = open_event();
    pid_t waiters[4];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 4; i++) {
            waiters[i] = test_fork(wait_in_child, NULL);
        }
        for (int i = 0; i < 4; i++) {
            eventually(test_is_asleep(waiters[i]));
        }
        sst_event_set(event);
        sst_event_clear(event);
        for (int i = 0; i < 4; i++) {
            test_join(waiters[i]);
        }
    }
    check_int(word(GONE), ==, 80);
    check(!sst_event_is_set(event));
    close_event(arena);
}

TEST(dead_waiters_are_no_concern)
{
    struct sst_arena *const arena = open_event();
    pid_t waiters[4];

    for (int i = 0; i < 4; i++) {
        waiters[i] = test_fork(wait_in_child, NULL);
        eventually(test_is_asleep(waiters[i]));
    }
    test_kill(waiters[0]);
    test_kill(waiters[2]);
    sst_event_set(event);
    test_join(waiters[1]);
    test_join(waiters[3]);
    close_event(arena);
}

static void
toggle(void *arg)
{
    (void)arg;
    for (;;) {
        sst_event_set(event);
        word_add(COUNTER, 1);
        sst_event_clear(event);
    }
}

TEST(a_killed_setter_leaves_a_working_event)
{
    struct sst_arena *const arena = open_event();
    uint32_t seed = 2;

    for (int round = 0; round < 100; round++) {
        const int64_t before = word(COUNTER);
        const pid_t setter = test_fork(toggle, NULL);
        const pid_t waiter = test_fork(wait_in_child, NULL);

        eventually(word(COUNTER) > before);
        for (volatile int spin = rand_r(&seed) % 20000; spin > 0; spin--) {
        }
        test_kill(setter);
        sst_event_set(event);
        test_join(waiter);
        sst_event_clear(event);
    }
    close_event(arena);
}
