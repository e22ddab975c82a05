/* SPDX-License-Identifier: MIT */

/* Queues: order, bounds, growth, ends, and the deaths of everybody concerned. Names
 * that begin with "threads" start no process. */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "peers.h"

enum {
    SENT, /* words: what the producers put, */
    SUM_SENT,
    TAKEN, /* and what the consumers took */
    SUM_TAKEN,
    GO,
    RESULT, /* what a child's call returned, less one, so that 0 means not yet */
    TIME,   /* when */
    STOP,
    LOST,      /* takes that a killed consumer may have had in its hands */
    EACH = 16, /* from here one word for each process */
};

static struct sst_queue *queue;

static struct sst_arena *
open_queue(uint32_t item_max, uint32_t joinable)
{
    struct sst_arena *const arena = arena_open();
    const struct sst_queue_options options = {
        .size_of = sizeof options,
        .item_max = item_max,
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

/* A payload that says how long it is and where in it one is. */
static void
fill(uint8_t *data, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++) {
        data[i] = (uint8_t)(size * 31 + i * 7 + (i >> 8));
    }
}

/* ---- One process ---- */

TEST(threads_a_new_queue_is_empty)
{
    struct sst_arena *const arena = open_queue(0, 0);
    struct sst_message message;

    check_int(sst_queue_count(queue), ==, 0);
    check_int(sst_queue_bytes(queue), ==, 0);
    check_int(sst_queue_item_max(queue), ==, 0);
    check_status(sst_queue_get(queue, &message, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_queue_get(queue, &message, in_ms(5)), SST_ETIMEDOUT);
    check_int(sst_queue_poll(queue, SST_NOW), ==, 0);
    close_queue(arena);
}

TEST(threads_an_idle_queue_has_no_extent)
{
    struct sst_arena_statistics before, after;
    struct sst_arena *const arena = arena_open();

    check_ok(sst_arena_statistics(arena, &before));
    check_ok(sst_queue_create(arena, NULL, &queue, NULL));
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.extents, ==, before.extents);
    check_int(after.slots, ==, before.slots + 1);
    queue = sst_queue_close(queue);
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.slots, ==, before.slots);
    arena_close(arena);
}

TEST(threads_messages_come_in_order)
{
    struct sst_arena *const arena = open_queue(0, 0);

    for (int64_t i = 0; i < 1000; i++) {
        put_number(i);
    }
    check_int(sst_queue_count(queue), ==, 1000);
    check_int(sst_queue_bytes(queue), ==, 8000);
    for (int64_t i = 0; i < 1000; i++) {
        check_int(get_number(), ==, i);
    }
    check_int(sst_queue_count(queue), ==, 0);
    check_int(sst_queue_bytes(queue), ==, 0);
    close_queue(arena);
}

TEST(threads_any_size_arrives_whole)
{
    static const uint64_t sizes[] = {0,    1,    7,     8,     9,      511,   512,
                                     513,  4095, 4096,  4097,  8192,   65537, 1 << 20,
                                     3000, 12,   16384, 70000, 3 << 20};
    const uint32_t count = sizeof sizes / sizeof *sizes;
    struct sst_arena *const arena = open_queue(0, 0);
    uint8_t *const data = malloc(3 << 20);
    struct sst_message message;

    check_ptr(data, !=, NULL);
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < count; i++) {
            fill(data, sizes[i]);
            check_status(sst_queue_put(queue, data, sizes[i], SST_NOW), 0);
        }
        for (uint32_t i = 0; i < count; i++) {
            fill(data, sizes[i]);
            check_status(sst_queue_get(queue, &message, SST_NOW), 0);
            check_int(message.size, ==, sizes[i]);
            check_int((uintptr_t)message.data % 8, ==, 0);
            check_mem(message.data, data, sizes[i]);
            sst_message_free(&message);
        }
        check_int(sst_queue_bytes(queue), ==, 0);
    }
    free(data);
    close_queue(arena);
}

