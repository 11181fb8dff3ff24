// A whole service file: what one replica is made of, and the service around it.
//
// Decoded by TaskDecoding; kept in every version's record; read by whoever launches replicas.

/// Text that must not be shown: printing, interpolating and dumping it give `<redacted>`.
package struct Secret: Hashable, Codable, Sendable, CustomStringConvertible, CustomDebugStringConvertible,
  CustomReflectable
{
  /// The text itself; name it only where it is used.
  package var revealed: String

  package init(_ text: String) { revealed = text }

  package init(from decoder: any Decoder) throws {
    revealed = try decoder.singleValueContainer().decode(String.self)
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(revealed)
  }

  package static let placeholder = "<redacted>"
  package var description: String { Self.placeholder }
  package var debugDescription: String { Self.placeholder }
  package var customMirror: Mirror { Mirror(self, children: []) }

  /// A text without these secrets, read once: what stands in for one is not searched for another. Of a secret that has
  /// several lines, each line of some length is a secret, too. Secrets that overlap go together.
  package static func hide(_ secrets: [String], in text: String) -> String {
    var parts: Set<String> = []
    for secret in secrets where secret.count >= hiddenMin {
      let lines = secret.split(whereSeparator: \.isNewline).map(String.init)
      parts.insert(secret)
      parts.formUnion(lines.filter { $0.count >= (lines.count == 1 ? hiddenMin : lineMin) })
    }
    if parts.isEmpty { return text }
    let hidden = parts.map { Array($0.utf8) }
    let beginnings = Set(hidden.map { $0[0] })
    let bytes = Array(text.utf8)
    /// Where the longest one that begins there ends.
    func end(at start: Int) -> Int? {
      guard beginnings.contains(bytes[start]) else { return nil }
      let rest = bytes[start...]
      return hidden.lazy.filter { rest.starts(with: $0) }.map(\.count).max().map { start + $0 }
    }
    var out: [UInt8] = []
    var at = 0
    while at < bytes.count {
      // Of an earlier reading.
      if bytes[at] == UInt8(ascii: "<"), bytes[at...].starts(with: placeholder.utf8) {
        out += placeholder.utf8
        at += placeholder.utf8.count
        continue
      }
      guard var last = end(at: at) else {
        out.append(bytes[at])
        at += 1
        continue
      }
      while at + 1 < last {
        at += 1
        if let further = end(at: at) { last = max(last, further) }
      }
      out += placeholder.utf8
      at = last
    }
    return String(decoding: out, as: UTF8.self)
  }

  /// Characters; shorter ones are found everywhere, and hiding them would hide the text instead.
  private static let hiddenMin = 3
  /// Characters; shorter lines than this are everybody's (`}`).
  private static let lineMin = 4
}

package struct TaskSpec: Hashable, Codable, Sendable {
  package struct Variable: Hashable, Codable, Sendable {
    package var name: String
    package var value: String

    package init(name: String, value: String) {
      self.name = name
      self.value = value
    }
  }

  package struct SecretVariable: Hashable, Codable, Sendable {
    package var name: String
    /// nil: whoever starts the service must supply it.
    package var value: Secret?

    package init(name: String, value: Secret?) {
      self.name = name
      self.value = value
    }
  }

  package enum Workdir: Hashable, Codable, Sendable {
    case local(String)
    case git(url: String, ref: String?)
  }

  package struct FileMount: Hashable, Codable, Sendable {
    package enum Source: Hashable, Codable, Sendable {
      /// A local path or a bucket's URL.
      case path(String)
      /// A bucket with its options.
      case storage(PlainValue)
    }

    package var destination: String
    package var source: Source
  }

  package var name: String?
  package var workdir: Workdir?
  package var numNodes = 1
  package var setup: String?
  package var run: String?
  package var envs: [Variable] = []
  package var secrets: [SecretVariable] = []
  package var fileMounts: [FileMount] = []
  package var resources = ResourceChoice.anyOf([ResourceSpec()])
  package var service: ServiceSpec?
  package var volumes: PlainValue?
  /// Fields that only some clouds read, as they were given.
  package var others: [PlainValue.Member] = []

  package init() {}
}

// MARK: - What follows

