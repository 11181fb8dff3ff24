// Carries out bind, connect and sendto for the processes of one replica, so that each replica has the ports of a whole
// machine (BindRule). One thread per filter listener takes the calls as the kernel shows them, one after another, and
// never waits for anything but the next: a call that is not ours goes back to the kernel at once.
//
//   replica: bind(0.0.0.0:8080) ─ kernel ─▶ listener ─▶ Switchboard: takes the socket (pidfd_getfd), binds it on
//   127.72.3.9:8080 ─▶ the replica's bind returns 0
//
// What arrives through io_uring, from 32-bit programs, or by sendmsg is not seen and goes as asked.

import CPlatform
import Glibc
import Synchronization

final class Switchboard: Sendable {
  private struct Book {
    var ports: PortBook
    var machine = MachineAddresses()
  }

  private let book: Mutex<Book>
  let address: UInt32
  /// Of this process, and so of the replica unless one of its processes went elsewhere.
  private let network: FileIdentity?

  init(address: UInt32) {
    self.address = address
    book = Mutex(Book(ports: PortBook(address: address)))
    network = FileIdentity("/proc/self/ns/net")
  }

  /// Decides until the last process under the filter has ended. Closes the listener.
  func serve(_ listener: Int32) {
    defer { close(listener) }
    sky_speed_up_notifications(listener)
    var call = sky_notification()
    while true {
      // The listener hangs up with the last process under the filter; a plain receive would not notice.
      var watched = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
      if poll(&watched, 1, -1) < 0 {
        if errno == EINTR { continue }
        return
      }
      guard watched.revents & Int16(POLLIN) != 0 else { return }
      switch sky_receive_notification(listener, &call) {
      case 1: decide(call, listener)
      case 0: continue  // who called has died
      default: return
      }
    }
  }

  private enum Outcome {
    case pass
    case done(Int64)
    case fail(Int32)
  }

  private func decide(_ call: sky_notification, _ listener: Int32) {
    let outcome: Outcome
    switch call.call {
    case sky_call_bind: outcome = bind(call, listener)
    case sky_call_connect: outcome = connect(call, listener)
    case sky_call_sendto: outcome = send(call, listener)
    default: outcome = .pass
    }
    // An answer to a call whose caller has died meanwhile is refused, which is no matter.
    switch outcome {
    case .pass: _ = sky_let_pass(listener, call.id)
    case .done(let value): _ = sky_answer(listener, call.id, value)
    case .fail(let code): _ = sky_refuse(listener, call.id, code)
    }
  }

  // MARK: The three calls

  private func bind(_ call: sky_notification, _ listener: Int32) -> Outcome {
    guard let asked = name(at: call.arguments.1, length: call.arguments.2, of: call.thread) else { return .pass }
    let mayBeOurs = book.withLock { book in
      let host = asked.host.unmapped
      return host.isWildcard || host.isLocalhost || host == .v4(address) || book.machine.contains(host)
    }
    guard mayBeOurs, let socket = takeSocket(call, listener) else { return .pass }
    defer { socket.close() }
    // An address of the other family is for the kernel to refuse.
    guard socket.isV6 == asked.isV6 else { return .pass }

    let place = ListenPlace(host: asked.host.unmapped, isOnlyV6: socket.isOnlyV6)
    let plan = book.withLock { book in
      book.ports.planBind(socket.kind, place, port: asked.port) { _ in true }
    }
    switch plan {
    case .asAsked: return .pass
    case .secondSeat where isHeld(asked.port, socket.kind): return bindSecond(socket, port: asked.port)
    case .own, .secondSeat: return bindOwn(socket, place, port: asked.port)
    }
  }

  private func bindOwn(_ socket: BorrowedSocket, _ place: ListenPlace, port: UInt16) -> Outcome {
    var name = SocketName(.v4(address), port: port)
    if socket.isV6 {
      name = name.mapped
      if socket.isOnlyV6, !socket.setOnlyV6(false) { return .pass }
    }
    if name.withAddress({ Glibc.bind(socket.fd, $0, $1) }) != 0 {
      let code = errno
      // A signal can make a caller repeat a bind that was carried out already.
      if code == EINVAL, let bound = SocketName.own(of: socket.fd), bound.host.unmapped == .v4(address),
        bound.port == port || port == 0
      {
        return .done(0)
      }
      if socket.isV6, socket.isOnlyV6 { _ = socket.setOnlyV6(true) }
      return .fail(code)
    }
    let bound = port != 0 ? port : SocketName.own(of: socket.fd)?.port ?? 0
    book.withLock { $0.ports.didBind(socket.kind, place, port: bound) }
    return .done(0)
  }

