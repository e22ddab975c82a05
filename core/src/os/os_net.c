/* SPDX-License-Identifier: MIT */

/* Many connections at once: epoll for reading and writing, accept, and sending without
 * waiting.
 *
 * Writes no shared memory. */

#include "os/os_net.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    EVENTS_MAX = 64,
    NS_PER_MS = 1000000,
};

int
ssti_os_net_watch(int watch, int fd, uint64_t key, uint32_t what, bool again)
{
    struct epoll_event event = {.events = EPOLLRDHUP, .data.u64 = key};

    event.events |= (what & SSTI_OS_NET_READ) != 0 ? EPOLLIN : 0U;
    event.events |= (what & SSTI_OS_NET_WRITE) != 0 ? EPOLLOUT : 0U;
    return epoll_ctl(watch, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) == 0
               ? 0
               : -errno;
}

/* Milliseconds until the deadline, rounded up: who wakes too early looks in vain. */
static int
milliseconds(int64_t deadline_ns)
{
    int64_t left_ms;

    if (deadline_ns == SST_FOREVER) {
        return -1;
    }
    left_ms = (deadline_ns - ssti_os_now_ns() + NS_PER_MS - 1) / NS_PER_MS;
    if (left_ms <= 0) {
        return 0;
    }
    return left_ms < INT_MAX ? (int)left_ms : INT_MAX;
}

int
ssti_os_net_wait(int watch, struct ssti_os_net_event *out, uint32_t count,
                 int64_t deadline_ns)
{
    struct epoll_event events[EVENTS_MAX];
    const int most = count < EVENTS_MAX ? (int)count : (int)EVENTS_MAX;
    const int found =
        epoll_wait(watch, events, most,
                   deadline_ns == SST_NOW ? 0 : milliseconds(deadline_ns));

    if (found < 0) {
        return -errno;
    }
    for (int i = 0; i < found; i++) {
        const uint32_t seen = events[i].events;

        out[i].key = events[i].data.u64;
        out[i].what = (seen & EPOLLIN) != 0 ? (uint32_t)SSTI_OS_NET_READ : 0;
        out[i].what |= (seen & EPOLLOUT) != 0 ? (uint32_t)SSTI_OS_NET_WRITE : 0;
        out[i].what |= (seen & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0
                           ? (uint32_t)SSTI_OS_NET_HANGUP
                           : 0;
    }
    return found;
}

int
ssti_os_net_listen(int fd)
{
    const int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 ? 0 : -errno;
}

/* Ask the kernel who the peer of a new connection is, and tune the connection. */
static void
look_at(int fd, struct ssti_os_net_peer *out)
{
    const int on = 1;
    struct ucred credentials = {0};
    socklen_t size = sizeof(credentials);
    int domain = 0;
    socklen_t domain_size = sizeof(domain);

    *out = (struct ssti_os_net_peer){0};
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_size) != 0) {
        return;
    }
    if (domain == AF_UNIX) {
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0) {
            out->is_known = true;
            out->pid = credentials.pid;
            out->uid = credentials.uid;
        }
        return;
    }
    /* Messages are small; waiting for more to send costs 40 ms each. Where it cannot
     * be, it is slow. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int
ssti_os_net_accept(int fd, struct ssti_os_net_peer *out)
{
    const int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

    if (accepted < 0) {
        switch (errno) {
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            return SST_EMFILE;
        case EWOULDBLOCK:
            return SST_EAGAIN;
        default:
            return -errno;
        }
    }
    look_at(accepted, out);
    return accepted;
}

int64_t
ssti_os_net_send(int fd, const void *first, uint64_t first_size, const void *second,
                 uint64_t second_size)
{
    /* The kernel reads from there, and wants pointers that are not const. */
    struct iovec parts[2] = {{.iov_len = first_size}, {.iov_len = second_size}};
    const struct msghdr msg = {.msg_iov = parts, .msg_iovlen = second_size > 0 ? 2 : 1};

    memcpy(&parts[0].iov_base, &first, sizeof(first));
    memcpy(&parts[1].iov_base, &second, sizeof(second));

    const ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (sent < 0) {
        return errno == ECONNRESET ? SST_EPIPE : -errno;
    }
    return sent;
}
