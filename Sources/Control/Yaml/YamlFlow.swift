// Flow collections: structure by brackets [7.4], and `flowContent`, where every node with a word of its own begins.
// A reader is called at its node's first character and leaves the cursor right after the last.

extension YamlParser {
  /// A scalar, an alias or a flow collection, without properties. Its further lines are indented by at least so much.
  mutating func flowContent(least: Int, inFlow: Bool, isKey: Bool = false) throws(YamlError) -> Content {
    let start = pos
    let mark = mark(start)
    switch bytes[pos] {
    case ascii("["), ascii("{"): return try flowCollection(least)
    case ascii("*"): return Content(mark, .alias(try alias()))
    case ascii("\""): return Content(mark, .scalar(try doubleQuoted(least), .doubleQuoted))
    case ascii("'"): return Content(mark, .scalar(try singleQuoted(least), .singleQuoted))
    default:
      try checkPlainStart(inFlow: inFlow)
      return Content(mark, .scalar(plain(least, inFlow: inFlow, isKey: isKey), .plain))
    }
  }

  // MARK: - Open collections

  /// A flow collection that is being read, and the entry it is at.
  private struct FlowFrame {
    let isMapping: Bool
    let open: Int
    let mark: YamlMark
    let properties: Properties
    var items: [YamlNode] = []
    var entries = Entries()
    var entry: Entry

    struct Entry {
      /// Where it starts, and its line.
      var start: Int
      var line: Int
      var mark: YamlMark
      /// It began with `?`.
      var isExplicit = false
      /// Known once the `:` is passed.
      var key: YamlNode? = nil
    }
  }

  private enum FlowStep {
    /// A node is whole. After a quoted one or a collection, a `:` needs no space.
    case node(YamlNode, isJson: Bool)
    /// At a bracket that opens a collection.
    case collection(Properties)
    /// At the bracket that closes the collection.
    case close
  }

  /// From bracket to bracket. Open collections wait in a list and not on the stack, so that depth costs little.
  private mutating func flowCollection(_ least: Int) throws(YamlError) -> Content {
    var frames: [FlowFrame] = []
    var step = FlowStep.collection(Properties())
    while true {
      switch step {
      case .collection(let properties):
        try enter()
        brackets.append(pos)
        let mark = mark(pos)
        frames.append(
          FlowFrame(
            isMapping: bytes[pos] == ascii("{"), open: pos, mark: mark, properties: properties,
            entry: FlowFrame.Entry(start: pos, line: lineStart, mark: mark)))
        pos += 1
        step = try nextEntry(&frames[frames.count - 1], least)
      case .node(let node, let isJson):
        step = try accept(node, isJson, &frames[frames.count - 1], least)
      case .close:
        pos += 1
        depth -= 1
        brackets.removeLast()
        let frame = frames.removeLast()
        if frames.isEmpty {
          return Content(frame.mark, frame.isMapping ? .mapping(frame.entries) : .sequence(frame.items))
        }
        let node =
          frame.isMapping
          ? try mapping(frame.entries, .flow, frame.properties, frame.mark)
          : try sequence(frame.items, .flow, frame.properties, frame.mark)
        step = .node(node, isJson: true)
      }
    }
  }

  /// After the opening bracket or a comma.
  private mutating func nextEntry(_ frame: inout FlowFrame, _ least: Int) throws(YamlError) -> FlowStep {
    try flowSkip(least)
    if bytes[pos] == (frame.isMapping ? ascii("}") : ascii("]")) { return .close }
    if pos == end { throw unclosed(frame.open) }
    if bytes[pos] == ascii(",") {
      throw fail("found ',' where a value is expected", "Remove it, or write the value before it.", at: pos)
    }
    frame.entry = FlowFrame.Entry(start: pos, line: lineStart, mark: mark(pos))
    if bytes[pos] == ascii("?"), isBlank(bytes[pos + 1]) {
      frame.entry.isExplicit = true
      pos += 1
      try flowSkip(least)
    }
    if endsEntry || flowValueFollows(afterJson: false) {
      return .node(try empty(Properties(), at: pos), isJson: false)
    }
    return try flowStart(least)
  }

