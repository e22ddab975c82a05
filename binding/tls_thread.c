/* SPDX-License-Identifier: MIT */

/* The relay's thread, what a fork does to it, and how others give it work. */

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tls_direct.h"

enum {
    EVENTS_MAX = 64,
    FLUSH_STEP_NS = 500000,
};

static void
see_to(struct relay *relay)
{
    if (relay->is_dead) {
        return;
    }
    switch (relay->role) {
    case ROLE_LISTENER:
        sstpy_relay_listen_on(relay);
        break;
    case ROLE_HANDSHAKE:
        sstpy_relay_shake(relay);
        break;
    case ROLE_STREAM:
        sstpy_relay_move(relay);
        break;
    case ROLE_CLOSING:
        sstpy_relay_discard(relay);
        break;
    }
}

/* End what is late; milliseconds until something else will be, or -1. */
static int
end_late(void)
{
    int64_t next_ms = INT64_MAX;
    const int64_t now = sstpy_relay_now_ms();
    struct relay *next;

    for (struct relay *relay = sstpy_relay_loop.first; relay != NULL; relay = next) {
        next = relay->next;
        if (relay->deadline_ms == 0) {
            continue;
        }
        if (relay->deadline_ms > now) {
            next_ms = relay->deadline_ms < next_ms ? relay->deadline_ms : next_ms;
        }
        else if (relay->role == ROLE_LISTENER) {
            sstpy_relay_set_deadline(relay, 0);
            sstpy_relay_watch(relay->net_fd, &relay->net_events, EPOLLIN, relay);
        }
        else {
            sstpy_relay_end(relay);
        }
    }
    return next_ms == INT64_MAX ? -1 : (int)(next_ms - now);
}

static void *
run(void *context)
{
    struct epoll_event events[EVENTS_MAX];
    struct relay *dead;
    uint64_t kicks;
    int timeout_ms;
    int count;

    (void)context;
    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    for (;;) {
        timeout_ms = sstpy_relay_loop.timed != 0 ? end_late() : -1;
        while ((dead = sstpy_relay_loop.dead) != NULL) {
            sstpy_relay_loop.dead = dead->next;
            sstpy_relay_free(dead);
        }
        (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
        count = epoll_wait(sstpy_relay_loop.watch, events, EVENTS_MAX, timeout_ms);
        (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr != NULL) {
                see_to(events[i].data.ptr);
            }
            else if (read(sstpy_relay_loop.kick, &kicks, sizeof kicks) < 0) {
                continue; /* somebody else has read it */
            }
        }
    }
    return NULL;
}

void
sstpy_relay_kick(void)
{
    static const uint64_t one = 1;

    if (write(sstpy_relay_loop.kick, &one, sizeof one) < 0) {
        return; /* full: it is going to look */
    }
}

static void
before_fork(void)
{
    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    sstpy_direct_before_fork();
}

static void
after_fork(void)
{
    sstpy_direct_after_fork();
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
}

static void
after_fork_child(void)
{
    sstpy_direct_after_fork_child();
    for (struct relay *relay = sstpy_relay_loop.first; relay != NULL;
         relay = relay->next) {
        relay->net_fd = sstpy_relay_close_fd(relay->net_fd);
        relay->user_fd = sstpy_relay_close_fd(relay->user_fd);
    }
    /* Their memory is the parent's copy, and is left alone. */
    sstpy_relay_loop.first = NULL;
    sstpy_relay_loop.dead = NULL;
    sstpy_relay_loop.relayed = 0;
    sstpy_relay_loop.half_open = 0;
    sstpy_relay_loop.timed = 0;
    sstpy_relay_loop.watch = sstpy_relay_close_fd(sstpy_relay_loop.watch);
    sstpy_relay_loop.kick = sstpy_relay_close_fd(sstpy_relay_loop.kick);
    sstpy_relay_loop.spare = sstpy_relay_close_fd(sstpy_relay_loop.spare);
    sstpy_relay_loop.runs = false;
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
}

/* Before the first connection, and the first listener: neither is to be in two
 * processes. */
static bool
watch_forks(void)
{
    if (!sstpy_relay_loop.has_fork_hook) {
        const int rc = pthread_atfork(before_fork, after_fork, after_fork_child);
        if (rc != 0) {
            errno = rc;
            return false;
        }
        sstpy_relay_loop.has_fork_hook = true;
    }
    return true;
}

bool
sstpy_relay_start(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    int rc;

    if (sstpy_relay_loop.runs) {
        return true;
    }
    if (!watch_forks()) {
        return false;
    }
    sstpy_relay_loop.watch = epoll_create1(EPOLL_CLOEXEC);
    sstpy_relay_loop.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (sstpy_relay_loop.watch < 0 || sstpy_relay_loop.kick < 0 ||
        epoll_ctl(sstpy_relay_loop.watch, EPOLL_CTL_ADD, sstpy_relay_loop.kick,
                  &event) != 0) {
        goto fail;
    }
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&thread, NULL, run, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        errno = rc;
        goto fail;
    }
    (void)pthread_detach(thread);
    sstpy_relay_loop.runs = true;
    return true;

fail:
    sstpy_relay_loop.watch = sstpy_relay_close_fd(sstpy_relay_loop.watch);
    sstpy_relay_loop.kick = sstpy_relay_close_fd(sstpy_relay_loop.kick);
    return false;
}

/* ---- For the others ---- */

