// From the nodes of `service:` (or `pool:`) to a ServiceSpec. Called by TaskDecoding after variables were filled in.
//
// Checks run in SkyServe's order, so a file with several mistakes gets the same answer first.

import Yaml

extension ServiceSpec {
  init(decoding section: YamlNode) throws(SpecError) {
    let section = section.withoutNulls
    try Schema.service.check(section, in: "service")
    self.init()
    if let both = section["replica_policy"], section["replicas"] != nil {
      throw SpecError(
        .value, mark: both.mark,
        "Cannot specify both `replicas` and `replica_policy` in the service YAML. Please use one of them.")
    }
    if let node = section["readiness_probe"] { probe = try Probe(decoding: node) }
    if let timeout = section["load_balancer"]?["stream_timeout_seconds"].flatMap(Quantity.init) {
      streamTimeout = timeout
    }
    if let node = section["ports"] {
      guard let value = node.whole, (1...65535).contains(value) else {
        throw SpecError(.value, mark: node.mark, "Port must be between 1 and 65535.")
      }
      port = value
    }
    let poolNode = section["pool"]
    if let policy = section["replica_policy"], poolNode != nil {
      throw SpecError(
        .value, mark: policy.mark,
        "Cannot specify `replica_policy` for cluster pool. Only `workers: <num>` or `min_workers: <num> max_workers: "
          + "<num>` is supported for pool now.")
    }
    let replicas = section["replicas"]
    let workers = section["workers"]
    if replicas != nil, let workers {
      throw SpecError(
        .value, mark: workers.mark, "Cannot specify both `replicas` and `workers`. Please use one of them.")
    }
    if let replicas, poolNode != nil {
      throw SpecError(.value, mark: replicas.mark, "Cannot specify `replicas` for pool. Please use `workers` instead.")
    }
    if let poolNode {
      try readPool(poolNode, workers: workers)
    } else if let count = replicas ?? workers {
      policy.minReplicas = count.whole ?? Defaults.minReplicas
    } else if let node = section["replica_policy"] {
      policy = try Policy(decoding: node)
    }
    let balancing = section["load_balancing_policy"]
    try checkQps(section, balancing: balancing)
    if let tls = section["tls"], let key = tls["keyfile"]?.string, let cert = tls["certfile"]?.string {
      self.tls = Tls(keyfile: key, certfile: cert)
    }
    if pool != nil { try checkPool(section) }
    try checkBounds(section)
    guard probe.path.hasPrefix("/") else {
      let node = section["readiness_probe"]
      throw SpecError(
        .value, mark: (node?["path"] ?? node ?? section).mark,
        "readiness_path must start with a slash (/). Got: \(probe.path)", cure: "Write '/\(probe.path)'.")
    }
    if let node = balancing, let word = node.string {
      guard let known = LoadBalancingPolicy(rawValue: word) else {
        throw SpecError(
          .value, mark: node.mark,
          "Unknown load balancing policy: \(word). Available policies: "
            + "[\(LoadBalancingPolicy.names.map(pythonQuoted).joined(separator: ", "))]",
          cure: "Write it in lower case.")
      }
      loadBalancingPolicy = known
    }
  }

  private mutating func readPool(_ node: YamlNode, workers: YamlNode?) throws(SpecError) {
    var it = Pool()
    it.workers = (node["workers"] ?? workers)?.whole
    it.minWorkers = node["min_workers"]?.whole
    it.maxWorkers = node["max_workers"]?.whole
    it.queueLengthThreshold = node["queue_length_threshold"]?.whole
    it.upscaleDelay = node["upscale_delay_seconds"].flatMap(Quantity.init)
    it.downscaleDelay = node["downscale_delay_seconds"].flatMap(Quantity.init)
    func fail(_ message: String) -> SpecError { SpecError(.value, mark: node.mark, message) }
    if it.workers == nil, it.minWorkers == nil, it.maxWorkers == nil {
      throw fail("One of workers, or both min_workers and max_workers must be set for pool autoscaling.")
    }
    if it.queueLengthThreshold != nil, it.maxWorkers == nil {
      throw fail("max_workers must be set when queue_length_threshold is specified for pool autoscaling.")
    }
    if let low = it.minWorkers {
      guard let high = it.maxWorkers else {
        throw fail("max_workers must be set when min_workers is specified for pool autoscaling.")
      }
      if low > high {
        throw fail("min_workers (\(low)) must be <= max_workers (\(high)) for pool autoscaling.")
      }
    }
    if it.maxWorkers != nil, it.queueLengthThreshold == nil {
      it.queueLengthThreshold = Defaults.queueLengthThreshold
    }
    policy.minReplicas = it.minWorkers ?? it.workers ?? Defaults.minReplicas
    policy.maxReplicas = it.maxWorkers
    policy.upscaleDelay = it.upscaleDelay
    policy.downscaleDelay = it.downscaleDelay
    pool = it
  }

