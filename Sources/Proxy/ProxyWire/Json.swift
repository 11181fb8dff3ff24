// A small strict JSON reader (RFC 8259) for the messages between controller and proxy.
//
// Called by the message decoders beside it. It may be given any bytes: it answers with a value or with an error that
// names line and column, and never traps. Stricter than most readers where laxness hides mistakes: duplicate keys,
// bytes that are not UTF-8, lone surrogates, numbers that do not fit and anything after the value are refused.
// Time and memory are linear in the input; nesting is bounded by `Json.depthMax`.

package enum Json {
  /// Nesting that is still read. Our messages need 4; the bound keeps the recursion's stack small and known.
  package static let depthMax = 64
  /// The longest number that is read. A Double needs at most 25 characters to be exact.
  package static let numberBytesMax = 400

  /// Reads exactly one value that fills `bytes` (white space around it allowed).
  package static func parse(_ bytes: [UInt8]) throws(JsonError) -> JsonValue {
    try parse(bytes, in: 0..<bytes.count)
  }

  /// The same for a part of a buffer, such as one line of NDJSON. Offsets count from the start of the buffer, lines
  /// and columns in errors from the start of the range.
  package static func parse(_ bytes: [UInt8], in range: Range<Int>) throws(JsonError) -> JsonValue {
    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "the range lies within the buffer")
    var reader = JsonReader(bytes: bytes, range: range)
    return try reader.document()
  }

  package static func parse(_ text: String) throws(JsonError) -> JsonValue {
    try parse(Array(text.utf8))
  }
}

/// One value and where it began.
package struct JsonValue: Sendable {
  package enum Content: Sendable {
    case null
    case bool(Bool)
    /// Every whole number that fits; only `9223372036854775808...18446744073709551615` becomes `unsigned`.
    case int(Int64)
    case unsigned(UInt64)
    /// Numbers written with a fraction or an exponent, and `-0`.
    case double(Double)
    case string(String)
    case array([JsonValue])
    case object([JsonMember])
  }

  package var content: Content
  /// Bytes before the value.
  package var offset: Int

  package init(_ content: Content, offset: Int = 0) {
    self.content = content
    self.offset = offset
  }

  /// The member named `key`, where this is an object that has it.
  package subscript(_ key: String) -> JsonValue? {
    guard case .object(let members) = content else { return nil }
    return members.first { $0.key.utf8.elementsEqual(key.utf8) }?.value
  }

  /// What to call this value in an error: `a string`, `null`, …
  package var kindName: String {
    switch content {
    case .null: "null"
    case .bool: "true or false"
    case .int, .unsigned: "a whole number"
    case .double: "a number"
    case .string: "a string"
    case .array: "a list"
    case .object: "an object"
    }
  }
}

package struct JsonMember: Sendable {
  package var key: String
  package var keyOffset: Int
  package var value: JsonValue

  package init(key: String, keyOffset: Int = 0, value: JsonValue) {
    self.key = key
    self.keyOffset = keyOffset
    self.value = value
  }
}

/// What is wrong, where, and what to do. `path` names a field once the text is known to be JSON.
package struct JsonError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Both count from 1; columns count characters (code points).
  package var line: Int
  package var column: Int
  /// Such as `replicas[3].address`; empty for errors of syntax and for the outermost value.
  package var path: String
  package var reason: String

  package init(line: Int, column: Int, path: String = "", reason: String) {
    self.line = line
    self.column = column
    self.path = path
    self.reason = reason
  }

  package init(bytes: [UInt8], start: Int = 0, offset: Int, path: String = "", reason: String) {
    var line = 1
    var column = 1
    for byte in bytes[start..<min(max(offset, start), bytes.count)] {
      if byte == UInt8(ascii: "\n") {
        line += 1
        column = 1
      } else if byte & 0xC0 != 0x80 {
        column += 1
      }
    }
    self.init(line: line, column: column, path: path, reason: reason)
  }

  /// `replicas[3].address: reason`, or `line 3, column 7: reason` where there is no field to name.
  package var description: String {
    path.isEmpty ? "line \(line), column \(column): \(reason)" : "\(path): \(reason)"
  }
}

// MARK: - The reader

private struct JsonReader {
  let bytes: [UInt8]
  let start: Int
  let end: Int
  var at: Int

  init(bytes: [UInt8], range: Range<Int>) {
    self.bytes = bytes
    start = range.lowerBound
    end = range.upperBound
    at = range.lowerBound
  }

