// From numbers that may be anything to whole ones. Called wherever a Double comes from a file, a journal, another
// program or a clock: `Int(_:)` ends the process when it does not fit.

extension FixedWidthInteger {
  /// Without the fraction, the nearest there is; 0 for what is no number.
  package init(clamping number: Double) {
    if number.isNaN {
      self = 0
    } else if number <= Double(Self.min) {
      self = .min
    } else if number >= Double(Self.max) {
      // Double(Int.max) is one more than Int.max.
      self = .max
    } else {
      self = Self(number)
    }
  }
}
