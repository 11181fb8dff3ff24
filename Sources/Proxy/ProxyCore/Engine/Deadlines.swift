// What every connection owes, and until when. A deadline is a fact that is stored with its meaning: armed where the
// obligation begins, disarmed where it ends, and when it passes, one switch says what that means.
//
//   lane      owed while                                     due          who               when it passes
//   phase     no byte of a (next) request has come           idle         client            closed
//             a head is incomplete, or a body is discarded   head         client            408
//             all replicas are at their limit                queue        client            503
//             we have answered and closed our half           linger       client            closed
//             a connect is under way                         connect      replica           another one, or 504
//             the request is sent, no response head yet      response     replica           504
//             the connection lies in the idle pool           parked       replica           closed
//             an upgraded connection is silent               tunnel       replica           both closed
//   receive   a body is awaited and its receive is armed     bodyStall    either            408, 504 or a cut
//   send      bytes wait to be taken                         sendStall    client            closed with RST
//   liveness  it has an exchange or bytes to send            liveness     either            as if it had closed
//
// The lanes are independent: a queued upload owes its queue and its body, a stream its events and its reader. The wheel
// holds one alarm per slot, never later than the earliest of its deadlines; an alarm that finds nothing passed is set
// again. So renewing a deadline, as each event of a stream does, costs one store.

/// What a deadline is for.
package enum Due: UInt8, BitwiseCopyable {
  case none
  case idle, head, queue, linger, connect, response, parked, tunnel
  case bodyStall
  case sendStall
  case liveness

  /// Whether it may take the place of another in its lane that is still owed. All other changes have to disarm first:
  /// a deadline that nobody ended is a mistake.
  @inline(__always)
  package func mayReplace(_ old: Due) -> Bool {
    if old == .none || old == self { return true }
    switch self {
    case .head: return old == .idle
    case .response: return old == .connect || old == .parked
    case .tunnel: return old == .response
    case .none, .idle, .queue, .linger, .connect, .parked, .bodyStall, .sendStall, .liveness: return false
    }
  }
}

/// The deadlines of one connection, nanoseconds of the worker's clock; 0 = not owed.
package struct Dues: BitwiseCopyable {
  package var phase = Due.none
  package var phaseAt: UInt64 = 0
  package var receiveAt: UInt64 = 0
  package var sendAt: UInt64 = 0
  package var livenessAt: UInt64 = 0
  package init() {}

  /// The earliest, `.max` when nothing is owed.
  package var next: UInt64 {
    // 0 becomes the largest number.
    let early = min(min(phaseAt &- 1, receiveAt &- 1), min(sendAt &- 1, livenessAt &- 1))
    return early == .max ? .max : early + 1
  }
}

extension Worker where IO: ~Copyable {
  /// From now on `slot` owes `due`, `ns` nanoseconds from now.
  @inline(__always)
  mutating func arm(_ slot: UInt32, _ due: Due, after ns: UInt64) {
    let connection = connections[slot]
    let at = io.now &+ ns
    switch due {
    case .none: return
    case .idle, .head, .queue, .linger, .connect, .response, .parked, .tunnel:
      precondition(due.mayReplace(connection.pointee.dues.phase), "a deadline was replaced that nobody had ended")
      connection.pointee.dues.phase = due
      connection.pointee.dues.phaseAt = at
    case .bodyStall: connection.pointee.dues.receiveAt = at
    case .sendStall: connection.pointee.dues.sendAt = at
    case .liveness:
      // Looked at now and then; a look that is to come soon is as good.
      if connection.pointee.dues.livenessAt > io.now { return }
      connection.pointee.dues.livenessAt = at
    }
    wheel.wake(slot, by: at)
  }

  /// The phase's obligation has been met.
  @inline(__always)
  mutating func disarmPhase(_ slot: UInt32) {
    connections[slot].pointee.dues.phase = .none
    connections[slot].pointee.dues.phaseAt = 0
  }

  /// An alarm went off: handles what has passed and sets the next alarm.
  mutating func alarm(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.state != .free, !connection.pointee.isOver else { return }
    if connection.pointee.dues.phaseAt != 0 && connection.pointee.dues.phaseAt <= io.now {
      let due = connection.pointee.dues.phase
      disarmPhase(slot)
      expire(slot, due)
    }
    if connection.pointee.dues.receiveAt != 0 && connection.pointee.dues.receiveAt <= io.now {
      connection.pointee.dues.receiveAt = 0
      expire(slot, .bodyStall)
    }
    if connection.pointee.dues.sendAt != 0 && connection.pointee.dues.sendAt <= io.now {
      connection.pointee.dues.sendAt = 0
      expire(slot, .sendStall)
    }
    if connection.pointee.dues.livenessAt != 0 && connection.pointee.dues.livenessAt <= io.now {
      connection.pointee.dues.livenessAt = 0
      expire(slot, .liveness)
    }
    guard !connection.pointee.isOver else { return }
    let next = connection.pointee.dues.next
    if next != .max { wheel.wake(slot, by: next) }
  }

