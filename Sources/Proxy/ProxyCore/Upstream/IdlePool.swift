// Parked connections to replicas: per worker and replica, last parked first taken. Their receive stays armed, so a
// replica that closes (uvicorn does after five seconds) is noticed as a completion, and completions are all handled
// before anything is taken: a connection known dead is never reused.

extension Worker where IO: ~Copyable {
  /// Puts a connection whose exchange is over into the pool, or closes it when the pool is full or it is unfit.
  @inline(__always)
  mutating func park(_ slot: UInt32) {
    let connection = connections[slot]
    let replica = Int(connection.pointee.replica)
    let fit =
      connection.pointee.flags.isDisjoint(with: .ended | .closing | .sendBroken | .starved)
      && connection.pointee.replicaGeneration == board.places[replica].generation
      && Int(idleCounts[replica]) < config.poolSize && !draining
    guard fit else {
      stop(slot)
      return
    }
    connection.pointee.state = .parked
    connection.pointee.listPrev = noSlot
    connection.pointee.listNext = idleHeads[replica] &- 1  // 0 (none) becomes noSlot
    if connection.pointee.listNext != noSlot { connections[connection.pointee.listNext].pointee.listPrev = slot }
    idleHeads[replica] = slot + 1
    idleCounts[replica] += 1
    parked += 1
    // A fifth below what the replica states: never in use when it closes.
    let stated = UInt64(connection.pointee.keepAliveSeconds) * 800_000_000
    wheel.set(slot, at: io.now + min(config.poolIdleNs, stated))
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

  /// A parked connection of the replica, or nil. Those of an earlier replica with the same index are closed.
  @inline(__always)
  mutating func takeParked(_ replica: UInt32) -> UInt32? {
    let generation = board.places[Int(replica)].generation
    while idleHeads[Int(replica)] != 0 {
      let slot = idleHeads[Int(replica)] - 1
      if connections[slot].pointee.replicaGeneration == generation {
        unpark(slot)
        return slot
      }
      stop(slot)
    }
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
