// Seeded random numbers: everything a simulation or a random test leaves to chance comes from here, so that its seed
// replays it.
//
// Public rather than of the package: only so may the simulators compile what is here into their own code. Without that
// they take twice as long.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
public struct Chance: RandomNumberGenerator, Sendable {
  public let seed: UInt64
  @usableFromInline var state: UInt64

  @inlinable public init(seed: UInt64) {
    self.seed = seed
    state = seed
  }

  @inlinable public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    return mix(state)
  }

  /// A generator of its own for a part of the world, so that the parts do not disturb each other's draws.
  @inlinable public mutating func fork() -> Chance { Chance(seed: next()) }

  /// 0..<bound.
  @inlinable public mutating func below(_ bound: Int) -> Int {
    Int(next().multipliedFullWidth(by: UInt64(max(1, bound))).high)
  }

  /// 0..<1.
  @inlinable public mutating func part() -> Double { Double(next() >> 11) * 0x1p-53 }

  @inlinable public mutating func hit(_ probability: Double) -> Bool { probability > 0 && part() < probability }

  @inlinable public mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }
}

/// The finalizer of SplitMix64: a bijection that leaves no pattern.
@inlinable public func mix(_ value: UInt64) -> UInt64 {
  var z = value
  z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
  z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
  return z ^ (z >> 31)
}
