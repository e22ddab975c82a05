/* SPDX-License-Identifier: MIT */

/* A process is killed at every crash point of rings, queues, doorbells and pipes in
 * turn. Those who survive must go on, find each message that was put once and in order,
 * and leave no memory behind. Built with -Dcrashpoints=true only. */

#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/crashpoint.h"
#include "c/peers.h"

enum {
    PUT,   /* words: numbers the victim has put, as it said, */
    TAKEN, /* taken, */
    SENT,  /* sent through the pipe; */
    BORN,  /* its child is there, */
    GO,    /* and may take an item */
    HITS_MAX = 3,
    BURST = 2500, /* enough for a chain of chunks larger than a ring keeps */
};

static struct sst_queue *queue;  /* joinable, and the survivor polls it */
static struct sst_queue *second; /* to be shut down */
static struct sst_pipe *pipes[2];
static struct sst_arena *arena;

static uint64_t
length_of(int64_t number)
{
    return number % 97 == 0 ? 9000 : number % 31 == 0 ? 700 : 100;
}

/* Every fifth is a parcel. */
static void
put_data(const uint8_t *data, uint64_t size)
{
    static uint64_t turn;
    struct sst_parcel *parcel;

    if (++turn % 5 != 0) {
        check_status(sst_queue_put(queue, data, size, SST_NOW), 0);
        return;
    }
    check_ok(sst_parcel_create(arena, size, 1, &parcel, NULL));
    memcpy(sst_parcel_data(parcel), data, size);
    check_status(sst_queue_put_parcel(queue, &parcel, SST_NOW), 0);
}

static void
put_next(void)
{
    static uint8_t data[9000];
    const int64_t number = word(PUT) + 1;

    memcpy(data, &number, sizeof number);
    put_data(data, length_of(number));
    word_set(PUT, number);
}

static int64_t
number_in(const struct sst_message *message)
{
    int64_t number;

    check_int(message->size, >=, sizeof number);
    memcpy(&number, message->data, sizeof number);
    check_int(message->size, ==, length_of(number));
    return number;
}

static void
take_next(void)
{
    struct sst_message message;

    check_status(sst_queue_get(queue, &message, SST_NOW), 0);
    check_int(number_in(&message), ==, word(TAKEN) + 1);
    word_set(TAKEN, word(TAKEN) + 1);
    sst_message_free(&message);
    check_status(sst_queue_task_done(queue), 0);
}

static void
take_and_exit(void *arg)
{
    struct sst_message message;

    (void)arg;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    word_set(BORN, 1);
    eventually(word(GO) == 1);
    check_status(sst_queue_get(second, &message, SST_NOW), 0);
    sst_message_free(&message);
}

static void
use_the_pipe(void)
{
    struct sst_message message;
    static uint8_t data[6000];

    for (int64_t i = 1; i <= 5; i++) {
        memcpy(data, &i, sizeof i);
        check_status(sst_pipe_send(pipes[0], data, i == 3 ? 6000 : 50, SST_NOW), 0);
        word_set(SENT, i);
    }
    check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), 0); /* one is there */
    sst_message_free(&message);
    check_status(sst_pipe_recv(pipes[0], &message, in_ms(2)), SST_ETIMEDOUT);
}

/* Comes by every crash point. */
static void
live(void *arg)
{
    const struct ssti_crashpoint *const point = ((void **)arg)[0];
    const uint64_t nth = *(const uint64_t *)((void **)arg)[1];
    struct sst_queue *own;
    pid_t taker;

    /* Forked before: a child that is not born yet is swept only later. */
    taker = test_fork(take_and_exit, NULL);
    eventually(word(BORN) == 1);
    ssti_crashpoint_arm(point->name, nth);
    for (int i = 0; i < BURST; i++) {
        put_next();
    }
    while (word(TAKEN) < word(PUT)) {
        take_next();
    }
    for (int i = 0; i < 300; i++) {
        put_next();
    }
    for (int i = 0; i < 100; i++) {
        take_next();
    }
    check_ok(sst_queue_fd(queue, NULL));
    use_the_pipe();

    check_status(sst_queue_put(second, "abc", 3, SST_NOW), 0);
    word_set(GO, 1);
    test_join(taker);
    check_status(sst_queue_join(second, soon()), SST_EOWNERDEAD);
    check_int(sst_queue_recover(second), ==, 1);
    check_status(sst_queue_put(second, "abc", 3, SST_NOW), 0);
    sst_queue_shutdown(second, true);

    check_ok(sst_queue_create(arena, NULL, &own, NULL));
    check_status(sst_queue_put(own, "abc", 3, SST_NOW), 0);
    own = sst_queue_close(own);
    ssti_crashpoint_arm(NULL, 0);
}

static bool
is_readable(int fd)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};

    return poll(&item, 1, 0) == 1;
}

/* The survivor's look at the queue: all that was put and not taken, once and in
 * order. */
