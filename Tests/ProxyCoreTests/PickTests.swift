// The choice of a replica: the least loaded one, whatever has happened before and however many there are; ties go
// round. The tests keep their own account of what each replica carries, and compare in whole numbers.

import Foundation
import SimKit
import Synchronization
import TestSupport
import Testing

@testable import ProxyCore

@Suite struct PickTests {
  private static func board(_ count: Int) -> LoadBoard {
    let board = LoadBoard(capacity: count)
    for index in 0..<count { admit(board, index, weight: 1, limit: 0) }
    return board
  }

  private static func admit(_ board: LoadBoard, _ index: Int, weight: Double, limit: UInt32) {
    board.admit(
      index, at: .ipv4(10, 0, 0, 1, port: 80), weight: weight, maxInFlight: limit, draining: false)
  }

  private static func pick(_ board: LoadBoard, tried: Tried = Tried()) -> Int? {
    guard case .replica(let lease) = board.pick(Ask(tried: tried, isHarmless: false, now: 1)) else { return nil }
    return Int(lease.replica)
  }

  /// A board, and a test's own account of it.
  private struct Fleet {
    struct Replica {
      /// Hundredths, so that in-flight ÷ weight is a fraction of whole numbers.
      var weight: Int
      /// 0 = none.
      var limit: Int
      var isDraining = false
      var hasLeft = false
      var load = 0

      var mayBePicked: Bool { !isDraining && !hasLeft && (limit == 0 || load < limit) }
    }

    let board: LoadBoard
    var replicas: [Replica] = []
    private var leases: [Lease] = []
    let weights: [Int]
    let limits: [Int]

    init(_ count: Int, weights: [Int], limits: [Int], _ chance: inout Chance) {
      board = LoadBoard(capacity: count)
      self.weights = weights
      self.limits = limits
      for index in 0..<count {
        replicas.append(Replica(weight: chance.pick(weights), limit: chance.pick(limits)))
        admit(index)
      }
    }

    private func admit(_ index: Int) {
      PickTests.admit(
        board, index, weight: Double(replicas[index].weight) / 100, limit: UInt32(replicas[index].limit))
    }

    /// Whether the first carries less for its weight than the second by more than a millionth, which is what the board
    /// may leave to rounding.
    static func isLess(_ a: Replica, _ b: Replica) -> Bool {
      let (left, right) = (a.load * b.weight, b.load * a.weight)
      return (right - left) * 1_000_000 > right
    }

    /// Picks; what is wrong with the choice.
    mutating func pick() -> String? {
      let picked = PickTests.pick(board)
      guard let picked else {
        let open = replicas.firstIndex { $0.mayBePicked }
        return open.map { "nobody was picked, but \($0) may be: \(replicas[$0])" }
      }
      guard replicas[picked].mayBePicked else { return "\(picked) may not be picked: \(replicas[picked])" }
      for (index, other) in replicas.enumerated() where other.mayBePicked {
        if Self.isLess(other, replicas[picked]) {
          return "\(picked) was picked, but \(index) has less to do: \(replicas[picked]), \(other)"
        }
      }
      replicas[picked].load += 1
      leases.append(board.lease(UInt32(picked)))
      return nil
    }

    mutating func release(_ chance: inout Chance) {
      guard !leases.isEmpty else { return }
      leases.swapAt(chance.below(leases.count), leases.count - 1)
      var lease = leases.removeLast()
      replicas[Int(lease.replica)].load -= 1
      board.release(&lease)
    }

    /// Another replica, another weight or limit, draining and back.
    mutating func changeMembership(_ chance: inout Chance) {
      let index = chance.below(replicas.count)
      switch chance.below(3) {
      case 0:
        replicas[index].isDraining.toggle()
        if !replicas[index].hasLeft { board.setDraining(index, replicas[index].isDraining) }
      case 1 where replicas[index].hasLeft:
        guard replicas[index].load == 0 else { return }
        replicas[index] = Replica(weight: chance.pick(weights), limit: chance.pick(limits))
        admit(index)
      case 1:
        replicas[index].hasLeft = true
        board.remove(index)
      default:
        guard !replicas[index].hasLeft else { return }
        replicas[index].weight = chance.pick(weights)
        replicas[index].limit = chance.pick(limits)
        board.adjust(
          index, weight: Double(replicas[index].weight) / 100, maxInFlight: UInt32(replicas[index].limit))
      }
    }
  }

