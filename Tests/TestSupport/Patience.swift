// How tests wait: for an event, with a deadline. No test sleeps for a guessed time and hopes.

import Foundation

/// What went wrong, for people.
package struct TestFailure: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// How long a test waits for what must come, in seconds. Generous: a loaded machine is slow, and what comes ends the
/// wait.
package let patience = 20.0

/// Seconds on a clock that does not jump.
package func monotonic() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Whether `condition` comes true within `deadline` seconds. It is asked every few milliseconds; it may throw while what
/// it asks is not there yet.
package func eventually(_ deadline: Double = patience, _ condition: () throws -> Bool) -> Bool {
  let end = monotonic() + deadline
  while true {
    if (try? condition()) == true { return true }
    if monotonic() >= end { return false }
    usleep(2000)
  }
}

/// Whether `condition` stays true for `seconds`: for what must not happen.
package func always(for seconds: Double, _ condition: () throws -> Bool) -> Bool {
  !eventually(seconds) { try !condition() }
}

/// Seconds that `body` took, and what it gave.
package func timed<Result>(_ body: () throws -> Result) rethrows -> (seconds: Double, result: Result) {
  let start = monotonic()
  let result = try body()
  return (monotonic() - start, result)
}

/// Something that threads wait for.
package final class Event: @unchecked Sendable {
  private let condition = NSCondition()
  private var happened = false

  package init() {}

  package func happen() {
    condition.lock()
    happened = true
    condition.broadcast()
    condition.unlock()
  }

  package var hasHappened: Bool {
    condition.lock()
    defer { condition.unlock() }
    return happened
  }

  /// False: the deadline passed.
  @discardableResult
  package func wait(_ deadline: Double = patience) -> Bool {
    let end = Date(timeIntervalSinceNow: deadline)
    condition.lock()
    defer { condition.unlock() }
    while !happened {
      if !condition.wait(until: end) { return happened }
    }
    return true
  }
}

/// A value that several threads share.
package final class Shared<Value>: @unchecked Sendable {
  private let lock = NSLock()
  private var stored: Value

  package init(_ value: Value) { stored = value }

  package var value: Value { with { $0 } }

  @discardableResult
  package func with<Result>(_ body: (inout Value) throws -> Result) rethrows -> Result {
    lock.lock()
    defer { lock.unlock() }
    return try body(&stored)
  }
}

/// Runs `body` on a thread of its own.
package func thread(_ name: String, _ body: @escaping @Sendable () -> Void) {
  let thread = Thread(block: body)
  thread.name = name
  thread.stackSize = 1 << 20
  thread.start()
}
