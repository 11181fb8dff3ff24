// The tools together, as processes on free ports of this machine.

import Foundation
import Testing

/// A started tool, ended by its process id when the test is over.
private final class Tool {
  let process = Process()
  private let errors = Pipe()

  init(_ name: String, _ arguments: [String]) throws {
    process.executableURL = Tool.place(name)
    process.arguments = arguments
    process.standardError = errors
    process.standardOutput = FileHandle.nullDevice
    try process.run()
  }

  static func place(_ name: String) -> URL {
    URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().appendingPathComponent(name)
  }

  /// The port after `listening address=`, which the tools print once they listen.
  func port() throws -> UInt16 {
    var text = ""
    while let line = String(data: errors.fileHandleForReading.availableData, encoding: .utf8), !line.isEmpty {
      text += line
      if let found = text.range(of: "listening address="), text[found.upperBound...].contains("\n") {
        let address = text[found.upperBound...].prefix { $0 != "\n" }
        return try #require(address.split(separator: ":").last.flatMap { UInt16($0) })
      }
    }
    throw CocoaError(.fileReadUnknown, userInfo: ["said": text])
  }

  func end() {
    process.terminate()
    process.waitUntilExit()
  }

  /// Runs a tool to its end: its status and what it printed.
  static func run(_ name: String, _ arguments: [String]) throws -> (status: Int32, output: String) {
    let process = Process()
    let output = Pipe()
    process.executableURL = place(name)
    process.arguments = arguments
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
  }

  /// The first slice of a short load.
  static func load(_ port: UInt16, _ flags: String) throws -> [String: Any] {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("load-\(UUID().uuidString).json")
    defer { try? FileManager.default.removeItem(at: file) }
    var arguments = ["--target", "127.0.0.1:\(port)", "--rounds", "1", "--seconds", "0.2", "--warmup", "0.05", "--quiet"]
    arguments += flags.split(separator: " ").map(String.init) + ["--json", file.path]
    _ = try run("sky-load", arguments)
    let whole = try JSONSerialization.jsonObject(with: Data(contentsOf: file)) as? [String: Any]
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
    try "timestamp_ms,prompt_bytes,output_events\n0,100,5\n5,40000,3\n6,10,20\n".write(to: trace, atomically: true, encoding: .utf8)
    let origin = try Tool("sky-origin", ["--listen", "127.0.0.1:0", "--slots", "1", "--prefill-ms", "5", "--token-ms", "1"])
    defer { origin.end() }
    let slice = try Tool.load(try origin.port(), "--mode trace --trace \(trace.path) --connections 4")
    expectSound(slice, counting: "requests")
    #expect(slice["requests"] as? Int == 3 && slice["events"] as? Int == 28)
    // One slot: the last one has waited for the others' prefill and tokens.
    let latency = try #require((slice["latency_us"] as? [String: Any])?["max"] as? Double)
    #expect(latency > 5000 * 3)
  }

  @Test(arguments: [
    ("cut=10", "errors"), ("size=1000&framing=chunked&cut=10", "errors"), ("cut=10&cut_how=rst", "errors"), ("status=503", "refused"),
    ("nonsense=1", "refused"),
  ]) func failuresAreSeen(query: String, counted: String) throws {
    let origin = try Tool("sky-origin", ["--listen", "127.0.0.1:0"])
    defer { origin.end() }
    #expect((try Tool.load(try origin.port(), "--connections 2 --path /?\(query)")[counted] as? Int ?? 0) > 0)
  }

  @Test func microBenchmarksRun() throws {
    let result = try Tool.run("sky-micro", ["--tiny"])
    #expect(result.status == 0)
    for name in ["parse request head", "rewrite request head", "10000 replicas", "deadline", "histogram"] {
      #expect(result.output.contains(name), "\(name)")
    }
  }

  @Test func toolsExplainThemselves() throws {
    for tool in ["sky-load", "sky-origin", "sky-floor", "sky-micro"] {
      let help = try Tool.run(tool, ["--help"])
      #expect(help.status == 0 && help.output.contains("--"))
      #expect(try Tool.run(tool, ["--no-such-flag"]).status == 2)
    }
  }
}
