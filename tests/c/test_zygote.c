/* SPDX-License-Identifier: MIT */

/* Children by a zygote: whose they are, what they get, and who may die. The zygote here
 * is a forked child that runs the loop; the Python side makes it a program of its
 * own. */

#include "runner.h"

#include <fcntl.h>
#include <sidestep/sidestep.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os.h"

enum {
    MS = 1000000,
    MANY = 100,
    CODE_PARENT_IS_OWNER = 100,
    CODE_PARENT_IS_OTHER = 101,
};

/* What the tests ask a child to do: one byte down its tether. */
enum order {
    ORDER_EXIT_3 = 'e',
    ORDER_SLEEP = 's',
    ORDER_TELL_PARENT = 'p',
    ORDER_WRITE_TO_FD = 'w',
    ORDER_KILL_SELF = 'k',
    ORDER_TELL_SETUP = 'u',
};

/* How a child tells which setup it has, and when it had it. */
enum {
    CODE_SETUP_BEFORE = 50,
    CODE_SETUP_WITH_JOB = 60,
    CODE_SETUP_NONE = 70,
};

/* The first byte of what it had before it was ready, '0' for none. */
static char setup_before = '0';

static int
tell_setup(const struct sst_zygote_job *job)
{
    if (job->setup != NULL) {
        return CODE_SETUP_WITH_JOB + *(const char *)job->setup - '0';
    }
    return setup_before == '0' ? CODE_SETUP_NONE
                               : CODE_SETUP_BEFORE + setup_before - '0';
}

static int
obey(const struct sst_zygote_job *job)
{
    char order;

    if (job->size > 0) {
        memcpy(&order, job->data, 1);
    }
    else if (read(job->tether, &order, 1) != 1) {
        return 1;
    }
    switch (order) {
    case ORDER_EXIT_3:
        return 3;
    case ORDER_TELL_PARENT:
        return getppid() == job->parent_pid ? CODE_PARENT_IS_OWNER
                                            : CODE_PARENT_IS_OTHER;
    case ORDER_WRITE_TO_FD:
        return job->fd_count == 1 && write(job->fds[0], "x", 1) == 1 ? 0 : 2;
    case ORDER_KILL_SELF:
        (void)raise(SIGKILL);
        return 1;
    case ORDER_TELL_SETUP:
        return tell_setup(job);
    default:
        for (;;) {
            (void)pause();
        }
    }
}

static void
serve(struct sst_arena *arena, int tether)
{
    struct sst_zygote *zygote = NULL;
    struct sst_zygote_job job;
    int rc = sst_zygote_open(arena, tether, &zygote, NULL);

    while (rc == 0) {
        rc = sst_zygote_next(zygote, SST_FOREVER);
        if (rc == 0) {
            rc = sst_zygote_make(zygote);
        }
    }
    if (rc == SST_CHILD) {
        uint64_t size = 0;
        const char *const setup = sst_zygote_setup(zygote, &size);

        setup_before = setup != NULL ? *setup : '0';
        rc = sst_zygote_ready(zygote, &job);
        sst_process_exit(arena, rc == 0 ? obey(&job) : 0);
    }
    _exit(rc == SST_EOF ? 0 : 1);
}

static struct sst_arena *
arena_new(void)
{
    struct sst_arena *arena = NULL;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    return arena;
}

static struct sst_process *
zygote_new_idle(struct sst_arena *arena, bool siblings, uint32_t idle_ms)
{
    const struct sst_process_options options = {.size_of = sizeof(options),
                                                .die_with_parent = 1,
                                                .packets = 1,
                                                .warm_idle_ms = idle_ms};
    struct sst_process *process = NULL;

    if (siblings && sst_process_threads() != 1) {
        test_skip("a sanitizer's thread runs in every process");
    }
    check_ok(sst_process_new(arena, &options, &process, NULL));

    const int tether = sst_process_tether(process);
    const int rc = sst_process_fork(process, NULL);

    if (rc == SST_CHILD) {
        ssti_os_refuse_siblings(!siblings);
        serve(arena, tether);
    }
    check_ok(rc);
    return process;
}

