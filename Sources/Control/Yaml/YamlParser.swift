// The structure of a document: which nodes there are and what belongs to what. YamlScalars.swift reads the words,
// YamlBuild.swift makes nodes of them; this file decides by columns and indicators. Grammar: YAML 1.2.2, clause numbers
// in brackets; the meaning of words: YAML 1.1.
//
// One pass, no backtracking. A node is read first and only then asked whether a `:` follows, which makes it the first
// key of a block mapping that begins where the node began. So every byte is looked at a bounded number of times.
//
//   stream ── document ── blockNode ─┬─ (same line) inlineNode ─┬─ blockSequence ── blockNode …
//                                    └─ (next lines) lineNode ──┼─ blockMapping ─── blockNode …
//                                                               └─ contentNode ─┬─ blockScalar
//                                                                               └─ flowContent ── flow … / scalar / alias
//
// Where the cursor stands: a block reader is called at its first character and leaves the cursor at the first character
// of the next content, on a later line, or at the end of the text. `lineIndent` and `tabbed` describe that line.

/// Nesting deeper than this is refused, so that neither reading a document nor walking its tree runs out of stack.
let nestingMax = 500

/// How much aliases may add to a document, in bytes of text with 16 for each node: `*a` costs what it stands for, so a
/// small file cannot unfold into a giant one.
let aliasBytesMax = 10_000_000

struct YamlParser {
  let name: String
  /// Checked text, followed by NULs.
  let bytes: [UInt8]
  let end: Int

  // The cursor.
  var pos = 0
  /// Where the cursor's line begins.
  var lineStart = 0
  /// Spaces before the line's first content.
  var lineIndent = 0
  /// A tab stands before the line's first content.
  var tabbed = false
  var marks = MarkFinder()
  var depth = 0
  /// The flow node just read was quoted or a collection, so a `:` after it needs no space.
  var wasJson = false

  // What the document has defined (YamlBuild.swift).
  /// Tag handles: `!e!` → `tag:example.com,2000:`.
  var handles: [String: String] = [:]
  /// Anchor → its place in `anchored`.
  var anchors: [String: Int] = [:]
  /// Nodes with an anchor; nil while being read.
  var anchored: [Anchored?] = []
  /// Bytes and nodes read so far, aliases unfolded.
  var weight = 0
  /// The aliases' part of it.
  var aliasWeight = 0

  init(_ bytes: [UInt8], name: String) throws(YamlError) {
    self.name = name
    self.bytes = try yamlText(bytes, name: name)
    end = self.bytes.count - lookahead
  }

  // MARK: - Stream and documents [9]

  mutating func stream() throws(YamlError) -> [YamlNode] {
    var documents: [YamlNode] = []
    while let document = try document() { documents.append(document) }
    return documents
  }

  /// The next document, nil after the last.
  mutating func document() throws(YamlError) -> YamlNode? {
    handles = [:]
    anchors = [:]
    anchored = []
    // Comments and `...` may stand before a document.
    while true {
      skipByteOrderMark()
      skip()
      if bytes[pos] == 0xEF, startsWithByteOrderMark { continue }
      guard atMarker("...") else { break }
      try endMarker()
    }
    guard pos < end else { return nil }
    if pos == lineStart, bytes[pos] == ascii("%") { try directives() }
    let node: YamlNode
    if atMarker("---") {
      pos += 3
      node = try blockNode(parent: -1, zeroSequence: false, inline: .none)
    } else {
      node = try lineNode(parent: -1, zeroSequence: false, outer: Properties(), emptyAt: pos)
    }
    if pos < end, !atAnyMarker { throw strayContent(in: -1) }
    if atMarker("...") { try endMarker() }
    return node
  }

  private var startsWithByteOrderMark: Bool { bytes[pos + 1] == 0xBB && bytes[pos + 2] == 0xBF }

  private mutating func skipByteOrderMark() {
    guard bytes[pos] == 0xEF, startsWithByteOrderMark else { return }
    pos += 3
    lineStart = pos
  }

  private mutating func endMarker() throws(YamlError) {
    pos += 3
    let gap = skip()
    guard gap.crossed || pos == end else {
      throw fail("found content after the end-of-document mark '...'", "Put it on a line of its own.", at: pos)
    }
  }

