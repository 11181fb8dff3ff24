// The replica side: response heads are read and passed on, bodies follow piece by piece as they come. Nothing is held
// back to fill a buffer.

/// Interim responses one request may bring: so many at once, and from then on ten a second. A server that says every
/// few seconds that it is still at work may do so for hours; one that sends more is not answering.
private let interimsAtOnce: UInt64 = 64
private let interimEveryNs: UInt64 = 100_000_000
/// A response body up to this long that has come with its head is copied behind it.
private let joinedResponseMax = 1792

extension Worker where IO: ~Copyable {
  @inline(__always)
  mutating func upstreamReceived(
    _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
    let index = connection.pointee.exchange
    guard index != noSlot else {
      // Bytes nobody asked for: they could only be taken for the answer to the next request.
      release(owner)
      stop(slot)
      return
    }
    let exchange = exchanges[index]
    counters.replicas[Int(exchange.pointee.lease.replica)].bytesFromReplica &+= UInt64(count)
    if connections[exchange.pointee.downstream].pointee.isOver {
      // Its client went in this turn.
      release(owner)
      return
    }
    switch exchange.pointee.phase {
    case .streaming:
      let replica = Int(exchange.pointee.lease.replica)
      let gap = io.now &- exchange.pointee.lastByteAt
      counters.histogram(.gap, of: replica).record(gap)
      exchange.pointee.lastByteAt = io.now
      acknowledgeInPairs(slot, index, count, gap)
      arm(slot, .bodyStall, after: config.streamTimeoutNs)
      responseBody(index, base, count, owner)
    case .waiting:
      responseHead(index, base, count, owner)
    case .tunnel:
      tunnelReceived(slot, base, count, owner)
    case .placing, .queued, .connecting:
      preconditionFailure("an exchange without a connected replica received bytes from one")
    }
  }

  // MARK: heads

  private mutating func responseHead(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    guard exchange.pointee.partial == .none else {
      partialResponseHead(index, base, count, owner)
      return
    }
    var head = ResponseHead()
    switch parse(index, base, count, &head) {
    case .complete:
      pass(index, head, base, count, owner)
    case .partial:
      let kept = gather(base, count, into: &exchange.pointee.partial, &exchange.pointee.partialCount)
      release(owner)
      if !kept { markReplica(index, headMemoryFault(index)) }
    case .refused(let refusal):
      release(owner)
      markReplica(index, Fault(.replica, .head, .malformed, refusal))
    }
  }

  @inline(__always)
  private mutating func markReplica(_ index: UInt32, _ fault: Fault) { mark(exchanges[index].pointee.upstream, fault) }

  /// A head did not fit: it is longer than any block, or no block is left.
  private func headMemoryFault(_ index: UInt32) -> Fault {
    Int(exchanges[index].pointee.partialCount) >= blocks.largestBlock
      ? Fault(.replica, .head, .malformed, .headTooLarge) : Fault(.own, .head, .memory)
  }

  private mutating func partialResponseHead(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    let before = Int(exchange.pointee.partialCount)
    let taken = min(count, blocks.largestBlock - before)
    guard taken > 0, gather(base, taken, into: &exchange.pointee.partial, &exchange.pointee.partialCount) else {
      release(owner)
      markReplica(index, headMemoryFault(index))
      return
    }
    let block = exchange.pointee.partial
    let bytes = blocks.bytes(of: block)
    let total = Int(exchange.pointee.partialCount)
    guard containsLineEnd(bytes + before, taken) || total >= config.headBytesMax else {
      release(owner)
      return
    }
    var head = ResponseHead()
    switch parse(index, bytes, total, &head) {
    case .complete:
      exchange.pointee.partial = .none
      exchange.pointee.partialCount = 0
      let slot = exchange.pointee.upstream
      pass(index, head, bytes, total, SegmentOwner(block: block))
      // What did not fit the block comes behind it; the exchange may have ended with what did.
      guard taken < count, connections[slot].pointee.exchange == index, !connections[slot].pointee.isOver else {
        release(owner)
        return
      }
      switch exchange.pointee.phase {
      case .streaming: responseBody(index, base + taken, count - taken, owner)
      case .waiting: responseHead(index, base + taken, count - taken, owner)
      case .tunnel: tunnelReceived(exchange.pointee.upstream, base + taken, count - taken, owner)
      case .placing, .queued, .connecting: release(owner)
      }
    case .partial:
      release(owner)
    case .refused(let refusal):
      release(owner)
      markReplica(index, Fault(.replica, .head, .malformed, refusal))
    }
  }

