// A certificate and its key, read and checked, as OpenSSL wants them. Made by LiveSettings when somebody names files;
// shared by every connection that began with it, and gone with the last of them.

import COpenSSL
import Glibc

/// Which file cannot be used, and why.
package struct TlsRefusal: Error, Equatable, Sendable {
  package enum File: String, Sendable { case cert, key }
  package let file: File
  /// `/etc/sky/key.pem: Permission denied`.
  package let text: String
}

package final class TlsContext: @unchecked Sendable {
  /// OpenSSL counts its users itself, from any thread.
  let handle: OpaquePointer
  /// Seconds since 1970.
  package let expiresAt: Int64

  package init(cert: String, key: String) throws(TlsRefusal) {
    try TlsContext.checkReadable(cert, .cert)
    try TlsContext.checkReadable(key, .key)
    guard let handle = sky_tls_context() else { throw TlsRefusal(file: .cert, text: "\(cert): no memory for TLS") }
    do throws(TlsRefusal) {
      if sky_tls_use_certificate(handle, cert) == 0 {
        throw TlsRefusal(
          file: .cert, text: "\(cert): there is no usable certificate in PEM form in it (\(TlsContext.reason))")
      }
      var isEncrypted: Int32 = 0
      if sky_tls_use_key(handle, key, &isEncrypted) == 0 {
        let problem =
          if isEncrypted != 0 {
            "it wants a passphrase, which nobody is there to type; store it without (openssl pkey -in … -out …)"
          } else if sky_tls_is_mismatch() != 0 {
            "it does not belong to the certificate \(cert)"
          } else {
            "there is no usable private key in PEM form in it (\(TlsContext.reason))"
          }
        throw TlsRefusal(file: .key, text: "\(key): \(problem)")
      }
    } catch {
      SSL_CTX_free(handle)
      throw error
    }
    self.handle = handle
    expiresAt = Int64(wallNanoseconds() / 1_000_000_000) + sky_tls_expires_in(handle)
  }

  deinit { SSL_CTX_free(handle) }

  private static var reason: String { String(cString: sky_tls_reason()) }

  /// OpenSSL's own words for a file that cannot be opened are few, and it would wait for ever at a pipe.
  private static func checkReadable(_ path: String, _ file: TlsRefusal.File) throws(TlsRefusal) {
    let fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard fd >= 0 else { throw TlsRefusal(file: file, text: "\(path): \(errorText(errno))") }
    defer { close(fd) }
    var facts = stat()
    guard fstat(fd, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG else {
      throw TlsRefusal(file: file, text: "\(path): it is not a regular file")
    }
  }
}
