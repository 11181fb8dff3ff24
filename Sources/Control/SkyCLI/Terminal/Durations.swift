// How long, and how long ago, in SkyServe's words.

import Foundation

package enum Durations {
  private static let utc: Calendar = {
    var calendar = Calendar(identifier: .gregorian)
    if let zone = TimeZone(secondsFromGMT: 0) { calendar.timeZone = zone }
    return calendar
  }()

  private struct Parts {
    var years = 0
    var months = 0
    var weeks = 0
    var days = 0
    var hours = 0
    var minutes = 0
    var seconds = 0

    /// Months and years are the calendar's, since people say "a month" whatever its length.
    init(from start: Double, to end: Double) {
      let parts = Durations.utc.dateComponents(
        [.year, .month, .day, .hour, .minute, .second], from: Date(timeIntervalSince1970: start.rounded(.down)),
        to: Date(timeIntervalSince1970: end.rounded(.down)))
      years = parts.year ?? 0
      months = parts.month ?? 0
      weeks = (parts.day ?? 0) / 7
      days = (parts.day ?? 0) % 7
      hours = parts.hour ?? 0
      minutes = parts.minute ?? 0
      seconds = parts.second ?? 0
    }
  }

  /// `1h 2m 23s`; `-` without a start.
  package static func absolute(from start: Double?, to end: Double) -> String {
    guard let start, start >= 0 else { return "-" }
    if end - start < 1 { return "< 1 second" }
    let parts = Parts(from: start, to: end)
    let words = [
      (parts.years, "y"), (parts.months, "mo"), (parts.weeks, "w"), (parts.days, "d"), (parts.hours, "h"),
      (parts.minutes, "m"), (parts.seconds, "s"),
    ]
    let text = words.filter { $0.0 != 0 }.map { "\($0.0)\($0.1)" }.joined(separator: " ")
    return text.isEmpty ? "< 1 second" : text
  }

  /// `2 mins ago`; `-` without a time.
  package static func ago(_ time: Double?, now: Double) -> String {
    guard let time, time >= 0 else { return "-" }
    let parts = Parts(from: time, to: max(time, now))
    func say(_ count: Int, _ unit: String) -> String { "\(count) \(unit)\(count == 1 ? "" : "s") ago" }
    let days = parts.weeks * 7 + parts.days
    if parts.years > 0 { return say(parts.years + (parts.months > 6 ? 1 : 0), "year") }
    if parts.months == 11, days > 15 { return say(1, "year") }
    if parts.months > 0 { return say(parts.months + (days >= 27 ? 1 : 0), "month") }
    if parts.weeks > 0 { return say(parts.weeks + (parts.days > 3 ? 1 : 0), "week") }
    if parts.days > 0 { return say(parts.days + (parts.hours >= 22 ? 1 : 0), "day") }
    if parts.hours > 0 { return say(parts.hours, "hr") }
    if parts.minutes > 0 { return say(parts.minutes, "min") }
    return parts.seconds > 10 ? say(parts.seconds, "sec") : "a few secs ago"
  }
}