  @inline(__always)
  private mutating func parse(
    _ index: UInt32, _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int, _ head: inout ResponseHead
  ) -> HeadVerdict {
    let flags = exchanges[index].pointee.flags
    return parseResponseHead(
      bytes, count, limits: headLimits, requestWasHead: flags.contains(.isHead),
      upgradeOffered: flags.contains(.upgrade), fields: &fields, head: &head)
  }

  /// A head is complete: interim ones are passed on and the next is looked for, the final one decides the rest.
  @inline(__always)
  private mutating func pass(
    _ index: UInt32, _ head: ResponseHead, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let headBytes = Int(head.headBytes)
    if head.isInterim {
      passInterim(index, head, base, count, owner)
      return
    }
    let exchange = exchanges[index]
    let slot = exchange.pointee.downstream
    if exchange.pointee.firstByteAt == 0 { firstByte(index) }
    board.answered(&exchange.pointee.lease, status: head.status, now: io.now, rule: config.ejection)
    exchange.pointee.status = head.status
    exchange.pointee.responseFraming = head.framing
    exchange.pointee.responseLeft = head.contentLength
    exchange.pointee.lastByteAt = io.now
    connections[exchange.pointee.upstream].pointee.keepAliveSeconds = head.keepAliveSeconds
    if head.keepAlive && !head.hasForbiddenLength { exchange.pointee.flags.insert(.replicaKeepsAlive) }
    letGoHead(index)
    if head.isSwitching {
      beginTunnel(index, head, base, count, owner)
      return
    }
    let http10 = exchange.pointee.flags.contains(.http10)
    if head.framing == .chunked && http10 { exchange.pointee.flags.insert(.dechunk) }
    let ended = connections[slot].pointee.receive == .ended && connections[slot].pointee.input.isEmpty
    if draining || head.framing == .untilClose || !exchange.pointee.flags.contains(.requestRead) || ended
      || exchange.pointee.flags.contains(.dechunk)
    {
      exchange.pointee.flags.remove(.keepAlive)
    }
    let rest = count - headBytes
    let joins = head.framing == .length && head.contentLength <= UInt64(min(rest, joinedResponseMax))
    let body = joins ? Int(head.contentLength) : 0
    guard let block = blocks.claim(atLeast: headBytes + responseHeadGrowthMax + body) else {
      release(owner)
      markReplica(index, Fault(.own, .head, .memory))
      return
    }
    let out = blocks.bytes(of: block)
    let room = blocks.capacity(of: block)
    guard
      var used = writeResponseHead(
        head, fields, base, clientIsHTTP10: http10, close: !exchange.pointee.flags.contains(.keepAlive), into: out,
        capacity: room)
    else { preconditionFailure("a rewritten head outgrew responseHeadGrowthMax") }
    exchange.pointee.flags.insert(.headSent)
    exchange.pointee.phase = .streaming
    disarmPhase(exchange.pointee.upstream)
    awaitBody(exchange.pointee.upstream)
    // A short length-framed body that has come whole joins its head: one plain send, and the lent buffer goes back now.
    if joins {
      UnsafeMutableRawPointer(out + used).copyMemory(from: base + headBytes, byteCount: body)
      used += body
      exchange.pointee.responseLeft = 0
      exchange.pointee.bytesOut &+= UInt64(body)
      if rest > body { exchange.pointee.flags.remove(.replicaKeepsAlive) }
      release(owner)
      enqueue(slot, out, used, SegmentOwner(block: block))
      responseComplete(index)
      return
    }
    enqueue(slot, out, used, SegmentOwner(block: block))
    if head.framing == .none {
      if rest > 0 { exchange.pointee.flags.remove(.replicaKeepsAlive) }
      release(owner)
      responseComplete(index)
    } else if rest > 0 {
      responseBody(index, base + headBytes, rest, owner)
    } else {
      release(owner)
    }
  }

  private mutating func passInterim(
    _ index: UInt32, _ head: ResponseHead, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    let headBytes = Int(head.headBytes)
    exchange.pointee.flags.insert(.interimSeen)
    exchange.pointee.interims &+= 1
    let allowed = interimsAtOnce + (io.now &- exchange.pointee.connectedAt) / interimEveryNs
    guard UInt64(exchange.pointee.interims) <= allowed else {
      release(owner)
      markReplica(index, Fault(.replica, .head, .malformed, .interimsTooMany))
      return
    }
    // HTTP/1.0 knows no interim responses (RFC 9110 15.2).
    if !exchange.pointee.flags.contains(.http10) {
      if let block = blocks.claim(atLeast: headBytes + responseHeadGrowthMax) {
        let out = blocks.bytes(of: block)
        let used = writeResponseHead(
          head, fields, base, clientIsHTTP10: false, close: false, into: out, capacity: blocks.capacity(of: block))
        guard let used else { preconditionFailure("a rewritten head outgrew responseHeadGrowthMax") }
        enqueue(exchange.pointee.downstream, out, used, SegmentOwner(block: block))
      }
    }
    arm(exchange.pointee.upstream, .response, after: config.responseTimeoutNs)
    if count > headBytes {
      responseHead(index, base + headBytes, count - headBytes, owner)
    } else {
      release(owner)
    }
  }

