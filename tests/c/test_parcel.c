/* SPDX-License-Identifier: MIT */

/* Parcels: where their bytes are, what they keep alive and for how long, how they
 * travel, and the deaths of those who have them. Names that begin with "threads" start
 * no process. */

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "peers.h"

enum {
    GO, /* words */
    SEEN,
    BORN,
};

static struct sst_arena *arena;
static struct sst_arena_statistics before;

static void
open_arena(void)
{
    arena = arena_open();
    check_ok(sst_arena_statistics(arena, &before));
}

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

static uint64_t
live_slots(void)
{
    struct sst_arena_statistics now;

    check_ok(sst_arena_statistics(arena, &now));
    return now.slots - before.slots;
}

static struct sst_parcel *
make(uint64_t size, uint32_t handle_max)
{
    struct sst_parcel *parcel = NULL;

    check_ok(sst_parcel_create(arena, size, handle_max, &parcel, NULL));
    check_int(sst_parcel_size(parcel), ==, size);
    return parcel;
}

static struct sst_handle
make_event(struct sst_event **out)
{
    struct sst_handle handle;

    check_ok(sst_event_create(arena, out, NULL));
    sst_event_handle(*out, &handle);
    return handle;
}

static bool
exists(const struct sst_handle *handle)
{
    struct sst_event *event;
    const int rc = sst_event_attach(arena, handle, &event, NULL);

    if (rc == 0) {
        event = sst_event_close(event);
    }
    else {
        check_status(rc, SST_ESTALE);
    }
    return rc == 0;
}

static struct sst_queue *
make_queue(void)
{
    struct sst_queue *queue = NULL;

    check_ok(sst_queue_create(arena, NULL, &queue, NULL));
    return queue;
}

static void
put(struct sst_queue *queue, struct sst_parcel *parcel)
{
    check_ok(sst_queue_put_parcel(queue, &parcel, SST_NOW));
    check_ptr(parcel, ==, NULL);
}

/* ---- One process ---- */

TEST(threads_any_size_and_number_of_holds)
{
    static const uint64_t sizes[] = {0,    1,    16,   500,   3900,    3999,     4000,
                                     4001, 4095, 4096, 70000, 1 << 20, 70 << 20, 3};
    static const uint32_t counts[] = {0, 1, 4, 5, 499, 500, 501, 3000};
    struct sst_event *event;
    struct sst_handle handle;

    open_arena();
    handle = make_event(&event);
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (uint32_t k = 0; k < sizeof counts / sizeof *counts; k++) {
            struct sst_parcel *parcel = make(sizes[i], counts[k]);
            const uintptr_t address = (uintptr_t)sst_parcel_data(parcel);
            struct sst_handle found;

            check_int(address % (sizes[i] >= 4096 ? 64 : 16), ==, 0);
            bytes_fill(sst_parcel_data(parcel), sizes[i] < 1 << 20 ? sizes[i] : 4096);
            for (uint32_t n = 0; n < counts[k]; n++) {
                check_ok(sst_parcel_hold(parcel, &handle, NULL));
            }
            check_status(sst_parcel_hold(parcel, &handle, NULL), SST_ELIMIT);
            check_int(sst_parcel_count(parcel), ==, counts[k]);
            bytes_check(sst_parcel_data(parcel), sizes[i] < 1 << 20 ? sizes[i] : 0);
            for (uint32_t n = 0; n < counts[k]; n++) {
                check_ok(sst_parcel_handle_at(parcel, n, &found));
                check_mem(&found, &handle, sizeof found);
            }
            check_status(sst_parcel_handle_at(parcel, counts[k], &found), SST_EINVAL);
            parcel = sst_parcel_close(parcel);
            check_ptr(parcel, ==, NULL);
        }
    }
    check_int(live_slots(), ==, 1);
    event = sst_event_close(event);
    close_arena();
}

TEST(threads_holds_keep_alive)
{
    struct sst_parcel *parcel;
    struct sst_event *event;
    struct sst_handle handle;

    open_arena();
    handle = make_event(&event);
    parcel = make(100, 2);
    check_ok(sst_parcel_hold(parcel, &handle, NULL));
    event = sst_event_close(event);
    check(exists(&handle));
    parcel = sst_parcel_close(parcel);
    check(!exists(&handle));
    close_arena();
}

