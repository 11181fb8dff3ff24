// Parked connections to replicas: per worker and replica, last parked first taken. Their receive stays armed, so a
// replica that closes (uvicorn does after five seconds) is noticed as a completion, and completions are all handled
// before anything is taken: a connection known dead is never reused.

/// How long connections to one replica may lie parked.
package struct IdleLimit: BitwiseCopyable {
  /// The replica's generation: what its place's next owner does is another matter.
  package var generation: UInt32 = 0
  /// Microseconds; 0 = it has closed none.
  package var us: UInt32 = 0
  package init() {}
}

extension Worker where IO: ~Copyable {
  /// Puts a connection whose exchange is over into the pool, or closes it when the pool is full or it is unfit.
  @inline(__always)
  mutating func park(_ slot: UInt32) {
    let connection = connections[slot]
    let replica = Int(connection.pointee.replica)
    let fit =
      !connection.pointee.isOver && connection.pointee.receive != .ended && connection.pointee.receive != .starved
      && connection.pointee.send != .broken
      && connection.pointee.replicaGeneration == board.places[replica].generation
      && Int(idleCounts[replica]) < config.poolSize && !draining
    guard fit else {
      stop(slot)
      return
    }
    acknowledgeAtOnce(slot)
    connection.pointee.state = .parked
    connection.pointee.listPrev = noSlot
    connection.pointee.listNext = idleHeads[replica] &- 1  // 0 (none) becomes noSlot
    if connection.pointee.listNext != noSlot { connections[connection.pointee.listNext].pointee.listPrev = slot }
    idleHeads[replica] = slot + 1
    idleCounts[replica] += 1
    parked += 1
    // A fifth below what the replica states: never in use when it closes.
    let stated = UInt64(connection.pointee.keepAliveSeconds) * 800_000_000
    disarmPhase(slot)
    connection.pointee.dues.receiveAt = 0
    arm(slot, .parked, after: min(config.poolIdleNs, stated))
    connection.pointee.parkedAt = io.now
    forgetSlowly(replica)
    armReceive(slot, pollFirst: true)
  }

  @inline(__always)
  mutating func unpark(_ slot: UInt32) {
    let connection = connections[slot]
    let replica = Int(connection.pointee.replica)
    let next = connection.pointee.listNext
    let prev = connection.pointee.listPrev
    if prev == noSlot { idleHeads[replica] = next &+ 1 } else { connections[prev].pointee.listNext = next }
    if next != noSlot { connections[next].pointee.listPrev = prev }
    idleCounts[replica] -= 1
    parked -= 1
    connection.pointee.state = .serving
  }

  /// The replica closed a connection that had been idle from `parkedAt` until `end`: from now on they are not taken
  /// again when four fifths as old. Where a request and that close cross on the wire nobody can tell whether it was
  /// begun, so a POST would have to fail.
  mutating func learnIdleLimit(_ slot: UInt32, until end: UInt64) {
    let connection = connections[slot]
    let age = end &- connection.pointee.parkedAt
    // Closing at once after a response is no idle limit, nor is one above what we keep them for.
    guard connection.pointee.parkedAt != 0, age >= 1_000_000, age < config.poolIdleNs else { return }
    let replica = Int(connection.pointee.replica)
    guard connection.pointee.replicaGeneration == board.places[replica].generation else { return }
    let limit = UInt32(age / 1250)
    let known = idleLimit(replica)
    if known == 0 || limit < known { idleLimits[replica].us = limit }
  }

  @inline(__always)
  private func idleLimit(_ replica: Int) -> UInt32 {
    let generation = board.places[replica].generation
    if idleLimits[replica].generation != generation {
      idleLimits[replica].generation = generation
      idleLimits[replica].us = 0
    }
    return idleLimits[replica].us
  }

  /// What was learned may have been a restart: it grows back by a part in 256 with each use.
  @inline(__always)
  private func forgetSlowly(_ replica: Int) {
    let limit = idleLimit(replica)
    guard limit != 0 else { return }
    let longer = UInt64(limit) + UInt64(limit >> 8) + 1
    idleLimits[replica].us = longer * 1000 >= config.poolIdleNs ? 0 : UInt32(longer)
  }

  /// A parked connection of the replica that may still be taken, or nil.
  @inline(__always)
  mutating func takeParked(_ replica: UInt32) -> UInt32? {
    guard idleHeads[Int(replica)] != 0 else { return nil }
    let slot = idleHeads[Int(replica)] - 1
    if connections[slot].pointee.replicaGeneration == board.places[Int(replica)].generation {
      let limit = idleLimit(Int(replica))
      if limit == 0 || io.now &- connections[slot].pointee.parkedAt < UInt64(limit) * 1000 {
        unpark(slot)
        return slot
      }
    }
    // Of an earlier replica with this index, or so old that its replica may be closing it now. So are those behind it;
    // one makes room for the new connection, and closing them all now would keep this worker and the replica busy.
    stop(slot)
    return nil
  }

  /// Makes room for a connection to someone else.
  mutating func closeOneParked() {
    var slot: UInt32 = 0
    while Int(slot) < connections.highWater {
      if connections[slot].pointee.state == .parked {
        stop(slot)
        return
      }
      slot += 1
    }
  }
}
