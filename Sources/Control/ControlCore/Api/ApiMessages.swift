// What `sky` and the controller say to each other: JSON over HTTP/1.1 on `controller.sock`.
//
//   GET  /v1/health                                            → HealthReply
//   POST /v1/estimate              EstimateRequest             → EstimateReply    what a replica would run on
//   POST /v1/services              UpRequest                   → UpReply          201
//   GET  /v1/services[?name=a&name=b]                          → StatusReply      names may be globs (`web-*`)
//   POST /v1/services/NAME/update  UpdateRequest               → UpdateReply
//   POST /v1/services/NAME/rollback                            → UpdateReply
//   GET  /v1/services/NAME/history                             → HistoryReply
//   POST /v1/down                  DownRequest                 → DownReply        names may be globs
//   POST /v1/services/NAME/replicas/ID/terminate  TerminateRequest → MessageReply
//   GET  /v1/services/NAME/logs?target=controller|load_balancer|replica[&replica=ID][&follow=1][&tail=N]
//                                                              → text/plain, chunked; ends when the log does
//   GET  /v1/local                                             → LocalReply       `sky check`, `sky show-gpus`
//
// Errors are ErrorReply with 400 (what was sent is wrong), 404 (no such service or replica), 409 (not now) or 500.
// Keys are snake_case; unknown ones are ignored, so that an older program can read a newer one's answer. Times are
// seconds since 1970.

import Foundation

package enum ApiCodec {
  package static func encode(_ value: some Encodable) -> Data {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(value) else { preconditionFailure("every message can be written as JSON") }
    return data
  }

  package static func decode<Value: Decodable>(_ type: Value.Type, from data: Data) throws -> Value {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(type, from: data)
  }
}

package struct ErrorReply: Hashable, Codable, Sendable {
  /// Whole sentences for people, in SkyServe's words where it has some.
  package var error: String

  package init(error: String) { self.error = error }
}

package struct MessageReply: Hashable, Codable, Sendable {
  package var message: String

  package init(message: String) { self.message = message }
}

package struct HealthReply: Hashable, Codable, Sendable {
  package var version: String
  package var pid: Int32
  package var startedAt: Double
  package var services: Int
  /// What keeps it from doing its work, for people.
  package var problem: String?

  package init(version: String, pid: Int32, startedAt: Double, services: Int, problem: String? = nil) {
    self.version = version
    self.pid = pid
    self.startedAt = startedAt
    self.services = services
    self.problem = problem
  }
}

/// A task travels as the JSON text of its own coding (`TaskSpec` is Codable; snake_case conversion would change the
/// user's own keys), with every local path made absolute by the CLI.
package struct TaskText: Hashable, Codable, Sendable {
  package var json: String

  package init(_ task: TaskSpec) throws {
    json = String(decoding: try JSONEncoder().encode(task), as: UTF8.self)
  }

  package func task() throws -> TaskSpec { try JSONDecoder().decode(TaskSpec.self, from: Data(json.utf8)) }
}

package struct EstimateRequest: Hashable, Codable, Sendable {
  package var task: TaskText

  package init(task: TaskText) { self.task = task }
}

package struct EstimateReply: Hashable, Codable, Sendable {
  package var offers: [Offer]
  /// Worth telling before the user is asked, such as fields that mean nothing here.
  package var notes: [String]

  package init(offers: [Offer], notes: [String] = []) {
    self.offers = offers
    self.notes = notes
  }
}

package struct UpRequest: Hashable, Codable, Sendable {
  package var name: String
  package var task: TaskText

  package init(name: String, task: TaskText) {
    self.name = name
    self.task = task
  }
}

package struct UpReply: Hashable, Codable, Sendable {
  package var name: String
  package var endpoint: String

  package init(name: String, endpoint: String) {
    self.name = name
    self.endpoint = endpoint
  }
}

package struct UpdateRequest: Hashable, Codable, Sendable {
  package var task: TaskText
  package var mode: UpdateMode

  package init(task: TaskText, mode: UpdateMode) {
    self.task = task
    self.mode = mode
  }
}

package struct UpdateReply: Hashable, Codable, Sendable {
  package var name: String
  package var version: Int
  /// Running replicas were taken over as they are: only the service section changed.
  package var replicasKept: Bool
  package var notes: [String]

  package init(name: String, version: Int, replicasKept: Bool, notes: [String] = []) {
    self.name = name
    self.version = version
    self.replicasKept = replicasKept
    self.notes = notes
  }
}

package struct DownRequest: Hashable, Codable, Sendable {
  /// Names or globs; empty with `all`.
  package var names: [String]
  package var all: Bool
  package var purge: Bool

  package init(names: [String], all: Bool, purge: Bool) {
    self.names = names
    self.all = all
    self.purge = purge
  }
}

package struct DownReply: Hashable, Codable, Sendable {
  /// Those that will be terminated.
  package var names: [String]
  /// One sentence each about those that were skipped.
  package var skipped: [String]

  package init(names: [String], skipped: [String]) {
    self.names = names
    self.skipped = skipped
  }
}

package struct TerminateRequest: Hashable, Codable, Sendable {
  package var purge: Bool

  package init(purge: Bool) { self.purge = purge }
}

