/* SPDX-License-Identifier: MIT */

/* Semaphores: units, and what becomes of those of the dead. Names that begin with
 * "threads" start no process. */

#include <pthread.h>

#include "peers.h"

enum {
    TAKEN,  /* words: children that have a unit */
    RESULT, /* children that found all owners dead */
    TIME,
    COUNTER,
    INSIDE,
};

static struct sst_semaphore *semaphore;

static struct sst_arena *
open_semaphore(uint32_t value, uint32_t value_max)
{
    struct sst_arena *const arena = arena_open();

    check_ok(sst_semaphore_create(arena, value, value_max, &semaphore, NULL));
    return arena;
}

static void
close_semaphore(struct sst_arena *arena)
{
    semaphore = sst_semaphore_close(semaphore);
    arena_close(arena);
}

static void
units_come_and_go(uint32_t value, uint32_t value_max)
{
    struct sst_arena *const arena = open_semaphore(value, value_max);

    check_int(sst_semaphore_value_max(semaphore), ==, value_max);
    for (uint32_t i = value; i-- > 0;) {
        check_status(sst_semaphore_acquire(semaphore, SST_NOW), 0);
        check_int(sst_semaphore_value(semaphore), ==, i);
    }
    check_status(sst_semaphore_acquire(semaphore, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_semaphore_acquire(semaphore, in_ms(5)), SST_ETIMEDOUT);
    check_status(sst_semaphore_release(semaphore, value_max + 1), SST_EOVERFLOW);
    check_int(sst_semaphore_value(semaphore), ==, 0);
    check_status(sst_semaphore_release(semaphore, 1), 0);
    check_status(sst_semaphore_release(semaphore, value_max - 1), 0);
    check_int(sst_semaphore_value(semaphore), ==, value_max);
    check_status(sst_semaphore_release(semaphore, 1), SST_EOVERFLOW);
    check_int(sst_semaphore_value(semaphore), ==, value_max);
    check_int(sst_semaphore_recover(semaphore), ==, 0);
    close_semaphore(arena);
}

TEST(threads_counting_units_come_and_go)
{
    units_come_and_go(3, 10);
}

TEST(threads_bounded_units_come_and_go)
{
    units_come_and_go(3, 3);
}

TEST(bad_values_are_refused)
{
    struct sst_arena *const arena = open_semaphore(0, 1);
    struct sst_semaphore *other = NULL;

    check_status(sst_semaphore_create(arena, 0, 0, &other, NULL), SST_EINVAL);
    check_status(sst_semaphore_create(arena, 2, 1, &other, NULL), SST_EINVAL);
    close_semaphore(arena);
}

static void *
take_one(void *arg)
{
    check_status(sst_semaphore_acquire(semaphore, soon()), 0);
    return arg;
}

TEST(threads_one_release_wakes_as_many_as_it_gives)
{
    struct sst_arena *const arena = open_semaphore(0, 100);
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        check_int(pthread_create(&threads[i], NULL, take_one, NULL), ==, 0);
    }
    check_status(sst_semaphore_release(semaphore, 4), 0);
    for (int i = 0; i < 4; i++) {
        check_int(pthread_join(threads[i], NULL), ==, 0);
    }
    check_int(sst_semaphore_value(semaphore), ==, 0);
    close_semaphore(arena);
}

static void *
take_and_give(void *arg)
{
    for (int i = 0; i < 3000; i++) {
        check_status(sst_semaphore_acquire(semaphore, SST_FOREVER), 0);
        word_add(INSIDE, 1);
        check_int(word(INSIDE), <=, 2);
        word_add(INSIDE, -1);
        check_status(sst_semaphore_release(semaphore, 1), 0);
    }
    return arg;
}

static void
take_and_give_in_child(void *arg)
{
    (void)take_and_give(arg);
}

static void
at_most_two_inside(uint32_t value_max)
{
    struct sst_arena *const arena = open_semaphore(2, value_max);
    pid_t children[3];

    for (int i = 0; i < 3; i++) {
        children[i] = test_fork(take_and_give_in_child, NULL);
    }
    for (int i = 0; i < 3; i++) {
        test_join(children[i]);
    }
    check_int(sst_semaphore_value(semaphore), ==, 2);
    close_semaphore(arena);
}

TEST(processes_share_counting_units)
{
    at_most_two_inside(1000);
}

TEST(processes_share_bounded_units)
{
    at_most_two_inside(2);
}

TEST(threads_share_bounded_units)
{
    struct sst_arena *const arena = open_semaphore(2, 2);
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        check_int(pthread_create(&threads[i], NULL, take_and_give, NULL), ==, 0);
    }
    for (int i = 0; i < 4; i++) {
        check_int(pthread_join(threads[i], NULL), ==, 0);
    }
    check_int(sst_semaphore_value(semaphore), ==, 2);
    close_semaphore(arena);
}

/* ---- Deaths ---- */

static void
take_and_linger(void *arg)
{
    (void)arg;
    check_status(sst_semaphore_acquire(semaphore, soon()), 0);
    word_add(TAKEN, 1);
    linger();
}

static void
take_and_exit(void *arg)
{
    (void)arg;
    check_status(sst_semaphore_acquire(semaphore, soon()), 0);
    word_add(TAKEN, 1);
}

