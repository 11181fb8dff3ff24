// One socket, of either side, and the one request and response (exchange) that may be using it. Both are plain bytes in
// slot tables: no references, nothing to retain.

import Synchronization

package enum Side: UInt8, BitwiseCopyable { case downstream, upstream }

/// A connection's life:
/// ```
/// downstream:  readingHead ──▶ exchanging ──▶ readingHead …        upstream:  connecting ──▶ serving ◀──▶ parked
///                  │               ├──▶ tunnel ──▶ stopping                        └───────────┴──▶ stopping
///                  ▼               ▼
///               replying ──▶ lingering ──▶ stopping
/// ```
/// `stopping` ends when the kernel holds nothing of the slot any more (DESIGN rule 4), then it is free.
package enum ConnectionState: UInt8, BitwiseCopyable {
  case free
  /// Waiting for, or in the middle of, a request head.
  case readingHead
  /// An exchange owns it: queued, being answered, or its response is still being sent.
  case exchanging
  /// The last response is being sent; then it lingers.
  case replying
  /// We have sent our FIN and discard what the client still sends until it closes or a deadline.
  case lingering
  case connecting
  /// An exchange owns it.
  case serving
  /// In the idle pool, its receive armed, so that a closing replica is noticed.
  case parked
  /// An upgraded connection: bytes pass both ways until both ends are closed.
  case tunnel
  case stopping
}

/// A set of bits. Not an `OptionSet`: its generic operations look up metadata, which hot paths may not.
package struct ConnectionFlags: BitwiseCopyable {
  private var bits: UInt32
  @inline(__always)
  private init(_ bits: UInt32) { self.bits = bits }
  package static var none: ConnectionFlags { @inline(__always) get { ConnectionFlags(0) } }
  package static var receiving: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 0) } }
  package static var sending: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 1) } }
  /// The peer has sent its FIN.
  package static var ended: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 2) } }
  /// Receive is stopped on purpose: the other side cannot take more.
  package static var paused: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 3) } }
  /// Receive ended because no lent buffer was free; on the starved list.
  package static var starved: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 4) } }
  package static var shutdownSent: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 5) } }
  /// Close with RST: what was sent must not look complete.
  package static var reset: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 6) } }
  /// Close after the queue has been sent.
  package static var closeWhenSent: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 7) } }
  /// Send our FIN when the queue has been sent (tunnels).
  package static var endWhenSent: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 8) } }
  package static var closing: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 9) } }
  /// Nothing has been sent on it for its present exchange.
  package static var untouched: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 10) } }
  /// Cancels are sent at most once per operation, one at a time.
  package static var cancelling: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 11) } }
  package static var receiveCancelled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 12) } }
  package static var sendCancelled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 13) } }
  /// Sending failed after some bytes had gone: what the replica has to say may still arrive.
  package static let sendBroken = ConnectionFlags(1 << 14)
  /// The send under way was cancelled to learn how much has gone; it goes on from there (Spill).
  package static var interrupted: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 16) } }
  /// Part of its queue was moved to spill memory: nothing more is received for it until the queue is empty.
  package static var spilled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 17) } }
  /// Its socket is watched for the end of its stream (Watch); the watch has been cancelled.
  package static var watching: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 18) } }
  package static var watchCancelled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 19) } }
  /// Its FIN has been seen behind bytes that are still to be received, and it may await answers.
  package static var finSeen: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 20) } }
  /// On the list of what is sent at the end of this turn.
  package static var sendDue: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 21) } }
  /// The kernel was told to wait with acknowledgements (Acknowledge).
  package static var acksWait: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 22) } }
  /// A client whose TLS is spoken elsewhere: the descriptor is the plain end of a socket pair.
  package static var tls: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 15) } }

  @inline(__always)
  package static func | (a: ConnectionFlags, b: ConnectionFlags) -> ConnectionFlags { ConnectionFlags(a.bits | b.bits) }
  @inline(__always)
  package func contains(_ flag: ConnectionFlags) -> Bool { bits & flag.bits != 0 }
  @inline(__always)
  package func isDisjoint(with flags: ConnectionFlags) -> Bool { bits & flags.bits == 0 }
  @inline(__always)
  package mutating func insert(_ flags: ConnectionFlags) { bits |= flags.bits }
  @inline(__always)
  package mutating func remove(_ flags: ConnectionFlags) { bits &= ~flags.bits }
}

