// Seeded chance for the random tests of this folder. A failure prints the seed; SKY_SEED=… replays it.

import Glibc

struct Chance: RandomNumberGenerator {
  let seed: UInt64
  private var state: UInt64

  /// SKY_SEED, or a new seed each run.
  init() {
    seed = getenv("SKY_SEED").flatMap { UInt64(String(cString: $0)) } ?? UInt64.random(in: 0...UInt64.max)
    state = seed
  }

  init(seed: UInt64) {
    self.seed = seed
    state = seed
  }

  // SplitMix64.
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }

  mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

  var replay: String { "replay with SKY_SEED=\(seed) swift test --filter ControlCoreTests" }

  /// One to four bytes changed, cut out, doubled or put in.
  mutating func mutated(_ bytes: [UInt8]) -> [UInt8] {
    var result = bytes
    for _ in 0...below(4) {
      let at = result.isEmpty ? 0 : below(result.count)
      switch below(5) {
      case 0 where !result.isEmpty: result[at] = UInt8(truncatingIfNeeded: next())
      case 1 where !result.isEmpty: result.remove(at: at)
      case 2 where !result.isEmpty: result.insert(result[below(result.count)], at: at)
      case 3: result.insert(Array("{}[]\",:\\-+.eE0u \n\u{7f}".utf8).randomElement(using: &self) ?? 0, at: at)
      default: result.removeSubrange(at..<min(result.count, at + below(8)))
      }
    }
    return result
  }
}
