// Time as the controller knows it, and waiting that can be cut short. Tests bring a clock of their own.

import Foundation
import Synchronization

/// Seconds since 1970 that never go back.
package protocol ControlClock: Sendable {
  var now: Double { get }
  /// Returns then, or throws at once when the task is cancelled. Infinity: only when cancelled.
  func sleep(until time: Double) async throws
}

/// The machine's. It goes on from what the wall clock said when the controller started: a wall clock that is set, and a
/// laptop that sleeps, must not look as if probes had failed for hours.
package struct HostClock: ControlClock {
  private let offset: Double

  /// `notBefore`: what an earlier controller has written down is past, whatever became of the wall clock since.
  package init(notBefore: Double = 0) { offset = max(Self.wall, notBefore) - Self.monotonic }

  package var now: Double { offset + Self.monotonic }

  package func sleep(until time: Double) async throws {
    // A day at a time: more nanoseconds than fit are no time at all.
    while true {
      let left = time - now
      if left <= 0 { return try Task.checkCancellation() }
      try await Task.sleep(nanoseconds: UInt64(clamping: min(left, 86_400) * 1e9))
    }
  }

  package static var wall: Double { seconds(CLOCK_REALTIME) }
  private static var monotonic: Double { seconds(CLOCK_MONOTONIC) }

  private static func seconds(_ clock: clockid_t) -> Double {
    var time = timespec()
    clock_gettime(clock, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }
}

/// What one task waits at and others ring. A ring that comes while nobody waits is kept, once.
final class Alarm: Sendable {
  private struct State {
    var hasRung = false
    var sleeper: Task<Void, Never>?
  }

  private let state = Mutex(State())

  func ring() {
    let sleeper = state.withLock { state in
      state.hasRung = true
      return state.sleeper
    }
    sleeper?.cancel()
  }

  /// Until the time (nil: for ever), the next ring, or the cancellation of the waiting task.
  func wait(until time: Double?, _ clock: any ControlClock) async {
    let sleeper = Task { _ = try? await clock.sleep(until: time ?? .infinity) }
    let isDone = state.withLock { state in
      if state.hasRung { return true }
      state.sleeper = sleeper
      return false
    }
    if isDone { sleeper.cancel() }
    await withTaskCancellationHandler { await sleeper.value } onCancel: { sleeper.cancel() }
    state.withLock { state in
      state.sleeper = nil
      state.hasRung = false
    }
  }
}
