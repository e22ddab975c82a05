/* SPDX-License-Identifier: MIT */

/* What flows through a pool: parcels, notes, priorities, bounds, posts and deadlines.
 * The worker is mostly the owner itself, so that each step is seen. */

#include <poll.h>
#include <string.h>

#include "peers.h"

enum {
    LARGE = 100000,
    POSTS = 256,
    TOLD = 9, /* the code of a task whose worker was told of its soft deadline */
    BEGUN = 0,
};

static struct sst_arena *arena;
static struct sst_pool *pool;
static struct sst_pool_worker *worker;
static uint64_t seat;

static uint64_t
id_of(uint32_t index)
{
    return UINT64_C(1) << 32 | index;
}

static void
open_pool(uint32_t task_max)
{
    const struct sst_pool_options options = {
        .size_of = sizeof options,
        .task_max = task_max,
        .seat_max = 2,
    };

    arena = arena_open();
    check_status(sst_pool_create(arena, &options, &pool, NULL), 0);
}

static void
sit_down(void)
{
    check_status(sst_pool_reserve(pool, 0, &seat), 0);
    check_status(sst_pool_enter(pool, seat, &worker, NULL), 0);
}

static void
close_pool(void)
{
    worker = sst_pool_leave(worker);
    pool = sst_pool_close(pool);
    arena_close(arena);
}

static int
submit(uint32_t index, uint32_t priority, struct sst_parcel **parcel)
{
    const struct sst_slice slice = {&index, sizeof index};
    const struct sst_pool_task task = {
        .id = id_of(index),
        .tag = index,
        .priority = priority,
        .slices = &slice,
        .slice_count = 1,
        .parcel = parcel,
    };

    return sst_pool_submit(pool, &task, SST_NOW);
}

/* Take a task; its tag. */
static uint64_t
take_one(void)
{
    struct sst_pool_job job;

    check_status(sst_pool_take(worker, &job, SST_NOW), 0);
    sst_message_free(&job.message);
    return job.tag;
}

static void
finish_one(void)
{
    const struct sst_pool_outcome outcome = {0};

    check_status(sst_pool_finish(worker, &outcome, NULL, SST_NOW), SST_EAGAIN);
}

static struct sst_parcel *
large_parcel(void)
{
    struct sst_parcel *parcel;

    check_status(sst_parcel_create(arena, LARGE, 0, &parcel, NULL), 0);
    bytes_fill(sst_parcel_data(parcel), LARGE);
    return parcel;
}

TEST(parcels_go_there_and_back)
{
    struct sst_arena_statistics before;
    struct sst_arena_statistics after;
    struct sst_pool_result result;
    struct sst_parcel *parcel;
    struct sst_pool_job job;

    open_pool(0);
    sit_down();
    check_ok(sst_arena_statistics(arena, &before));
    parcel = large_parcel();
    check_status(submit(1, 0, &parcel), 0);
    check_ptr(parcel, ==, NULL);

    check_status(sst_pool_take(worker, &job, SST_NOW), 0);
    check_ptr(sst_message_parcel(&job.message), !=, NULL);
    check_int(job.message.size, ==, LARGE);
    bytes_check(job.message.data, LARGE);
    sst_message_free(&job.message);

    parcel = large_parcel();
    check_status(sst_pool_finish(worker, &(struct sst_pool_outcome){.parcel = &parcel},
                                 NULL, SST_NOW),
                 SST_EAGAIN);
    check_ptr(parcel, ==, NULL);
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
    check_ptr(sst_message_parcel(&result.message), !=, NULL);
    bytes_check(result.message.data, LARGE);
    sst_message_free(&result.message);

    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.slots, ==, before.slots);
    check_int(after.extents, ==,
              before.extents + 3); /* two rings, one block of marks */
    close_pool();
}

