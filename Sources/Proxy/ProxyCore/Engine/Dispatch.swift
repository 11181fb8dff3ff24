// An exchange's life between its two connections: begun by a complete head, given a replica at the end of the turn,
// moved to another when that is safe, finished once. Every way out releases the lease exactly once.

/// Bytes our fields usually add to a request head: forwarded address, protocol and host, Via, a request id.
private let usualHeadGrowth = 224
/// A request body up to this long that has come with its head is copied behind it: one plain send instead of a gathered
/// one, and the lent buffer goes back at once.
private let joinedBodyMax = 1024

extension Worker where IO: ~Copyable {
  // MARK: begin

  /// A request head is complete in `base`; `count` bytes are there, the head's first.
  mutating func begin(
    _ slot: UInt32, _ head: RequestHead, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let connection = connections[slot]
    counters.worker.pointee.arrivals &+= 1
    budget.earn()
    if head.maxForwardsZero {
      // RFC 9110 7.6.2: we are the final recipient.
      release(owner)
      reply(slot, head.method == .options ? .optionsHere : .traceHere)
      return
    }
    if config.bodyBytesMax != 0 && head.framing == .length && head.contentLength > config.bodyBytesMax {
      release(owner)
      reply(slot, .bodyTooLarge, toHead: head.method == .head)
      return
    }
    guard let index = exchanges.claim() else {
      release(owner)
      reply(slot, .tooManyConnections, toHead: head.method == .head)
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
    connection.pointee.exchange = index
    connection.pointee.state = .exchanging
    connection.pointee.requests &+= 1
    board.shared.pointee.exchanges.wrappingAdd(1, ordering: .relaxed)

    takeBody(index, base + Int(head.headBytes), count - Int(head.headBytes), blocks.capacity(of: block), owner)
    exchange.pointee.phase = .ready
    ready.append(index, in: exchanges.base)
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
      pushFirst(base + taken, count - taken, owner, onto: &connection.pointee.input)
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

  // MARK: picking

  mutating func dispatchReady() {
    while ready.head != noSlot {
      let index = ready.head
      ready.remove(index, in: exchanges.base)
      let isNew = exchanges[index].pointee.attempts == 0
      if isNew && mustWaitBehind(exchanges[index].pointee.startedAt) || !dispatch(index) { wait(index) }
    }
  }

  /// Whether a request that came earlier waits for any replica, here or in another worker.
  @inline(__always)
  private func mustWaitBehind(_ startedAt: UInt64) -> Bool {
    let queued = board.shared.pointee.queued.load(ordering: .relaxed)
    if queued == 0 { return false }
    if someoneWaits && waiting.head != noSlot { return true }
    return Int(queued) > waiting.count && board.isOlderWaiting(than: startedAt, besides: place)
  }

  /// Looks again for those that wait, first come first served. Only one that must avoid the replicas it has failed on
  /// does not hold up those behind it.
  mutating func serveWaiting() {
    someoneWaits = false
    var index = waiting.head
    while index != noSlot {
      let exchange = exchanges[index]
      let next = exchange.pointee.next
      let takesAny = effectiveTried(index).isEmpty
      let yields = takesAny && board.isOlderWaiting(than: exchange.pointee.startedAt, besides: place)
      if yields || !dispatch(index) {
        if takesAny {
          someoneWaits = true
          return
        }
      }
      index = next
    }
  }

  /// Tells the other workers since when our oldest waits. They leave what comes free to it; it looks every millisecond.
  mutating func tellWaiting() {
    var since: UInt64 = 0
    var index = waiting.head
    while index != noSlot {
      if effectiveTried(index).isEmpty {
        since = exchanges[index].pointee.startedAt
        break
      }
      index = exchanges[index].pointee.next
    }
    guard since != waitingSince else { return }
    waitingSince = since
    board.waitingSince[place].store(since, ordering: .relaxed)
  }

  @inline(__always)
  private func effectiveTried(_ index: UInt32) -> Tried {
    exchanges[index].pointee.flags.contains(.freshOnly) ? Tried() : exchanges[index].pointee.tried
  }

  /// Gives the exchange a replica or an answer; false when those it could have are at their limits.
  private mutating func dispatch(_ index: UInt32) -> Bool {
    let exchange = exchanges[index]
    let isHarmless =
      exchange.pointee.flags.contains(.safe) && exchange.pointee.flags.contains(.wholeInBlock)
      && Int(exchange.pointee.attempts) + 1 < config.maxAttempts && budget.isAmple
    let picked = board.pick(Ask(tried: effectiveTried(index), isHarmless: isHarmless, now: io.now))
    if case .full = picked { return false }
    if exchange.pointee.phase == .queued {
      waiting.remove(index, in: exchanges.base)
      board.shared.pointee.queued.wrappingSubtract(1, ordering: .relaxed)
      exchange.pointee.phase = .ready
    }
    switch picked {
    case .replica(let lease):
      exchange.pointee.lease = lease
      exchange.pointee.attempts += 1
      exchange.pointee.pickedAt = io.now
      counters.replicas[Int(lease.replica)].exchanges &+= 1
      assign(index, lease.replica)
    case .ejected, .empty:
      counters.worker.pointee.noReplica &+= 1
      // After a failed attempt: say what happened then, not that there is nobody.
      let answer: LocalReply = board.hasReplicas ? .allRefuse : .noReplica
      finishLocally(index, exchange.pointee.attempts > 0 ? exchange.pointee.failure : answer)
    case .full: break
    }
    return true
  }

  private mutating func wait(_ index: UInt32) {
    let exchange = exchanges[index]
    let queued = board.shared.pointee.queued.wrappingAdd(1, ordering: .relaxed).newValue
    if Int(queued) > config.queueSize {
      board.shared.pointee.queued.wrappingSubtract(1, ordering: .relaxed)
      counters.worker.pointee.queueOverflows &+= 1
      finishLocally(index, .queueFull)
      return
    }
    exchange.pointee.phase = .queued
    wheel.set(exchange.pointee.downstream, at: io.now + config.queueTimeoutNs)
    waiting.append(index, in: exchanges.base)
    if effectiveTried(index).isEmpty { someoneWaits = true }
  }

  /// Gives the exchange a connection to its replica: a parked one, or a new one.
  private mutating func assign(_ index: UInt32, _ replica: UInt32) {
    let exchange = exchanges[index]
    if !exchange.pointee.flags.contains(.freshOnly), let slot = takeParked(replica) {
      exchange.pointee.flags.insert(.reused)
      exchange.pointee.connectedAt = io.now
      exchange.pointee.phase = .waiting
      pair(index, slot)
      wheel.set(slot, at: io.now + config.responseTimeoutNs)
      sendHead(index)
      return
    }
    exchange.pointee.flags.remove(.reused)
    let place = board.places + Int(replica)
    var fd = io.openSocket(for: UnsafePointer(board.addresses + Int(replica)))
    var claimed = fd >= 0 ? claimConnection(fd: fd, side: .upstream, state: .connecting) : nil
    if claimed == nil, parked > 0 {
      // Descriptors or slots ran out while idle connections hold some: let one of those go and answer with an error
      // only when that is not enough.
      if fd >= 0 { io.close(fd, token: Token(.close, slot: noSlot, generation: 0)) }
      closeOneParked()
      fd = io.openSocket(for: UnsafePointer(board.addresses + Int(replica)))
      claimed = fd >= 0 ? claimConnection(fd: fd, side: .upstream, state: .connecting) : nil
    }
    guard let slot = claimed else {
      if fd >= 0 { io.close(fd, token: Token(.close, slot: noSlot, generation: 0)) }
      giveBackLease(index)
      finishLocally(index, .outOfMemory)
      return
    }
    let connection = connections[slot]
    connection.pointee.replica = replica
    connection.pointee.replicaGeneration = place.pointee.generation
    connection.pointee.operations = 1
    exchange.pointee.phase = .connecting
    counters.replicas[Int(replica)].connects &+= 1
    pair(index, slot)
    io.connect(
      fd, to: UnsafePointer(board.addresses + Int(replica)),
      token: Token(.connect, slot: slot, generation: connection.pointee.generation))
    wheel.set(slot, at: io.now + config.connectTimeoutNs)
    sendHead(index)
  }

  @inline(__always)
  private mutating func pair(_ index: UInt32, _ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.exchange = index
    connection.pointee.flags.insert(.untouched)
    connection.pointee.requests &+= 1
    let exchange = exchanges[index]
    exchange.pointee.upstream = slot
    if !exchange.pointee.unsent.isEmpty {
      connection.pointee.queue = exchange.pointee.unsent
      exchange.pointee.unsent = SegmentQueue()
    }
  }

  /// Queues the request: the kept head first (borrowed: it may be needed again), then whatever body has come.
  private mutating func sendHead(_ index: UInt32) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.upstream
    // A queue that moved here from a failed attempt already begins with the head.
    if connections[slot].pointee.queue.isEmpty {
      enqueue(slot, blocks.bytes(of: exchange.pointee.head), Int(exchange.pointee.headCount), .borrowed)
    } else {
      sendLater(slot)
    }
    counters.replicas[Int(exchange.pointee.lease.replica)].bytesToReplica &+= UInt64(exchange.pointee.headCount)
    if !exchange.pointee.flags.contains(.requestRead) { pumpRequest(index) }
  }

  /// The connect has ended.
  mutating func connected(_ slot: UInt32, _ result: Int32) {
    let connection = connections[slot]
    connection.pointee.operations -= 1
    if connection.pointee.flags.contains(.closing) {
      connection.pointee.openedAt = io.now
      settle(slot)
      return
    }
    let index = connection.pointee.exchange
    precondition(index != noSlot, "a connecting connection without an exchange")
    guard result >= 0 else {
      connection.pointee.openedAt = io.now
      attemptFailed(index, .connect, timedOut: false, nothingAccepted: true)
      return
    }
    let exchange = exchanges[index]
    connection.pointee.openedAt = io.now
    connection.pointee.state = .serving
    exchange.pointee.phase = .waiting
    exchange.pointee.connectedAt = io.now
    board.reached(exchange.pointee.lease)
    counters.histogram(.connect, of: Int(exchange.pointee.lease.replica)).record(io.now - exchange.pointee.pickedAt)
    wheel.set(slot, at: io.now + config.responseTimeoutNs)
    armReceive(slot, pollFirst: true)
    sendLater(slot)
  }

  // MARK: failing

  /// The replica failed this exchange: try again where that is safe, otherwise answer or cut.
  mutating func attemptFailed(_ index: UInt32, _ stage: FaultStage, timedOut: Bool, nothingAccepted: Bool) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.upstream
    let replica = Int(exchange.pointee.lease.replica)
    counters.replicas[replica].count(stage)
    if timedOut { counters.replicas[replica].timeouts &+= 1 }
    if exchange.pointee.flags.contains(.headSent) {
      cut(index)
      return
    }
    let reused = exchange.pointee.flags.contains(.reused)
    let decision = decideRetry(
      FailedAttempt(
        stage: stage, timedOut: timedOut,
        responseBegun: exchange.pointee.partialCount > 0 || exchange.pointee.flags.contains(.interimSeen),
        nothingAccepted: nothingAccepted, reused: reused, safe: exchange.pointee.flags.contains(.safe),
        idempotent: exchange.pointee.flags.contains(.idempotent),
        canResend: exchange.pointee.flags.contains(.wholeInBlock), attempts: Int(exchange.pointee.attempts)),
      maxAttempts: config.maxAttempts)
    // A kept connection that closes, nonsense, and a stream that breaks off say little about whether the next request
    // would be served.
    if !reused && stage != .malformed && stage != .body {
      board.failed(
        exchange.pointee.lease, refused: stage == .connect, timedOut: timedOut, now: io.now, rule: config.ejection)
    }
    var again = decision != .giveUp
    if decision == .resend && !budget.spend() {
      counters.worker.pointee.retriesDenied &+= 1
      again = false
    }
    exchange.pointee.failure =
      switch stage {
      case .connect: .allRefuse
      case .malformed: .replicaMalformed
      case .send, .head, .body: timedOut ? .replicaTimeout : .replicaFailed
      }
    guard again else {
      finishLocally(index, exchange.pointee.failure)
      return
    }
    counters.worker.pointee.retries &+= 1
    counters.replicas[replica].retriedAway &+= 1
    if decision == .freshConnection {
      exchange.pointee.flags.insert(.freshOnly)
    } else {
      exchange.pointee.tried.add(exchange.pointee.lease.replica)
    }
    giveBackLease(index)
    exchange.pointee.upstream = noSlot
    let connection = connections[slot]
    connection.pointee.exchange = noSlot
    connection.pointee.flags.insert(.reset)
    if nothingAccepted && !connection.pointee.queue.isEmpty && connection.pointee.sendingSegments == 0 {
      // The unsent queue, head and body pieces, goes along.
      exchange.pointee.unsent = connection.pointee.queue
      connection.pointee.queue = SegmentQueue()
    } else {
      exchange.pointee.unsent = SegmentQueue()
    }
    stop(slot)
    exchange.pointee.phase = .ready
    ready.append(index, in: exchanges.base)
  }

