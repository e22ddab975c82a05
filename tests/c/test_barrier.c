/* SPDX-License-Identifier: MIT */

/* Barriers: rounds, the action, breaking, and deaths. Names that begin with "threads"
 * start no process. */

#include <pthread.h>
#include <stdlib.h>

#include "peers.h"

enum {
    ARRIVED, /* words */
    PASSED,
    BROKE,
    ACTED,
    TIME,
    ROUND = 16, /* 16 + i: rounds that peer i has passed */
};

static struct sst_barrier *barrier;

static struct sst_arena *
open_barrier(uint32_t parties)
{
    struct sst_arena *const arena = arena_open();

    check_ok(sst_barrier_create(arena, parties, &barrier, NULL));
    return arena;
}

static void
close_barrier(struct sst_arena *arena)
{
    barrier = sst_barrier_close(barrier);
    arena_close(arena);
}

/* A whole round: what the wait of another library would be. */
static int
meet(int64_t deadline_ns)
{
    uint64_t ticket;
    int rc;

    do {
        rc = sst_barrier_arrive(barrier, &ticket, deadline_ns);
    } while (rc == SST_EINTR);
    if (rc < 0) {
        return rc;
    }
    word_add(ARRIVED, 1);
    if (rc == (int)sst_barrier_parties(barrier) - 1) {
        word_add(ACTED, 1);
        return sst_barrier_open(barrier, ticket);
    }
    do {
        rc = sst_barrier_wait(barrier, ticket, deadline_ns);
    } while (rc == SST_EINTR);
    return rc;
}

TEST(threads_a_barrier_for_one)
{
    struct sst_arena *const arena = open_barrier(1);

    check_int(sst_barrier_parties(barrier), ==, 1);
    for (int i = 0; i < 200; i++) {
        check_status(meet(SST_NOW), 0);
    }
    check_int(word(ACTED), ==, 200);
    close_barrier(arena);
}

TEST(bad_arguments_are_refused)
{
    struct sst_arena *const arena = open_barrier(2);
    struct sst_barrier *other = NULL;
    uint64_t ticket;

    check_status(sst_barrier_create(arena, 0, &other, NULL), SST_EINVAL);
    check_status(sst_barrier_create(arena, UINT32_MAX, &other, NULL), SST_EINVAL);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    check_status(sst_barrier_open(barrier, ticket), SST_EINVAL);
    close_barrier(arena);
}

TEST(threads_running_out_of_time_breaks_it)
{
    struct sst_arena *const arena = open_barrier(2);
    uint64_t ticket;

    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    check_int(sst_barrier_waiting(barrier), ==, 1);
    check_status(sst_barrier_try_wait(barrier, ticket), SST_EAGAIN);
    check_status(sst_barrier_wait(barrier, ticket, in_ms(5)), SST_ETIMEDOUT);
    check(sst_barrier_is_broken(barrier));
    check_int(sst_barrier_waiting(barrier), ==, 0);
    check_status(sst_barrier_wait(barrier, ticket, SST_FOREVER), SST_EBROKEN);
    check_status(sst_barrier_arrive(barrier, &ticket, SST_FOREVER), SST_EBROKEN);
    sst_barrier_reset(barrier);
    check(!sst_barrier_is_broken(barrier));
    check_status(sst_barrier_wait(barrier, ticket, SST_FOREVER), SST_EBROKEN);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 1);
    check_status(sst_barrier_open(barrier, ticket), 0);
    check_status(sst_barrier_wait(barrier, ticket, SST_NOW), 0);
    close_barrier(arena);
}

TEST(threads_who_leaves_has_not_arrived)
{
    struct sst_arena *const arena = open_barrier(2);
    uint64_t ticket;

    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    sst_barrier_leave(barrier, ticket);
    check_int(sst_barrier_waiting(barrier), ==, 0);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 1);
    sst_barrier_leave(barrier, ticket); /* too late: all have come */
    check_int(sst_barrier_waiting(barrier), ==, 2);
    check_status(sst_barrier_open(barrier, ticket), 0);
    sst_barrier_leave(barrier, ticket);
    check_int(sst_barrier_waiting(barrier), ==, 0);
    close_barrier(arena);
}

TEST(threads_the_action_belongs_to_the_round)
{
    struct sst_arena *const arena = open_barrier(2);
    uint64_t ticket;
    uint64_t next;

    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 1);
    check_status(sst_barrier_arrive(barrier, &next, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_barrier_arrive(barrier, &next, in_ms(5)), SST_ETIMEDOUT);
    check(!sst_barrier_is_broken(barrier));
    sst_barrier_abort(barrier);
    check_status(sst_barrier_open(barrier, ticket), SST_EBROKEN);
    check_status(sst_barrier_wait(barrier, ticket, SST_FOREVER), SST_EBROKEN);
    sst_barrier_reset(barrier);
    check_status(sst_barrier_open(barrier, ticket), SST_EBROKEN);
    close_barrier(arena);
}

