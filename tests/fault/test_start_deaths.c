/* SPDX-License-Identifier: MIT */

/* A zygote, its children and its owner are killed in turn at every crash point on the
 * way of a job from one to the other. The next start works, each started process ends
 * with its own code or with the signal, and nobody and nothing is left behind. Built
 * with -Dcrashpoints=true only. */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crashpoint.h"
#include "c/peers.h"

enum {
    STARTS = 8,
    HITS_MAX = 4,
    TRIES = 4,
    CODE = 3,
    LARGE = 600000, /* bytes, which no socket buffer takes at once */
};

static struct sst_arena *arena;
static uint8_t large[LARGE];
static uint32_t replaced; /* zygotes that were found dead */

static bool
is_of_child(const char *point)
{
    return point != NULL && strncmp(point, "start_child_", 12) == 0;
}

/* The zygote's program, and its children's. It dies at the point when it comes there
 * for the nth time; of children the nth dies, at once. */
static void
serve(int tether, const char *point, uint64_t nth)
{
    struct sst_zygote *zygote = NULL;
    struct sst_zygote_job job;
    uint64_t size = 0;
    int rc = sst_zygote_open(arena, tether, &zygote, NULL);

    if (!is_of_child(point)) {
        ssti_crashpoint_arm(point, nth);
    }
    for (uint64_t made = 1; rc == 0; made++) {
        rc = sst_zygote_next(zygote, SST_FOREVER);
        if (is_of_child(point)) {
            ssti_crashpoint_arm(made == nth ? point : NULL, 1);
        }
        if (rc == 0) {
            rc = sst_zygote_make(zygote);
        }
    }
    if (rc == SST_CHILD) {
        (void)sst_zygote_setup(zygote, &size);
        rc = sst_zygote_ready(zygote, &job);
        sst_process_exit(arena, rc == 0 ? CODE : 0);
    }
    _exit(rc == SST_EOF ? 0 : 1);
}

static struct sst_process *
zygote_new(const char *point, uint64_t nth)
{
    const struct sst_process_options options = {.size_of = sizeof(options),
                                                .die_with_parent = 1,
                                                .packets = 1};
    struct sst_process *process = NULL;

    check_ok(sst_process_new(arena, &options, &process, NULL));

    const int tether = sst_process_tether(process);
    const int rc = sst_process_fork(process, NULL);

    if (rc == SST_CHILD) {
        serve(tether, point, nth);
    }
    check_ok(rc);
    return process;
}

/* Start a process, by a new zygote when the old one is dead. */
static struct sst_process *
start(struct sst_process **zygote, uint32_t index)
{
    const struct sst_job job = {
        .size_of = sizeof(job),
        .data = large,
        .size = index % 2 == 0 ? 1 : LARGE,
        .setup = index < STARTS / 2 ? "one" : "other",
        .setup_size = index < STARTS / 2 ? 3 : 5,
    };
    struct sst_process *process = NULL;

    check_ok(sst_process_new(arena, NULL, &process, NULL));
    for (int i = 0; i < TRIES; i++) {
        const int rc = sst_zygote_start(*zygote, process, &job, NULL);

        if (rc == 0) {
            return process;
        }
        if (rc == SST_EPIPE) {
            check_ptr(sst_process_close(*zygote), ==, NULL);
            *zygote = zygote_new(NULL, 0);
            replaced++;
            continue;
        }
        check_status(rc, -ECHILD); /* one was killed before it could get the job */
    }
    test_fail(__FILE__, __LINE__, "no start in %d tries", TRIES);
    return NULL;
}

/* Whether it was killed. */
static bool
finish(struct sst_process *process)
{
    int code = 0;

    check_ok(sst_process_join_gone(process, SST_FOREVER));
    check_ok(sst_process_exit_code(process, &code));
    check(code == CODE || code == -SIGKILL);
    check_ptr(sst_process_close(process), ==, NULL);
    return code != CODE;
}

