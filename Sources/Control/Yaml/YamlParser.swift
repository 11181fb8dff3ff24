// The way through a document: the stream, its documents and their directives [9]. What a document holds is read by
// YamlBlock (structure by columns), YamlFlow (structure by brackets) and YamlScalars (words); YamlBuild makes nodes of
// it. Grammar: YAML 1.2.2, its clauses in brackets; the meaning of words: YAML 1.1.
//
// One pass, no backtracking. A node is read first and only then asked whether a `:` follows, which makes it the first
// key of a block mapping that begins where the node began. So every byte is looked at a bounded number of times.
//
//   stream ── document ── blockNode ─┬─ (same line) inlineNode ─┬─ blockSequence ── blockNode …
//                                    └─ (next lines) lineNode ──┼─ blockMapping ─── blockNode …
//                                                               └─ contentNode ─┬─ blockScalar
//                                                                            └─ flowContent ── flow … / scalar / alias

/// Nesting deeper than this is refused, so that neither reading a document nor walking its tree runs out of stack.
let nestingMax = 500

/// How much aliases may add to a document, in bytes of text with 16 for each node: `*a` costs what it stands for, so a
/// small file cannot unfold into a giant one.
let aliasBytesMax = 10_000_000

/// How long the keys that are collections may be together, as text. Nested in one another, each is counted again.
let keyBytesMax = 10_000_000

struct YamlParser {
  let name: String
  /// Checked text, followed by NULs.
  let bytes: [UInt8]
  let end: Int

  // The cursor. A block reader leaves it at the next content, and these describe that content's line.
  var pos = 0
  /// Where the cursor's line begins.
  var lineStart = 0
  /// Spaces before the line's first content.
  var lineIndent = 0
  /// A tab stands before the line's first content.
  var tabbed = false
  var marks = MarkFinder()
  var depth = 0
  /// The brackets that are open, as places in the text.
  var brackets: [Int] = []

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
  /// The length of keys that are collections.
  var keyBytes = 0

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
    let opened: Opened
    if atMarker("---") {
      pos += 3
      opened = try blockNode(parent: -1, zeroSequence: false, inline: .none)
    } else {
      opened = try lineNode(parent: -1, zeroSequence: false, outer: Properties(), emptyAt: pos)
    }
    let node = try complete(opened)
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
}
