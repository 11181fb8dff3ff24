// A thread that speaks TLS for the clients of some workers: an epoll loop, a seat for each client, deadlines. Workers
// ring its bell when they have accepted somebody; it wakes them when a handshake is done. Made and told by TlsFront.

import COpenSSL
import Glibc
import Synchronization

/// A worker as the TLS threads know it.
package struct TlsWorker: @unchecked Sendable {
  package let control: UnsafeMutablePointer<WorkerControl>
  package let wake: WakeHandle
  package init(control: UnsafeMutablePointer<WorkerControl>, wake: WakeHandle) {
    self.control = control
    self.wake = wake
  }
}

/// A worker that has a thread, and where the two meet.
struct ServedWorker: @unchecked Sendable {
  let port: UnsafeMutablePointer<TlsPort>
  let wake: WakeHandle
}

/// What one thread counts: written by it alone, added up by readers. Words, as with the workers' counters.
package struct TlsCounters: BitwiseCopyable {
  package var handshakes: UInt64 = 0
  /// The part of them that a ticket made short.
  package var resumed: UInt64 = 0
  // Clients without a handshake: what they sent was no TLS, or not acceptable, or too late; or they left.
  package var notTls: UInt64 = 0
  package var refused: UInt64 = 0
  package var timeouts: UInt64 = 0
  package var left: UInt64 = 0
  /// Descriptors ran out, or the worker took nobody over.
  package var starved: UInt64 = 0
  /// A gauge: clients whose socket is held.
  package var open: UInt64 = 0

  package init() {}
}

/// What all threads share.
final class TlsShared: Sendable {
  let board: LoadBoard
  let context = Mutex<TlsContext?>(nil)
  /// For the handshake, and for a client that takes nothing while its worker has finished; nanoseconds.
  let handshakeNs = Atomic<UInt64>(0)
  let stallNs = Atomic<UInt64>(0)
  let isDraining = Atomic<Bool>(false)

  init(board: LoadBoard) { self.board = board }
}

final class TlsThread: @unchecked Sendable {
  /// Asked of the kernel for each direction of a pair, in bytes of its own accounting: a few records.
  static let pairBytes: Int32 = 65_536
  private static let eventsMax = 256

  private enum Kind: UInt64 { case bell, waker, client, plain }

  let bell: UnsafeMutablePointer<TlsBell>
  let seats: UnsafeMutablePointer<TlsSeat>
  let counters: UnsafeMutablePointer<TlsCounters> = mapZeroed(1)
  private let shared: TlsShared
  private let epoll: Int32
  private let bellEnd: Int32
  private let waker = WakeHandle()
  private let capacity: Int
  /// No client is held. Meaningful while draining, when none comes.
  private let empty = Atomic<Bool>(true)
  /// Set by TlsFront before the first of their clients comes.
  private let workers = Mutex<[ServedWorker]>([])

