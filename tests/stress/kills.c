/* SPDX-License-Identifier: MIT */

/* kills [--kills N] [--seed S]
 *
 * Processes use a queue, a mutex, a semaphore and a condition as fast as they can, and
 * are killed at random instants, one after the other, each replaced by another. Now and
 * then the killing stops until every one of them has made progress: one that does not
 * within STUCK_NS is stuck, and the run has failed. In the end the books are made up:
 *
 *   - no message came twice, none came that was not put, and each producer's came in
 *   order
 *   - each message whose put returned came, but for at most one for each consumer that
 *     was killed inside a get
 *   - never did two hold the mutex
 *   - nothing is left in the arena
 *
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

enum role {
    PRODUCER,
    CONSUMER,
    LOCKER,
    HOLDER, /* of semaphore units */
    WAITER,
    NOTIFIER,
};

static const enum role cast[] = {PRODUCER, PRODUCER, PRODUCER, CONSUMER, CONSUMER,
                                 LOCKER,   LOCKER,   HOLDER,   HOLDER,   HOLDER,
                                 WAITER,   WAITER,   NOTIFIER};

enum {
    ACTORS = sizeof(cast) / sizeof(cast[0]),
    ROOM = 40,       /* messages in the queue */
    LONG_EVERY = 29, /* every so many a message travels in an extent */
    LONG_SIZE = 6000,
    UNITS = 2,
    CALM_EVERY = 50,     /* kills */
    LIVES_MAX = 1 << 17, /* processes in a run */
    SHOWN_MAX = 10,
};
#define STUCK_NS INT64_C(5000000000)

/* What an actor says of itself, for whoever makes up the books. */
struct actor {
    _Atomic uint64_t progress;
    _Atomic uint32_t inside; /* a get that has begun and is not written down */
    _Atomic uint32_t born;
    char pad[112];
};

/* A life of a producer. */
struct life {
    _Atomic uint32_t begun;    /* the number last handed to put */
    _Atomic uint32_t put;      /* the last whose put returned */
    _Atomic uint32_t got;      /* how many came */
    _Atomic uint32_t got_last; /* the number of the last of them */
};

/* One consumer may have taken an earlier message and another a later one at the same
 * time, and write them down the other way round: so order is checked in each
 * consumer. */
struct books {
    struct actor actors[ACTORS];
    struct life lives[LIVES_MAX];
    _Atomic uint32_t life_count;
    _Atomic uint32_t holder; /* pid in the mutex */
    _Atomic uint64_t twice, unknown, disordered, shared, odd;
    _Atomic uint64_t deaths_told;
    _Atomic uint8_t marks[]; /* one bit for each message */
};

enum {
    NUMBERS = 1 << 15, /* of a life; it ends then */
};
#define MARKS_SIZE ((size_t)LIVES_MAX * NUMBERS / 8)

struct message {
    uint32_t life, number;
};

static struct books *books;
static struct sst_arena *arena;
static struct sst_queue *queue;
static struct sst_mutex *mutex;
static struct sst_semaphore *semaphore;
static struct sst_condition *condition;
static pid_t pids[ACTORS];
static uint64_t seed = 1;