TEST(threads_what_cannot_be_held)
{
    struct sst_parcel *parcel;
    struct sst_event *event;
    struct sst_handle handle, self;

    open_arena();
    handle = make_event(&event);
    parcel = make(100, 2);
    sst_parcel_handle(parcel, &self);
    check_status(sst_parcel_hold(parcel, &self, NULL), SST_EINVAL);
    handle.arena++;
    check_status(sst_parcel_hold(parcel, &handle, NULL), SST_EINVAL);
    handle.arena--;
    handle.generation++;
    check_status(sst_parcel_hold(parcel, &handle, NULL), SST_ESTALE);
    handle.generation--;
    check_ok(sst_parcel_seal(parcel));
    check_status(sst_parcel_hold(parcel, &handle, NULL), SST_EINVAL);
    check_int(sst_parcel_count(parcel), ==, 0);
    parcel = sst_parcel_close(parcel);
    event = sst_event_close(event);
    close_arena();
}

TEST(threads_through_a_queue)
{
    static const uint64_t sizes[] = {0, 8, 3000, 4096, 100000, 2 << 20, 70 << 20};
    struct sst_queue *queue;
    struct sst_event *event;
    struct sst_handle handle, found;

    open_arena();
    queue = make_queue();
    handle = make_event(&event);
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct sst_parcel *parcel = make(sizes[i], 1);
        struct sst_message message;

        bytes_fill(sst_parcel_data(parcel), sizes[i] % 1000000);
        check_ok(sst_parcel_hold(parcel, &handle, NULL));
        put(queue, parcel);
        check_int(sst_queue_count(queue), ==, 1);
        check_int(sst_queue_bytes(queue), ==, sizes[i]);

        check_ok(sst_queue_get(queue, &message, SST_NOW));
        check_int(message.size, ==, sizes[i]);
        bytes_check(message.data, sizes[i] % 1000000);
        parcel = sst_message_parcel(&message);
        check_ptr(parcel, !=, NULL);
        check_ptr(sst_parcel_data(parcel), ==, message.data);
        check_int(sst_parcel_count(parcel), ==, 1);
        check_ok(sst_parcel_handle_at(parcel, 0, &found));
        check_mem(&found, &handle, sizeof found);
        sst_message_free(&message);
        check_int(sst_queue_bytes(queue), ==, 0);
    }
    event = sst_event_close(event);
    check(!exists(&handle));
    queue = sst_queue_close(queue);
    close_arena();
}

TEST(threads_a_plain_message_is_no_parcel)
{
    static uint8_t data[9000];
    struct sst_message message;
    struct sst_queue *queue;

    open_arena();
    queue = make_queue();
    for (uint64_t size = 1; size < sizeof data; size *= 20) {
        check_ok(sst_queue_put(queue, data, size, SST_NOW));
        check_ok(sst_queue_get(queue, &message, SST_NOW));
        check_ptr(sst_message_parcel(&message), ==, NULL);
        sst_message_free(&message);
    }
    queue = sst_queue_close(queue);
    close_arena();
}

TEST(threads_among_others)
{
    enum {
        COUNT = 600
    };
    static struct sst_message messages[64];
    static uint8_t data[9000];
    struct sst_queue *queue;
    uint64_t taken = 0;

    open_arena();
    queue = make_queue();
    for (uint64_t i = 0; i < COUNT; i++) {
        const uint64_t size = i * 13 % sizeof data;
        struct sst_parcel *parcel;

        if (i % 3 == 0) {
            bytes_fill(data, size);
            check_ok(sst_queue_put(queue, data, size, SST_NOW));
            continue;
        }
        parcel = make(size, i % 2);
        bytes_fill(sst_parcel_data(parcel), size);
        put(queue, parcel);
    }
    while (taken < COUNT) {
        const int count = sst_queue_get_many(queue, messages, 64, SST_NOW);

        check_int(count, >, 0);
        for (int i = 0; i < count; i++, taken++) {
            check_int(messages[i].size, ==, taken * 13 % sizeof data);
            bytes_check(messages[i].data, messages[i].size);
            check((sst_message_parcel(&messages[i]) != NULL) == (taken % 3 != 0));
            sst_message_free(&messages[i]);
        }
    }
    queue = sst_queue_close(queue);
    close_arena();
}

