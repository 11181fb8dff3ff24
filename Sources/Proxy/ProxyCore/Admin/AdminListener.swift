// Where the admin API listens. A Unix-domain socket gives full control to the user the proxy runs as; a loopback port,
// which every user of the machine can reach, only shows. Called by AdminServer as it starts and stops.

import Glibc
import ProxyWire

/// Why the admin API could not start: what, where, what to do.
package struct AdminError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// What a client of a listener may do.
enum AdminAccess { case full, readOnly }

struct AdminListener {
  let fd: Int32
  let access: AdminAccess
  /// With the port the kernel chose.
  let endpoint: Endpoint
  private let file: SocketFile?

  static func open(_ endpoint: Endpoint) throws(AdminError) -> AdminListener {
    switch endpoint {
    case .unix(let path): return try openUnix(path)
    case .ipv4, .ipv6:
      guard endpoint.isLoopback else {
        throw AdminError(
          "--admin \(endpoint) could be reached from other machines; use unix:PATH or a loopback address such as "
            + "127.0.0.1:\(endpoint.port ?? 0)")
      }
      return try openLoopback(endpoint)
    case .name: throw AdminError("--admin \(endpoint) is a name; use unix:PATH or 127.0.0.1:PORT")
    }
  }

  func close() {
    file?.remove()
    Glibc.close(fd)
  }

  /// The next client; nil when none is waiting, or when there are no descriptors left for it.
  func accept() -> (fd: Int32, isStarved: Bool)? {
    while true {
      let client = Glibc.accept(fd, nil, nil)
      if client >= 0 {
        _ = fcntl(client, F_SETFD, FD_CLOEXEC)
        _ = fcntl(client, F_SETFL, O_NONBLOCK)
        return (client, false)
      }
      switch errno {
      case EINTR, ECONNABORTED: continue
      case EMFILE, ENFILE, ENOBUFS, ENOMEM: return (-1, true)
      default: return nil
      }
    }
  }

  /// Whether the client is the user we run as, or root. Loopback clients have no user and may only look.
  func admits(_ client: Int32) -> Bool {
    guard access == .full else { return true }
    var credentials: (pid: UInt32, uid: UInt32, gid: UInt32) = (0, .max, 0)  // struct ucred (man 7 unix)
    var size = socklen_t(MemoryLayout.size(ofValue: credentials))
    guard getsockopt(client, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 else { return false }
    return credentials.uid == geteuid() || credentials.uid == 0
  }
}

// MARK: - Binding

extension AdminListener {
  private static func openLoopback(_ endpoint: Endpoint) throws(AdminError) -> AdminListener {
    guard var address = SocketAddress(endpoint) else { throw AdminError("--admin \(endpoint) is no address") }
    let fd = try makeSocket(address, endpoint)
    // The port of a proxy that has just ended is free again.
    var yes: Int32 = 1
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    try listen(fd, address, endpoint)
    var length = socklen_t(MemoryLayout<SocketAddress.Words>.size)
    let named = address.withBytes { bytes in
      getsockname(fd, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
    }
    address.length = length
    return AdminListener(
      fd: fd, access: .readOnly, endpoint: named == 0 ? address.endpoint ?? endpoint : endpoint, file: nil)
  }

  private static func openUnix(_ path: String) throws(AdminError) -> AdminListener {
    guard let address = SocketAddress(unixPath: path) else {
      throw AdminError(
        "--admin unix:\(path): the path must have 1...\(Endpoint.unixPathBytesMax) bytes; choose a shorter one")
    }
    let endpoint = Endpoint.unix(path: path)
    // Two proxies that start at once must not each take the other's socket for a stale one.
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    let lock = Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if lock < 0, errno == ENOENT || errno == ENOTDIR {
      throw AdminError("--admin \(endpoint): the folder \(quoted(folder)) is not there; create it first")
    }
    defer { if lock >= 0 { Glibc.close(lock) } }
    if lock >= 0 { flock(lock, LOCK_EX) }

    do throws(SocketInTheWay) { try SocketFile.clearWay(path, flag: "--admin") } catch {
      throw AdminError(error.description)
    }
    let fd = try makeSocket(address, endpoint)
    // The file takes the socket's own mode at bind (man 7 unix), so it is never open to others, not even for a moment.
    guard fchmod(fd, 0o600) == 0 else { throw failure(fd, endpoint, "cannot be made private") }
    try listen(fd, address, endpoint)
    guard chmod(path, 0o600) == 0, let file = SocketFile(path) else {
      throw failure(fd, endpoint, "cannot be made private")
    }
    return AdminListener(fd: fd, access: .full, endpoint: endpoint, file: file)
  }

  private static func makeSocket(_ address: SocketAddress, _ endpoint: Endpoint) throws(AdminError) -> Int32 {
    let type = SocketType.stream | SocketType.closeOnExec | SocketType.nonBlocking
    let fd = socket(address.family, type, 0)
    if fd < 0 { throw AdminError("--admin \(endpoint): no socket: \(errorText(errno)); check the limits (ulimit -n)") }
    return fd
  }

  private static func listen(_ fd: Int32, _ address: SocketAddress, _ endpoint: Endpoint) throws(AdminError) {
    guard call(address, { bind(fd, $0, $1) }) == 0, Glibc.listen(fd, 64) == 0 else {
      throw failure(fd, endpoint, "cannot be listened on")
    }
  }

  private static func failure(_ fd: Int32, _ endpoint: Endpoint, _ what: String) -> AdminError {
    let code = errno
    Glibc.close(fd)
    return AdminError("--admin \(endpoint) \(what): \(errorText(code)); \(endpoint.cure(code))")
  }

  private static func call(_ address: SocketAddress, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    var address = address
    let length = socklen_t(address.length)
    return address.withBytes { body(UnsafePointer($0.baseAddress!.assumingMemoryBound(to: sockaddr.self)), length) }
  }
}
