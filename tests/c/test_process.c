/* SPDX-License-Identifier: MIT */

/* Starting, joining, signalling, reaping; fork and spawn. */

#include "runner.h"

#include <fcntl.h>
#include <pthread.h>
#include <sidestep/sidestep.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proc/cpu.h"

enum {
    MS = 1000000,
    MANY = 200,
};

static struct sst_arena *
arena_new(void)
{
    struct sst_arena *arena = NULL;
    struct sst_error err = {0};

    check_ok(sst_arena_create(NULL, &arena, &err));
    return arena;
}

static struct sst_process *
process_new(struct sst_arena *arena, bool die_with_parent)
{
    const struct sst_process_options options = {
        .size_of = sizeof(options),
        .die_with_parent = die_with_parent,
    };
    struct sst_process *process = NULL;
    struct sst_error err = {0};

    check_ok(sst_process_new(arena, &options, &process, &err));
    return process;
}

/* Joins, checks the code, waits for the kernel, closes. */
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

static int
return_it(void *context)
{
    const int *const code = context;

    return *code;
}

static int
sleep_for_ever(void *context)
{
    (void)context;
    for (;;) {
        (void)pause();
    }
    return 0;
}

static struct sst_process *
run(struct sst_arena *arena, sst_process_fn fn, void *context)
{
    struct sst_process *const process = process_new(arena, false);
    struct sst_error err = {0};

    check_ok(sst_process_run(process, fn, context, &err));
    return process;
}

