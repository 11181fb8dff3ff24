// The lines of GET /v1/reports (NDJSON): one `interval` line per report interval, and event lines at once.
//
// The proxy encodes, the controller decodes. The decoder steps over fields it does not know and turns a line of a type
// it does not know into `.unknown`, so that either side may be the newer one.

package enum Report: Equatable, Sendable {
  case interval(IntervalReport)
  /// A draining replica's in-flight count when the drain began and when it reached 0: only then may it be stopped.
  case draining(id: String, generation: UInt64, inFlight: Int)
  /// Connections refused since the last such line: a hint to probe the replica now.
  case refused(id: String, generation: UInt64, count: UInt64)
  /// Taken out of the choice for a while, and back in it.
  case ejected(id: String, generation: UInt64, reason: String)
  case restored(id: String, generation: UInt64, reason: String)
  /// A snapshot is in force.
  case applied(version: UInt64)
  case unknown(type: String)
}

package struct IntervalReport: Equatable, Sendable {
  /// Milliseconds since 1970 at the interval's end.
  package var timeMs: UInt64
  /// The applied snapshot's version.
  package var version: UInt64
  package var intervalMs: UInt64
  /// Requests that arrived in the interval, whatever became of them. A subscriber's first line tells of those that came
  /// while there was none: of the last minute.
  package var arrivals: UInt64
  /// Requests answered 503 by the proxy itself in the interval: no replica, or the queue full or too slow.
  package var shed: UInt64
  /// Requests that wait for a replica now.
  package var waiting: Int
  package var replicas: [ReplicaReport]

  package init(
    timeMs: UInt64, version: UInt64, intervalMs: UInt64, arrivals: UInt64, shed: UInt64 = 0, waiting: Int = 0,
    replicas: [ReplicaReport] = []
  ) {
    self.timeMs = timeMs
    self.version = version
    self.intervalMs = intervalMs
    self.arrivals = arrivals
    self.shed = shed
    self.waiting = waiting
    self.replicas = replicas
  }
}

package struct ReplicaReport: Equatable, Sendable {
  package var id: String
  package var generation: UInt64
  package var inFlight: Int
  package var ejected: Bool
  package var counters: ReplicaCounters

  package init(
    id: String, generation: UInt64, inFlight: Int, ejected: Bool = false, counters: ReplicaCounters = .init()
  ) {
    self.id = id
    self.generation = generation
    self.inFlight = inFlight
    self.ejected = ejected
    self.counters = counters
  }
}

// MARK: - Encoding

extension Report {
  /// The line with its newline.
  package func encode() -> [UInt8] {
    var writer = JsonWriter()
    write(to: &writer)
    return writer.take()
  }

  /// Appends the line with its newline.
  package func write(to writer: inout JsonWriter) {
    writer.beginObject()
    switch self {
    case .interval(let report):
      writer.member("type", "interval")
      writer.member("t_ms", report.timeMs)
      writer.member("version", report.version)
      writer.member("interval_ms", report.intervalMs)
      writer.member("arrivals", report.arrivals)
      writer.member("shed", report.shed)
      writer.member("waiting", report.waiting)
      writer.key("replicas")
      writer.beginArray()
      for replica in report.replicas {
        writer.beginObject()
        writer.member("id", replica.id)
        writer.member("generation", replica.generation)
        writer.member("in_flight", replica.inFlight)
        writer.member("ejected", replica.ejected)
        replica.counters.write(to: &writer)
        writer.endObject()
      }
      writer.endArray()
    case .draining(let id, let generation, let inFlight):
      Self.begin("draining", id, generation, &writer)
      writer.member("in_flight", inFlight)
    case .refused(let id, let generation, let count):
      Self.begin("refused", id, generation, &writer)
      writer.member("count", count)
    case .ejected(let id, let generation, let reason):
      Self.begin("ejected", id, generation, &writer)
      writer.member("reason", reason)
    case .restored(let id, let generation, let reason):
      Self.begin("restored", id, generation, &writer)
      writer.member("reason", reason)
    case .applied(let version):
      writer.member("type", "applied")
      writer.member("version", version)
    case .unknown(let type):
      writer.member("type", type)
    }
    writer.endObject()
    writer.newline()
  }

  private static func begin(_ type: String, _ id: String, _ generation: UInt64, _ writer: inout JsonWriter) {
    writer.member("type", type)
    writer.member("id", id)
    writer.member("generation", generation)
  }
}

// MARK: - Decoding

extension Report {
  /// Reads one line, with or without its newline.
  package static func decode(_ bytes: [UInt8]) throws(JsonError) -> Report {
    try decode(bytes, in: 0..<bytes.count)
  }

