// The access log: rings, lines in both formats, files that move away, and that nothing secret is written.

import Glibc
import ProxyWire
import Synchronization
import Testing

@testable import ProxyCore

@Suite struct AccessLogTests {
  private static func entry() -> LogEntry {
    var entry = LogEntry(
      startedAt: 1_500_000_000, replica: Lease(replica: 2, generation: 1), status: 200, outcome: .completed)
    entry.attempts = 1
    entry.bytesIn = 321
    entry.bytesOut = 65_536
    entry.queueNs = 250_000
    entry.connectNs = 1_000_999
    entry.firstByteNs = 12_345_678
    entry.durationNs = 3_000_000_001
    entry.peerCount = 9
    withUnsafeMutableBytes(of: &entry.peerText) { $0.copyBytes(from: "127.0.0.1".utf8) }
    return entry
  }

  private static func append(
    _ ring: LogRing, _ entry: LogEntry, id: [UInt8] = Array("req-1".utf8), method: [UInt8] = Array("POST".utf8),
    target: [UInt8] = Array("/v1/chat?key=secret".utf8)
  ) -> Bool {
    id.withUnsafeBufferPointer { id in
      method.withUnsafeBufferPointer { method in
        target.withUnsafeBufferPointer { target in
          ring.append(
            entry, id: id.baseAddress, idCount: id.count, method: method.baseAddress, methodCount: method.count,
            target: target.baseAddress, targetCount: target.count)
        }
      }
    }
  }

  private static func line(
    _ ring: LogRing, _ format: ProxyConfig.AccessLogFormat = .json, showsQuery: Bool = false
  ) -> String {
    let names = ReplicaNames(capacity: 4)
    names.add([(2, 1, "replica-7")])
    // 2026-01-31T12:00:00Z at monotonic 0.
    var lines = LogLines(
      format: format, showsQuery: showsQuery, wallOffset: 1_769_860_800_000_000_000, names: names.table)
    var out: [UInt8] = []
    _ = ring.take(upTo: ring.end, limit: .max) { lines.write($0, to: &out) }
    return String(decoding: out, as: UTF8.self)
  }

