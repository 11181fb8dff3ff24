// The options of `up` and `update` that are laid over a service file: SkyPilot's task options.

import ControlCore
import Foundation
import Yaml

enum TaskOptions {
  /// - Parameter secrets: names of the file's secrets; values in an --env-file for these stay secret.
  static func overrides(_ call: Call, _ session: Session, secrets: [String]) throws(Stop) -> TaskOverrides {
    var result = TaskOverrides()
    let fromEnvFile = try file(.envFile, call, session)
    for (key, value) in fromEnvFile where !secrets.contains(key) { set(&result.envs, key, value) }
    for (key, value) in try pairs(call.texts(.env), "--env", session) { set(&result.envs, key, value) }

    for (key, value) in fromEnvFile where secrets.contains(key) { set(&result.secrets, key, value) }
    for (key, value) in try file(.secretFile, call, session) { set(&result.secrets, key, value) }
    for (key, value) in try pairs(call.texts(.secret), "--secret", session) { set(&result.secrets, key, value) }

    try readWorkdir(call, &result)
    result.numNodes = call.whole(.numNodes)
    if let nodes = result.numNodes, nodes < 1 {
      throw .usage("Invalid value for '--num-nodes': num_nodes should be a positive int. Got: \(nodes)")
    }
    result.resources = try resources(call)
    return result
  }

  private static func set(_ list: inout [TaskSpec.Variable], _ key: String, _ value: String) {
    list.removeAll { $0.name == key }
    list.append(.init(name: key, value: value))
  }

  private static func set(_ list: inout [TaskSpec.SecretVariable], _ key: String, _ value: String) {
    list.removeAll { $0.name == key }
    list.append(.init(name: key, value: Secret(value)))
  }

  private static func file(
    _ flag: Flag, _ call: Call, _ session: Session
  ) throws(Stop) -> [(key: String, value: String)] {
    guard let name = call.text(flag) else { return [] }
    let bytes: [UInt8]
    do throws(FileText.Unreadable) { bytes = try FileText.read(name, session) } catch {
      throw .usage("Invalid value for '--\(flag.name)': \(error.reason)")
    }
    return try EnvFile.parse(String(decoding: bytes, as: UTF8.self), name: name)
  }

  private static func pairs(
    _ words: [String], _ flag: String, _ session: Session
  ) throws(Stop) -> [(String, String)] {
    var result: [(String, String)] = []
    for word in words {
      let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
      let key = parts[0]
      // The value may be a secret, and so may a word without a key: it is not repeated.
      guard isVariableName(key) else {
        let what = parts.count == 1 && flag == "--secret" ? "it" : "'\(key)'"
        throw .usage(
          "Invalid value for '\(flag)': \(what) is not a variable's name. Write KEY=VALUE, or KEY for the value it has "
            + "in your shell.")
      }
      if parts.count == 2 {
        result.append((key, parts[1]))
      } else if let value = session.environment[key] {
        result.append((key, value))
      } else {
        throw .usage("Invalid value for '\(flag)': \(key) is not set in local environment.")
      }
    }
    return result
  }

  private static func readWorkdir(_ call: Call, _ result: inout TaskOverrides) throws(Stop) {
    if let folder = call.text(.workdir) { result.workdir = .local(folder) }
    guard call.command.flags.contains(.gitUrl) else { return }
    if let url = call.text(.gitUrl) {
      if result.workdir != nil { throw .usage("Cannot specify both --git-url and --workdir.") }
      result.workdir = .git(url: url, ref: call.text(.gitRef))
    } else if call.text(.gitRef) != nil {
      throw .usage("--git-ref needs --git-url.")
    }
  }

