// What the controller remembers: everything it needs to go on after it was killed at any moment.
//
//   ControlState ─ one ServiceState per name ─┬─ ServiceRecord   what was asked, what was published
//                                             ├─ VersionRecord   the file of each version that still has replicas
//                                             ├─ ReplicaRecord   the facts of each replica
//                                             └─ Autoscaler      target, counters, the last minute's load
//
// Written only as Mutations through the Store; changed only by Commands (what people ask) and Reconciler.plan.
// Times are seconds since 1970.

package struct ReplicaRecord: Hashable, Codable, Sendable {
  //           ┌──────────────── scale-down while launching ───────────────┐
  //           │                                                           ▼
  //   scheduled ──▶ running ──▶ succeeded                            interrupted
  //   (waits its turn)   └────▶ failed
  package enum Launch: String, Hashable, Codable, Sendable { case scheduled, running, succeeded, failed, interrupted }

  //   nil ──▶ scheduled ──▶ running ──▶ succeeded (removed, or kept to show why)
  //           (drains)       │  ▲  └──▶ failed (a machine may be left)
  //                          └──┘ tried again
  package enum Down: String, Hashable, Codable, Sendable { case scheduled, running, succeeded, failed }

  /// Why it goes. The first cause stays.
  package enum Cause: String, Hashable, Codable, Sendable {
    case scaleDown = "scale_down"
    case outdated
    case asked
    case serviceDown = "service_down"
    case preempted
    case userAppFailed = "user_app_failed"
    case initialDelay = "initial_delay"
    case probing
    case provision

    /// The record stays, to show what happened.
    package var isFailure: Bool {
      switch self {
      case .userAppFailed, .initialDelay, .probing, .provision: true
      case .scaleDown, .outdated, .asked, .serviceDown, .preempted: false
      }
    }
  }

  package var id: Int
  package var version: Int
  package var isSpot: Bool
  package var createdAt: Double

  package var launch = Launch.scheduled
  package var launchedAt: Double?
  /// What the infra says while it launches, shown as PROVISIONING (detail).
  package var detail: String?

  package var down: Down?
  package var cause: Cause?
  /// For people: the last line of whatever went wrong.
  package var reason: String?
  package var downAt: Double?
  /// Remove the record whatever became of the machine.
  package var purged = false

  package var readyNow = false
  package var firstReadyAt: Double?
  package var lastProbeAt: Double?
  package var firstNotReadyAt: Double?
  /// The first of the consecutive failed probes.
  package var failingSince: Double?

  /// Where requests go; the generation counts how often that changed.
  package var address: String?
  package var generation: UInt64 = 1
  /// What it runs on, once known.
  package var chosen: ResourceSpec?

  /// No new requests since; stopped at the latest at the deadline.
  package var drainDeadline: Double?
  package var stopAttempts = 0
  package var stopNotBefore: Double?

  package init(id: Int, version: Int, isSpot: Bool, createdAt: Double) {
    self.id = id
    self.version = version
    self.isSpot = isSpot
    self.createdAt = createdAt
  }
}

extension ReplicaRecord {
  package var wasEverReady: Bool { firstReadyAt != nil }

  /// The first row that fits, from the top.
  package var status: ReplicaStatus {
    if launch == .scheduled, down == nil { return .pending }
    if launch == .running {
      switch down {
      case .failed: return .failedCleanup
      case .succeeded: return .unknown
      case nil, .scheduled, .running: return .provisioning
      }
    }
    if launch == .interrupted { return down == .failed ? .failedCleanup : .shuttingDown }
    if down != nil, cause == .preempted { return .preempted }
    switch down {
    case .scheduled, .running: return .shuttingDown
    case .failed: return .failedCleanup
    case .succeeded:
      if cause == .userAppFailed { return .failed }
      if launch == .failed { return .failedProvision }
      if cause == .initialDelay { return .failedInitialDelay }
      if firstReadyAt == nil { return .shuttingDown }
      return readyNow ? .unknown : .failedProbing
    case nil: break
    }
    if launch == .failed || cause == .userAppFailed { return .failedCleanup }
    if readyNow { return .ready }
    return wasEverReady ? .notReady : .starting
  }

  /// Why it is being stopped, for people. `latest`: the service's newest version.
  package func stopReason(latest: Int) -> String {
    switch cause {
    case .scaleDown: "scaled down"
    case .outdated: "replaced by version \(latest)"
    case .asked: "asked to go"
    case .serviceDown: "the service is terminated"
    case .preempted, .userAppFailed, .initialDelay, .probing, .provision, nil: reason ?? "is being stopped"
    }
  }

  /// Another replica of the same version would fail the same way.
  package var isHopeless: Bool {
    status.isTerminal && !wasEverReady && (cause == .initialDelay || cause == .userAppFailed)
  }

  package var scaling: ScalingReplica {
    ScalingReplica(
      id: id, version: version, status: status, isSpot: isSpot, accelerator: chosen?.accelerator,
      isHopeless: isHopeless)
  }
}

package struct VersionRecord: Hashable, Codable, Sendable {
  package var number: Int
  package var task: TaskSpec
  package var mode: UpdateMode
  package var createdAt: Double
  /// A replica of it was ready once; what a rollback may go back to.
  package var wasReady = false
  /// It is the same as this earlier one, brought back.
  package var rollbackOf: Int?

  package init(number: Int, task: TaskSpec, mode: UpdateMode, createdAt: Double) {
    self.number = number
    self.task = task
    self.mode = mode
    self.createdAt = createdAt
  }

  package var service: ServiceSpec { task.service ?? ServiceSpec() }
}

