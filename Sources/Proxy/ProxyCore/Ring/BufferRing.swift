// The lent buffers of one worker. The kernel takes buffers from a ring in the order we provide them; to keep the
// working set small, only `ringTarget` are provided at a time, topped up from a LIFO stack. So a proxy with 1,024
// buffers of 64 KiB that needs 100 at once touches about that many, and small messages touch one page of each.

import CLiburing

struct BufferRing: ~Copyable {
  /// Enough for every completion of a busy turn; more would only widen the cache footprint.
  private static let ringTarget = 512

  let size: Int
  let count: Int
  private let memory: UnsafeMutablePointer<UInt8>
  private let ring: UnsafeMutableRawPointer
  private let mask: UInt32
  private var tail: UInt32 = 0
  private let stack: UnsafeMutablePointer<UInt16>
  private var stacked: Int
  /// Provided to the kernel and not yet seen in a completion.
  private var provided = 0

  /// `count` must be a power of two up to 32,768 (io_uring_register_buf_ring(3)).
  init?(ring uring: UnsafeMutablePointer<io_uring>, count: Int, size: Int) {
    self.size = size
    self.count = count
    memory = mapZeroed(count * size)
    ring = UnsafeMutableRawPointer(mapZeroed(count, of: io_uring_buf.self))
    mask = UInt32(count - 1)
    stack = mapZeroed(count)
    stacked = count
    for index in 0..<count { stack[index] = UInt16(count - 1 - index) }
    guard sky_register_buffer_ring(uring, ring, UInt32(count)) == 0 else { return nil }
    topUp()
  }

  var free: Int { stacked + provided }

  @inline(__always)
  func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer {
    UnsafeMutableRawPointer(memory + Int(buffer.raw) * size)
  }

  /// A completion brought this buffer: it is the engine's until `giveBack`.
  @inline(__always)
  mutating func lend() { provided -= 1 }

  @inline(__always)
  mutating func giveBack(_ buffer: BufferID) {
    precondition(stacked < count, "a buffer was given back twice")
    stack[stacked] = UInt16(truncatingIfNeeded: buffer.raw)
    stacked += 1
  }

  /// Provides buffers up to the target. Once a turn, before the wait.
  @inline(__always)
  mutating func topUp() {
    guard provided < BufferRing.ringTarget && stacked > 0 else { return }
    while provided < BufferRing.ringTarget && stacked > 0 {
      stacked -= 1
      let id = stack[stacked]
      sky_buffer_ring_put(ring, mask, tail, memory + Int(id) * size, UInt32(size), id)
      tail &+= 1
      provided += 1
    }
    sky_buffer_ring_publish(ring, tail)
  }
}