TEST(threads_slices_make_one_message)
{
    const struct sst_slice slices[3] = {{"head", 4}, {NULL, 0}, {"tail", 4}};
    const struct sst_slice many[SST_SLICES_MAX + 1] = {{"x", 1}};
    struct sst_arena *const arena = open_queue(0, 0);
    struct sst_message message;

    check_status(sst_queue_put_slices(queue, slices, 3, SST_NOW), 0);
    check_status(sst_queue_put_slices(queue, many, SST_SLICES_MAX + 1, SST_NOW),
                 SST_EINVAL);
    check_status(sst_queue_get(queue, &message, SST_NOW), 0);
    check_int(message.size, ==, 8);
    check_mem(message.data, "headtail", 8);
    sst_message_free(&message);
    close_queue(arena);
}

TEST(threads_many_at_a_time)
{
    struct sst_arena *const arena = open_queue(150, 0);
    struct sst_slice *const slices = calloc(200, sizeof *slices);
    struct sst_message *const messages = calloc(200, sizeof *messages);
    uint8_t *const data = malloc(9000);
    uint32_t taken = 0;

    check_ptr(slices, !=, NULL);
    check_ptr(messages, !=, NULL);
    check_ptr(data, !=, NULL);
    fill(data, 9000);
    for (uint32_t i = 0; i < 200; i++) {
        /* Long ones among them, and some that need a buffer. */
        slices[i] = (struct sst_slice){data, i % 50 == 9   ? 9000
                                             : i % 20 == 3 ? 700
                                                           : i};
    }
    check_int(sst_queue_put_many(queue, slices, 200, SST_NOW), ==, 150);
    check_status(sst_queue_put_many(queue, slices, 200, SST_NOW), SST_ETIMEDOUT);
    check_int(sst_queue_count(queue), ==, 150);
    while (taken < 150) {
        const int got =
            sst_queue_get_many(queue, messages + taken, 200 - taken, SST_NOW);

        check_int(got, >, 0);
        taken += (uint32_t)got;
    }
    for (uint32_t i = 0; i < 150; i++) {
        check_int(messages[i].size, ==, slices[i].size);
        check_mem(messages[i].data, data, slices[i].size);
        sst_message_free(&messages[i]);
    }
    check_status(sst_queue_get_many(queue, messages, 1, SST_NOW), SST_ETIMEDOUT);
    check_int(sst_queue_get_many(queue, messages, 0, SST_NOW), ==, 0);
    free(slices);
    free(messages);
    free(data);
    close_queue(arena);
}

TEST(threads_a_bound_is_exact)
{
    struct sst_arena *const arena = open_queue(3, 0);
    int64_t number = 7;

    for (int i = 0; i < 3; i++) {
        put_number(i);
    }
    check_status(sst_queue_put(queue, &number, sizeof number, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_queue_put(queue, &number, sizeof number, in_ms(5)), SST_ETIMEDOUT);
    check_int(get_number(), ==, 0);
    check_status(sst_queue_put(queue, &number, sizeof number, SST_NOW), 0);
    check_status(sst_queue_put(queue, &number, sizeof number, SST_NOW), SST_ETIMEDOUT);
    close_queue(arena);
}

TEST(threads_a_grown_queue_shrinks)
{
    struct sst_arena_statistics grown, shrunk;
    struct sst_arena *const arena = open_queue(0, 0);

    for (int round = 0; round < 3; round++) {
        for (int64_t i = 0; i < 400000; i++) {
            put_number(i);
        }
        check_ok(sst_arena_statistics(arena, &grown));
        check_int(grown.extents, >, 3);
        for (int64_t i = 0; i < 400000; i++) {
            check_int(get_number(), ==, i);
        }
        check_ok(sst_arena_statistics(arena, &shrunk));
        check_int(shrunk.extents, <=, 2);
    }
    close_queue(arena);
}

TEST(threads_what_is_left_goes_with_the_queue)
{
    struct sst_arena_statistics before, after;
    struct sst_arena *const arena = arena_open();
    uint8_t *const data = calloc(1, 100000);

    check_ptr(data, !=, NULL);
    check_ok(sst_arena_statistics(arena, &before));
    for (int joinable = 0; joinable < 2; joinable++) {
        const struct sst_queue_options options = {
            .size_of = sizeof options,
            .joinable = (uint32_t)joinable,
        };

        check_ok(sst_queue_create(arena, &options, &queue, NULL));
        for (int i = 0; i < 10000; i++) {
            check_status(sst_queue_put(queue, data, i % 100 == 0 ? 100000 : 50,
                                       SST_NOW),
                         0);
        }
        for (int i = 0; i < 10; i++) {
            struct sst_message message;

            check_status(sst_queue_get(queue, &message, SST_NOW), 0);
            sst_message_free(&message);
        }
        queue = sst_queue_close(queue);
    }
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.extents, ==, before.extents);
    check_int(after.slots, ==, before.slots);
    free(data);
    arena_close(arena);
}

