/* SPDX-License-Identifier: MIT */

/* One connection: its number, its state, reading, writing, and its end.
 *
 * A connection is in exactly one queue. Those of its states are in the order of
 * `since_ns`, because whoever enters one, or moves a byte in it, goes to its end: the
 * first is always the next that is late.
 *
 * What the kernel is asked to tell follows from the state (peer_wants). A connection at
 * work is not read; but as most answers come before its next byte does, reading is
 * given up only once the kernel has told of one, which saves two system calls per
 * message.
 *
 * Nothing here is shared between processes: the death table is in server.c. */

#include "net/peer.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "net/server.h"
#include "os/os.h"

enum {
    PLACES_FIRST = 64,
    READ_MAX = 1 << 20, /* of one connection, then the others */
};

/* ---- Queues ---- */

void
ssti_peer_queue_add(struct ssti_peer_queue *queue, struct ssti_peer *peer)
{
    peer->next = NULL;
    peer->previous = queue->last;
    if (queue->last != NULL) {
        queue->last->next = peer;
    }
    else {
        queue->first = peer;
    }
    queue->last = peer;
    queue->count++;
}

void
ssti_peer_queue_remove(struct ssti_peer_queue *queue, struct ssti_peer *peer)
{
    if (peer->previous != NULL) {
        peer->previous->next = peer->next;
    }
    else {
        queue->first = peer->next;
    }
    if (peer->next != NULL) {
        peer->next->previous = peer->previous;
    }
    else {
        queue->last = peer->previous;
    }
    queue->count--;
}

/* ---- Numbers ---- */

static int
grow_places(struct sst_server *server)
{
    const uint32_t count =
        server->place_count == 0 ? PLACES_FIRST : server->place_count * 2;
    struct ssti_peer **places;
    uint32_t *free_places;

    places = ssti_realloc(server->places, count * sizeof(struct ssti_peer *));
    if (places == NULL) {
        return SST_ENOMEM;
    }
    server->places = places;
    free_places = ssti_realloc(server->free_places, count * sizeof(*free_places));
    if (free_places == NULL) {
        return SST_ENOMEM;
    }
    server->free_places = free_places;
    for (uint32_t i = count; i > server->place_count; i--) {
        places[i - 1] = NULL;
        free_places[server->free_count++] = i - 1;
    }
    server->place_count = count;
    return 0;
}

struct ssti_peer *
ssti_peer_find(const struct sst_server *server, uint64_t number)
{
    const uint64_t place = number & ((UINT64_C(1) << SSTI_SERVER_PLACE_BITS) - 1);
    struct ssti_peer *peer;

    if (place >= server->place_count) {
        return NULL;
    }
    peer = server->places[place];
    return peer != NULL && peer->number == number ? peer : NULL;
}

static void
free_number(struct sst_server *server, const struct ssti_peer *peer)
{
    const uint32_t place =
        (uint32_t)(peer->number & ((UINT64_C(1) << SSTI_SERVER_PLACE_BITS) - 1));

    server->places[place] = NULL;
    server->free_places[server->free_count++] = place;
    server->statistics.connections--;
}

int
ssti_peer_make(struct sst_server *server, int fd, bool is_greeted,
               struct ssti_peer **out)
{
    struct ssti_peer *peer;
    int rc;

    if (server->statistics.connections >= server->options.connections_max) {
        return SST_ELIMIT;
    }
    rc = server->free_count == 0 ? grow_places(server) : 0;
    if (rc != 0) {
        return rc;
    }
    peer = ssti_alloc(sizeof(*peer));
    if (peer == NULL) {
        return SST_ENOMEM;
    }
    const uint32_t place = server->free_places[server->free_count - 1];

    server->serial++;
    *peer = (struct ssti_peer){
        .number = server->serial << SSTI_SERVER_PLACE_BITS | place,
        .fd = fd,
        .watched = SSTI_OS_NET_READ,
        .state = is_greeted ? SSTI_PEER_QUIET : SSTI_PEER_HALF_OPEN,
        .is_greeted = is_greeted,
        .since_ns = ssti_os_now_ns(),
    };
    rc = ssti_os_net_watch(server->watch, fd, peer->number, peer->watched, false);
    if (rc != 0) {
        (void)ssti_free(peer);
        return rc;
    }
    server->free_count--;
    server->places[place] = peer;
    ssti_peer_queue_add(&server->queues[peer->state], peer);
    server->statistics.connections++;
    *out = peer;
    return 0;
}

struct ssti_peer *
ssti_peer_free(struct ssti_peer *peer)
{
    ssti_frame_drop(&peer->frame);
    (void)ssti_free(peer->answer.data);
    return ssti_free(peer);
}

/* ---- State ---- */

bool
ssti_peer_has_unsent(const struct ssti_peer *peer)
{
    return peer->answer.begin != peer->answer.end;
}

static enum ssti_peer_state
peer_state(const struct ssti_peer *peer)
{
    if (!peer->is_greeted) {
        return SSTI_PEER_HALF_OPEN;
    }
    if (ssti_peer_has_unsent(peer) || (peer->frame.have != 0 && !peer->is_at_work)) {
        return SSTI_PEER_MOVING;
    }
    return peer->is_at_work ? SSTI_PEER_AT_WORK : SSTI_PEER_QUIET;
}

static uint32_t
peer_wants(const struct ssti_peer *peer)
{
    if (ssti_peer_has_unsent(peer)) {
        return SSTI_OS_NET_WRITE;
    }
    if (peer->is_at_work) {
        return peer->watched & SSTI_OS_NET_READ;
    }
    return SSTI_OS_NET_READ;
}