TEST(threads_through_a_pipe)
{
    struct sst_pipe *near, *far;
    struct sst_parcel *parcel;
    struct sst_message message;

    open_arena();
    check_ok(sst_pipe_create(arena, true, &near, &far, NULL));
    parcel = make(5000, 0);
    bytes_fill(sst_parcel_data(parcel), 5000);
    check_ok(sst_pipe_send_parcel(near, &parcel, SST_NOW));
    check_ptr(parcel, ==, NULL);
    check_ok(sst_pipe_recv(far, &message, SST_NOW));
    check_int(message.size, ==, 5000);
    bytes_check(message.data, 5000);
    check_ptr(sst_message_parcel(&message), !=, NULL);
    sst_message_free(&message);

    /* What is not sent stays its owner's. */
    parcel = make(400000, 0);
    check_ok(sst_pipe_send_parcel(near, &parcel, SST_NOW));
    parcel = make(10, 0);
    check_status(sst_pipe_send_parcel(near, &parcel, SST_NOW), SST_ETIMEDOUT);
    check_ptr(parcel, !=, NULL);
    far = sst_pipe_close(far);
    check_status(sst_pipe_send_parcel(near, &parcel, SST_NOW), SST_EPIPE);
    check_ptr(parcel, !=, NULL);
    parcel = sst_parcel_close(parcel);
    near = sst_pipe_close(near);
    close_arena();
}

TEST(threads_a_queue_that_goes_drops_what_is_in_it)
{
    struct sst_queue *queue;
    struct sst_event *event;
    struct sst_handle handle;

    open_arena();
    queue = make_queue();
    handle = make_event(&event);
    for (uint64_t size = 10; size < 100 << 20; size *= 100) {
        struct sst_parcel *parcel = make(size, 1);

        check_ok(sst_parcel_hold(parcel, &handle, NULL));
        put(queue, parcel);
    }
    event = sst_event_close(event);
    check(exists(&handle));
    queue = sst_queue_close(queue);
    check(!exists(&handle));
    close_arena();
}

TEST(threads_a_shut_queue_takes_none)
{
    const struct sst_queue_options bounded = {.size_of = sizeof bounded, .item_max = 1};
    struct sst_parcel *parcel;
    struct sst_queue *queue;

    open_arena();
    check_ok(sst_queue_create(arena, &bounded, &queue, NULL));
    put(queue, make(10, 0));
    parcel = make(10, 0);
    check_status(sst_queue_put_parcel(queue, &parcel, in_ms(3)), SST_ETIMEDOUT);
    check_ptr(parcel, !=, NULL);
    sst_queue_shutdown(queue, true);
    check_status(sst_queue_put_parcel(queue, &parcel, SST_NOW), SST_ESHUTDOWN);
    check_ptr(parcel, !=, NULL);
    parcel = sst_parcel_close(parcel);
    queue = sst_queue_close(queue);
    close_arena();
}

/* Each queue lies in a parcel that lies in the next: all go with the last. */
TEST(threads_queues_in_queues)
{
    enum {
        DEPTH = 20000
    };
    struct sst_queue *inner;

    open_arena();
    inner = make_queue();
    for (int i = 0; i < DEPTH; i++) {
        struct sst_queue *const outer = make_queue();
        struct sst_parcel *const parcel = make(8, 2);
        struct sst_handle handle;

        sst_queue_handle(inner, &handle);
        check_ok(sst_parcel_hold(parcel, &handle, NULL));
        check_ok(sst_parcel_hold(parcel, &handle, NULL));
        put(outer, parcel);
        inner = sst_queue_close(inner);
        inner = outer;
    }
    check_int(live_slots(), ==, 2 * DEPTH + 1);
    inner = sst_queue_close(inner);
    close_arena();
}

