// Private memory for what outlives a lent buffer: partial heads, rewritten heads kept for a retry, local replies, and
// what stalled peers have not taken. Each size a fixed number of blocks, claimed LIFO so that a busy proxy keeps
// touching the same few.
//
//   tiny  512 B    a short head: what thousands of waiting requests each keep for a retry
//   small   2 KiB  a usual head with its small body
//   medium 16 KiB  long cookies, long prompts in headers
//   large   head limit + what rewriting may add, rounded up to pages
//   spill  16 KiB  bytes moved out of lent buffers (Engine/Spill); never claimed for anything else

/// Names a block: size class in the three high bits, index below.
package struct BlockRef: BitwiseCopyable, Equatable {
  package var raw: UInt32
  @inline(__always)
  package init(raw: UInt32) { self.raw = raw }
  package static var none: BlockRef {
    @inline(__always) get { BlockRef(raw: .max) }
  }
  @inline(__always)
  var sizeClass: UInt32 { raw >> 29 }
  @inline(__always)
  var index: Int { Int(raw & 0x1FFF_FFFF) }
  @inline(__always)
  init(_ sizeClass: UInt32, _ index: UInt32) { raw = sizeClass << 29 | index }
  /// Holds bytes moved out of lent buffers.
  @inline(__always)
  package var isSpill: Bool { sizeClass == 4 }
}

package struct BlockPool: ~Copyable {
  package static let tinyBytes = 512
  package static let smallBytes = 2048
  package static let mediumBytes = 16384
  package static let spillBytes = 16384

  private var tiny: FixedBlocks
  private var small: FixedBlocks
  private var medium: FixedBlocks
  private var large: FixedBlocks
  private var spill: FixedBlocks

  package init(tiny: Int, small: Int, medium: Int, large: Int, largeBytes: Int, spill: Int) {
    self.tiny = FixedBlocks(count: tiny, bytes: BlockPool.tinyBytes)
    self.small = FixedBlocks(count: small, bytes: BlockPool.smallBytes)
    self.medium = FixedBlocks(count: medium, bytes: BlockPool.mediumBytes)
    self.large = FixedBlocks(count: large, bytes: largeBytes)
    self.spill = FixedBlocks(count: spill, bytes: BlockPool.spillBytes)
  }

  /// Blocks claimed now, for the leak check of tests and for metrics.
  package var used: Int { tiny.used + small.used + medium.used + large.used + spill.used }
  package var spillUsed: Int { spill.used }
  package var spillFree: Int { spill.count - spill.used }
  package var largestBlock: Int { large.bytes }

  /// The smallest free block with room for `bytes`; a larger one when its size has run out; nil when none is left.
  @inline(__always)
  package mutating func claim(atLeast bytes: Int) -> BlockRef? {
    if bytes <= BlockPool.tinyBytes, let index = tiny.claim() { return BlockRef(0, index) }
    if bytes <= BlockPool.smallBytes, let index = small.claim() { return BlockRef(1, index) }
    return claimLarger(bytes)
  }

  private mutating func claimLarger(_ bytes: Int) -> BlockRef? {
    if bytes <= BlockPool.mediumBytes, let index = medium.claim() { return BlockRef(2, index) }
    if bytes <= large.bytes, let index = large.claim() { return BlockRef(3, index) }
    return nil
  }

  /// A block for bytes of lent buffers; nil when all are in use.
  package mutating func claimSpill() -> BlockRef? {
    guard let index = spill.claim() else { return nil }
    return BlockRef(4, index)
  }

  @inline(__always)
  package mutating func release(_ block: BlockRef) {
    switch block.sizeClass {
    case 0: tiny.release(block.index)
    case 1: small.release(block.index)
    case 2: medium.release(block.index)
    case 3: large.release(block.index)
    default: spill.release(block.index)
    }
  }

  @inline(__always)
  package func capacity(of block: BlockRef) -> Int {
    switch block.sizeClass {
    case 0: BlockPool.tinyBytes
    case 1: BlockPool.smallBytes
    case 2: BlockPool.mediumBytes
    case 3: large.bytes
    default: BlockPool.spillBytes
    }
  }

  @inline(__always)
  package func bytes(of block: BlockRef) -> UnsafeMutablePointer<UInt8> {
    switch block.sizeClass {
    case 0: tiny.base + block.index * BlockPool.tinyBytes
    case 1: small.base + block.index * BlockPool.smallBytes
    case 2: medium.base + block.index * BlockPool.mediumBytes
    case 3: large.base + block.index * large.bytes
    default: spill.base + block.index * BlockPool.spillBytes
    }
  }
}

/// Blocks of one size. The free list is an array of indices, so a free block's memory is not touched.
private struct FixedBlocks: ~Copyable {
  let base: UnsafeMutablePointer<UInt8>
  let free: UnsafeMutablePointer<UInt32>
  let bytes: Int
  let count: Int
  var freeCount = 0
  var highWater = 0

  init(count: Int, bytes: Int) {
    self.count = count
    self.bytes = bytes
    base = mapZeroed(count * bytes)
    free = mapZeroed(count)
  }

  var used: Int { highWater - freeCount }

  @inline(__always)
  mutating func claim() -> UInt32? {
    if freeCount > 0 {
      freeCount -= 1
      return free[freeCount]
    }
    guard highWater < count else { return nil }
    highWater += 1
    return UInt32(highWater - 1)
  }

  @inline(__always)
  mutating func release(_ index: Int) {
    precondition(index < highWater && freeCount < highWater, "released a block that was not claimed")
    free[freeCount] = UInt32(index)
    freeCount += 1
  }
}