  private mutating func firstByte(_ index: UInt32) {
    let exchange = exchanges[index]
    exchange.pointee.firstByteAt = io.now
    counters.histogram(.firstByte, of: Int(exchange.pointee.lease.replica))
      .record(io.now &- exchange.pointee.startedAt)
  }

  /// A final head has come: the request will not be sent again. The access log still wants its words.
  @inline(__always)
  private mutating func letGoHead(_ index: UInt32) {
    let exchange = exchanges[index]
    keepHeadUntilSent(index, exchange.pointee.upstream)
    if !config.logs && exchange.pointee.head != .none {
      blocks.release(exchange.pointee.head)
      exchange.pointee.head = .none
    }
  }

  // MARK: bodies

  /// Body bytes: validated, and passed on as they are.
  @inline(__always)
  private mutating func responseBody(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    switch exchange.pointee.responseFraming {
    case .length:
      let take = Int(min(UInt64(count), exchange.pointee.responseLeft))
      exchange.pointee.responseLeft -= UInt64(take)
      exchange.pointee.bytesOut &+= UInt64(take)
      if take < count { exchange.pointee.flags.remove(.replicaKeepsAlive) }
      let done = exchange.pointee.responseLeft == 0
      enqueue(exchange.pointee.downstream, base, take, owner)
      if done { responseComplete(index) }
    case .chunked:
      chunkedBody(index, base, count, owner)
    case .untilClose:
      exchange.pointee.bytesOut &+= UInt64(count)
      enqueue(exchange.pointee.downstream, base, count, owner)
    case .none:
      exchange.pointee.flags.remove(.replicaKeepsAlive)
      release(owner)
    }
  }

  private mutating func chunkedBody(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.downstream
    if exchange.pointee.flags.contains(.gatheringTrailers) {
      responseTrailers(index, base, count, owner)
      return
    }
    let dechunk = exchange.pointee.flags.contains(.dechunk)
    let step = exchange.pointee.responseChunks.take(base, count, decodes: dechunk)
    let forward = step.kept
    exchange.pointee.bytesOut &+= UInt64(forward)
    switch step.verdict {
    case .more:
      enqueue(slot, base, forward, owner)
    case .done:
      if step.consumed < count { exchange.pointee.flags.remove(.replicaKeepsAlive) }
      enqueue(slot, base, forward, owner)
      responseComplete(index)
    case .trailers:
      exchange.pointee.flags.insert(.gatheringTrailers)
      // The rest of the buffer is needed after the piece has been queued: it gets an owner of its own.
      if owner.buffer != .none {
        retain(owner.buffer)
        enqueue(slot, base, forward, owner)
        responseTrailers(index, base + step.consumed, count - step.consumed, owner)
      } else {
        // A block has one owner: take the trailers out of it first.
        let kept = gather(
          base + step.consumed, count - step.consumed, into: &exchange.pointee.partial,
          &exchange.pointee.partialCount)
        enqueue(slot, base, forward, owner)
        if kept { finishTrailers(index) } else { markReplica(index, Fault(.own, .body, .memory)) }
      }
    case .malformed(let refusal):
      release(owner)
      markReplica(index, Fault(.replica, .body, .malformed, refusal))
    }
  }

  /// Trailer fields are few and short: gathered, then passed on without those that may not be in trailers.
  private mutating func responseTrailers(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    // What lies behind the section is nothing we asked for; it only has to be noticed.
    let taken = min(count, blocks.largestBlock - Int(exchange.pointee.partialCount))
    let kept = taken > 0 && gather(base, taken, into: &exchange.pointee.partial, &exchange.pointee.partialCount)
    if taken < count { exchange.pointee.flags.remove(.replicaKeepsAlive) }
    release(owner)
    if kept {
      finishTrailers(index)
    } else {
      markReplica(
        index, taken > 0 ? Fault(.own, .body, .memory) : Fault(.replica, .body, .malformed, .headTooLarge))
    }
  }

