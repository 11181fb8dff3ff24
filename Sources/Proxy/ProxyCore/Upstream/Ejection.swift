// Which replicas are left out because they fail, and how it is found out that they are back. Nothing probes: the
// exchanges themselves tell.
//
//         a connection refused; or `after` failures in a row before a response head;
//         or `afterErrors` server errors in a row while another replica does well
//     open ──────────────────────────────────────────────────────────────▶ ejected ◀─┐ the canary fails, or gets a
//       ▲                                                                     │   └──┘ server error while another does
//       └──────── an answer; or a server error while no replica does well ────┘        well: longer back-off
//
// A canary is an ordinary exchange that is sent to an ejected replica, one at a time. Where nobody is well the ejected
// ones that take connections are used all the same.

import Synchronization

/// How a replica was last found to be in trouble.
package enum Trouble: UInt32, BitwiseCopyable, AtomicRepresentable {
  /// It has taken a connection since, or has failed after that.
  case none
  /// It refused a connection.
  case refused
  /// It let the connect time out.
  case silent
  /// It answers, with server errors: `isServerError`.
  case errors

  /// Not even a connection came about.
  @inline(__always)
  var isUnreachable: Bool { self == .refused || self == .silent }
}

/// Health of one replica as the traffic itself shows it. Written by workers, all fields atomic.
package struct ReplicaHealth: ~Copyable {
  /// Failures before a response head since the last response head.
  package let consecutiveFailures = Atomic<UInt32>(0)
  /// Server errors since the last other answer.
  package let consecutiveErrors = Atomic<UInt32>(0)
  /// Ejections in a row: the back-off doubles with each.
  package let ejections = Atomic<UInt32>(0)
  package let trouble = Atomic<Trouble>(.none)
  /// 1 while a canary is out.
  package let canary = Atomic<UInt32>(0)
  /// Nanoseconds of the monotonic clock: the end of the back-off.
  package let retryAt = Atomic<UInt64>(0)
  /// When it last failed, same clock.
  package let failedAt = Atomic<UInt64>(0)

  /// Of another replica from now on.
  func reset() {
    consecutiveFailures.store(0, ordering: .relaxed)
    consecutiveErrors.store(0, ordering: .relaxed)
    ejections.store(0, ordering: .relaxed)
    trouble.store(.none, ordering: .relaxed)
    canary.store(0, ordering: .relaxed)
    retryAt.store(0, ordering: .relaxed)
    failedAt.store(0, ordering: .relaxed)
  }
}

/// Limits of ejection, from the configuration.
package struct EjectionRule: BitwiseCopyable {
  /// Consecutive failures that eject; refused connections do so at once. 0 = neither does.
  package var after: UInt32
  /// Consecutive server errors that eject. 0 = none do.
  package var afterErrors: UInt32
  package var minNs: UInt64
  package var maxNs: UInt64
  package init(
    after: UInt32 = 3, afterErrors: UInt32 = 5, minNs: UInt64 = 250_000_000, maxNs: UInt64 = 8_000_000_000
  ) {
    self.after = after
    self.afterErrors = afterErrors
    self.minNs = minNs
    self.maxNs = maxNs
  }
}

/// Whether an answer tells of the replica's state rather than of the request: 500, and 502, 503, 504, which a replica
/// that is itself a gateway to its model sends when that has died, is full or hangs. 501 (method not implemented), 505
/// (HTTP version) and the rarer ones say that this request cannot be served, by this replica or another.
@inline(__always)
package func isServerError(_ status: UInt16) -> Bool {
  status == 500 || status == 502 || status == 503 || status == 504
}

// MARK: - Finding out whether a replica is back

extension LoadBoard {
  /// Between two tries of a replica before the end of its back-off.
  private static var earlyNs: UInt64 { 100_000_000 }
  /// How long a look that found no replica doing well stands for further ones.
  private static var nobodyWellNs: UInt64 { 10_000_000 }
  /// Doublings of the back-off that are counted: with more the shift would overflow, and maxNs is reached long before.
  private static var doublingsMax: UInt32 { 20 }

  enum CanaryKind {
    /// Fails its client when the replica is not back: the back-off is waited out.
    case risky
    /// Is sent to another replica when this one fails at once: need not wait for the end of the back-off. Where it may
    /// take long to fail, or is answered with a server error, which its client gets, it is no better than a risky one.
    case harmless
    /// All ready replicas are ejected: ten tries a second to each are better than waiting.
    case lastResort
  }

