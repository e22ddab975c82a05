/* SPDX-License-Identifier: MIT */

/* Conditions: who is notified, in which order, and what becomes of the notifications of
 * the dead. Names that begin with "threads" start no process. */

#include <pthread.h>
#include <stdlib.h>

#include "peers.h"

enum {
    ENTERED, /* words: waiters that have entered */
    GONE,    /* waiters that were notified */
    WOKEN,   /* the same, counted before they wait for the mutex */
    FIRST,   /* of the first batch, when there are two */
    MODE,
    COUNTER,
    TAKEN,
};

static struct sst_condition *condition;
static struct sst_mutex *mutex;

static struct sst_arena *
open_condition(void)
{
    struct sst_arena *const arena = arena_open();

    check_ok(sst_condition_create(arena, &condition, NULL));
    check_ok(sst_mutex_create(arena, 0, &mutex, NULL));
    return arena;
}

static void
close_condition(struct sst_arena *arena)
{
    condition = sst_condition_close(condition);
    mutex = sst_mutex_close(mutex);
    arena_close(arena);
}

TEST(threads_nobody_waits_nobody_is_notified)
{
    struct sst_arena *const arena = open_condition();

    check_int(sst_condition_notify(condition, 1), ==, 0);
    check_int(sst_condition_notify(condition, UINT32_MAX), ==, 0);
    check_int(sst_condition_waiters(condition), ==, 0);
    check_status(sst_condition_wait(condition, 0, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_condition_wait(condition, 0, in_ms(1)), SST_EINVAL);
    check(!sst_condition_leave(condition, 0));
    close_condition(arena);
}

TEST(threads_a_notify_between_enter_and_wait_counts)
{
    struct sst_arena *const arena = open_condition();
    uint64_t ticket;

    check_status(sst_condition_enter(condition, &ticket), 0);
    check_int(sst_condition_waiters(condition), ==, 1);
    check_status(sst_condition_wait(condition, ticket, SST_NOW), SST_ETIMEDOUT);
    check_int(sst_condition_notify(condition, 3), ==, 1);
    check_int(sst_condition_waiters(condition), ==, 0);
    check_int(sst_condition_notify(condition, 3), ==, 0);
    check_status(sst_condition_wait(condition, ticket, SST_FOREVER), 0);
    close_condition(arena);
}

TEST(threads_leave_tells_whether_it_was_notified)
{
    struct sst_arena *const arena = open_condition();
    uint64_t ticket;

    check_status(sst_condition_enter(condition, &ticket), 0);
    check_status(sst_condition_wait(condition, ticket, in_ms(5)), SST_ETIMEDOUT);
    check(!sst_condition_leave(condition, ticket));
    check_int(sst_condition_notify(condition, 1), ==, 0);

    check_status(sst_condition_enter(condition, &ticket), 0);
    check_status(sst_condition_wait(condition, ticket, SST_NOW), SST_ETIMEDOUT);
    check_int(sst_condition_notify(condition, 1), ==, 1);
    check(sst_condition_leave(condition, ticket));
    check(!sst_condition_leave(condition, ticket));
    close_condition(arena);
}

/* One thread may hold several tickets, which makes orders easy to arrange. */
TEST(threads_who_comes_after_a_notify_does_not_take_it)
{
    struct sst_arena *const arena = open_condition();
    uint64_t early[3];
    uint64_t late[2];

    for (int i = 0; i < 3; i++) {
        check_status(sst_condition_enter(condition, &early[i]), 0);
    }
    check_int(sst_condition_notify(condition, 2), ==, 2);
    for (int i = 0; i < 2; i++) {
        check_status(sst_condition_enter(condition, &late[i]), 0);
        check_status(sst_condition_wait(condition, late[i], in_ms(1)), SST_ETIMEDOUT);
    }
    check_int(sst_condition_waiters(condition), ==, 3);
    check_status(sst_condition_wait(condition, early[0], SST_FOREVER), 0);
    check_status(sst_condition_wait(condition, early[1], SST_FOREVER), 0);
    check_status(sst_condition_wait(condition, early[2], in_ms(1)), SST_ETIMEDOUT);
    check_int(sst_condition_notify(condition, 1), ==, 1);
    check_status(sst_condition_wait(condition, late[0], in_ms(1)), SST_ETIMEDOUT);
    check_status(sst_condition_wait(condition, early[2], SST_FOREVER), 0);
    check_int(sst_condition_notify(condition, UINT32_MAX), ==, 2);
    check_status(sst_condition_wait(condition, late[0], SST_FOREVER), 0);
    check_status(sst_condition_wait(condition, late[1], SST_FOREVER), 0);
    check_int(sst_condition_waiters(condition), ==, 0);
    close_condition(arena);
}

TEST(threads_who_is_late_for_a_round_that_leaves_is_early)
{
    struct sst_arena *const arena = open_condition();
    uint64_t early[2];
    uint64_t late;

    check_status(sst_condition_enter(condition, &early[0]), 0);
    check_status(sst_condition_enter(condition, &early[1]), 0);
    check_int(sst_condition_notify(condition, 1), ==, 1);
    check_status(sst_condition_enter(condition, &late), 0);
    check_status(sst_condition_wait(condition, early[0], SST_FOREVER), 0);
    check(!sst_condition_leave(condition, early[1]));
    check_int(sst_condition_notify(condition, 1), ==, 1);
    check_status(sst_condition_wait(condition, late, SST_FOREVER), 0);
    close_condition(arena);
}

TEST(threads_one_notify_covers_early_and_late)
{
    struct sst_arena *const arena = open_condition();
    uint64_t tickets[5];

    for (int i = 0; i < 3; i++) {
        check_status(sst_condition_enter(condition, &tickets[i]), 0);
    }
    check_int(sst_condition_notify(condition, 1), ==, 1);
    for (int i = 3; i < 5; i++) {
        check_status(sst_condition_enter(condition, &tickets[i]), 0);
    }
    /* That covers the first three and one late. */
    check_int(sst_condition_notify(condition, 3), ==, 3);
    for (int i = 0; i < 3; i++) {
        check_status(sst_condition_wait(condition, tickets[i], SST_FOREVER), 0);
    }
    check_int(sst_condition_waiters(condition), ==, 1);
    check_int(sst_condition_notify(condition, 9), ==, 1);
    for (int i = 3; i < 5; i++) {
        check_status(sst_condition_wait(condition, tickets[i], SST_FOREVER), 0);
    }
    close_condition(arena);
}

/* ---- Threads and processes ---- */

static void *
wait_in_thread(void *arg)
{
    uint64_t ticket;
    int rc;

    check_status(sst_mutex_acquire(mutex, soon()), 0);
    check_status(sst_condition_enter(condition, &ticket), 0);
    word_add(ENTERED, 1);
    check_status(sst_mutex_release(mutex), 0);
    do {
        rc = sst_condition_wait(condition, ticket, soon());
    } while (rc == SST_EINTR);
    check_status(rc, 0);
    word_add(WOKEN, 1);
    check_status(sst_mutex_acquire(mutex, soon()), 0);
    word_add(GONE, 1);
    check_status(sst_mutex_release(mutex), 0);
    return arg;
}

static void
wait_in_child(void *arg)
{
    (void)wait_in_thread(arg);
}

TEST(threads_are_notified_one_by_one)
{
    struct sst_arena *const arena = open_condition();
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        check_int(pthread_create(&threads[i], NULL, wait_in_thread, NULL), ==, 0);
    }
    eventually(word(ENTERED) == 4);
    for (int i = 1; i <= 4; i++) {
        check_int(sst_condition_notify(condition, 1), ==, 1);
        eventually(word(GONE) == i);
    }
    for (int i = 0; i < 4; i++) {
        check_int(pthread_join(threads[i], NULL), ==, 0);
    }
    close_condition(arena);
}