  @Test func jsonLine() {
    let ring = LogRing(capacity: 4)
    #expect(Self.append(ring, Self.entry()))
    #expect(
      Self.line(ring) == """
        {"ts":"2026-01-31T12:00:01.500Z","id":"req-1","client":"127.0.0.1","method":"POST","target":"/v1/chat",\
        "status":200,"replica":"replica-7","attempts":1,"bytes_in":321,"bytes_out":65536,"queue_ms":0.250,\
        "connect_ms":1.000,"first_byte_ms":12.345,"duration_ms":3000.000,"outcome":"completed"}

        """)
  }

  @Test func textLine() {
    let ring = LogRing(capacity: 4)
    #expect(Self.append(ring, Self.entry()))
    #expect(
      Self.line(ring, .text) == """
        2026-01-31T12:00:01.500Z id=req-1 client=127.0.0.1 method=POST target="/v1/chat" status=200 \
        replica=replica-7 attempts=1 bytes_in=321 bytes_out=65536 queue_ms=0.250 connect_ms=1.000 \
        first_byte_ms=12.345 duration_ms=3000.000 outcome=completed

        """)
  }

  @Test func whatThereIsNot() throws {
    var entry = LogEntry(startedAt: 0, replica: .none, status: 0, outcome: .clientLeft)
    entry.durationNs = 1000
    let ring = LogRing(capacity: 4)
    #expect(Self.append(ring, entry, id: [], method: [], target: []))
    let json = try Json.parse(Self.line(ring))
    for key in ["id", "client", "method", "replica", "connect_ms", "first_byte_ms"] {
      #expect(json[key]?.kindName == "null", "\(key)")
    }
    #expect(Self.append(ring, entry, id: [], method: [], target: []))
    #expect(
      Self.line(ring, .text).hasSuffix(
        " id=- client=- method=- target=\"\" status=0 replica=- attempts=0 bytes_in=0 bytes_out=0 queue_ms=0.000 "
          + "connect_ms=- first_byte_ms=- duration_ms=0.001 outcome=client_left\n"))
  }

  @Test func textsAreCutAndQueriesKeptBack() throws {
    let ring = LogRing(capacity: 8)
    let long = Array("/".utf8) + [UInt8](repeating: UInt8(ascii: "a"), count: 400)
    #expect(Self.append(ring, Self.entry(), id: long, method: long, target: long))
    let json = try Json.parse(Self.line(ring))
    #expect(json["id"]?.text == "/" + String(repeating: "a", count: 63))
    #expect(json["method"]?.text == "/" + String(repeating: "a", count: 31))
    #expect(json["target"]?.text == "/" + String(repeating: "a", count: 255) + "…")

    #expect(Self.append(ring, Self.entry()))
    #expect(try Json.parse(Self.line(ring, showsQuery: true))["target"]?.text == "/v1/chat?key=secret")
    #expect(Self.append(ring, Self.entry(), target: Array("/p?".utf8) + long))
    #expect(try Json.parse(Self.line(ring))["target"]?.text == "/p")
  }

  @Test(arguments: [
    ("plain é ✓ 𝄞", "plain é ✓ 𝄞", "plain é ✓ 𝄞"), ("a\"b\\c", "a\\\"b\\\\c", "a\\\"b\\\\c"),
    ("a\nb\u{1b}[31m\u{7f}", "a\\u000ab\\u001b[31m\\u007f", "a\\x0ab\\x1b[31m\\x7f"),
    ("\u{9b}31m", "\\\\xc2\\\\x9b31m", "\\xc2\\x9b31m"),
    ("a\u{2028}b\u{2029}c", "a\\u2028b\\u2029c", "a\\u2028b\\u2029c"),
    (
      "\u{202e}gpj.exe\u{2066}\u{2069}\u{202a}", "\\u202egpj.exe\\u2066\\u2069\\u202a",
      "\\u202egpj.exe\\u2066\\u2069\\u202a"
    ),
    (
      "\u{200e}\u{200f}\u{61c}\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}",
      "\\u200e\\u200f\\u061c\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}",
      "\\u200e\\u200f\\u061c\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}"
    ),
  ])
  func escapes(_ raw: String, _ json: String, _ text: String) throws {
    let ring = LogRing(capacity: 4)
    #expect(Self.append(ring, Self.entry(), target: Array(raw.utf8)))
    let line = Self.line(ring)
    #expect(line.contains("\"target\":\"\(json)\""))
    _ = try Json.parse(line)
    #expect(Self.append(ring, Self.entry(), target: Array(raw.utf8)))
    #expect(Self.line(ring, .text).contains("target=\"\(text)\""))
  }

  @Test func everyByteMakesOneValidLine() throws {
    let ring = LogRing(capacity: 4)
    for byte in UInt8.min...UInt8.max {
      for tail in [[], [0x80], [0xBF, 0xBF], Array("é".utf8)] as [[UInt8]] {
        let raw = [byte] + tail
        #expect(Self.append(ring, Self.entry(), id: raw, method: raw, target: raw))
        let json = Self.line(ring)
        #expect(json.utf8.filter { $0 == 10 }.count == 1)
        _ = try Json.parse(json)
        #expect(Self.append(ring, Self.entry(), id: raw, method: raw, target: raw))
        let text = Self.line(ring, .text)
        #expect(text.unicodeScalars.filter { $0.value < 32 || (127..<160).contains($0.value) }.count == 1)
        // Bytes, as a character may be made of a space and what follows it.
        let spaces = text.utf8.filter { $0 == 32 }.count - raw.filter { $0 == 32 }.count
        #expect(spaces == 14, "a space in an unquoted value: \(text)")
      }
    }
  }

  @Test func aFullRingRefuses() {
    let ring = LogRing(capacity: 3)  // becomes 4
    for _ in 0..<4 { #expect(Self.append(ring, Self.entry())) }
    #expect(!Self.append(ring, Self.entry()))
    #expect(ring.count == 4)
    #expect(ring.take(upTo: ring.end, limit: 1) { _ in } == 1)
    #expect(Self.append(ring, Self.entry()))
    #expect(!Self.append(ring, Self.entry()))
  }

  @Test func theThreadWritesEverythingAndReopens() throws {
    let folder = try TemporaryFolder()
    let rings = [LogRing(capacity: 1024), LogRing(capacity: 1024)]
    let log = try #require(
      try AccessLog(
        to: .file(path: "\(folder.path)/log"), format: .json, showsQuery: false, rings: rings,
        names: ReplicaNames(capacity: 1)))
    try log.start()
    #expect(Self.append(rings[0], Self.entry()))
    try eventually("the first line") { folder.read("log").hasSuffix("}\n") }
    #expect(rename("\(folder.path)/log", "\(folder.path)/log.1") == 0)
    log.requestReopen()
    try eventually("a new file") { access("\(folder.path)/log", F_OK) == 0 }
    // Two workers at once, and more than the rings hold: what is refused is known to them.
    let written = Atomic<Int>(0)
    let failed = Atomic<Int>(0)
    let threads = try rings.map { ring in
      try #require(
        ControlThread.start("test-worker") {
          for _ in 0..<3000 {
            if Self.append(ring, Self.entry()) {
              written.wrappingAdd(1, ordering: .relaxed)
            } else {
              failed.wrappingAdd(1, ordering: .relaxed)
            }
          }
        })
    }
    for thread in threads { thread.join() }
    log.stop()
    #expect(folder.read("log.1").split(separator: "\n").count == 1)
    let lines = folder.read("log").split(separator: "\n")
    #expect(lines.count == written.load(ordering: .relaxed))
    #expect(written.load(ordering: .relaxed) + failed.load(ordering: .relaxed) == 6000)
    #expect(log.linesLost == 0)
    for line in lines { _ = try Json.parse(String(line)) }
  }

  @Test func aPipeThatNobodyReadsDoesNotKeepUs() throws {
    let folder = try TemporaryFolder()
    let path = "\(folder.path)/pipe"
    #expect(mkfifo(path, 0o600) == 0)
    let reader = open(path, O_RDONLY | O_NONBLOCK)
    defer { close(reader) }
    let ring = LogRing(capacity: 1024)
    let log = try #require(
      try AccessLog(
        to: .file(path: path), format: .text, showsQuery: false, rings: [ring], names: ReplicaNames(capacity: 1)))
    try log.start()
    for _ in 0..<1024 { #expect(Self.append(ring, Self.entry())) }  // 200 KB; a pipe holds 64
    log.stop()
    #expect(log.linesLost > 0)
  }

  @Test func aPlaceThatCannotBeWritten() {
    #expect(throws: AccessLogError.self) {
      try AccessLog(
        to: .file(path: "/nowhere/log"), format: .json, showsQuery: false, rings: [], names: ReplicaNames(capacity: 1))
    }
  }
}

extension JsonValue {
  fileprivate var text: String? {
    guard case .string(let text) = content else { return nil }
    return text
  }
}
