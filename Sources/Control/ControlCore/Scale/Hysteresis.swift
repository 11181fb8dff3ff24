// The delay before a target follows the load, counted in looks rather than in seconds, as SkyServe counts it.
//
//            wanted > target           wanted < target
//   up ++, down = 0 ◀──────── look ────────▶ down ++, up = 0
//        │                     │ equal             │
//        ▼ up ≥ upscale        ▼ both 0            ▼ down ≥ downscale
//   target = wanted                           target = wanted

package struct Hysteresis: Hashable, Codable, Sendable {
  /// Seconds between looks that the delays are divided by. It stays 20 even where looks are 5 s apart: those happen
  /// only at target 0, where there is no delay.
  package static let tickSeconds = 20.0

  package private(set) var up = 0
  package private(set) var down = 0
  private var upLooks: Int
  private var downLooks: Int

  /// Delays in seconds; below one tick there is none.
  package init(upscaleDelay: Double, downscaleDelay: Double) {
    upLooks = Self.looks(upscaleDelay)
    downLooks = Self.looks(downscaleDelay)
  }

  private static func looks(_ delay: Double) -> Int { Int(clamping: min(max(delay / tickSeconds, 0), 1e9)) }

  /// The target after one more look.
  package mutating func settle(_ target: Int, wanted: Int) -> Int {
    // Nothing runs: whoever asks waits already.
    if target == 0 {
      (up, down) = (0, 0)
      return wanted
    }
    if wanted > target {
      (up, down) = (up + 1, 0)
      if up < upLooks { return target }
      up = 0
      return wanted
    }
    if wanted < target {
      (up, down) = (0, down + 1)
      if down < downLooks { return target }
      down = 0
      return wanted
    }
    (up, down) = (0, 0)
    return target
  }
}
