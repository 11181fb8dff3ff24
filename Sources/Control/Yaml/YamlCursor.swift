// Moving through the text: white space, line breaks, indicators and marks. What a place is called in errors.

extension YamlParser {
  struct Gap {
    /// A line was ended.
    var crossed = false
    /// A tab stood among the last white space.
    var tab = false
  }

  /// Over spaces, comments and line breaks to the next content.
  @discardableResult
  mutating func skip() -> Gap {
    var gap = Gap()
    while true {
      let start = pos
      while bytes[pos] == 0x20 { pos += 1 }
      if start == lineStart { lineIndent = pos - start }
      gap.tab = bytes[pos] == 0x09
      while isWhite(bytes[pos]) { pos += 1 }
      if pos > start || gap.crossed { tabbed = gap.tab }
      if bytes[pos] == ascii("#"), pos == lineStart || isWhite(bytes[pos - 1]) {
        while !isBreak(bytes[pos]), bytes[pos] != 0 { pos += 1 }
      }
      guard isBreak(bytes[pos]) else { return gap }
      newline()
      gap.crossed = true
    }
  }

  mutating func skipWhite() {
    while isWhite(bytes[pos]) { pos += 1 }
  }

  /// Over one line break.
  mutating func newline() {
    pos = lineAfter(pos)
    lineStart = pos
    lineIndent = 0
    tabbed = false
  }

  /// The start of the line after the break at an index.
  func lineAfter(_ index: Int) -> Int {
    bytes[index] == 0x0D && bytes[index + 1] == 0x0A ? index + 2 : index + 1
  }

  enum Indicator {
    case sequence, key, value
  }

  /// The block indicator at the cursor: `- `, `? ` or `: `.
  var blockIndicator: Indicator? {
    guard isBlank(bytes[pos + 1]) else { return nil }
    switch bytes[pos] {
    case ascii("-"): return .sequence
    case ascii("?"): return .key
    case ascii(":"): return .value
    default: return nil
    }
  }

  var atProperty: Bool { bytes[pos] == ascii("&") || bytes[pos] == ascii("!") }

  func atMarker(_ marker: StaticString) -> Bool {
    pos == lineStart && isMarker(pos) && bytes[pos] == marker.utf8Start[0]
  }

  var atAnyMarker: Bool { pos == lineStart && isMarker(pos) }

  /// `---` or `...` with white space after it; the caller knows that a line starts here.
  func isMarker(_ index: Int) -> Bool {
    let byte = bytes[index]
    guard byte == ascii("-") || byte == ascii(".") else { return false }
    return bytes[index + 1] == byte && bytes[index + 2] == byte && isBlank(bytes[index + 3])
  }

  mutating func enter() throws(YamlError) {
    depth += 1
    if depth > nestingMax {
      throw fail("more than \(nestingMax) levels of nesting", "Flatten the document.", at: pos)
    }
  }

  // MARK: - Places and errors

  mutating func mark(_ index: Int) -> YamlMark { marks.mark(index, in: bytes) }

  func fail(_ message: String, _ hint: String, at index: Int) -> YamlError {
    var finder = marks
    return YamlError(name: name, mark: finder.mark(min(index, end), in: bytes), message: message, hint: hint)
  }

  func placeName(_ index: Int) -> String {
    var finder = marks
    let mark = finder.mark(index, in: bytes)
    return "line \(mark.line), column \(mark.column)"
  }
}

// MARK: - Kinds of bytes [5]

@inline(__always) func isWhite(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }
@inline(__always) func isBreak(_ byte: UInt8) -> Bool { byte == 0x0A || byte == 0x0D }
/// White space, a line break or the end.
@inline(__always) func isBlank(_ byte: UInt8) -> Bool { byte <= 0x20 }
@inline(__always) func isFlowIndicator(_ byte: UInt8) -> Bool {
  switch byte {
  case ascii(","), ascii("["), ascii("]"), ascii("{"), ascii("}"): true
  default: false
  }
}
/// A letter, a digit or `-`.
func isWordByte(_ byte: UInt8) -> Bool {
  switch byte {
  case ascii("a")...ascii("z"), ascii("A")...ascii("Z"), ascii("0")...ascii("9"), ascii("-"): true
  default: false
  }
}

func spaces(_ count: Int) -> String { count == 1 ? "1 space" : "\(count) spaces" }

/// A text in quotes for a message, cut where it is long.
func quoted(_ text: String) -> String {
  let longest = 40  // characters: enough to find the place, which the message names too
  var shown = ""
  for character in text.unicodeScalars.prefix(longest) {
    shown.unicodeScalars.append(character.value < 0x20 ? " " : character)
  }
  return text.unicodeScalars.count > longest ? "'\(shown)…'" : "'\(shown)'"
}