TEST(processes_are_notified_one_by_one)
{
    struct sst_arena *const arena = open_condition();
    pid_t waiters[4];

    for (int i = 0; i < 4; i++) {
        waiters[i] = test_fork(wait_in_child, NULL);
        eventually(word(ENTERED) == i + 1 && test_is_asleep(waiters[i]));
    }
    for (int i = 1; i <= 4; i++) {
        check_int(sst_condition_notify(condition, 1), ==, 1);
        eventually(word(GONE) == i);
        check_int(sst_condition_waiters(condition), ==, 4 - i);
    }
    for (int i = 0; i < 4; i++) {
        test_join(waiters[i]);
    }
    close_condition(arena);
}

TEST(processes_are_notified_together)
{
    struct sst_arena *const arena = open_condition();
    pid_t waiters[6];

    for (int round = 0; round < 10; round++) {
        word_set(ENTERED, 0);
        for (int i = 0; i < 6; i++) {
            waiters[i] = test_fork(wait_in_child, NULL);
        }
        eventually(word(ENTERED) == 6);
        check_int(sst_condition_notify(condition, UINT32_MAX), ==, 6);
        for (int i = 0; i < 6; i++) {
            test_join(waiters[i]);
        }
    }
    check_int(word(GONE), ==, 60);
    close_condition(arena);
}

