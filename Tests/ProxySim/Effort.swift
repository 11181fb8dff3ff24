// Work without progress: a turn, or a completion, that moved no byte, ended nothing and began nothing. The worker may
// look around once or twice in a millisecond and a few times for all that happens; beyond that it spins.

import ProxyCore

struct Effort {
  private static let most = 3_000
  /// Futile turns and completions that are still allowed.
  private var credit = most
  private var progress = 0
  private var futile = 0
  private var isInterrupted = false
  private var countedAt: UInt64 = 0
  /// Turns in which nothing was achieved, all in all.
  private(set) var futileTurns = 0

  /// An operation was queued.
  mutating func queued(_ kind: Operation) {
    switch kind {
    case .connect, .send, .shutdown, .close: progress += 1
    case .accept, .wake, .receive, .watch, .cancel: break
    }
  }

  /// A completion was handed over.
  mutating func told(_ kind: Operation, _ completion: Completion) {
    switch kind {
    case .connect, .wake, .shutdown, .close: progress += 1
    case .accept: if completion.result >= 0 { progress += 1 } else { futile += 1 }
    case .receive:
      // ENOBUFS and ECANCELED end only the operation.
      if completion.result == -105 || completion.result == -125 { futile += 1 } else { progress += 1 }
    case .send: if completion.result == -125 { futile += 1 } else { progress += 1 }
    case .watch, .cancel: futile += 1
    }
  }

  /// The wait that has just ended brought nothing through no fault of the worker's.
  mutating func interrupted() { isInterrupted = true }

  /// The turn before this wait is over.
  mutating func endTurn(_ world: World) {
    if progress == 0 && !isInterrupted {
      futile += 1
      futileTurns += 1
    }
    credit += Int((world.now - min(world.now, countedAt)) * 2 / Nanoseconds.millisecond) + 3 * progress - futile
    // What is left of a millisecond counts when it is whole.
    countedAt = world.now - (world.now % (Nanoseconds.millisecond / 2))
    if credit < 0 && world.profile.countsEffort {
      world.fail("the worker spins: \(futileTurns) turns have moved no byte, ended nothing and begun nothing")
    }
    credit = min(credit, Effort.most)
    progress = 0
    futile = 0
    isInterrupted = false
  }
}
