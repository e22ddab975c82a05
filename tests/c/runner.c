/* SPDX-License-Identifier: MIT */

/* Each test runs in a forked child, which is a sub-reaper and leads a process group of
 * its own: a descendant that is left behind comes back to it and is found, and one that
 * hangs is killed with the group. What a test may leave behind is compared with what
 * was there before it: descriptors, threads, blocks of the core's heap, names in
 * /dev/shm. */

#include "runner.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_SKIPPED    77
#define TIMEOUT_SECONDS 30
#define FD_LIMIT        1024

#if defined(__SANITIZE_THREAD__)
# define SLOWNESS       5
# define HIDDEN_THREADS 1
#elif defined(__SANITIZE_ADDRESS__)
# define SLOWNESS       5
# define HIDDEN_THREADS 0
#else
# define SLOWNESS       1
# define HIDDEN_THREADS 0
#endif

/* libasan's heap is not made whole in a forked child, as libc's is. */
#if defined(__SANITIZE_ADDRESS__)
# define HEAP_FORKS false
#else
# define HEAP_FORKS true
#endif

/* The thread sanitizer starts a thread of its own with a process's first. */
#if defined(__SANITIZE_THREAD__)
# define SANITIZER_THREADS 1
#else
# define SANITIZER_THREADS 0
#endif

extern const struct test_case *const __start_sst_tests[];
extern const struct test_case *const __stop_sst_tests[];

/* Weak: a test of something below them is linked without them. */
extern const char *sst_status_name(int status) __attribute__((weak));
extern size_t ssti_alloc_live(void) __attribute__((weak));

enum outcome {
    PASSED,
    FAILED,
    SKIPPED
};

static bool unforked;

/* ---- Checks ---- */

void
test_fail(const char *file, int line, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);

    fprintf(stderr, "    %s:%d: %s\n", file, line, text);
    (void)fflush(stderr);
    if (unforked) {
        abort();
    }
    _exit(EXIT_FAILURE);
}

void
test_skip(const char *reason)
{
    fprintf(stderr, "    skipped: %s\n", reason);
    (void)fflush(stderr);
    _exit(EXIT_SKIPPED);
}

const char *
test_status_name(int64_t status)
{
    if (sst_status_name == NULL || status > 0 || status < INT32_MIN) {
        return "?";
    }
    return sst_status_name((int)status);
}

void
test_check_str(const char *file, int line, const char *what, const char *left,
               const char *right)
{
    if (strcmp(left, right) != 0) {
        test_fail(file, line, "%s is \"%s\", not \"%s\"", what, left, right);
    }
}

void
test_check_mem(const char *file, int line, const char *what, const void *left,
               const void *right, size_t size)
{
    const unsigned char *a = left;
    const unsigned char *b = right;

    for (size_t index = 0; index < size; index++) {
        if (a[index] != b[index]) {
            test_fail(file, line, "%s differs at byte %zu: %02x, not %02x", what, index,
                      a[index], b[index]);
        }
    }
}

/* ---- Time ---- */

int64_t
test_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void
test_nap(void)
{
    struct timespec nap = {.tv_nsec = 100000};

    (void)nanosleep(&nap, NULL); /* a signal only ends the nap early */
}

int
test_hidden_threads(void)
{
    return HIDDEN_THREADS;
}

bool
test_heap_forks(void)
{
    return HEAP_FORKS;
}

int
test_slowness(void)
{
    return SLOWNESS;
}

/* ---- Processes ---- */

pid_t
test_fork(void (*run)(void *arg), void *arg)
{
    pid_t pid;

    (void)fflush(NULL);
    pid = fork();
    if (pid < 0) {
        test_fail(__FILE__, __LINE__, "fork: %s", strerror(errno));
    }
    if (pid == 0) {
        unforked = false;
        run(arg);
        (void)fflush(NULL);
        _exit(EXIT_SUCCESS);
    }
    return pid;
}

static int
wait_for(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            test_fail(__FILE__, __LINE__, "waitpid(%d): %s", (int)pid, strerror(errno));
        }
    }
    return status;
}

void
test_join(pid_t pid)
{
    int status = wait_for(pid);

    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        test_fail(__FILE__, __LINE__, "child %d ended with status 0x%x", (int)pid,
                  status);
    }
}

void
test_join_killed(pid_t pid, int signal)
{
    int status = wait_for(pid);

    if (!WIFSIGNALED(status) || WTERMSIG(status) != signal) {
        test_fail(__FILE__, __LINE__,
                  "child %d ended with status 0x%x, not by signal %d", (int)pid, status,
                  signal);
    }
}

void
test_kill(pid_t pid)
{
    (void)kill(pid, SIGKILL); /* one that is gone already is what the caller wants */
    (void)wait_for(pid);
}

