// `--fleet`: what a hundred services of twenty replicas cost one controller, and what a week leaves in its memory.

import ControlCore
import ControlSim
import Foundation
import SkyCLI

enum FleetFigures {
  /// Seconds that a pass and `status` may take.
  private static let most = 0.05
  private static let rounds = 21
  /// KiB that memory may differ between two stretches of the same life.
  private static let growthMax = 4096

  static func run(_ options: Options, folder: String) throws -> Never {
    let fleet = Fleet(
      services: options.services, replicas: options.replicas, slowness: options.slowness, folder: folder)
    try fleet.start()
    fleet.up()
    let first = fleet.longestStep { fleet.run(for: 120) }
    let all = options.services * options.replicas
    guard fleet.ready == all else { fail("\(fleet.ready) of \(all) replicas are ready after two minutes") }
    print("\(options.services) services, \(options.replicas) replicas each")
    if let hours = options.hours { week(fleet, hours) }
    var slow: [String] = []
    func show(_ what: String, _ seconds: Double, isBounded: Bool = true) {
      print("  \(what.padding(toLength: 52, withPad: " ", startingAt: 0)) \(milliseconds(seconds)) ms")
      if isBounded, seconds > most { slow.append(what) }
    }
    let passes = (0..<rounds).map { _ in fleet.pass() }
    show("a pass over all services, median", median(passes.map(\.all)))
    show("the slowest look at one service", passes.map(\.slowest).max() ?? 0)
    show("the longest step while all come up", first)
    let again = try fleet.longestStep {
      try fleet.restart()
      fleet.run(for: 60)
    }
    show("the longest step after a restart", again, isBounded: false)
    let replies = (0..<rounds).map { _ in timed { _ = fleet.status() } }
    show("status: the report, median", median(replies))
    let reply = fleet.status()
    show("status: as JSON, median", median((0..<rounds).map { _ in timed { _ = ApiCodec.encode(reply) } }))
    let data = ApiCodec.encode(reply)
    show(
      "status: read from JSON by sky, median",
      median((0..<rounds).map { _ in timed { _ = try? ApiCodec.decode(StatusReply.self, from: data) } }))
    let terminal = Terminal(width: 200, writing: { _, _ in }, asking: { _ in .end })
    for isVerbose in [false, true] {
      let times = (0..<rounds).map { _ in
        timed { _ = StatusTables.text(reply.services, verbose: isVerbose, now: fleet.now, on: terminal) }
      }
      show("status: the tables\(isVerbose ? " with -v" : ""), median", median(times))
    }
    if !slow.isEmpty { fail("more than \(milliseconds(most)) ms: \(slow.joined(separator: "; "))") }
    exit(0)
  }

  private static func week(_ fleet: Fleet, _ hours: Int) -> Never {
    fleet.beginLife()
    print("  hour  resident KiB  ready  records  jobs")
    var sizes: [Int] = []
    let samples = 24
    for sample in 0...samples {
      if sample > 0 {
        let end = Double(hours) * 3600 * Double(sample) / Double(samples)
        var updates = 0
        while fleet.now - 1_700_000_000 < end {
          fleet.run(for: 600)
          updates += 1
          fleet.someUpdate(sample * 1000 + updates)
        }
      }
      _ = ApiCodec.encode(fleet.status())
      let size = residentKiB
      sizes.append(size)
      let records = fleet.state.services.values.reduce(0) { $0 + $1.replicas.count }
      print(
        [hours * sample / samples, size, fleet.ready, records, fleet.jobs]
          .map { String($0) }.enumerated().map { pad($1, [6, 14, 7, 9, 12][$0]) }.joined())
      fflush(nil)
    }
    // The first third fills windows, histories and the allocator's pools.
    let early = sizes[(samples / 3)..<(2 * samples / 3)].max() ?? 0
    let late = sizes[(2 * samples / 3)...].max() ?? 0
    print("  \(late - early) KiB between the middle and the last third")
    if late - early > growthMax { fail("memory grows") }
    exit(0)
  }

  private static func timed(_ body: () -> Void) -> Double {
    let begun = Scheduler.realSeconds
    body()
    return Scheduler.realSeconds - begun
  }

  private static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

  private static func milliseconds(_ seconds: Double) -> String { String(format: "%.2f", seconds * 1000) }

  private static func pad(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }

  private static var residentKiB: Int {
    let text = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
    let line = text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
    return line.flatMap { Int($0.split(separator: " ")[1]) } ?? 0
  }

  private static func fail(_ text: String) -> Never {
    print("FAILED: \(text)")
    exit(1)
  }
}