  mutating func document() throws(JsonError) -> JsonValue {
    if end - at >= 3, bytes[at] == 0xEF, bytes[at + 1] == 0xBB, bytes[at + 2] == 0xBF {
      throw error("begins with a byte order mark; leave it out", at)
    }
    skipSpace()
    if at == end { throw error("there is no JSON value here", at) }
    let result = try value(depth: 0)
    skipSpace()
    if at < end { throw error("unexpected \(nameOfByte(at)) after the value", at) }
    return result
  }

  private mutating func value(depth: Int) throws(JsonError) -> JsonValue {
    guard at < end else { throw error("the text ends where a value should be", at) }
    let offset = at
    switch bytes[at] {
    case UInt8(ascii: "{"): return JsonValue(.object(try members(depth: depth + 1)), offset: offset)
    case UInt8(ascii: "["): return JsonValue(.array(try elements(depth: depth + 1)), offset: offset)
    case UInt8(ascii: "\""): return JsonValue(.string(try string()), offset: offset)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return JsonValue(try number(), offset: offset)
    case UInt8(ascii: "t"):
      try word("true")
      return JsonValue(.bool(true), offset: offset)
    case UInt8(ascii: "f"):
      try word("false")
      return JsonValue(.bool(false), offset: offset)
    case UInt8(ascii: "n"):
      try word("null")
      return JsonValue(.null, offset: offset)
    default: throw error("expected a value, found \(nameOfByte(at))", at)
    }
  }

  private mutating func members(depth: Int) throws(JsonError) -> [JsonMember] {
    try enter(depth)
    var result: [JsonMember] = []
    var seen = SeenKeys()
    if take(UInt8(ascii: "}")) { return result }
    while true {
      guard at < end else { throw error("the text ends inside an object", at) }
      guard bytes[at] == UInt8(ascii: "\"") else {
        throw error("expected a key in double quotes, found \(nameOfByte(at))", at)
      }
      let keyOffset = at
      let key = try string()
      if seen.isRepeated(key, among: result) { throw error("the key \(quoted(key)) is given twice", keyOffset) }
      skipSpace()
      try expect(UInt8(ascii: ":"), after: "a key")
      result.append(JsonMember(key: key, keyOffset: keyOffset, value: try value(depth: depth)))
      skipSpace()
      if take(UInt8(ascii: "}")) { return result }
      try expect(UInt8(ascii: ","), after: "a member of an object")
      if at < end, bytes[at] == UInt8(ascii: "}") { throw error("a comma stands before the closing '}'", at) }
    }
  }

  private mutating func elements(depth: Int) throws(JsonError) -> [JsonValue] {
    try enter(depth)
    var result: [JsonValue] = []
    if take(UInt8(ascii: "]")) { return result }
    while true {
      guard at < end else { throw error("the text ends inside a list", at) }
      result.append(try value(depth: depth))
      skipSpace()
      if take(UInt8(ascii: "]")) { return result }
      try expect(UInt8(ascii: ","), after: "an element of a list")
      if at < end, bytes[at] == UInt8(ascii: "]") { throw error("a comma stands before the closing ']'", at) }
    }
  }

  /// Steps over the opening bracket.
  private mutating func enter(_ depth: Int) throws(JsonError) {
    if depth > Json.depthMax { throw error("nested more than \(Json.depthMax) deep", at) }
    at += 1
    skipSpace()
  }

  /// Steps over `byte` and the space after it.
  private mutating func expect(_ byte: UInt8, after what: StaticString) throws(JsonError) {
    let name = "'\(Character(Unicode.Scalar(byte)))'"
    guard at < end else { throw error("the text ends where \(name) should follow \(what)", at) }
    guard bytes[at] == byte else { throw error("expected \(name) after \(what), found \(nameOfByte(at))", at) }
    at += 1
    skipSpace()
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    guard at < end, bytes[at] == byte else { return false }
    at += 1
    return true
  }

