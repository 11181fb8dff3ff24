// When a replica that has failed is tried again, and with what.

import Foundation
import SimKit
import Synchronization
import TestSupport
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
    let picked = board.pick(Ask(isHarmless: harmless, now: ms * Self.millisecond))
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
    board.answered(&lease, status: 200, now: 0, rule: rule)
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
      board.answered(&well, status: 200, now: 1, rule: rule)
      board.failed(board.lease(1 - round & 1), refused: true, now: 1, rule: rule)
      round += 1
    }
    picker.end()
    #expect(picker.misses == 0, "of \(picker.picks) picks")
  }
}

/// A replica that answers, with server errors.
@Suite struct ErrorEjectionTests {
  private static let millisecond: UInt64 = 1_000_000

  /// Three replicas a, b, c, and what happens to them. Letters say which replica.
  private struct Scene {
    let board = LoadBoard(capacity: 16)
    var rule = EjectionRule()
    var ms: UInt64 = 1000

    init(replicas: Int = 3) {
      for index in 0..<replicas {
        board.admit(
          index, at: .ipv4(10, 0, 0, UInt8(index), port: 80), weight: 1, maxInFlight: 0, draining: false)
      }
    }

    func answer(_ index: Int, _ status: UInt16) {
      var lease = board.lease(UInt32(index))
      board.answered(&lease, status: status, now: ms * millisecond, rule: rule)
    }

    func pick(harmless: Bool = false) -> Lease? {
      guard case .replica(let lease) = board.pick(Ask(isHarmless: harmless, now: ms * millisecond)) else { return nil }
      return lease
    }

    /// The replicas of a hundred picks that are answered at once, the canaries with `canary`, others with 200.
    func visited(harmless: Bool = false, canary: UInt16 = 200) -> Set<UInt32> {
      var seen = Set<UInt32>()
      for _ in 0..<100 {
        guard var lease = pick(harmless: harmless) else { continue }
        seen.insert(lease.replica)
        board.answered(&lease, status: lease.isCanary ? canary : 200, now: ms * millisecond, rule: rule)
        board.release(&lease)
      }
      return seen
    }

    func isEjected(_ index: Int) -> Bool { board.gates[index].load(ordering: .relaxed) & Gate.ejected != 0 }

    /// Each word is a replica and what it does: `a500` answers, `a?` answers nonsense, `a!` refuses, `a-` hangs up before
    /// a response head, `ad` begins to drain.
    func play(_ script: String) {
      for word in script.split(separator: " ") {
        let index = Int(word.utf8.first! - UInt8(ascii: "a"))
        switch word.dropFirst() {
        case "!": board.failed(board.lease(UInt32(index)), refused: true, now: ms * millisecond, rule: rule)
        case "-": board.failed(board.lease(UInt32(index)), refused: false, now: ms * millisecond, rule: rule)
        case "?":
          var lease = board.lease(UInt32(index))
          board.answeredNonsense(&lease, now: ms * millisecond, rule: rule)
        case "d": board.setDraining(index, true)
        default: answer(index, UInt16(word.dropFirst())!)
        }
      }
    }
  }

