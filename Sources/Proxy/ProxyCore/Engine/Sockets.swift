// What both sides share: bytes queued and sent in order, receives armed and paused, lent buffers counted, and the one
// place where a connection is closed. Nothing here knows HTTP.

extension Worker where IO: ~Copyable {
  // MARK: memory behind segments

  @inline(__always)
  mutating func release(_ owner: SegmentOwner) {
    if owner.buffer != .none {
      releaseBuffer(owner.buffer)
    } else if owner.block != .none {
      blocks.release(owner.block)
    }
  }

  @inline(__always)
  mutating func releaseBuffer(_ buffer: BufferID) {
    let refs = bufferRefs + Int(buffer.raw)
    refs.pointee -= 1
    if refs.pointee == 0 { io.giveBack(buffer) }
  }

  /// Another segment points into the same memory. Blocks have one owner only.
  @inline(__always)
  mutating func retain(_ buffer: BufferID) {
    bufferRefs[Int(buffer.raw)] += 1
  }

  // MARK: queues

  /// Appends a piece; when it cannot be (no segment left), the piece is released and false comes back.
  @inline(__always)
  mutating func append(
    _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner, to queue: inout SegmentQueue
  ) -> Bool {
    guard let index = segments.claim() else {
      release(owner)
      return false
    }
    let segment = segments[index]
    segment.pointee.base = base
    segment.pointee.count = UInt32(count)
    segment.pointee.owner = owner
    segment.pointee.next = noSlot
    if queue.tail == noSlot { queue.head = index } else { segments[queue.tail].pointee.next = index }
    queue.tail = index
    queue.bytes += UInt32(count)
    queue.segments += 1
    return true
  }

  /// Copies a small piece behind the queue's last one when that is the only user of a lent buffer with room, or has
  /// room in a spill block: a thousand tiny pieces for a stalled reader then hold one buffer, not a thousand. True when
  /// it was taken over.
  @inline(__always)
  mutating func coalesce(
    _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner, onto queue: inout SegmentQueue,
    inFlight: Int
  ) -> Bool {
    guard queue.tail != noSlot, Int(queue.segments) > inFlight, count <= 16_384 else { return false }
    let last = segments[queue.tail]
    let buffer = last.pointee.owner.buffer
    let end = UnsafeMutableRawPointer(last.pointee.base! + Int(last.pointee.count))
    let limit: UnsafeMutableRawPointer
    if buffer != .none {
      guard bufferRefs[Int(buffer.raw)] == 1 else { return false }
      limit = io.bytes(of: buffer) + io.bufferSize
    } else {
      let block = last.pointee.owner.block
      guard block != .none, block.isSpill else { return false }
      limit = UnsafeMutableRawPointer(blocks.bytes(of: block)) + BlockPool.spillBytes
    }
    guard end + count <= limit else { return false }
    end.copyMemory(from: base, byteCount: count)
    last.pointee.count += UInt32(count)
    queue.bytes += UInt32(count)
    release(owner)
    return true
  }

  /// Removes and returns the first piece.
  @inline(__always)
  mutating func popFirst(
    of queue: inout SegmentQueue
  ) -> (base: UnsafeMutablePointer<UInt8>, count: Int, owner: SegmentOwner)? {
    guard queue.head != noSlot else { return nil }
    let index = queue.head
    let segment = segments[index]
    let piece = (segment.pointee.base!, Int(segment.pointee.count), segment.pointee.owner)
    queue.head = segment.pointee.next
    if queue.head == noSlot { queue.tail = noSlot }
    queue.bytes -= segment.pointee.count
    queue.segments -= 1
    segments.release(index)
    return piece
  }

  /// Puts a piece back in front. A segment was just freed by `popFirst`, so one is there.
  @inline(__always)
  mutating func pushFirst(
    _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner, onto queue: inout SegmentQueue
  ) {
    guard let index = segments.claim() else {
      preconditionFailure("no segment for the rest of a piece: MemoryPlan is wrong")
    }
    let segment = segments[index]
    segment.pointee.base = base
    segment.pointee.count = UInt32(count)
    segment.pointee.owner = owner
    segment.pointee.next = queue.head
    queue.head = index
    if queue.tail == noSlot { queue.tail = index }
    queue.bytes += UInt32(count)
    queue.segments += 1
  }

  mutating func releaseAll(_ queue: inout SegmentQueue) {
    while let piece = popFirst(of: &queue) { release(piece.owner) }
  }

  // MARK: sending

