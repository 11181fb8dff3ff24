// How exchanges end. While a turn handles completions, whatever fails or runs short only marks the connection it
// happened on: no exchange ends under its caller's hands. At the end of the turn each marked connection is settled in
// this one place: tried again, answered, cut or given up. Every way out releases the lease exactly once.
//
//   mark(slot, fault) ──▶ settleFaults ──▶ client's:  answered, or cut when the response has begun, or closed
//                                     └──▶ replica's: another attempt where that is safe, otherwise as above

/// The longest rest of a request body that is thrown away for the sake of the connection: reading 256 KiB costs less
/// than a TLS handshake.
private let discardMax: UInt64 = 262_144

extension Worker where IO: ~Copyable {
  // MARK: marking

  /// Notes that `slot` cannot go on, for the first reason that is given. From now on its bytes are dropped; the
  /// exchange stays as it is until the end of the turn.
  mutating func mark(_ slot: UInt32, _ fault: Fault) {
    let connection = connections[slot]
    guard !connection.pointee.isOver else { return }
    connection.pointee.flags.insert(.faulty)
    connection.pointee.fault = fault
    connection.pointee.nextFaulty = noSlot
    if faultyTail == noSlot { faultyHead = slot } else { connections[faultyTail].pointee.nextFaulty = slot }
    faultyTail = slot
  }

  /// Settles everything that was marked, and what that marks.
  mutating func settleFaults() {
    while faultyHead != noSlot {
      let slot = faultyHead
      let connection = connections[slot]
      faultyHead = connection.pointee.nextFaulty
      if faultyHead == noSlot { faultyTail = noSlot }
      // It may have been stopped after it was marked: its other side was settled first.
      guard connection.pointee.flags.contains(.faulty) else { continue }
      connection.pointee.flags.remove(.faulty)
      guard !connection.pointee.isStopping else { continue }
      if !connection.pointee.queue.isEmpty { sendLater(slot) }
      let fault = connection.pointee.fault
      counters.worker.pointee.progress &+= 1
      if fault.side == .own && fault.kind != .timeout { counters.worker.pointee.ownShortages &+= 1 }
      switch connection.pointee.side {
      case .downstream: settleClient(slot, fault)
      case .upstream: settleReplica(slot, fault)
      }
    }
  }

  private mutating func settleClient(_ slot: UInt32, _ fault: Fault) {
    let connection = connections[slot]
    let index = connection.pointee.exchange
    switch fault.kind {
    case .closed:
      clientGone(slot)
    case .stalled where fault.side == .client, .vanished, .none, .refused, .ports, .withdrawn:
      connection.pointee.flags.insert(.reset)
      clientGone(slot)
    case .timeout, .malformed, .tooLarge, .memory, .descriptors, .stalled:
      if fault.kind == .malformed { counters.worker.pointee.refusedHeads &+= 1 }
      if fault.kind == .timeout && fault.stage == .queue { counters.worker.pointee.queueTimeouts &+= 1 }
      guard index != noSlot else {
        if fault.kind == .memory {
          // Its last answer could not even be queued.
          connection.pointee.flags.insert(.reset)
          stop(slot)
        } else {
          reply(slot, fault.reply)
        }
        return
      }
      leaveLists(index)
      if exchanges[index].pointee.flags.contains(.headSent) {
        // An answer now would stand in the middle of a response (RFC 9112 6.3): the client must see a cut.
        cut(index)
      } else {
        finishLocally(index, fault.reply)
      }
    }
  }

  /// Ends the exchanges of replicas that have drained, or been off the list, for as long as they may.
  mutating func cutWithdrawn() {
    var slot: UInt32 = 0
    while Int(slot) < connections.highWater {
      let connection = connections[slot]
      if connection.pointee.side == .upstream, connection.pointee.state != .free, !connection.pointee.isOver,
        connection.pointee.exchange != noSlot
      {
        let exchange = exchanges[connection.pointee.exchange]
        if exchange.pointee.lease.isHeld && board.isCut(exchange.pointee.lease, now: io.now) {
          mark(slot, Fault(.replica, exchange.pointee.flags.contains(.headSent) ? .body : .head, .withdrawn))
        }
      }
      slot += 1
    }
  }

