// How many requests per second arrive, from the counts the proxy reports.
//
// One number per second of the last minute, whatever the traffic: memory does not grow with load, and what is older
// than the window drops out by time alone, also while no report comes.

package struct RequestRate: Hashable, Codable, Sendable {
  /// Seconds a request counts; SkyServe's window.
  package static let windowSeconds = 60

  private struct Second: Hashable, Codable, Sendable {
    var at: Int
    var count: Int
  }

  /// Ascending, at most one more than the window's seconds.
  private var seconds: [Second] = []

  package init() {}

  /// Requests that arrived at `now` (seconds since 1970). Late reports are taken in where they belong.
  package mutating func add(_ count: Int, at now: Double) {
    if count <= 0 { return }
    let at = Int(clamping: now.rounded(.down))
    let index = (seconds.lastIndex { $0.at <= at }).map { seconds[$0].at == at ? $0 : $0 + 1 } ?? 0
    if index < seconds.count, seconds[index].at == at {
      seconds[index].count += count
    } else {
      seconds.insert(Second(at: at, count: count), at: index)
    }
    let latest = seconds[seconds.count - 1].at
    seconds.removeAll { $0.at < latest - Self.windowSeconds }
  }

  /// Requests in the window that ends now.
  package func count(now: Double) -> Int {
    let oldest = Int(clamping: now.rounded(.down)) - Self.windowSeconds
    return seconds.reduce(0) { $1.at >= oldest && Double($1.at) <= now ? $0 + $1.count : $0 }
  }

  package func perSecond(now: Double) -> Double { Double(count(now: now)) / Double(Self.windowSeconds) }
}
