// Deadlines of all connections of a worker: a hierarchical timing wheel with one entry per slot. Setting a deadline
// later than the entry's place costs one store (the entry moves when it comes up); so a stream that resets its silence
// deadline at every event never touches a list.
//
//   level 0: 64 buckets of ~1 ms    level 1: 64 × 67 ms    level 2: 64 × 4.3 s    level 3: 64 × 275 s (4.9 h in all)

package struct TimerWheel: ~Copyable {
  private struct Node: BitwiseCopyable {
    var deadline: UInt64  // nanoseconds; 0 = none
    var next: UInt32
    var prev: UInt32
    var bucket: UInt16  // index + 1; 0 = in no bucket
  }

  /// 2^20 ns = 1.048 ms: a power of two, so that a time becomes a tick by shifting.
  private static let tickShift: UInt64 = 20
  private static let levels = 4

  private let nodes: UnsafeMutablePointer<Node>
  private let heads: UnsafeMutablePointer<UInt32>  // first slot + 1 of each bucket; 0 = empty
  private let occupied: UnsafeMutablePointer<UInt64>  // one bit per bucket of a level
  private var tick: UInt64
  /// The slots of a bucket being expired, waiting for `expired` to hand them out one by one.
  private var due: UInt32 = noSlot

  package init(capacity: Int, now: UInt64) {
    nodes = mapZeroed(capacity)
    heads = mapZeroed(TimerWheel.levels * 64)
    occupied = mapZeroed(TimerWheel.levels)
    tick = now >> TimerWheel.tickShift
  }

  /// Gives `slot` the deadline `at` (nanoseconds of the worker's clock), replacing the one it had.
  @inline(__always)
  package mutating func set(_ slot: UInt32, at deadline: UInt64) {
    let node = nodes + Int(slot)
    let previous = node.pointee.deadline
    node.pointee.deadline = deadline
    // Later than before and already in the wheel: its bucket comes up no later than needed, so leave it there.
    if node.pointee.bucket != 0 && deadline >= previous && previous != 0 { return }
    place(slot)
  }

  /// `slot` comes up at `at` at the latest: an alarm that is set already and comes earlier stays.
  @inline(__always)
  package mutating func wake(_ slot: UInt32, by at: UInt64) {
    let deadline = nodes[Int(slot)].deadline
    if deadline == 0 || at < deadline { set(slot, at: at) }
  }

  /// The slot has no deadline any more. Its entry, if any, falls out of the wheel by itself.
  @inline(__always)
  package mutating func clear(_ slot: UInt32) {
    nodes[Int(slot)].deadline = 0
  }

  /// When the worker must wake at the latest, `.max` when no entry is left. May be early, never late.
  package var nextWake: UInt64 {
    var best = UInt64.max
    var level = 0
    while level < TimerWheel.levels {
      let bits = occupied[level]
      if bits != 0 {
        let shift = UInt64(level * 6)
        let position = (tick >> shift) & 63
        // Rotate so that the bucket after the current one is bit 0.
        let rotation = (position + 1) & 63
        let rotated = rotation == 0 ? bits : (bits >> rotation) | (bits << (64 - rotation))
        let distance = UInt64(rotated.trailingZeroBitCount) + 1
        let at = (((tick >> shift) + distance) << shift) << TimerWheel.tickShift
        if at < best { best = at }
      }
      level += 1
    }
    return best
  }

  /// Moves time forward to `now` and returns a slot whose deadline has passed, or nil when there is none (left). Call
  /// until nil. The slot has no deadline afterwards.
  package mutating func expired(now: UInt64) -> UInt32? {
    let target = now >> TimerWheel.tickShift
    while true {
      while due != noSlot {
        let slot = due
        let node = nodes + Int(slot)
        due = node.pointee.next
        if due != noSlot { nodes[Int(due)].prev = noSlot }
        node.pointee.bucket = 0
        if node.pointee.deadline == 0 { continue }
        if node.pointee.deadline <= now {
          node.pointee.deadline = 0
          return slot
        }
        place(slot)
      }
      if tick >= target { return nil }
      step(towards: target)
    }
  }

  /// Advances at most to the next tick that has something to do.
  private mutating func step(towards target: UInt64) {
    let wake = nextWake
    let next = wake == .max ? target : min(target, wake >> TimerWheel.tickShift)
    tick = max(next, tick + 1)
    var level = TimerWheel.levels - 1
    // Higher levels first: their entries move down into buckets that are handled next.
    while level > 0 {
      let shift = UInt64(level * 6)
      if tick & ((1 << shift) - 1) == 0 { cascade(level, Int((tick >> shift) & 63)) }
      level -= 1
    }
    take(Int(tick & 63))
  }

  private mutating func cascade(_ level: Int, _ position: Int) {
    let bucket = level * 64 + position
    var slot = heads[bucket]
    heads[bucket] = 0
    occupied[level] &= ~(1 << UInt64(position))
    while slot != 0 {
      let index = slot - 1
      let next = nodes[Int(index)].next
      nodes[Int(index)].bucket = 0
      if nodes[Int(index)].deadline != 0 { place(index) }
      slot = next == noSlot ? 0 : next + 1
    }
  }

  /// Puts a level-0 bucket on the due list. Its nodes keep their links; `due` is the new head.
  private mutating func take(_ position: Int) {
    guard heads[position] != 0 else { return }
    precondition(due == noSlot, "a bucket was taken before the last was handed out")
    due = heads[position] - 1
    heads[position] = 0
    occupied[0] &= ~(1 << UInt64(position))
    var slot = due
    while slot != noSlot {
      nodes[Int(slot)].bucket = TimerWheel.dueBucket
      slot = nodes[Int(slot)].next
    }
  }

  /// The marker of nodes on the due list: no real bucket has this number.
  private static let dueBucket: UInt16 = .max

  private mutating func place(_ slot: UInt32) {
    let node = nodes + Int(slot)
    if node.pointee.bucket != 0 { unlink(slot) }
    // Rounded up: an entry never comes up before its deadline.
    var at = (node.pointee.deadline >> TimerWheel.tickShift) &+ 1
    if at <= tick { at = tick + 1 }
    let horizon = tick + (1 << 24) - 64 * 64 * 64
    if at > horizon { at = horizon }
    var level = 0
    while level < TimerWheel.levels - 1 && (at >> UInt64(level * 6)) - (tick >> UInt64(level * 6)) >= 64 { level += 1 }
    let position = Int((at >> UInt64(level * 6)) & 63)
    let bucket = level * 64 + position
    node.pointee.bucket = UInt16(bucket + 1)
    node.pointee.prev = noSlot
    node.pointee.next = heads[bucket] == 0 ? noSlot : heads[bucket] - 1
    if node.pointee.next != noSlot { nodes[Int(node.pointee.next)].prev = slot }
    heads[bucket] = slot + 1
    occupied[level] |= 1 << UInt64(position)
  }

  private mutating func unlink(_ slot: UInt32) {
    let node = nodes + Int(slot)
    let next = node.pointee.next
    let prev = node.pointee.prev
    if next != noSlot { nodes[Int(next)].prev = prev }
    if prev != noSlot {
      nodes[Int(prev)].next = next
    } else if node.pointee.bucket == TimerWheel.dueBucket {
      due = next
    } else {
      let bucket = Int(node.pointee.bucket) - 1
      heads[bucket] = next == noSlot ? 0 : next + 1
      if heads[bucket] == 0 { occupied[bucket >> 6] &= ~(1 << UInt64(bucket & 63)) }
    }
    node.pointee.bucket = 0
  }
}
