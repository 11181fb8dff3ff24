// From a service file to a TaskSpec.
//
//   bytes ─ Yaml ─▶ nodes ─ envs and secrets as text ─▶ shape ─▶ --env, --secret ─▶ ${VAR} filled in ─▶ TaskSpec
//                                                                                                        │
//                                           resources: ResourceDecoding, service: ServiceDecoding ◀──────┘
//
// Called by the CLI for `up`, `update` and `validate`, and by the API server for what others send. Every error names
// the place in the file.

import Yaml

/// What the command line adds to a file; the command line wins.
package struct TaskOverrides: Sendable {
  package var envs: [TaskSpec.Variable] = []
  package var secrets: [TaskSpec.SecretVariable] = []
  package var workdir: TaskSpec.Workdir?
  package var numNodes: Int?
  package var name: String?
  /// Fields as under `resources:`, laid over every candidate.
  package var resources: [(field: String, value: YamlNode)] = []

  package init() {}

  /// What is wrong with a field of `resources` taken by itself.
  package static func problem(_ field: String, _ value: YamlNode) -> String? {
    do throws(SpecError) { _ = try ResourceChoice(decoding: YamlNode(.map([YamlEntry(field, value)]))) } catch {
      return error.description
    }
    return nil
  }
}

extension TaskSpec {
  package init(
    yaml bytes: [UInt8], name file: String, overrides: TaskOverrides = TaskOverrides()
  ) throws(SpecError) {
    let documents: [YamlNode]
    do throws(YamlError) { documents = try parseYamlStream(bytes, name: file) } catch {
      throw SpecError(
        .value, name: file, mark: error.mark, error.hint.isEmpty ? error.message : "\(error.message). \(error.hint)")
    }
    if documents.count > 1 {
      throw SpecError(
        .value, name: file, mark: documents[1].mark,
        "YAML specifies a DAG which is only supported by `sky jobs launch`. `sky serve up` supports a single task only.")
    }
    let root = documents.first ?? YamlNode(.map([]))
    do throws(SpecError) { try self.init(decoding: root, overrides: overrides) } catch {
      var error = error
      error.name = file
      throw error
    }
  }

  package init(decoding root: YamlNode, overrides: TaskOverrides = TaskOverrides()) throws(SpecError) {
    var root = root
    if root.isNull { root = YamlNode(.map([]), mark: root.mark) }
    guard root.map != nil else {
      throw SpecError(
        .value, mark: root.mark, "SERVICE_YAML must be a valid YAML file.",
        cure: "Found \(root.kindName) where fields such as 'service:' and 'run:' were expected.")
    }
    if let envs = root["envs"] { root = root.setting("envs", to: envs.withTextValues) }
    if let secrets = root["secrets"] { root = root.setting("secrets", to: secrets.withTextValues) }
    let task = root.withoutNulls
    try Schema.task.check(task, in: "task")
    self.init()
    try readEnvs(task["envs"], overrides.envs)
    try readSecrets(task, overrides.secrets)
    do throws(SpecError) { try readRest(task, of: root, overrides) } catch {
      // It may quote a text that secrets were filled into.
      var error = error
      error.message = hidingSecrets(error.message)
      error.cure = hidingSecrets(error.cure)
      throw error
    }
  }