TEST(a_parcel_that_is_not_taken_stays)
{
    struct sst_parcel *parcel;
    struct sst_pool_job job;
    uint64_t found;

    open_pool(1);
    sit_down();
    parcel = large_parcel();
    check_status(submit(1, 0, NULL), 0);
    check_status(submit(2, 0, &parcel), SST_ETIMEDOUT);
    bytes_check(sst_parcel_data(parcel), LARGE);
    check_int(sst_pool_outstanding(pool), ==, 1);

    check_status(sst_pool_take(worker, &job, SST_NOW), 0);
    check_status(sst_pool_condemn(pool, id_of(1), SST_POOL_BY_CANCEL, &found), 1);
    check_status(sst_pool_finish(worker, &(struct sst_pool_outcome){.parcel = &parcel},
                                 NULL, SST_NOW),
                 SST_ECLOSED);
    bytes_check(sst_parcel_data(parcel), LARGE);
    sst_message_free(&job.message);
    check_ptr(sst_parcel_close(parcel), ==, NULL);
    close_pool();
}

TEST(what_is_left_in_parcels_is_dropped_with_the_pool)
{
    struct sst_arena_statistics after;
    struct sst_parcel *parcel;

    open_pool(0);
    sit_down();
    for (uint32_t i = 0; i < 3; i++) {
        parcel = large_parcel();
        check_status(submit(i, i, &parcel), 0);
    }
    (void)take_one();
    parcel = large_parcel();
    check_status(sst_pool_finish(worker, &(struct sst_pool_outcome){.parcel = &parcel},
                                 NULL, SST_NOW),
                 SST_EAGAIN);
    worker = sst_pool_leave(worker);
    pool = sst_pool_close(pool);
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.slots, ==, 0);
    check_int(after.extents, ==, 0);
    arena_close(arena);
}

TEST(the_urgent_go_first)
{
    open_pool(0);
    sit_down();
    for (uint32_t i = 0; i < 6; i++) {
        check_status(submit(i, 2 - i / 2, NULL), 0);
    }
    for (uint32_t i = 0; i < 3; i++) {
        check_int(take_one(), ==, 4 - 2 * i);
        finish_one();
        check_int(take_one(), ==, 5 - 2 * i);
        finish_one();
    }
    check_status(submit(0, SST_POOL_PRIORITIES, NULL), SST_EINVAL);
    close_pool();
}

static void
take_two_later(void *arg)
{
    struct sst_pool_job job;
    uint64_t mine;

    (void)arg;
    check_status(sst_pool_reserve(pool, 0, &mine), 0);
    check_status(sst_pool_enter(pool, mine, &worker, NULL), 0);
    word_set(BEGUN, 1);
    eventually(word(BEGUN) == 2);
    for (int i = 0; i < 2; i++) {
        const struct sst_pool_outcome outcome = {0};

        check_status(sst_pool_take(worker, &job, soon()), 0);
        sst_message_free(&job.message);
        check_status(sst_pool_finish(worker, &outcome, NULL, SST_NOW), SST_EAGAIN);
    }
    close_pool();
}

