// From what the user gave to a ProxyConfig: arguments over environment over file over defaults.
//
// Pure: arguments, environment and file contents come in as values, so that every rule is tested without a process.
// All that is wrong is said at once, each problem under the name the user wrote it with. A value is checked even where
// a source of higher rank overrides it.

import Glibc
import ProxyWire

package struct ConfigSources {
  /// Without the program's name.
  package var arguments: [String]
  package var environment: [String: String]
  package var readFile: (_ path: String) throws(ConfigProblem) -> [UInt8]

  package init(
    arguments: [String], environment: [String: String] = [:],
    readFile: @escaping (_ path: String) throws(ConfigProblem) -> [UInt8] = { path throws(ConfigProblem) in
      throw ConfigProblem("cannot read \(path)")
    }
  ) {
    self.arguments = arguments
    self.environment = environment
    self.readFile = readFile
  }
}

package enum ConfigOutcome: Equatable, Sendable {
  /// Go on; the warnings are for the log.
  case start(ProxyConfig, warnings: [String])
  /// --help or --version: print and exit with 0.
  case answer(String)
  /// Print each on a line of standard error and exit with 2.
  case refuse([String])
}

extension ProxyConfig {
  package static func load(_ sources: ConfigSources) -> ConfigOutcome {
    var problems: [String] = []
    var warnings: [String] = []

    let arguments = readArguments(sources.arguments, &problems)
    // Whoever asks for help gets it, whatever else is wrong.
    if arguments.contains(where: { $0.row.name == "help" }) { return .answer(help()) }
    if arguments.contains(where: { $0.row.name == "version" }) { return .answer("sky-proxy \(ProxyVersion.text)\n") }
    let environment = readEnvironment(sources.environment, &warnings)
    var file: [Setting] = []
    if let path = (arguments + environment).first(where: { $0.row.name == "config" })?.text, !path.isEmpty {
      do throws(ConfigProblem) {
        file = readConfigFile(try sources.readFile(path), name: path, &problems)
      } catch {
        problems.append("--config: \(error.text)")
      }
    }

    var config = ProxyConfig()
    for settings in [file, environment, arguments] {
      var seen: Set<String> = []
      for setting in settings {
        let again = !seen.insert(setting.row.name).inserted
        if setting.row.kind.isRepeatable {
          if !again { setting.row.kind.clear(&config) }
        } else if again {
          problems.append("\(setting.place): is given twice; leave one out")
          continue
        }
        if setting.text.isEmpty, !setting.row.kind.takesEmpty {
          problems.append("\(setting.place): needs a value\(setting.row.cure)")
        } else if let problem = setting.row.kind.store(setting.text, &config) {
          problems.append("\(setting.place): \(problem)")
        }
      }
    }
    // Checks between values would only repeat what is already known to be wrong.
    if problems.isEmpty { config.crossCheck(&problems, &warnings) }
    return problems.isEmpty ? .start(config, warnings: warnings) : .refuse(problems)
  }

  /// Every flag with the values in force, in the order of the table: for introspection and the plan.
  package var settings: [(name: String, values: [String])] {
    ConfigRow.all.filter { $0.sources.contains(.environment) }.map { ($0.name, $0.kind.show(self)) }
  }

  /// What no single row can know.
  private func crossCheck(_ problems: inout [String], _ warnings: inout [String]) {
    let hasControl = admin.contains { if case .unix = $0 { true } else { false } }
    if replicas.isEmpty, !hasControl, !printPlan {
      problems.append(
        "there is nothing to send requests to: give --replica HOST:PORT, or --admin unix:PATH for a controller")
    }
    if tlsCert != nil, tlsKey == nil { problems.append("--tls-cert: give its private key too, with --tls-key") }
    if tlsKey != nil, tlsCert == nil { problems.append("--tls-key: give its certificate too, with --tls-cert") }
    if replicas.count > maxReplicas {
      problems.append("--replica: \(replicas.count) replicas are more than --max-replicas \(maxReplicas); raise it")
    }
    if maxTargetBytes > maxHeadBytes {
      problems.append(
        """
        --max-target-bytes: \(ConfigUnits.text(size: maxTargetBytes)) is more than --max-head-bytes \
        \(ConfigUnits.text(size: maxHeadBytes)), which includes the target; lower it or raise the other
        """)
    }
    if ejectMinNs > ejectMaxNs {
      problems.append(
        """
        --eject-min: \(ConfigUnits.text(durationNs: ejectMinNs)) is more than --eject-max \
        \(ConfigUnits.text(durationNs: ejectMaxNs)); lower it or raise the other
        """)
    }
    if streamWindow < bufferSize {
      problems.append(
        """
        --stream-window: \(ConfigUnits.text(size: streamWindow)) is less than --buffer-size \
        \(ConfigUnits.text(size: bufferSize)); a stream needs at least one buffer
        """)
    }
    for endpoint in admin where listen.contains(endpoint) && endpoint.port != 0 {
      problems.append("--admin: \(endpoint) is also given to --listen; choose another")
    }
    for replica in replicas where listen.contains(replica.endpoint) {
      problems.append("--replica: \(replica.endpoint) is also given to --listen, so requests would run in a circle")
    }
    if poolIdleTimeoutNs >= 5 * ConfigUnits.second {
      warnings.append(
        """
        --pool-idle-timeout: \(ConfigUnits.text(durationNs: poolIdleTimeoutNs)) is not below the 5s after which \
        uvicorn closes an idle connection; requests sent at that moment fail unless the replicas' limit is longer
        """)
    }
  }
}