static void
drain_queue(void)
{
    struct sst_message message;
    int64_t first = 0;
    int64_t last = 0;
    uint64_t count = 0;

    while (sst_queue_get(queue, &message, SST_NOW) == 0) {
        const int64_t number = number_in(&message);

        check(first == 0 || number == last + 1);
        first = first == 0 ? number : first;
        last = number;
        count++;
        sst_message_free(&message);
        check_status(sst_queue_task_done(queue), 0);
        check_int(count, <=, BURST + 300);
    }
    if (count == 0) {
        check_int(word(PUT) - word(TAKEN), <=, 1);
        check_int(word(PUT), >=, word(TAKEN));
    }
    else {
        /* The victim had no time to say so of its last one. */
        check(first == word(TAKEN) + 1 || first == word(TAKEN) + 2);
        check(last == word(PUT) || last == word(PUT) + 1);
    }
    check_int(sst_queue_count(queue), ==, 0);
    check_int(sst_queue_bytes(queue), ==, 0);
    check(!is_readable(sst_queue_fd(queue, NULL)));
}

static void
drain_pipe(void)
{
    struct sst_message message;
    const int fd = sst_pipe_fd(pipes[1]);
    int64_t count = 0;
    int rc;

    while ((rc = sst_pipe_recv(pipes[1], &message, SST_NOW)) == 0) {
        int64_t number;

        memcpy(&number, message.data, sizeof number);
        check_int(number, ==, ++count);
        sst_message_free(&message);
    }
    check_status(rc, SST_ETIMEDOUT);
    check(count == word(SENT) || count == word(SENT) + 1);
    check(!is_readable(fd));
}

/* All works as if nobody had died. */
static void
go_on(void)
{
    struct sst_message message;
    int rc;

    word_set(PUT, 0);
    word_set(TAKEN, 0);
    for (int i = 0; i < 200; i++) {
        put_next();
    }
    check(is_readable(sst_queue_fd(queue, NULL)));
    for (int i = 0; i < 200; i++) {
        take_next();
    }
    rc = sst_queue_join(queue, SST_NOW);
    if (rc == SST_EOWNERDEAD) {
        check_int(sst_queue_recover(queue), ==, 1);
        rc = sst_queue_join(queue, SST_NOW);
    }
    check_status(rc, 0);

    check_status(sst_pipe_send(pipes[0], "there", 5, SST_NOW), 0);
    check_status(sst_pipe_send(pipes[1], "back", 4, SST_NOW), 0);
    check_status(sst_pipe_recv(pipes[1], &message, SST_NOW), 0);
    sst_message_free(&message);
    do {
        check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), 0);
        sst_message_free(&message);
    } while (message.size == 3);

    sst_queue_shutdown(second, true);
    check_status(sst_queue_get(second, &message, SST_FOREVER), SST_ESHUTDOWN);
    check_int(sst_queue_count(second), ==, 0);
}

/* True when the victim came by there often enough. */
static bool
die_at(const struct ssti_crashpoint *point, uint64_t nth)
{
    const struct sst_queue_options options = {.size_of = sizeof options, .joinable = 1};
    void *arg[2] = {(void *)(uintptr_t)point, &nth};
    struct sst_arena_statistics statistics;
    int status;

    arena = arena_open();
    check_ok(sst_queue_create(arena, &options, &queue, NULL));
    check_ok(sst_queue_create(arena, &options, &second, NULL));
    check_ok(sst_pipe_create(arena, true, &pipes[0], &pipes[1], NULL));
    check_ok(sst_queue_fd(queue, NULL));
    check_status(sst_pipe_send(pipes[1], "one", 3, SST_NOW), 0);

    const pid_t victim = test_fork(live, arg);

    check_int(waitpid(victim, &status, 0), ==, victim);
    while (word(BORN) == 1 && wait(NULL) > 0) {
        /* The victim's child comes to us, who are a sub-reaper. */
    }
    check(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    if (test_now_ns() % 2 == 0) {
        (void)sst_arena_sweep(arena); /* before the survivors look, or after */
    }
    drain_queue();
    drain_pipe();
    go_on();

    pipes[0] = sst_pipe_close(pipes[0]);
    pipes[1] = sst_pipe_close(pipes[1]);
    queue = sst_queue_close(queue);
    second = sst_queue_close(second);
    (void)sst_arena_sweep(arena);
    check_ok(sst_arena_statistics(arena, &statistics));
    check_int(statistics.slots, ==, 0);
    check_int(statistics.extents, ==, 0);
    arena_close(arena);
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

TEST(deaths_in_rings)
{
    die_everywhere("ring_");
}

TEST(deaths_in_bells)
{
    die_everywhere("bell_");
}

TEST(deaths_among_takers)
{
    die_everywhere("takers_");
}

TEST(deaths_in_queues)
{
    die_everywhere("queue_");
}

TEST(deaths_in_pipes)
{
    die_everywhere("pipe_");
}

/* What a ring stands on: slots, held entries, extents, leaves. */
TEST(deaths_below_rings)
{
    const struct ssti_crashpoint *point;

    for (uint32_t i = 0; (point = ssti_crashpoint_at(i)) != NULL; i++) {
        for (uint64_t nth = 1; nth <= HITS_MAX; nth++) {
            if ((strncmp(point->name, "held_", 5) != 0 &&
                 strncmp(point->name, "slot_", 5) != 0 &&
                 strncmp(point->name, "heap_", 5) != 0 &&
                 strncmp(point->name, "extent_", 7) != 0) ||
                !die_at(point, nth)) {
                break;
            }
        }
    }
}
