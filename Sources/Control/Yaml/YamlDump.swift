// A tree as YAML text, laid out as PyYAML's safe_dump(default_flow_style=False, sort_keys=False) lays it out, for the
// CLI to show what it is about to do. What is written reads back as the same values.

package struct YamlDumpStyle: Sendable {
  /// Long lines are folded at the first space after this column.
  package var width: Int
  /// Write letters beyond ASCII as themselves; otherwise as escapes.
  package var unicode: Bool
  /// Write text of several lines as a block after `|` where that can be done, as people write it.
  package var literals: Bool

  package init(width: Int = 80, unicode: Bool = true, literals: Bool = true) {
    self.width = width
    self.unicode = unicode
    self.literals = literals
  }

  /// Byte for byte as PyYAML's defaults.
  package static let pyYaml = YamlDumpStyle(unicode: false, literals: false)
}

package func yamlDump(_ node: YamlNode, style: YamlDumpStyle = YamlDumpStyle()) -> String {
  var dumper = Dumper(style: style)
  dumper.node(node, .root)
  dumper.finish()
  return String(dumper.out)
}

/// The layout rules are PyYAML's emitter's: `whitespace` and `indention` say what the last characters written were, and
/// with the column they decide where a space or a new line is due.
private struct Dumper {
  let style: YamlDumpStyle
  var out = String.UnicodeScalarView()
  private var column = 0
  private var indent: Int? = nil
  private var whitespace = true
  private var indention = true
  private var isOpenEnded = false

  private static let step = 2  // columns for each level

  init(style: YamlDumpStyle) { self.style = style }

  /// Where a node stands.
  enum Place {
    case root, item, key, value
  }

  mutating func node(_ node: YamlNode, _ place: Place) {
    switch node.value {
    case .null, .bool, .int, .hugeInt, .float: scalar(number(node.value), place, isText: false)
    case .string(let text):
      let isDate = node.tag == .timestamp && node.style == .plain && resolvePlain(text).tag == .timestamp
      scalar(text, place, isText: !isDate)
    case .list(let items):
      if items.isEmpty { return emptyCollection("[", "]") }
      let outer = indent
      let isIndentless = (place == .value || place == .key) && !indention
      if !isIndentless { indent = indent.map { $0 + Self.step } ?? 0 }
      for item in items {
        writeIndent()
        indicator("-", needsSpace: true, indention: true)
        self.node(item, .item)
      }
      indent = outer
    case .map(let entries):
      if entries.isEmpty { return emptyCollection("{", "}") }
      let outer = indent
      indent = indent.map { $0 + Self.step } ?? 0
      for entry in entries {
        writeIndent()
        if isSimpleKey(entry.key) {
          self.node(entry.key, .key)
          indicator(":", needsSpace: false)
          self.node(entry.value, .value)
        } else {
          indicator("?", needsSpace: true, indention: true)
          self.node(entry.key, .value)
          writeIndent()
          indicator(":", needsSpace: true, indention: true)
          self.node(entry.value, .value)
        }
      }
      indent = outer
    }
  }

  mutating func finish() {
    if isOpenEnded {
      if column > 0 { lineBreak() }
      out.append(contentsOf: "...".unicodeScalars)
      column = 3
    }
    if column > 0 { lineBreak() }
  }

  /// Python writes `1e+16` as `1.0e+16`, so that YAML reads a float.
  private func number(_ value: YamlValue) -> String {
    let text = plainText(value)
    guard case .float(let it) = value, it.isFinite, !text.contains("."), let power = text.firstIndex(of: "e") else {
      return text
    }
    return text[..<power] + ".0" + text[power...]
  }

  private mutating func emptyCollection(_ open: String, _ close: String) {
    indicator(open, needsSpace: true, whitespace: true)
    indicator(close, needsSpace: false)
  }

  private func isSimpleKey(_ key: YamlNode) -> Bool {
    let longest = 123  // as PyYAML, which counts the tag too: 128 less `!!str`; longer keys get a `? `
    switch key.value {
    case .null, .bool, .int, .hugeInt, .float: return number(key.value).utf8.count < longest
    case .string(let text):
      let scalars = text.unicodeScalars
      return !scalars.isEmpty && scalars.count < longest && !scalars.contains("\n")
    case .list(let items): return items.isEmpty
    case .map(let entries): return entries.isEmpty
    }
  }

