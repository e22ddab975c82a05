/* SPDX-License-Identifier: MIT */

/* Processes, as the kernel has them: making, waiting for, signalling, ending.
 *
 * A child is named by its pidfd wherever the kernel lets us: a pid may be another
 * process's by the time one uses it, a descriptor may not. Only our own children are
 * waited for, one by one, so that a program's own os.wait() and subprocess stay
 * undisturbed.
 *
 * Death of the parent. PR_SET_PDEATHSIG speaks of the *thread* that made the child: it
 * fires when a worker thread that called start() ends, too. So the signal is a
 * real-time one with a handler that looks whether the parent has changed, and only then
 * kills. After arming it looks once by hand, for a parent that died before. See
 * docs/internals/processes.rst. */

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sidestep/sidestep.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "os/os.h"
#include "os/self.h"

enum {
    PIDFD_KIND = 3, /* P_PIDFD, which glibc 2.36 was the first to declare */
    NS_PER_S = 1000000000,
};

/* Which process armed parent death, and whose child it was then. Written before the
 * signal can arrive; a forked child finds another pid there and ignores the signal. */
static volatile pid_t armed_pid;
static volatile pid_t armed_parent;

int
ssti_os_fork(void)
{
    const pid_t pid = fork();

    return pid < 0 ? -errno : pid;
}

int
ssti_os_pid(void)
{
    return getpid();
}

int
ssti_os_parent_pid(void)
{
    return getppid();
}

int
ssti_os_pidfd_open(int pid)
{
    const long fd = syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : (int)fd;
}

int
ssti_os_reap(int pidfd, int *code)
{
    siginfo_t info = {0};

    if (waitid((idtype_t)PIDFD_KIND, (id_t)pidfd, &info, WEXITED | WNOHANG) != 0) {
        return errno == ECHILD ? SST_ESRCH : -errno;
    }
    if (info.si_pid == 0) {
        return 0;
    }
    *code = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
    return 1;
}

int
ssti_os_reap_pid(int pid, int *code)
{
    siginfo_t info = {0};

    while (waitid(P_PID, (id_t)pid, &info, WEXITED) != 0) {
        if (errno != EINTR) {
            return errno == ECHILD ? SST_ESRCH : -errno;
        }
    }
    *code = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
    return 1;
}

int
ssti_os_signal(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) != 0 ? -errno : 0;
}

void
ssti_os_kill_pid(int pid)
{
    /* A process that is gone already is what was wanted. */
    (void)kill(pid, SIGKILL);
}

static const struct timespec *
remaining(int64_t deadline_ns, struct timespec *out)
{
    if (deadline_ns == SST_FOREVER) {
        return NULL;
    }

    const int64_t left = deadline_ns - ssti_os_now_ns();

    out->tv_sec = left > 0 ? left / NS_PER_S : 0;
    out->tv_nsec = left > 0 ? left % NS_PER_S : 0;
    return out;
}

int
ssti_os_wait_hangup(const int *fds, uint32_t count, uint32_t readable,
                    int64_t deadline_ns)
{
    struct pollfd polls[SSTI_OS_HANGUPS_MAX];
    struct timespec left;
    int mask = 0;

    for (uint32_t i = 0; i < count; i++) {
        polls[i].fd = fds[i];
        polls[i].events = (readable & (1U << i)) != 0 ? POLLIN : 0;
        polls[i].revents = 0;
    }

    const int rc = ppoll(polls, count, remaining(deadline_ns, &left), NULL);

    if (rc <= 0) {
        return rc == 0 ? SST_ETIMEDOUT : -errno;
    }
    for (uint32_t i = 0; i < count; i++) {
        mask |= polls[i].revents != 0 ? 1 << i : 0;
    }
    return mask;
}

/* Above 0 to 2, which a program may have closed: a child would take it for its
 * streams. */