/// The list the proxy was last told.
package struct Published: Hashable, Codable, Sendable {
  package struct Entry: Hashable, Codable, Sendable {
    package var id: Int
    package var generation: UInt64
    package var address: String
    package var weight: Double
    /// The snapshot from which on it takes no new requests; nil: it takes them.
    package var drainingSince: UInt64?
  }

  package var version: UInt64 = 0
  package var policy = LoadBalancingPolicy.leastLoad
  /// By id.
  package var entries: [Entry] = []

  package init() {}
}

package struct ServiceRecord: Hashable, Codable, Sendable {
  package enum Desired: String, Hashable, Codable, Sendable { case running, down }

  package var name: String
  package var createdAt: Double
  package var desired = Desired.running
  /// `down --purge`: forget what cannot be cleaned up.
  package var purge = false
  /// Where the proxy listens.
  package var port: Int
  package var latestVersion = 1
  /// Never goes back, so an id names one replica for ever.
  package var nextReplicaID = 1
  /// When the service was ready for the first time; its uptime counts from there.
  package var firstReadyAt: Double?
  package var plannedAt: Double?
  package var published = Published()
  package var activeVersions: [Int] = []
  /// Replicas that failed since the last one that stayed ready (one that became ready leaves one of them), and until
  /// when no other is tried.
  package var failuresInARow = 0
  package var launchNotBefore: Double?

  package init(name: String, port: Int, createdAt: Double) {
    self.name = name
    self.port = port
    self.createdAt = createdAt
  }
}

package struct ServiceState: Hashable, Codable, Sendable {
  package var service: ServiceRecord
  package var versions: [Int: VersionRecord] = [:]
  package var replicas: [Int: ReplicaRecord] = [:]
  package var scaler: Autoscaler

  package init(service: ServiceRecord, scaler: Autoscaler) {
    self.service = service
    self.scaler = scaler
  }

  package var latest: VersionRecord? { versions[service.latestVersion] }

  package var status: ServiceStatus {
    if service.desired == .down {
      return replicas.values.contains { $0.status == .failedCleanup } ? .failedCleanup : .shuttingDown
    }
    if service.plannedAt == nil { return .controllerInit }
    // What failed of earlier versions says nothing of the newest, while there is something of that to look at.
    let newest = replicas.values.contains { $0.version == service.latestVersion } ? service.latestVersion : 0
    return ServiceStatus.of(replicas.values.lazy.filter { !$0.status.isFailed || $0.version >= newest }.map(\.status))
  }

  fileprivate var newestTime: Double {
    var times = [service.createdAt, service.firstReadyAt, service.plannedAt, scaler.lastTick]
    times += versions.values.map(\.createdAt)
    for record in replicas.values {
      times += [record.createdAt, record.launchedAt, record.downAt, record.firstReadyAt, record.lastProbeAt]
    }
    return times.lazy.compactMap { $0 }.max() ?? 0
  }

  /// READY ones, and all that have not failed: the column REPLICAS.
  package var readyAndTotal: (ready: Int, total: Int) {
    let all = replicas.values.map(\.status)
    return (all.count { $0 == .ready }, all.count { !$0.isFailed })
  }
}

package struct ControlState: Hashable, Codable, Sendable {
  package var services: [String: ServiceState] = [:]

  package init() {}

  /// The latest moment that anything in it tells of; 0: of none.
  package var newestTime: Double { services.values.lazy.map(\.newestTime).max() ?? 0 }
}

// MARK: - Changes

/// One change. Applying one twice is the same as applying it once.
package enum Mutation: Hashable, Codable, Sendable {
  /// A new service brings its scaler along; a known one keeps what it has.
  case service(ServiceRecord, scaler: Autoscaler?)
  case version(service: String, VersionRecord)
  case dropVersion(service: String, number: Int)
  case replica(service: String, ReplicaRecord)
  case dropReplica(service: String, id: Int)
  case dropService(String)
}

extension ControlState {
  package mutating func apply(_ mutation: Mutation) {
    switch mutation {
    case .service(let record, let scaler):
      if services[record.name] != nil {
        services[record.name]!.service = record
        if let scaler { services[record.name]!.scaler = scaler }
      } else if let scaler {
        services[record.name] = ServiceState(service: record, scaler: scaler)
      }
    case .version(let name, let record): services[name]?.versions[record.number] = record
    case .dropVersion(let name, let number): services[name]?.versions[number] = nil
    case .replica(let name, let record): services[name]?.replicas[record.id] = record
    case .dropReplica(let name, let id): services[name]?.replicas[id] = nil
    case .dropService(let name): services[name] = nil
    }
  }
}

extension ServiceState {
  /// What leads from `old` to this. The scaler is left out unless asked for: between two looks only its window of
  /// arrivals changes, which is not worth a write.
  package func mutations(since old: ServiceState?, withScaler: Bool) -> [Mutation] {
    var result: [Mutation] = []
    let name = service.name
    if service != old?.service || withScaler {
      result.append(.service(service, scaler: withScaler || old == nil ? scaler : nil))
    }
    for number in versions.keys.sorted() where versions[number] != old?.versions[number] {
      result.append(.version(service: name, versions[number]!))
    }
    for id in replicas.keys.sorted() where replicas[id] != old?.replicas[id] {
      result.append(.replica(service: name, replicas[id]!))
    }
    guard let old else { return result }
    for id in old.replicas.keys.sorted() where replicas[id] == nil {
      result.append(.dropReplica(service: name, id: id))
    }
    for number in old.versions.keys.sorted() where versions[number] == nil {
      result.append(.dropVersion(service: name, number: number))
    }
    return result
  }
}