  // MARK: - Scalars

  private mutating func scalar(_ text: String, _ place: Place, isText: Bool) {
    let outer = indent
    indent = indent.map { $0 + Self.step } ?? Self.step
    let scalars = Array(text.unicodeScalars)
    let forms = Forms(scalars, unicode: style.unicode)
    let isKey = place == .key
    let isMultiline = scalars.contains("\n")
    let readsAsIs = !isText || resolvePlain(text).tag == .str
    if readsAsIs, forms.plain, !(isKey && scalars.isEmpty) {
      // A plain scalar alone in a document could run on.
      if place == .root { isOpenEnded = true }
      if !scalars.isEmpty { plain(scalars, mayFold: !isKey) }
    } else if style.literals, isMultiline, forms.block, !isKey {
      literal(scalars)
    } else if forms.singleQuoted, !(isKey && isMultiline) {
      singleQuoted(scalars, mayFold: !isKey)
    } else {
      doubleQuoted(scalars, mayFold: !isKey)
    }
    indent = outer
  }

  private mutating func write(_ scalars: ArraySlice<Unicode.Scalar>) {
    out.append(contentsOf: scalars)
    column += scalars.count
  }

  private mutating func plain(_ text: [Unicode.Scalar], mayFold: Bool) {
    if !whitespace { write([" "]) }
    whitespace = false
    indention = false
    words(text) { dumper, part, isInner in
      if part.first != " " { return dumper.write(part) }
      if part.count == 1, dumper.column > dumper.style.width, mayFold, isInner {
        dumper.writeIndent()
        dumper.whitespace = false
        dumper.indention = false
      } else {
        dumper.write(part)
      }
    }
  }

  private mutating func singleQuoted(_ text: [Unicode.Scalar], mayFold: Bool) {
    indicator("'", needsSpace: true)
    words(text) { dumper, part, isInner in
      switch part.first {
      case "\n":
        // One more than in the text: folding takes one away.
        for _ in 0...part.count { dumper.lineBreak() }
        dumper.writeIndent()
      case " " where part.count == 1 && dumper.column > dumper.style.width && mayFold && isInner:
        dumper.writeIndent()
      default:
        for piece in part.split(separator: "'", omittingEmptySubsequences: false).enumerated() {
          if piece.offset > 0 { dumper.write(["'", "'"]) }
          dumper.write(piece.element)
        }
      }
    }
    indicator("'", needsSpace: false)
  }

  /// The text in runs of spaces, of line breaks and of neither; inner ones are neither first nor last.
  private mutating func words(
    _ text: [Unicode.Scalar], _ body: (inout Dumper, ArraySlice<Unicode.Scalar>, Bool) -> Void
  ) {
    func kind(_ scalar: Unicode.Scalar) -> Int { scalar == " " ? 1 : scalar == "\n" ? 2 : 0 }
    var start = 0
    while start < text.count {
      var stop = start + 1
      while stop < text.count, kind(text[stop]) == kind(text[start]) { stop += 1 }
      body(&self, text[start..<stop], start > 0 && stop < text.count)
      start = stop
    }
  }

  private mutating func doubleQuoted(_ text: [Unicode.Scalar], mayFold: Bool) {
    indicator("\"", needsSpace: true)
    var start = 0
    var index = 0
    while index <= text.count {
      let scalar = index < text.count ? text[index] : nil
      if scalar == nil || escaped(scalar!) {
        if start < index {
          write(text[start..<index])
          start = index
        }
        if let scalar {
          write(escape(scalar)[...])
          start = index + 1
        }
      }
      if index > 0, index < text.count - 1, scalar == " " || start >= index, column + index - start > style.width,
        mayFold
      {
        if start < index {
          write(text[start..<index])
          start = index
        }
        write(["\\"])
        writeIndent()
        whitespace = false
        indention = false
        if text[start] == " " { write(["\\"]) }
      }
      index += 1
    }
    indicator("\"", needsSpace: false)
  }

