// One TCP connection between the proxy and a peer: two byte streams with finite buffers and a delay each, and what
// either end has done to it. `World` moves the bytes; peers use the `peer…` verbs below.

import ProxyCore

/// Bytes one way. Positions count from the connection's start:
/// ```
///   read ≤ delivered ≤ arrived ≤ accepted
///        receive buffer   in flight, send buffer
/// ```
struct Pipe {
  private(set) var bytes: [UInt8] = []
  /// Position of `bytes[0]`.
  private var base = 0
  private(set) var accepted = 0
  private(set) var arrived = 0
  private(set) var delivered = 0
  private(set) var read = 0
  /// The sender's FIN: at which position, and whether it has arrived.
  var finQueued = false
  var finArrived = false
  let sendRoom: Int
  let receiveRoom: Int
  var latency: UInt64
  /// Arrivals keep their order.
  var lastArrival: UInt64 = 0
  /// An end is gone: bytes are no longer moved.
  var dead = false

  init(sendRoom: Int, receiveRoom: Int, latency: UInt64) {
    self.sendRoom = sendRoom
    self.receiveRoom = receiveRoom
    self.latency = latency
  }

  /// Bytes the sender may put in now.
  var room: Int { dead || finQueued ? 0 : max(0, sendRoom - (accepted - delivered)) }
  /// Bytes the receiver may take now.
  var available: Int { delivered - read }
  /// Everything before the FIN has been taken.
  var atEnd: Bool { finArrived && read == accepted }

  mutating func accept(_ source: UnsafeRawBufferPointer) {
    bytes.append(contentsOf: source)
    accepted += source.count
  }

  /// Bytes up to `mark` have crossed the network.
  mutating func arrive(_ mark: Int) {
    arrived = max(arrived, mark)
    pump()
  }

  private mutating func pump() { delivered = max(delivered, min(arrived, read + receiveRoom)) }

  /// The receiver has taken `count` bytes.
  mutating func take(_ count: Int) {
    read += count
    if read - base > 65_536 || read == accepted {
      bytes.removeFirst(read - base)
      base = read
    }
    pump()
  }

  /// The receiver's unread bytes, in place.
  func withAvailable<R>(_ body: (UnsafeBufferPointer<UInt8>) -> R) -> R {
    bytes.withUnsafeBufferPointer { all in
      body(UnsafeBufferPointer(rebasing: all[(read - base)..<(delivered - base)]))
    }
  }

  /// What has not been read is lost.
  mutating func discardUnread() {
    dead = true
    read = accepted
    delivered = accepted
    arrived = accepted
    base = accepted
    bytes = []
  }
}

/// Whoever is at the other end of a link.
class Peer {
  /// Something about the link, or the time, has changed.
  func wake(_ world: World) {}
}

enum LinkSide { case client, replica }

final class Link {
  let id: Int
  let side: LinkSide
  /// The worker whose it is.
  var ring = 0
  /// The proxy's descriptor, -1 before it has one.
  var fd: Int32 = -1
  var peer: Peer?
  var toProxy: Pipe
  var toPeer: Pipe

  // The proxy's socket.
  var receiveOp = -1
  var sendOp = -1
  var watchOp = -1
  /// The proxy has answered early and gone on: what it takes from the client is not all for a replica.
  var discards = false
  var connectOp = -1
  /// Queued, not yet with the kernel.
  var receiveQueued = false
  var sendQueued = false
  var watchQueued = false
  /// Operations in flight on the descriptor, by kind of misuse they would reveal.
  var operations = 0
  var connected = false
  var proxyClosed = false
  var proxyShutRead = false
  var proxyShutWrite = false
  var resetOnClose = false
  /// errno of a socket that has failed, 0 otherwise.
  var proxyError: Int32 = 0
  /// A reset has reached the proxy, and when.
  var proxyDead = false
  var deadSince: (time: UInt64, turn: Int) = (0, 0)
  /// When bytes last reached the proxy's socket.
  var cameAt: UInt64 = 0
  /// The engine has sent its FIN, or is about to, and only lingers.
  var ending = false
  /// When that was.
  var endingAt: UInt64 = 0
  /// The engine has begun to end this connection (shutdown of both ways, close or cancel).
  var stopped = false
  /// A step of the receive or the send is already on the calendar.
  var receiveStep = false
  var sendStep = false

