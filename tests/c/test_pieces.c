/* SPDX-License-Identifier: MIT */

/* Messages for which there is no memory: in pieces through pipes and bounded queues,
 * refused by others. Names that begin with "threads" start no process. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "peers.h"

enum {
    SEEN, /* words: long messages that came */
    SHORT_BUDGET = 4 << 20,
    LONG = 6 << 20, /* more than that */
    LONG_PRODUCERS = 2,
    LONG_EACH = 6,
};

static struct sst_arena *arena;
static struct sst_arena_statistics before;
static struct sst_queue *shared_queue;

/* Nothing may be left of what a test made. */
static void
close_arena(void)
{
    struct sst_arena_statistics now;

    check_ok(sst_arena_statistics(arena, &now));
    check_int(now.slots, ==, before.slots);
    check_int(now.extents, ==, before.extents);
    check_int(now.held, ==, before.held);
    arena_close(arena);
}

static struct sst_queue *
make_queue(void)
{
    struct sst_queue *queue = NULL;

    check_ok(sst_queue_create(arena, NULL, &queue, NULL));
    return queue;
}

static void
open_short(void)
{
    const struct sst_arena_options options = {
        .size_of = sizeof options,
        .budget = SHORT_BUDGET,
    };

    arena = arena_open();
    arena = sst_arena_detach(arena);
    check_ok(sst_arena_create(&options, &arena, NULL));
    check_ok(sst_arena_statistics(arena, &before));
}

static struct sst_queue *
make_bounded(uint32_t item_max, uint32_t joinable)
{
    const struct sst_queue_options options = {
        .size_of = sizeof options,
        .item_max = item_max,
        .joinable = joinable,
    };
    struct sst_queue *queue = NULL;

    check_ok(sst_queue_create(arena, &options, &queue, NULL));
    return queue;
}

/* Bytes that say who sent them, in some slices. */
static int
put_long(struct sst_queue *queue, uint64_t size, int64_t deadline_ns)
{
    uint8_t *const data = malloc(size);
    const struct sst_slice slices[] = {
        {data, 0},
        {data, 5},
        {data + 5, 10000},
        {data + 10005, size - 10005},
    };
    int rc;

    check_ptr(data, !=, NULL);
    bytes_fill(data, size);
    rc = sst_queue_put_slices(queue, slices, 4, deadline_ns);
    free(data);
    return rc;
}

TEST(threads_a_queue_without_bound_says_that_memory_is_short)
{
    struct sst_queue *queue;
    struct sst_parcel *parcel = NULL;

    open_short();
    queue = make_queue();
    check_status(put_long(queue, LONG, soon()), SST_ELIMIT);
    check_status(sst_parcel_create(arena, LONG, 0, &parcel, NULL), SST_ELIMIT);
    check_int(sst_queue_count(queue), ==, 0);
    queue = sst_queue_close(queue);
    queue = make_bounded(2, 0);
    check_status(put_long(queue, LONG, SST_NOW), SST_ELIMIT);
    check_int(sst_queue_count(queue), ==, 0);
    queue = sst_queue_close(queue);
    close_arena();
}

/* Nobody takes it: it was not sent, and who comes later does not see it. */
TEST(threads_what_nobody_takes_is_withdrawn)
{
    struct sst_message messages[3];
    struct sst_queue *queue;
    struct sst_pipe *near, *far;
    static uint8_t data[LONG];

    open_short();
    queue = make_bounded(5, 1);
    check_status(put_long(queue, LONG, in_ms(5)), SST_ETIMEDOUT);
    check_ok(sst_queue_put(queue, "abc", 3, SST_NOW));
    check_status(put_long(queue, LONG, in_ms(5)), SST_ETIMEDOUT);
    check_int(sst_queue_get_many(queue, messages, 3, SST_NOW), ==, 1);
    check_int(messages[0].size, ==, 3);
    check_mem(messages[0].data, "abc", 3);
    sst_message_free(&messages[0]);
    check_int(sst_queue_unfinished(queue), ==, 1);
    check_ok(sst_queue_task_done(queue));
    check_status(put_long(queue, LONG, in_ms(5)), SST_ETIMEDOUT);
    check_status(sst_queue_get(queue, &messages[0], SST_NOW), SST_ETIMEDOUT);
    check_int(sst_queue_unfinished(queue), ==, 0);
    queue = sst_queue_close(queue);

    check_ok(sst_pipe_create(arena, true, &near, &far, NULL));
    check_status(sst_pipe_send(near, data, LONG, in_ms(5)), SST_ETIMEDOUT);
    check_ok(sst_pipe_send(near, "abc", 3, SST_NOW));
    check_ok(sst_pipe_recv(far, &messages[0], SST_NOW));
    check_int(messages[0].size, ==, 3);
    sst_message_free(&messages[0]);
    near = sst_pipe_close(near);
    far = sst_pipe_close(far);
    close_arena();
}

static void
take_long(void *arg)
{
    struct sst_message message;
    int rc;

    (void)arg;
    while ((rc = sst_queue_get(shared_queue, &message, soon())) == 0) {
        bytes_check(message.data, message.size);
        check_ptr(sst_message_parcel(&message), ==, NULL);
        word_add(SEEN, message.size > 100 ? 1 : 0);
        sst_message_free(&message);
    }
    check_status(rc, SST_ESHUTDOWN);
    shared_queue = sst_queue_close(shared_queue);
    sst_process_exit(arena, 0);
}

