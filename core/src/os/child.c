/* SPDX-License-Identifier: MIT */

/* Starting a program. What runs between vfork and exec lives here, and nothing else:
 * the child shares our memory until it has become the program, so it may call only what
 * is safe in a signal handler, allocates nothing, and takes no lock. A test looks at
 * the undefined symbols of this file.
 *
 * vfork suspends the calling thread alone. Signals are blocked around it: a handler
 * that ran in the child would run in our memory. The child therefore takes our handlers
 * away before it gives the program our signal mask. */

#include <errno.h>
#include <fcntl.h>
#include <sidestep/sidestep.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/os.h"

enum {
    CLOEXEC_RANGE = 4, /* CLOSE_RANGE_CLOEXEC, Linux 5.11 */
};

static void
forget_handlers_child(void)
{
    struct sigaction action;

    for (int number = 1; number <= SIGRTMAX; number++) {
        if (sigaction(number, NULL, &action) != 0 || action.sa_handler == SIG_IGN ||
            action.sa_handler == SIG_DFL) {
            continue;
        }
        action.sa_handler = SIG_DFL;
        action.sa_flags = 0;
        (void)sigaction(number, &action, NULL);
    }
}

static void
hide_slowly_child(unsigned first, unsigned last)
{
    struct rlimit limit;
    const unsigned highest =
        getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < SSTI_OS_FD_MAX
            ? (unsigned)limit.rlim_cur
            : SSTI_OS_FD_MAX;

    for (unsigned fd = first; fd <= last && fd < highest; fd++) {
        (void)fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    }
}

static void
hide_child(unsigned first, unsigned last)
{
    if (first <= last && syscall(SYS_close_range, first, last, CLOEXEC_RANGE) != 0) {
        hide_slowly_child(first, last);
    }
}

/* Only the standard streams and the descriptors of the program survive the exec. */
static void
keep_descriptors_child(const struct ssti_os_program *program)
{
    unsigned next = STDERR_FILENO + 1;

    for (uint32_t i = 0; i < program->fd_count; i++) {
        const int fd = program->fds[i];

        if (fd < (int)next) {
            continue;
        }
        hide_child(next, (unsigned)fd - 1);
        (void)fcntl(fd, F_SETFD, 0);
        next = (unsigned)fd + 1;
    }
    hide_child(next, UINT32_MAX);
}

/* Never returns; what went wrong is in *error, which is our memory. */
static void
become_child(const struct ssti_os_program *program, const sigset_t *mask,
             volatile int *error)
{
    char *const *const env = program->env != NULL ? program->env : environ;

    forget_handlers_child();
    keep_descriptors_child(program);
    (void)sigprocmask(SIG_SETMASK, mask, NULL);
    (void)execve(program->path, program->argv, env);
    *error = errno;
    _exit(255);
}

int
ssti_os_spawn(const struct ssti_os_program *program)
{
    volatile int error = 0;
    sigset_t all;
    sigset_t mask;

    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &mask) != 0) {
        return SST_EINVAL;
    }

    const pid_t pid = vfork();

    if (pid == 0) {
        become_child(program, &mask, &error);
    }

    const int saved = pid < 0 ? errno : error;

    /* The same mask as before cannot be refused. */
    (void)pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (saved != 0 && pid > 0) {
        int code = 0;

        /* It has exited; nobody else can know its pid. */
        (void)ssti_os_reap_pid(pid, &code);
    }
    return saved != 0 ? -saved : pid;
}
