/* SPDX-License-Identifier: MIT */

/* Pools: tasks go out, results come back, and a death shows as a result. */

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "peers.h"

enum {
    FOUND, /* words: workers that have taken a task, */
    TASKS = 2000,
};

static struct sst_pool *pool;

static uint64_t
id_of(uint32_t index)
{
    return UINT64_C(1) << 32 | index;
}

/* A payload whose length and bytes follow from the number. */
static uint64_t
size_of(uint32_t index)
{
    return index % 101 == 0 ? 9000 : index % 7 == 0 ? 700 : 24;
}

static void
submit(uint32_t index, uint32_t priority)
{
    static uint8_t data[9000];
    const struct sst_slice slice = {data, size_of(index)};
    const struct sst_pool_task task = {
        .id = id_of(index),
        .function = 5,
        .tag = index * 3,
        .priority = priority,
        .slices = &slice,
        .slice_count = 1,
    };

    memcpy(data, &index, sizeof index);
    check_status(sst_pool_submit(pool, &task, SST_NOW), 0);
}

static uint32_t
number_in(const struct sst_message *message)
{
    uint32_t number;

    memcpy(&number, message->data, sizeof number);
    check_int(message->size, ==, size_of(number));
    return number;
}

/* Sends everything back; dies with a task whose number is 13 below a thousand. */
static void
work(void *arg)
{
    struct sst_pool_worker *worker;
    struct sst_pool_job job;
    int rc;

    check_status(sst_pool_enter(pool, *(const uint64_t *)arg, &worker, NULL), 0);
    rc = sst_pool_take(worker, &job, SST_FOREVER);
    while (rc == 0) {
        const uint32_t number = number_in(&job.message);
        const struct sst_slice slice = {job.message.data, job.message.size};
        const struct sst_pool_outcome outcome = {
            .code = number % 2 == 0 ? 0 : 7,
            .slices = &slice,
            .slice_count = 1,
        };
        struct sst_pool_job next;

        check_int(job.id, ==, id_of(number));
        check_int(job.tag, ==, number * 3);
        word_add(FOUND, 1);
        if (number % 1000 == 13) {
            linger();
        }
        rc = sst_pool_finish(worker, &outcome, &next, SST_FOREVER);
        sst_message_free(&job.message);
        if (rc == 0) {
            job = next;
            if (next.message.data >= (const void *)next.message.small &&
                next.message.data <
                    (const void *)(next.message.small + sizeof next.message.small)) {
                job.message.data =
                    job.message.small +
                    ((const uint8_t *)next.message.data - next.message.small);
            }
        }
    }
    check(rc == SST_ESHUTDOWN || rc == SST_EOF);
    check_ptr(sst_pool_leave(worker), ==, NULL);
    pool = sst_pool_close(pool);
}

static pid_t
start(uint64_t *seat)
{
    check_status(sst_pool_reserve(pool, 0, seat), 0);
    return test_fork(work, seat);
}

/* Takes one result. */
static uint32_t
expect_done(void)
{
    struct sst_pool_result result;
    uint32_t number;

    check_status(sst_pool_results(pool, &result, 1, soon()), 1);
    check_int(result.kind, ==, SST_POOL_DONE);
    number = number_in(&result.message);
    check_int(result.id, ==, id_of(number));
    check_int(result.code, ==, number % 2 == 0 ? 0 : 7);
    check_int(result.function, ==, 5);
    check_int(result.tag, ==, number * 3);
    sst_message_free(&result.message);
    return number;
}