TEST(who_submits_waits_for_room)
{
    struct sst_pool_result results[4];
    struct sst_pool_task tasks[3];
    pid_t pid;

    open_pool(2);
    for (uint32_t i = 0; i < 3; i++) {
        tasks[i] = (struct sst_pool_task){.id = id_of(10 + i), .tag = 10 + i};
    }
    check_status(sst_pool_submit_many(pool, tasks, 3, SST_NOW), 2);
    check_status(sst_pool_submit_many(pool, tasks + 2, 1, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_pool_submit(pool, &tasks[2], in_ms(1)), SST_ETIMEDOUT);
    /* Cancelled tasks take room until a worker comes by them. */
    check_int(sst_pool_cancel(pool, id_of(10)), ==, 1);
    check_status(submit(3, 0, NULL), SST_ETIMEDOUT);
    check_int(sst_pool_outstanding(pool), ==, 1);

    pid = test_fork(take_two_later, NULL);
    eventually(word(BEGUN) == 1);
    word_set(BEGUN, 2);
    check_status(sst_pool_submit(pool, &tasks[2], soon()), 0);
    test_join(pid);
    check_status(sst_pool_results(pool, results, 4, SST_NOW), 2);
    check_int(results[0].tag, ==, 11);
    check_int(results[1].tag, ==, 12);
    check_int(sst_pool_outstanding(pool), ==, 0);
    close_pool();
}

TEST(notes_are_not_results)
{
    const struct sst_slice slices[2] = {{"some", 4}, {"thing", 5}};
    static uint8_t large[LARGE];
    const struct sst_slice all = {large, LARGE};
    struct sst_pool_result results[4];

    open_pool(0);
    sit_down();
    bytes_fill(large, LARGE);
    check_status(submit(7, 0, NULL), 0);
    check_int(take_one(), ==, 7);
    check_status(sst_pool_tell(worker, 70, slices, 2), 0);
    check_status(sst_pool_tell(worker, 71, &all, 1), 0);
    finish_one();
    check_status(sst_pool_tell(worker, 72, NULL, 0), 0);
    check_int(sst_pool_outstanding(pool), ==, 1);
    check_status(sst_pool_results(pool, results, 4, SST_NOW), 4);
    for (uint32_t i = 0; i < 4; i++) {
        check_int(results[i].kind, ==, i == 2 ? SST_POOL_DONE : SST_POOL_NOTE);
        check_int(results[i].pid, ==, getpid());
    }
    check_int(results[0].id, ==, id_of(7));
    check_int(results[0].tag, ==, 70);
    check_mem(results[0].message.data, "something", 9);
    bytes_check(results[1].message.data, LARGE);
    check_int(results[3].tag, ==, 72);
    check_int(results[3].id, ==, 0);
    check_int(results[3].message.size, ==, 0);
    check_int(sst_pool_outstanding(pool), ==, 0);
    for (uint32_t i = 0; i < 4; i++) {
        sst_message_free(&results[i].message);
    }
    close_pool();
}

TEST(posts_have_a_bound_and_new_numbers)
{
    const struct sst_slice slice = {"abc", 3};
    static uint64_t numbers[POSTS];
    struct sst_message message;
    uint64_t another;

    open_pool(0);
    for (uint32_t i = 0; i < POSTS; i++) {
        check_status(sst_pool_post(pool, &slice, 1, &numbers[i]), 0);
        check_int(numbers[i], !=, 0);
    }
    check_status(sst_pool_post(pool, &slice, 1, &another), SST_ELIMIT);
    sst_pool_unpost(pool, numbers[9]);
    sst_pool_unpost(pool, numbers[9]);
    check_status(sst_pool_post(pool, &slice, 1, &another), 0);
    check_int(another, >, numbers[POSTS - 1]);
    check_status(sst_pool_fetch(pool, numbers[9], &message), SST_ESTALE);
    check_status(sst_pool_fetch(pool, 0, &message), SST_ESTALE);
    check_status(sst_pool_fetch(pool, another, &message), 0);
    check_mem(message.data, "abc", 3);
    sst_message_free(&message);
    close_pool();
}

TEST(seats_have_a_bound)
{
    struct sst_pool_worker *other;
    uint64_t seats[2];
    uint64_t third;

    open_pool(0);
    check_status(sst_pool_reserve(pool, 0, &seats[0]), 0);
    check_status(sst_pool_reserve(pool, 0, &seats[1]), 0);
    check_status(sst_pool_reserve(pool, 0, &third), SST_ELIMIT);
    check_status(sst_pool_bury(pool, seats[1], 0), 0);
    check_status(sst_pool_enter(pool, seats[1], &other, NULL), SST_ESTALE);
    check_status(sst_pool_reserve(pool, 0, &third), 0);
    check_int(third, !=, seats[1]);
    check_status(sst_pool_enter(pool, third, &worker, NULL), 0);
    check_status(sst_pool_enter(pool, third, &other, NULL), SST_ESTALE);
    close_pool();
}

TEST(who_is_dismissed_finishes_first)
{
    const struct sst_pool_outcome outcome = {0};
    struct sst_pool_seat seen;
    struct sst_pool_job job;

    open_pool(0);
    sit_down();
    check_status(submit(1, 0, NULL), 0);
    check_status(submit(2, 0, NULL), 0);
    check_int(take_one(), ==, 1);
    sst_pool_dismiss(pool, seat);
    check_status(sst_pool_seat(pool, 0, &seen), 0);
    check_int(seen.state, ==, SST_SEAT_BUSY);
    check_int(seen.dismissed, ==, 1);
    check_status(sst_pool_finish(worker, &outcome, &job, SST_FOREVER), SST_EOF);
    check_status(sst_pool_take(worker, &job, SST_FOREVER), SST_EOF);
    check_status(sst_pool_seat(pool, 2, &seen), SST_EINVAL);
    close_pool();
}

TEST(misuse_is_refused)
{
    const struct sst_pool_outcome outcome = {0};
    struct sst_pool_task task = {.id = 5};
    struct sst_pool_job job;

    open_pool(0);
    sit_down();
    check_status(sst_pool_submit(pool, &task, SST_NOW), SST_EINVAL);
    task.id = UINT64_C(1) << 63 | 1;
    check_status(sst_pool_submit(pool, &task, SST_NOW), SST_EINVAL);
    task.id = UINT64_C(1) << 32 | UINT32_MAX;
    check_status(sst_pool_submit(pool, &task, SST_NOW), SST_EINVAL);
    check_status(sst_pool_finish(worker, &outcome, NULL, SST_NOW), SST_EINVAL);
    check_status(submit(1, 0, NULL), 0);
    check_int(take_one(), ==, 1);
    check_status(sst_pool_take(worker, &job, SST_NOW), SST_EINVAL);
    check_int(sst_pool_cancel(pool, id_of(500)), ==, 1); /* it may come yet */
    check_int(sst_pool_cancel(pool, id_of(1)), ==, 0);
    close_pool();
}

TEST(a_shutdown_at_once_drops_what_is_queued)
{
    struct sst_pool_result result;
    struct sst_pool_statistics numbers;
    const struct sst_pool_outcome outcome = {0};
    struct sst_pool_job job;

    open_pool(0);
    sit_down();
    for (uint32_t i = 0; i < 5; i++) {
        check_status(submit(i, i % 3, NULL), 0);
    }
    check_int(take_one(), ==, 0);
    check_int(sst_pool_cancel(pool, id_of(4)), ==, 1);
    sst_pool_shutdown(pool, true);
    check_int(sst_pool_outstanding(pool), ==, 1);
    check_int(sst_pool_cancel(pool, id_of(3)), ==, 0);
    check_int(sst_pool_outstanding(pool), ==, 1);
    check_status(submit(6, 0, NULL), SST_ESHUTDOWN);
    check_status(sst_pool_finish(worker, &outcome, &job, SST_FOREVER), SST_ESHUTDOWN);
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
    check_int(sst_pool_outstanding(pool), ==, 0);
    sst_pool_statistics(pool, &numbers);
    check_int(numbers.queued, ==, 0);
    check_int(numbers.done, ==, 1);
    close_pool();
}

TEST(who_has_its_result_does_not_lead)
{
    uint32_t flag = 0;

    open_pool(0);
    check_status(sst_pool_lead(pool, &flag, SST_NOW), 1);
    flag = 1;
    sst_pool_follow(pool);
    check_status(sst_pool_lead(pool, &flag, SST_FOREVER), 0);
    flag = 0;
    check_status(sst_pool_lead(pool, &flag, SST_NOW), 1);
    sst_pool_follow(pool);
    close_pool();
}

static bool
is_readable(int fd)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};

    return poll(&item, 1, 0) == 1;
}

