/* SPDX-License-Identifier: MIT */

/* What the synchronisation objects cost in C, in nanoseconds: the best of several
 * rounds, because on a shared machine everything else is somebody else's time.
 *
 *     bench_sync [rounds]
 *
 * For comparison: a process-shared pthread mutex and a POSIX semaphore in shared
 * memory. */

#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sidestep/sidestep.h"

struct shared {
    pthread_mutex_t mutex;
    pthread_mutex_t robust;
    sem_t semaphore, there, back;
    _Atomic int started;
};

struct bench {
    struct sst_mutex *mutex, *recursive;
    struct sst_semaphore *counting, *bounded;
    struct sst_event *there, *back;
    struct shared *shared;
    int64_t paused_ns; /* of the run, not to be counted */
};

struct row {
    const char *name;
    void (*run)(struct bench *bench, int64_t count);  /* `count` operations */
    void (*peer)(struct bench *bench, int64_t count); /* in another process meanwhile */
    int64_t count;
};

static int64_t
now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void
must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "failed: %s\n", sst_status_name(rc));
        exit(EXIT_FAILURE);
    }
}

/* ---- Operations ---- */

static void
run_mutex(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        must(sst_mutex_acquire(bench->mutex, SST_FOREVER));
        must(sst_mutex_release(bench->mutex));
    }
}

static void
run_recursive(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        must(sst_mutex_acquire(bench->recursive, SST_FOREVER));
        must(sst_mutex_release(bench->recursive));
    }
}

static void
run_counting(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        must(sst_semaphore_acquire(bench->counting, SST_FOREVER));
        must(sst_semaphore_release(bench->counting, 1));
    }
}

static void
run_bounded(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        must(sst_semaphore_acquire(bench->bounded, SST_FOREVER));
        must(sst_semaphore_release(bench->bounded, 1));
    }
}

static void
run_is_set(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        must(sst_event_wait(bench->back, SST_NOW) == 0 ? SST_EINVAL : 0);
    }
}

static void
run_event(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        sst_event_set(bench->there);
        must(sst_event_wait(bench->back, SST_FOREVER));
        sst_event_clear(bench->back);
    }
}

static void
answer_event(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        must(sst_event_wait(bench->there, SST_FOREVER));
        sst_event_clear(bench->there);
        sst_event_set(bench->back);
    }
}

static void
run_event_sparse(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const int64_t begin_ns = now_ns();
        const struct timespec pause = {.tv_nsec = 300000};

        (void)nanosleep(&pause, NULL);
        bench->paused_ns += now_ns() - begin_ns;
        run_event(bench, 1);
    }
}

static void
run_pthread(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        (void)pthread_mutex_lock(&bench->shared->mutex);
        (void)pthread_mutex_unlock(&bench->shared->mutex);
    }
}

static void
run_robust(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        (void)pthread_mutex_lock(&bench->shared->robust);
        (void)pthread_mutex_unlock(&bench->shared->robust);
    }
}

static void
run_posix(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        (void)sem_wait(&bench->shared->semaphore);
        (void)sem_post(&bench->shared->semaphore);
    }
}

static void
run_posix_pair(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        (void)sem_post(&bench->shared->there);
        (void)sem_wait(&bench->shared->back);
    }
}

static void
answer_posix_pair(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        (void)sem_wait(&bench->shared->there);
        (void)sem_post(&bench->shared->back);
    }
}

static const struct row rows[] = {
    {"mutex, acquire + release", run_mutex, NULL, 1000000},
    {"recursive mutex", run_recursive, NULL, 1000000},
    {"semaphore", run_counting, NULL, 1000000},
    {"bounded semaphore", run_bounded, NULL, 1000000},
    {"event, wait that fails at once", run_is_set, NULL, 1000000},
    {"pthread mutex, shared", run_pthread, NULL, 1000000},
    {"pthread mutex, shared and robust", run_robust, NULL, 1000000},
    {"POSIX semaphore", run_posix, NULL, 1000000},
    {"mutex, contended by 2", run_mutex, run_mutex, 300000},
    {"semaphore of 1 unit, contended by 2", run_counting, run_counting, 300000},
    {"pthread mutex, contended by 2", run_pthread, run_pthread, 300000},
    {"POSIX semaphore, contended by 2", run_posix, run_posix, 300000},
    {"event, there and back", run_event, answer_event, 20000},
    {"POSIX semaphores, there and back", run_posix_pair, answer_posix_pair, 20000},
    {"event, there and back, 300 us apart", run_event_sparse, answer_event, 500},
};

/* Nanoseconds for one operation of `row`. */
static double
measure(struct bench *bench, const struct row *row)
{
    pid_t peer = 0;
    int64_t begin_ns;
    int64_t end_ns;

    atomic_store(&bench->shared->started, 0);
    if (row->peer != NULL) {
        peer = fork();
        if (peer == 0) {
            atomic_store(&bench->shared->started, 1);
            row->peer(bench, row->count);
            _exit(0);
        }
        while (atomic_load(&bench->shared->started) == 0) {
        }
    }
    bench->paused_ns = 0;
    begin_ns = now_ns();
    row->run(bench, row->count);
    end_ns = now_ns();
    if (peer > 0) {
        (void)waitpid(peer, NULL, 0);
    }
    if (row->peer == row->run) {
        /* The peer does as many, and both count until both are done. */
        end_ns = now_ns();
    }
    end_ns -= bench->paused_ns;
    return (double)(end_ns - begin_ns) / (double)row->count /
           (row->peer == row->run ? 2 : 1);
}

static void
set_up(struct bench *bench, struct sst_arena *arena)
{
    pthread_mutexattr_t attributes;

    must(sst_mutex_create(arena, 0, &bench->mutex, NULL));
    must(sst_mutex_create(arena, SST_MUTEX_RECURSIVE, &bench->recursive, NULL));
    must(sst_semaphore_create(arena, 1, 1000, &bench->counting, NULL));
    must(sst_semaphore_create(arena, 1, 1, &bench->bounded, NULL));
    must(sst_event_create(arena, &bench->there, NULL));
    must(sst_event_create(arena, &bench->back, NULL));

    bench->shared = mmap(NULL, sizeof(*bench->shared), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bench->shared == MAP_FAILED) {
        must(SST_ENOMEM);
    }
    (void)pthread_mutexattr_init(&attributes);
    (void)pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    (void)pthread_mutex_init(&bench->shared->mutex, &attributes);
    (void)pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    (void)pthread_mutex_init(&bench->shared->robust, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
    (void)sem_init(&bench->shared->semaphore, 1, 1);
    (void)sem_init(&bench->shared->there, 1, 0);
    (void)sem_init(&bench->shared->back, 1, 0);
}

int
main(int argc, char **argv)
{
    const int rounds = argc > 1 ? atoi(argv[1]) : 5;
    struct sst_arena *arena;
    struct bench bench;
    struct sst_error err = {0};

    if (sst_arena_create(NULL, &arena, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    set_up(&bench, arena);

    printf("%-40s %10s %10s\n", "ns an operation", "best", "mean");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        double best = 1e18;
        double mean = 0;

        for (int round = 0; round < rounds; round++) {
            const double ns = measure(&bench, &rows[i]);

            best = ns < best ? ns : best;
            mean += ns / rounds;
        }
        printf("%-40s %10.1f %10.1f\n", rows[i].name, best, mean);
    }
    return EXIT_SUCCESS;
}
