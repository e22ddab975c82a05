/* SPDX-License-Identifier: MIT */

/* The connections of a server: its life, and what other threads ask of it. See
 * docs/internals/loop.rst.
 *
 * A fork copies descriptors that clients wait on: the child closes them, or a client
 * would not see the end of a server whose child lives on. The locks are taken before
 * the fork, so that the child finds its lists whole.
 *
 * Nothing is shared between processes. Death table
 *   client dies        the kernel hangs up: loop.c ends the connection
 *   server dies        the kernel closes all; clients read the end of the stream
 *   forked child dies  it has closed its copies: nobody sees anything */

#include <pthread.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/status.h"
#include "net/server.h"
#include "os/os.h"

enum {
    CONNECTIONS_MAX = 65536,
    HALF_OPEN_MAX = 64,
    GREETING_SIZE_MAX = 256,
};

static const int64_t GREETING_NS = INT64_C(5000000000);
static const int64_t STALL_NS = INT64_C(60000000000);
static const uint64_t MESSAGE_SIZE_MAX = UINT64_C(1) << 40;

/* ---- Forks ---- */

static struct ssti_local all_lock = SSTI_LOCAL_INIT; /* before any server's own */
static struct sst_server *all;                       /* guarded by all_lock */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_status;

static void
before_fork(void)
{
    ssti_local_lock(&all_lock);
    for (struct sst_server *server = all; server != NULL; server = server->next) {
        ssti_local_lock(&server->lock);
    }
}

static void
after_fork(void)
{
    for (struct sst_server *server = all; server != NULL; server = server->next) {
        ssti_local_unlock(&server->lock);
    }
    ssti_local_unlock(&all_lock);
}

static void
close_descriptors(struct sst_server *server)
{
    for (uint32_t i = 0; i < server->place_count; i++) {
        if (server->places[i] != NULL) {
            server->places[i]->fd = ssti_os_close(server->places[i]->fd);
        }
    }
    for (uint32_t i = 0; i < server->listener_count; i++) {
        (void)ssti_os_close(server->listeners[i]);
    }
    server->listener_count = 0;
    server->kick = ssti_os_close(server->kick);
    server->watch = ssti_os_close(server->watch);
    if (server->spare >= 0) {
        server->spare = ssti_os_close(server->spare);
    }
}

static void
after_fork_child(void)
{
    ssti_local_init(&all_lock);
    for (struct sst_server *server = all; server != NULL; server = server->next) {
        ssti_local_init(&server->lock);
        close_descriptors(server);
        server->is_copy = true;
        server->is_taken = false;
    }
    all = NULL;
}

static void
register_handlers(void)
{
    fork_status = ssti_os_atfork(before_fork, after_fork, after_fork_child);
}

/* ---- Life ---- */

static void
set_defaults(struct sst_server_options *options)
{
    if (options->connections_max == 0) {
        options->connections_max = CONNECTIONS_MAX;
    }
    if (options->connections_max > 1U << SSTI_SERVER_PLACE_BITS) {
        options->connections_max = 1U << SSTI_SERVER_PLACE_BITS;
    }
    if (options->half_open_max == 0) {
        options->half_open_max = HALF_OPEN_MAX;
    }
    if (options->greeting_size_max == 0) {
        options->greeting_size_max = GREETING_SIZE_MAX;
    }
    if (options->message_size_max == 0) {
        options->message_size_max = MESSAGE_SIZE_MAX;
    }
    if (options->greeting_ns == 0) {
        options->greeting_ns = GREETING_NS;
    }
    if (options->stall_ns == 0) {
        options->stall_ns = STALL_NS;
    }
    if (options->idle_ns == 0) {
        options->idle_ns = SST_FOREVER;
    }
}

int
sst_server_open(const struct sst_server_options *options, struct sst_server **out,
                struct sst_error *err)
{
    const struct sst_server_options none = {.size_of = sizeof(none)};
    struct sst_server *server;
    int rc;

    options = options != NULL ? options : &none;
    if (options->size_of != sizeof(*options) || options->greeting_ns < 0 ||
        options->idle_ns < 0 || options->stall_ns < 0) {
        return ssti_error_set(err, SST_EINVAL, "options of another version, or < 0");
    }
    (void)pthread_once(&fork_once, register_handlers);
    server = fork_status == 0 ? ssti_alloc(sizeof(*server)) : NULL;
    if (server == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a server");
    }
    ssti_local_init(&server->lock);
    server->options = *options;
    set_defaults(&server->options);
    server->watch = ssti_os_watch_open();
    server->kick = ssti_os_kick_open();
    server->spare = ssti_os_kick_open(); /* none: then without */
    rc = server->watch < 0 ? server->watch : server->kick < 0 ? server->kick : 0;
    if (rc == 0) {
        rc = ssti_os_net_watch(server->watch, server->kick, SSTI_SERVER_KEY_KICK,
                               SSTI_OS_NET_READ, false);
    }
    if (rc != 0) {
        close_descriptors(server);
        (void)ssti_free(server);
        return ssti_error_set(err, rc, "no descriptors for a server");
    }
    ssti_local_lock(&all_lock);
    server->next = all;
    all = server;
    ssti_local_unlock(&all_lock);
    *out = server;
    return 0;
}

static void
unlist(const struct sst_server *server)
{
    struct sst_server **link = &all;

    ssti_local_lock(&all_lock);
    while (*link != NULL && *link != server) {
        link = &(*link)->next;
    }
    if (*link == server) {
        *link = server->next;
    }
    ssti_local_unlock(&all_lock);
}

