/* SPDX-License-Identifier: MIT */

/* The runner's promises: this program also holds tests that must fail, each behind an
 * environment variable, and starts itself to see them reported. */

#include "runner.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool
is_inner(void)
{
    return getenv("SST_TEST_INNER") != NULL;
}

/* Runs one of the tests below as a run of its own and returns what it printed. Two
 * names are given, because a single one would not fork. */
static void
run_inner(const char *name, char *text, size_t size)
{
    char command[512];
    FILE *pipe;
    size_t got;
    char self[256];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

    check_int(length, >, 0);
    self[length] = '\0';
    (void)snprintf(command, sizeof command,
                   "SST_TEST_INNER=1 SST_TEST_TIMEOUT=1 '%s' %s nothing 2>&1", self,
                   name);
    pipe = popen(command, "re");
    check(pipe != NULL);
    got = fread(text, 1, size - 1, pipe);
    text[got] = '\0';
    check_int(WEXITSTATUS(pclose(pipe)), ==, EXIT_FAILURE);
    check(strstr(text, "0 passed, 1 failed") != NULL);
    while (waitpid(-1, NULL, 0) > 0) {
        /* What the inner test left behind comes to us, the next sub-reaper. */
    }
}

#define FAILS(case_name, expected)                                              \
    static void case_name##_inner(void);                                        \
    TEST(case_name)                                                             \
    {                                                                           \
        char text[4096];                                                        \
                                                                                \
        if (is_inner()) {                                                       \
            case_name##_inner();                                                \
            return;                                                             \
        }                                                                       \
        run_inner(#case_name, text, sizeof text);                               \
        if (strstr(text, expected) == NULL) {                                   \
            test_fail(__FILE__, __LINE__, "no \"%s\" in:\n%s", expected, text); \
        }                                                                       \
    }                                                                           \
    static void case_name##_inner(void)

FAILS(a_leaked_descriptor_fails, "leaked descriptor")
{
    check_int(dup(0), >, 0);
}

FAILS(a_leaked_child_fails, "leaked a running child")
{
    if (fork() == 0) {
        (void)pause();
    }
}

FAILS(an_orphaned_grandchild_fails, "leaked a running child")
{
    pid_t child = fork();

    if (child == 0) {
        if (fork() == 0) {
            (void)pause();
        }
        _exit(0);
    }
    test_join(child);
}

FAILS(a_hang_fails, "timed out")
{
    (void)pause();
}

FAILS(a_crash_fails, "died by signal")
{
    (void)raise(SIGKILL);
}

FAILS(a_false_check_fails, "1 + 1 == 3: 2, 3")
{
    check_int(1 + 1, ==, 3);
}

FAILS(a_false_check_in_a_child_fails, "ended with status")
{
    pid_t child = fork();

    if (child == 0) {
        check(false);
    }
    test_join(child);
}

TEST_DIES(a_death_that_was_asked_for_passes, SIGABRT)
{
    abort();
}

TEST(a_sleeping_process_is_seen)
{
    pid_t child = fork();

    if (child == 0) {
        (void)pause();
    }
    eventually(test_is_asleep(child));
    test_kill(child);
}