static int
above_streams(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO) {
        return fd;
    }

    const int moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    const int saved = errno;

    close(fd);
    errno = saved;
    return moved;
}

int
ssti_os_tether(bool packets, int *parent, int *child)
{
    const int type = packets ? SOCK_SEQPACKET : SOCK_STREAM;
    int fds[2];

    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) {
        return -errno;
    }
    *parent = above_streams(fds[0]);
    *child = above_streams(fds[1]);
    if (*parent < 0 || *child < 0) {
        const int saved = errno;

        *parent = ssti_os_close(*parent);
        *child = ssti_os_close(*child);
        return -saved;
    }
    return 0;
}

int
ssti_os_close(int fd)
{
    if (fd >= 0) {
        /* Linux has closed the descriptor whatever close() says. */
        (void)close(fd);
    }
    return -1;
}

int64_t
ssti_os_send(int fd, const void *data, uint64_t size, int64_t deadline_ns)
{
    const int flags = MSG_NOSIGNAL | (deadline_ns == SST_FOREVER ? 0 : MSG_DONTWAIT);
    const ssize_t rc = send(fd, data, size, flags);

    return rc < 0 ? -errno : rc;
}

int64_t
ssti_os_receive_now(int fd, void *out, uint64_t size)
{
    const ssize_t rc = recv(fd, out, size, MSG_DONTWAIT);

    return rc < 0 ? -errno : rc;
}

