// Writing heads, chunks and events into memory that the caller has made large enough.

import Glibc

package struct ByteOut: BitwiseCopyable {
  package let base: UnsafeMutablePointer<UInt8>
  package let capacity: Int
  package private(set) var count: Int

  @inline(__always)
  package init(_ base: UnsafeMutablePointer<UInt8>, capacity: Int, count: Int = 0) {
    self.base = base
    self.capacity = capacity
    self.count = count
  }

  package mutating func put(_ bytes: UnsafePointer<UInt8>, _ length: Int) {
    precondition(length <= capacity - count, "an output was made too small")
    memcpy(base + count, bytes, length)
    count += length
  }

  package mutating func put(_ literal: StaticString) { put(literal.utf8Start, literal.utf8CodeUnitCount) }

  package mutating func put(_ text: String) {
    var text = text
    text.withUTF8 { put($0.baseAddress!, $0.count) }
  }

  package mutating func put(repeating byte: UInt8, _ length: Int) {
    precondition(length <= capacity - count, "an output was made too small")
    memset(base + count, Int32(byte), length)
    count += length
  }

  package mutating func putDecimal(_ value: Int) {
    var digits = 1
    var rest = value / 10
    while rest > 0 {
      digits += 1
      rest /= 10
    }
    putDigits(UInt64(value), digits)
  }

  /// With leading zeros.
  package mutating func putDigits(_ value: UInt64, _ digits: Int) {
    precondition(digits <= capacity - count, "an output was made too small")
    var rest = value
    var index = count + digits
    while index > count {
      index -= 1
      base[index] = UInt8(truncatingIfNeeded: 48 + rest % 10)
      rest /= 10
    }
    count += digits
  }

  package mutating func putHex(_ value: Int) {
    var shift = 60
    while shift > 0 && value >> shift == 0 { shift -= 4 }
    while shift >= 0 {
      let digit = UInt8(value >> shift & 15)
      base[count] = digit < 10 ? 48 + digit : 87 + digit
      count += 1
      shift -= 4
    }
  }
}

/// `name` is in lower case.
package func sameName(_ bytes: UnsafePointer<UInt8>, _ count: Int, _ name: StaticString) -> Bool {
  guard count == name.utf8CodeUnitCount else { return false }
  for index in 0..<count {
    let byte = bytes[index]
    let folded = byte &- 65 < 26 ? byte | 32 : byte
    if folded != name.utf8Start[index] { return false }
  }
  return true
}

/// Whether the bytes hold `word` (in lower case), whatever their case.
package func holds(_ bytes: UnsafePointer<UInt8>, _ count: Int, _ word: StaticString) -> Bool {
  var start = 0
  while start + word.utf8CodeUnitCount <= count {
    if sameName(bytes + start, word.utf8CodeUnitCount, word) { return true }
    start += 1
  }
  return false
}

/// Where `word` begins, or nil.
package func position(of word: StaticString, in bytes: UnsafePointer<UInt8>, _ count: Int) -> Int? {
  let length = word.utf8CodeUnitCount
  var at = 0
  while at + length <= count, let found = memchr(bytes + at, Int32(word.utf8Start[0]), count - length + 1 - at) {
    let start = UnsafePointer(found.assumingMemoryBound(to: UInt8.self)) - bytes
    if memcmp(bytes + start, word.utf8Start, length) == 0 { return start }
    at = start + 1
  }
  return nil
}

/// A decimal number without sign; nil for anything else and for more than 18 digits.
package func decimal(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int? {
  guard count > 0, count <= 18 else { return nil }
  var value = 0
  for index in 0..<count {
    let digit = bytes[index] &- 48
    guard digit < 10 else { return nil }
    value = value * 10 + Int(digit)
  }
  return value
}

/// Index after the empty line that ends a head, or nil.
package func endOfHead(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int? {
  var at = 0
  while at < count, let found = memchr(bytes + at, 10, count - at) {
    let line = UnsafePointer(found.assumingMemoryBound(to: UInt8.self)) - bytes
    if line + 2 < count, bytes[line + 1] == 13, bytes[line + 2] == 10 { return line + 3 }
    at = line + 1
  }
  return nil
}

/// The fields of a head, one call each; `at` starts at the first line's end.
package struct FieldWalk: BitwiseCopyable {
  private let bytes: UnsafePointer<UInt8>
  private let end: Int
  private var at: Int
  package private(set) var nameStart = 0
  package private(set) var nameCount = 0
  package private(set) var valueStart = 0
  package private(set) var valueCount = 0

  package init(_ bytes: UnsafePointer<UInt8>, _ end: Int) {
    self.bytes = bytes
    self.end = end
    at = 0
    skipLine()
  }

  private mutating func skipLine() {
    guard let found = memchr(bytes + at, 10, end - at) else {
      at = end
      return
    }
    at = UnsafePointer(found.assumingMemoryBound(to: UInt8.self)) - bytes + 1
  }

  package mutating func next() -> Bool {
    guard at < end, bytes[at] != 13 else { return false }
    let line = at
    skipLine()
    var stop = at - 1
    while stop > line && (bytes[stop] == 10 || bytes[stop] == 13 || bytes[stop] == 32) { stop -= 1 }
    guard let found = memchr(bytes + line, 58, stop + 1 - line) else { return next() }
    let colon = UnsafePointer(found.assumingMemoryBound(to: UInt8.self)) - bytes
    nameStart = line
    nameCount = colon - line
    var value = colon + 1
    while value <= stop && bytes[value] == 32 { value += 1 }
    valueStart = value
    valueCount = max(0, stop + 1 - value)
    return true
  }
}
