// The client side: heads are read and refused or begun, clients that leave are noticed in every phase, and what the
// proxy answers itself is sent.

/// Pieces that may wait to be sent to a client when its next pipelined request begins. Short answers share a piece.
private let pipelineMost: UInt32 = 4

extension Worker where IO: ~Copyable {
  // MARK: bytes from the client

  @inline(__always)
  mutating func downstreamReceived(
    _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
    connection.pointee.receivedAt = io.now
    switch connection.pointee.state {
    case .readingHead:
      if connection.pointee.input.isEmpty && mayBegin(slot) {
        readHead(slot, base, count, owner)
      } else {
        keepInput(slot, base, count, owner)
      }
    case .exchanging:
      keepInput(slot, base, count, owner)
      let index = connection.pointee.exchange
      if index == noSlot { return }
      if !exchanges[index].pointee.flags.contains(.requestRead) { awaitBody(slot) }
      pumpRequest(index)
    case .tunnel:
      tunnelReceived(slot, base, count, owner)
    case .replying:
      release(owner)
    case .lingering:
      release(owner)
      // Read on until the client has surely seen the answer: it still sends (RFC 9112 9.6).
      if io.now < connection.pointee.lingerUntil {
        arm(slot, .linger, after: min(config.lingerNs, connection.pointee.lingerUntil - io.now))
      }
    case .free, .connecting, .serving, .parked, .stopping:
      preconditionFailure("a client connection in a replica's state")
    }
  }

  /// Bytes that must wait: a body ahead of its replica, or a pipelined request.
  @inline(__always)
  private mutating func keepInput(
    _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
    if coalesce(base, count, owner, onto: &connection.pointee.input, inFlight: 0) { return }
    if !append(base, count, owner, to: &connection.pointee.input) {
      connection.pointee.flags.insert(.reset)
      mark(slot, Fault(.own, .head, .memory))
    }
  }

  /// Whether the next pipelined request may begin: while answers wait to be taken, no more are made, so a client that
  /// does not read holds a bounded number of segments, blocks and buffers.
  @inline(__always)
  private func mayBegin(_ slot: UInt32) -> Bool {
    let queue = connections[slot].pointee.queue
    return queue.isEmpty || (queue.segments < pipelineMost && queue.bytes < config.streamWindow)
  }

  /// Takes heads from what waits, until an exchange begins, the input is used up, or too much waits to be sent: then a
  /// send that makes room goes on with it (Pump).
  mutating func readOn(_ slot: UInt32) {
    let connection = connections[slot]
    while connection.pointee.state == .readingHead, !connection.pointee.isOver, mayBegin(slot),
      let piece = popFirst(of: &connection.pointee.input)
    {
      readHead(slot, piece.base, piece.count, piece.owner)
    }
    guard connection.pointee.state == .readingHead, !connection.pointee.isOver else { return }
    if !connection.pointee.input.isEmpty {
      pause(slot)
      return
    }
    if connection.pointee.receive == .ended {
      closeWhenSent(slot)
      return
    }
    if connection.pointee.dues.phase == .none {
      if connection.pointee.discard > 0 {
        arm(slot, .head, after: config.headTimeoutNs)
      } else {
        arm(slot, .idle, after: config.idleTimeoutNs)
      }
    }
    armReceive(slot, pollFirst: true)
  }

  /// The rest of a request that was answered early: thrown away. True when nothing is left of the piece.
  private mutating func discardRest(
    _ slot: UInt32, _ base: inout UnsafeMutablePointer<UInt8>, _ count: inout Int, _ owner: SegmentOwner
  ) -> Bool {
    let connection = connections[slot]
    let take = min(count, Int(connection.pointee.discard))
    connection.pointee.discard -= UInt32(take)
    base += take
    count -= take
    if connection.pointee.discard == 0 {
      disarmPhase(slot)
      arm(slot, .idle, after: config.idleTimeoutNs)
    }
    if count == 0 { release(owner) }
    return count == 0
  }

