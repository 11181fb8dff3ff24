// The words of a document: plain, quoted and block scalars, folded and unescaped as they are read [7.3, 8.1].
// `least` is the indentation that a scalar's further lines need at least.

extension YamlParser {
  // MARK: - Plain scalars [7.3.3]

  /// Whether a plain scalar may start here; if not, the error says what the character means instead.
  func checkPlainStart(inFlow: Bool) throws(YamlError) {
    let byte = bytes[pos]
    switch byte {
    case ascii("-"), ascii("?"), ascii(":"):
      if !isBlank(bytes[pos + 1]), !(inFlow && isFlowIndicator(bytes[pos + 1])) { return }
      throw fail("found '\(character(byte))' where a value is expected", "Quote it if it is meant as text.", at: pos)
    case ascii(","), ascii("["), ascii("]"), ascii("{"), ascii("}"):
      throw fail("found '\(character(byte))' where a value is expected", "Remove it, or quote the text.", at: pos)
    case ascii("#"):
      throw fail(
        "found '#' where a value is expected", "Put a space before '#' if a comment is meant, or quote the text.",
        at: pos)
    case ascii("&"), ascii("!"):
      throw fail("found another anchor or tag", "A node has one of each at most.", at: pos)
    case ascii("|"), ascii(">"):
      throw fail("a block scalar cannot be used here", "Quote the text if '\(character(byte))' belongs to it.", at: pos)
    case ascii("%"), ascii("@"), ascii("`"):
      throw fail("a value cannot start with '\(character(byte))'", "Quote it.", at: pos)
    case 0x09: throw fail("found a tab where a value is expected", "Use spaces.", at: pos)
    case 0:
      throw fail("the document ends where a value is expected", "Complete it.", at: pos)
    default: return
    }
  }

  private func character(_ byte: UInt8) -> Character { Character(Unicode.Scalar(byte)) }

  /// Ends before `: `, ` #`, a line that is not indented enough and, in a flow collection, before its indicators.
  mutating func plain(_ least: Int, inFlow: Bool, isKey: Bool) -> String {
    let start = pos
    plainLine(inFlow)
    if isKey { return String(decoding: bytes[start..<pos], as: UTF8.self) }
    guard let next = plainContinuation(least, inFlow) else {
      return String(decoding: bytes[start..<pos], as: UTF8.self)
    }
    var text = Array(bytes[start..<pos])
    var place: (pos: Int, lineStart: Int, blankLines: Int)? = next
    while let line = place {
      fold(line.blankLines, into: &text)
      pos = line.pos
      lineStart = line.lineStart
      let from = pos
      plainLine(inFlow)
      text.append(contentsOf: bytes[from..<pos])
      place = plainContinuation(least, inFlow)
    }
    return String(decoding: text, as: UTF8.self)
  }

  /// To the end of the scalar's part of this line, trailing white space not included.
  private mutating func plainLine(_ inFlow: Bool) {
    var index = pos
    while true {
      let byte = bytes[index]
      if byte == 0x20 || byte == 0x09 {
        index += 1
        continue
      }
      if byte < 0x20 { return }
      if byte == ascii(":") {
        let next = bytes[index + 1]
        if isBlank(next) || inFlow && isFlowIndicator(next) { return }
      } else if byte == ascii("#") {
        if index > pos { if isWhite(bytes[index - 1]) { return } }
      } else if inFlow, isFlowIndicator(byte) {
        return
      }
      index += 1
      pos = index
    }
  }

  /// Where the scalar goes on after this line, if it does.
  private func plainContinuation(_ least: Int, _ inFlow: Bool) -> (pos: Int, lineStart: Int, blankLines: Int)? {
    var index = pos
    while isWhite(bytes[index]) { index += 1 }
    guard isBreak(bytes[index]) else { return nil }
    var blankLines = -1
    var line = index
    while isBreak(bytes[index]) {
      line = lineAfter(index)
      blankLines += 1
      index = line
      while isWhite(bytes[index]) { index += 1 }
    }
    let byte = bytes[index]
    guard byte != 0, byte != ascii("#"), indent(of: line) >= least else { return nil }
    if index == line, isMarker(index) { return nil }
    if inFlow, isFlowIndicator(byte) { return nil }
    if byte == ascii(":") {
      let next = bytes[index + 1]
      if isBlank(next) || inFlow && isFlowIndicator(next) { return nil }
    }
    return (index, line, blankLines)
  }

  /// Spaces at the start of a line.
  func indent(of line: Int) -> Int {
    var index = line
    while bytes[index] == 0x20 { index += 1 }
    return index - line
  }

  /// One line break is a space; more are one less.
  private func fold(_ blankLines: Int, into text: inout [UInt8]) {
    if blankLines == 0 {
      text.append(0x20)
    } else {
      text.append(contentsOf: repeatElement(0x0A, count: blankLines))
    }
  }

  // MARK: - Quoted scalars [7.3.1, 7.3.2]

