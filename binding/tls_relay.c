/* SPDX-License-Identifier: MIT */

/* One thread that stands between plain streams and encrypted ones.
 *
 * An encrypted connection that is to be waited for, inherited or sent to another
 * process (tls_direct.c) is one end of a socket pair; the thread moves bytes between
 * the other end and the network. So it is a plain descriptor like any other, and no two
 * processes ever use one TLS state, which would break its secrecy. That state lives and
 * dies with this process.
 *
 * The thread also accepts for listeners and does the server's handshakes, as many at
 * a time as come, so that a slow or silent peer holds up nobody. Finished ones go to
 * the listener's reader as records in a pipe.
 *
 * Everything is guarded by one mutex, which the thread gives up only while it sleeps
 * and which nobody holds while blocking. Buffers have one size, and none grows with
 * what a peer says. What one side does not take is not read from the other.
 *
 * A forked child has copies of the descriptors and no thread: it closes them, so
 * that the peer sees the end when this process is gone, and touches no TLS state. */

#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tls_direct.h"

enum {
    MS_PER_S = 1000,
    NS_PER_MS = 1000000,
    CLOSING_MS = 5000,
};

struct relay_loop sstpy_relay_loop = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .watch = -1,
    .kick = -1,
    .spare = -1,
};

int64_t
sstpy_relay_now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * MS_PER_S + now.tv_nsec / NS_PER_MS;
}

int
sstpy_relay_close_fd(int fd)
{
    if (fd >= 0) {
        const int number = errno;

        (void)close(fd);
        errno = number;
    }
    return -1;
}

/* ---- The list ---- */

struct relay *
sstpy_relay_new(enum role role, int net_fd, SSL *ssl)
{
    struct relay *const relay = calloc(1, sizeof *relay);

    if (relay != NULL) {
        relay->role = role;
        relay->net_fd = net_fd;
        relay->user_fd = -1;
        relay->ssl = ssl;
    }
    return relay;
}

void
sstpy_relay_link_in(struct relay *relay)
{
    relay->previous = NULL;
    relay->next = sstpy_relay_loop.first;
    if (sstpy_relay_loop.first != NULL) {
        sstpy_relay_loop.first->previous = relay;
    }
    sstpy_relay_loop.first = relay;
}

static void
link_out(struct relay *relay)
{
    if (relay->previous != NULL) {
        relay->previous->next = relay->next;
    }
    else {
        sstpy_relay_loop.first = relay->next;
    }
    if (relay->next != NULL) {
        relay->next->previous = relay->previous;
    }
}

void
sstpy_relay_free(struct relay *relay)
{
    SSL_free(relay->ssl);
    SSL_CTX_free(relay->context);
    free(relay->to_net.data);
    free(relay->to_user.data);
    free(relay);
}

/* Watch a descriptor for these events, or not at all. */
void
sstpy_relay_watch(int fd, uint32_t *current, uint32_t wanted, struct relay *relay)
{
    struct epoll_event event = {.events = wanted, .data.ptr = relay};

    /* With no event to wait for it is taken out: a hang-up is told of at any rate. */
    const int op = wanted == 0     ? EPOLL_CTL_DEL
                   : *current == 0 ? EPOLL_CTL_ADD
                                   : EPOLL_CTL_MOD;

    if (fd >= 0 && *current != wanted &&
        epoll_ctl(sstpy_relay_loop.watch, op, fd, &event) == 0) {
        *current = wanted;
    }
}

void
sstpy_relay_set_deadline(struct relay *relay, int64_t deadline_ms)
{
    sstpy_relay_loop.timed += (deadline_ms != 0) - (relay->deadline_ms != 0);
    relay->deadline_ms = deadline_ms;
}

