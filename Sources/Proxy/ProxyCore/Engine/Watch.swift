// Clients that leave while nothing is received from them: a body ahead of its replica, a pipelined request behind one
// that is being answered. The end of their stream lies behind bytes that nobody takes, so the socket is watched for it.

extension Worker where IO: ~Copyable {
  /// Receives nothing more until what is there has been taken.
  mutating func pause(_ slot: UInt32) {
    connections[slot].pointee.flags.insert(.paused)
    if connections[slot].pointee.side == .downstream { watch(slot) }
  }

  /// Stays armed when receiving goes on: until the client ends it costs nothing.
  mutating func watch(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.flags.isDisjoint(with: .watching | .closing) else { return }
    connection.pointee.flags.insert(.watching)
    connection.pointee.operations += 1
    io.watch(
      connection.pointee.fd, fin: connection.pointee.flags.isDisjoint(with: .ended | .finSeen),
      token: Token(.watch, slot: slot, generation: connection.pointee.generation))
  }

  /// The client's end has shown.
  mutating func watched(_ slot: UInt32, _ result: Int32) {
    let connection = connections[slot]
    connection.pointee.flags.remove(.watching)
    connection.pointee.operations -= 1
    if connection.pointee.flags.contains(.closing) {
      settle(slot)
      return
    }
    guard result > 0 else { return }
    let isExchange = connection.pointee.state == .exchanging && connection.pointee.exchange != noSlot
    if result & PeerEnd.broken != 0 || (result & PeerEnd.both != 0 && isExchange) {
      clientGone(slot)
      return
    }
    // Where both directions have ended in order, as those of a tunnel do, the last bytes may still be on their way.
    if result & PeerEnd.both != 0 { return }
    guard isExchange else { return }
    let unread = io.unread(on: connection.pointee.fd)
    let cameAt = max(connection.pointee.receivedAt, io.now &- min(io.now, unread.silenceNs))
    if mayAwaitAnswer(slot, unread: unread.bytes, cameAt: cameAt) {
      connection.pointee.flags.insert(.finSeen)
      watch(slot)
    } else {
      clientGone(slot)
    }
  }
}
