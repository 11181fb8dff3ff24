// Durations and sizes as people write them in flags: `500ms`, `5s`, `64k`. Pure text in, numbers out, and back.

enum ConfigUnits {
  static let microsecond: UInt64 = 1_000
  static let millisecond: UInt64 = 1_000_000
  static let second: UInt64 = 1_000_000_000
  static let minute: UInt64 = 60 * second
  static let hour: UInt64 = 60 * minute

  /// Largest first, as the printer wants them.
  private static let durations: [(name: String, ns: UInt64)] = [
    ("h", hour), ("m", minute), ("s", second), ("ms", millisecond), ("us", microsecond),
  ]

  /// Nanoseconds of `1.5s`, `500ms`, `100us`, `2m`, `1h`; a plain number is seconds. nil: not a duration, finer than a
  /// microsecond, or beyond what 64 bits hold.
  static func duration(_ text: String) -> UInt64? {
    let bytes = Array(text.utf8)
    let unitStart = bytes.firstIndex { !isDigit($0) && $0 != UInt8(ascii: ".") } ?? bytes.count
    let unit = String(decoding: bytes[unitStart...], as: UTF8.self)
    guard let scale = unit.isEmpty ? second : durations.first(where: { $0.name == unit })?.ns else { return nil }
    let parts = bytes[..<unitStart].split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    guard parts.count == 1 || parts.count == 2, let whole = number(parts[0]) else { return nil }
    let (scaled, over) = whole.multipliedReportingOverflow(by: scale)
    if over { return nil }
    var result = scaled
    if parts.count == 2 {
      // At most six decimals, so that the product below cannot overflow: an hour is 3.6e12 ns.
      guard parts[1].count <= 6, let fraction = number(parts[1]) else { return nil }
      let divisor = parts[1].reduce(UInt64(1)) { product, _ in product * 10 }
      let (quotient, remainder) = (fraction * scale).quotientAndRemainder(dividingBy: divisor)
      let (sum, over) = result.addingReportingOverflow(quotient)
      guard remainder == 0, !over else { return nil }
      result = sum
    }
    return result % microsecond == 0 ? result : nil
  }

  /// The shortest text that `duration` reads back.
  static func text(durationNs ns: UInt64) -> String {
    if ns == 0 { return "0" }
    for (name, scale) in durations where ns % scale == 0 { return "\(ns / scale)\(name)" }
    return "\(ns / microsecond)us"
  }

  /// Bytes of `65536`, `64k`, `1m`, `1g` (binary).
  static func size(_ text: String) -> Int? {
    var digits = Array(text.utf8)[...]
    let shift: Int
    switch digits.last {
    case UInt8(ascii: "k"), UInt8(ascii: "K"): shift = 10
    case UInt8(ascii: "m"), UInt8(ascii: "M"): shift = 20
    case UInt8(ascii: "g"), UInt8(ascii: "G"): shift = 30
    default: shift = 0
    }
    if shift > 0 { digits.removeLast() }
    guard let value = number(digits), let count = Int(exactly: value) else { return nil }
    let (result, over) = count.multipliedReportingOverflow(by: 1 << shift)
    return over ? nil : result
  }

  static func text(size: Int) -> String {
    if size == 0 { return "0" }
    for (name, shift) in [("g", 30), ("m", 20), ("k", 10)] where size % (1 << shift) == 0 {
      return "\(size >> shift)\(name)"
    }
    return "\(size)"
  }

  /// One or more digits, nothing else.
  static func number(_ digits: ArraySlice<UInt8>) -> UInt64? {
    if digits.isEmpty { return nil }
    var result: UInt64 = 0
    for byte in digits {
      guard isDigit(byte) else { return nil }
      let (product, over1) = result.multipliedReportingOverflow(by: 10)
      let (sum, over2) = product.addingReportingOverflow(UInt64(byte - UInt8(ascii: "0")))
      if over1 || over2 { return nil }
      result = sum
    }
    return result
  }

  private static func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }
}
