// What is said when a service file cannot be used: where, what, and what to do.

import Yaml

/// Reads `service.yaml:4:3: Invalid service YAML: Instead of 'replica', did you mean 'replicas'?`
package struct SpecError: Error, Sendable, Hashable, CustomStringConvertible {
  /// The family the original's exception belongs to; machine-readable output names it.
  package enum Kind: String, Sendable, Hashable {
    case value = "ValueError"
    case config = "InvalidSkyPilotConfigError"
    case runtime = "RuntimeError"
  }

  package var kind: Kind
  /// The file's name as the user gave it.
  package var name: String
  package var mark: YamlMark
  /// What is wrong; SkyPilot's own words where it has some.
  package var message: String
  /// What to do about it, where the message does not say so itself.
  package var cure: String

  package init(_ kind: Kind, name: String = "", mark: YamlMark, _ message: String, cure: String = "") {
    self.kind = kind
    self.name = name
    self.mark = mark
    self.message = message
    self.cure = cure
  }

  package var description: String {
    var place = name
    if mark != .none { place += place.isEmpty ? "\(mark)" : ":\(mark)" }
    let said = cure.isEmpty ? message : "\(message.hasSuffix(".") ? message : message + ".") \(cure)"
    return place.isEmpty ? said : "\(place): \(said)"
  }
}