TEST(threads_parcels_in_parcels)
{
    enum {
        WIDTH = 50,
        DEPTH = 400
    };
    struct sst_parcel *inner;
    struct sst_handle handle;

    open_arena();
    inner = make(0, 0);
    for (int i = 0; i < DEPTH; i++) {
        struct sst_parcel *const outer = make(10, WIDTH + 1);

        for (int k = 0; k < WIDTH; k++) {
            struct sst_parcel *const leaf = make(1, 0);

            sst_parcel_handle(leaf, &handle);
            check_ok(sst_parcel_hold(outer, &handle, NULL));
            (void)sst_parcel_close(leaf);
        }
        sst_parcel_handle(inner, &handle);
        check_ok(sst_parcel_hold(outer, &handle, NULL));
        (void)sst_parcel_close(inner);
        inner = outer;
    }
    inner = sst_parcel_close(inner);
    close_arena();
}

TEST(threads_a_cycle_lives_on)
{
    struct sst_parcel *parcel;
    struct sst_queue *queue;
    struct sst_handle handle;

    open_arena();
    queue = make_queue();
    sst_queue_handle(queue, &handle);
    parcel = make(1, 1);
    check_ok(sst_parcel_hold(parcel, &handle, NULL));
    put(queue, parcel);
    queue = sst_queue_close(queue);
    check_int(live_slots(), ==, 2);
    check_ok(sst_queue_attach(arena, &handle, &queue, NULL));
    sst_queue_shutdown(queue, true); /* breaks it */
    queue = sst_queue_close(queue);
    close_arena();
}

TEST(threads_sealed_ones_are_found)
{
    enum {
        COUNT = 40
    };
    struct sst_parcel *parcels[COUNT], *open_parcel, *again;
    struct sst_handle handle, found;
    uint64_t offset;
    char *data;

    open_arena();
    open_parcel = make(5000, 0);
    check(!sst_parcel_is_sealed(open_parcel));
    data = sst_parcel_data(open_parcel);
    check(!sst_parcel_find(arena, data, 1, &found, &offset));
    for (uint32_t i = 0; i < COUNT; i++) {
        parcels[i * 7 % COUNT] = make(i * 777, 0);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        check_ok(sst_parcel_seal(parcels[i]));
        check_ok(sst_parcel_seal(parcels[i]));
        check(sst_parcel_is_sealed(parcels[i]));
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint64_t size = sst_parcel_size(parcels[i]);

        data = sst_parcel_data(parcels[i]);
        if (size == 0) {
            continue;
        }
        sst_parcel_handle(parcels[i], &handle);
        check(sst_parcel_find(arena, data, size, &found, &offset));
        check_mem(&found, &handle, sizeof found);
        check_int(offset, ==, 0);
        check(
            sst_parcel_find(arena, data + size / 2, size - size / 2, &found, &offset));
        check_mem(&found, &handle, sizeof found);
        check_int(offset, ==, size / 2);
        check(!sst_parcel_find(arena, data + 1, size, &found, &offset));
        check(!sst_parcel_find(arena, data, size + 1, &found, &offset));
    }
    check(!sst_parcel_find(arena, &handle, 1, &found, &offset));

    /* Open twice, closed once: there still. */
    sst_parcel_handle(parcels[20], &handle);
    check_ok(sst_parcel_attach(arena, &handle, &again, NULL));
    check(sst_parcel_is_sealed(again));
    data = sst_parcel_data(again);
    parcels[20] = sst_parcel_close(parcels[20]);
    check(sst_parcel_find(arena, data, 1, &found, &offset));
    check_mem(&found, &handle, sizeof found);
    again = sst_parcel_close(again);
    check(!sst_parcel_find(arena, data, 1, &found, &offset));

    for (uint32_t i = 0; i < COUNT; i++) {
        (void)sst_parcel_close(parcels[i]);
    }
    open_parcel = sst_parcel_close(open_parcel);
    close_arena();
}

TEST(threads_attach)
{
    struct sst_parcel *parcel, *other = NULL;
    struct sst_event *event;
    struct sst_handle handle, wrong;

    open_arena();
    wrong = make_event(&event);
    parcel = make(10000, 0);
    bytes_fill(sst_parcel_data(parcel), 10000);
    sst_parcel_handle(parcel, &handle);
    check_status(sst_parcel_attach(arena, &wrong, &other, NULL), SST_EINVAL);
    check_ok(sst_parcel_attach(arena, &handle, &other, NULL));
    parcel = sst_parcel_close(parcel);
    bytes_check(sst_parcel_data(other), 10000);
    other = sst_parcel_close(other);
    check_status(sst_parcel_attach(arena, &handle, &other, NULL), SST_ESTALE);
    event = sst_event_close(event);
    close_arena();
}