  private mutating func skipSpace() {
    while at < end {
      switch bytes[at] {
      case UInt8(ascii: " "), UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: "\t"): at += 1
      default: return
      }
    }
  }

  private mutating func word(_ text: StaticString) throws(JsonError) {
    let offset = at
    let count = text.utf8CodeUnitCount
    for i in 0..<count {
      guard at < end, bytes[at] == text.utf8Start[i] else { throw error("expected \(text)", offset) }
      at += 1
    }
  }

  // number = [ "-" ] ( "0" / digit1-9 *digit ) [ "." 1*digit ] [ ( "e" / "E" ) [ "+" / "-" ] 1*digit ]
  private mutating func number() throws(JsonError) -> JsonValue.Content {
    let offset = at
    let negative = take(UInt8(ascii: "-"))
    var magnitude: UInt64 = 0
    var fits = true
    let first = at
    while at < end, let digit = digitAt(at) {
      let (product, over1) = magnitude.multipliedReportingOverflow(by: 10)
      let (sum, over2) = product.addingReportingOverflow(UInt64(digit))
      if over1 || over2 { fits = false }
      magnitude = sum
      at += 1
    }
    if at == first { throw error("expected a digit after '-'", at) }
    if at - first > 1, bytes[first] == UInt8(ascii: "0") { throw error("a number cannot begin with 0", offset) }
    var whole = true
    if take(UInt8(ascii: ".")) {
      whole = false
      try digits(after: "'.'")
    }
    if at < end, bytes[at] == UInt8(ascii: "e") || bytes[at] == UInt8(ascii: "E") {
      whole = false
      at += 1
      if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
      try digits(after: "the exponent's 'e'")
    }
    if whole {
      if fits {
        if !negative { return magnitude <= UInt64(Int64.max) ? .int(Int64(magnitude)) : .unsigned(magnitude) }
        if magnitude == 0 { return .double(-0.0) }
        if magnitude <= UInt64(Int64.max) + 1 { return .int(Int64(truncatingIfNeeded: 0 &- magnitude)) }
      }
      throw error("the whole number does not fit in 64 bits", offset)
    }
    if at - offset > Json.numberBytesMax {
      throw error("a number of more than \(Json.numberBytesMax) characters", offset)
    }
    guard let result = Double(String(decoding: bytes[offset..<at], as: UTF8.self)), result.isFinite else {
      throw error("the number is too large", offset)
    }
    return .double(result)
  }

  private mutating func digits(after what: StaticString) throws(JsonError) {
    let first = at
    while at < end, digitAt(at) != nil { at += 1 }
    if at == first { throw error("expected a digit after \(what)", at) }
  }

  private func digitAt(_ i: Int) -> UInt8? {
    let digit = bytes[i] &- UInt8(ascii: "0")
    return digit < 10 ? digit : nil
  }

  private mutating func string() throws(JsonError) -> String {
    let opening = at
    at += 1
    var run = at  // start of the bytes that can be taken as they are
    var built: [UInt8] = []
    var escaped = false
    while at < end {
      let byte = bytes[at]
      if byte == UInt8(ascii: "\"") {
        defer { at += 1 }
        if !escaped { return String(decoding: bytes[run..<at], as: UTF8.self) }
        built.append(contentsOf: bytes[run..<at])
        return String(decoding: built, as: UTF8.self)
      } else if byte == UInt8(ascii: "\\") {
        escaped = true
        built.append(contentsOf: bytes[run..<at])
        try escape(into: &built)
        run = at
      } else if byte < 0x20 {
        throw error("a control character in a string must be written as an escape such as \\n", at)
      } else if byte < 0x80 {
        at += 1
      } else {
        at += try multibyteLength()
      }
    }
    throw error("the string is not closed", opening)
  }

  /// The length of the well-formed UTF-8 sequence at `at` (The Unicode Standard, table 3-7).
  private func multibyteLength() throws(JsonError) -> Int {
    let lead = bytes[at]
    let length: Int
    var second: ClosedRange<UInt8> = 0x80...0xBF
    switch lead {
    case 0xC2...0xDF: length = 2
    case 0xE0: (length, second) = (3, 0xA0...0xBF)
    case 0xED: (length, second) = (3, 0x80...0x9F)
    case 0xE1...0xEF: length = 3
    case 0xF0: (length, second) = (4, 0x90...0xBF)
    case 0xF4: (length, second) = (4, 0x80...0x8F)
    case 0xF1...0xF3: length = 4
    default: throw error("the string is not UTF-8", at)
    }
    guard end - at >= length, second.contains(bytes[at + 1]) else { throw error("the string is not UTF-8", at) }
    for i in 2..<max(length, 2) where bytes[at + i] & 0xC0 != 0x80 { throw error("the string is not UTF-8", at) }
    return length
  }

  private mutating func escape(into out: inout [UInt8]) throws(JsonError) {
    let offset = at
    at += 1
    guard at < end else { throw error("the string is not closed", offset) }
    let letter = bytes[at]
    at += 1
    switch letter {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): out.append(letter)
    case UInt8(ascii: "b"): out.append(0x08)
    case UInt8(ascii: "f"): out.append(0x0C)
    case UInt8(ascii: "n"): out.append(0x0A)
    case UInt8(ascii: "r"): out.append(0x0D)
    case UInt8(ascii: "t"): out.append(0x09)
    case UInt8(ascii: "u"):
      var code = try hex4(offset)
      if code & 0xFC00 == 0xD800 {
        guard end - at >= 2, bytes[at] == UInt8(ascii: "\\"), bytes[at + 1] == UInt8(ascii: "u") else {
          throw error("half of a surrogate pair", offset)
        }
        at += 2
        let low = try hex4(offset)
        guard low & 0xFC00 == 0xDC00 else { throw error("half of a surrogate pair", offset) }
        code = 0x10000 + (code & 0x3FF) << 10 + (low & 0x3FF)
      }
      guard let scalar = Unicode.Scalar(code) else { throw error("half of a surrogate pair", offset) }
      out.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
    default: throw error("there is no escape \\\(quotedByte(letter))", offset)
    }
  }

  private mutating func hex4(_ offset: Int) throws(JsonError) -> UInt32 {
    guard end - at >= 4 else { throw error("\\u needs four hexadecimal digits", offset) }
    var code: UInt32 = 0
    for _ in 0..<4 {
      guard let digit = hexValue(bytes[at]) else { throw error("\\u needs four hexadecimal digits", offset) }
      code = code << 4 | UInt32(digit)
      at += 1
    }
    return code
  }

  private func nameOfByte(_ i: Int) -> String { "'\(quotedByte(bytes[i]))'" }

  private func error(_ reason: String, _ offset: Int) -> JsonError {
    JsonError(bytes: bytes, start: start, offset: offset, reason: reason)
  }
}