  private mutating func expire(_ slot: UInt32, _ due: Due) {
    let connection = connections[slot]
    // One that has passed may have settled what the others are about.
    guard !connection.pointee.isOver else { return }
    switch due {
    case .none: break
    case .idle:
      // While its last answer is still being read, a client does not idle.
      if connection.pointee.queue.isEmpty { stop(slot) } else { arm(slot, .idle, after: config.idleTimeoutNs) }
    case .linger, .parked: stop(slot)
    case .head:
      if connection.pointee.discard > 0 {
        stop(slot)
      } else {
        counters.worker.pointee.headTimeouts &+= 1
        mark(slot, Fault(.client, .head, .timeout))
      }
    case .queue: mark(slot, Fault(.own, .queue, .timeout))
    case .connect: mark(slot, Fault(.replica, .connect, .timeout))
    case .response: responseOverdue(slot)
    case .tunnel: mark(slot, Fault(.replica, .tunnel, .timeout))
    case .bodyStall:
      mark(slot, Fault(connection.pointee.side == .downstream ? .client : .replica, .body, .timeout))
    case .sendStall: sendOverdue(slot)
    case .liveness: checkLiveness(slot)
    }
  }

  private mutating func responseOverdue(_ slot: UInt32) {
    let index = connections[slot].pointee.exchange
    if index != noSlot && !exchanges[index].pointee.flags.contains(.requestRead)
      && connections[slot].pointee.queue.isEmpty
    {
      // The replica waits for the client's body, not we for the replica.
      arm(slot, .response, after: config.responseTimeoutNs)
    } else {
      mark(slot, Fault(.replica, .head, .timeout))
    }
  }

  /// Bytes wait for a client: it is closed when none has gone for the stream deadline. A send that is long under way
  /// may have gone in part: it is interrupted to see.
  private mutating func sendOverdue(_ slot: UInt32) {
    let connection = connections[slot]
    guard !connection.pointee.queue.isEmpty else { return }
    let end = connection.pointee.progressAt &+ config.streamTimeoutNs
    if io.now < end {
      arm(slot, .sendStall, after: end - io.now)
    } else if interrupt(slot) {
      // Should the cancel be lost on a send that the kernel is busy with, the next look comes soon.
      arm(slot, .sendStall, after: 1_000_000_000)
    } else {
      clientStalled(slot)
    }
  }

  /// An interrupted send had not moved: true when that is so for the stream deadline, and ends the connection.
  mutating func hasStalledForGood(_ slot: UInt32) -> Bool {
    let connection = connections[slot]
    guard connection.pointee.side == .downstream, connection.pointee.state != .tunnel,
      io.now >= connection.pointee.progressAt &+ config.streamTimeoutNs
    else { return false }
    clientStalled(slot)
    return true
  }

  private mutating func clientStalled(_ slot: UInt32) {
    counters.worker.pointee.clientStalls &+= 1
    mark(slot, Fault(.client, .body, .stalled))
  }

  /// Looks whether the peer still acknowledges what it is sent. The kernel's own keepalive finds peers that vanished
  /// while nothing was under way; with bytes under way it would retry for a quarter of an hour. (TCP_USER_TIMEOUT would
  /// do that, too, but also end peers that are alive and merely do not read, as a busy model server does.)
  private mutating func checkLiveness(_ slot: UInt32) {
    let connection = connections[slot]
    guard connection.pointee.exchange != noSlot || !connection.pointee.queue.isEmpty,
      connection.pointee.state != .connecting
    else { return }
    if io.unacknowledgedNs(on: connection.pointee.fd) >= config.tcpUserTimeoutNs {
      counters.worker.pointee.peersVanished &+= 1
      mark(slot, Fault(connection.pointee.side == .downstream ? .client : .replica, .body, .vanished))
    } else {
      armLiveness(slot)
    }
  }

  @inline(__always)
  mutating func armLiveness(_ slot: UInt32) {
    if config.tcpUserTimeoutNs == 0 { return }
    arm(slot, .liveness, after: config.tcpUserTimeoutNs / 4)
  }
}