TEST(a_child_runs_a_function_and_its_code_is_known)
{
    struct sst_arena *arena = arena_new();
    int code = 7;

    finish(run(arena, return_it, &code), 7);
    code = 256 + 3;
    finish(run(arena, return_it, &code), 3);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_killed_child_has_the_signal_as_its_code)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = run(arena, sleep_for_ever, NULL);

    check_int(sst_process_pid(process), >, 0);
    check_ok(sst_process_signal(process, SIGKILL));
    finish(process, -SIGKILL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_child_killed_at_birth_is_joined)
{
    struct sst_arena *arena = arena_new();
    struct sst_arena_statistics statistics = {0};
    struct sst_event *event = NULL;

    check_ok(sst_event_create(arena, &event, NULL)); /* inherited by each */
    for (int i = 0; i < MANY; i++) {
        struct sst_process *const process = run(arena, sleep_for_ever, NULL);

        check_ok(sst_process_signal(process, SIGKILL));
        finish(process, -SIGKILL);
    }
    check_ptr(sst_event_close(event), ==, NULL);
    check_int(sst_arena_sweep(arena), >=, 0);
    check_int(sst_arena_statistics(arena, &statistics), ==, 0);
    check_int(statistics.slots, ==, 0);
    check_int(statistics.processes, ==, 1);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(join_has_a_deadline)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = run(arena, sleep_for_ever, NULL);
    int code = 0;

    check_status(sst_process_join(process, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_process_join(process, sst_deadline_after(5 * MS)), SST_ETIMEDOUT);
    check_status(sst_process_exit_code(process, &code), SST_EAGAIN);
    check_ok(sst_process_signal(process, SIGTERM));
    finish(process, -SIGTERM);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

static void
handler(int number)
{
    (void)number;
}

TEST(join_is_interrupted_by_a_signal)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = run(arena, sleep_for_ever, NULL);
    struct sigaction action = {.sa_handler = handler};

    check_int(sigaction(SIGALRM, &action, NULL), ==, 0);
    (void)ualarm(5000, 5000); /* again and again: the first may come before the join */
    check_status(sst_process_join(process, SST_FOREVER), SST_EINTR);
    (void)ualarm(0, 0);
    check_ok(sst_process_signal(process, SIGKILL));
    finish(process, -SIGKILL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

static int
hold_pipe(void *context)
{
    const int *const fds = context;

    (void)close(fds[0]);
    return 0;
}

/* What join promises: the descriptors of the child are closed. */
TEST(done_means_that_descriptors_are_closed)
{
    struct sst_arena *arena = arena_new();

    for (int i = 0; i < MANY; i++) {
        int fds[2];
        char byte;

        check_int(pipe2(fds, O_CLOEXEC | O_NONBLOCK), ==, 0);

        struct sst_process *const process = run(arena, hold_pipe, fds);

        (void)close(fds[1]);
        check_status(sst_process_join(process, SST_FOREVER), 0);
        check_int(read(fds[0], &byte, 1), ==, 0); /* end of file, not EAGAIN */
        (void)close(fds[0]);
        finish(process, 0);
    }
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(gone_means_that_the_pid_is_free)
{
    struct sst_arena *arena = arena_new();
    int code = 0;
    struct sst_process *const process = run(arena, return_it, &code);
    const pid_t pid = sst_process_pid(process);

    check_status(sst_process_join_gone(process, SST_FOREVER), 0);
    check_int(waitpid(pid, NULL, WNOHANG), ==, -1);
    finish(process, 0);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

static void *
nap_for_ever(void *context)
{
    (void)context;
    for (;;) {
        (void)pause();
    }
    return NULL;
}

static int
start_thread(void *context)
{
    pthread_t thread;
    const int *const code = context;

    check_int(pthread_create(&thread, NULL, nap_for_ever, NULL), ==, 0);
    return *code;
}

TEST(a_child_with_other_threads_ends_all_the_same)
{
    struct sst_arena *arena = arena_new();
    int code = 9;

    finish(run(arena, start_thread, &code), 9);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

static int
let_go(void *context)
{
    (void)context;
    for (int fd = 3; fd < 1024; fd++) {
        (void)close(fd);
    }
    return sleep_for_ever(NULL);
}

/* The tether hangs up early: that alone must not look like an end. */
TEST(a_child_that_closes_everything_is_still_alive)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = run(arena, let_go, NULL);

    check_status(sst_process_join(process, sst_deadline_after(50 * MS)), SST_ETIMEDOUT);
    check_ok(sst_process_signal(process, SIGKILL));
    finish(process, -SIGKILL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(who_takes_the_exit_code_away_makes_it_unknown)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = run(arena, sleep_for_ever, NULL);
    const pid_t pid = sst_process_pid(process);

    check_ok(sst_process_signal(process, SIGKILL));
    check_int(waitpid(pid, NULL, 0), ==, pid);
    finish(process, 255);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(only_our_own_children_are_waited_for)
{
    struct sst_arena *arena = arena_new();
    int code = 0;
    const pid_t other = fork();

    if (other == 0) {
        _exit(42);
    }
    finish(run(arena, return_it, &code), 0);
    (void)sst_process_reap();

    int status = 0;

    check_int(waitpid(other, &status, 0), ==, other);
    check_int(WEXITSTATUS(status), ==, 42);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_process_given_up_is_reaped_later)
{
    struct sst_arena *arena = arena_new();
    int code = 0;
    struct sst_process *const process = run(arena, return_it, &code);
    const pid_t pid = sst_process_pid(process);

    check_ptr(sst_process_close(process), ==, NULL);
    eventually(sst_process_reap() >= 0 && waitpid(pid, NULL, WNOHANG) == -1);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

static int
try_to_join(void *context)
{
    struct sst_process *const sibling = context;

    if (sst_process_join(sibling, SST_NOW) != SST_ESRCH) {
        return 1;
    }
    return sst_process_signal(sibling, SIGKILL) == 0 ? 0 : 2;
}

TEST(a_sibling_may_signal_but_not_join)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const victim = run(arena, sleep_for_ever, NULL);

    finish(run(arena, try_to_join, victim), 0);
    finish(victim, -SIGKILL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

static int
start_another(void *context)
{
    int code = 5;
    struct sst_process *const process = run(context, return_it, &code);

    finish(process, 5);
    return 6;
}

/* Plain forks, which no process of the library knows of, all at once, until there are
 * enough of them. */
static int
multiply(void *context)
{
    _Atomic int *const count = context;

    while (atomic_fetch_add(count, 1) < MANY) {
        (void)fork();
    }
    return sleep_for_ever(NULL);
}

/* Orphans are ours: we are their sub-reaper. */
static void
reap_orphans(void)
{
    while (waitpid(-1, NULL, 0) > 0) {
        /* Until none is left, which takes for ever when one lives. */
    }
}

TEST(all_that_it_has_started_is_killed)
{
    struct sst_arena *arena = arena_new();

    /* While the tree grows as well as when it is complete. */
    for (int size = 1; size <= MANY; size = size * 3 / 2 + 1) {
        struct sst_block *block = NULL;
        struct sst_process *process;
        _Atomic int *count;

        check_ok(sst_block_create(arena, sizeof(int), &block, NULL));
        count = sst_block_data(block);
        process = run(arena, multiply, (void *)count);
        eventually(atomic_load(count) >= size);
        check_int(sst_process_kill_tree(process), >, 0);
        check_status(sst_process_join_gone(process, SST_FOREVER), 0);
        check_int(sst_process_kill_tree(process), ==, 0);
        check_ptr(sst_process_close(process), ==, NULL);
        reap_orphans();
        check_ptr(sst_block_close(block), ==, NULL);
    }
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(children_have_children)
{
    struct sst_arena *arena = arena_new();

    finish(run(arena, start_another, arena), 6);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

/* ---- Death of the parent ---- */

struct family {
    struct sst_arena *arena;
    bool die_with_parent;
    int alive[2]; /* the grandchild holds the writing end while it lives */
    int ready[2];
    pid_t grandchild;
};

static int
live_on(void *context)
{
    const struct family *const family = context;
    const pid_t self = getpid();

    (void)close(family->alive[0]);
    check_int(write(family->ready[1], &self, sizeof(self)), ==, sizeof(self));
    return sleep_for_ever(NULL);
}

static void
start_and_wait(void *context)
{
    struct family *const family = context;
    struct sst_process *const process =
        process_new(family->arena, family->die_with_parent);

    check_ok(sst_process_run(process, live_on, family, NULL));
    (void)close(family->alive[1]);
    (void)sleep_for_ever(NULL);
}

/* Has a child start a grandchild, kills the child once the grandchild runs. */
static void
orphan(struct family *family)
{
    check_int(pipe2(family->alive, O_CLOEXEC | O_NONBLOCK), ==, 0);
    check_int(pipe2(family->ready, O_CLOEXEC), ==, 0);

    const pid_t parent = test_fork(start_and_wait, family);

    (void)close(family->alive[1]);
    check_int(read(family->ready[0], &family->grandchild, sizeof(pid_t)), ==,
              sizeof(pid_t));
    test_kill(parent);
    (void)close(family->ready[0]);
    (void)close(family->ready[1]);
}

TEST(told_to_it_dies_with_its_parent)
{
    struct family family = {.arena = arena_new(), .die_with_parent = true};
    char byte;

    orphan(&family);
    eventually(read(family.alive[0], &byte, 1) == 0);
    (void)close(family.alive[0]);
    while (waitpid(-1, NULL, 0) > 0) {
        /* The grandchild came to us. */
    }
    check_ptr(sst_arena_detach(family.arena), ==, NULL);
}

TEST(otherwise_it_outlives_its_parent)
{
    struct family family = {.arena = arena_new()};
    char byte;

    orphan(&family);
    for (int i = 0; i < 100; i++) {
        check_int(read(family.alive[0], &byte, 1), ==, -1);
        test_nap();
    }
    check_int(kill(family.grandchild, SIGKILL), ==, 0);
    eventually(read(family.alive[0], &byte, 1) == 0);
    while (waitpid(-1, NULL, 0) > 0) {
        /* It ended by the signal. */
    }
    (void)close(family.alive[0]);
    check_ptr(sst_arena_detach(family.arena), ==, NULL);
}

static void *
start_in_thread(void *context)
{
    struct family *const family = context;
    struct sst_process *const process = process_new(family->arena, true);

    check_ok(sst_process_run(process, live_on, family, NULL));
    return process;
}

/* The kernel signals the end of the thread that forked; that is not the parent's
 * end. */
TEST(it_survives_the_thread_that_started_it)
{
    struct family family = {.arena = arena_new()};
    struct sst_process *process = NULL;
    pthread_t thread;
    char byte;

    check_int(pipe2(family.alive, O_CLOEXEC | O_NONBLOCK), ==, 0);
    check_int(pipe2(family.ready, O_CLOEXEC), ==, 0);
    check_int(pthread_create(&thread, NULL, start_in_thread, &family), ==, 0);
    check_int(pthread_join(thread, (void **)&process), ==, 0);
    (void)close(family.alive[1]);
    check_int(read(family.ready[0], &family.grandchild, sizeof(pid_t)), ==,
              sizeof(pid_t));
    for (int i = 0; i < 100; i++) {
        check_int(read(family.alive[0], &byte, 1), ==, -1);
        test_nap();
    }
    check_ok(sst_process_signal(process, SIGKILL));
    finish(process, -SIGKILL);
    (void)close(family.alive[0]);
    (void)close(family.ready[0]);
    (void)close(family.ready[1]);
    check_ptr(sst_arena_detach(family.arena), ==, NULL);
}

/* ---- spawn ---- */

static struct sst_process *
shell(struct sst_arena *arena, char *script, const int *fds, uint32_t fd_count)
{
    struct sst_process *const process = process_new(arena, false);
    char *const argv[] = {"sh", "-c", script, NULL};
    const struct sst_program program = {
        .size_of = sizeof(program),
        .path = "/bin/sh",
        .argv = argv,
        .fds = fds,
        .fd_count = fd_count,
    };
    struct sst_error err = {0};

    check_ok(sst_process_spawn(process, &program, &err));
    return process;
}

static char exit_0[] = "exit 0";
static char exit_5[] = "exit 5";
static char kill_self[] = "kill -9 $$";

TEST(a_program_is_started_and_its_code_is_known)
{
    struct sst_arena *arena = arena_new();

    finish(shell(arena, exit_5, NULL, 0), 5);
    finish(shell(arena, kill_self, NULL, 0), -SIGKILL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_program_that_is_not_there_is_an_error)
{
    if (sst_process_threads() != 1) {
        test_skip("the thread sanitizer makes a fork of vfork");
    }

    struct sst_arena *arena = arena_new();
    struct sst_process *const process = process_new(arena, false);
    char *const argv[] = {"nothing", NULL};
    const struct sst_program program = {
        .size_of = sizeof(program),
        .path = "/nowhere/nothing",
        .argv = argv,
    };
    struct sst_error err = {0};

    check_status(sst_process_spawn(process, &program, &err), SST_ENOENT);
    check(strstr(err.text, "/nowhere/nothing") != NULL);
    check_ptr(sst_process_close(process), ==, NULL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_program_gets_the_descriptors_it_was_given_and_no_others)
{
    struct sst_arena *arena = arena_new();
    char script[128];
    const int kept = fcntl(0, F_DUPFD, 20);
    const int dropped = fcntl(0, F_DUPFD, 30); /* inheritable, and yet not inherited */

    (void)snprintf(script, sizeof(script),
                   "test -e /proc/self/fd/%d -a ! -e /proc/self/fd/%d", kept, dropped);
    finish(shell(arena, script, &kept, 1), 0);
    (void)close(kept);
    (void)close(dropped);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(bytes_go_down_the_tether)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = process_new(arena, false);
    char script[64];
    uint64_t sent = 0;

    (void)snprintf(script, sizeof(script), "read word <&%d; exit $word",
                   sst_process_tether(process));

    char *const argv[] = {"sh", "-c", script, NULL};
    const struct sst_program program = {
        .size_of = sizeof(program),
        .path = "/bin/sh",
        .argv = argv,
    };
    struct sst_error err = {0};

    check_ok(sst_process_spawn(process, &program, &err));
    check_status(sst_process_send(process, "33\n", 3, &sent), 0);
    check_int(sent, ==, 3);
    finish(process, 33);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

TEST(a_dead_child_cannot_be_sent_to)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = shell(arena, exit_0, NULL, 0);
    uint64_t sent = 0;

    check_status(sst_process_join(process, SST_FOREVER), 0);
    check_status(sst_process_send(process, "x", 1, &sent), SST_EPIPE);
    finish(process, 0);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

/* ---- A spawned program joins the tree ---- */

#define ORIGIN "SST_TEST_ORIGIN"

/* The other half of the next test, run by it as a program of its own. */
TEST(adopted_inner)
{
    const char *const text = getenv(ORIGIN);
    struct sst_origin origin = {.size_of = sizeof(origin)};
    struct sst_handle handle = {.kind = SST_KIND_EVENT};
    struct sst_arena *arena = NULL;
    struct sst_event *event = NULL;
    struct sst_error err = {0};
    unsigned long long id;
    unsigned long long offset;

    if (text == NULL) {
        test_skip("run by a_program_joins_the_tree");
    }
    check_int(sscanf(text, "%llu %d %d %d %llu %u", &id, &origin.arena_fd,
                     &origin.tether, &origin.parent_pid, &offset, &handle.generation),
              ==, 6);
    origin.id = id;
    check_ok(sst_process_adopt(&origin, &arena, &err));
    handle.arena = sst_arena_id(arena);
    handle.offset = offset;
    check_ok(sst_event_attach(arena, &handle, &event, &err));
    sst_process_settle(arena);
    sst_event_set(event);
    sst_process_exit(arena, 77);
}

TEST(a_program_joins_the_tree)
{
    struct sst_arena *arena = arena_new();
    struct sst_process *const process = process_new(arena, false);
    struct sst_event *event = NULL;
    struct sst_handle handle;
    struct sst_error err = {0};
    char variable[160];
    uint64_t id = 0;

    check_ok(sst_event_create(arena, &event, &err));
    sst_event_handle(event, &handle);
    check_ok(sst_process_hold(process, &handle));
    check_ok(sst_process_reserve(process, &id));
    (void)snprintf(variable, sizeof(variable), ORIGIN "=%llu %d %d %d %llu %u",
                   (unsigned long long)id, sst_arena_fd(arena),
                   sst_process_tether(process), (int)getpid(),
                   (unsigned long long)handle.offset, handle.generation);

    char *const argv[] = {"test_process", "adopted_inner", NULL};
    char *const env[] = {variable, NULL};
    const struct sst_program program = {
        .size_of = sizeof(program),
        .path = "/proc/self/exe",
        .argv = argv,
        .env = env,
    };

    check_ok(sst_process_spawn(process, &program, &err));
    check_status(sst_event_wait(event, sst_deadline_after(INT64_C(10000) * MS)), 0);
    finish(process, 77);
    check_ptr(sst_event_close(event), ==, NULL);
    check_ptr(sst_arena_detach(arena), ==, NULL);
}

/* ---- CPUs ---- */

static void
write_file(const char *folder, const char *name, const char *text)
{
    char path[512];

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);

    FILE *const file = fopen(path, "we");

    check(file != NULL);
    check_int(fputs(text, file), >=, 0);
    check_int(fclose(file), ==, 0);
}

static void
remove_tree(const char *folder)
{
    char command[512];

    (void)snprintf(command, sizeof(command), "rm -r '%s'", folder);

    FILE *const pipe = popen(command, "re");

    check(pipe != NULL);
    check_int(pclose(pipe), ==, 0);
}

static int64_t
quota(const char *folder)
{
    char cgroup[512];
    char mountinfo[512];

    (void)snprintf(cgroup, sizeof(cgroup), "%s/cgroup", folder);
    (void)snprintf(mountinfo, sizeof(mountinfo), "%s/mountinfo", folder);
    return ssti_cpu_quota(cgroup, mountinfo);
}

TEST(quotas_of_version_two_count_up_the_tree)
{
    char folder[] = "/tmp/sst_cpu_XXXXXX";
    char path[512];
    char text[1024];

    check(mkdtemp(folder) != NULL);
    (void)snprintf(path, sizeof(path), "%s/a", folder);
    check_int(mkdir(path, 0700), ==, 0);
    (void)snprintf(path, sizeof(path), "%s/a/b", folder);
    check_int(mkdir(path, 0700), ==, 0);
    (void)snprintf(text, sizeof(text), "31 1 0:9 / %s rw - cgroup2 cgroup rw,x\n",
                   folder);
    write_file(folder, "mountinfo", text);
    write_file(folder, "cgroup", "0::/a/b\n");
    check_int(quota(folder), ==, 0);
    write_file(path, "cpu.max", "max 100000\n");
    check_int(quota(folder), ==, 0);
    write_file(path, "cpu.max", "250000 100000\n");
    check_int(quota(folder), ==, 3);
    (void)snprintf(path, sizeof(path), "%s/a", folder);
    write_file(path, "cpu.max", "150000 100000\n");
    check_int(quota(folder), ==, 2);
    remove_tree(folder);
}

TEST(quotas_of_version_one_in_a_container)
{
    char folder[] = "/tmp/sst_cpu_XXXXXX";
    char text[1024];

    check(mkdtemp(folder) != NULL);
    /* The group's path is the host's; what is mounted is the container's own. */
    (void)snprintf(text, sizeof(text),
                   "30 1 0:8 / /sys rw - sysfs sysfs rw\n"
                   "31 1 0:9 /docker/1 %s rw - cgroup cgroup rw,cpu,cpuacct\n",
                   folder);
    write_file(folder, "mountinfo", text);
    write_file(folder, "cgroup", "3:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n0::/\n");
    write_file(folder, "cpu.cfs_period_us", "100000\n");
    write_file(folder, "cpu.cfs_quota_us", "-1\n");
    check_int(quota(folder), ==, 0);
    write_file(folder, "cpu.cfs_quota_us", "100000\n");
    check_int(quota(folder), ==, 1);
    remove_tree(folder);
}

TEST(cpu_count_is_at_least_one)
{
    check_int(sst_cpu_count(), >=, 1);
    check_int(sst_cpu_count(), <=, sysconf(_SC_NPROCESSORS_CONF));
}
