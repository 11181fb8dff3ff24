// Seeded random numbers: everything a run leaves to chance comes from here, so that its seed replays it.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
package struct Chance {
  private var state: UInt64

  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    return mix(state)
  }

  /// A generator of its own for a part of the world, so that the parts do not disturb each other's draws.
  package mutating func fork() -> Chance { Chance(seed: next()) }

  /// 0..<bound.
  package mutating func below(_ bound: Int) -> Int {
    Int(next().multipliedFullWidth(by: UInt64(max(1, bound))).high)
  }

  /// low...high.
  package mutating func within(_ low: Int, _ high: Int) -> Int { low + below(high - low + 1) }

  package mutating func hit(_ probability: Double) -> Bool {
    probability > 0 && Double(next() >> 11) * 0x1p-53 < probability
  }

  /// 1...most, every order of magnitude as likely as the next: tiny values stay common.
  package mutating func size(_ most: Int) -> Int {
    guard most > 1 else { return 1 }
    let bits = Int.bitWidth - most.leadingZeroBitCount
    return min(most, within(1, 1 << within(0, bits)))
  }

  /// Nanoseconds, 1...most, by orders of magnitude.
  package mutating func delay(_ most: UInt64) -> UInt64 { UInt64(size(Int(most))) }

  package mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }
}

/// The finalizer of SplitMix64: a bijection that leaves no pattern.
func mix(_ value: UInt64) -> UInt64 {
  var z = value
  z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
  z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
  return z ^ (z >> 31)
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
