// What the simulated world of the controller draws: times.

import SimKit

extension Chance {
  mutating func within(_ range: ClosedRange<Double>) -> Double {
    range.lowerBound + part() * (range.upperBound - range.lowerBound)
  }

  /// Mostly short, now and then long: every doubling up to the end of the range is as likely as the next.
  mutating func delay(_ range: ClosedRange<Double>) -> Double {
    var most = range.upperBound
    while most > range.lowerBound * 2, most > 1e-3, hit(0.5) { most /= 2 }
    return within(range.lowerBound...most)
  }
}
