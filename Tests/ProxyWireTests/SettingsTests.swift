// Settings as JSON: what is taken, and what each refusal says.

import Testing

@testable import ProxyWire

@Suite struct SettingsTests {
  static let all = ProxySettings(
    tls: .on(cert: "/etc/sky/\"c\".pem", key: "/etc/sky/k é.pem"),
    timeoutsMs: Dictionary(uniqueKeysWithValues: ProxySettings.Timeout.allCases.map { ($0, $0.range.upperBound) }))

  static let samples = [
    all, ProxySettings(), ProxySettings(tls: .off), ProxySettings(timeoutsMs: [.stream: 1, .head: 0]),
  ]

  @Test(arguments: samples) func comesBackTheSame(_ settings: ProxySettings) throws {
    #expect(try ProxySettings.decode(settings.encode()) == settings)
    #expect(try ProxySettings.decodeAnswer(settings.encode()) == settings)
  }

  @Test func whatIsNotNamedIsLeft() throws {
    let change = try ProxySettings.decode(Array(#"{"stream_timeout_ms": 7, "drain_timeout_ms": 0}"#.utf8))
    #expect(change.tls == nil)
    var expected = Self.all
    expected.timeoutsMs[.stream] = 7
    expected.timeoutsMs[.drain] = 0
    #expect(Self.all.changed(by: change) == expected)
    #expect(Self.all.changed(by: ProxySettings(tls: .off)).tls == .off)
  }

  @Test(arguments: ProxySettings.Timeout.allCases)
  func takesWhatIsInRangeAndNothingElse(_ timeout: ProxySettings.Timeout) throws {
    func decode(_ ms: UInt64) throws -> UInt64? {
      try ProxySettings.decode(Array("{\"\(timeout.rawValue)\": \(ms)}".utf8)).timeoutsMs[timeout]
    }
    let (low, high) = (timeout.range.lowerBound, timeout.range.upperBound)
    #expect(try decode(low) == low)
    #expect(try decode(high) == high)
    #expect(throws: JsonError.self) { try decode(high + 1) }
    #expect(throws: JsonError.self) { try decode(.max) }
    if timeout.zero != nil {
      #expect(try decode(0) == 0)
    } else {
      #expect(throws: JsonError.self) { try decode(0) }
    }
    if low > 1 { #expect(throws: JsonError.self) { try decode(low - 1) } }
  }

  private static let wrong: [(text: String, error: String)] = [
    ("[]", "expected an object such as {\"stream_timeout_ms\": 600000}, found a list"),
    (#"{"stream_timout_ms":1}"#, "unknown field 'stream_timout_ms', did you mean 'stream_timeout_ms'?"),
    (
      #"{"head_timeout_ms":9}"#, "head_timeout_ms: 9 is outside 10...3600000 milliseconds; 0 means: no deadline"
    ),
    (#"{"queue_timeout_ms":0}"#, "queue_timeout_ms: 0 is outside 1...3600000 milliseconds"),
    (#"{"stream_timeout_ms":1.5}"#, "stream_timeout_ms: 1.5 is not a whole number"),
    (#"{"stream_timeout_ms":"1s"}"#, "stream_timeout_ms: expected a whole number, found a string"),
    (#"{"stream_timeout_ms":null}"#, "stream_timeout_ms: expected a whole number, found null"),
    (#"{"tls":true}"#, #"tls: expected {"cert": "/path/cert.pem", "key": "/path/key.pem"}, or null for none"#),
    (#"{"tls":{}}"#, #"tls: the field 'cert' is missing; add "cert": "/path/cert.pem""#),
    (#"{"tls":{"cert":"/c"}}"#, #"tls: the field 'key' is missing; add "key": "/path/key.pem""#),
    (#"{"tls":{"cert":"c","key":"/k"}}"#, "tls.cert: 'c' is not an absolute path"),
    (#"{"tls":{"cert":"","key":"/k"}}"#, "tls.cert: '' is not an absolute path"),
    (#"{"tls":{"cert":"/c\u0000d","key":"/k"}}"#, "tls.cert: "),
    (#"{"tls":{"cert":1,"key":"/k"}}"#, "tls.cert: expected a string, found a whole number"),
    (#"{"tls":{"certfile":"/c","key":"/k"}}"#, "tls: unknown field 'certfile'"),
  ]

  @Test(arguments: wrong) func namesWhatIsWrong(_ row: (text: String, error: String)) {
    do {
      _ = try ProxySettings.decode(Array(row.text.utf8))
      Issue.record("\(row.text) was read")
    } catch {
      #expect(error.description.contains(row.error), "\(error)")
    }
  }

  @Test func readsWhatANewerProxyAdds() throws {
    let text = #"{"tls":{"cert":"c.pem","key":"k.pem","novel":1},"stream_timeout_ms":99999999999,"new":{}}"#
    let settings = try ProxySettings.decodeAnswer(Array(text.utf8))
    #expect(settings == ProxySettings(tls: .on(cert: "c.pem", key: "k.pem"), timeoutsMs: [.stream: 99_999_999_999]))
  }
}
