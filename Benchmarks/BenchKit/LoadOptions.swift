// What sky-load is asked to do: its table of flags, and the requests that follow from them.

import Glibc
import ProxyCore

package enum LoadMode: String, Sendable, CaseIterable {
  /// Each connection sends its next request when the last one is answered.
  case closed
  /// Requests start at their times whatever the answers do; latency counts from those times.
  case open
  /// Each connection reads one stream of events after the other.
  case sse
  /// As open, with arrivals, prompts and lengths from a file, against /v1/completions.
  case trace
  /// Opens streams that stay silent after their first event, and reads the memory of the processes.
  case hold
}

package struct LoadTarget: Sendable {
  package var name: String
  package var address: SocketAddress
  package var pids: [Int32]
}

package struct LoadOptions: Sendable {
  package var targets: [LoadTarget] = []
  /// Other processes whose CPU time is told, such as the origin.
  package var others: [(name: String, pids: [Int32])] = []
  package var mode = LoadMode.closed
  package var connections = 64
  package var rate = 1000.0
  package var isPoisson = false
  package var path = "/?size=128"
  package var method = ""
  package var bodyBytes = 0
  package var fields: [String] = []
  package var events = 200
  package var eventBytes = 120
  package var intervalMs = 5.0
  package var staggerMs = 5.0
  package var firstMs = 0.0
  package var isChurn = false
  package var spread = 1
  package var abortPercent = 0.0
  package var abortAfter = 0
  package var seconds = 1.0
  package var warmup = 0.3
  package var rounds = 5
  package var threads = 1
  package var slowReaders = 0
  package var slowBytes = 1_048_576
  package var verifies = false
  package var timeout = 60.0
  package var tracePath = ""
  package var trace: [TraceRow] = []
  package var jsonPath = ""
  package var csvPath = ""
  package var label = ""
  package var quiet = false

  package init() {}

  static func pids(_ text: Substring) throws(FlagProblem) -> [Int32] {
    var result: [Int32] = []
    for part in text.split(whereSeparator: { $0 == "+" || $0 == "," }) {
      guard let pid = Int32(part), pid > 0 else { throw FlagProblem("'\(part)' is not a process id") }
      result.append(pid)
    }
    return result
  }

  package static var table: FlagTable<LoadOptions> {
    FlagTable(
      tool: "sky-load",
      purpose: "measures HTTP/1.1 servers on this machine: latency, CPU time per request or event, correctness",
      flags: [
        Flag(
          "target", "[NAME=]ADDR:PORT[,PID+PID]", "what to load, and whose CPU time to count; repeat it to alternate"
        ) {
          (options, text) throws(FlagProblem) in
          let named = text.split(separator: "=", maxSplits: 1)
          let rest = named.count == 2 ? named[1] : Substring(text)
          let parts = rest.split(separator: ",", maxSplits: 1)
          guard let place = parts.first else { throw FlagProblem("--target \(text): an address is missing") }
          options.targets.append(
            LoadTarget(
              name: named.count == 2 ? String(named[0]) : String(place), address: try loopback(String(place)),
              pids: parts.count == 2 ? try pids(parts[1]) : []))
        },
        Flag("also", "NAME=PID+PID", "tell the CPU time of other processes, such as the origin; repeatable") {
          (options, text) throws(FlagProblem) in
          let parts = text.split(separator: "=", maxSplits: 1)
          guard parts.count == 2 else { throw FlagProblem("--also \(text): write NAME=PID") }
          options.others.append((String(parts[0]), try pids(parts[1])))
        },
        Flag("mode", "MODE", "closed, open, sse, trace or hold (closed)") { (options, text) throws(FlagProblem) in
          guard let mode = LoadMode(rawValue: text) else {
            throw FlagProblem("--mode \(text): closed, open, sse, trace or hold")
          }
          options.mode = mode
        },
        .count("connections", 1...60000, \.connections, "connections, or streams; in open mode the most at once (64)"),
        .number("rate", "PER_S", 0.001...10_000_000, \.rate, "open: requests per second (1000)"),
        .on("poisson", \.isPoisson, "open: random gaps with that mean instead of even ones"),
        .text("path", "PATH", \.path, "request target (/?size=128)"),
        .text("method", "NAME", \.method, "method (GET, or POST with a body)"),
        .count("body-bytes", 0...64 << 20, \.bodyBytes, "bytes of the request body (0)"),
        Flag("field", "NAME: VALUE", "a further field of every request; repeatable") {
          (options, text) throws(FlagProblem) in
          guard text.contains(":") else { throw FlagProblem("--field \(text): write 'Name: value'") }
          options.fields.append(text)
        },
        .count("events", 1...10_000_000, \.events, "sse: events of each stream (200)"),
        .count(
          "event-bytes", EventFormat.bytesMin...AnswerSpec.eventBytesMax, \.eventBytes, "sse: bytes of an event (120)"),
        .number("interval-ms", "MS", 0...3_600_000, \.intervalMs, "sse: time between the events of a stream (5)"),
        .number("stagger-ms", "MS", 0...3_600_000, \.staggerMs, "sse: the streams begin evenly over this time (5)"),
        .number("first-ms", "MS", 0...600_000, \.firstMs, "sse: time to the first event (0)"),
        .on("churn", \.isChurn, "a new connection for every request"),
        .count(
          "spread", 1...250, \.spread, "use so many destination addresses, 127.0.0.1 and up (1; 200 with --churn)"),
        .number(
          "abort-percent", "P", 0...100, \.abortPercent, "so many of a hundred requests are left by the client (0)"),
        .count(
          "abort-after", 0...1_000_000, \.abortAfter, "they leave after so many events, or (0) once the request is sent"
        ),
        .number("seconds", "S", 0.05...3600, \.seconds, "measured time of a slice (1)"),
        .number("warmup", "S", 0...600, \.warmup, "time before it that does not count (0.3)"),
        .count("rounds", 1...1000, \.rounds, "slices for each target, in turns: A B, B A, … (5)"),
        .count("threads", 1...256, \.threads, "threads that share the connections (1)"),
        .count("slow-readers", 0...30000, \.slowReaders, "further clients that ask for much and never read (0)"),
        .count("slow-bytes", 1...1 << 30, \.slowBytes, "how much those ask for (1048576)"),
        .on("verify", \.verifies, "compare every body byte with the origin's pattern"),
        .number("timeout", "S", 1...3600, \.timeout, "hold, trace: give up after so long (60)"),
        .text("trace", "FILE", \.tracePath, "arrivals as CSV: timestamp_ms,prompt_bytes,output_events"),
        .text("json", "FILE", \.jsonPath, "write every slice as JSON"),
        .text("csv", "FILE", \.csvPath, "write every slice as CSV"),
        .text("label", "TEXT", \.label, "a name for this run in what is written"),
        .on("quiet", \.quiet, "print no table"),
      ],
      closing: "Only loopback addresses are accepted. The first target is what ratios compare with.")
  }

  /// Checks what flags cannot check alone and fills in what follows from them.
  package mutating func complete() throws(FlagProblem) {
    guard !targets.isEmpty else { throw FlagProblem("--target is missing; see --help") }
    if isChurn && spread == 1 { spread = 200 }
    if spread > 1 && targets.contains(where: { $0.address.family != AF_INET }) {
      throw FlagProblem("--spread and --churn need IPv4 targets that listen on all loopback addresses")
    }
    if mode == .trace {
      guard let bytes = readBytes(tracePath) else { throw FlagProblem("--trace \(tracePath): cannot be read") }
      do throws(TraceProblem) { trace = try Trace.parse(String(decoding: bytes, as: UTF8.self)) } catch {
        throw FlagProblem("\(tracePath):\(error.line): \(error.reason)")
      }
      guard !trace.isEmpty else { throw FlagProblem("--trace \(tracePath): no arrivals") }
    }
    guard connections >= threads else { throw FlagProblem("--threads \(threads): more than there are connections") }
    if (mode == .sse || mode == .hold) && isChurn { throw FlagProblem("--churn goes with closed and open mode only") }
  }

  package var isStreaming: Bool { mode == .sse || mode == .hold || mode == .trace }

  /// The target of requests: in sse mode with the description of the stream.
  package var target: String {
    switch mode {
    case .closed, .open: path
    case .sse: streamPath(events: events, intervalMs: intervalMs)
    case .hold: streamPath(events: 1_000_000, intervalMs: 3_600_000)
    case .trace: "/v1/completions"
    }
  }

  private func streamPath(events: Int, intervalMs: Double) -> String {
    let base = path.split(separator: "?").first.map(String.init) ?? "/"
    return base
      + "?events=\(events)&event_bytes=\(eventBytes)&interval_ms=\(fixed(intervalMs, 3))&first_ms=\(fixed(firstMs, 3))"
  }

  /// Head of every request that is not from a trace; fields as browsers and SDKs send them.
  package func head(target: String, bodyBytes: Int) -> String {
    let verb = !method.isEmpty ? method : bodyBytes > 0 ? "POST" : "GET"
    var text = "\(verb) \(target) HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: sky-load (X11; Linux x86_64)\r\n"
    text += "Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nX-Client: 0123456789abcdef\r\n"
    for field in fields { text += field + "\r\n" }
    if bodyBytes > 0 { text += "Content-Type: application/octet-stream\r\nContent-Length: \(bodyBytes)\r\n" }
    return text + "\r\n"
  }
}
