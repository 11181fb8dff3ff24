// The words for how a replica and a service are doing, spelt as SkyServe spells them on screen.
//
// A replica's word is never stored: it is derived from the facts in its record (ReplicaRecord.status), so it cannot
// disagree with them. A service's word is derived from its replicas.

package enum ReplicaStatus: String, CaseIterable, Codable, Hashable, Sendable {
  case pending = "PENDING"
  case provisioning = "PROVISIONING"
  case starting = "STARTING"
  case ready = "READY"
  case notReady = "NOT_READY"
  case shuttingDown = "SHUTTING_DOWN"
  case failed = "FAILED"
  case failedInitialDelay = "FAILED_INITIAL_DELAY"
  case failedProbing = "FAILED_PROBING"
  case failedProvision = "FAILED_PROVISION"
  case failedCleanup = "FAILED_CLEANUP"
  case preempted = "PREEMPTED"
  case unknown = "UNKNOWN"

  package var isFailed: Bool {
    switch self {
    case .failed, .failedCleanup, .failedInitialDelay, .failedProbing, .failedProvision, .unknown: true
    case .pending, .provisioning, .starting, .ready, .notReady, .shuttingDown, .preempted: false
    }
  }

  /// Will never serve (again).
  package var isTerminal: Bool { isFailed || self == .shuttingDown || self == .preempted }

  /// Who goes first when there are too many: what has cost least so far.
  package var scaleDownRank: Int {
    switch self {
    case .pending: 0
    case .provisioning: 1
    case .starting: 2
    case .notReady: 3
    case .ready: 4
    case .shuttingDown, .preempted, .failed, .failedInitialDelay, .failedProbing, .failedProvision, .failedCleanup,
      .unknown:
      5
    }
  }
}

package enum ServiceStatus: String, CaseIterable, Codable, Hashable, Sendable {
  case controllerInit = "CONTROLLER_INIT"
  case replicaInit = "REPLICA_INIT"
  case controllerFailed = "CONTROLLER_FAILED"
  case ready = "READY"
  case shuttingDown = "SHUTTING_DOWN"
  case failed = "FAILED"
  case failedCleanup = "FAILED_CLEANUP"
  case noReplica = "NO_REPLICA"

  /// Nothing but a purge gets a service out of these.
  package var isFailed: Bool { self == .controllerFailed || self == .failedCleanup }
  package var refusesUpdates: Bool { isFailed || self == .shuttingDown }

  /// | replicas                  | service      |
  /// |---------------------------|--------------|
  /// | one READY                 | READY        |
  /// | else one failed           | FAILED       |
  /// | none                      | NO_REPLICA   |
  /// | else (on their way, going) | REPLICA_INIT |
  ///
  /// SkyServe documents this and then asks only the ready replicas, so it never says FAILED; here it does.
  package static func of(_ replicas: some Sequence<ReplicaStatus>) -> ServiceStatus {
    var any = false
    var failed = false
    for status in replicas {
      if status == .ready { return .ready }
      any = true
      failed = failed || status.isFailed
    }
    return failed ? .failed : any ? .replicaInit : .noReplica
  }
}
