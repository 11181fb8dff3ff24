// When a replica that has failed is tried again, and with what.

import Testing

@testable import ProxyCore

@Suite struct EjectionTests {
  private static let millisecond: UInt64 = 1_000_000
  private let board = LoadBoard(capacity: 16)
  private let rule = EjectionRule()

  init() {
    for index in 0..<2 {
      board.admit(
        index, at: .ipv4(10, 0, 0, UInt8(index), port: 80), weight: 1, maxInFlight: 0, draining: false)
    }
  }

  /// The replica that gets an exchange at `ms`; the count is given back unless it is `kept`.
  private func pick(at ms: UInt64, harmless: Bool, kept: Bool = false) -> Int? {
    let picked = board.pick(
      tried: Tried(), isHarmless: harmless, now: ms * Self.millisecond, rule: rule)
    guard case .replica(let index) = picked else { return nil }
    if !kept {
      var lease = board.lease(index)
      board.undecided(lease)
      board.release(&lease)
    }
    return Int(index)
  }

  /// A failure of replica 0.
  private func fail(at ms: UInt64, refused: Bool = false, timedOut: Bool = false) {
    board.failed(
      board.lease(0), refused: refused, timedOut: timedOut, now: ms * Self.millisecond, rule: rule)
  }

  /// Which of ten picks in a row went to replica 0.
  private func isTried(at ms: UInt64, harmless: Bool) -> Bool {
    (0..<10).contains { _ in pick(at: ms, harmless: harmless) == 0 }
  }

  @Test func aRiskyRequestWaitsOutTheBackOff() {
    for _ in 0..<3 { fail(at: 1000) }
    #expect(!isTried(at: 1001, harmless: false))
    #expect(!isTried(at: 1249, harmless: false))
    #expect(isTried(at: 1250, harmless: false))
  }

  @Test func aHarmlessOneDoesNot() {
    for _ in 0..<3 { fail(at: 1000) }
    #expect(!isTried(at: 1099, harmless: true))
    #expect(isTried(at: 1100, harmless: true))
    // One at a time.
    #expect(pick(at: 1101, harmless: true, kept: true) == 0)
    #expect(!isTried(at: 1102, harmless: true))
    // Its failure is followed by another tenth of a second, and the back-off is no longer for it.
    fail(at: 1110)
    #expect(!isTried(at: 1209, harmless: true))
    #expect(isTried(at: 1210, harmless: true))
    #expect(isTried(at: 1250, harmless: false))
  }

  @Test func whatDoesNotAnswerInTimeIsTriedOnlyWhenItIsDue() {
    fail(at: 1000, refused: true, timedOut: true)
    #expect(!isTried(at: 1200, harmless: true))
    #expect(isTried(at: 1250, harmless: true))
  }

  @Test func anAnswerBringsItBack() {
    fail(at: 1000, refused: true)
    #expect(pick(at: 1100, harmless: true, kept: true) == 0)
    var lease = board.lease(0)
    board.succeeded(lease)
    board.release(&lease)
    #expect(isTried(at: 1101, harmless: false))
  }
}
