// Every recorded answer of SkyServe's parser: small inputs, and real service files.
//
// Where we answer otherwise on purpose, the case is in `deviations` with its reason.

import Foundation
import Testing

@testable import ControlCore

@Suite struct SpecVectorTests {
  /// Case → what our message says instead of the recorded outcome. Each is a defect of the original (the reference's
  /// list of defects, number 18): it accepts what it cannot serve, or crashes.
  static let deviations: [String: String] = [
    "replicas_neg": "-1 is less than the minimum of 0",  // waits for -1 replicas
  ]

  @Test func smallInputs() throws {
    let vectors = try Vectors.all("parser-vectors.json")
    #expect(vectors.count >= 60)
    for vector in vectors {
      let name = vector["name"]?.text ?? "?"
      let yaml = vector["yaml"]?.text ?? ""
      let outcome = Outcome(yaml, file: "service.yaml")
      if let said = Self.deviations[name] {
        #expect(outcome.parse.contains(said), "\(name): \(outcome.parse)")
        continue
      }
      #expect(outcome.parse == vector["parse"]?.text, "\(name)")
      guard let task = outcome.task, vector["parse"]?.text == "ok" else { continue }
      #expect(task.service?.canonical.sorted == vector["service"]?.sorted, "\(name)")
      if let echo = vector["repr"]?.text { #expect(task.service?.echo == echo, "\(name)") }
      if let resources = vector["resources"] {
        #expect(task.resources.kindName == resources["kind"]?.text, "\(name)")
        let expected = resources["items"]?.items.map { $0.sorted.json() } ?? []
        let found = task.resources.canonical.map { $0.sorted.json() }
        let isList = task.resources.kindName == "list"
        #expect(isList ? found == expected : found.sorted() == expected.sorted(), "\(name): \(found)")
      }
      if let validate = vector["validate"]?.text { #expect(outcome.validate == validate, "\(name)") }
    }
  }

  @Test(.enabled(if: Vectors.shared?.hasServiceFiles == true)) func realFiles() throws {
    let folder = try #require(Vectors.shared).appending(path: "service-yamls")
    let vectors = try Vectors.read(folder.appending(path: "expected.json"))
    #expect(vectors.count >= 50)
    for vector in vectors {
      let name = vector["file"]?.text ?? "?"
      let bytes = try [UInt8](Data(contentsOf: folder.appending(path: name)))
      // The recorded run gave every missing value the text "dummy".
      var overrides = TaskOverrides()
      overrides.envs = vector["null_envs"]?.items.map { .init(name: $0.text!, value: "dummy") } ?? []
      overrides.secrets = vector["null_secrets"]?.items.map { .init(name: $0.text!, value: Secret("dummy")) } ?? []
      let outcome = Outcome(bytes, file: name, overrides)
      #expect(outcome.parse == vector["parse"]?.text, "\(name)")
      guard let task = outcome.task else { continue }
      #expect(task.service?.canonical.sorted == vector["service"]?.sorted, "\(name)")
      #expect(task.service?.echo == vector["service_repr"]?.text, "\(name)")
      #expect(task.resources.kindName == vector["resources_kind"]?.text, "\(name)")
      #expect(task.numNodes == vector["num_nodes"]?.whole, "\(name)")
      let expected = vector["resources"]?.items.map(\.text!) ?? []
      #expect(task.resources.canonical.map { $0.sorted.json(.python) } == expected, "\(name)")
      // A pool is checked as a pool there; a placer asks a catalogue that the recorded run could not reach.
      let validate = vector["validate"]?.text ?? ""
      if !validate.hasPrefix("ConnectionError") { #expect(outcome.validate == validate, "\(name)") }
    }
  }
}

extension URL {
  var hasServiceFiles: Bool {
    FileManager.default.fileExists(atPath: appending(path: "service-yamls/expected.json").path)
  }
}

/// Both checks' answers as the vectors have them: `ok` or `Class: message`.
struct Outcome {
  var task: TaskSpec?
  var parse = "ok"
  var validate: String?
  var error: SpecError?

  init(_ yaml: String, file: String, _ overrides: TaskOverrides = TaskOverrides()) {
    self.init(Array(yaml.utf8), file: file, overrides)
  }

  init(_ yaml: [UInt8], file: String, _ overrides: TaskOverrides = TaskOverrides()) {
    do throws(SpecError) { task = try TaskSpec(yaml: yaml, name: file, overrides: overrides) } catch {
      parse = "\(error.kind.rawValue): \(error.message)"
      self.error = error
      return
    }
    validate = "ok"
    do throws(SpecError) { try task!.checkService() } catch {
      validate = "\(error.kind.rawValue): \(error.message)"
    }
  }
}