static uint64_t
chance(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
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

/* A status that no actor should see. */
static void
odd(int rc, const char *what)
{
    if (atomic_fetch_add(&books->odd, 1) < SHOWN_MAX) {
        (void)fprintf(stderr, "%s: %s\n", what, sst_status_name(rc));
    }
}

/* ---- Actors ---- */

static void
produce(struct actor *self)
{
    static char payload[LONG_SIZE];
    const uint32_t index = atomic_fetch_add(&books->life_count, 1);
    struct life *const life = &books->lives[index];

    for (uint32_t number = 1; number < NUMBERS; number++) {
        const struct message message = {index, number};
        const uint64_t size = number % LONG_EVERY == 0 ? LONG_SIZE : sizeof(message);
        int rc;

        memcpy(payload, &message, sizeof(message));
        atomic_store(&life->begun, number);
        do {
            rc = sst_queue_put(queue, payload, size, SST_FOREVER);
        } while (rc == SST_EINTR);
        if (rc != 0) {
            odd(rc, "put");
            return;
        }
        atomic_store(&life->put, number);
        atomic_fetch_add(&self->progress, 1);
    }
}

static void
write_down(const struct sst_message *message, uint32_t *last)
{
    struct message name;
    struct life *life;

    memcpy(&name, message->data, sizeof(name));
    if (message->size < sizeof(name) || name.life >= atomic_load(&books->life_count) ||
        name.number > atomic_load(&books->lives[name.life].begun)) {
        atomic_fetch_add(&books->unknown, 1);
        return;
    }
    life = &books->lives[name.life];

    const uint64_t bit = (uint64_t)name.life * NUMBERS + name.number;
    const uint8_t mask = (uint8_t)(1U << (bit % 8));

    if ((atomic_fetch_or(&books->marks[bit / 8], mask) & mask) != 0) {
        atomic_fetch_add(&books->twice, 1);
    }
    if (name.number <= last[name.life]) {
        atomic_fetch_add(&books->disordered, 1);
    }
    last[name.life] = name.number;
    atomic_fetch_add(&life->got, 1);
}

static void
consume(struct actor *self)
{
    uint32_t *const last = calloc(LIVES_MAX, sizeof(*last));
    struct sst_message message;

    for (;;) {
        int rc;

        atomic_store(&self->inside, 1);
        do {
            rc = sst_queue_get(queue, &message, SST_FOREVER);
        } while (rc == SST_EINTR);
        if (rc != 0 || last == NULL) {
            odd(rc, "get");
            return;
        }
        write_down(&message, last);
        atomic_store(&self->inside, 0);
        sst_message_free(&message);
        atomic_fetch_add(&self->progress, 1);
    }
}

static void
lock(struct actor *self)
{
    const uint32_t pid = (uint32_t)getpid();

    for (;;) {
        int rc = sst_mutex_acquire(mutex, SST_FOREVER);
        uint32_t other;

        if (rc == SST_EOWNERDEAD) {
            atomic_fetch_add(&books->deaths_told, 1);
            rc = sst_mutex_recover(mutex);
            if (rc < 0) {
                odd(rc, "recover");
            }
            continue;
        }
        if (rc == SST_EINTR) {
            continue;
        }
        if (rc != 0) {
            odd(rc, "acquire");
            return;
        }
        other = atomic_exchange(&books->holder, pid);
        if (other != 0 && other != pid && kill((pid_t)other, 0) == 0) {
            /* It may be a zombie that is not reaped yet: then it died inside. */
            for (int i = 0; i < 100 && kill((pid_t)other, 0) == 0; i++) {
                nap(1000000);
            }
            if (kill((pid_t)other, 0) == 0) {
                atomic_fetch_add(&books->shared, 1);
            }
        }
        atomic_store(&books->holder, 0);
        rc = sst_mutex_release(mutex);
        if (rc != 0) {
            odd(rc, "release");
            return;
        }
        atomic_fetch_add(&self->progress, 1);
    }
}

static void
hold(struct actor *self)
{
    for (;;) {
        int rc = sst_semaphore_acquire(semaphore, SST_FOREVER);

        if (rc == SST_EOWNERDEAD) {
            atomic_fetch_add(&books->deaths_told, 1);
            (void)sst_semaphore_recover(semaphore);
            continue;
        }
        if (rc == SST_EINTR) {
            continue;
        }
        rc = rc == 0 ? sst_semaphore_release(semaphore, 1) : rc;
        if (rc != 0) {
            odd(rc, "semaphore");
            return;
        }
        atomic_fetch_add(&self->progress, 1);
    }
}

static void
wait_often(struct actor *self)
{
    for (;;) {
        uint64_t ticket;
        int rc = sst_condition_enter(condition, &ticket);

        while (rc == 0 &&
               (rc = sst_condition_wait(condition, ticket, SST_FOREVER)) == SST_EINTR) {
            rc = 0;
        }
        if (rc != 0) {
            odd(rc, "condition");
            return;
        }
        atomic_fetch_add(&self->progress, 1);
    }
}

static void
notify_often(struct actor *self)
{
    for (;;) {
        if (sst_condition_notify(condition, 1) < 0) {
            odd(SST_EINVAL, "notify");
            return;
        }
        nap(20000);
        atomic_fetch_add(&self->progress, 1);
    }
}

static void
act(int index)
{
    static void (*const play[])(struct actor *self) = {
        [PRODUCER] = produce, [CONSUMER] = consume,  [LOCKER] = lock,
        [HOLDER] = hold,      [WAITER] = wait_often, [NOTIFIER] = notify_often,
    };

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    atomic_store(&books->actors[index].born, 1);
    for (;;) {
        play[cast[index]](&books->actors[index]);
    }
}

static void
start(int index)
{
    pid_t pid;

    atomic_store(&books->actors[index].born, 0);
    pid = fork();
    if (pid < 0) {
        die("fork: %s", strerror(errno));
    }
    if (pid == 0) {
        act(index);
    }
    pids[index] = pid;
}

/* ---- The killer ---- */

static uint64_t killed, killed_in_get, stuck;
static int64_t slowest_ns;

/* A child that dies before its first instruction of ours keeps what it inherited until
 * a grace is over (shm/sweep.c), which would spoil the books: wait until it has
 * begun. */
static void
kill_actor(int index)
{
    while (atomic_load(&books->actors[index].born) == 0) {
        nap(10000);
    }
    (void)kill(pids[index], SIGKILL);
    while (waitpid(pids[index], NULL, 0) < 0 && errno == EINTR) {
    }
    killed++;
    killed_in_get += atomic_exchange(&books->actors[index].inside, 0);
}

/* Nobody is killed until everybody has made progress. */
static void
calm(void)
{
    static const char *const names[] = {"producer", "consumer", "locker",
                                        "holder",   "waiter",   "notifier"};
    const int64_t begun_ns = now_ns();
    uint64_t before[ACTORS];

    for (int i = 0; i < ACTORS; i++) {
        before[i] = atomic_load(&books->actors[i].progress);
    }
    for (int i = 0; i < ACTORS; i++) {
        while (atomic_load(&books->actors[i].progress) == before[i]) {
            if (now_ns() - begun_ns > STUCK_NS) {
                stuck++;
                printf("  stuck after %llu kills: %s, pid %d\n",
                       (unsigned long long)killed, names[cast[i]], (int)pids[i]);
                break;
            }
            nap(100000);
        }
    }
    if (now_ns() - begun_ns > slowest_ns) {
        slowest_ns = now_ns() - begun_ns;
    }
}

/* ---- The books ---- */

static uint64_t put_count, got_count, missing;

/* Take what is left, and count what never came. */
static void
make_up_books(void)
{
    uint32_t *const last = calloc(LIVES_MAX, sizeof(*last));
    struct sst_message message;

    while (last != NULL && sst_queue_get(queue, &message, SST_NOW) == 0) {
        write_down(&message, last);
        sst_message_free(&message);
    }
    free(last);
    for (uint32_t i = 0; i < atomic_load(&books->life_count); i++) {
        const uint32_t put = atomic_load(&books->lives[i].put);

        put_count += put;
        got_count += atomic_load(&books->lives[i].got);
        for (uint32_t n = 1; n <= put; n++) {
            const uint64_t bit = (uint64_t)i * NUMBERS + n;

            missing += (atomic_load(&books->marks[bit / 8]) >> (bit % 8) & 1) == 0;
        }
    }
}

static int failed, passed;

static void
verdict(bool good, const char *what)
{
    passed += good;
    failed += !good;
    if (!good) {
        printf("FAILED: %s\n", what);
    }
}

static void
check_arena(void)
{
    struct sst_arena_statistics statistics;

    queue = sst_queue_close(queue);
    mutex = sst_mutex_close(mutex);
    semaphore = sst_semaphore_close(semaphore);
    condition = sst_condition_close(condition);
    (void)sst_arena_sweep(arena);
    must(sst_arena_statistics(arena, &statistics), "statistics");
    printf("left: %llu slots, %llu extents, %llu processes; swept %llu\n",
           (unsigned long long)statistics.slots, (unsigned long long)statistics.extents,
           (unsigned long long)statistics.processes,
           (unsigned long long)statistics.swept);
    verdict(statistics.slots == 0 && statistics.extents == 0, "something is left");
}

static void
report(int64_t took_ns)
{
    printf(
        "%llu kills in %.1f s, %llu of them in a get; %llu deaths told; slowest calm "
        "%.1f ms\n",
        (unsigned long long)killed, (double)took_ns / 1e9,
        (unsigned long long)killed_in_get,
        (unsigned long long)atomic_load(&books->deaths_told), (double)slowest_ns / 1e6);
    printf("%llu messages put, %llu came, %llu missing; %llu stuck\n",
           (unsigned long long)put_count, (unsigned long long)got_count,
           (unsigned long long)missing, (unsigned long long)stuck);
    verdict(stuck == 0, "somebody was stuck");
    verdict(atomic_load(&books->twice) == 0, "a message came twice");
    verdict(atomic_load(&books->unknown) == 0, "a message came that nobody put");
    verdict(atomic_load(&books->disordered) == 0, "messages came out of order");
    verdict(missing <= killed_in_get, "messages are missing");
    verdict(atomic_load(&books->shared) == 0, "two held the mutex");
    verdict(atomic_load(&books->odd) == 0, "an operation failed");
}

static void
set_up(void)
{
    const struct sst_queue_options options = {.size_of = sizeof(options),
                                              .item_max = ROOM};

    books = mmap(NULL, sizeof(*books) + MARKS_SIZE, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (books == MAP_FAILED) {
        die("mmap: %s", strerror(errno));
    }
    must(sst_arena_create(NULL, &arena, NULL), "arena");
    must(sst_queue_create(arena, &options, &queue, NULL), "queue");
    must(sst_mutex_create(arena, 0, &mutex, NULL), "mutex");
    must(sst_semaphore_create(arena, UNITS, UNITS, &semaphore, NULL), "semaphore");
    must(sst_condition_create(arena, &condition, NULL), "condition");
}

int
main(int argc, char **argv)
{
    uint64_t wanted = 1000;
    int64_t begun_ns;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--kills") == 0) {
            wanted = strtoull(argv[i + 1], NULL, 10);
        }
        else if (strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[i + 1], NULL, 10) | 1;
        }
        else {
            die("usage: kills [--kills N] [--seed S]");
        }
    }
    set_up();
    begun_ns = now_ns();
    for (int i = 0; i < ACTORS; i++) {
        start(i);
    }
    while (killed < wanted && stuck == 0 && atomic_load(&books->odd) == 0) {
        const int index = (int)(chance() % ACTORS);

        nap((int64_t)(chance() % 1500000));
        kill_actor(index);
        start(index);
        if (killed % CALM_EVERY == 0) {
            calm();
        }
    }
    calm();
    for (int i = 0; i < ACTORS; i++) {
        kill_actor(i);
    }
    make_up_books();
    report(now_ns() - begun_ns);
    check_arena();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
