// The difference between what should be and what is, as the next steps. Pure: the same state and facts give the same
// plan, and carrying out a plan twice does no more than once.
//
//   facts ─▶ readiness ─▶ scale ─▶ stop ─▶ launch ─▶ publish ─▶ Plan
//     │          │          │        │        │         └ who takes requests; draining ones say so
//     │          │          │        │        └ as many as may launch at once; slower after failures
//     │          │          │        └ once nobody's request is on it any more, or the time is up
//     │          │          └ Autoscaler and Rollout say which come and go
//     │          └ probes: initial delay, failure threshold
//     └ launched, gone, failed: what the infra and the executor say
//
// One pass; every step sees what the earlier ones decided. Called by the Controller for each name its queue yields.

import ProxyWire

package enum Reconciler {
  package enum Limits {
    /// Seconds a replica may take to finish its requests before it is stopped; SkyServe's figure.
    package static let drainSeconds = 120.0
    /// Stops that may fail before the machine is left to people, and seconds before the next try.
    package static let stopAttempts = 3
    package static let stopRetrySeconds = 5.0
    package static let stopRetryFactor = 1.6
    /// Seconds between launches after the second failure in a row, doubling: a broken image must not cost a machine
    /// every few seconds.
    package static let launchRetrySeconds = 10.0
    package static let launchRetryMax = 600.0
    /// Seconds a replica must have served to be no sign of a broken version when it fails.
    package static let steadySeconds = 60.0
    /// Records of failed replicas that are kept to look at.
    package static let failedKept = 10
  }

  package static func plan(_ state: ServiceState, _ observed: Observed) -> Plan {
    var pass = Pass(state: state, observed: observed)
    pass.run()
    var plan = pass.plan
    plan.mutations += pass.state.mutations(since: state, withScaler: pass.scalerMoved)
    plan.isDurable = pass.state.service != state.service || differs(pass.state.replicas, state.replicas)
    plan.state = pass.state
    if pass.isOver { plan.mutations = [.dropService(state.service.name)] }
    return plan
  }

  /// When a replica was probed last is found out again soon enough.
  private static func differs(_ new: [Int: ReplicaRecord], _ old: [Int: ReplicaRecord]) -> Bool {
    if new == old { return false }
    if new.count != old.count { return true }
    return new.contains { id, record in
      guard var before = old[id] else { return true }
      before.lastProbeAt = record.lastProbeAt
      return before != record
    }
  }

  /// One pass over one service.
  struct Pass {
    var state: ServiceState
    let observed: Observed
    var plan: Plan
    var scalerMoved = false
    var isOver = false

    init(state: ServiceState, observed: Observed) {
      self.state = state
      self.observed = observed
      plan = Plan(state: state)
    }

    var now: Double { observed.now }

    mutating func run() {
      if state.service.plannedAt == nil { state.service.plannedAt = now }
      for id in state.replicas.keys.sorted() {
        let before = state.replicas[id]!.status
        absorb(id)
        if state.replicas[id]!.status != before { note(id, before) }
      }
      if state.service.desired == .down { bringDown() } else { scale() }
      for id in state.replicas.keys.sorted() { advanceStop(id) }
      for id in observed.strangers where state.replicas[id] == nil {
        plan.actions.append(.stop(id: id, attempt: 1, keepLogs: false))
      }
      if state.service.desired == .running { launchWaiting() }
      tidy()
      publish()
      orderProbes()
      finish()
    }

    mutating func wake(at time: Double) { plan.wakeAt = min(plan.wakeAt ?? time, time) }

    mutating func note(_ id: Int, _ before: ReplicaStatus) {
      let record = state.replicas[id]!
      if record.down == .succeeded, record.cause?.isFailure != true {
        plan.events.append("replica=\(id) version=\(record.version) \(before.rawValue) -> gone")
        return
      }
      let reason = record.reason.map { " \($0)" } ?? ""
      plan.events.append(
        "replica=\(id) version=\(record.version) \(before.rawValue) -> \(record.status.rawValue)\(reason)")
    }
  }
}

