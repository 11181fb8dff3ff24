// Bytes of HTTP messages: character classes, scans for the end of a run, comparisons, and the bounded output that
// heads are written to. Called by the parsers and writers of this room only. Everything here works on a pointer and a
// count, reads nothing outside them, and never allocates.

/// US-ASCII names for the octets that delimit HTTP/1.1 (RFC 5234 B.1).
enum Ascii {
  @inline(__always) static var tab: UInt8 { 0x09 }
  @inline(__always) static var lineFeed: UInt8 { 0x0A }
  @inline(__always) static var carriageReturn: UInt8 { 0x0D }
  @inline(__always) static var space: UInt8 { 0x20 }
  @inline(__always) static var quote: UInt8 { 0x22 }
  @inline(__always) static var percent: UInt8 { 0x25 }
  @inline(__always) static var asterisk: UInt8 { 0x2A }
  @inline(__always) static var comma: UInt8 { 0x2C }
  @inline(__always) static var dot: UInt8 { 0x2E }
  @inline(__always) static var slash: UInt8 { 0x2F }
  @inline(__always) static var zero: UInt8 { 0x30 }
  @inline(__always) static var colon: UInt8 { 0x3A }
  @inline(__always) static var semicolon: UInt8 { 0x3B }
  @inline(__always) static var equals: UInt8 { 0x3D }
  @inline(__always) static var question: UInt8 { 0x3F }
  @inline(__always) static var at: UInt8 { 0x40 }
  @inline(__always) static var openBracket: UInt8 { 0x5B }
  @inline(__always) static var backslash: UInt8 { 0x5C }
  @inline(__always) static var closeBracket: UInt8 { 0x5D }
  @inline(__always) static var delete: UInt8 { 0x7F }
}

/// A set of US-ASCII characters: one bit each for 0...63 and 64...127. Octets above are in no set.
struct AsciiSet: BitwiseCopyable {
  let low: UInt64
  let high: UInt64

  @inline(__always)
  init(low: UInt64, high: UInt64) {
    self.low = low
    self.high = high
  }

  @inline(__always)
  func contains(_ byte: UInt8) -> Bool {
    let half = byte < 64 ? low : high
    return byte < 128 && (half &>> UInt64(byte & 63)) & 1 != 0
  }

  /// tchar (RFC 9110 5.6.2): letters, digits and !#$%&'*+-.^_`|~
  static var token: AsciiSet {
    @inline(__always) get { AsciiSet(low: 0x03FF_6CFA_0000_0000, high: 0x57FF_FFFF_C7FF_FFFE) }
  }
  /// The characters of a reg-name that stand for themselves (RFC 3986 3.2.2), without the comma: a list of hosts in
  /// one Host field is how two servers come to disagree about which one was meant.
  static var registeredName: AsciiSet {
    @inline(__always) get { AsciiSet(low: 0x2BFF_6FD2_0000_0000, high: 0x47FF_FFFE_87FF_FFFE) }
  }
  /// unreserved, sub-delims and ":" (RFC 3986 3.2.1 userinfo, 3.2.2 IPvFuture).
  static var userInfo: AsciiSet {
    @inline(__always) get { AsciiSet(low: 0x2FFF_7FD2_0000_0000, high: 0x47FF_FFFE_87FF_FFFE) }
  }
}

@inline(__always)
func isDigit(_ byte: UInt8) -> Bool { byte &- 0x30 < 10 }

/// 0...15, or 255 for what is not a hexadecimal digit.
@inline(__always)
func hexValue(_ byte: UInt8) -> UInt8 {
  if isDigit(byte) { return byte &- 0x30 }
  let letter = (byte | 0x20) &- 0x61
  return letter < 6 ? letter &+ 10 : 255
}

/// OWS = *( SP / HTAB ) (RFC 9110 5.6.3).
@inline(__always)
func isBlank(_ byte: UInt8) -> Bool { byte == Ascii.space || byte == Ascii.tab }

/// What a field value, a reason phrase or a quoted string may hold: HTAB, SP, VCHAR, obs-text (RFC 9110 5.5).
@inline(__always)
func isText(_ byte: UInt8) -> Bool { (byte >= 0x20 && byte != Ascii.delete) || byte == Ascii.tab }

@inline(__always)
func lowercased(_ byte: UInt8) -> UInt8 { byte &- 0x41 < 26 ? byte | 0x20 : byte }

// MARK: - Scans, sixteen bytes at a time

@inline(__always)
func loadSixteen(_ bytes: UnsafePointer<UInt8>, _ index: Int) -> SIMD16<UInt8> {
  UnsafeRawPointer(bytes + index).loadUnaligned(as: SIMD16<UInt8>.self)
}

/// Spelt out in every comparison: with a scalar on one side the compiler falls back to generic code, lane by lane.
@inline(__always)
private func all(_ byte: UInt8) -> SIMD16<UInt8> { SIMD16<UInt8>(repeating: byte) }

