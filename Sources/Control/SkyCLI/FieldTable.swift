// One row per field of a service file, for the reference in README.md. That every field which is read has a row, and
// every row is read, is a test's business (SkyCLITests).

import ControlCore

package struct Field: Sendable, Hashable {
  /// Dotted, below its section.
  package var name: String
  package var value: String
  package var preset: String
  package var doc: String

  init(_ name: String, _ value: String, _ preset: String = "", _ doc: String) {
    self.name = name
    self.value = value
    self.preset = preset
    self.doc = doc
  }
}

package enum FieldTable {
  package static let service: [Field] = [
    Field(
      "readiness_probe", "path, or the fields below", Defaults.readinessPath,
      "What is asked of a replica to find out whether it is ready. A path alone is short for `path`."),
    Field("readiness_probe.path", "text", "required", "Begins with `/`; may have a query. Only status 200 is ready."),
    Field(
      "readiness_probe.initial_delay_seconds", "number", "\(Defaults.initialDelay)",
      "How long a replica that was never ready may fail its probes, counted from the first failed one."),
    Field("readiness_probe.timeout_seconds", "0 or more", "\(Defaults.probeTimeout)", "How long one probe may take."),
    Field(
      "readiness_probe.endpoint_probe_interval_seconds", "0 or more", "\(Defaults.probeInterval)",
      "From the end of a probe to the next."),
    Field(
      "readiness_probe.consecutive_failure_threshold_timeout", "0 or more", "\(Defaults.failureThreshold)",
      "A replica that was ready once is replaced when its probes have failed for so many seconds."),
    Field(
      "readiness_probe.post_data", "mapping, or JSON as text", "",
      "Makes the probe a POST with this JSON as its body."),
    Field("readiness_probe.headers", "mapping of text", "", "Sent with every probe; their values are never shown."),
    Field("replicas", "0 to \(Bounds.replicas.upperBound)", "\(Defaults.minReplicas)", "A fixed number of replicas."),
    Field("replica_policy", "the fields below", "", "Autoscaling, instead of `replicas`."),
    Field("replica_policy.min_replicas", "0 to \(Bounds.replicas.upperBound)", "required", "0 lets an idle service have no replica at all."),
    Field("replica_policy.max_replicas", "0 to \(Bounds.replicas.upperBound)", "min_replicas", "Needed with `target_qps_per_replica`."),
    Field("replica_policy.num_overprovision", "0 to \(Bounds.replicas.upperBound)", "0", "Replicas beyond what the load asks for."),
    Field(
      "replica_policy.target_qps_per_replica", "above 0, or a mapping of accelerators", "",
      "Requests per second that one replica is good for; by kind of accelerator (`{A100: 5, \"H100:8\": 40}`) with "
        + "`instance_aware_least_load`."),
    Field(
      "replica_policy.upscale_delay_seconds", "0 or more", "\(Int(Defaults.upscaleDelay))",
      "How long the load must call for more replicas before there are more."),
    Field(
      "replica_policy.downscale_delay_seconds", "0 or more", "\(Int(Defaults.downscaleDelay))",
      "How long it must call for fewer."),
    Field(
      "replica_policy.dynamic_ondemand_fallback", "true or false", "false",
      "On-demand replicas fill in for spot replicas that are not ready."),
    Field(
      "replica_policy.base_ondemand_fallback_replicas", "0 to \(Bounds.replicas.upperBound)", "0", "So many replicas are always on demand."),
    Field("replica_policy.spot_placer", "`dynamic_fallback`", "", "Spreads spot replicas over places."),
    Field(
      "load_balancing_policy", "`\(LoadBalancingPolicy.names.joined(separator: "`, `"))`",
      Defaults.loadBalancingPolicy.rawValue,
      "The fewest requests in flight, in turn, or the fewest for what each kind of accelerator can take."),
    Field("load_balancer", "the field below", "", "How requests are passed on."),
    Field(
      "load_balancer.stream_timeout_seconds", "0 or more", "\(Defaults.streamTimeout)",
      "The longest silence of a replica in the middle of a request."),
    Field(
      "ports", "1 to 65535", "the one in `resources`", "The replica's port for traffic and probes, if it opens several."
    ),
    Field("tls", "the fields below", "", "Makes the endpoint https."),
    Field("tls.keyfile", "path", "required", "The private key, PEM."),
    Field("tls.certfile", "path", "required", "The certificate chain, PEM."),
  ]

  package static let resources: [Field] = [
    Field("ports", "number, `a-b`, or a list", "required to serve", "Ports that a replica listens on."),
    Field(
      "accelerators", "`NAME`, `NAME:N`, a mapping, or a list", "",
      "GPUs per replica, which sees them in `CUDA_VISIBLE_DEVICES`; none is given twice. `{A100:1, L4:2}`: either; a list: "
        + "in that order. `gpus` means the same."),
    Field("cpus", "`N` or `N+`", "", "vCPUs. `4+`: at least."),
    Field("memory", "`N`, `N+`, with or without a unit", "", "GB."),
    Field("infra", "`local`, `cloud/region/zone`", "anywhere", "Where replicas may run; `local` is this machine."),
    Field("use_spot", "true or false", "false", "There are no spot machines here: the replica just runs."),
    Field("any_of", "list of such sections", "", "Alternatives, each laid over what stands beside it; any will do."),
    Field("ordered", "list of such sections", "", "The same, the first that is to be had."),
    Field("disk_size", "GB, or with a unit", "\(Defaults.diskSize)", "Of a cloud's machine."),
    Field("disk_tier", "`low`, `medium`, `high`, `ultra`, `best`", "", "Of a cloud's machine."),
    Field("network_tier", "`standard`, `best`", "", "Of a cloud's machine."),
    Field("local_disk", "`nvme:1000+`, `ssd`, `500+`", "", "Of a cloud's machine."),
    Field("instance_type", "text", "", "The exact type of a cloud's machine."),
    Field("image_id", "text, or a mapping by region", "", "What a cloud's machine starts from."),
    Field("labels", "mapping of text", "", "Of a cloud's machine."),
    Field("max_hourly_cost", "above 0", "", "US dollars."),
    Field("cloud", "a cloud's name", "", "Older form of `infra`."),
    Field("region", "text", "", "Older form of `infra`."),
    Field("zone", "text", "", "Older form of `infra`."),
  ]

  /// Read and kept for the clouds that have them.
  package static let otherResources = [
    "accelerator_args", "autostop", "ephemeral_storage", "job_recovery", "priority", "priority_class", "volumes",
  ]

  package static let task: [Field] = [
    Field("name", "text", "", "For people. The service's name is given with `-n`."),
    Field("service", "section", "required to serve", "Above."),
    Field("resources", "section", "", "Above."),
    Field(
      "run", "shell text", "",
      "Started in `~/sky_workdir` once `setup` has ended; listens on the port. When it fails, the replica has FAILED."),
    Field("setup", "shell text", "", "Run once per replica before `run`."),
    Field("workdir", "path, or `url` and `ref` of a repository", "", "Copied; replicas start in it."),
    Field("file_mounts", "mapping", "", "`~/where: from`: files and folders copied into the replica's home."),
    Field(
      "envs", "mapping", "",
      "Environment variables. Those without a value must be given with `--env`. `$NAME` and `${NAME}` are filled in "
        + "everywhere in `service`, `workdir` and `file_mounts`."),
    Field("secrets", "mapping, or a list of names", "", "The same, never shown; given with `--secret`."),
    Field("num_nodes", "1 or more", "1", "Machines per replica; 1 on this machine."),
    Field("config", "mapping", "", "Settings of clouds."),
  ]

  package static let otherTask = [
    "api_server_access", "event_callback", "file_mounts_mapping", "inputs", "managed_secrets", "outputs", "pool",
    "volume_mounts", "volumes",
  ]
}