TEST(threads_shutdown_ends_puts_at_once_and_gets_when_empty)
{
    struct sst_arena *const arena = open_queue(0, 0);
    struct sst_message message;
    int64_t number = 1;

    put_number(1);
    sst_queue_shutdown(queue, false);
    check_status(sst_queue_put(queue, &number, sizeof number, SST_NOW), SST_ESHUTDOWN);
    check_int(sst_queue_poll(queue, SST_FOREVER), ==, 1);
    check_int(get_number(), ==, 1);
    check_status(sst_queue_get(queue, &message, SST_FOREVER), SST_ESHUTDOWN);
    check_int(sst_queue_poll(queue, SST_FOREVER), ==, 1);
    close_queue(arena);
}

TEST(threads_immediate_shutdown_drops_the_items)
{
    struct sst_arena *const arena = open_queue(0, 1);
    struct sst_message message;

    for (int i = 0; i < 100; i++) {
        put_number(i);
    }
    sst_queue_shutdown(queue, true);
    check_int(sst_queue_count(queue), ==, 0);
    check_int(sst_queue_unfinished(queue), ==, 0);
    check_status(sst_queue_get(queue, &message, SST_FOREVER), SST_ESHUTDOWN);
    check_status(sst_queue_join(queue, SST_FOREVER), 0);
    close_queue(arena);
}

TEST(threads_a_handle_names_the_queue)
{
    struct sst_arena *const arena = open_queue(5, 1);
    struct sst_queue *same = NULL;
    struct sst_handle handle;

    put_number(42);
    sst_queue_handle(queue, &handle);
    check_int(handle.kind, ==, SST_KIND_QUEUE);
    check_ok(sst_queue_attach(arena, &handle, &same, NULL));
    check_int(sst_queue_item_max(same), ==, 5);
    queue = sst_queue_close(queue);
    queue = same;
    check_int(get_number(), ==, 42);
    check_status(sst_queue_task_done(queue), 0);
    queue = sst_queue_close(queue);
    check_status(sst_queue_attach(arena, &handle, &same, NULL), SST_ESTALE);
    check_ptr(sst_queue_close(NULL), ==, NULL);
    arena_close(arena);
}

static void *
toil(void *arg)
{
    const int64_t *const count = arg;

    for (int64_t i = 1; i <= *count; i++) {
        put_number(i);
        word_add(SUM_SENT, i);
    }
    return NULL;
}

static void *
consume_until_zero(void *arg)
{
    int64_t number;

    (void)arg;
    while ((number = get_number()) != 0) {
        word_add(SUM_TAKEN, number);
        word_add(TAKEN, 1);
    }
    return NULL;
}

TEST(threads_share_a_view)
{
    struct sst_arena *const arena = open_queue(100, 0);
    int64_t count = 3000;
    pthread_t producers[3];
    pthread_t consumers[3];

    for (int i = 0; i < 3; i++) {
        check_int(pthread_create(&producers[i], NULL, toil, &count), ==, 0);
        check_int(pthread_create(&consumers[i], NULL, consume_until_zero, NULL), ==, 0);
    }
    for (int i = 0; i < 3; i++) {
        check_int(pthread_join(producers[i], NULL), ==, 0);
    }
    for (int i = 0; i < 3; i++) {
        put_number(0);
    }
    for (int i = 0; i < 3; i++) {
        check_int(pthread_join(consumers[i], NULL), ==, 0);
    }
    check_int(word(TAKEN), ==, 9000);
    check_int(word(SUM_TAKEN), ==, word(SUM_SENT));
    close_queue(arena);
}