  // The peer's socket.
  var peerClosed = false
  /// The peer has seen a reset.
  var peerReset = false
  /// The peer is not there any more and has not said so: nothing arrives in either direction.
  var vanished = false
  /// Bits of `PeerEnd` that a watch of many shots has told already.
  var watchTold: Int32 = 0

  // What the oracle follows.
  /// Requests whose heads this replica link was sent, the last one.
  var offered: RequestRecord?
  var offers = 0
  /// Bytes the proxy has taken from this link since the present request was offered.
  var answered = 0
  /// Proxy-side byte counts of this connection.
  var takenByProxy = 0
  var acceptedFromProxy = 0
  /// Client links: bytes the proxy took from replicas for this client, and gave to replicas of this client's.
  var takenForClient = 0
  var givenForClient = 0
  /// The turn in which the proxy was told that this client has gone; -1 = not.
  var goneTurn = -1
  /// When the proxy last took bytes from it, and its socket last accepted some from the proxy.
  var lastTaken: UInt64 = 0
  var lastAccepted: UInt64 = 0
  /// When it was accepted, or the connect was queued.
  var beganAt: UInt64 = 0
  /// When the engine began to end it.
  var stoppedAt: UInt64 = 0
  /// Client links: bytes the proxy took from replicas since this client's socket last accepted any.
  var takenSinceAccepted = 0
  /// Client links: where the heads and the bodies of its requests end, those not yet taken by the proxy.
  var marks: [Mark] = []
  /// Client links: when the proxy took the first byte behind the last whole request; 0 = it has taken none.
  var nextBeganAt: UInt64 = 0
  /// The proxy was told FIN.
  var toldEnd = false
  var replicaIndex = -1
  /// Replica links: bytes nobody asked for begin at this position of `toProxy`.
  var unaskedFrom = Int.max

  init(id: Int, side: LinkSide, toProxy: Pipe, toPeer: Pipe) {
    self.id = id
    self.side = side
    self.toProxy = toProxy
    self.toPeer = toPeer
  }

  /// A place in a client's stream.
  struct Mark {
    var end: Int
    var request: RequestRecord
    var isWhole: Bool
  }

  /// The peer sees the end of the stream.
  var peerAtEnd: Bool { toPeer.atEnd }
}

// MARK: - The peer's verbs

extension World {
  /// Sends what fits; returns how much that was.
  func peerWrite(_ link: Link, _ bytes: UnsafeRawBufferPointer) -> Int {
    guard !link.peerClosed, !link.peerReset, !link.toProxy.finQueued else { return 0 }
    let count = min(bytes.count, link.toProxy.room)
    guard count > 0 else { return 0 }
    link.toProxy.accept(UnsafeRawBufferPointer(rebasing: bytes[0..<count]))
    scheduleArrival(link, toProxy: true)
    return count
  }

  /// No more bytes from the peer; it still reads.
  func peerFinish(_ link: Link) {
    guard !link.peerClosed, !link.peerReset, !link.toProxy.finQueued else { return }
    log("peer fin: link", link.id)
    link.toProxy.finQueued = true
    scheduleArrival(link, toProxy: true)
  }

  /// close(2): a FIN, or a reset when unread bytes are thrown away.
  func peerClose(_ link: Link) {
    guard !link.peerClosed else { return }
    if link.toPeer.available > 0 {
      peerAbort(link)
      return
    }
    log("peer close: link", link.id)
    if !link.peerReset && !link.toProxy.finQueued {
      link.toProxy.finQueued = true
      scheduleArrival(link, toProxy: true)
    }
    link.peerClosed = true
  }

  /// The peer is gone without a word (power, network, a forgotten NAT entry). What the kernel finds when nobody answers
  /// its keepalive probes or acknowledges what was sent is found later.
  func peerVanish(_ link: Link) {
    guard !link.peerClosed, !link.vanished else { return }
    log("peer vanishes: link", link.id)
    link.vanished = true
    link.peerClosed = true
    schedule(.probesFail, link.id, after: profile.probeNs + chance.delay(profile.probeNs / 4))
  }

  /// close(2) with a reset.
  func peerAbort(_ link: Link) {
    guard !link.peerClosed else { return }
    log("peer reset: link", link.id)
    link.peerClosed = true
    link.toPeer.discardUnread()
    if !link.peerReset { schedule(.resetToProxy, link.id, after: link.toProxy.latency) }
  }
}
