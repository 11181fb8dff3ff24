// The shapes of the sections of a service file. What the fields mean is in ServiceSpec, ResourceSpec and TaskSpec.

extension Schema {
  static let service = Schema(
    .type([.object]), .closed, .fields,
    fields: [
      (
        "readiness_probe",
        .either(
          .string,
          .object(
            [
              ("path", .string),
              ("initial_delay_seconds", .number(in: Bounds.initialDelay)),
              ("timeout_seconds", .number(in: Bounds.seconds)),
              ("endpoint_probe_interval_seconds", .number(in: Bounds.seconds)),
              ("consecutive_failure_threshold_timeout", .number(in: Bounds.seconds)),
              ("post_data", .either(.string, .anyObject)),
              ("headers", .texts),
            ], required: ["path"]))
      ),
      ("load_balancer", .object([("stream_timeout_seconds", .number(in: Bounds.seconds))])),
      (
        "pool",
        .object([
          ("workers", .integer(in: Bounds.replicas)),
          ("min_workers", .integer(in: Bounds.replicas)),
          ("queue_length_threshold", .integer(from: 1)),
          ("max_workers", .integer(in: Bounds.replicas)),
          ("upscale_delay_seconds", .number(in: Bounds.seconds)),
          ("downscale_delay_seconds", .number(in: Bounds.seconds)),
        ])
      ),
      (
        "replica_policy",
        .object(
          [
            ("min_replicas", .integer(in: Bounds.replicas)),
            ("max_replicas", .integer(in: Bounds.replicas)),
            ("num_overprovision", .integer(in: Bounds.replicas)),
            (
              "target_qps_per_replica",
              .either(
                .number(in: Bounds.seconds),
                Schema(.type([.object]), .patterns([(.acceleratorKey, .number(in: Bounds.seconds))]), .closed))
            ),
            ("dynamic_ondemand_fallback", .boolean),
            ("base_ondemand_fallback_replicas", .integer(in: Bounds.replicas)),
            ("spot_placer", Schema(.type([.string]), .word(["dynamic_fallback"]))),
            ("upscale_delay_seconds", .number(in: Bounds.seconds)),
            ("downscale_delay_seconds", .number(in: Bounds.seconds)),
          ], required: ["min_replicas"])
      ),
      ("ports", .integer),
      // SkyServe takes any whole number here and then waits for -1 replicas.
      ("replicas", .integer(in: Bounds.replicas)),
      ("workers", .integer(in: Bounds.replicas)),
      ("load_balancing_policy", Schema(.type([.string]), .word(LoadBalancingPolicy.names))),
      ("tls", .object([("keyfile", .string), ("certfile", .string)], required: ["keyfile", "certfile"])),
    ])

  private static let size = Schema.either(Schema(.type([.string]), .pattern(.memorySize)), .integer)

  /// Fields of one candidate; `accelerators` differs between the base and an alternative.
  private static let candidateFields: [(name: String, schema: Schema)] = [
    ("cloud", Schema(.type([.string]), .word(Infra.clouds))),
    ("region", .string),
    ("zone", .string),
    ("infra", Schema(.type([.string]), .pattern(.infra))),
    ("cpus", .either(.string, .number)),
    ("memory", .either(.string, .number)),
    ("instance_type", .string),
    ("use_spot", .boolean),
    (
      "job_recovery",
      .either(
        .string,
        Schema(
          .type([.object]), .fields,
          fields: [
            ("strategy", .either(.string, .null)),
            ("max_restarts_on_errors", .integer(from: 0)),
            (
              "recover_on_exit_codes",
              .either(.integer(from: 0, to: 255), .list(of: .integer(from: 0, to: 255)))
            ),
          ]))
    ),
    (
      "volumes",
      .list(
        of: Schema(
          .type([.object]), .fields,
          fields: [
            ("disk_size", size), ("disk_tier", .string), ("path", .string), ("auto_delete", .boolean),
            ("storage_type", .string), ("name", .string), ("attach_mode", .string),
          ]))
    ),
    ("disk_size", size),
    ("ephemeral_storage", size),
    ("disk_tier", .string),
    ("network_tier", .string),
    ("local_disk", .string),
    ("max_hourly_cost", Schema(.type([.number]), .above(0), .maximum(Bounds.most))),
    ("ports", .either(.string, .integer, .list(of: .either(.string, .integer)), .null)),
    ("labels", .texts),
    (
      "accelerator_args",
      .object([
        ("runtime_version", .string), ("tpu_name", .string), ("tpu_vm", .boolean), ("gcp_queued_resource", .boolean),
      ])
    ),
    ("_no_missing_accel_warnings", .boolean),
    ("image_id", .either(.string, .anyObject, .null)),
    (
      "autostop",
      .either(
        .boolean, .string, .integer(from: 0),
        .object([
          ("idle_minutes", .integer(from: 0)), ("down", .boolean), ("wait_for", .string), ("hook", .string),
          ("hook_timeout", .integer(from: 1)),
        ]))
    ),
    ("priority", .integer(from: -1000, to: 1000)),
    ("priority_class", .string),
    ("_is_image_managed", .boolean),
    ("_requires_fuse", .boolean),
    ("_cluster_config_overrides", .anyObject),
  ]