  private func bindSecond(_ socket: BorrowedSocket, port: UInt16) -> Outcome {
    let seat = book.withLock { socket.isV6 ? $0.ports.secondAddressV6 : .v4($0.ports.secondAddress) }
    if socket.isV6 {
      // The address belongs to no interface, which this option allows.
      var one: Int32 = 1
      setsockopt(socket.fd, Int32(IPPROTO_IPV6), 78 /* IPV6_FREEBIND */, &one, 4)
    }
    let result = SocketName(seat, port: port).withAddress { Glibc.bind(socket.fd, $0, $1) }
    return result == 0 ? .done(0) : .fail(errno)
  }

  /// Whether a socket has this port on the replica's address now.
  private func isHeld(_ port: UInt16, _ kind: TransportKind) -> Bool {
    let type = kind == .tcp ? SOCK_STREAM : SOCK_DGRAM
    let probe = socket(AF_INET, Int32(type.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard probe >= 0 else { return false }
    defer { close(probe) }
    return SocketName(.v4(address), port: port).withAddress { Glibc.bind(probe, $0, $1) } != 0 && errno == EADDRINUSE
  }

  private func connect(_ call: sky_notification, _ listener: Int32) -> Outcome {
    guard let asked = name(at: call.arguments.1, length: call.arguments.2, of: call.thread),
      redirects([.tcp, .udp], asked), let socket = takeSocket(call, listener)
    else { return .pass }
    defer { socket.close() }
    guard redirects([socket.kind], asked), let target = socket.target(.v4(address), port: asked.port) else {
      return .pass
    }
    // Starts and never waits: a blocking caller waits by itself, in the call that it goes on with.
    let isBlocking = fcntl(socket.fd, F_GETFL) & O_NONBLOCK == 0
    let patience = isBlocking && socket.kind == .tcp ? socket.setShortSendTimeout() : nil
    let result = target.withAddress { Glibc.connect(socket.fd, $0, $1) }
    let code = errno
    if let patience { socket.restoreSendTimeout(patience) }
    if result == 0 { return .done(0) }
    return isBlocking && code == EINPROGRESS ? .pass : .fail(code)
  }

  private func send(_ call: sky_notification, _ listener: Int32) -> Outcome {
    let length = Int(truncatingIfNeeded: call.arguments.2)
    // The most that a datagram holds.
    guard (0...65_507).contains(length),
      let asked = name(at: call.arguments.4, length: call.arguments.5, of: call.thread),
      redirects([.udp], asked), let socket = takeSocket(call, listener)
    else { return .pass }
    defer { socket.close() }
    guard socket.kind == .udp, let target = socket.target(.v4(address), port: asked.port) else { return .pass }
    var bytes = [UInt8](repeating: 0, count: length)
    guard sky_read_memory(call.thread, call.arguments.1, &bytes, length) == length,
      sky_is_notification_valid(listener, call.id) != 0
    else { return .pass }
    let flags = Int32(truncatingIfNeeded: call.arguments.3)
    let sent = target.withAddress { name, size in
      sendto(socket.fd, bytes, length, flags | Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL), name, size)
    }
    if sent >= 0 { return .done(Int64(sent)) }
    // Nobody waits here for room: the datagram is lost, as datagrams may be.
    let isBlocking = fcntl(socket.fd, F_GETFL) & O_NONBLOCK == 0 && flags & Int32(MSG_DONTWAIT) == 0
    return errno == EAGAIN && isBlocking ? .done(Int64(length)) : .fail(errno)
  }

  // MARK: Looking at the caller

  private func redirects(_ kinds: [TransportKind], _ asked: SocketName) -> Bool {
    book.withLock { book in
      var machine = book.machine
      defer { book.machine = machine }
      return book.ports.redirects(kinds, asked.host.unmapped, port: asked.port) { machine.contains($0) }
    }
  }

  /// nil: not an address of IPv4 or IPv6, or it cannot be read; then the kernel says so better.
  private func name(at place: UInt64, length: UInt64, of thread: pid_t) -> SocketName? {
    guard (16...128).contains(length) else { return nil }
    var room = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
    return withUnsafeMutableBytes(of: &room) { bytes in
      let wanted = min(Int(length), SocketName.bytesMax)
      let count = sky_read_memory(thread, place, bytes.baseAddress, wanted)
      guard count == wanted else { return nil }
      return SocketName(UnsafeRawBufferPointer(rebasing: bytes[..<wanted]))
    }
  }

  /// The socket that a call is about; nil: it is none that is ours to change.
  private func takeSocket(_ call: sky_notification, _ listener: Int32) -> BorrowedSocket? {
    // Only a process's first thread has a number that pidfd_open takes.
    var process = call.thread
    var pidfd = sky_pidfd_open(process)
    if pidfd < 0 {
      guard let leader = Self.processOf(thread: call.thread) else { return nil }
      process = leader
      pidfd = sky_pidfd_open(process)
    }
    guard pidfd >= 0 else { return nil }
    defer { close(pidfd) }
    let fd = sky_pidfd_getfd(pidfd, Int32(truncatingIfNeeded: call.arguments.0))
    guard fd >= 0 else { return nil }
    // In a network of its own (a container), a process has 0.0.0.0 to itself.
    guard sky_is_notification_valid(listener, call.id) != 0, let socket = BorrowedSocket(fd),
      FileIdentity("/proc/\(process)/ns/net") == network
    else {
      close(fd)
      return nil
    }
    return socket
  }

  private static func processOf(thread: pid_t) -> pid_t? {
    guard let text = ProcessTable.readFile("/proc/\(thread)/status"), let at = text.range(of: "\nTgid:") else {
      return nil
    }
    return pid_t(text[at.upperBound...].prefix { $0 != "\n" }.filter(\.isNumber))
  }
}

/// Which file a path leads to.
struct FileIdentity: Hashable, Sendable {
  private let device: UInt64
  private let inode: UInt64