bool
test_is_asleep(pid_t pid)
{
    char path[64];
    char text[256];
    FILE *file;
    size_t size;
    const char *after_name;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    size = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[size] = '\0';
    after_name = strrchr(text, ')');
    return after_name != NULL && strncmp(after_name, ") S", 3) == 0;
}

/* ---- What a test must not leave behind ---- */

struct inventory {
    bool fds[FD_LIMIT];
    int threads;
    int names;
    size_t blocks;
};

/* What other programs of this user have noted while a test runs is in sidestep-UID. */
static bool
is_our_name(const char *name)
{
    unsigned uid;
    char rest;

    if (sscanf(name, "sidestep-%u%c", &uid, &rest) == 1) {
        return false;
    }
    return strncmp(name, "sst", 3) == 0 || strncmp(name, "sem.sst", 7) == 0 ||
           strncmp(name, "sidestep", 8) == 0;
}

static int
count_entries(const char *path, bool (*counts)(const char *name))
{
    DIR *folder = opendir(path);
    int count = 0;

    if (folder == NULL) {
        return 0; /* a machine without /dev/shm has no names there */
    }
    for (struct dirent *entry = readdir(folder); entry != NULL;
         entry = readdir(folder)) {
        if (entry->d_name[0] != '.' && (counts == NULL || counts(entry->d_name))) {
            count++;
        }
    }
    (void)closedir(folder);
    return count;
}

static void
list_fds(bool fds[FD_LIMIT])
{
    DIR *folder = opendir("/proc/self/fd");

    memset(fds, 0, FD_LIMIT * sizeof fds[0]);
    if (folder == NULL) {
        test_fail(__FILE__, __LINE__, "/proc/self/fd: %s", strerror(errno));
    }
    for (struct dirent *entry = readdir(folder); entry != NULL;
         entry = readdir(folder)) {
        int fd = atoi(entry->d_name);

        if (entry->d_name[0] != '.' && fd < FD_LIMIT && fd != dirfd(folder)) {
            fds[fd] = true;
        }
    }
    (void)closedir(folder);
}

static void
take_inventory(struct inventory *inventory)
{
    list_fds(inventory->fds);
    inventory->threads = count_entries("/proc/self/task", NULL);
    inventory->names = count_entries("/dev/shm", is_our_name);
    inventory->blocks = ssti_alloc_live == NULL ? 0 : ssti_alloc_live();
}

static bool
report_fds(const struct inventory *before, const struct inventory *after)
{
    bool leaked = false;

    for (int fd = 0; fd < FD_LIMIT; fd++) {
        char path[64];
        char target[256];
        ssize_t size;

        if (before->fds[fd] || !after->fds[fd]) {
            continue;
        }
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        size = readlink(path, target, sizeof target - 1);
        target[size < 0 ? 0 : size] = '\0';
        fprintf(stderr, "    leaked descriptor %d (%s)\n", fd, target);
        leaked = true;
    }
    return leaked;
}

static bool
report_children(void)
{
    bool leaked = false;
    siginfo_t info = {0};

    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL) == 0) {
        if (info.si_pid == 0) {
            fprintf(stderr, "    leaked a running child\n");
            return true;
        }
        fprintf(stderr, "    leaked child %d, which has ended\n", (int)info.si_pid);
        leaked = true;
        info.si_pid = 0;
    }
    return leaked;
}

/* A joined thread is listed for an instant longer. */
static int
settled_threads(int before)
{
    int threads = count_entries("/proc/self/task", NULL);
    int64_t end = test_now_ns() + 1000000000;

    while (threads > before && test_now_ns() < end) {
        test_nap();
        threads = count_entries("/proc/self/task", NULL);
    }
    return threads;
}

static bool
report_leaks(const struct inventory *before)
{
    struct inventory after;
    bool leaked;

    take_inventory(&after);
    after.threads = settled_threads(before->threads + SANITIZER_THREADS);
    leaked = report_fds(before, &after);
    leaked |= report_children();
    if (after.threads > before->threads + SANITIZER_THREADS) {
        fprintf(stderr, "    leaked %d threads\n", after.threads - before->threads);
        leaked = true;
    }
    if (after.names > before->names) {
        fprintf(stderr, "    left %d names in /dev/shm\n", after.names - before->names);
        leaked = true;
    }
    if (after.blocks != before->blocks) {
        fprintf(stderr, "    %zu blocks of the heap before, %zu after\n",
                before->blocks, after.blocks);
        leaked = true;
    }
    return leaked;
}

/* ---- Running ---- */

