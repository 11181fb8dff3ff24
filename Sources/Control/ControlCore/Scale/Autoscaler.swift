// How many replicas a service should have, and which to launch or stop to get there.
//
// Two verbs, because they happen at different times. `tick` looks at the load every 20 seconds and may move the target;
// `decisions` compares the target with the replicas there are, at any moment, as often as asked: it changes nothing, so
// two looks at the same replicas give the same answer.
//
//   arrivals ─▶ RequestRate ─▶ wanted ─▶ Hysteresis ─▶ target ─┐
//                                                             ├─▶ decisions: launch(spot?) · terminate(id)
//                                     replicas ────────────────┘
//
// It is a plain value that can be stored: after a restart, and after an update to any other policy, it goes on from
// where it was.

package enum UpdateMode: String, CaseIterable, Codable, Hashable, Sendable {
  case rolling
  case blueGreen = "blue_green"
}

package enum ScaleDecision: Hashable, Sendable {
  /// nil: as the file says.
  case launch(spot: Bool?)
  case terminate(id: Int)
}

package struct Autoscaler: Hashable, Codable, Sendable {
  /// Seconds between ticks, and while nothing runs.
  package static let tickSeconds = Hysteresis.tickSeconds
  package static let tickSecondsAtZero = 5.0

  package private(set) var version: Int
  package private(set) var spec: ServiceSpec
  package private(set) var mode: UpdateMode
  package private(set) var target: Int
  package private(set) var hysteresis: Hysteresis
  package private(set) var rate = RequestRate()
  /// A replica of the latest version was ready once: failures are the replicas', not the version's.
  package private(set) var latestWasReady = false
  /// Seconds since 1970.
  package private(set) var lastTick: Double?

  package init(version: Int, spec: ServiceSpec, mode: UpdateMode = .rolling) {
    self.version = version
    self.spec = spec
    self.mode = mode
    target = spec.policy.minReplicas
    hysteresis = Hysteresis(upscaleDelay: spec.upscaleDelay, downscaleDelay: spec.downscaleDelay)
  }

  /// The target and the spare ones; spare ones are not bounded by the maximum.
  package var finalTarget: Int {
    // Earlier versions took any number, and a sum of such does not fit.
    let most = Bounds.replicas.upperBound
    return min(target, most) + min(spec.policy.numOverprovision ?? 0, most)
  }

  /// Every policy may follow every other. The target is kept within the new bounds, and raised at once where the load
  /// already asks for more: an update never makes a busy service smaller (SkyServe falls to the minimum here).
  package mutating func update(version: Int, spec: ServiceSpec, mode: UpdateMode, now: Double) {
    if version <= self.version { return }
    self.version = version
    self.spec = spec
    self.mode = mode
    latestWasReady = false
    hysteresis = Hysteresis(upscaleDelay: spec.upscaleDelay, downscaleDelay: spec.downscaleDelay)
    target = clipped(target)
    if case .perReplica = spec.policy.targetQps { target = max(target, wanted([], now: now)) }
  }

  /// For an older version that works, while a newer one does not: as many as that should have had.
  mutating func standIn(target: Int) {
    self.target = clipped(target)
    latestWasReady = true
  }

  package mutating func observe(arrivals: Int, at now: Double) { rate.add(arrivals, at: now) }

  /// Remembers that the version works. Called with every look at the replicas, ticks or not.
  package mutating func observe(_ replicas: [ScalingReplica]) {
    latestWasReady = latestWasReady || replicas.contains { $0.version == version && $0.isReady }
  }

  /// When to look at the load again.
  package func nextTick(now: Double) -> Double {
    guard let lastTick else { return now }
    guard finalTarget == 0 else { return lastTick + (shortDelay(now) ?? Self.tickSeconds) }
    // Whoever asks while nothing runs is waiting already. Not more often than every second: the target may stay 0.
    let asked = rate.count(now: now) > 0 && spec.policy.targetQps != nil
    return lastTick + (asked ? 1 : Self.tickSecondsAtZero)
  }

  /// A delay that is shorter than the time between looks is kept by looking earlier, when the load asks for a change.
  private func shortDelay(_ now: Double) -> Double? {
    guard case .perReplica = spec.policy.targetQps else { return nil }
    let wanted = wanted([], now: now)
    let delay = wanted > target ? spec.upscaleDelay : wanted < target ? spec.downscaleDelay : .infinity
    return delay < Self.tickSeconds ? max(1, delay) : nil
  }

  /// One look at the load.
  package mutating func tick(_ replicas: [ScalingReplica], now: Double) {
    lastTick = now
    observe(replicas)
    if isFrozen(replicas) { return }
    target = hysteresis.settle(target, wanted: wanted(replicas, now: now))
  }

  /// A version that fails before it ever served is not tried again and again: fix it with another update.
  package func isFrozen(_ replicas: [ScalingReplica]) -> Bool {
    if latestWasReady { return false }
    return replicas.contains { $0.version == version && $0.isHopeless }
      && !replicas.contains { $0.version == version && $0.isReady }
  }
}