// MARK: - Facts

extension Reconciler.Pass {
  private mutating func absorb(_ id: Int) {
    absorbOperation(id)
    absorbInfra(id)
    absorbProbe(id)
  }

  private mutating func absorbOperation(_ id: Int) {
    switch observed.operations[id] {
    case .launching(let detail):
      if state.replicas[id]!.launch == .running { state.replicas[id]!.detail = detail }
    case .launchFailed(let reason):
      guard state.replicas[id]!.launch == .running, state.replicas[id]!.down == nil else { return }
      state.replicas[id]!.launch = .failed
      fail(id, .provision, reason)
    case .stopFailed(let attempt, let reason):
      guard state.replicas[id]!.down == .running, state.replicas[id]!.stopAttempts == attempt,
        state.replicas[id]!.stopNotBefore == nil
      else { return }
      if attempt >= Reconciler.Limits.stopAttempts {
        state.replicas[id]!.down = .failed
        state.replicas[id]!.reason = "stop failed: \(reason)"
      } else {
        var wait = Reconciler.Limits.stopRetrySeconds
        for _ in 1..<max(attempt, 1) { wait *= Reconciler.Limits.stopRetryFactor }
        state.replicas[id]!.stopNotBefore = now + wait
      }
    case .stopping, nil: break
    }
  }

  /// An operation is under way, so what the infra says is about to change.
  private func isBusy(_ id: Int) -> Bool {
    switch observed.operations[id] {
    case .launching, .stopping: true
    case .launchFailed, .stopFailed, nil: false
    }
  }

  private mutating func absorbInfra(_ id: Int) {
    guard !isBusy(id), let fact = observed.infra[id] else { return }
    var record = state.replicas[id]!
    switch (record.launch, record.down, fact) {
    case (_, .running, .absent), (_, .failed, .absent):
      record.down = .succeeded
      record.stopNotBefore = nil
      state.replicas[id] = record
    case (.running, nil, .up(let machine)):
      record.launch = .succeeded
      record.launchedAt = now
      record.detail = nil
      state.replicas[id] = record
      take(machine, id)
    case (.running, nil, .partial(let detail)):
      record.detail = detail
      state.replicas[id] = record
    case (.succeeded, nil, .absent), (.succeeded, nil, .partial):
      // Somebody else took it away.
      begin(id, .preempted, "its machine is gone")
    case (.succeeded, nil, .up(let machine)):
      take(machine, id)
    default: break
    }
  }

  private mutating func take(_ machine: Machine, _ id: Int) {
    let address = machine.address.description
    if let old = state.replicas[id]!.address, old != address { state.replicas[id]!.generation += 1 }
    state.replicas[id]!.address = address
    if let chosen = machine.chosen { state.replicas[id]!.chosen = chosen }
    if case .failed(let reason) = machine.job { fail(id, .userAppFailed, reason) }
  }