  /// An ejected replica that may be tried again and has no canary out: the caller's exchange becomes the canary.
  func canary(_ ask: Ask, _ count: Int, _ kind: CanaryKind) -> Lease? {
    var index = 0
    while index < count {
      let candidate = index
      index += 1
      guard gates[candidate].load(ordering: .relaxed) == Gate.ejected, !ask.tried.contains(UInt32(candidate)),
        ask.now >= canaryDue(candidate, kind),
        health[candidate].canary.compareExchange(expected: 0, desired: 1, ordering: .relaxed).exchanged
      else { continue }
      // Draining may have begun meanwhile: nothing new may go there once it has been said to be empty.
      if take(UInt32(candidate), despite: Gate.ejected) {
        var lease = lease(UInt32(candidate))
        lease.isCanary = true
        return lease
      }
      health[candidate].canary.store(0, ordering: .relaxed)
    }
    return nil
  }

  private func canaryDue(_ index: Int, _ kind: CanaryKind) -> UInt64 {
    let isEarly =
      switch kind {
      case .risky: false
      case .harmless:
        switch health[index].trouble.load(ordering: .relaxed) {
        case .none, .refused: true
        case .silent, .errors: false
        }
      case .lastResort: true
      }
    return isEarly
      ? health[index].failedAt.load(ordering: .relaxed) &+ LoadBoard.earlyNs
      : health[index].retryAt.load(ordering: .relaxed)
  }

  /// No replica is open. Ejected ones that at least take connections are better than an answer of our own, and for a
  /// request that has failed already so are those that refuse quickly.
  func lastResort(_ ask: Ask, _ count: Int) -> Picked {
    if let canary = canary(ask, count, .lastResort) { return .replica(canary) }
    var sawEjected = false
    var round = Round(self, count)
    while let index = round.next() {
      guard gates[index].load(ordering: .acquiring) == Gate.ejected else { continue }
      sawEjected = true
      guard !ask.tried.contains(UInt32(index)) else { continue }
      let isBearable =
        switch health[index].trouble.load(ordering: .relaxed) {
        case .none, .errors: true
        case .refused: !ask.tried.isEmpty
        case .silent: false
        }
      guard isBearable, take(UInt32(index), despite: Gate.ejected) else { continue }
      shared.pointee.cursor.store(UInt32(index) &+ 1, ordering: .relaxed)
      return .replica(lease(UInt32(index)))
    }
    return sawEjected ? .ejected : .empty
  }
}

// MARK: - What the exchanges tell

extension LoadBoard {
  /// The replica took a connection; whether it answers is another question.
  @inline(__always)
  package func reached(_ lease: Lease) {
    let health = health + Int(lease.replica)
    if health.pointee.trouble.load(ordering: .relaxed).isUnreachable {
      health.pointee.trouble.store(.none, ordering: .relaxed)
    }
  }

  /// The head of the final response has come. Any answer ends a row of failures. All but a server error say that the
  /// replica is well; the client gets either.
  @inline(__always)
  package func answered(_ lease: inout Lease, status: UInt16, now: UInt64, rule: EjectionRule) {
    let index = Int(lease.replica)
    let health = health + index
    if health.pointee.consecutiveFailures.load(ordering: .relaxed) != 0 {
      health.pointee.consecutiveFailures.store(0, ordering: .relaxed)
    }
    if isServerError(status) && rule.afterErrors != 0 {
      answeredError(&lease, now, rule)
      return
    }
    if health.pointee.consecutiveErrors.load(ordering: .relaxed) != 0 {
      health.pointee.consecutiveErrors.store(0, ordering: .relaxed)
      health.pointee.trouble.store(.none, ordering: .relaxed)
    }
    if lease.isCanary { endCanary(&lease) }
    if gates[index].load(ordering: .relaxed) & Gate.ejected != 0 { restore(index) }
  }

  /// The replica answered, but not with HTTP: its client gets 502, and it counts as that. To be said only where the
  /// replica's bytes are at fault, not where the proxy itself had no room for them.
  package func answeredNonsense(_ lease: inout Lease, now: UInt64, rule: EjectionRule) {
    answered(&lease, status: 502, now: now, rule: rule)
  }

  /// A replica that fails at once has always the least load, so it would get most of the traffic. It is left out where
  /// another replica does better. Where none does, the cause lies elsewhere (what they share, or the requests), and
  /// leaving replicas out would only take capacity away.
  @inline(never)
  private func answeredError(_ lease: inout Lease, _ now: UInt64, _ rule: EjectionRule) {
    let index = Int(lease.replica)
    let health = health + index
    let errors = health.pointee.consecutiveErrors.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue
    let gate = gates[index].load(ordering: .relaxed)
    if gate & Gate.ejected != 0 {
      if !isAnotherWell(than: index, now) {
        restore(index)
      } else if lease.isCanary {
        noteErrors(index, now)
        if now >= health.pointee.retryAt.load(ordering: .relaxed) { backOff(index, now, rule) }
        shared.pointee.tellNews()
      }
    } else if gate == 0 && errors >= rule.afterErrors && isAnotherWell(than: index, now) {
      noteErrors(index, now)
      eject(index, now, rule)
      shared.pointee.tellNews()
    }
    // Last: from now on another canary may go, and the end of the back-off must be known by then.
    if lease.isCanary { endCanary(&lease) }
  }

