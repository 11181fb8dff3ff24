// What an untagged word means: the rules of YAML 1.1 as PyYAML's SafeLoader has them, because that is what users' files
// were written against. `on`, `yes` and `off` are booleans, `0777` is octal, `1:30` is ninety, `1e3` is a string.
// Where PyYAML itself stumbles (`0x_` matches its pattern and then fails to convert) the word stays a string.

/// The meaning of a plain scalar without a tag.
func resolvePlain(_ text: String) -> (tag: YamlTag, value: YamlValue) {
  var text = text
  let meaning: (YamlTag, YamlValue)? = text.withUTF8 { bytes in
    guard let first = bytes.first else { return (.null, .null) }
    switch first {
    case ascii("~"): return bytes.count == 1 ? (.null, .null) : nil
    case ascii("<"): return equals(bytes, "<<") ? (.merge, .string("<<")) : nil
    case ascii("="): return bytes.count == 1 ? (.value, .string("=")) : nil
    case ascii("n"), ascii("N"), ascii("y"), ascii("Y"), ascii("t"), ascii("T"), ascii("f"), ascii("F"), ascii("o"),
      ascii("O"):
      return keyword(bytes)
    case ascii("+"), ascii("-"), ascii("."), ascii("0")...ascii("9"):
      if let value = integer(bytes) { return (.int, value) }
      if let value = float(bytes) { return (.float, .float(value)) }
      return isTimestamp(bytes) ? (.timestamp, .null) : nil
    default: return nil
    }
  }
  guard let meaning else { return (.str, .string(text)) }
  return meaning.0 == .timestamp ? (.timestamp, .string(text)) : meaning
}

/// The meaning of a scalar whose tag says what it is to be; nil where the text cannot be that.
func resolveTagged(_ text: String, as tag: YamlTag) -> YamlValue? {
  let (found, value) = resolvePlain(text)
  switch tag {
  case .str, .binary, .merge, .value, .timestamp, .other: return .string(text)
  case .null: return .null
  case .bool: return resolvePlain(text.lowercased()).tag == .bool ? resolvePlain(text.lowercased()).value : nil
  case .int: return found == .int ? value : nil
  case .float:
    switch value {
    case .float: return value
    case .int(let it): return .float(Double(it))
    case .hugeInt(let digits): return Double(digits).map { .float($0) }
    case .string:
      // `!!float 1e3`: plain exponents are floats once one says so.
      let isNumber = text.utf8.allSatisfy {
        (ascii("0")...ascii("9")).contains($0)
          || [ascii("+"), ascii("-"), ascii("."), ascii("e"), ascii("E")].contains($0)
      }
      return isNumber ? Double(text).map { .float($0) } : nil
    case .null, .bool, .list, .map: return nil
    }
  case .seq, .omap, .pairs, .map, .set: return nil
  }
}

@inline(__always) func ascii(_ character: Unicode.Scalar) -> UInt8 { UInt8(truncatingIfNeeded: character.value) }

// MARK: - Words

private typealias Bytes = UnsafeBufferPointer<UInt8>

private func equals(_ bytes: Bytes, _ word: StaticString) -> Bool {
  bytes.count == word.utf8CodeUnitCount && bytes.indices.allSatisfy { bytes[$0] == word.utf8Start[$0] }
}

/// `no`, `No` and `NO`, but not `nO`.
private func isCased(_ bytes: Bytes, _ word: StaticString) -> Bool {
  guard bytes.count == word.utf8CodeUnitCount, bytes[0] | 0x20 == word.utf8Start[0] else { return false }
  let lower = (1..<bytes.count).allSatisfy { bytes[$0] == word.utf8Start[$0] }
  let upper = bytes[0] & 0x20 == 0 && (1..<bytes.count).allSatisfy { bytes[$0] == word.utf8Start[$0] & ~0x20 }
  return lower || upper
}

