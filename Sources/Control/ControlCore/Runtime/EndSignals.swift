// SIGTERM and SIGINT as something to wait for.

import CPlatform
import Glibc

struct EndSignals: Sendable {
  private let descriptor: Int32

  /// From now on they end nothing by themselves. Once per program.
  init() throws(SubprocessError) {
    descriptor = sky_catch_end_signals()
    if descriptor < 0 { throw SubprocessError(description: "signals cannot be caught: \(String(cString: strerror(errno)))") }
  }

  /// The name of the next one; nil: the task was cancelled.
  func next() async -> String? {
    while !Task.isCancelled {
      var byte: UInt8 = 0
      if read(descriptor, &byte, 1) == 1 { return Int32(byte) == SIGTERM ? "SIGTERM" : "SIGINT" }
      _ = await Readiness.shared.wait(descriptor, for: .read)
    }
    return nil
  }
}