  /// A node of the entry is whole: its value is next, or another entry.
  private mutating func accept(
    _ node: YamlNode, _ isJson: Bool, _ frame: inout FlowFrame, _ least: Int
  ) throws(YamlError) -> FlowStep {
    try flowSkip(least)
    if let key = frame.entry.key {
      try addPair(key, node, &frame)
    } else if flowValueFollows(afterJson: isJson) {
      if !frame.isMapping, !frame.entry.isExplicit, lineStart != frame.entry.line {
        throw fail(
          "a key in a flow sequence must stand on one line with its ':'", "Join the lines, or write '{key: value}'.",
          at: frame.entry.start)
      }
      frame.entry.key = node
      let colon = pos
      pos += 1
      try flowSkip(least)
      return endsEntry ? .node(try empty(Properties(), at: colon), isJson: false) : try flowStart(least)
    } else if frame.isMapping || frame.entry.isExplicit {
      try addPair(node, try empty(Properties(), at: pos), &frame)
    } else {
      frame.items.append(node)
    }
    try entryEnd(frame)
    return try nextEntry(&frame, least)
  }

  /// In a sequence a pair is a mapping of its own: `[a: 1]`, `[? a : 1]`.
  private mutating func addPair(
    _ key: YamlNode, _ value: YamlNode, _ frame: inout FlowFrame
  ) throws(YamlError) {
    if frame.isMapping { return try add(key, value, to: &frame.entries) }
    var entries = Entries()
    try add(key, value, to: &entries)
    frame.items.append(try mapping(entries, .flow, Properties(), frame.entry.mark))
  }

  /// A node's properties, and the node itself if it is no collection; the cursor is left right after it.
  private mutating func flowStart(_ least: Int) throws(YamlError) -> FlowStep {
    let start = pos
    var own = Properties()
    while atProperty {
      let place = pos
      let next = try properties()  // apart: evaluated within the call, it would copy the parser's arrays
      own = try merge(own, next, at: place)
      let after = pos
      try flowSkip(least)
      if endsEntry || flowValueFollows(afterJson: false) { return .node(try empty(own, at: start), isJson: false) }
      if pos == after {
        throw fail("expected a space after the anchor or tag", "Separate it from what follows.", at: pos)
      }
    }
    if pos == end, let open = brackets.last { throw unclosed(open) }
    switch bytes[pos] {
    case ascii("["), ascii("{"): return .collection(own)
    default:
      let isJson = bytes[pos] == ascii("\"") || bytes[pos] == ascii("'")
      let content = try flowContent(least: least, inFlow: true)
      return .node(try node(content, own), isJson: isJson)
    }
  }

  // MARK: - Between nodes

  private var endsEntry: Bool {
    bytes[pos] == ascii(",") || bytes[pos] == ascii("]") || bytes[pos] == ascii("}")
  }

  /// Whether a `:` here parts a key from its value. After a quoted key or a collection it needs no space.
  private func flowValueFollows(afterJson: Bool) -> Bool {
    guard bytes[pos] == ascii(":") else { return false }
    return afterJson || isBlank(bytes[pos + 1]) || isFlowIndicator(bytes[pos + 1])
  }

  /// Over the comma; a closing bracket is left to the next entry's reader.
  private mutating func entryEnd(_ frame: FlowFrame) throws(YamlError) {
    if bytes[pos] == ascii(",") {
      pos += 1
    } else if pos == end {
      throw unclosed(frame.open)
    } else if bytes[pos] != (frame.isMapping ? ascii("}") : ascii("]")) {
      if bytes[pos] == ascii("#") { throw trailing() }
      throw fail(
        "expected ',' or '\(closer(frame.open))' in the collection opened at \(placeName(frame.open))",
        "Separate the entries with commas, or quote the text.", at: pos)
    }
  }

  private func unclosed(_ open: Int) -> YamlError {
    fail(
      "this '\(Character(Unicode.Scalar(bytes[open])))' is never closed", "Add the missing '\(closer(open))'.", at: open
    )
  }

  private func closer(_ open: Int) -> Character { bytes[open] == ascii("[") ? "]" : "}" }

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
    let open = brackets.last ?? pos
    throw fail(
      "this line belongs to the collection opened at \(placeName(open)) and is not indented enough",
      "Indent it by at least \(spaces(least)), or add the missing '\(closer(open))' before it.", at: pos)
  }
}
