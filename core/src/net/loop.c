/* SPDX-License-Identifier: MIT */

/* Taking what happens at a server: one thread, one event at a time.
 *
 * Order: connections that have ended, then a wake, then what the kernel has told, one
 * event after the other; then sleep, until the kernel tells more, the next deadline of
 * a connection, or the taker's own. Events are batched, and a connection may end
 * between two of a batch, by another thread even: they name it by its number, which
 * nobody has again.
 *
 * Levels, not edges: what was not read is told again. So nothing has to be remembered
 * of a connection that had more to say, or of a listener where more wait. */

#include "base/bits.h"
#include "net/server.h"
#include "os/os.h"

enum {
    REST_NS = 50000000,    /* without descriptors, until it accepts again */
    SHORT_NS = 1000000000, /* without them, until those who wait are turned away */
};

/* ---- Deadlines ---- */

static int64_t
patience_ns(const struct sst_server *server, enum ssti_peer_state state)
{
    switch (state) {
    case SSTI_PEER_HALF_OPEN:
        return server->options.greeting_ns;
    case SSTI_PEER_QUIET:
        return server->options.idle_ns;
    case SSTI_PEER_MOVING:
        return server->options.stall_ns;
    default:
        return SST_FOREVER;
    }
}

static int64_t
late_at(const struct sst_server *server, const struct ssti_peer *peer)
{
    const int64_t patience = patience_ns(server, peer->state);

    return patience >= SST_FOREVER - peer->since_ns ? SST_FOREVER
                                                    : peer->since_ns + patience;
}

static void
rest(struct sst_server *server, bool rests)
{
    server->rest_until_ns = rests ? ssti_os_now_ns() + REST_NS : 0;
    for (uint32_t i = 0; i < server->listener_count; i++) {
        /* What fails here is a listener that is closed. */
        (void)ssti_os_net_watch(server->watch, server->listeners[i], i,
                                rests ? 0 : SSTI_OS_NET_READ, true);
    }
}

/* End what is late; when the next one will be. */
static int64_t
expire(struct sst_server *server)
{
    int64_t next_ns = SST_FOREVER;
    int64_t at_ns;

    const int64_t now_ns = ssti_os_now_ns();

    for (int state = 0; state < SSTI_PEER_STATES; state++) {
        struct ssti_peer *peer;

        while ((peer = server->queues[state].first) != NULL) {
            at_ns = late_at(server, peer);
            if (at_ns > now_ns) {
                next_ns = at_ns < next_ns ? at_ns : next_ns;
                break;
            }
            server->statistics.late++;
            ssti_peer_end(server, peer, SST_ETIMEDOUT);
        }
    }
    if (server->rest_until_ns != 0 && server->rest_until_ns <= now_ns) {
        rest(server, false);
    }
    if (server->rest_until_ns != 0 && server->rest_until_ns < next_ns) {
        next_ns = server->rest_until_ns;
    }
    return next_ns;
}

/* ---- Connections come ---- */

static void
end_oldest_half_open(struct sst_server *server)
{
    struct ssti_peer *const oldest = server->queues[SSTI_PEER_HALF_OPEN].first;

    if (oldest != NULL) {
        server->statistics.displaced++;
        ssti_peer_end(server, oldest, SST_ELIMIT);
    }
}

/* Somebody waits, and no descriptor is left for him. A while later there may be one
 * again; but who waits does not know for what, so he is not to wait long: the spare one
 * is given up for a moment, to accept him and hang up. */
static void
run_short(struct sst_server *server, int listener)
{
    struct ssti_os_net_peer who;
    const int64_t now_ns = ssti_os_now_ns();
    int fd = SST_EMFILE;

    if (server->short_since_ns == 0) {
        server->short_since_ns = now_ns;
    }
    if (now_ns - server->short_since_ns >= SHORT_NS && server->spare >= 0) {
        (void)ssti_os_close(server->spare);
        fd = ssti_os_net_accept(listener, &who);
        if (fd >= 0) {
            (void)ssti_os_close(fd);
            server->statistics.refused++;
        }
        server->spare = ssti_os_kick_open();
    }
    if (fd < 0) {
        rest(server, true);
    }
}

/* One of those that wait at a listener. 1: *event tells of it; 0: nobody is left, or
 * nobody can be let in now. */
static int
accept_one(struct sst_server *server, int listener, struct sst_server_event *event)
{
    struct ssti_os_net_peer who;
    struct ssti_peer *peer;

    const int fd = ssti_os_net_accept(listener, &who);

    if (fd == SST_EMFILE) {
        if (server->queues[SSTI_PEER_HALF_OPEN].count > 0) {
            end_oldest_half_open(server);
        }
        else {
            run_short(server, listener);
        }
    }
    if (fd < 0) {
        return 0; /* nobody, or somebody who has gone again: told again if more wait */
    }
    server->short_since_ns = 0;
    if (server->spare < 0) {
        server->spare = ssti_os_kick_open();
    }
    if (ssti_peer_make(server, fd, false, &peer) != 0) {
        server->statistics.refused++;
        (void)ssti_os_close(fd);
        return 0;
    }
    if (server->queues[SSTI_PEER_HALF_OPEN].count > server->options.half_open_max) {
        end_oldest_half_open(server);
    }
    server->statistics.accepted++;
    peer->is_local = who.is_known;
    *event = (struct sst_server_event){
        .what = SST_SERVER_OPENED,
        .connection = peer->number,
        .peer_is_known = who.is_known,
        .peer_pid = who.pid,
        .peer_uid = who.uid,
    };
    return 1;
}

