// Which services to look at, and not before when. A name is in it once, with its earliest time; the Controller takes
// one at a time, so no two passes over one service ever overlap.

struct WorkQueue {
  private var times: [String: Double] = [:]

  /// The time when there is something to do; nil: nothing is waiting.
  var earliest: Double? { times.values.min() }
  var isEmpty: Bool { times.isEmpty }

  mutating func add(_ name: String, notBefore time: Double) {
    times[name] = min(times[name] ?? time, time)
  }

  mutating func remove(_ name: String) { times[name] = nil }

  /// The name that has been due for the longest time.
  mutating func take(now: Double) -> String? {
    guard let next = times.min(by: { ($0.value, $0.key) < ($1.value, $1.key) }), next.value <= now else { return nil }
    times[next.key] = nil
    return next.key
  }
}
