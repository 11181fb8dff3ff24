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
/// `stopping` ends when the kernel holds nothing of the slot any more; only then is the slot free.
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

/// Receiving from a socket:
/// ```
/// idle ──▶ armed ──▶ idle (its byte limit was reached) ──▶ paused (the other side cannot take more) ──▶ armed …
///            ├──▶ starved (no lent buffer was free; on the starved list) ──▶ armed
///            └──▶ ended (the peer's FIN, or an error)
/// ```
package enum ReceiveState: UInt8, BitwiseCopyable { case idle, armed, paused, starved, ended }

/// Sending to a socket:
/// ```
/// idle ──▶ due (on the list of what is sent at the end of this turn) ──▶ sending ──▶ idle | due
///                                                    sending ──▶ interrupted (cancelled to learn how much has gone)
///                                                    sending ──▶ broken (failed after bytes had gone)
/// ```
package enum SendState: UInt8, BitwiseCopyable { case idle, due, sending, interrupted, broken }

/// Our half of the connection:
/// ```
/// open ──▶ endAfterQueue (tunnel: our FIN follows the queue) ──▶ ended
///   └────▶ closeAfterQueue (the queue, our FIN, then lingering) ──▶ ended
/// ```
package enum CloseState: UInt8, BitwiseCopyable { case open, endAfterQueue, closeAfterQueue, ended }

/// Facts that are independent of each other and of the states above. Not an `OptionSet`: its generic operations look up
/// metadata, which hot paths may not.
package struct ConnectionFlags: BitwiseCopyable {
  private var bits: UInt16
  @inline(__always)
  private init(_ bits: UInt16) { self.bits = bits }
  package static var none: ConnectionFlags { @inline(__always) get { ConnectionFlags(0) } }
  /// Close with RST: what was sent must not look complete.
  package static var reset: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 0) } }
  /// Nothing has been sent on it for its present exchange.
  package static var untouched: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 1) } }
  /// A cancel is under way. Cancels are sent at most once per operation, one at a time.
  package static var cancelling: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 2) } }
  package static var receiveCancelled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 3) } }
  package static var sendCancelled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 4) } }
  package static var watchCancelled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 5) } }
  /// Its socket is watched for the end of its stream (Watch).
  package static var watching: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 6) } }
  /// Its FIN has been seen behind bytes that are still to be received, and it may await answers.
  package static var finSeen: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 7) } }
  /// Part of its queue was moved to spill memory: nothing more is received for it until the queue is empty.
  package static var spilled: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 8) } }
  /// The kernel was told to wait with acknowledgements (Acknowledge).
  package static var acksWait: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 9) } }
  /// A client whose TLS is spoken elsewhere: the descriptor is the plain end of a socket pair.
  package static var tls: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 10) } }
  /// On the list of faults to be settled at the end of the turn (Ending).
  package static var faulty: ConnectionFlags { @inline(__always) get { ConnectionFlags(1 << 11) } }

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
  package var receive: ReceiveState
  package var send: SendState
  package var close: CloseState
  package var flags: ConnectionFlags
  /// What is wrong with it, where the `faulty` flag is set; the next on the list.
  package var fault: Fault
  package var nextFaulty: UInt32
  /// What it owes and until when (Deadlines).
  package var dues: Dues
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
  /// Bytes of a request body that nobody wants any more, still to be thrown away before the next head.
  package var discard: UInt32
  /// When a lingering client is closed at the latest.
  package var lingerUntil: UInt64
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

  /// A send is under way.
  @inline(__always)
  package var isSending: Bool { send == .sending || send == .interrupted }
  /// The connection is being closed: nothing is received, queued or decided for it any more.
  @inline(__always)
  package var isStopping: Bool { state == .stopping }
  /// Nothing more is to be done with its bytes: it is being closed, or its fault waits to be settled.
  @inline(__always)
  package var isOver: Bool { state == .stopping || flags.contains(.faulty) }
  /// Not one byte of the present request has been accepted by the socket.
  @inline(__always)
  package var hasSentNothing: Bool { flags.contains(.untouched) && !isSending }
}

/// Room for the text of any address: INET6_ADDRSTRLEN is 46.
package let peerTextStride = 48

/// A request's way, each phase with the deadline that is owed in it (Deadlines):
/// ```
/// (reading a head: idle, head) ──▶ admit ──▶ placing ──▶ connecting ──▶ waiting ──▶ streaming ──▶ done
///                                              │ ▲         connect      response      bodyStall
///                                              ▼ │                        └──▶ tunnel ──▶ done
///                                            queued                             tunnel
///                                            queue
/// ```
/// Beside them: bodyStall while the client's body is awaited, sendStall while a client has to take bytes, and liveness.
package enum ExchangePhase: UInt8, BitwiseCopyable {
  /// The head is complete; the pick comes after all completions of this turn.
  case placing
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
  package static var gatheringRequestTrailers: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 15) } }
  /// An interim response has come: the replica has begun.
  package static var interimSeen: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 16) } }
  /// The client may wait for 100 (Continue) before it sends its body.
  package static var expectsContinue: ExchangeFlags { @inline(__always) get { ExchangeFlags(1 << 8) } }

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
  package var phase = ExchangePhase.placing
  package var attempts: UInt8 = 0
  /// Connections that were refused and did not count as attempts.
  package var refusals: UInt16 = 0
  /// Interim responses that have come.
  package var interims: UInt32 = 0
  /// Small pieces of the response's body that have come, modulo 256.
  package var pieces: UInt8 = 0
  package var requestFraming = BodyFraming.none
  package var responseFraming = BodyFraming.none
  package var status: UInt16 = 0
  /// Why the last attempt failed: what the client is told if no other can be made.
  package var fault = Fault.none
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
