// What GET /v1/reports says: lines of counters at an interval, and lines of events at once. The events are found by
// comparing the board with what it looked like last time; `BoardShared.news` tells cheaply that looking is worth while,
// and its bell wakes the thread that looks.

import ProxyWire

/// Finds events. One for all subscribers; it looks only while somebody wants to know.
struct ReportEvents {
  /// At most one line about refused connections per replica in this time.
  static let refusedNs: UInt64 = 100_000_000
  private static let againNs: UInt64 = 10_000_000

  private enum Drain { case no, announced, finished }

  private struct Seen {
    var generation: UInt32 = 0
    var isEjected = false
    var drain = Drain.no
    /// Connect failures that have been told, and when.
    var refused: UInt64 = 0
    var refusedAt: UInt64 = 0
  }

  private let membership: Membership
  private var seen: [Seen]
  private var news: UInt64 = 0
  private var version: UInt64?
  /// Look again then, news or not; `.max`: nothing is left to be told, so the next news may wake whoever tells it.
  private(set) var lookAt = UInt64.max

  init(_ membership: Membership) {
    self.membership = membership
    seen = Array(repeating: Seen(), count: membership.board.capacity)
  }

  /// The first subscriber has come: events from now on.
  mutating func begin() {
    news = membership.board.shared.pointee.news.load(ordering: .acquiring)
    version = membership.version
    lookAt = .max
    for member in membership.members {
      seen[member.index] = Seen(
        generation: member.boardGeneration, isEjected: isEjected(member),
        drain: isDraining(member) ? (membership.inFlight(member) == 0 ? .finished : .announced) : .no,
        refused: refusals(member))
    }
  }

  /// The drains under way, for a subscriber that has not seen them begin.
  func standing() -> [Report] {
    membership.members.filter(isDraining).map { draining($0, membership.inFlight($0)) }
  }

  mutating func look(now: UInt64) -> [Report] {
    let current = membership.board.shared.pointee.news.load(ordering: .acquiring)
    guard current != news || now >= lookAt else { return [] }
    // A worker may bump `news` just before it counts: look once more shortly. Until then further news waits, so that a
    // storm of it is looked at a hundred times a second and no more.
    lookAt = current != news ? now + ReportEvents.againNs : .max
    news = current
    var events: [Report] = []
    if membership.version != version, let applied = membership.version {
      version = applied
      events.append(.applied(version: applied))
    }
    for member in membership.members { look(at: member, now, &events) }
    return events
  }

  private mutating func look(at member: Member, _ now: UInt64, _ events: inout [Report]) {
    var state = seen[member.index]
    if state.generation != member.boardGeneration { state = Seen(generation: member.boardGeneration) }
    defer { seen[member.index] = state }

    let refused = refusals(member)
    if refused > state.refused {
      if state.refusedAt == 0 || now >= state.refusedAt &+ ReportEvents.refusedNs {
        events.append(
          .refused(id: member.entry.id, generation: member.entry.generation, count: refused - state.refused))
        state.refused = refused
        state.refusedAt = now
      } else {
        lookAt = min(lookAt, state.refusedAt &+ ReportEvents.refusedNs)
      }
    }

    let ejected = isEjected(member)
    if ejected != state.isEjected {
      state.isEjected = ejected
      // One that left took its ejection with it.
      if ejected {
        events.append(
          .ejected(id: member.entry.id, generation: member.entry.generation, reason: reason(ofEjecting: member)))
      } else if member.leftAt == nil {
        events.append(
          .restored(id: member.entry.id, generation: member.entry.generation, reason: "it answered again"))
      }
    }

    if isDraining(member) {
      let inFlight = membership.inFlight(member)
      if inFlight == 0, state.drain != .finished {
        state.drain = .finished
        events.append(draining(member, 0))
      } else if state.drain == .no {
        state.drain = .announced
        events.append(draining(member, inFlight))
      }
    } else {
      state.drain = .no
    }
  }

  private func reason(ofEjecting member: Member) -> String {
    let health = membership.board.health + member.index
    return switch health.pointee.trouble.load(ordering: .relaxed) {
    case .errors:
      "\(health.pointee.consecutiveErrors.load(ordering: .relaxed)) answers of 500, 502, 503 or 504 in a row"
    case .none, .refused, .silent:
      "\(health.pointee.consecutiveFailures.load(ordering: .relaxed)) failures in a row"
    }
  }