/* ---- Connections speak ---- */

static int
read_message(struct sst_server *server, struct ssti_peer *peer,
             struct sst_server_event *event)
{
    const int rc = ssti_peer_read(server, peer);

    if (rc < 0) {
        ssti_peer_end(server, peer, rc);
        return 0;
    }
    if (rc == 1) {
        peer->is_at_work = true;
        *event = (struct sst_server_event){
            .what = SST_SERVER_MESSAGE,
            .connection = peer->number,
        };
        event->data = ssti_frame_take(&peer->frame, &event->size);
        server->statistics.messages++;
    }
    ssti_peer_settle(server, peer);
    return rc;
}

static int
hear(struct sst_server *server, struct ssti_peer *peer, uint32_t what,
     struct sst_server_event *event)
{
    const bool is_owed = peer->is_at_work || ssti_peer_has_unsent(peer);
    int rc;

    if (is_owed && (what & SSTI_OS_NET_HANGUP) != 0) {
        ssti_peer_end(server, peer, SST_EPIPE);
        return 0;
    }
    if (ssti_peer_has_unsent(peer)) {
        rc = (what & SSTI_OS_NET_WRITE) != 0 ? ssti_peer_write(peer) : 0;
        if (rc != 0) {
            ssti_peer_end(server, peer, rc);
        }
        else {
            ssti_peer_settle(server, peer);
        }
        return 0;
    }
    if (peer->is_at_work) {
        /* It sends on before it has its answer: that has to wait. */
        peer->watched = 0;
        rc = ssti_os_net_watch(server->watch, peer->fd, peer->number, 0, true);
        if (rc != 0) {
            ssti_peer_end(server, peer, rc);
        }
        return 0;
    }
    return read_message(server, peer, event);
}

/* ---- Taking ---- */

/* One event of the kernel's. 1: *event is one for the taker. */
static int
look_at(struct sst_server *server, const struct ssti_os_net_event *ready,
        struct sst_server_event *event)
{
    struct ssti_peer *peer;

    if (ready->key == SSTI_SERVER_KEY_KICK) {
        ssti_os_kick_drain(server->kick);
        return 0;
    }
    if (ready->key < SSTI_SERVER_LISTENERS_MAX) {
        return accept_one(server, server->listeners[ready->key], event);
    }
    peer = ssti_peer_find(server, ready->key);
    return peer != NULL ? hear(server, peer, ready->what, event) : 0;
}

static int
next_event(struct sst_server *server, struct sst_server_event *event)
{
    struct ssti_peer *const ended = server->ended.first;

    if (ended != NULL) {
        *event = (struct sst_server_event){
            .what = SST_SERVER_ENDED,
            .connection = ended->number,
            .status = ended->end_status,
            .size = ended->unsent,
        };
        ssti_peer_queue_remove(&server->ended, ended);
        (void)ssti_peer_free(ended);
        return 1;
    }
    if (server->is_woken) {
        server->is_woken = false;
        *event = (struct sst_server_event){.what = SST_SERVER_WOKEN};
        return 1;
    }
    while (server->ready_at < server->ready_count) {
        if (look_at(server, &server->ready[server->ready_at++], event) == 1) {
            return 1;
        }
    }
    return 0;
}

/* Sleep without the lock. */
static int
sleep_until(struct sst_server *server, int64_t deadline_ns)
{
    int found;

    ssti_local_unlock(&server->lock);
    found = ssti_os_net_wait(server->watch, server->ready, SSTI_SERVER_READY_MAX,
                             deadline_ns);
    ssti_local_lock(&server->lock);
    server->ready_at = 0;
    server->ready_count = found > 0 ? (uint32_t)found : 0;
    return found;
}

/* As sst_server_take; the lock is held, and is_taken set. */
static int
take(struct sst_server *server, struct sst_server_event *event, int64_t deadline_ns)
{
    int64_t until_ns;
    int found = 0;

    for (;;) {
        if (server->is_copy) {
            return SST_ESTALE;
        }
        if (next_event(server, event) == 1) {
            return 0;
        }
        until_ns = expire(server);
        if (server->ended.first != NULL) {
            continue;
        }
        found = sleep_until(server, until_ns < deadline_ns ? until_ns : deadline_ns);
        if (found < 0) {
            return found;
        }
        if (found == 0 && deadline_ns != SST_FOREVER &&
            ssti_os_now_ns() >= deadline_ns) {
            return SST_ETIMEDOUT;
        }
    }
}

int
sst_server_take(struct sst_server *server, struct sst_server_event *event,
                int64_t deadline_ns)
{
    int rc = SST_EAGAIN;

    ssti_local_lock(&server->lock);
    if (!server->is_taken) {
        server->is_taken = true;
        rc = take(server, event, deadline_ns);
        server->is_taken = false;
    }
    ssti_local_unlock(&server->lock);
    return rc;
}