  private mutating func readRest(
    _ task: YamlNode, of root: YamlNode, _ overrides: TaskOverrides
  ) throws(SpecError) {
    let known = Dictionary(environment.map { ($0.name, $0.value) }, uniquingKeysWith: { $1 })
    func filled(_ key: String) -> YamlNode? { task[key]?.filling(known) }

    name = overrides.name ?? task["name"]?.string
    run = task["run"]?.string
    setup = task["setup"]?.string
    volumes = filled("volumes").map(PlainValue.init)
    if let node = filled("workdir") {
      workdir =
        node.string.map { .local($0) }
        ?? .git(url: node["url"]?.string ?? "", ref: node["ref"]?.string)
    }
    if let given = overrides.workdir { workdir = given }
    try readNodes(task["num_nodes"], overrides.numNodes)
    try readName(task["name"] ?? root)
    try readMounts(filled("file_mounts"))
    let needsFuse = fileMounts.contains(where: \.isMounted)
    let config = task["config"]?.removing("hooks").map ?? []
    resources = try ResourceChoice(
      decoding: (task["resources"] ?? YamlNode(.map([]))).overlaying(overrides.resources)
    ) { spec in
      if needsFuse { spec.requiresFuse = true }
      if !config.isEmpty { spec.configOverrides = PlainValue(YamlNode(.map(config))) }
    }
    let section = filled("service")
    let pool = task["pool"]
    if section != nil, let pool {
      throw SpecError(.value, mark: pool.mark, "Cannot set both service and pool in the same task.")
    }
    if let section {
      service = try ServiceSpec(decoding: section)
    } else if let pool {
      service = try ServiceSpec(decoding: YamlNode(.map([YamlEntry("pool", pool)]), mark: pool.mark))
    }
    for key in [
      "event_callback", "api_server_access", "volume_mounts", "inputs", "outputs", "file_mounts_mapping", "_metadata",
      "managed_secrets",
    ] {
      if let node = task[key] { others.append(.init(key, PlainValue(node))) }
    }
    if let hooks = task["config"]?["hooks"] { others.append(.init("hooks", PlainValue(hooks))) }
  }
}

// MARK: - Sections

extension TaskSpec {
  private mutating func readEnvs(_ node: YamlNode?, _ given: [Variable]) throws(SpecError) {
    for entry in node?.map ?? [] {
      let name = entry.key.keyText
      let value = given.last { $0.name == name }?.value ?? entry.value.string
      guard let value else {
        throw SpecError(
          .value, mark: entry.key.mark,
          "Environment variable \(pythonQuoted(name)) is None. Please set a value for it in task YAML or with --env "
            + "flag. To set it to be empty, use an empty string (\(name): \"\" in task YAML or --env \(name)=\"\" in "
            + "CLI).")
      }
      envs.append(Variable(name: name, value: value))
    }
    for one in given where !envs.contains(where: { $0.name == one.name }) {
      envs.append(Variable(name: one.name, value: given.last { $0.name == one.name }!.value))
    }
  }

  private mutating func readSecrets(_ task: YamlNode, _ given: [SecretVariable]) throws(SpecError) {
    let prefix = "secrets:"
    func reference(_ text: String) -> String { text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text }
    guard let node = task["secrets"] else {
      secrets = given
      return
    }
    for item in node.list ?? [] {
      guard let text = item.string, text.hasPrefix(prefix) else {
        throw SpecError(
          .value, mark: item.mark,
          "Invalid secret in array form: \(item.pythonRepr). Array items must use the secrets: prefix (e.g., "
            + "secrets:HF_TOKEN). For inline secrets with values, use dict form: secrets: {MY_SECRET: \"value\"}")
      }
      secrets.append(SecretVariable(name: reference(text), value: nil))
    }
    for entry in node.map ?? [] {
      let name = entry.key.keyText
      if name.hasPrefix(prefix), !entry.value.isNull {
        throw SpecError(
          .value, mark: entry.value.mark,
          "Invalid secret \(pythonQuoted(name)): secret references (secrets: prefix) must have a null value in dict "
            + "form. To provide an inline secret value, remove the 'secrets:' prefix.")
      }
      secrets.append(SecretVariable(name: reference(name), value: entry.value.string.map(Secret.init)))
    }
    for one in given {
      if let index = secrets.firstIndex(where: { $0.name == one.name }) {
        secrets[index] = one
      } else {
        secrets.append(one)
      }
    }
  }