  @inline(__always)
  private mutating func readHead(
    _ slot: UInt32, _ received: UnsafeMutablePointer<UInt8>, _ receivedCount: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
    var base = received
    var count = receivedCount
    if connection.pointee.discard > 0 && discardRest(slot, &base, &count, owner) { return }
    if connection.pointee.partial != .none {
      readPartialHead(slot, base, count, owner)
      return
    }
    var head = RequestHead()
    switch parseRequestHead(base, count, limits: headLimits, fields: &fields, head: &head) {
    case .complete:
      begin(slot, head, base, count, owner)
    case .partial:
      guard gather(base, count, into: &connection.pointee.partial, &connection.pointee.partialCount) else {
        release(owner)
        reply(slot, .outOfMemory)
        return
      }
      release(owner)
      arm(slot, .head, after: config.headTimeoutNs)
    case .refused(let refusal):
      release(owner)
      refuse(slot, refusal)
    }
  }

  /// A head that comes in pieces: gathered in a block and parsed again only when a line has been completed, so a
  /// dribbling client costs at most one parse per line.
  private mutating func readPartialHead(
    _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
    let before = Int(connection.pointee.partialCount)
    let room = blocks.largestBlock - before
    // What does not fit goes back to the input; the parser refuses a head that long anyway.
    let taken = min(count, room)
    guard gather(base, taken, into: &connection.pointee.partial, &connection.pointee.partialCount) else {
      release(owner)
      reply(slot, .outOfMemory)
      return
    }
    if taken < count {
      if !pushFirst(base + taken, count - taken, owner, onto: &connection.pointee.input) {
        mark(slot, Fault(.own, .head, .memory))
        return
      }
    } else {
      release(owner)
    }
    let block = connection.pointee.partial
    let bytes = blocks.bytes(of: block)
    let total = Int(connection.pointee.partialCount)
    guard containsLineEnd(bytes + before, taken) || total >= config.headBytesMax else { return }
    var head = RequestHead()
    switch parseRequestHead(bytes, total, limits: headLimits, fields: &fields, head: &head) {
    case .complete:
      connection.pointee.partial = .none
      connection.pointee.partialCount = 0
      begin(slot, head, bytes, total, SegmentOwner(block: block))
    case .partial:
      break
    case .refused(let refusal):
      refuse(slot, refusal)
    }
  }

  /// Appends bytes to a block, moving to a larger one when it is full. False when no block is left.
  mutating func gather(
    _ base: UnsafeMutablePointer<UInt8>, _ count: Int, into block: inout BlockRef, _ used: inout UInt32
  ) -> Bool {
    let total = Int(used) + count
    if block == .none {
      guard let fresh = blocks.claim(atLeast: total) else { return false }
      block = fresh
    } else if total > blocks.capacity(of: block) {
      guard let larger = blocks.claim(atLeast: total) else { return false }
      UnsafeMutableRawPointer(blocks.bytes(of: larger)).copyMemory(
        from: blocks.bytes(of: block), byteCount: Int(used))
      blocks.release(block)
      block = larger
    }
    UnsafeMutableRawPointer(blocks.bytes(of: block) + Int(used)).copyMemory(from: base, byteCount: count)
    used = UInt32(total)
    return true
  }

  // MARK: leaving

  /// The client's stream has ended: `clean` by FIN, otherwise by an error.
  mutating func downstreamEnded(_ slot: UInt32, clean: Bool) {
    let connection = connections[slot]
    guard clean else {
      mark(slot, Fault(.client, .body, .closed))
      return
    }
    switch connection.pointee.state {
    case .readingHead:
      // It may have sent requests that wait for its answers to be taken; otherwise it gets what is queued.
      if connection.pointee.queue.isEmpty && connection.pointee.input.isEmpty { stop(slot) } else { readOn(slot) }
    case .lingering:
      stop(slot)
    case .replying:
      // It will get the rest of what is queued, then the close.
      if connection.pointee.queue.isEmpty { stop(slot) }
    case .exchanging:
      let index = connection.pointee.exchange
      guard index != noSlot else { return }  // the response is out of our hands already: finish sending it
      if mayAwaitAnswer(slot, unread: 0, cameAt: connection.pointee.receivedAt) {
        watch(slot)
      } else {
        mark(slot, Fault(.client, .body, .closed))
      }
    case .tunnel:
      tunnelEnded(slot)
    case .free, .connecting, .serving, .parked, .stopping:
      preconditionFailure("a client connection in a replica's state")
    }
  }

