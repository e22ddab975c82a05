/* SPDX-License-Identifier: MIT */

/* What the kernel can do, found out by trying.
 *
 * The design leans on one ability above all: when a thread dies with a lock word
 * pending, the kernel wakes a sleeper of that word (Linux 5.5; sandboxes may lack it).
 * To see it happen a throw-away task that shares our memory and nothing else does just
 * that: it waits until the calling thread sleeps on a word, makes another word of its
 * robust list pending, and ends. A task is made with clone(CLONE_VM) and no exit
 * signal, so nobody's SIGCHLD handler or wait() ever sees it. It runs with the caller's
 * thread pointer and must therefore not touch anything thread-local: raw system calls
 * that cannot fail into errno only.
 *
 * On a busy machine the task may not come to its end while the caller sleeps: then that
 * says nothing, and is tried again for longer. When the caller is killed meanwhile, the
 * task has nobody to wait for, and ends as well: it has all the caller's descriptors.
 */

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "os/os.h"
#include "sidestep/sidestep.h"

#ifndef SYS_futex_waitv
# define SYS_futex_waitv 449
#endif

enum {
    STACK_SIZE = 64 * 1024,
    PROBE_WAIT_MS = 500, /* at first; then four times as long, and once more */
    PROBES = 3,
};

struct probe {
    struct robust_list_head head;
    _Atomic uint32_t asleep_here; /* the caller goes to sleep here */
    _Atomic uint32_t
        woken_here; /* and is moved to this word, which the task leaves pending */
    _Atomic uint32_t is_moved;   /* it was */
    _Atomic uint32_t is_refused; /* the kernel does not let the task try */
    _Atomic uint32_t is_over;    /* the caller waits no more */
    pid_t caller;
};

enum verdict {
    SEES_NOT,
    SEES,
    NOT_CLEAR
};

/* The thread sanitizer replaces clone() by one that works in the new task as if it were
 * a thread of its own; glibc and musl have the plain one under this name as well. */
extern int __clone(int (*run)(void *), void *stack, int flags, void *arg, ...);

static struct ssti_os_kernel found;
static const struct ssti_os_kernel *pretended;
static _Atomic bool is_blind;
static pthread_once_t found_once = PTHREAD_ONCE_INIT;

/* Sanitizers keep their records in the thread-local memory of the caller, too. */
__attribute__((no_sanitize_thread, no_sanitize_address)) static int
die_with_a_word_pending(void *arg)
{
    struct probe *const probe = arg;
    pid_t parent;
    long moved = 0;

    (void)syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    parent = (pid_t)syscall(SYS_getppid);
    /* 0: the caller's children are in another name space. */
    if (parent != probe->caller && parent != 0) {
        return 1;
    }
    probe->head.list.next = &probe->head.list;
    probe->head.futex_offset = 0;
    probe->head.list_op_pending = NULL;
    if (syscall(SYS_set_robust_list, &probe->head, sizeof probe->head) != 0) {
        ssti_store_rel(&probe->is_refused, 1);
        return 1;
    }
    /* Moves the sleeper, once there is one, without waking it. */
    for (int i = 0; moved == 0 && i < 1000000; i++) {
        if (ssti_load_acq(&probe->is_over) != 0) {
            return 1;
        }
        moved = syscall(SYS_futex, &probe->asleep_here, FUTEX_REQUEUE, 0, 1,
                        &probe->woken_here, 0);
        if (moved == 0) {
            (void)sched_yield(); /* cannot fail */
        }
    }
    ssti_store_rel(&probe->is_moved, moved > 0);
    ssti_store_rel(&probe->is_refused, moved < 0);
    probe->head.list_op_pending = (struct robust_list *)(uintptr_t)&probe->woken_here;
    return 0;
}

/* Sleep until the task wakes us by its death. */
static enum verdict
sleep_over(struct probe *probe, int pid, int64_t wait_ns)
{
    const int64_t until = ssti_os_now_ns() + wait_ns;
    const int options = (int)(__WCLONE | __WALL);
    enum verdict verdict;
    int ended;
    int rc;

    do {
        rc = ssti_os_futex_wait(&probe->asleep_here, 0, until);
    } while (rc == SST_EINTR);
    ended = waitpid(pid, NULL, WNOHANG | options);
    verdict = rc == 0 ? SEES : NOT_CLEAR;
    if (rc != 0 && (ssti_load_acq(&probe->is_refused) != 0 ||
                    (ended != 0 && ssti_load_acq(&probe->is_moved) != 0))) {
        verdict = SEES_NOT;
    }
    ssti_store_rel(&probe->is_over, 1);
    while (ended == 0 || (ended < 0 && errno == EINTR)) {
        ended = waitpid(pid, NULL, options);
    }
    return verdict;
}

static enum verdict
probe_deaths(int64_t wait_ns)
{
    struct probe *const probe = ssti_alloc(sizeof *probe);
    char *const stack = ssti_alloc(STACK_SIZE);
    enum verdict verdict = SEES_NOT;
    int pid;

    if (probe == NULL || stack == NULL) {
        goto out;
    }
    probe->caller = getpid();
    pid = __clone(die_with_a_word_pending, stack + STACK_SIZE, CLONE_VM, probe);
    if (pid >= 0) {
        verdict = sleep_over(probe, pid, wait_ns);
    }
out:
    ssti_free(stack);
    ssti_free(probe);
    return verdict;
}

static bool
sees_deaths(void)
{
    int64_t wait_ns = (int64_t)PROBE_WAIT_MS * 1000000;
    enum verdict verdict = NOT_CLEAR;

    for (int i = 0; i < PROBES && verdict == NOT_CLEAR; i++) {
        verdict = probe_deaths(wait_ns);
        wait_ns *= 4;
    }
    return verdict == SEES;
}

static void
find_out(void)
{
    /* With no words at all the call is refused as wrong where it exists. */
    found.has_waitv =
        syscall(SYS_futex_waitv, NULL, 0, 0, NULL, CLOCK_MONOTONIC) == 0 ||
        errno == EINVAL;
    found.sees_deaths = !ssti_load_acq(&is_blind) && sees_deaths();
}

void
ssti_os_kernel_is_blind(void)
{
    ssti_store_rel(&is_blind, true);
    found.sees_deaths = false;
}

const struct ssti_os_kernel *
ssti_os_kernel(void)
{
    if (pretended != NULL) {
        return pretended;
    }
    (void)pthread_once(&found_once, find_out); /* fails for no valid once */
    return &found;
}

void
ssti_os_kernel_pretend(const struct ssti_os_kernel *kernel)
{
    pretended = kernel;
}
