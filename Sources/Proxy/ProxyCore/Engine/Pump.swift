// Request bodies on their way to the replica, and back-pressure both ways: a receive is armed again only while the
// other side takes what comes.

extension Worker where IO: ~Copyable {
  // MARK: request bodies

  /// Moves what the client has sent of the body to the replica's queue, as far as framing says and the window allows.
  mutating func pumpRequest(_ index: UInt32) {
    let exchange = exchanges[index]
    let client = exchange.pointee.downstream
    let connection = connections[client]
    while !exchange.pointee.flags.contains(.requestRead) && !connection.pointee.isOver {
      let slot = exchange.pointee.upstream
      guard slot != noSlot, !connections[slot].pointee.isOver,
        connections[slot].pointee.queue.bytes < config.streamWindow,
        let piece = popFirst(of: &connection.pointee.input)
      else { break }
      feedRequest(index, slot, piece.base, piece.count, piece.owner)
    }
    if connection.pointee.isOver { return }
    if exchange.pointee.flags.contains(.requestRead) {
      connection.pointee.dues.receiveAt = 0
    } else if connection.pointee.receive == .ended && connection.pointee.input.isEmpty {
      // The client's FIN came before the end of its body.
      mark(client, Fault(.client, .body, .closed))
      return
    }
    resumeReceive(client)
  }

  /// The peer, client or replica, owes the rest of its body from now on.
  @inline(__always)
  mutating func awaitBody(_ slot: UInt32) {
    if connections[slot].pointee.receive == .armed { arm(slot, .bodyStall, after: config.streamTimeoutNs) }
  }

  /// Whether what a receive brings is part of a body: the peer then owes the next piece.
  @inline(__always)
  func awaitsBody(_ slot: UInt32) -> Bool {
    let index = connections[slot].pointee.exchange
    guard index != noSlot else { return false }
    switch connections[slot].pointee.side {
    case .downstream:
      return !exchanges[index].pointee.flags.contains(.requestRead) && exchanges[index].pointee.phase != .tunnel
    case .upstream: return exchanges[index].pointee.phase == .streaming
    }
  }

  private mutating func feedRequest(
    _ index: UInt32, _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    if exchange.pointee.flags.contains(.gatheringRequestTrailers) {
      requestTrailers(index, slot, base, count, owner)
      return
    }
    switch exchange.pointee.requestFraming {
    case .none, .untilClose:
      preconditionFailure("a request without a body was not marked read")
    case .length:
      let take = Int(min(UInt64(count), exchange.pointee.requestLeft))
      exchange.pointee.requestLeft -= UInt64(take)
      exchange.pointee.bytesIn &+= UInt64(take)
      if exchange.pointee.requestLeft == 0 { requestWasRead(index) }
      forward(index, slot, base, take: take, count, owner)
    case .chunked:
      let step = exchange.pointee.requestChunks.feed(base, count)
      exchange.pointee.bytesIn &+= UInt64(step.payload)
      if config.bodyBytesMax != 0 && exchange.pointee.bytesIn > config.bodyBytesMax {
        release(owner)
        mark(exchange.pointee.downstream, Fault(.client, .body, .tooLarge))
        return
      }
      switch step.verdict {
      case .more, .done:
        if step.verdict == .done { requestWasRead(index) }
        forward(index, slot, base, take: step.consumed, count, owner)
      case .trailers:
        exchange.pointee.flags.insert(.gatheringRequestTrailers)
        forward(index, slot, base, take: step.consumed, count, owner)
      case .malformed(let refusal):
        release(owner)
        mark(exchange.pointee.downstream, Fault(.client, .body, .malformed, refusal))
      }
    }
  }

  /// Queues the first `take` bytes for the replica; the rest goes back to the input.
  private mutating func forward(
    _ index: UInt32, _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, take: Int, _ count: Int,
    _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    counters.replicas[Int(exchange.pointee.lease.replica)].bytesToReplica &+= UInt64(take)
    if connections[slot].pointee.send == .broken {
      // The replica takes no more; its early answer is awaited.
      restOfPiece(index, base, take, count, owner, shared: false)
      return
    }
    guard take > 0 else {
      restOfPiece(index, base, take, count, owner, shared: false)
      return
    }
    if take < count {
      if owner.buffer != .none {
        retain(owner.buffer)
        restOfPiece(index, base, take, count, owner, shared: true)
      } else {
        // A block has one owner: the smaller rest moves to a block of its own.
        var rest = BlockRef.none
        var used: UInt32 = 0
        guard gather(base + take, count - take, into: &rest, &used) else {
          release(owner)
          mark(exchange.pointee.downstream, Fault(.own, .body, .memory))
          return
        }
        putBack(exchange.pointee.downstream, blocks.bytes(of: rest), Int(used), SegmentOwner(block: rest))
      }
    }
    enqueue(slot, base, take, owner)
  }

  private mutating func restOfPiece(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ take: Int, _ count: Int, _ owner: SegmentOwner,
    shared: Bool
  ) {
    if take < count {
      putBack(exchanges[index].pointee.downstream, base + take, count - take, owner)
    } else if !shared {
      release(owner)
    }
  }

  /// What a client sent goes back to where it waits.
  private mutating func putBack(
    _ client: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[client]
    if !pushFirst(base, count, owner, onto: &connection.pointee.input) {
      mark(client, Fault(.own, .body, .memory))
    }
  }