  mutating func singleQuoted(_ least: Int) throws(YamlError) -> String {
    let open = pos
    pos += 1
    var text: [UInt8] = []
    while true {
      let byte = bytes[pos]
      switch byte {
      case ascii("'"):
        pos += 1
        if bytes[pos] != ascii("'") { return String(decoding: text, as: UTF8.self) }
        text.append(byte)
        pos += 1
      case 0x0A, 0x0D:
        while let last = text.last, isWhite(last) { text.removeLast() }
        fold(try quotedBreak(open, least), into: &text)
      case 0: throw unclosed(open)
      default:
        text.append(byte)
        pos += 1
      }
    }
  }

  mutating func doubleQuoted(_ least: Int) throws(YamlError) -> String {
    let open = pos
    pos += 1
    var text: [UInt8] = []
    var kept = 0  // so much of the text was escaped or folded; white space in it stays
    while true {
      let byte = bytes[pos]
      switch byte {
      case ascii("\""):
        pos += 1
        return String(decoding: text, as: UTF8.self)
      case ascii("\\"):
        if isBreak(bytes[pos + 1]) {
          pos += 1
          let blankLines = try quotedBreak(open, least)
          text.append(contentsOf: repeatElement(0x0A, count: blankLines))
        } else {
          try escape(into: &text, open)
        }
        kept = text.count
      case 0x0A, 0x0D:
        while text.count > kept, isWhite(text[text.count - 1]) { text.removeLast() }
        fold(try quotedBreak(open, least), into: &text)
        kept = text.count
      case 0: throw unclosed(open)
      default:
        text.append(byte)
        pos += 1
      }
    }
  }

  private func unclosed(_ open: Int) -> YamlError {
    fail(
      "this \(bytes[open] == ascii("'") ? "single" : "double")-quoted text is never closed",
      "Add the closing quote.", at: open)
  }

  /// From a line break to the next line's text; returns how many blank lines lay between.
  private mutating func quotedBreak(_ open: Int, _ least: Int) throws(YamlError) -> Int {
    var blankLines = -1
    var line = pos
    while isBreak(bytes[pos]) {
      newline()
      line = pos
      blankLines += 1
      skipWhite()
    }
    guard pos < end else { throw unclosed(open) }
    if pos == line, isMarker(pos) {
      throw fail(
        "found a document mark inside the quoted text that starts at \(placeName(open))",
        "Close the quotes before it, or indent it.", at: pos)
    }
    guard indent(of: line) >= least else {
      throw fail(
        "this line belongs to the quoted text that starts at \(placeName(open)) and is not indented enough",
        "Indent it by at least \(spaces(least)), or close the quotes.", at: pos)
    }
    return blankLines
  }

  /// At the backslash [5.7].
  private mutating func escape(into text: inout [UInt8], _ open: Int) throws(YamlError) {
    let start = pos
    let code = bytes[pos + 1]
    pos += 2
    let scalar: UInt32
    switch code {
    case ascii("0"): scalar = 0
    case ascii("a"): scalar = 7
    case ascii("b"): scalar = 8
    case ascii("t"), 0x09: scalar = 9
    case ascii("n"): scalar = 10
    case ascii("v"): scalar = 11
    case ascii("f"): scalar = 12
    case ascii("r"): scalar = 13
    case ascii("e"): scalar = 0x1B
    case ascii(" "), ascii("\""), ascii("/"), ascii("\\"): scalar = UInt32(code)
    case ascii("N"): scalar = 0x85
    case ascii("_"): scalar = 0xA0
    case ascii("L"): scalar = 0x2028
    case ascii("P"): scalar = 0x2029
    case ascii("x"): scalar = try hex(2, start)
    case ascii("U"): scalar = try hex(8, start)
    case ascii("u"):
      let first = try hex(4, start)
      if (0xD800...0xDBFF).contains(first), bytes[pos] == ascii("\\"), bytes[pos + 1] == ascii("u") {
        // JSON writes characters beyond 16 bits as two escapes.
        pos += 2
        let second = try hex(4, start)
        let isPair = (0xDC00...0xDFFF).contains(second)
        scalar = isPair ? 0x10000 + (first - 0xD800) << 10 + (second - 0xDC00) : first
      } else {
        scalar = first
      }
    case 0: throw unclosed(open)
    default:
      // The whole character, however many bytes.
      var after = pos
      while bytes[after] & 0xC0 == 0x80 { after += 1 }
      let shown = String(decoding: bytes[start..<after], as: UTF8.self)
      throw fail(
        "'\(shown)' is not an escape", "Double the backslash, or use single quotes: nothing is escaped there.",
        at: start)
    }
    guard appendUtf8(scalar, to: &text) else {
      throw fail("\(codePoint(scalar)) is not a character", "Correct the escape.", at: start)
    }
  }