  /// The rules of readiness. Each probe is taken in once, whenever it is seen.
  private mutating func absorbProbe(_ id: Int) {
    var record = state.replicas[id]!
    guard let probe = observed.probes[id], record.launch == .succeeded, record.down == nil,
      probe.at > record.lastProbeAt ?? -.infinity
    else { return }
    let probedBefore = record.lastProbeAt ?? -.infinity
    record.lastProbeAt = probe.at
    if probe.ok {
      record.readyNow = true
      record.failingSince = nil
      if record.firstReadyAt == nil {
        record.firstReadyAt = probe.at
        // It works. One failure stays in mind until it has done so for a while: what always ends soon after it was
        // ready is not to be launched every second.
        state.service.failuresInARow = min(state.service.failuresInARow, 1)
        state.service.launchNotBefore = nil
      }
      if let steadyAt = record.firstReadyAt.map({ $0 + Reconciler.Limits.steadySeconds }), probe.at >= steadyAt,
        probedBefore < steadyAt
      {
        state.service.failuresInARow = 0
      }
      if state.service.firstReadyAt == nil { state.service.firstReadyAt = probe.at }
      state.versions[record.version]?.wasReady = true
      state.replicas[id] = record
      return
    }
    record.readyNow = false
    let besideProbe = observed.infra[id]?.besideProbe ?? ""
    let firstNotReady = record.firstNotReadyAt ?? probe.at
    record.firstNotReadyAt = firstNotReady
    if record.wasEverReady {
      let since = record.failingSince ?? probe.at
      record.failingSince = since
      state.replicas[id] = record
      if probe.at - since >= state.scaler.spec.failureThreshold {
        fail(id, .probing, "probes failed for \(Int(clamping: probe.at - since)) s: \(probe.detail)\(besideProbe)")
      }
    } else {
      state.replicas[id] = record
      let grace = (state.versions[record.version]?.service ?? state.scaler.spec).probe.initialDelay.value
      if probe.at - firstNotReady > grace {
        fail(id, .initialDelay, "not ready within \(Int(clamping: grace)) s: \(probe.detail)\(besideProbe)")
      }
    }
  }

  /// A replica's own fault: it goes without waiting for requests, and the next one is slower to come each time, unless
  /// it had served well until then.
  private mutating func fail(_ id: Int, _ cause: ReplicaRecord.Cause, _ reason: String) {
    begin(id, cause, reason)
    if let since = state.replicas[id]!.firstReadyAt, now - since >= Reconciler.Limits.steadySeconds { return }
    state.service.failuresInARow += 1
    let failures = state.service.failuresInARow
    if failures > 1 {
      var wait = Reconciler.Limits.launchRetrySeconds
      for _ in 2..<min(failures, 12) { wait *= 2 }
      state.service.launchNotBefore = now + min(wait, Reconciler.Limits.launchRetryMax)
    }
  }
}

// MARK: - Coming and going

extension Reconciler.Pass {
  private mutating func begin(_ id: Int, _ cause: ReplicaRecord.Cause, _ reason: String? = nil) {
    guard state.replicas[id]!.down == nil else { return }
    state.replicas[id]!.cause = cause
    if let reason { state.replicas[id]!.reason = reason }
    state.replicas[id]!.downAt = now
    state.replicas[id]!.down = .scheduled
    if state.replicas[id]!.launch == .running { state.replicas[id]!.launch = .interrupted }
    let waits: Bool =
      switch cause {
      case .scaleDown, .outdated, .asked, .serviceDown: state.service.published.entries.contains { $0.id == id }
      case .preempted, .userAppFailed, .initialDelay, .probing, .provision: false
      }
    state.replicas[id]!.drainDeadline = waits ? now + Reconciler.Limits.drainSeconds : nil
  }

  /// What the log would not tell otherwise: no fact about the replica has changed, only what is wanted of it.
  private mutating func retire(_ id: Int, _ cause: ReplicaRecord.Cause) {
    guard state.replicas[id]!.down == nil else { return }
    let before = state.replicas[id]!.status
    begin(id, cause)
    let record = state.replicas[id]!
    plan.events.append(
      "replica=\(id) version=\(record.version) \(before.rawValue) -> \(record.status.rawValue) "
        + record.stopReason(latest: state.service.latestVersion))
  }

  private mutating func tick(_ replicas: [ScalingReplica]) {
    let before = state.scaler.finalTarget
    state.scaler.tick(replicas, now: now)
    scalerMoved = true
    let target = state.scaler.finalTarget
    if target == before { return }
    let load = (state.scaler.rate.perSecond(now: now) * 100).rounded() / 100
    plan.events.append("scale target=\(target) was=\(before) requests_per_second=\(load)")
  }

