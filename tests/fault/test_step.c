/* SPDX-License-Identifier: MIT */

/* Death after each single instruction: a child stops before an operation, is stepped
 * through n instructions of it by ptrace and killed there, for n = 1, 2, 3 and so on to
 * the operation's end. After each death the survivor goes on, who sleeps is woken if
 * there is something for him, and nothing is lost or there twice.
 *
 * SST_STEP_STRIDE=k kills only after every k-th instruction. */

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "c/peers.h"

enum {
    READY, /* words: the victim has come to the operation; */
    DONE,  /* the operation has returned */
    TURN,  /* calls a sleeper may begin; */
    BEGUN, /* that it has begun, */
    ENDED, /* and ended; */
    MARK,  /* ENDED before the operation */
    STEPS_MAX = 200000,
    MUCH = 5000, /* bytes that travel in an extent */
};

static struct sst_arena *arena;
static struct sst_queue *queue;
static struct sst_mutex *mutex;

/* An operation and what surrounds it. */
struct operation {
    void (*prepare)(void);      /* in the victim, before: everything is warm then */
    void (*perform)(void);      /* in the victim, stepped through */
    void (*inspect)(bool done); /* in the survivor, after the death */
};

static uint64_t
stride(void)
{
    const char *const value = getenv("SST_STEP_STRIDE");
    const uint64_t wanted = value != NULL ? strtoull(value, NULL, 10) : 1;

    return (wanted != 0 ? wanted : 1) * (uint64_t)test_slowness();
}

/* ---- Stepping ---- */

static void
be_victim(void *arg)
{
    const struct operation *const operation = arg;

    operation->prepare();
    check_int(ptrace(PTRACE_TRACEME, 0, NULL, NULL), ==, 0);
    word_set(READY, 1);
    check_int(raise(SIGSTOP), ==, 0);
    operation->perform();
    word_set(DONE, 1);
    linger();
}

/* Wait until the victim stops. False when it is gone. */
static bool
stopped(pid_t victim)
{
    int status;

    check_int(waitpid(victim, &status, 0), ==, victim);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
        test_fail(__FILE__, __LINE__, "the victim failed");
    }
    return WIFSTOPPED(status);
}

/* Step a victim through `count` instructions of the operation, and kill it. True when
 * the operation was over before. */
static bool
die_after(const struct operation *operation, uint64_t count)
{
    bool done;

    word_set(READY, 0);
    word_set(DONE, 0);

    const pid_t victim = test_fork(be_victim, (void *)(uintptr_t)operation);

    check(stopped(victim));
    check_int(word(READY), ==, 1);
    for (uint64_t i = 0; i < count && word(DONE) == 0; i++) {
        check_int(ptrace(PTRACE_SINGLESTEP, victim, NULL, NULL), ==, 0);
        check(stopped(victim));
    }
    done = word(DONE) != 0;
    check_int(kill(victim, SIGKILL), ==, 0);
    while (stopped(victim)) {
    }
    operation->inspect(done);
    return done;
}

static void
die_everywhere(const struct operation *operation, uint64_t every)
{
    struct sst_arena_statistics before;
    struct sst_arena_statistics after;
    uint64_t count = every;

    check_ok(sst_arena_statistics(arena, &before));
    while (!die_after(operation, count)) {
        count += every;
        check_int(count, <, STEPS_MAX);
        if (count % 64 == 0) {
            (void)sst_arena_sweep(arena);
        }
    }
    check_int(count, >, 100); /* it was stepped through, indeed */
    (void)sst_arena_sweep(arena);
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.extents, ==, before.extents);
    check_int(after.slots, ==, before.slots);
}

/* ---- Putting and getting ---- */

static char payload[MUCH];
static uint64_t payload_size;

static void
put(const char *text)
{
    memcpy(payload, text, strlen(text) + 1);
    check_status(sst_queue_put(queue, payload, payload_size, SST_NOW), 0);
}

/* The next message is this one; with `maybe` another may be: false then, and it is
 * kept. */
static struct sst_message kept;
static bool has_kept;

static bool
next_is(const char *text)
{
    bool is;

    if (!has_kept) {
        check_status(sst_queue_get(queue, &kept, SST_NOW), 0);
        has_kept = true;
    }
    check_int(kept.size, ==, payload_size);
    is = strcmp(kept.data, text) == 0;
    if (is) {
        sst_message_free(&kept);
        has_kept = false;
    }
    return is;
}

static void
nothing_is_left(void)
{
    struct sst_message message;

    check(!has_kept);
    check_int(sst_queue_count(queue), ==, 0);
    check_status(sst_queue_get(queue, &message, SST_NOW), SST_ETIMEDOUT);
}

static void
set_up(void)
{
    const struct sst_queue_options options = {.size_of = sizeof options};

    arena = arena_open();
    check_ok(sst_queue_create(arena, &options, &queue, NULL));
    check_ok(sst_mutex_create(arena, 0, &mutex, NULL));
    payload_size = 64;
    put("first"); /* the ring has a chunk from now on */
    check(next_is("first"));
}

static void
tear_down(void)
{
    queue = sst_queue_close(queue);
    mutex = sst_mutex_close(mutex);
    arena_close(arena);
}

static void
put_prepare(void)
{
    put("warm");
}

static void
put_perform(void)
{
    put("cold");
}

static void
put_inspect(bool done)
{
    put("after");
    check(next_is("warm"));
    if (!next_is("cold")) {
        check(!done);
    }
    check(next_is("after"));
    nothing_is_left();
}

