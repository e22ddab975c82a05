/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_TLS_DIRECT_H
#define SSTPY_TLS_DIRECT_H

/* Connections that the user's own threads encrypt; tls_direct.c has the essay. Called
 * with the loop's mutex held, unless said. */

#include "tls_relay.h"
#include "transport.h"

struct sstpy_direct {
    struct sstpy_transport transport; /* first: what the connection has */
    struct sstpy_direct *next;
    struct sstpy_direct *previous;
    pthread_mutex_t
        mutex; /* of `ssl`; after the loop's, and never held while waiting */
    pthread_mutex_t write_mutex; /* one writes at a time; waits while it has it */
    SSL *ssl;                    /* NULL: the descriptor is a plain stream */
    int fd;
    int low_water; /* bytes for which who reads is woken */
    int wake;      /* readable from then on: who waits for `fd` looks again */
    bool is_private;
    struct relay *listener; /* NULL when somebody has taken it */
};

/* Over a finished handshake; takes `ssl` and `fd`. NULL, with errno, and it takes
 * nothing. */
struct sstpy_direct *sstpy_direct_new(SSL *ssl, int fd, struct relay *listener);
/* The one that arrived at a listener under this descriptor; NULL if there is none. */
struct sstpy_direct *sstpy_direct_take(int fd);
/* Close it; false when its descriptor is the caller's to close. */
bool sstpy_direct_end(struct sstpy_direct *direct);
/* A listener ends: what nobody took does so, too. */
void sstpy_direct_end_untaken(const struct relay *listener);
void sstpy_direct_before_fork(void);
void sstpy_direct_after_fork(void);
void sstpy_direct_after_fork_child(void);

#endif
