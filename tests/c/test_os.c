/* SPDX-License-Identifier: MIT */

/* The kernel's half of waiting, memory and identity. */

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/status.h"
#include "os/life.h"
#include "os/os.h"
#include "os/self.h"
#include "runner.h"
#include "sidestep/sidestep.h"

static void *
shared_page(void)
{
    void *const page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    check(page != MAP_FAILED);
    return page;
}

/* ---- base ---- */

TEST(statuses_have_words)
{
    struct sst_error err = {0};

    check_str(sst_status_name(SST_ELIMIT), "SST_ELIMIT");
    check_str(sst_status_text(SST_EOWNERDEAD), "the owner died");
    check_str(sst_status_name(3), "SST_OK");
    check_str(sst_status_name(-4711), "SST_?");
    check_int(sst_status_category(SST_ETIMEDOUT), ==, SST_CATEGORY_TIMEOUT);
    check_int(sst_status_category(0), ==, SST_CATEGORY_OK);
    check_int(sst_status_category(-4711), ==, SST_CATEGORY_INTERNAL);
    check_status(ssti_status_of_errno(EPIPE), SST_EPIPE);
    check_status(ssti_status_of_errno(EISDIR), SST_EIO);

    check_status(ssti_error_set(&err, SST_EINVAL, "no %d", 7), SST_EINVAL);
    check_str(err.text, "no 7");
    check_status(ssti_error_append(&err, SST_EIO, "because %s", "so"), SST_EIO);
    check_str(err.text, "no 7; because so");
    for (int i = 0; i < 100; i++) {
        (void)ssti_error_append(&err, SST_EIO, "and more of it");
    }
    check_int(strlen(err.text), ==, sizeof err.text - 1);
    check_status(ssti_error_set(NULL, SST_EIO, "nobody asks"), SST_EIO);
}

TEST_DIES(an_assert_aborts, SIGABRT)
{
    sst_assert(1 + 1 == 3);
}

TEST(deadlines_saturate)
{
    const int64_t before = test_now_ns();
    const int64_t deadline = sst_deadline_after(1000000);

    check_int(deadline, >=, before + 1000000);
    check_int(sst_deadline_after(0), ==, SST_NOW);
    check_int(sst_deadline_after(-5), ==, SST_NOW);
    check_int(sst_deadline_after(INT64_MAX), ==, SST_FOREVER);
    check_int(sst_deadline_after(INT64_MAX - 1000), ==, SST_FOREVER);
}

TEST(allocations_fail_on_request)
{
    const size_t before = ssti_alloc_live();
    void *blocks[3];

    ssti_alloc_fail(2, 0);
    for (int i = 0; i < 3; i++) {
        blocks[i] = ssti_alloc(10);
    }
    check(blocks[0] != NULL && blocks[1] == NULL && blocks[2] != NULL);
    check_int(ssti_alloc_live(), ==, before + 2);
    ssti_alloc_fail(1, 1);
    check_ptr(ssti_realloc(blocks[0], 20), ==, NULL);
    check_ptr(ssti_alloc(1), ==, NULL);
    ssti_alloc_fail(0, 0);
    for (int i = 0; i < 3; i++) {
        blocks[i] = ssti_free(blocks[i]);
    }
    check_int(ssti_alloc_live(), ==, before);
}

/* ---- Sleeping ---- */

TEST(a_futex_that_changed_is_not_slept_on)
{
    _Atomic uint32_t *const word = shared_page();
    struct ssti_os_wait words[2] = {{word, 0}, {word + 1, 1}};

    check_status(ssti_os_futex_wait(word, 1, SST_FOREVER), SST_EAGAIN);
    check_status(ssti_os_futex_waitv(words, 2, SST_FOREVER), SST_EAGAIN);
    check_status(ssti_os_futex_wait(word, 0, SST_NOW), SST_ETIMEDOUT);
    check_status(ssti_os_futex_wait(word, 0, sst_deadline_after(1000000)),
                 SST_ETIMEDOUT);
    words[1].value = 0;
    check_status(ssti_os_futex_waitv(words, 2, SST_NOW), SST_ETIMEDOUT);
    check_status(ssti_os_futex_waitv(words, 2, sst_deadline_after(1000000)),
                 SST_ETIMEDOUT);
    munmap((void *)word, 4096);
}

struct sleeper {
    _Atomic uint32_t *words;
    uint32_t woken_by; /* index of the word */
};

static void
sleep_on_three(void *arg)
{
    const struct sleeper *const sleeper = arg;
    struct ssti_os_wait words[3];

    for (int i = 0; i < 3; i++) {
        words[i] = (struct ssti_os_wait){sleeper->words + i * 32, 0};
    }
    for (;;) {
        const int rc = ssti_os_futex_waitv(words, 3, SST_FOREVER);

        check(rc == 0 || rc == SST_EAGAIN);
        if (ssti_load_acq(words[sleeper->woken_by].word) != 0) {
            return;
        }
    }
}

