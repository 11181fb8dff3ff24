// Flow collections: structure by brackets [7.4], and `flowContent`, where every node with a word of its own begins.
// A reader is called at its node's first character and leaves the cursor right after the last.

extension YamlParser {
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
      let next = try properties()  // apart: evaluated within the call, it would copy the parser's arrays
      own = try merge(own, next)
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
          "a key in a flow sequence must stand on one line with its ':'", "Join the lines, or write '{key: value}'.",
          at: start)
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
    return fail(
      "this '\(Character(Unicode.Scalar(bytes[open])))' is never closed", "Add the missing '\(closer)'.", at: open)
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
      "this line belongs to a flow collection and is not indented enough", "Indent it by at least \(spaces(least)).",
      at: pos)
  }
}