TEST(threads_a_late_riser_learns_how_its_round_ended)
{
    struct sst_arena *const arena = open_barrier(1);
    uint64_t tickets[80];

    for (int i = 0; i < 80; i++) {
        check_int(sst_barrier_arrive(barrier, &tickets[i], SST_NOW), ==, 0);
        if (i % 3 == 0) {
            sst_barrier_abort(barrier);
            sst_barrier_reset(barrier);
        }
        else {
            check_status(sst_barrier_open(barrier, tickets[i]), 0);
        }
    }
    for (int i = 20; i < 80; i++) {
        check_status(sst_barrier_wait(barrier, tickets[i], SST_NOW),
                     i % 3 == 0 ? SST_EBROKEN : 0);
    }
    close_barrier(arena);
}

static void *
meet_in_thread(void *arg)
{
    for (int i = 0; i < 200; i++) {
        check_status(meet(soon()), 0);
    }
    return arg;
}

TEST(threads_meet)
{
    struct sst_arena *const arena = open_barrier(4);
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        check_int(pthread_create(&threads[i], NULL, meet_in_thread, NULL), ==, 0);
    }
    for (int i = 0; i < 4; i++) {
        check_int(pthread_join(threads[i], NULL), ==, 0);
    }
    check_int(word(ACTED), ==, 200);
    close_barrier(arena);
}

/* ---- Processes ---- */

static void
meet_in_child(void *arg)
{
    const int index = *(const int *)arg;

    for (int i = 0; i < 300; i++) {
        word_set(ROUND + index, i);
        check_status(meet(soon()), 0);
        for (int other = 0; other < 4; other++) {
            check_int(word(ROUND + other), >=, i); /* nobody is a round behind */
        }
    }
}

TEST(processes_meet)
{
    struct sst_arena *const arena = open_barrier(4);
    int index[4] = {0, 1, 2, 3};
    pid_t peers[4];

    for (int i = 0; i < 4; i++) {
        peers[i] = test_fork(meet_in_child, &index[i]);
    }
    for (int i = 0; i < 4; i++) {
        test_join(peers[i]);
    }
    check_int(word(ACTED), ==, 300);
    check_int(word(ARRIVED), ==, 1200);
    close_barrier(arena);
}

static void
meet_once(void *arg)
{
    (void)arg;
    check_status(meet(soon()), 0);
    word_add(PASSED, 1);
}

TEST(more_parties_than_the_slot_has_room_for)
{
    struct sst_arena *const arena = open_barrier(40);
    pid_t peers[40];

    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < 40; i++) {
            peers[i] = test_fork(meet_once, NULL);
        }
        for (int i = 0; i < 40; i++) {
            test_join(peers[i]);
        }
        check_int(word(PASSED), ==, 40 * round);
    }
    close_barrier(arena);
}

TEST(handles_are_checked)
{
    struct sst_arena *const arena = open_barrier(25);
    struct sst_barrier *other = NULL;
    struct sst_handle handle;
    uint64_t ticket;

    sst_barrier_handle(barrier, &handle);
    check_ok(sst_barrier_attach(arena, &handle, &other, NULL));
    check_int(sst_barrier_parties(other), ==, 25);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    check_int(sst_barrier_arrive(other, &ticket, SST_NOW), ==, 1);
    other = sst_barrier_close(other);
    handle.kind = SST_KIND_EVENT;
    check_status(sst_barrier_attach(arena, &handle, &other, NULL), SST_EINVAL);
    close_barrier(arena);
}

/* ---- Breaking ---- */

static void
meet_broken(void *arg)
{
    const int rc = meet(soon());

    (void)arg;
    word_set(TIME, test_now_ns());
    check_status(rc, SST_EBROKEN);
    word_add(BROKE, 1);
}

static void
breaking_reaches_all(void (*breaking)(struct sst_barrier *))
{
    struct sst_arena *const arena = open_barrier(4);
    pid_t peers[3];

    for (int i = 0; i < 3; i++) {
        peers[i] = test_fork(meet_broken, NULL);
        eventually(word(ARRIVED) == i + 1 && test_is_asleep(peers[i]));
    }
    check_int(sst_barrier_waiting(barrier), ==, 3);
    breaking(barrier);
    for (int i = 0; i < 3; i++) {
        test_join(peers[i]);
    }
    check_int(word(BROKE), ==, 3);
    close_barrier(arena);
}

TEST(abort_reaches_all)
{
    breaking_reaches_all(sst_barrier_abort);
}