  /// Queues a piece for a socket, to be sent at the end of the turn unless a send is under way. The piece is released
  /// when sent, or now when the connection is closing.
  @inline(__always)
  mutating func enqueue(_ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner) {
    let connection = connections[slot]
    if count == 0 || connection.pointee.flags.contains(.closing) {
      release(owner)
      return
    }
    if !connection.pointee.queue.isEmpty,
      coalesce(
        base, count, owner, onto: &connection.pointee.queue, inFlight: Int(connection.pointee.sendingSegments))
    {
      return
    }
    guard append(base, count, owner, to: &connection.pointee.queue) else {
      // The plan's segments are used up: this connection cannot go on without losing bytes.
      connection.pointee.flags.insert(.reset)
      stopExchangeOrConnection(slot)
      return
    }
    sendLater(slot)
  }

  /// What is queued goes out at the end of the turn: all that a turn brings for a peer, as a head and its body, in one
  /// gathered send. A response of 8 KB costs 10 µs instead of 19 (Benchmarks, response-8k). Nothing goes later for it:
  /// operations reach the kernel after the turn anyway.
  @inline(__always)
  mutating func sendLater(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.flags.isDisjoint(with: .sending | .sendDue) else { return }
    // A slot that is freed and taken again in one turn can be listed twice.
    guard dueCount < connections.capacity else {
      startSending(slot)
      return
    }
    connection.pointee.flags.insert(.sendDue)
    due[dueCount] = slot
    dueCount += 1
  }

  /// Begins the sends of this turn.
  mutating func sendDue() {
    for place in 0..<dueCount {
      let slot = due[place]
      guard connections[slot].pointee.flags.contains(.sendDue) else { continue }
      connections[slot].pointee.flags.remove(.sendDue)
      startSending(slot)
    }
    dueCount = 0
  }

  /// Begins a send of everything queued, up to what one operation gathers.
  @inline(__always)
  mutating func startSending(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.flags.isDisjoint(with: .sending | .closing | .sendBroken),
      connection.pointee.state != .connecting, connection.pointee.queue.head != noSlot
    else { return }
    let token = Token(.send, slot: slot, generation: connection.pointee.generation)
    let first = segments[connection.pointee.queue.head]
    if first.pointee.next == noSlot {
      io.send(connection.pointee.fd, first.pointee.base!, Int(first.pointee.count), token: token)
      connection.pointee.sendingSegments = 1
    } else {
      var count = 0
      var index = connection.pointee.queue.head
      while index != noSlot && count < gatherMax {
        let segment = segments[index]
        slices[count] = IOSlice(base: segment.pointee.base, count: Int(segment.pointee.count))
        index = segment.pointee.next
        count += 1
      }
      io.send(connection.pointee.fd, gathering: slices, count, token: token)
      connection.pointee.sendingSegments = UInt16(count)
    }
    connection.pointee.flags.insert(.sending)
    connection.pointee.operations += 1
    connection.pointee.progressAt = io.now
  }

  /// A send has ended.
  @inline(__always)
  mutating func sent(_ slot: UInt32, _ result: Int32) {
    let connection = connections[slot]
    connection.pointee.flags.remove(.sending)
    connection.pointee.operations -= 1
    var left = Int(connection.pointee.sendingSegments)
    connection.pointee.sendingSegments = 0
    if connection.pointee.flags.contains(.closing) {
      settle(slot)
      return
    }
    if connection.pointee.flags.contains(.interrupted) {
      sendInterrupted(slot, result, pieces: left)
      return
    }
    if result < 0 {
      sendFailed(slot, nothingAccepted: true)
      return
    }
    connection.pointee.flags.remove(.untouched)
    connection.pointee.progressAt = io.now
    if connection.pointee.taken < provenBytes { connection.pointee.taken &+= UInt32(result) }
    var wanted = 0
    while left > 0, let piece = popFirst(of: &connection.pointee.queue) {
      wanted += piece.count
      release(piece.owner)
      left -= 1
    }
    if Int(result) < wanted {
      sendFailed(slot, nothingAccepted: false)
      return
    }
    if connection.pointee.flags.contains(.ended) && endedWhileSending(slot) { return }
    if connection.pointee.queue.head != noSlot {
      sendLater(slot)
    } else {
      queueSent(slot)
    }
    sendProgressed(slot)
  }

  @inline(__always)
  mutating func sendFailed(_ slot: UInt32, nothingAccepted: Bool) {
    switch connections[slot].pointee.side {
    case .downstream: clientGone(slot)
    case .upstream: upstreamSendFailed(slot, nothingAccepted: nothingAccepted)
    }
  }

  // MARK: receiving

