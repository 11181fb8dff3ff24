// A service file with what the command line lays over it, for up, update and validate.
//
//   read ─ parse ─ options laid over ─▶ TaskSpec ─ checks ─▶ paths made absolute, missing ones named ─▶ sent
//
// Paths in a file are relative to where the command is given, as in SkyPilot, and the controller has a folder of its
// own: only absolute ones are sent.

import ControlCore
import Foundation
import Yaml

struct ServiceFile {
  /// As the user gave it.
  var name: String
  var task: TaskSpec
  /// For places in messages.
  private var root: YamlNode
  /// What stands in no file.
  private var flags: (workdir: Bool, ports: Bool)

  static let argument = "SERVICE_YAML"
  /// Bytes; a service file has some kilobytes.
  private static let sizeMax = 16 << 20

  // MARK: - Reading

  static func read(_ call: Call, _ session: Session) throws(Stop) -> ServiceFile {
    do throws(Problem) { return try parse(call, session) } catch {
      switch error {
      case .stop(let stop): throw stop
      case .spec(let error): throw stop(error)
      }
    }
  }

  /// Why a file could not be read: a mistake in the words of the command, or one in the file.
  enum Problem: Error {
    case stop(Stop)
    case spec(SpecError)
  }

  /// What is no service file at all is a mistake of the command line.
  static func stop(_ error: SpecError) -> Stop {
    for beginning in ["SERVICE_YAML must be", "YAML specifies a DAG"] where error.message.hasPrefix(beginning) {
      return .usage(error.cure.isEmpty ? error.message : "\(error.message) \(error.cure)")
    }
    return .file(error.description)
  }

  static func parse(_ call: Call, _ session: Session) throws(Problem) -> ServiceFile {
    let name = call.argument(argument)
    let bytes: [UInt8]
    do throws(Stop) { bytes = try contents(name, session) } catch { throw .stop(error) }
    // Read once for the places and the names of secrets; mistakes are told by the reading below.
    var root = (try? parseYamlStream(bytes, name: name))?.first ?? YamlNode(.map([]))
    let overrides: TaskOverrides
    do throws(Stop) {
      overrides = try TaskOptions.overrides(call, session, secrets: secretNames(root))
      root = try TaskOptions.layingConfig(call, session, over: root)
    } catch {
      throw .stop(error)
    }
    do throws(SpecError) {
      let task: TaskSpec
      if call.texts(.config).isEmpty {
        task = try TaskSpec(yaml: bytes, name: name, overrides: overrides)
      } else {
        _ = try TaskSpec(yaml: bytes, name: name, overrides: overrides)
        do throws(SpecError) { task = try TaskSpec(decoding: root, overrides: overrides) } catch {
          var error = error
          error.name = name
          throw error
        }
      }
      let flags = (workdir: call.text(.workdir) != nil, ports: !call.texts(.ports).isEmpty)
      return ServiceFile(name: name, task: task, root: root, flags: flags)
    } catch {
      throw .spec(error)
    }
  }

  private static func contents(_ name: String, _ session: Session) throws(Stop) -> [UInt8] {
    if name == "-" {
      guard let bytes = Terminal.readInput(limit: sizeMax) else { throw .usage("Cannot read the standard input.") }
      return bytes
    }
    do throws(FileText.Unreadable) { return try FileText.read(name, session, limit: sizeMax) } catch {
      throw .usage("\(argument) must be a valid YAML file. \(error.reason)")
    }
  }

  private static func secretNames(_ root: YamlNode) -> [String] {
    (root["secrets"]?.map?.compactMap(\.key.string) ?? []) + (root["secrets"]?.list?.compactMap(\.string) ?? [])
  }

  /// Of the section `envs` or `secrets`: those that the file leaves to the command line.
  func namesWithoutValue(_ section: String) -> [String] {
    root[section]?.map?.filter { $0.value.isNull }.compactMap(\.key.string) ?? []
  }

  // MARK: - Checks

  /// Everything that can be said before anything is sent.
  func check() throws(SpecError) {
    do throws(SpecError) {
      try task.checkPorts()
      if task.service?.pool != nil {
        throw SpecError(
          .value, mark: .none,
          "Found a `pool` section, and `sky serve` is for services. To fix, replace it by a `service` section.")
      }
      try task.checkService()
    } catch {
      throw placed(error)
    }
  }

