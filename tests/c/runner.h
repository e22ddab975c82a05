/* SPDX-License-Identifier: MIT */
#ifndef SST_TESTS_RUNNER_H
#define SST_TESTS_RUNNER_H

/* The runner of the C tests. TEST(name) { ... } registers itself through a linker
 * section. Each test runs in a process of its own, within a time limit, and fails when
 * it leaves a descriptor, a child, a thread, a block of the core's heap or a name in
 * /dev/shm behind.
 *
 *     test_leaf                 all tests
 *     test_leaf -l              their names
 *     test_leaf name            that one in this very process, for a debugger
 *     test_leaf name name ...   those, each in its process
 *
 * The last line is `N passed, N failed`. SST_TEST_TIMEOUT (seconds) replaces the limit.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct test_case {
    const char *name;
    void (*run)(void);
    int signal; /* the signal it must die by, or 0 */
};

/* Pointers are collected rather than the structs: sanitizers may pad the latter. */
#define TEST_DIES(test_name, test_signal)                                     \
    static void test_##test_name(void);                                       \
    static const struct test_case test_case_##test_name = {#test_name,        \
                                                           test_##test_name,  \
                                                           (test_signal)};    \
    static const struct test_case *const test_entry_##test_name               \
        __attribute__((used, section("sst_tests"))) = &test_case_##test_name; \
    static void test_##test_name(void)

#define TEST(test_name) TEST_DIES(test_name, 0)

/* ---- Checks: a failed one says where and what, and ends the process. ---- */

_Noreturn void test_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Ends the test as skipped. */
_Noreturn void test_skip(const char *reason);

const char *test_status_name(int64_t status);

#define check(cond)                                     \
    do {                                                \
        if (!(cond)) {                                  \
            test_fail(__FILE__, __LINE__, "%s", #cond); \
        }                                               \
    } while (0)

#define check_int(left, op, right)                                                    \
    do {                                                                              \
        int64_t check_left = (int64_t)(left);                                         \
        int64_t check_right = (int64_t)(right);                                       \
        if (!(check_left op check_right)) {                                           \
            test_fail(__FILE__, __LINE__, "%s %s %s: %lld, %lld", #left, #op, #right, \
                      (long long)check_left, (long long)check_right);                 \
        }                                                                             \
    } while (0)

#define check_ptr(left, op, right)                                                \
    do {                                                                          \
        const void *check_left = (left);                                          \
        const void *check_right = (right);                                        \
        if (!(check_left op check_right)) {                                       \
            test_fail(__FILE__, __LINE__, "%s %s %s: %p, %p", #left, #op, #right, \
                      check_left, check_right);                                   \
        }                                                                         \
    } while (0)

/* The status of a call, by name: check_status(sst_x(), SST_ETIMEDOUT). */
#define check_status(expr, expected)                                                 \
    do {                                                                             \
        int64_t check_got = (int64_t)(expr);                                         \
        if (check_got != (expected)) {                                               \
            test_fail(__FILE__, __LINE__, "%s is %lld (%s), not %s", #expr,          \
                      (long long)check_got, test_status_name(check_got), #expected); \
        }                                                                            \
    } while (0)

/* A call that must succeed: its result is a count or 0. */
#define check_ok(expr)                                                    \
    do {                                                                  \
        int64_t check_got = (int64_t)(expr);                              \
        if (check_got < 0) {                                              \
            test_fail(__FILE__, __LINE__, "%s is %lld (%s)", #expr,       \
                      (long long)check_got, test_status_name(check_got)); \
        }                                                                 \
    } while (0)

#define check_str(left, right) \
    test_check_str(__FILE__, __LINE__, #left, (left), (right))
#define check_mem(left, right, size) \
    test_check_mem(__FILE__, __LINE__, #left, (left), (right), (size))

void test_check_str(const char *file, int line, const char *what, const char *left,
                    const char *right);
void test_check_mem(const char *file, int line, const char *what, const void *left,
                    const void *right, size_t size);

/* Waits for a state others bring about; fails after ten seconds. For states that
 * nothing announces: where a wake-up exists, wait for that. */
#define eventually(cond)                                                     \
    do {                                                                     \
        int64_t eventually_end =                                             \
            test_now_ns() + INT64_C(10000000000) * test_slowness();          \
        while (!(cond)) {                                                    \
            if (test_now_ns() > eventually_end) {                            \
                test_fail(__FILE__, __LINE__, "never came true: %s", #cond); \
            }                                                                \
            test_nap();                                                      \
        }                                                                    \
    } while (0)

int64_t test_now_ns(void);
void test_nap(void); /* 100 microseconds */

/* Threads of a sanitizer, which every process of such a build has. */
int test_hidden_threads(void);

/* May one thread fork a child that uses the heap while another thread uses it? */
bool test_heap_forks(void);

/* How much slower this build runs: 1, and more under a sanitizer or valgrind. */
int test_slowness(void);

/* ---- Processes ---- */

/* A forked child that runs run(arg) and exits with 0; a failed check there exits with
 * 1. */
pid_t test_fork(void (*run)(void *arg), void *arg);

/* Wait for a child and check how it went. */
void test_join(pid_t pid);
void test_join_killed(pid_t pid, int signal);

/* SIGKILL, and wait until it is gone. */
void test_kill(pid_t pid);

/* True when the process sleeps in the kernel (state S in /proc): it has come to
 * wait. */
bool test_is_asleep(pid_t pid);

#endif