/// Four bits for each lane that is set, lane 0 lowest; 0: none is. (Lanes are 0x00 or 0xFF; two of them shifted right
/// by four as one leave a byte with a half of each.)
@inline(__always)
private func laneBits(_ mask: SIMDMask<SIMD16<Int8>>) -> UInt64 {
  let pairs = unsafeBitCast(mask, to: SIMD8<UInt16>.self) &>> SIMD8<UInt16>(repeating: 4)
  return unsafeBitCast(SIMD8<UInt8>(truncatingIfNeeded: pairs), to: UInt64.self)
}

@inline(__always)
private func firstLane(_ bits: UInt64) -> Int { bits.trailingZeroBitCount &>> 2 }

/// Index of the first octet in `index..<end` that no field value may hold (a line's CR among them), or `end`.
@inline(__always)
func endOfText(_ bytes: UnsafePointer<UInt8>, _ index: Int, _ end: Int) -> Int {
  var index = index
  let lastBlock = end &- 16
  while index <= lastBlock {
    let block = loadSixteen(bytes, index)
    let stops = laneBits(((block .< all(0x20)) .& (block .!= all(Ascii.tab))) .| (block .== all(Ascii.delete)))
    if stops != 0 { return index &+ firstLane(stops) }
    index &+= 16
  }
  while index < end, isText(bytes[index]) { index &+= 1 }
  return index
}

/// Index of the first octet in `index..<end` that ends a request target: CTL, SP or DEL; or `end`.
@inline(__always)
func endOfTarget(_ bytes: UnsafePointer<UInt8>, _ index: Int, _ end: Int) -> Int {
  var index = index
  let lastBlock = end &- 16
  while index <= lastBlock {
    let block = loadSixteen(bytes, index)
    let stops = laneBits((block .<= all(0x20)) .| (block .== all(Ascii.delete)))
    if stops != 0 { return index &+ firstLane(stops) }
    index &+= 16
  }
  while index < end, bytes[index] > 0x20, bytes[index] != Ascii.delete { index &+= 1 }
  return index
}

/// Skips letters, digits, "-" and "." from `index` on, whole blocks at a time: where it stops, at the first other octet
/// or with less than a block left before `end`, an exact check goes on.
@inline(__always)
func skipPlainName(_ bytes: UnsafePointer<UInt8>, _ index: Int, _ end: Int) -> Int {
  var index = index
  let lastBlock = end &- 16
  while index <= lastBlock {
    let block = loadSixteen(bytes, index)
    let notLetter = ((block | all(0x20)) &- all(0x61)) .>= all(26)
    // 0x2D...0x39 are "-", ".", "/" and the digits.
    let notDigit = (block &- all(0x2D)) .>= all(13)
    let stops = laneBits((notLetter .& notDigit) .| (block .== all(Ascii.slash)))
    if stops != 0 { return index &+ firstLane(stops) }
    index &+= 16
  }
  return index
}

/// Index of the first octet in `index..<end` that is not a tchar, or `end`.
@inline(__always)
func endOfToken(_ bytes: UnsafePointer<UInt8>, _ index: Int, _ end: Int) -> Int {
  var index = index
  let lastBlock = end &- 16
  while index <= lastBlock {
    // Letters, digits and "-" are what names are made of; anything else is left to the exact set below.
    let block = loadSixteen(bytes, index)
    let notLetter = ((block | all(0x20)) &- all(0x61)) .>= all(26)
    let notDigit = (block &- all(0x30)) .>= all(10)
    let stops = laneBits(notLetter .& notDigit .& (block .!= all(0x2D)))
    if stops != 0 {
      index &+= firstLane(stops)
      if bytes[index] == Ascii.colon { return index }
      break
    }
    index &+= 16
  }
  while index < end, AsciiSet.token.contains(bytes[index]) { index &+= 1 }
  return index
}

// MARK: - Comparisons

@inline(__always)
func word(_ bytes: UnsafePointer<UInt8>, _ index: Int) -> UInt64 {
  UnsafeRawPointer(bytes + index).loadUnaligned(as: UInt64.self)
}

/// Whether the `count` bytes equal `literal` (which is in lower case) when letters' case is ignored.
@inline(__always)
func equalsIgnoringCase(_ bytes: UnsafePointer<UInt8>, _ count: Int, _ literal: StaticString) -> Bool {
  guard count == literal.utf8CodeUnitCount else { return false }
  let other = literal.utf8Start
  var index = 0
  while index < count {
    if lowercased(bytes[index]) != other[index] { return false }
    index &+= 1
  }
  return true
}

@inline(__always)
func equalsIgnoringCase(
  _ bytes: UnsafePointer<UInt8>, _ count: Int, _ other: UnsafePointer<UInt8>, _ otherCount: Int
) -> Bool {
  guard count == otherCount else { return false }
  var index = 0
  while index < count {
    if lowercased(bytes[index]) != lowercased(other[index]) { return false }
    index &+= 1
  }
  return true
}

/// `equalsIgnoringCase` for literals of 4...24 letters and "-", in two or three loads; `count` is the literal's.
/// Setting bit 5 folds letters and makes a letter or "-" of nothing else but controls: exact for bytes checked to be
/// text.
@inline(__always)
func nameEquals(_ bytes: UnsafePointer<UInt8>, _ count: Int, _ literal: StaticString) -> Bool {
  nameEquals(bytes, count, literal.utf8Start)
}

