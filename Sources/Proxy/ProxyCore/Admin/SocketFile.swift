// The files that Unix sockets leave behind.

import Glibc

/// The file of a Unix socket as it was made, so that only our own is removed: a successor may have put its own there.
package struct SocketFile: Sendable {
  private let path: String
  private let device: UInt
  private let inode: UInt

  /// Nil: there is none.
  package init?(_ path: String) {
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return nil }
    self.path = path
    device = UInt(facts.st_dev)
    inode = UInt(facts.st_ino)
  }

  package func remove() {
    if let now = SocketFile(path), now.device == device, now.inode == inode { unlink(path) }
  }
}
