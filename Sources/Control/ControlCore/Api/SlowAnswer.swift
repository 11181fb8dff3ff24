// Says that the controller is waited for, once a command has waited long enough to wonder. Made by the command line,
// used by ApiClient.

import ProxyWire
import Synchronization

package final class SlowAnswer: Sendable {
  private let seconds: Double
  private let hasTold = Atomic(false)
  private let tell: @Sendable (String) -> Void

  /// - Parameter tell: gets `waiting for the controller (process 4711)…`, at most once.
  package init(after seconds: Double = 5, tell: @escaping @Sendable (String) -> Void) {
    self.seconds = seconds
    self.tell = tell
  }

  /// `socket`: of the controller. The kernel knows whose it is, also while that process is stopped.
  func watch<Value, Failure>(
    _ socket: String, _ body: () async throws(Failure) -> Value
  ) async throws(Failure) -> Value {
    let watching = Task {
      try await Task.sleep(for: .seconds(seconds))
      if hasTold.exchange(true, ordering: .relaxed) { return }
      tell("waiting for the controller\(UnixSocket.owner(of: socket).map { " (process \($0))" } ?? "")…")
    }
    defer { watching.cancel() }
    return try await body()
  }
}
