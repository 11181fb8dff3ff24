// Report lines: written, read back, and cut anywhere on their way.

import Testing

@testable import ProxyWire

@Suite struct ReportTests {
  /// Every counter has a value of its own, so that none can be taken for another.
  private static let counters: ReplicaCounters = {
    var counters = ReplicaCounters()
    counters.requests = 1
    counters.responses2xx = 2
    counters.responses3xx = 3
    counters.responses4xx = 4
    counters.responses5xx = 5
    counters.failures = 6
    counters.connectFailures = 7
    counters.broken = 8
    counters.clientGone = 9
    counters.connects = 10
    counters.bytesSent = 11
    counters.bytesReceived = .max
    return counters
  }()

  static let interval = Report.interval(
    IntervalReport(
      timeMs: 1_700_000_000_123, version: 7, intervalMs: 1000, arrivals: 42, shed: 1, waiting: 2,
      replicas: [
        ReplicaReport(id: "a", generation: 1, inFlight: 3, ejected: true, counters: counters),
        ReplicaReport(id: "b", generation: 2, inFlight: 0),
      ]))

  private static let all: [Report] = [
    interval, .interval(IntervalReport(timeMs: 0, version: 0, intervalMs: 1, arrivals: 0)),
    .draining(id: "7", generation: 2, inFlight: 0), .refused(id: "3", generation: 1, count: 17),
    .ejected(id: "3", generation: 1, reason: "3 failures in a row"),
    .restored(id: "3", generation: 1, reason: "250ms passed"), .applied(version: .max), .unknown(type: "later"),
  ]

  @Test(arguments: all) func comesBackTheSame(_ report: Report) throws {
    let line = report.encode()
    #expect(line.last == UInt8(ascii: "\n"))
    #expect(line.filter { $0 == UInt8(ascii: "\n") }.count == 1)
    #expect(try Report.decode(line) == report)
  }

  @Test func looksAsDocumented() {
    let text = { (report: Report) in String(decoding: report.encode(), as: UTF8.self) }
    #expect(
      text(.draining(id: "7", generation: 2, inFlight: 0))
        == #"{"type":"draining","id":"7","generation":2,"in_flight":0}"# + "\n")
    #expect(text(.applied(version: 9)) == #"{"type":"applied","version":9}"# + "\n")
    #expect(
      text(.interval(IntervalReport(timeMs: 5, version: 1, intervalMs: 1000, arrivals: 3)))
        == #"{"type":"interval","t_ms":5,"version":1,"interval_ms":1000,"arrivals":3,"shed":0,"waiting":0,"replicas":[]}"#
        + "\n")
  }

  @Test func readsWhatANewerProxyAdds() throws {
    let read = { (text: String) in try Report.decode(Array(text.utf8)) }
    #expect(
      try read(#"{"x":{},"type":"draining","id":"7","in_flight":1}"#) == .draining(id: "7", generation: 0, inFlight: 1))
    #expect(try read(#"{"type":"sparkle","id":7}"#) == .unknown(type: "sparkle"))
    guard
      case .interval(let report) = try read(
        #"{"type":"interval","t_ms":1,"arrivals":2,"load":0.5,"replicas":[{"id":"a","new":null,"requests":3}]}"#)
    else {
      Issue.record("not an interval")
      return
    }
    #expect(report.arrivals == 2)
    #expect(report.replicas.map(\.counters.requests) == [3])
  }

  @Test(arguments: [
    ("{}", "'type' is missing"), ("7", "expected an object"), (#"{"type":"applied"}"#, "'version' is missing"),
    (#"{"type":"draining","id":"7"}"#, "'in_flight' is missing"), (#"{"type":"refused","count":1}"#, "'id' is missing"),
    (#"{"type":"interval","replicas":[{"requests":-1}]}"#, "replicas[0].requests: -1 is below 0"),
    (#"{"type":"interval","replicas":[{}]}"#, "replicas[0]: the field 'id' is missing"),
  ])
  func refuses(_ text: String, _ reason: String) {
    do {
      _ = try Report.decode(Array(text.utf8))
      Issue.record("\(text) was read")
    } catch {
      #expect(error.description.contains(reason), "\(error)")
    }
  }

  /// However the bytes are cut, the same reports come out.
  @Test func readerStandsEverySplit() throws {
    let stream = Self.all.flatMap { $0.encode() } + Array("\n\r\n".utf8) + Report.applied(version: 1).encode()
    let expected = Self.all + [.applied(version: 1)]
    for split in 0...stream.count {
      var reader = ReportReader()
      var reports = try reader.feed(stream[..<split])
      reports += try reader.feed(stream[split...])
      #expect(reports == expected)
    }
    var reader = ReportReader()
    var reports: [Report] = []
    for byte in stream { reports += try reader.feed(CollectionOfOne(byte)) }
    #expect(reports == expected)
  }

  @Test func readerNamesAWrongLine() {
    var reader = ReportReader()
    #expect(throws: JsonError.self) { try reader.feed(Array("{\"type\":\"applied\",\"version\":1}\n{oops}\n".utf8)) }
  }
}
