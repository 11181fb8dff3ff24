// Which process, beyond its number: numbers come back. Kept in records and folders, so that a restarted controller
// knows its proxies and replicas again, and never signals a stranger.

import CPlatform
import Foundation

package struct ProcessIdentity: Hashable, Codable, Sendable {
  package let pid: Int32
  /// When it began, in clock ticks since the machine did: field 22 of /proc/PID/stat.
  package let startTicks: UInt64
  /// Since which start of the machine those ticks count.
  package let boot: String

  package init(pid: Int32, startTicks: UInt64, boot: String) {
    self.pid = pid
    self.startTicks = startTicks
    self.boot = boot
  }

  /// nil: there is no such process. One that has ended and was not waited for yet is still one.
  package static func current(_ pid: Int32) -> ProcessIdentity? {
    stat(of: pid).map { ProcessIdentity(pid: pid, startTicks: $0.startTicks, boot: thisBoot) }
  }

  /// This very process runs. One that has ended is dead, whether or not it was waited for.
  package var isAlive: Bool {
    boot == Self.thisBoot && Self.startTicks(of: pid) == startTicks
  }

  /// To this very process and no other; false: it is gone, or may not be signalled.
  @discardableResult
  package func signal(_ number: Int32) -> Bool {
    let handle = sky_pidfd_open(pid)
    guard handle >= 0 else { return false }
    defer { close(handle) }
    // From here on the handle stands for one process; which one, the identity says.
    return isAlive && sky_pidfd_signal(handle, number) == 0
  }

  /// Waits for its end, be it a child or not. false: it lives on after `seconds`, or this task was cancelled.
  package func waitForEnd(_ seconds: Double = .infinity) async -> Bool {
    let timeout = Timeout(seconds)
    let handle = sky_pidfd_open(pid)
    guard handle >= 0 else { return !isAlive }
    defer {
      Readiness.shared.forget(handle)
      close(handle)
    }
    guard isAlive else { return true }
    if case .ready = await Readiness.shared.wait(handle, for: .read, until: timeout) { return true }
    return !isAlive
  }

  private static let thisBoot: String =
    (try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8))?
    .trimmingCharacters(in: .whitespacesAndNewlines) ?? ""

  /// When the process began; nil: there is none, or it has ended.
  static func startTicks(of pid: Int32) -> UInt64? {
    guard let now = stat(of: pid), !now.hasEnded else { return nil }
    return now.startTicks
  }

  /// Of the process whole: it has ended when its last thread has.
  private static func stat(of pid: Int32) -> (hasEnded: Bool, startTicks: UInt64)? {
    guard pid > 0, let bytes = try? StoreFile.read("/proc/\(pid)/stat") else { return nil }
    // The name, in parentheses, may hold anything, parentheses too.
    guard let close = bytes.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let fields = String(decoding: bytes[(close + 1)...], as: UTF8.self).split(separator: " ")
    guard fields.count > 19, let threads = Int(fields[17]), let ticks = UInt64(fields[19]) else { return nil }
    // The first thread of a killed process may be a zombie while others still hold its files and locks.
    return (["Z", "X", "x"].contains(fields[0]) && threads <= 1, ticks)
  }
}
