// Block collections: structure by columns [8.2]. Called by YamlParser for each document's content.
//
// A node is opened at its first character. When it is whole, the cursor is at the first character of the next content,
// on a later line, or at the end of the text.

extension YamlParser {
  // MARK: - Open collections

  /// What stands where a node is expected: a whole node, or a block collection whose entries follow.
  enum Opened {
    case node(YamlNode)
    case collection(BlockFrame)
  }

  /// A block collection that is being read.
  struct BlockFrame {
    enum Kind {
      /// A zero sequence stands in the column of the mapping whose value it is.
      case sequence, zeroSequence, mapping
    }
    enum Awaited {
      case entry, explicitKey
      case value(of: YamlNode)
    }
    let kind: Kind
    let indent: Int
    let mark: YamlMark
    let properties: Properties
    var awaited = Awaited.entry
    var items: [YamlNode] = []
    var entries = Entries()
  }

  /// Reads on from an opened node until it is whole. Open collections wait in a list and not on the stack, so that
  /// depth costs little.
  mutating func complete(_ first: Opened) throws(YamlError) -> YamlNode {
    var frames: [BlockFrame] = []
    var opened = first
    while true {
      switch opened {
      case .collection(let frame):
        try enter()
        frames.append(frame)
        opened = try firstChild(&frames[frames.count - 1])
      case .node(let node):
        if frames.isEmpty { return node }
        if let next = try accept(node, &frames[frames.count - 1]) {
          opened = next
        } else {
          opened = .node(try close(frames.removeLast()))
        }
      }
    }
  }

  private mutating func firstChild(_ frame: inout BlockFrame) throws(YamlError) -> Opened {
    switch frame.kind {
    case .sequence, .zeroSequence: return try item(frame.indent)
    case .mapping:
      if case .value = frame.awaited { return try implicitValue(frame.indent) }
      return try nextEntry(&frame)
    }
  }

  /// A child is whole: the next one, or nil where the collection ends.
  private mutating func accept(_ node: YamlNode, _ frame: inout BlockFrame) throws(YamlError) -> Opened? {
    switch frame.kind {
    case .sequence, .zeroSequence:
      frame.items.append(node)
      return try nextItem(frame)
    case .mapping:
      switch frame.awaited {
      case .entry: preconditionFailure("a mapping awaits a key or a value before it opens a child")
      case .explicitKey:
        if pos < end, !atAnyMarker, lineIndent == frame.indent, !tabbed, blockIndicator == .value {
          frame.awaited = .value(of: node)
          pos += 1
          return try blockNode(parent: frame.indent, zeroSequence: true, inline: .compact)
        }
        try add(node, try empty(Properties(), at: Int(node.mark.offset)), to: &frame.entries)
      case .value(let key):
        try add(key, node, to: &frame.entries)
      }
      return try continues(frame.indent) ? try nextEntry(&frame) : nil
    }
  }

  private mutating func close(_ frame: BlockFrame) throws(YamlError) -> YamlNode {
    depth -= 1
    switch frame.kind {
    case .sequence, .zeroSequence: return try sequence(frame.items, .block, frame.properties, frame.mark)
    case .mapping: return try mapping(frame.entries, .block, frame.properties, frame.mark)
    }
  }

  // MARK: - Nodes

  /// What may begin on the line of the indicator before a node.
  enum Inline {
    /// Scalars and flow collections: after `key:` and `---`.
    case none
    /// Block collections too: after `-`, `?` and the `:` that answers a `?`.
    case compact
  }

  /// The node after an indicator. It belongs to a collection in column `n`, -1 for the document itself, so its lines
  /// are indented more than `n`; with `zeroSequence`, a sequence may stand in column `n` itself.
  mutating func blockNode(parent n: Int, zeroSequence: Bool, inline: Inline) throws(YamlError) -> Opened {
    let start = pos
    let gap = skip()
    if gap.crossed || pos == end {
      return try lineNode(parent: n, zeroSequence: zeroSequence, outer: Properties(), emptyAt: start)
    }
    return try inlineNode(
      parent: n, zeroSequence: zeroSequence, rule: inline == .none ? .sameLine : gap.tab ? .tab : .allowed)
  }