TEST(a_descriptor_tells_of_results)
{
    struct sst_pool_result result;
    int fd;

    open_pool(0);
    sit_down();
    fd = sst_pool_fd(pool, NULL);
    check_int(fd, >=, 0);
    check_status(sst_pool_results(pool, &result, 1, SST_NOW), SST_ETIMEDOUT);
    check(!is_readable(fd));
    for (uint32_t i = 1; i < 3; i++) {
        check_status(submit(i, 0, NULL), 0);
        (void)take_one();
        finish_one();
        check(is_readable(fd));
        check_status(sst_pool_results(pool, &result, 1, SST_NOW), 1);
        check_status(sst_pool_results(pool, &result, 1, SST_NOW), SST_ETIMEDOUT);
        check(!is_readable(fd));
    }
    close_pool();
}

/* ---- Soft deadlines ---- */

static volatile sig_atomic_t was_told;

static void
on_signal(int number)
{
    (void)number;
    if (sst_pool_soft_deadline(worker)) {
        was_told++;
    }
}

/* A task lasts until its worker is told, unless its tag is 0. */
static int
work_until_told(void *context)
{
    struct sst_pool_job job;

    check_status(sst_pool_enter(pool, *(const uint64_t *)context, &worker, NULL), 0);
    (void)signal(SIGUSR1, on_signal);
    while (sst_pool_take(worker, &job, SST_FOREVER) == 0) {
        struct sst_pool_outcome outcome = {0};

        while (job.tag != 0 && was_told == 0) {
            (void)usleep(100);
        }
        outcome.code = was_told == 1 ? TOLD : was_told;
        was_told = 0;
        sst_message_free(&job.message);
        check_status(sst_pool_finish(worker, &outcome, NULL, SST_NOW), SST_EAGAIN);
    }
    worker = sst_pool_leave(worker);
    pool = sst_pool_close(pool);
    return 0;
}

