// The `resources:` section: the machines each replica may run on, as alternatives to choose from.
//
// Decoded by ResourceDecoding; read by the optimizer, the infras and the status table.

import Yaml

/// Where: `aws/us-east-1/us-east-1a`. nil parts are free choices (`*`).
package struct Infra: Hashable, Codable, Sendable {
  package var cloud: String?
  /// The context on Kubernetes, the pool on SSH machines.
  package var region: String?
  package var zone: String?

  package init(cloud: String? = nil, region: String? = nil, zone: String? = nil) {
    self.cloud = cloud
    self.region = region
    self.zone = zone
  }

  package static let clouds = [
    "aws", "azure", "gcp", "ibm", "lambda", "scp", "oci", "kubernetes", "runpod", "vast", "vsphere", "cudo",
    "fluidstack", "paperspace", "primeintellect", "do", "nebius", "ssh", "slurm", "hyperbolic", "seeweb", "shadeform",
    "yotta", "mithril", "verda",
  ]

  /// This machine, which SkyPilot has no word for.
  package static let local = "local"

  /// The cloud's name as people write it.
  package static func displayName(_ cloud: String) -> String {
    switch cloud {
    case "aws", "gcp", "ibm", "scp", "oci", "do", "ssh": cloud.uppercased()
    case "runpod": "RunPod"
    case "vsphere": "vSphere"
    case "primeintellect": "PrimeIntellect"
    default: cloud.prefix(1).uppercased() + cloud.dropFirst()
    }
  }

  /// As it is written in a file, without trailing `*`; nil where everything is free.
  package var text: String? {
    var parts = [cloud ?? "*", region ?? "*", zone ?? "*"]
    while parts.last == "*" { parts.removeLast() }
    return parts.isEmpty ? nil : parts.joined(separator: "/")
  }
}

package struct PortRange: Hashable, Codable, Sendable, CustomStringConvertible {
  package var low: Int
  package var high: Int

  package var description: String { low == high ? String(low) : "\(low)-\(high)" }
}

package struct Accelerator: Hashable, Codable, Sendable, CustomStringConvertible {
  package var name: String
  package var count: Quantity

  package var description: String { "\(name):\(count)" }
}

/// One candidate.
package struct ResourceSpec: Hashable, Codable, Sendable {
  package var infra = Infra()
  package var instanceType: String?
  /// `2` or `2+` (at least).
  package var cpus: String?
  /// GB: `16` or `16+`.
  package var memory: String?
  package var accelerator: Accelerator?
  package var acceleratorArgs: PlainValue?
  /// nil: not said, which means on demand.
  package var useSpot: Bool?
  package var jobRecovery: PlainValue?
  /// GB; nil: the default.
  package var diskSize: Int?
  package var imageID: PlainValue?
  package var diskTier: String?
  package var networkTier: String?
  /// `nvme:1000+`.
  package var localDisk: String?
  /// US dollars.
  package var maxHourlyCost: Quantity?
  /// Ascending, with gaps between.
  package var ports: [PortRange]?
  package var labels: PlainValue?
  package var volumes: PlainValue?
  package var autostop: PlainValue?
  package var priority: Int?
  package var priorityClass: String?
  /// The accelerator was not named but found by its memory.
  package var foundByMemory: Bool?
  package var isImageManaged: Bool?
  /// A bucket is mounted.
  package var requiresFuse: Bool?
  package var configOverrides: PlainValue?

  package init() {}

  package var isSpot: Bool { useSpot ?? false }

  package var portCount: Int { ports?.reduce(0) { $0 + $1.high - $1.low + 1 } ?? 0 }
}

/// The candidates.
package enum ResourceChoice: Hashable, Codable, Sendable {
  /// The cheapest first.
  case anyOf([ResourceSpec])
  /// In this order, the next only when the one before is exhausted everywhere.
  case ordered([ResourceSpec])

  package var all: [ResourceSpec] {
    get {
      switch self {
      case .anyOf(let list), .ordered(let list): list
      }
    }
    set {
      switch self {
      case .anyOf: self = .anyOf(newValue)
      case .ordered: self = .ordered(newValue)
      }
    }
  }

  /// `set` or `list`, as machine-readable output calls them.
  package var kindName: String {
    switch self {
    case .anyOf: "set"
    case .ordered: "list"
    }
  }
}

// MARK: - Canonical form

extension ResourceSpec {
  package var canonical: PlainValue {
    var all = Members()
    all.add("infra", infra.text.map(PlainValue.string))
    all.add("instance_type", instanceType.map(PlainValue.string))
    all.add("cpus", cpus.map(PlainValue.string))
    all.add("memory", memory.map(PlainValue.string))
    all.add("accelerators", accelerator.map { .map([.init($0.name, $0.count.plain)]) })
    all.add("accelerator_args", acceleratorArgs)
    all.add("use_spot", useSpot.map(PlainValue.bool))
    all.add("job_recovery", jobRecovery)
    all.add("disk_size", diskSize.map(PlainValue.int))
    all.add("image_id", imageID)
    all.add("disk_tier", diskTier.map(PlainValue.string))
    all.add("network_tier", networkTier.map(PlainValue.string))
    all.add("local_disk", localDisk.map(PlainValue.string))
    all.add("max_hourly_cost", maxHourlyCost?.plain)
    all.add("ports", ports.map { .list($0.map { .string($0.description) }) })
    all.add("labels", labels)
    all.add("volumes", volumes)
    all.add("autostop", autostop)
    all.add("_no_missing_accel_warnings", foundByMemory.map(PlainValue.bool))
    all.add("priority", priority.map(PlainValue.int))
    all.add("priority_class", priorityClass.map(PlainValue.string))
    all.add("_cluster_config_overrides", configOverrides)
    all.add("_is_image_managed", isImageManaged.map(PlainValue.bool))
    all.add("_requires_fuse", requiresFuse.map(PlainValue.bool))
    return .map(all.list)
  }
}

extension ResourceChoice {
  /// Unordered candidates are sorted by their text, so that equal files have equal output.
  package var canonical: [PlainValue] {
    switch self {
    case .ordered(let list): list.map(\.canonical)
    case .anyOf(let list):
      list.map { ($0.canonical, $0.canonical.sorted.json(.python)) }
        .sorted { $0.1.utf8.lexicographicallyPrecedes($1.1.utf8) }.map(\.0)
    }
  }

  /// `1x[L4:1]`, `1x[CPU:2+]`: the status table's column REQUESTED_RESOURCES.
  package func requestedText(numNodes: Int) -> String {
    let kinds = all.map { spec in
      let what = spec.accelerator?.description ?? spec.cpus.map { "CPU:\($0)" } ?? spec.instanceType ?? "-"
      return spec.isSpot ? "[spot]\(what)" : what
    }
    var seen: Set<String> = []
    let unique = kinds.filter { seen.insert($0).inserted }
    return "\(numNodes)x[\(unique.joined(separator: ", "))]"
  }
}
