// Lent buffers are for bytes on their way, not for storing them: when they run short, what waits for a peer that takes
// nothing is copied to private memory and the buffers go back to the ring, so that no stalled stream can stop others.
//
//   plenty ──▶ short: fewer than half of the buffers are free ──▶ plenty
//               each stalled peer's bytes spill, until three quarters are free
//               no spill memory left, and fewer than a quarter free: those stalled longest are closed
//
// The kernel still reads from a pending send, so that one is cancelled first; its completion tells how much has gone,
// and the send goes on from the copy. Nothing more is received for that peer until it has taken all of it.
// `turn` calls `relieve` while buffers are short.

/// A peer that has taken nothing for so long is stalled: far longer than a send takes that nothing holds up. One on a
/// long way, where a round trip takes longer, only has its bytes copied.
private let stallNs: UInt64 = 10_000_000
/// Between two looks at all connections, of which there may be many.
private let lookNs: UInt64 = 5_000_000
/// The same when a look has found nothing to do and buffers are not about to run out.
private let idleLookNs: UInt64 = 50_000_000
/// Bytes that one look may ask to be copied: a few hundred microseconds of copying.
private let spillStepBytes = 4_194_304
/// Whoever has taken this much since its last stall reads it as well: the socket buffers at both ends hold less.
let provenBytes: UInt32 = 16_777_216

let longestStalledMax = 64
/// A candidate for being closed.
struct StalledClient: BitwiseCopyable {
  var since: UInt64
  var slot: UInt32
}

extension Worker where IO: ~Copyable {
  /// Fewer than half of the lent buffers are free.
  @inline(__always)
  var isShort: Bool { io.buffersFree < io.bufferCount / 2 }

  /// Memory for streams is not plentiful: what has not proven to be read gets one buffer at a time.
  @inline(__always)
  var isScarce: Bool { isShort || blocks.spillUsed > blocks.spillFree / 3 }

  // MARK: looking

  /// Looks for stalled peers that hold lent buffers and begins to take those back.
  mutating func relieve() {
    guard io.now >= relieveAt else { return }
    relieveAt = io.now + lookNs
    var room = blocks.spillFree
    var lacking = 0
    var step = 0
    var looked = 0
    let count = connections.highWater
    if Int(relieveFrom) >= count { relieveFrom = 0 }
    while looked < count && step < spillStepBytes {
      let slot = relieveFrom
      relieveFrom = Int(slot) + 1 < count ? slot + 1 : 0
      looked += 1
      step += relieve(slot, &room, &lacking)
    }
    if step == 0 && lacking == 0 && io.buffersFree >= io.bufferCount / 4 { relieveAt = io.now + idleLookNs }
    if lacking > 0 && io.buffersFree < io.bufferCount / 4 { closeLongestStalled(blocks: lacking) }
  }

  /// Begins to take the lent buffers of one connection; returns the bytes that will be copied. `room`: spill blocks not
  /// yet spoken for. `lacking`: those that would have been needed.
  private mutating func relieve(_ slot: UInt32, _ room: inout Int, _ lacking: inout Int) -> Int {
    let connection = connections[slot]
    guard connection.pointee.state != .free, !connection.pointee.isOver else { return 0 }
    var step = 0
    // A body waits here for a replica, or for one that takes it; it is not on its way.
    if !connection.pointee.input.isEmpty {
      step += spill(&connection.pointee.input, &room, &lacking)
    }
    let index = connection.pointee.exchange
    if connection.pointee.side == .downstream && index != noSlot {
      let exchange = exchanges[index]
      if !exchange.pointee.unsent.isEmpty { step += spill(&exchange.pointee.unsent, &room, &lacking) }
    }
    guard !connection.pointee.queue.isEmpty, io.now >= connection.pointee.progressAt &+ stallNs else { return step }
    if connection.pointee.isSending {
      let held = lentHold(connection.pointee.queue)
      if held.blocks == 0 { return step }
      if held.blocks > room {
        lacking += held.blocks - room
      } else if interrupt(slot) {
        room -= held.blocks
        step += held.bytes
      }
    } else {
      step += spill(&connection.pointee.queue, &room, &lacking)
    }
    return step
  }

