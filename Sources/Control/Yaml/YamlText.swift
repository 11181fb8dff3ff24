// From bytes to text the parser can trust: valid UTF-8, no byte order mark, no control characters, NULs at the end.
// UTF-16 and UTF-32 are turned into UTF-8; which it is, the byte order mark or the place of the zero bytes tells.

/// What the parser looks ahead at most, in bytes; so many NULs follow the text, and it needs no bounds of its own.
let lookahead = 4

/// Text larger than this is refused: offsets are 32-bit, and no configuration comes near it.
private let textBytesMax = 256 << 20

func yamlText(_ bytes: [UInt8], name: String) throws(YamlError) -> [UInt8] {
  guard bytes.count <= textBytesMax else {
    throw YamlError(
      name: name, mark: YamlMark(line: 1, column: 1), message: "the document is larger than \(textBytesMax >> 20) MiB",
      hint: "Split it.")
  }
  func at(_ index: Int) -> UInt8 { index < bytes.count ? bytes[index] : 1 }
  var text: [UInt8]
  switch (at(0), at(1), at(2), at(3)) {
  case (0, 0, 0xFE, 0xFF), (0, 0, 0, 1...): text = try fromUtf32(bytes, bigEndian: true, name: name)
  case (0xFF, 0xFE, 0, 0), (1..., 0, 0, 0): text = try fromUtf32(bytes, bigEndian: false, name: name)
  case (0xFE, 0xFF, _, _), (0, 1..., _, _): text = try fromUtf16(bytes, bigEndian: true, name: name)
  case (0xFF, 0xFE, _, _), (1..., 0, _, _): text = try fromUtf16(bytes, bigEndian: false, name: name)
  default: text = bytes
  }
  if text.starts(with: [0xEF, 0xBB, 0xBF]) { text.removeFirst(3) }
  try check(text, name: name)
  text.append(contentsOf: repeatElement(0, count: lookahead))
  return text
}

// MARK: - Checking

private func check(_ text: [UInt8], name: String) throws(YamlError) {
  var index = 0
  while index < text.count {
    let byte = text[index]
    if byte >= 0x20 && byte < 0x7F {
      index += 1
    } else if byte < 0x80 {
      guard byte == 0x09 || byte == 0x0A || byte == 0x0D else {
        throw badText(
          text, index, name, "found the control character \(codePoint(UInt32(byte)))",
          "Remove it, or write it as an escape in a double-quoted string.")
      }
      index += 1
    } else {
      let (length, scalar) = sequence(text, index)
      guard length > 0 else {
        throw badText(text, index, name, "the text is not valid UTF-8", "Save the file as UTF-8.")
      }
      guard scalar >= 0xA0 || scalar == 0x85, scalar != 0xFFFE, scalar != 0xFFFF else {
        throw badText(
          text, index, name, "found the control character \(codePoint(scalar))",
          "Remove it, or write it as an escape in a double-quoted string.")
      }
      index += length
    }
  }
}

/// The multi-byte sequence at an index: its length and what it stands for; length 0 where it is not UTF-8.
private func sequence(_ text: [UInt8], _ index: Int) -> (length: Int, scalar: UInt32) {
  let lead = text[index]
  let length: Int
  var scalar: UInt32
  let least: UInt32
  switch lead {
  case 0xC2...0xDF: (length, scalar, least) = (2, UInt32(lead & 0x1F), 0x80)
  case 0xE0...0xEF: (length, scalar, least) = (3, UInt32(lead & 0x0F), 0x800)
  case 0xF0...0xF4: (length, scalar, least) = (4, UInt32(lead & 0x07), 0x10000)
  default: return (0, 0)
  }
  guard index + length <= text.count else { return (0, 0) }
  for next in text[index + 1..<index + length] {
    guard next & 0xC0 == 0x80 else { return (0, 0) }
    scalar = scalar << 6 | UInt32(next & 0x3F)
  }
  guard scalar >= least, Unicode.Scalar(scalar) != nil else { return (0, 0) }
  return (length, scalar)
}

/// `U+001B`
func codePoint(_ scalar: UInt32) -> String {
  let digits = String(scalar, radix: 16, uppercase: true)
  return "U+" + String(repeating: "0", count: max(0, 4 - digits.count)) + digits
}

private func badText(_ text: [UInt8], _ index: Int, _ name: String, _ message: String, _ hint: String) -> YamlError {
  var finder = MarkFinder()
  return YamlError(name: name, mark: finder.mark(index, in: text), message: message, hint: hint)
}

// MARK: - Other encodings

private func fromUtf16(_ bytes: [UInt8], bigEndian: Bool, name: String) throws(YamlError) -> [UInt8] {
  var text: [UInt8] = []
  text.reserveCapacity(bytes.count)
  func unit(_ index: Int) -> UInt32? {
    guard index + 1 < bytes.count else { return nil }
    let (first, second) = (UInt32(bytes[index]), UInt32(bytes[index + 1]))
    return bigEndian ? first << 8 | second : second << 8 | first
  }
  var index = 0
  while index < bytes.count {
    var scalar = unit(index)
    index += 2
    if let high = scalar, (0xD800...0xDBFF).contains(high) {
      scalar = unit(index).flatMap {
        (0xDC00...0xDFFF).contains($0) ? 0x10000 + (high - 0xD800) << 10 + ($0 - 0xDC00) : nil
      }
      index += 2
    }
    guard let scalar, appendUtf8(scalar, to: &text) else {
      throw badText(text, text.count, name, "the text is not valid UTF-16", "Save the file as UTF-8.")
    }
  }
  return text
}

private func fromUtf32(_ bytes: [UInt8], bigEndian: Bool, name: String) throws(YamlError) -> [UInt8] {
  var text: [UInt8] = []
  text.reserveCapacity(bytes.count / 2)
  var index = 0
  while index < bytes.count {
    var scalar: UInt32? = nil
    if index + 4 <= bytes.count {
      let unit = bytes[index..<index + 4]
      scalar = (bigEndian ? Array(unit) : unit.reversed()).reduce(0) { $0 << 8 | UInt32($1) }
    }
    index += 4
    guard let scalar, appendUtf8(scalar, to: &text) else {
      throw badText(text, text.count, name, "the text is not valid UTF-32", "Save the file as UTF-8.")
    }
  }
  return text
}

/// False where there is no such character.
func appendUtf8(_ scalar: UInt32, to text: inout [UInt8]) -> Bool {
  guard let scalar = Unicode.Scalar(scalar) else { return false }
  text.append(contentsOf: UTF8.encode(scalar)!)  // every scalar has a UTF-8 form
  return true
}

// MARK: - Places

/// Finds line and column of an offset. Marks are asked for in nearly ascending order, so it walks on from the last one
/// and the whole document costs one pass; asking backwards costs a pass of its own.
struct MarkFinder {
  private var offset = 0
  private var line = 1
  private var column = 1

  mutating func mark(_ target: Int, in text: [UInt8]) -> YamlMark {
    if target < offset { self = MarkFinder() }
    let target = min(target, text.count)
    while offset < target {
      let byte = text[offset]
      offset += 1
      if byte == 0x0A || byte == 0x0D && !(offset < text.count && text[offset] == 0x0A) {
        line += 1
        column = 1
      } else if byte & 0xC0 != 0x80 {
        column += 1
      }
    }
    return YamlMark(line: line, column: column, offset: target)
  }
}
