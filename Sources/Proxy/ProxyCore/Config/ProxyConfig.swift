// What sky-proxy was asked to do: plain values, read once at start from flags, environment and file.
//
// The defaults, ranges and texts of all of it are the rows of `ConfigRow.all` (ConfigRows.swift); the values below are
// zero until a row has set them. `ProxyConfig()` is the configuration of a start without flags.

import ProxyWire

package struct ProxyConfig: Equatable, Sendable {
  // Listening
  package var listen: [Endpoint] = []
  package var admin: [Endpoint] = []
  /// As `HostName.folded` has them.
  package var adminHosts: [String] = []
  /// 0 = one per core.
  package var workers = 0
  /// Paths; both or neither.
  package var tlsCert: String?
  package var tlsKey: String?
  /// 0 = as many as workers.
  package var tlsThreads = 0

  // Replicas and routing
  package var replicas: [ReplicaOption] = []
  package var policy = PolicyName.leastLoad
  /// Of a replica that names none itself; 0 = no limit.
  package var maxInFlight = 0
  package var queueSize = 0
  package var resolveIntervalNs: UInt64 = 0
  package var maxReplicas = 0
  package var poolSize = 0

  // Limits
  package var maxConnections = 0
  package var maxHeadBytes = 0
  package var maxTargetBytes = 0
  package var maxFields = 0
  /// 0 = no limit.
  package var maxBodyBytes = 0

  // Deadlines: nanoseconds, 0 = none unless said otherwise.
  package var queueTimeoutNs: UInt64 = 0
  package var headTimeoutNs: UInt64 = 0
  package var idleTimeoutNs: UInt64 = 0
  package var connectTimeoutNs: UInt64 = 0
  package var responseTimeoutNs: UInt64 = 0
  package var streamTimeoutNs: UInt64 = 0
  package var tunnelTimeoutNs: UInt64 = 0
  /// 0 = open exchanges are cut at once.
  package var drainTimeoutNs: UInt64 = 0
  /// Of a replica, not of the process; 0 = none.
  package var drainDeadlineNs: UInt64 = 0
  /// 0 = no idle connection is kept.
  package var poolIdleTimeoutNs: UInt64 = 0
  /// Of a connection that was answered for the last time: silence, and in all.
  package var lingerTimeoutNs: UInt64 = 0
  package var lingerTotalNs: UInt64 = 0
  /// Idle time before the first probe; 0 = none.
  package var tcpKeepaliveNs: UInt64 = 0
  /// 0 = as the kernel has it.
  package var tcpUserTimeoutNs: UInt64 = 0
  package var halfCloseGraceNs: UInt64 = 0
  package var clientHalfClose = HalfClose.leave

  // Retries and ejection
  package var maxAttempts = 0
  package var retryBudgetPercent = 0
  package var retryBurst = 0
  /// 0 = never.
  package var ejectAfter = 0
  /// 0 = never.
  package var eject5xx = 0
  package var ejectMinNs: UInt64 = 0
  package var ejectMaxNs: UInt64 = 0

  // Memory
  package var buffers = 0
  package var bufferSize = 0
  package var streamWindow = 0
  /// 0 = stalled peers are closed when their buffers are needed.
  package var spillMemory = 0
  /// 0 = the kernel grows it as the connection allows.
  package var sendBuffer = 0
  /// 0 = every completion is taken at once.
  package var batchWaitNs: UInt64 = 0

  // Headers
  package var forwarded = Forwarded.replace
  /// Empty = no Via field.
  package var viaName = ""
  package var requestId = false

  // Observability
  package var accessLog = AccessLogPlace.off
  package var accessLogFormat = AccessLogFormat.json
  package var accessLogQuery = false
  package var reportIntervalNs: UInt64 = 0

  // Other
  package var printPlan = false
  package var configFile: String?

  /// What a FIN from the client means once the grace has passed.
  package enum HalfClose: String, CaseIterable, Sendable { case leave, answer }
  package enum Forwarded: String, CaseIterable, Sendable { case append, replace, off }
  package enum AccessLogFormat: String, CaseIterable, Sendable { case json, text }

  package enum AccessLogPlace: Equatable, Sendable {
    case off
    case standardOutput
    case file(path: String)
  }

  /// A start without flags.
  package init() { self = Self.defaults }

  private static let defaults: ProxyConfig = {
    var config = ProxyConfig(blank: ())
    for row in ConfigRow.all {
      for text in row.defaults {
        if let problem = row.kind.store(text, &config) {
          preconditionFailure("the default of --\(row.name) is not in its own range: \(problem)")
        }
      }
    }
    return config
  }()

  private init(blank: Void) {}
}

/// A replica given with --replica.
package struct ReplicaOption: Equatable, Sendable {
  /// A name stays a name; it is resolved at start and every resolve-interval.
  package var endpoint: Endpoint
  package var weight: Double
  /// nil = --max-in-flight counts.
  package var maxInFlight: Int?

  package init(endpoint: Endpoint, weight: Double = 1, maxInFlight: Int? = nil) {
    self.endpoint = endpoint
    self.weight = weight
    self.maxInFlight = maxInFlight
  }

  /// As it would be written: `10.0.0.7:8080;weight=2;max_in_flight=8`.
  package var text: String {
    var result = endpoint.description
    if weight != 1 { result += ";weight=\(Int(exactly: weight).map(String.init) ?? "\(weight)")" }
    if let maxInFlight { result += ";max_in_flight=\(maxInFlight)" }
    return result
  }
}

/// sky-proxy's own version, as --version says it.
package enum ProxyVersion {
  package static let text = "0.1.0"
}