  /// Bytes of a queue in lent buffers, and the spill blocks that would hold them.
  private func lentHold(_ queue: SegmentQueue) -> (bytes: Int, blocks: Int) {
    var bytes = 0
    var blocks = 0
    var run = 0
    var index = queue.head
    while index != noSlot {
      let segment = segments[index]
      if segment.pointee.owner.buffer != .none {
        run += Int(segment.pointee.count)
      } else {
        bytes += run
        blocks += (run + BlockPool.spillBytes - 1) / BlockPool.spillBytes
        run = 0
      }
      index = segment.pointee.next
    }
    return (bytes + run, blocks + (run + BlockPool.spillBytes - 1) / BlockPool.spillBytes)
  }

  // MARK: interrupting a send

  /// Cancels the send under way, which will go on from where it was. False: not now.
  mutating func interrupt(_ slot: UInt32) -> Bool {
    let connection = connections[slot]
    guard connection.pointee.send == .sending, !connection.pointee.isOver,
      connection.pointee.flags.isDisjoint(with: .cancelling | .sendCancelled)
    else { return false }
    connection.pointee.send = .interrupted
    cancel(slot, Token(.send, slot: slot, generation: connection.pointee.generation), .none)
    return true
  }

  /// The send that was to be interrupted has ended, for that reason or another. `pieces`: segments it was given.
  mutating func sendInterrupted(_ slot: UInt32, _ result: Int32, pieces: Int) {
    let connection = connections[slot]
    let isCancelled = result == RingResult.cancelled  // nothing has gone
    // A replica's stream that has ended meanwhile waits to learn whether the request was accepted.
    let decides = connection.pointee.side == .upstream && connection.pointee.receive == .ended
    if result < 0 && (decides || !isCancelled) {
      if !connection.pointee.isOver { sendFailed(slot) }
      return
    }
    var left = isCancelled ? 0 : Int(result)
    if left > 0 {
      counters.worker.pointee.progress &+= 1
      connection.pointee.flags.remove(.untouched)
      connection.pointee.progressAt = io.now
    }
    var whole = pieces
    while whole > 0 {
      let first = segments[connection.pointee.queue.head]
      guard left >= Int(first.pointee.count) else { break }
      left -= Int(first.pointee.count)
      whole -= 1
      if let piece = popFirst(of: &connection.pointee.queue) { release(piece.owner) }
    }
    if left > 0 {
      let first = segments[connection.pointee.queue.head]
      first.pointee.base! += left
      first.pointee.count -= UInt32(left)
      connection.pointee.queue.bytes -= UInt32(left)
    }
    if connection.pointee.isOver { return }
    if whole > 0 && decides {
      sendFailed(slot)
      return
    }
    if connection.pointee.receive == .ended && endedWhileSending(slot) { return }
    if connection.pointee.queue.isEmpty {
      queueSent(slot)
    } else {
      if hasStalledForGood(slot) { return }
      var room = blocks.spillFree
      var lacking = 0
      if isShort && spill(&connection.pointee.queue, &room, &lacking) > 0 {
        connection.pointee.flags.insert(.spilled)
        connection.pointee.taken = 0
        pauseSource(of: slot)
      }
      // Starting the send again must not renew the stall deadline: the peer has taken nothing.
      let progressAt = connection.pointee.progressAt
      let stallAt = connection.pointee.dues.sendAt
      startSending(slot)
      connection.pointee.progressAt = progressAt
      connection.pointee.dues.sendAt = stallAt
    }
    sendProgressed(slot)
  }

