// From a complete request head to an exchange: judged by its head alone, then rewritten into a block of its own, with
// the body that came along.

/// Bytes our fields usually add to a request head: forwarded address, protocol and host, Via, a request id.
private let usualHeadGrowth = 224
/// A request body up to this long that has come with its head is copied behind it: one plain send instead of a gathered
/// one, and the lent buffer goes back at once.
private let joinedBodyMax = 1024

extension Worker where IO: ~Copyable {
  /// A request head is complete in `base`; `count` bytes are there, the head's first.
  mutating func begin(
    _ slot: UInt32, _ head: RequestHead, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
    counters.worker.pointee.arrivals &+= 1
    budget.earn()
    if let answer = admit(head) {
      release(owner)
      // A request without a body has a known end, so the connection can go on.
      let keeps = head.framing == .none && head.keepAlive && !head.isHTTP10 && !draining && answer.leavesConnection
      reply(slot, answer, toHead: head.method == .head, keeps: keeps)
      return
    }
    guard let index = exchanges.claim() else {
      release(owner)
      counters.worker.pointee.ownShortages &+= 1
      reply(slot, .outOfMemory, toHead: head.method == .head)
      return
    }
    let context = ForwardContext(
      clientAddress: UnsafePointer(peerTexts + Int(slot) * peerTextStride),
      clientAddressCount: Int(connection.pointee.peerCount), isTLS: connection.pointee.flags.contains(.tls),
      requestIdHigh: io.random(), requestIdLow: io.random(), addsRequestId: config.addRequestId,
      forwarded: config.forwarded, viaName: config.viaName, viaNameCount: config.viaCount,
      fallbackHost: config.fallbackHost, fallbackHostCount: config.fallbackHostCount)
    // Room for the head, what is usually added to it and a body that has come with it; only when that proves too little
    // is the worst case claimed.
    let rest = count - Int(head.headBytes)
    let joins = head.framing == .length && head.contentLength <= UInt64(min(rest, joinedBodyMax))
    var claimed = blocks.claim(
      atLeast: Int(head.headBytes) + usualHeadGrowth + (joins ? Int(head.contentLength) : 0))
    var written: ForwardedHead?
    if let block = claimed {
      written = writeRequestHead(
        head, fields, base, context, into: blocks.bytes(of: block), capacity: blocks.capacity(of: block))
      if written == nil {
        blocks.release(block)
        claimed = blocks.claim(atLeast: Int(head.headBytes) + requestHeadGrowthMax)
        if let larger = claimed {
          written = writeRequestHead(
            head, fields, base, context, into: blocks.bytes(of: larger), capacity: blocks.capacity(of: larger))
        }
      }
    }
    guard let block = claimed else {
      exchanges.release(index)
      release(owner)
      counters.worker.pointee.ownShortages &+= 1
      reply(slot, .outOfMemory, toHead: head.method == .head)
      return
    }
    guard let forwarded = written else { preconditionFailure("a rewritten head outgrew requestHeadGrowthMax") }
    let exchange = exchanges[index]
    clear(exchange)
    exchange.pointee.downstream = slot
    exchange.pointee.head = block
    exchange.pointee.headCount = UInt32(forwarded.count)
    exchange.pointee.methodAt = UInt16(truncatingIfNeeded: forwarded.methodStart)
    exchange.pointee.methodCount = UInt16(truncatingIfNeeded: forwarded.methodCount)
    exchange.pointee.targetAt = UInt16(truncatingIfNeeded: forwarded.targetStart)
    exchange.pointee.targetCount = UInt16(truncatingIfNeeded: forwarded.targetCount)
    exchange.pointee.idAt = UInt32(forwarded.requestIdStart)
    exchange.pointee.idCount = UInt16(truncatingIfNeeded: forwarded.requestIdCount)
    exchange.pointee.startedAt = io.now
    exchange.pointee.requestFraming = head.framing
    exchange.pointee.requestLeft = head.contentLength
    if head.isHTTP10 { exchange.pointee.flags.insert(.http10) }
    if head.keepAlive && !draining { exchange.pointee.flags.insert(.keepAlive) }
    if head.method == .head { exchange.pointee.flags.insert(.isHead) }
    if head.method.isSafe { exchange.pointee.flags.insert(.safe) }
    if head.method.isIdempotent { exchange.pointee.flags.insert(.idempotent) }
    if head.wantsUpgrade { exchange.pointee.flags.insert(.upgrade) }
    if head.expectContinue { exchange.pointee.flags.insert(.expectsContinue) }
    connection.pointee.exchange = index
    connection.pointee.state = .exchanging
    disarmPhase(slot)
    armLiveness(slot)
    connection.pointee.requests &+= 1
    board.shared.pointee.exchanges.wrappingAdd(1, ordering: .relaxed)

    takeBody(index, base + Int(head.headBytes), count - Int(head.headBytes), blocks.capacity(of: block), owner)
    if !exchange.pointee.flags.contains(.requestRead) { awaitBody(slot) }
    place(index)
  }

  /// What is decided about a request from its head alone, before any memory is claimed for it: nil when it may go on,
  /// otherwise the answer. Keys, limits and classes of requests have their place here.
  @inline(__always)
  private func admit(_ head: RequestHead) -> LocalReply? {
    if head.maxForwardsZero {
      // RFC 9110 7.6.2: we are the final recipient.
      return head.method == .options ? .optionsHere : .traceHere
    }
    if config.bodyBytesMax != 0 && head.framing == .length && head.contentLength > config.bodyBytesMax {
      return .bodyTooLarge
    }
    return nil
  }

  /// What came behind the head: a body that fits joins the head's block, so that one plain send carries both and a lent
  /// buffer goes back at once. The rest waits as input.
  private mutating func takeBody(
    _ index: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ room: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    var taken = 0
    switch exchange.pointee.requestFraming {
    case .none, .untilClose:
      requestWasRead(index)
      exchange.pointee.flags.insert(.wholeInBlock)
    case .length:
      let length = Int(clamping: exchange.pointee.requestLeft)
      if length <= count && Int(exchange.pointee.headCount) + length <= room {
        let out = blocks.bytes(of: exchange.pointee.head) + Int(exchange.pointee.headCount)
        UnsafeMutableRawPointer(out).copyMemory(from: base, byteCount: length)
        exchange.pointee.headCount += UInt32(length)
        exchange.pointee.bytesIn &+= UInt64(length)
        exchange.pointee.requestLeft = 0
        taken = length
        requestWasRead(index)
        exchange.pointee.flags.insert(.wholeInBlock)
      }
    case .chunked:
      break
    }
    if taken < count {
      let connection = connections[exchange.pointee.downstream]
      if !pushFirst(base + taken, count - taken, owner, onto: &connection.pointee.input) {
        mark(exchange.pointee.downstream, Fault(.own, .head, .memory))
      }
    } else {
      release(owner)
    }
  }

  @inline(__always)
  private func clear(_ exchange: UnsafeMutablePointer<Exchange>) {
    let generation = exchange.pointee.generation
    exchange.pointee = Exchange()
    exchange.pointee.generation = generation
  }

  mutating func requestWasRead(_ index: UInt32) {
    exchanges[index].pointee.flags.insert(.requestRead)
  }
}