  package static func decode(_ bytes: [UInt8], in range: Range<Int>) throws(JsonError) -> Report {
    let document = try Json.parse(bytes, in: range)
    do throws(FieldProblem) {
      return try Report(document)
    } catch {
      throw error.error(in: bytes, start: range.lowerBound)
    }
  }

  private init(_ document: JsonValue) throws(FieldProblem) {
    _ = try document.members("", "an object")
    func required(_ name: String) throws(FieldProblem) -> JsonValue {
      guard let value = document[name] else { throw FieldProblem("", document, "the field '\(name)' is missing") }
      return value
    }
    // An id is all a line needs to be understood; older proxies may leave the generation out.
    func id() throws(FieldProblem) -> String { try required("id").text("id") }
    func generation() throws(FieldProblem) -> UInt64 { try document["generation"]?.unsigned("generation") ?? 0 }
    func reason() throws(FieldProblem) -> String { try document["reason"]?.text("reason") ?? "" }

    switch try required("type").text("type") {
    case "interval": self = .interval(try IntervalReport(document))
    case "draining":
      let inFlight = try required("in_flight").count("in_flight")
      self = .draining(id: try id(), generation: try generation(), inFlight: inFlight)
    case "refused":
      let count = try required("count").unsigned("count")
      self = .refused(id: try id(), generation: try generation(), count: count)
    case "ejected": self = .ejected(id: try id(), generation: try generation(), reason: try reason())
    case "restored": self = .restored(id: try id(), generation: try generation(), reason: try reason())
    case "applied": self = .applied(version: try required("version").unsigned("version"))
    case let type: self = .unknown(type: type)
    }
  }
}

extension IntervalReport {
  fileprivate init(_ document: JsonValue) throws(FieldProblem) {
    self.init(timeMs: 0, version: 0, intervalMs: 0, arrivals: 0)
    for member in try document.members("", "an object") {
      let value = member.value
      switch member.key {
      case "t_ms": timeMs = try value.unsigned("t_ms")
      case "version": version = try value.unsigned("version")
      case "interval_ms": intervalMs = try value.unsigned("interval_ms")
      case "arrivals": arrivals = try value.unsigned("arrivals")
      case "shed": shed = try value.unsigned("shed")
      case "waiting": waiting = try value.count("waiting")
      case "replicas":
        for (index, element) in try value.elements("replicas").enumerated() {
          do throws(FieldProblem) { replicas.append(try ReplicaReport(element)) } catch {
            throw error.inside("replicas[\(index)]")
          }
        }
      default: continue
      }
    }
  }
}

extension ReplicaReport {
  fileprivate init(_ object: JsonValue) throws(FieldProblem) {
    self.init(id: "", generation: 0, inFlight: 0)
    for member in try object.members("", "an object") {
      let value = member.value
      switch member.key {
      case "id": id = try value.text("id")
      case "generation": generation = try value.unsigned("generation")
      case "in_flight": inFlight = try value.count("in_flight")
      case "ejected": ejected = try value.flag("ejected")
      default: _ = try counters.take(member)
      }
    }
    if id.isEmpty { throw FieldProblem("", object, "the field 'id' is missing") }
  }
}

// MARK: - A stream of lines

/// Cuts the bytes of a report stream, as they come, into reports.
package struct ReportReader: Sendable {
  /// A line of 16,384 replicas has about 5 MB.
  package static let lineBytesMax = 64 << 20
  private var pending: [UInt8] = []
  /// Bytes of `pending` that are known to hold no newline.
  private var searched = 0

  package init() {}

  /// The reports that `bytes` completes. After an error the stream is of no more use.
  package mutating func feed(_ bytes: some Sequence<UInt8>) throws(JsonError) -> [Report] {
    pending.append(contentsOf: bytes)
    var reports: [Report] = []
    var lineStart = 0
    while let end = pending[searched...].firstIndex(of: UInt8(ascii: "\n")) {
      // An empty line keeps the connection alive and says nothing.
      if pending[lineStart..<end].contains(where: { $0 != UInt8(ascii: "\r") }) {
        reports.append(try Report.decode(pending, in: lineStart..<end))
      }
      lineStart = end + 1
      searched = lineStart
    }
    pending.removeSubrange(0..<lineStart)
    searched = pending.count
    if pending.count > Self.lineBytesMax {
      throw JsonError(line: 1, column: 1, reason: "a line of more than \(Self.lineBytesMax) bytes")
    }
    return reports
  }
}
