// The choice of a replica: the least loaded one, whatever has happened before and however many there are; ties go round.

import Foundation
import SimKit
import Synchronization
import TestSupport
import Testing

@testable import ProxyCore

@Suite struct PickTests {
  private static let rule = EjectionRule()

  private static func board(_ count: Int) -> LoadBoard {
    let board = LoadBoard(capacity: count)
    for index in 0..<count { admit(board, index, weight: 1, limit: 0) }
    return board
  }

  private static func admit(_ board: LoadBoard, _ index: Int, weight: Double, limit: UInt32) {
    board.admit(
      index, at: .ipv4(10, 0, 0, 1, port: 80), weight: weight, maxInFlight: limit, draining: false)
  }

  private static func pick(_ board: LoadBoard) -> Int? {
    let picked = board.pick(tried: Tried(), isHarmless: false, now: 1, rule: rule)
    guard case .replica(let lease) = picked else { return nil }
    return Int(lease.replica)
  }

  /// What a look at each of them finds: the least in-flight ÷ weight of those that may be picked.
  private static func least(_ board: LoadBoard) -> UInt32? {
    (0..<board.count).compactMap { index -> UInt32? in
      let load = board.inFlight[index].load(ordering: .relaxed)
      let isOpen = board.gates[index].load(ordering: .relaxed) == 0 && load < board.limits[index]
      return isOpen ? min(load, 8191) * board.scales[index] : nil
    }.min()
  }

  @Test(arguments: [1, 7, 16, 64, 65, 100, 333, 1000])
  func theLeastLoadedIsPicked(_ count: Int) {
    var chance = Chance()
    let board = LoadBoard(capacity: count)
    let weights = [0.25, 0.5, 1, 1, 2, 8]
    for index in 0..<count {
      Self.admit(
        board, index, weight: chance.pick(weights), limit: UInt32(chance.below(3) == 0 ? 5 : 0))
    }
    var leases: [Lease] = []
    var draining = Set<Int>()
    for step in 0..<6000 {
      switch chance.below(16) {
      case 0..<8:
        let before = Self.least(board)
        let picked = Self.pick(board)
        let key = picked.map { (board.inFlight[$0].load(ordering: .relaxed) - 1) * board.scales[$0] }
        guard key == before else {
          Issue.record(
            "\(chance.replay()), step \(step): picked \(key.map(String.init) ?? "nobody"), not \(before as Any)")
          return
        }
        if let picked { leases.append(board.lease(UInt32(picked))) }
      case 8..<14:
        guard !leases.isEmpty else { continue }
        leases.swapAt(chance.below(leases.count), leases.count - 1)
        var lease = leases.removeLast()
        board.release(&lease)
      case 14:
        let index = chance.below(count)
        if draining.remove(index) != nil {
          board.setDraining(index, false)
        } else {
          board.setDraining(index, true)
          draining.insert(index)
        }
      default:
        board.adjust(
          chance.below(count), weight: chance.pick(weights), maxInFlight: UInt32(chance.hit(0.5) ? 4 : 0))
      }
    }
  }

  @Test(arguments: [3, 40, 200, 1000])
  func tiesGoRound(_ count: Int) {
    let board = Self.board(count)
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
