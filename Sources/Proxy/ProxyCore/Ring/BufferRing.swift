// The lent buffers of one worker. The kernel takes buffers from a ring in the order we provide them; to keep the
// working set small, only some are provided at a time, topped up from a LIFO stack. So a proxy with 1,024 buffers of
// 64 KiB that needs 100 at once touches about that many, and small messages touch one page of each.

import CLiburing

struct BufferRing: ~Copyable {
  /// Enough for every completion of a busy turn of small messages.
  private static let providedMost = 512
  /// What a turn receives should still be in the processor's cache when it is sent: bodies of 1 MB then cost 0.72 of
  /// what they do with 512 buffers at a time; half or twice as much is no better. Who finds none goes on next turn.
  private static let turnBytes = 1_048_576
  private static let providedLeast = 16
  /// What goes in one TCP segment on 127.0.0.1 (a packet of 65,535 less the headers): a full buffer then needs one, not
  /// one and a crumb. Bodies of 1 MB, either way, cost 0.92 of what they do with buffers filled up to 65,536.
  private static let loopbackSegment = 65_483

  /// Bytes the kernel may put in a buffer.
  let size: Int
  /// Bytes of memory a buffer takes.
  private let stride: Int
  let count: Int
  private let memory: UnsafeMutablePointer<UInt8>
  private let ring: UnsafeMutableRawPointer
  private let mask: UInt32
  private var tail: UInt32 = 0
  private let stack: UnsafeMutablePointer<UInt16>
  private var stacked: Int
  /// Provided to the kernel and not yet seen in a completion.
  private var provided = 0
  /// How many are provided at a time: as many as hold `turnBytes` when they are filled as those of late were.
  private(set) var target = BufferRing.providedMost
  /// Bytes in a buffer of late, a moving mean; buffers lent and bytes in them since the last top-up.
  private var filling = 0
  private var lent = 0
  private var lentBytes = 0

  /// `size`: bytes of memory for each. `count` must be a power of two up to 32,768 (io_uring_register_buf_ring(3)).
  init?(ring uring: UnsafeMutablePointer<io_uring>, count: Int, size: Int) {
    stride = size
    self.size = BufferRing.filled(of: size)
    self.count = count
    memory = mapZeroed(count * stride)
    ring = UnsafeMutableRawPointer(mapZeroed(count, of: io_uring_buf.self))
    mask = UInt32(count - 1)
    stack = mapZeroed(count)
    stacked = count
    for index in 0..<count { stack[index] = UInt16(count - 1 - index) }
    guard sky_register_buffer_ring(uring, ring, UInt32(count)) == 0 else { return nil }
    topUp()
  }

  /// As much of a buffer as goes in whole segments, where that leaves no more than a crumb of it.
  static func filled(of size: Int) -> Int {
    let crumb = size % loopbackSegment
    return size >= loopbackSegment && crumb < 4096 ? size - crumb : size
  }

  var free: Int { stacked + provided }

  @inline(__always)
  func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer {
    UnsafeMutableRawPointer(memory + Int(buffer.raw) * stride)
  }

  /// A completion brought one of the buffers, with so many bytes in it: it is the engine's until `giveBack`.
  @inline(__always)
  mutating func lend(_ bytes: Int32) {
    provided -= 1
    lent += 1
    lentBytes += Int(max(bytes, 0))
  }

  @inline(__always)
  mutating func giveBack(_ buffer: BufferID) {
    precondition(stacked < count, "a buffer was given back twice")
    stack[stacked] = UInt16(truncatingIfNeeded: buffer.raw)
    stacked += 1
  }

  /// Provides buffers up to the target. Once a turn, before the wait.
  @inline(__always)
  mutating func topUp() {
    if lent > 0 {
      filling += (lentBytes / lent - filling) / 4
      lent = 0
      lentBytes = 0
      target = min(
        BufferRing.providedMost, max(BufferRing.providedLeast, BufferRing.turnBytes / max(1, filling)))
    }
    guard provided < target && stacked > 0 else { return }
    while provided < target && stacked > 0 {
      stacked -= 1
      let id = stack[stacked]
      sky_buffer_ring_put(ring, mask, tail, memory + Int(id) * stride, UInt32(size), id)
      tail &+= 1
      provided += 1
    }
    sky_buffer_ring_publish(ring, tail)
  }
}