  private func checkQps(_ section: YamlNode, balancing: YamlNode?) throws(SpecError) {
    let aware = balancing?.string == LoadBalancingPolicy.instanceAwareLeastLoad.rawValue
    let node = section["replica_policy"]?["target_qps_per_replica"]
    let perAccelerator = if case .perAccelerator = policy.targetQps { true } else { false }
    if perAccelerator, !aware {
      throw SpecError(
        .value, mark: (node ?? section).mark,
        "When using dict type target_qps_per_replica, load_balancing_policy must be \"instance_aware_least_load\".")
    }
    if aware, !perAccelerator {
      throw SpecError(
        .value, mark: (balancing ?? section).mark,
        "When using \"instance_aware_least_load\" policy, target_qps_per_replica must be a dict mapping GPU types to "
          + "QPS values.")
    }
    // Both divide by zero in SkyServe once a request arrives.
    if let node {
      if node.map?.isEmpty == true {
        throw SpecError(
          .config, mark: node.mark,
          "Invalid service YAML: {} has no accelerators. Check problematic field(s): "
            + "$.replica_policy.target_qps_per_replica", cure: "Name at least one, such as {A100: 2}.")
      }
      for (key, value) in node.map?.map({ (Optional($0.key.keyText), $0.value) }) ?? [(nil, node)] {
        if let qps = value.double, !(qps > 0) {
          throw SpecError(
            .config, mark: value.mark,
            "Invalid service YAML: \(value.pythonRepr) is less than or equal to the minimum of 0. Check problematic "
              + "field(s): $.replica_policy.target_qps_per_replica" + (key.map { ".\($0)" } ?? ""),
            cure: "A replica that is good for no requests cannot be scaled.")
        }
      }
    }
  }

  private func checkBounds(_ section: YamlNode) throws(SpecError) {
    let policyNode = section["replica_policy"] ?? section
    if let high = policy.maxReplicas, high < policy.minReplicas {
      throw SpecError(
        .value, mark: (policyNode["max_replicas"] ?? policyNode).mark,
        "max_replicas must be greater than or equal to min_replicas. Found: min_replicas=\(policy.minReplicas), "
          + "max_replicas=\(high)")
    }
    if policy.targetQps != nil {
      if policy.maxReplicas == nil {
        throw SpecError(
          .value, mark: (policyNode["target_qps_per_replica"] ?? policyNode).mark,
          "max_replicas must be set where target_qps_per_replica is set.")
      }
    } else if pool == nil, let high = policy.maxReplicas, high != policy.minReplicas {
      throw SpecError(
        .value, mark: (policyNode["max_replicas"] ?? policyNode).mark,
        "Detected different min_replicas and max_replicas while target_qps_per_replica is not set. To enable "
          + "autoscaling, please set target_qps_per_replica.")
    }
  }

  private func checkPool(_ section: YamlNode) throws(SpecError) {
    let found: [(String, YamlNode?)] = [
      ("load_balancing_policy", section["load_balancing_policy"]), ("ports", section["ports"]),
      ("post_data", section["readiness_probe"]?["post_data"]), ("tls_credential", section["tls"]),
      ("readiness_headers", section["readiness_probe"]?["headers"]),
    ]
    for case (let name, let node?) in found {
      throw SpecError(.value, mark: node.mark, "\(name) is not supported for pool.")
    }
    if let pool, pool.maxWorkers == nil {
      for (name, value) in [
        ("upscale_delay_seconds", pool.upscaleDelay), ("downscale_delay_seconds", pool.downscaleDelay),
      ] where value != nil {
        throw SpecError(
          .value, mark: (section["pool"]?[name] ?? section).mark, "\(name) is not supported for pool.")
      }
    }
  }
}