void
ssti_peer_settle(struct sst_server *server, struct ssti_peer *peer)
{
    const enum ssti_peer_state state = peer_state(peer);
    const uint32_t wanted = peer_wants(peer);
    int rc;

    if (peer->is_finishing && !ssti_peer_has_unsent(peer)) {
        ssti_peer_end(server, peer, SST_ECLOSED);
        return;
    }
    if (state != peer->state || state == SSTI_PEER_MOVING) {
        ssti_peer_queue_remove(&server->queues[peer->state], peer);
        peer->state = state;
        peer->since_ns = ssti_os_now_ns();
        ssti_peer_queue_add(&server->queues[state], peer);
    }
    if (wanted != peer->watched) {
        peer->watched = wanted;
        rc = ssti_os_net_watch(server->watch, peer->fd, peer->number, wanted, true);
        if (rc != 0) {
            ssti_peer_end(server, peer, rc);
        }
    }
}

/* ---- Bytes ---- */

int
ssti_peer_read(const struct sst_server *server, struct ssti_peer *peer)
{
    const uint64_t size_max = peer->is_greeted ? server->options.message_size_max
                                               : server->options.greeting_size_max;
    uint64_t budget = READ_MAX;
    uint64_t size;
    void *place;
    int64_t moved;
    int rc;

    for (;;) {
        rc = ssti_frame_place(&peer->frame, size_max, &place, &size);
        if (rc != 0) {
            return rc;
        }
        moved = ssti_os_receive_now(peer->fd, place, size);
        if (moved == SST_EAGAIN || moved == SST_EINTR) {
            return 0;
        }
        if (moved == 0) {
            return peer->frame.have == 0 ? SST_EOF : SST_EPIPE;
        }
        if (moved < 0) {
            return (int)moved;
        }
        if (ssti_frame_came(&peer->frame, (uint64_t)moved)) {
            return 1;
        }
        if ((uint64_t)moved >= budget) {
            return 0;
        }
        budget -= (uint64_t)moved;
    }
}

int
ssti_peer_write(struct ssti_peer *peer)
{
    struct ssti_answer *const answer = &peer->answer;
    const int64_t moved = ssti_os_net_send(peer->fd, answer->data + answer->begin,
                                           answer->end - answer->begin, NULL, 0);

    if (moved < 0) {
        return moved == SST_EAGAIN || moved == SST_EINTR ? 0 : (int)moved;
    }
    answer->begin += (uint64_t)moved;
    if (answer->begin == answer->end) {
        (void)ssti_free(answer->data);
        *answer = (struct ssti_answer){0};
    }
    return 0;
}

static int
queue_bytes(struct ssti_answer *answer, const uint8_t *data, uint64_t size)
{
    uint8_t *grown;

    if (size == 0) {
        return 0;
    }
    if (size > answer->room - answer->end) {
        if (size > SIZE_MAX - answer->end) {
            return SST_ENOMEM;
        }
        grown = ssti_realloc(answer->data, (size_t)(answer->end + size));
        if (grown == NULL) {
            return SST_ENOMEM;
        }
        answer->data = grown;
        answer->room = answer->end + size;
    }
    memcpy(answer->data + answer->end, data, (size_t)size);
    answer->end += size;
    return 0;
}

int
ssti_peer_answer(struct ssti_peer *peer, const void *data, uint64_t size)
{
    uint8_t header[SSTI_STREAM_HEADER_LONG];
    const uint8_t header_size = ssti_stream_header_put(header, size);
    uint64_t sent = 0;
    int rc;

    if (!ssti_peer_has_unsent(peer)) {
        const int64_t moved =
            ssti_os_net_send(peer->fd, header, header_size, data, size);

        if (moved < 0 && moved != SST_EAGAIN && moved != SST_EINTR) {
            return (int)moved;
        }
        sent = moved > 0 ? (uint64_t)moved : 0;
    }
    if (sent < header_size) {
        rc = queue_bytes(&peer->answer, header + sent, header_size - sent);
        if (rc != 0) {
            return rc;
        }
        sent = header_size;
    }
    return queue_bytes(&peer->answer, (const uint8_t *)data + (sent - header_size),
                       size - (sent - header_size));
}

/* ---- The end ---- */

static void
leave(struct sst_server *server, struct ssti_peer *peer)
{
    /* Before it is closed, for a forked child may have a copy. */
    ssti_os_watch_remove(server->watch, peer->fd);
    ssti_peer_queue_remove(&server->queues[peer->state], peer);
    free_number(server, peer);
}

void
ssti_peer_end(struct sst_server *server, struct ssti_peer *peer, int status)
{
    leave(server, peer);
    peer->fd = ssti_os_close(peer->fd);
    peer->end_status = status;
    peer->unsent = peer->answer.end - peer->answer.begin;
    if (peer->unsent == 0 && peer->is_local && status == -ECONNRESET) {
        peer->unsent = 1; /* so the kernel says that something was not read */
    }
    ssti_frame_drop(&peer->frame);
    peer->answer.data = ssti_free(peer->answer.data);
    ssti_peer_queue_add(&server->ended, peer);
    ssti_os_kick(server->kick); /* the taker may sleep, and be another thread */
}

int
ssti_peer_release(struct sst_server *server, struct ssti_peer *peer)
{
    const int fd = peer->fd;

    leave(server, peer);
    (void)ssti_peer_free(peer);
    return fd;
}
