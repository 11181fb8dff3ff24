// Until when a replica that drains or has left the list may keep its exchanges. Most end in their own time; one whose
// replica hangs would end with its stream deadline, minutes or hours later, and hold the replica's place until then.
//
// The admin thread says when (`setCut`) and wakes the workers. Each worker asks once a turn whether a moment has come
// (`CutWatch`), which costs one load of a shared counter, and then looks through its own exchanges (`isCut`).

import Synchronization

extension LoadBoard {
  /// Admin thread: the exchanges of this replica end at `time`, nanoseconds of the monotonic clock; 0: in their own
  /// time. Returns whether that is another time than before, so that the workers have to be woken.
  @discardableResult
  package func setCut(_ index: Int, at time: UInt64) -> Bool {
    guard cutAt[index].load(ordering: .relaxed) != time else { return false }
    cutAt[index].store(time, ordering: .relaxed)
    shared.pointee.cutChanges.wrappingAdd(1, ordering: .releasing)
    return true
  }

  /// Whether the replica of this lease, which is held, may not keep its exchanges any longer.
  @inline(__always)
  package func isCut(_ lease: Lease, now: UInt64) -> Bool {
    let time = cutAt[Int(lease.replica)].load(ordering: .relaxed)
    return time != 0 && now >= time
  }

  /// The first moment after `time` at which exchanges have to end; .max: there is none.
  package func nextCut(after time: UInt64) -> UInt64 {
    var next = UInt64.max
    var index = 0
    let count = self.count
    while index < count {
      let at = cutAt[index].load(ordering: .relaxed)
      if at > time && at < next { next = at }
      index += 1
    }
    return next
  }
}

/// One worker's place in the sequence of cuts.
package struct CutWatch: BitwiseCopyable {
  private var changes: UInt32 = 0
  /// When this worker has to look through its exchanges next; .max: no need. Its ring must not sleep beyond that.
  package private(set) var next: UInt64 = .max

  package init() {}

  /// Once a turn: whether the worker has to end those of its exchanges that are cut by now. True once for each moment,
  /// so a replica's exchanges have to be ended, or marked to be, when it is.
  @inline(__always)
  package mutating func isDue(_ board: LoadBoard, now: UInt64) -> Bool {
    let changes = board.shared.pointee.cutChanges.load(ordering: .acquiring)
    if changes != self.changes {
      self.changes = changes
      // From the beginning of time: a moment that was set anew may have passed already.
      next = board.nextCut(after: 0)
    }
    guard now >= next else { return false }
    next = board.nextCut(after: now)
    return true
  }
}
