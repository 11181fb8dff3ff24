// The parts of the benchmark tools that need no socket.

import Testing

@testable import BenchKit

@Suite struct LatencyHistogramTests {
  @Test func quantilesAreKnownWithinOnePercent() {
    let histogram = LatencyHistogram()
    for value in 1...100_000 as ClosedRange<UInt64> { histogram.record(value * 1000) }
    for (q, wanted) in [(0.5, 50_000_000.0), (0.9, 90_000_000), (0.99, 99_000_000), (0.999, 99_900_000)] {
      #expect(abs(Double(histogram.quantile(q)) - wanted) / wanted < 0.01)
    }
    #expect(histogram.quantile(1) == 100_000_000)
    #expect(histogram.least == 1000)
    #expect(histogram.count == 100_000)
    #expect(abs(histogram.mean - 50_000_500) < 1)
  }

  @Test func bucketsCoverEveryValueInOrder() {
    var last = -1
    for shift in 0..<64 as Range<UInt64> {
      for value in [1 << shift, (1 << shift) + (1 << shift) / 3] as [UInt64] {
        let bucket = LatencyHistogram.bucket(value)
        #expect(bucket >= last && bucket < LatencyHistogram.buckets)
        last = bucket
        if shift < 42 {
          let middle = Double(LatencyHistogram.value(of: bucket))
          #expect(abs(middle - Double(value)) <= max(0.5, Double(value) * 0.008))
        }
      }
    }
  }

  @Test func mergingIsAddingUp() {
    let (a, b, both) = (LatencyHistogram(), LatencyHistogram(), LatencyHistogram())
    for value in [5, 900, 12_345] as [UInt64] {
      a.record(value)
      both.record(value)
    }
    for value in [2, 77_777] as [UInt64] {
      b.record(value)
      both.record(value)
    }
    a.merge(b)
    #expect(a.json == both.json)
    #expect(a.least == 2 && a.most == 77_777)
    #expect(LatencyHistogram().quantile(0.99) == 0)
  }
}

private func stream(_ numbers: [UInt32], bytes: Int = 80) -> [UInt8] {
  var memory = [UInt8](repeating: 0, count: numbers.count * bytes)
  memory.withUnsafeMutableBufferPointer { buffer in
    var out = ByteOut(buffer.baseAddress!, capacity: buffer.count)
    for number in numbers { EventFormat.write(&out, number: number, bytes: bytes, now: 1_234_567_890_123_456_789) }
  }
  return memory
}

/// Feeds `bytes` in pieces of `step`.
private func check(_ bytes: [UInt8], step: Int) -> EventChecker {
  var checker = EventChecker()
  bytes.withUnsafeBufferPointer { buffer in
    var from = 0
    while from < buffer.count {
      let count = min(step, buffer.count - from)
      var at = 0
      while let seen = checker.next(buffer.baseAddress! + from, count, at: &at) {
        if case .numbered(let sentNs) = seen { #expect(sentNs == 1_234_567_890_123_456_789) }
      }
      #expect(at == count)
      from += count
    }
  }
  return checker
}

@Suite struct EventCheckerTests {
  @Test(arguments: [1, 2, 3, 7, 79, 80, 81, 4096]) func wholeStreamsPassHoweverTheyAreCut(step: Int) {
    let checker = check(stream(Array(0..<20)) + Array(": comment\n\ndata: [DONE]\n\n".utf8), step: step)
    #expect(checker.numbered == 20 && checker.expected == 20 && checker.sawDone && !checker.isInsideEvent)
    #expect(checker.lost == 0 && checker.reordered == 0 && checker.corrupted == 0)
  }

  @Test func missingEventsAreCounted() {
    let checker = check(stream([0, 1, 5, 6]), step: 50)
    #expect(checker.lost == 3 && checker.numbered == 4 && checker.expected == 7)
  }

  @Test func repeatedAndLateEventsAreCounted() {
    let checker = check(stream([0, 1, 1, 3, 2]), step: 4096)
    #expect(checker.reordered == 2 && checker.lost == 1)
  }

  @Test func changedBytesAreNoticed() {
    for place in [3, 14, 30, 60, 77] {
      var bytes = stream([0, 1, 2])
      bytes[80 + place] ^= 0x20
      #expect(check(bytes, step: 4096).corrupted + check(bytes, step: 4096).lost > 0, "byte \(place)")
    }
  }

  @Test func whatIsNoEventIsCorrupted() {
    #expect(check(Array("<html>\n\n".utf8), step: 3).corrupted == 1)
    #expect(
      check(Array("data: {\"n\":\"0000000x\",\"t\":\"00000000000000000001\",\"p\":\"\"}\n\n".utf8), step: 999).corrupted
        == 1)
  }
}