/* A pot that consumers wait for to be filled: MODE is what is in it. */
static void
consume(void *arg)
{
    const int count = *(const int *)arg;

    for (int i = 0; i < count; i++) {
        check_status(sst_mutex_acquire(mutex, soon()), 0);
        while (word(MODE) == 0) {
            uint64_t ticket;

            check_status(sst_condition_enter(condition, &ticket), 0);
            check_status(sst_mutex_release(mutex), 0);
            check_status(sst_condition_wait(condition, ticket, soon()), 0);
            check_status(sst_mutex_acquire(mutex, soon()), 0);
        }
        word_add(MODE, -1);
        word_add(COUNTER, 1);
        check_status(sst_mutex_release(mutex), 0);
    }
}

TEST(no_notification_is_lost)
{
    struct sst_arena *const arena = open_condition();
    int count = 1000;
    pid_t consumers[3];

    for (int i = 0; i < 3; i++) {
        consumers[i] = test_fork(consume, &count);
    }
    for (int i = 0; i < 3 * count; i++) {
        check_status(sst_mutex_acquire(mutex, soon()), 0);
        word_add(MODE, 1);
        check_ok(sst_condition_notify(condition, 1));
        check_status(sst_mutex_release(mutex), 0);
    }
    for (int i = 0; i < 3; i++) {
        test_join(consumers[i]);
    }
    check_int(word(COUNTER), ==, 3 * count);
    close_condition(arena);
}

TEST(a_ticket_is_its_processs)
{
    struct sst_arena *const arena = open_condition();
    uint64_t ticket;
    pid_t child;

    check_status(sst_condition_enter(condition, &ticket), 0);
    child = fork();
    if (child == 0) {
        check_status(sst_condition_wait(condition, ticket, in_ms(1)), SST_EINVAL);
        check(!sst_condition_leave(condition, ticket));
        _exit(0);
    }
    test_join(child);
    check_int(sst_condition_waiters(condition), ==, 1);
    check(!sst_condition_leave(condition, ticket));
    close_condition(arena);
}

/* ---- Deaths ---- */

TEST(a_dead_waiter_is_not_notified)
{
    struct sst_arena *const arena = open_condition();
    pid_t waiters[3];

    for (int i = 0; i < 3; i++) {
        waiters[i] = test_fork(wait_in_child, NULL);
        eventually(word(ENTERED) == i + 1 && test_is_asleep(waiters[i]));
    }
    test_kill(waiters[0]);
    check_int(sst_condition_notify(condition, 2), ==, 2);
    test_join(waiters[1]);
    test_join(waiters[2]);
    check_int(sst_condition_waiters(condition), ==, 0);
    close_condition(arena);
}

static void
enter_and_linger(void *arg)
{
    uint64_t ticket;

    (void)arg;
    check_status(sst_condition_enter(condition, &ticket), 0);
    word_add(ENTERED, 1);
    linger();
}

/* The notified one never gets to run: it is no sleeper of the leaf, so the kernel tells
 * nobody but who has its eye on it. */
TEST(a_notification_of_the_dead_is_given_on)
{
    struct sst_arena *const arena = open_condition();
    int64_t killed_ns;
    pid_t dead;
    pid_t waiter;

    dead = test_fork(enter_and_linger, NULL);
    eventually(word(ENTERED) == 1);
    check_int(sst_condition_notify(condition, 1), ==, 1);
    waiter = test_fork(wait_in_child, NULL);
    eventually(word(ENTERED) == 2 && test_is_asleep(waiter));
    killed_ns = test_now_ns();
    test_kill(dead);
    eventually(word(GONE) == 1);
    check_int(test_now_ns() - killed_ns, <, (int64_t)DEATH_SHOWS_NS * test_slowness());
    test_join(waiter);
    close_condition(arena);
}

