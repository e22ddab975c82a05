/* SPDX-License-Identifier: MIT */
#ifndef SSTI_NET_SERVER_H
#define SSTI_NET_SERVER_H

/* What server.c (its life, and what others ask of it), loop.c (taking) and peer.c (one
 * connection) share. `lock` guards all of it; no call that may block is made under
 * it, and nothing else is locked. */

#include <stdbool.h>
#include <stdint.h>

#include "net/peer.h"
#include "os/local.h"
#include "os/os_net.h"
#include "sidestep/sidestep.h"

enum {
    SSTI_SERVER_LISTENERS_MAX = 8,
    SSTI_SERVER_READY_MAX = 64,
    SSTI_SERVER_PLACE_BITS = 24, /* of a number; above it is a serial number */
};

/* The keys of what is watched and is no connection: a listener has its index. */
#define SSTI_SERVER_KEY_KICK UINT64_MAX

struct sst_server {
    struct ssti_local lock;
    struct sst_server *next; /* in the list of the process: server.c's lock */
    struct sst_server_options options;
    int watch;
    int kick;
    bool is_taken; /* a thread is in sst_server_take */
    bool is_woken;
    bool is_copy; /* we are a child of the process whose it is */

    int listeners[SSTI_SERVER_LISTENERS_MAX];
    uint32_t listener_count;
    int64_t rest_until_ns;  /* then they accept again; 0: they do now */
    int64_t short_since_ns; /* there are no descriptors since then; 0: there are */
    int spare;              /* a descriptor to give up then */

    /* connections by place; and the places that are free */
    struct ssti_peer **places;
    uint32_t *free_places;
    uint32_t place_count;
    uint32_t free_count;
    uint64_t serial;
    struct ssti_peer_queue queues[SSTI_PEER_STATES];
    struct ssti_peer_queue ended; /* the taker does not know yet */

    /* what the kernel told and nobody has looked at yet; the taker's */
    struct ssti_os_net_event ready[SSTI_SERVER_READY_MAX];
    uint32_t ready_count;
    uint32_t ready_at;

    struct sst_server_statistics statistics;
};

#endif