void
sstpy_relay_end(struct relay *relay)
{
    if (relay->is_dead) {
        return;
    }
    relay->is_dead = true;
    sstpy_relay_set_deadline(relay, 0);
    if (relay->role == ROLE_HANDSHAKE) {
        sstpy_relay_loop.half_open--;
        if (relay->listener != NULL) {
            relay->listener->half_open--;
        }
    }
    if (relay->role == ROLE_STREAM) {
        sstpy_relay_loop.relayed--;
    }
    if (relay->role == ROLE_LISTENER) {
        sstpy_direct_end_untaken(relay);
        for (struct relay *other = sstpy_relay_loop.first; other != NULL;
             other = other->next) {
            if (other->listener == relay) {
                other->listener = NULL;
                sstpy_relay_set_deadline(other, 1); /* long ago */
            }
        }
    }
    /* Somebody may have a copy of them: closing alone would not end the watching. */
    sstpy_relay_watch(relay->net_fd, &relay->net_events, 0, relay);
    sstpy_relay_watch(relay->user_fd, &relay->user_events, 0, relay);
    relay->net_fd = sstpy_relay_close_fd(relay->net_fd);
    relay->user_fd = sstpy_relay_close_fd(relay->user_fd);
    link_out(relay);
    relay->next = sstpy_relay_loop.dead;
    sstpy_relay_loop.dead = relay;
}