  private mutating func readNodes(_ node: YamlNode?, _ given: Int?) throws(SpecError) {
    numNodes = given ?? node?.int ?? 1
    if numNodes <= 0 || (given == nil && node != nil && node?.int == nil) {
      throw SpecError(
        .value, mark: given == nil ? node?.mark ?? .none : .none,
        "num_nodes should be a positive int. Got: \(given.map(String.init) ?? node?.pythonText ?? "0")")
    }
  }

  private func readName(_ node: YamlNode) throws(SpecError) {
    guard let name, !Self.isTaskName(name) else { return }
    throw SpecError(
      .value, mark: node.mark,
      "Invalid task name \(name). Valid name: ASCII characters and may contain lowercase and uppercase letters, digits, "
        + "underscores, periods, and dashes. Must start and end with alphanumeric characters. No triple dashes or "
        + "underscores.")
  }

  /// Letters and digits, with at most two of `.`, `_`, `-` between them.
  static func isTaskName(_ name: String) -> Bool {
    var marks = 0
    for (index, byte) in name.utf8.enumerated() {
      if Bytes.isLetter(byte) || Bytes.isDigit(byte) {
        marks = 0
      } else if [UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-")].contains(byte), index > 0, marks < 2 {
        marks += 1
      } else {
        return false
      }
    }
    return !name.isEmpty && marks == 0
  }

  private mutating func readMounts(_ node: YamlNode?) throws(SpecError) {
    for entry in node?.map ?? [] {
      let destination = entry.key.keyText
      func fail(_ message: String, _ node: YamlNode? = nil) -> SpecError {
        SpecError(.value, mark: (node ?? entry.key).mark, message)
      }
      if destination.hasSuffix("/") {
        throw fail("Mount paths cannot end with a slash Found: \(destination) in file_mounts")
      }
      if destination == "~/sky_workdir", workdir != nil {
        throw fail(
          "Cannot use '~/sky_workdir' as a destination path of a file mount, as it will be used by the workdir. If "
            + "uploading a file/folder to the workdir is needed, please specify the full path to the file/folder.")
      }
      if destination.contains("://") { throw fail("File mount destination paths cannot be cloud storage") }
      if let path = entry.value.string {
        if path.hasSuffix("/") {
          throw fail("Mount paths cannot end with a slash Found: \(path) in file_mounts", entry.value)
        }
        fileMounts.append(FileMount(destination: destination, source: .path(path)))
      } else if entry.value.map != nil {
        let fields = ["name", "source", "store", "persistent", "mode", "config", "_bucket_sub_path", "_is_sky_managed"]
        for field in entry.value.map ?? [] where !fields.contains(field.key.keyText) {
          throw SpecError(
            .config, mark: field.key.mark,
            "Invalid storage YAML: \(unsupportedField(field.key, among: fields))")
        }
        let modes = ["MOUNT", "COPY", "MOUNT_CACHED"]
        if let mode = entry.value["mode"], !modes.contains(mode.string?.uppercased() ?? "") {
          throw SpecError(
            .config, mark: mode.mark,
            "Invalid storage YAML: \(mode.pythonRepr) is not one of [\(modes.map(pythonQuoted).joined(separator: ", "))]."
              + " Check problematic field(s): $.mode")
        }
        fileMounts.append(FileMount(destination: destination, source: .storage(PlainValue(entry.value))))
      } else {
        throw fail("Unable to parse file_mount \(destination):\(entry.value.pythonText)", entry.value)
      }
    }
  }
}

extension TaskSpec.FileMount {
  /// A bucket mounted as a file system, not copied.
  fileprivate var isMounted: Bool {
    guard case .storage(let options) = source else { return false }
    return options["mode"]?.text?.uppercased() != "COPY"
  }

  /// The local path behind it, if it is one.
  package var localPath: String? {
    switch source {
    case .path(let path): path.contains("://") ? nil : path
    case .storage(let options): options["source"]?.text.flatMap { $0.contains("://") ? nil : $0 }
    }
  }
}