  private mutating func requestTrailers(
    _ index: UInt32, _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    let before = Int(exchange.pointee.requestPartialCount)
    // Requests that follow may be in the same piece: no more is taken than a section may have.
    let taken = min(count, blocks.largestBlock - before)
    guard taken > 0, gather(base, taken, into: &exchange.pointee.requestPartial, &exchange.pointee.requestPartialCount)
    else {
      release(owner)
      mark(
        exchange.pointee.downstream,
        taken > 0 ? Fault(.own, .body, .memory) : Fault(.client, .body, .malformed, .headTooLarge))
      return
    }
    let bytes = blocks.bytes(of: exchange.pointee.requestPartial)
    var section = 0
    let verdict = parseTrailers(
      bytes, Int(exchange.pointee.requestPartialCount), limits: headLimits, fields: &fields, sectionBytes: &section)
    switch verdict {
    case .partial:
      release(owner)
    case .refused(let refusal):
      release(owner)
      mark(exchange.pointee.downstream, Fault(.client, .body, .malformed, refusal))
    case .complete:
      requestWasRead(index)
      // What lies behind the section in this piece is the next request.
      let used = section - before
      if used < count {
        putBack(exchange.pointee.downstream, base + used, count - used, owner)
      } else {
        release(owner)
      }
      guard let block = blocks.claim(atLeast: section + 2),
        let written = writeTrailers(fields, bytes, into: blocks.bytes(of: block), capacity: blocks.capacity(of: block))
      else {
        mark(exchange.pointee.downstream, Fault(.own, .body, .memory))
        return
      }
      enqueue(slot, blocks.bytes(of: block), written, SegmentOwner(block: block))
    }
  }

  // MARK: back-pressure

  /// A multishot receive has ended by itself (its byte limit) or was found ended: armed again if the bytes have
  /// somewhere to go, otherwise paused until the other side has taken some.
  mutating func receiveEnded(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.receive == .idle, !connection.pointee.isOver else { return }
    resumeReceive(slot)
  }

  /// Arms a receive that is not armed when what it brings can be held.
  @inline(__always)
  mutating func resumeReceive(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.receive == .idle || connection.pointee.receive == .paused, !connection.pointee.isOver
    else { return }
    if connection.pointee.side == .downstream && connection.pointee.state == .readingHead {
      // Its next requests wait for its last answers to be taken.
      readOn(slot)
      return
    }
    if connection.pointee.side == .downstream, readsAhead(slot) {
      // The request has been read: what comes now is the next one, and one buffer of that is enough.
      connection.pointee.receiveLimit = UInt32(io.bufferSize)
      if connection.pointee.input.isEmpty {
        armReceive(slot, pollFirst: true)
      } else {
        pause(slot)
      }
      return
    }
    let sink = sinkOf(slot)
    var backlog = connection.pointee.input.bytes
    var small = isScarce
    if sink != noSlot {
      backlog += connections[sink].pointee.queue.bytes
      if connections[sink].pointee.flags.contains(.spilled) {
        small = true
      } else if connections[sink].pointee.taken >= provenBytes {
        small = io.buffersFree < io.bufferCount / 4
      }
    }
    // While memory is scarce a stream gets one buffer at a time, and only when what it had has gone on; otherwise its
    // limit grows to the window, since fewer and larger receives are cheaper.
    guard small ? backlog == 0 : backlog < config.streamWindow / 2 else {
      pause(slot)
      return
    }
    connection.pointee.receiveLimit =
      small ? UInt32(io.bufferSize) : min(config.streamWindow, connection.pointee.receiveLimit &* 4)
    armReceive(slot, pollFirst: false)
  }

  @inline(__always)
  private func readsAhead(_ slot: UInt32) -> Bool {
    let index = connections[slot].pointee.exchange
    return index != noSlot && exchanges[index].pointee.flags.contains(.requestRead)
      && exchanges[index].pointee.phase != .tunnel
  }

  /// The connection that what this one brings goes to.
  @inline(__always)
  private func sinkOf(_ slot: UInt32) -> UInt32 {
    let index = connections[slot].pointee.exchange
    guard index != noSlot else { return noSlot }
    return connections[slot].pointee.side == .downstream
      ? exchanges[index].pointee.upstream : exchanges[index].pointee.downstream
  }

  /// A send has made room: the other side's receive goes on if it was paused, and a waiting body moves up.
  @inline(__always)
  mutating func sendProgressed(_ slot: UInt32) {
    let connection = connections[slot]
    guard !connection.pointee.isOver else { return }
    let index = connection.pointee.exchange
    guard index != noSlot else {
      if connection.pointee.state == .readingHead { readOn(slot) }
      return
    }
    let exchange = exchanges[index]
    switch connection.pointee.side {
    case .downstream:
      let upstream = exchange.pointee.upstream
      if upstream != noSlot && connections[upstream].pointee.receive == .paused { resumeReceive(upstream) }
    case .upstream:
      if exchange.pointee.phase == .waiting {
        arm(slot, .response, after: config.responseTimeoutNs)
      }
      if exchange.pointee.flags.contains(.requestRead) {
        if connections[exchange.pointee.downstream].pointee.receive == .paused {
          resumeReceive(exchange.pointee.downstream)
        }
      } else {
        pumpRequest(index)
      }
    }
  }
}
