// Clients that leave while nothing is received from them: a body ahead of its replica, a pipelined request behind one
// that is being answered. The end of their stream lies behind bytes that nobody takes, so the socket is watched for it.

extension Worker where IO: ~Copyable {
  /// Receives nothing more until what is there has been taken.
  mutating func pause(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.receive == .idle else { return }
    connection.pointee.receive = .paused
    connection.pointee.dues.receiveAt = 0
    if connection.pointee.side == .downstream { watch(slot) }
  }

  /// Stays armed until the connection ends: as long as the client is there it costs nothing.
  mutating func watch(_ slot: UInt32) {
    let connection = connections[slot]
    guard !connection.pointee.isOver, !connection.pointee.flags.contains(.watching) else { return }
    connection.pointee.flags.insert(.watching)
    connection.pointee.operations += 1
    io.watch(
      connection.pointee.fd, token: Token(.watch, slot: slot, generation: connection.pointee.generation))
  }

  /// The client's end has shown.
  mutating func watched(_ slot: UInt32, _ completion: Completion) {
    let connection = connections[slot]
    let result = completion.result
    if !completion.more {
      connection.pointee.flags.remove(.watching)
      connection.pointee.operations -= 1
    }
    if connection.pointee.isOver {
      if connection.pointee.isStopping && !completion.more { join(slot) }
      return
    }
    guard result > 0 else { return }
    // The kernel ends a multishot poll early where its completion queue was full.
    if !completion.more { watch(slot) }
    let isExchange = connection.pointee.state == .exchanging && connection.pointee.exchange != noSlot
    if result & PeerEnd.broken != 0 || (result & PeerEnd.both != 0 && isExchange) {
      mark(slot, Fault(.client, .body, .closed))
      return
    }
    // Where both directions have ended in order, as those of a tunnel do, the last bytes may still be on their way.
    if result & PeerEnd.both != 0 { return }
    // Its FIN is judged once.
    guard isExchange, connection.pointee.receive != .ended, !connection.pointee.flags.contains(.finSeen) else { return }
    let unread = io.unread(on: connection.pointee.fd)
    let cameAt = max(connection.pointee.receivedAt, io.now &- min(io.now, unread.silenceNs))
    if mayAwaitAnswer(slot, unread: unread.bytes, cameAt: cameAt) {
      counters.worker.pointee.progress &+= 1
      connection.pointee.flags.insert(.finSeen)
    } else {
      mark(slot, Fault(.client, .body, .closed))
    }
  }
}