private func keyword(_ bytes: Bytes) -> (YamlTag, YamlValue)? {
  guard bytes.count <= 5 else { return nil }
  if isCased(bytes, "null") { return (.null, .null) }
  if isCased(bytes, "true") || isCased(bytes, "yes") || isCased(bytes, "on") { return (.bool, .bool(true)) }
  if isCased(bytes, "false") || isCased(bytes, "no") || isCased(bytes, "off") { return (.bool, .bool(false)) }
  return nil
}

// MARK: - Numbers

private let underscore = ascii("_")

private func isDigit(_ byte: UInt8) -> Bool { byte >= ascii("0") && byte <= ascii("9") }

private func digitValue(_ byte: UInt8) -> Int {
  switch byte {
  case ascii("0")...ascii("9"): Int(byte - ascii("0"))
  case ascii("a")...ascii("f"): Int(byte - ascii("a")) + 10
  case ascii("A")...ascii("F"): Int(byte - ascii("A")) + 10
  default: 99
  }
}

/// 0b1_0, 0777, 12_000, 0x1F and 1:30:00, each with an optional sign.
private func integer(_ bytes: Bytes) -> YamlValue? {
  var digits = bytes[...]
  let negative = digits.first == ascii("-")
  if negative || digits.first == ascii("+") { digits.removeFirst() }
  guard let first = digits.first, isDigit(first) else { return nil }
  func all(_ part: Slice<Bytes>, below radix: Int) -> Bool {
    part.allSatisfy { $0 == underscore || digitValue($0) < radix }
  }
  func hasDigit(_ part: Slice<Bytes>) -> Bool { part.contains { $0 != underscore } }
  if first == ascii("0") {
    let rest = digits.dropFirst()
    guard let second = rest.first else { return .int(0) }
    if second == ascii("b") || second == ascii("x") {
      let radix = second == ascii("b") ? 2 : 16
      let part = rest.dropFirst()
      return all(part, below: radix) && hasDigit(part) ? whole([part], radix, 1, negative) : nil
    }
    return all(rest, below: 8) ? whole([rest], 8, 1, negative) : nil
  }
  if all(digits, below: 10) { return whole([digits], 10, 1, negative) }
  guard let parts = sixties(digits) else { return nil }
  return whole(parts, 10, 60, negative)
}

/// `1:30:00` cut at its colons: after the first part, each is one digit or two, less than sixty.
private func sixties(_ digits: Slice<Bytes>) -> [Slice<Bytes>]? {
  let parts = digits.split(separator: ascii(":"), omittingEmptySubsequences: false)
  guard parts.count > 1, let head = parts[0].first, isDigit(head) else { return nil }
  guard parts[0].allSatisfy({ isDigit($0) || $0 == underscore }) else { return nil }
  for part in parts.dropFirst() {
    guard part.allSatisfy(isDigit), part.count == 1 || part.count == 2 && part.first! < ascii("6") else { return nil }
  }
  return parts
}

/// Longer numbers are names, not numbers: Python refuses them too, and turning them into decimal digits costs the
/// square of their length.
private let digitsMax = 4300

/// Parts of digits in a radix, each part worth `base` times the one after it.
private func whole(_ parts: [Slice<Bytes>], _ radix: Int, _ base: Int, _ negative: Bool) -> YamlValue? {
  if let value = small(parts, radix, base) { return .int(negative ? -value : value) }
  guard parts.reduce(0, { $0 + $1.count }) <= digitsMax else { return nil }
  var total = Decimal()
  for part in parts {
    var inner = Decimal()
    // Several digits at a time: their value and what it stands above.
    var (chunk, factor): (UInt64, UInt64) = (0, 1)
    for byte in part where byte != underscore {
      chunk = chunk * UInt64(radix) + UInt64(digitValue(byte))
      factor *= UInt64(radix)
      if factor > Decimal.limb / 16 {
        inner.scale(by: factor, adding: chunk)
        (chunk, factor) = (0, 1)
      }
    }
    inner.scale(by: factor, adding: chunk)
    total.scale(by: UInt64(base), adding: 0)
    total.add(inner)
  }
  let text = (negative ? "-" : "") + total.text
  return Int(text).map { .int($0) } ?? .hugeInt(text)  // -9223372036854775808 comes by here and still fits
}

