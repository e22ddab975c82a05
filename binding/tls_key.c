/* SPDX-License-Identifier: MIT */

/* From the user's key to a TLS context that accepts nothing but that key.
 *
 * The pre-shared key is HKDF-SHA256 of the user's key, with what the listener is
 * called in it, so that a connection that somebody leads to another listener of the
 * same key fails. Keys of less than 32 bytes may be guessed: scrypt makes each guess
 * cost a tenth of a second. Nothing of the user's key goes over the wire.
 *
 * Only TLS 1.3, only with a fresh Diffie-Hellman exchange (recorded traffic stays
 * secret when the key is lost), only SHA-256 suites, to which the key belongs. The
 * server loads no certificate, so a peer without the key gets nowhere. The client
 * verifies certificates against an empty store, so a server with a certificate instead
 * of the key gets nowhere either. No tickets, no early data: nothing can be replayed.
 */

#include "tls.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

enum {
    STRONG_KEY_SIZE = 32,
    STRETCHED_SIZE = 32,
    SCRYPT_R = 8,
    SCRYPT_P = 1,
};

static const uint64_t scrypt_n = 1 << 15;
static const uint64_t scrypt_memory_max = 64 << 20;

static const char suites[] = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";
/* Both suites have the digest that the key belongs to; the session names the first. */
static const unsigned char suite_id[2] = {0x13, 0x01};

static int
hkdf(const void *key, size_t key_size, const char *label, const void *context,
     size_t context_size, unsigned char *out, size_t out_size)
{
    EVP_KDF *const kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *const ctx = EVP_KDF_CTX_new(kdf);
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key,
                                          key_size),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)label,
                                          strlen(label)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO,
                                          (void *)(uintptr_t)context, context_size),
        OSSL_PARAM_construct_end(),
    };
    const int rc = ctx != NULL ? EVP_KDF_derive(ctx, out, out_size, params) : 0;

    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return rc == 1 ? 0 : -1;
}

int
sstpy_tls_derive(const void *key, size_t key_size, const void *context,
                 size_t context_size, struct sstpy_tls_secret *out)
{
    static const char salt[] = "sidestep/1 stretch";
    unsigned char stretched[STRETCHED_SIZE];
    int rc;

    if (key_size < STRONG_KEY_SIZE) {
        if (EVP_PBE_scrypt(key, key_size, (const unsigned char *)salt, sizeof salt - 1,
                           scrypt_n, SCRYPT_R, SCRYPT_P, scrypt_memory_max, stretched,
                           sizeof stretched) != 1) {
            return -1;
        }
        key = stretched;
        key_size = sizeof stretched;
    }
    rc = hkdf(key, key_size, "sidestep/1 tls13 psk", context, context_size, out->key,
              sizeof out->key);
    if (rc == 0) {
        rc = hkdf(key, key_size, "sidestep/1 tls13 identity", context, context_size,
                  out->identity, sizeof out->identity);
    }
    OPENSSL_cleanse(stretched, sizeof stretched);
    return rc;
}

/* ---- Contexts ---- */

/* Where a context keeps its secret. */
static int secret_index = -1;

int
sstpy_tls_setup(void)
{
    if (secret_index < 0) {
        secret_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    }
    return secret_index < 0 ? -1 : 0;
}

static const struct sstpy_tls_secret *
secret_of(SSL *ssl)
{
    return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), secret_index);
}

static SSL_SESSION *
session_new(SSL *ssl)
{
    const struct sstpy_tls_secret *const secret = secret_of(ssl);
    const SSL_CIPHER *const cipher = SSL_CIPHER_find(ssl, suite_id);
    SSL_SESSION *const session = SSL_SESSION_new();

    if (session == NULL || cipher == NULL ||
        SSL_SESSION_set1_master_key(session, secret->key, sizeof secret->key) != 1 ||
        SSL_SESSION_set_cipher(session, cipher) != 1 ||
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
        SSL_SESSION_free(session);
        return NULL;
    }
    return session;
}

/* The client offers its key. */
static int
offer(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_size,
      SSL_SESSION **out)
{
    SSL_SESSION *const session = session_new(ssl);

    *out = NULL;
    *id = NULL;
    *id_size = 0;
    if (session == NULL) {
        return 0;
    }
    if (md != NULL &&
        SSL_CIPHER_get_handshake_digest(SSL_SESSION_get0_cipher(session)) != md) {
        SSL_SESSION_free(session);
        return 1; /* asked again with another digest: there is no such key */
    }
    *out = session;
    *id = secret_of(ssl)->identity;
    *id_size = SSTPY_TLS_IDENTITY_SIZE;
    return 1;
}

/* The server looks whether it is its own. */
static int
find(SSL *ssl, const unsigned char *id, size_t id_size, SSL_SESSION **out)
{
    *out = NULL;
    if (id_size != SSTPY_TLS_IDENTITY_SIZE ||
        CRYPTO_memcmp(id, secret_of(ssl)->identity, id_size) != 0) {
        return 1;
    }
    *out = session_new(ssl);
    return *out != NULL ? 1 : 0;
}

struct ssl_ctx_st *
sstpy_tls_context_free(struct ssl_ctx_st *context)
{
    if (context != NULL) {
        struct sstpy_tls_secret *const secret =
            SSL_CTX_get_ex_data(context, secret_index);

        if (SSL_CTX_set_ex_data(context, secret_index, NULL) == 1 && secret != NULL) {
            OPENSSL_cleanse(secret, sizeof *secret);
            free(secret);
        }
        SSL_CTX_free(context);
    }
    return NULL;
}

struct ssl_ctx_st *
sstpy_tls_context_new(bool server, const struct sstpy_tls_secret *secret)
{
    SSL_CTX *const context =
        SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    struct sstpy_tls_secret *const copy = malloc(sizeof *copy);

    if (context == NULL || copy == NULL) {
        SSL_CTX_free(context);
        free(copy);
        return NULL;
    }
    *copy = *secret;
    if (SSL_CTX_set_ex_data(context, secret_index, copy) != 1) {
        SSL_CTX_free(context);
        free(copy);
        return NULL;
    }
    if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(context, suites) != 1 ||
        SSL_CTX_set1_groups_list(context, "X25519:P-256") != 1 ||
        SSL_CTX_set_num_tickets(context, 0) != 1) {
        return sstpy_tls_context_free(context);
    }
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                           SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (server) {
        SSL_CTX_set_psk_find_session_callback(context, find);
    }
    else {
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL); /* by an empty store */
        SSL_CTX_set_psk_use_session_callback(context, offer);
    }
    return context;
}

bool
sstpy_tls_is_proved(const struct ssl_st *ssl)
{
    return SSL_version(ssl) == TLS1_3_VERSION && SSL_session_reused(ssl) == 1 &&
           SSL_get0_peer_certificate(ssl) == NULL;
}
