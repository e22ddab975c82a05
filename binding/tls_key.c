/* SPDX-License-Identifier: MIT */

/* From the user's key, or certificates, to a TLS context that accepts nothing else.
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
 *
 * With certificates it is the ordinary verification, on both sides: each has to show
 * one that the authority has signed, and the client's server one that names it. */

#include "tls.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    STRONG_KEY_SIZE = 32,
    STRETCHED_SIZE = 32,
    SCRYPT_R = 8,
    SCRYPT_P = 1,
    READ_BUFFER_SIZE = 64 * 1024,
};

static const uint64_t scrypt_n = 1 << 15;
static const uint64_t scrypt_memory_max = 64 << 20;

static const char suites[] = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";
/* Both suites have the digest that the key belongs to; the session names the first. */
static const unsigned char suite_id[2] = {0x13, 0x01};

/* What both sides derive from the user's key: the pre-shared key, and the name by which
 * they know that they mean the same. */
struct secret {
    unsigned char key[SSTPY_TLS_KEY_SIZE];
    unsigned char identity[SSTPY_TLS_IDENTITY_SIZE];
    bool is_none; /* by certificates */
};

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

static int
derive(const void *key, size_t key_size, const void *context, size_t context_size,
       struct secret *out)
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

/* The last that used the context has gone. */
static void
wipe(void *parent, void *secret, CRYPTO_EX_DATA *data, int index, long argument,
     void *pointer)
{
    (void)parent, (void)data, (void)index, (void)argument, (void)pointer;
    if (secret != NULL) {
        OPENSSL_cleanse(secret, sizeof(struct secret));
        free(secret);
    }
}

/* A socket without SIGPIPE: where a program lets that end it, closing a connection
 * whose peer has gone would. */
static BIO_METHOD *quiet_socket;

static int
quiet_write(BIO *bio, const char *data, int size)
{
    ssize_t sent;
    int fd = -1;

    (void)BIO_get_fd(bio, &fd);
    BIO_clear_retry_flags(bio);
    sent = send(fd, data, (size_t)size, MSG_NOSIGNAL);
    if (sent <= 0 && BIO_sock_should_retry((int)sent) != 0) {
        BIO_set_retry_write(bio);
    }
    return (int)sent;
}

static BIO_METHOD *
quiet_socket_new(void)
{
    const BIO_METHOD *const plain = BIO_s_socket();
    BIO_METHOD *const method = BIO_meth_new(BIO_TYPE_SOCKET, "quiet socket");

    if (method == NULL || BIO_meth_set_write(method, quiet_write) != 1 ||
        BIO_meth_set_read(method, BIO_meth_get_read(plain)) != 1 ||
        BIO_meth_set_ctrl(method, BIO_meth_get_ctrl(plain)) != 1 ||
        BIO_meth_set_create(method, BIO_meth_get_create(plain)) != 1 ||
        BIO_meth_set_destroy(method, BIO_meth_get_destroy(plain)) != 1) {
        BIO_meth_free(method);
        return NULL;
    }
    return method;
}

bool
sstpy_tls_set_fd(struct ssl_st *ssl, int fd)
{
    BIO *const bio = BIO_new(quiet_socket);

    if (bio == NULL) {
        return false;
    }
    (void)BIO_set_fd(bio, fd, BIO_NOCLOSE);
    SSL_set_bio(ssl, bio, bio);
    return true;
}

int
sstpy_tls_setup(void)
{
    if (secret_index < 0) {
        secret_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, wipe);
    }
    if (quiet_socket == NULL) {
        quiet_socket = quiet_socket_new();
    }
    return secret_index < 0 || quiet_socket == NULL ? -1 : 0;
}

static const struct secret *
secret_of(const SSL *ssl)
{
    return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), secret_index);
}

static SSL_SESSION *
session_new(SSL *ssl)
{
    const struct secret *const secret = secret_of(ssl);
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

/* What both kinds have in common; takes the secret. */
static SSL_CTX *
context_new(bool server, struct secret *secret)
{
    SSL_CTX *const context =
        SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

    if (context == NULL || SSL_CTX_set_ex_data(context, secret_index, secret) != 1) {
        SSL_CTX_free(context);
        wipe(NULL, secret, NULL, 0, 0, NULL);
        return NULL;
    }
    if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(context, suites) != 1 ||
        SSL_CTX_set1_groups_list(context, "X25519:P-256") != 1 ||
        SSL_CTX_set_num_tickets(context, 0) != 1) {
        SSL_CTX_free(context);
        return NULL;
    }
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                           SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* One system call for several records, not two for each. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_BUFFER_SIZE);
    return context;
}

