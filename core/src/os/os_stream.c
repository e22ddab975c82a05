/* SPDX-License-Identifier: MIT */

/* Bytes through any descriptor: sockets, pipes, terminals, blocking or not. */

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "os/os.h"
#include "os/os_stream.h"
#include "sidestep/sidestep.h"

enum {
    NS_PER_SECOND = 1000000000,
    TRANSFER_MAX = 0x7ffff000, /* the kernel moves no more by one call */
};

/* Sleep until one of `events` (or an error, or the end) is there. 0, SST_ETIMEDOUT,
 * SST_EINTR, SST_EBADF. */
static int
stream_wait(int fd, short events, int64_t deadline_ns)
{
    struct pollfd entry = {.fd = fd, .events = events};
    struct timespec left = {0};
    const struct timespec *limit = NULL;

    if (deadline_ns != SST_FOREVER) {
        const int64_t now = deadline_ns == SST_NOW ? 0 : ssti_os_now_ns();
        const int64_t left_ns = deadline_ns > now ? deadline_ns - now : 0;
        left.tv_sec = left_ns / NS_PER_SECOND;
        left.tv_nsec = left_ns % NS_PER_SECOND;
        limit = &left;
    }

    const int rc = ppoll(&entry, 1, limit, NULL);
    if (rc < 0) {
        return -errno;
    }
    if (rc == 0) {
        return SST_ETIMEDOUT;
    }
    return (entry.revents & POLLNVAL) != 0 ? SST_EBADF : 0;
}

/* A peer that is not heard of any more is no deadline of ours. */
static int
failure(int number)
{
    return number == ETIMEDOUT ? -ENETRESET : -number;
}

int
ssti_os_stream_poll(int fd, int64_t deadline_ns)
{
    return stream_wait(fd, POLLIN, deadline_ns);
}

int64_t
ssti_os_stream_read(int fd, void *data, uint64_t size, int64_t deadline_ns)
{
    const uint64_t most = size < TRANSFER_MAX ? size : TRANSFER_MAX;
    int rc = deadline_ns != SST_FOREVER ? stream_wait(fd, POLLIN, deadline_ns) : 0;

    while (rc == 0) {
        const ssize_t moved = read(fd, data, most);
        if (moved >= 0) {
            return moved;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            return failure(errno);
        }
        rc = stream_wait(fd, POLLIN, deadline_ns);
    }
    return rc;
}

int64_t
ssti_os_stream_write(int fd, const void *data, uint64_t size, int64_t deadline_ns)
{
    const uint64_t most = size < TRANSFER_MAX ? size : TRANSFER_MAX;
    int rc = deadline_ns != SST_FOREVER ? stream_wait(fd, POLLOUT, deadline_ns) : 0;

    while (rc == 0) {
        const ssize_t moved = write(fd, data, most);
        if (moved >= 0) {
            return moved;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            return failure(errno);
        }
        rc = stream_wait(fd, POLLOUT, deadline_ns);
    }
    return rc;
}

bool
ssti_os_stream_shares_cpu(int fd)
{
    int cpu = -1;
    socklen_t size = sizeof cpu;

    return getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &size) == 0 && cpu >= 0 &&
           cpu == sched_getcpu();
}

int
ssti_os_stream_close(int fd)
{
    /* Linux has closed it whatever close returns, also after a signal. */
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}