  /// Whether a client that has sent its FIN is still there to be answered. A FIN with the end of the request, or so
  /// soon after it that it was under way, is a client that has said all it wants to say; a later one is a client that
  /// has gone (it cannot be told from close()). `unread`: bytes that are not received yet; `cameAt`: when the last of
  /// its bytes came.
  func mayAwaitAnswer(_ slot: UInt32, unread: Int, cameAt: UInt64) -> Bool {
    let connection = connections[slot]
    let isKnown = config.halfCloseAnswers || connection.pointee.flags.contains(.finSeen)
    guard isKnown || io.now &- cameAt <= config.halfCloseGraceNs else { return false }
    let exchange = exchanges[connection.pointee.exchange]
    let waiting = Int(connection.pointee.input.bytes) + unread
    if exchange.pointee.flags.contains(.requestRead) {
      // One that has had part of its response has seen that we are not waiting for its FIN.
      return isKnown || waiting > 0 || !exchange.pointee.flags.contains(.headSent)
    }
    // The rest of its body may be among what waits.
    let isShort = exchange.pointee.requestFraming == .length && UInt64(waiting) < exchange.pointee.requestLeft
    return waiting > 0 && !isShort
  }

  // MARK: answering ourselves

  /// Refuses a request for what it is. The rest of what the client sends is discarded.
  mutating func refuse(_ slot: UInt32, _ refusal: Refusal) {
    counters.worker.pointee.refusedHeads &+= 1
    reply(slot, LocalReply(refusal: refusal))
  }

  /// Sends an answer of our own. `keeps`: the connection goes on behind it; otherwise it is closed, since behind an
  /// error what the client meant to send next is not trusted. `logged`: an exchange has been recorded for it; without
  /// one the answer itself is what the access log shows.
  mutating func reply(
    _ slot: UInt32, _ answer: LocalReply, toHead: Bool = false, logged: Bool = false, keeps: Bool = false
  ) {
    let connection = connections[slot]
    if answer.status < 500 {
      counters.worker.pointee.ownAnswers4 &+= 1
    } else {
      counters.worker.pointee.ownAnswers5 &+= 1
    }
    if config.logs && !logged { writeRefusal(slot, answer) }
    disarmPhase(slot)
    guard let block = blocks.claim(atLeast: BlockPool.smallBytes) else {
      connection.pointee.flags.insert(.reset)
      stop(slot)
      return
    }
    let count = answer.write(
      into: blocks.bytes(of: block), capacity: blocks.capacity(of: block), headOnly: toHead, closes: !keeps)
    if keeps {
      enqueue(slot, blocks.bytes(of: block), count, SegmentOwner(block: block))
      nextRequest(slot)
      return
    }
    if connection.pointee.partial != .none {
      blocks.release(connection.pointee.partial)
      connection.pointee.partial = .none
      connection.pointee.partialCount = 0
    }
    enqueue(slot, blocks.bytes(of: block), count, SegmentOwner(block: block))
    closeWhenSent(slot)
  }

  /// Everything queued for a connection has been sent.
  @inline(__always)
  mutating func queueSent(_ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.flags.remove(.spilled)
    connection.pointee.dues.sendAt = 0
    switch connection.pointee.close {
    case .open, .ended: break
    case .endAfterQueue: tunnelDrained(slot)
    case .closeAfterQueue: linger(slot)
    }
  }

  /// Our FIN first, then wait for the client's: closing with its bytes unread would send a reset that may destroy the
  /// answer on its way (RFC 9112 9.6).
  private mutating func linger(_ slot: UInt32) {
    let connection = connections[slot]
    if connection.pointee.flags.contains(.reset) || connection.pointee.receive == .ended {
      stop(slot)
      return
    }
    connection.pointee.close = .ended
    connection.pointee.state = .lingering
    connection.pointee.operations += 1
    io.shutdown(
      connection.pointee.fd, .write, token: Token(.shutdown, slot: slot, generation: connection.pointee.generation))
    connection.pointee.receiveLimit = UInt32(io.bufferSize)
    armReceive(slot, pollFirst: true)
    connection.pointee.lingerUntil = io.now &+ config.lingerTotalNs
    arm(slot, .linger, after: min(config.lingerNs, config.lingerTotalNs))
  }
}

/// Whether an LF is among the bytes.
@inline(__always)
func containsLineEnd(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
  var index = 0
  while index < count {
    if bytes[index] == 0x0A { return true }
    index += 1
  }
  return false
}
