/* SPDX-License-Identifier: MIT */
#ifndef SSTI_NET_PEER_H
#define SSTI_NET_PEER_H

/* One connection of a server. Everything here is called with the server's lock held. */

#include <stdbool.h>
#include <stdint.h>

#include "net/frame.h"

struct sst_server;

/* What it waits for, and so which of its deadlines counts. */
enum ssti_peer_state {
    SSTI_PEER_HALF_OPEN, /* not greeted */
    SSTI_PEER_QUIET,     /* for its next message */
    SSTI_PEER_MOVING,    /* for the rest of a message, or for room for an answer */
    SSTI_PEER_AT_WORK,   /* for us */
    SSTI_PEER_STATES,
};

/* Bytes of answers that the kernel has not taken yet. */
struct ssti_answer {
    uint8_t *data;
    uint64_t begin;
    uint64_t end;
    uint64_t room;
};

struct ssti_peer {
    struct ssti_peer *next; /* in the queue of its state, or of those that ended */
    struct ssti_peer *previous;
    uint64_t number; /* that others know it by */
    int fd;
    uint32_t watched; /* SSTI_OS_NET_... */
    enum ssti_peer_state state;
    bool is_greeted;
    bool is_at_work;
    bool is_finishing; /* ends when its answer is out */
    bool is_local;     /* a Unix socket that was accepted */
    int end_status;
    uint64_t unsent;  /* at the end: as the event's size */
    int64_t since_ns; /* in this state, or since it moved a byte */
    struct ssti_frame frame;
    struct ssti_answer answer;
};

struct ssti_peer_queue {
    struct ssti_peer *first;
    struct ssti_peer *last;
    uint32_t count;
};

void ssti_peer_queue_add(struct ssti_peer_queue *queue, struct ssti_peer *peer);
void ssti_peer_queue_remove(struct ssti_peer_queue *queue, struct ssti_peer *peer);

/* A connection for the descriptor, which it takes on success: *out, watched and in its
 * queue. SST_ENOMEM, SST_ELIMIT (there are too many), -errno. */
int ssti_peer_make(struct sst_server *server, int fd, bool is_greeted,
                   struct ssti_peer **out);
/* NULL when there is no connection of that number any more. */
struct ssti_peer *ssti_peer_find(const struct sst_server *server, uint64_t number);

/* It may be read from and written to as before; put it into the queue where it belongs
 * now and have the kernel tell of what matters. Ends it when that cannot be. */
void ssti_peer_settle(struct sst_server *server, struct ssti_peer *peer);

/* Read what there is of its message. 1: it is whole; 0: more of it has to come; else
 * why the connection cannot be read any more. */
int ssti_peer_read(const struct sst_server *server, struct ssti_peer *peer);
/* Send what there is of an answer. 0, or why it cannot be. */
int ssti_peer_write(struct ssti_peer *peer);
/* Send an answer, or queue what there is no room for. 0, or why it cannot be. */
int ssti_peer_answer(struct ssti_peer *peer, const void *data, uint64_t size);
bool ssti_peer_has_unsent(const struct ssti_peer *peer);

/* Close its descriptor and keep the rest until the taker was told. */
void ssti_peer_end(struct sst_server *server, struct ssti_peer *peer, int status);
/* Take it out of the server: its descriptor, which is the caller's. */
int ssti_peer_release(struct sst_server *server, struct ssti_peer *peer);
/* Returns NULL. */
struct ssti_peer *ssti_peer_free(struct ssti_peer *peer);

#endif
