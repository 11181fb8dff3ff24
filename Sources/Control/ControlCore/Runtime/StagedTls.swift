// The certificate and key of a version: copied beside its other staged files when the command is given, so that the
// proxy can be started again with them whenever it must, whatever became of the user's own.

import Foundation
import ProxyWire

package enum StagedTls {
  private static let certName = "tls_certfile"
  private static let keyName = "tls_keyfile"
  private static let certMark = "CERTIFICATE-----"
  private static let keyMark = "PRIVATE KEY-----"
  /// Bytes; a certificate with a long chain has some 10 KB.
  private static let fileMax = 1 << 20

  static func wish(_ folder: String) -> ProxyWish.Tls {
    ProxyWish.Tls(cert: folder + "/" + certName, key: folder + "/" + keyName)
  }

  /// What `sky serve up` would say of the user's own files; nil: nothing, or there is no proxy here to ask.
  package static func refusal(of tls: ServiceSpec.Tls, environment: [String: String]) async -> String? {
    do throws(CommandError) {
      _ = try read(tls.certfile, "tls.certfile", mark: certMark)
      _ = try read(tls.keyfile, "tls.keyfile", mark: keyMark)
    } catch {
      return error.description
    }
    guard let proxy = ChildProcess.findSibling("sky-proxy", environment: environment) else { return nil }
    let wish = ProxyWish.Tls(cert: tls.certfile, key: tls.keyfile)
    return await ProxyHandles.refusal(of: wish, program: proxy).map { words(tls, $0) }
  }

  static func words(_ tls: ServiceSpec.Tls, _ refusal: String) -> String {
    "service.tls of \(tls.certfile) and \(tls.keyfile): \(refusal)"
  }

  static func copy(_ tls: ServiceSpec.Tls, into folder: String) throws(CommandError) {
    let files = [
      (certName, try read(tls.certfile, "tls.certfile", mark: certMark)),
      (keyName, try read(tls.keyfile, "tls.keyfile", mark: keyMark)),
    ]
    for (name, data) in files {
      do throws(StoreError) { try StoreFile.replace(folder + "/" + name, with: Array(data)) } catch {
        throw CommandError(.invalid, error.description)
      }
    }
  }

  private static func read(_ path: String, _ field: String, mark: String) throws(CommandError) -> Data {
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
    return data
  }
}
