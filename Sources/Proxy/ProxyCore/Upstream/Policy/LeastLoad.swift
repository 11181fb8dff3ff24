// The replica with the least in-flight ÷ weight; ties go round.

import Synchronization

enum LeastLoad: ReplicaPolicy {
  static let needs = Need.nothing

  @inline(__always)
  static func choose(_ ask: Ask, _ board: LoadBoard, _ count: Int) -> Choice {
    if ask.tried.isEmpty {
      let cursor = Int(board.shared.pointee.cursor.load(ordering: .relaxed))
      let (best, key) =
        count > LoadBoard.scannedMax ? board.search(count, from: cursor) : board.scan(count, from: cursor)
      if key < LoadBoard.shut {
        return .replica(best)
      }
    }
    return chooseAmongAll(ask, board, count)
  }

  /// The rare cases, one replica after the other: a request that must avoid the replicas it has failed on, and the
  /// question whether those that cannot be picked are full or shut.
  private static func chooseAmongAll(_ ask: Ask, _ board: LoadBoard, _ count: Int) -> Choice {
    var round = Round(board, count)
    var best = noSlot
    var least = UInt32.max
    while let index = round.next() {
      switch board.standing(of: index, ask) {
      case .open(let key):
        if key < least { (best, least) = (UInt32(index), key) }
      case .full: round.sawFull = true
      case .out: break
      }
    }
    guard best != noSlot else { return round.sawFull ? .full : .nobody }
    return .replica(best)
  }
}
