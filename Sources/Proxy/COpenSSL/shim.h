// What Swift cannot import from OpenSSL 3: macros, and calls whose outcome is spread over a return value, an error queue
// and errno. Also epoll, whose event is a packed union. Only Sources/Proxy/ProxyCore/Tls imports this module.
// No _GNU_SOURCE here: see the header of CLiburing.
#pragma once
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509err.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

// MARK: contexts

static inline int sky_tls_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_length,
                               const unsigned char *offered, unsigned offered_length, void *unused) {
  (void)ssl, (void)unused;
  static const char *const spoken[] = {"http/1.1", "http/1.0"};
  for (int i = 0; i < 2; i++) {
    for (unsigned at = 0; at < offered_length; at += offered[at] + 1u) {
      if (offered[at] == 8 && at + 9 <= offered_length && memcmp(offered + at + 1, spoken[i], 8) == 0) {
        *out = offered + at + 1;
        *out_length = 8;
        return SSL_TLSEXT_ERR_OK;
      }
    }
  }
  // RFC 7301 3.2: no protocol in common is fatal.
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

// A key that wants a passphrase: nobody is asked, the caller is told.
static inline int sky_tls_no_passphrase(char *buffer, int size, int writing, void *asked) {
  (void)buffer, (void)size, (void)writing;
  *(int *)asked = 1;
  return -1;
}

// A server's context with everything but its certificate; NULL when memory is out.
static inline SSL_CTX *sky_tls_context(void) {
  // The process ends with its threads in the middle of things: nothing may be taken away under them by exit(3).
  OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, 0);
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  if (!context) return 0;
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  // TLS 1.2 with forward secrecy and authenticated encryption only; all suites of TLS 1.3 are such.
  SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK");
  // An end without close_notify counts as an end: a request says its own length.
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                   SSL_OP_PRIORITIZE_CHACHA | SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, 1);
  // Resumption by tickets alone: nothing is kept here for clients that do not come back.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context, sky_tls_alpn, 0);
  SSL_CTX_set_verify(context, SSL_VERIFY_NONE, 0);
  return context;
}

// 1: read. 0: not; then `sky_tls_reason` says why.
static inline int sky_tls_use_certificate(SSL_CTX *context, const char *path) {
  ERR_clear_error();
  return SSL_CTX_use_certificate_chain_file(context, path) == 1;
}
// `encrypted` is 1 afterwards when the key wants a passphrase.
static inline int sky_tls_use_key(SSL_CTX *context, const char *path, int *encrypted) {
  *encrypted = 0;
  ERR_clear_error();
  SSL_CTX_set_default_passwd_cb(context, sky_tls_no_passphrase);
  SSL_CTX_set_default_passwd_cb_userdata(context, encrypted);
  int done = SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) == 1;
  SSL_CTX_set_default_passwd_cb_userdata(context, 0);
  SSL_CTX_set_default_passwd_cb(context, 0);
  return done && SSL_CTX_check_private_key(context) == 1;
}
// Whether the last failure was that key and certificate do not belong together.
static inline int sky_tls_is_mismatch(void) {
  unsigned long code = ERR_peek_error();
  int library = ERR_GET_LIB(code), reason = ERR_GET_REASON(code);
  // Of another kind than the certificate's, a key is taken for that of a certificate still to come.
  return (library == ERR_LIB_X509 && (reason == X509_R_KEY_VALUES_MISMATCH || reason == X509_R_KEY_TYPE_MISMATCH)) ||
         (library == ERR_LIB_SSL && reason == SSL_R_NO_CERTIFICATE_ASSIGNED);
}
// What the last failure was, in a few words; they name no content of a file.
static inline const char *sky_tls_reason(void) {
  const char *text = ERR_reason_error_string(ERR_peek_error());
  return text ? text : "it is not what it should be";
}
// Seconds until the certificate expires; below 0: it has. 0 also when that cannot be told.
static inline int64_t sky_tls_expires_in(SSL_CTX *context) {
  X509 *certificate = SSL_CTX_get0_certificate(context);
  int days = 0, seconds = 0;
  if (!certificate || !ASN1_TIME_diff(&days, &seconds, 0, X509_get0_notAfter(certificate))) return 0;
  return (int64_t)days * 86400 + seconds;
}

// MARK: connections

enum {
  SKY_TLS_WANTS_READ = -1,
  SKY_TLS_WANTS_WRITE = -2,
  // The peer has said that it sends no more.
  SKY_TLS_ENDED = -3,
  // The peer broke off.
  SKY_TLS_BROKEN = -4,
  // The peer does not keep to the protocol.
  SKY_TLS_REFUSED = -5,
};

static inline SSL *sky_tls_open(SSL_CTX *context, int fd) {
  ERR_clear_error();
  SSL *ssl = SSL_new(context);
  if (ssl && !SSL_set_fd(ssl, fd)) {
    SSL_free(ssl);
    ssl = 0;
  }
  if (ssl) SSL_set_accept_state(ssl);
  return ssl;
}
static inline int sky_tls_outcome(SSL *ssl, int result) {
  switch (SSL_get_error(ssl, result)) {
    case SSL_ERROR_WANT_READ: return SKY_TLS_WANTS_READ;
    case SSL_ERROR_WANT_WRITE: return SKY_TLS_WANTS_WRITE;
    case SSL_ERROR_ZERO_RETURN: return SKY_TLS_ENDED;
    case SSL_ERROR_SYSCALL: return SKY_TLS_BROKEN;
    default: return SKY_TLS_REFUSED;
  }
}
// 1: the handshake is done. Otherwise as below.
static inline int sky_tls_accept(SSL *ssl) {
  ERR_clear_error();
  int result = SSL_do_handshake(ssl);
  return result == 1 ? 1 : sky_tls_outcome(ssl, result);
}
// Bytes moved, or one of SKY_TLS_….
static inline int sky_tls_read(SSL *ssl, void *bytes, int count) {
  ERR_clear_error();
  int result = SSL_read(ssl, bytes, count);
  return result > 0 ? result : sky_tls_outcome(ssl, result);
}
static inline int sky_tls_write(SSL *ssl, const void *bytes, int count) {
  ERR_clear_error();
  int result = SSL_write(ssl, bytes, count);
  return result > 0 ? result : sky_tls_outcome(ssl, result);
}
// 1: close_notify has been sent, or cannot be any more. Otherwise one of SKY_TLS_….
static inline int sky_tls_end(SSL *ssl) {
  ERR_clear_error();
  int result = SSL_shutdown(ssl);
  if (result >= 0) return 1;
  int outcome = sky_tls_outcome(ssl, result);
  return outcome == SKY_TLS_WANTS_WRITE ? outcome : 1;
}

// MARK: epoll

// Edge-triggered, both directions; `key` comes back with each event.
static inline int sky_epoll_add(int epoll, int fd, uint64_t key) {
  struct epoll_event event;
  memset(&event, 0, sizeof event);
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = key;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}
// Level-triggered reading.
static inline int sky_epoll_add_reader(int epoll, int fd, uint64_t key) {
  struct epoll_event event;
  memset(&event, 0, sizeof event);
  event.events = EPOLLIN;
  event.data.u64 = key;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}
static inline uint64_t sky_epoll_key(const struct epoll_event *event) { return event->data.u64; }
static inline uint32_t sky_epoll_bits(const struct epoll_event *event) { return event->events; }