TEST(reset_reaches_all)
{
    breaking_reaches_all(sst_barrier_reset);
}

static void
a_dead_one_breaks_it(int which)
{
    struct sst_arena *const arena = open_barrier(4);
    int64_t killed_ns;
    pid_t peers[3];

    for (int i = 0; i < 3; i++) {
        peers[i] = test_fork(meet_broken, NULL);
        eventually(word(ARRIVED) == i + 1 && test_is_asleep(peers[i]));
    }
    killed_ns = test_now_ns();
    test_kill(peers[which]);
    for (int i = 0; i < 3; i++) {
        if (i != which) {
            test_join(peers[i]);
        }
    }
    check_int(word(BROKE), ==, 2);
    check_int(word(TIME) - killed_ns, <, (int64_t)DEATH_SHOWS_NS * test_slowness());
    check(sst_barrier_is_broken(barrier));
    sst_barrier_reset(barrier);
    check(!sst_barrier_is_broken(barrier));
    close_barrier(arena);
}

TEST(the_first_to_come_dies)
{
    a_dead_one_breaks_it(0);
}

TEST(the_last_to_come_dies)
{
    a_dead_one_breaks_it(2);
}

TEST(the_dead_do_not_make_up_the_number)
{
    struct sst_arena *const arena = open_barrier(2);
    uint64_t ticket;
    pid_t peer;

    peer = test_fork(meet_broken, NULL);
    eventually(word(ARRIVED) == 1 && test_is_asleep(peer));
    test_kill(peer);
    check_int(sst_barrier_arrive(barrier, &ticket, soon()), ==, SST_EBROKEN);
    check(sst_barrier_is_broken(barrier));
    close_barrier(arena);
}

static void
arrive_and_act_for_ever(void *arg)
{
    uint64_t ticket;

    (void)arg;
    check_int(sst_barrier_arrive(barrier, &ticket, soon()), ==, 2);
    word_add(ACTED, 1);
    linger();
}

TEST(who_runs_the_action_dies)
{
    struct sst_arena *const arena = open_barrier(3);
    pid_t peers[2];
    pid_t actor;
    pid_t next;

    for (int i = 0; i < 2; i++) {
        peers[i] = test_fork(meet_broken, NULL);
        eventually(word(ARRIVED) == i + 1 && test_is_asleep(peers[i]));
    }
    actor = test_fork(arrive_and_act_for_ever, NULL);
    eventually(word(ACTED) == 1);
    next = test_fork(meet_broken, NULL); /* waits for the action to end */
    eventually(test_is_asleep(next));
    test_kill(actor);
    test_join(peers[0]);
    test_join(peers[1]);
    test_join(next);
    check_int(word(BROKE), ==, 3);
    close_barrier(arena);
}

static void
on_alarm(int signal)
{
    (void)signal;
}

TEST(a_signal_does_not_lose_the_arrival)
{
    struct sst_arena *const arena = open_barrier(2);
    struct sigaction action = {.sa_handler = on_alarm};
    uint64_t ticket;
    pid_t peer;

    check_int(sigaction(SIGALRM, &action, NULL), ==, 0);
    check_int(sst_barrier_arrive(barrier, &ticket, SST_NOW), ==, 0);
    (void)ualarm(2000, 2000);
    check_status(sst_barrier_wait(barrier, ticket, soon()), SST_EINTR);
    (void)ualarm(0, 0);
    check_int(sst_barrier_waiting(barrier), ==, 1);
    peer = test_fork(meet_once, NULL);
    check_status(sst_barrier_wait(barrier, ticket, soon()), 0);
    test_join(peer);
    close_barrier(arena);
}

static void
meet_for_ever(void *arg)
{
    (void)arg;
    for (;;) {
        const int rc = meet(soon());

        if (rc == 0) {
            word_add(PASSED, 1);
        }
        else {
            check_status(rc, SST_EBROKEN);
            sst_barrier_reset(barrier);
        }
    }
}

TEST(random_kills_stop_nobody)
{
    struct sst_arena *const arena = open_barrier(3);
    pid_t peers[3];
    uint32_t seed = 4;

    for (int i = 0; i < 3; i++) {
        peers[i] = test_fork(meet_for_ever, NULL);
    }
    for (int kills = 0; kills < 100; kills++) {
        const int victim = rand_r(&seed) % 3;
        int64_t before;

        for (volatile int spin = rand_r(&seed) % 100000; spin > 0; spin--) {
        }
        test_kill(peers[victim]);
        peers[victim] = test_fork(meet_for_ever, NULL);
        before = word(PASSED);
        eventually(word(PASSED) > before + 3);
    }
    for (int i = 0; i < 3; i++) {
        test_kill(peers[i]);
    }
    close_barrier(arena);
}
