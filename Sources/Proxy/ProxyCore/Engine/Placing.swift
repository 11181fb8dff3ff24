// Giving an exchange its replica and its connection: picked at the end of the turn, after every count of the turn has
// been given back; queued while all replicas are at their limit; sent on a parked connection or a new one.

extension Worker where IO: ~Copyable {
  // MARK: picking

  /// The exchange is to be given a replica at the end of this turn.
  @inline(__always)
  mutating func place(_ index: UInt32) {
    exchanges[index].pointee.phase = .placing
    ready.append(index, in: exchanges.base)
  }

  mutating func dispatchReady() {
    while ready.head != noSlot {
      let index = ready.head
      ready.remove(index, in: exchanges.base)
      counters.worker.pointee.progress &+= 1
      let isNew = exchanges[index].pointee.fault.kind == .none
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
    if exchange.pointee.phase == .queued { leaveQueue(index) }
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
      finishLocally(index, exchange.pointee.fault.kind != .none ? exchange.pointee.fault.reply : answer)
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
    arm(exchange.pointee.downstream, .queue, after: config.queueTimeoutNs)
    waiting.append(index, in: exchanges.base)
    if effectiveTried(index).isEmpty { someoneWaits = true }
  }

  mutating func leaveQueue(_ index: UInt32) {
    waiting.remove(index, in: exchanges.base)
    board.shared.pointee.queued.wrappingSubtract(1, ordering: .relaxed)
    exchanges[index].pointee.phase = .placing
    disarmPhase(exchanges[index].pointee.downstream)
  }

  /// Gives the exchange a connection to its replica: a parked one, or a new one.
  private mutating func assign(_ index: UInt32, _ replica: UInt32) {
    let exchange = exchanges[index]
    if !exchange.pointee.flags.contains(.freshOnly), let slot = takeParked(replica) {
      exchange.pointee.flags.insert(.reused)
      exchange.pointee.connectedAt = io.now
      exchange.pointee.phase = .waiting
      pair(index, slot)
      arm(slot, .response, after: config.responseTimeoutNs)
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
      counters.worker.pointee.ownShortages &+= 1
      finishLocally(index, fd < 0 ? .outOfDescriptors : .outOfMemory)
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
    arm(slot, .connect, after: config.connectTimeoutNs)
    sendHead(index)
  }

  @inline(__always)
  private mutating func pair(_ index: UInt32, _ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.exchange = index
    connection.pointee.flags.insert(.untouched)
    connection.pointee.requests &+= 1
    armLiveness(slot)
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
    connection.pointee.openedAt = io.now
    if connection.pointee.isStopping {
      join(slot)
      return
    }
    let index = connection.pointee.exchange
    precondition(index != noSlot, "a connecting connection without an exchange")
    disarmPhase(slot)
    guard result >= 0 else {
      mark(slot, Fault(connectResult: result))
      return
    }
    if connection.pointee.isOver { return }
    let exchange = exchanges[index]
    connection.pointee.state = .serving
    exchange.pointee.phase = .waiting
    exchange.pointee.connectedAt = io.now
    board.reached(exchange.pointee.lease)
    counters.histogram(.connect, of: Int(exchange.pointee.lease.replica)).record(io.now - exchange.pointee.pickedAt)
    arm(slot, .response, after: config.responseTimeoutNs)
    armReceive(slot, pollFirst: true)
    sendLater(slot)
  }
}
