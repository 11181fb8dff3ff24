// One connected stream socket, TCP or Unix, for tasks: every wait has an end, and a cancelled task stops waiting.
// Used by HttpClient and HttpServer; closed when nobody holds it.

import CPlatform
import Foundation
import ProxyWire
import Synchronization

final class Socket: Sendable {
  let fd: Int32

  /// Takes over a descriptor that does not block.
  init(adopting fd: Int32) { self.fd = fd }

  deinit {
    Readiness.shared.forget(fd)
    close(fd)
  }

  /// What has come; empty when the other side sends no more.
  func receive(until timeout: Timeout) async throws(HttpError) -> [UInt8] {
    while true {
      var problem: Int32 = 0
      let piece = [UInt8](unsafeUninitializedCapacity: 65_536) { room, count in
        let got = recv(fd, room.baseAddress, room.count, Int32(MSG_DONTWAIT))
        problem = got < 0 ? errno : 0
        count = max(got, 0)
      }
      switch problem {
      case 0: return piece
      case EINTR: continue
      case EAGAIN: try await wait(.read, until: timeout)
      default: throw broken(problem)
      }
    }
  }

  func send(_ bytes: [UInt8], until timeout: Timeout) async throws(HttpError) {
    var sent = 0
    while sent < bytes.count {
      let count = bytes.withUnsafeBytes {
        Glibc.send(fd, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
      }
      if count >= 0 {
        sent += count
        continue
      }
      switch errno {
      case EINTR: continue
      case EAGAIN: try await wait(.write, until: timeout)
      case let problem: throw broken(problem)
      }
    }
  }

  /// Returns when the other side is gone, or this task is cancelled.
  func untilHangUp() async { _ = await Readiness.shared.wait(fd, for: .hangUp) }

  private func wait(_ interest: Readiness.Interest, until timeout: Timeout) async throws(HttpError) {
    switch await Readiness.shared.wait(fd, for: interest, until: timeout) {
    case .ready: return
    case .timedOut: throw timeout.error
    case .cancelled: throw HttpError(.cancelled, "cancelled")
    case .failed(let problem): throw broken(problem)
    }
  }

  private func broken(_ problem: Int32) -> HttpError {
    HttpError(.closed, problem == EPIPE ? "the connection was closed" : words(problem))
  }
}

/// `connection refused`.
private func words(_ problem: Int32) -> String {
  let text = String(cString: strerror(problem))
  return text.prefix(1).lowercased() + text.dropFirst()
}

// MARK: - Connecting

extension Socket {
  /// A name's addresses are tried one after the other.
  static func connect(to endpoint: Endpoint, until timeout: Timeout) async throws(HttpError) -> Socket {
    var failure = HttpError(.connect, "\(endpoint.host) has no address")
    for address in try await addresses(of: endpoint, until: timeout) {
      do { return try await connect(to: address, until: timeout) } catch {
        guard error.kind == .connect else { throw error }
        failure = error
      }
    }
    throw failure
  }

  private static func connect(to address: SocketAddress, until timeout: Timeout) async throws(HttpError) -> Socket {
    while true {
      let fd = sky_stream_socket(address.family)
      guard fd >= 0 else { throw HttpError(.connect, words(errno)) }
      let socket = Socket(adopting: fd)
      if address.withPointer({ Glibc.connect(fd, $0, $1) }) == 0 { return socket }
      switch errno {
      case EINPROGRESS, EINTR:
        try await socket.wait(.write, until: timeout)
        var problem: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &length)
        guard problem == 0 else { throw HttpError(.connect, words(problem)) }
        return socket
      case EAGAIN where address.family == AF_UNIX:
        // The listener's queue is full, and nothing tells when it no longer is.
        if let end = timeout.end, .now >= end { throw timeout.error }
        do { try await Task.sleep(for: .milliseconds(10)) } catch { throw HttpError(.cancelled, "cancelled") }
      case ENOENT:
        throw HttpError(.connect, "no such socket")
      case let problem:
        throw HttpError(.connect, words(problem))
      }
    }
  }