/* ---- Several processes ---- */

static void
produce(void *arg)
{
    int64_t count = *(const int64_t *)arg;

    (void)toil(&count);
}

static void
consume(void *arg)
{
    (void)consume_until_zero(arg);
}

static void
many_to_many(uint32_t item_max, int producers, int consumers, int64_t count)
{
    struct sst_arena *const arena = open_queue(item_max, 0);
    pid_t producer[4];
    pid_t consumer[4];

    for (int i = 0; i < consumers; i++) {
        consumer[i] = test_fork(consume, NULL);
    }
    for (int i = 0; i < producers; i++) {
        producer[i] = test_fork(produce, &count);
    }
    for (int i = 0; i < producers; i++) {
        test_join(producer[i]);
    }
    for (int i = 0; i < consumers; i++) {
        put_number(0);
    }
    for (int i = 0; i < consumers; i++) {
        test_join(consumer[i]);
    }
    check_int(word(TAKEN), ==, producers * count);
    check_int(word(SUM_TAKEN), ==, word(SUM_SENT));
    check_int(sst_queue_count(queue), ==, 0);
    close_queue(arena);
}

TEST(one_to_one)
{
    many_to_many(0, 1, 1, 50000);
}

TEST(four_to_one)
{
    many_to_many(0, 4, 1, 10000);
}

TEST(one_to_four)
{
    many_to_many(0, 1, 4, 20000);
}

TEST(bounded_three_to_three)
{
    many_to_many(4, 3, 3, 5000);
}

static void
put_and_exit(void *arg)
{
    const uint64_t total = *(const uint64_t *)arg;
    const uint64_t size = UINT64_C(16) << 20;
    uint8_t *const data = malloc(size);

    check_ptr(data, !=, NULL);
    memset(data, 0x5a, size);
    for (uint64_t sent = 0; sent < total; sent += size) {
        memcpy(data, &sent, sizeof sent);
        check_status(sst_queue_put(queue, data, size, SST_NOW), 0);
    }
    free(data);
}

TEST(what_a_process_put_outlives_it)
{
    struct sst_arena *const arena = open_queue(0, 0);
    const char *const text = getenv("SST_TEST_BYTES");
    uint64_t total = text != NULL ? strtoull(text, NULL, 0) : UINT64_C(256) << 20;
    struct sst_message message;
    uint64_t at = 0;

    test_join(test_fork(put_and_exit, &total));
    check_int(sst_queue_bytes(queue), >=, total);
    while (sst_queue_get(queue, &message, SST_NOW) == 0) {
        uint64_t stamp;

        memcpy(&stamp, message.data, sizeof stamp);
        check_int(stamp, ==, at);
        check_int(((const uint8_t *)message.data)[message.size - 1], ==, 0x5a);
        at += message.size;
        sst_message_free(&message);
    }
    check_int(at, >=, total);
    close_queue(arena);
}

static void
put_long_and_be_killed(void *arg)
{
    uint8_t data[10000];

    (void)arg;
    for (int i = 0; i < 5; i++) {
        fill(data, sizeof data);
        check_status(sst_queue_put(queue, data, sizeof data, SST_NOW), 0);
    }
    word_set(GO, 1);
    linger();
}

TEST(what_a_killed_process_put_outlives_it)
{
    struct sst_arena *const arena = open_queue(0, 0);
    struct sst_message message;
    uint8_t data[10000];
    pid_t child = test_fork(put_long_and_be_killed, NULL);

    eventually(word(GO) == 1);
    test_kill(child);
    (void)sst_arena_sweep(arena);
    fill(data, sizeof data);
    for (int i = 0; i < 5; i++) {
        check_status(sst_queue_get(queue, &message, SST_NOW), 0);
        check_int(message.size, ==, sizeof data);
        check_mem(message.data, data, sizeof data);
        sst_message_free(&message);
    }
    close_queue(arena);
}

static void
read_message(void *arg)
{
    struct sst_message *const message = arg;
    uint8_t data[20000];

    fill(data, sizeof data);
    check_mem(message->data, data, sizeof data);
    sst_message_free(message);
    queue = sst_queue_close(queue);
}

