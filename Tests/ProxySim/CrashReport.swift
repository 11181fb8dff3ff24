// The engine traps where it finds itself wrong (`precondition`). The run that was under way is then printed with the
// command that replays it, before the process dies as it would have.

import Glibc

package enum CrashReport {
  private struct Watched {
    var world: World
    var seed: UInt64
    var profile: String
  }
  // One simulation at a time per process writes these; the signal comes on its thread.
  nonisolated(unsafe) private static var watched: Watched?
  nonisolated(unsafe) private static var isInstalled = false

  static func watch(_ world: World, seed: UInt64, profile: Profile) {
    install()
    watched = Watched(world: world, seed: seed, profile: profile.name)
  }

  static func unwatch() { watched = nil }

  private static func install() {
    guard !isInstalled else { return }
    isInstalled = true
    for number in [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT] {
      signal(number, trapped)
    }
  }

  fileprivate static func tell(_ number: Int32) {
    guard let watched else { return }
    CrashReport.watched = nil
    let before = watched.world.failure.map { ", after: " + $0 } ?? ""
    print(
      report(
        "trap (signal \(number))" + before, watched.world.trace.tail(200), seed: watched.seed, profile: watched.profile)
    )
    fflush(nil)
  }

  package static func report(_ failure: String, _ tail: [String], seed: UInt64, profile: String) -> String {
    (tail + ["FAILED: \(failure)", "replay: sky-sim --seed \(seed) --profile \(profile)"]).joined(separator: "\n")
  }
}

private func trapped(_ number: Int32) {
  signal(number, SIG_DFL)
  CrashReport.tell(number)
  raise(number)
}
