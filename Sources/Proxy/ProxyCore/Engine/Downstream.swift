// The client side: heads are read and refused or begun, clients that leave are noticed in every phase, and what the
// proxy answers itself is sent.

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
      readHead(slot, base, count, owner)
    case .exchanging:
      keepInput(slot, base, count, owner)
      if connection.pointee.exchange != noSlot { pumpRequest(connection.pointee.exchange) }
    case .tunnel:
      tunnelReceived(slot, base, count, owner)
    case .replying, .lingering:
      release(owner)
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
      clientGone(slot)
    }
  }

  /// Takes heads from what is waiting, until an exchange begins or the input is used up.
  mutating func readInput(_ slot: UInt32) {
    let connection = connections[slot]
    while connection.pointee.state == .readingHead, let piece = popFirst(of: &connection.pointee.input) {
      readHead(slot, piece.base, piece.count, piece.owner)
    }
  }

  @inline(__always)
  private mutating func readHead(
    _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
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
      wheel.set(slot, at: io.now + config.headTimeoutNs)
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
      pushFirst(base + taken, count - taken, owner, onto: &connection.pointee.input)
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
      clientGone(slot)
      return
    }
    switch connection.pointee.state {
    case .readingHead, .lingering:
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
        clientGone(slot)
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

  /// The client has left: whatever was being done for it ends at once, so that a model stops generating.
  mutating func clientGone(_ slot: UInt32) {
    let index = connections[slot].pointee.exchange
    if index != noSlot {
      counters.worker.pointee.clientAborts &+= 1
      // It may only have closed its sending half: what it got of such a body must not look whole to it.
      if exchanges[index].pointee.endHidesCut { connections[slot].pointee.flags.insert(.reset) }
      abandon(index, outcome: .clientLeft)
    }
    stop(slot)
  }

  /// The slot cannot go on, whichever side it is on.
  mutating func stopExchangeOrConnection(_ slot: UInt32) {
    switch connections[slot].pointee.side {
    case .downstream: clientGone(slot)
    case .upstream:
      let index = connections[slot].pointee.exchange
      if index == noSlot {
        stop(slot)
      } else if exchanges[index].pointee.phase == .tunnel {
        abandonTunnel(index)
      } else {
        attemptFailed(index, .send, timedOut: false, nothingAccepted: false)
      }
    }
  }

  // MARK: answering ourselves

  /// Refuses a request for what it is. The rest of what the client sends is discarded.
  mutating func refuse(_ slot: UInt32, _ refusal: Refusal) {
    counters.worker.pointee.refusedHeads &+= 1
    reply(slot, LocalReply(refusal: refusal))
  }

  /// Sends an answer of our own and closes after it: behind an error, what the client meant to send next is not
  /// trusted. `logged`: an exchange has been recorded for it; without one the answer itself is what the access log
  /// shows.
  mutating func reply(_ slot: UInt32, _ answer: LocalReply, toHead: Bool = false, logged: Bool = false) {
    let connection = connections[slot]
    if answer.status < 500 {
      counters.worker.pointee.ownAnswers4 &+= 1
    } else {
      counters.worker.pointee.ownAnswers5 &+= 1
    }
    if config.logs && !logged { writeRefusal(slot, answer) }
    releaseAll(&connection.pointee.input)
    if connection.pointee.partial != .none {
      blocks.release(connection.pointee.partial)
      connection.pointee.partial = .none
      connection.pointee.partialCount = 0
    }
    connection.pointee.state = .replying
    connection.pointee.flags.insert(.closeWhenSent)
    guard let block = blocks.claim(atLeast: BlockPool.smallBytes) else {
      stop(slot)
      return
    }
    let count = answer.write(into: blocks.bytes(of: block), capacity: blocks.capacity(of: block), headOnly: toHead)
    wheel.set(slot, at: io.now + config.streamTimeoutNs)
    enqueue(slot, blocks.bytes(of: block), count, SegmentOwner(block: block))
  }

  /// Everything queued for a connection has been sent.
  @inline(__always)
  mutating func queueSent(_ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.flags.remove(.spilled)
    if connection.pointee.flags.isDisjoint(with: .closeWhenSent | .endWhenSent) { return }
    queueSentBeforeClose(slot)
  }

  private mutating func queueSentBeforeClose(_ slot: UInt32) {
    let connection = connections[slot]
    if connection.pointee.flags.contains(.endWhenSent) {
      tunnelDrained(slot)
      return
    }
    if connection.pointee.flags.contains(.reset) || connection.pointee.flags.contains(.ended) {
      stop(slot)
      return
    }
    // Our FIN first, then wait for the client's: closing with its bytes unread would send a reset that may destroy the
    // answer on its way (RFC 9112 9.6).
    connection.pointee.flags.remove(.closeWhenSent)
    connection.pointee.flags.insert(.shutdownSent)
    connection.pointee.state = .lingering
    connection.pointee.operations += 1
    io.shutdown(
      connection.pointee.fd, .write, token: Token(.shutdown, slot: slot, generation: connection.pointee.generation))
    connection.pointee.receiveLimit = UInt32(io.bufferSize)
    armReceive(slot, pollFirst: true)
    wheel.set(slot, at: io.now + config.lingerNs)
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