static void
free_ended(struct sst_server *server)
{
    struct ssti_peer *peer;

    while ((peer = server->ended.first) != NULL) {
        ssti_peer_queue_remove(&server->ended, peer);
        (void)ssti_peer_free(peer);
    }
}

struct sst_server *
sst_server_close(struct sst_server *server)
{
    if (server == NULL) {
        return NULL;
    }
    unlist(server);
    if (!server->is_copy) {
        close_descriptors(server);
    }
    for (uint32_t i = 0; i < server->place_count; i++) {
        if (server->places[i] != NULL) {
            (void)ssti_peer_free(server->places[i]);
        }
    }
    free_ended(server);
    (void)ssti_free(server->places);
    (void)ssti_free(server->free_places);
    return ssti_free(server);
}

/* ---- For any thread ---- */

/* Begin a call about a connection: it, with the lock held; or NULL, without. */
static struct ssti_peer *
enter(struct sst_server *server, uint64_t number)
{
    struct ssti_peer *peer;

    ssti_local_lock(&server->lock);
    peer = server->is_copy ? NULL : ssti_peer_find(server, number);
    if (peer == NULL) {
        ssti_local_unlock(&server->lock);
    }
    return peer;
}

int
sst_server_listen(struct sst_server *server, int fd_take)
{
    int rc = SST_ELIMIT;

    ssti_local_lock(&server->lock);
    if (server->is_copy) {
        rc = SST_ESTALE;
    }
    else if (server->listener_count < SSTI_SERVER_LISTENERS_MAX) {
        rc = ssti_os_net_listen(fd_take);
        if (rc == 0) {
            rc = ssti_os_net_watch(server->watch, fd_take, server->listener_count,
                                   SSTI_OS_NET_READ, false);
        }
        if (rc == 0) {
            server->listeners[server->listener_count++] = fd_take;
        }
    }
    ssti_local_unlock(&server->lock);
    return rc;
}

int
sst_server_add(struct sst_server *server, int fd_take, bool is_greeted,
               uint64_t *connection)
{
    struct ssti_peer *peer = NULL;
    int rc;

    ssti_local_lock(&server->lock);
    rc = server->is_copy ? SST_ESTALE
                         : ssti_peer_make(server, fd_take, is_greeted, &peer);
    if (rc == 0) {
        *connection = peer->number;
    }
    ssti_local_unlock(&server->lock);
    return rc;
}

int
sst_server_send(struct sst_server *server, uint64_t connection, const void *data,
                uint64_t size)
{
    struct ssti_peer *const peer = enter(server, connection);
    int rc = SST_ESTALE;

    if (peer == NULL) {
        return rc;
    }
    if (!peer->is_finishing) {
        rc = ssti_peer_answer(peer, data, size);
        if (rc == 0) {
            rc = ssti_peer_has_unsent(peer);
            peer->is_at_work = false;
            ssti_peer_settle(server, peer);
        }
        else {
            ssti_peer_end(server, peer, rc);
        }
    }
    ssti_local_unlock(&server->lock);
    return rc;
}

int
sst_server_greet(struct sst_server *server, uint64_t connection)
{
    struct ssti_peer *const peer = enter(server, connection);

    if (peer == NULL) {
        return SST_ESTALE;
    }
    peer->is_greeted = true;
    peer->is_at_work = false;
    ssti_peer_settle(server, peer);
    ssti_local_unlock(&server->lock);
    return 0;
}

int
sst_server_finish(struct sst_server *server, uint64_t connection)
{
    struct ssti_peer *const peer = enter(server, connection);

    if (peer == NULL) {
        return SST_ESTALE;
    }
    peer->is_finishing = true;
    ssti_peer_settle(server, peer);
    ssti_local_unlock(&server->lock);
    return 0;
}

int
sst_server_end(struct sst_server *server, uint64_t connection)
{
    struct ssti_peer *const peer = enter(server, connection);

    if (peer == NULL) {
        return SST_ESTALE;
    }
    ssti_peer_end(server, peer, SST_ECLOSED);
    ssti_local_unlock(&server->lock);
    return 0;
}

int
sst_server_release(struct sst_server *server, uint64_t connection)
{
    struct ssti_peer *const peer = enter(server, connection);
    int rc = SST_EAGAIN;

    if (peer == NULL) {
        return SST_ESTALE;
    }
    if (peer->frame.have == 0 && !ssti_peer_has_unsent(peer)) {
        rc = ssti_peer_release(server, peer);
    }
    ssti_local_unlock(&server->lock);
    return rc;
}

void
sst_server_wake(struct sst_server *server)
{
    ssti_local_lock(&server->lock);
    server->is_woken = true;
    ssti_os_kick(server->kick);
    ssti_local_unlock(&server->lock);
}

void
sst_server_statistics(struct sst_server *server, struct sst_server_statistics *out)
{
    ssti_local_lock(&server->lock);
    *out = server->statistics;
    out->half_open = server->queues[SSTI_PEER_HALF_OPEN].count;
    out->moving = server->queues[SSTI_PEER_MOVING].count;
    out->at_work = server->queues[SSTI_PEER_AT_WORK].count;
    ssti_local_unlock(&server->lock);
}

void
sst_server_free(void *data)
{
    (void)ssti_free(data);
}