package struct Connection: TableSlot {
  package var generation: UInt32
  package var nextFree: UInt32
  package var fd: Int32
  package var side: Side
  package var state: ConnectionState
  package var flags: ConnectionFlags
  /// Operations the kernel holds for this slot.
  package var operations: UInt16
  /// Segments of `queue` that are in the send now under way.
  package var sendingSegments: UInt16
  /// Waiting to be sent.
  package var queue: SegmentQueue
  /// Received, not yet taken: a pipelined request, a body ahead of its replica.
  package var input: SegmentQueue
  package var exchange: UInt32
  /// Neighbours in the idle pool (upstream) or the starved list.
  package var listNext: UInt32
  package var listPrev: UInt32
  /// The replica an upstream connection belongs to.
  package var replica: UInt32
  package var replicaGeneration: UInt32
  /// Requests this connection has carried: a client's, or ours to a replica (reused = more than none).
  package var requests: UInt32
  /// Bytes the next receive may bring; grows while the other side keeps up.
  package var receiveLimit: UInt32
  /// Bytes it has taken since it last stalled, counted up to `provenBytes`.
  package var taken: UInt32
  /// How long the replica says it keeps an idle connection (Keep-Alive: timeout=N); .max = it does not say.
  package var keepAliveSeconds: UInt32
  /// When it was last parked; 0 = never.
  package var parkedAt: UInt64
  /// When bytes last came: tells a half-close from a leaving client.
  package var receivedAt: UInt64
  /// When a send was last begun or finished: tells a stalled peer.
  package var progressAt: UInt64
  /// A head that came in pieces is gathered here.
  package var partial: BlockRef
  package var partialCount: UInt32
  /// When it was accepted or connected, nanoseconds.
  package var openedAt: UInt64
  /// Who the client is to the TLS thread, where the `tls` flag is set.
  package var tlsName: TlsName
  /// Bytes of the client's address text, which is kept beside the slot table (`peerTextStride` bytes per slot).
  package var peerCount: UInt8
}

/// Room for the text of any address: INET6_ADDRSTRLEN is 46.
package let peerTextStride = 48

package enum ExchangePhase: UInt8, BitwiseCopyable {
  /// The head is complete; the pick comes after all completions of this turn.
  case ready
  /// All replicas are at their limit.
  case queued
  case connecting
  /// Sent or being sent; no response head yet.
  case waiting
  /// The response body is under way.
  case streaming
  case tunnel
}

package struct ExchangeFlags: BitwiseCopyable {
  private var bits: UInt32
  @inline(__always)
  private init(_ bits: UInt32) { self.bits = bits }
  package static var none: ExchangeFlags { @inline(__always) get { ExchangeFlags(0) } }
  package static var http10: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 0) } }
  package static var keepAlive: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 1) } }
  package static var isHead: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 2) } }
  package static var safe: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 3) } }
  package static var idempotent: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 4) } }
  package static var upgrade: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 5) } }
  /// The request body has come from the client whole.
  package static var requestRead: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 6) } }
  /// The kept head block holds the whole request, body included: it can be sent again.
  package static var wholeInBlock: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 7) } }
  /// The upstream connection had served before.
  package static var reused: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 9) } }
  package static var headSent: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 10) } }
  package static var dechunk: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 11) } }
  package static var replicaKeepsAlive: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 12) } }
  /// Only a new connection may carry the next attempt.
  package static var freshOnly: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 13) } }
  package static var gatheringTrailers: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 14) } }
  /// An interim response has come: the replica has begun.
  package static let interimSeen = ExchangeFlags(1 << 16)
  package static let gatheringRequestTrailers = ExchangeFlags(1 << 15)

  @inline(__always)
  package static func | (a: ExchangeFlags, b: ExchangeFlags) -> ExchangeFlags { ExchangeFlags(a.bits | b.bits) }
  @inline(__always)
  package func contains(_ flag: ExchangeFlags) -> Bool { bits & flag.bits != 0 }
  @inline(__always)
  package func isDisjoint(with flags: ExchangeFlags) -> Bool { bits & flags.bits == 0 }
  @inline(__always)
  package mutating func insert(_ flags: ExchangeFlags) { bits |= flags.bits }
  @inline(__always)
  package mutating func remove(_ flags: ExchangeFlags) { bits &= ~flags.bits }
}

