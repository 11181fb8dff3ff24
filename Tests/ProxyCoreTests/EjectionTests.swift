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

  private func pick(at ms: UInt64, harmless: Bool) -> Lease? {
    let picked = board.pick(tried: Tried(), isHarmless: harmless, now: ms * Self.millisecond, rule: rule)
    guard case .replica(let lease) = picked else { return nil }
    return lease
  }

  /// A failure of replica 0, of the exchange that `lease` is for or of one sent there before.
  private func fail(at ms: UInt64, _ lease: Lease? = nil, refused: Bool = false, timedOut: Bool = false) {
    board.failed(
      lease ?? board.lease(0), refused: refused, timedOut: timedOut, now: ms * Self.millisecond, rule: rule)
  }

  /// Whether one of ten picks in a row went to replica 0; they are given back with nothing learned.
  private func isTried(at ms: UInt64, harmless: Bool) -> Bool {
    (0..<10).contains { _ in
      guard var lease = pick(at: ms, harmless: harmless) else { return false }
      defer { board.release(&lease) }
      return lease.replica == 0
    }
  }

  private func canary(at ms: UInt64, harmless: Bool) throws -> Lease {
    let lease = try #require(pick(at: ms, harmless: harmless))
    #expect(lease.replica == 0 && lease.isCanary)
    return lease
  }

  @Test func aRiskyRequestWaitsOutTheBackOff() {
    for _ in 0..<3 { fail(at: 1000) }
    #expect(!isTried(at: 1001, harmless: false))
    #expect(!isTried(at: 1249, harmless: false))
    #expect(isTried(at: 1250, harmless: false))
  }

  @Test func aHarmlessOneDoesNot() throws {
    for _ in 0..<3 { fail(at: 1000) }
    #expect(!isTried(at: 1099, harmless: true))
    #expect(isTried(at: 1100, harmless: true))
    // One at a time.
    var lease = try canary(at: 1101, harmless: true)
    #expect(!isTried(at: 1102, harmless: true))
    // Its failure is followed by another tenth of a second, and the back-off is no longer for it.
    fail(at: 1110, lease)
    board.release(&lease)
    #expect(!isTried(at: 1209, harmless: true))
    #expect(isTried(at: 1210, harmless: true))
    #expect(isTried(at: 1250, harmless: false))
  }

  @Test func whatDoesNotAnswerInTimeIsTriedOnlyWhenItIsDue() {
    fail(at: 1000, refused: true, timedOut: true)
    #expect(!isTried(at: 1200, harmless: true))
    #expect(isTried(at: 1250, harmless: true))
  }

  @Test func anAnswerBringsItBack() throws {
    fail(at: 1000, refused: true)
    var lease = try canary(at: 1100, harmless: true)
    board.succeeded(&lease)
    board.release(&lease)
    #expect(board.inFlight[0].load(ordering: .relaxed) == 0)
    #expect(isTried(at: 1101, harmless: false))
  }

  /// What was sent before the ejection fails one after the other; the canary is still out.
  @Test func stragglersAreNoCanaries() throws {
    for _ in 0..<3 { fail(at: 1000) }
    var lease = try canary(at: 1250, harmless: false)
    fail(at: 1260)
    #expect(!isTried(at: 1400, harmless: true))
    fail(at: 1300, lease)
    board.release(&lease)
    // Half a second after the second failure of a canary's.
    #expect(!isTried(at: 1799, harmless: false))
    #expect(isTried(at: 1800, harmless: false))
  }

  @Test func aCanaryKeepsTheLimit() {
    board.adjust(0, weight: 1, maxInFlight: 1)
    board.inFlight[0].store(1, ordering: .relaxed)
    for _ in 0..<3 { fail(at: 1000) }
    for _ in 0..<5 { #expect(pick(at: 5000, harmless: true)?.replica == 1) }
    board.setDraining(1, true)
    #expect(pick(at: 5000, harmless: true) == nil)
    #expect(board.inFlight[0].load(ordering: .relaxed) == 1)
  }

  /// A model that was started again takes connections long before it has answered its first request.
  @Test func whatTakesConnectionsIsUsedWhenThereIsNoOther() throws {
    board.setDraining(1, true)
    fail(at: 1000, refused: true)
    #expect(pick(at: 1099, harmless: false) == nil)
    let lease = try canary(at: 1100, harmless: false)
    #expect(pick(at: 1101, harmless: false) == nil)
    board.reached(lease)
    let next = try #require(pick(at: 1102, harmless: false))
    #expect(next.replica == 0 && !next.isCanary)
  }

  /// Two that are well by turns, and a pick that looks at the one and then at the other.
  @Test func oneOfTwoIsAlwaysWell() throws {
    fail(at: 1, refused: true)
    let picker = try Picker(board, isHarmless: false, now: 2)
    var round: UInt32 = 0
    while picker.picks < 200_000 {
      var well = board.lease(round & 1)
      board.succeeded(&well)
      board.failed(board.lease(1 - round & 1), refused: true, now: 1, rule: rule)
      round += 1
    }
    picker.end()
    #expect(picker.misses == 0, "of \(picker.picks) picks")
  }
}
