// The tools together, as processes on free ports of this machine.

import Foundation
import TestSupport
import Testing

/// A started tool. It is ended when it goes out of use.
private final class Tool {
  private let process: ChildProcess

  init(_ name: String, _ arguments: [String]) throws {
    process = try ChildProcess(Places.program(name), arguments)
  }

  func port() throws -> UInt16 {
    let line = try process.line { $0.hasPrefix("listening address=") }
    return try #require(line.split(separator: ":").last.flatMap { UInt16($0) })
  }

  func end() { process.end() }

  static func run(_ name: String, _ arguments: [String]) throws -> Outcome {
    try TestSupport.run(Places.program(name), arguments)
  }

  /// The first slice of a short load.
  static func load(_ port: UInt16, _ flags: String) throws -> [String: Any] {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("load-\(UUID().uuidString).json")
    defer { try? FileManager.default.removeItem(at: file) }
    var arguments = [
      "--target", "127.0.0.1:\(port)", "--rounds", "1", "--seconds", "0.5", "--warmup", "0.05", "--quiet",
    ]
    arguments += flags.split(separator: " ").map(String.init) + ["--json", file.path]
    let outcome = try run("sky-load", arguments)
    guard let data = try? Data(contentsOf: file) else { throw TestFailure("\(flags): \(outcome)") }
    let whole = try JSONSerialization.jsonObject(with: data) as? [String: Any]
    return try #require((whole?["slices"] as? [[String: Any]])?.first)
  }
}

private func expectSound(_ slice: [String: Any], counting: String, sourceLocation: SourceLocation = #_sourceLocation) {
  for problem in ["errors", "refused", "lost", "reordered", "corrupted"] {
    #expect(slice[problem] as? Int == 0, "\(problem)", sourceLocation: sourceLocation)
  }
  #expect((slice[counting] as? Int ?? 0) > 0, sourceLocation: sourceLocation)
}

@Suite(.serialized) struct SmokeTests {
  private static let loads: [(flags: String, counts: String)] = [
    ("--connections 8 --verify", "requests"),
    ("--connections 4 --verify --path /?size=200000&framing=chunked&chunk=777", "requests"),
    ("--connections 4 --verify --path /?size=70000&framing=close", "requests"),
    ("--connections 2 --body-bytes 300000", "requests"),
    ("--connections 4 --churn", "requests"),
    ("--connections 8 --mode open --rate 500 --poisson", "requests"),
    ("--connections 10 --mode sse --events 10 --interval-ms 1", "events"),
    ("--connections 10 --mode sse --events 20 --interval-ms 2 --abort-percent 50 --abort-after 3", "events"),
    ("--connections 30 --mode hold --timeout 10", "held"),
    ("--connections 4 --slow-readers 5 --threads 2", "requests"),
  ]

  @Test func originAnswersTheLoadGenerator() throws {
    let origin = try Tool("sky-origin", ["--listen", ":0"])
    defer { origin.end() }
    let port = try origin.port()
    for load in Self.loads { expectSound(try Tool.load(port, load.flags), counting: load.counts) }
  }

  @Test func floorPassesEverythingOn() throws {
    let origin = try Tool("sky-origin", ["--listen", "127.0.0.1:0"])
    defer { origin.end() }
    let floor = try Tool("sky-floor", ["--listen", ":0", "--replica", "127.0.0.1:\(try origin.port())"])
    defer { floor.end() }
    let port = try floor.port()
    for load in Self.loads where !load.flags.contains("framing=close") {
      expectSound(try Tool.load(port, load.flags), counting: load.counts)
    }
  }

  @Test func tracesAreReplayedAgainstTheModel() throws {
    let trace = FileManager.default.temporaryDirectory.appendingPathComponent("trace-\(UUID().uuidString).csv")
    defer { try? FileManager.default.removeItem(at: trace) }
    try "timestamp_ms,prompt_bytes,output_events\n0,100,5\n5,40000,3\n6,10,20\n".write(
      to: trace, atomically: true, encoding: .utf8)
    let origin = try Tool(
      "sky-origin", ["--listen", "127.0.0.1:0", "--slots", "1", "--prefill-ms", "5", "--token-ms", "1"])
    defer { origin.end() }
    let slice = try Tool.load(try origin.port(), "--mode trace --trace \(trace.path) --connections 4")
    expectSound(slice, counting: "requests")
    #expect(slice["requests"] as? Int == 3 && slice["events"] as? Int == 28)
    // One slot: the last one has waited for the others' prefill and tokens.
    let latency = try #require((slice["latency_us"] as? [String: Any])?["max"] as? Double)
    #expect(latency > 5000 * 3)
  }

  @Test(arguments: [
    ("cut=10", "errors"), ("size=1000&framing=chunked&cut=10", "errors"), ("cut=10&cut_how=rst", "errors"),
    ("status=503", "refused"),
    ("nonsense=1", "refused"),
  ]) func failuresAreSeen(query: String, counted: String) throws {
    let origin = try Tool("sky-origin", ["--listen", "127.0.0.1:0"])
    defer { origin.end() }
    #expect((try Tool.load(try origin.port(), "--connections 2 --path /?\(query)")[counted] as? Int ?? 0) > 0)
  }

  @Test func microBenchmarksRun() throws {
    let result = try Tool.run("sky-micro", ["--tiny"])
    #expect(result.exit == .code(0))
    for name in ["parse request head", "rewrite request head", "10000 replicas", "deadline", "histogram"] {
      #expect(result.output.contains(name), "\(name)")
    }
  }

  @Test func toolsExplainThemselves() throws {
    for tool in ["sky-load", "sky-origin", "sky-floor", "sky-micro"] {
      let help = try Tool.run(tool, ["--help"])
      #expect(help.exit == .code(0) && help.output.contains("--"))
      #expect(try Tool.run(tool, ["--no-such-flag"]).exit == .code(2))
    }
  }
}
