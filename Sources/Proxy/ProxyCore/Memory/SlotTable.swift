// A fixed table of slots claimed and released in LIFO order. A slot keeps its generation across uses, so that a token
// naming an earlier use is recognised as stale. Slots above the high-water mark are never touched.

/// What a table needs to know of its slots.
package protocol TableSlot: BitwiseCopyable {
  /// Times this slot was claimed; 24 bits travel in tokens.
  var generation: UInt32 { get set }
  /// Link of the free list while the slot is free.
  var nextFree: UInt32 { get set }
}

/// "No slot": the end of every index-linked list.
package let noSlot: UInt32 = .max

package struct SlotTable<Slot: TableSlot>: ~Copyable {
  package let base: UnsafeMutablePointer<Slot>
  package let capacity: Int
  /// Slots claimed now.
  package private(set) var used = 0
  /// Slots ever claimed; the memory behind the others is untouched.
  package private(set) var highWater = 0
  private var freeHead = noSlot

  package init(capacity: Int) {
    self.capacity = capacity
    base = mapZeroed(capacity)
  }

  @inline(__always)
  package subscript(_ index: UInt32) -> UnsafeMutablePointer<Slot> {
    base + Int(index)
  }

  /// A free slot with a new generation, its other fields as the last user left them; nil when all are in use.
  @inline(__always)
  package mutating func claim() -> UInt32? {
    let index: UInt32
    if freeHead != noSlot {
      index = freeHead
      freeHead = base[Int(index)].nextFree
    } else if highWater < capacity {
      index = UInt32(highWater)
      highWater += 1
    } else {
      return nil
    }
    used += 1
    base[Int(index)].generation = (base[Int(index)].generation &+ 1) & 0xFF_FFFF
    return index
  }

  @inline(__always)
  package mutating func release(_ index: UInt32) {
    precondition(Int(index) < highWater && used > 0, "released a slot that was not claimed")
    // Whoever remembers the generation across a call sees that the slot is no longer what it was.
    base[Int(index)].generation = (base[Int(index)].generation &+ 1) & 0xFF_FFFF
    base[Int(index)].nextFree = freeHead
    freeHead = index
    used -= 1
  }
}
