// The JSON reader and writer: documents, errors with positions, every prefix, mutations.

import SimKit
import TestSupport
import Testing

@testable import ProxyWire

@Suite struct JsonTests {
  private func rewritten(_ text: String) throws -> String {
    var writer = JsonWriter()
    writer.value(try Json.parse(text))
    return String(decoding: writer.take(), as: UTF8.self)
  }

  private static let valid: [(text: String, compact: String)] = [
    ("null", "null"), (" true\n", "true"), ("false", "false"), ("\"\"", "\"\""), ("[]", "[]"), ("{}", "{}"),
    ("0", "0"), ("-1", "-1"), ("-0", "-0.0"), ("1e2", "100.0"), ("1.50", "1.5"), ("1E+2", "100.0"),
    ("5e-324", "5e-324"),
    ("9223372036854775807", "9223372036854775807"), ("-9223372036854775808", "-9223372036854775808"),
    ("18446744073709551615", "18446744073709551615"), ("1e-999", "0.0"),
    ("0.1000000000000000055511151231257827021181583404541015625", "0.1"),
    (" [ 1 , [ ] , { \"a\" : [ null ] } ] ", "[1,[],{\"a\":[null]}]"),
    (#""\"\\\/\b\f\n\r\t""#, #""\"\\/\u0008\u000c\n\r\t""#),
    (#""\u0041\u00e9\u20ac\ud83d\ude00""#, "\"Aé€😀\""), ("\"é€😀\u{7f}\"", "\"é€😀\\u007f\""),
    (#""\u0000""#, #""\u0000""#), ("{\"é\":1,\"e\u{301}\":2}", "{\"é\":1,\"e\u{301}\":2}"),
    ("{\"b\":1,\"a\":2}", "{\"b\":1,\"a\":2}"), ("{\"\":0}", "{\"\":0}"),
  ]

  @Test(arguments: valid) func readsAndWrites(_ row: (text: String, compact: String)) throws {
    let once = try rewritten(row.text)
    #expect(once == row.compact)
    #expect(Array(once.utf8) == Array(row.compact.utf8))
    #expect(try rewritten(once) == once)
  }

  private static let invalid: [(text: String, line: Int, column: Int, reason: String)] = [
    ("", 1, 1, "there is no JSON value here"), (" \n ", 2, 2, "there is no JSON value here"),
    ("\u{feff}{}", 1, 1, "byte order mark"), ("{} x", 1, 4, "unexpected 'x' after the value"),
    ("nul", 1, 1, "expected null"), ("True", 1, 1, "expected a value, found 'T'"), ("'a'", 1, 1, "found '''"),
    ("01", 1, 1, "cannot begin with 0"), ("-", 1, 2, "expected a digit"), ("1.", 1, 3, "expected a digit after '.'"),
    (".5", 1, 1, "expected a value"), ("+1", 1, 1, "expected a value"), ("1e", 1, 3, "exponent"),
    ("1e+", 1, 4, "exponent"),
    ("NaN", 1, 1, "expected a value"), ("1e999", 1, 1, "too large"),
    ("18446744073709551616", 1, 1, "does not fit"), ("-9223372036854775809", 1, 1, "does not fit"),
    ("0." + String(repeating: "0", count: 400) + "1", 1, 1, "more than 400"),
    ("[1,]", 1, 4, "comma stands before"), ("{\"a\":1,}", 1, 8, "comma stands before"), ("[1 2]", 1, 4, "expected ','"),
    ("[", 1, 2, "ends inside a list"), ("{", 1, 2, "ends inside an object"), ("{\"a\"", 1, 5, "':' should follow"),
    ("{\"a\":", 1, 6, "ends where a value"), ("{a:1}", 1, 2, "double quotes"), ("[1}", 1, 3, "found '}'"),
    ("{\"a\":1,\n \"a\":2}", 2, 2, "'a' is given twice"), ("{\"a\":1,\"\\u0061\":2}", 1, 8, "given twice"),
    ("\"abc", 1, 1, "not closed"), ("\"a\nb\"", 1, 3, "control character"), (#""\x""#, 1, 2, #"no escape \x"#),
    (#""\u12g4""#, 1, 2, "four hexadecimal"), (#""\ud800""#, 1, 2, "surrogate"), (#""\udc00""#, 1, 2, "surrogate"),
    (#""\ud800\u0041""#, 1, 2, "surrogate"), ("{\"é\" 1}", 1, 6, "expected ':'"), ("// x\n1", 1, 1, "expected a value"),
    ("[\n  1,\n  oops\n]", 3, 3, "found 'o'"), ("[1]\0", 1, 4, "\\x00"),
  ]

  @Test(arguments: invalid) func refuses(_ row: (text: String, line: Int, column: Int, reason: String)) {
    do {
      _ = try Json.parse(row.text)
      Issue.record("\(row.text) was read")
    } catch {
      #expect(error.line == row.line, "\(error)")
      #expect(error.column == row.column, "\(error)")
      #expect(error.reason.contains(row.reason), "\(error)")
    }
  }

  // The Unicode Standard, table 3-7: one case beyond each edge.
  @Test(
    arguments: [
      [0x80], [0xBF], [0xC0, 0x80], [0xC1, 0xBF], [0xC2], [0xC2, 0x41], [0xE0, 0x9F, 0x80], [0xE1, 0x80],
      [0xE1, 0x80, 0x41], [0xED, 0xA0, 0x80], [0xF0, 0x8F, 0x80, 0x80], [0xF1, 0x80, 0x80], [0xF4, 0x90, 0x80, 0x80],
      [0xF5, 0x80, 0x80, 0x80], [0xFF], [0xFE], [0xF1, 0x80, 0x41, 0x80],
    ] as [[UInt8]])
  func refusesWhatIsNotUtf8(_ bytes: [UInt8]) {
    #expect(throws: JsonError(line: 1, column: 2, reason: "the string is not UTF-8")) {
      try Json.parse([UInt8(ascii: "\"")] + bytes + [UInt8(ascii: "\"")])
    }
    #expect(throws: JsonError.self) { try Json.parse([UInt8(ascii: "\"")] + bytes) }
  }

  @Test func everyScalarSurvives() throws {
    var text = ""
    for code in stride(from: UInt32(0), through: 0x10FFFF, by: 61) {
      if let scalar = Unicode.Scalar(code) { text.unicodeScalars.append(scalar) }
    }
    var writer = JsonWriter()
    writer.string(text)
    guard case .string(let back) = try Json.parse(writer.take()).content else {
      Issue.record("not a string")
      return
    }
    #expect(Array(back.utf8) == Array(text.utf8))
  }

  @Test func nestsToTheLimitAndNoFurther() throws {
    let nested = { (depth: Int) in String(repeating: "[", count: depth) + String(repeating: "]", count: depth) }
    _ = try Json.parse(nested(Json.depthMax))
    #expect(throws: JsonError(line: 1, column: 65, reason: "nested more than 64 deep")) {
      try Json.parse(nested(Json.depthMax + 1))
    }
    #expect(throws: JsonError.self) { try Json.parse(String(repeating: "{\"a\":", count: 1_000_000)) }
  }

  @Test func findsARepeatedKeyAmongMany() throws {
    var text = "{" + (0..<40).map { "\"k\($0)\":\($0)" }.joined(separator: ",")
    let value = try Json.parse(text + "}")
    guard case .int(39)? = value["k39"]?.content else {
      Issue.record("k39 is not 39")
      return
    }
    #expect(value["k40"] == nil)
    for key in ["k0", "k15", "k16", "k39"] {
      #expect(throws: JsonError.self) { try Json.parse(text + ",\"\(key)\":1}") }
    }
    text += ",\"k40\":0}"
    _ = try Json.parse(text)
  }

  @Test func readsAPartOfABuffer() throws {
    let buffer = Array("xx\n[1,\n 2]yy".utf8)
    let value = try Json.parse(buffer, in: 3..<10)
    guard case .array(let elements) = value.content else {
      Issue.record("not a list")
      return
    }
    #expect(elements.map(\.offset) == [4, 8])
    #expect(throws: JsonError(line: 2, column: 3, reason: "the text ends where ',' should follow an element of a list"))
    {
      try Json.parse(buffer, in: 3..<9)
    }
  }

  @Test func finiteNumbersOnly() {
    var writer = JsonWriter()
    writer.beginArray()
    writer.number(Double.infinity)
    writer.number(Double.nan)
    writer.number(Int8.min)
    writer.number(UInt64.max)
    writer.number(Int64.min)
    writer.endArray()
    #expect(
      String(decoding: writer.take(), as: UTF8.self) == "[null,null,-128,18446744073709551615,-9223372036854775808]")
  }

  @Test func writerGoesOnInABuffer() {
    var writer = JsonWriter(appendingTo: Array("x".utf8))
    writer.beginObject()
    writer.member("a", 1)
    writer.member("b", true)
    writer.endObject()
    writer.newline()
    writer.beginArray()
    writer.null()
    writer.endArray()
    #expect(String(decoding: writer.take(), as: UTF8.self) == "x{\"a\":1,\"b\":true}\n[null]")
  }

  static let documents: [String] = [
    #"{"version": 7, "replicas": [{"id": "a", "weight": 1.5e0, "x": [true, false, null, -12, "\u00e9\n"]}]}"#,
    #"[[], {}, "é€😀", {"k": {"k": {"k": [0.5, 1e3, 18446744073709551615]}}}]"#,
    String(decoding: SnapshotTests.sample.encode(), as: UTF8.self),
    String(decoding: ReportTests.interval.encode().dropLast(), as: UTF8.self),
  ]

  @Test(arguments: documents) func everyPrefixIsAnError(_ text: String) throws {
    let bytes = Array(text.utf8)
    _ = try Json.parse(bytes)
    for count in 0..<bytes.count {
      #expect(throws: JsonError.self) { try Json.parse(Array(bytes[..<count])) }
      #expect(throws: JsonError.self) { try Json.parse(bytes, in: 0..<count) }
    }
  }

  @Test func mutationsNeverCrash() throws {
    var chance = Chance()
    for round in 0..<20_000 {
      let bytes = chance.mutated(Array(Self.documents[round % Self.documents.count].utf8))
      // The decoders must stand any bytes, too.
      _ = try? ReplicaSnapshot.decode(bytes)
      _ = try? ReplicaList.decode(bytes)
      _ = try? Report.decode(bytes)
      guard let value = try? Json.parse(bytes) else { continue }
      var writer = JsonWriter()
      writer.value(value)
      let once = writer.take()
      var again = JsonWriter()
      again.value(try Json.parse(once))
      #expect(again.take() == once, "round \(round), \(chance.replay())")
    }
  }

  @Test func quotesForPeople() {
    #expect(quoted("a'b\n\u{1b}[0m\u{202e}é") == "'a\\'b\\n\\u{1b}[0m\\u{202e}é'")
    #expect(quoted(String(repeating: "x", count: 100)) == "'" + String(repeating: "x", count: 80) + "…'")
  }
}

@Suite struct SuggestTests {
  private static let words = ["listen", "replica", "policy", "max-in-flight", "head-timeout", "via", "workers"]

  @Test(
    arguments: [
      ("lisen", "listen"), ("listne", "listen"), ("Listen", "listen"), ("replicas", "replica"), ("polcy", "policy"),
      ("max_in_flight", "max-in-flight"), ("max-inflight", "max-in-flight"), ("head-timout", "head-timeout"),
      ("vai", "via"), ("worker", "workers"), ("foo", nil), ("", nil), ("zzzzzz", nil), ("x", nil),
    ] as [(String, String?)])
  func findsTheNearest(_ typed: String, _ meant: String?) {
    #expect(suggest(typed, among: Self.words) == meant)
  }

  @Test func standsLongWords() {
    #expect(suggest(String(repeating: "a", count: 1_000_000), among: Self.words) == nil)
  }

  @Test(arguments: [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("kitten", "sitting", 3)])
  func measures(_ a: String, _ b: String, _ distance: Int) {
    #expect(editDistance(Array(a.utf8), Array(b.utf8)) == distance)
    #expect(editDistance(Array(b.utf8), Array(a.utf8)) == distance)
  }
}