static bool
set_nonblocking(int fd)
{
    const int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

/* After an SSL function of a client: wait for what it wants. An sstpy_tls_status; OK:
 * again. */
static int
wait_for_peer(const SSL *ssl, int rc, int fd, int64_t deadline_ms)
{
    struct pollfd item = {.fd = fd};
    int64_t left_ms;

    switch (SSL_get_error(ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        item.events = POLLIN;
        break;
    case SSL_ERROR_WANT_WRITE:
        item.events = POLLOUT;
        break;
    default:
        return SSTPY_TLS_REFUSED;
    }
    left_ms = deadline_ms - sstpy_relay_now_ms();
    if (left_ms <= 0 || poll(&item, 1, (int)left_ms) == 0) {
        return SSTPY_TLS_LATE;
    }
    return SSTPY_TLS_OK;
}

/* A client's handshake, over a socket that does not block. An sstpy_tls_status. */
static int
shake_hands(SSL *ssl, int fd, int64_t deadline_ms)
{
    int status = SSTPY_TLS_OK;
    int rc = 0;
    char welcome;

    do {
        ERR_clear_error();
        rc = SSL_connect(ssl);
        if (rc != 1) {
            status = wait_for_peer(ssl, rc, fd, deadline_ms);
        }
    } while (rc != 1 && status == SSTPY_TLS_OK);
    if (rc == 1 && !sstpy_tls_is_proved(ssl)) {
        status = SSTPY_TLS_REFUSED;
    }
    /* Of certificates the server sees the client's last: it says what it thinks. */
    while (status == SSTPY_TLS_OK && sstpy_tls_is_certified(ssl)) {
        ERR_clear_error();
        rc = SSL_read(ssl, &welcome, 1);
        if (rc > 0) {
            break;
        }
        status = wait_for_peer(ssl, rc, fd, deadline_ms);
    }
    return status;
}

int
sstpy_tls_connect(int fd, struct ssl_ctx_st *context, int64_t timeout_ms,
                  struct sstpy_transport **out, char *why, size_t why_size)
{
    SSL *const ssl = SSL_new(context);
    struct sstpy_direct *direct = NULL;
    int rc = SSTPY_TLS_SYSTEM;

    why[0] = '\0';
    if (ssl != NULL && set_nonblocking(fd) && sstpy_tls_set_fd(ssl, fd)) {
        rc = shake_hands(ssl, fd, sstpy_relay_now_ms() + timeout_ms);
    }
    if (rc == SSTPY_TLS_OK) {
        (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
        direct = watch_forks() ? sstpy_direct_new(ssl, fd, NULL) : NULL;
        (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
        if (direct != NULL) {
            *out = &direct->transport;
            return SSTPY_TLS_OK;
        }
        rc = SSTPY_TLS_SYSTEM;
    }
    if (rc == SSTPY_TLS_REFUSED) {
        sstpy_tls_explain(ssl, why, why_size);
    }
    SSL_free(ssl);
    (void)sstpy_relay_close_fd(fd);
    return rc;
}

struct sstpy_transport *
sstpy_tls_take(int fd)
{
    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    struct sstpy_direct *const direct = sstpy_direct_take(fd);
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
    return direct != NULL ? &direct->transport : NULL;
}

int
sstpy_tls_listen(int fd, struct ssl_ctx_st *context, int64_t timeout_ms,
                 uint32_t half_open_max)
{
    struct relay *listener = NULL;
    int pair[2] = {-1, -1};

    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    if (sstpy_relay_start() && set_nonblocking(fd) &&
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
        listener = sstpy_relay_new(ROLE_LISTENER, fd, NULL);
    }
    if (listener == NULL) {
        goto fail;
    }
    (void)SSL_CTX_up_ref(context);
    listener->context = context;
    listener->user_fd = pair[0];
    listener->timeout_ms = timeout_ms;
    listener->half_open_max = half_open_max;
    if (!sstpy_relay_watch_first(fd, &listener->net_events, EPOLLIN, listener) ||
        !sstpy_relay_watch_first(pair[0], &listener->user_events, EPOLLRDHUP,
                                 listener)) {
        goto fail;
    }
    sstpy_relay_link_in(listener);
    sstpy_relay_kick();
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
    return pair[1];

fail:
    if (listener != NULL) {
        sstpy_relay_free(listener);
    }
    (void)sstpy_relay_close_fd(pair[0]);
    (void)sstpy_relay_close_fd(pair[1]);
    (void)sstpy_relay_close_fd(fd);
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
    return SSTPY_TLS_SYSTEM;
}

void
sstpy_tls_count(uint32_t *direct, uint32_t *relayed, uint32_t *half_open)
{
    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    *direct = sstpy_relay_loop.direct;
    *relayed = sstpy_relay_loop.relayed;
    *half_open = sstpy_relay_loop.half_open;
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
}

/* Is there anything that a user wrote and that is not on its way? */
static bool
has_unsent(void)
{
    int size;

    for (const struct relay *relay = sstpy_relay_loop.first; relay != NULL;
         relay = relay->next) {
        if (relay->role == ROLE_STREAM &&
            (relay->to_net.begin != relay->to_net.end ||
             (!relay->net_shut && ioctl(relay->user_fd, FIONREAD, &size) == 0 &&
              size > 0))) {
            return true;
        }
    }
    return false;
}

bool
sstpy_tls_flush(int64_t timeout_ms)
{
    const int64_t deadline_ms = sstpy_relay_now_ms() + timeout_ms;
    const struct timespec step = {.tv_nsec = FLUSH_STEP_NS};
    bool unsent;

    do {
        (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
        unsent = sstpy_relay_loop.runs && has_unsent();
        (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
    } while (unsent && sstpy_relay_now_ms() < deadline_ms &&
             nanosleep(&step, NULL) <= 0);
    return !unsent;
}