@Suite struct TraceTests {
  @Test func rowsAreRead() throws {
    let rows = try Trace.parse("timestamp_ms,prompt_bytes,output_events\n# a comment\n0,10,1\r\n\n1.5, 2000 ,30\n")
    #expect(
      rows == [
        TraceRow(atNs: 0, promptBytes: 10, outputEvents: 1),
        TraceRow(atNs: 1_500_000, promptBytes: 2000, outputEvents: 30),
      ])
    #expect(try Trace.parse("").isEmpty)
  }

  @Test(arguments: [
    ("0,1", 1), ("0,1,2\n1,x,3", 2), ("a,1,1", 1), ("5,1,1\n4,1,1", 2), ("0,1,0", 1), ("-1,1,1", 1),
    ("0,99999999999,1", 1),
  ]) func mistakesAreNamedByLine(text: String, line: Int) {
    #expect { try Trace.parse(text) } throws: { ($0 as? TraceProblem)?.line == line }
  }
}

@Suite struct AnswerSpecTests {
  private func read(_ target: String) -> AnswerSpec? {
    var spec = AnswerSpec()
    var bytes = Array(target.utf8)
    let understood = bytes.withUnsafeMutableBufferPointer {
      spec.read(target: UnsafePointer($0.baseAddress!), $0.count)
    }
    return understood ? spec : nil
  }

  @Test func queriesDescribeAnswers() throws {
    #expect(read("/anything") == AnswerSpec())
    let spec = try #require(
      read("/?size=5&delay_ms=1.25&framing=chunked&status=404&cut=3&cut_how=rst&hang=body&close=1"))
    #expect(spec.size == 5 && spec.delayNs == 1_250_000 && spec.framing == .chunked && spec.status == 404)
    #expect(spec.cut == 3 && spec.resets && spec.hang == .body && spec.closes)
    let events = try #require(read("/x?events=7&event_bytes=58&interval_ms=0.5&first_ms=20"))
    #expect(
      events.events == 7 && events.eventBytes == 58 && events.intervalNs == 500_000 && events.firstNs == 20_000_000)
  }

  @Test(arguments: [
    "/?siz=5", "/?size=-1", "/?size=", "/?size", "/?framing=none", "/?status=99", "/?event_bytes=57",
    "/?delay_ms=1.1234567",
  ])
  func whatIsNotUnderstoodIsRefused(target: String) { #expect(read(target) == nil) }

  @Test func fieldsAreTheSameKeys() {
    var spec = AnswerSpec()
    var name = Array("First-Ms".utf8)
    var value = Array("3".utf8)
    #expect(spec.set(&name, name.count, &value, value.count))
    #expect(spec.firstNs == 3_000_000)
  }

  @Test func patternIsCheckedByPlace() {
    let pattern = BodyPattern(count: 128)
    #expect(pattern.matches(pattern.bytes + 5, 60, at: 5 + 640))
    #expect(!pattern.matches(pattern.bytes + 5, 60, at: 6))
  }
}

@Suite struct ResponseReaderTests {
  /// The reader's verdict on `text` fed in pieces of `step`: status, body, whether it ended, whether it was bad.
  private func read(_ text: String, step: Int) -> (status: Int, body: String, ended: Bool, bad: Bool) {
    var reader = ResponseReader()
    let bytes = Array(text.utf8)
    var body: [UInt8] = []
    var (ended, bad) = (false, false)
    bytes.withUnsafeBufferPointer { buffer in
      var from = 0
      while from < buffer.count && !ended && !bad {
        let count = min(step, buffer.count - from)
        var at = 0
        reading: while true {
          switch reader.next(buffer.baseAddress! + from, count, at: &at) {
          case .head: continue
          case .body(let here): body += bytes[(from + at - here)..<(from + at)]
          case .needMore: break reading
          case .done:
            ended = true
            break reading
          case .bad:
            bad = true
            break reading
          }
        }
        from += count
      }
    }
    return (reader.status, String(decoding: body, as: UTF8.self), ended, bad)
  }

  @Test(arguments: [1, 2, 5, 13, 1000]) func framingsAreFollowedHoweverTheyAreCut(step: Int) {
    let length = read("HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhello", step: step)
    #expect(length == (200, "hello", true, false))
    let chunked = read(
      "HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
      step: step)
    #expect(chunked == (201, "abc0123456789", true, false))
    let close = read("HTTP/1.1 200 OK\r\n\r\nuntil the end", step: step)
    #expect(close == (200, "until the end", false, false))
    let interim = read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", step: step)
    #expect(interim == (204, "", true, false))
  }

