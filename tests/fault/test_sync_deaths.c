/* SPDX-License-Identifier: MIT */

/* A process is killed at every crash point of the synchronisation objects in turn,
 * while others wait for them without a time-out. Those must go on, and the objects must
 * add up again. Built with -Dcrashpoints=true only. */

#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/crashpoint.h"
#include "c/peers.h"

enum {
    LOCKS, /* words: rounds of each companion */
    EVENTS,
    CONDITIONS,
    BARRIERS,
    STAGE, /* what the victim's own children have done */
    COMPANIONS = 4,
    HITS_MAX = 3,
    ROUNDS = 30,
};

static struct sst_arena *arena;
static struct sst_mutex *plain, *recursive;
static struct sst_mutex *orphan; /* the victim alone uses these two */
static struct sst_condition *widow;
static struct sst_semaphore *counting, *bounded;
static struct sst_event *event;
static struct sst_condition *condition;
static struct sst_barrier *barrier;

/* ---- The victim ---- */

static void
take_orphan_and_exit(void *arg)
{
    (void)arg;
    ssti_crashpoint_arm(NULL, 0);
    check_status(sst_mutex_acquire(orphan, SST_NOW), 0);
}

static void
enter_widow_and_linger(void *arg)
{
    uint64_t ticket;

    (void)arg;
    ssti_crashpoint_arm(NULL, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    check_status(sst_condition_enter(widow, &ticket), 0);
    word_add(STAGE, 1);
    linger();
}

/* A lock whose owner died, a notification whose receiver did. */
static void
bury_others(void)
{
    const int64_t stage = word(STAGE);
    uint64_t ticket;
    pid_t child;

    test_join(test_fork(take_orphan_and_exit, NULL));
    check_status(sst_mutex_acquire(orphan, SST_FOREVER), SST_EOWNERDEAD);
    check_status(sst_mutex_recover(orphan), 1);

    child = test_fork(enter_widow_and_linger, NULL);
    eventually(word(STAGE) == stage + 1);
    check_int(sst_condition_notify(widow, 1), ==, 1);
    check_status(sst_condition_enter(widow, &ticket), 0);
    test_kill(child);
    check_status(sst_condition_wait(widow, ticket, soon()), 0);
}

static int
take(struct sst_mutex *mutex)
{
    int rc;

    while ((rc = sst_mutex_acquire(mutex, soon())) == SST_EOWNERDEAD) {
        check_ok(sst_mutex_recover(mutex));
    }
    return rc;
}

static void
use_locks(void)
{
    check_status(take(plain), 0);
    check_status(sst_mutex_release(plain), 0);
    check_status(take(recursive), 0);
    check_status(sst_mutex_acquire(recursive, SST_NOW), 0);
    check_status(sst_mutex_release(recursive), 0);
    check_status(sst_mutex_release(recursive), 0);

    check_status(sst_semaphore_acquire(counting, soon()), 0);
    check_status(sst_semaphore_release(counting, 1), 0);
    for (int i = 0; i < 2; i++) {
        int rc;

        while ((rc = sst_semaphore_acquire(bounded, soon())) == SST_EOWNERDEAD) {
            check_ok(sst_semaphore_recover(bounded));
        }
        check_status(rc, 0);
        check_status(sst_semaphore_release(bounded, 1), 0);
    }
}

static void
use_condition(void)
{
    uint64_t tickets[3];

    for (int i = 0; i < 3; i++) {
        check_status(sst_condition_enter(condition, &tickets[i]), 0);
    }
    check_int(sst_condition_notify(condition, 2), ==, 2);
    for (int i = 0; i < 3; i++) {
        (void)sst_condition_leave(condition, tickets[i]);
    }
    check_ok(sst_condition_notify(condition, UINT32_MAX));
}

static int
meet(void)
{
    uint64_t ticket;
    int rc;

    rc = sst_barrier_arrive(barrier, &ticket, soon());
    if (rc == 1) {
        return sst_barrier_open(barrier, ticket);
    }
    return rc < 0 ? rc : sst_barrier_wait(barrier, ticket, soon());
}

/* Comes by every crash point. */
static void
live(void *arg)
{
    const struct ssti_crashpoint *const point = ((void **)arg)[0];
    const uint64_t nth = *(const uint64_t *)((void **)arg)[1];

    ssti_crashpoint_arm(point->name, nth);
    for (int i = 0; i < ROUNDS; i++) {
        int rc;

        use_locks();
        sst_event_set(event);
        sst_event_clear(event);
        use_condition();
        rc = meet();
        check(rc == 0 || rc == SST_EBROKEN);
        if (i % 4 == 3) {
            sst_barrier_abort(barrier);
            sst_barrier_reset(barrier);
        }
        if (i % 10 == 0) {
            bury_others();
        }
    }
    ssti_crashpoint_arm(NULL, 0);
}

/* ---- The companions ---- */

static void
keep_locking(void *arg)
{
    (void)arg;
    for (;;) {
        use_locks();
        word_add(LOCKS, 1);
    }
}

static void
keep_waiting(void *arg)
{
    (void)arg;
    for (;;) {
        check_status(sst_event_wait(event, soon()), 0);
        word_add(EVENTS, 1);
    }
}

static void
keep_listening(void *arg)
{
    (void)arg;
    for (;;) {
        uint64_t ticket;

        check_status(sst_condition_enter(condition, &ticket), 0);
        check_status(sst_condition_wait(condition, ticket, soon()), 0);
        word_add(CONDITIONS, 1);
    }
}

static void
keep_meeting(void *arg)
{
    (void)arg;
    for (;;) {
        const int rc = meet();

        if (rc == SST_EBROKEN) {
            sst_barrier_reset(barrier);
        }
        else {
            check_status(rc, 0);
        }
        word_add(BARRIERS, 1);
    }
}

static void (*const companions[COMPANIONS])(void *) = {keep_locking, keep_waiting,
                                                       keep_listening, keep_meeting};

/* Each of them gets further, given what it waits for. */
static void
expect_progress(void)
{
    int64_t before[COMPANIONS];

    for (int i = 0; i < COMPANIONS; i++) {
        before[i] = word(i);
    }
    eventually(word(LOCKS) > before[LOCKS] + 1);
    eventually((sst_event_set(event), word(EVENTS) > before[EVENTS] + 1));
    sst_event_clear(event);
    eventually((sst_condition_notify(condition, 1) >= 0) &&
               word(CONDITIONS) > before[CONDITIONS] + 1);
    while (word(BARRIERS) <= before[BARRIERS] + 2) {
        if (meet() == SST_EBROKEN) {
            sst_barrier_reset(barrier);
        }
    }
}

/* ---- The loop ---- */

static void
open_all(void)
{
    arena = arena_open();
    check_ok(sst_mutex_create(arena, 0, &plain, NULL));
    check_ok(sst_mutex_create(arena, SST_MUTEX_RECURSIVE, &recursive, NULL));
    check_ok(sst_mutex_create(arena, 0, &orphan, NULL));
    check_ok(sst_semaphore_create(arena, 4, 1000, &counting, NULL));
    check_ok(sst_semaphore_create(arena, 2, 2, &bounded, NULL));
    check_ok(sst_event_create(arena, &event, NULL));
    check_ok(sst_condition_create(arena, &condition, NULL));
    check_ok(sst_condition_create(arena, &widow, NULL));
    check_ok(sst_barrier_create(arena, 2, &barrier, NULL));
}

static void
close_all(void)
{
    struct sst_arena_statistics statistics;

    plain = sst_mutex_close(plain);
    recursive = sst_mutex_close(recursive);
    orphan = sst_mutex_close(orphan);
    counting = sst_semaphore_close(counting);
    bounded = sst_semaphore_close(bounded);
    event = sst_event_close(event);
    condition = sst_condition_close(condition);
    widow = sst_condition_close(widow);
    barrier = sst_barrier_close(barrier);
    (void)sst_arena_sweep(arena);
    check_ok(sst_arena_statistics(arena, &statistics));
    check_int(statistics.slots, ==, 0);
    check_int(statistics.extents, ==, 0);
    arena_close(arena);
}

/* With everybody else dead, what the objects say is known. */
static void
expect_sums(void)
{
    check_ok(sst_mutex_recover(plain));
    check_ok(sst_mutex_recover(recursive));
    check(!sst_mutex_is_locked(plain));
    check(!sst_mutex_is_locked(recursive));
    check_ok(sst_semaphore_recover(bounded));
    check_int(sst_semaphore_value(bounded), ==, 2);
    check_int(sst_semaphore_value(counting), >=,
              2); /* two died, each with one at most */
    check_int(sst_semaphore_value(counting), <=, 4);
    check_int(sst_condition_notify(condition, UINT32_MAX), ==, 0);
    check_int(sst_condition_waiters(condition), ==, 0);
    check_int(sst_condition_notify(widow, UINT32_MAX), ==, 0);
    sst_barrier_reset(barrier);
    check_int(sst_barrier_waiting(barrier), ==, 0);
}

/* True when the victim came by there often enough. */
static bool
die_at(const struct ssti_crashpoint *point, uint64_t nth)
{
    void *arg[2] = {(void *)(uintptr_t)point, &nth};
    pid_t peers[COMPANIONS];
    pid_t victim;
    int status;

    open_all();
    for (int i = 0; i < COMPANIONS; i++) {
        peers[i] = test_fork(companions[i], NULL);
    }
    victim = test_fork(live, arg);
    check_int(waitpid(victim, &status, 0), ==, victim);
    check(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);

    expect_progress();
    for (int i = 0; i < COMPANIONS; i++) {
        check_int(waitpid(peers[i], NULL, WNOHANG), ==, 0); /* no check failed there */
        test_kill(peers[i]);
    }
    while (wait(NULL) > 0) {
        /* The victim's child comes to us, who are a sub-reaper. */
    }
    expect_sums();
    close_all();
    return WIFSIGNALED(status);
}

static void
die_everywhere(const char *prefix)
{
    const struct ssti_crashpoint *point;
    int points = 0;

    for (uint32_t i = 0; (point = ssti_crashpoint_at(i)) != NULL; i++) {
        if (strncmp(point->name, prefix, strlen(prefix)) != 0) {
            continue;
        }
        points++;
        for (uint64_t nth = 1; nth <= HITS_MAX; nth++) {
            if (!die_at(point, nth)) {
                if (nth == 1) {
                    test_fail(__FILE__, __LINE__, "never came by %s", point->name);
                }
                break;
            }
        }
    }
    check_int(points, >, 0);
}

TEST(deaths_in_mutexes)
{
    die_everywhere("mutex_");
}

TEST(deaths_in_semaphores)
{
    die_everywhere("semaphore_");
}

TEST(deaths_in_events)
{
    die_everywhere("event_");
}

TEST(deaths_in_conditions)
{
    die_everywhere("condition_");
}

TEST(deaths_in_barriers)
{
    die_everywhere("barrier_");
}

TEST(deaths_in_rosters)
{
    die_everywhere("roster_");
}