  private mutating func finishTrailers(_ index: UInt32) {
    let exchange = exchanges[index]
    let bytes = blocks.bytes(of: exchange.pointee.partial)
    let total = Int(exchange.pointee.partialCount)
    var section = 0
    switch parseTrailers(bytes, total, limits: headLimits, inResponse: true, fields: &fields, sectionBytes: &section) {
    case .partial:
      return
    case .refused(let refusal):
      markReplica(index, Fault(.replica, .body, .malformed, refusal))
    case .complete:
      if section < total { exchange.pointee.flags.remove(.replicaKeepsAlive) }
      if !exchange.pointee.flags.contains(.dechunk) {
        guard let block = blocks.claim(atLeast: section + 2),
          let used = writeTrailers(fields, bytes, into: blocks.bytes(of: block), capacity: blocks.capacity(of: block))
        else {
          markReplica(index, Fault(.own, .body, .memory))
          return
        }
        enqueue(exchange.pointee.downstream, blocks.bytes(of: block), used, SegmentOwner(block: block))
      }
      responseComplete(index)
    }
  }

  @inline(__always)
  private mutating func responseComplete(_ index: UInt32) {
    finishResponse(index, upstreamReusable: exchanges[index].pointee.flags.contains(.replicaKeepsAlive))
  }

  // MARK: ends

  /// The replica's stream has ended: `clean` by FIN, otherwise by an error.
  mutating func upstreamEnded(_ slot: UInt32, clean: Bool) {
    let connection = connections[slot]
    let index = connection.pointee.exchange
    guard index != noSlot else {
      if connection.pointee.state == .parked { learnIdleLimit(slot, until: io.now) }
      stop(slot)
      return
    }
    let exchange = exchanges[index]
    if connections[exchange.pointee.downstream].pointee.isOver { return }
    switch exchange.pointee.phase {
    case .waiting:
      if exchange.pointee.flags.contains(.reused) { learnIdleLimit(slot, until: exchange.pointee.pickedAt) }
      // Whether the request was accepted is known when the send has ended; until then nothing can be decided.
      if connection.pointee.isSending && connection.pointee.flags.contains(.untouched) {
        if connection.pointee.flags.isDisjoint(with: .cancelling | .sendCancelled) {
          cancel(slot, Token(.send, slot: slot, generation: connection.pointee.generation), .sendCancelled)
        }
        return
      }
      mark(slot, Fault(.replica, .head, .closed))
    case .streaming:
      // A reset is reported once for a socket: if a send took it, the receive sees a clean end. So the end of such a
      // body is believed only when no send has failed, and while one is under way not before that has ended.
      let whole = clean && exchange.pointee.responseFraming == .untilClose
      if whole && connection.pointee.isSending { return }
      if whole && connection.pointee.send != .broken {
        exchange.pointee.flags.remove(.replicaKeepsAlive)
        responseComplete(index)
      } else {
        mark(slot, Fault(.replica, .body, .closed))
      }
    case .tunnel:
      if clean { tunnelEnded(slot) } else { mark(slot, Fault(.replica, .tunnel, .closed)) }
    case .placing, .queued, .connecting:
      preconditionFailure("the stream of an exchange ended before it was connected")
    }
  }

  /// The replica's stream had ended while a send was under way, so that it was not known whether anything had been
  /// accepted, or whether the end was clean: it was. True when that ended the attempt.
  mutating func endedWhileSending(_ slot: UInt32) -> Bool {
    let connection = connections[slot]
    let index = connection.pointee.exchange
    guard connection.pointee.side == .upstream, index != noSlot else { return false }
    switch exchanges[index].pointee.phase {
    case .waiting:
      mark(slot, Fault(.replica, .head, .closed))
      return true
    case .streaming where exchanges[index].pointee.responseFraming == .untilClose:
      exchanges[index].pointee.flags.remove(.replicaKeepsAlive)
      responseComplete(index)
      return true
    case .streaming, .tunnel, .placing, .queued, .connecting:
      return false
    }
  }

  /// A send to the replica failed. When some bytes had gone before, a response may still be on its way (an early 413,
  /// say): the receive will tell.
  mutating func upstreamSendFailed(_ slot: UInt32) {
    let connection = connections[slot]
    let index = connection.pointee.exchange
    guard index != noSlot else {
      stop(slot)
      return
    }
    if exchanges[index].pointee.phase == .tunnel {
      mark(slot, Fault(.replica, .tunnel, .closed))
      return
    }
    if !connection.pointee.flags.contains(.untouched) && connection.pointee.receive == .armed {
      connection.pointee.send = .broken
      keepHeadUntilSent(index, slot)
      releaseAll(&connection.pointee.queue)
      return
    }
    mark(slot, Fault(.replica, .send, .closed))
  }
}
