/* SPDX-License-Identifier: MIT */

/* Connections that the user's own threads encrypt.
 *
 * A connection begins here: who sends encrypts, who receives decrypts, over the socket
 * itself, with nobody in between. That costs no wake-up more than a plain stream. It
 * ends here as soon as somebody needs what a plain stream can do and this cannot:
 *
 *   wait for the descriptor     OpenSSL may have the message already
 *   fork                        two processes must not have one TLS state
 *   send it to a process        nor may the state move
 *
 * Then the connection is made plain: the relay's thread (tls_relay.c) takes the state
 * and the socket over, and under the number of the socket's descriptor there is from
 * then on one end of a pair, whose other end the relay has. Who waits for the socket at
 * that moment is woken by `wake`, which is readable ever after, and goes on with the
 * pair. It is never undone.
 *
 * A record that was encrypted and not yet sent whole is repeated by its writer over the
 * pair, and found by OpenSSL to be what it has begun: it goes out once.
 *
 * `write_mutex` keeps a second writer from taking the first one's record for its own.
 * It may be held for as long as the peer does not read; nobody takes it with another
 * one held.
 *
 * A child of a fork that found no descriptor for the pair, or whose connection is
 * private, has in place of the socket one whose peer has gone. */

#include "tls_direct.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    NS_PER_S = 1000000000,
    NS_PER_MS = 1000000,
    RECORD_SIZE = 16 * 1024,
    WRITE_MAX = 1 << 20, /* with the mutex held: who reads meanwhile waits for it */
    READ_LONG = 256 * 1024,
    READ_AT_ONCE = 96 * 1024,
    HEADER_SIZE_MAX = 12, /* with which a message begins */
};

static struct sstpy_direct *
direct_of(const struct sstpy_transport *transport)
{
    return (struct sstpy_direct *)(uintptr_t)transport;
}

/* ---- Waiting ---- */

/* Until one of the events, or the connection became plain. 0, SST_ETIMEDOUT, -errno. */
static int
wait_for(const struct sstpy_direct *direct, short events, int64_t deadline_ns)
{
    struct pollfd items[2] = {
        {.fd = direct->fd, .events = events},
        {.fd = direct->wake, .events = POLLIN},
    };
    struct timespec left = {0};
    struct timespec now;
    int64_t left_ns = 0;

    if (deadline_ns == SST_NOW) {
        return SST_ETIMEDOUT;
    }
    if (deadline_ns != SST_FOREVER) {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        left_ns = deadline_ns - (now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec);
        left_ns = left_ns > 0 ? left_ns : 0;
        left.tv_sec = left_ns / NS_PER_S;
        left.tv_nsec = left_ns % NS_PER_S;
    }

    const int rc = ppoll(items, 2, deadline_ns == SST_FOREVER ? NULL : &left, NULL);
    if (rc < 0) {
        return -errno;
    }
    return rc == 0 ? SST_ETIMEDOUT : 0;
}

static int
wait_plain(const struct sstpy_direct *direct, short events, int64_t deadline_ns)
{
    struct pollfd item = {.fd = direct->fd, .events = events};

    if (poll(&item, 1, 0) > 0) {
        return 0;
    }
    /* `wake` is readable for ever: wait for the descriptor alone. */
    const struct sstpy_direct alone = {.fd = direct->fd, .wake = -1};
    return wait_for(&alone, events, deadline_ns);
}

/* ---- Moving bytes ---- */

/* A peer that is not heard of any more is no deadline of ours. */
static int
failure(int number)
{
    return number == ETIMEDOUT ? -ENETRESET : -number;
}

/* What an SSL function that returned `rc` wants: an event to wait for, 0 at the end of
 * the stream, or -errno. */