static int
start_local(void *context, uint64_t given, void **out)
{
    struct sst_process *process;
    int rc = sst_process_new(context, NULL, &process, NULL);

    seat = given;
    if (rc == 0) {
        rc = sst_process_run(process, work_until_told, &seat, NULL);
        if (rc != 0) {
            process = sst_process_close(process);
        }
    }
    *out = process;
    return rc;
}

TEST(a_soft_deadline_is_told_once)
{
    const struct sst_crew_backend backend = {
        .size_of = sizeof backend,
        .start = start_local,
    };
    struct sst_crew_options options = {
        .size_of = sizeof options,
        .worker_count = 1,
        .backend = &backend,
    };
    struct sst_pool_task task = {0};
    struct sst_pool_result result;
    struct sst_crew *crew;

    open_pool(0);
    options.context = arena;
    check_status(sst_crew_create(pool, &options, &crew, NULL), 0);
    check_int(sst_crew_fill(crew), ==, 1);
    for (uint32_t i = 1; i < 4; i++) {
        task.id = id_of(i);
        task.tag = i % 2;
        task.soft_ns = i % 2 * 1000000;
        check_status(sst_pool_submit(pool, &task, SST_NOW), 0);
        check_status(sst_crew_wake(crew), 0);
        check_status(sst_pool_results(pool, &result, 1, soon()), 1);
        check_int(result.kind, ==, SST_POOL_DONE);
        check_int(result.code, ==, i % 2 == 1 ? TOLD : 0);
        sst_message_free(&result.message);
    }
    sst_pool_shutdown(pool, false);
    check_status(sst_crew_join(crew, soon()), 0);
    check_ptr(sst_crew_close(crew), ==, NULL);
    close_pool();
}

/* ---- The thread's end ---- */

static _Atomic uint32_t is_ending;
static _Atomic uint32_t is_waking;
static struct sst_crew *_Atomic asked;

/* Ask while somebody is, as far as can be told from here, waiting for us to end. */
static void
ask_at_the_end(void *context, bool begins)
{
    (void)context;
    if (begins || atomic_exchange(&is_ending, 1) != 0) {
        return;
    }
    eventually(is_waking != 0);
    for (int i = 0; i < 100; i++) {
        test_nap();
        check_int(sst_crew_count(asked), ==, 0);
    }
}

TEST(nobody_waits_for_a_thread_under_the_lock)
{
    const struct sst_crew_backend backend = {
        .size_of = sizeof backend,
        .start = start_local,
    };
    struct sst_crew_options options = {
        .size_of = sizeof options,
        .backend = &backend,
        .on_thread = ask_at_the_end,
    };
    struct sst_crew *crew;

    open_pool(0);
    check_status(sst_crew_create(pool, &options, &crew, NULL), 0);
    asked = crew;
    check_status(sst_crew_wake(crew), 0);
    eventually(is_ending != 0);
    is_waking = 1;
    check_status(sst_crew_wake(crew), 0); /* the old thread is to be joined first */
    check_ptr(sst_crew_close(crew), ==, NULL);
    close_pool();
}