static void
get_prepare(void)
{
    put("warm");
    put("cold");
    put("left");
    check(next_is("warm"));
}

static void
get_perform(void)
{
    check(next_is("cold"));
}

static void
get_inspect(bool done)
{
    if (next_is("cold")) {
        check(!done);
    }
    check(next_is("left"));
    put("after");
    check(next_is("after"));
    nothing_is_left();
}

static void
step_through_queue(uint64_t size, uint64_t every)
{
    static const struct operation put_operation = {put_prepare, put_perform,
                                                   put_inspect};
    static const struct operation get_operation = {get_prepare, get_perform,
                                                   get_inspect};

    set_up();
    payload_size = size;
    die_everywhere(&put_operation, every);
    die_everywhere(&get_operation, every);
    tear_down();
}

TEST(queue_put_and_get)
{
    step_through_queue(64, stride());
}

/* Copying the payload is most of it, byte by byte, and all of that is alike. */
TEST(queue_put_and_get_much)
{
    step_through_queue(MUCH, 97 * stride());
}

/* ---- Locks ---- */

static void
mutex_inspect(bool done)
{
    int rc = sst_mutex_acquire(mutex, in_ms(50));

    (void)done;
    if (rc == SST_EOWNERDEAD) {
        check_int(sst_mutex_recover(mutex), ==, 1);
        rc = sst_mutex_acquire(mutex, SST_NOW);
    }
    check_status(rc, 0);
    check_status(sst_mutex_release(mutex), 0);
    check(!sst_mutex_is_locked(mutex));
}

static void
acquire(void)
{
    check_status(sst_mutex_acquire(mutex, SST_NOW), 0);
}

static void
release(void)
{
    check_status(sst_mutex_release(mutex), 0);
}

static void
acquire_and_release(void)
{
    acquire();
    release();
}

static void
release_prepare(void)
{
    acquire_and_release();
    acquire();
}

TEST(mutex_acquire_and_release)
{
    static const struct operation acquire_operation = {acquire_and_release, acquire,
                                                       mutex_inspect};
    static const struct operation release_operation = {release_prepare, release,
                                                       mutex_inspect};

    set_up();
    die_everywhere(&acquire_operation, stride());
    die_everywhere(&release_operation, stride());
    tear_down();
}

/* ---- With somebody asleep ---- */

/* A process that makes one call after the other, and says how each ended. */
static void
be_sleeper(void *arg)
{
    int (*const call)(void) = *(int (**)(void))arg;

    for (;;) {
        while (word(BEGUN) >= word(TURN)) {
            test_nap();
        }
        word_add(BEGUN, 1);
        check_status(call(), 0);
        word_add(ENDED, 1);
    }
}

static pid_t sleeper;

static void
start_sleeper(int (*call)(void), int64_t turn)
{
    static int (*kept_call)(void);

    kept_call = call;
    word_set(TURN, turn);
    word_set(BEGUN, 0);
    word_set(ENDED, 0);
    sleeper = test_fork(be_sleeper, &kept_call);
}

static void
wait_until_asleep(void)
{
    eventually(word(BEGUN) == word(ENDED) + 1 && test_is_asleep(sleeper));
}

static int
get_one(void)
{
    struct sst_message message;
    int rc;

    do {
        rc = sst_queue_get(queue, &message, SST_FOREVER);
    } while (rc == SST_EINTR);
    if (rc == 0) {
        sst_message_free(&message);
    }
    return rc;
}

static void
woken_put_prepare(void)
{
    wait_until_asleep();
    put_prepare();
    eventually(word(ENDED) == word(MARK) + 1);
    wait_until_asleep();
    word_set(MARK, word(ENDED));
}

/* What was put is taken by the sleeper without anybody's help: when nothing moves any
 * more there is nothing. */
static void
woken_put_inspect(bool done)
{
    wait_until_asleep();
    check(!done || word(ENDED) == word(MARK) + 1);
    nothing_is_left();
    word_set(MARK, word(ENDED));
}

TEST(put_wakes_a_getter)
{
    static const struct operation operation = {woken_put_prepare, put_perform,
                                               woken_put_inspect};

    set_up();
    start_sleeper(get_one, INT64_MAX);
    die_everywhere(&operation, stride());
    test_kill(sleeper);
    tear_down();
}

static int
acquire_one(void)
{
    int rc;

    do {
        rc = sst_mutex_acquire(mutex, SST_FOREVER);
    } while (rc == SST_EINTR);
    if (rc == SST_EOWNERDEAD) {
        return sst_mutex_recover(mutex) == 1 ? 0 : SST_EIO;
    }
    check_status(rc, 0);
    return sst_mutex_release(mutex);
}

static void
woken_release_prepare(void)
{
    acquire();
    word_add(TURN, 1); /* now there is an owner to wait for */
    wait_until_asleep();
}

/* Released, or its owner is dead: the sleeper gets its answer either way, and soon. */
static void
woken_release_inspect(bool done)
{
    const int64_t limit = test_now_ns() + DEATH_SHOWS_NS * test_slowness();

    (void)done;
    while (word(ENDED) != word(TURN)) {
        check_int(test_now_ns(), <, limit);
        test_nap();
    }
}

TEST(release_wakes_a_waiter)
{
    static const struct operation operation = {woken_release_prepare, release,
                                               woken_release_inspect};

    set_up();
    start_sleeper(acquire_one, 0);
    die_everywhere(&operation, stride());
    test_kill(sleeper);
    tear_down();
}
