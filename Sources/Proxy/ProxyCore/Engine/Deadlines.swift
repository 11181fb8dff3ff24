// What it means when a connection's deadline passes: a table from state to answer.

extension Worker where IO: ~Copyable {
  mutating func deadlinePassed(_ slot: UInt32) {
    let connection = connections[slot]
    switch connection.pointee.state {
    case .readingHead: headOverdue(slot)
    case .exchanging: clientOverdue(slot)
    case .replying: if connection.pointee.queue.isEmpty { stop(slot) } else { stalledOrAgain(slot) }
    case .lingering: stop(slot)
    case .connecting: attemptFailed(connection.pointee.exchange, .connect, timedOut: true, nothingAccepted: true)
    case .serving: replicaOverdue(slot)
    case .parked: stop(slot)
    case .tunnel: if connection.pointee.exchange != noSlot { abandonTunnel(connection.pointee.exchange) }
    case .free, .stopping: break
    }
  }

  private mutating func headOverdue(_ slot: UInt32) {
    let connection = connections[slot]
    if !connection.pointee.queue.isEmpty {
      // The last response is still being read; that is not idling.
      stalledOrAgain(slot)
    } else if connection.pointee.partial != .none {
      counters.worker.pointee.headTimeouts &+= 1
      reply(slot, .headTimeout)
    } else {
      stop(slot)
    }
  }

  private mutating func clientOverdue(_ slot: UInt32) {
    let connection = connections[slot]
    let index = connection.pointee.exchange
    guard index != noSlot else {
      stop(slot)
      return
    }
    let exchange = exchanges[index]
    if exchange.pointee.phase == .queued {
      counters.worker.pointee.queueTimeouts &+= 1
      waiting.remove(index, in: exchanges.base)
      board.shared.pointee.queued.wrappingSubtract(1, ordering: .relaxed)
      finishLocally(index, .queueTimeout)
    } else if !connection.pointee.queue.isEmpty {
      stalledOrAgain(slot)
    } else if !exchange.pointee.flags.contains(.requestRead) && connection.pointee.flags.contains(.receiving)
      && exchange.pointee.upstream != noSlot && connections[exchange.pointee.upstream].pointee.queue.isEmpty
      && io.now >= connection.pointee.progressAt &+ config.streamTimeoutNs
    {
      if exchange.pointee.flags.contains(.headSent) {
        clientGone(slot)
      } else {
        finishLocally(index, .bodyTimeout)
      }
    } else if !exchange.pointee.flags.contains(.requestRead) {
      wheel.set(slot, at: max(connection.pointee.progressAt, io.now) &+ config.streamTimeoutNs)
    }
  }

  /// Bytes wait for a client: it is closed when none has gone for the stream deadline. A send that is long under way
  /// may have gone in part: it is interrupted to see.
  private mutating func stalledOrAgain(_ slot: UInt32) {
    let connection = connections[slot]
    let end = connection.pointee.progressAt &+ config.streamTimeoutNs
    if io.now < end {
      wheel.set(slot, at: end)
    } else if interrupt(slot) {
      wheel.set(slot, at: io.now + 1_000_000_000)
    } else {
      closeStalledClient(slot)
    }
  }

  /// An interrupted send had not moved: true when that is so for the stream deadline, and ends the connection.
  mutating func hasStalledForGood(_ slot: UInt32) -> Bool {
    let connection = connections[slot]
    guard connection.pointee.side == .downstream, connection.pointee.state != .tunnel,
      io.now >= connection.pointee.progressAt &+ config.streamTimeoutNs
    else { return false }
    closeStalledClient(slot)
    return true
  }

  private mutating func closeStalledClient(_ slot: UInt32) {
    counters.worker.pointee.clientStalls &+= 1
    connections[slot].pointee.flags.insert(.reset)
    clientGone(slot)
  }

  private mutating func replicaOverdue(_ slot: UInt32) {
    let connection = connections[slot]
    let index = connection.pointee.exchange
    guard index != noSlot else {
      stop(slot)
      return
    }
    let exchange = exchanges[index]
    switch exchange.pointee.phase {
    case .waiting:
      if !exchange.pointee.flags.contains(.requestRead) && connection.pointee.queue.isEmpty {
        // It waits for the client's body, not we for it.
        wheel.set(slot, at: io.now + config.responseTimeoutNs)
      } else {
        attemptFailed(index, .head, timedOut: true, nothingAccepted: false)
      }
    case .streaming:
      if connection.pointee.flags.contains(.receiving) {
        attemptFailed(index, .body, timedOut: true, nothingAccepted: false)
      } else {
        // Paused for the client's sake: the silence is ours.
        wheel.set(slot, at: io.now + config.streamTimeoutNs)
      }
    case .tunnel, .ready, .queued, .connecting: break
    }
  }
}