static void
put_long_ones(void *arg)
{
    const uint64_t me = (uint64_t)(uintptr_t)arg;
    static uint8_t small[100];

    for (uint64_t i = 0; i < LONG_EACH; i++) {
        check_ok(put_long(shared_queue, LONG + 1000 * me + i, soon()));
        bytes_fill(small, i);
        check_ok(sst_queue_put(shared_queue, small, i, soon()));
    }
    shared_queue = sst_queue_close(shared_queue);
    sst_process_exit(arena, 0);
}

TEST(long_messages_do_not_mix)
{
    pid_t takers[2], putters[LONG_PRODUCERS];

    open_short();
    shared_queue = make_bounded(2, 0);
    for (int i = 0; i < 2; i++) {
        takers[i] = test_fork(take_long, NULL);
    }
    for (int i = 0; i < LONG_PRODUCERS; i++) {
        putters[i] = test_fork(put_long_ones, (void *)(intptr_t)i);
    }
    for (int i = 0; i < LONG_PRODUCERS; i++) {
        test_join(putters[i]);
    }
    sst_queue_shutdown(shared_queue, false);
    for (int i = 0; i < 2; i++) {
        test_join(takers[i]);
    }
    check_int(word(SEEN), ==, LONG_PRODUCERS * LONG_EACH);
    shared_queue = sst_queue_close(shared_queue);
    close_arena();
}

static struct sst_pipe *near_end, *far_end;

static void
send_long(void *arg)
{
    uint8_t *const data = malloc(LONG);

    (void)arg;
    far_end = sst_pipe_close(far_end);
    bytes_fill(data, LONG);
    check_ok(sst_pipe_send(near_end, data, LONG, SST_FOREVER));
    check_ok(sst_pipe_send(near_end, "abc", 3, SST_FOREVER));
    check_status(sst_pipe_send(near_end, data, LONG, SST_FOREVER), SST_EPIPE);
    free(data);
    near_end = sst_pipe_close(near_end);
    sst_process_exit(arena, 0);
}

TEST(a_long_message_through_a_pipe)
{
    struct sst_message message;
    pid_t pid;

    open_short();
    check_ok(sst_pipe_create(arena, true, &near_end, &far_end, NULL));
    pid = test_fork(send_long, NULL);
    near_end = sst_pipe_close(near_end);
    check_ok(sst_pipe_recv(far_end, &message, soon()));
    check_int(message.size, ==, LONG);
    bytes_check(message.data, LONG);
    sst_message_free(&message);
    check_ok(sst_pipe_recv(far_end, &message, soon()));
    check_int(message.size, ==, 3);
    sst_message_free(&message);
    check_int(sst_pipe_poll(far_end, soon()), ==, 1);
    far_end = sst_pipe_close(far_end); /* nobody takes the last one */
    test_join(pid);
    close_arena();
}

static void
put_one_long(void *arg)
{
    (void)arg;
    check_ok(put_long(shared_queue, LONG, soon()));
}

/* Nobody will ever say that it is done. */
TEST(what_a_dead_sender_left_is_no_item)
{
    struct sst_message messages[2];
    pid_t pid;

    open_short();
    shared_queue = make_bounded(5, 1);
    pid = test_fork(put_one_long, NULL);
    eventually(sst_queue_count(shared_queue) == 1);
    test_kill(pid);
    check_status(sst_queue_get(shared_queue, messages, soon()), SST_EOWNERDEAD);
    check_int(sst_queue_unfinished(shared_queue), ==, 0);
    check_ok(sst_queue_join(shared_queue, SST_NOW));
    shared_queue = sst_queue_close(shared_queue);
    close_arena();
}

/* ---- Without addresses ---- */

static void
limit_addresses(void)
{
    FILE *const file = fopen("/proc/self/statm", "r");
    unsigned long long pages = 0;
    struct rlimit limit;

    check_ptr(file, !=, NULL);
    check_int(fscanf(file, "%llu", &pages), ==, 1);
    (void)fclose(file);
    check_int(getrlimit(RLIMIT_AS, &limit), ==, 0);
    limit.rlim_cur = pages * 4096 + (16 << 20); /* less than a window */
    check_int(setrlimit(RLIMIT_AS, &limit), ==, 0);
}

static void
use_without_addresses(void *arg)
{
    struct sst_message message;

    (void)arg;
    eventually(sst_queue_count(shared_queue) == 1);
    limit_addresses();
    check_status(sst_queue_get(shared_queue, &message, SST_NOW), SST_ENOMEM);
    check_status(sst_queue_put(shared_queue, "x", 1, SST_NOW), SST_ENOMEM);
}

TEST(who_cannot_map_a_queue_does_not_damage_it)
{
    static uint8_t data[40 << 20]; /* two of them fill a window */
    struct sst_message message;
    struct sst_queue *other;
    pid_t pid;

    if (test_slowness() > 1) {
        test_skip("sanitizers need addresses, too");
    }
    arena = arena_open();
    check_ok(sst_arena_statistics(arena, &before));
    shared_queue = make_queue();
    other = make_queue();
    pid = test_fork(use_without_addresses, NULL);
    for (int i = 0; i < 2; i++) {
        check_ok(sst_queue_put(other, data, sizeof data, soon()));
    }
    check_ok(sst_queue_put(shared_queue, "abc", 3, soon()));
    test_join(pid);
    check_ok(sst_arena_sweep(arena));
    check_ok(sst_queue_get(shared_queue, &message, soon()));
    check_int(message.size, ==, 3);
    sst_message_free(&message);
    other = sst_queue_close(other);
    shared_queue = sst_queue_close(shared_queue);
    close_arena();
}