uint64_t
ssti_os_file_id(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static void
parent_died(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    (void)context;
    if (armed_pid == getpid() && getppid() != armed_parent) {
        (void)kill(armed_pid, SIGKILL);
    }
}

int
ssti_os_die_with_parent(int parent_pid)
{
    const int number = SIGRTMAX - SSTI_OS_SIGNAL_PARENT;
    struct sigaction action = {.sa_sigaction = parent_died,
                               .sa_flags = SA_SIGINFO | SA_RESTART};
    sigset_t set;

    armed_parent = parent_pid;
    armed_pid = getpid();
    sigemptyset(&action.sa_mask);
    sigemptyset(&set);
    sigaddset(&set, number);
    if (sigaction(number, &action, NULL) != 0 ||
        pthread_sigmask(SIG_UNBLOCK, &set, NULL) != 0 ||
        prctl(PR_SET_PDEATHSIG, number) != 0) {
        return -errno;
    }
    if (getppid() != parent_pid) {
        (void)kill(armed_pid, SIGKILL);
    }
    return 0;
}

void
ssti_os_outlive_parent(void)
{
    /* The handler stays, and finds that it was not meant. */
    armed_pid = 0;
    (void)prctl(PR_SET_PDEATHSIG, 0); /* a valid argument cannot be refused */
}

uint64_t
ssti_os_signal_mask(void)
{
    uint64_t mask = 0;
    sigset_t set;

    (void)pthread_sigmask(SIG_BLOCK, NULL, &set); /* cannot fail */
    for (int number = 1; number <= SIGRTMAX; number++) {
        mask |= sigismember(&set, number) == 1 ? UINT64_C(1) << (number - 1) : 0;
    }
    return mask;
}

void
ssti_os_set_signal_mask(uint64_t mask)
{
    const int kept = SIGRTMAX - SSTI_OS_SIGNAL_PARENT;
    sigset_t set;

    (void)sigemptyset(&set);
    for (int number = 1; number <= SIGRTMAX; number++) {
        if (number != kept && (mask & (UINT64_C(1) << (number - 1))) != 0) {
            (void)sigaddset(&set, number);
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &set, NULL); /* cannot fail */
}

uint32_t
ssti_os_thread_count(void)
{
    struct stat st;

    /* A directory has two links and one more per directory in it: one per thread. */
    if (stat("/proc/self/task", &st) != 0 || st.st_nlink < 3) {
        return 0;
    }
    return (uint32_t)st.st_nlink - 2;
}

static void
close_range_slowly(unsigned first, unsigned last)
{
    struct rlimit limit;
    const unsigned highest =
        getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < SSTI_OS_FD_MAX
            ? (unsigned)limit.rlim_cur
            : SSTI_OS_FD_MAX;

    for (unsigned fd = first; fd <= last && fd < highest; fd++) {
        (void)close((int)fd);
    }
}

static void
close_between(unsigned first, unsigned last)
{
    if (first <= last && syscall(SYS_close_range, first, last, 0) != 0) {
        close_range_slowly(first, last);
    }
}

void
ssti_os_close_all_but(int fd)
{
    if (fd < 0) {
        close_between(0, UINT32_MAX);
        return;
    }
    if (fd > 0) {
        close_between(0, (unsigned)fd - 1);
    }
    close_between((unsigned)fd + 1, UINT32_MAX);
}

void
ssti_os_exit(int code)
{
    _exit(code);
}

/* The kernel's own order of arguments, which differs by architecture. */
#if defined(__x86_64__)
static long
raw_clone(unsigned long flags, int *child_tid)
{
    return syscall(SYS_clone, flags, 0L, 0L, (long)child_tid, 0L);
}
#else
static long
raw_clone(unsigned long flags, int *child_tid)
{
    return syscall(SYS_clone, flags, 0L, 0L, 0L, (long)child_tid);
}
#endif

static bool sibling_refused; /* by a test */

void
ssti_os_refuse_siblings(bool refuse)
{
    sibling_refused = refuse;
}

int
ssti_os_clone_sibling(void)
{
    struct robust_list_head *head = NULL;
    size_t size = 0;
    int *tid = NULL;

    if (sibling_refused) {
        return SST_EPERM;
    }
    /* Where libc keeps the thread's id, and its list of robust mutexes. */
    if (prctl(PR_GET_TID_ADDRESS, &tid) != 0 || tid == NULL ||
        syscall(SYS_get_robust_list, 0, &head, &size) != 0) {
        return -errno;
    }

    const unsigned long flags = CLONE_PARENT | CLONE_CHILD_SETTID |
                                CLONE_CHILD_CLEARTID | (unsigned long)SIGCHLD;
    const long pid = raw_clone(flags, tid);

    if (pid < 0) {
        return -errno;
    }
    if (pid == 0 && head != NULL) {
        /* What the maker held is not ours: fork() in libc empties the list as well. */
        head->list.next = &head->list;
        head->list_op_pending = NULL;
        (void)syscall(SYS_set_robust_list, head, size);
        ssti_self_tls.tid = 0;
    }
    return (int)pid;
}

int
ssti_os_cpu_affinity(void)
{
    /* The mask's size is not known beforehand: the kernel refuses one that is too
     * short. */
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
        cpu_set_t *const set = CPU_ALLOC((size_t)cpus);
        const size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        const int rc = set != NULL ? sched_getaffinity(0, size, set) : -1;
        const int saved = set != NULL ? errno : ENOMEM;
        const int count = rc == 0 ? CPU_COUNT_S(size, set) : 0;

        CPU_FREE(set);
        if (rc == 0) {
            return count;
        }
        if (saved != EINVAL) {
            return -saved;
        }
    }
    return SST_EINVAL;
}

int
ssti_os_cpu_online(void)
{
    const long count = sysconf(_SC_NPROCESSORS_ONLN);

    return count > 0 ? (int)count : 1;
}

int64_t
ssti_os_read_text(const char *path, char *out, size_t size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t done = 0;

    if (fd < 0) {
        return -errno;
    }
    while (done + 1 < size) {
        const ssize_t rc = read(fd, out + done, size - 1 - done);

        if (rc < 0 && errno == EINTR) {
            continue;
        }
        if (rc <= 0) {
            break;
        }
        done += (size_t)rc;
    }
    (void)close(fd);
    out[done] = '\0';
    return (int64_t)done;
}
