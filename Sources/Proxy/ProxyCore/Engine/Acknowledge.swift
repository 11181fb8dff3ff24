// Acknowledgements of streams. TCP acknowledges each small piece as soon as we take it, which costs an eighth of what
// an event does. Told to wait, it acknowledges every second piece at once, and a lone one after 40 ms: 200 streams of
// 200 events/s then take 0.85 of the CPU time, and half the packets on the way back.
//
//   piece 4, 20, 36, …   wait from now on (the kernel stops waiting by itself after a pause)
//   the next one         is the first that is not acknowledged at once
//   the one after it     came 40 ms later? Then the replica may have held it back until it had the acknowledgement
//                        (Nagle's algorithm, RFC 896, which many servers leave on): it is left alone for a minute, and
//                        twice as long each time that shows again; for a model that paused, the next look puts it right
//
// So no response of a few pieces waits, nor the next one on the connection, and a replica with Nagle's algorithm delays
// an event of the streams of one moment, more and more seldom.

package enum AckStep: BitwiseCopyable {
  case nothing
  /// Acknowledge two at a time from now on.
  case pair
  /// The first piece after one that was not acknowledged at once came as late as if it had waited for that.
  case late
  /// It came earlier.
  case early

  /// Bytes: what a token or an event is not above.
  static let pieceMost = 16_384
  /// The gap before a piece that was held back, nanoseconds: the kernel waits 40 ms, give or take a tick of up to 10.
  private static let lateLeast: UInt64 = 32_000_000
  private static let lateMost: UInt64 = 56_000_000

  /// `pieces`: of this response, with the one that has come now, `gap` nanoseconds after the one before.
  @inline(__always)
  package static func after(pieces: UInt8, gap: UInt64) -> AckStep {
    switch pieces & 15 {
    case 4: .pair
    case 6: gap < lateLeast ? .early : gap <= lateMost ? .late : .nothing
    default: .nothing
    }
  }
}

/// What a worker has found out about one replica.
package struct AckTrial: BitwiseCopyable {
  /// The replica's generation + 1; 0 = none yet.
  private var mark: UInt32 = 0
  private var lateInARow: UInt8 = 0
  /// Left alone until then, nanoseconds of the monotonic clock.
  private var until: UInt64 = 0

  private static let pauseNs: UInt64 = 60_000_000_000
  /// 60 s × 2^6 is about an hour.
  private static let doublingsMost: UInt8 = 6

  package init() {}

  @inline(__always)
  package mutating func mayPair(generation: UInt32, now: UInt64) -> Bool {
    if mark != generation &+ 1 {
      self = AckTrial()
      mark = generation &+ 1
    }
    return now >= until
  }

  package mutating func wasLate(now: UInt64) {
    // Streams that were told at the same time count once.
    guard now >= until else { return }
    until = now + AckTrial.pauseNs << UInt64(lateInARow)
    if lateInARow < AckTrial.doublingsMost { lateInARow += 1 }
  }

  @inline(__always)
  package mutating func wasEarly() { lateInARow = 0 }
}

extension Worker where IO: ~Copyable {
  /// A piece of the response has come, `gap` nanoseconds after what came before it.
  @inline(__always)
  mutating func acknowledgeInPairs(_ slot: UInt32, _ index: UInt32, _ count: Int, _ gap: UInt64) {
    guard count <= AckStep.pieceMost else { return }
    exchanges[index].pointee.pieces &+= 1
    let step = AckStep.after(pieces: exchanges[index].pointee.pieces, gap: gap)
    if step == .nothing { return }
    let connection = connections[slot]
    let trial = ackTrials + Int(connection.pointee.replica)
    switch step {
    case .pair:
      guard trial.pointee.mayPair(generation: connection.pointee.replicaGeneration, now: io.now) else { return }
      connection.pointee.flags.insert(.acksWait)
      io.delayAcks(connection.pointee.fd, true)
    case .late where connection.pointee.flags.contains(.acksWait):
      // The kernel has stopped waiting by itself.
      connection.pointee.flags.remove(.acksWait)
      trial.pointee.wasLate(now: io.now)
    case .early where connection.pointee.flags.contains(.acksWait): trial.pointee.wasEarly()
    case .late, .early, .nothing: return
    }
  }

  /// The next response may be of two pieces that a replica sends one after the other.
  @inline(__always)
  mutating func acknowledgeAtOnce(_ slot: UInt32) {
    guard connections[slot].pointee.flags.contains(.acksWait) else { return }
    connections[slot].pointee.flags.remove(.acksWait)
    io.delayAcks(connections[slot].pointee.fd, false)
  }
}
