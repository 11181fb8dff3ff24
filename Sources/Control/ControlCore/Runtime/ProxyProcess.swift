// The process of a service's proxy: started, found again, ended. Which one it is stands in `proxy.json` in the
// service's folder; where that is missing (the disk was full, somebody removed it) or of another one (we died before it
// was written, and the one we started then found the port taken), the socket names its owner.

import CPlatform
import Foundation
import ProxyWire
import Synchronization

final class ProxyProcess: Sendable {
  struct Identity: Hashable, Codable, Sendable {
    var process: ProcessIdentity
    /// Where it listens for requests: `127.0.0.1:30001`.
    var listen: String
  }

  /// Seconds it may take to end after SIGTERM: nobody's request is on it when it is asked.
  static let endSeconds = 5.0
  /// Bytes of its log that are looked through for its last words.
  private static let wordsBytes = 4096

  private struct Known {
    var identity: Identity?
    /// Why the file does not say so, as far as that was told.
    var problem: String?
  }

  private let paths: Paths
  private let service: String
  private let log: Log
  let socket: Endpoint
  private let known = Mutex(Known())

  init(_ paths: Paths, _ service: String, _ log: Log) {
    self.paths = paths
    self.service = service
    self.log = log
    socket = .unix(path: paths.proxySocket(service))
  }

  /// Its flags are also variables: what is set for another proxy is not meant for this one.
  static var environment: [String: String] {
    let kept = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"]
    return ProcessInfo.processInfo.environment.filter { kept.contains($0.key) }
  }

  private var file: String { paths.service(service) + "/proxy.json" }

  /// Of the process that lives.
  var identity: Identity? {
    if let identity = known.withLock({ $0.identity }), identity.process.isAlive { return identity }
    guard let data = FileManager.default.contents(atPath: file),
      let identity = try? JSONDecoder().decode(Identity.self, from: data), identity.process.isAlive
    else { return nil }
    return identity
  }

  /// The same, after the kernel was asked who listens on the socket: it knows better.
  @discardableResult
  func find(listen: String) -> Identity? {
    let identity = identity
    guard let pid = UnixSocket.owner(of: paths.proxySocket(service)), pid != identity?.process.pid,
      let process = ProcessIdentity.current(pid)
    else { return identity }
    let found = Identity(process: process, listen: listen)
    keep(found)
    return found
  }

  var isListening: Bool { UnixSocket.owner(of: paths.proxySocket(service)) != nil }

  private func keep(_ identity: Identity) {
    known.withLock { $0.identity = identity }
    write(identity)
  }

  /// Writes what could not be written before, or is not there any more.
  func writeAgain() {
    guard let identity = known.withLock({ $0.identity }), access(file, F_OK) != 0, identity.process.isAlive else {
      return
    }
    write(identity)
  }

  private func write(_ identity: Identity) {
    guard let data = try? JSONEncoder().encode(identity) else { return }
    var problem: String?
    do throws(StoreError) { try StoreFile.replace(file, with: Array(data)) } catch { problem = error.description }
    let isNew = known.withLock { known in
      defer { known.problem = problem }
      return problem != known.problem
    }
    guard isNew, let problem else { return }
    log.note(.warning, "service=\(service) proxy process=\(identity.process.pid) is not written down: \(problem)")
  }

  func spawn(_ program: String, _ arguments: [String], listen: String) throws -> ChildProcess {
    try PrivateFile.makeFolder(paths.service(service))
    let child = try ChildProcess.spawn(
      program, arguments, environment: Self.environment, folder: "/",
      output: .file(paths.proxyLog(service)), detached: true)
    keep(Identity(process: child.identity, listen: listen))
    return child
  }

  /// True: it is gone. What does not end keeps its files, to be found by.
  func end(_ identity: Identity) async -> Bool {
    identity.process.signal(SIGTERM)
    if !(await identity.process.waitForEnd(Self.endSeconds)) {
      // Called off: it has been told, and ends by itself.
      if Task.isCancelled { return false }
      identity.process.signal(SIGKILL)
      guard await identity.process.waitForEnd(Self.endSeconds) else { return false }
    }
    known.withLock { $0 = Known() }
    unlink(paths.proxySocket(service))
    unlink(file)
    return true
  }

  /// What it said before it ended, without its name in front.
  var lastWords: String? {
    guard let file = LogFile(paths.proxyLog(service)) else { return nil }
    let size = file.size
    let start = max(0, size - Self.wordsBytes)
    let text = String(decoding: file.read(at: start, size - start), as: UTF8.self)
    guard let line = text.split(separator: "\n").last else { return nil }
    return String(line.trimmingPrefix("sky-proxy: "))
  }
}

/// Who listens on a Unix socket.
enum UnixSocket {
  /// Nil: nobody.
  static func owner(of path: String) -> pid_t? {
    let fd = sky_stream_socket(AF_UNIX)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    guard path.utf8.count <= Endpoint.unixPathBytesMax,
      SocketAddress(unix: path).withPointer({ connect(fd, $0, $1) }) == 0
    else { return nil }
    var credentials: (pid: Int32, uid: UInt32, gid: UInt32) = (0, .max, 0)  // struct ucred (man 7 unix)
    var size = socklen_t(MemoryLayout.size(ofValue: credentials))
    guard getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0, credentials.pid > 0 else { return nil }
    return credentials.pid
  }
}
