// A recorded or made-up list of arrivals: when each request came, how long its prompt was, how many events it produced.
//
//   timestamp_ms,prompt_bytes,output_events
//   0,1830,212
//   41.5,96,17

package struct TraceRow: Equatable, Sendable {
  package var atNs: UInt64
  package var promptBytes: Int
  package var outputEvents: Int
  package init(atNs: UInt64, promptBytes: Int, outputEvents: Int) {
    self.atNs = atNs
    self.promptBytes = promptBytes
    self.outputEvents = outputEvents
  }
}

package struct TraceProblem: Error, Equatable {
  package let line: Int
  package let reason: String
}

package enum Trace {
  package static let promptBytesMax = 16 << 20
  package static let outputEventsMax = 1_000_000

  /// Rows in the order of time. Empty lines and lines that start with # are skipped; a first line of names is allowed.
  package static func parse(_ text: String) throws(TraceProblem) -> [TraceRow] {
    var rows: [TraceRow] = []
    var number = 0
    for line in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline) {
      number += 1
      let trimmed = line.filter { $0 != " " && $0 != "\t" }
      if trimmed.isEmpty || trimmed.hasPrefix("#") { continue }
      if rows.isEmpty && trimmed == "timestamp_ms,prompt_bytes,output_events" { continue }
      let cells = trimmed.split(separator: ",", omittingEmptySubsequences: false)
      guard cells.count == 3 else {
        throw TraceProblem(line: number, reason: "three values are wanted: timestamp_ms,prompt_bytes,output_events")
      }
      guard let at = Double(cells[0]), at >= 0, at < 1e12 else {
        throw TraceProblem(line: number, reason: "timestamp_ms '\(cells[0])' is not a time in milliseconds")
      }
      guard let prompt = Int(cells[1]), (0...promptBytesMax).contains(prompt) else {
        throw TraceProblem(line: number, reason: "prompt_bytes '\(cells[1])' is not a size from 0 to \(promptBytesMax)")
      }
      guard let events = Int(cells[2]), (1...outputEventsMax).contains(events) else {
        throw TraceProblem(
          line: number, reason: "output_events '\(cells[2])' is not a number from 1 to \(outputEventsMax)")
      }
      let atNs = UInt64(at * 1_000_000)
      if let last = rows.last, atNs < last.atNs {
        throw TraceProblem(line: number, reason: "timestamps must not go back")
      }
      rows.append(TraceRow(atNs: atNs, promptBytes: prompt, outputEvents: events))
    }
    return rows
  }
}