static struct sst_process *
zygote_new(struct sst_arena *arena, bool siblings)
{
    return zygote_new_idle(arena, siblings, 0);
}

static struct sst_process *
child_new(struct sst_arena *arena)
{
    struct sst_process *process = NULL;

    check_ok(sst_process_new(arena, NULL, &process, NULL));
    return process;
}

static void
order(struct sst_process *process, char what)
{
    uint64_t sent = 0;

    check_status(sst_process_send(process, &what, 1, &sent), 0);
}

/* A job without data: the order follows. */
static const struct sst_job no_data = {.size_of = sizeof(no_data)};

static struct sst_process *
start(struct sst_process *zygote, struct sst_arena *arena, char what)
{
    struct sst_process *const process = child_new(arena);
    struct sst_error err = {0};

    const struct sst_job job = {.size_of = sizeof(job), .data = &what, .size = 1};

    check_ok(sst_zygote_start(zygote, process, &job, &err));
    return process;
}

static void
finish(struct sst_process *process, int expected)
{
    int code = -1000;

    check_status(sst_process_join(process, sst_deadline_after(INT64_C(10000) * MS)), 0);
    check_ok(sst_process_exit_code(process, &code));
    check_int(code, ==, expected);
    check_status(sst_process_join_gone(process,
                                       sst_deadline_after(INT64_C(10000) * MS)),
                 0);
    check_ptr(sst_process_close(process), ==, NULL);
}

static void
stop(struct sst_process *zygote)
{
    check_ok(sst_process_signal(zygote, SIGKILL));
    finish(zygote, -SIGKILL);
}

TEST(its_children_are_the_owners)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);

    finish(start(zygote, arena, ORDER_TELL_PARENT), CODE_PARENT_IS_OWNER);
    for (int i = 0; i < MANY; i++) {
        finish(start(zygote, arena, ORDER_EXIT_3), 3);
    }
    finish(start(zygote, arena, ORDER_KILL_SELF), -SIGKILL);
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

static int
setup_seen_by(struct sst_process *zygote, struct sst_arena *arena, const void *setup,
              uint64_t size)
{
    const char what = ORDER_TELL_SETUP;
    struct sst_process *const process = child_new(arena);
    const struct sst_job job = {.size_of = sizeof(job),
                                .data = &what,
                                .size = 1,
                                .setup = setup,
                                .setup_size = size};
    int code = -1;

    check_ok(sst_zygote_start(zygote, process, &job, NULL));
    check_ok(sst_process_join_gone(process, SST_FOREVER));
    check_ok(sst_process_exit_code(process, &code));
    check_ptr(sst_process_close(process), ==, NULL);
    return code;
}

TEST(children_have_the_setup_beforehand)
{
    static char large[100000] = "3";
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);

    check_int(setup_seen_by(zygote, arena, NULL, 0), ==, CODE_SETUP_NONE);
    for (int i = 0; i < 3; i++) {
        check_int(setup_seen_by(zygote, arena, "1", 1), ==, CODE_SETUP_BEFORE + 1);
    }
    /* The two that are warm by now have the other one. */
    check_int(setup_seen_by(zygote, arena, "2", 1), ==, CODE_SETUP_WITH_JOB + 2);
    /* One that is too long to be told is sent whenever it is needed. */
    for (int i = 0; i < 3; i++) {
        check_int(setup_seen_by(zygote, arena, large, sizeof(large)), ==,
                  CODE_SETUP_WITH_JOB + 3);
    }
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(its_death_harms_no_child)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);
    struct sst_process *const running = child_new(arena);

    check_ok(sst_zygote_start(zygote, running, &no_data, NULL));
    stop(zygote);
    check_status(sst_process_join(running, sst_deadline_after(20 * MS)), SST_ETIMEDOUT);
    order(running, ORDER_EXIT_3);
    finish(running, 3);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_dead_zygote_is_an_error_and_the_process_can_be_started_by_another)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *zygote = zygote_new(arena, true);
    struct sst_process *const process = child_new(arena);
    struct sst_error err = {0};

    check_ok(sst_process_signal(zygote, SIGKILL));
    check_status(sst_process_join(zygote, SST_FOREVER), 0);
    check_status(sst_zygote_start(zygote, process, &no_data, &err), SST_EPIPE);
    finish(zygote, -SIGKILL);

    zygote = zygote_new(arena, true);
    check_ok(sst_zygote_start(zygote, process, &no_data, NULL));
    order(process, ORDER_EXIT_3);
    finish(process, 3);
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

