/* SPDX-License-Identifier: MIT */

/* pool_kills [--kills N] [--seed S]
 *
 * An owner keeps a crew busy with tasks of all kinds, while workers are killed at
 * random instants, by their own tasks, by deadlines, and because a task is to be
 * stopped; tasks are cancelled, and the crew grows and shrinks. Nobody waits longer
 * than STUCK_NS. In the end the books are made up:
 *
 *   - each task has exactly one result, or none and was cancelled
 *   - no task was begun twice, and none that was cancelled
 *   - a result is that of its task, and comes from a worker that ran it
 *   - nothing is left in the arena
 *
 * Then owners are killed at random instants: their workers must end, and leave nothing.
 * An owner that dies while it forks leaves a seat that is swept only after a grace
 * (shm/sweep.c), so there are few of them.
 * The last line is `N passed, N failed`, of these checks. */

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sidestep/sidestep.h"

enum {
    WORKERS = 4,
    WORKERS_MAX = 7,
    ENTRIES = 200, /* tasks under way at a time */
    BATCH = 16,
    LONGEST = 20000,
    TASKS_MAX = 1 << 25,
    OWNER_EVERY = 250, /* kills of workers for one of an owner */
    SOFT_NS = 300000,
    HARD_NS = 2000000,
};
#define STUCK_NS INT64_C(20000000000)

/* What a task asks its worker to do besides sending it back. */
enum order {
    SEND_BACK,
    FAIL,
    TELL,
    DIE,
    ABORT,
    EXIT,
    LINGER, /* until it is killed */
    ORDERS,
};

struct request {
    uint64_t number;
    uint32_t order;
    uint32_t size;
};

/* A task under way. */
struct entry {
    uint64_t number;
    uint32_t generation;
    uint32_t order;
    bool is_open;
    bool is_stopped; /* it was condemned by us */
};

static struct sst_arena *arena;
static struct sst_pool *pool;
static struct sst_crew *crew;
static struct entry entries[ENTRIES];
static _Atomic uint8_t *runs; /* of each task, shared with the workers */
static uint8_t data[LONGEST];
static pid_t owner_pid;
static uint64_t seed = 1;
static _Atomic uint64_t ends; /* workers that ended as they should not */
static uint64_t numbers, done, lost, cancelled, notes, stopped, wrong;
static int passed, failed;

static uint64_t
chance(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static int64_t
now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void
nap(int64_t duration_ns)
{
    const struct timespec duration = {.tv_nsec = duration_ns};

    (void)nanosleep(&duration, NULL); /* a signal only ends it early */
}

static _Noreturn void
die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    exit(2);
}

static void
must(int rc, const char *what)
{
    if (rc < 0) {
        die("%s: %s", what, sst_status_text(rc));
    }
}

static void
expect(bool good, const char *what, uint64_t number)
{
    if (!good && ++wrong <= 10) {
        printf("  task %llu %s\n", (unsigned long long)number, what);
    }
}

static void
verdict(bool good, const char *what)
{
    passed += good;
    failed += !good;
    if (!good) {
        printf("FAILED: %s\n", what);
    }
}

/* ---- Workers ---- */

static void
obey(const struct request *request, struct sst_pool_worker *worker)
{
    const struct sst_slice slice = {"note", 4};

    switch (request->order) {
    case TELL:
        must(sst_pool_tell(worker, request->number, &slice, 1), "tell");
        break;
    case DIE:
        (void)raise(SIGKILL);
        break;
    case ABORT:
        (void)raise(SIGSEGV);
        break;
    case EXIT:
        _exit(3);
    case LINGER:
        while (getppid() == owner_pid) {
            nap(1000000);
        }
        break;
    default:
        break;
    }
}