  private static func addresses(of endpoint: Endpoint, until timeout: Timeout) async throws(HttpError)
    -> [SocketAddress]
  {
    switch endpoint {
    case .ipv4(let address, let port): return [SocketAddress(ipv4: address, port: port)]
    case .ipv6(let high, let low, let port): return [SocketAddress(ipv6: (high, low), port: port)]
    case .unix(let path):
      guard path.utf8.count <= Endpoint.unixPathBytesMax else {
        throw HttpError(.connect, "the path of the socket \(path) is longer than \(Endpoint.unixPathBytesMax) bytes")
      }
      return [SocketAddress(unix: path)]
    case .name(let name, let port):
      return try await SocketAddress.resolve(name, port: port, until: timeout)
    }
  }
}

struct SocketAddress: Sendable {
  private var bytes: [UInt8]

  var family: Int32 { bytes.withUnsafeBytes { Int32($0.loadUnaligned(as: sa_family_t.self)) } }

  init(ipv4: UInt32, port: UInt16) {
    var form = sockaddr_in()
    form.sin_family = sa_family_t(AF_INET)
    form.sin_port = port.bigEndian
    form.sin_addr.s_addr = ipv4.bigEndian
    bytes = withUnsafeBytes(of: form) { Array($0) }
  }

  init(ipv6: (high: UInt64, low: UInt64), port: UInt16) {
    var form = sockaddr_in6()
    form.sin6_family = sa_family_t(AF_INET6)
    form.sin6_port = port.bigEndian
    let address = [ipv6.high.bigEndian, ipv6.low.bigEndian]
    withUnsafeMutableBytes(of: &form.sin6_addr) { room in address.withUnsafeBytes { room.copyMemory(from: $0) } }
    bytes = withUnsafeBytes(of: form) { Array($0) }
  }

  /// - Parameter unix: at most `Endpoint.unixPathBytesMax` bytes.
  init(unix path: String) {
    var form = sockaddr_un()
    form.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &form.sun_path) { room in room.copyBytes(from: path.utf8.prefix(room.count - 1)) }
    bytes = withUnsafeBytes(of: form) { Array($0) }
  }

  private init(bytes: [UInt8]) { self.bytes = bytes }

  func withPointer<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
    bytes.withUnsafeBytes { room in
      room.withMemoryRebound(to: sockaddr.self) { body($0.baseAddress!, socklen_t(bytes.count)) }
    }
  }

  /// getaddrinfo(3) blocks and cannot be stopped: it runs on a thread of its own, which is left to itself when the time
  /// is up.
  static func resolve(_ name: String, port: UInt16, until timeout: Timeout) async throws(HttpError) -> [SocketAddress] {
    let lookUp = LookUp()
    Thread { lookUp.finish(blockingResolve(name, port)) }.start()
    switch await Readiness.shared.wait(lookUp.bell, for: .read, until: timeout) {
    case .ready: return try lookUp.result.withLock { $0 }.get()
    case .timedOut: throw timeout.error
    case .cancelled: throw HttpError(.cancelled, "cancelled")
    case .failed(let problem): throw HttpError(.connect, words(problem))
    }
  }

  private static func blockingResolve(_ name: String, _ port: UInt16) -> Result<[SocketAddress], HttpError> {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let code = getaddrinfo(name, String(port), &hints, &list)
    guard code == 0 else {
      return .failure(HttpError(.connect, "\(name) has no address: \(String(cString: gai_strerror(code)))"))
    }
    defer { freeaddrinfo(list) }
    var found: [SocketAddress] = []
    while let entry = list?.pointee, found.count < 16 {
      let raw = UnsafeRawBufferPointer(start: entry.ai_addr, count: Int(entry.ai_addrlen))
      found.append(SocketAddress(bytes: Array(raw)))
      list = entry.ai_next
    }
    return .success(found)
  }
}

/// Between the thread that looks up a name and the task that waits for it, whichever is done first.
private final class LookUp: Sendable {
  let result = Mutex(Result<[SocketAddress], HttpError>.success([]))
  let bell = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))

  func finish(_ found: Result<[SocketAddress], HttpError>) {
    result.withLock { $0 = found }
    var one: UInt64 = 1
    _ = write(bell, &one, 8)
  }

  deinit {
    Readiness.shared.forget(bell)
    close(bell)
  }
}
