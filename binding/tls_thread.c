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

#include "tls_relay.h"

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

static void
kick(void)
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
}

static void
after_fork(void)
{
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
}

static void
after_fork_child(void)
{
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
    sstpy_relay_loop.runs = false;
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
}

/* Have the thread run; the mutex is held. */
static bool
start(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    int rc;

    if (sstpy_relay_loop.runs) {
        return true;
    }
    if (!sstpy_relay_loop.has_fork_hook) {
        if (pthread_atfork(before_fork, after_fork, after_fork_child) != 0) {
            return false;
        }
        sstpy_relay_loop.has_fork_hook = true;
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

/* A client's handshake, over a socket that does not block. An sstpy_tls_status. */
static int
shake_hands(SSL *ssl, int fd, int64_t deadline_ms)
{
    struct pollfd item = {.fd = fd};
    int64_t left_ms;
    int rc;

    for (;;) {
        ERR_clear_error();
        rc = SSL_connect(ssl);
        if (rc == 1) {
            return sstpy_tls_is_proved(ssl) ? SSTPY_TLS_OK : SSTPY_TLS_REFUSED;
        }
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
    }
}

static int
relay_client(SSL *ssl, int fd)
{
    struct relay *relay;
    int user_fd = SSTPY_TLS_SYSTEM;

    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    relay = start() ? sstpy_relay_new(ROLE_LISTENER, fd, ssl) : NULL;
    if (relay != NULL &&
        sstpy_relay_watch_first(fd, &relay->net_events, EPOLLIN, relay)) {
        user_fd = sstpy_relay_become_stream(relay);
    }
    if (user_fd >= 0) {
        sstpy_relay_link_in(relay);
        kick();
    }
    else {
        user_fd = SSTPY_TLS_SYSTEM;
        if (relay != NULL) {
            (void)sstpy_relay_close_fd(relay->user_fd);
            sstpy_relay_free(relay); /* with `ssl` */
        }
        else {
            SSL_free(ssl);
        }
        (void)sstpy_relay_close_fd(fd);
    }
    (void)pthread_mutex_unlock(&sstpy_relay_loop.mutex);
    return user_fd;
}

int
sstpy_tls_connect(int fd, const struct sstpy_tls_secret *secret, int64_t timeout_ms)
{
    SSL_CTX *context = sstpy_tls_context_new(false, secret);
    SSL *const ssl = context != NULL ? SSL_new(context) : NULL;
    int rc = SSTPY_TLS_SYSTEM;

    if (ssl != NULL && set_nonblocking(fd) && SSL_set_fd(ssl, fd) == 1) {
        rc = shake_hands(ssl, fd, sstpy_relay_now_ms() + timeout_ms);
    }
    /* The key was needed for the handshake only. */
    context = sstpy_tls_context_free(context);
    if (rc == SSTPY_TLS_OK) {
        return relay_client(ssl, fd);
    }
    SSL_free(ssl);
    (void)sstpy_relay_close_fd(fd);
    return rc;
}

int
sstpy_tls_listen(int fd, const struct sstpy_tls_secret *secret, int64_t timeout_ms,
                 uint32_t half_open_max)
{
    struct relay *listener = NULL;
    int pair[2] = {-1, -1};

    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
    if (start() && set_nonblocking(fd) &&
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
        listener = sstpy_relay_new(ROLE_LISTENER, fd, NULL);
    }
    if (listener == NULL) {
        goto fail;
    }
    listener->context = sstpy_tls_context_new(true, secret);
    listener->user_fd = pair[0];
    listener->timeout_ms = timeout_ms;
    listener->half_open_max = half_open_max;
    if (listener->context == NULL ||
        !sstpy_relay_watch_first(fd, &listener->net_events, EPOLLIN, listener) ||
        !sstpy_relay_watch_first(pair[0], &listener->user_events, EPOLLRDHUP,
                                 listener)) {
        goto fail;
    }
    sstpy_relay_link_in(listener);
    kick();
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
sstpy_tls_count(uint32_t *relayed, uint32_t *half_open)
{
    (void)pthread_mutex_lock(&sstpy_relay_loop.mutex);
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
