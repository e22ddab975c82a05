/* SPDX-License-Identifier: MIT */

/* Named memory under fire: trees of processes that are killed at every step in turn,
 * and at random. The next process of the user leaves no name behind. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crashpoint.h"
#include "names.h"
#include "peers.h"
#include "runner.h"
#include "shm/ledger.h"
#include "sidestep/sidestep.h"

/* ---- Death at every step ---- */

#ifdef SST_CRASHPOINTS

static const char *const points[] = {
    "folder_made",         "folder_noted",   "folder_removed", "ledger_folder_cleared",
    "ledger_begun",        "ledger_cleared", "ledger_freed",   "ledger_leaving",
    "ledger_name_removed", "ledger_noted",   "ledger_taken",   "ledger_unmarked",
    "ledger_written",      "named_given",    "named_made",     "named_noted",
    "named_removed"};

struct crash {
    const char *point;
    uint64_t nth;
};

static void
do_all(void *arg)
{
    const struct crash *const crash = arg;
    struct sst_arena *arena = NULL;
    char path[256];
    pid_t pid;

    ssti_crashpoint_arm(crash->point, crash->nth);
    check_ok(sst_arena_create(NULL, &arena, NULL));
    pid = fork(); /* a member that knows nothing of names */
    check_int(pid, >=, 0);
    if (pid == 0) {
        linger();
    }
    word_set(0, pid);
    sst_named_close(create(arena, "first", 10));
    sst_named_close(create(arena, "second", 10));
    check_ok(sst_named_unlink(arena, "first"));
    sst_named_close(create(arena, "third", 10));
    check_ok(sst_named_keep(arena, "fourth"));
    check_ok(sst_named_unlink(arena, "third"));
    (void)create(arena, "fifth", 10);
    check_ok(sst_folder_make(arena, folder, "first-", path, sizeof path));
    check_ok(sst_folder_remove(arena, path));
    check_ok(sst_folder_make(arena, folder, "second-", path, sizeof path));
    kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    word_set(0, 0);
    sst_named_leave(arena);
}

/* A child of the dead one would keep names. */
static void
end_orphan(void)
{
    if (word(0) != 0) {
        (void)kill((pid_t)word(0), SIGKILL); /* may be dead */
        word_set(0, 0);
    }
    while (waitpid(-1, NULL, 0) > 0) {
    }
}

TEST(killed_at_every_point)
{
    struct sst_arena *const arena = arena_open(); /* for its words */

    check_int(prctl(PR_SET_CHILD_SUBREAPER, 1), ==, 0);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        uint64_t passes = 0;

        for (uint64_t nth = 1; nth < 20; nth++) {
            struct crash crash = {points[i], nth};
            int status;
            pid_t pid;

            own_folder();
            pid = test_fork(do_all, &crash);
            check_int(waitpid(pid, &status, 0), ==, pid);
            if (!WIFSIGNALED(status) &&
                (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
                test_fail(__FILE__, __LINE__, "%s, pass %d: status %x", points[i],
                          (int)nth, status);
            }
            end_orphan();
            ssti_ledger_collect();
            if (entries() != 0) {
                test_fail(__FILE__, __LINE__, "%s, pass %d leaves something", points[i],
                          (int)nth);
            }
            drop_folder();
            if (!WIFSIGNALED(status)) {
                break;
            }
            passes++;
        }
        if (passes == 0) {
            test_fail(__FILE__, __LINE__, "%s was never reached", points[i]);
        }
    }
    arena_close(arena);
}

#endif

/* ---- Many at a time ---- */

enum {
    TREES = 4,
    ROUNDS = 60,
};

static void
live_and_die(void *arg)
{
    const int number = (int)(intptr_t)arg;
    unsigned seed = (unsigned)number + 1;

    for (int i = 0; i < ROUNDS; i++) {
        const pid_t pid = fork();

        check_int(pid, >=, 0);
        if (pid == 0) {
            struct sst_arena *arena = NULL;
            char name[32];

            check_ok(sst_arena_create(NULL, &arena, NULL));
            (void)snprintf(name, sizeof name, "%d of %d", i, number);
            for (int j = 0; j < 5; j++) {
                struct sst_named *const named = create(arena, name, 10);

                sst_named_close(attach(arena, name));
                sst_named_close(named);
                if (j < 4) {
                    check_ok(sst_named_unlink(arena, name));
                }
            }
            word_add(1, 1);
            if (i % 2 == 0) {
                sst_process_exit(arena, 0);
            }
            linger();
        }
        if (i % 2 != 0) {
            usleep((useconds_t)(rand_r(&seed) % 3000));
            kill(pid, SIGKILL);
        }
        (void)waitpid(pid, NULL, 0);
    }
}

TEST(trees_come_and_go)
{
    own_folder();
    {
        struct sst_arena *const arena = arena_open();
        pid_t pids[TREES];

        for (intptr_t i = 0; i < TREES; i++) {
            pids[i] = test_fork(live_and_die, (void *)i);
        }
        for (int i = 0; i < TREES; i++) {
            test_join(pids[i]);
        }
        check_int(word(1), >=, TREES * ROUNDS / 2);
        arena_close(arena);
    }
    ssti_ledger_collect();
    drop_folder();
}