TEST(a_message_in_hand_is_inherited)
{
    struct sst_arena_statistics statistics;
    struct sst_arena *const arena = open_queue(0, 0);
    struct sst_message message;
    uint8_t data[20000];

    fill(data, sizeof data);
    check_status(sst_queue_put(queue, data, sizeof data, SST_NOW), 0);
    check_status(sst_queue_get(queue, &message, SST_NOW), 0);
    test_join(test_fork(read_message, &message));
    check_mem(message.data, data, sizeof data);
    sst_message_free(&message);
    (void)sst_arena_sweep(arena);
    check_ok(sst_arena_statistics(arena, &statistics));
    check_int(statistics.extents, <=, 1);
    close_queue(arena);
}

static void
get_and_tell(void *arg)
{
    struct sst_message message;
    int rc;

    (void)arg;
    word_set(GO, 1);
    rc = sst_queue_get(queue, &message, SST_FOREVER);
    word_set(TIME, test_now_ns());
    word_set(RESULT, rc - 1);
}

static void
put_and_tell(void *arg)
{
    int64_t number = 5;
    int rc;

    (void)arg;
    word_set(GO, 1);
    rc = sst_queue_put(queue, &number, sizeof number, SST_FOREVER);
    word_set(RESULT, rc - 1);
}

TEST(a_sleeping_getter_is_woken_by_a_put)
{
    struct sst_arena *const arena = open_queue(0, 0);
    pid_t child = test_fork(get_and_tell, NULL);

    eventually(word(GO) == 1 && test_is_asleep(child));
    put_number(1);
    test_join(child);
    check_int(word(RESULT), ==, -1);
    close_queue(arena);
}

TEST(a_sleeping_putter_is_woken_by_a_get)
{
    struct sst_arena *const arena = open_queue(1, 0);

    put_number(1);

    pid_t child = test_fork(put_and_tell, NULL);

    eventually(word(GO) == 1 && test_is_asleep(child));
    check_int(get_number(), ==, 1);
    test_join(child);
    check_int(word(RESULT), ==, -1);
    check_int(get_number(), ==, 5);
    close_queue(arena);
}

TEST(shutdown_wakes_everybody)
{
    struct sst_arena *const arena = open_queue(1, 0);
    pid_t getter = test_fork(get_and_tell, NULL);

    eventually(word(GO) == 1 && test_is_asleep(getter));
    sst_queue_shutdown(queue, false);
    test_join(getter);
    check_int(word(RESULT), ==, SST_ESHUTDOWN - 1);
    queue = sst_queue_close(queue);
    check_ok(sst_queue_create(arena,
                              &(struct sst_queue_options){.size_of = sizeof(
                                                              struct sst_queue_options),
                                                          .item_max = 1},
                              &queue, NULL));
    put_number(1);
    word_set(GO, 0);
    word_set(RESULT, 0);

    pid_t putter = test_fork(put_and_tell, NULL);

    eventually(word(GO) == 1 && test_is_asleep(putter));
    sst_queue_shutdown(queue, true);
    test_join(putter);
    check_int(word(RESULT), ==, SST_ESHUTDOWN - 1);
    close_queue(arena);
}

TEST(a_killed_sleeper_takes_no_message_along)
{
    struct sst_arena *const arena = open_queue(0, 0);

    for (int i = 0; i < 20; i++) {
        word_set(GO, 0);

        pid_t victim = test_fork(get_and_tell, NULL);

        eventually(word(GO) == 1 && test_is_asleep(victim));
        test_kill(victim);
        word_set(GO, 0);
        word_set(RESULT, 0);

        pid_t other = test_fork(get_and_tell, NULL);

        eventually(word(GO) == 1);
        put_number(i);
        test_join(other);
        check_int(word(RESULT), ==, -1);
        check_int(sst_queue_count(queue), ==, 0);
    }
    close_queue(arena);
}

/* ---- Deaths at random ---- */

/* Messages carry their producer, their number, and padding of any length, long ones
 * too. */