  private static let rows: [(script: String, ejected: String, why: String)] = [
    ("a500 a500 a500 a500", "", "four are not five"),
    ("a500 a500 a500 a500 a500", "a", "five are"),
    ("a500 a502 a503 a504 a500", "a", "of any of the four kinds"),
    ("a500 a500 a500 a500 a200 a500", "", "another answer begins a new row"),
    ("a500 a500 a500 a500 a404 a500", "", "a client's mistake is an answer"),
    ("a500 a? a? a? a?", "a", "nonsense is no better"),
    ("a501 a501 a501 a501 a501 a501", "", "what this request cannot have says nothing of the replica"),
    ("a505 a507 a511 a505 a507 a599", "", "nor do the rarer ones"),
    ("a500 b200 a500 c200 a500 b200 a500 c200 a500", "a", "what others do between does not matter"),
    ("a500 a- a500 a- a500 a- a500 a- a500", "a", "neither row hides the other"),
    ("a- a- a500 a- a-", "", "any answer ends a row of failures"),
    ("a500 b500 c500 a500 b500 c500 a500 b500 c500 a500 b500 c500 a500 b500 c500", "", "all answer so: it is not a"),
    ("b500 c500 a500 a500 a500 a500 a500 a500", "", "no other is known to do better"),
    ("b500 b200 c500 a500 a500 a500 a500 a500", "a", "b does better again"),
    ("bd cd a500 a500 a500 a500 a500 a500", "", "the last one standing"),
    ("b! cd a500 a500 a500 a500 a500 a500", "b", "the last one standing, beside one that refuses"),
    ("b- cd a500 a500 a500 a500 a500 a500", "", "b fails, too"),
    ("a500 a500 a500 a500 a500 b500 b500 b500 b500 b500", "ab", "two of three"),
    ("a500 a500 a500 a500 a500 b500 b500 b500 b500 b500 c500 c500 c500 c500 c500", "ab", "never the third"),
    ("ad a500 a500 a500 a500 a500", "", "a draining one gets nothing new anyway"),
    ("a500 a500 a500 a500 a500 a200", "", "an answer to what was sent before brings it back"),
    ("a500 a500 a500 a500 a500 a500 a500", "a", "such a server error does not"),
    ("a500 a500 a500 a500 a500 b500 c500 a500", "", "unless nobody does better by then"),
    ("a! a500 a500", "a", "it was ejected for another reason"),
    ("a! b500 c500 a500", "", "the same where nobody does better"),
  ]

  @Test(arguments: rows)
  func whoIsEjected(_ row: (script: String, ejected: String, why: String)) {
    let scene = Scene()
    scene.play(row.script)
    let ejected = (0..<3).filter(scene.isEjected).map { String(UnicodeScalar(UInt8(97 + $0))) }.joined()
    #expect(ejected == row.ejected, "\(row.why)")
    #expect(scene.board.shared.pointee.ejectedReplicas.load(ordering: .relaxed) == UInt32(ejected.count))
  }

  @Test func zeroIsOff() {
    var scene = Scene()
    scene.rule.afterErrors = 0
    for _ in 0..<100 { scene.answer(0, 500) }
    #expect(!scene.isEjected(0))
    // And a server error brings a replica back that refused, as any answer.
    scene.play("a! a500")
    #expect(!scene.isEjected(0))
  }

  /// The client gets the canary's server error: not even a request that could be sent again goes there early.
  @Test(arguments: [true, false])
  func nothingGoesThereBeforeTheEndOfTheBackOff(_ harmless: Bool) {
    var scene = Scene()
    scene.play("a500 a500 a500 a500 a500")
    var ms: UInt64 = 1000
    // Each canary is answered with a server error again: the back-off doubles up to its bound.
    for backOff: UInt64 in [250, 500, 1000, 2000, 4000, 8000, 8000, 8000] {
      scene.ms = ms + backOff - 1
      #expect(scene.visited(harmless: harmless) == [1, 2], "\(backOff)")
      scene.ms = ms + backOff
      #expect(scene.visited(harmless: harmless, canary: 503) == [0, 1, 2], "\(backOff)")
      #expect(scene.isEjected(0))
      ms = scene.ms
    }
    scene.ms = ms + 8000
    #expect(scene.visited(canary: 200) == [0, 1, 2])
    #expect(!scene.isEjected(0))
    // From the beginning again.
    scene.play("a500 a500 a500 a500 a500")
    scene.ms += 250
    #expect(scene.visited(canary: 503) == [0, 1, 2])
  }

  @Test func oneCanaryAtATime() throws {
    var scene = Scene()
    scene.play("a500 a500 a500 a500 a500")
    scene.ms = 1250
    var canary = try #require(scene.pick())
    #expect(canary.isCanary && canary.replica == 0)
    #expect(scene.visited() == [1, 2])
    // A head has come: its body may take as long as it likes.
    scene.board.answered(&canary, status: 500, now: scene.ms * Self.millisecond, rule: scene.rule)
    #expect(!canary.isCanary)
    scene.ms = 1750
    #expect(scene.visited() == [0, 1, 2])
    scene.board.release(&canary)
  }