// MARK: - The three sources

/// One value as the user gave it.
private struct Setting {
  var row: ConfigRow
  var text: String
  /// `--workers`, `SKY_PROXY_WORKERS` or `proxy.conf:3: workers`.
  var place: String
}

private func readArguments(_ arguments: [String], _ problems: inout [String]) -> [Setting] {
  var result: [Setting] = []
  var i = 0
  while i < arguments.count {
    let argument = arguments[i]
    i += 1
    if argument == "-h" {
      result += ConfigRow.named("help").map { [Setting(row: $0, text: "on", place: "-h")] } ?? []
      continue
    }
    guard argument.utf8.starts(with: "--".utf8), argument.utf8.count > 2 else {
      let isFlag = argument.utf8.first == UInt8(ascii: "-") && argument.utf8.count > 1
      let known = isFlag ? ConfigRow.all.map(\.name) : []
      let cure = didYouMean(trimmedDashes(argument), among: known, prefix: "--", otherwise: "; see --help")
      problems.append("unexpected argument \(quoted(argument))\(cure)")
      continue
    }
    let bytes = Array(argument.utf8)
    let equals = bytes.firstIndex(of: UInt8(ascii: "="))
    let name = String(decoding: bytes[2..<(equals ?? bytes.count)], as: UTF8.self)
    guard let row = ConfigRow.named(name) else {
      let cure = didYouMean(name, among: ConfigRow.all.map(\.name), prefix: "--", otherwise: "; see --help")
      problems.append("unknown flag \(quoted("--" + name))\(cure)")
      // Its value must not look like a mistake of its own.
      if equals == nil, i < arguments.count, arguments[i].utf8.first != UInt8(ascii: "-") { i += 1 }
      continue
    }
    let place = "--\(name)"
    if let equals {
      let text = String(decoding: bytes[(equals + 1)...], as: UTF8.self)
      result.append(Setting(row: row, text: text, place: place))
    } else if row.kind.isSwitch {
      result.append(Setting(row: row, text: "on", place: place))
    } else if i < arguments.count, !arguments[i].utf8.starts(with: "--".utf8) {
      result.append(Setting(row: row, text: arguments[i], place: place))
      i += 1
    } else {
      problems.append("\(place): needs a value\(row.cure)")
    }
  }
  return result
}

private func trimmedDashes(_ text: String) -> String {
  String(decoding: Array(text.utf8.drop { $0 == UInt8(ascii: "-") }), as: UTF8.self)
}

/// An empty variable counts as not set: that is how Compose files and shells leave one out.
private func readEnvironment(_ environment: [String: String], _ warnings: inout [String]) -> [Setting] {
  let rows = ConfigRow.all.filter { $0.sources.contains(.environment) }
  var result: [Setting] = []
  for row in rows {
    guard let text = environment[row.variable], !text.isEmpty else { continue }
    if row.kind.isRepeatable {
      for part in text.split(separator: ",") {
        result.append(Setting(row: row, text: trimmed(part), place: row.variable))
      }
    } else {
      result.append(Setting(row: row, text: text, place: row.variable))
    }
  }
  let known = rows.map(\.variable)
  for name in environment.keys.sorted() where name.utf8.starts(with: ConfigRow.variablePrefix.utf8) {
    // Only what looks like a slip: Kubernetes sets SKY_PROXY_PORT and more for a service named sky-proxy.
    if !known.contains(name), let meant = suggest(name, among: known), isNear(name, meant) {
      warnings.append("the environment variable \(name) is not known, did you mean \(meant)?")
    }
  }
  return result
}