extension TaskSpec {
  /// Names without a value; `sky serve up` takes them from --secret.
  package var missingSecrets: [String] { secrets.filter { $0.value == nil }.map(\.name) }

  /// The variables every replica sees, secrets included.
  package var environment: [(name: String, value: String, isSecret: Bool)] {
    envs.map { ($0.name, $0.value, false) }
      + secrets.compactMap { secret in secret.value.map { (secret.name, $0.revealed, true) } }
  }

  /// GPUs per node, rounded up; 0 without any. What SKYPILOT_NUM_GPUS_PER_NODE says.
  package func gpusPerNode(of chosen: ResourceSpec) -> Int {
    guard let count = chosen.accelerator?.count.value else { return 0 }
    return min(Int(clamping: count.rounded(.up)), 1_000_000)
  }

  /// The port of a replica that takes traffic and probes, once `checkService` has passed.
  package var servicePort: Int? { service?.port ?? resources.all.first?.ports?.first?.low }
}

// MARK: - Canonical form

extension TaskSpec {
  /// The whole file in its longest form, for people: secrets are hidden, and so are the values of probe headers.
  package var canonical: PlainValue {
    var shown = self
    shown.service?.probe.headers = service?.probe.headers?.map { .init(name: $0.name, value: Secret.placeholder) }
    return shown.longestForm.mappingTexts(hidingSecrets)
  }

  /// A text of the file without the secrets that were filled in.
  package func hidingSecrets(_ text: String) -> String {
    Secret.hide(secrets.compactMap(\.value?.revealed), in: text)
  }

  /// Which secrets there are; null: one that is still to be supplied.
  package var namedSecrets: PlainValue {
    .map(secrets.map { .init($0.name, $0.value == nil ? .null : .string(Secret.placeholder)) })
  }

  private var longestForm: PlainValue {
    var all = Members()
    all.add("name", name.map(PlainValue.string))
    switch resources {
    case .anyOf(let list) where list.count == 1: all.add("resources", list[0].canonical)
    case .anyOf: all.add("resources", .map([.init("any_of", .list(resources.canonical))]))
    case .ordered: all.add("resources", .map([.init("ordered", .list(resources.canonical))]))
    }
    all.add("service", service?.canonical)
    if numNodes != 1 { all.add("num_nodes", .int(numNodes)) }
    if !envs.isEmpty { all.add("envs", .map(envs.map { .init($0.name, .string($0.value)) })) }
    if !secrets.isEmpty { all.add("secrets", namedSecrets) }
    switch workdir {
    case .local(let path): all.add("workdir", .string(path))
    case .git(let url, let ref):
      all.add("workdir", .map([.init("url", .string(url))] + (ref.map { [.init("ref", .string($0))] } ?? [])))
    case nil: break
    }
    if !fileMounts.isEmpty {
      all.add(
        "file_mounts",
        .map(
          fileMounts.map { mount in
            switch mount.source {
            case .path(let path): .init(mount.destination, .string(path))
            case .storage(let options): .init(mount.destination, options)
            }
          }))
    }
    all.add("volumes", volumes)
    all.add("setup", setup.map(PlainValue.string))
    all.add("run", run.map(PlainValue.string))
    all.list += others
    return .map(all.list)
  }
}

// MARK: - Updates

extension TaskSpec {
  package enum Difference: Hashable, Sendable {
    /// Running replicas already are what the new version asks for: they only change their version.
    case serviceOnly
    /// Replicas must be launched anew.
    case replicas
  }

  /// What a new version of the file changes. Local files may have changed although their path has not, so a workdir or
  /// a file mount always means new replicas.
  package func difference(to new: TaskSpec) -> Difference {
    guard new.workdir == nil, new.fileMounts.isEmpty, workdir == nil, fileMounts.isEmpty else { return .replicas }
    return comparable == new.comparable ? .serviceOnly : .replicas
  }

  /// Everything replicas are made of, in an order that does not matter to them.
  private var comparable: TaskSpec {
    var result = self
    result.service = nil
    result.envs.sort { $0.name < $1.name }
    result.secrets.sort { $0.name < $1.name }
    if case .anyOf(let list) = resources {
      result.resources = .anyOf(
        list.map { ($0, $0.canonical.sorted.json()) }.sorted { $0.1 < $1.1 }.map(\.0))
    }
    return result
  }
}
