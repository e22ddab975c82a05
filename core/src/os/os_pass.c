/* SPDX-License-Identifier: MIT */

/* Packets that carry descriptors, over a socket pair that keeps message borders. */

#include <errno.h>
#include <sidestep/sidestep.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "os/os.h"

enum {
    PARTS = 2,
    MS_PER_S = 1000,
    US_PER_MS = 1000,
};

/* Room for the ancillary data of one packet, aligned as the kernel wants it. */
union control {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int) * SSTI_OS_PASS_MAX) +
              CMSG_SPACE(sizeof(struct ucred))];
};

static size_t
parts(const struct ssti_os_packet *packet, struct iovec *out)
{
    out[0] = (struct iovec){.iov_base = packet->data, .iov_len = packet->size};
    out[1] = (struct iovec){.iov_base = packet->more, .iov_len = packet->more_size};
    return packet->more != NULL ? PARTS : 1;
}

int
ssti_os_packet_send(int fd, struct ssti_os_packet *packet)
{
    union control control;
    struct iovec iov[PARTS];
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = parts(packet, iov)};
    const size_t size = sizeof(int) * packet->fd_count;

    if (packet->fd_count > SSTI_OS_PASS_MAX) {
        return SST_EINVAL;
    }
    if (packet->fd_count > 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(size);

        struct cmsghdr *const header = CMSG_FIRSTHDR(&msg);

        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(header), packet->fds, size);
    }

    const ssize_t rc = sendmsg(fd, &msg, MSG_NOSIGNAL);

    if (rc < 0) {
        return errno == ECONNRESET ? SST_EPIPE : -errno;
    }
    packet->size = (uint64_t)rc;
    return 0;
}

static void
take_rights(const struct cmsghdr *header, struct ssti_os_packet *packet)
{
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

    for (size_t i = 0; i < count; i++) {
        int fd;

        memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
        if (packet->fds == NULL || packet->fd_count == SSTI_OS_PASS_MAX) {
            (void)close(fd);
        }
        else {
            packet->fds[packet->fd_count++] = fd;
        }
    }
}

static void
take_sender(const struct cmsghdr *header, struct ssti_os_packet *packet)
{
    struct ucred sender;

    memcpy(&sender, CMSG_DATA(header), sizeof(sender));
    packet->sender_pid = sender.pid;
    packet->sender_uid = sender.uid;
}

int
ssti_os_packet_receive(int fd, struct ssti_os_packet *packet)
{
    union control control;
    struct iovec iov[PARTS];
    struct msghdr msg = {
        .msg_iov = iov,
        .msg_iovlen = parts(packet, iov),
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    const int flags = MSG_CMSG_CLOEXEC | (packet->now ? MSG_DONTWAIT : 0);
    ssize_t rc = recvmsg(fd, &msg, flags);

    if (rc < 0 && errno == ECONNRESET) {
        /* The other end was closed with packets of ours unread. That is said once, and
         * before what it has sent: that comes now. */
        msg.msg_controllen = sizeof(control);
        rc = recvmsg(fd, &msg, flags);
    }

    if (rc < 0) {
        return errno == ECONNRESET ? SST_EOF : -errno;
    }
    packet->size = (uint64_t)rc;
    packet->fd_count = 0;
    packet->sender_pid = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&msg); header != NULL;
         header = CMSG_NXTHDR(&msg, header)) {
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            take_rights(header, packet);
        }
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS) {
            take_sender(header, packet);
        }
    }
    return rc == 0 ? SST_EOF : 0;
}

int
ssti_os_receive_patience(int fd, uint32_t ms)
{
    const struct timeval patience = {
        .tv_sec = ms / MS_PER_S,
        .tv_usec = (ms % MS_PER_S) * US_PER_MS,
    };

    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0
               ? -errno
               : 0;
}

void
ssti_os_receive_no_more(int fd)
{
    (void)shutdown(fd, SHUT_RD); /* fails only when the other end is gone */
}

void
ssti_os_hang_up(int fd)
{
    (void)shutdown(fd, SHUT_RDWR); /* fails only when the other end is gone */
}

int
ssti_os_packet_ask_sender(int fd)
{
    const int on = 1;

    return setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0 ? -errno : 0;
}