static int
want(const SSL *ssl, int rc)
{
    const int number = errno;

    switch (SSL_get_error(ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        return POLLIN;
    case SSL_ERROR_WANT_WRITE:
        return POLLOUT;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        return number != 0 ? failure(number) : 0;
    default:
        /* The peer has gone without a word, or somebody has changed what it said. */
        return ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING
                   ? 0
                   : -ECONNABORTED;
    }
}

static int
clamp(uint64_t size)
{
    return size < INT_MAX ? (int)size : INT_MAX;
}

/* What SSL_get_error looks at. Mostly there is nothing to clear. */
static void
clear_errors(void)
{
    if (ERR_peek_error() != 0) {
        ERR_clear_error();
    }
}

/* A read that did not block, or a look that leaves everything where it is. As read(2);
 * or an event in *wanted. */
static int64_t
try_read(struct sstpy_direct *direct, void *data, uint64_t size, bool look, int *wanted)
{
    int rc;

    *wanted = 0;
    clear_errors();
    errno = 0;
    rc = look ? SSL_peek(direct->ssl, data, clamp(size))
              : SSL_read(direct->ssl, data, clamp(size));
    if (rc > 0) {
        return rc;
    }
    rc = want(direct->ssl, rc);
    if (rc > 0) {
        *wanted = rc;
        return 0;
    }
    return rc;
}

/* Be woken for this much and not for each segment. It is less than what is to come of a
 * message: what ends the stream wakes at any rate. */
static void
set_low_water(struct sstpy_direct *direct, uint64_t size)
{
    const int wanted = size >= READ_LONG ? READ_AT_ONCE : 1;

    if (direct->low_water != wanted &&
        setsockopt(direct->fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted) == 0) {
        direct->low_water = wanted;
    }
}

static int64_t
direct_read(void *context, void *data, uint64_t size, int64_t deadline_ns)
{
    struct sstpy_direct *const direct = context;
    bool is_first = deadline_ns != SST_NOW && size <= HEADER_SIZE_MAX;
    int64_t moved = 0;
    int wanted = 0;
    bool is_plain;

    for (;;) {
        (void)pthread_mutex_lock(&direct->mutex);
        is_plain = direct->ssl == NULL;
        if (!is_plain && is_first && SSL_has_pending(direct->ssl) == 0) {
            wanted = POLLIN; /* a message is hardly there yet: one call less */
        }
        else if (!is_plain) {
            moved = try_read(direct, data, size, false, &wanted);
        }
        is_first = false;
        if (!is_plain) {
            if (wanted != 0) {
                set_low_water(direct, size);
            }
        }
        (void)pthread_mutex_unlock(&direct->mutex);
        if (is_plain) {
            moved = recv(direct->fd, data, size, MSG_DONTWAIT);
            wanted = moved < 0 && errno == EAGAIN ? POLLIN : 0;
            moved = moved < 0 ? failure(errno) : moved;
        }
        if (wanted == 0) {
            return moved;
        }

        const int rc = is_plain ? wait_plain(direct, (short)wanted, deadline_ns)
                                : wait_for(direct, (short)wanted, deadline_ns);
        if (rc < 0) {
            return rc;
        }
    }
}

/* Records of 16 KiB would each go out as a segment of its own, and wake the peer: with
 * the cork in, the kernel puts several into one. */
static void
set_cork(const struct sstpy_direct *direct, int on)
{
    (void)setsockopt(direct->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
}

/* A write that did not block: how many bytes, or what it wants, as want() says. */
static int64_t
try_write(struct sstpy_direct *direct, const char *data, uint64_t size, int *wanted)
{
    const bool is_long = size > RECORD_SIZE;
    int64_t moved = 0;
    int rc = 0;

    *wanted = 0;
    if (is_long) {
        set_cork(direct, 1);
    }
    do { /* a record at a time */
        clear_errors();
        errno = 0;
        rc = SSL_write(direct->ssl, data + moved, clamp(size - (uint64_t)moved));
        moved += rc > 0 ? rc : 0;
    } while (rc > 0 && moved < (int64_t)size && moved < WRITE_MAX);
    if (moved == 0) {
        *wanted = want(direct->ssl, rc);
    }
    if (is_long) {
        set_cork(direct, 0);
    }
    return moved;
}

/* As direct_read; the write mutex is held. */
static int64_t
write_some(struct sstpy_direct *direct, const void *data, uint64_t size,
           int64_t deadline_ns)
{
    int64_t moved = 0;
    int wanted = 0;
    bool is_plain;

    for (;;) {
        (void)pthread_mutex_lock(&direct->mutex);
        is_plain = direct->ssl == NULL;
        if (!is_plain) {
            moved = try_write(direct, data, size, &wanted);
        }
        (void)pthread_mutex_unlock(&direct->mutex);
        if (is_plain) {
            moved = send(direct->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
            wanted = moved > 0 ? 0 : errno == EAGAIN ? POLLOUT : failure(errno);
        }
        if (moved > 0) {
            return moved;
        }
        if (wanted <= 0) {
            return wanted < 0 ? wanted : -EPIPE;
        }

        const int rc = is_plain ? wait_plain(direct, (short)wanted, deadline_ns)
                                : wait_for(direct, (short)wanted, deadline_ns);
        if (rc < 0) {
            return rc;
        }
    }
}

static int64_t
direct_write(void *context, const void *data, uint64_t size, int64_t deadline_ns)
{
    struct sstpy_direct *const direct = context;

    (void)pthread_mutex_lock(&direct->write_mutex);
    const int64_t moved = write_some(direct, data, size, deadline_ns);
    (void)pthread_mutex_unlock(&direct->write_mutex);
    return moved;
}

static int
direct_poll(struct sstpy_transport *transport, int64_t deadline_ns)
{
    struct sstpy_direct *const direct = direct_of(transport);
    int64_t seen = 0;
    int wanted = 0;
    bool is_plain;
    char byte;

    do {
        (void)pthread_mutex_lock(&direct->mutex);
        is_plain = direct->ssl == NULL;
        if (!is_plain) {
            seen = try_read(direct, &byte, 1, true, &wanted);
            if (wanted != 0) {
                set_low_water(direct, 1);
            }
        }
        (void)pthread_mutex_unlock(&direct->mutex);
        if (is_plain) {
            const int rc = wait_plain(direct, POLLIN, deadline_ns);
            return rc == SST_ETIMEDOUT ? 0 : rc == 0 ? 1 : rc;
        }
        if (seen != 0 || wanted == 0) {
            return 1; /* a message, the end, or what recv() is going to tell */
        }

        const int rc = wait_for(direct, (short)wanted, deadline_ns);
        if (rc < 0) {
            return rc == SST_ETIMEDOUT ? 0 : rc;
        }
    } while (true);
}

/* ---- The list ---- */

static void
link_out(struct sstpy_direct *direct)
{
    if (direct->previous != NULL) {
        direct->previous->next = direct->next;
    }
    else {
        sstpy_relay_loop.directs = direct->next;
    }
    if (direct->next != NULL) {
        direct->next->previous = direct->previous;
    }
}

static void
free_direct(struct sstpy_direct *direct)
{
    (void)sstpy_relay_close_fd(direct->wake);
    (void)pthread_mutex_destroy(&direct->mutex);
    (void)pthread_mutex_destroy(&direct->write_mutex);
    free(direct);
}

/* What was made of a relay that is not going to be. */
static void
give_up(struct relay *relay)
{
    relay->ssl = NULL; /* it stays the connection's */
    if (relay->role == ROLE_STREAM) {
        sstpy_relay_link_in(relay);
        sstpy_relay_end(relay);
        return;
    }
    sstpy_relay_watch(relay->net_fd, &relay->net_events, 0, relay);
    (void)sstpy_relay_close_fd(relay->net_fd);
    (void)sstpy_relay_close_fd(relay->user_fd);
    sstpy_relay_free(relay);
}

/* A relay over a duplicate of the socket; *user_fd is the other end of its pair. */
static struct relay *
relay_over(SSL *ssl, int fd, int *user_fd)
{
    struct relay *relay = NULL;
    int net_fd = -1;

    *user_fd = -1;
    if (sstpy_relay_start()) {
        net_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    if (net_fd >= 0) {
        relay = sstpy_relay_new(ROLE_LISTENER, net_fd, ssl);
    }
    if (relay == NULL) {
        (void)sstpy_relay_close_fd(net_fd);
        return NULL;
    }
    if (sstpy_tls_set_fd(ssl, net_fd) &&
        sstpy_relay_watch_first(net_fd, &relay->net_events, EPOLLIN, relay)) {
        *user_fd = sstpy_relay_become_stream(relay);
    }
    return relay;
}

/* The state goes over to the relay's thread. 0 or -errno. */
static int
hand_over(struct sstpy_direct *direct)
{
    static const uint64_t one = 1;
    int user_fd = -1;

    set_low_water(direct, 1);
    errno = 0;
    struct relay *const relay = relay_over(direct->ssl, direct->fd, &user_fd);
    if (user_fd < 0 || dup3(user_fd, direct->fd, O_CLOEXEC) < 0) {
        const int number = errno != 0 ? errno : ENOMEM;
        if (relay != NULL) {
            give_up(relay);
        }
        (void)sstpy_tls_set_fd(direct->ssl, direct->fd);
        (void)sstpy_relay_close_fd(user_fd);
        return -number;
    }
    (void)sstpy_relay_close_fd(user_fd);
    direct->ssl = NULL;
    sstpy_relay_loop.direct--;
    sstpy_relay_link_in(relay);
    sstpy_relay_move(relay); /* what OpenSSL has read already no event tells of */
    if (write(direct->wake, &one, sizeof one) < 0) {
        return 0; /* it is readable already */
    }
    return 0;
}

bool
sstpy_tls_is_direct(struct sstpy_transport *transport)
{
    struct sstpy_direct *const direct = direct_of(transport);

    (void)pthread_mutex_lock(&direct->mutex);
    const bool is_direct = direct->ssl != NULL;
    (void)pthread_mutex_unlock(&direct->mutex);
    return is_direct;
}

static int
direct_make_plain(struct sstpy_transport *transport)
{
    struct sstpy_direct *const direct = direct_of(transport);
    int rc = 0;

    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    (void)pthread_mutex_lock(&direct->mutex);
    if (direct->ssl != NULL) {
        rc = hand_over(direct);
        sstpy_relay_kick();
    }
    (void)pthread_mutex_unlock(&direct->mutex);
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
    return rc;
}

static void
direct_keep_private(struct sstpy_transport *transport, int64_t patience_ns)
{
    struct sstpy_direct *const direct = direct_of(transport);
    const int patience_ms = clamp((uint64_t)patience_ns / NS_PER_MS);

    /* Where it cannot be set, the kernel's own patience has to do. */
    (void)setsockopt(direct->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms,
                     sizeof patience_ms);
    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    direct->is_private = true;
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
}

/* Has the peer closed its side? What still comes from it is dropped. */
static bool
has_ended(int fd)
{
    char dropped[4096];
    ssize_t size;

    do {
        size = recv(fd, dropped, sizeof dropped, MSG_DONTWAIT);
    } while (size > 0);
    return size == 0 || errno != EAGAIN;
}

/* Say that nothing was cut off, and let the thread read what still comes: a socket that
 * is closed with bytes unread resets the connection, and what was sent last is lost. */
static void
close_slowly(SSL *ssl, int fd)
{
    struct relay *relay = NULL;

    ERR_clear_error();
    (void)SSL_shutdown(ssl);
    (void)shutdown(fd, SHUT_WR);
    if (!has_ended(fd) && sstpy_relay_start()) {
        relay = sstpy_relay_new(ROLE_CLOSING, fd, NULL);
    }
    SSL_free(ssl);
    if (relay != NULL && sstpy_relay_linger(relay)) {
        sstpy_relay_kick();
        return;
    }
    if (relay != NULL) {
        sstpy_relay_free(relay);
    }
    (void)sstpy_relay_close_fd(fd);
}

bool
sstpy_direct_end(struct sstpy_direct *direct)
{
    const bool closes = direct->ssl != NULL;

    link_out(direct);
    if (closes) {
        sstpy_relay_loop.direct--;
        close_slowly(direct->ssl, direct->fd);
    }
    free_direct(direct);
    return closes;
}

static bool
direct_close(struct sstpy_transport *transport)
{
    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    const bool closed = sstpy_direct_end(direct_of(transport));
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
    return closed;
}

struct sstpy_direct *
sstpy_direct_new(SSL *ssl, int fd, struct relay *listener)
{
    struct sstpy_direct *const direct = calloc(1, sizeof *direct);

    if (direct == NULL) {
        return NULL;
    }
    direct->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (direct->wake < 0) {
        free(direct);
        return NULL;
    }
    direct->transport = (struct sstpy_transport){
        .io = {direct_read, direct_write, direct},
        .poll = direct_poll,
        .make_plain = direct_make_plain,
        .keep_private = direct_keep_private,
        .close = direct_close,
    };
    (void)pthread_mutex_init(&direct->mutex, NULL);
    (void)pthread_mutex_init(&direct->write_mutex, NULL);
    direct->ssl = ssl;
    direct->fd = fd;
    direct->low_water = 1;
    direct->listener = listener;
    direct->next = sstpy_relay_loop.directs;
    if (direct->next != NULL) {
        direct->next->previous = direct;
    }
    sstpy_relay_loop.directs = direct;
    sstpy_relay_loop.direct++;
    return direct;
}

struct sstpy_direct *
sstpy_direct_take(int fd)
{
    for (struct sstpy_direct *direct = sstpy_relay_loop.directs; direct != NULL;
         direct = direct->next) {
        if (direct->fd == fd && direct->listener != NULL) {
            direct->listener = NULL;
            return direct;
        }
    }
    return NULL;
}

void
sstpy_direct_end_untaken(const struct relay *listener)
{
    struct sstpy_direct *next;

    for (struct sstpy_direct *direct = sstpy_relay_loop.directs; direct != NULL;
         direct = next) {
        next = direct->next;
        if (direct->listener == listener) {
            link_out(direct);
            sstpy_relay_loop.direct--;
            SSL_free(direct->ssl);
            (void)sstpy_relay_close_fd(direct->fd);
            free_direct(direct);
        }
    }
}

/* ---- Forking ---- */

/* The mutexes are held until after the fork: a child has none of the threads that would
 * unlock them. */
void
sstpy_direct_before_fork(void)
{
    for (struct sstpy_direct *direct = sstpy_relay_loop.directs; direct != NULL;
         direct = direct->next) {
        (void)pthread_mutex_lock(&direct->mutex);
        if (direct->ssl != NULL && !direct->is_private && direct->listener == NULL) {
            /* If it cannot be, the child has none of it. */
            (void)hand_over(direct);
        }
    }
}

void
sstpy_direct_after_fork(void)
{
    for (struct sstpy_direct *direct = sstpy_relay_loop.directs; direct != NULL;
         direct = direct->next) {
        (void)pthread_mutex_unlock(&direct->mutex);
    }
}

/* In place of the socket: one whose peer has gone. */
static void
cut_off(struct sstpy_direct *direct)
{
    int pair[2];

    direct->ssl = NULL; /* the parent's, left alone */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        (void)sstpy_relay_close_fd(direct->fd);
        return;
    }
    (void)dup3(pair[0], direct->fd, O_CLOEXEC);
    (void)sstpy_relay_close_fd(pair[0]);
    (void)sstpy_relay_close_fd(pair[1]);
}

void
sstpy_direct_after_fork_child(void)
{
    static const pthread_mutex_t unlocked = PTHREAD_MUTEX_INITIALIZER;
    struct sstpy_direct *next;

    for (struct sstpy_direct *direct = sstpy_relay_loop.directs; direct != NULL;
         direct = next) {
        next = direct->next;
        direct->write_mutex = unlocked; /* a thread of the parent may have it */
        if (direct->listener != NULL) { /* nobody takes it here */
            link_out(direct);
            (void)sstpy_relay_close_fd(direct->fd);
            (void)sstpy_relay_close_fd(direct->wake);
            direct->ssl = NULL;
        }
        else if (direct->ssl != NULL) {
            cut_off(direct);
        }
        (void)pthread_mutex_unlock(&direct->mutex);
    }
    sstpy_relay_loop.direct = 0;
}