/// The same where it fits a machine word.
private func small(_ parts: [Slice<Bytes>], _ radix: Int, _ base: Int) -> Int? {
  func step(_ total: Int, _ factor: Int, _ digit: Int) -> Int? {
    let (product, over) = total.multipliedReportingOverflow(by: factor)
    let (sum, carried) = product.addingReportingOverflow(digit)
    return over || carried ? nil : sum
  }
  var total = 0
  for part in parts {
    var inner = 0
    for byte in part where byte != underscore {
      guard let next = step(inner, radix, digitValue(byte)) else { return nil }
      inner = next
    }
    guard let next = step(total, base, inner) else { return nil }
    total = next
  }
  return total
}

/// A whole number of any size, in limbs of nine decimal digits, the smallest first.
private struct Decimal {
  private var limbs: [UInt64] = []
  static let limb: UInt64 = 1_000_000_000

  mutating func scale(by factor: UInt64, adding carry: UInt64) {
    var carry = carry
    for index in limbs.indices {
      carry += limbs[index] * factor
      limbs[index] = carry % Self.limb
      carry /= Self.limb
    }
    if carry > 0 { limbs.append(carry) }
  }

  mutating func add(_ other: Decimal) {
    var carry: UInt64 = 0
    for index in 0..<max(limbs.count, other.limbs.count) {
      if index == limbs.count { limbs.append(0) }
      carry += limbs[index] + (index < other.limbs.count ? other.limbs[index] : 0)
      limbs[index] = carry % Self.limb
      carry /= Self.limb
    }
    if carry > 0 { limbs.append(carry) }
  }

  var text: String {
    guard let top = limbs.last else { return "0" }
    return limbs.dropLast().reversed().reduce(into: String(top)) { text, limb in
      let digits = String(limb)
      text += String(repeating: "0", count: 9 - digits.count) + digits
    }
  }
}

/// 1.5, 1., .5, 6.8e+5 (the exponent needs its sign), 1:30.5, .inf and .nan.
private func float(_ bytes: Bytes) -> Double? {
  var rest = bytes[...]
  let negative = rest.first == ascii("-")
  let signed = negative || rest.first == ascii("+")
  if signed { rest.removeFirst() }
  let sign = negative ? -1.0 : 1.0
  guard let first = rest.first else { return nil }
  if first == ascii(".") {
    let word = Bytes(rebasing: rest.dropFirst())
    if !word.isEmpty, isCased(word, "inf") { return sign * .infinity }
    // A sign goes with neither `.nan` nor `.5`.
    guard !signed, let next = word.first else { return nil }
    if equals(word, "nan") || equals(word, "NaN") || equals(word, "NAN") { return .nan }
    guard isDigit(next) else { return nil }
  } else if !isDigit(first) {
    return nil
  }
  guard let dot = rest.firstIndex(of: ascii(".")) else { return nil }
  let head = rest[..<dot]
  var tail = rest[(dot + 1)...]
  if head.contains(ascii(":")) {
    guard tail.allSatisfy({ isDigit($0) || $0 == underscore }), let parts = sixties(head) else { return nil }
    let wholePart = parts.reduce(0.0) { $0 * 60 + (number($1) ?? 0) }
    return sign * (wholePart + (number(Slice(base: bytes, bounds: dot..<bytes.endIndex)) ?? 0))
  }
  guard head.allSatisfy({ isDigit($0) || $0 == underscore }) else { return nil }
  if let exponent = tail.firstIndex(where: { $0 | 0x20 == ascii("e") }) {
    let power = tail[(exponent + 1)...]
    guard power.first == ascii("+") || power.first == ascii("-") else { return nil }
    guard power.count > 1, power.dropFirst().allSatisfy(isDigit) else { return nil }
    tail = tail[..<exponent]
  }
  guard tail.allSatisfy({ isDigit($0) || $0 == underscore }) else { return nil }
  return number(rest).map { sign * $0 }
}

