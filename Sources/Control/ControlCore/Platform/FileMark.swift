// Which file, beyond its name: to notice that what we hold open is not what others find there any more.

import Foundation

package struct FileMark: Hashable, Sendable {
  package let path: String
  private let device: dev_t
  private let inode: ino_t

  /// Of what lies there now; nil: nothing does.
  package init?(_ path: String) {
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return nil }
    self.path = path
    device = facts.st_dev
    inode = facts.st_ino
  }

  /// It was removed, moved away or replaced. Where that cannot be told (a file system that hangs), it was not.
  package var isLost: Bool {
    var facts = stat()
    if lstat(path, &facts) != 0 { return [ENOENT, ENOTDIR].contains(errno) }
    return facts.st_dev != device || facts.st_ino != inode
  }
}
