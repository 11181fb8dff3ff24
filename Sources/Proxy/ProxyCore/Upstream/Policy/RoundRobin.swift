// Each replica in its turn, whatever it has to do.

import Synchronization

enum RoundRobin: ReplicaPolicy {
  static let needs = Need.nothing
  /// How often a turn that another worker has taken is tried for again. After that two requests get the same turn.
  private static let turnsMax = 16

  @inline(__always)
  static func choose(_ ask: Ask, _ board: LoadBoard, _ count: Int) -> Choice {
    var turns = 0
    while true {
      var round = Round(board, count)
      guard let index = next(ask, board, &round) else { return round.sawFull ? .full : .nobody }
      let isOurTurn = board.shared.pointee.cursor.compareExchange(
        expected: round.cursor, desired: index &+ 1, ordering: .relaxed
      ).exchanged
      turns += 1
      if isOurTurn || turns == turnsMax { return .turn(index) }
    }
  }

  @inline(__always)
  private static func next(_ ask: Ask, _ board: LoadBoard, _ round: inout Round) -> UInt32? {
    while let index = round.next() {
      switch board.standing(of: index, ask) {
      case .open: return UInt32(index)
      case .full: round.sawFull = true
      case .out: break
      }
    }
    return nil
  }
}