  private mutating func scale() {
    for arrival in observed.arrivals { state.scaler.observe(arrivals: arrival.count, at: arrival.at) }
    let replicas = state.replicas.values.map(\.scaling).sorted { $0.id < $1.id }
    let wasReady = state.scaler.latestWasReady
    if state.scaler.nextTick(now: now) <= now {
      tick(replicas)
    } else {
      state.scaler.observe(replicas)
    }
    scalerMoved = scalerMoved || state.scaler.latestWasReady != wasReady
    wake(at: state.scaler.nextTick(now: now))
    let mode = state.scaler.mode
    let versions = state.versions
    state.service.activeVersions = Rollout.activeVersions(
      replicas, latest: state.scaler.version, mode: mode, before: state.service.activeVersions
    ) { versions[$0]?.service.policy.minReplicas ?? 1 }
    var decisions = state.scaler.decisions(replicas, activeVersions: state.service.activeVersions)
    var version = state.scaler.version
    var serving = replicas.count { $0.isReady && state.service.activeVersions.contains($0.version) }
    if state.scaler.isFrozen(replicas), let good = standIn(replicas) {
      // The new version does not work: the one that does is kept at its number.
      version = good.number
      var old = Autoscaler(version: good.number, spec: good.service)
      old.standIn(target: state.scaler.target)
      // All together no more than an update may have.
      let room = max(0, 2 * state.scaler.finalTarget - replicas.count { $0.isAlive })
      decisions = Array(
        old.decisions(replicas.filter { $0.version == good.number }, activeVersions: [])
          .filter { $0.isLaunch }.prefix(room))
      // What is older still goes as far as enough others serve.
      let older = replicas.filter { $0.version < good.number && $0.isAlive }
      let spare = serving - max(old.finalTarget, state.scaler.finalTarget)
      decisions += ScaleDownOrder.first(spare, of: older).map { .terminate(id: $0.id) }
    }
    // Where spot and on-demand replicas change places, the one that serves stays until the other does.
    for decision in decisions {
      switch decision {
      case .launch(let spot): create(version: version, spot: spot)
      case .terminate(let id):
        let isOutdated = state.replicas[id]!.version < state.scaler.version
        if state.replicas[id]!.status == .ready {
          if !isOutdated, serving <= state.scaler.finalTarget { continue }
          if state.service.activeVersions.contains(state.replicas[id]!.version) { serving -= 1 }
        }
        retire(id, isOutdated ? .outdated : .scaleDown)
      }
    }
  }

  /// The newest older version that has served and still has replicas that do or may.
  private func standIn(_ replicas: [ScalingReplica]) -> VersionRecord? {
    let alive = Set(replicas.lazy.filter { $0.isAlive && $0.version < state.scaler.version }.map(\.version))
    return state.versions.values.filter { $0.wasReady && $0.number < state.scaler.version }
      .max { (alive.contains($0.number) ? 1 : 0, $0.number) < (alive.contains($1.number) ? 1 : 0, $1.number) }
  }

  private mutating func create(version: Int, spot: Bool?) {
    if let notBefore = state.service.launchNotBefore, notBefore > now {
      wake(at: notBefore)
      return
    }
    // What the polls have found of a service before this one keeps its number until it is gone.
    while observed.strangers.contains(state.service.nextReplicaID)
      || observed.operations[state.service.nextReplicaID] != nil
    {
      state.service.nextReplicaID += 1
    }
    let id = state.service.nextReplicaID
    state.service.nextReplicaID += 1
    let asked = state.versions[version]?.task.resources.all.first?.isSpot ?? false
    state.replicas[id] = ReplicaRecord(id: id, version: version, isSpot: spot ?? asked, createdAt: now)
    plan.events.append("replica=\(id) version=\(version) PENDING")
  }

  private mutating func bringDown() {
    for id in state.replicas.keys.sorted() {
      retire(id, .serviceDown)
      // Who purges wants to be rid of it.
      if state.service.purge { state.replicas[id]!.drainDeadline = nil }
    }
  }