  private func draining(_ member: Member, _ inFlight: UInt32) -> Report {
    .draining(id: member.entry.id, generation: member.entry.generation, inFlight: Int(inFlight))
  }

  private func isDraining(_ member: Member) -> Bool {
    member.leftAt != nil || membership.board.gates[member.index].load(ordering: .relaxed) & Gate.draining != 0
  }

  private func isEjected(_ member: Member) -> Bool {
    member.leftAt == nil && membership.board.gates[member.index].load(ordering: .relaxed) & Gate.ejected != 0
  }

  private func refusals(_ member: Member) -> UInt64 {
    membership.counters.reduce(0) { $0 &+ $1.replicas[member.index].failConnect }
  }
}

/// The requests that some subscriber has been told of, and when. What came while nobody listened (before the controller
/// did, or while it was being replaced) is told to the next, so that it is not lost on a service scaled to zero.
struct ToldArrivals {
  private static let minute: UInt64 = 60_000_000_000
  private var count: UInt64 = 0
  private var at: UInt64

  init(now: UInt64) { at = now }

  mutating func told(_ count: UInt64, now: UInt64) { (self.count, at) = (count, now) }

  /// How many of `count` are news: all of the last minute; of a longer time as many as came in a minute of it.
  func missed(of count: UInt64, now: UInt64) -> UInt64 {
    let missed = count &- self.count
    let time = now &- at
    return time <= ToldArrivals.minute ? missed : UInt64(Double(missed) * Double(ToldArrivals.minute) / Double(time))
  }
}

/// One subscriber's place in time.
struct ReportSubscription {
  let intervalNs: UInt64
  private(set) var nextAt: UInt64
  private var lastAt: UInt64
  private var arrivals: UInt64
  private var shed: UInt64

  init(intervalNs: UInt64, _ membership: Membership, _ told: ToldArrivals, now: UInt64) {
    self.intervalNs = intervalNs
    nextAt = now + intervalNs
    lastAt = now
    let counts: WorkerCounters = sumWords(membership.counters.map(\.worker))
    arrivals = counts.arrivals &- told.missed(of: counts.arrivals, now: now)
    shed = ReportSubscription.shed(counts)
  }

  /// The line of the time since the last one.
  mutating func interval(_ membership: Membership, _ told: inout ToldArrivals, now: UInt64) -> Report {
    let counts: WorkerCounters = sumWords(membership.counters.map(\.worker))
    let shedNow = ReportSubscription.shed(counts)
    defer {
      arrivals = counts.arrivals
      told.told(counts.arrivals, now: now)
      shed = shedNow
      lastAt = now
      // Late lines do not make the next ones come faster.
      nextAt = max(nextAt + (now >= nextAt ? intervalNs : 0), now + 1)
    }
    return .interval(
      IntervalReport(
        timeMs: wallNanoseconds() / 1_000_000, version: membership.version ?? 0, intervalMs: (now - lastAt) / 1_000_000,
        arrivals: counts.arrivals &- arrivals, shed: shedNow &- shed,
        waiting: Int(membership.board.shared.pointee.queued.load(ordering: .relaxed)),
        replicas: membership.listed.map { member in
          let state = membership.state(of: member)
          return ReplicaReport(
            id: member.entry.id, generation: member.entry.generation, inFlight: Int(membership.inFlight(member)),
            ejected: state == .ejected, counters: ProxyWire.ReplicaCounters(membership.total(member)))
        }))
  }

  private static func shed(_ counts: WorkerCounters) -> UInt64 {
    counts.noReplica &+ counts.queueTimeouts &+ counts.queueOverflows
  }
}

extension ProxyWire.ReplicaCounters {
  init(_ counts: ReplicaCounters) {
    self.init()
    requests = counts.exchanges
    responses2xx = counts.status2
    responses3xx = counts.status3
    responses4xx = counts.status4
    responses5xx = counts.status5
    failures = counts.failConnect &+ counts.failSend &+ counts.failHead &+ counts.failMalformed
    connectFailures = counts.failConnect
    broken = counts.failBody
    clientGone = counts.clientsLeft
    connects = counts.connects
    bytesSent = counts.bytesToReplica
    bytesReceived = counts.bytesFromReplica
  }
}

extension StageFailures {
  init(_ counts: ReplicaCounters) {
    self.init()
    connect = counts.failConnect
    send = counts.failSend
    head = counts.failHead
    malformed = counts.failMalformed
    body = counts.failBody
  }
}