  /// A cancel has been answered.
  mutating func cancelEnded(_ slot: UInt32) {
    let connection = connections[slot]
    connection.pointee.flags.remove(.cancelling)
    operationEnded(slot)
    // The replica's stream ended while this cancel was under way, and its send has not: ask again.
    if connection.pointee.side == .upstream && connection.pointee.exchange != noSlot
      && connection.pointee.receive == .ended && connection.pointee.isSending
      && connection.pointee.flags.contains(.untouched)
      && !connection.pointee.isOver && connection.pointee.flags.isDisjoint(with: .cancelling | .sendCancelled)
    {
      cancel(slot, Token(.send, slot: slot, generation: connection.pointee.generation), .sendCancelled)
    }
  }

  /// Stops the receive that brings bytes for a stalled peer: what it may still bring would have to be held too.
  private mutating func pauseSource(of slot: UInt32) {
    let index = connections[slot].pointee.exchange
    guard index != noSlot else { return }
    let exchange = exchanges[index]
    let isTunnel = exchange.pointee.phase == .tunnel
    let source: UInt32
    switch connections[slot].pointee.side {
    case .downstream: source = isTunnel || exchange.pointee.phase == .streaming ? exchange.pointee.upstream : noSlot
    // When the request has been read, the client's receive is there to notice that it leaves.
    case .upstream:
      source = isTunnel || !exchange.pointee.flags.contains(.requestRead) ? exchange.pointee.downstream : noSlot
    }
    guard source != noSlot else { return }
    let connection = connections[source]
    guard connection.pointee.receive == .armed, !connection.pointee.isOver,
      !connection.pointee.flags.contains(.cancelling)
    else { return }
    cancel(source, Token(.receive, slot: source, generation: connection.pointee.generation), .none)
  }

  // MARK: copying

  /// Moves the bytes of a queue that no send reads from lent buffers to spill blocks, and gives the buffers back.
  /// Returns the bytes moved: all that were there, or none when there is not enough room for all.
  private mutating func spill(_ queue: inout SegmentQueue, _ room: inout Int, _ lacking: inout Int) -> Int {
    let held = lentHold(queue)
    guard held.blocks > 0 else { return 0 }
    // A segment larger than a block becomes several; the plan has one for each block.
    guard held.blocks <= min(room, blocks.spillFree), held.blocks <= segments.capacity - segments.used else {
      lacking += max(1, held.blocks - room)
      return 0
    }
    room -= held.blocks
    counters.worker.pointee.spilledBytes &+= UInt64(held.bytes)
    // The segment with a block that has room left, and the one before the present one.
    var filling = noSlot
    var before = noSlot
    var index = queue.head
    while index != noSlot {
      let segment = segments[index]
      let next = segment.pointee.next
      let owner = segment.pointee.owner
      guard owner.buffer != .none else {
        filling = noSlot
        before = index
        index = next
        continue
      }
      var from = segment.pointee.base!
      var left = Int(segment.pointee.count)
      if filling != noSlot { fill(filling, &from, &left) }
      if left == 0 {
        segments[before].pointee.next = next
        if next == noSlot { queue.tail = before }
        queue.segments -= 1
        segments.release(index)
      } else {
        // The segment itself takes the first block, further ones come behind it.
        var at = index
        setBlock(at)
        fill(at, &from, &left)
        while left > 0 {
          guard let more = segments.claim() else { preconditionFailure("no segment for a spill block") }
          segments[more].pointee.next = segments[at].pointee.next
          segments[at].pointee.next = more
          if queue.tail == at { queue.tail = more }
          queue.segments += 1
          setBlock(more)
          fill(more, &from, &left)
          at = more
        }
        filling = at
        before = at
      }
      release(owner)
      index = next
    }
    return held.bytes
  }

  private mutating func setBlock(_ index: UInt32) {
    guard let block = blocks.claimSpill() else { preconditionFailure("fewer spill blocks than were counted") }
    let segment = segments[index]
    segment.pointee.owner = SegmentOwner(block: block)
    segment.pointee.base = blocks.bytes(of: block)
    segment.pointee.count = 0
  }