  private mutating func advanceStop(_ id: Int) {
    if state.replicas[id]!.down == .scheduled {
      // Nothing was started for it.
      if state.replicas[id]!.launch == .scheduled {
        state.replicas[id]!.down = .succeeded
        return
      }
      if let deadline = state.replicas[id]!.drainDeadline, deadline > now, !isDrained(id) {
        wake(at: deadline)
        return
      }
      state.replicas[id]!.down = .running
    }
    guard state.replicas[id]!.down == .running else { return }
    if case .stopping = observed.operations[id] { return }
    if let notBefore = state.replicas[id]!.stopNotBefore {
      if notBefore > now {
        wake(at: notBefore)
        return
      }
      state.replicas[id]!.stopNotBefore = nil
      state.replicas[id]!.stopAttempts += 1
    } else if state.replicas[id]!.stopAttempts == 0 {
      state.replicas[id]!.stopAttempts = 1
    } else if observed.operations[id] == nil {
      // Stopped, or we were restarted: the next poll tells.
      switch observed.infra[id] {
      case .absent, nil: return
      // An infra that cannot say what there is may well end it.
      case .up, .partial, .unreachable:
        let again = now + Reconciler.Limits.stopRetrySeconds
        state.replicas[id]!.stopNotBefore = again
        wake(at: again)
        return
      }
    }
    let record = state.replicas[id]!
    plan.actions.append(
      .stop(id: id, attempt: record.stopAttempts, keepLogs: record.cause?.isFailure ?? false))
  }

  /// The proxy has taken in that it drains, and has no request on it.
  private func isDrained(_ id: Int) -> Bool {
    guard let entry = state.service.published.entries.first(where: { $0.id == id }) else { return true }
    switch observed.proxy {
    case .absent: return true
    case .silent: return false
    case .reporting(let version, let inFlight):
      guard let since = entry.drainingSince else { return false }
      return version >= since && inFlight[id] ?? 0 == 0
    }
  }

  private mutating func launchWaiting() {
    var slots = observed.launchSlots
    for id in state.replicas.keys.sorted() where state.replicas[id]!.down == nil {
      let record = state.replicas[id]!
      switch record.launch {
      case .scheduled:
        if slots <= 0 { continue }
        slots -= 1
        state.replicas[id]!.launch = .running
      case .running:
        // Nobody works on it: the order was lost with the process that had it.
        if isBusy(id) { continue }
        switch observed.infra[id] {
        case .absent, .partial: break
        case .up, .unreachable, nil: continue
        }
      case .succeeded, .failed, .interrupted: continue
      }
      plan.actions.append(.launch(LaunchOrder(id: id, version: record.version, spot: record.isSpot)))
    }
  }
}

// MARK: - Records that are no longer needed

extension Reconciler.Pass {
  private mutating func tidy() {
    var failed: [Int] = []
    for id in state.replicas.keys.sorted() {
      let record = state.replicas[id]!
      if record.down == .failed, record.purged || state.service.purge {
        state.replicas[id] = nil
      } else if record.down == .succeeded {
        let keeps = record.cause?.isFailure == true && !record.purged && state.service.desired == .running
        if keeps { failed.append(id) } else { state.replicas[id] = nil }
      }
    }
    for id in failed.dropLast(Reconciler.Limits.failedKept) { state.replicas[id] = nil }
    // What failed of versions before the last but one is history once the newest works.
    let latest = state.service.latestVersion
    if state.versions[latest]?.wasReady == true {
      for id in failed where (state.replicas[id]?.version ?? latest) < latest - 1 { state.replicas[id] = nil }
    }
    // Versions stay while something of them runs, and the newest one that worked, to go back to.
    var used = Set(state.replicas.values.map(\.version))
    used.insert(state.service.latestVersion)
    let good = state.versions.values.filter { $0.wasReady && $0.number < state.service.latestVersion }
    if let newest = good.map(\.number).max() { used.insert(newest) }
    for number in state.versions.keys where !used.contains(number) { state.versions[number] = nil }
  }
}