static void
check_wakes(void)
{
    for (uint32_t i = 0; i < 3; i++) {
        struct sleeper sleeper = {shared_page(), i};
        const pid_t pid = test_fork(sleep_on_three, &sleeper);

        eventually(test_is_asleep(pid));
        ssti_store_rel(&sleeper.words[i * 32], 1);
        (void)ssti_os_futex_wake(&sleeper.words[i * 32], 1);
        test_join(pid);
        munmap((void *)sleeper.words, 4096);
    }
}

TEST(any_of_three_words_wakes)
{
    check_wakes();
}

TEST(any_of_three_words_wakes_without_futex_waitv)
{
    const struct ssti_os_kernel old = {.has_waitv = false, .sees_deaths = true};

    ssti_os_kernel_pretend(&old);
    check_wakes();
    ssti_os_kernel_pretend(NULL);
}

static void
nothing(int signal)
{
    (void)signal;
}

TEST(a_signal_ends_a_sleep)
{
    const struct sigaction action = {.sa_handler = nothing};
    _Atomic uint32_t *const word = shared_page();

    check_int(sigaction(SIGALRM, &action, NULL), ==, 0);
    (void)ualarm(5000, 5000);
    check_status(ssti_os_futex_wait(word, 0, sst_deadline_after(20000000000)),
                 SST_EINTR);
    (void)ualarm(0, 0);
    munmap((void *)word, 4096);
}

static void
sleep_on_one(void *arg)
{
    _Atomic uint32_t *const word = arg;

    while (ssti_load_acq(word) == 0) {
        (void)ssti_os_futex_wait(word, 0, SST_FOREVER);
    }
}

TEST(who_wakes_somebody_remembers)
{
    _Atomic uint32_t *const word = shared_page();
    pid_t pid;

    ssti_self()->just_woke = 0;
    check_int(ssti_os_futex_wake(word, 1), ==, 0);
    check_int(ssti_self()->just_woke, ==, 0);
    pid = test_fork(sleep_on_one, (void *)word);
    eventually(test_is_asleep(pid));
    ssti_store_rel(word, 1);
    check_int(ssti_os_futex_wake(word, 1), ==, 1);
    check_int(ssti_self()->just_woke, ==, 1);
    test_join(pid);
    munmap((void *)word, 4096);
}

/* ---- Deaths ---- */

static void
die_owning(void *arg)
{
    _Atomic uint32_t *const word = arg;
    struct ssti_self *const self = ssti_self();

    check_int(self->tid, ==, getpid());
    ssti_pend(self, word);
    ssti_store_rel(word, self->tid | FUTEX_WAITERS);
    kill(getpid(), SIGKILL);
}

static void
find_out_under_trace(void *arg)
{
    (void)arg;
    check_int(ptrace(PTRACE_TRACEME, 0, NULL, NULL), ==, 0);
    raise(SIGSTOP);
    (void)ssti_os_kernel();
}

TEST(who_is_killed_finding_out_leaves_no_task_behind)
{
    const int event = SIGTRAP | (PTRACE_EVENT_CLONE << 8);
    unsigned long made = 0;
    int status = 0;

    check_int(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), ==, 0);
    const pid_t pid = test_fork(find_out_under_trace, NULL);
    check_int(waitpid(pid, &status, 0), ==, pid);
    check(WIFSTOPPED(status));
    check_int(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACECLONE), ==, 0);
    check_int(ptrace(PTRACE_CONT, pid, NULL, NULL), ==, 0);
    check_int(waitpid(pid, &status, 0), ==, pid);
    check_int(status >> 8, ==, event);
    check_int(ptrace(PTRACE_GETEVENTMSG, pid, NULL, &made), ==, 0);

    const pid_t task = (pid_t)made;
    check_int(waitpid(task, &status, __WALL), ==, task);
    check_int(kill(pid, SIGKILL), ==, 0);
    test_join_killed(pid, SIGKILL);
    check_int(ptrace(PTRACE_DETACH, task, NULL, NULL), ==, 0);
    check_int(waitpid(task, &status, __WALL), ==, task);
    /* It gave up, and did not look for a sleeper until it had enough of it. */
    check(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
}

TEST(a_dead_owners_word_is_marked_and_its_sleeper_woken)
{
    check(ssti_os_kernel()->sees_deaths);
    for (int i = 0; i < 50; i++) {
        _Atomic uint32_t *const word = shared_page();
        const pid_t pid = test_fork(die_owning, (void *)word);

        uint32_t now; /* looked at once: what it says is what is waited on */

        while (((now = ssti_load_acq(word)) & FUTEX_OWNER_DIED) == 0) {
            check_int(ssti_os_futex_wait(word, now, sst_deadline_after(5000000000)), !=,
                      SST_ETIMEDOUT);
        }
        check_int(ssti_load_acq(word), ==, FUTEX_OWNER_DIED | FUTEX_WAITERS);
        test_join_killed(pid, SIGKILL);
        munmap((void *)word, 4096);
    }
}