bool
sstpy_relay_watch_first(int fd, uint32_t *current, uint32_t wanted, struct relay *relay)
{
    struct epoll_event event = {.events = wanted, .data.ptr = relay};

    *current = wanted;
    return epoll_ctl(sstpy_relay_loop.watch, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* ---- Streams ---- */

static bool
is_empty(const struct buffer *buffer)
{
    return buffer->begin == buffer->end;
}

/* What the user wrote. True when something changed. */
static bool
read_user(struct relay *relay)
{
    struct buffer *const buffer = &relay->to_net;
    ssize_t size;

    if (relay->user_ended || !is_empty(buffer)) {
        return false;
    }
    size = recv(relay->user_fd, buffer->data, RELAY_BUFFER_SIZE, MSG_DONTWAIT);
    if (size > 0) {
        buffer->begin = 0;
        buffer->end = (size_t)size;
        return true;
    }
    if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
        relay->user_ended = true;
        return true;
    }
    return false;
}

/* True when something changed. */
static bool
write_user(struct relay *relay)
{
    struct buffer *const buffer = &relay->to_user;
    ssize_t size;

    if (!is_empty(buffer)) {
        size = send(relay->user_fd, buffer->data + buffer->begin,
                    buffer->end - buffer->begin, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (size > 0) {
            buffer->begin += (size_t)size;
            return true;
        }
        if (errno != EAGAIN && errno != EINTR) {
            /* Nobody reads any more: what comes is dropped, what was written goes out.
             */
            buffer->begin = buffer->end;
            relay->net_ended = true;
            relay->user_shut = true;
            return true;
        }
        return false;
    }
    if (relay->net_ended && !relay->user_shut) {
        (void)shutdown(relay->user_fd, SHUT_WR);
        relay->user_shut = true;
        return true;
    }
    return false;
}

/* After an SSL function that returned `rc`: true when the connection is broken. */
bool
sstpy_relay_is_broken(struct relay *relay, int rc)
{
    switch (SSL_get_error(relay->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        return false;
    case SSL_ERROR_WANT_WRITE:
        relay->net_wants_write = true;
        return false;
    default:
        return true;
    }
}

static bool
write_net(struct relay *relay)
{
    struct buffer *const buffer = &relay->to_net;
    int rc;

    if (relay->net_shut) {
        buffer->begin = buffer->end;
        return false;
    }
    ERR_clear_error();
    if (!is_empty(buffer)) {
        rc = SSL_write(relay->ssl, buffer->data + buffer->begin,
                       (int)(buffer->end - buffer->begin));
        if (rc > 0) {
            buffer->begin += (size_t)rc;
            return true;
        }
        if (sstpy_relay_is_broken(relay, rc)) {
            sstpy_relay_end(relay);
        }
        return false;
    }
    if (relay->user_ended) {
        relay->net_shut = true;
        (void)SSL_shutdown(relay->ssl); /* says that nothing was cut off */
        (void)shutdown(relay->net_fd, SHUT_WR);
        return true;
    }
    return false;
}

static bool
read_net(struct relay *relay)
{
    struct buffer *const buffer = &relay->to_user;
    int rc;

    if (relay->net_ended || !is_empty(buffer)) {
        return false;
    }
    ERR_clear_error();
    buffer->begin = 0;
    buffer->end = 0;
    do { /* a record at a time */
        rc = SSL_read(relay->ssl, buffer->data + buffer->end,
                      (int)(RELAY_BUFFER_SIZE - buffer->end));
        buffer->end += rc > 0 ? (size_t)rc : 0;
    } while (rc > 0 && buffer->end < RELAY_BUFFER_SIZE);
    if (buffer->end > 0) {
        return true; /* what ended it is met again */
    }
    if (SSL_get_error(relay->ssl, rc) == SSL_ERROR_ZERO_RETURN) {
        relay->net_ended = true;
        return true;
    }
    if (sstpy_relay_is_broken(relay, rc)) {
        sstpy_relay_end(relay); /* damaged or cut off: neither direction is of use */
    }
    return false;
}

/* Nobody reads what still comes. A socket that is closed with bytes unread resets the
 * connection, and what was sent last might not arrive: read them, for a while. */
void
sstpy_relay_discard(struct relay *relay)
{
    ssize_t size;

    do {
        size =
            recv(relay->net_fd, relay->to_user.data, RELAY_BUFFER_SIZE, MSG_DONTWAIT);
    } while (size > 0);
    if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
        sstpy_relay_end(relay);
    }
}

bool
sstpy_relay_linger(struct relay *relay)
{
    relay->to_user.data = malloc(RELAY_BUFFER_SIZE);
    if (relay->to_user.data == NULL ||
        !sstpy_relay_watch_first(relay->net_fd, &relay->net_events, EPOLLIN, relay)) {
        return false;
    }
    sstpy_relay_set_deadline(relay, sstpy_relay_now_ms() + CLOSING_MS);
    sstpy_relay_link_in(relay);
    return true;
}

static void
close_slowly(struct relay *relay)
{
    sstpy_relay_watch(relay->user_fd, &relay->user_events, 0, relay);
    relay->user_fd = sstpy_relay_close_fd(relay->user_fd);
    relay->role = ROLE_CLOSING;
    sstpy_relay_loop.relayed--;
    sstpy_relay_set_deadline(relay, sstpy_relay_now_ms() + CLOSING_MS);
    sstpy_relay_watch(relay->net_fd, &relay->net_events, EPOLLIN, relay);
    sstpy_relay_discard(relay);
}

void
sstpy_relay_move(struct relay *relay)
{
    bool changed = true;

    relay->net_wants_write = false;
    /* What OpenSSL has read already no event tells of: that is moved at any rate. */
    for (int round = 0;
         changed && (round < RELAY_ROUNDS_MAX || SSL_has_pending(relay->ssl) == 1);
         round++) {
        changed = read_user(relay);
        changed = write_net(relay) || changed;
        if (!relay->is_dead) {
            changed = read_net(relay) || changed;
        }
        if (relay->is_dead) {
            return;
        }
        changed = write_user(relay) || changed;
    }
    if (relay->user_ended && relay->net_shut) {
        close_slowly(relay);
        return;
    }
    sstpy_relay_watch(relay->net_fd, &relay->net_events,
                      (!relay->net_ended && is_empty(&relay->to_user) ? EPOLLIN : 0u) |
                          (relay->net_wants_write || !is_empty(&relay->to_net)
                               ? EPOLLOUT
                               : 0u),
                      relay);
    sstpy_relay_watch(relay->user_fd, &relay->user_events,
                      (!relay->user_ended && is_empty(&relay->to_net) ? EPOLLIN : 0u) |
                          (!is_empty(&relay->to_user) ? EPOLLOUT : 0u),
                      relay);
}

/* The handshake is done: give the user an end of a pair. The end, or -1. */
int
sstpy_relay_become_stream(struct relay *relay)
{
    int pair[2];

    relay->to_net.data = malloc(RELAY_BUFFER_SIZE);
    relay->to_user.data = malloc(RELAY_BUFFER_SIZE);
    if (relay->to_net.data == NULL || relay->to_user.data == NULL ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return -1;
    }
    relay->user_fd = pair[0];
    if (!sstpy_relay_watch_first(relay->user_fd, &relay->user_events, EPOLLIN, relay)) {
        return sstpy_relay_close_fd(pair[1]);
    }
    if (relay->role == ROLE_HANDSHAKE) {
        sstpy_relay_loop.half_open--;
        if (relay->listener != NULL) {
            relay->listener->half_open--;
            relay->listener = NULL;
        }
    }
    relay->role = ROLE_STREAM;
    sstpy_relay_set_deadline(relay, 0);
    sstpy_relay_loop.relayed++;
    return pair[1];
}