// MARK: - Who takes requests

extension Reconciler.Pass {
  private mutating func publish() {
    var published = state.service.published
    if case .reporting(let version, _) = observed.proxy, version > published.version {
      // It has been told more than we remember: go on from there.
      published.version = version
    }
    let next = published.version + 1
    let active = Set(state.service.activeVersions)
    let known = Dictionary(uniqueKeysWithValues: published.entries.map { ($0.id, $0) })
    var entries: [Published.Entry] = []
    for id in state.replicas.keys.sorted() {
      let record = state.replicas[id]!
      guard let address = record.address, record.down == nil || record.down == .scheduled else { continue }
      let takes =
        state.service.desired == .running && record.status == .ready && active.contains(record.version)
      // Who never took a request has none to finish.
      if !takes, known[id] == nil { continue }
      entries.append(
        Published.Entry(
          id: id, generation: record.generation, address: address, weight: weight(record),
          drainingSince: takes ? nil : known[id]?.drainingSince ?? next))
    }
    published.policy = state.scaler.spec.effectivePolicy
    published.entries = entries
    if published != state.service.published {
      published.version = next
      state.service.published = published
    }
    let told: UInt64? = if case .reporting(let version, _) = observed.proxy { version } else { nil }
    if let told, told < state.service.published.version { plan.publish = state.service.published.snapshot }
    if state.service.desired == .running, observed.proxy == .absent { plan.actions.append(.startProxy) }
  }

  /// What one replica is good for relative to the others, where the file says so.
  private func weight(_ record: ReplicaRecord) -> Double {
    guard case .perAccelerator = state.scaler.spec.policy.targetQps else { return 1 }
    let range = ReplicaEntry.weights
    return min(max(state.scaler.qps(of: record.scaling), range.lowerBound), range.upperBound)
  }
}

extension PolicyName {
  /// The proxy's name of a service's policy. A switch, so that a policy which the proxy does not know does not compile.
  init(_ policy: LoadBalancingPolicy) {
    switch policy {
    case .leastLoad: self = .leastLoad
    case .roundRobin: self = .roundRobin
    case .instanceAwareLeastLoad: self = .instanceAwareLeastLoad
    }
  }
}

extension Published {
  /// As the proxy is told.
  package var snapshot: ReplicaSnapshot {
    let entries = entries.compactMap { entry -> ReplicaEntry? in
      guard let address = try? Endpoint.parse(entry.address) else { return nil }
      return ReplicaEntry(
        id: String(entry.id), generation: entry.generation, address: address, weight: entry.weight,
        state: entry.drainingSince == nil ? .ready : .draining)
    }
    return ReplicaSnapshot(
      version: version, allowEmpty: entries.isEmpty, policy: PolicyName(policy), replicas: entries)
  }
}

// MARK: - The end of the pass

extension Reconciler.Pass {
  private mutating func orderProbes() {
    let interval = state.scaler.spec.probe.interval.value
    for id in state.replicas.keys.sorted() {
      let record = state.replicas[id]!
      guard record.launch == .succeeded, record.down == nil, let address = record.address else { continue }
      let probe = (state.versions[record.version]?.service ?? state.scaler.spec).probe
      plan.probes.append(ProbeOrder(id: id, address: address, probe: probe, interval: interval))
    }
  }

  private mutating func finish() {
    guard state.service.desired == .down, state.replicas.isEmpty else { return }
    if observed.proxy == .absent {
      isOver = true
      plan.actions.append(.forget)
      plan.wakeAt = nil
    } else {
      plan.actions.append(.stopProxy)
    }
  }
}

extension ScaleDecision {
  fileprivate var isLaunch: Bool { if case .launch = self { true } else { false } }
}