/// The keys an object already has, compared byte for byte (String's own == also joins canonically equivalent ones).
private struct SeenKeys {
  private struct Exact: Hashable {
    let text: String
    static func == (a: Exact, b: Exact) -> Bool { sameBytes(a.text, b.text) }
    func hash(into hasher: inout Hasher) {
      var text = text
      text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
  }

  /// Below this many keys looking at each is faster than hashing.
  private static let hashedFrom = 16
  private var keys: Set<Exact> = []

  mutating func isRepeated(_ key: String, among members: [JsonMember]) -> Bool {
    if members.count < Self.hashedFrom { return members.contains { sameBytes($0.key, key) } }
    if keys.isEmpty { keys = Set(members.map { Exact(text: $0.key) }) }
    return !keys.insert(Exact(text: key)).inserted
  }

  private static func sameBytes(_ a: String, _ b: String) -> Bool { a.utf8.elementsEqual(b.utf8) }
  private func sameBytes(_ a: String, _ b: String) -> Bool { Self.sameBytes(a, b) }
}

// MARK: - Showing other people's bytes in an error

/// `text` in single quotes, safe to print: control characters and quotes escaped, cut after 80 characters.
package func quoted(_ text: String) -> String {
  var result = "'"
  var count = 0
  for scalar in text.unicodeScalars {
    if count == 80 { return result + "…'" }
    count += 1
    switch scalar.value {
    case 0x0A: result += "\\n"
    case 0x0D: result += "\\r"
    case 0x09: result += "\\t"
    case 0x27: result += "\\'"
    case 0..<0x20, 0x7F..<0xA0, 0x2028, 0x2029, 0x200E, 0x200F, 0x202A...0x202E, 0x2066...0x2069:
      result += "\\u{\(String(scalar.value, radix: 16))}"
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result + "'"
}

private func quotedByte(_ byte: UInt8) -> String {
  switch byte {
  case 0x21...0x7E: String(Unicode.Scalar(byte))
  case 0x20: " "
  case 0x0A: "\\n"
  case 0x0D: "\\r"
  case 0x09: "\\t"
  default: "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
  }
}

/// The value of one hexadecimal digit.
func hexValue(_ byte: UInt8) -> UInt8? {
  switch byte {
  case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
  case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
  case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
  default: nil
  }
}
