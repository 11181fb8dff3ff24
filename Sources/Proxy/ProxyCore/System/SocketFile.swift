// The files that Unix sockets leave behind: making way for a new one, and taking one's own away. Called by whoever
// listens, the admin API and the server itself.

import Glibc
import ProxyWire

/// What is in the way of a socket, and what to do.
struct SocketInTheWay: Error {
  let description: String
}

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

  /// Removes the socket of a process that is gone; refuses everything else that is in the way.
  /// `flag`: what the address was given with, for the errors.
  static func clearWay(_ path: String, flag: String) throws(SocketInTheWay) {
    let place = "\(flag) \(Endpoint.unix(path: path)):"
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return }
    guard facts.st_mode & S_IFMT == S_IFSOCK, var address = SocketAddress(unixPath: path) else {
      throw SocketInTheWay(
        description: "\(place) there is a file that is no socket; remove it or choose another path")
    }
    let probe = socket(AF_UNIX, SocketType.stream | SocketType.closeOnExec | SocketType.nonBlocking, 0)
    guard probe >= 0 else {
      throw SocketInTheWay(description: "\(place) no socket: \(errorText(errno)); check the limits (ulimit -n)")
    }
    defer { close(probe) }
    let length = socklen_t(address.length)
    if address.withBytes({ connect(probe, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) }) != 0 {
      switch errno {
      case ENOENT: return
      case ECONNREFUSED:
        guard unlink(path) == 0 || errno == ENOENT else {
          throw SocketInTheWay(
            description: "\(place) the socket of a process that is gone cannot be removed: \(errorText(errno)); "
              + "remove it or choose another path")
        }
        return
      case EACCES, EPERM:
        throw SocketInTheWay(description: "\(place) the socket there belongs to another user; choose another path")
      default: break  // EAGAIN: a full backlog; somebody listens
      }
    }
    throw SocketInTheWay(description: "\(place) another process answers there; stop it or choose another path")
  }
}