TEST(a_thread_that_ended_is_gone)
{
    struct ssti_os_process now;
    pid_t pid;

    check(!ssti_os_thread_is_gone((uint32_t)getpid()));
    pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    eventually(ssti_os_thread_is_gone((uint32_t)pid)); /* a zombie is */
    check_ok(ssti_os_process_look(pid, &now));
    check(now.is_exiting);
    test_join(pid);
    check(ssti_os_thread_is_gone((uint32_t)pid));
    check_status(ssti_os_process_look(pid, &now), SST_ESRCH);
    check_int(ssti_os_process_is_gone(pid, SST_NOW), ==, 1);
    check_int(ssti_os_process_is_gone(getpid(), SST_NOW), ==, 0);
}

TEST(a_process_is_not_born_after_now)
{
    struct ssti_os_process now;

    check_ok(ssti_os_process_look(getpid(), &now));
    check_int(now.start_ticks, <=, ssti_os_boot_ticks());
    check_int(now.start_ticks + 100 * 3600, >, ssti_os_boot_ticks());
    check_int(now.threads, ==, 1 + test_hidden_threads());
    check(!now.is_exiting);
}

static void *
take_life(void *arg)
{
    check_int(ssti_life_start(arg), >=, 0);
    check(ssti_life_is_ours(arg));
    return NULL;
}

TEST(a_life_word_ends_with_its_thread)
{
    char *const memory = shared_page();
    _Atomic uint32_t *word;
    pthread_t thread;
    int offset;

    memset(memory, 0x5a, 64); /* the remains of somebody */
    offset = ssti_life_start(memory);
    check(offset == 0 || offset == 4);
    word = (_Atomic uint32_t *)(void *)(memory + offset);
    check_int(ssti_load_acq(word) & FUTEX_TID_MASK, ==, getpid());
    check(ssti_life_is_ours(memory));
    ssti_life_stop(memory);
    check_int(ssti_load_acq(word), ==, 0);

    check_int(pthread_create(&thread, NULL, take_life, memory), ==, 0);
    check_int(pthread_join(thread, NULL), ==, 0);
    check_int(ssti_load_acq(word) & (FUTEX_TID_MASK | FUTEX_OWNER_DIED), ==,
              FUTEX_OWNER_DIED);
    munmap(memory, 4096);
}

/* ---- Memory ---- */

TEST(memory_files_are_sparse_sealed_and_punched)
{
    uint64_t size = UINT64_C(1) << 40;
    uint64_t seen = 0;
    void *page;
    int fds[2];
    const int fd = ssti_os_memory_create(&size, 4096);

    check_int(fd, >=, 0);
    check_int(size, ==, INT64_C(1) << 40);
    check_ok(ssti_os_memory_inspect(fd, &seen));
    check_int(seen, ==, size);
    check_ok(ssti_os_memory_map(fd, UINT64_C(1) << 39, 4096, &page));
    strcpy(page, "far away");
    check_ok(ssti_os_memory_punch(fd, UINT64_C(1) << 39, 4096));
    check_str((const char *)page, "");
    ssti_os_memory_unmap(page, 4096);
    check(pipe(fds) == 0);
    check_int(ssti_os_memory_inspect(fds[0], &seen), <, 0);
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
    }
    close(fd);
}

static void
create_within(void *arg)
{
    const rlim_t limit = *(const rlim_t *)arg;
    const struct rlimit limits = {limit, limit};
    uint64_t size = UINT64_C(1) << 40;
    int fd;

    check_int(setrlimit(RLIMIT_FSIZE, &limits), ==, 0);
    fd = ssti_os_memory_create(&size, 1 << 20);
    if (limit < 1 << 20) {
        check_int(fd, <, 0);
        return;
    }
    check_int(fd, >=, 0);
    check_int(size, <=, limit);
    check_int(size, >, limit / 2);
}

TEST(a_file_size_limit_is_obeyed_without_a_signal)
{
    const rlim_t limits[] = {0, 1000, 1 << 20, 3 << 20, (rlim_t)5 << 30};

    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        test_join(test_fork(create_within, (void *)&(rlim_t){limits[i]}));
    }
}

TEST(available_memory_is_known)
{
    const char *limiter = NULL;
    const uint64_t bytes = ssti_os_memory_available(&limiter);

    check_int(bytes, >, 1 << 20);
    check(limiter != NULL && limiter[0] != '\0');
}

/* Sanitizers map terabytes. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
static const bool can_limit_addresses = false;
#else
static const bool can_limit_addresses = true;
#endif

static void
ask_under_a_limit(void *arg)
{
    const struct rlimit limits = {(rlim_t)1 << 30, (rlim_t)1 << 30};
    const char *limiter = NULL;

    (void)arg;
    check_int(setrlimit(RLIMIT_AS, &limits), ==, 0);
    check_int(ssti_os_address_space_max(), ==, 1 << 30);
    check_int(ssti_os_memory_available(&limiter), <, 1 << 30);
    check(strstr(limiter, "ulimit -v") != NULL);
}

TEST(the_address_space_limits_what_is_available)
{
    if (!can_limit_addresses) {
        test_skip("the sanitizer needs more addresses");
    }
    test_join(test_fork(ask_under_a_limit, NULL));
}