  private mutating func directives() throws(YamlError) {
    var hasVersion = false
    let start = pos
    while pos == lineStart, bytes[pos] == ascii("%") {
      let line = pos
      pos += 1
      let words = directiveWords()
      switch words.first {
      case "YAML":
        if hasVersion { throw fail("a second %YAML directive", "Keep one for each document.", at: line) }
        hasVersion = true
        let version = words.dropFirst().first.map { $0.split(separator: ".", omittingEmptySubsequences: false) } ?? []
        let isNumber = version.allSatisfy { !$0.isEmpty && $0.utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } }
        guard words.count == 2, version.count == 2, isNumber else {
          throw fail("cannot read the %YAML directive", "Write '%YAML 1.2' or leave it out.", at: line)
        }
        guard version[0] == "1" else {
          throw fail("YAML version \(words[1]) is not supported", "Write '%YAML 1.2' or leave it out.", at: line)
        }
      case "TAG":
        guard words.count == 3, isHandle(words[1]) else {
          throw fail("cannot read the %TAG directive", "Write it like '%TAG !e! tag:example.com,2000:'.", at: line)
        }
        if handles.updateValue(words[2], forKey: words[1]) != nil {
          throw fail("a second %TAG directive for '\(words[1])'", "Keep one for each document.", at: line)
        }
      default: break  // reserved for later versions of YAML: passed over
      }
      skip()
    }
    guard atMarker("---") else {
      throw fail(
        "a directive must be followed by a document that starts with '---'",
        "Add a line '---' after it, or quote the text if it is not meant as a directive.", at: start)
    }
  }

  /// The words on the directive's line; a comment ends them.
  private mutating func directiveWords() -> [String] {
    var words: [String] = []
    while true {
      while isWhite(bytes[pos]) { pos += 1 }
      if isBreak(bytes[pos]) || bytes[pos] == 0 || bytes[pos] == ascii("#") && isWhite(bytes[pos - 1]) { return words }
      let start = pos
      while !isBlank(bytes[pos]) { pos += 1 }
      words.append(String(decoding: bytes[start..<pos], as: UTF8.self))
    }
  }

  /// `!`, `!!` or `!word!`.
  private func isHandle(_ word: String) -> Bool {
    let inner = word.utf8.dropFirst().dropLast()
    return word.utf8.first == ascii("!") && word.utf8.last == ascii("!") && inner.allSatisfy(isWordByte)
  }

  // MARK: - Block nodes [8.2]

  /// What may begin on the line of the indicator before a node.
  enum Inline {
    /// Scalars and flow collections: after `key:` and `---`.
    case none
    /// Block collections too: after `-`, `?` and the `:` that answers a `?`.
    case compact
  }

  /// The node after an indicator. It belongs to a collection in column `n`, -1 for the document itself, so its lines
  /// are indented more than `n`; with `zeroSequence`, a sequence may stand in column `n` itself.
  mutating func blockNode(parent n: Int, zeroSequence: Bool, inline: Inline) throws(YamlError) -> YamlNode {
    let start = pos
    let gap = skip()
    if gap.crossed || pos == end {
      return try lineNode(parent: n, zeroSequence: zeroSequence, outer: Properties(), emptyAt: start)
    }
    return try inlineNode(parent: n, zeroSequence: zeroSequence, rule: inline == .none ? .sameLine : gap.tab ? .tab : .allowed)
  }

  /// Whether a block collection may begin here, and if not, why.
  private enum CollectionRule {
    case allowed, sameLine, tab
  }

  private mutating func inlineNode(
    parent n: Int, zeroSequence: Bool, rule: CollectionRule
  ) throws(YamlError) -> YamlNode {
    if let indicator = blockIndicator {
      if rule != .allowed { throw misplaced(indicator, rule) }
      return try collection(indicator, indent: pos - lineStart, outer: Properties())
    }
    return try contentNode(parent: n, zeroSequence: zeroSequence, rule: rule, outer: Properties(), emptyAt: pos)
  }

  /// A node on the lines after its indicator, with the properties that stood before it on earlier lines.
  private mutating func lineNode(
    parent n: Int, zeroSequence: Bool, outer: Properties, emptyAt: Int
  ) throws(YamlError) -> YamlNode {
    if pos == end || atAnyMarker { return try empty(outer, at: emptyAt) }
    if lineIndent <= n {
      if zeroSequence, lineIndent == n, !tabbed, blockIndicator == .sequence {
        return try blockSequence(indent: n, isZero: true, outer: outer)
      }
      return try empty(outer, at: emptyAt)
    }
    if let indicator = blockIndicator {
      if tabbed { throw misplaced(indicator, .tab) }
      return try collection(indicator, indent: lineIndent, outer: outer)
    }
    return try contentNode(
      parent: n, zeroSequence: zeroSequence, rule: tabbed ? .tab : .allowed, outer: outer, emptyAt: emptyAt)
  }

  private mutating func collection(
    _ indicator: Indicator, indent: Int, outer: Properties
  ) throws(YamlError) -> YamlNode {
    switch indicator {
    case .sequence: try blockSequence(indent: indent, isZero: false, outer: outer)
    case .key, .value: try blockMapping(indent: indent, first: nil, outer: outer)
    }
  }

  /// A node that begins with its own word: a scalar, an alias, a flow collection, or any of these as the first key of a
  /// block mapping.
  private mutating func contentNode(
    parent n: Int, zeroSequence: Bool, rule: CollectionRule, outer: Properties, emptyAt: Int
  ) throws(YamlError) -> YamlNode {
    let start = pos
    let startLine = lineStart
    var own = Properties()
    if atProperty {
      own = try properties()
      try checkPropertyEnd()
      let gap = skip()
      if gap.crossed || pos == end {
        let both = try merge(outer, own)
        return try lineNode(parent: n, zeroSequence: zeroSequence, outer: both, emptyAt: emptyAt)
      }
      if let indicator = blockIndicator, indicator != .value {
        throw fail(
          "a block collection cannot begin on the line of its anchor or tag", "Begin it on the next line.", at: pos)
      }
    }
    if bytes[pos] == ascii("|") || bytes[pos] == ascii(">") {
      let both = try merge(outer, own)
      let mark = mark(pos)
      let (text, style) = try blockScalar(parent: n)
      return try scalar(text, style, both, mark)
    }
    let isEmptyKey = blockIndicator == .value
    let content = isEmptyKey ? emptyContent(at: start) : try flowContent(least: n + 1, inFlow: false)
    skipWhite()
    if bytes[pos] == ascii(":"), isBlank(bytes[pos + 1]) {
      if lineStart != startLine { throw multilineKey(at: start) }
      if rule != .allowed { throw misplaced(.value, rule) }
      let key = try node(content, own)
      return try blockMapping(indent: start - startLine, first: key, outer: outer)
    }
    let both = try merge(outer, own)
    let node = try node(content, both)
    try endLine()
    return node
  }

  private func checkPropertyEnd() throws(YamlError) {
    if isBlank(bytes[pos]) { return }
    throw fail("this character cannot be part of an anchor or tag", "Put a space after the anchor or tag.", at: pos)
  }

  /// The rest of the line holds nothing but a comment; on to the next content.
  private mutating func endLine() throws(YamlError) {
    let gap = skip()
    if gap.crossed || pos == end { return }
    throw trailing()
  }

  private func trailing() -> YamlError {
    switch bytes[pos] {
    case ascii("#"):
      return fail("found '#' right after a value", "Put a space before '#' if a comment is meant.", at: pos)
    case ascii(":") where isBlank(bytes[pos + 1]):
      return fail(
        "found a second ':' on the line", "Quote the text if the ':' belongs to it, or begin a mapping on the next line.",
        at: pos)
    case ascii("]"), ascii("}"):
      return fail("found '\(Character(Unicode.Scalar(bytes[pos])))' where nothing is open", "Remove it.", at: pos)
    default:
      return fail(
        "found unexpected text after a value", "Put it on its own line, or quote the whole value.", at: pos)
    }
  }

  // MARK: - Block sequences [8.2.1]

  /// At the first `- `. A zero sequence stands in the column of the mapping whose value it is.
  private mutating func blockSequence(
    indent: Int, isZero: Bool, outer: Properties
  ) throws(YamlError) -> YamlNode {
    let mark = mark(pos)
    try enter()
    var items: [YamlNode] = []
    while true {
      pos += 1
      items.append(try blockNode(parent: indent, zeroSequence: false, inline: .compact))
      guard try continues(indent) else { break }
      if blockIndicator == .sequence { continue }
      if isZero { break }
      throw fail(
        "expected another list item that starts with '- '", "Indent this line to continue the item above, or start it with '- '.",
        at: pos)
    }
    depth -= 1
    return try sequence(items, .block, outer, mark)
  }

  /// After an entry of the collection in this column: whether another stands there.
  private mutating func continues(_ indent: Int) throws(YamlError) -> Bool {
    if pos == end || atAnyMarker { return false }
    if tabbed || lineIndent > indent { throw strayContent(in: indent) }
    return lineIndent == indent
  }

  /// Content where an entry of the collection in this column, or the document's end, should be.
  private func strayContent(in indent: Int) -> YamlError {
    if tabbed {
      return fail("found a tab in the indentation", "Indent with spaces only.", at: tabPosition)
    }
    if indent < 0 {
      return fail(
        "found content that does not belong to anything above it",
        "Indent it like the lines it belongs to; a document has one top-level value.", at: pos)
    }
    return fail(
      "this line is indented by \(lineIndent) spaces, which matches nothing above it",
      "Indent it by \(indent) spaces to continue the block around it.", at: pos)
  }

  private var tabPosition: Int { bytes[lineStart..<pos].firstIndex(of: 0x09) ?? pos }

  // MARK: - Block mappings [8.2.2]

  /// With a first key, at the `:` after it; without, at `?` or `:`.
  private mutating func blockMapping(
    indent: Int, first: YamlNode?, outer: Properties
  ) throws(YamlError) -> YamlNode {
    let mark = first?.mark ?? mark(pos)
    try enter()
    var entries = Entries()
    var first = first
    repeat {
      if let key = first {
        first = nil
        try add(key, try implicitValue(indent), to: &entries)
        continue
      }
      switch blockIndicator {
      case .key:
        pos += 1
        let key = try blockNode(parent: indent, zeroSequence: true, inline: .compact)
        let answered = pos < end && !atAnyMarker && lineIndent == indent && !tabbed && blockIndicator == .value
        if answered {
          pos += 1
          try add(key, try blockNode(parent: indent, zeroSequence: true, inline: .compact), to: &entries)
        } else {
          try add(key, try empty(Properties(), at: Int(key.mark.offset)), to: &entries)
        }
      case .value:
        let key = try empty(Properties(), at: pos)
        try add(key, try implicitValue(indent), to: &entries)
      case .sequence:
        throw fail(
          "found a list item where a key is expected", "Indent the list more than the key it belongs to, or remove the '-'.",
          at: pos)
      case nil:
        let key = try implicitKey(indent)
        try add(key, try implicitValue(indent), to: &entries)
      }
    } while try continues(indent)
    depth -= 1
    return try mapping(entries, .block, outer, mark)
  }

  /// At the `:`.
  private mutating func implicitValue(_ indent: Int) throws(YamlError) -> YamlNode {
    pos += 1
    return try blockNode(parent: indent, zeroSequence: true, inline: .none)
  }

  /// A key on one line; leaves the cursor at the `:` after it.
  private mutating func implicitKey(_ indent: Int) throws(YamlError) -> YamlNode {
    let start = pos
    let startLine = lineStart
    var own = Properties()
    if atProperty {
      own = try properties()
      try checkPropertyEnd()
      skipWhite()
    }
    let content: Content
    if blockIndicator == .value || own.isGiven && isBlank(bytes[pos]) {
      content = emptyContent(at: start)
    } else {
      content = try flowContent(least: indent + 1, inFlow: false, isKey: true)
    }
    let after = pos
    skipWhite()
    guard bytes[pos] == ascii(":"), isBlank(bytes[pos + 1]) else { throw missingColon(content, start, after) }
    if lineStart != startLine { throw multilineKey(at: start) }
    return try node(content, own)
  }

  private func missingColon(_ content: Content, _ start: Int, _ after: Int) -> YamlError {
    if bytes[pos] == ascii("#"), pos == after { return trailing() }
    if bytes[pos] == ascii(":") { return fail("found ':' without a space after it", "Write ': '.", at: pos) }
    guard case .scalar(let text, let style) = content.kind, lineStart <= start else {
      return fail("expected ':' after this key", "Write the key as 'key: value' on one line.", at: start)
    }
    let shown = quoted(text)
    if style == .plain, text.utf8.contains(ascii(":")) {
      return fail("expected a key, found \(shown)", "Put a space after the ':' that ends the key.", at: start)
    }
    return fail(
      "expected ':' after \(shown)",
      "Write 'key: value', or indent the line to continue the text above it.", at: start)
  }

  private func multilineKey(at start: Int) -> YamlError {
    fail(
      "a key must stand on one line, and this one runs over several",
      "Quote the text if it is one value that holds ': ', or check the indentation.", at: start)
  }

  private func misplaced(_ indicator: Indicator, _ rule: CollectionRule) -> YamlError {
    if rule == .tab {
      return fail("found a tab where indentation is needed", "Use spaces before a block collection.", at: pos)
    }
    switch indicator {
    case .sequence: return fail("a list cannot begin on this line", "Begin it on the next line.", at: pos)
    case .key: return fail("'? ' cannot be used here", "Begin the mapping on the next line, or quote the text.", at: pos)
    case .value:
      return fail(
        "a mapping cannot begin in the middle of a line",
        "Quote the text if the ':' belongs to it, or begin the mapping on the next line, indented.", at: pos)
    }
  }

  // MARK: - Flow collections [7.4]

  /// A scalar, an alias or a flow collection, without properties. Its further lines are indented by at least so much.
  mutating func flowContent(least: Int, inFlow: Bool, isKey: Bool = false) throws(YamlError) -> Content {
    let start = pos
    let mark = mark(start)
    switch bytes[pos] {
    case ascii("["): return Content(mark, .sequence(try flowSequence(least)))
    case ascii("{"): return Content(mark, .mapping(try flowMapping(least)))
    case ascii("*"): return Content(mark, .alias(try alias()))
    case ascii("\""): return Content(mark, .scalar(try doubleQuoted(least), .doubleQuoted))
    case ascii("'"): return Content(mark, .scalar(try singleQuoted(least), .singleQuoted))
    default:
      try checkPlainStart(inFlow: inFlow)
      return Content(mark, .scalar(plain(least, inFlow: inFlow, isKey: isKey), .plain))
    }
  }

  /// A node inside a flow collection; the cursor is left right after it.
  private mutating func flowNode(_ least: Int) throws(YamlError) -> YamlNode {
    let start = pos
    var own = Properties()
    while atProperty {
      own = try merge(own, try properties())
      let after = pos
      try flowSkip(least)
      if endsEntry || flowValueFollows(afterJson: false) {
        wasJson = false
        return try empty(own, at: start)
      }
      if pos == after {
        throw fail("expected a space after the anchor or tag", "Separate it from what follows.", at: pos)
      }
    }
    let isJson =
      switch bytes[pos] {
      case ascii("\""), ascii("'"), ascii("["), ascii("{"): true
      default: false
      }
    let node = try node(try flowContent(least: least, inFlow: true), own)
    wasJson = isJson
    return node
  }

  private var endsEntry: Bool {
    bytes[pos] == ascii(",") || bytes[pos] == ascii("]") || bytes[pos] == ascii("}")
  }

  /// Whether a `:` here parts a key from its value. After a quoted key or a collection it needs no space.
  private func flowValueFollows(afterJson: Bool) -> Bool {
    guard bytes[pos] == ascii(":") else { return false }
    return afterJson || isBlank(bytes[pos + 1]) || isFlowIndicator(bytes[pos + 1])
  }

  private var atFlowKey: Bool { bytes[pos] == ascii("?") && isBlank(bytes[pos + 1]) }

  private mutating func flowSequence(_ least: Int) throws(YamlError) -> [YamlNode] {
    let open = pos
    pos += 1
    try enter()
    var items: [YamlNode] = []
    while true {
      try flowSkip(least)
      if bytes[pos] == ascii("]") { break }
      try checkEntryStart(open)
      items.append(try flowSequenceEntry(least))
      try flowSkip(least)
      try entryEnd(open, ascii("]"))
    }
    pos += 1
    depth -= 1
    return items
  }

  /// A node, or a mapping of one pair: `[a: 1]`, `[? a : 1]`.
  private mutating func flowSequenceEntry(_ least: Int) throws(YamlError) -> YamlNode {
    let start = pos
    let startLine = lineStart
    let mark = mark(start)
    let key: YamlNode
    let value: YamlNode
    if atFlowKey {
      (key, value) = try explicitFlowPair(least)
    } else {
      key = try flowKey(least)
      try flowSkip(least)
      guard flowValueFollows(afterJson: wasJson) else { return key }
      guard lineStart == startLine else {
        throw fail(
          "a key in a flow sequence must stand on one line with its ':'", "Join the lines, or write '{key: value}'.", at: start)
      }
      value = try flowValue(least)
    }
    var entries = Entries()
    try add(key, value, to: &entries)
    return try mapping(entries, .flow, Properties(), mark)
  }

  /// A key that may be empty; `wasJson` tells of it afterwards.
  private mutating func flowKey(_ least: Int) throws(YamlError) -> YamlNode {
    if endsEntry || flowValueFollows(afterJson: false) {
      wasJson = false
      return try empty(Properties(), at: pos)
    }
    return try flowNode(least)
  }

  private mutating func flowMapping(_ least: Int) throws(YamlError) -> Entries {
    let open = pos
    pos += 1
    try enter()
    var entries = Entries()
    while true {
      try flowSkip(least)
      if bytes[pos] == ascii("}") { break }
      try checkEntryStart(open)
      if atFlowKey {
        let (key, value) = try explicitFlowPair(least)
        try add(key, value, to: &entries)
      } else {
        let (key, value) = try flowPair(least)
        try add(key, value, to: &entries)
      }
      try flowSkip(least)
      try entryEnd(open, ascii("}"))
    }
    pos += 1
    depth -= 1
    return entries
  }

  /// `? key : value`, either part may be missing.
  private mutating func explicitFlowPair(_ least: Int) throws(YamlError) -> (YamlNode, YamlNode) {
    pos += 1
    try flowSkip(least)
    return try flowPair(least)
  }

  private mutating func flowPair(_ least: Int) throws(YamlError) -> (YamlNode, YamlNode) {
    let key = try flowKey(least)
    try flowSkip(least)
    guard flowValueFollows(afterJson: wasJson) else { return (key, try empty(Properties(), at: pos)) }
    return (key, try flowValue(least))
  }

  /// At the `:`.
  private mutating func flowValue(_ least: Int) throws(YamlError) -> YamlNode {
    let start = pos
    pos += 1
    try flowSkip(least)
    return endsEntry ? try empty(Properties(), at: start) : try flowNode(least)
  }

  private func checkEntryStart(_ open: Int) throws(YamlError) {
    if pos == end { throw unclosed(open) }
    if bytes[pos] == ascii(",") {
      throw fail("found ',' where a value is expected", "Remove it, or write the value before it.", at: pos)
    }
  }

  private mutating func entryEnd(_ open: Int, _ close: UInt8) throws(YamlError) {
    if bytes[pos] == ascii(",") {
      pos += 1
    } else if pos == end {
      throw unclosed(open)
    } else if bytes[pos] != close {
      let closer = Character(Unicode.Scalar(close))
      if bytes[pos] == ascii("#") { throw trailing() }
      throw fail(
        "expected ',' or '\(closer)' in the collection opened at \(placeName(open))",
        "Separate the entries with commas, or quote the text.", at: pos)
    }
  }

  private func unclosed(_ open: Int) -> YamlError {
    let closer = bytes[open] == ascii("[") ? "]" : "}"
    return fail("this '\(Character(Unicode.Scalar(bytes[open])))' is never closed", "Add the missing '\(closer)'.", at: open)
  }

  /// White space between the parts of a flow collection. New lines are indented like the block around them asks; only a
  /// closing bracket may stand one column less, under the key that its collection belongs to, as people write it.
  private mutating func flowSkip(_ least: Int) throws(YamlError) {
    let gap = skip()
    guard gap.crossed, pos < end else { return }
    if atAnyMarker {
      throw fail("found a document mark inside a flow collection", "Close the collection first.", at: pos)
    }
    let isClosing = bytes[pos] == ascii("]") || bytes[pos] == ascii("}")
    if lineIndent >= (isClosing ? least - 1 : least) { return }
    if tabbed { throw fail("found a tab in the indentation", "Indent with spaces only.", at: tabPosition) }
    throw fail(
      "this line belongs to a flow collection and is not indented enough", "Indent it by at least \(least) spaces.", at: pos)
  }

  // MARK: - The cursor

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

  private func atMarker(_ marker: StaticString) -> Bool {
    pos == lineStart && isMarker(pos) && bytes[pos] == marker.utf8Start[0]
  }

  private var atAnyMarker: Bool { pos == lineStart && isMarker(pos) }

  /// `---` or `...` with white space after it; the caller knows that a line starts here.
  func isMarker(_ index: Int) -> Bool {
    let byte = bytes[index]
    guard byte == ascii("-") || byte == ascii(".") else { return false }
    return bytes[index + 1] == byte && bytes[index + 2] == byte && isBlank(bytes[index + 3])
  }

  private mutating func enter() throws(YamlError) {
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

/// A text in quotes for a message, cut where it is long.
func quoted(_ text: String) -> String {
  let longest = 40  // characters: enough to find the place, which the message names too
  var shown = ""
  for character in text.unicodeScalars.prefix(longest) { shown.unicodeScalars.append(character.value < 0x20 ? " " : character) }
  return text.unicodeScalars.count > longest ? "'\(shown)…'" : "'\(shown)'"
}
