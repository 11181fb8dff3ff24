// Bytes waiting for a socket or for their turn: lists of segments, each a piece of a lent buffer or of a block. The
// bytes are never copied; the segment owns one reference to what holds them.

/// Who must get the memory back when a segment is done.
package struct SegmentOwner: BitwiseCopyable, Equatable {
  package var buffer: BufferID
  package var block: BlockRef
  @inline(__always)
  package init(buffer: BufferID) {
    self.buffer = buffer
    block = .none
  }
  @inline(__always)
  package init(block: BlockRef) {
    self.block = block
    buffer = .none
  }
  /// Nobody: the bytes are kept alive by something else (a head kept for a retry).
  package static var borrowed: SegmentOwner {
    @inline(__always) get { SegmentOwner(block: .none) }
  }
}

package struct Segment: TableSlot {
  package var generation: UInt32
  package var nextFree: UInt32
  package var next: UInt32
  package var count: UInt32
  package var base: UnsafeMutablePointer<UInt8>?
  package var owner: SegmentOwner
}

/// A list of segments by index; zeroed memory is NOT an empty queue, `init()` is.
package struct SegmentQueue: BitwiseCopyable {
  package var head = noSlot
  package var tail = noSlot
  /// Bytes in all segments, and how many these are.
  package var bytes: UInt32 = 0
  package var segments: UInt32 = 0

  @inline(__always)
  package init() {}
  @inline(__always)
  package var isEmpty: Bool { head == noSlot }
}
