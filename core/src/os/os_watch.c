/* SPDX-License-Identifier: MIT */

/* Watching many descriptors, being kicked out of that, and a thread to do it in.
 *
 * Writes no shared memory. */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    KEYS_MAX = 64,
    NS_PER_S = 1000000000,
};

int
ssti_os_watch_open(void)
{
    const int watch = epoll_create1(EPOLL_CLOEXEC);

    return watch >= 0 ? watch : -errno;
}

int
ssti_os_watch_add(int watch, int fd, uint64_t key, bool once)
{
    struct epoll_event event = {
        .events = once ? EPOLLIN | EPOLLET : EPOLLIN,
        .data.u64 = key,
    };

    return epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

void
ssti_os_watch_remove(int watch, int fd)
{
    struct epoll_event event = {0};

    (void)epoll_ctl(watch, EPOLL_CTL_DEL, fd, &event); /* not there: as wanted */
}

int
ssti_os_watch_wait(int watch, uint64_t *keys, uint32_t count, int64_t deadline_ns)
{
    struct epoll_event events[KEYS_MAX];
    struct pollfd item = {.fd = watch, .events = POLLIN};
    const int64_t left_ns = deadline_ns - ssti_os_now_ns();
    const struct timespec left = {
        .tv_sec = left_ns > 0 ? left_ns / NS_PER_S : 0,
        .tv_nsec = left_ns > 0 ? left_ns % NS_PER_S : 0,
    };
    int found = ppoll(&item, 1, deadline_ns == SST_FOREVER ? NULL : &left, NULL);

    if (found > 0) {
        found =
            epoll_wait(watch, events, count < KEYS_MAX ? (int)count : (int)KEYS_MAX, 0);
    }
    if (found < 0) {
        return errno == EINTR ? SST_EINTR : -errno;
    }
    for (int i = 0; i < found; i++) {
        keys[i] = events[i].data.u64;
    }
    return found;
}

int
ssti_os_kick_open(void)
{
    const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    return fd >= 0 ? fd : -errno;
}

void
ssti_os_kick(int fd)
{
    const uint64_t one = 1;

    /* Full: kicked often enough. */
    if (write(fd, &one, sizeof one) < 0) {
        return;
    }
}

void
ssti_os_kick_drain(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof count) < 0) {
        return; /* nothing was there */
    }
}

int
ssti_os_thread_start(void *(*run)(void *), void *context, uintptr_t *thread)
{
    pthread_t made;
    sigset_t all;
    sigset_t before;
    int rc;

    /* Signals are for threads that know what to do with them. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&made, NULL, run, context);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        return -rc;
    }
    *thread = (uintptr_t)made;
    return 0;
}

void
ssti_os_thread_join(uintptr_t thread)
{
    (void)pthread_join((pthread_t)thread, NULL);
}

void
ssti_os_thread_signals(bool all)
{
    sigset_t set;

    /* In a forked child, which goes on with its maker's mask. */
    (void)(all ? sigemptyset(&set) : sigfillset(&set));
    (void)pthread_sigmask(SIG_SETMASK, &set, NULL);
}