/* As above, but the waiter lay down before there was anything to watch, and the dead
 * one came neither first nor last. */
TEST(a_notification_of_the_dead_is_given_on_to_who_slept_before)
{
    struct sst_arena *const arena = open_condition();
    int64_t killed_ns;
    uint64_t tickets[3];
    pid_t dead;
    pid_t waiter;

    check_status(sst_condition_enter(condition, &tickets[0]), 0);
    dead = test_fork(enter_and_linger, NULL);
    eventually(word(ENTERED) == 1);
    check_status(sst_condition_enter(condition, &tickets[1]), 0);
    check_int(sst_condition_notify(condition, 1), ==, 1);
    waiter = test_fork(wait_in_child, NULL); /* late, and watches us */
    eventually(word(ENTERED) == 2 && test_is_asleep(waiter));
    check_int(sst_condition_notify(condition, 2), ==, 2);
    check_status(sst_condition_wait(condition, tickets[0], SST_FOREVER), 0);
    check_status(sst_condition_wait(condition, tickets[1], SST_FOREVER), 0);
    check_int(word(GONE), ==, 0);
    killed_ns = test_now_ns();
    test_kill(dead);
    eventually(word(GONE) == 1);
    check_int(test_now_ns() - killed_ns, <, (int64_t)DEATH_SHOWS_NS * test_slowness());
    test_join(waiter);
    close_condition(arena);
}

TEST(a_waiter_killed_as_it_is_notified_passes_it_on)
{
    struct sst_arena *const arena = open_condition();

    for (int round = 0; round < 100; round++) {
        pid_t waiters[2];

        word_set(ENTERED, 0);
        word_set(GONE, 0);
        word_set(WOKEN, 0);
        for (int i = 0; i < 2; i++) {
            waiters[i] = test_fork(wait_in_child, NULL);
            eventually(word(ENTERED) == i + 1 && test_is_asleep(waiters[i]));
        }
        check_int(sst_condition_notify(condition, 1), ==, 1);
        test_kill(waiters[0]);
        check_ok(sst_mutex_recover(mutex));
        if (word(WOKEN) == 0) {
            eventually(word(GONE) == 1);
        }
        /* One more, in case the first had been woken before it died. */
        (void)sst_condition_notify(condition, 1);
        test_join(waiters[1]);
    }
    close_condition(arena);
}

static void
wait_for_ever(void *arg)
{
    (void)arg;
    for (;;) {
        uint64_t ticket;
        int rc;

        check_status(sst_condition_enter(condition, &ticket), 0);
        rc = sst_condition_wait(condition, ticket, in_ms(1));
        if (rc != 0) {
            check_status(rc, SST_ETIMEDOUT);
            (void)sst_condition_leave(condition, ticket);
        }
        word_add(COUNTER, 1);
    }
}

static void
notify_for_ever(void *arg)
{
    uint32_t count = 0;

    (void)arg;
    for (;;) {
        check_ok(sst_condition_notify(condition, count++ % 4 == 0 ? UINT32_MAX : 1));
    }
}

TEST(random_kills_stop_nobody)
{
    struct sst_arena *const arena = open_condition();
    void (*const roles[4])(void *) = {wait_for_ever, wait_for_ever, wait_for_ever,
                                      notify_for_ever};
    pid_t peers[4];
    uint32_t seed = 3;

    for (int i = 0; i < 4; i++) {
        peers[i] = test_fork(roles[i], NULL);
    }
    for (int kills = 0; kills < 100; kills++) {
        const int victim = rand_r(&seed) % 4;
        const int64_t before = word(COUNTER);

        for (volatile int spin = rand_r(&seed) % 100000; spin > 0; spin--) {
        }
        test_kill(peers[victim]);
        peers[victim] = test_fork(roles[victim], NULL);
        eventually(word(COUNTER) > before + 3);
    }
    for (int i = 0; i < 4; i++) {
        test_kill(peers[i]);
    }
    check_int(sst_condition_notify(condition, UINT32_MAX), ==, 0);
    check_int(sst_condition_waiters(condition), ==, 0);
    close_condition(arena);
}