// MARK: - Trees

extension YamlNode {
  /// Values as text, keys as text: `PORT: 8080` sets the text `8080`. Nulls stay.
  fileprivate var withTextValues: YamlNode {
    var result = self
    switch value {
    case .map(let entries):
      result.value = .map(
        entries.map { entry in
          let key = entry.key.string == nil ? YamlNode(.string(entry.key.pythonText), mark: entry.key.mark) : entry.key
          if entry.value.isNull || entry.value.string != nil { return YamlEntry(key: key, value: entry.value) }
          return YamlEntry(key: key, value: YamlNode(.string(entry.value.pythonText), mark: entry.value.mark))
        })
    case .list(let items):
      result.value = .list(items.map { YamlNode(.string($0.pythonText), mark: $0.mark) })
    case .null, .bool, .int, .hugeInt, .float, .string: break
    }
    return result
  }

  /// `$NAME` and `${NAME}` replaced in every text and key below; unknown names stay as they are.
  func filling(_ known: [String: String]) -> YamlNode {
    var result = self
    switch value {
    case .string(let text): result.value = .string(filledIn(text, known))
    case .list(let items): result.value = .list(items.map { $0.filling(known) })
    case .map(let entries):
      result.value = .map(entries.map { YamlEntry(key: $0.key.filling(known), value: $0.value.filling(known)) })
    case .null, .bool, .int, .hugeInt, .float: break
    }
    return result
  }

  fileprivate func overlaying(_ fields: [(field: String, value: YamlNode)]) -> YamlNode {
    var result = self
    if fields.isEmpty { return result }
    for key in ["any_of", "ordered"] {
      guard let list = result[key]?.list else { continue }
      let laid = list.map { item in
        fields.reduce(item.clearingPlace(for: fields)) { $0.setting($1.field, to: $1.value) }
      }
      result = result.setting(key, to: YamlNode(.list(laid), mark: result[key]!.mark))
    }
    return fields.reduce(result.clearingPlace(for: fields)) { $0.setting($1.field, to: $1.value) }
  }

  /// A place given on the command line replaces the file's, whichever form either has.
  private func clearingPlace(for fields: [(field: String, value: YamlNode)]) -> YamlNode {
    let names = fields.map(\.field)
    var result = self
    if names.contains("infra") {
      for key in ["cloud", "region", "zone"] { result = result.removing(key) }
    } else if names.contains("cloud") || names.contains("region") || names.contains("zone") {
      result = result.removing("infra")
    }
    if names.contains("accelerators") { result = result.removing("gpus") }
    return result
  }
}

/// One text with its variables filled in.
func filledIn(_ text: String, _ known: [String: String]) -> String {
  guard text.utf8.contains(UInt8(ascii: "$")) else { return text }
  var out: [UInt8] = []
  let bytes = Array(text.utf8)
  var at = 0
  func isNameByte(_ byte: UInt8, first: Bool) -> Bool {
    Bytes.isLetter(byte) || byte == UInt8(ascii: "_") || (!first && Bytes.isDigit(byte))
  }
  while at < bytes.count {
    let start = at
    at += 1
    guard bytes[start] == UInt8(ascii: "$") else {
      out.append(bytes[start])
      continue
    }
    let braced = at < bytes.count && bytes[at] == UInt8(ascii: "{")
    if braced { at += 1 }
    let nameStart = at
    while at < bytes.count, isNameByte(bytes[at], first: at == nameStart) { at += 1 }
    let name = String(decoding: bytes[nameStart..<at], as: UTF8.self)
    let closed = !braced || (at < bytes.count && bytes[at] == UInt8(ascii: "}"))
    if let value = known[name], closed {
      if braced { at += 1 }
      out.append(contentsOf: value.utf8)
    } else {
      out.append(contentsOf: bytes[start..<at])
    }
  }
  return String(decoding: out, as: UTF8.self)
}