  /// A model that is started again refuses at first and says 503 while it loads.
  @Test func whatRefusedAndNowSaysThatItLoadsStaysOut() {
    var scene = Scene()
    scene.play("a!")
    scene.ms = 1100
    #expect(scene.visited(harmless: true, canary: 503) == [0, 1, 2])
    #expect(scene.isEjected(0))
    scene.ms = 1249
    #expect(scene.visited(harmless: true) == [1, 2], "from now on it costs its clients an answer")
    scene.ms = 1250
    #expect(scene.visited(harmless: true) == [0, 1, 2])
    #expect(!scene.isEjected(0))
  }

  /// What every replica lacks (a database, say) is no reason to send all requests to one of them.
  @Test func whereEveryReplicaAnswersErrorsAllAreUsed() {
    var scene = Scene()
    scene.play("a500 a500 a500 a500 a500")
    var turns = [0, 0, 0]
    for _ in 0..<300 {
      scene.ms += 10
      guard var lease = scene.pick() else {
        Issue.record("nobody at \(scene.ms)")
        return
      }
      turns[Int(lease.replica)] += 1
      scene.board.answered(&lease, status: 500, now: scene.ms * Self.millisecond, rule: scene.rule)
      scene.board.release(&lease)
    }
    #expect((0..<3).allSatisfy { !scene.isEjected($0) })
    #expect(turns.allSatisfy { $0 >= 85 }, "\(turns)")
  }

  /// When those that did well have gone, one that answers server errors is better than an answer of the proxy's own.
  @Test func theOnlyOneLeftIsUsed() {
    var scene = Scene()
    scene.play("a500 a500 a500 a500 a500 b! c!")
    for _ in 0..<20 {
      scene.ms += 1
      guard var lease = scene.pick() else {
        Issue.record("nobody at \(scene.ms)")
        return
      }
      #expect(lease.replica == 0)
      scene.board.answered(&lease, status: 500, now: scene.ms * Self.millisecond, rule: scene.rule)
      scene.board.release(&lease)
    }
    #expect(!scene.isEjected(0))
  }

  /// Four workers at once, two replicas that answer well and badly by turns: there is always one to pick, and when all is
  /// well again nothing is left of the ejections.
  @Test func workersThatRaceLeaveOneAndForgetNothing() {
    let first = Chance()
    let scene = Scene(replicas: 2)
    let rule = EjectionRule(afterErrors: 2, minNs: 1000, maxNs: 8000)
    let board = scene.board
    let missed = Atomic(0)
    let ejections = Atomic(0)
    DispatchQueue.concurrentPerform(iterations: 4) { worker in
      var chance = Chance(seed: first.seed &+ UInt64(worker))
      for _ in 0..<30_000 {
        guard case .replica(var lease) = board.pick(Ask(isHarmless: chance.hit(0.5), now: monotonicNanoseconds()))
        else {
          missed.wrappingAdd(1, ordering: .relaxed)
          continue
        }
        let status: UInt16 = chance.hit(0.6) ? 500 : 200
        board.answered(&lease, status: status, now: monotonicNanoseconds(), rule: rule)
        if board.shared.pointee.ejectedReplicas.load(ordering: .relaxed) != 0 {
          ejections.wrappingAdd(1, ordering: .relaxed)
        }
        board.release(&lease)
      }
    }
    let (misses, seen) = (missed.load(ordering: .relaxed), ejections.load(ordering: .relaxed))
    #expect(misses == 0, "\(first.replay())")
    #expect(seen > 0, "none was ever ejected: this test tests nothing")
    for index in 0..<2 { scene.answer(index, 200) }
    for index in 0..<2 {
      #expect(!scene.isEjected(index) && board.inFlight[index].load(ordering: .relaxed) == 0)
      #expect(board.health[index].canary.load(ordering: .relaxed) == 0, "\(first.replay())")
    }
    #expect(board.shared.pointee.ejectedReplicas.load(ordering: .relaxed) == 0, "\(first.replay())")
  }
}
