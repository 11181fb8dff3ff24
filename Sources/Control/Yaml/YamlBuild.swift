// From what was read to nodes: tags, anchors and aliases, equal keys, merge keys. Called by YamlParser.

extension YamlParser {
  /// What was read, before it is known whether properties on earlier lines are its own.
  struct Content {
    enum Kind {
      case scalar(String, YamlStyle)
      case sequence([YamlNode])
      case mapping(Entries)
      case alias(YamlNode)
    }
    var mark: YamlMark
    var kind: Kind

    init(_ mark: YamlMark, _ kind: Kind) {
      self.mark = mark
      self.kind = kind
    }
  }

  struct Anchored {
    var node: YamlNode
    /// What an alias to it costs.
    var weight: Int
  }

  // MARK: - Anchors and tags [6.9]

  struct Properties {
    /// Its place in `anchored`.
    var anchor: Int?
    var tag: YamlTag?
    /// `weight` before the node.
    var weight = 0

    var isGiven: Bool { anchor != nil || tag != nil }
  }

  /// The anchor and the tag at the cursor, on one line, in either order; leaves the cursor right after them.
  mutating func properties() throws(YamlError) -> Properties {
    var found = Properties()
    while true {
      let start = pos
      var next = Properties()
      if bytes[pos] == ascii("&") {
        pos += 1
        next.anchor = anchored.count
        next.weight = weight
        let name = try anchorName("&")
        anchors[name] = anchored.count
        anchored.append(nil)
      } else {
        next.tag = try tag()
      }
      found = try merge(found, next, at: start)
      let after = pos
      skipWhite()
      if pos == after || !atProperty {
        pos = after
        return found
      }
    }
  }

  /// Properties from earlier lines and from this one.
  func merge(_ outer: Properties, _ own: Properties, at place: Int) throws(YamlError) -> Properties {
    if outer.anchor != nil, own.anchor != nil {
      throw fail("two anchors for one node", "Keep one of them.", at: place)
    }
    if outer.tag != nil, own.tag != nil {
      throw fail("two tags for one node", "Keep one of them.", at: place)
    }
    return Properties(
      anchor: outer.anchor ?? own.anchor, tag: outer.tag ?? own.tag,
      weight: outer.anchor == nil ? own.weight : outer.weight)
  }

  private mutating func anchorName(_ sign: String) throws(YamlError) -> String {
    let start = pos
    while !isBlank(bytes[pos]), !isFlowIndicator(bytes[pos]) { pos += 1 }
    if pos == start {
      throw fail("expected a name after '\(sign)'", "Quote the text if it is meant as such.", at: start - 1)
    }
    return String(decoding: bytes[start..<pos], as: UTF8.self)
  }

  /// At the `*`.
  mutating func alias() throws(YamlError) -> YamlNode {
    let start = pos
    let mark = mark(start)
    pos += 1
    let name = try anchorName("*")
    guard let place = anchors[name] else {
      throw fail(
        "alias '*\(name)' refers to an anchor that is not defined above it",
        "Define '&\(name)' before it, or quote the text.", at: start)
    }
    guard let target = anchored[place] else {
      throw fail("alias '*\(name)' refers to the node that contains it", "Break the circle.", at: start)
    }
    weight += target.weight
    aliasWeight += target.weight
    if aliasWeight > aliasBytesMax {
      throw fail(
        "the document's aliases unfold to more than \(aliasBytesMax / 1_000_000) MB", "Use fewer of them.", at: start)
    }
    var node = target.node
    node.mark = mark
    return node
  }

  /// `!`, `!name`, `!!name`, `!handle!name` or `!<whole name>`.
  private mutating func tag() throws(YamlError) -> YamlTag {
    let start = pos
    pos += 1
    if bytes[pos] == ascii("<") {
      pos += 1
      let whole = try tagText(verbatim: true)
      guard bytes[pos] == ascii(">"), !whole.isEmpty, whole != "!" else {
        throw fail("cannot read this tag", "Write it like '!<tag:example.com,2000:name>'.", at: start)
      }
      pos += 1
      return namedTag(whole)
    }
    var index = pos
    while isWordByte(bytes[index]) { index += 1 }
    var handle = "!"
    if bytes[index] == ascii("!") {
      handle = String(decoding: bytes[start...index], as: UTF8.self)
      pos = index + 1
    }
    let suffix = try tagText(verbatim: false)
    if suffix.isEmpty {
      if handle == "!" { return .other("!") }
      throw fail("expected a name after '\(handle)'", "Complete the tag, or quote the text.", at: start)
    }
    if let prefix = handles[handle] { return namedTag(prefix + suffix) }
    switch handle {
    case "!": return .other("!" + suffix)
    case "!!": return namedTag(yamlOrg + suffix)
    default:
      throw fail(
        "the tag handle '\(handle)' is not defined", "Define it with a %TAG line before the document.", at: start)
    }
  }