  private static let candidate = Schema.object(
    candidateFields + [
      ("accelerators", .either(.string, Schema(.type([.object]), .countMax(1), .others(.number))))
    ])

  static let resources = Schema.object(
    candidateFields + [
      (
        "accelerators",
        .either(
          .string, Schema(.type([.object]), .others(.either(.null, .number))), .list(of: .string))
      ),
      ("any_of", .list(of: candidate)),
      ("ordered", .list(of: candidate)),
    ])

  static let task = Schema.object([
    ("name", .string),
    ("workdir", .either(.string, .object([("url", .string), ("ref", .string)], required: ["url"]))),
    ("event_callback", .string),
    ("num_nodes", .integer),
    ("resources", .anyObject),
    ("file_mounts", .anyObject),
    ("service", .anyObject),
    ("pool", .anyObject),
    ("setup", .string),
    ("run", .string),
    (
      "envs",
      Schema(.type([.object]), .patterns([(.environmentName, Schema(.type([.string, .null])))]), .closed)
    ),
    (
      "secrets",
      Schema(.oneOf([Schema(.type([.object]), .others(Schema(.type([.string, .null])))), .list(of: .string)]))
    ),
    (
      "managed_secrets",
      .list(
        of: Schema(
          .oneOf([
            .string, Schema(.type([.object]), .countMax(1), .others(.object([("mount_path", .string)]))),
          ])))
    ),
    ("inputs", Schema(.type([.object]), .countMax(1), .others(.number))),
    ("outputs", Schema(.type([.object]), .countMax(1), .others(.number))),
    ("file_mounts_mapping", .anyObject),
    (
      "config",
      .object([
        ("docker", .anyObject), ("nvidia_gpus", .anyObject), ("active_workspace", .string), ("gcp", .anyObject),
        ("azure", .anyObject), ("kubernetes", .anyObject), ("ssh", .anyObject), ("slurm", .anyObject),
        ("vast", .anyObject), ("hooks", Schema(.type([.array]))),
      ])
    ),
    ("volumes", .anyObject),
    ("volume_mounts", Schema(.type([.array]))),
    ("api_server_access", .boolean),
    ("_metadata", .anyObject),
  ])
}

extension Schema.Pattern {
  /// `H100` or `H100:8`.
  static let acceleratorKey = Schema.Pattern(text: "^[A-Z0-9]+(?::[0-9]+)?$") { text in
    let parts = text.utf8.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
    guard parts.count <= 2, !parts[0].isEmpty else { return false }
    let named = parts[0].allSatisfy { Bytes.isDigit($0) || (0x41...0x5A).contains($0) }
    return named && (parts.count == 1 || (!parts[1].isEmpty && parts[1].allSatisfy(Bytes.isDigit)))
  }

  static let environmentName = Schema.Pattern(text: "^[a-zA-Z_][a-zA-Z0-9_]*$") { isEnvironmentName($0) }

  static let memorySize: Schema.Pattern = {
    let units = ["kb", "ki", "mb", "mi", "gb", "gi", "tb", "ti", "pb", "pi"]
    let forms = units + units.map { $0.uppercased() } + units.map { $0.prefix(1).uppercased() + $0.dropFirst() }
    return Schema.Pattern(text: "^[0-9]+(\(forms.joined(separator: "|")))?$") { text in
      let digits = text.utf8.prefix(while: Bytes.isDigit)
      let rest = String(text.dropFirst(digits.count))
      return !digits.isEmpty && (rest.isEmpty || forms.contains(rest))
    }
  }()

  static let infra: Schema.Pattern = {
    let names = Infra.clouds.filter { $0 != "kubernetes" }.joined(separator: "|")
    let places = "(?:/[^/]+(?:/[^/]+)?)?"
    return Schema.Pattern(
      text: "^(?:(?i:(\(names)))\(places)|\\*\(places)|(?i:kubernetes|k8s)(?:/.+)?)$"
    ) { text in
      let parts = text.split(separator: "/", maxSplits: .max, omittingEmptySubsequences: false).map(String.init)
      let cloud = parts[0].lowercased()
      if cloud == "kubernetes" || cloud == "k8s" { return parts.count == 1 || text.utf8.count > cloud.utf8.count + 1 }
      // Not in the text, which is recorded as SkyPilot says it.
      guard cloud == "*" || cloud == Infra.local || Infra.clouds.contains(cloud) else { return false }
      return parts.count <= 3 && !parts.dropFirst().contains("")
    }
  }()
}

func isEnvironmentName(_ text: String) -> Bool {
  guard let first = text.utf8.first, Bytes.isLetter(first) || first == UInt8(ascii: "_") else { return false }
  return text.utf8.allSatisfy { Bytes.isLetter($0) || Bytes.isDigit($0) || $0 == UInt8(ascii: "_") }
}