  @Test func brokenFramingIsNoticed() {
    #expect(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", step: 999).bad)
    #expect(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", step: 999).bad)
    #expect(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", step: 999).bad)
    #expect(read("SSH-2.0 hello there, how are you\r\n\r\n\r\n", step: 999).bad)
  }
}

@Suite struct DeadlineHeapTests {
  @Test func deadlinesComeInOrderWhateverIsChanged() {
    var heap = DeadlineHeap(capacity: 500)
    var chance: UInt64 = 42
    var wanted = [UInt32: UInt64]()
    for _ in 0..<5000 {
      chance = chance &* 6_364_136_223_846_793_005 &+ 1
      let slot = UInt32(chance >> 40) % 500
      if chance >> 33 & 3 == 0 {
        heap.clear(slot)
        wanted[slot] = nil
      } else {
        heap.set(slot, at: chance >> 44)
        wanted[slot] = chance >> 44
      }
    }
    #expect(heap.count == wanted.count && heap.next == wanted.values.min())
    var last: UInt64 = 0
    while heap.count > 0 {
      let next = heap.next
      #expect(next >= last)
      last = next
      #expect(heap.expired(now: next - min(next, 1)) == nil || next == 0)
      let slot = heap.expired(now: next)
      #expect(slot.flatMap { wanted[$0] } == next)
    }
    #expect(heap.next == .max)
  }
}

@Suite struct LoadOptionsTests {
  private func parse(_ line: String) throws -> LoadOptions {
    var options = try #require(
      try LoadOptions.table.parse(line.split(separator: " ").map(String.init), into: LoadOptions()))
    try options.complete()
    return options
  }

  @Test func scenariosAreRead() throws {
    let options = try parse(
      "--target a=127.0.0.1:80,12+13 --target 127.0.0.2:81 --mode open --rate=500 --poisson --rounds 2")
    #expect(options.targets.map(\.name) == ["a", "127.0.0.2:81"])
    #expect(options.targets[0].pids == [12, 13] && options.targets[1].address.port == 81)
    #expect(options.mode == .open && options.rate == 500 && options.isPoisson && options.rounds == 2)
    #expect(try parse("--target :80 --churn").spread == 200)
    #expect(
      try parse("--target :80 --mode sse --events 3 --interval-ms 2").target
        == "/?events=3&event_bytes=120&interval_ms=2.000&first_ms=0.000")
  }

  @Test(arguments: [
    "", "--target 10.0.0.1:80", "--target nowhere", "--target :80 --mode fast", "--target :80 --rate",
    "--target :80 --rate x",
    "--target :80 --connections 0", "--target :80 --nonsense 1", "--target :80 --poisson=1", "--target a=:80,x",
    "--target :80 --mode trace --trace /nonexistent", "--target :80 --threads 100", "--target :80 --mode sse --churn",
    "extra",
  ]) func mistakesAreRefused(line: String) { #expect(throws: FlagProblem.self) { try parse(line) } }

  @Test func helpNamesEveryFlag() throws {
    #expect(try LoadOptions.table.parse(["--help"], into: LoadOptions()) == nil)
    for flag in LoadOptions.table.flags { #expect(LoadOptions.table.help.contains("--" + flag.name)) }
  }
}

@Suite struct TextTests {
  @Test func numbersHaveFixedDecimals() {
    #expect(
      fixed(3.14159, 2) == "3.14" && fixed(-0.004, 2) == "0.00" && fixed(12, 0) == "12" && fixed(0.05, 3) == "0.050")
    #expect(fixed(.nan, 2) == "-")
    #expect(quotedJson("a\"\\\n\u{1}") == "\"a\\\"\\\\\\n\\u0001\"")
  }

  @Test func spreadIsMinMedianMax() throws {
    let spread = try #require(Spread([3, 1, .nan, 2, 10]))
    #expect(spread.least == 1 && spread.median == 2.5 && spread.most == 10)
    #expect(Spread([]) == nil)
  }

  @Test func statusFieldsAreFound() {
    #expect(ProcessFigures.field("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS") == 1234)
    #expect(ProcessFigures.field("", "VmRSS") == 0)
    #expect((ProcessFigures.cpuNs(1) ?? 0) > 0 && ProcessFigures.cpuNs(Int32.max - 1) == nil)
  }
}
