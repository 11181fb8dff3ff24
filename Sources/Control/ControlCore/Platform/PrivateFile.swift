// Files and folders of this user alone. What is there already keeps its rights: it may be anybody's (SKY_HOME=/tmp).

import CPlatform
import Foundation

package enum PrivateFile {
  package struct Failure: Error, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
  }

  /// Replaces what was there; mode 0600.
  package static func write(_ data: Data, to path: String) throws(Failure) {
    let fd = sky_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard fd >= 0 else { throw Failure("cannot write \(path): \(errorText(errno))") }
    defer { close(fd) }
    var at = 0
    while at < data.count {
      let count = data.withUnsafeBytes { Glibc.write(fd, $0.baseAddress! + at, $0.count - at) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw Failure("cannot write \(path): \(errorText(errno))") }
      at += count
    }
  }

  /// With all above it, mode 0700; a folder that is there is fine as it is.
  package static func makeFolder(_ path: String) throws(Failure) {
    if mkdir(path, 0o700) == 0 { return }
    if errno == ENOENT, path.count > 1 {
      try makeFolder(URL(fileURLWithPath: path).deletingLastPathComponent().path)
      if mkdir(path, 0o700) == 0 { return }
    }
    let reason = errno
    var facts = stat()
    if reason == EEXIST, stat(path, &facts) == 0 {
      if facts.st_mode & S_IFMT == S_IFDIR { return }
      throw Failure("\(path) is not a folder. Move it away, or choose another place.")
    }
    throw Failure("cannot make the folder \(path): \(errorText(reason))")
  }
}