  init?(_ path: String) {
    var facts = stat()
    guard stat(path, &facts) == 0 else { return nil }
    (device, inode) = (UInt64(facts.st_dev), UInt64(facts.st_ino))
  }
}

/// A TCP or UDP socket of another process, held for the time of one call. What is set on it is set for its owner.
private struct BorrowedSocket {
  let fd: Int32
  let isV6: Bool
  let kind: TransportKind
  let isOnlyV6: Bool

  /// nil: it is something else.
  init?(_ fd: Int32) {
    switch Self.option(fd, SOL_SOCKET, SO_DOMAIN) {
    case AF_INET: isV6 = false
    case AF_INET6: isV6 = true
    default: return nil
    }
    switch Self.option(fd, SOL_SOCKET, SO_TYPE) {
    case Int32(SOCK_STREAM.rawValue): kind = .tcp
    case Int32(SOCK_DGRAM.rawValue): kind = .udp
    default: return nil
    }
    isOnlyV6 = isV6 && Self.option(fd, Int32(IPPROTO_IPV6), IPV6_V6ONLY) == 1
    self.fd = fd
  }

  func close() { _ = Glibc.close(fd) }

  /// False: it is bound already.
  func setOnlyV6(_ on: Bool) -> Bool {
    var value: Int32 = on ? 1 : 0
    return setsockopt(fd, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &value, 4) == 0
  }

  /// nil: this socket cannot reach IPv4 any more.
  func target(_ host: HostAddress, port: UInt16) -> SocketName? {
    let name = SocketName(host, port: port)
    if !isV6 { return name }
    return isOnlyV6 && !setOnlyV6(false) ? nil : name.mapped
  }

  /// A connect then gives EINPROGRESS after a clock tick and goes on by itself. What it was before.
  func setShortSendTimeout() -> timeval? {
    var before = timeval()
    var length = socklen_t(MemoryLayout<timeval>.size)
    guard getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &before, &length) == 0 else { return nil }
    restoreSendTimeout(timeval(tv_sec: 0, tv_usec: 1))
    return before
  }

  func restoreSendTimeout(_ value: timeval) {
    var value = value
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &value, socklen_t(MemoryLayout<timeval>.size))
  }

  private static func option(_ fd: Int32, _ level: Int32, _ name: Int32) -> Int32 {
    var value: Int32 = -1
    var length = socklen_t(4)
    return getsockopt(fd, level, name, &value, &length) == 0 ? value : -1
  }
}
