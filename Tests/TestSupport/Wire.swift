// One raw connection, of a client or of an origin: bytes as they are sent and come, and how it ended. Every call has a
// deadline.

import Foundation

package enum Address: Hashable, Sendable, CustomStringConvertible {
  case ipv4(String, UInt16)
  case ipv6(String, UInt16)
  case unix(String)

  /// `127.0.0.1:80`, `[::1]:80`, `unix:/path`.
  package init?(_ text: some StringProtocol) {
    if text.hasPrefix("unix:") {
      self = .unix(String(text.dropFirst(5)))
      return
    }
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return nil }
    let host = text[..<colon]
    self = host.hasPrefix("[") ? .ipv6(String(host.dropFirst().dropLast()), port) : .ipv4(String(host), port)
  }

  package var description: String {
    switch self {
    case .ipv4(let host, let port): "\(host):\(port)"
    case .ipv6(let host, let port): "[\(host)]:\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }

  package var port: UInt16 {
    switch self {
    case .ipv4(_, let port), .ipv6(_, let port): port
    case .unix: 0
    }
  }

  var family: Int32 {
    switch self {
    case .ipv4: AF_INET
    case .ipv6: AF_INET6
    case .unix: AF_UNIX
    }
  }

  func withSocketAddress<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
    func pass<Form>(_ form: Form) -> Result {
      withUnsafeBytes(of: form) {
        body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
      }
    }
    switch self {
    case .ipv4(let host, let port):
      var form = sockaddr_in()
      form.sin_family = sa_family_t(AF_INET)
      form.sin_port = port.bigEndian
      inet_pton(AF_INET, host, &form.sin_addr)
      return pass(form)
    case .ipv6(let host, let port):
      var form = sockaddr_in6()
      form.sin6_family = sa_family_t(AF_INET6)
      form.sin6_port = port.bigEndian
      inet_pton(AF_INET6, host, &form.sin6_addr)
      return pass(form)
    case .unix(let path):
      var form = sockaddr_un()
      form.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &form.sun_path) { room in
        precondition(path.utf8.count < room.count, "a socket's path has at most 107 bytes")
        room.copyBytes(from: Array(path.utf8))
      }
      return pass(form)
    }
  }
}