  // MARK: finishing

  @inline(__always)
  mutating func giveBackLease(_ index: UInt32) {
    if exchanges[index].pointee.lease.isHeld {
      board.release(&exchanges[index].pointee.lease)
    }
  }

  /// The response has been received whole and queued for the client.
  mutating func finishResponse(_ index: UInt32, upstreamReusable: Bool) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.downstream
    let upstream = exchange.pointee.upstream
    let keeps =
      !draining && exchange.pointee.flags.contains(.keepAlive) && exchange.pointee.flags.contains(.requestRead)
      && exchange.pointee.responseFraming != .untilClose && !exchange.pointee.flags.contains(.dechunk)
    counters.histogram(.duration, of: Int(exchange.pointee.lease.replica)).record(io.now &- exchange.pointee.startedAt)
    let reusable =
      upstreamReusable && exchange.pointee.flags.contains(.requestRead)
      && connections[upstream].pointee.queue.isEmpty
    end(index, .completed)
    connections[upstream].pointee.exchange = noSlot
    if reusable { park(upstream) } else { stop(upstream) }
    let connection = connections[slot]
    if keeps && !connection.pointee.flags.contains(.ended) {
      connection.pointee.state = .readingHead
      wheel.set(slot, at: io.now + config.idleTimeoutNs)
      if connection.pointee.input.isEmpty {
        armReceive(slot, pollFirst: true)
      } else {
        readInput(slot)
        if connection.pointee.state == .readingHead { armReceive(slot, pollFirst: true) }
      }
    } else if keeps && !connection.pointee.input.isEmpty {
      // It has said its last word, but earlier requests of it are still to be answered.
      connection.pointee.state = .readingHead
      readInput(slot)
      if connection.pointee.state == .readingHead { closeWhenSent(slot) }
    } else {
      closeWhenSent(slot)
    }
  }

  /// Closes a client's connection after what is queued has been sent.
  mutating func closeWhenSent(_ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.state = .replying
    releaseAll(&connection.pointee.input)
    connection.pointee.flags.insert(.closeWhenSent)
    if connection.pointee.queue.isEmpty {
      queueSent(slot)
    } else {
      wheel.set(slot, at: io.now + config.streamTimeoutNs)
    }
  }

  /// Ends with an answer of our own.
  mutating func finishLocally(_ index: UInt32, _ answer: LocalReply) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.downstream
    let toHead = exchange.pointee.flags.contains(.isHead)
    exchange.pointee.status = answer.status
    detachUpstream(index)
    end(index, answer.status == 504 || answer.status == 408 ? .timedOut : .failed)
    reply(slot, answer, toHead: toHead, logged: true)
  }

  /// Ends without an answer: the client has gone.
  mutating func abandon(_ index: UInt32, outcome: LogOutcome) {
    let exchange = exchanges[index]
    switch exchange.pointee.phase {
    case .ready: ready.remove(index, in: exchanges.base)
    case .queued:
      waiting.remove(index, in: exchanges.base)
      board.shared.pointee.queued.wrappingSubtract(1, ordering: .relaxed)
    case .connecting, .waiting, .streaming, .tunnel: break
    }
    if outcome == .clientLeft && exchange.pointee.lease.isHeld {
      counters.replicas[Int(exchange.pointee.lease.replica)].clientsLeft &+= 1
    }
    detachUpstream(index)
    end(index, outcome)
  }

  /// The response broke off after its head had gone out: the client must see a cut, never a clean end (DESIGN rule 9).
  mutating func cut(_ index: UInt32) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.downstream
    counters.worker.pointee.streamsTruncated &+= 1
    let hidden = exchange.pointee.endHidesCut
    detachUpstream(index)
    end(index, .truncated)
    if hidden { connections[slot].pointee.flags.insert(.reset) }
    markTls(slot, .cut)
    closeWhenSent(slot)
  }

  /// Closes the replica's side at once.
  private mutating func detachUpstream(_ index: UInt32) {
    let slot = exchanges[index].pointee.upstream
    guard slot != noSlot else { return }
    exchanges[index].pointee.upstream = noSlot
    keepHeadUntilSent(index, slot)
    connections[slot].pointee.exchange = noSlot
    stop(slot)
  }

  /// A send may still be reading the borrowed head: the segment becomes its owner.
  mutating func keepHeadUntilSent(_ index: UInt32, _ slot: UInt32) {
    let exchange = exchanges[index]
    guard exchange.pointee.head != .none else { return }
    let first = connections[slot].pointee.queue.head
    if first != noSlot, segments[first].pointee.owner == .borrowed {
      segments[first].pointee.owner = SegmentOwner(block: exchange.pointee.head)
      exchange.pointee.head = .none
    }
  }

  /// The last step of every exchange: counts, memory, log.
  private mutating func end(_ index: UInt32, _ outcome: LogOutcome) {
    let exchange = exchanges[index]
    let lease = exchange.pointee.lease
    if lease.isHeld {
      let replica = counters.replicas + Int(lease.replica)
      if exchange.pointee.status >= 100 && exchange.pointee.flags.contains(.headSent) {
        replica.pointee.count(status: exchange.pointee.status)
      }
    }
    if config.logs { writeLog(index, outcome) }
    if exchange.pointee.upstream != noSlot { keepHeadUntilSent(index, exchange.pointee.upstream) }
    giveBackLease(index)
    releaseAll(&exchange.pointee.unsent)
    if exchange.pointee.head != .none { blocks.release(exchange.pointee.head) }
    if exchange.pointee.partial != .none { blocks.release(exchange.pointee.partial) }
    if exchange.pointee.requestPartial != .none { blocks.release(exchange.pointee.requestPartial) }
    connections[exchange.pointee.downstream].pointee.exchange = noSlot
    counters.worker.pointee.exchangesFinished &+= 1
    board.shared.pointee.exchanges.wrappingSubtract(1, ordering: .relaxed)
    exchanges.release(index)
  }
}
