// The seam between the engine and the world: the only source of bytes, of `now` and of random bits.
// `UringIO` is production, `SimIO` (Tests/ProxySim) the seeded simulation, `NullIO` the compile-time allocation gates.
// Completions are pulled with `next()`, never delivered to closures; each carries the token its operation was queued
// with. Operations are queued, not performed: they reach the kernel together at the next `submitAndWait`.

/// What an operation was queued for, packed into io_uring's 64-bit user_data: operation (8 bits), generation of the
/// slot (24), slot index (32). A slot is not freed before the kernel has let go of it, so a completion whose generation
/// is not its slot's is a broken invariant: the engine traps.
package struct Token: BitwiseCopyable, Equatable {
  package var raw: UInt64

  @inline(__always)
  package init(raw: UInt64) { self.raw = raw }

  @inline(__always)
  package init(_ operation: Operation, slot: UInt32, generation: UInt32) {
    raw = UInt64(operation.rawValue) | UInt64(generation & 0xFF_FFFF) << 8 | UInt64(slot) << 32
  }

  @inline(__always)
  package var operation: Operation {
    guard let operation = Operation(rawValue: UInt8(truncatingIfNeeded: raw)) else {
      preconditionFailure("a completion carries an operation we never queued")
    }
    return operation
  }
  @inline(__always)
  package var generation: UInt32 { UInt32(truncatingIfNeeded: raw >> 8) & 0xFF_FFFF }
  @inline(__always)
  package var slot: UInt32 { UInt32(truncatingIfNeeded: raw >> 32) }
}

/// Every kind of operation the engine queues. Which side of the proxy a connection is on is known to its slot.
package enum Operation: UInt8, BitwiseCopyable {
  case accept, wake, connect, receive, send, watch, shutdown, close, cancel
}

/// One finished (or still running, see `more`) operation.
package struct Completion: BitwiseCopyable {
  package var token: Token
  /// Bytes moved, a file descriptor (accept), 0 at end of stream, or a negated errno.
  package var result: Int32
  /// The lent buffer that holds the received bytes from its start, or `.none`.
  package var buffer: BufferID
  /// A multishot operation stays armed. False: it has ended and must be queued again to go on.
  package var more: Bool

  @inline(__always)
  package init(token: Token, result: Int32, buffer: BufferID = .none, more: Bool = false) {
    self.token = token
    self.result = result
    self.buffer = buffer
    self.more = more
  }
}

/// A buffer of the ring, lent to the engine by a receive completion until `giveBack`.
package struct BufferID: BitwiseCopyable, Equatable {
  package var raw: Int32
  @inline(__always)
  package init(_ raw: Int32) { self.raw = raw }
  package static var none: BufferID {
    @inline(__always) get { BufferID(-1) }
  }
}

/// One piece of a gathered send; the layout of `struct iovec` (man 3 iovec).
package struct IOSlice: BitwiseCopyable {
  package var base: UnsafeMutableRawPointer?
  package var count: Int
  @inline(__always)
  package init(base: UnsafeMutableRawPointer?, count: Int) {
    self.base = base
    self.count = count
  }
}

package enum ShutdownHow: Int32, BitwiseCopyable {
  /// No more bytes will be sent: the peer sees the end of the stream (man 2 shutdown, SHUT_WR).
  case write = 1
  /// Both ways: also ends an armed receive with result 0 and a pending send with EPIPE.
  case both = 2
}

/// Results that the engine tells apart: negated errno values of Linux (man 3 errno).
package enum RingResult {
  package static var interrupted: Int32 { @inline(__always) get { -4 } }
  package static var noMemory: Int32 { @inline(__always) get { -12 } }
  /// The system, or this process, has as many descriptors as it may.
  package static var systemDescriptors: Int32 { @inline(__always) get { -23 } }
  package static var processDescriptors: Int32 { @inline(__always) get { -24 } }
  /// No local port is left towards an address (EADDRNOTAVAIL).
  package static var noPorts: Int32 { @inline(__always) get { -99 } }
  /// No lent buffer was there for a receive, or the kernel has no memory for a socket (ENOBUFS).
  package static var noBuffers: Int32 { @inline(__always) get { -105 } }
  package static var cancelled: Int32 { @inline(__always) get { -125 } }
}