  /// The original gives no places for these; the section that the sentence is about is one.
  func placed(_ error: SpecError) -> SpecError {
    var error = error
    error.name = name
    error.message = task.hidingSecrets(error.message)
    guard error.mark == .none else { return error }
    let policy = ["service", "replica_policy"]
    let places: [(String, [String])] = [
      ("Service section not found", []), ("`pool` section", ["pool"]), ("service port", ["service", "ports"]),
      ("ports", ["resources", "ports"]), ("spot_placer", policy + ["spot_placer"]), ("fallback", policy),
      ("spot placement", policy + ["spot_placer"]), ("job_recovery", ["resources", "job_recovery"]),
    ]
    let path = places.first { error.message.contains($0.0) }?.1 ?? ["resources"]
    if flags.ports, path == ["resources", "ports"] {
      error.name = "--ports"
      return error
    }
    error.mark = mark(path)
    return error
  }

  /// Of the deepest part of the path that there is.
  func mark(_ path: [String]) -> YamlMark {
    var node = root
    for key in path {
      guard let entry = node.map?.first(where: { $0.key.string == key }) else { break }
      node = entry.value.isNull || entry.value.mark == .none ? entry.key : entry.value
    }
    return node.mark == .none ? YamlMark(line: 1, column: 1) : node.mark
  }

  /// What nobody forbids and nobody wants.
  var warnings: [SpecError] {
    guard task.service?.pool == nil, task.run?.allSatisfy(\.isWhitespace) ?? true else { return [] }
    let seconds = task.service?.probe.initialDelay ?? Quantity(Defaults.initialDelay)
    return [
      SpecError(
        .value, name: name, mark: mark(["run"]),
        "There is no command in 'run:'. If nothing else listens on the replica's port, it stays STARTING until it is given "
          + "up after \(seconds) s (initial_delay_seconds).")
    ]
  }

  /// Those that whoever starts the service must give.
  func checkSecrets() throws(SpecError) {
    guard let name = task.missingSecrets.first else { return }
    throw SpecError(
      .value, name: self.name, mark: mark(["secrets", name]),
      "Secret variable '\(name)' is None. Please set a value for it with the --secret flag, as in --secret \(name)=..., "
        + "or --secret \(name) for the value it has in your shell.")
  }

  // MARK: - Paths

  /// Local paths as absolute ones, and a sentence for each that is not there.
  func resolved(_ session: Session) -> (task: TaskSpec, missing: [SpecError]) {
    var task = task
    var missing: [SpecError] = []
    func exists(_ path: String, folder: Bool = false) -> Bool {
      var isFolder: ObjCBool = false
      return FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) && (!folder || isFolder.boolValue)
    }
    func miss(_ path: [String], _ message: String) {
      let isFlag = flags.workdir && path == ["workdir"]
      missing.append(
        SpecError(
          .value, name: isFlag ? "--workdir" : name, mark: isFlag ? .none : mark(path), self.task.hidingSecrets(message)))
    }
    if case .local(let path) = task.workdir {
      let full = session.absolute(path)
      task.workdir = .local(full)
      if !exists(full, folder: true) {
        miss(
          ["workdir"],
          "Workdir must be a valid directory (or a symlink to a valid directory). \(path) not found.")
      }
    }
    for index in task.fileMounts.indices {
      guard let path = task.fileMounts[index].localPath else { continue }
      let full = session.absolute(path)
      let destination = task.fileMounts[index].destination
      switch task.fileMounts[index].source {
      case .path: task.fileMounts[index].source = .path(full)
      case .storage(.map(let members)):
        task.fileMounts[index].source = .storage(
          .map(members.map { $0.key == "source" ? .init("source", .string(full)) : $0 }))
      case .storage: break
      }
      if !exists(full) {
        miss(
          ["file_mounts", destination],
          "File mount source '\(path)' does not exist locally. To fix: check if it exists, and correct the path.")
      }
    }
    if let tls = task.service?.tls {
      task.service?.tls?.keyfile = session.absolute(tls.keyfile)
      task.service?.tls?.certfile = session.absolute(tls.certfile)
      for (field, path) in [("keyfile", tls.keyfile), ("certfile", tls.certfile)] where !exists(session.absolute(path))
      {
        miss(
          ["service", "tls", field],
          "TLS \(field) '\(path)' does not exist. To fix: check if it exists, and correct the path.")
      }
    }
    return (task, missing)
  }

  /// What is sent; everything must be there.
  func complete(_ session: Session) throws(Stop) -> TaskSpec {
    do throws(SpecError) {
      try check()
      try checkSecrets()
    } catch {
      throw Self.stop(error)
    }
    let (task, missing) = resolved(session)
    if !missing.isEmpty { throw .file(missing.map(\.description).joined(separator: "\n")) }
    return task
  }
}