/* The outcome is the payload, copied or as a parcel. */
static int
finish(struct sst_pool_worker *worker, const struct sst_message *message,
       const struct request *request, struct sst_pool_job *next)
{
    struct sst_slice slice = {message->data, message->size};
    struct sst_pool_outcome outcome = {
        .code = request->order == FAIL ? 7 : 0,
        .slices = &slice,
        .slice_count = 1,
    };
    struct sst_parcel *parcel = NULL;
    int rc;

    if (request->number % 5 == 0) {
        must(sst_parcel_create(arena, message->size, 0, &parcel, NULL), "parcel");
        memcpy(sst_parcel_data(parcel), message->data, message->size);
        outcome.parcel = &parcel;
    }
    rc = sst_pool_finish(worker, &outcome, next, SST_FOREVER);
    if (parcel != NULL) {
        (void)sst_parcel_close(parcel);
    }
    return rc;
}

static int
work(void *context)
{
    static struct sst_pool_job jobs[2];
    struct sst_pool_job *job = &jobs[0];
    struct sst_pool_job *next = &jobs[1];
    struct sst_pool_worker *worker;
    int rc;

    (void)signal(SIGUSR1, SIG_IGN); /* soft deadlines */
    if (sst_pool_enter(pool, *(const uint64_t *)context, &worker, NULL) != 0) {
        return 1;
    }
    rc = sst_pool_take(worker, job, SST_FOREVER);
    while (rc == 0 || rc == SST_EINTR) {
        struct sst_pool_job *const other = job;
        struct request request;

        if (rc == SST_EINTR) {
            rc = sst_pool_take(worker, job, SST_FOREVER);
            continue;
        }
        memcpy(&request, job->message.data, sizeof request);
        atomic_fetch_add(&runs[request.number], 1);
        obey(&request, worker);
        rc = finish(worker, &job->message, &request, next);
        sst_message_free(&job->message);
        job = next;
        next = other;
    }
    (void)sst_pool_leave(worker);
    return rc == SST_EOF || rc == SST_ESHUTDOWN ? 0 : 1;
}

static int
start_worker(void *context, uint64_t seat, void **worker)
{
    static uint64_t own_seat; /* the child has a copy */
    struct sst_process *process;
    int rc = sst_process_new(arena, NULL, &process, NULL);

    (void)context;
    own_seat = seat;
    if (rc == 0) {
        rc = sst_process_run(process, work, &own_seat, NULL);
        if (rc != 0) {
            process = sst_process_close(process);
        }
    }
    *worker = process;
    return rc;
}

static void
on_end(void *context, uint64_t seat, void *worker, int code, bool had_task)
{
    (void)context;
    (void)seat;
    (void)worker;
    (void)had_task;
    if (code != 0) {
        atomic_fetch_add(&ends, 1);
    }
}

static void
open_crew(void)
{
    const struct sst_crew_backend backend = {
        .size_of = sizeof backend,
        .start = start_worker,
    };
    const struct sst_crew_options options = {
        .size_of = sizeof options,
        .worker_count = WORKERS,
        .task_max = 300,
        .start_max = 1000, /* who is killed before its first take is no failure */
        .backend = &backend,
        .on_end = on_end,
    };

    owner_pid = getpid();
    must(sst_pool_create(arena, NULL, &pool, NULL), "pool");
    must(sst_crew_create(pool, &options, &crew, NULL), "crew");
    must(sst_crew_fill(crew), "workers");
}

/* ---- The owner ---- */

static uint64_t
size_of(uint64_t number)
{
    const uint64_t kind = number % 23;

    return sizeof(struct request) + (kind == 0  ? number % (LONGEST - 100)
                                     : kind < 4 ? number % 4500
                                                : 0);
}

static uint64_t
id_of(uint32_t index)
{
    return (uint64_t)entries[index].generation << 32 | index;
}

static uint32_t
pick_order(void)
{
    const uint64_t what = chance(400);

    return what < 4    ? DIE + (uint32_t)what
           : what < 30 ? FAIL
           : what < 40 ? TELL
                       : SEND_BACK;
}