  /// The characters of a tag, %-escapes undone.
  private mutating func tagText(verbatim: Bool) throws(YamlError) -> String {
    var text: [UInt8] = []
    while true {
      let byte = bytes[pos]
      switch byte {
      case ascii("%"):
        let start = pos
        pos += 1
        var value: UInt8 = 0
        for _ in 0..<2 {
          guard bytes[pos] < 0x80, let digit = Character(Unicode.Scalar(bytes[pos])).hexDigitValue else {
            throw fail("'%' in a tag needs two hexadecimal digits", "Complete it.", at: start)
          }
          value = value << 4 | UInt8(digit)
          pos += 1
        }
        text.append(value)
        continue
      case ascii("#"), ascii(";"), ascii("/"), ascii("?"), ascii(":"), ascii("@"), ascii("&"), ascii("="), ascii("+"),
        ascii("$"), ascii("_"), ascii("."), ascii("~"), ascii("*"), ascii("'"), ascii("("), ascii(")"):
        break
      case ascii(","), ascii("["), ascii("]"), ascii("!"):
        if !verbatim { return String(decoding: text, as: UTF8.self) }
      default:
        if !isWordByte(byte) { return String(decoding: text, as: UTF8.self) }
      }
      text.append(byte)
      pos += 1
    }
  }

  // MARK: - Nodes

  mutating func node(_ content: Content, _ own: Properties) throws(YamlError) -> YamlNode {
    switch content.kind {
    case .scalar(let text, let style): return try scalar(text, style, own, content.mark)
    case .sequence(let items): return try sequence(items, .flow, own, content.mark)
    case .mapping(let entries): return try mapping(entries, .flow, own, content.mark)
    case .alias(let node):
      if own.isGiven {
        throw fail("an alias cannot have an anchor or tag of its own", "Remove it.", at: Int(content.mark.offset))
      }
      return node
    }
  }

  mutating func emptyContent(at place: Int) -> Content { Content(mark(place), .scalar("", .plain)) }

  mutating func empty(_ own: Properties, at place: Int) throws(YamlError) -> YamlNode {
    try scalar("", .plain, own, mark(place))
  }

  mutating func scalar(
    _ text: String, _ style: YamlStyle, _ own: Properties, _ mark: YamlMark
  ) throws(YamlError) -> YamlNode {
    weight += 16 + text.utf8.count
    let tag: YamlTag
    let value: YamlValue
    switch own.tag {
    case nil where style == .plain: (tag, value) = resolvePlain(text)
    case nil, .other("!"): (tag, value) = (.str, .string(text))
    case let given?:
      guard let meaning = resolveTagged(text, as: given) else {
        throw fail(
          "cannot read \(quoted(text)) as \(tagName(given))", "Correct the value or the tag.", at: Int(mark.offset))
      }
      (tag, value) = (given, meaning)
    }
    return register(YamlNode(value: value, text: text, tag: tag, style: style, mark: mark), own)
  }

  mutating func sequence(
    _ items: [YamlNode], _ style: YamlStyle, _ own: Properties, _ mark: YamlMark
  ) throws(YamlError) -> YamlNode {
    weight += 16
    let tag = own.tag == .other("!") ? .seq : own.tag ?? .seq
    switch tag {
    case .seq, .omap, .pairs, .other: break
    case .null, .bool, .int, .float, .str, .timestamp, .binary, .merge, .value, .map, .set:
      throw fail("\(tagName(tag)) cannot be a list", "Correct the value or the tag.", at: Int(mark.offset))
    }
    let height = items.reduce(0) { max($0, $1.height) } + 1
    try checkHeight(height, mark)
    return register(
      YamlNode(value: .list(items), text: "", tag: tag, style: style, mark: mark, height: height), own)
  }

  mutating func mapping(
    _ entries: Entries, _ style: YamlStyle, _ own: Properties, _ mark: YamlMark
  ) throws(YamlError) -> YamlNode {
    weight += 16
    let tag = own.tag == .other("!") ? .map : own.tag ?? .map
    switch tag {
    case .map, .set, .other: break
    case .null, .bool, .int, .float, .str, .timestamp, .binary, .merge, .value, .seq, .omap, .pairs:
      throw fail("\(tagName(tag)) cannot be a mapping", "Correct the value or the tag.", at: Int(mark.offset))
    }
    let list = entries.hasMerge ? try merged(entries.list) : entries.list
    let height = list.reduce(0) { max($0, $1.key.height, $1.value.height) } + 1
    try checkHeight(height, mark)
    return register(
      YamlNode(value: .map(list), text: "", tag: tag, style: style, mark: mark, height: height), own)
  }

