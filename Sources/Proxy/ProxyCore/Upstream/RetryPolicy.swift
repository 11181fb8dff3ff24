// What to do about an exchange whose replica failed: a function from facts to a decision. A request is sent again only
// when the replica cannot have started it, or when doing it twice is harmless by definition.

/// The facts of a failed attempt.
package struct FailedAttempt: BitwiseCopyable {
  package var fault: Fault
  /// Part of a response head has arrived, or a whole one was passed on.
  package var responseBegun: Bool
  /// Not one byte of the request was accepted by the connection.
  package var nothingAccepted: Bool
  /// The connection had served an earlier request: replicas close idle ones, so this says little about the replica.
  package var reused: Bool
  package var safe: Bool
  package var idempotent: Bool
  /// Head and body are still here.
  package var canResend: Bool
  /// Attempts that count, this one included unless it was a refusal that costs nothing.
  package var attempts: Int
  package init(
    fault: Fault, responseBegun: Bool, nothingAccepted: Bool, reused: Bool, safe: Bool, idempotent: Bool,
    canResend: Bool, attempts: Int
  ) {
    self.fault = fault
    self.responseBegun = responseBegun
    self.nothingAccepted = nothingAccepted
    self.reused = reused
    self.safe = safe
    self.idempotent = idempotent
    self.canResend = canResend
    self.attempts = attempts
  }
}

package enum RetryDecision: BitwiseCopyable, Equatable {
  /// On another replica; the unsent queue moves along.
  case elsewhere
  /// A parked connection had died: any replica will do, on a new connection. Not charged to the budget, since it is
  /// no sign of trouble.
  case freshConnection
  /// As `elsewhere`, but the request was sent before and is charged to the retry budget.
  case resend
  case giveUp
}

package func decideRetry(_ attempt: FailedAttempt, maxAttempts: Int) -> RetryDecision {
  if attempt.responseBegun || attempt.attempts >= maxAttempts { return .giveUp }
  switch attempt.fault.kind {
  case .refused, .ports:
    return .elsewhere
  case .timeout, .vanished:
    // A deadline that passed means the replica may be working on it: never twice.
    return attempt.fault.stage == .connect || attempt.nothingAccepted ? .elsewhere : .giveUp
  case .closed:
    if attempt.fault.stage == .body { return .giveUp }
    if attempt.nothingAccepted { return attempt.reused ? .freshConnection : .elsewhere }
    if !attempt.canResend { return .giveUp }
    // RFC 9110 9.2.2: idempotent methods may be repeated automatically after a connection that closed.
    if attempt.reused && attempt.idempotent { return .freshConnection }
    return attempt.safe ? .resend : .giveUp
  case .none, .malformed, .tooLarge, .stalled, .memory, .descriptors, .withdrawn:
    return .giveUp
  }
}

/// Re-sends allowed: a share of the requests plus a burst, so that trouble is not multiplied by retrying it.
package struct RetryBudget: BitwiseCopyable {
  /// In hundredths of a retry.
  private var tokens: UInt32
  private let perRequest: UInt32
  private let most: UInt32

  package init(percent: UInt32, burst: UInt32) {
    perRequest = percent
    most = burst &* 100
    tokens = most
  }
  /// More than half of the burst is left.
  @inline(__always)
  package var isAmple: Bool { tokens > most / 2 }
  @inline(__always)
  package mutating func earn() { tokens = min(most, tokens &+ perRequest) }
  package mutating func spend() -> Bool {
    guard tokens >= 100 else { return false }
    tokens -= 100
    return true
  }
}