package struct Exchange: TableSlot {
  package var generation: UInt32 = 0
  package var nextFree: UInt32 = 0
  package var downstream = noSlot
  package var upstream = noSlot
  /// Neighbours on the ready or waiting list.
  package var next = noSlot
  package var prev = noSlot
  package var lease = Lease.none
  package var flags = ExchangeFlags.none
  package var phase = ExchangePhase.ready
  package var attempts: UInt8 = 0
  /// Interim responses that have come.
  package var interims: UInt8 = 0
  /// Small pieces of the response's body that have come, modulo 256.
  package var pieces: UInt8 = 0
  package var requestFraming = BodyFraming.none
  package var responseFraming = BodyFraming.none
  package var status: UInt16 = 0
  /// What the client is told if no other attempt can be made.
  package var failure = LocalReply.noReplica
  package var tried = Tried()
  /// Bytes of a length-framed body still to come.
  package var requestLeft: UInt64 = 0
  package var responseLeft: UInt64 = 0
  package var requestChunks = ChunkedDecoder()
  package var responseChunks = ChunkedDecoder()
  /// The rewritten request head (and small body), kept until it cannot be needed again.
  package var head = BlockRef.none
  package var headCount: UInt32 = 0
  // Where method, target and request id are in it, for the access log.
  package var methodAt: UInt16 = 0
  package var methodCount: UInt16 = 0
  package var targetAt: UInt16 = 0
  package var targetCount: UInt16 = 0
  package var idAt: UInt32 = 0
  package var idCount: UInt16 = 0
  /// A response head, or its trailer section, that came in pieces.
  package var partial = BlockRef.none
  package var partialCount: UInt32 = 0
  /// The request's trailer section, same.
  package var requestPartial = BlockRef.none
  package var requestPartialCount: UInt32 = 0
  /// The queue of a failed attempt of which nothing was accepted: head and body pieces for the next.
  package var unsent = SegmentQueue()
  // The timeline, nanoseconds of the worker's clock; 0 = not yet.
  package var startedAt: UInt64 = 0
  package var pickedAt: UInt64 = 0
  package var connectedAt: UInt64 = 0
  package var firstByteAt: UInt64 = 0
  package var lastByteAt: UInt64 = 0
  package var bytesIn: UInt64 = 0
  package var bytesOut: UInt64 = 0

  package init() {}

  /// A length or chunked body that stops short shows by itself; one that ends with the connection only by a reset.
  package var endHidesCut: Bool {
    flags.contains(.headSent) && (responseFraming == .untilClose || flags.contains(.dechunk))
  }
}

/// How another thread speaks to a worker, together with `RingIO.armWake`.
package struct WorkerControl: ~Copyable {
  /// 0 = run, 1 = drain (finish what is in flight), 2 = stop at once.
  package let command = AtomicWord(0)
  package let timeouts = TimeoutWords()
  /// Where clients that speak TLS go and come from; nil until the first certificate.
  package let tls = Atomic<UnsafeMutablePointer<TlsPort>?>(nil)
}

/// Deadlines that replace those of the configuration, written by another thread. A worker reads them when it is woken;
/// zeroed memory says nothing. A deadline that is already running is not moved.
package struct TimeoutWords: ~Copyable {
  /// Changes so far. Stored last.
  private let changes = AtomicWord(0)
  private let queueNs = Atomic<UInt64>(0)
  private let headNs = Atomic<UInt64>(0)
  private let idleNs = Atomic<UInt64>(0)
  private let connectNs = Atomic<UInt64>(0)
  private let responseNs = Atomic<UInt64>(0)
  private let streamNs = Atomic<UInt64>(0)
  private let tunnelNs = Atomic<UInt64>(0)
  private let poolIdleNs = Atomic<UInt64>(0)

  package init() {}

  /// From one thread at a time.
  package borrowing func set(_ config: EngineConfig) {
    queueNs.store(config.queueTimeoutNs, ordering: .relaxed)
    headNs.store(config.headTimeoutNs, ordering: .relaxed)
    idleNs.store(config.idleTimeoutNs, ordering: .relaxed)
    connectNs.store(config.connectTimeoutNs, ordering: .relaxed)
    responseNs.store(config.responseTimeoutNs, ordering: .relaxed)
    streamNs.store(config.streamTimeoutNs, ordering: .relaxed)
    tunnelNs.store(config.tunnelTimeoutNs, ordering: .relaxed)
    poolIdleNs.store(config.poolIdleNs, ordering: .relaxed)
    changes.wrappingAdd(1, ordering: .releasing)
  }

  borrowing func copy(to config: inout EngineConfig) {
    guard changes.load(ordering: .acquiring) != 0 else { return }
    config.queueTimeoutNs = queueNs.load(ordering: .relaxed)
    config.headTimeoutNs = headNs.load(ordering: .relaxed)
    config.idleTimeoutNs = idleNs.load(ordering: .relaxed)
    config.connectTimeoutNs = connectNs.load(ordering: .relaxed)
    config.responseTimeoutNs = responseNs.load(ordering: .relaxed)
    config.streamTimeoutNs = streamNs.load(ordering: .relaxed)
    config.tunnelTimeoutNs = tunnelNs.load(ordering: .relaxed)
    config.poolIdleNs = poolIdleNs.load(ordering: .relaxed)
  }
}
