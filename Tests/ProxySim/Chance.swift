// What the simulated network and its peers draw, and the content they send.

import SimKit

extension Chance {
  /// low...high.
  mutating func within(_ low: Int, _ high: Int) -> Int { low + below(high - low + 1) }

  /// 1...most, every order of magnitude as likely as the next: tiny values stay common.
  mutating func size(_ most: Int) -> Int {
    guard most > 1 else { return 1 }
    let bits = Int.bitWidth - most.leadingZeroBitCount
    return min(most, within(1, 1 << within(0, bits)))
  }

  /// Nanoseconds, 1...most, by orders of magnitude.
  mutating func delay(_ most: UInt64) -> UInt64 { UInt64(size(Int(most))) }
}

/// The byte at `position` of the content named by `key`: letters "a"..."p", so that content is never taken for a head,
/// and a piece that is missing, doubled or moved shows at once.
@inline(__always)
func pattern(_ key: UInt64, _ position: Int) -> UInt8 {
  97 &+ UInt8(truncatingIfNeeded: (key &+ UInt64(truncatingIfNeeded: position) &* 0x9E37_79B9_7F4A_7C15) >> 60)
}

enum Nanoseconds {
  static let microsecond: UInt64 = 1_000
  static let millisecond: UInt64 = 1_000_000
  static let second: UInt64 = 1_000_000_000
}
