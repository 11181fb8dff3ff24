// Request bodies on their way to the replica, and back-pressure both ways: a receive is armed again only while the
// other side takes what comes.

extension Worker where IO: ~Copyable {
  // MARK: request bodies

  /// Moves what the client has sent of the body to the replica's queue, as far as framing says and the window allows.
  mutating func pumpRequest(_ index: UInt32) {
    let exchange = exchanges[index]
    let client = exchange.pointee.downstream
    let generation = exchange.pointee.generation
    let connection = connections[client]
    if !exchange.pointee.flags.contains(.requestRead) {
      connection.pointee.progressAt = io.now
      wheel.set(client, at: io.now + config.streamTimeoutNs)
    }
    while !exchange.pointee.flags.contains(.requestRead) {
      let slot = exchange.pointee.upstream
      guard slot != noSlot, connections[slot].pointee.queue.bytes < config.streamWindow,
        let piece = popFirst(of: &connection.pointee.input)
      else { break }
      feedRequest(index, slot, piece.base, piece.count, piece.owner)
      // A malformed or oversized body ends the exchange.
      guard exchange.pointee.generation == generation, connection.pointee.exchange == index else { return }
    }
    if !exchange.pointee.flags.contains(.requestRead) && connection.pointee.flags.contains(.ended)
      && connection.pointee.input.isEmpty
    {
      // The client's FIN came before the end of its body.
      clientGone(client)
      return
    }
    resumeReceive(client)
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
        finishLocally(index, .bodyTooLarge)
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
        counters.worker.pointee.refusedHeads &+= 1
        if exchange.pointee.flags.contains(.headSent) {
          clientGone(exchange.pointee.downstream)
        } else {
          finishLocally(index, .bodyMalformed(refusal))
        }
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
    if connections[slot].pointee.flags.contains(.sendBroken) {
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
          clientGone(exchange.pointee.downstream)
          return
        }
        let client = connections[exchange.pointee.downstream]
        pushFirst(blocks.bytes(of: rest), Int(used), SegmentOwner(block: rest), onto: &client.pointee.input)
      }
    }
    enqueue(slot, base, take, owner)
  }

  private mutating func restOfPiece(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ take: Int, _ count: Int, _ owner: SegmentOwner,
    shared: Bool
  ) {
    if take < count {
      let connection = connections[exchanges[index].pointee.downstream]
      pushFirst(base + take, count - take, owner, onto: &connection.pointee.input)
    } else if !shared {
      release(owner)
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
      finishLocally(index, .bodyMalformed(.headTooLarge))
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
      if exchange.pointee.flags.contains(.headSent) {
        clientGone(exchange.pointee.downstream)
      } else {
        finishLocally(index, .bodyMalformed(refusal))
      }
    case .complete:
      requestWasRead(index)
      // What lies behind the section in this piece is the next request.
      let used = section - before
      if used < count {
        let client = connections[exchange.pointee.downstream]
        pushFirst(base + used, count - used, owner, onto: &client.pointee.input)
      } else {
        release(owner)
      }
      guard let block = blocks.claim(atLeast: section + 2),
        let written = writeTrailers(fields, bytes, into: blocks.bytes(of: block), capacity: blocks.capacity(of: block))
      else {
        finishLocally(index, .outOfMemory)
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
    guard connection.pointee.flags.isDisjoint(with: .closing | .ended | .receiving) else { return }
    resumeReceive(slot)
  }

  /// Arms a receive that is not armed when what it brings can be held.
  @inline(__always)
  mutating func resumeReceive(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.flags.isDisjoint(with: .receiving | .closing | .ended | .starved) else { return }
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
    guard !connection.pointee.flags.contains(.closing) else { return }
    let index = connection.pointee.exchange
    guard index != noSlot else { return }
    let exchange = exchanges[index]
    switch connection.pointee.side {
    case .downstream:
      let upstream = exchange.pointee.upstream
      if connection.pointee.queue.isEmpty == false { wheel.set(slot, at: io.now + config.streamTimeoutNs) }
      if upstream != noSlot && connections[upstream].pointee.flags.contains(.paused) { resumeReceive(upstream) }
    case .upstream:
      if exchange.pointee.phase == .waiting {
        wheel.set(slot, at: io.now + config.responseTimeoutNs)
      }
      if exchange.pointee.flags.contains(.requestRead) {
        if connections[exchange.pointee.downstream].pointee.flags.contains(.paused) {
          resumeReceive(exchange.pointee.downstream)
        }
      } else {
        pumpRequest(index)
      }
    }
  }
}