_Noreturn static void
run_in_child(const struct test_case *test)
{
    static struct inventory before;
    bool leaked;

    (void)setpgid(
        0, 0); /* the parent does the same; whoever comes second fails, harmlessly */
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    take_inventory(&before);
    test->run();
    leaked = report_leaks(&before);
    (void)fflush(NULL);
    if (leaked) {
        _exit(EXIT_FAILURE);
    }
    exit(EXIT_SUCCESS); /* not _exit: the leak sanitizer looks at exit */
}

static int
timeout_ms(void)
{
    const char *text = getenv("SST_TEST_TIMEOUT");
    int seconds = text == NULL ? TIMEOUT_SECONDS * test_slowness() : atoi(text);

    return seconds * 1000;
}

/* Returns the wait status; *timed_out when the limit passed and the test was killed. */
static int
wait_within_limit(pid_t pid, bool *timed_out)
{
    struct pollfd poller = {.fd = (int)syscall(SYS_pidfd_open, pid, 0),
                            .events = POLLIN};
    int ready;
    int status;

    if (poller.fd < 0) {
        test_fail(__FILE__, __LINE__, "pidfd_open: %s", strerror(errno));
    }
    do {
        ready = poll(&poller, 1, timeout_ms());
    } while (ready < 0 && errno == EINTR);
    *timed_out = ready == 0;
    (void)kill(-pid, SIGKILL); /* what is left of the group, or nothing */
    if (*timed_out) {
        (void)kill(pid, SIGKILL);
    }
    status = wait_for(pid);
    (void)close(poller.fd);
    return status;
}

static enum outcome
judge(const struct test_case *test, int status, bool timed_out)
{
    if (timed_out) {
        fprintf(stderr, "    timed out\n");
        return FAILED;
    }
    if (WIFSIGNALED(status)) {
        if (WTERMSIG(status) == test->signal) {
            return PASSED;
        }
        fprintf(stderr, "    died by signal %d (%s)\n", WTERMSIG(status),
                strsignal(WTERMSIG(status)));
        return FAILED;
    }
    if (WEXITSTATUS(status) == EXIT_SKIPPED) {
        return SKIPPED;
    }
    if (test->signal != 0) {
        fprintf(stderr, "    did not die by signal %d\n", test->signal);
        return FAILED;
    }
    return WEXITSTATUS(status) == 0 ? PASSED : FAILED;
}

static enum outcome
run_forked(const struct test_case *test)
{
    bool timed_out;
    pid_t pid;
    int status;

    (void)fflush(NULL);
    pid = fork();
    if (pid < 0) {
        test_fail(__FILE__, __LINE__, "fork: %s", strerror(errno));
    }
    if (pid == 0) {
        run_in_child(test);
    }
    (void)setpgid(pid, pid);
    status = wait_within_limit(pid, &timed_out);
    return judge(test, status, timed_out);
}

static bool
is_chosen(const struct test_case *test, int argc, char **argv)
{
    for (int index = 1; index < argc; index++) {
        if (strcmp(test->name, argv[index]) == 0) {
            return true;
        }
    }
    return argc == 1;
}

static int
run_chosen(int argc, char **argv)
{
    static const char *const words[] = {"ok", "FAILED", "skipped"};
    int counts[3] = {0};

    for (const struct test_case *const *entry = __start_sst_tests;
         entry < __stop_sst_tests; entry++) {
        enum outcome outcome;

        if (!is_chosen(*entry, argc, argv)) {
            continue;
        }
        outcome = run_forked(*entry);
        counts[outcome]++;
        printf("%s ... %s\n", (*entry)->name, words[outcome]);
    }
    if (counts[SKIPPED] > 0) {
        printf("%d skipped\n", counts[SKIPPED]);
    }
    printf("%d passed, %d failed\n", counts[PASSED], counts[FAILED]);
    if (counts[PASSED] + counts[FAILED] + counts[SKIPPED] == 0) {
        fprintf(stderr, "no such test\n");
        return EXIT_FAILURE;
    }
    return counts[FAILED] == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static const struct test_case *
find_test(const char *name)
{
    for (const struct test_case *const *entry = __start_sst_tests;
         entry < __stop_sst_tests; entry++) {
        if (strcmp((*entry)->name, name) == 0) {
            return *entry;
        }
    }
    return NULL;
}

static void
print_names(void)
{
    for (const struct test_case *const *entry = __start_sst_tests;
         entry < __stop_sst_tests; entry++) {
        printf("%s\n", (*entry)->name);
    }
}

int
main(int argc, char **argv)
{
    const struct test_case *test;

    if (argc == 2 && strcmp(argv[1], "-l") == 0) {
        print_names();
        return EXIT_SUCCESS;
    }
    test = argc == 2 ? find_test(argv[1]) : NULL;
    if (test == NULL) {
        return run_chosen(argc, argv);
    }
    unforked = true;
    test->run();
    printf("1 passed, 0 failed\n");
    return EXIT_SUCCESS;
}