  private static func resources(_ call: Call) throws(Stop) -> [(field: String, value: YamlNode)] {
    if call.text(.infra) != nil, call.text(.cloud) != nil || call.text(.region) != nil || call.text(.zone) != nil {
      throw .usage("Cannot specify --infra together with --cloud, --region, or --zone.")
    }
    var fields: [(field: String, value: YamlNode)] = []
    func add(_ flag: Flag, _ field: String, _ value: YamlNode) throws(Stop) {
      if let problem = TaskOverrides.problem(field, value) {
        throw .usage("Invalid value for '--\(flag.name)': \(problem)")
      }
      fields.append((field, value))
    }
    for (flag, field) in texts {
      guard let text = call.text(flag) else { continue }
      // `none` takes away what the file says.
      try add(flag, field, text.lowercased() == "none" ? YamlNode(.null) : YamlNode(.string(text)))
    }
    if let isSpot = call.choice(.useSpot) { fields.append(("use_spot", YamlNode(.bool(isSpot)))) }
    let ports = call.texts(.ports)
    if !ports.isEmpty { try add(.ports, "ports", YamlNode(.list(ports.map { YamlNode(.string($0)) }))) }
    return fields
  }

  private static let texts: [(flag: Flag, field: String)] = [
    (.infra, "infra"), (.cloud, "cloud"), (.region, "region"), (.zone, "zone"), (.cpus, "cpus"),
    (.memory, "memory"), (.diskSize, "disk_size"), (.diskTier, "disk_tier"), (.networkTier, "network_tier"),
    (.imageID, "image_id"), (.localDisk, "local_disk"), (.gpus, "accelerators"), (.instanceType, "instance_type"),
  ]

  /// What a machine says of a task, which does not know where a field comes from: those that were given on the command
  /// line are called as they were there.
  static func naming(_ text: String, _ call: Call) -> String {
    var text = text
    // Older forms of `infra`, as which the machine knows them.
    let places: [(flag: Flag, field: String)] = [(.cloud, "infra"), (.region, "infra"), (.zone, "infra")]
    for (flag, field) in texts + places + [(.numNodes, "num_nodes")] where call.text(flag) != nil {
      for ending in [" from resources", " in resources", ""] {
        text = text.replacing("'\(field):'\(ending)", with: "--\(flag.name)")
      }
      text = text.replacing("\(field): ", with: "--\(flag.name) ")
    }
    return text
  }

  // MARK: - --config

  /// The file with its section `config:` extended by --config; later ones win.
  static func layingConfig(_ call: Call, _ session: Session, over root: YamlNode) throws(Stop) -> YamlNode {
    var config = root["config"] ?? YamlNode(.map([]))
    let given = call.texts(.config)
    if given.isEmpty || root.map == nil { return root }
    for word in given {
      let addition: YamlNode
      if let equals = word.firstIndex(of: "=") {
        let path = word[..<equals].split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        if path.contains("") { throw .usage("Invalid value for '--config': '\(word)' is not KEY.PATH=VALUE.") }
        let text = String(word[word.index(after: equals)...])
        var node = (try? parseYaml(text, name: "--config")) ?? YamlNode(.string(text))
        for key in path.reversed() { node = YamlNode(.map([YamlEntry(key, node)])) }
        addition = node
      } else {
        guard let data = FileManager.default.contents(atPath: session.absolute(word)) else {
          throw .usage("Invalid value for '--config': '\(word)' is neither KEY=VALUE nor a file.")
        }
        do throws(YamlError) { addition = try parseYaml([UInt8](data), name: word) } catch {
          throw .file(error.description)
        }
      }
      for entry in addition.map ?? [] where ["serve", "local"].contains(entry.key.string) {
        throw .usage(
          "Invalid value for '--config': '\(entry.key.string ?? "")' belongs to the controller and not to one service. "
            + "Write it in ~/.sky/config.yaml.")
      }
      config = merged(config, addition)
    }
    let entries = (root.map ?? []).filter { $0.key.string != "config" } + [YamlEntry("config", config)]
    var result = root
    result.value = .map(entries)
    return result
  }

  private static func merged(_ old: YamlNode, _ new: YamlNode) -> YamlNode {
    guard var entries = old.map, let additions = new.map else { return new }
    for addition in additions {
      if let index = entries.firstIndex(where: { $0.key.string == addition.key.string }) {
        entries[index].value = merged(entries[index].value, addition.value)
      } else {
        entries.append(addition)
      }
    }
    return YamlNode(.map(entries), mark: old.mark)
  }
}