  // The thread's own.
  private var sessions: [TlsSession?]
  private var freeSeats: [Int]
  private var wheel: TimerWheel
  private var listed: [TlsName] = []
  private var known: [ServedWorker] = []
  private let scratch = UnsafeMutablePointer<UInt8>.allocate(capacity: TlsSession.recordMax)
  private let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: TlsThread.eventsMax)
  private var now: UInt64 = 0

  /// - Parameter capacity: clients at once, at most 65,536. The workers keep the limit of the process; this one is
  ///   never reached.
  static func start(_ number: Int, capacity: Int, shared: TlsShared) throws(ServerError) -> TlsThread {
    precondition(capacity <= 1 << 16, "a TlsName has 16 bits for the seat")
    var ends: (Int32, Int32) = (-1, -1)
    let made = withUnsafeMutableBytes(of: &ends) {
      socketpair(
        AF_UNIX, SocketType.stream | SocketType.closeOnExec, 0, $0.baseAddress!.assumingMemoryBound(to: Int32.self))
    }
    let epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
    let thread = made == 0 && epoll >= 0 ? TlsThread(epoll, bellEnd: ends.0, bell: ends.1, capacity, shared) : nil
    guard let thread, thread.waker.fd >= 0 else {
      throw ServerError(message: "tls: no descriptors are left; raise the limit (ulimit -n)")
    }
    _ = fcntl(ends.0, F_SETFL, O_NONBLOCK)
    guard sky_epoll_add_reader(epoll, ends.0, Kind.bell.rawValue) == 0,
      sky_epoll_add_reader(epoll, thread.waker.fd, Kind.waker.rawValue) == 0
    else { throw ServerError(message: "tls: epoll_ctl: \(errorText(errno))") }
    guard ControlThread.start("sky-tls-\(number)", { thread.run() }) != nil else {
      throw ServerError(message: "tls: no room for another thread; raise the limit (ulimit -u)")
    }
    return thread
  }

  private init(_ epoll: Int32, bellEnd: Int32, bell: Int32, _ capacity: Int, _ shared: TlsShared) {
    self.epoll = epoll
    self.bellEnd = bellEnd
    self.capacity = capacity
    self.shared = shared
    self.bell = .allocate(capacity: 1)
    self.bell.initialize(to: TlsBell(fd: bell))
    seats = mapZeroed(capacity)
    sessions = Array(repeating: nil, count: capacity)
    freeSeats = Array((0..<capacity).reversed())
    wheel = TimerWheel(capacity: capacity, now: monotonicNanoseconds())
  }

  // MARK: From other threads

  /// Another worker's clients are this thread's from now on.
  func serve(_ worker: ServedWorker) {
    workers.withLock { $0.append(worker) }
    waker.wake()
  }

  /// To look at what has changed.
  func wake() { waker.wake() }

  var isEmpty: Bool { empty.load(ordering: .acquiring) }

  // MARK: The loop

  private func run() {
    while true {
      let count = epoll_wait(epoll, events, Int32(TlsThread.eventsMax), timeout)
      now = monotonicNanoseconds()
      for index in 0..<max(0, Int(count)) { take(events + index) }
      stepListed()
      while let seat = wheel.expired(now: now) { overdue(Int(seat)) }
      stepListed()
    }
  }

  /// Milliseconds, rounded up: waking early would be waking twice.
  private var timeout: Int32 {
    if !listed.isEmpty { return 0 }
    let next = wheel.nextWake
    if next == .max { return -1 }
    let now = monotonicNanoseconds()
    return next <= now ? 0 : Int32(clamping: (next - now + 999_999) / 1_000_000)
  }

  private func take(_ event: UnsafePointer<epoll_event>) {
    let key = sky_epoll_key(event)
    guard let kind = Kind(rawValue: key & 3) else { preconditionFailure("an event of no kind") }
    let name = TlsName(raw: UInt32(truncatingIfNeeded: key >> 2))
    switch kind {
    case .bell:
      while recv(bellEnd, scratch, 64, 0) > 0 {}
      bell.pointee.isRung.store(0, ordering: .sequentiallyConsistent)
      takeAccepted()
    case .waker:
      waker.clear()
      known = workers.withLock { $0 }
      takeAccepted()
      if shared.isDraining.load(ordering: .acquiring) { beginDraining() }
    case .client:
      guard let session = session(name) else { return }
      session.clientEvent(sky_epoll_bits(event))
      list(session, name)
    case .plain:
      guard let session = session(name) else { return }
      session.plainEvent(sky_epoll_bits(event))
      list(session, name)
    }
  }

  /// Nil: the event was for somebody who had the seat before.
  private func session(_ name: TlsName) -> TlsSession? {
    seats[name.seat].marks(name) == nil ? nil : sessions[name.seat]
  }

  private func list(_ session: TlsSession, _ name: TlsName) {
    if session.isListed { return }
    session.isListed = true
    listed.append(name)
  }

  /// Those who come on the list again meanwhile have their turn after everybody else.
  private func stepListed() {
    let names = listed
    listed.removeAll(keepingCapacity: true)
    for name in names {
      guard let session = session(name) else { continue }
      session.isListed = false
      step(session, name)
    }
  }

  private func name(_ seat: Int) -> TlsName {
    TlsName(seat: seat, generation: seats[seat].word.load(ordering: .relaxed) >> 16)
  }

  // MARK: A client's way

  private func takeAccepted() {
    for (index, worker) in known.enumerated() {
      while let client = worker.port.pointee.accepted.take() { admit(client, worker: index) }
    }
  }

  private func admit(_ client: Int32, worker: Int) {
    guard !shared.isDraining.load(ordering: .acquiring), let seat = freeSeats.popLast() else {
      close(client)
      shared.board.shared.pointee.connections.wrappingSubtract(1, ordering: .relaxed)
      return
    }
    let name = name(seat)
    let session = TlsSession(client: client, worker: worker)
    sessions[seat] = session
    counters.pointee.open += 1
    empty.store(false, ordering: .releasing)
    _ = fcntl(client, F_SETFL, O_NONBLOCK)
    guard sky_epoll_add(epoll, client, key(.client, name)) == 0 else {
      counters.pointee.starved += 1
      end(session, name, .done)
      return
    }
    wheel.set(UInt32(seat), at: now &+ shared.handshakeNs.load(ordering: .relaxed))
    list(session, name)
  }

  private func key(_ kind: Kind, _ name: TlsName) -> UInt64 { UInt64(name.raw) << 2 | kind.rawValue }

  private func step(_ session: TlsSession, _ name: TlsName) {
    let outcome = session.step(
      { shared.context.withLock { $0 } }, scratch: scratch, marks: { seats[name.seat].marks(name) ?? 0 })
    switch outcome {
    case .waits: break
    case .again: list(session, name)
    case .ready: handOver(session, name)
    case .parts(let refusal):
      switch refusal {
      case .notTls: counters.pointee.notTls += 1
      case .handshake: counters.pointee.refused += 1
      case nil: break
      }
      wheel.set(UInt32(name.seat), at: now &+ TlsSession.partingNs)
      // What the client has sent before it knew is not left unread.
      list(session, name)
    case .over(let ending):
      if session.state != .open && session.state != .parting { counters.pointee.left += 1 }
      end(session, name, ending)
      return
    }
    if session.waitsForClient && (session.hasMoved || !session.isTimed) {
      session.isTimed = true
      wheel.set(UInt32(name.seat), at: now &+ shared.stallNs.load(ordering: .relaxed))
    }
  }

  /// The handshake is done: the worker gets its end of a pair. What the client has said already waits for it there.
  private func handOver(_ session: TlsSession, _ name: TlsName) {
    if shared.isDraining.load(ordering: .acquiring) {
      end(session, name, .done)
      return
    }
    guard let pair = makePair(key(.plain, name)) else {
      counters.pointee.starved += 1
      end(session, name, .done)
      return
    }
    counters.pointee.handshakes += 1
    if session.isResumed { counters.pointee.resumed += 1 }
    wheel.clear(UInt32(name.seat))
    session.open(plain: pair.own)
    let worker = known[session.worker]
    let arrival = TlsArrival(name: name, plain: pair.workers, address: peerAddress(session.client))
    // Full: a worker that has not turned for a while, and clients that came and left meanwhile.
    guard worker.port.pointee.arrivals.put(arrival) else {
      counters.pointee.starved += 1
      close(pair.workers)
      end(session, name, .done)
      return
    }
    worker.wake.wake()
    list(session, name)
  }

  private func makePair(_ key: UInt64) -> (own: Int32, workers: Int32)? {
    var ends: (Int32, Int32) = (-1, -1)
    let made = withUnsafeMutableBytes(of: &ends) {
      socketpair(
        AF_UNIX, SocketType.stream | SocketType.closeOnExec, 0, $0.baseAddress!.assumingMemoryBound(to: Int32.self))
    }
    guard made == 0 else { return nil }
    var size = TlsThread.pairBytes
    for end in [ends.0, ends.1] { setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, socklen_t(MemoryLayout<Int32>.size)) }
    // Only ours: a ring waits for readiness only where a descriptor does not say that it must not.
    _ = fcntl(ends.0, F_SETFL, O_NONBLOCK)
    guard sky_epoll_add(epoll, ends.0, key) == 0 else {
      close(ends.0)
      close(ends.1)
      return nil
    }
    return (ends.0, ends.1)
  }

  private func peerAddress(_ client: Int32) -> SocketAddress {
    var address = SocketAddress()
    var length = socklen_t(MemoryLayout<SocketAddress.Words>.size)
    let code = address.withBytes {
      getpeername(client, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
    }
    address.length = code == 0 ? length : 0
    return address
  }

  private func overdue(_ seat: Int) {
    guard let session = sessions[seat] else { return }
    switch session.state {
    case .greeting, .handshaking:
      counters.pointee.timeouts += 1
      end(session, name(seat), .done)
    case .open: end(session, name(seat), .reset)
    case .parting: end(session, name(seat), .done)
    }
  }

  private func end(_ session: TlsSession, _ name: TlsName, _ ending: TlsSession.Ending) {
    let seat = name.seat
    switch ending {
    case .done: break
    case .clientGone: seats[seat].mark(name, .clientGone)
    case .reset:
      var option = linger(l_onoff: 1, l_linger: 0)
      setsockopt(session.client, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }
    if session.plain >= 0 { close(session.plain) }
    close(session.client)
    sessions[seat] = nil
    seats[seat].word.store((name.generation &+ 1) << 16, ordering: .releasing)
    wheel.clear(UInt32(seat))
    freeSeats.append(seat)
    shared.board.shared.pointee.connections.wrappingSubtract(1, ordering: .relaxed)
    counters.pointee.open -= 1
    if counters.pointee.open == 0 { tellEmpty() }
  }

  // MARK: The end

  /// Nobody new; those who have not come as far as a request are let go. The rest ends as its workers end it.
  private func beginDraining() {
    for (seat, session) in sessions.enumerated() {
      guard let session, session.state == .greeting || session.state == .handshaking else { continue }
      end(session, name(seat), .done)
    }
    if counters.pointee.open == 0 { tellEmpty() }
  }

  private func tellEmpty() {
    empty.store(true, ordering: .releasing)
    if shared.isDraining.load(ordering: .acquiring) { kill(getpid(), SIGUSR2) }
  }
}