static uint64_t
slots_now(void)
{
    struct sst_arena_statistics statistics;

    (void)sst_arena_sweep(arena);
    check_ok(sst_arena_statistics(arena, &statistics));
    return statistics.slots;
}

/* The zygote or one of its children dies. */
static bool
die_beside_us(const struct ssti_crashpoint *point, uint64_t nth)
{
    const bool is_childs = is_of_child(point->name);
    const uint64_t before = slots_now();
    struct sst_process *zygote = zygote_new(point->name, nth);
    struct sst_process *processes[STARTS];
    uint32_t killed = 0;

    replaced = 0;
    for (uint32_t i = 0; i < STARTS; i++) {
        processes[i] = start(&zygote, i);
    }
    for (uint32_t i = 0; i < STARTS; i++) {
        killed += finish(processes[i]);
    }
    /* A zygote's death is no child's. */
    check(is_childs || killed == 0);

    check_ptr(sst_process_close(zygote), ==, NULL);
    (void)sst_process_reap();
    while (waitpid(-1, NULL, 0) > 0) {
        /* Children that died before anybody knew of them. */
    }
    check_int(slots_now(), ==, before);
    return replaced > 0 || is_childs;
}

struct owner {
    const struct ssti_crashpoint *point;
    uint64_t nth;
};

static void
own(void *arg)
{
    const struct owner *const owner = arg;
    struct sst_process *zygote = zygote_new(NULL, 0);

    ssti_crashpoint_arm(owner->point->name, owner->nth);
    for (uint32_t i = 0; i < STARTS; i++) {
        (void)finish(start(&zygote, i));
    }
    ssti_crashpoint_arm(NULL, 0);
    check_ptr(sst_process_close(zygote), ==, NULL);
}

/* We die, and with us goes whoever was made for us. */
static bool
die_ourselves(const struct ssti_crashpoint *point, uint64_t nth)
{
    struct owner owner = {point, nth};
    const uint64_t before = slots_now();
    int fds[2];
    int status;
    char byte;
    pid_t pid;

    check_int(pipe(fds), ==, 0);
    pid = test_fork(own, &owner);
    check_int(close(fds[1]), ==, 0);
    check_int(waitpid(pid, &status, 0), ==, pid);
    check(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    check_int(read(fds[0], &byte, 1), ==, 0); /* nobody has the other end */
    check_int(close(fds[0]), ==, 0);
    while (waitpid(-1, NULL, 0) > 0) {
        /* Orphans come to us. */
    }
    check_int(slots_now(), ==, before);
    return WIFSIGNALED(status);
}

static uint32_t
kill_at_points_of(const char *prefix,
                  bool (*die_at)(const struct ssti_crashpoint *point, uint64_t nth))
{
    const struct ssti_crashpoint *point;
    uint32_t count = 0;

    if (sst_process_threads() != 1) {
        test_skip("a sanitizer's thread runs in every process");
    }
    arena = arena_open();
    for (uint32_t i = 0; (point = ssti_crashpoint_at(i)) != NULL; i++) {
        if (strncmp(point->name, prefix, strlen(prefix)) != 0) {
            continue;
        }
        if (!die_at(point, 1)) {
            test_fail(__FILE__, __LINE__, "%s was never reached", point->name);
        }
        for (uint64_t nth = 2; nth <= HITS_MAX; nth++) {
            (void)die_at(point, nth);
        }
        count++;
    }
    arena_close(arena);
    return count;
}

TEST(the_zygote_at_every_point)
{
    check_int(kill_at_points_of("start_zygote_", die_beside_us), ==, 4);
}

TEST(a_child_at_every_point)
{
    check_int(kill_at_points_of("start_child_", die_beside_us), ==, 6);
}

TEST(the_owner_at_every_point)
{
    check_int(kill_at_points_of("start_owner_", die_ourselves), ==, 4);
}