package final class Wire: @unchecked Sendable {
  package enum End: Equatable, Sendable {
    /// The other side closed in order.
    case closed
    /// It broke off.
    case reset
  }

  private static let streamType = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)

  package let fd: Int32
  /// Came, and was not taken yet.
  package private(set) var pending: [UInt8] = []
  package private(set) var end: End?
  private var isOpen = true

  /// - Parameters:
  ///   - receiveBuffer: bytes the kernel may hold for us; small ones make us a slow reader soon.
  ///   - sendBuffer: the same for the other direction.
  package init(
    to address: Address, receiveBuffer: Int32? = nil, sendBuffer: Int32? = nil, deadline: Double = patience
  ) throws {
    fd = socket(address.family, Wire.streamType, 0)
    guard fd >= 0 else { throw TestFailure("socket: \(errno)") }
    if var size = receiveBuffer {
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
    }
    if var size = sendBuffer {
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, socklen_t(MemoryLayout<Int32>.size))
    }
    makeReady()
    let limit = monotonic() + deadline
    var result = address.withSocketAddress { connect(fd, $0, $1) }
    // The backlog of a Unix socket is full: nothing is under way.
    while result != 0, errno == EAGAIN, address.family == AF_UNIX, monotonic() < limit {
      usleep(2000)
      result = address.withSocketAddress { connect(fd, $0, $1) }
    }
    if result != 0 {
      var problem = errno
      if problem == EINPROGRESS {
        problem = ETIMEDOUT
        if awaitSocket(POLLOUT, deadline) {
          var length = socklen_t(MemoryLayout<Int32>.size)
          getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &length)
        }
      }
      if problem != 0 {
        Glibc.close(fd)
        isOpen = false
        throw TestFailure("connect \(address): \(String(cString: strerror(problem)))")
      }
    }
  }

  package init(adopting fd: Int32) {
    self.fd = fd
    makeReady()
  }

  deinit { close() }

  private func makeReady() {
    _ = fcntl(fd, F_SETFL, O_NONBLOCK)
    setNoDelay(true)
  }

  /// Off: a small piece is sent when the one before has been acknowledged (Nagle's algorithm).
  package func setNoDelay(_ isOn: Bool) {
    var value: Int32 = isOn ? 1 : 0
    setsockopt(fd, Int32(IPPROTO_TCP), TCP_NODELAY, &value, socklen_t(MemoryLayout<Int32>.size))
  }

  /// TCP segments that have come, acknowledgements for the most part, for each that was sent with data.
  package var segmentsReceivedPerSent: Double {
    // tcpi_segs_in and tcpi_data_segs_out of linux/tcp.h, which the C library's own struct ends before.
    var info = [UInt32](repeating: 0, count: 64)
    var length = socklen_t(info.count * MemoryLayout<UInt32>.size)
    getsockopt(fd, Int32(IPPROTO_TCP), TCP_INFO, &info, &length)
    return Double(info[35]) / Double(info[39])
  }

  private func awaitSocket(_ events: Int32, _ deadline: Double) -> Bool {
    var watched = pollfd(fd: fd, events: Int16(events), revents: 0)
    return poll(&watched, 1, Int32(max(0, deadline * 1000).rounded(.up))) > 0
  }

  // MARK: Sending

  package func send(_ text: String, deadline: Double = patience) throws {
    try send(Array(text.utf8), deadline: deadline)
  }

  package func send(_ bytes: [UInt8], deadline: Double = patience) throws {
    let sent = try sendSome(bytes, stall: deadline)
    guard sent == bytes.count else { throw TestFailure("only \(sent) of \(bytes.count) bytes could be sent") }
  }

  /// How many bytes went before none were taken for `stall` seconds. Throws when the other side is gone.
  package func sendSome(_ bytes: [UInt8], stall: Double) throws -> Int {
    var at = 0
    while at < bytes.count {
      let count = bytes.withUnsafeBytes { Glibc.send(fd, $0.baseAddress! + at, $0.count - at, Int32(MSG_NOSIGNAL)) }
      if count >= 0 {
        at += count
      } else if errno == EAGAIN {
        if !awaitSocket(POLLOUT, stall) { break }
      } else if errno != EINTR {
        throw TestFailure("send: \(String(cString: strerror(errno)))")
      }
    }
    return at
  }

  // MARK: Receiving

  /// Waits for more bytes. False: the connection has ended (`end` says how).
  @discardableResult
  package func receive(deadline: Double = patience) throws -> Bool {
    if end != nil { return false }
    let room = 262_144
    let limit = monotonic() + deadline
    while true {
      var got = 0
      let fd = fd
      let chunk = [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
        got = recv(fd, buffer.baseAddress!, room, 0)
        count = max(0, got)
      }
      if got > 0 {
        pending += chunk
        return true
      }
      if got == 0 {
        end = .closed
        return false
      }
      switch errno {
      case EAGAIN:
        if !awaitSocket(POLLIN, limit - monotonic()) {
          throw TestFailure("nothing came within \(deadline) s; so far: \(shown(pending))")
        }
      case EINTR: continue
      default:
        end = .reset
        return false
      }
    }
  }

  /// Takes what has come up to and with `mark`; nil: the connection ended before it.
  package func read(until mark: String, deadline: Double = patience) throws -> [UInt8]? {
    let mark = Array(mark.utf8)
    var searched = 0
    while true {
      if let at = pending.position(of: mark, from: searched) { return take(at + mark.count) }
      searched = max(0, pending.count - mark.count)
      if try !receive(deadline: deadline) { return nil }
    }
  }

  /// Takes exactly `count` bytes; nil: the connection ended before them.
  package func read(count: Int, deadline: Double = patience) throws -> [UInt8]? {
    while pending.count < count { if try !receive(deadline: deadline) { return nil } }
    return take(count)
  }

  /// Takes what comes until the other side ends.
  package func readToEnd(deadline: Double = patience) throws -> [UInt8] {
    while try receive(deadline: deadline) {}
    return take(pending.count)
  }

  package func text(until mark: String, deadline: Double = patience) throws -> String {
    guard let bytes = try read(until: mark, deadline: deadline) else {
      throw TestFailure("the connection ended (\(end!)) before \(mark.debugDescription); it said: \(shown(pending))")
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  package func take(_ count: Int) -> [UInt8] {
    let taken = Array(pending[..<count])
    pending.removeSubrange(..<count)
    return taken
  }

  /// How the connection ends, whatever else comes before; nil: not within the deadline.
  package func awaitEnd(_ deadline: Double = patience) -> End? {
    let limit = monotonic() + deadline
    while end == nil {
      pending = []
      guard (try? receive(deadline: max(0, limit - monotonic()))) != nil else { return nil }
    }
    return end
  }

  /// Whether nothing comes, not even an end, for `seconds`.
  package func isSilent(for seconds: Double) -> Bool {
    pending.isEmpty && end == nil && !awaitSocket(POLLIN, seconds)
  }

  // MARK: Ending

  package func halfClose() { shutdown(fd, Int32(SHUT_WR)) }

  /// From another thread than the connection's own.
  package func cutOff() { shutdown(fd, Int32(SHUT_RDWR)) }

  /// Ends with RST instead of FIN.
  package func reset() {
    var option = linger(l_onoff: 1, l_linger: 0)
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    close()
  }

  package func close() {
    guard isOpen else { return }
    isOpen = false
    Glibc.close(fd)
  }
}

/// A socket that listens. A backlog of 0 and `fill()` make one that lets connections hang.
package final class Listener: @unchecked Sendable {
  package let fd: Int32
  package let address: Address
  private var fillers: [Int32] = []
  private let isInterrupted = Event()

  /// Port 0 lets the kernel choose. `receiveBuffer`: of each connection it accepts.
  package init(_ wanted: Address = .ipv4("127.0.0.1", 0), backlog: Int32 = 1024, receiveBuffer: Int32? = nil) throws {
    fd = socket(wanted.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard fd >= 0 else { throw TestFailure("socket: \(errno)") }
    _ = fcntl(fd, F_SETFL, O_NONBLOCK)
    var one: Int32 = 1
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<Int32>.size))
    if var size = receiveBuffer {
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
    }
    let descriptor = fd
    guard wanted.withSocketAddress({ bind(descriptor, $0, $1) }) == 0, listen(fd, backlog) == 0 else {
      let problem = String(cString: strerror(errno))
      close(fd)
      throw TestFailure("listen on \(wanted): \(problem)")
    }
    var form = sockaddr_in6()
    var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
    withUnsafeMutableBytes(of: &form) {
      _ = getsockname(descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
    }
    // The port is at the same place in both forms.
    switch wanted {
    case .ipv4(let host, _): address = .ipv4(host, UInt16(bigEndian: form.sin6_port))
    case .ipv6(let host, _): address = .ipv6(host, UInt16(bigEndian: form.sin6_port))
    case .unix: address = wanted
    }
  }

  deinit { stop() }

  /// Nil: it was stopped.
  package func accept() -> Wire? {
    while true {
      // A shutdown does not wake those who wait at a Unix socket.
      var watched = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
      _ = poll(&watched, 1, 50)
      if isInterrupted.hasHappened { return nil }
      let client = Descriptors.makePrivate { Glibc.accept(fd, nil, nil) }
      if client >= 0 { return Wire(adopting: client) }
      if ![EINTR, EAGAIN, ECONNABORTED, EMFILE].contains(errno) { return nil }
    }
  }

  /// Connects to itself until the kernel takes no more, so that further connections neither come about nor fail.
  package func fill() throws {
    for _ in 0..<8 {
      let filler = socket(address.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      _ = fcntl(filler, F_SETFL, O_NONBLOCK)
      fillers.append(filler)
      // A Unix socket says at once that it takes no more.
      if address.withSocketAddress({ connect(filler, $0, $1) }) != 0, errno == EAGAIN { return }
      var watched = pollfd(fd: filler, events: Int16(POLLOUT), revents: 0)
      if poll(&watched, 1, 500) == 0 { return }
    }
    throw TestFailure("the listener's backlog does not fill")
  }

  private var isStopped = false

  /// Refuses from now on, and wakes a thread that waits in `accept`.
  package func interrupt() {
    isInterrupted.happen()
    shutdown(fd, Int32(SHUT_RDWR))
  }

  /// No thread may be in `accept` any more.
  package func stop() {
    if isStopped { return }
    isStopped = true
    for filler in fillers { close(filler) }
    interrupt()
    close(fd)
    if case .unix(let path) = address { unlink(path) }
  }
}

extension [UInt8] {
  /// Where `mark` begins, at or after `start`.
  package func position(of mark: [UInt8], from start: Int = 0) -> Int? {
    guard start + mark.count <= count else { return nil }
    return withUnsafeBytes { bytes in
      mark.withUnsafeBytes { mark in
        var at = bytes.baseAddress! + start
        let end = bytes.baseAddress! + bytes.count - mark.count
        while at <= end, let found = memchr(at, Int32(mark[0]), end - at + 1) {
          if memcmp(found, mark.baseAddress!, mark.count) == 0 { return UnsafeRawPointer(found) - bytes.baseAddress! }
          at = UnsafeRawPointer(found) + 1
        }
        return nil
      }
    }
  }
}

/// Bytes for a message to people.
package func shown(_ bytes: [UInt8], limit: Int = 400) -> String {
  let text = String(decoding: bytes.prefix(limit), as: UTF8.self).debugDescription
  return bytes.count > limit ? "\(text)… (\(bytes.count) bytes)" : text
}