static void
submit(uint32_t index)
{
    struct entry *const entry = &entries[index];
    const uint64_t number = ++numbers;
    const struct request request = {number, pick_order(), (uint32_t)size_of(number)};
    const struct sst_slice slice = {data, request.size};
    struct sst_parcel *parcel = NULL;
    struct sst_pool_task task = {
        .tag = number,
        .priority = (uint32_t)chance(SST_POOL_PRIORITIES),
        .soft_ns = chance(10) == 0 ? SOFT_NS : 0,
        .hard_ns = request.order == LINGER && chance(2) == 0 ? HARD_NS : 0,
        .slices = &slice,
        .slice_count = 1,
    };

    *entry = (struct entry){number, entry->generation + 1, request.order, true, false};
    task.id = id_of(index);
    memcpy(data, &request, sizeof request);
    if (number % 7 == 0) {
        must(sst_parcel_create(arena, request.size, 0, &parcel, NULL), "parcel");
        memcpy(sst_parcel_data(parcel), data, request.size);
        task.parcel = &parcel;
    }
    must(sst_pool_submit(pool, &task, SST_NOW), "submit");
}

static void
note(struct sst_pool_result *result)
{
    struct entry *const entry = &entries[(uint32_t)result->id];
    struct request request = {0};

    if (result->kind == SST_POOL_NOTE) {
        notes++;
        return;
    }
    expect(entry->is_open && id_of((uint32_t)result->id) == result->id,
           "has a result too many", result->tag);
    expect(result->tag == entry->number, "is another", result->tag);
    if (result->kind == SST_POOL_DONE) {
        memcpy(&request, result->message.data, sizeof request);
        expect(result->message.size == size_of(entry->number) &&
                   request.number == entry->number,
               "has another's result", result->tag);
        expect(atomic_load(&runs[entry->number]) == 1, "was not run", result->tag);
        expect(entry->order < DIE && !entry->is_stopped, "cannot be done", result->tag);
        expect(result->code == (entry->order == FAIL ? 7 : 0), "has another code",
               result->tag);
        done++;
    }
    else {
        expect(atomic_load(&runs[entry->number]) <= 1, "was run twice", result->tag);
        lost++;
    }
    entry->is_open = false;
}

static int
take(int64_t deadline_ns)
{
    static struct sst_pool_result results[BATCH];
    const int rc = sst_pool_results(pool, results, BATCH, deadline_ns);

    for (int i = 0; i < rc; i++) {
        note(&results[i]);
        sst_message_free(&results[i].message);
    }
    if (rc < 0 && rc != SST_ETIMEDOUT && rc != SST_EINTR) {
        must(rc, "results");
    }
    return rc;
}

static void
kill_somebody(void)
{
    struct sst_pool_seat seat;

    if (sst_pool_seat(pool, (uint32_t)chance(WORKERS_MAX), &seat) == 0 &&
        (seat.state == SST_SEAT_IDLE || seat.state == SST_SEAT_BUSY)) {
        (void)kill(seat.pid, SIGKILL); /* may have ended by itself */
    }
}

static void
cancel(uint32_t index)
{
    struct entry *const entry = &entries[index];

    if (entry->is_open && sst_pool_cancel(pool, id_of(index)) == 1) {
        expect(atomic_load(&runs[entry->number]) == 0, "runs and was cancelled",
               entry->number);
        entry->is_open = false;
        cancelled++;
    }
}

static void
stop(uint32_t index)
{
    struct entry *const entry = &entries[index];

    if (entry->is_open && sst_crew_kill(crew, id_of(index), SST_POOL_BY_CANCEL) == 1) {
        entry->is_stopped = true;
        stopped++;
    }
}

static void
interfere(void)
{
    const uint32_t index = (uint32_t)chance(ENTRIES);

    switch (chance(8)) {
    case 0:
        cancel(index);
        break;
    case 1:
        stop(index);
        break;
    case 2:
        if (chance(20) == 0) {
            must(sst_crew_resize(crew, 2 + (uint32_t)chance(WORKERS_MAX - 3)),
                 "resize");
        }
        break;
    default:
        kill_somebody();
        break;
    }
}

/* Keep the crew busy until `wanted` workers were killed; true unless somebody is
 * stuck. With `wanted` UINT64_MAX until we are. */