  private mutating func hex(_ count: Int, _ start: Int) throws(YamlError) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<count {
      guard let digit = Character(Unicode.Scalar(bytes[pos])).hexDigitValue, bytes[pos] < 0x80 else {
        throw fail(
          "the escape '\\\(character(bytes[start + 1]))' needs \(count) hexadecimal digits", "Complete it.", at: start)
      }
      value = value << 4 | UInt32(digit)
      pos += 1
    }
    return value
  }

  // MARK: - Block scalars [8.1]

  private enum Chomp {
    case strip, clip, keep
  }

  /// At `|` or `>`; ends at the next content after the scalar.
  mutating func blockScalar(parent: Int) throws(YamlError) -> (String, YamlStyle) {
    let start = pos
    let folded = bytes[pos] == ascii(">")
    let (chomp, extra) = try blockHeader()
    // At the top level, text may stand in column 0; an explicit indentation counts from there as well.
    let indent = if let extra { max(parent, 0) + extra } else { try detectIndent(parent + 1, start) }
    var text: [UInt8] = []
    var blankLines = 0
    var hasContent = false
    var wasSpaced = false
    var endsWithBreak = true
    while pos < end {
      var index = pos
      while index - pos < indent, bytes[index] == 0x20 { index += 1 }
      if isBreak(bytes[index]) {
        blankLines += 1
        lineStart = lineAfter(index)
        pos = lineStart
        continue
      }
      if index == end {
        // White space without a line break ends the text. It counts as a line if there is no other.
        if !hasContent { blankLines += 1 }
        pos = end
        break
      }
      if index - pos < indent { break }
      if index == pos, isMarker(index) { break }
      var stop = index
      while !isBreak(bytes[stop]), bytes[stop] != 0 { stop += 1 }
      let isSpaced = isWhite(bytes[index])
      if !hasContent || !folded || wasSpaced || isSpaced {
        text.append(contentsOf: repeatElement(0x0A, count: blankLines + (hasContent ? 1 : 0)))
      } else {
        fold(blankLines, into: &text)
      }
      text.append(contentsOf: bytes[index..<stop])
      hasContent = true
      wasSpaced = isSpaced
      blankLines = 0
      // As PyYAML has it, a last line of text without a line break gets none from clipping.
      endsWithBreak = stop < end || bytes[index..<stop].allSatisfy(isWhite)
      lineStart = stop < end ? lineAfter(stop) : lineStart
      pos = stop < end ? lineStart : stop
    }
    if hasContent, endsWithBreak, chomp != .strip { text.append(0x0A) }
    if chomp == .keep { text.append(contentsOf: repeatElement(0x0A, count: blankLines)) }
    try checkBlockEnd()
    skip()
    return (String(decoding: text, as: UTF8.self), folded ? .folded : .literal)
  }

  /// `|`, `|-`, `>2+` … and the rest of the line [8.1.1].
  private mutating func blockHeader() throws(YamlError) -> (Chomp, Int?) {
    let start = pos
    pos += 1
    var chomp: Chomp? = nil
    var extra: Int? = nil
    header: while true {
      switch bytes[pos] {
      case ascii("-") where chomp == nil: chomp = .strip
      case ascii("+") where chomp == nil: chomp = .keep
      case ascii("1")...ascii("9") where extra == nil: extra = Int(bytes[pos] - ascii("0"))
      default: break header
      }
      pos += 1
    }
    let white = pos
    skipWhite()
    if bytes[pos] == ascii("#"), pos > white {
      while !isBreak(bytes[pos]), bytes[pos] != 0 { pos += 1 }
    }
    if pos < end {
      guard isBreak(bytes[pos]) else {
        throw fail(
          "found unexpected text after '\(character(bytes[start]))'",
          "Begin the text on the next line, or quote it if '\(character(bytes[start]))' belongs to it.", at: pos)
      }
      newline()
    }
    return (chomp ?? .clip, extra)
  }

  /// The first line of text sets the indentation; blank lines before it must not be longer.
  private func detectIndent(_ least: Int, _ start: Int) throws(YamlError) -> Int {
    var line = pos
    var longest = (width: 0, line: pos)
    while true {
      let width = indent(of: line)
      let index = line + width
      guard isBreak(bytes[index]) || bytes[index] == 0 else {
        if width < least || width == 0 && isMarker(line) { return max(least, longest.width) }
        if longest.width > width {
          throw fail(
            "this blank line has more spaces than the first line of the text that starts at \(placeName(start))",
            "Remove the spaces, or give the indentation: '|2'.", at: longest.line)
        }
        return width
      }
      if width > longest.width { longest = (width, line) }
      if bytes[index] == 0 { return max(least, longest.width) }
      line = lineAfter(index)
    }
  }

  /// A tab among the spaces of the line after the text makes neither text nor a blank line.
  private func checkBlockEnd() throws(YamlError) {
    var index = pos
    while bytes[index] == 0x20 { index += 1 }
    if bytes[index] == 0x09 { throw fail("found a tab in the indentation", "Indent with spaces only.", at: index) }
  }
}