  /// Whether a block collection may begin here, and if not, why.
  private enum CollectionRule {
    case allowed, sameLine, tab
  }

  private mutating func inlineNode(
    parent n: Int, zeroSequence: Bool, rule: CollectionRule
  ) throws(YamlError) -> Opened {
    if let indicator = blockIndicator {
      if rule != .allowed { throw misplaced(indicator, rule) }
      return collection(indicator, indent: pos - lineStart, outer: Properties())
    }
    return try contentNode(parent: n, zeroSequence: zeroSequence, rule: rule, outer: Properties(), emptyAt: pos)
  }

  /// A node on the lines after its indicator, with the properties that stood before it on earlier lines.
  mutating func lineNode(
    parent n: Int, zeroSequence: Bool, outer: Properties, emptyAt: Int
  ) throws(YamlError) -> Opened {
    if pos == end || atAnyMarker { return .node(try empty(outer, at: emptyAt)) }
    if lineIndent <= n {
      if zeroSequence, lineIndent == n, !tabbed, blockIndicator == .sequence {
        return collection(.zeroSequence, indent: n, outer: outer)
      }
      return .node(try empty(outer, at: emptyAt))
    }
    if let indicator = blockIndicator {
      if tabbed { throw misplaced(indicator, .tab) }
      return collection(indicator, indent: lineIndent, outer: outer)
    }
    return try contentNode(
      parent: n, zeroSequence: zeroSequence, rule: tabbed ? .tab : .allowed, outer: outer, emptyAt: emptyAt)
  }

  private mutating func collection(_ indicator: Indicator, indent: Int, outer: Properties) -> Opened {
    collection(indicator == .sequence ? .sequence : .mapping, indent: indent, outer: outer)
  }

  private mutating func collection(_ kind: BlockFrame.Kind, indent: Int, outer: Properties) -> Opened {
    .collection(BlockFrame(kind: kind, indent: indent, mark: mark(pos), properties: outer))
  }