// MARK: - How many

extension Autoscaler {
  private func clipped(_ count: Int) -> Int {
    let low = spec.policy.minReplicas
    return max(low, min(spec.policy.maxReplicas ?? low, count))
  }

  private func wanted(_ replicas: [ScalingReplica], now: Double) -> Int {
    let load = rate.perSecond(now: now)
    switch spec.policy.targetQps {
    case nil: return clipped(spec.policy.minReplicas)
    case .perReplica(let qps): return clipped(Self.whole((load / qps.value).rounded(.up)))
    case .perAccelerator: return wantedByAccelerator(replicas, load)
    }
  }

  /// Replicas differ in what they are good for, so the ones there are decide how many are enough.
  private func wantedByAccelerator(_ replicas: [ScalingReplica], _ load: Double) -> Int {
    let serving = replicas.filter { [.ready, .starting, .provisioning].contains($0.status) }
    let capacity = serving.reduce(0) { $0 + qps(of: $1) }
    if capacity == 0 { return clipped(spec.policy.minReplicas) }
    let best = qpsTable.map(\.qps.value).max() ?? 1
    if load >= capacity {
      let alive = replicas.count { $0.isAlive }
      return clipped(alive + Self.whole(((load - capacity) / best).rounded(.up)))
    }
    var ready = replicas.filter(\.isReady).map(qps(of:)).sorted(by: >)
    if ready.isEmpty { ready = [best] }
    var sum = 0.0
    for (index, qps) in ready.enumerated() {
      sum += qps
      if sum > load { return clipped(index + 1) }
    }
    // The ready ones do not carry it alone, but with what is on its way they will: nothing to add.
    return clipped(ready.count)
  }

  private static func whole(_ value: Double) -> Int { Int(clamping: min(max(value, 0), 1e9)) }

  private var qpsTable: [ServiceSpec.AcceleratorQps] {
    if case .perAccelerator(let table) = spec.policy.targetQps { table } else { [] }
  }

  /// `A100:8` as it is written, else any entry for A100, else the most careful one.
  package func qps(of replica: ScalingReplica) -> Double {
    let table = qpsTable
    if let accelerator = replica.accelerator {
      let name = accelerator.name.uppercased()
      let exact = ["\(name):\(accelerator.count)", name]
      for key in exact { if let entry = table.first(where: { $0.accelerator == key }) { return entry.qps.value } }
      if let entry = table.first(where: { $0.accelerator.prefix { $0 != ":" } == name }) { return entry.qps.value }
    }
    return table.map(\.qps.value).min() ?? 1
  }
}

// MARK: - Which

extension Autoscaler {
  /// What to do now. `activeVersions` are those that take traffic.
  package func decisions(_ replicas: [ScalingReplica], activeVersions: [Int]) -> [ScaleDecision] {
    if isFrozen(replicas) { return [] }
    var result = Rollout.outdated(
      replicas, latest: version, mode: mode, wanted: finalTarget, activeVersions: activeVersions
    ).map { ScaleDecision.terminate(id: $0.id) }
    let latest = replicas.filter { $0.version == version && $0.isAlive }
    if spec.usesOndemandFallback {
      result += fallback(latest)
    } else {
      result += balance(latest, wanted: finalTarget, spot: nil)
    }
    return result
  }

  private func balance(_ alive: [ScalingReplica], wanted: Int, spot: Bool?) -> [ScaleDecision] {
    let missing = wanted - alive.count
    if missing >= 0 { return Array(repeating: .launch(spot: spot), count: missing) }
    return ScaleDownOrder.first(-missing, of: alive) { qpsTable.isEmpty ? 0 : qps(of: $0) }
      .map { .terminate(id: $0.id) }
  }

  /// Spot replicas, a fixed number of on-demand ones, and on-demand ones that stand in for spot ones not yet ready.
  private func fallback(_ alive: [ScalingReplica]) -> [ScaleDecision] {
    let base = spec.policy.baseOndemandFallbackReplicas ?? 0
    let spots = alive.filter(\.isSpot)
    let wantedSpots = max(0, finalTarget - base)
    var wantedOndemand = base
    if spec.policy.dynamicOndemandFallback == true {
      wantedOndemand += max(0, finalTarget - base - spots.count { $0.isReady })
    }
    return balance(spots, wanted: wantedSpots, spot: true)
      + balance(alive.filter { !$0.isSpot }, wanted: min(wantedOndemand, target), spot: false)
  }
}