  /// Arms the receive unless it is armed, the stream has ended, or the slot is closing.
  @inline(__always)
  mutating func armReceive(_ slot: UInt32, pollFirst: Bool) {
    let connection = connections[slot]
    guard connection.pointee.flags.isDisjoint(with: .receiving | .ended | .closing | .starved) else { return }
    connection.pointee.flags.insert(.receiving)
    connection.pointee.flags.remove(.paused)
    connection.pointee.operations += 1
    io.receive(
      connection.pointee.fd, limit: connection.pointee.receiveLimit, pollFirst: pollFirst,
      token: Token(.receive, slot: slot, generation: connection.pointee.generation))
  }

  @inline(__always)
  mutating func received(_ slot: UInt32, _ completion: Completion) {
    let connection = connections[slot]
    if !completion.more {
      connection.pointee.flags.remove(.receiving)
      connection.pointee.operations -= 1
    }
    if completion.buffer != .none {
      bufferRefs[Int(completion.buffer.raw)] = 1
      if completion.result <= 0 { releaseBuffer(completion.buffer) }
    }
    if connection.pointee.flags.contains(.closing) {
      if completion.result > 0 { releaseBuffer(completion.buffer) }
      if !completion.more { settle(slot) }
      return
    }
    if completion.result > 0 {
      let base = io.bytes(of: completion.buffer).assumingMemoryBound(to: UInt8.self)
      let owner = SegmentOwner(buffer: completion.buffer)
      switch connection.pointee.side {
      case .downstream: downstreamReceived(slot, base, Int(completion.result), owner)
      case .upstream: upstreamReceived(slot, base, Int(completion.result), owner)
      }
      if !completion.more { receiveEnded(slot) }
    } else if completion.result == -105 {  // ENOBUFS
      if !completion.more { starve(slot) }
    } else if completion.result == -125 || completion.result == -4 {  // ECANCELED, EINTR: not the peer's doing
      if !completion.more { receiveEnded(slot) }
    } else {
      connection.pointee.flags.insert(.ended)
      let clean = completion.result == 0 && !tlsClientIsGone(slot)
      switch connection.pointee.side {
      case .downstream: downstreamEnded(slot, clean: clean)
      case .upstream: upstreamEnded(slot, clean: clean)
      }
    }
  }

  /// No lent buffer was there: the connection waits its turn instead of asking again at once, which would spin.
  private mutating func starve(_ slot: UInt32) {
    let connection = connections[slot]
    guard !connection.pointee.flags.contains(.starved) else { return }
    // Otherwise only this turn's were used up.
    if isShort { counters.worker.pointee.buffersExhausted &+= 1 }
    // A parked connection is on the idle list and has nothing to wait for.
    if connection.pointee.state == .parked {
      stop(slot)
      return
    }
    connection.pointee.flags.insert(.starved)
    connection.pointee.listNext = noSlot
    connection.pointee.listPrev = starvedTail
    if starvedTail == noSlot { starvedHead = slot } else { connections[starvedTail].pointee.listNext = slot }
    starvedTail = slot
    if connection.pointee.side == .downstream { watch(slot) }
  }

  mutating func leaveStarved(_ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.flags.remove(.starved)
    let next = connection.pointee.listNext
    let prev = connection.pointee.listPrev
    if prev == noSlot { starvedHead = next } else { connections[prev].pointee.listNext = next }
    if next == noSlot { starvedTail = prev } else { connections[next].pointee.listPrev = prev }
  }

  /// Lets starved connections receive again, oldest first; never more of them than there will be buffers, so that none
  /// is told at once again that there is none.
  mutating func feedStarved() {
    var free = io.buffersNext
    while free > 0 && starvedHead != noSlot {
      let slot = starvedHead
      leaveStarved(slot)
      receiveEnded(slot)
      free -= 1
    }
  }

  // MARK: closing: stop → join → release

  /// Begins to close. Everything waiting is dropped now; what the kernel still holds is waited for; then the descriptor
  /// is closed and, when that has completed, the slot is free.
  mutating func stop(_ slot: UInt32) {
    let connection = connections[slot]
    guard !connection.pointee.flags.contains(.closing) else { return }
    if connection.pointee.state == .parked { unpark(slot) }
    if connection.pointee.flags.contains(.starved) { leaveStarved(slot) }
    connection.pointee.flags.insert(.closing)
    connection.pointee.flags.remove(.sendDue)
    connection.pointee.state = .stopping
    wheel.clear(slot)
    releaseAll(&connection.pointee.input)
    if connection.pointee.partial != .none {
      blocks.release(connection.pointee.partial)
      connection.pointee.partial = .none
    }
    if connection.pointee.operations > 0 && !connection.pointee.flags.contains(.reset)
      && !connection.pointee.flags.contains(.sendCancelled) && connection.pointee.fd >= 0
      && !connectUnderWay(slot)
    {
      connection.pointee.operations += 1
      io.shutdown(
        connection.pointee.fd, .both, token: Token(.shutdown, slot: slot, generation: connection.pointee.generation))
      connection.pointee.flags.insert(.receiveCancelled | .sendCancelled | .watchCancelled)
    }
    settle(slot)
  }

