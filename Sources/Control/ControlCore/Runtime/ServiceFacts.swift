// What the controller knows of one service besides its records, as of now: what the infra, the prober and the proxy
// last said, and what is being done. None of it is stored; after a restart it is found out again.
//
// A plain value inside the Controller, one per service.

import ProxyWire

struct ServiceFacts {
  /// Arrivals between two plans, by second; older ones than the autoscaler's window are of no use.
  private static let arrivalsMax = RequestRate.windowSeconds + 2

  let link: any ProxyLink
  let pollAlarm = Alarm()
  var tasks: [Task<Void, Never>] = []

  var operations = Operations()
  var infra: [Int: InfraFact] = [:]
  var strangers: [Int] = []
  var probes: [Int: ProbeFact] = [:]
  var probers: [Int: ReplicaProber] = [:]
  var proxy = ProxyFact.silent
  /// The version of the list that the link has.
  var given: UInt64?
  /// Why there is no proxy although there should be one: its last start failed, and none has come up since.
  var proxyAbsence: String?
  /// What the proxy that runs did not take.
  var proxyRefusal: String?
  /// Since when it is to end, and what is done about that.
  var proxyEndingSince: Double?
  var proxyEnding: String?
  /// Since when the proxy has not served from the list it should.
  private(set) var behindSince: Double?
  /// Why the infra could not be asked.
  var infraProblem: String?
  /// Why what happens next could not be written down, and so does not happen.
  var journalProblem: String?
  private(set) var arrivals: [Arrivals] = []

  init(link: any ProxyLink) { self.link = link }

  mutating func add(_ more: Arrivals) {
    if let last = arrivals.last, Int(clamping: last.at) == Int(clamping: more.at) {
      arrivals[arrivals.count - 1].count += more.count
    } else {
      arrivals.append(more)
      if arrivals.count > Self.arrivalsMax { arrivals.removeFirst() }
    }
  }

  /// Gathers what a plan is made from.
  func observed(now: Double, _ state: ServiceState, launchSlots: Int) -> Observed {
    var result = Observed(now: now)
    result.infra = infra
    result.operations = operations.facts
    result.probes = probes.filter { id, fact in
      guard let record = state.replicas[id], let version = state.versions[record.version] else { return false }
      // An answer to what an earlier version asked says nothing of this one.
      guard probers[id]?.order.probe == version.service.probe else { return false }
      // That a ready replica is ready is no news, and not worth a write.
      return !fact.ok || !record.readyNow || !version.wasReady
    }
    result.proxy = proxy
    result.arrivals = arrivals
    result.strangers = strangers
    result.launchSlots = launchSlots
    return result
  }

  mutating func compareProxy(with published: Published, now: Double) {
    if case .reporting(let version, _) = proxy, version >= published.version {
      behindSince = nil
    } else {
      behindSince = behindSince ?? now
    }
  }

  mutating func took(arrivals count: Int) { arrivals.removeFirst(min(count, arrivals.count)) }

  /// An operation on the replica begins or has ended: what was known of it is of before.
  mutating func forgetFacts(_ id: Int) {
    infra[id] = nil
    probes[id] = nil
    strangers.removeAll { $0 == id }
  }

  /// Takes in what a poll found, as far as nothing was done in the meantime.
  mutating func absorb(_ found: [Int: InfraFact], since marks: Operations.Marks, known: some Collection<Int>) {
    let known = Set(known)
    for id in known where operations.isFresh(id, since: marks) { infra[id] = found[id] ?? .absent }
    infra = infra.filter { known.contains($0.key) }
    strangers = found.filter { id, fact in
      !known.contains(id) && fact != .absent && operations.isFresh(id, since: marks)
    }.map(\.key).sorted()
    operations.tidy(known: known, marks: marks)
  }

  func end() {
    for task in tasks { task.cancel() }
    for prober in probers.values { prober.end() }
    link.close()
  }
}