static void
find_all_dead(void *arg)
{
    const int rc = sst_semaphore_acquire(semaphore, soon());

    (void)arg;
    word_set(TIME, test_now_ns());
    check_status(rc, SST_EOWNERDEAD);
    word_add(RESULT, 1);
}

TEST(counting_units_of_the_dead_stay_taken)
{
    struct sst_arena *const arena = open_semaphore(1, 10);
    pid_t child = test_fork(take_and_linger, NULL);

    eventually(word(TAKEN) == 1);
    test_kill(child);
    check_status(sst_semaphore_acquire(semaphore, in_ms(20)), SST_ETIMEDOUT);
    check_int(sst_semaphore_recover(semaphore), ==, 0);
    child = test_fork(take_and_linger, NULL);
    eventually(test_is_asleep(child));
    check_status(sst_semaphore_release(semaphore, 1), 0); /* serves the next */
    eventually(word(TAKEN) == 2);
    test_kill(child);
    close_semaphore(arena);
}

TEST(a_dead_waiter_is_passed_over)
{
    struct sst_arena *const arena = open_semaphore(0, 10);
    pid_t waiters[3];

    for (int i = 0; i < 3; i++) {
        waiters[i] = test_fork(take_and_exit, NULL);
        eventually(test_is_asleep(waiters[i]));
    }
    test_kill(waiters[0]);
    check_status(sst_semaphore_release(semaphore, 2), 0);
    test_join(waiters[1]);
    test_join(waiters[2]);
    check_int(sst_semaphore_value(semaphore), ==, 0);
    close_semaphore(arena);
}

TEST(bounded_tells_when_all_owners_are_dead)
{
    struct sst_arena *const arena = open_semaphore(2, 2);
    pid_t first = test_fork(take_and_linger, NULL);
    pid_t second = test_fork(take_and_linger, NULL);

    eventually(word(TAKEN) == 2);
    test_kill(first);
    check_status(sst_semaphore_acquire(semaphore, in_ms(20)), SST_ETIMEDOUT);
    test_kill(second);
    check_status(sst_semaphore_acquire(semaphore, SST_NOW), SST_EOWNERDEAD);
    check_status(sst_semaphore_acquire(semaphore, SST_FOREVER), SST_EOWNERDEAD);
    check_int(sst_semaphore_value(semaphore), ==, 0);
    check_int(sst_semaphore_recover(semaphore), ==, 2);
    check_int(sst_semaphore_recover(semaphore), ==, 0);
    check_int(sst_semaphore_value(semaphore), ==, 2);
    check_status(sst_semaphore_acquire(semaphore, SST_NOW), 0);
    close_semaphore(arena);
}

TEST(bounded_released_for_the_dead_goes_on)
{
    struct sst_arena *const arena = open_semaphore(1, 1);

    test_join(test_fork(take_and_exit, NULL));
    check_status(sst_semaphore_acquire(semaphore, SST_NOW), SST_EOWNERDEAD);
    check_status(sst_semaphore_release(semaphore, 1), 0);
    check_int(sst_semaphore_recover(semaphore), ==, 0);
    check_status(sst_semaphore_acquire(semaphore, SST_NOW), 0);
    check_status(sst_semaphore_release(semaphore, 1), 0);
    close_semaphore(arena);
}

TEST(who_waits_for_bounded_learns_of_the_last_owners_death)
{
    struct sst_arena *const arena = open_semaphore(3, 3);
    pid_t owners[3];
    pid_t waiters[2];
    int64_t killed_ns;

    for (int i = 0; i < 3; i++) {
        owners[i] = test_fork(take_and_linger, NULL);
    }
    eventually(word(TAKEN) == 3);
    for (int i = 0; i < 2; i++) {
        waiters[i] = test_fork(find_all_dead, NULL);
        eventually(test_is_asleep(waiters[i]));
    }
    for (int i = 0; i < 2; i++) {
        test_kill(owners[i]);
        eventually(test_is_asleep(waiters[0]) && test_is_asleep(waiters[1]));
    }
    check_int(word(RESULT), ==, 0);
    killed_ns = test_now_ns();
    test_kill(owners[2]);
    test_join(waiters[0]);
    test_join(waiters[1]);
    check_int(word(TIME) - killed_ns, <, (int64_t)DEATH_SHOWS_NS * test_slowness());
    check_int(sst_semaphore_recover(semaphore), ==, 3);
    close_semaphore(arena);
}

TEST(a_unit_that_changes_hands_is_watched_in_the_new_hands)
{
    struct sst_arena *const arena = open_semaphore(1, 1);
    pid_t owner;
    pid_t waiters[2];

    check_status(sst_semaphore_acquire(semaphore, SST_NOW), 0);
    owner = test_fork(take_and_linger, NULL);
    eventually(test_is_asleep(owner));
    for (int i = 0; i < 2; i++) {
        waiters[i] = test_fork(find_all_dead, NULL);
        eventually(test_is_asleep(waiters[i]));
    }
    check_status(sst_semaphore_release(semaphore, 1), 0);
    /* Woken in the order they came. */
    eventually(word(TAKEN) == 1);
    test_kill(owner);
    test_join(waiters[0]);
    test_join(waiters[1]);
    close_semaphore(arena);
}