/* ---- Several processes ---- */

static struct sst_queue *shared_queue;
static struct sst_parcel *shared_parcel;
static struct sst_message shared_message;

static void
put_one_and_die(void *arg)
{
    struct sst_event *event;
    const struct sst_handle handle = make_event(&event);
    struct sst_parcel *parcel = make(100000, 1);

    (void)arg;
    bytes_fill(sst_parcel_data(parcel), 100000);
    check_ok(sst_parcel_hold(parcel, &handle, NULL));
    put(shared_queue, parcel);
    parcel = make(200000, 1); /* and this one in hand */
    check_ok(sst_parcel_hold(parcel, &handle, NULL));
    word_set(SEEN, 1);
    linger();
}

TEST(a_message_is_a_holder_when_its_sender_is_dead)
{
    struct sst_message message;
    struct sst_handle handle;
    pid_t pid;

    open_arena();
    shared_queue = make_queue();
    pid = test_fork(put_one_and_die, NULL);
    eventually(word(SEEN) == 1);
    test_kill(pid);
    check_ok(sst_arena_sweep(arena));
    check_int(live_slots(), ==, 3);
    check_ok(sst_queue_get(shared_queue, &message, soon()));
    bytes_check(message.data, 100000);
    check_ok(sst_parcel_handle_at(sst_message_parcel(&message), 0, &handle));
    check(exists(&handle));
    sst_message_free(&message);
    check(!exists(&handle));
    shared_queue = sst_queue_close(shared_queue);
    close_arena();
}

static void
read_what_was_inherited(void *arg)
{
    struct sst_handle handle;

    (void)arg;
    eventually(word(GO) == 1);
    bytes_check(sst_parcel_data(shared_parcel), 100000);
    bytes_check(shared_message.data, 5000);
    check_ok(sst_parcel_handle_at(sst_message_parcel(&shared_message), 0, &handle));
    check(exists(&handle));
    sst_message_free(&shared_message);
    shared_parcel = sst_parcel_close(shared_parcel);
    check(!exists(&handle));
    shared_queue = sst_queue_close(shared_queue);
    sst_process_exit(arena, 0);
}

TEST(a_forked_child_has_its_own_share)
{
    struct sst_event *event;
    struct sst_handle handle;
    struct sst_parcel *parcel;
    pid_t pid;

    open_arena();
    shared_queue = make_queue();
    handle = make_event(&event);
    shared_parcel = make(100000, 0);
    bytes_fill(sst_parcel_data(shared_parcel), 100000);
    parcel = make(5000, 1);
    bytes_fill(sst_parcel_data(parcel), 5000);
    check_ok(sst_parcel_hold(parcel, &handle, NULL));
    event = sst_event_close(event);
    put(shared_queue, parcel);
    check_ok(sst_queue_get(shared_queue, &shared_message, SST_NOW));

    pid = test_fork(read_what_was_inherited, NULL);
    sst_message_free(&shared_message);
    shared_parcel = sst_parcel_close(shared_parcel);
    check(exists(&handle));
    word_set(GO, 1);
    test_join(pid);
    check(!exists(&handle));
    shared_queue = sst_queue_close(shared_queue);
    close_arena();
}

static void
leave_with_all(void *arg)
{
    struct sst_queue *const queue = make_queue();
    static uint8_t data[50000];

    (void)arg;
    put(queue, make(100000, 0));
    check_ok(sst_queue_put(queue, data, sizeof data, SST_NOW));
    check_ok(sst_queue_put(queue, data, 50, SST_NOW));
    sst_process_exit(arena, 0);
}

/* What it held is undone by itself, with what lay in a queue of its own. */
TEST(who_leaves_in_order_leaves_nothing)
{
    open_arena();
    test_join(test_fork(leave_with_all, NULL));
    check_ok(sst_arena_sweep(arena));
    close_arena();
}

/* ---- Flow, and deaths ---- */

enum {
    FLOW = 100,
    FLOW_SIZE = 10 << 20,
    FLOW_MEMORY = 60 << 20,
};

