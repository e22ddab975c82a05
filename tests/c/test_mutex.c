/* SPDX-License-Identifier: MIT */

/* Mutexes: owners, recursion, deaths of owners and of those who wait. Names that begin
 * with "threads" start no process. */

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "peers.h"

enum {
    TAKEN,  /* words: the child has it */
    RESULT, /* what a child's acquire returned, less one, so that 0 means not yet */
    TIME,   /* when */
    COUNTER,
    INSIDE,
    GO,
};

static struct sst_mutex *mutex;

static struct sst_arena *
open_mutex(uint32_t flags)
{
    struct sst_arena *const arena = arena_open();

    check_ok(sst_mutex_create(arena, flags, &mutex, NULL));
    return arena;
}

static void
close_mutex(struct sst_arena *arena)
{
    mutex = sst_mutex_close(mutex);
    arena_close(arena);
}

/* ---- One process ---- */

TEST(threads_a_new_mutex_is_free)
{
    struct sst_arena *const arena = open_mutex(0);

    check(!sst_mutex_is_locked(mutex));
    check(!sst_mutex_is_recursive(mutex));
    check_int(sst_mutex_count(mutex), ==, 0);
    close_mutex(arena);
}

TEST(threads_a_mutex_is_held_once)
{
    struct sst_arena *const arena = open_mutex(0);

    check_status(sst_mutex_acquire(mutex, SST_FOREVER), 0);
    check(sst_mutex_is_locked(mutex));
    check_int(sst_mutex_count(mutex), ==, 1);
    check_status(sst_mutex_acquire(mutex, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_mutex_release(mutex), 0);
    check_int(sst_mutex_count(mutex), ==, 0);
    check_status(sst_mutex_release(mutex), SST_EOVERFLOW);
    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    check_status(sst_mutex_release(mutex), 0);
    close_mutex(arena);
}

static void *
try_from_thread(void *arg)
{
    check_status(sst_mutex_acquire(mutex, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_mutex_release(mutex), SST_ENOTOWNER);
    check_int(sst_mutex_count(mutex), ==, 0);
    return arg;
}

TEST(threads_a_recursive_mutex_belongs_to_a_thread)
{
    struct sst_arena *const arena = open_mutex(SST_MUTEX_RECURSIVE);
    pthread_t thread;

    check(sst_mutex_is_recursive(mutex));
    check_status(sst_mutex_release(mutex), SST_ENOTOWNER);
    for (uint32_t i = 1; i <= 3; i++) {
        check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
        check_int(sst_mutex_count(mutex), ==, i);
    }
    check_int(pthread_create(&thread, NULL, try_from_thread, NULL), ==, 0);
    check_int(pthread_join(thread, NULL), ==, 0);
    for (uint32_t i = 3; i-- > 0;) {
        check(sst_mutex_is_locked(mutex));
        check_status(sst_mutex_release(mutex), 0);
        check_int(sst_mutex_count(mutex), ==, i);
    }
    check(!sst_mutex_is_locked(mutex));
    check_status(sst_mutex_release(mutex), SST_ENOTOWNER);
    close_mutex(arena);
}

TEST(threads_a_deadline_passes)
{
    struct sst_arena *const arena = open_mutex(0);
    const int64_t begin_ns = test_now_ns();

    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    check_status(sst_mutex_acquire(mutex, in_ms(20)), SST_ETIMEDOUT);
    check_int(test_now_ns() - begin_ns, >=, 20000000);
    check_status(sst_mutex_release(mutex), 0);
    close_mutex(arena);
}

static void *
release_from_thread(void *arg)
{
    check_status(sst_mutex_release(mutex), 0);
    return arg;
}

TEST(threads_another_thread_may_release)
{
    struct sst_arena *const arena = open_mutex(0);
    pthread_t thread;

    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    check_int(pthread_create(&thread, NULL, release_from_thread, NULL), ==, 0);
    check_status(sst_mutex_acquire(mutex, soon()), 0);
    check_int(pthread_join(thread, NULL), ==, 0);
    check_status(sst_mutex_release(mutex), 0);
    close_mutex(arena);
}

static int64_t guarded; /* without atomics: the mutex orders it */

static void *
count_in_thread(void *arg)
{
    for (int i = 0; i < 5000; i++) {
        check_status(sst_mutex_acquire(mutex, SST_FOREVER), 0);
        guarded++;
        check_status(sst_mutex_release(mutex), 0);
    }
    return arg;
}

static void
count_in_threads(uint32_t flags)
{
    struct sst_arena *const arena = open_mutex(flags);
    pthread_t threads[4];

    guarded = 0;
    for (int i = 0; i < 4; i++) {
        check_int(pthread_create(&threads[i], NULL, count_in_thread, NULL), ==, 0);
    }
    for (int i = 0; i < 4; i++) {
        check_int(pthread_join(threads[i], NULL), ==, 0);
    }
    check_int(guarded, ==, 20000);
    close_mutex(arena);
}

TEST(threads_exclude_each_other)
{
    count_in_threads(0);
}

TEST(threads_exclude_each_other_recursively)
{
    count_in_threads(SST_MUTEX_RECURSIVE);
}

TEST(handles_are_checked)
{
    struct sst_arena *const arena = open_mutex(0);
    struct sst_mutex *other = NULL;
    struct sst_event *event = NULL;
    struct sst_handle handle;

    sst_mutex_handle(mutex, &handle);
    check_int(handle.kind, ==, SST_KIND_MUTEX);
    check_status(sst_event_attach(arena, &handle, &event, NULL), SST_EINVAL);
    check_ok(sst_mutex_attach(arena, &handle, &other, NULL));
    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    check_status(sst_mutex_acquire(other, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_mutex_release(other), 0);
    mutex = sst_mutex_close(mutex);
    /* The slot is held by the other view still. */
    check_status(sst_mutex_acquire(other, SST_NOW), 0);
    other = sst_mutex_close(other);
    check_status(sst_mutex_attach(arena, &handle, &other, NULL), SST_ESTALE);
    close_mutex(arena);
}

TEST(bad_arguments_and_no_memory)
{
    struct sst_arena *const arena = arena_open();
    struct sst_error err = {0};

    check_status(sst_mutex_create(arena, 8, &mutex, &err), SST_EINVAL);
    check_int(err.status, ==, SST_EINVAL);
    ssti_alloc_fail(1, 0);
    check_status(sst_mutex_create(arena, 0, &mutex, &err), SST_ENOMEM);
    ssti_alloc_fail(0, 0);
    check_ok(sst_mutex_create(arena, 0, &mutex, &err));
    close_mutex(arena);
}

static void
on_alarm(int signal)
{
    (void)signal;
}

TEST(a_signal_interrupts)
{
    struct sst_arena *const arena = open_mutex(0);
    struct sigaction action = {.sa_handler = on_alarm};
    int rc;

    check_int(sigaction(SIGALRM, &action, NULL), ==, 0);
    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    (void)ualarm(5000, 5000);
    rc = sst_mutex_acquire(mutex, soon());
    (void)ualarm(0, 0);
    check_status(rc, SST_EINTR);
    check_status(sst_mutex_release(mutex), 0);
    close_mutex(arena);
}

/* ---- Several processes ---- */

static void
release_in_child(void *arg)
{
    (void)arg;
    check_int(sst_mutex_count(mutex), ==, 0);
    check_status(sst_mutex_release(mutex), 0);
}

TEST(another_process_may_release_a_plain_one)
{
    struct sst_arena *const arena = open_mutex(0);

    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    test_join(test_fork(release_in_child, NULL));
    check(!sst_mutex_is_locked(mutex));
    close_mutex(arena);
}

static void
own_nothing_in_child(void *arg)
{
    (void)arg;
    check_int(sst_mutex_count(mutex), ==, 0);
    check_status(sst_mutex_acquire(mutex, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_mutex_release(mutex), SST_ENOTOWNER);
    mutex = sst_mutex_close(mutex);
}

TEST(a_forked_child_owns_nothing)
{
    struct sst_arena *const arena = open_mutex(SST_MUTEX_RECURSIVE);

    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    test_join(test_fork(own_nothing_in_child, NULL));
    check_int(sst_mutex_count(mutex), ==, 1);
    check_status(sst_mutex_release(mutex), 0);
    close_mutex(arena);
}

static void
count_in_child(void *arg)
{
    const int rounds = *(const int *)arg;

    for (int i = 0; i < rounds; i++) {
        check_status(sst_mutex_acquire(mutex, SST_FOREVER), 0);
        check_int(word(INSIDE), ==, 0);
        word_set(INSIDE, 1);
        word_set(COUNTER, word(COUNTER) + 1);
        word_set(INSIDE, 0);
        check_status(sst_mutex_release(mutex), 0);
    }
}

TEST(processes_exclude_each_other)
{
    struct sst_arena *const arena = open_mutex(0);
    int rounds = 5000;
    pid_t children[4];

    for (int i = 0; i < 4; i++) {
        children[i] = test_fork(count_in_child, &rounds);
    }
    for (int i = 0; i < 4; i++) {
        test_join(children[i]);
    }
    check_int(word(COUNTER), ==, 20000);
    close_mutex(arena);
}

/* ---- Deaths ---- */

static void
hold(void *arg)
{
    (void)arg;
    check_status(sst_mutex_acquire(mutex, SST_FOREVER), 0);
    word_add(TAKEN, 1);
    linger();
}

static void
hold_and_exit(void *arg)
{
    (void)arg;
    check_status(sst_mutex_acquire(mutex, SST_FOREVER), 0);
}

static void
wait_for_it(void *arg)
{
    int rc;

    (void)arg;
    do {
        rc = sst_mutex_acquire(mutex, soon());
    } while (rc == SST_EINTR);
    word_set(TIME, test_now_ns());
    check_status(rc, SST_EOWNERDEAD);
    word_add(RESULT, 1);
}

static void
a_dead_owner_shows(uint32_t flags)
{
    struct sst_arena *const arena = open_mutex(flags);
    const pid_t owner = test_fork(hold, NULL);

    eventually(word(TAKEN) == 1);
    test_kill(owner);
    check(sst_mutex_is_locked(mutex));
    check_status(sst_mutex_acquire(mutex, SST_NOW), SST_EOWNERDEAD);
    check_status(sst_mutex_acquire(mutex, SST_FOREVER), SST_EOWNERDEAD);
    check_status(sst_mutex_recover(mutex), 1);
    check_status(sst_mutex_recover(mutex), 0);
    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    check_status(sst_mutex_recover(mutex), 0);
    check_status(sst_mutex_release(mutex), 0);
    close_mutex(arena);
}

TEST(a_killed_owner_shows)
{
    a_dead_owner_shows(0);
}

TEST(a_killed_owner_of_a_recursive_one_shows)
{
    a_dead_owner_shows(SST_MUTEX_RECURSIVE);
}

TEST(an_owner_that_exited_shows)
{
    struct sst_arena *const arena = open_mutex(0);

    test_join(test_fork(hold_and_exit, NULL));
    check_status(sst_mutex_acquire(mutex, SST_FOREVER), SST_EOWNERDEAD);
    check_status(sst_mutex_release(mutex), 0); /* in the dead one's place */
    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    check_status(sst_mutex_release(mutex), 0);
    close_mutex(arena);
}

TEST(who_waits_learns_of_the_owners_death)
{
    struct sst_arena *const arena = open_mutex(0);
    const pid_t owner = test_fork(hold, NULL);
    int64_t killed_ns;
    pid_t waiter;

    eventually(word(TAKEN) == 1);
    waiter = test_fork(wait_for_it, NULL);
    eventually(test_is_asleep(waiter));
    killed_ns = test_now_ns();
    test_kill(owner);
    test_join(waiter);
    check_int(word(TIME) - killed_ns, <, (int64_t)DEATH_SHOWS_NS * test_slowness());
    close_mutex(arena);
}

TEST(all_who_wait_learn_of_the_owners_death)
{
    struct sst_arena *const arena = open_mutex(0);
    const pid_t owner = test_fork(hold, NULL);
    pid_t waiters[5];

    eventually(word(TAKEN) == 1);
    for (int i = 0; i < 5; i++) {
        waiters[i] = test_fork(wait_for_it, NULL);
    }
    for (int i = 0; i < 5; i++) {
        eventually(test_is_asleep(waiters[i]));
    }
    test_kill(owner);
    for (int i = 0; i < 5; i++) {
        test_join(waiters[i]);
    }
    check_int(word(RESULT), ==, 5);
    close_mutex(arena);
}

/* Takes it and says who it is, or finds its owner dead. */
static void
take_in_turn(void *arg)
{
    const int rc = sst_mutex_acquire(mutex, soon());

    (void)arg;
    if (rc == 0) {
        word_set(TAKEN, getpid());
        linger();
    }
    check_status(rc, SST_EOWNERDEAD);
    word_add(RESULT, 1);
}

TEST(the_next_owner_is_watched_as_well)
{
    struct sst_arena *const arena = open_mutex(0);
    pid_t waiters[4];

    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    for (int i = 0; i < 4; i++) {
        waiters[i] = test_fork(take_in_turn, NULL);
    }
    for (int i = 0; i < 4; i++) {
        eventually(test_is_asleep(waiters[i]));
    }
    check_status(sst_mutex_release(mutex), 0);
    eventually(word(TAKEN) != 0);
    /* The others have slept through it all, or lie down again now. */
    for (int i = 0; i < 4; i++) {
        eventually(test_is_asleep(waiters[i]));
    }
    test_kill((pid_t)word(TAKEN));
    for (int i = 0; i < 4; i++) {
        if (waiters[i] != (pid_t)word(TAKEN)) {
            test_join(waiters[i]);
        }
    }
    check_int(word(RESULT), ==, 3);
    close_mutex(arena);
}

static void
take_and_report(void *arg)
{
    (void)arg;
    check_status(sst_mutex_acquire(mutex, soon()), 0);
    word_add(TAKEN, 1);
    check_status(sst_mutex_release(mutex), 0);
}

TEST(a_dead_waiter_is_passed_over)
{
    struct sst_arena *const arena = open_mutex(0);
    pid_t waiters[3];

    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
    for (int i = 0; i < 3; i++) {
        waiters[i] = test_fork(take_and_report, NULL);
        eventually(test_is_asleep(waiters[i]));
    }
    test_kill(waiters[0]);
    check_status(sst_mutex_release(mutex), 0);
    test_join(waiters[1]);
    test_join(waiters[2]);
    check_int(word(TAKEN), ==, 2);
    close_mutex(arena);
}

/* As take_and_report, and makes good what others died with. */
static void
take_or_recover(void *arg)
{
    int rc = sst_mutex_acquire(mutex, soon());

    (void)arg;
    while (rc == SST_EOWNERDEAD) {
        check_ok(sst_mutex_recover(mutex));
        rc = sst_mutex_acquire(mutex, soon());
    }
    check_status(rc, 0);
    check_status(sst_mutex_release(mutex), 0);
}

TEST(a_waiter_killed_as_it_is_woken_passes_it_on)
{
    struct sst_arena *const arena = open_mutex(0);

    for (int round = 0; round < 100; round++) {
        pid_t waiters[2];

        check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
        for (int i = 0; i < 2; i++) {
            waiters[i] = test_fork(take_or_recover, NULL);
            eventually(test_is_asleep(waiters[i]));
        }
        check_status(sst_mutex_release(mutex), 0);
        test_kill(waiters[0]); /* woken, but hardly up: or it holds it already */
        test_join(waiters[1]);
        check(!sst_mutex_is_locked(mutex));
    }
    close_mutex(arena);
}

/* Works until it is killed; recovers what others died with. */
static void
toil(void *arg)
{
    const int index = *(const int *)arg;

    for (;;) {
        const int rc = sst_mutex_acquire(mutex, soon());

        if (rc == SST_EOWNERDEAD) {
            if (sst_mutex_recover(mutex) == 1) {
                word_add(RESULT, 1);
            }
            continue;
        }
        check_status(rc, 0);
        word_add(COUNTER, 1);
        word_add(8 + index, 1);
        check_status(sst_mutex_release(mutex), 0);
    }
}

TEST(random_kills_stop_nobody)
{
    struct sst_arena *const arena = open_mutex(0);
    int index[4] = {0, 1, 2, 3};
    pid_t workers[4];
    uint32_t seed = 1;

    for (int i = 0; i < 4; i++) {
        workers[i] = test_fork(toil, &index[i]);
    }
    for (int kills = 0; kills < 200; kills++) {
        const int victim = rand_r(&seed) % 4;
        const int64_t before = word(COUNTER);

        for (volatile int spin = rand_r(&seed) % 100000; spin > 0; spin--) {
        }
        test_kill(workers[victim]);
        eventually(word(COUNTER) > before + 10);
        workers[victim] = test_fork(toil, &index[victim]);
    }
    for (int i = 0; i < 4; i++) {
        test_kill(workers[i]);
    }
    close_mutex(arena);
}
