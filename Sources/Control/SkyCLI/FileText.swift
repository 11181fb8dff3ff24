// Files that are named on the command line: what is in them, or why it cannot be had.

import Foundation

enum FileText {
  /// A sentence.
  struct Unreadable: Error {
    let reason: String
  }

  /// - Parameter limit: bytes.
  static func read(_ name: String, _ session: Session, limit: Int = 16 << 20) throws(Unreadable) -> [UInt8] {
    if name.isEmpty { throw Unreadable(reason: "The name of the file is empty.") }
    func unreadable() -> Unreadable {
      switch errno {
      case ENOENT, ENOTDIR: Unreadable(reason: "There is no file '\(name)'.")
      case EISDIR: Unreadable(reason: "'\(name)' is a folder.")
      case let code: Unreadable(reason: "'\(name)' cannot be read: \(String(cString: strerror(code))).")
      }
    }
    let descriptor = open(session.absolute(name), O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw unreadable() }
    defer { close(descriptor) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = Glibc.read(descriptor, &buffer, buffer.count)
      if count < 0, errno == EINTR { continue }
      if count < 0 { throw unreadable() }
      if count == 0 { return all }
      all += buffer[..<count]
      if all.count > limit { throw Unreadable(reason: "'\(name)' has more than \(limit >> 20) MiB.") }
    }
  }
}