  private mutating func settleReplica(_ slot: UInt32, _ fault: Fault) {
    let index = connections[slot].pointee.exchange
    if index == noSlot {
      stop(slot)
    } else if exchanges[index].pointee.phase == .tunnel {
      abandonTunnel(index)
    } else {
      attemptFailed(index, fault)
    }
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

  // MARK: failing

  /// The attempt is over without a response: tried again where that is safe, otherwise answered or cut.
  private mutating func attemptFailed(_ index: UInt32, _ fault: Fault) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.upstream
    let connection = connections[slot]
    let replica = Int(exchange.pointee.lease.replica)
    if fault.side == .replica && fault.kind != .withdrawn { counters.replicas[replica].count(fault) }
    if fault.side == .replica && fault.kind == .malformed {
      board.answeredNonsense(&exchange.pointee.lease, now: io.now, rule: config.ejection)
    }
    if exchange.pointee.flags.contains(.headSent) {
      cut(index)
      return
    }
    let reused = exchange.pointee.flags.contains(.reused)
    // A kept connection that closes, nonsense, and a stream that breaks off say little about whether the next request
    // would be served.
    if fault.side == .replica && !reused && fault.stage != .body && fault.kind != .malformed
      && fault.kind != .withdrawn
    {
      board.failed(
        exchange.pointee.lease, refused: fault.stage == .connect, timedOut: fault.kind == .timeout, now: io.now,
        rule: config.ejection)
    }
    // After that: a replica that refuses has just been ejected, so another is open or there is none.
    let isFree = fault.isRefusal && Int(exchange.pointee.refusals) < board.count && board.hasOpen
    let decision = decideRetry(
      FailedAttempt(
        fault: fault,
        responseBegun: exchange.pointee.partialCount > 0 || exchange.pointee.flags.contains(.interimSeen),
        nothingAccepted: connection.pointee.hasSentNothing, reused: reused,
        safe: exchange.pointee.flags.contains(.safe), idempotent: exchange.pointee.flags.contains(.idempotent),
        canResend: exchange.pointee.flags.contains(.wholeInBlock),
        attempts: Int(exchange.pointee.attempts) - (isFree ? 1 : 0)),
      maxAttempts: config.maxAttempts)
    var again = decision != .giveUp
    if decision == .resend && !budget.spend() {
      counters.worker.pointee.retriesDenied &+= 1
      again = false
    }
    exchange.pointee.fault = fault
    guard again else {
      finishLocally(index, fault.reply)
      return
    }
    counters.worker.pointee.retries &+= 1
    counters.replicas[replica].retriedAway &+= 1
    if decision == .freshConnection {
      exchange.pointee.flags.insert(.freshOnly)
    } else {
      exchange.pointee.tried.add(exchange.pointee.lease.replica)
      // A refused connection has run nothing and cost nothing: it uses up no attempt while another replica is open.
      if isFree {
        exchange.pointee.attempts -= 1
        exchange.pointee.refusals &+= 1
      }
    }
    giveBackLease(index)
    exchange.pointee.upstream = noSlot
    connection.pointee.exchange = noSlot
    connection.pointee.flags.insert(.reset)
    if connection.pointee.hasSentNothing && !connection.pointee.queue.isEmpty {
      // The unsent queue, head and body pieces, goes along.
      exchange.pointee.unsent = connection.pointee.queue
      connection.pointee.queue = SegmentQueue()
    } else {
      exchange.pointee.unsent = SegmentQueue()
    }
    stop(slot)
    place(index)
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
    // The answer's last pieces found no room: the end of this turn cuts it.
    if connections[slot].pointee.isOver { return }
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
    if keeps { nextRequest(slot) } else { closeWhenSent(slot) }
  }

  /// The client's connection goes on: its next request is read, unless too much waits to be sent to it.
  @inline(__always)
  mutating func nextRequest(_ slot: UInt32) {
    let connection = connections[slot]
    // Marked while its last exchange ended: that is settled instead.
    if connection.pointee.isOver { return }
    connection.pointee.state = .readingHead
    readOn(slot)
  }

  /// Closes a client's connection after what is queued has been sent.
  mutating func closeWhenSent(_ slot: UInt32) {
    let connection = connections[slot]
    if connection.pointee.isOver { return }
    connection.pointee.state = .replying
    releaseAll(&connection.pointee.input)
    disarmPhase(slot)
    connection.pointee.dues.receiveAt = 0
    connection.pointee.close = .closeAfterQueue
    if connection.pointee.queue.isEmpty {
      queueSent(slot)
    } else {
      // A client that is still sending must not wait for us to read before it reads.
      armReceive(slot, pollFirst: true)
    }
  }

  /// Ends with an answer of our own. The connection goes on where the rest of the request is known and short: overload
  /// must not cost every client a new connection.
  mutating func finishLocally(_ index: UInt32, _ answer: LocalReply) {
    let exchange = exchanges[index]
    let slot = exchange.pointee.downstream
    let flags = exchange.pointee.flags
    let isRead = flags.contains(.requestRead)
    let rest = isRead ? 0 : exchange.pointee.requestLeft
    let isKnown =
      isRead
      || exchange.pointee.requestFraming == .length && rest <= discardMax && !flags.contains(.expectsContinue)
    let keeps =
      !draining && isKnown && answer.leavesConnection && flags.contains(.keepAlive) && !flags.contains(.http10)
      && connections[slot].pointee.receive != .ended
    exchange.pointee.status = answer.status
    detachUpstream(index)
    end(index, answer.status == 504 || answer.status == 408 ? .timedOut : .failed)
    connections[slot].pointee.discard = keeps ? UInt32(rest) : 0
    reply(slot, answer, toHead: flags.contains(.isHead), logged: true, keeps: keeps)
  }

  /// Takes an exchange off the list it may be on.
  private mutating func leaveLists(_ index: UInt32) {
    switch exchanges[index].pointee.phase {
    case .placing: ready.remove(index, in: exchanges.base)
    case .queued: leaveQueue(index)
    case .connecting, .waiting, .streaming, .tunnel: break
    }
  }

  /// Ends without an answer: the client has gone.
  mutating func abandon(_ index: UInt32, outcome: LogOutcome) {
    let exchange = exchanges[index]
    leaveLists(index)
    if outcome == .clientLeft && exchange.pointee.lease.isHeld {
      counters.replicas[Int(exchange.pointee.lease.replica)].clientsLeft &+= 1
    }
    detachUpstream(index)
    end(index, outcome)
  }

  /// The response broke off after its head had gone out: the client must see a cut, never a clean end.
  private mutating func cut(_ index: UInt32) {
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
    let client = connections[exchange.pointee.downstream]
    client.pointee.exchange = noSlot
    client.pointee.dues.receiveAt = 0
    counters.worker.pointee.exchangesFinished &+= 1
    board.shared.pointee.exchanges.wrappingSubtract(1, ordering: .relaxed)
    exchanges.release(index)
  }
}