extension ServiceSpec.Probe {
  fileprivate init(decoding node: YamlNode) throws(SpecError) {
    self.init()
    if let text = node.string {
      path = text
      return
    }
    if let text = node["path"]?.string { path = text }
    if let value = node["initial_delay_seconds"].flatMap(Quantity.init) { initialDelay = value }
    if let value = node["timeout_seconds"].flatMap(Quantity.init) { timeout = value }
    if let value = node["endpoint_probe_interval_seconds"].flatMap(Quantity.init) { interval = value }
    failureThreshold = node["consecutive_failure_threshold_timeout"].flatMap(Quantity.init)
    if let data = node["post_data"] {
      if let text = data.string {
        guard let json = try? PlainValue(jsonText: text) else {
          throw SpecError(
            .value, mark: data.mark,
            "Invalid JSON string for `post_data` in the `readiness_probe` section of your service YAML.")
        }
        // `post_data: 'null'` posts nothing, like no field at all.
        postData = json.isNull ? nil : json
      } else {
        if let number = data.nonFinite {
          throw SpecError(
            .value, mark: number.mark,
            "`post_data` in the `readiness_probe` section is sent as JSON, which has no \(number.pythonRepr).",
            cure: "Write a finite number, or the text in quotes.")
        }
        postData = PlainValue(data)
      }
    }
    headers = node["headers"]?.map?.map { .init(name: $0.key.keyText, value: $0.value.pythonText) }
    for (entry, header) in zip(node["headers"]?.map ?? [], headers ?? []) {
      if let problem = header.problem {
        let place = header.hasGoodName ? entry.value : entry.key
        throw SpecError(.value, mark: place.mark, problem.what, cure: problem.cure)
      }
    }
  }
}

extension ServiceSpec.Policy {
  fileprivate init(decoding node: YamlNode) throws(SpecError) {
    self.init()
    minReplicas = node["min_replicas"]?.whole ?? Defaults.minReplicas
    maxReplicas = node["max_replicas"]?.whole
    numOverprovision = node["num_overprovision"]?.whole
    if let qps = node["target_qps_per_replica"] {
      if let entries = qps.map {
        targetQps = .perAccelerator(
          entries.compactMap { entry in
            Quantity(entry.value).map { .init(accelerator: entry.key.keyText, qps: $0) }
          })
      } else if let value = Quantity(qps) {
        targetQps = .perReplica(value)
      }
    }
    dynamicOndemandFallback = node["dynamic_ondemand_fallback"]?.bool
    baseOndemandFallbackReplicas = node["base_ondemand_fallback_replicas"]?.whole
    spotPlacer = node["spot_placer"]?.string?.lowercased()
    upscaleDelay = node["upscale_delay_seconds"].flatMap(Quantity.init)
    downscaleDelay = node["downscale_delay_seconds"].flatMap(Quantity.init)
  }
}

extension ServiceSpec.Header {
  var hasGoodName: Bool { !name.isEmpty && name.utf8.allSatisfy(isTokenByte) }

  /// Why it cannot be sent. Its value may be a secret and is not repeated.
  var problem: (what: String, cure: String)? {
    if !hasGoodName {
      return (
        "\(quotedForPeople(name)) in `headers` of the `readiness_probe` section is no name of a header field "
          + "(RFC 9110, 5.6.2).", "Names are letters, digits and '-'."
      )
    }
    if value.utf8.contains(where: { $0 == 0 || $0 == 10 || $0 == 13 }) {
      return (
        "The value of '\(name)' in `headers` of the `readiness_probe` section has a line break or a zero byte "
          + "(RFC 9110, 5.5).", "Write it on one line, without a line break at its end."
      )
    }
    return nil
  }
}

extension YamlNode {
  /// The first `.inf` or `.nan` in it.
  fileprivate var nonFinite: YamlNode? {
    switch value {
    case .float(let it): it.isFinite ? nil : self
    case .list(let items): items.lazy.compactMap(\.nonFinite).first
    case .map(let entries): entries.lazy.compactMap(\.value.nonFinite).first
    case .null, .bool, .int, .hugeInt, .string: nil
    }
  }

  /// A whole number, however it was written (`2.0` is 2).
  var whole: Int? {
    switch value {
    case .int(let it): it
    case .float(let it): Int(exactly: it)
    case .hugeInt(let digits): digits.hasPrefix("-") ? .min : .max
    case .null, .bool, .string, .list, .map: nil
    }
  }
}
