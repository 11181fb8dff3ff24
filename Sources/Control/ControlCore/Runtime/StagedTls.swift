// The certificate and key of a version: copied beside its other staged files when the command is given, so that the
// proxy can be started again with them whenever it must, whatever became of the user's own.

import Foundation
import ProxyWire

enum StagedTls {
  private static let certName = "tls_certfile"
  private static let keyName = "tls_keyfile"
  /// Bytes; a certificate with a long chain has some 10 KB.
  private static let fileMax = 1 << 20

  static func wish(_ folder: String) -> ProxyWish.Tls {
    ProxyWish.Tls(cert: folder + "/" + certName, key: folder + "/" + keyName)
  }

  static func copy(_ tls: ServiceSpec.Tls, into folder: String) throws(CommandError) {
    try copy(tls.certfile, "tls.certfile", mark: "CERTIFICATE-----", to: folder + "/" + certName)
    try copy(tls.keyfile, "tls.keyfile", mark: "PRIVATE KEY-----", to: folder + "/" + keyName)
  }

  private static func copy(_ path: String, _ field: String, mark: String, to copy: String) throws(CommandError) {
    let expanded = NSString(string: path).expandingTildeInPath
    guard let file = FileHandle(forReadingAtPath: expanded) else {
      let reason = String(cString: strerror(errno))
      throw CommandError(.invalid, "\(field): \(path) cannot be read (\(reason)). Correct the path in the service file.")
    }
    defer { try? file.close() }
    guard let data = try? file.read(upToCount: fileMax + 1), data.count <= fileMax,
      String(decoding: data, as: UTF8.self).contains(mark)
    else {
      throw CommandError(.invalid, "\(field): \(path) is no PEM file with a -----BEGIN … \(mark) block.")
    }
    do throws(StoreError) { try StoreFile.replace(copy, with: Array(data)) } catch {
      throw CommandError(.invalid, error.description)
    }
  }
}