private func isNear(_ a: String, _ b: String) -> Bool { editDistance(Array(a.utf8), Array(b.utf8)) <= 2 }

private let configFileBytesMax = 1 << 20

private func readConfigFile(_ bytes: [UInt8], name: String, _ problems: inout [String]) -> [Setting] {
  let rows = ConfigRow.all.filter { $0.sources.contains(.file) }
  if bytes.count > configFileBytesMax {
    problems.append("\(name): is larger than 1m; this is no configuration file")
    return []
  }
  var result: [Setting] = []
  let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
  for (index, bytes) in lines.enumerated() {
    let place = "\(name):\(index + 1)"
    guard let whole = String(validating: bytes, as: UTF8.self), !bytes.contains(0) else {
      problems.append("\(place): the line is not UTF-8 text")
      continue
    }
    let line = trimmed(withoutComment(whole))
    if line.isEmpty { continue }
    guard let equals = line.utf8.firstIndex(of: UInt8(ascii: "=")) else {
      let isSection = line.utf8.first == UInt8(ascii: "[")
      problems.append(
        "\(place): \(quoted(line)) is not key = value\(isSection ? "; there are no sections, leave the line out" : "")")
      continue
    }
    let key = trimmed(line[..<equals])
    let text = trimmed(line[line.utf8.index(after: equals)...])
    guard let row = rows.first(where: { $0.name == key }) else {
      let cure =
        ConfigRow.named(key) != nil
        ? ": it can only be given as a flag" : didYouMean(key, among: rows.map(\.name), otherwise: "; see --help")
      problems.append("\(place): unknown key \(quoted(key))\(cure)")
      continue
    }
    if let first = text.utf8.first, first == UInt8(ascii: "\"") || first == UInt8(ascii: "'") {
      problems.append("\(place): \(key): values are not quoted; leave the quotes out")
      continue
    }
    result.append(Setting(row: row, text: text, place: "\(place): \(key)"))
  }
  return result
}

/// A `#` at the start or after white space begins a comment; within a word it is a letter like any other.
private func withoutComment(_ line: String) -> String {
  let bytes = Array(line.utf8)
  for (i, byte) in bytes.enumerated() where byte == UInt8(ascii: "#") {
    if i == 0 || bytes[i - 1] == UInt8(ascii: " ") || bytes[i - 1] == UInt8(ascii: "\t") {
      return String(decoding: bytes[..<i], as: UTF8.self)
    }
  }
  return line
}

extension ConfigRow {
  fileprivate var cure: String { kind.range.isEmpty ? "; see --help" : "; write \(kind.range)" }
}

// MARK: - This process

extension ConfigSources {
  /// The process's own arguments and environment, and files from its file system.
  package static func ofThisProcess() -> ConfigSources {
    var environment: [String: String] = [:]
    for row in ConfigRow.all {
      if let value = getenv(row.variable) { environment[row.variable] = String(cString: value) }
    }
    // Names that are not known can only be found in the whole list; they are worth a warning, not a failure.
    if let whole = try? readFileContents("/proc/self/environ") {
      for entry in whole.split(separator: 0) where entry.starts(with: ConfigRow.variablePrefix.utf8) {
        let parts = entry.split(separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
        let name = String(decoding: parts[0], as: UTF8.self)
        if environment[name] == nil { environment[name] = "" }
      }
    }
    return ConfigSources(
      arguments: Array(CommandLine.arguments.dropFirst()), environment: environment, readFile: readFileContents)
  }

  /// At most a little more than a configuration file may have.
  private static func readFileContents(_ path: String) throws(ConfigProblem) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    if descriptor < 0 { throw ConfigProblem("cannot read \(path): \(errorText(errno))") }
    defer { close(descriptor) }
    var result: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while result.count <= configFileBytesMax {
      let count = read(descriptor, &chunk, chunk.count)
      if count < 0 {
        if errno == EINTR { continue }
        throw ConfigProblem("cannot read \(path): \(errorText(errno))")
      }
      if count == 0 { break }
      result.append(contentsOf: chunk[..<count])
    }
    return result
  }
}
