// How other threads get a worker's attention: an eventfd that its ring reads. (A non-blocking pipe would not do: the
// ring answers a read on one with EAGAIN instead of waiting.)

import CLiburing

package struct WakeHandle: BitwiseCopyable, Sendable {
  package let fd: Int32

  package init() { fd = eventfd(0, Int32(EFD_CLOEXEC)) }

  /// From any thread.
  package func wake() {
    var one: UInt64 = 1
    _ = write(fd, &one, 8)
  }
}

/// The clock of `RingIO.now`: nanoseconds since some point in the past, never set back (CLOCK_MONOTONIC).
package func monotonicNanoseconds() -> UInt64 { sky_monotonic_ns() }