static void
take_the_flow(void *arg)
{
    struct sst_message message;

    (void)arg;
    for (int64_t i = 0; i < FLOW; i++) {
        check_ok(sst_queue_get(shared_queue, &message, soon()));
        check_int(message.size, ==, FLOW_SIZE);
        check_int(((const int64_t *)message.data)[FLOW_SIZE / 8 - 1], ==, i);
        sst_message_free(&message);
    }
    shared_queue = sst_queue_close(shared_queue);
    sst_process_exit(arena, 0);
}

/* Memory is used again, whoever frees it: a long flow needs no more than what is on its
 * way at a time. */
TEST(a_flow_of_large_messages_is_narrow)
{
    const struct sst_queue_options options = {.size_of = sizeof options, .item_max = 2};
    struct stat file;
    pid_t pid;

    open_arena();
    check_ok(sst_queue_create(arena, &options, &shared_queue, NULL));
    pid = test_fork(take_the_flow, NULL);
    for (int64_t i = 0; i < FLOW; i++) {
        struct sst_parcel *parcel = make(FLOW_SIZE, 0);
        int64_t *const data = sst_parcel_data(parcel);

        memset(data, (int)i, FLOW_SIZE);
        data[FLOW_SIZE / 8 - 1] = i;
        check_ok(sst_queue_put_parcel(shared_queue, &parcel, soon()));
        check_int(fstat(sst_arena_fd(arena), &file), ==, 0);
        check_int(file.st_blocks * 512, <, FLOW_MEMORY);
    }
    test_join(pid);
    shared_queue = sst_queue_close(shared_queue);
    close_arena();
}

enum {
    PRODUCERS = 2,
    CONSUMERS = 2,
    ROUNDS = 12,
};

static void
produce(void *arg)
{
    const int64_t me = (int64_t)(intptr_t)arg;
    struct sst_event *event;
    const struct sst_handle handle = make_event(&event);

    word_add(BORN, 1);
    for (int64_t i = 0;; i++) {
        struct sst_parcel *parcel = make(16 + (uint64_t)(i * 1237 % 20000), 3);
        int64_t *const data = sst_parcel_data(parcel);

        data[0] = me;
        data[1] = i;
        check_ok(sst_parcel_hold(parcel, &handle, NULL));
        check_ok(sst_parcel_hold(parcel, &handle, NULL));
        check_ok(sst_queue_put_parcel(shared_queue, &parcel, SST_FOREVER));
    }
}

static void
consume(void *arg)
{
    struct sst_message message;

    (void)arg;
    word_add(BORN, 1);
    for (;;) {
        struct sst_handle handle;

        check_ok(sst_queue_get(shared_queue, &message, SST_FOREVER));
        check_int(sst_parcel_count(sst_message_parcel(&message)), ==, 2);
        check_ok(sst_parcel_handle_at(sst_message_parcel(&message), 1, &handle));
        check(exists(&handle));
        check_int(((const int64_t *)message.data)[1], >=, 0);
        sst_message_free(&message);
        word_add(SEEN, 1);
    }
}

/* Putters and takers are killed at random; in the end nothing is left. */
TEST(killed_at_random)
{
    const struct sst_queue_options options = {.size_of = sizeof options, .item_max = 9};
    pid_t pids[PRODUCERS + CONSUMERS];

    open_arena();
    check_ok(sst_queue_create(arena, &options, &shared_queue, NULL));
    srandom(1);
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++) {
        pids[i] = test_fork(i < PRODUCERS ? produce : consume, (void *)(intptr_t)i);
    }
    eventually(word(BORN) == PRODUCERS + CONSUMERS);
    for (int i = 0; i < ROUNDS; i++) {
        const int victim = (int)(random() % (PRODUCERS + CONSUMERS));
        const int64_t seen = word(SEEN);

        eventually(word(SEEN) > seen + random() % 200);
        test_kill(pids[victim]);
        check_ok(sst_arena_sweep(arena));
        pids[victim] =
            test_fork(victim < PRODUCERS ? produce : consume, (void *)(intptr_t)victim);
        /* One that is not born when it is killed is swept only later. */
        eventually(word(BORN) == PRODUCERS + CONSUMERS + i + 1);
    }
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++) {
        test_kill(pids[i]);
    }
    check_ok(sst_arena_sweep(arena));
    shared_queue = sst_queue_close(shared_queue);
    close_arena();
}