/// The same with a text of at most 24 octets that is in lower case.
@inline(__always)
func nameEquals(_ bytes: UnsafePointer<UInt8>, _ count: Int, _ other: UnsafePointer<UInt8>) -> Bool {
  if count < 4 { return equalsIgnoringCase(bytes, count, other, count) }
  if count < 8 {
    let fold: UInt32 = 0x2020_2020
    let head = UnsafeRawPointer(bytes).loadUnaligned(as: UInt32.self) | fold
    let tail = UnsafeRawPointer(bytes + (count &- 4)).loadUnaligned(as: UInt32.self) | fold
    return head == UnsafeRawPointer(other).loadUnaligned(as: UInt32.self)
      && tail == UnsafeRawPointer(other + (count &- 4)).loadUnaligned(as: UInt32.self)
  }
  let fold: UInt64 = 0x2020_2020_2020_2020
  guard word(bytes, 0) | fold == word(other, 0) else { return false }
  if count > 16, word(bytes, 8) | fold != word(other, 8) { return false }
  return word(bytes, count &- 8) | fold == word(other, count &- 8)
}

// MARK: - Lists

/// Walks a comma-separated list (RFC 9110 5.6.1) in `index..<end`: each call finds the next element, blanks trimmed.
/// Empty elements are given too (count 0), for those who must refuse them.
struct ListWalk: BitwiseCopyable {
  private var index: Int
  private let end: Int
  private var over = false
  private(set) var start = 0
  private(set) var count = 0

  @inline(__always)
  init(_ start: Int, _ count: Int) {
    index = start
    end = start &+ count
  }

  @inline(__always)
  mutating func next(_ bytes: UnsafePointer<UInt8>) -> Bool {
    if over { return false }
    while index < end, isBlank(bytes[index]) { index &+= 1 }
    start = index
    while index < end, bytes[index] != Ascii.comma { index &+= 1 }
    var last = index
    while last > start, isBlank(bytes[last &- 1]) { last &-= 1 }
    count = last &- start
    if index < end { index &+= 1 } else { over = true }
    return true
  }
}

// MARK: - Output

/// Writes into a fixed piece of memory. What does not fit sets `full` and is dropped whole; the caller looks once, at
/// the end.
struct HeadOutput: BitwiseCopyable {
  let base: UnsafeMutablePointer<UInt8>
  let capacity: Int
  private(set) var count = 0
  private(set) var full = false

  @inline(__always)
  init(_ base: UnsafeMutablePointer<UInt8>, capacity: Int) {
    self.base = base
    self.capacity = capacity
  }

  @inline(__always)
  mutating func put(_ bytes: UnsafePointer<UInt8>, _ length: Int) {
    guard length <= capacity &- count else {
      full = true
      return
    }
    UnsafeMutableRawPointer(base + count).copyMemory(from: bytes, byteCount: length)
    count &+= length
  }

  @inline(__always)
  mutating func put(_ literal: StaticString) {
    put(literal.utf8Start, literal.utf8CodeUnitCount)
  }

  @inline(__always)
  mutating func put(_ byte: UInt8) {
    guard count < capacity else {
      full = true
      return
    }
    base[count] = byte
    count &+= 1
  }

  @inline(__always)
  mutating func putLineEnd() {
    put("\r\n")
  }

  mutating func putDecimal(_ value: UInt64) {
    var divisor: UInt64 = 1
    while value / divisor >= 10 { divisor &*= 10 }
    while divisor > 0 {
      put(Ascii.zero &+ UInt8(truncatingIfNeeded: value / divisor % 10))
      divisor /= 10
    }
  }

  /// Sixteen lower-case hexadecimal digits.
  mutating func putHex(_ value: UInt64) {
    guard capacity &- count >= 16 else {
      full = true
      return
    }
    let target = UnsafeMutableRawPointer(base + count)
    target.storeBytes(of: hexDigits(UInt32(truncatingIfNeeded: value &>> 32)), as: UInt64.self)
    (target + 8).storeBytes(of: hexDigits(UInt32(truncatingIfNeeded: value)), as: UInt64.self)
    count &+= 16
  }
}

/// Eight hexadecimal digits, the first in the lowest byte: the number's half-bytes spread to bytes, then "0" added to
/// each, and what is missing to "a" where it is over 9.
@inline(__always)
private func hexDigits(_ value: UInt32) -> UInt64 {
  var spread = UInt64(value.byteSwapped)
  spread = (spread | spread &<< 16) & 0x0000_FFFF_0000_FFFF
  spread = (spread | spread &<< 8) & 0x00FF_00FF_00FF_00FF
  spread = (spread &>> 4 | spread &<< 8) & 0x0F0F_0F0F_0F0F_0F0F
  let letters = ((spread &+ 0x0606_0606_0606_0606) &>> 4) & 0x0101_0101_0101_0101
  return (spread &+ 0x3030_3030_3030_3030 &+ letters &* 39).littleEndian
}