/// What a watch may find: bits of its result, those of poll(2).
package enum PeerEnd {
  /// The connection has broken (POLLERR).
  package static var broken: Int32 { @inline(__always) get { 0x8 } }
  /// Both directions have ended, or the connection has broken (POLLHUP).
  package static var both: Int32 { @inline(__always) get { 0x10 } }
  /// The peer has sent its FIN (POLLRDHUP).
  package static var fin: Int32 { @inline(__always) get { 0x2000 } }
}

/// What has come on a socket and was not received yet.
package struct Unread: BitwiseCopyable {
  package var bytes: Int
  /// Nanoseconds since bytes last came: 0 where that is not known, at most the truth.
  package var silenceNs: UInt64
  package init(bytes: Int, silenceNs: UInt64) {
    self.bytes = bytes
    self.silenceNs = silenceNs
  }
}

package protocol RingIO: ~Copyable {
  /// Monotonic time in nanoseconds, read once per turn.
  var now: UInt64 { get }
  mutating func random() -> UInt64

  /// Queues go to the kernel; returns after at least one completion, or at `deadline` (nanoseconds of `now`'s clock;
  /// `.max`: no deadline). Refreshes `now`.
  mutating func submitAndWait(until deadline: UInt64)
  /// The next completion of this turn; nil when all have been taken.
  mutating func next() -> Completion?

  /// Multishot. Results: new descriptors, or a negated errno.
  mutating func accept(on listener: Int32, token: Token)
  /// Multishot into lent buffers, ending by itself (more == false) after about `limit` bytes so that a stalled other
  /// side holds a bounded number of them. 0 = end of stream; -ENOBUFS = every buffer is lent out.
  /// `pollFirst`: nothing is expected at once, so wait for readiness before trying.
  mutating func receive(_ fd: Int32, limit: UInt32, pollFirst: Bool, token: Token)
  /// Completes when all bytes are accepted by the socket, or with an error, or with a short count after an error.
  mutating func send(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int, token: Token)
  /// As `send`, for 1...`gatherMax` slices; they are copied before this returns.
  mutating func send(_ fd: Int32, gathering slices: UnsafePointer<IOSlice>, _ count: Int, token: Token)
  /// Multishot. Completes, with bits of `PeerEnd`, each time the peer's end shows on the socket, whatever there is
  /// still to be received: first its FIN (at once when that has come already), later that the connection has broken.
  mutating func watch(_ fd: Int32, token: Token)
  /// `address` is copied before this returns.
  mutating func connect(_ fd: Int32, to address: UnsafePointer<SocketAddress>, token: Token)
  mutating func shutdown(_ fd: Int32, _ how: ShutdownHow, token: Token)
  mutating func close(_ fd: Int32, token: Token)
  /// Ends the operation queued with `target`; it completes with -ECANCELED, or as it would have. `token` completes too.
  mutating func cancel(_ target: Token, token: Token)
  /// Completes once when another thread (or the simulator) wants the worker's attention.
  mutating func armWake(token: Token)

  /// A new stream socket of the address's family with TCP_NODELAY; or a negated errno.
  mutating func openSocket(for address: UnsafePointer<SocketAddress>) -> Int32
  /// On: what comes on the socket is acknowledged with what goes, or two pieces at once, or after 40 ms, until the
  /// kernel finds that nothing goes within those (man 7 tcp, TCP_QUICKACK). Off: each piece when it is received.
  mutating func delayAcks(_ fd: Int32, _ isOn: Bool)
  /// Makes the following close abortive (RST), so that the peer cannot mistake it for a clean end.
  mutating func resetOnClose(_ fd: Int32)
  mutating func unread(on fd: Int32) -> Unread
  /// Nanoseconds since the peer's kernel last acknowledged anything, while something it should acknowledge is under
  /// way; 0 when nothing is, or that is not known of the socket.
  mutating func unacknowledgedNs(on fd: Int32) -> UInt64
  /// The other end's address of an accepted connection.
  mutating func peerAddress(of fd: Int32) -> SocketAddress

  /// Bytes that fit in each lent buffer.
  var bufferSize: Int { get }
  /// Buffers of this worker in all, and those not lent out now.
  var bufferCount: Int { get }
  var buffersFree: Int { get }
  /// Buffers the next turn's receives can fill, at most `buffersFree`.
  var buffersNext: Int { get }
  func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer
  mutating func giveBack(_ buffer: BufferID)
}

/// Slices in one gathered send; 16 × 64 KiB is far above what one TCP send moves.
package let gatherMax = 16