/* Killed at any moment, the zygote either has made the child or has not. */
TEST(killed_at_random_it_loses_nobody)
{
    struct sst_arena *const arena = arena_new();

    for (int i = 0; i < MANY; i++) {
        struct sst_process *const zygote = zygote_new(arena, true);
        struct sst_process *const first = start(zygote, arena, ORDER_EXIT_3);
        struct sst_process *const process = child_new(arena);
        const pid_t pid = sst_process_pid(zygote);
        const pid_t killer = fork();

        if (killer == 0) {
            for (int n = 0; n < i * 1000; n++) {
                __asm__ volatile("" ::: "memory");
            }
            _exit(kill(pid, SIGKILL) == 0 ? 0 : 1);
        }

        const int rc = sst_zygote_start(zygote, process, &no_data, NULL);

        test_join(killer);
        if (rc == 0) {
            order(process, ORDER_EXIT_3);
            finish(process, 3);
        }
        else {
            check_status(rc, SST_EPIPE);
            check_ptr(sst_process_close(process), ==, NULL);
        }
        finish(first, 3);
        finish(zygote, -SIGKILL);
    }
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(descriptors_come_with_the_job)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);
    struct sst_process *const process = child_new(arena);
    int fds[2];
    char byte = 0;

    check_int(pipe2(fds, O_CLOEXEC), ==, 0);

    const struct sst_job job = {.size_of = sizeof(job), .fds = &fds[1], .fd_count = 1};

    check_ok(sst_zygote_start(zygote, process, &job, NULL));
    (void)close(fds[1]);
    order(process, ORDER_WRITE_TO_FD);
    finish(process, 0);
    check_int(read(fds[0], &byte, 1), ==, 1);
    check_int(byte, ==, 'x');
    check_int(read(fds[0], &byte, 1), ==, 0); /* the zygote has closed its copy */
    (void)close(fds[0]);
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

/* The warm children of a zygote that is their parent come to us when it ends. */
static void
stop_parent(struct sst_process *zygote)
{
    stop(zygote);
    while (waitpid(-1, NULL, 0) > 0) {
        continue;
    }
}

