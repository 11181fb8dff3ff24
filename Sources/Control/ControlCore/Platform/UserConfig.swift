// The user's settings: `~/.sky/config.yaml`, the file SkyPilot documents, and one section of our own. Read once at
// start by the controller; never written.
//
//   serve:
//     controller: {resources, autostop, max_services, …}    what serves services; `max_services` is ours
//   local: {host, ports, gpus, cpus, memory}                this machine; ours
//
// Sections and fields of `serve` that mean nothing here are left alone: the same file may steer SkyPilot. In `local` an
// unknown field is a mistake.

import ProxyWire
import Yaml

package struct UserConfig: Hashable, Sendable {
  /// What this machine offers, and where its services listen.
  package struct Local: Hashable, Sendable {
    package static let defaultHost = "127.0.0.1"
    /// Up to where the kernel begins to hand out ports by itself.
    package static let defaultPorts = 30001...32767

    package enum Gpus: Hashable, Sendable {
      /// These, whatever can be found.
      case declared([Accelerator])
      /// Of those that are found, the ones with these indices.
      case only([Int])
    }

    /// The address that endpoints listen on: 127.0.0.1 for this machine alone, 0.0.0.0 for all who can reach it.
    package var host = Local.defaultHost
    /// Of the endpoints.
    package var ports = Local.defaultPorts
    /// nil: whatever is found.
    package var gpus: Gpus?
    /// nil: as many as there are.
    package var cpus: Int?
    /// GB; nil: what there is.
    package var memory: Double?

    package init() {}
  }

  package enum Autostop: Hashable, Sendable {
    case never
    /// After so many idle minutes. `down` tells machines elsewhere apart; here both end the controller.
    case after(minutes: Int, down: Bool)
  }

  package static let defaultAutostop = Autostop.after(minutes: 10, down: false)

  /// Asked for the controller's own machine. Here it is this one: the field is checked, and means nothing more.
  package var controllerResources: ResourceChoice?
  package var autostop = UserConfig.defaultAutostop
  /// nil: by the machine, min(4 x vCPUs, memory in GiB).
  package var servicesMax: Int?
  /// Accepted as SkyPilot has them; what they switch does not exist here.
  package var highAvailability: Bool?
  package var consolidationMode: Bool?
  package var forceDisableCloudBucket: Bool?
  package var bucket: String?
  /// Hours that logs of the controller and of replicas that are gone are kept; nil: for ever.
  package var controllerLogsHours: Int?
  package var taskLogsHours: Int?
  package var local = Local()

  package init() {}

  /// Idle seconds after which the controller ends itself; nil: never.
  package var autostopSeconds: Double? {
    switch autostop {
    case .never: nil
    case .after(let minutes, _): Double(minutes) * 60
    }
  }

  /// A file that is not there says nothing.
  package init(path: String) throws(SpecError) {
    let bytes: [UInt8]?
    do throws(StoreError) { bytes = try StoreFile.read(path) } catch {
      throw SpecError(.config, name: path, mark: .none, error.description)
    }
    try self.init(yaml: bytes ?? [], name: path)
  }

  package init(yaml bytes: [UInt8], name: String) throws(SpecError) {
    self.init()
    let root: YamlNode
    do throws(YamlError) { root = try parseYaml(bytes, name: name) } catch {
      throw SpecError(
        .config, name: name, mark: error.mark, error.hint.isEmpty ? error.message : "\(error.message). \(error.hint)")
    }
    do throws(SpecError) { try read(root) } catch {
      var error = error
      error.name = name
      throw error
    }
  }

  // MARK: Sections

  private mutating func read(_ root: YamlNode) throws(SpecError) {
    if root.isNull { return }
    guard root.map != nil else {
      throw SpecError(
        .config, mark: root.mark, "Found \(root.kindName) where sections such as 'serve:' and 'local:' were expected.")
    }
    let sections = root.withoutNulls
    if let serve = sections["serve"] { try readServe(serve) }
    if let local = sections["local"] { try readLocal(local.withoutNulls) }
  }

  private mutating func readServe(_ node: YamlNode) throws(SpecError) {
    var serve = node.withoutNulls
    if let controller = serve["controller"] { serve = serve.setting("controller", to: controller.withoutNulls) }
    try Schema.serveConfig.check(serve, in: "serve config")
    bucket = serve["bucket"]?.string
    forceDisableCloudBucket = serve["force_disable_cloud_bucket"]?.bool
    guard let controller = serve["controller"] else { return }
    if let resources = controller["resources"] {
      controllerResources = try ResourceChoice(decoding: resources)
      if let ports = resources["ports"] {
        throw SpecError(
          .config, mark: ports.mark, "Cannot specify ports in serve.controller.resources.",
          cure: "Write local.ports for the ports of the services' endpoints.")
      }
    }
    if let node = controller["autostop"] { autostop = try Self.readAutostop(node) }
    servicesMax = controller["max_services"]?.whole
    highAvailability = controller["high_availability"]?.bool
    consolidationMode = controller["consolidation_mode"]?.bool
    controllerLogsHours = controller["controller_logs_gc_retention_hours"]?.whole
    taskLogsHours = controller["task_logs_gc_retention_hours"]?.whole
  }

  private static func readAutostop(_ node: YamlNode) throws(SpecError) -> Autostop {
    let minutesMax = 525_600 * 10  // ten years
    func after(_ minutes: Int, _ place: YamlNode, down: Bool = false) throws(SpecError) -> Autostop {
      guard (0...minutesMax).contains(minutes) else {
        throw SpecError(
          .config, mark: place.mark, "autostop is \(place.pythonRepr) and must be from 0 to \(minutesMax) minutes.",
          cure: "Write false to keep the controller for ever.")
      }
      return .after(minutes: minutes, down: down)
    }
    if let flag = node.bool { return flag ? defaultAutostop : .never }
    if let minutes = node.whole { return try after(minutes, node) }
    if let text = node.string {
      let scales: [Character: Int] = ["m": 1, "h": 60, "d": 1440, "w": 10080]
      let scale = text.lowercased().last.flatMap { scales[$0] }
      guard let count = Int(scale == nil ? text : String(text.dropLast())), count >= 0 else {
        throw SpecError(
          .config, mark: node.mark, "Invalid time format: \(text)", cure: "Write minutes, or 10m, 2h, 1d.")
      }
      return try after(count.multipliedReportingOverflow(by: scale ?? 1).partialValue, node)
    }
    let down = node["down"]?.bool ?? false
    guard let minutes = node["idle_minutes"] else {
      guard case .after(let minutes, _) = defaultAutostop else { preconditionFailure("by default it stops") }
      return .after(minutes: minutes, down: down)
    }
    return try after(minutes.whole ?? -1, minutes, down: down)
  }

  private mutating func readLocal(_ node: YamlNode) throws(SpecError) {
    try Schema.localConfig.check(node, in: "local config")
    func fail(_ field: YamlNode, _ message: String, _ cure: String) -> SpecError {
      SpecError(.config, mark: field.mark, message, cure: cure)
    }
    if let host = node["host"], let text = host.string {
      let bytes = Array(text.utf8)[...]
      guard text == "localhost" || parseIPv4(bytes) != nil || parseIPv6(bytes) != nil else {
        throw fail(
          host, "host is \(host.pythonRepr), which is no address.",
          "Write 127.0.0.1 (this machine alone) or 0.0.0.0 (all who can reach it).")
      }
      local.host = text == "localhost" ? Local.defaultHost : text
    }
    if let ports = node["ports"] {
      let words = ports.pythonText.split(separator: "-", omittingEmptySubsequences: false)
        .map { Int(String($0).trimmed) }
      guard (1...2).contains(words.count), let low = words[0], let high = words.last ?? nil,
        (1...65535).contains(low), (low...65535).contains(max(high, low)), low <= high
      else {
        throw fail(ports, "ports is \(ports.pythonRepr), which is no range of ports.", "Write 30001-30020.")
      }
      local.ports = low...high
    }
    if let cpus = node["cpus"]?.whole { local.cpus = cpus }
    if let memory = node["memory"] {
      let most = Double(Bounds.most)
      guard let size = memory.double ?? memory.string.flatMap(Self.gigabytes), size > 0, size <= most else {
        throw fail(memory, "memory is \(memory.pythonRepr), which is no size.", "Write GB: 16 or 16GB.")
      }
      local.memory = size
    }
    if let gpus = node["gpus"] { local.gpus = try Self.readGpus(gpus) }
  }

  private static func gigabytes(_ text: String) -> Double? {
    let lower = text.lowercased()
    return Double(lower.hasSuffix("gb") ? String(lower.dropLast(2)).trimmed : lower)
  }

  /// `{A100: 2, L4: 1}`, `A100:2`, `[A100, A100]`, or indices of those that are found: `[0, 2]`. Empty: none.
  private static func readGpus(_ node: YamlNode) throws(SpecError) -> Local.Gpus {
    func fail(_ place: YamlNode, _ what: String) -> SpecError {
      SpecError(
        .config, mark: place.mark, "gpus \(what).",
        cure: "Write {A100: 2} to declare them, or [0, 1] to take the first two that are found.")
    }
    let countMax = 1024
    var names: [String] = []
    var counts: [String: Int] = [:]
    func add(_ name: String, _ count: Int, _ place: YamlNode) throws(SpecError) {
      guard !name.isEmpty, !name.contains(where: { $0.isWhitespace || $0 == ":" }) else {
        throw fail(place, "has \(place.pythonRepr), which is no name of an accelerator")
      }
      if counts[name] == nil { names.append(name) }
      let total = (counts[name] ?? 0).addingReportingOverflow(count).partialValue
      guard (0...countMax).contains(count), (0...countMax).contains(total) else {
        throw fail(place, "has \(total) of \(name), and at most \(countMax) are possible")
      }
      counts[name] = total
    }
    func addWord(_ item: YamlNode) throws(SpecError) {
      let parts = item.pythonText.split(separator: ":", omittingEmptySubsequences: false).map { String($0).trimmed }
      guard parts.count <= 2, let count = parts.count == 1 ? 1 : Int(parts[1]) else {
        throw fail(item, "has \(item.pythonRepr), which is not NAME or NAME:COUNT")
      }
      try add(parts[0], count, item)
    }
    if let entries = node.map {
      for entry in entries {
        // `{A100:2}` without a space: the whole of it is the key.
        if entry.value.isNull {
          try addWord(entry.key)
        } else {
          guard let count = entry.value.whole else {
            throw fail(entry.value, "has \(entry.value.pythonRepr), which is no count")
          }
          try add(entry.key.keyText, count, entry.key)
        }
      }
    } else if let items = node.list {
      if !items.isEmpty, items.allSatisfy({ $0.int != nil }) {
        if let bad = items.first(where: { !(0..<countMax).contains($0.int!) }) {
          throw fail(bad, "has the index \(bad.pythonText)")
        }
        return .only(Array(Set(items.map { $0.int! })).sorted())
      }
      for item in items { try addWord(item) }
    } else if let count = node.int {
      guard (0...countMax).contains(count) else { throw fail(node, "is \(count)") }
      return .only(Array(0..<count))  // so many of those that are found
    } else if let text = node.string {
      if text.lowercased() != "none" { try addWord(node) }
    } else {
      throw fail(node, "is \(node.pythonRepr)")
    }
    return .declared(names.filter { counts[$0]! > 0 }.map { Accelerator(name: $0, count: Quantity(counts[$0]!)) })
  }
}

extension Schema {
  private static let autostopForms = Schema.either(
    .boolean, .string, .integer(from: 0),
    .object([
      ("idle_minutes", .integer(from: 0)), ("down", .boolean), ("wait_for", .string), ("hook", .string),
      ("hook_timeout", .integer(from: 1)),
    ]))

  fileprivate static let serveConfig = Schema(
    .type([.object]), .fields,
    fields: [
      (
        "controller",
        Schema(
          .type([.object]), .fields,
          fields: [
            ("resources", .anyObject), ("autostop", autostopForms), ("max_services", .integer(from: 1)),
            ("high_availability", .boolean), ("consolidation_mode", .boolean),
            ("controller_logs_gc_retention_hours", .integer), ("task_logs_gc_retention_hours", .integer),
          ])
      ),
      ("bucket", .string), ("force_disable_cloud_bucket", .boolean),
    ])

  fileprivate static let localConfig = Schema.object([
    ("host", .string), ("ports", .either(.string, .integer)),
    ("gpus", .either(.anyObject, Schema(.type([.array])), .string, .integer)), ("cpus", .integer(from: 1)),
    ("memory", .either(.number, .string)),
  ])
}