  /// Aliases can nest nodes deeper than the text does.
  private func checkHeight(_ height: UInt16, _ mark: YamlMark) throws(YamlError) {
    if Int(height) > nestingMax {
      throw fail("more than \(nestingMax) levels of nesting", "Flatten the document.", at: Int(mark.offset))
    }
  }

  private mutating func register(_ node: YamlNode, _ own: Properties) -> YamlNode {
    if let place = own.anchor { anchored[place] = Anchored(node: node, weight: weight - own.weight) }
    return node
  }

  // MARK: - Mappings

  struct Entries {
    var list: [YamlEntry] = []
    var places: [KeyIdentity: YamlMark] = [:]
    var hasMerge = false
  }

  /// What makes two keys the same key.
  enum KeyIdentity: Hashable {
    case null
    case bool(Bool)
    case int(Int)
    case float(UInt64)
    case text(String)
    /// A long number or a collection, as JSON.
    case json([UInt8])

    init(_ key: YamlNode) {
      switch key.value {
      case .null: self = .null
      case .bool(let it): self = .bool(it)
      case .int(let it): self = .int(it)
      case .float(let it): self = .float((it == 0 ? 0 : it).bitPattern)
      case .string(let it): self = .text(it)
      case .hugeInt, .list, .map: self = .json(yamlKeyText(key))
      }
    }
  }

  mutating func add(_ key: YamlNode, _ value: YamlNode, to entries: inout Entries) throws(YamlError) {
    let identity = KeyIdentity(key)
    if case .json(let text) = identity {
      keyBytes += text.count
      if keyBytes > keyBytesMax {
        throw fail("too many large collections used as keys", "Use short keys.", at: Int(key.mark.offset))
      }
    }
    if key.tag == .merge {
      entries.hasMerge = true
    } else if let first = entries.places.updateValue(key.mark, forKey: identity) {
      var shown = key.text
      if shown.isEmpty, key.height > 0 { shown = String(decoding: yamlKeyText(key), as: UTF8.self) }
      throw YamlError(
        name: name, mark: key.mark,
        message: "Duplicate key \(quoted(shown)) in YAML at line \(key.mark.line) (also defined at line \(first.line))",
        hint: "Remove one of the entries so the intended value is unambiguous.", other: first)
    }
    entries.list.append(YamlEntry(key: key, value: value))
  }

  /// Merge keys replaced by what they bring in, which comes first and gives way to the mapping's own entries. Of a list
  /// of mappings, the earlier ones win; of several `<<`, the later. That is PyYAML's order.
  private func merged(_ entries: [YamlEntry]) throws(YamlError) -> [YamlEntry] {
    var result: [YamlEntry] = []
    var places: [KeyIdentity: Int] = [:]
    func bad(_ node: YamlNode) -> YamlError {
      fail(
        "'<<' needs a mapping or a list of mappings, found \(node.kindName)",
        "Refer to a mapping with an alias, or quote '<<'.", at: Int(node.mark.offset))
    }
    for entry in entries where entry.key.tag == .merge {
      let sources: [YamlNode]
      switch entry.value.value {
      case .map: sources = [entry.value]
      case .list(let items): sources = items.reversed()
      case .null, .bool, .int, .hugeInt, .float, .string: throw bad(entry.value)
      }
      for source in sources {
        guard case .map(let brought) = source.value else { throw bad(source) }
        for part in brought {
          let identity = KeyIdentity(part.key)
          if let place = places[identity] {
            result[place].value = part.value
          } else {
            places[identity] = result.count
            result.append(YamlEntry(key: part.key, value: part.value, merged: true))
          }
        }
      }
    }
    for entry in entries where entry.key.tag != .merge {
      if let place = places[KeyIdentity(entry.key)] { result[place] = entry } else { result.append(entry) }
    }
    return result
  }
}

// MARK: - Names of tags

private let yamlOrg = "tag:yaml.org,2002:"

private let namedTags: [(String, YamlTag)] = [
  ("null", .null), ("bool", .bool), ("int", .int), ("float", .float), ("str", .str), ("timestamp", .timestamp),
  ("binary", .binary), ("merge", .merge), ("value", .value), ("seq", .seq), ("omap", .omap), ("pairs", .pairs),
  ("map", .map), ("set", .set),
]

private func namedTag(_ whole: String) -> YamlTag {
  guard whole.hasPrefix(yamlOrg) else { return .other(whole) }
  let short = whole.dropFirst(yamlOrg.count)
  return namedTags.first { $0.0 == short }?.1 ?? .other(whole)
}

/// The tag as one would write it: `!!int`, `!mine`.
func tagName(_ tag: YamlTag) -> String {
  if case .other(let whole) = tag { return whole.hasPrefix("!") ? whole : "!<\(whole)>" }
  return "!!" + (namedTags.first { $0.1 == tag }?.0 ?? "str")
}