/// Digits, a point and an exponent that are known to be well-formed, underscores left out.
private func number(_ digits: Slice<Bytes>) -> Double? {
  var text = String(decoding: digits.filter { $0 != underscore }, as: UTF8.self)
  if text.hasPrefix(".") { text = "0" + text }
  if text.hasSuffix(".") { text += "0" }
  return Double(text)
}

// MARK: - Dates

/// 2001-12-14, or that with a time: 2001-12-14t21:59:43.10-05:00, 2001-12-14 21:59:43 Z.
private func isTimestamp(_ bytes: Bytes) -> Bool {
  var index = 0
  func peek() -> UInt8 { index < bytes.count ? bytes[index] : 0 }
  func digits(_ least: Int, _ most: Int) -> Bool {
    let start = index
    while index - start < most, isDigit(peek()) { index += 1 }
    return index - start >= least
  }
  func one(_ byte: UInt8) -> Bool {
    guard peek() == byte else { return false }
    index += 1
    return true
  }
  func blanks() -> Bool {
    let start = index
    while peek() == 0x20 || peek() == 0x09 { index += 1 }
    return index > start
  }
  guard digits(4, 4), one(ascii("-")) else { return false }
  let month = index
  guard digits(1, 2), one(ascii("-")) else { return false }
  let day = index
  guard digits(1, 2) else { return false }
  if index == bytes.count { return day - month == 3 && index - day == 2 }
  if peek() | 0x20 == ascii("t") { index += 1 } else if !blanks() { return false }
  guard digits(1, 2), one(ascii(":")), digits(2, 2), one(ascii(":")), digits(2, 2) else { return false }
  if one(ascii(".")) { while isDigit(peek()) { index += 1 } }
  let zoned = blanks()
  if index == bytes.count { return !zoned }
  if one(ascii("Z")) { return index == bytes.count }
  guard one(ascii("+")) || one(ascii("-")), digits(1, 2) else { return false }
  if index == bytes.count { return true }
  return one(ascii(":")) && digits(2, 2) && index == bytes.count
}

// MARK: - Floats as text

/// A float as Python's `repr` writes it: `1.0`, `1e+16`, `inf`. The shortest digits that read back as the same value.
package func yamlFloatText(_ value: Double) -> String {
  guard value.isFinite else { return value.isNaN ? "nan" : value < 0 ? "-inf" : "inf" }
  // Swift finds the same shortest digits; only where it turns to exponents differs. Take its text apart and lay it out
  // again.
  var digits: [UInt8] = []
  var point: Int? = nil
  var power = 0
  var text = value.magnitude.description[...].utf8
  if let exponent = text.firstIndex(of: ascii("e")) {
    power = Int(String(text[text.index(after: exponent)...]) ?? "") ?? 0
    text = text[..<exponent]
  }
  for byte in text {
    if byte == ascii(".") { point = digits.count } else { digits.append(byte) }
  }
  var exponent = (point ?? digits.count) + power  // the value is 0.DIGITS × 10^exponent
  while digits.count > 1, digits.first == ascii("0") {
    digits.removeFirst()
    exponent -= 1
  }
  while digits.count > 1, digits.last == ascii("0") { digits.removeLast() }
  let sign = value.sign == .minus ? "-" : ""
  if digits == [ascii("0")] { return sign + "0.0" }
  let word = String(decoding: digits, as: UTF8.self)
  if exponent > 16 || exponent < -3 {
    let shown = exponent - 1
    let fraction = word.count > 1 ? ".\(word.dropFirst())" : ""
    let magnitude = String(shown.magnitude)
    return "\(sign)\(word.first!)\(fraction)e\(shown < 0 ? "-" : "+")\(magnitude.count < 2 ? "0" : "")\(magnitude)"
  }
  if exponent <= 0 { return sign + "0." + String(repeating: "0", count: -exponent) + word }
  if exponent >= digits.count { return sign + word + String(repeating: "0", count: exponent - digits.count) + ".0" }
  return sign + word.prefix(exponent) + "." + word.dropFirst(exponent)
}
