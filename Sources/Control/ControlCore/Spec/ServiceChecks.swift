// What a file must fulfil to be served, beyond being well formed: sections agree with each other.
//
// `checkService` is what the API server asks of everything it is sent; `checkPorts` is what the CLI asks first, with
// words for whoever wrote the file.

import Yaml

extension TaskSpec {
  /// The CLI's questions, before anything is sent.
  package func checkPorts() throws(SpecError) {
    guard let service else {
      throw fail("Service section not found in the YAML file. To fix, add a valid `service` field.")
    }
    if service.pool != nil { return }
    if let port = service.port {
      for spec in resources.all {
        guard let ports = spec.ports else { throw fail("Must specify at least one ports in every replica resources.") }
        if !ports.contains(where: { ($0.low...$0.high).contains(port) }) {
          throw fail(
            "The service port \(port) specified in the service section is not found in some resources. Please check if "
              + "the service port is correct or add the service port to replica resources.")
        }
      }
      return
    }
    var first: Int?
    for spec in resources.all {
      switch spec.portCount {
      case 0:
        throw fail(
          "Must specify at least one ports in resources. Each replica will use the port specified as application "
            + "ingress port if only one port is specified in the replica resources. If there are multiple ports opened "
            + "in the replica, please set the `service.ports` field in the service config.")
      case 1: break
      default:
        throw fail(
          "Multiple ports specified in resources. Please specify the main port in the `service.ports` field.")
      }
      let port = spec.ports![0].low
      if let first, first != port {
        throw fail(
          "Got multiple ports: \(first) and \(port) in different resources. Please specify the same port in all "
            + "replicas, or explicitly set the service port in the `service.ports` section.")
      }
      first = port
    }
  }

  /// The API server's questions.
  package func checkService() throws(SpecError) {
    let candidates = resources.all
    let spots = candidates.count { $0.isSpot }
    if spots != 0, spots != candidates.count {
      throw fail(
        "Resources must either all use spot or none use spot. To use on-demand and spot instances together, use "
          + "`dynamic_ondemand_fallback` or set base_ondemand_fallback_replicas.")
    }
    guard let service else { throw SpecError(.runtime, mark: .none, "Service section not found.") }
    try service.checkValues()
    let isPool = service.pool != nil
    if isPool, case .ordered = resources {
      throw fail(
        "Ordered resources are not supported for pools. Use `any_of` instead, or specify a single resource.")
    }
    if candidates.contains(where: { $0.jobRecovery != nil }) {
      let system = isPool ? "Pool" : "SkyServe"
      let kind = service.policy.dynamicOndemandFallback == true ? "on-demand" : "spot"
      throw fail(
        "job_recovery is disabled for \(system). \(system) will replenish preempted spot with \(kind) instances.")
    }
    if service.policy.spotPlacer != nil { try checkPlacer(candidates) }
    var first = service.port
    for spec in candidates {
      if service.usesOndemandFallback, !spec.isSpot {
        throw fail(
          "`use_ondemand_fallback` is only supported for spot resources. Please explicitly specify `use_spot: true` in "
            + "resources for on-demand fallback.")
      }
      if service.policy.spotPlacer != nil, !spec.isSpot {
        throw fail(
          "`spot_placer` is only supported for spot resources. Please explicitly specify `use_spot: true` in resources.")
      }
      if isPool {
        if spec.ports != nil { throw fail("Cannot specify ports in a pool.") }
      } else if service.port == nil {
        guard spec.portCount == 1, let port = spec.ports?.first?.low else {
          throw fail(
            "To open multiple ports on the replica, please set the `service.ports` field to specify a main service port. "
              + "Must only specify one port in resources otherwise. Each replica will use the port specified as "
              + "application ingress port.")
        }
        if let first, first != port {
          throw fail(
            "Got multiple ports: \(port) and \(first) in different resources. Please specify the same port instead.")
        }
        first = port
      }
    }
  }

  /// The placer moves replicas between places, so the places must be all that differs.
  private func checkPlacer(_ candidates: [ResourceSpec]) throws(SpecError) {
    if candidates.contains(where: { !$0.isSpot }) {
      throw fail(
        "`spot_placer` is only supported for spot resources. Please explicitly specify `use_spot: true` in resources.")
    }
    let placeless = Set(
      candidates.map { spec in
        var spec = spec
        spec.infra = Infra()
        return spec
      })
    if placeless.count > 1 {
      throw fail(
        "Different resource configurations are not supported for spot placement. All resources must have the same "
          + "configuration except for cloud/region/zone.")
    }
  }

  private func fail(_ message: String) -> SpecError { SpecError(.value, mark: .none, message) }
}

extension ServiceSpec {
  /// What decoding has checked of a file. The API takes a section in its own coding, which anybody may have written.
  fileprivate func checkValues() throws(SpecError) {
    func fail(_ message: String) -> SpecError { SpecError(.value, mark: .none, message) }
    var numbers: [(field: String, value: Double?, range: ClosedRange<Int>)] = [
      ("initial_delay_seconds", probe.initialDelay.value, Bounds.initialDelay),
      ("timeout_seconds", probe.timeout.value, Bounds.seconds),
      ("endpoint_probe_interval_seconds", probe.interval.value, Bounds.seconds),
      ("consecutive_failure_threshold_timeout", probe.failureThreshold?.value, Bounds.seconds),
      ("stream_timeout_seconds", streamTimeout.value, Bounds.seconds),
      ("upscale_delay_seconds", policy.upscaleDelay?.value, Bounds.seconds),
      ("downscale_delay_seconds", policy.downscaleDelay?.value, Bounds.seconds),
      ("min_replicas", Double(policy.minReplicas), Bounds.replicas),
      ("max_replicas", policy.maxReplicas.map { Double($0) }, Bounds.replicas),
      ("num_overprovision", policy.numOverprovision.map { Double($0) }, Bounds.replicas),
      (
        "base_ondemand_fallback_replicas", policy.baseOndemandFallbackReplicas.map { Double($0) }, Bounds.replicas
      ),
      ("ports", port.map { Double($0) }, 1...65535),
    ]
    switch policy.targetQps {
    case .perReplica(let qps): numbers.append(("target_qps_per_replica", qps.value, Bounds.seconds))
    case .perAccelerator(let table):
      numbers += table.map { ("target_qps_per_replica", $0.qps.value, Bounds.seconds) }
    case nil: break
    }
    for (field, value, range) in numbers {
      guard let value, !(value >= Double(range.lowerBound) && value <= Double(range.upperBound)) else { continue }
      throw fail("`\(field)` is \(value). Write a number from \(range.lowerBound) to \(range.upperBound).")
    }
    for header in probe.headers ?? [] {
      if let problem = header.problem { throw fail("\(problem.what) \(problem.cure)") }
    }
  }
}

// MARK: - Names

package enum ServiceName {
  package static let pattern = "[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?"

  package static func check(_ name: String) throws(SpecError) {
    let bytes = Array(name.utf8)
    let isEdge: (UInt8) -> Bool = { Bytes.isLetter($0) || Bytes.isDigit($0) }
    let good =
      bytes.first.map(Bytes.isLetter) ?? false && isEdge(bytes[bytes.count - 1])
      && bytes.allSatisfy { isEdge($0) || [UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: ".")].contains($0) }
    if !good {
      throw SpecError(
        .value, mark: .none,
        "Service name '\(name)' is invalid: ensure it is fully matched by regex (e.g., only contains lower letters, "
          + "numbers and dash): \(pattern)")
    }
  }
}