TEST(every_task_has_one_result)
{
    struct sst_arena *const arena = arena_open();
    static uint8_t seen[TASKS];
    struct sst_pool_statistics numbers;
    uint64_t seats[2];
    pid_t pids[2];

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    pids[0] = start(&seats[0]);
    pids[1] = start(&seats[1]);
    for (uint32_t i = 0; i < TASKS; i++) {
        if (i % 1000 != 13) {
            submit(i, i % 3);
        }
    }
    for (uint32_t i = 0; i < TASKS - 2; i++) {
        const uint32_t number = expect_done();

        check_int(seen[number], ==, 0);
        seen[number] = 1;
    }
    check_int(sst_pool_outstanding(pool), ==, 0);
    sst_pool_shutdown(pool, false);
    test_join(pids[0]);
    test_join(pids[1]);
    check_status(sst_pool_bury(pool, seats[0], 0), 0);
    check_status(sst_pool_bury(pool, seats[1], 0), 0);
    sst_pool_statistics(pool, &numbers);
    check_int(numbers.submitted, ==, TASKS - 2);
    check_int(numbers.taken, ==, TASKS - 2);
    check_int(numbers.done, ==, TASKS - 2);
    check_int(numbers.seats, ==, 0);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

TEST(a_killed_worker_loses_exactly_its_task)
{
    struct sst_arena *const arena = arena_open();
    struct sst_pool_result result;
    uint64_t seat;
    pid_t pid;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    submit(13, 0);
    submit(14, 0);
    pid = start(&seat);
    eventually(word(FOUND) == 1);
    check_int(sst_pool_cancel(pool, id_of(13)), ==, 0);
    test_kill(pid);
    check_status(sst_pool_bury(pool, seat, -9), 1);
    check_status(sst_pool_bury(pool, seat, -9), 0);
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
    check_int(result.kind, ==, SST_POOL_LOST);
    check_int(result.id, ==, id_of(13));
    check_int(result.code, ==, -9);
    check_int(result.pid, ==, pid);
    sst_message_free(&result.message);
    pid = start(&seat);
    check_int(expect_done(), ==, 14);
    sst_pool_shutdown(pool, true);
    test_join(pid);
    check_status(sst_pool_bury(pool, seat, 0), 0);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

TEST(who_is_condemned_cannot_finish)
{
    struct sst_arena *const arena = arena_open();
    const struct sst_pool_outcome outcome = {0};
    struct sst_pool_worker *worker;
    struct sst_pool_result result;
    struct sst_pool_job job;
    uint64_t seat;
    uint64_t found;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    check_status(sst_pool_reserve(pool, 0, &seat), 0);
    check_status(sst_pool_enter(pool, seat, &worker, NULL), 0);
    submit(1, 0);
    check_status(sst_pool_condemn(pool, id_of(1), SST_POOL_BY_CANCEL, &found), 0);
    check_status(sst_pool_take(worker, &job, SST_NOW), 0);
    check_status(sst_pool_condemn(pool, id_of(1), SST_POOL_BY_CANCEL, &found), 1);
    check_int(found, ==, seat);
    check_status(sst_pool_finish(worker, &outcome, NULL, SST_NOW), SST_ECLOSED);
    sst_message_free(&job.message);
    check_ptr(sst_pool_leave(worker), ==, NULL);
    check_status(sst_pool_bury(pool, seat, 0), 1);
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
    check_int(result.reason, ==, SST_POOL_BY_CANCEL);
    sst_message_free(&result.message);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

TEST(a_cancelled_task_does_not_run)
{
    struct sst_arena *const arena = arena_open();
    const struct sst_pool_outcome outcome = {0};
    struct sst_pool_worker *worker;
    struct sst_pool_result result;
    struct sst_pool_job job;
    uint64_t seat;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    check_status(sst_pool_reserve(pool, 1, &seat), 0);
    check_status(sst_pool_enter(pool, seat, &worker, NULL), 0);
    for (uint32_t i = 0; i < 200; i++) {
        submit(i, 0);
    }
    for (uint32_t i = 0; i < 199; i++) {
        check_int(sst_pool_cancel(pool, id_of(i)), ==, 1);
        check_int(sst_pool_cancel(pool, id_of(i)), ==, 0);
    }
    check_status(sst_pool_take(worker, &job, SST_NOW), 0);
    check_int(number_in(&job.message), ==, 199);
    sst_message_free(&job.message);
    check_int(sst_pool_outstanding(pool), ==, 1);
    /* One task was its share. */
    check_status(sst_pool_finish(worker, &outcome, &job, SST_FOREVER), SST_EOF);
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
    sst_message_free(&result.message);
    check_int(sst_pool_outstanding(pool), ==, 0);
    check_ptr(sst_pool_leave(worker), ==, NULL);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

TEST(a_nudge_is_seen_once)
{
    struct sst_arena *const arena = arena_open();
    struct sst_pool_result result;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    check_status(sst_pool_lead(pool, NULL, SST_NOW), 1);
    check_status(sst_pool_lead(pool, NULL, SST_NOW), SST_ETIMEDOUT);
    sst_pool_nudge(pool);
    check_status(sst_pool_results(pool, &result, 1, SST_FOREVER), SST_EAGAIN);
    check_status(sst_pool_results(pool, &result, 1, in_ms(1)), SST_ETIMEDOUT);
    sst_pool_follow(pool);
    check_status(sst_pool_lead(pool, NULL, SST_NOW), 1);
    sst_pool_follow(pool);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

static bool
is_readable(int fd)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};

    return poll(&item, 1, 0) == 1;
}

TEST(a_nudge_leaves_the_bell_armed)
{
    struct sst_arena *const arena = arena_open();
    const struct sst_pool_outcome outcome = {0};
    struct sst_pool_worker *worker;
    struct sst_pool_result result;
    struct sst_pool_job job;
    uint64_t seat;
    int fd;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    check_status(sst_pool_reserve(pool, 0, &seat), 0);
    check_status(sst_pool_enter(pool, seat, &worker, NULL), 0);
    fd = sst_pool_fd(pool, NULL);
    check_int(fd, >=, 0);
    for (uint32_t i = 0; i < 2; i++) {
        submit(i, 0);
        check_status(sst_pool_take(worker, &job, SST_NOW), 0);
        sst_message_free(&job.message);
        check(!is_readable(fd));
        check_status(sst_pool_finish(worker, &outcome, NULL, SST_NOW), SST_EAGAIN);
        check(is_readable(fd));
        check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
        sst_message_free(&result.message);
        sst_pool_nudge(pool);
        check_status(sst_pool_results(pool, &result, 1, SST_NOW), SST_ETIMEDOUT);
    }
    check_ptr(sst_pool_leave(worker), ==, NULL);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

TEST(what_is_posted_is_fetched)
{
    struct sst_arena *const arena = arena_open();
    const struct sst_slice slices[2] = {{"abc", 3}, {"defg", 4}};
    struct sst_message message;
    uint64_t number;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    check_status(sst_pool_post(pool, slices, 2, &number), 0);
    check_status(sst_pool_fetch(pool, number, &message), 0);
    check_int(message.size, ==, 7);
    check_mem(message.data, "abcdefg", 7);
    sst_message_free(&message);
    sst_pool_unpost(pool, number);
    check_status(sst_pool_fetch(pool, number, &message), SST_ESTALE);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

TEST(what_is_left_is_dropped_with_the_pool)
{
    struct sst_arena *const arena = arena_open();
    struct sst_arena_statistics before;
    struct sst_arena_statistics after;
    const struct sst_slice slice = {"abc", 3};
    uint64_t number;

    check_ok(sst_arena_statistics(arena, &before));
    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    check_status(sst_pool_post(pool, &slice, 1, &number), 0);
    for (uint32_t i = 0; i < TASKS; i++) {
        submit(i, i % 3);
    }
    pool = sst_pool_close(pool);
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.extents, ==, before.extents);
    check_int(after.slots, ==, before.slots);
    arena_close(arena);
}

static void
work_till_killed(void *arg)
{
    work(arg);
}

TEST(workers_killed_at_random)
{
    struct sst_arena *const arena = arena_open();
    static uint8_t seen[TASKS];
    uint32_t results = 0;
    uint64_t seat;
    pid_t pid = 0;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    for (uint32_t i = 0; i < TASKS; i++) {
        submit(i + (i % 1000 == 13), i % 3); /* 14 twice, see below */
    }
    while (results < TASKS) {
        struct sst_pool_result result;
        const int64_t until = test_now_ns() + rand() % 300000;

        check_status(sst_pool_reserve(pool, 0, &seat), 0);
        pid = test_fork(work_till_killed, &seat);
        while (test_now_ns() < until) {
        }
        test_kill(pid);
        check_ok(sst_pool_bury(pool, seat, -9));
        while (sst_pool_results(pool, &result, 1, SST_NOW) == 1) {
            seen[(uint32_t)result.id]++;
            results++;
            sst_message_free(&result.message);
        }
    }
    for (uint32_t i = 0; i < TASKS; i++) {
        check_int(seen[i], ==, i % 1000 == 13 ? 0 : i % 1000 == 14 ? 2 : 1);
    }
    check_int(sst_pool_outstanding(pool), ==, 0);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

/* ---- Crews ---- */

/* Where the heap does not stand it, the crew's thread forks only while we do not use
 * it: its child would wait without end for a lock of the heap that we had. */
static pthread_mutex_t heap_use = PTHREAD_MUTEX_INITIALIZER;

static void
begin_heap_use(void)
{
    if (!test_heap_forks()) {
        (void)pthread_mutex_lock(&heap_use);
    }
}

static void
end_heap_use(void)
{
    if (!test_heap_forks()) {
        (void)pthread_mutex_unlock(&heap_use);
    }
}

static void
submit_to_crew(struct sst_crew *crew, uint32_t index)
{
    begin_heap_use();
    submit(index, 0);
    check_status(sst_crew_wake(crew), 0);
    end_heap_use();
}

/* Its message is not looked at. */
static void
result_of_crew(struct sst_crew *crew, struct sst_pool_result *result)
{
    const int64_t deadline_ns = soon();
    int rc;

    do {
        begin_heap_use();
        check_status(sst_crew_wake(crew), 0);
        rc = sst_pool_results(pool, result, 1,
                              test_heap_forks() ? deadline_ns : SST_NOW);
        if (rc == 1) {
            sst_message_free(&result->message);
        }
        end_heap_use();
        test_nap();
    } while (rc == SST_ETIMEDOUT && test_now_ns() < deadline_ns);
    check_status(rc, 1);
}

static int
work_in_crew(void *context)
{
    work(context);
    return 0;
}

static int
start_local(void *context, uint64_t seat, void **worker)
{
    static uint64_t own_seat; /* the child has a copy */
    struct sst_process *process;
    int rc = sst_process_new(context, NULL, &process, NULL);

    own_seat = seat;
    if (rc == 0) {
        begin_heap_use();
        rc = sst_process_run(process, work_in_crew, &own_seat, NULL);
        end_heap_use();
        if (rc != 0) {
            process = sst_process_close(process);
        }
    }
    *worker = process;
    return rc;
}

static struct sst_crew *
open_crew(struct sst_arena *arena, uint32_t worker_count)
{
    const struct sst_crew_backend backend = {
        .size_of = sizeof backend,
        .start = start_local,
    };
    const struct sst_crew_options options = {
        .size_of = sizeof options,
        .worker_count = worker_count,
        .backend = &backend,
        .context = arena,
    };
    struct sst_crew *crew;

    check_status(sst_pool_create(arena, NULL, &pool, NULL), 0);
    check_status(sst_crew_create(pool, &options, &crew, NULL), 0);
    check_int(sst_crew_fill(crew), ==, worker_count);
    return crew;
}

static void
close_crew(struct sst_crew *crew, struct sst_arena *arena)
{
    sst_pool_shutdown(pool, false);
    check_status(sst_crew_join(crew, soon()), 0);
    check_ptr(sst_crew_close(crew), ==, NULL);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

static void
expect_crew_at_work(struct sst_crew *crew)
{
    struct sst_pool_result result;

    submit_to_crew(crew, 14);
    result_of_crew(crew, &result);
    check_int(result.kind, ==, SST_POOL_DONE);
    check_int((int64_t)result.id, ==, (int64_t)id_of(14));
}

TEST(a_crew_replaces_who_is_killed)
{
    struct sst_arena *const arena = arena_open();
    struct sst_crew *const crew = open_crew(arena, 2);

    for (uint32_t round = 0; round < 5; round++) {
        struct sst_pool_result result;
        struct sst_pool_seat seat;
        int64_t killed_ns;
        uint32_t index = 0;

        submit_to_crew(crew, 1013);
        eventually(word(FOUND) == round + 1);
        do {
            check_status(sst_pool_seat(pool, index++, &seat), 0);
        } while (seat.id == 0);
        killed_ns = test_now_ns();
        check_int(kill(seat.pid, SIGKILL), ==, 0);
        result_of_crew(crew, &result);
        check_int(test_now_ns() - killed_ns, <, DEATH_SHOWS_NS * test_slowness());
        check_int(result.kind, ==, SST_POOL_LOST);
        check_int(result.code, ==, -SIGKILL);
        check_int(result.pid, ==, seat.pid);
    }
    expect_crew_at_work(crew);
    close_crew(crew, arena);
}

TEST(a_hard_deadline_kills_one_worker)
{
    struct sst_arena *const arena = arena_open();
    struct sst_crew *const crew = open_crew(arena, 2);
    static uint8_t data[24] = {13};
    const struct sst_slice slice = {data, sizeof data};
    const struct sst_pool_task task = {
        .id = id_of(13),
        .tag = 39,
        .hard_ns = 5000000,
        .slices = &slice,
        .slice_count = 1,
    };
    struct sst_pool_result result;

    begin_heap_use();
    check_status(sst_pool_submit(pool, &task, SST_NOW), 0);
    end_heap_use();
    result_of_crew(crew, &result);
    check_int(result.kind, ==, SST_POOL_LOST);
    check_int(result.reason, ==, SST_POOL_BY_DEADLINE);
    check_int(result.ended_ns - result.started_ns, >=, 5000000);
    expect_crew_at_work(crew);
    close_crew(crew, arena);
}

TEST(a_crew_grows_and_shrinks)
{
    struct sst_arena *const arena = arena_open();
    struct sst_crew *const crew = open_crew(arena, 1);

    check_status(sst_crew_resize(crew, 3), 0);
    check_int(sst_crew_count(crew), ==, 3);
    check_status(sst_crew_resize(crew, 1), 0);
    while (sst_crew_count(crew) != 1) {
        check_status(sst_crew_step(crew, soon()), 0);
    }
    submit(14, 0);
    check_int(expect_done(), ==, 14);
    close_crew(crew, arena);
}