struct parcel {
    int64_t producer;
    int64_t number;
};

static void
produce_for_ever(void *arg)
{
    const int64_t me = *(const int *)arg;
    static uint8_t data[20000];
    struct parcel parcel = {.producer = me, .number = word(EACH + (int)me)};
    uint32_t seed = (uint32_t)getpid();

    word_add(GO, 1);
    for (;;) {
        const uint64_t padding = rand_r(&seed) % 16 == 0
                                     ? (uint64_t)rand_r(&seed) % 19000
                                     : (uint64_t)rand_r(&seed) % 60;

        parcel.number++;
        memcpy(data, &parcel, sizeof parcel);
        check_status(sst_queue_put(queue, data, sizeof parcel + padding, SST_FOREVER),
                     0);
        word_set(EACH + (int)me,
                 parcel.number); /* what is said to be put must be there */
    }
}

static void
consume_for_ever(void *arg)
{
    (void)arg;
    word_add(GO, 1);
    for (;;) {
        struct sst_message message;
        struct parcel parcel;

        check_status(sst_queue_get(queue, &message, SST_FOREVER), 0);
        memcpy(&parcel, message.data, sizeof parcel);
        sst_message_free(&message);
        word_add(EACH + 8 + (int)parcel.producer, 1);
        word_add(TAKEN, 1);
    }
}

TEST(random_kills_stop_nobody)
{
    struct sst_arena *const arena = open_queue(50, 0);
    int index[4] = {0, 1, 2, 3};
    pid_t workers[4];
    uint32_t seed = 3;
    int64_t taken = 0;
    int64_t sent = 0;
    int kills[2] = {0, 0};

    for (int i = 0; i < 4; i++) {
        workers[i] = test_fork(i < 2 ? produce_for_ever : consume_for_ever, &index[i]);
    }
    for (int i = 0; i < 300; i++) {
        const int victim = rand_r(&seed) % 4;
        const int64_t before = word(TAKEN);

        for (volatile int spin = rand_r(&seed) % 100000; spin > 0; spin--) {
        }
        test_kill(workers[victim]);
        kills[victim / 2]++;
        if (i % 10 == 0) {
            (void)sst_arena_sweep(arena);
        }
        eventually(word(TAKEN) > before + 10);
        workers[victim] =
            test_fork(victim < 2 ? produce_for_ever : consume_for_ever, &index[victim]);
    }
    test_kill(workers[0]);
    test_kill(workers[1]);
    eventually(sst_queue_count(queue) == 0);
    test_kill(workers[2]);
    test_kill(workers[3]);
    for (int i = 0; i < 2; i++) {
        sent += word(EACH + i);
        taken += word(EACH + 8 + i);
    }
    /* A producer may have put one more than it could say, a consumer have taken one. */
    check_int(taken, >=, sent - kills[1] - 2);
    check_int(taken, <=, sent + kills[0] + 2);
    check_int(sst_queue_count(queue), ==, 0);
    check_int(sst_queue_bytes(queue), ==, 0);
    close_queue(arena);
}

TEST(a_killed_tree_leaves_no_memory)
{
    struct sst_arena_statistics statistics;
    struct sst_arena *const arena = open_queue(20, 1);
    int index[2] = {0, 1};
    uint32_t seed = 5;

    for (int i = 0; i < 40; i++) {
        pid_t producer = test_fork(produce_for_ever, &index[0]);
        pid_t consumer = test_fork(consume_for_ever, &index[1]);
        const int64_t before = word(TAKEN);

        /* A child that is killed before it has found its seat is swept much later. */
        eventually(word(GO) == 2 * (i + 1));
        eventually(word(TAKEN) > before + rand_r(&seed) % 50);
        if (rand_r(&seed) % 2 == 0) {
            test_kill(producer);
            test_kill(consumer);
        }
        else {
            test_kill(consumer);
            test_kill(producer);
        }
    }
    queue = sst_queue_close(queue);
    (void)sst_arena_sweep(arena);
    check_ok(sst_arena_statistics(arena, &statistics));
    check_int(statistics.extents, ==, 0);
    check_int(statistics.slots, ==, 0);
    arena_close(arena);
}
