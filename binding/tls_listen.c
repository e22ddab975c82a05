/* SPDX-License-Identifier: MIT */

/* Listening sockets, and the handshakes of those who come. */

#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "tls_direct.h"

enum {
    NO_DESCRIPTOR_MS = 50, /* how long to leave a listener alone without any */
    SHORT_MS = 1000,       /* without them, until those who wait are turned away */
};

/* False when nobody reads arrivals any more. */
static bool
announce(const struct relay *listener, const struct relay *relay, int fd)
{
    struct sstpy_tls_arrival arrival = {.fd = fd};
    socklen_t size = sizeof arrival.address;

    if (fd >= 0 &&
        getpeername(relay->net_fd, (struct sockaddr *)&arrival.address, &size) == 0) {
        arrival.address_size = size;
    }
    return send(listener->user_fd, &arrival, sizeof arrival,
                MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof arrival;
}

/* The handshake is done: the connection waits for who accepts. */
static void
arrive(struct relay *relay)
{
    struct relay *const listener = relay->listener;
    const int fd = relay->net_fd;

    if (!sstpy_tls_is_proved(relay->ssl) ||
        (sstpy_tls_is_certified(relay->ssl) && SSL_write(relay->ssl, "+", 1) != 1)) {
        (void)announce(listener, relay, SSTPY_TLS_REFUSED);
        sstpy_relay_end(relay);
        return;
    }
    sstpy_relay_watch(fd, &relay->net_events, 0, relay);

    struct sstpy_direct *const direct = sstpy_direct_new(relay->ssl, fd, listener);
    if (direct != NULL) {
        relay->ssl = NULL; /* both are the connection's */
        relay->net_fd = -1;
        if (!announce(listener, &(struct relay){.net_fd = fd}, fd)) {
            (void)sstpy_direct_end(direct);
        }
    }
    sstpy_relay_end(relay);
}

void
sstpy_relay_shake(struct relay *relay)
{
    struct relay *const listener = relay->listener;
    int rc;

    if (listener == NULL) {
        sstpy_relay_end(relay);
        return;
    }
    ERR_clear_error();
    relay->net_wants_write = false;
    rc = SSL_accept(relay->ssl);
    if (rc == 1) {
        arrive(relay);
    }
    else if (sstpy_relay_is_broken(relay, rc)) {
        /* A refusal is of interest only while there is room to tell of it. */
        (void)announce(listener, relay, SSTPY_TLS_REFUSED);
        sstpy_relay_end(relay);
    }
    else {
        sstpy_relay_watch(relay->net_fd, &relay->net_events,
                          relay->net_wants_write ? EPOLLIN | EPOLLOUT : EPOLLIN, relay);
    }
}

static void
end_oldest(const struct relay *listener)
{
    struct relay *oldest = NULL;

    for (struct relay *relay = sstpy_relay_loop.first; relay != NULL;
         relay = relay->next) {
        if (relay->role == ROLE_HANDSHAKE && relay->listener == listener) {
            oldest = relay;
        }
    }
    if (oldest != NULL) {
        sstpy_relay_end(oldest);
    }
}

static void
receive(struct relay *listener, int fd)
{
    static const int on = 1;
    SSL *const ssl = SSL_new(listener->context);
    struct relay *const relay =
        ssl != NULL ? sstpy_relay_new(ROLE_HANDSHAKE, fd, ssl) : NULL;

    if (relay == NULL || !sstpy_tls_set_fd(ssl, fd) ||
        !sstpy_relay_watch_first(fd, &relay->net_events, EPOLLIN, relay)) {
        SSL_free(ssl);
        free(relay);
        (void)sstpy_relay_close_fd(fd);
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on);
    relay->listener = listener;
    sstpy_relay_set_deadline(relay, sstpy_relay_now_ms() + listener->timeout_ms);
    listener->half_open++;
    sstpy_relay_loop.half_open++;
    sstpy_relay_link_in(relay);
    if (listener->half_open > listener->half_open_max) {
        end_oldest(listener);
    }
    if (!relay->is_dead) {
        sstpy_relay_shake(relay);
    }
}

static void
keep_spare(void)
{
    if (sstpy_relay_loop.spare < 0) {
        sstpy_relay_loop.spare = eventfd(0, EFD_CLOEXEC);
    }
}

/* Who waits for a descriptor of ours does not know for what: the spare one is given up
 * for a moment, to hang up on him. */
static bool
turn_away(const struct relay *listener)
{
    int fd;

    if (sstpy_relay_loop.spare < 0 ||
        sstpy_relay_now_ms() - listener->short_since_ms < SHORT_MS) {
        return false;
    }
    sstpy_relay_loop.spare = sstpy_relay_close_fd(sstpy_relay_loop.spare);
    fd = accept4(listener->net_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    (void)sstpy_relay_close_fd(fd);
    keep_spare();
    return fd >= 0;
}

/* Without descriptors; true: somebody was dealt with all the same. */
static bool
run_short(struct relay *listener)
{
    if (listener->short_since_ms == 0) {
        listener->short_since_ms = sstpy_relay_now_ms();
    }
    end_oldest(listener);
    if (turn_away(listener)) {
        return true;
    }
    sstpy_relay_watch(listener->net_fd, &listener->net_events, 0, listener);
    sstpy_relay_set_deadline(listener, sstpy_relay_now_ms() + NO_DESCRIPTOR_MS);
    return false;
}

void
sstpy_relay_listen_on(struct relay *listener)
{
    struct pollfd reader = {.fd = listener->user_fd};
    int fd;

    if (poll(&reader, 1, 0) > 0 && (reader.revents & (POLLHUP | POLLERR)) != 0) {
        sstpy_relay_end(listener);
        return;
    }
    for (int round = 0; round < RELAY_ROUNDS_MAX; round++) {
        fd = accept4(listener->net_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            listener->short_since_ms = 0;
            keep_spare();
            receive(listener, fd);
        }
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
            if (!run_short(listener)) {
                return;
            }
        }
        else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}
