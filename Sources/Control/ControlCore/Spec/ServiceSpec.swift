// The `service:` section: what the user promised the world, independent of where the replicas run.
//
// Decoded by ServiceDecoding, kept in every version's record, read by the autoscaler, the prober and the reconciler.

package enum LoadBalancingPolicy: String, CaseIterable, Codable, Hashable, Sendable {
  case roundRobin = "round_robin"
  case leastLoad = "least_load"
  case instanceAwareLeastLoad = "instance_aware_least_load"

  package static let names = allCases.map(\.rawValue)
}

package struct ServiceSpec: Hashable, Codable, Sendable {
  package struct Probe: Hashable, Codable, Sendable {
    package var path = Defaults.readinessPath
    package var initialDelay = Quantity(Defaults.initialDelay)
    package var timeout = Quantity(Defaults.probeTimeout)
    package var interval = Quantity(Defaults.probeInterval)
    /// nil: the default of the service's kind.
    package var failureThreshold: Quantity?
    /// Its presence makes the probe a POST.
    package var postData: PlainValue?
    package var headers: [Header]?
  }

  /// Values are credentials more often than not.
  package struct Header: Hashable, Codable, Sendable, CustomStringConvertible {
    package var name: String
    package var value: String
    package var description: String { "\(name): <redacted>" }
  }

  /// Requests per second one replica is good for.
  package enum TargetQps: Hashable, Codable, Sendable {
    case perReplica(Quantity)
    case perAccelerator([AcceleratorQps])
  }

  package struct AcceleratorQps: Hashable, Codable, Sendable {
    /// `H100` or `H100:8`.
    package var accelerator: String
    package var qps: Quantity
  }

  package struct Policy: Hashable, Codable, Sendable {
    package var minReplicas = Defaults.minReplicas
    package var maxReplicas: Int?
    package var numOverprovision: Int?
    package var targetQps: TargetQps?
    package var dynamicOndemandFallback: Bool?
    package var baseOndemandFallbackReplicas: Int?
    /// Only `dynamic_fallback` exists.
    package var spotPlacer: String?
    package var upscaleDelay: Quantity?
    package var downscaleDelay: Quantity?
  }

  package struct Tls: Hashable, Codable, Sendable {
    package var keyfile: String
    package var certfile: String
  }

  /// A `pool:` instead of a service: workers without traffic.
  package struct Pool: Hashable, Codable, Sendable {
    package var workers: Int?
    package var minWorkers: Int?
    package var maxWorkers: Int?
    package var queueLengthThreshold: Int?
    package var upscaleDelay: Quantity?
    package var downscaleDelay: Quantity?
  }

  package var probe = Probe()
  package var policy = Policy()
  /// nil: the default.
  package var loadBalancingPolicy: LoadBalancingPolicy?
  package var streamTimeout = Quantity(Defaults.streamTimeout)
  /// The replica's port that takes traffic and probes; nil: the only one in `resources.ports`.
  package var port: Int?
  package var tls: Tls?
  package var pool: Pool?

  package init() {}
}

// What follows from the fields.
extension ServiceSpec {
  package var effectivePolicy: LoadBalancingPolicy { loadBalancingPolicy ?? Defaults.loadBalancingPolicy }

  package var usesOndemandFallback: Bool {
    policy.dynamicOndemandFallback == true || (policy.baseOndemandFallbackReplicas ?? 0) > 0
  }

  package var failureThreshold: Double {
    probe.failureThreshold?.value
      ?? Double(pool == nil ? Defaults.failureThreshold : Defaults.failureThresholdOfPools)
  }

  package var upscaleDelay: Double { policy.upscaleDelay?.value ?? Defaults.upscaleDelay }
  package var downscaleDelay: Double { policy.downscaleDelay?.value ?? Defaults.downscaleDelay }
}

// MARK: - Canonical form

