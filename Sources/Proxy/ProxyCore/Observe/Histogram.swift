// Durations in log-linear buckets: four per power of two from 1 µs, so any value is known within 25 %. One worker
// writes, anyone may read: an aligned 64-bit word does not tear on the machines we run on.

package struct Histogram: BitwiseCopyable {
  /// Buckets: 0 = below 1 µs, then four per doubling; the last holds everything above ~17 minutes.
  package static let buckets = 4 * 30 + 1

  package let counts: UnsafeMutablePointer<UInt32>
  package let sum: UnsafeMutablePointer<UInt64>

  /// The bucket of a duration in nanoseconds.
  @inline(__always)
  package static func bucket(_ ns: UInt64) -> Int {
    let us = ns >> 10  // 1.024 µs: a shift instead of a division, and the bounds below are exact multiples of it
    guard us != 0 else { return 0 }
    let exponent = 63 - us.leadingZeroBitCount
    let quarter = exponent >= 2 ? Int((us >> UInt64(exponent - 2)) & 3) : Int((us << UInt64(2 - exponent)) & 3)
    return min(1 + exponent * 4 + quarter, buckets - 1)
  }

  /// The upper bound of a bucket in nanoseconds (exclusive).
  package static func upperBound(_ bucket: Int) -> UInt64 {
    guard bucket > 0 else { return 1024 }
    let exponent = UInt64((bucket - 1) / 4)
    let quarter = UInt64((bucket - 1) % 4)
    return (((quarter + 5) << exponent) << 10) >> 2
  }

  @inline(__always)
  package func record(_ ns: UInt64) {
    counts[Histogram.bucket(ns)] &+= 1
    sum.pointee &+= ns
  }
}