TEST(where_siblings_are_refused_it_is_the_parent_and_reports)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, false);

    finish(start(zygote, arena, ORDER_TELL_PARENT), CODE_PARENT_IS_OTHER);
    for (int i = 0; i < MANY; i++) {
        finish(start(zygote, arena, ORDER_EXIT_3), 3);
    }
    finish(start(zygote, arena, ORDER_KILL_SELF), -SIGKILL);

    struct sst_process *const sleeper = start(zygote, arena, ORDER_SLEEP);

    check_status(sst_process_join(sleeper, sst_deadline_after(20 * MS)), SST_ETIMEDOUT);
    check_ok(sst_process_signal(sleeper, SIGTERM));
    finish(sleeper, -SIGTERM);
    stop_parent(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(many_at_a_time_where_it_is_the_parent)
{
    enum {
        COUNT = 8, /* more than it can watch at once */
    };
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, false);
    struct sst_process *processes[COUNT];

    for (int i = 0; i < COUNT; i++) {
        processes[i] = start(zygote, arena, ORDER_SLEEP);
    }
    for (int i = 0; i < COUNT; i++) {
        check_ok(sst_process_signal(processes[i], SIGKILL));
        finish(processes[i], -SIGKILL);
    }
    stop_parent(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

struct stranger {
    struct sst_arena *arena;
    struct sst_process *zygote;
};

static int
start_by_stranger(void *context)
{
    const struct stranger *const self = context;
    struct sst_process *const process = child_new(self->arena);
    const int rc = sst_zygote_start(self->zygote, process, &no_data, NULL);

    return rc == SST_ESRCH ? 0 : 1;
}

TEST(a_forked_child_cannot_use_its_parents_zygote)
{
    struct stranger self = {.arena = arena_new()};
    struct sst_process *process;

    self.zygote = zygote_new(self.arena, true);
    process = child_new(self.arena);
    check_ok(sst_process_run(process, start_by_stranger, &self, NULL));
    finish(process, 0);
    stop(self.zygote);
    check_ptr(sst_arena_detach(self.arena), ==, NULL);
}

/* ---- Warm children ---- */

static struct sst_zygote_statistics
look(struct sst_process *zygote)
{
    struct sst_zygote_statistics statistics = {.size_of = sizeof(statistics)};

    check_ok(sst_zygote_statistics(zygote, &statistics));
    return statistics;
}

/* At one moment: one that becomes ready goes from the second number to the first. */
static uint32_t
ready_or_coming(struct sst_process *zygote)
{
    const struct sst_zygote_statistics now = look(zygote);

    return now.warm + now.coming;
}

/* Two starts, and there is use for warm ones. */
static void
warm_up(struct sst_process *zygote, struct sst_arena *arena)
{
    finish(start(zygote, arena, ORDER_EXIT_3), 3);
    check_int(look(zygote).wanted, ==, 0);
    check_int(look(zygote).coming, ==, 0);
    finish(start(zygote, arena, ORDER_EXIT_3), 3);
    while (look(zygote).warm < 2) {
        test_nap();
    }
}

TEST(warm_children_come_with_use_and_take_jobs)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);

    warm_up(zygote, arena);
    check_int(look(zygote).memory, >, 0);
    finish(start(zygote, arena, ORDER_TELL_PARENT), CODE_PARENT_IS_OWNER);
    check_int(look(zygote).started, ==, 3);
    check_int(look(zygote).from_warm, ==, 1);
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

/* While the job runs the zygote keeps still, if there is a child for the next one. */
TEST(children_are_made_once_a_job_is_done_or_at_the_next_start)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);
    struct sst_process *running;

    warm_up(zygote, arena);
    check_ok(sst_zygote_refill(zygote)); /* nothing is missing */
    check_int(look(zygote).coming, ==, 0);
    running = start(zygote, arena, ORDER_SLEEP);
    check_int(ready_or_coming(zygote), ==, 1);
    check_ok(sst_zygote_refill(zygote));
    while (look(zygote).warm < 2) {
        test_nap();
    }
    finish(start(zygote, arena, ORDER_EXIT_3), 3);
    check_int(ready_or_coming(zygote), ==, 1);
    finish(start(zygote, arena, ORDER_EXIT_3), 3);
    check_int(ready_or_coming(zygote), ==, 2);
    check_ok(sst_process_signal(running, SIGKILL));
    finish(running, -SIGKILL);
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(warm_children_outlive_the_zygote)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);
    struct sst_process *const process = child_new(arena);
    uint32_t warm;

    warm_up(zygote, arena);
    warm = look(zygote).warm;
    check_ok(sst_process_signal(zygote, SIGKILL));
    check_status(sst_process_join_gone(zygote, SST_FOREVER), 0);
    for (uint32_t i = 0; i < warm; i++) {
        finish(start(zygote, arena, ORDER_EXIT_3), 3);
    }
    check_status(sst_zygote_start(zygote, process, &no_data, NULL), SST_EPIPE);
    check_ptr(sst_process_close(process), ==, NULL);
    finish(zygote, -SIGKILL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(idle_warm_children_are_given_back)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new_idle(arena, true, 50);

    warm_up(zygote, arena);
    while (look(zygote).memory > 0 && look(zygote).given_back == 0) {
        (void)usleep(100000);
        finish(start(zygote, arena, ORDER_EXIT_3), 3);
    }
    check_int(look(zygote).given_back, >, 0);
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(as_many_as_are_expected_are_made_at_once)
{
    enum {
        COUNT = 6,
    };
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);
    struct sst_process *processes[COUNT];

    check_ok(sst_zygote_expect(zygote, COUNT));
    processes[0] = start(zygote, arena, ORDER_SLEEP);

    const struct sst_zygote_statistics now = look(zygote);

    check_int(now.warm + now.coming, ==, COUNT - 1);
    for (int i = 1; i < COUNT; i++) {
        processes[i] = start(zygote, arena, ORDER_SLEEP);
    }
    for (int i = 0; i < COUNT; i++) {
        check_ok(sst_process_signal(processes[i], SIGKILL));
        finish(processes[i], -SIGKILL);
    }
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_large_job_arrives_whole)
{
    enum {
        SIZE = 1 << 20, /* more than a socket holds */
    };
    static char data[SIZE] = {ORDER_EXIT_3};
    const struct sst_job job = {.size_of = sizeof(job), .data = data, .size = SIZE};
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);
    struct sst_process *const process = child_new(arena);

    check_ok(sst_zygote_start(zygote, process, &job, NULL));
    finish(process, 3);
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(who_has_changed_needs_another_zygote)
{
    struct sst_arena *const arena = arena_new();
    struct sst_process *const zygote = zygote_new(arena, true);
    struct sst_process *const process = child_new(arena);
    const mode_t before = umask(077);

    check_status(sst_zygote_start(zygote, process, &no_data, NULL), SST_EPERM);
    (void)umask(before);
    check_ok(sst_zygote_start(zygote, process, &no_data, NULL));
    order(process, ORDER_EXIT_3);
    finish(process, 3);

    struct rlimit limit;

    check_int(getrlimit(RLIMIT_CORE, &limit), ==, 0);
    limit.rlim_cur = limit.rlim_cur == 0 ? limit.rlim_max : 0;
    if (setrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_max != 0) {
        struct sst_process *const other = child_new(arena);

        check_status(sst_zygote_start(zygote, other, &no_data, NULL), SST_EPERM);
        check_ptr(sst_process_close(other), ==, NULL);
    }
    stop(zygote);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

/* ---- Its own end ---- */

static void
own_a_zygote(void *context)
{
    const int *const fds = context;
    struct sst_arena *const arena = arena_new();

    struct sst_process *zygote;

    (void)close(fds[0]);
    zygote = zygote_new(arena, sst_process_threads() == 1);
    warm_up(zygote, arena);
    check_int(write(fds[1], "x", 1), ==, 1);
    for (;;) {
        (void)pause();
    }
}

TEST(it_and_warm_children_die_with_their_owner)
{
    int fds[2];
    char byte;

    check_int(pipe2(fds, O_CLOEXEC), ==, 0);

    const pid_t owner = test_fork(own_a_zygote, fds);

    (void)close(fds[1]);
    check_int(read(fds[0], &byte, 1), ==, 1);
    test_kill(owner);
    check_int(read(fds[0], &byte, 1), ==, 0);
    (void)close(fds[0]);
    while (waitpid(-1, NULL, 0) > 0) {
        /* The zygote, and the child it tried its way with, came to us. */
    }
}
