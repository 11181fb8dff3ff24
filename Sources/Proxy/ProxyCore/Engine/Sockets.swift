// What both sides share: bytes queued and sent in order, receives armed and paused, lent buffers counted, and the one
// place where a connection is closed. Nothing here ends an exchange: what fails is marked (Ending).

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

  /// Copies a small piece behind the queue's last one when that is the only user of memory with room: a thousand tiny
  /// pieces for a stalled reader then hold one buffer, and the answers to pipelined requests one block. True when it
  /// was taken over. `inFlight`: segments that a send is reading.
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
      // Nothing behind a segment's end is still needed: what is left of a block moves to a block of its own (Pump).
      let block = last.pointee.owner.block
      guard block != .none else { return false }
      limit = UnsafeMutableRawPointer(blocks.bytes(of: block)) + blocks.capacity(of: block)
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

  /// Puts a piece in front. False: no segment is left, and the piece has been released; its bytes are lost.
  @inline(__always)
  mutating func pushFirst(
    _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner, onto queue: inout SegmentQueue
  ) -> Bool {
    guard let index = segments.claim() else {
      release(owner)
      return false
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
    return true
  }

  mutating func releaseAll(_ queue: inout SegmentQueue) {
    while let piece = popFirst(of: &queue) { release(piece.owner) }
  }

  // MARK: sending

  /// Queues a piece for a socket, to be sent at the end of the turn unless a send is under way. The piece is released
  /// when sent, or now when the connection is over. Ends nothing: a connection for which no segment is left is marked.
  @inline(__always)
  mutating func enqueue(_ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner) {
    let connection = connections[slot]
    if count == 0 || connection.pointee.isOver {
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
      // It cannot go on without losing bytes.
      connection.pointee.flags.insert(.reset)
      mark(slot, Fault(.own, .send, .memory))
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
    guard connection.pointee.send == .idle else { return }
    // A slot that is freed and taken again in one turn can be listed twice.
    guard dueCount < connections.capacity else {
      startSending(slot)
      return
    }
    connection.pointee.send = .due
    due[dueCount] = slot
    dueCount += 1
  }

  /// Begins the sends of this turn.
  mutating func sendDue() {
    for place in 0..<dueCount {
      let slot = due[place]
      guard connections[slot].pointee.send == .due else { continue }
      connections[slot].pointee.send = .idle
      startSending(slot)
    }
    dueCount = 0
  }

  /// Begins a send of everything queued, up to what one operation gathers.
  @inline(__always)
  mutating func startSending(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.send == .idle, !connection.pointee.isOver,
      connection.pointee.state != .connecting, connection.pointee.queue.head != noSlot
    else { return }
    counters.worker.pointee.progress &+= 1
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
    connection.pointee.send = .sending
    connection.pointee.operations += 1
    connection.pointee.progressAt = io.now
    if connection.pointee.side == .downstream && connection.pointee.state != .tunnel {
      arm(slot, .sendStall, after: config.streamTimeoutNs)
    }
  }

  /// A send has ended.
  @inline(__always)
  mutating func sent(_ slot: UInt32, _ result: Int32) {
    let connection = connections[slot]
    let wasInterrupted = connection.pointee.send == .interrupted
    connection.pointee.send = .idle
    connection.pointee.operations -= 1
    var left = Int(connection.pointee.sendingSegments)
    connection.pointee.sendingSegments = 0
    if connection.pointee.isStopping {
      join(slot)
      return
    }
    if wasInterrupted {
      sendInterrupted(slot, result, pieces: left)
      return
    }
    if result < 0 {
      sendFailed(slot)
      return
    }
    counters.worker.pointee.progress &+= 1
    connection.pointee.flags.remove(.untouched)
    connection.pointee.progressAt = io.now
    if connection.pointee.taken < provenBytes { connection.pointee.taken &+= UInt32(result) }
    var wanted = 0
    while left > 0, let piece = popFirst(of: &connection.pointee.queue) {
      wanted += piece.count
      release(piece.owner)
      left -= 1
    }
    if connection.pointee.isOver { return }
    if Int(result) < wanted {
      sendFailed(slot)
      return
    }
    if connection.pointee.receive == .ended && endedWhileSending(slot) { return }
    if connection.pointee.queue.head != noSlot {
      sendLater(slot)
    } else {
      queueSent(slot)
    }
    sendProgressed(slot)
  }

  @inline(__always)
  mutating func sendFailed(_ slot: UInt32) {
    switch connections[slot].pointee.side {
    case .downstream: mark(slot, Fault(.client, .send, .closed))
    case .upstream: upstreamSendFailed(slot)
    }
  }

  // MARK: receiving

  /// Arms the receive unless it is armed, the stream has ended, or the slot is over.
  @inline(__always)
  mutating func armReceive(_ slot: UInt32, pollFirst: Bool) {
    let connection = connections[slot]
    guard connection.pointee.receive == .idle || connection.pointee.receive == .paused, !connection.pointee.isOver
    else { return }
    connection.pointee.receive = .armed
    connection.pointee.operations += 1
    io.receive(
      connection.pointee.fd, limit: connection.pointee.receiveLimit, pollFirst: pollFirst,
      token: Token(.receive, slot: slot, generation: connection.pointee.generation))
    if awaitsBody(slot) { arm(slot, .bodyStall, after: config.streamTimeoutNs) }
  }

  @inline(__always)
  mutating func received(_ slot: UInt32, _ completion: Completion) {
    let connection = connections[slot]
    if !completion.more {
      connection.pointee.receive = .idle
      connection.pointee.operations -= 1
    }
    if completion.buffer != .none {
      bufferRefs[Int(completion.buffer.raw)] = 1
      if completion.result <= 0 { releaseBuffer(completion.buffer) }
    }
    if connection.pointee.isOver {
      if completion.result > 0 { releaseBuffer(completion.buffer) }
      if connection.pointee.isStopping && !completion.more { join(slot) }
      return
    }
    if completion.result > 0 {
      counters.worker.pointee.progress &+= 1
      let base = io.bytes(of: completion.buffer).assumingMemoryBound(to: UInt8.self)
      let owner = SegmentOwner(buffer: completion.buffer)
      switch connection.pointee.side {
      case .downstream: downstreamReceived(slot, base, Int(completion.result), owner)
      case .upstream: upstreamReceived(slot, base, Int(completion.result), owner)
      }
      if !completion.more { receiveEnded(slot) }
    } else if completion.result == RingResult.noBuffers {
      if !completion.more { starve(slot) }
    } else if completion.result == RingResult.cancelled || completion.result == RingResult.interrupted {
      // Not the peer's doing.
      if !completion.more { receiveEnded(slot) }
    } else {
      counters.worker.pointee.progress &+= 1
      connection.pointee.receive = .ended
      connection.pointee.dues.receiveAt = 0
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
    // The pool is really empty. If not, only this turn's buffers are in use, and that is no exhaustion to count.
    if isShort { counters.worker.pointee.buffersExhausted &+= 1 }
    // A parked connection is on the idle list and has nothing to wait for.
    if connection.pointee.state == .parked {
      stop(slot)
      return
    }
    connection.pointee.receive = .starved
    connection.pointee.dues.receiveAt = 0
    connection.pointee.listNext = noSlot
    connection.pointee.listPrev = starvedTail
    if starvedTail == noSlot { starvedHead = slot } else { connections[starvedTail].pointee.listNext = slot }
    starvedTail = slot
    if connection.pointee.side == .downstream { watch(slot) }
  }

  mutating func leaveStarved(_ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.receive = .idle
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
    guard !connection.pointee.isStopping else { return }
    if connection.pointee.state == .parked { unpark(slot) }
    if connection.pointee.receive == .starved { leaveStarved(slot) }
    if connection.pointee.send == .due { connection.pointee.send = .idle }
    counters.worker.pointee.progress &+= 1
    connection.pointee.state = .stopping
    connection.pointee.dues = Dues()
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
      connection.pointee.flags.insert(.receiveCancelled | .sendCancelled)
    }
    join(slot)
  }

  @inline(__always)
  private func connectUnderWay(_ slot: UInt32) -> Bool {
    // Only a connecting upstream has an operation that is none of receive, send, shutdown, cancel.
    connections[slot].pointee.side == .upstream && connections[slot].pointee.openedAt == 0
  }

  mutating func operationEnded(_ slot: UInt32) {
    connections[slot].pointee.operations -= 1
    if connections[slot].pointee.isStopping { join(slot) }
  }

  /// A stopping slot: cancels what will not end by itself, one operation at a time, and closes when nothing is left.
  mutating func join(_ slot: UInt32) {
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
    } else if connection.pointee.receive == .armed && !connection.pointee.flags.contains(.receiveCancelled) {
      cancel(slot, Token(.receive, slot: slot, generation: generation), .receiveCancelled)
    } else if connection.pointee.isSending && !connection.pointee.flags.contains(.sendCancelled) {
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
    connection.pointee.receive = .idle
    connection.pointee.send = .idle
    connection.pointee.close = .open
    connection.pointee.flags = .none
    connection.pointee.dues = Dues()
    connection.pointee.discard = 0
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