struct ssl_ctx_st *
sstpy_tls_context_with_key(bool server, const void *key, size_t key_size,
                           const void *context, size_t context_size)
{
    struct secret *const secret = calloc(1, sizeof *secret);
    SSL_CTX *made = NULL;

    if (secret == NULL) {
        return NULL;
    }
    if (derive(key, key_size, context, context_size, secret) < 0) {
        wipe(NULL, secret, NULL, 0, 0, NULL);
        return NULL;
    }
    made = context_new(server, secret);
    if (made != NULL && server) {
        SSL_CTX_set_psk_find_session_callback(made, find);
    }
    else if (made != NULL) {
        SSL_CTX_set_verify(made, SSL_VERIFY_PEER, NULL); /* by an empty store */
        SSL_CTX_set_psk_use_session_callback(made, offer);
    }
    return made;
}

/* ---- Certificates ---- */

/* Nobody is there to type one. */
static int
no_password(char *out, int size, int writing, void *context)
{
    (void)out, (void)size, (void)writing, (void)context;
    return -1;
}

static void
explain_file(const char *what, const char *path, char *why, size_t why_size)
{
    const unsigned long error = ERR_peek_last_error();
    const char *reason = ERR_SYSTEM_ERROR(error) ? strerror(ERR_GET_REASON(error))
                                                 : ERR_reason_error_string(error);

    if (ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_SYS) {
        reason = strerror(ERR_GET_REASON(ERR_peek_error()));
    }
    (void)snprintf(why, why_size, "cannot use the %s in %s: %s", what, path,
                   reason != NULL ? reason : "it is not in PEM");
}

/* The client's server has to name itself as it was called. */
static bool
expect_peer(SSL_CTX *context, const char *peer)
{
    X509_VERIFY_PARAM *const param = SSL_CTX_get0_param(context);

    if (X509_VERIFY_PARAM_set1_ip_asc(param, peer) == 1) {
        return true;
    }
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(param, peer, 0) == 1;
}

static bool
load(SSL_CTX *context, const struct sstpy_tls_certificates *files, char *why,
     size_t why_size)
{
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context, files->certificate) != 1) {
        explain_file("certificate", files->certificate, why, why_size);
        return false;
    }
    if (SSL_CTX_use_PrivateKey_file(context, files->key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1) {
        explain_file("key", files->key, why, why_size);
        return false;
    }
    if (SSL_CTX_load_verify_file(context, files->authority) != 1) {
        explain_file("authority", files->authority, why, why_size);
        return false;
    }
    if (files->peer != NULL && !expect_peer(context, files->peer)) {
        (void)snprintf(why, why_size, "%s is no name of a host", files->peer);
        return false;
    }
    return true;
}

struct ssl_ctx_st *
sstpy_tls_context_certified(bool server, const struct sstpy_tls_certificates *files,
                            char *why, size_t why_size)
{
    struct secret *const secret = calloc(1, sizeof *secret);
    SSL_CTX *context = NULL;

    (void)snprintf(why, why_size, "out of memory");
    if (secret == NULL) {
        return NULL;
    }
    secret->is_none = true;
    context = context_new(server, secret);
    if (context == NULL) {
        return NULL;
    }
    SSL_CTX_set_default_passwd_cb(context, no_password);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                       NULL);
    if (!load(context, files, why, why_size)) {
        SSL_CTX_free(context);
        return NULL;
    }
    return context;
}

/* ---- Afterwards ---- */

bool
sstpy_tls_is_certified(const struct ssl_st *ssl)
{
    return secret_of(ssl)->is_none;
}

bool
sstpy_tls_is_proved(const struct ssl_st *ssl)
{
    if (SSL_version(ssl) != TLS1_3_VERSION) {
        return false;
    }
    if (sstpy_tls_is_certified(ssl)) {
        return SSL_session_reused(ssl) == 0 && SSL_get0_peer_certificate(ssl) != NULL &&
               SSL_get_verify_result(ssl) == X509_V_OK;
    }
    return SSL_session_reused(ssl) == 1 && SSL_get0_peer_certificate(ssl) == NULL;
}

void
sstpy_tls_explain(const struct ssl_st *ssl, char *out, size_t size)
{
    const long verified = SSL_get_verify_result(ssl);
    const unsigned long error = ERR_peek_error();
    const char *reason = ERR_reason_error_string(error);

    if (error == 0 || ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        reason =
            "the peer hung up: it has closed, has no room for another, or does not "
            "speak this protocol";
    }
    else if (!sstpy_tls_is_certified(ssl)) {
        reason = NULL; /* of keys there is but one thing to say */
    }
    else if (verified != X509_V_OK) {
        reason = X509_verify_cert_error_string(verified);
    }
    (void)snprintf(out, size, "%s", reason != NULL ? reason : "");
}
