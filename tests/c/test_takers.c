/* SPDX-License-Identifier: MIT */

/* Joinable queues: what is unfinished, and whose death makes it so for ever. Names that
 * begin with "threads" start no process. */

#include <string.h>

#include "peers.h"

enum {
    TAKEN, /* words: items taken */
    GO,
    RESULT, /* what a child's call returned, less one, so that 0 means not yet */
    TIME,   /* when */
};

static struct sst_queue *queue;

static struct sst_arena *
open_queue(uint32_t joinable)
{
    struct sst_arena *const arena = arena_open();
    const struct sst_queue_options options = {
        .size_of = sizeof options,
        .joinable = joinable,
    };

    check_ok(sst_queue_create(arena, &options, &queue, NULL));
    return arena;
}

static void
close_queue(struct sst_arena *arena)
{
    queue = sst_queue_close(queue);
    arena_close(arena);
}

static void
put_number(int64_t number)
{
    check_status(sst_queue_put(queue, &number, sizeof number, soon()), 0);
}

static int64_t
get_number(void)
{
    struct sst_message message;
    int64_t number;

    check_status(sst_queue_get(queue, &message, soon()), 0);
    check_int(message.size, ==, sizeof number);
    memcpy(&number, message.data, sizeof number);
    sst_message_free(&message);
    return number;
}

TEST(threads_join_waits_for_nothing_when_all_is_done)
{
    struct sst_arena *const arena = open_queue(1);

    check_status(sst_queue_join(queue, SST_NOW), 0);
    check_status(sst_queue_task_done(queue), SST_EOVERFLOW);
    put_number(1);
    put_number(2);
    check_int(sst_queue_unfinished(queue), ==, 2);
    check_status(sst_queue_join(queue, SST_NOW), SST_ETIMEDOUT);
    check_int(get_number(), ==, 1);
    check_int(sst_queue_unfinished(queue), ==, 2);
    check_status(sst_queue_task_done(queue), 0);
    check_status(sst_queue_task_done(queue), 0); /* before its get: as in the stdlib */
    check_status(sst_queue_task_done(queue), SST_EOVERFLOW);
    check_status(sst_queue_join(queue, SST_NOW), 0);
    check_int(get_number(), ==, 2);
    check_status(sst_queue_join(queue, SST_NOW), 0);
    check_int(sst_queue_unfinished(queue), ==, 0);
    close_queue(arena);
}

TEST(threads_a_plain_queue_has_no_tasks)
{
    struct sst_arena *const arena = open_queue(0);

    check_status(sst_queue_task_done(queue), SST_EINVAL);
    check_status(sst_queue_join(queue, SST_NOW), SST_EINVAL);
    check_int(sst_queue_recover(queue), ==, 0);
    close_queue(arena);
}

static void
work(void *arg)
{
    (void)arg;
    while (get_number() != 0) {
        word_add(TAKEN, 1);
        check_status(sst_queue_task_done(queue), 0);
    }
    check_status(sst_queue_task_done(queue), 0);
}

TEST(join_waits_for_the_workers)
{
    struct sst_arena *const arena = open_queue(1);
    pid_t worker[3];

    for (int i = 0; i < 3; i++) {
        worker[i] = test_fork(work, NULL);
    }
    for (int64_t i = 1; i <= 2000; i++) {
        put_number(i);
    }
    check_status(sst_queue_join(queue, soon()), 0);
    check_int(word(TAKEN), ==, 2000);
    for (int i = 0; i < 3; i++) {
        put_number(0);
    }
    check_status(sst_queue_join(queue, soon()), 0);
    for (int i = 0; i < 3; i++) {
        test_join(worker[i]);
    }
    close_queue(arena);
}

static void
join_and_tell(void *arg)
{
    int rc;

    (void)arg;
    word_set(GO, 1);
    rc = sst_queue_join(queue, SST_FOREVER);
    word_set(TIME, test_now_ns());
    word_set(RESULT, rc - 1);
}

static void
take_and_linger(void *arg)
{
    (void)arg;
    (void)get_number();
    word_add(TAKEN, 1);
    linger();
}

static void
a_taker_dies(int takers)
{
    struct sst_arena *const arena = open_queue(1);
    pid_t taker[3];
    int64_t start;

    for (int i = 0; i < takers; i++) {
        put_number(i);
    }
    for (int i = 0; i < takers; i++) {
        taker[i] = test_fork(take_and_linger, NULL);
    }
    eventually(word(TAKEN) == takers);

    pid_t joiner = test_fork(join_and_tell, NULL);

    eventually(word(GO) == 1 && test_is_asleep(joiner));
    start = test_now_ns();
    test_kill(taker[takers - 1]);
    test_join(joiner);
    check_int(word(RESULT), ==, SST_EOWNERDEAD - 1);
    check_int(word(TIME) - start, <, DEATH_SHOWS_NS * test_slowness());

    check_status(sst_queue_join(queue, SST_FOREVER), SST_EOWNERDEAD);
    check_int(sst_queue_recover(queue), ==, 1);
    check_int(sst_queue_recover(queue), ==, 0);
    check_int(sst_queue_unfinished(queue), ==, takers - 1);
    check_status(sst_queue_join(queue, SST_NOW), takers == 1 ? 0 : SST_ETIMEDOUT);
    for (int i = 0; i < takers - 1; i++) {
        test_kill(taker[i]);
    }
    check_int(sst_queue_recover(queue), ==, takers - 1);
    check_status(sst_queue_join(queue, SST_FOREVER), 0);
    close_queue(arena);
}

TEST(join_reports_a_dead_taker)
{
    a_taker_dies(1);
}

TEST(join_reports_one_dead_taker_of_several)
{
    a_taker_dies(3);
}

static void
take_and_exit(void *arg)
{
    (void)arg;
    (void)get_number();
}

TEST(an_item_handed_on_is_not_lost)
{
    struct sst_arena *const arena = open_queue(1);

    put_number(1);
    put_number(2);
    test_join(test_fork(take_and_exit, NULL));
    check_status(sst_queue_task_done(queue), 0); /* ours to finish */
    check_status(sst_queue_join(queue, SST_NOW), SST_ETIMEDOUT);
    check_int(get_number(), ==, 2);
    check_status(sst_queue_task_done(queue), 0);
    check_status(sst_queue_join(queue, SST_NOW), 0);
    close_queue(arena);
}
