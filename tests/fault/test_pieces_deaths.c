/* SPDX-License-Identifier: MIT */

/* Messages that go in pieces, and the deaths of those who send and take them: nobody is
 * left waiting, what arrives is whole, and nothing is left of the rest. */

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/crashpoint.h"
#include "c/peers.h"

enum {
    SIZE = 6 << 20,
    BUDGET = 4 << 20, /* not enough for that */
};

struct victim {
    const char *point;
    uint64_t nth;
    int64_t wait_ms; /* of a sender */
    bool on_pipe;
};

static const struct victim senders[] = {
    {"pieces_ready", 1, 20000, false},  {"pieces_ready", 1, 20000, true},
    {"pieces_put", 1, 20000, false},    {"pieces_put", 2, 20000, false},
    {"pieces_put", 500, 20000, false},  {"pieces_put", 500, 20000, true},
    {"pieces_put", 1560, 20000, false}, {"pieces_withdrawn", 1, 5, false},
    {"pieces_withdrawn", 1, 5, true},
};

static const struct victim takers[] = {
    {"pieces_taken", 1, 0, false},   {"pieces_taken", 2, 0, false},
    {"pieces_taken", 700, 0, false}, {"pieces_taken", 1, 0, true},
    {"pieces_taken", 700, 0, true},  {"pieces_taken", 1561, 0, false},
    {"pieces_taken", 1561, 0, true},
};

static struct sst_arena *arena;
static struct sst_queue *queue;
static struct sst_pipe *near_end, *far_end;
static uint8_t *data;

static void
open_all(void)
{
    const struct sst_arena_options options = {
        .size_of = sizeof options,
        .budget = BUDGET,
    };
    const struct sst_queue_options bounded = {.size_of = sizeof bounded, .item_max = 1};

    check_ok(sst_arena_create(&options, &arena, NULL));
    check_ok(sst_queue_create(arena, &bounded, &queue, NULL));
    check_ok(sst_pipe_create(arena, true, &near_end, &far_end, NULL));
    data = malloc(SIZE);
    check_ptr(data, !=, NULL);
    for (int i = 0; i < SIZE; i++) {
        data[i] = (uint8_t)(i * 7 + (i >> 12));
    }
}

/* With the victim's end of the pipe open in no other process. */
static void
close_end(struct sst_pipe **end)
{
    *end = sst_pipe_close(*end);
}

static void
close_all(void)
{
    struct sst_arena_statistics now;

    check_ok(sst_arena_sweep(arena));
    close_end(&near_end);
    close_end(&far_end);
    queue = sst_queue_close(queue);
    check_ok(sst_arena_statistics(arena, &now));
    check_int(now.slots, ==, 0);
    check_int(now.extents, ==, 0);
    check_int(now.held, ==, 0);
    arena = sst_arena_detach(arena);
    free(data);
}

static void
send_and_die(void *arg)
{
    const struct victim *const victim = arg;
    const int64_t deadline_ns = in_ms(victim->wait_ms);

    close_end(&far_end);
    ssti_crashpoint_arm(victim->point, victim->nth);
    check_ok(victim->on_pipe ? sst_pipe_send(near_end, data, SIZE, deadline_ns)
                             : sst_queue_put(queue, data, SIZE, deadline_ns));
}

static void
take_and_die(void *arg)
{
    const struct victim *const victim = arg;
    struct sst_message message;

    close_end(&near_end);
    ssti_crashpoint_arm(victim->point, victim->nth);
    check_ok(victim->on_pipe ? sst_pipe_recv(far_end, &message, soon())
                             : sst_queue_get(queue, &message, soon()));
}

static int
take(bool on_pipe, struct sst_message *message, int64_t deadline_ns)
{
    return on_pipe ? sst_pipe_recv(far_end, message, deadline_ns)
                   : sst_queue_get(queue, message, deadline_ns);
}

/* The taker lives. It learns of the death, finds nothing, or has all of it. */
static void
lose_sender(const struct victim *victim)
{
    const bool is_announced = strcmp(victim->point, "pieces_put") == 0;
    struct sst_message message;
    pid_t pid;
    int rc;

    open_all();
    pid = test_fork(send_and_die, (void *)(uintptr_t)victim);
    close_end(&near_end);
    if (is_announced) {
        rc = take(victim->on_pipe, &message, soon());
        check(rc == 0 || rc == SST_EOWNERDEAD);
        if (rc == 0) {
            check_int(message.size, ==, SIZE);
            check_mem(message.data, data, SIZE);
            sst_message_free(&message);
        }
    }
    test_join_killed(pid, SIGKILL);
    rc = take(victim->on_pipe, &message, SST_NOW);
    check_status(rc, victim->on_pipe ? SST_EOF : SST_ETIMEDOUT);
    close_all();
}

/* The sender lives: it is done, or hears that nobody is there. */
static void
lose_taker(const struct victim *victim)
{
    pid_t pid;
    int rc;

    open_all();
    pid = test_fork(take_and_die, (void *)(uintptr_t)victim);
    close_end(&far_end);
    rc = victim->on_pipe ? sst_pipe_send(near_end, data, SIZE, soon())
                         : sst_queue_put(queue, data, SIZE, soon());
    check(rc == 0 || (victim->on_pipe && rc == SST_EPIPE));
    test_join_killed(pid, SIGKILL);
    close_all();
}

TEST(senders_of_pieces_die)
{
    for (uint32_t i = 0; i < sizeof senders / sizeof *senders; i++) {
        lose_sender(&senders[i]);
    }
}

TEST(takers_of_pieces_die)
{
    for (uint32_t i = 0; i < sizeof takers / sizeof *takers; i++) {
        lose_taker(&takers[i]);
    }
}
