/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_TLS_RELAY_H
#define SSTPY_TLS_RELAY_H

/* What the files of the relay share; tls_relay.c has the essay. Everything here is
 * called with the loop's mutex held. */

#include <openssl/ssl.h>
#include <pthread.h>

#include "tls.h"

enum {
    RELAY_BUFFER_SIZE = 64 * 1024,
    RELAY_ROUNDS_MAX = 16, /* of one connection, then the others */
};

enum role {
    ROLE_LISTENER,
    ROLE_HANDSHAKE,
    ROLE_STREAM,
    ROLE_CLOSING, /* a stream whose user is done: it waits for the peer's end */
};

struct buffer {
    unsigned char *data;
    size_t begin;
    size_t end;
};

/* A descriptor of the network: a listening socket, or a connection. */
struct relay {
    struct relay *next;
    struct relay *previous;
    enum role role;
    int net_fd;
    int user_fd; /* our end of the pair; a listener's: where arrivals are written */
    uint32_t net_events;
    uint32_t user_events;
    bool is_dead;
    int64_t deadline_ms; /* then it ends; a listener: looks again; 0 = never */
    SSL *ssl;
    /* connections */
    struct buffer to_net; /* plain */
    struct buffer to_user;
    bool user_ended; /* nothing more comes from the user */
    bool net_ended;
    bool user_shut; /* told so */
    bool net_shut;
    bool net_wants_write;
    struct relay *listener; /* of a handshake */
    /* listeners */
    SSL_CTX *context;
    uint32_t half_open;
    uint32_t half_open_max;
    int64_t timeout_ms;
    int64_t short_since_ms; /* there are no descriptors since then; 0: there are */
};

struct relay_loop {
    pthread_mutex_t mutex;
    bool runs;
    bool has_fork_hook;
    int watch;
    int kick;
    int spare;           /* a descriptor to give up when there are no others */
    struct relay *first; /* newest first */
    struct relay *dead;  /* freed when no event can name them any more */
    struct sstpy_direct
        *directs;    /* connections of tls_direct.c, until they are closed */
    uint32_t direct; /* of these, such as were not made plain */
    uint32_t relayed;
    uint32_t half_open;
    uint32_t timed; /* relays with a deadline */
};
extern struct relay_loop sstpy_relay_loop;

/* ---- tls_relay.c: the list, and what streams do ---- */

int64_t sstpy_relay_now_ms(void);
/* -1; errno stays. */
int sstpy_relay_close_fd(int fd);
struct relay *sstpy_relay_new(enum role role, int net_fd, SSL *ssl);
void sstpy_relay_free(struct relay *relay);
void sstpy_relay_link_in(struct relay *relay);
/* Close it, and have it freed by the thread. */
void sstpy_relay_end(struct relay *relay);
void sstpy_relay_set_deadline(struct relay *relay, int64_t deadline_ms);
/* Watch a descriptor for these events, or not at all. */
void sstpy_relay_watch(int fd, uint32_t *current, uint32_t wanted, struct relay *relay);
bool sstpy_relay_watch_first(int fd, uint32_t *current, uint32_t wanted,
                             struct relay *relay);
/* After an SSL function that returned `rc`: true when the connection is broken. */
bool sstpy_relay_is_broken(struct relay *relay, int rc);
/* The handshake is done: give the user an end of a pair. The end, or -1. */
int sstpy_relay_become_stream(struct relay *relay);
/* Move what can be moved, either way. */
void sstpy_relay_move(struct relay *relay);
/* Nobody reads what still comes. */
void sstpy_relay_discard(struct relay *relay);
/* The same for a connection that was none of the relay's: until its peer ends it, or a
 * few seconds. False when that cannot be. */
bool sstpy_relay_linger(struct relay *relay);

/* ---- tls_thread.c ---- */

/* Have the thread run; false, with errno, when it cannot. */
bool sstpy_relay_start(void);
/* Something was given to it. */
void sstpy_relay_kick(void);

/* ---- tls_listen.c ---- */

void sstpy_relay_listen_on(struct relay *listener);
void sstpy_relay_shake(struct relay *relay);

#endif
