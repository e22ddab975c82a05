/* SPDX-License-Identifier: MIT */
#ifndef SSTI_OS_OS_NET_H
#define SSTI_OS_OS_NET_H

/* Many connections at once: a part of the porting contract (os.h) of its own. Sockets
 * may be blocking ones: nothing here waits for one of them. */

#include <stdbool.h>
#include <stdint.h>

enum {
    SSTI_OS_NET_READ = 1,
    SSTI_OS_NET_WRITE = 2,
    /* Told whether asked for or not: broken, or the other end has closed. There may be
     * something to be read still. */
    SSTI_OS_NET_HANGUP = 4,
};

struct ssti_os_net_event {
    uint64_t key;
    uint32_t what;
};

/* Watch a descriptor for `what`, as long as that is there; `again`: it is watched, and
 * from now on for that. 0 or -errno. */
int ssti_os_net_watch(int watch, int fd, uint64_t key, uint32_t what, bool again);
/* Sleep until something is there: how many events; 0 at the deadline. SST_EINTR. */
int ssti_os_net_wait(int watch, struct ssti_os_net_event *out, uint32_t count,
                     int64_t deadline_ns);

struct ssti_os_net_peer {
    bool is_known; /* the kernel says who it is: it is on this machine */
    int32_t pid;   /* 0: of another name space */
    uint32_t uid;
};

/* From now on accepting there never waits. 0 or -errno. */
int ssti_os_net_listen(int fd);
/* The descriptor of who has connected, sending small packets at once. SST_EAGAIN:
 * nobody; SST_EMFILE: no descriptors or no memory, of the process or the system; other
 * errors are those of a connection that is gone again. */
int ssti_os_net_accept(int fd, struct ssti_os_net_peer *out);

/* Send two parts, the second one behind the first, as far as there is room: bytes, or
 * SST_EAGAIN, SST_EPIPE, -errno. Never SIGPIPE. */
int64_t ssti_os_net_send(int fd, const void *first, uint64_t first_size,
                         const void *second, uint64_t second_size);

#endif
