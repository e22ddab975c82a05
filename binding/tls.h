/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_TLS_H
#define SSTPY_TLS_H

/* TLS 1.3 for connections over networks, with a key that both sides know or with
 * certificates. Everything that touches OpenSSL is in tls_key.c, tls_direct.c and the
 * relay, which know no Python; tls_module.c is the extension sidestep._tls, loaded when
 * the first network address is used. docs/internals/tls.rst has the design. */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SSTPY_TLS_KEY_SIZE = 32,
    SSTPY_TLS_IDENTITY_SIZE = 16,
    SSTPY_TLS_WHY_SIZE = 160,
};

struct ssl_ctx_st;
struct ssl_st;
struct sstpy_transport;

/* ---- tls_key.c ---- */

/* Once, before everything else. */
int sstpy_tls_setup(void);

/* The settings of one side for this key, bound to one listener by `context`: HKDF of
 * the key, which is stretched by scrypt first when it is shorter than 32 bytes. NULL
 * without memory. What is derived is wiped when the last connection that uses the
 * settings has gone. Free it with SSL_CTX_free. */
struct ssl_ctx_st *sstpy_tls_context_with_key(bool server, const void *key,
                                              size_t key_size, const void *context,
                                              size_t context_size);

/* PEM files, and whom the peer's certificate has to name. */
struct sstpy_tls_certificates {
    const char *certificate; /* ours, with those between it and the authority */
    const char *key;
    const char *authority; /* who has to have signed the peer's */
    const char *peer;      /* a host name or IP address; NULL: any */
};
/* The settings of one side that shows a certificate and wants one. NULL: why. */
struct ssl_ctx_st *sstpy_tls_context_certified(
    bool server, const struct sstpy_tls_certificates *files, char *why,
    size_t why_size);

/* Have it read and write this socket, which stays the caller's. */
bool sstpy_tls_set_fd(struct ssl_st *ssl, int fd);

/* Has the peer of a finished handshake proved who it is? */
bool sstpy_tls_is_proved(const struct ssl_st *ssl);
/* Is it by certificates? */
bool sstpy_tls_is_certified(const struct ssl_st *ssl);
/* Why a handshake failed, in a few words; empty when OpenSSL does not say. */
void sstpy_tls_explain(const struct ssl_st *ssl, char *out, size_t size);

/* ---- tls_thread.c ---- */

/* Why there is no connection. */
enum sstpy_tls_status {
    SSTPY_TLS_OK = 0,
    SSTPY_TLS_REFUSED = -1, /* no TLS there, or another key */
    SSTPY_TLS_LATE = -2,
    SSTPY_TLS_SYSTEM = -3, /* errno says */
};

/* Do the client's handshake over a connected socket, which is taken in any case. An
 * enum sstpy_tls_status, and the connection; or `why`. Blocks until the deadline. */
int sstpy_tls_connect(int fd, struct ssl_ctx_st *context, int64_t timeout_ms,
                      struct sstpy_transport **out, char *why, size_t why_size);

/* A peer that has come: what a listener's descriptor gives, one record at a time. */
struct sstpy_tls_arrival {
    int32_t fd; /* of the connection, to be taken; or an enum sstpy_tls_status */
    uint32_t address_size;
    struct sockaddr_storage address;
};

/* Let peers come to a listening socket, which is taken in any case. Their handshakes
 * take at most the timeout, and at most `half_open_max` are under way: the oldest gives
 * way. A descriptor to read arrivals from, or a status; closing it ends the listener,
 * and the connections that nobody took. */
int sstpy_tls_listen(int fd, struct ssl_ctx_st *context, int64_t timeout_ms,
                     uint32_t half_open_max);

/* The connection that arrived under this descriptor; NULL if there is none. */
struct sstpy_transport *sstpy_tls_take(int fd);

/* Whether its descriptor is the network's still, and its own threads encrypt. */
bool sstpy_tls_is_direct(struct sstpy_transport *transport);

/* Wait until all that was written to streams is on its way, because the process is
 * about to end and the thread with it. False when the time is over. */
bool sstpy_tls_flush(int64_t timeout_ms);

/* Connections of this process now: encrypted by who uses them, by the relay, and not
 * finished with their handshake. */
void sstpy_tls_count(uint32_t *direct, uint32_t *relayed, uint32_t *half_open);

#endif
