/* SPDX-License-Identifier: MIT */

/* Sockets as bells: the only thing that ever travels over them is a byte that says
 * "look".
 *
 * A *bell* is a datagram socket under a name that the kernel chose (autobind: abstract,
 * in no directory, gone with its last descriptor). Whoever knows the name can ring it.
 * A *pair* is two joined stream sockets, each end the other's bell; besides, an end
 * hangs up when the last descriptor of the other is closed, by whomever and however,
 * which is how a pipe learns of its end of file. Nothing here blocks but
 * ssti_os_pair_poll, and nothing writes shared memory. */

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"
#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    NAME_OFFSET = offsetof(struct sockaddr_un, sun_path) +
        1, /* behind the leading NUL */
    DRAIN_SIZE = 64,
};

int
ssti_os_bell_open(uint64_t *name, uint32_t *name_size)
{
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size = sizeof address.sun_family;
    int rc;

    if (fd < 0) {
        return ssti_status_of_errno(errno);
    }
    if (bind(fd, (const struct sockaddr *)&address, size) != 0) {
        goto fail;
    }
    size = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
        goto fail;
    }
    if (size <= NAME_OFFSET || size - NAME_OFFSET > sizeof *name) {
        errno = EIO;
        goto fail;
    }

    *name = 0;
    *name_size = (uint32_t)(size - NAME_OFFSET);
    memcpy(name, address.sun_path + 1, *name_size);
    return fd;

fail:
    rc = ssti_status_of_errno(errno);
    ssti_os_close(fd);
    return rc;
}

int
ssti_os_ringer_open(void)
{
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd >= 0 ? fd : ssti_status_of_errno(errno);
}

int
ssti_os_bell_ring(int ringer, uint64_t name, uint32_t name_size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (name_size == 0 || name_size > sizeof name) {
        return SST_ECORRUPT;
    }
    memcpy(address.sun_path + 1, &name, name_size);
    if (sendto(ringer, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT,
               (const struct sockaddr *)&address,
               (socklen_t)(NAME_OFFSET + name_size)) == 1) {
        return 0;
    }
    return errno == ECONNREFUSED ? SST_ENOENT : ssti_status_of_errno(errno);
}

void
ssti_os_bell_drain(int fd)
{
    char buf[DRAIN_SIZE];
    ssize_t size;

    do {
        size = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
    } while (size > 0 || (size < 0 && errno == EINTR));
}

void
ssti_os_pair_drain(int fd)
{
    char buf[DRAIN_SIZE];
    ssize_t size;

    /* A stream gives all it has: less than was asked for means that nothing is left. */
    do {
        size = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
    } while (size == sizeof buf || (size < 0 && errno == EINTR));
}

int
ssti_os_pair_open(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        return ssti_status_of_errno(errno);
    }
    return 0;
}

int
ssti_os_pair_ring(int fd)
{
    /* BEL, which tells a ring from a byte that a user wrote to the descriptor. */
    if (send(fd, "\a", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1) {
        return 0;
    }
    if (errno == EPIPE || errno == ECONNRESET) {
        return SST_EPIPE;
    }
    return ssti_status_of_errno(errno);
}

/* poll(2) until an absolute deadline: the number ready, 0 past the deadline. */
static int
poll_until(struct pollfd *item, int64_t deadline_ns)
{
    struct timespec left = {0};
    int ready;

    if (deadline_ns == SST_FOREVER) {
        ready = ppoll(item, 1, NULL, NULL);
    }
    else {
        const int64_t now = deadline_ns == SST_NOW ? 0 : ssti_os_now_ns();
        const int64_t ns = deadline_ns > now ? deadline_ns - now : 0;

        left.tv_sec = ns / 1000000000;
        left.tv_nsec = ns % 1000000000;
        ready = ppoll(item, 1, &left, NULL);
    }
    return ready >= 0 ? ready : ssti_status_of_errno(errno);
}

void
ssti_os_yield(void)
{
    (void)sched_yield(); /* cannot fail */
}

int
ssti_os_pair_poll(int fd, uint32_t *seen, int64_t deadline_ns)
{
    struct pollfd item = {.fd = fd, .events = POLLIN | POLLRDHUP};
    const int ready = poll_until(&item, deadline_ns);

    *seen = 0;
    if (ready <= 0) {
        return ready == 0 ? SST_ETIMEDOUT : ready;
    }
    if ((item.revents & POLLNVAL) != 0) {
        return SST_EBADF;
    }
    if ((item.revents & POLLIN) != 0) {
        *seen |= SSTI_OS_PAIR_RUNG;
    }
    /* An end that was closed with bytes unread leaves an error (ECONNRESET) behind. */
    if ((item.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0) {
        *seen |= SSTI_OS_PAIR_HUNG_UP;
    }
    return 0;
}