  /// Weights from end to end of what is allowed, and such that do not divide each other.
  private static let weights = [1, 25, 30, 70, 100, 100, 250, 300, 700, 4000, 9900, 10_000, 12_000, 30_000, 100_000]

  @Test(arguments: [1, 7, 16, 64, 65, 100, 333, 1000])
  func theLeastLoadedForItsWeightIsPicked(_ count: Int) {
    var chance = Chance()
    var fleet = Fleet(count, weights: Self.weights, limits: [0, 0, 1, 4, 5, 300], &chance)
    for step in 0..<6000 {
      switch chance.below(16) {
      case 0..<8:
        if let problem = fleet.pick() {
          Issue.record("\(chance.replay()), step \(step): \(problem)")
          return
        }
      case 8..<14: fleet.release(&chance)
      default: fleet.changeMembership(&chance)
      }
    }
  }

  /// Counts far beyond what one replica has in practice are compared as exactly.
  @Test func theLeastLoadedIsPickedAmongThousandsInFlight() {
    var chance = Chance()
    var fleet = Fleet(5, weights: [100, 300, 1000], limits: [0], &chance)
    for step in 0..<60_000 {
      if let problem = fleet.pick() {
        Issue.record("\(chance.replay()), step \(step): \(problem)")
        return
      }
    }
  }

  /// The property HAProxy states of its least connections: among equals the counts differ by one at most, once there
  /// have been requests enough to level what came before.
  @Test(arguments: [2, 17, 64, 65, 500])
  func equalsCarryTheSameButForOne(_ count: Int) {
    var chance = Chance()
    var fleet = Fleet(count, weights: [100], limits: [0], &chance)
    for round in 0..<20 {
      for _ in 0..<chance.below(3 * count) { fleet.release(&chance) }
      for _ in 0..<chance.below(count) { fleet.changeMembership(&chance) }
      let most = fleet.replicas.filter(\.mayBePicked).map(\.load).max() ?? 0
      let missing = fleet.replicas.filter(\.mayBePicked).map { most - $0.load }.reduce(0, +)
      for step in 0..<missing + count {
        _ = fleet.pick()
        guard step >= missing else { continue }
        let loads = fleet.replicas.filter(\.mayBePicked).map(\.load)
        guard let low = loads.min(), let high = loads.max(), high - low > 1 else { continue }
        Issue.record("\(chance.replay()), round \(round), pick \(step): from \(low) to \(high) in flight")
        return
      }
    }
  }

  /// What is picked and kept settles at the weights' shares.
  @Test(arguments: [[1.0, 3], [100, 120, 200], [300, 900], [0.3, 0.7], [5, 40], [0.01, 1000]])
  func sharesAreTheWeights(_ weights: [Double]) {
    let board = LoadBoard(capacity: weights.count)
    for (index, weight) in weights.enumerated() { Self.admit(board, index, weight: weight, limit: 0) }
    let total = 20_000
    for _ in 0..<total { _ = Self.pick(board) }
    for (index, weight) in weights.enumerated() {
      let share = Double(total) * weight / weights.reduce(0, +)
      let load = Double(board.inFlight[index].load(ordering: .relaxed))
      #expect(abs(load - share) <= Double(weights.count), "weight \(weight): \(load) instead of \(share)")
    }
  }