  private func escaped(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "\"", "\\", "\u{85}", "\u{2028}", "\u{2029}", "\u{FEFF}": true
    case " "..."~": false
    case "\u{A0}"..."\u{FFFD}", "\u{10000}"..."\u{10FFFE}": !style.unicode
    default: true
    }
  }

  private func escape(_ scalar: Unicode.Scalar) -> [Unicode.Scalar] {
    let short: Unicode.Scalar? =
      switch scalar {
      case "\0": "0"
      case "\u{07}": "a"
      case "\u{08}": "b"
      case "\t": "t"
      case "\n": "n"
      case "\u{0B}": "v"
      case "\u{0C}": "f"
      case "\r": "r"
      case "\u{1B}": "e"
      case "\"": "\""
      case "\\": "\\"
      case "\u{85}": "N"
      case "\u{A0}": "_"
      case "\u{2028}": "L"
      case "\u{2029}": "P"
      default: nil
      }
    if let short { return ["\\", short] }
    let (letter, count): (Unicode.Scalar, Int) =
      scalar.value <= 0xFF ? ("x", 2) : scalar.value <= 0xFFFF ? ("u", 4) : ("U", 8)
    let digits = String(scalar.value, radix: 16, uppercase: true).unicodeScalars
    return ["\\", letter] + Array(repeating: "0", count: count - digits.count) + digits
  }

  private mutating func literal(_ text: [Unicode.Scalar]) {
    var hints = "|"
    if text[0] == " " || text[0] == "\n" { hints += String(Self.step) }
    if text[text.count - 1] != "\n" {
      hints += "-"
    } else if text.count == 1 || text[text.count - 2] == "\n" {
      hints += "+"
    }
    indicator(hints, needsSpace: true)
    lineBreak()
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    if lines.last?.isEmpty == true { lines.removeLast() }
    for line in lines {
      if !line.isEmpty {
        writeIndent()
        write(line)
      }
      lineBreak()
    }
  }

  // MARK: - White space

  private mutating func indicator(
    _ text: String, needsSpace: Bool, whitespace isWhitespace: Bool = false, indention isIndention: Bool = false
  ) {
    if needsSpace, !whitespace { write([" "]) }
    write(Array(text.unicodeScalars)[...])
    whitespace = isWhitespace
    indention = indention && isIndention
    isOpenEnded = false
  }

  private mutating func writeIndent() {
    let indent = indent ?? 0
    if !indention || column > indent || column == indent && !whitespace { lineBreak() }
    if column < indent {
      whitespace = true
      write(Array(repeating: " ", count: indent - column)[...])
    }
  }

  private mutating func lineBreak() {
    whitespace = true
    indention = true
    column = 0
    out.append("\n")
  }
}

/// The forms in which a text can be written so that it reads back the same.
private struct Forms {
  var plain = true
  var singleQuoted = true
  var block = true

  init(_ text: [Unicode.Scalar], unicode: Bool) {
    guard let first = text.first, let last = text.last else {
      block = false
      return
    }
    func isBlank(_ index: Int) -> Bool {
      index < 0 || index >= text.count || text[index] == " " || text[index] == "\n" || text[index] == "\t"
        || text[index] == "\r"
    }
    var isSpecial = false
    for (index, scalar) in text.enumerated() {
      switch scalar {
      case "#" where isBlank(index - 1), ":" where isBlank(index + 1): plain = false
      case "\n":
        plain = false
        if index > 0, text[index - 1] == " " { isSpecial = true }
      case " ":
        if index > 0, text[index - 1] == "\n" {
          plain = false
          singleQuoted = false
        }
      case "\u{2028}", "\u{2029}", "\u{FEFF}": isSpecial = true
      case "!"..."~": break
      case "\u{A0}"..."\u{FFFD}", "\u{10000}"..."\u{10FFFE}": isSpecial = isSpecial || !unicode
      default: isSpecial = true
      }
    }
    switch first {
    case "#", ",", "[", "]", "{", "}", "&", "*", "!", "|", ">", "'", "\"", "%", "@", "`": plain = false
    case "?", ":", "-": if isBlank(1) { plain = false }
    case ".": if text.starts(with: "...".unicodeScalars) { plain = false }
    default: break
    }
    if text.starts(with: "---".unicodeScalars) || first == " " || last == " " { plain = false }
    if last == " " { block = false }
    if isSpecial { (plain, singleQuoted, block) = (false, false, false) }
  }
}
