// What was measured, as text, JSON and CSV.

import BenchKit
import Glibc

struct SliceResult {
  var target: String
  var round: Int
  var seconds: Double
  var tally: Tally
  /// Nanoseconds: of the target's processes, of the others by name, of the generator itself.
  var cpuNs: UInt64
  var othersNs: [(name: String, ns: UInt64)]
  var selfNs: UInt64
  var residentBeforeKiB: Int
  var residentKiB: Int

  var counts: Counts { tally.counts.pointee }
  var cpuUs: Double { Double(cpuNs) / 1000 }
  var megabytes: Double { Double(counts.bytesIn + counts.bytesOut) / 1_048_576 }
  func per(_ unit: Unit) -> Double {
    switch unit {
    case .request: cpuUs / Double(max(1, counts.requests))
    case .event: cpuUs / Double(max(1, counts.events))
    case .megabyte: cpuUs / max(0.000_001, megabytes)
    case .stream: Double((residentKiB - residentBeforeKiB) * 1024) / Double(max(1, counts.held))
    }
  }
}

/// What a run's main figure is divided by.
enum Unit: String {
  case request, event, megabyte, stream

  static func of(_ options: LoadOptions, _ results: [SliceResult]) -> Unit {
    switch options.mode {
    case .hold: .stream
    case .sse, .trace: .event
    case .closed, .open:
      results.contains { $0.counts.requests > 0 && $0.megabytes / Double($0.counts.requests) > 0.25 }
        ? .megabyte : .request
    }
  }

  var figure: String {
    switch self {
    case .request: "CPU µs/request"
    case .event: "CPU µs/event"
    case .megabyte: "CPU µs/MB"
    case .stream: "bytes/stream"
    }
  }
}

struct Report {
  let options: LoadOptions
  let results: [SliceResult]

  private func of(_ name: String) -> [SliceResult] { results.filter { $0.target == name } }

  /// One row for each target; the ratio is the median over rounds of its figure to the first target's.
  func table() -> String {
    let unit = Unit.of(options, results)
    let names = options.targets.map(\.name)
    let width = max(12, (names.map(\.count).max() ?? 0) + 2)
    var head = left("target", width) + right(unit.figure, 18) + right("[min .. max]", 22) + right("ratio", 8)
    head += right("req/s", 11) + right(options.isStreaming ? "event p50" : "p50 µs", 11)
    head += right("p90", 10) + right("p99", 10) + right("p99.9", 10) + right("max", 10) + "  problems\n"
    var text = head
    for name in names {
      let rounds = of(name)
      guard let spread = Spread(rounds.map { $0.per(unit) }) else { continue }
      let first = of(names[0])
      let ratio = Spread(zip(rounds, first).map { $0.per(unit) / $1.per(unit) })?.median ?? .nan
      func median(_ value: (SliceResult) -> Double) -> Double { Spread(rounds.map(value))?.median ?? 0 }
      func us(_ q: Double) -> String {
        fixed(median { Double((options.isStreaming ? $0.tally.event : $0.tally.latency).quantile(q)) / 1000 }, 1)
      }
      text += left(name, width) + right(fixed(spread.median, 2), 18)
      text += right("[\(fixed(spread.least, 2)) .. \(fixed(spread.most, 2))]", 22) + right(fixed(ratio, 3), 8)
      text += right(fixed(median { Double($0.counts.requests) / $0.seconds }, 0), 11)
      text += right(us(0.5), 11) + right(us(0.9), 10) + right(us(0.99), 10) + right(us(0.999), 10) + right(us(1), 10)
      text += "  " + problems(rounds) + "\n"
    }
    return text
  }

  private func problems(_ rounds: [SliceResult]) -> String {
    var sum = Counts()
    for round in rounds { sum.add(round.counts) }
    let parts = [
      ("errors", sum.errors), ("not 2xx", sum.refused), ("lost", sum.lost), ("reordered", sum.reordered),
      ("corrupted", sum.corrupted), ("unfinished", sum.unfinished), ("aborted", sum.aborted),
    ]
    let text = parts.filter { $0.1 > 0 }.map { "\($0.0) \($0.1)" }.joined(separator: ", ")
    return text.isEmpty ? "none" : text
  }

  func json() -> String {
    let unit = Unit.of(options, results)
    var text = "{\"tool\":\"sky-load\",\"label\":\(quotedJson(options.label)),\"mode\":\"\(options.mode.rawValue)\""
    text +=
      ",\"connections\":\(options.connections),\"threads\":\(options.threads),\"target\":\(quotedJson(options.target))"
    text += ",\"body_bytes\":\(options.bodyBytes),\"churn\":\(options.isChurn),\"slow_readers\":\(options.slowReaders)"
    if options.mode == .open { text += ",\"rate\":\(fixed(options.rate, 3)),\"poisson\":\(options.isPoisson)" }
    text +=
      ",\"seconds\":\(fixed(options.seconds, 3)),\"warmup\":\(fixed(options.warmup, 3)),\"rounds\":\(options.rounds)"
    text += ",\"unit\":\"\(unit.rawValue)\",\"slices\":[\n"
    text += results.map { slice($0, unit) }.joined(separator: ",\n")
    return text + "\n]}\n"
  }

  private func slice(_ result: SliceResult, _ unit: Unit) -> String {
    var text =
      "{\"name\":\(quotedJson(result.target)),\"round\":\(result.round),\"seconds\":\(fixed(result.seconds, 6))"
    text +=
      ",\(result.counts.json),\"cpu_us\":\(fixed(result.cpuUs, 1))"
    text += ",\"load_cpu_us\":\(fixed(Double(result.selfNs) / 1000, 1))"
    for other in result.othersNs {
      text += ",\(quotedJson(other.name + "_cpu_us")):\(fixed(Double(other.ns) / 1000, 1))"
    }
    text +=
      ",\"figure\":\(fixed(result.per(unit), 4))"
    text += ",\"rss_before_kib\":\(result.residentBeforeKiB),\"rss_kib\":\(result.residentKiB)"
    text += ",\"latency_us\":\(result.tally.latency.json)"
    if options.isStreaming {
      text += ",\"first_event_us\":\(result.tally.first.json),\"gap_us\":\(result.tally.gap.json)"
      text += ",\"event_us\":\(result.tally.event.json)"
    }
    return text + "}"
  }

  func csv() -> String {
    let unit = Unit.of(options, results)
    var text =
      "label,mode,connections,target,round,seconds,requests,errors,not_2xx,events,lost,reordered,corrupted,unfinished,"
    text += "bytes_in,bytes_out,cpu_us,figure,unit,p50_us,p90_us,p99_us,p999_us,max_us,rss_kib\n"
    for r in results {
      let latency = options.isStreaming ? r.tally.event : r.tally.latency
      let c = r.counts
      var cells = [
        options.label.filter { $0 != "," }, options.mode.rawValue, "\(options.connections)", r.target, "\(r.round)",
      ]
      cells.append(fixed(r.seconds, 6))
      for value in [
        c.requests, c.errors, c.refused, c.events, c.lost, c.reordered, c.corrupted, c.unfinished, c.bytesIn,
        c.bytesOut,
      ] {
        cells.append("\(value)")
      }
      cells += [fixed(r.cpuUs, 1), fixed(r.per(unit), 4), unit.rawValue]
      for q in [0.5, 0.9, 0.99, 0.999, 1] { cells.append(fixed(Double(latency.quantile(q)) / 1000, 2)) }
      cells.append("\(r.residentKiB)")
      text += cells.joined(separator: ",") + "\n"
    }
    return text
  }
}
