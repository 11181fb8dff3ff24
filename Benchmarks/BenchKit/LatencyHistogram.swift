// Durations in log-linear buckets, 128 per power of two, so that any quantile is known within 0.8 %: what HdrHistogram
// does with two significant digits. One per kind of figure and thread; merged at the end.

import ProxyCore

package struct LatencyHistogram: BitwiseCopyable {
  private static let subBits = 7
  /// 2^42 ns = 73 minutes; longer ones count as that.
  private static let topBit = 42
  package static let buckets = (topBit - subBits + 2) << subBits

  private let counts: UnsafeMutablePointer<UInt64>
  private let totals: UnsafeMutablePointer<(count: UInt64, sum: UInt64, least: UInt64, most: UInt64)>

  package init() {
    counts = mapZeroed(LatencyHistogram.buckets)
    totals = mapZeroed(1)
  }

  package func deallocate() {
    unmap(counts, LatencyHistogram.buckets)
    unmap(totals, 1)
  }

  @inline(__always)
  static func bucket(_ value: UInt64) -> Int {
    let value = min(value, 1 << UInt64(topBit))
    guard value >= 1 << UInt64(subBits) else { return Int(value) }
    let exponent = 63 - value.leadingZeroBitCount
    let sub = Int(value >> UInt64(exponent - subBits)) & ((1 << subBits) - 1)
    return (exponent - subBits + 1) << subBits + sub
  }

  /// The middle of what a bucket holds.
  static func value(of bucket: Int) -> UInt64 {
    guard bucket >= 1 << subBits else { return UInt64(bucket) }
    let exponent = bucket >> subBits + subBits - 1
    let width: UInt64 = 1 << UInt64(exponent - subBits)
    return (1 << UInt64(exponent)) + UInt64(bucket & ((1 << subBits) - 1)) * width + width / 2
  }

  @inline(__always)
  package func record(_ value: UInt64) {
    counts[LatencyHistogram.bucket(value)] &+= 1
    if totals.pointee.count == 0 || value < totals.pointee.least { totals.pointee.least = value }
    totals.pointee.count &+= 1
    totals.pointee.sum &+= value
    if value > totals.pointee.most { totals.pointee.most = value }
  }

  package var count: UInt64 { totals.pointee.count }
  package var most: UInt64 { totals.pointee.most }
  package var least: UInt64 { totals.pointee.least }
  package var mean: Double { count == 0 ? 0 : Double(totals.pointee.sum) / Double(count) }

  /// The value that a share `q` of all values do not exceed, never above the largest one seen. 0 when empty.
  package func quantile(_ q: Double) -> UInt64 {
    guard count > 0 else { return 0 }
    let rank = min(count, max(1, UInt64((q * Double(count)).rounded(.up))))
    if rank == count { return most }
    var seen: UInt64 = 0
    for bucket in 0..<LatencyHistogram.buckets {
      seen += counts[bucket]
      if seen >= rank { return max(least, min(most, LatencyHistogram.value(of: bucket))) }
    }
    return most
  }

  package func merge(_ other: LatencyHistogram) {
    guard other.count > 0 else { return }
    for bucket in 0..<LatencyHistogram.buckets { counts[bucket] &+= other.counts[bucket] }
    if count == 0 || other.least < least { totals.pointee.least = other.least }
    totals.pointee.count &+= other.count
    totals.pointee.sum &+= other.totals.pointee.sum
    totals.pointee.most = max(most, other.most)
  }

  /// `{"n":…,"mean":…,"p50":…}` in microseconds.
  package var json: String {
    func us(_ value: UInt64) -> String { fixed(Double(value) / 1000, 2) }
    return "{\"n\":\(count),\"mean\":\(fixed(mean / 1000, 2)),\"min\":\(us(least)),\"p50\":\(us(quantile(0.5)))"
      + ",\"p90\":\(us(quantile(0.9))),\"p99\":\(us(quantile(0.99))),\"p999\":\(us(quantile(0.999)))"
      + ",\"max\":\(us(most))}"
  }
}