  /// A node that begins with its own word: a scalar, an alias, a flow collection, or any of these as the first key of a
  /// block mapping.
  private mutating func contentNode(
    parent n: Int, zeroSequence: Bool, rule: CollectionRule, outer: Properties, emptyAt: Int
  ) throws(YamlError) -> Opened {
    let start = pos
    let startLine = lineStart
    var own = Properties()
    if atProperty {
      own = try properties()
      try checkPropertyEnd()
      let gap = skip()
      if gap.crossed || pos == end {
        let both = try merge(outer, own, at: start)
        return try lineNode(parent: n, zeroSequence: zeroSequence, outer: both, emptyAt: emptyAt)
      }
      if let indicator = blockIndicator, indicator != .value {
        throw fail(
          "a block collection cannot begin on the line of its anchor or tag", "Begin it on the next line.", at: pos)
      }
    }
    if bytes[pos] == ascii("|") || bytes[pos] == ascii(">") {
      let both = try merge(outer, own, at: start)
      let mark = mark(pos)
      let (text, style) = try blockScalar(parent: n)
      return .node(try scalar(text, style, both, mark))
    }
    let isEmptyKey = blockIndicator == .value
    let content = isEmptyKey ? emptyContent(at: start) : try flowContent(least: n + 1, inFlow: false)
    skipWhite()
    if bytes[pos] == ascii(":"), isBlank(bytes[pos + 1]) {
      if lineStart != startLine { throw multilineKey(at: start) }
      if rule != .allowed { throw misplaced(.value, rule) }
      let key = try node(content, own)
      return .collection(
        BlockFrame(
          kind: .mapping, indent: start - startLine, mark: key.mark, properties: outer, awaited: .value(of: key)))
    }
    let both = try merge(outer, own, at: start)
    let node = try node(content, both)
    try endLine()
    return .node(node)
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

  func trailing() -> YamlError {
    switch bytes[pos] {
    case ascii("#"):
      return fail("found '#' right after a value", "Put a space before '#' if a comment is meant.", at: pos)
    case ascii(":") where isBlank(bytes[pos + 1]):
      return fail(
        "found a second ':' on the line",
        "Quote the text if the ':' belongs to it, or begin a mapping on the next line.",
        at: pos)
    case ascii("]"), ascii("}"):
      return fail("found '\(Character(Unicode.Scalar(bytes[pos])))' where nothing is open", "Remove it.", at: pos)
    default:
      return fail(
        "found unexpected text after a value", "Put it on its own line, or quote the whole value.", at: pos)
    }
  }

  // MARK: - Block sequences [8.2.1]

  /// At the `-`.
  private mutating func item(_ indent: Int) throws(YamlError) -> Opened {
    pos += 1
    return try blockNode(parent: indent, zeroSequence: false, inline: .compact)
  }

  private mutating func nextItem(_ frame: BlockFrame) throws(YamlError) -> Opened? {
    guard try continues(frame.indent) else { return nil }
    if blockIndicator == .sequence { return try item(frame.indent) }
    if frame.kind == .zeroSequence { return nil }
    throw fail(
      "expected another list item that starts with '- '",
      "Indent this line to continue the item above, or start it with '- '.", at: pos)
  }

  /// After an entry of the collection in this column: whether another stands there.
  private mutating func continues(_ indent: Int) throws(YamlError) -> Bool {
    if pos == end || atAnyMarker { return false }
    if tabbed || lineIndent > indent { throw strayContent(in: indent) }
    return lineIndent == indent
  }

  /// Content where an entry of the collection in this column, or the document's end, should be.
  func strayContent(in indent: Int) -> YamlError {
    if tabbed {
      return fail("found a tab in the indentation", "Indent with spaces only.", at: tabPosition)
    }
    if indent < 0 {
      return fail(
        "found content that does not belong to anything above it",
        "Indent it like the lines it belongs to; a document has one top-level value.", at: pos)
    }
    return fail(
      "this line is indented by \(spaces(lineIndent)), which matches nothing above it",
      "Indent it by \(spaces(indent)) to continue the block around it.", at: pos)
  }

  var tabPosition: Int { bytes[lineStart..<pos].firstIndex(of: 0x09) ?? pos }

  // MARK: - Block mappings [8.2.2]

  /// At an entry's first character.
  private mutating func nextEntry(_ frame: inout BlockFrame) throws(YamlError) -> Opened {
    switch blockIndicator {
    case .key:
      frame.awaited = .explicitKey
      pos += 1
      return try blockNode(parent: frame.indent, zeroSequence: true, inline: .compact)
    case .value: frame.awaited = .value(of: try empty(Properties(), at: pos))
    case nil: frame.awaited = .value(of: try implicitKey(frame.indent))
    case .sequence:
      throw fail(
        "found a list item where a key is expected",
        "Indent the list more than the key it belongs to, or remove the '-'.", at: pos)
    }
    return try implicitValue(frame.indent)
  }

  /// At the `:`.
  private mutating func implicitValue(_ indent: Int) throws(YamlError) -> Opened {
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

  /// At the `:` that makes a key of text from several lines; points at this line, where the indentation is wrong.
  private func multilineKey(at start: Int) -> YamlError {
    fail(
      "found ':' in text that started at \(placeName(start)), and a key stands on one line",
      "Check the indentation of this line, or quote the text.", at: lineStart + indent(of: lineStart))
  }

  private func misplaced(_ indicator: Indicator, _ rule: CollectionRule) -> YamlError {
    if rule == .tab {
      return fail("found a tab where indentation is needed", "Use spaces before a block collection.", at: pos)
    }
    switch indicator {
    case .sequence: return fail("a list cannot begin on this line", "Begin it on the next line.", at: pos)
    case .key:
      return fail("'? ' cannot be used here", "Begin the mapping on the next line, or quote the text.", at: pos)
    case .value:
      return fail(
        "a mapping cannot begin in the middle of a line",
        "Quote the text if the ':' belongs to it, or begin the mapping on the next line, indented.", at: pos)
    }
  }
}