extension ServiceSpec {
  /// What a file that says the same in the longest form would have under `service:`.
  package var canonical: PlainValue {
    if let pool {
      var members = Members()
      if pool.maxWorkers != nil {
        members.add("max_workers", pool.maxWorkers.map(PlainValue.int))
        members.add("queue_length_threshold", pool.queueLengthThreshold.map(PlainValue.int))
        members.add("min_workers", .int(policy.minReplicas))
        members.add("upscale_delay_seconds", pool.upscaleDelay?.plain)
        members.add("downscale_delay_seconds", pool.downscaleDelay?.plain)
      } else {
        members.add("workers", .int(policy.minReplicas))
      }
      return .map([.init("pool", .map(members.list))])
    }
    var all = Members()
    var part = Members()
    part.add("path", .string(probe.path))
    part.add("initial_delay_seconds", probe.initialDelay.plain)
    part.add("post_data", probe.postData)
    part.add("timeout_seconds", probe.timeout.plain)
    if probe.interval.value != Double(Defaults.probeInterval) {
      part.add("endpoint_probe_interval_seconds", probe.interval.plain)
    }
    part.add("consecutive_failure_threshold_timeout", probe.failureThreshold?.plain)
    part.add("headers", probe.headers.map { .map($0.map { .init($0.name, .string($0.value)) }) })
    all.add("readiness_probe", .map(part.list))
    if streamTimeout.value != Double(Defaults.streamTimeout) {
      all.add("load_balancer", .map([.init("stream_timeout_seconds", streamTimeout.plain)]))
    }
    part = Members()
    part.add("min_replicas", .int(policy.minReplicas))
    part.add("max_replicas", policy.maxReplicas.map(PlainValue.int))
    part.add("num_overprovision", policy.numOverprovision.map(PlainValue.int))
    part.add("target_qps_per_replica", policy.targetQps?.plain)
    part.add("dynamic_ondemand_fallback", policy.dynamicOndemandFallback.map(PlainValue.bool))
    part.add("base_ondemand_fallback_replicas", policy.baseOndemandFallbackReplicas.map(PlainValue.int))
    part.add("spot_placer", policy.spotPlacer.map(PlainValue.string))
    part.add("upscale_delay_seconds", policy.upscaleDelay?.plain)
    part.add("downscale_delay_seconds", policy.downscaleDelay?.plain)
    all.add("replica_policy", .map(part.list))
    all.add("load_balancing_policy", (loadBalancingPolicy?.rawValue).map(PlainValue.string))
    all.add("ports", port.map(PlainValue.int))
    all.add(
      "tls", tls.map { .map([.init("keyfile", .string($0.keyfile)), .init("certfile", .string($0.certfile))]) })
    return .map(all.list)
  }
}

extension ServiceSpec.TargetQps {
  package var plain: PlainValue {
    switch self {
    case .perReplica(let qps): qps.plain
    case .perAccelerator(let list): .map(list.map { .init($0.accelerator, $0.qps.plain) })
    }
  }
}

/// Builds a mapping, leaving out what is absent.
struct Members {
  var list: [PlainValue.Member] = []

  mutating func add(_ key: String, _ value: PlainValue?) {
    if let value { list.append(.init(key, value)) }
  }
}

// MARK: - Echo

extension ServiceSpec {
  /// What `sky serve up` prints before it asks: seven lines, values from column 35 on.
  package var echo: String {
    if pool != nil { return "Worker policy:  \(policyText)\n" }
    let lines: [(String, String)] = [
      ("Readiness probe method:", probeText),
      ("Readiness initial delay seconds:", probe.initialDelay.description),
      ("Readiness probe timeout seconds:", probe.timeout.description),
      ("Replica autoscaling policy:", policyText),
      ("TLS Certificates:", tls.map { "Keyfile: \($0.keyfile), Certfile: \($0.certfile)" } ?? "No TLS Enabled"),
      ("Spot Policy:", spotText),
      ("Load Balancing Policy:", effectivePolicy.rawValue),
    ]
    return lines.map { label, value in
      label + String(repeating: " ", count: 34 - label.count) + value + "\n"
    }.joined()
  }

  private var probeText: String {
    let method = probe.postData.map { "POST \(probe.path) \($0.json(.python))" } ?? "GET \(probe.path)"
    return probe.headers == nil ? method : method + " with custom headers"
  }

  /// Also the status table's column AUTOSCALING_POLICY.
  package var policyText: String {
    let low = policy.minReplicas
    if let pool {
      guard let threshold = pool.queueLengthThreshold, let high = pool.maxWorkers else {
        return "Fixed-size (\(low) workers)"
      }
      return "Autoscaling from \(low) to \(high) worker\(high == 1 ? "" : "s") (queue threshold: \(threshold))"
    }
    guard let high = policy.maxReplicas, high != low, let qps = policy.targetQps else {
      return "Fixed \(low) replica\(low == 1 ? "" : "s")"
    }
    let spare = policy.numOverprovision.map { " with \($0) overprovisioned replicas" } ?? ""
    return "Autoscaling from \(low) to \(high) replica\(high == 1 ? "" : "s")\(spare)"
      + " (target QPS per replica: \(qps.plain.pythonRepr))"
  }

  private var spotText: String {
    var parts: [String] = []
    if policy.dynamicOndemandFallback == true {
      if policy.spotPlacer == "dynamic_fallback" { return "SpotHedge" }
      parts.append("Dynamic on-demand fallback")
      // The missing space is the original's; scripts compare these lines.
      if let base = policy.baseOndemandFallbackReplicas { parts.append("with \(base)base on-demand replicas") }
    } else if let base = policy.baseOndemandFallbackReplicas {
      parts.append("Static spot mixture with \(base) base on-demand replica\(base == 1 ? "" : "s")")
    }
    if let placer = policy.spotPlacer {
      if parts.isEmpty { parts.append("Spot placement") }
      parts.append("with \(placer) placer")
    }
    return parts.isEmpty ? "No spot policy" : parts.joined(separator: " ")
  }
}
