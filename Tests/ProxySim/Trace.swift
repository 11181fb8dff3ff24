// What happened, kept as plain records in a ring and made into text only when somebody wants to read it.

struct TraceEntry {
  var at: UInt64
  var text: StaticString
  var a: Int
  var b: Int
  var c: Int

  var line: String {
    let micros = at / 1000
    let fraction = String(micros % 1_000_000)
    let padded = String(repeating: "0", count: 6 - fraction.count) + fraction
    return "  \(micros / 1_000_000).\(padded)s \(text) \(a) \(b) \(c)"
  }
}

struct Trace {
  private static let room = 512
  private var entries: [TraceEntry] = []
  private var next = 0
  /// Print each entry as it happens.
  var verbose = false

  mutating func add(_ at: UInt64, _ text: StaticString, _ a: Int, _ b: Int, _ c: Int) {
    let entry = TraceEntry(at: at, text: text, a: a, b: b, c: c)
    if verbose { print(entry.line) }
    if entries.count < Trace.room {
      entries.append(entry)
    } else {
      entries[next] = entry
    }
    next = (next + 1) % Trace.room
  }

  /// The last `count` entries, oldest first.
  func tail(_ count: Int) -> [String] {
    let start = entries.count < Trace.room ? 0 : next
    let ordered = (0..<entries.count).map { entries[(start + $0) % entries.count] }
    return ordered.suffix(count).map(\.line)
  }
}