  private func noteErrors(_ index: Int, _ now: UInt64) {
    health[index].trouble.store(.errors, ordering: .relaxed)
    health[index].failedAt.store(now, ordering: .relaxed)
  }

  /// The replica failed before the head of a response. `refused`: it did not even take the connection; `timedOut`: it
  /// said nothing at all.
  package func failed(_ lease: Lease, refused: Bool, timedOut: Bool = false, now: UInt64, rule: EjectionRule) {
    let index = Int(lease.replica)
    let health = health + index
    let failures = health.pointee.consecutiveFailures.wrappingAdd(1, ordering: .relaxed).newValue
    health.pointee.failedAt.store(now, ordering: .relaxed)
    health.pointee.trouble.store(!refused ? .none : timedOut ? .silent : .refused, ordering: .relaxed)
    let gate = gates[index].load(ordering: .relaxed)
    if gate & Gate.ejected != 0 {
      // Only the canary's own failure lengthens the back-off, not stragglers sent before the ejection.
      guard lease.isCanary else { return }
      // Canaries sent early do not lengthen it either.
      if now >= health.pointee.retryAt.load(ordering: .relaxed) { backOff(index, now, rule) }
    } else if gate == 0 && rule.after > 0 && (refused || (failures >= rule.after && others(than: index))) {
      eject(index, now, rule)
    }
    shared.pointee.tellNews()
  }

  private func endCanary(_ lease: inout Lease) {
    lease.isCanary = false
    health[Int(lease.replica)].canary.store(0, ordering: .relaxed)
  }

  private func eject(_ index: Int, _ now: UInt64, _ rule: EjectionRule) {
    // Before the bit is set: from then on other workers look for when it may be tried.
    health[index].retryAt.store(now &+ rule.minNs, ordering: .relaxed)
    if gates[index].compareExchange(expected: 0, desired: Gate.ejected, ordering: .acquiringAndReleasing).exchanged {
      shared.pointee.ejectedReplicas.wrappingAdd(1, ordering: .relaxed)
      backOff(index, now, rule)
    }
  }

  private func backOff(_ index: Int, _ now: UInt64, _ rule: EjectionRule) {
    let before = health[index].ejections.wrappingAdd(1, ordering: .relaxed).oldValue
    let doublings = UInt64(min(before, LoadBoard.doublingsMax))
    health[index].retryAt.store(now &+ min(rule.maxNs, rule.minNs << doublings), ordering: .relaxed)
  }

  /// Whether another replica could take the traffic: the last one standing is not ejected for failing to answer.
  private func others(than index: Int) -> Bool {
    var other = 0
    let count = self.count
    while other < count {
      if other != index && gates[other].load(ordering: .relaxed) == 0 { return true }
      other += 1
    }
    return false
  }

  /// Whether another replica could take the traffic and shows no trouble. One that has not answered yet counts: its
  /// first answer may take minutes, and the list says that it is ready. Where all answer errors this is asked for each
  /// of them, and all replicas are looked at each time; so a look that found nobody holds for a while.
  private func isAnotherWell(than index: Int, _ now: UInt64) -> Bool {
    if now < shared.pointee.nobodyWellUntil.load(ordering: .relaxed) { return false }
    var other = 0
    let count = self.count
    while other < count {
      if other != index && gates[other].load(ordering: .relaxed) == 0
        // Two workers that each eject the other's replica would each have to see the other's count as it was before.
        && health[other].consecutiveErrors.load(ordering: .sequentiallyConsistent) == 0
        && health[other].consecutiveFailures.load(ordering: .relaxed) == 0
      {
        return true
      }
      other += 1
    }
    shared.pointee.nobodyWellUntil.store(now &+ LoadBoard.nobodyWellNs, ordering: .relaxed)
    return false
  }

  private func restore(_ index: Int) {
    let before = gates[index].bitwiseAnd(~Gate.ejected, ordering: .acquiringAndReleasing).oldValue
    guard before & Gate.ejected != 0 else { return }
    lowered(index, to: 0)
    opened()
    health[index].canary.store(0, ordering: .relaxed)
    health[index].ejections.store(0, ordering: .relaxed)
    shared.pointee.ejectedReplicas.wrappingSubtract(1, ordering: .relaxed)
    shared.pointee.tellNews()
  }
}
