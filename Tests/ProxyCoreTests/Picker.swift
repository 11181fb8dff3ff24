// A worker that picks replicas and gives them back, on a thread of its own beside whatever a test does to the board.

import Synchronization
import Testing

@testable import ProxyCore

final class Picker: Sendable {
  private final class Counts: Sendable {
    let isOver = Atomic<Bool>(false)
    let picks = Atomic<Int>(0)
    let misses = Atomic<Int>(0)
  }

  private let counts: Counts
  private let thread: ControlThread

  init(_ board: LoadBoard, isHarmless: Bool, now: UInt64) throws {
    let counts = Counts()
    self.counts = counts
    thread = try #require(
      ControlThread.start("test-picker") {
        while !counts.isOver.load(ordering: .relaxed) {
          switch board.pick(Ask(isHarmless: isHarmless, now: now)) {
          case .replica(var lease): board.release(&lease)
          case .full, .ejected, .empty: counts.misses.wrappingAdd(1, ordering: .relaxed)
          }
          counts.picks.wrappingAdd(1, ordering: .relaxed)
        }
      })
  }

  var picks: Int { counts.picks.load(ordering: .relaxed) }
  /// Picks that found nobody.
  var misses: Int { counts.misses.load(ordering: .relaxed) }

  func end() {
    counts.isOver.store(true, ordering: .relaxed)
    thread.join()
  }
}
