/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_TLS_H
#define SSTPY_TLS_H

/* TLS 1.3 with a key that both sides know, for connections over networks. Everything
 * that touches OpenSSL is in tls_key.c and the relay, which know no Python;
 * tls_module.c is the extension sidestep._tls, loaded when the first network address is
 * used. docs/internals/tls.rst has the design. */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SSTPY_TLS_KEY_SIZE = 32,
    SSTPY_TLS_IDENTITY_SIZE = 16,
    SSTPY_TLS_SECRET_SIZE = SSTPY_TLS_KEY_SIZE + SSTPY_TLS_IDENTITY_SIZE,
};

/* What both sides derive from the user's key: the pre-shared key, and the name by which
 * they know that they mean the same. */
struct sstpy_tls_secret {
    unsigned char key[SSTPY_TLS_KEY_SIZE];
    unsigned char identity[SSTPY_TLS_IDENTITY_SIZE];
};

/* ---- tls_key.c ---- */

/* HKDF-SHA256 of the key, which is stretched by scrypt first when it is shorter than 32
 * bytes; `context` binds it to one listener. 0, or -1. */
int sstpy_tls_derive(const void *key, size_t key_size, const void *context,
                     size_t context_size, struct sstpy_tls_secret *out);

struct ssl_ctx_st;
/* The settings of one side, for this secret, which is copied; NULL without memory. Free
 * it with sstpy_tls_context_free. */
struct ssl_ctx_st *sstpy_tls_context_new(bool server,
                                         const struct sstpy_tls_secret *secret);
/* NULL. */
struct ssl_ctx_st *sstpy_tls_context_free(struct ssl_ctx_st *context);

/* Once, before everything else. */
int sstpy_tls_setup(void);

/* Has the peer of a finished handshake proved that it knows the secret? */
struct ssl_st;
bool sstpy_tls_is_proved(const struct ssl_st *ssl);

/* ---- tls_thread.c ---- */

/* Why there is no connection. */
enum sstpy_tls_status {
    SSTPY_TLS_OK = 0,
    SSTPY_TLS_REFUSED = -1, /* no TLS there, or another key */
    SSTPY_TLS_LATE = -2,
    SSTPY_TLS_SYSTEM = -3, /* errno says */
};

/* Do the client's handshake over a connected socket, which is taken in any case, and
 * have it relayed: the descriptor of a plain stream to the peer, or an enum
 * sstpy_tls_status. Blocks until the deadline. */
int sstpy_tls_connect(int fd, const struct sstpy_tls_secret *secret,
                      int64_t timeout_ms);

/* A peer that has come: what a listener's descriptor gives, one record at a time. */
struct sstpy_tls_arrival {
    int32_t fd; /* of a plain stream, the reader's; or an enum sstpy_tls_status */
    uint32_t address_size;
    struct sockaddr_storage address;
};

/* Let peers come to a listening socket, which is taken in any case. Their handshakes
 * take at most the timeout, and at most `half_open_max` are under way: the oldest gives
 * way. A descriptor to read arrivals from, or a status; closing it ends the listener.
 */
int sstpy_tls_listen(int fd, const struct sstpy_tls_secret *secret, int64_t timeout_ms,
                     uint32_t half_open_max);

/* Wait until all that was written to streams is on its way, because the process is
 * about to end and the thread with it. False when the time is over. */
bool sstpy_tls_flush(int64_t timeout_ms);

/* Connections and handshakes of this process now. */
void sstpy_tls_count(uint32_t *relayed, uint32_t *half_open);

#endif
