// The end of what a command wrote, and the line of it that says why the command failed: `vllm: command not found`.
// A plain value; RunLog keeps one in memory, so that a full disk takes nobody's last words.

struct LogTail: Sendable {
  /// Bytes that are kept at least.
  static let bytesMin = 16_384
  /// Characters of a line that are shown.
  static let shownMax = 200

  private var bytes: [UInt8] = []
  /// The beginning of `bytes` is in the middle of something.
  private var isCut = false

  mutating func add(_ more: some Collection<UInt8>) {
    bytes += more
    // Half is thrown away at a time, so that a byte is moved once and not for every piece.
    guard bytes.count > 2 * Self.bytesMin else { return }
    bytes.removeFirst(bytes.count - Self.bytesMin)
    isCut = true
  }

  mutating func removeAll() {
    bytes = []
    isCut = false
  }

  /// The last line with a letter or a digit in it, without what a terminal would not print, cut to `shownMax`
  /// characters.
  /// - Parameters:
  ///   - secrets: texts that are not shown.
  ///   - script: bash begins with its name what it has to say about a command: `run.sh: line 3: …`.
  func lastLine(hiding secrets: [String], script: String) -> String? {
    // What is left of a line's beginning may be a part of a secret that cannot be known again.
    let whole = isCut ? bytes.drop { !Self.endsLine($0) } : bytes[...]
    let text = Secret.hide(secrets, in: String(decoding: whole, as: UTF8.self))
    for line in text.split(whereSeparator: \.isNewline).reversed() {
      var shown = Secret.hide(secrets, in: Self.printable(line))
      guard shown.contains(where: { $0.isLetter || $0.isNumber }) else { continue }
      if let rest = shown.wholeMatch(of: /(.+): line [0-9]+: (.+)/), rest.1 == script { shown = String(rest.2) }
      return shown.count <= Self.shownMax ? shown : shown.prefix(Self.shownMax - 1) + "…"
    }
    return nil
  }

  private static func endsLine(_ byte: UInt8) -> Bool { byte == UInt8(ascii: "\n") || byte == UInt8(ascii: "\r") }

  /// Without colours and other orders to a terminal (ECMA-48), one blank for each white space, none at the ends.
  static func printable(_ line: some StringProtocol) -> String {
    var out = String.UnicodeScalarView()
    var rest = Substring(line).unicodeScalars[...]
    while let scalar = rest.popFirst() {
      switch scalar {
      case "\u{1B}": skipSequence(&rest, introducedBy: rest.popFirst())
      case "\u{9B}": skipSequence(&rest, introducedBy: "[")
      case _ where scalar.properties.isWhitespace:
        if let last = out.last, last != " " { out.append(" ") }
      default:
        switch scalar.properties.generalCategory {
        case .control, .format, .surrogate, .unassigned, .privateUse: break
        default: out.append(scalar)
        }
      }
    }
    if out.last == " " { out.removeLast() }
    return String(out)
  }

  private static func skipSequence(_ rest: inout Substring.UnicodeScalarView, introducedBy first: Unicode.Scalar?) {
    switch first {
    case "[":
      while let next = rest.popFirst(), !("@"..."~").contains(next) {}
    case "]", "P", "X", "^", "_":
      // A text for the terminal, up to BEL or ESC \.
      while let next = rest.popFirst(), next != "\u{07}" {
        if next == "\u{1B}" {
          _ = rest.popFirst()
          break
        }
      }
    default: break
    }
  }
}