package struct HistoryReply: Hashable, Codable, Sendable {
  package struct Version: Hashable, Codable, Sendable {
    package var version: Int
    package var createdAt: Double
    package var mode: UpdateMode
    package var wasReady: Bool
    package var isActive: Bool
    package var rollbackOf: Int?
    /// `Fixed 2 replicas`, `1x[L4:1]`.
    package var policy: String
    package var requestedResources: String
    /// The file in its longest form, secrets hidden.
    package var yaml: String

    package init(
      version: Int, createdAt: Double, mode: UpdateMode, wasReady: Bool, isActive: Bool, rollbackOf: Int?,
      policy: String, requestedResources: String, yaml: String
    ) {
      self.version = version
      self.createdAt = createdAt
      self.mode = mode
      self.wasReady = wasReady
      self.isActive = isActive
      self.rollbackOf = rollbackOf
      self.policy = policy
      self.requestedResources = requestedResources
      self.yaml = yaml
    }
  }

  package var name: String
  /// Ascending.
  package var versions: [Version]

  package init(name: String, versions: [Version]) {
    self.name = name
    self.versions = versions
  }
}

package struct ReplicaStatusReport: Hashable, Codable, Sendable {
  package var replicaId: Int
  package var version: Int
  package var status: ReplicaStatus
  /// Shown as `PROVISIONING (detail)`.
  package var statusDetail: String?
  /// Why it is not READY, whatever its state.
  package var reason: String?
  /// `http://127.0.64.1:8080`
  package var endpoint: String?
  package var isSpot: Bool
  package var launchedAt: Double?
  /// `Local (this machine)`
  package var infra: String?
  /// `1x(cpus=2, mem=2, ...)` and the same in full.
  package var resourcesStr: String?
  package var resourcesStrFull: String?
  package var inFlight: Int?

  package init(replicaId: Int, version: Int, status: ReplicaStatus, isSpot: Bool) {
    self.replicaId = replicaId
    self.version = version
    self.status = status
    self.isSpot = isSpot
  }
}

package struct ServiceStatusReport: Hashable, Codable, Sendable {
  package var name: String
  /// The latest.
  package var version: Int
  /// Those that take traffic, ascending.
  package var activeVersions: [Int]
  package var status: ServiceStatus
  /// Why it is not READY.
  package var reason: String?
  package var createdAt: Double
  /// When the first replica was ready for the first time; UPTIME counts from there.
  package var uptimeSince: Double?
  package var endpoint: String?
  package var tlsEncrypted: Bool
  package var policy: String
  package var loadBalancingPolicy: String
  package var requestedResourcesStr: String
  package var targetNumReplicas: Int
  /// Of the last minute, per second.
  package var requestRate: Double
  package var replicaInfo: [ReplicaStatusReport]

  package init(
    name: String, version: Int, activeVersions: [Int], status: ServiceStatus, createdAt: Double, tlsEncrypted: Bool,
    policy: String, loadBalancingPolicy: String, requestedResourcesStr: String, targetNumReplicas: Int,
    requestRate: Double, replicaInfo: [ReplicaStatusReport]
  ) {
    self.name = name
    self.version = version
    self.activeVersions = activeVersions
    self.status = status
    self.createdAt = createdAt
    self.tlsEncrypted = tlsEncrypted
    self.policy = policy
    self.loadBalancingPolicy = loadBalancingPolicy
    self.requestedResourcesStr = requestedResourcesStr
    self.targetNumReplicas = targetNumReplicas
    self.requestRate = requestRate
    self.replicaInfo = replicaInfo
  }
}

package struct StatusReply: Hashable, Codable, Sendable {
  /// By name.
  package var services: [ServiceStatusReport]
  /// Names asked for that match nothing.
  package var missing: [String]
  /// For some of these, the name that may have been meant.
  package var similar: [String: String]

  package init(services: [ServiceStatusReport], missing: [String], similar: [String: String] = [:]) {
    self.services = services
    self.missing = missing
    self.similar = similar
  }
}

package struct LocalReply: Hashable, Codable, Sendable {
  package struct Gpu: Hashable, Codable, Sendable {
    package var name: String
    package var total: Int
    package var free: Int
    /// GB each, where known.
    package var memory: Double?

    package init(name: String, total: Int, free: Int, memory: Double?) {
      self.name = name
      self.total = total
      self.free = free
      self.memory = memory
    }
  }

  package var cpus: Int
  package var cpusFree: Double
  /// GB.
  package var memory: Double
  package var memoryFree: Double
  package var gpus: [Gpu]
  /// How replicas get their ports: own loopback addresses, or one port each where the filter cannot be installed.
  package var addressing: String
  package var servicesMax: Int

  package init(
    cpus: Int, cpusFree: Double, memory: Double, memoryFree: Double, gpus: [Gpu], addressing: String, servicesMax: Int
  ) {
    self.cpus = cpus
    self.cpusFree = cpusFree
    self.memory = memory
    self.memoryFree = memoryFree
    self.gpus = gpus
    self.addressing = addressing
    self.servicesMax = servicesMax
  }
}

/// Whose log is asked for.
package enum LogTarget: Hashable, Sendable {
  case controller
  case loadBalancer
  case replica(Int)
}