  /// Copies what fits behind a segment's bytes in its spill block.
  private func fill(_ index: UInt32, _ from: inout UnsafeMutablePointer<UInt8>, _ left: inout Int) {
    let segment = segments[index]
    let count = Int(segment.pointee.count)
    let take = min(left, BlockPool.spillBytes - count)
    UnsafeMutableRawPointer(segment.pointee.base! + count).copyMemory(from: from, byteCount: take)
    segment.pointee.count += UInt32(take)
    from += take
    left -= take
  }

  // MARK: closing

  /// Spill memory is used up too: those stalled longest make room for at least `blocks` blocks.
  private mutating func closeLongestStalled(blocks wanted: Int) {
    var found = 0
    var slot: UInt32 = 0
    while Int(slot) < connections.highWater {
      if let since = stalledSince(slot), io.now >= since &+ stallNs, held(slot) > 0 {
        var place = min(found, longestStalledMax - 1)
        if found < longestStalledMax {
          found += 1
        } else if longestStalled[place].since <= since {
          slot += 1
          continue
        }
        while place > 0 && longestStalled[place - 1].since > since {
          longestStalled[place] = longestStalled[place - 1]
          place -= 1
        }
        longestStalled[place] = StalledClient(since: since, slot: slot)
      }
      slot += 1
    }
    var freed = 0
    var next = 0
    while next < found && freed < wanted {
      let slot = longestStalled[next].slot
      next += 1
      freed += held(slot)
      counters.worker.pointee.slowClientsShed &+= 1
      closeStalled(slot)
    }
  }

  /// Since when nothing of what waits on a client's behalf has moved; nil when nothing waits.
  private func stalledSince(_ slot: UInt32) -> UInt64? {
    let connection = connections[slot]
    guard connection.pointee.side == .downstream, connection.pointee.state != .free,
      !connection.pointee.isOver
    else { return nil }
    if !connection.pointee.queue.isEmpty { return connection.pointee.progressAt }
    let index = connection.pointee.exchange
    guard index != noSlot else { return connection.pointee.input.isEmpty ? nil : connection.pointee.receivedAt }
    let upstream = exchanges[index].pointee.upstream
    if upstream != noSlot && !connections[upstream].pointee.queue.isEmpty {
      return connections[upstream].pointee.progressAt
    }
    return connection.pointee.input.isEmpty && exchanges[index].pointee.unsent.isEmpty
      ? nil : connection.pointee.receivedAt
  }

  /// Spill blocks, or lent buffers counted in them, that hold what waits on a client's behalf, both ways.
  private func held(_ slot: UInt32) -> Int {
    let connection = connections[slot]
    var blocks = held(connection.pointee.queue) + held(connection.pointee.input)
    let index = connection.pointee.exchange
    guard index != noSlot else { return blocks }
    blocks += held(exchanges[index].pointee.unsent)
    let upstream = exchanges[index].pointee.upstream
    if upstream != noSlot { blocks += held(connections[upstream].pointee.queue) }
    return blocks
  }

  private func held(_ queue: SegmentQueue) -> Int {
    var blocks = 0
    var index = queue.head
    while index != noSlot {
      let owner = segments[index].pointee.owner
      if owner.buffer != .none {
        blocks += (Int(segments[index].pointee.count) + BlockPool.spillBytes - 1) / BlockPool.spillBytes
      } else if owner.block != .none && owner.block.isSpill {
        blocks += 1
      }
      index = segments[index].pointee.next
    }
    return blocks
  }

  /// A request whose response has not begun gets 503, a reader that takes nothing a reset.
  private mutating func closeStalled(_ slot: UInt32) {
    let index = connections[slot].pointee.exchange
    let hasBegun = index != noSlot && exchanges[index].pointee.flags.contains(.headSent)
    let isRequest = index != noSlot && !hasBegun && connections[slot].pointee.queue.isEmpty
    mark(slot, Fault(isRequest ? .own : .client, .body, .stalled))
  }
}