  @inline(__always)
  private func connectUnderWay(_ slot: UInt32) -> Bool {
    // Only a connecting upstream has an operation that is none of receive, send, shutdown, cancel.
    connections[slot].pointee.side == .upstream && connections[slot].pointee.openedAt == 0
  }

  mutating func operationEnded(_ slot: UInt32) {
    connections[slot].pointee.operations -= 1
    if connections[slot].pointee.flags.contains(.closing) { settle(slot) }
  }

  /// A closing slot: cancels what will not end by itself, one operation at a time, and closes when nothing is left.
  mutating func settle(_ slot: UInt32) {
    let connection = connections[slot]
    if connection.pointee.operations == 0 {
      releaseAll(&connection.pointee.queue)
      guard connection.pointee.fd >= 0 else {
        free(slot)
        return
      }
      if connection.pointee.flags.contains(.reset) {
        io.resetOnClose(connection.pointee.fd)
        markTls(slot, .reset)
      }
      connection.pointee.operations = 1
      io.close(connection.pointee.fd, token: Token(.close, slot: slot, generation: connection.pointee.generation))
      connection.pointee.fd = -1
      return
    }
    guard connection.pointee.fd >= 0, !connection.pointee.flags.contains(.cancelling) else { return }
    let generation = connection.pointee.generation
    if connectUnderWay(slot) && !connection.pointee.flags.contains(.receiveCancelled) {
      cancel(slot, Token(.connect, slot: slot, generation: generation), .receiveCancelled)
    } else if connection.pointee.flags.contains(.receiving) && !connection.pointee.flags.contains(.receiveCancelled) {
      cancel(slot, Token(.receive, slot: slot, generation: generation), .receiveCancelled)
    } else if connection.pointee.flags.contains(.sending) && !connection.pointee.flags.contains(.sendCancelled) {
      cancel(slot, Token(.send, slot: slot, generation: generation), .sendCancelled)
    } else if connection.pointee.flags.contains(.watching) && !connection.pointee.flags.contains(.watchCancelled) {
      cancel(slot, Token(.watch, slot: slot, generation: generation), .watchCancelled)
    }
  }

  mutating func cancel(_ slot: UInt32, _ target: Token, _ flag: ConnectionFlags) {
    let connection = connections[slot]
    connection.pointee.flags.insert(flag | .cancelling)
    connection.pointee.operations += 1
    io.cancel(target, token: Token(.cancel, slot: slot, generation: connection.pointee.generation))
  }

  mutating func closed(_ slot: UInt32) {
    connections[slot].pointee.operations -= 1
    free(slot)
  }

  private mutating func free(_ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.state = .free
    switch connection.pointee.side {
    case .downstream:
      downstreams -= 1
      if !connection.pointee.flags.contains(.tls) {
        board.shared.pointee.connections.wrappingSubtract(1, ordering: .relaxed)
      }
    case .upstream: upstreams -= 1
    }
    connections.release(slot)
  }

  /// Claims and clears a slot for a new socket.
  mutating func claimConnection(fd: Int32, side: Side, state: ConnectionState) -> UInt32? {
    guard let slot = connections.claim() else { return nil }
    let connection = connections[slot]
    connection.pointee.fd = fd
    connection.pointee.side = side
    connection.pointee.state = state
    connection.pointee.flags = .none
    connection.pointee.operations = 0
    connection.pointee.sendingSegments = 0
    connection.pointee.queue = SegmentQueue()
    connection.pointee.input = SegmentQueue()
    connection.pointee.exchange = noSlot
    connection.pointee.listNext = noSlot
    connection.pointee.listPrev = noSlot
    connection.pointee.replica = noSlot
    connection.pointee.replicaGeneration = 0
    connection.pointee.requests = 0
    connection.pointee.receiveLimit = UInt32(io.bufferSize)
    connection.pointee.taken = 0
    connection.pointee.progressAt = io.now
    connection.pointee.receivedAt = io.now
    connection.pointee.keepAliveSeconds = .max
    connection.pointee.parkedAt = 0
    connection.pointee.partial = .none
    connection.pointee.partialCount = 0
    connection.pointee.openedAt = side == .downstream ? io.now : 0
    connection.pointee.peerCount = 0
    connection.pointee.tlsName = TlsName(raw: 0)
    switch side {
    case .downstream: downstreams += 1
    case .upstream: upstreams += 1
    }
    return slot
  }
}