static bool
run(uint64_t wanted)
{
    int64_t heard_ns = now_ns();

    while (atomic_load(&ends) < wanted && numbers < TASKS_MAX - ENTRIES) {
        for (uint32_t i = 0; i < ENTRIES; i++) {
            if (!entries[i].is_open && chance(2) == 0) {
                submit(i);
            }
        }
        must(sst_crew_wake(crew), "wake");
        interfere();
        if (take(sst_deadline_after((int64_t)chance(1000000))) > 0) {
            heard_ns = now_ns();
        }
        if (now_ns() - heard_ns > STUCK_NS) {
            return false;
        }
    }
    while (sst_pool_outstanding(pool) != 0) {
        for (uint32_t i = 0; i < ENTRIES; i++) {
            if (entries[i].order == LINGER) {
                stop(i);
            }
        }
        if (take(sst_deadline_after(10000000)) > 0) {
            heard_ns = now_ns();
        }
        if (now_ns() - heard_ns > STUCK_NS) {
            return false;
        }
    }
    return true;
}

static bool
arena_is_empty(void)
{
    struct sst_arena_statistics statistics;

    (void)sst_arena_sweep(arena);
    must(sst_arena_statistics(arena, &statistics), "statistics");
    return statistics.slots == 0 && statistics.extents == 0 &&
           statistics.processes <= 1;
}

static void
kill_workers(uint64_t wanted)
{
    const int64_t begun_ns = now_ns();
    uint64_t open = 0;

    open_crew();
    verdict(run(wanted), "somebody was stuck");
    for (uint32_t i = 0; i < ENTRIES; i++) {
        open += entries[i].is_open;
    }
    printf("%llu workers killed in %.1f s; %llu tasks: %llu done, %llu lost, %llu "
           "cancelled, %llu open; %llu stopped, %llu notes\n",
           (unsigned long long)ends, (double)(now_ns() - begun_ns) / 1e9,
           (unsigned long long)numbers, (unsigned long long)done,
           (unsigned long long)lost, (unsigned long long)cancelled,
           (unsigned long long)open, (unsigned long long)stopped,
           (unsigned long long)notes);
    verdict(open == 0, "tasks have no result");
    verdict(done + lost + cancelled == numbers, "the sums do not agree");
    verdict(wrong == 0, "something is wrong with a task");
    sst_pool_shutdown(pool, false);
    verdict(sst_crew_join(crew, sst_deadline_after(STUCK_NS)) == 0,
            "workers do not end");
    crew = sst_crew_close(crew);
    pool = sst_pool_close(pool);
    verdict(arena_is_empty(), "something is left");
}

/* ---- Owners that are killed ---- */

static void
be_owner(void)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    open_crew();
    (void)run(UINT64_MAX);
    _exit(0);
}

static void
kill_owners(uint64_t count)
{
    const int64_t begun_ns = now_ns();
    int64_t slowest_ns = 0;
    bool all_good = true;

    for (uint64_t i = 0; i < count && all_good; i++) {
        const int64_t lives_ns = (int64_t)chance(20000000);
        const pid_t pid = fork();
        int64_t killed_ns;

        must(pid < 0 ? -errno : 0, "fork");
        if (pid == 0) {
            be_owner();
        }
        nap(lives_ns);
        (void)kill(pid, SIGKILL);
        killed_ns = now_ns();
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
        while (!arena_is_empty() && now_ns() - killed_ns < STUCK_NS) {
            nap(1000000);
        }
        if (now_ns() - killed_ns > slowest_ns) {
            slowest_ns = now_ns() - killed_ns;
        }
        all_good = arena_is_empty();
    }
    printf("%llu owners killed in %.1f s; the slowest end took %.1f ms\n",
           (unsigned long long)count, (double)(now_ns() - begun_ns) / 1e9,
           (double)slowest_ns / 1e6);
    verdict(all_good, "an owner's workers stay, or what was theirs");
}

int
main(int argc, char **argv)
{
    uint64_t wanted = 1000;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--kills") == 0) {
            wanted = strtoull(argv[i + 1], NULL, 10);
        }
        else if (strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[i + 1], NULL, 10) | 1;
        }
        else {
            die("usage: pool_kills [--kills N] [--seed S]");
        }
    }
    runs = mmap(NULL, TASKS_MAX, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (runs == MAP_FAILED) {
        die("mmap: %s", strerror(errno));
    }
    must(sst_arena_create(NULL, &arena, NULL), "arena");
    kill_workers(wanted);
    kill_owners(wanted / OWNER_EVERY);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