  @Test(arguments: [3, 40, 200, 1000], [Policy.leastLoad, .roundRobin])
  func tiesGoRound(_ count: Int, _ policy: Policy) {
    let board = Self.board(count)
    board.setPolicy(policy)
    // Kept: each gets one before any gets a second.
    for round in 1...3 {
      for _ in 0..<count { _ = Self.pick(board) }
      #expect((0..<count).allSatisfy { board.inFlight[$0].load(ordering: .relaxed) == UInt32(round) })
    }
    // Given back at once: all have their turn as well.
    var turns = Array(repeating: 0, count: count)
    for _ in 0..<2 * count {
      guard let index = Self.pick(board) else { continue }
      turns[index] += 1
      var lease = board.lease(UInt32(index))
      board.release(&lease)
    }
    #expect(turns.allSatisfy { $0 == 2 })
  }

  @Test func roundRobinHeedsGatesAndLimitsOnly() {
    let board = Self.board(4)
    board.setPolicy(.roundRobin)
    board.adjust(0, weight: 1000, maxInFlight: 1)
    board.setDraining(1, true)
    // The first is full after its turn; the third's load does not matter.
    board.inFlight[2].store(5000, ordering: .relaxed)
    #expect((0..<5).map { _ in Self.pick(board) } == [0, 2, 3, 2, 3])
  }

  @Test(arguments: Policy.allCases)
  func triedReplicasAreAvoided(_ policy: Policy) {
    let board = Self.board(3)
    board.setPolicy(policy)
    var tried = Tried()
    for left in (0..<3).reversed() {
      for _ in 0..<5 { #expect(Self.pick(board, tried: tried).map { tried.contains(UInt32($0)) } == false) }
      tried.add(UInt32(left))
    }
    #expect(Self.pick(board, tried: tried) == nil)
  }

  @Test(arguments: Policy.allCases)
  func fullAndEmptyAreToldApart(_ policy: Policy) {
    let board = LoadBoard(capacity: 2)
    board.setPolicy(policy)
    func answer(_ tried: Tried = Tried()) -> String { "\(board.pick(Ask(tried: tried, isHarmless: false, now: 1)))" }
    #expect(answer() == "empty")
    Self.admit(board, 0, weight: 1, limit: 1)
    #expect(answer().hasPrefix("replica"))
    #expect(answer() == "full")
    var tried = Tried()
    tried.add(0)
    #expect(answer(tried) == "empty")
    board.setDraining(0, true)
    #expect(answer() == "empty")
  }

  /// Neither looks at anything of the request yet.
  @Test(arguments: Policy.allCases)
  func whatAPolicyNeedsIsKnownBeforeTheBodyCame(_ policy: Policy) { #expect(policy.needs == .nothing) }

  @Test func workersThatRaceLoseNoReplica() {
    let count = 200
    let board = Self.board(count)
    for index in 0..<count { board.adjust(index, weight: 1, maxInFlight: 8) }
    let first = Chance()
    let isExceeded = Atomic(false)
    DispatchQueue.concurrentPerform(iterations: 4) { worker in
      var chance = Chance(seed: first.seed &+ UInt64(worker))
      var leases: [Lease] = []
      for _ in 0..<50_000 {
        if chance.hit(0.5) || leases.isEmpty {
          guard let index = Self.pick(board) else { continue }
          if board.inFlight[index].load(ordering: .relaxed) > 8 + 4 { isExceeded.store(true, ordering: .relaxed) }
          leases.append(board.lease(UInt32(index)))
        } else {
          leases.swapAt(chance.below(leases.count), leases.count - 1)
          var lease = leases.removeLast()
          board.release(&lease)
        }
      }
      for var lease in leases { board.release(&lease) }
    }
    let wasExceeded = isExceeded.load(ordering: .relaxed)
    #expect(!wasExceeded)
    #expect((0..<count).allSatisfy { board.inFlight[$0].load(ordering: .relaxed) == 0 }, "\(first.replay())")
    // What they leave is as good as new: each is found, the least loaded first.
    for round in 1...8 {
      for _ in 0..<count { _ = Self.pick(board) }
      #expect(
        (0..<count).allSatisfy { board.inFlight[$0].load(ordering: .relaxed) == UInt32(round) },
        "\(first.replay()), round \(round)")
    }
    #expect(Self.pick(board) == nil)
  }
}
