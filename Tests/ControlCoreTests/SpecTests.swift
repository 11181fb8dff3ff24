// What the recorded answers do not show: places, suggestions, the command line's share, secrets, comparing versions.

import Foundation
import SimKit
import TestSupport
import Testing
import Yaml

@testable import ControlCore

@Suite struct SpecTests {
  private static let rest = "\nresources: {ports: 8080}\nrun: x\n"

  private func task(_ yaml: String, _ overrides: TaskOverrides = TaskOverrides()) throws -> TaskSpec {
    try TaskSpec(yaml: Array(yaml.utf8), name: "service.yaml", overrides: overrides)
  }

  /// Input → the whole line a person sees.
  private static let mistakes: [(String, String)] = [
    (
      "service:\n  replica: 2" + rest,
      "service.yaml:2:3: Invalid service YAML: Instead of 'replica', did you mean 'replicas'?"
    ),
    (
      "service:\n  readiness_probe:\n    path: /\n    timeout_second: 3" + rest,
      "service.yaml:4:5: Invalid service YAML: Additional properties are not allowed ('timeout_second' was unexpected). "
        + "Check problematic field(s): $.readiness_probe. Did you mean 'timeout_seconds'?"
    ),
    (
      "service:\n  readiness_probe: {path: /, timeout_seconds: '20'}" + rest,
      "service.yaml:2:47: Invalid service YAML: '20' is not of type 'number'. Check problematic field(s): "
        + "$.readiness_probe.timeout_seconds"
    ),
    (
      "service:\n  readiness_probe: health" + rest,
      "service.yaml:2:20: readiness_path must start with a slash (/). Got: health. Write '/health'."
    ),
    (
      "resources:\n  accelerators: A100:8:1\n",
      "service.yaml:2:17: The \"accelerators\" field as a str should be <name> or <name>:<cnt>. Found: 'A100:8:1'"
    ),
    (
      "resources:\n  ports: [8080, 70000]\n",
      "service.yaml:2:17: Invalid port 70000. Please use a port number between 1 and 65535."
    ),
    (
      "resources:\n  memory: lots\n",
      "service.yaml:2:11: \"memory\" field should be a number (e.g. \"16\") or \"<number><unit>\" where unit is one of "
        + "KB/MB/GB/TB/PB (e.g. \"16GB\") or \"<number>+\" for \"at least\". Got: 'lots'"
    ),
    ("resources:\n  infra: aws//b\n", "does not match"),
    ("a: 1\na: 2\n", "service.yaml:2:1: Duplicate key 'a' in YAML at line 2 (also defined at line 1)."),
    ("- a\n", "service.yaml:1:1: SERVICE_YAML must be a valid YAML file."),
    ("run: a\n---\nrun: b\n", "YAML specifies a DAG which is only supported by `sky jobs launch`."),
    (
      "service:\n  replica_policy:\n    min_replicas: 0\n    max_replicas: 3\n    target_qps_per_replica: 0" + rest,
      "service.yaml:5:29: Invalid service YAML: 0 is less than or equal to the minimum of 0."
    ),
    (
      "service:\n  load_balancing_policy: instance_aware_least_load\n  replica_policy: {min_replicas: 0, "
        + "max_replicas: 3, target_qps_per_replica: {}}" + rest, "{} has no accelerators"
    ),
    ("service:\n  replicas: -1" + rest, "service.yaml:2:13: Invalid service YAML: -1 is less than the minimum of 0."),
  ]

  @Test(arguments: mistakes) func mistakesAreShownInPlace(yaml: String, line: String) {
    let error = #expect(throws: SpecError.self) { try task(yaml) }
    #expect(error?.description.contains(line) == true, "\(error?.description ?? "")")
  }

  /// Empty means default; SkyServe's parser crashes on it.
  @Test func emptyProbeIsTheDefault() throws {
    #expect(try task("service:\n  readiness_probe:\n  replicas: 2" + Self.rest).service?.probe.path == "/")
  }

  @Test func theCommandLineWins() throws {
    var overrides = TaskOverrides()
    overrides.envs = [.init(name: "P", value: "/new"), .init(name: "EXTRA", value: "1")]
    overrides.secrets = [.init(name: "T", value: Secret("hush"))]
    overrides.numNodes = 2
    overrides.resources = [
      ("accelerators", YamlNode(.string("H100:2"))), ("use_spot", YamlNode(.bool(true))),
      ("infra", YamlNode(.string("gcp"))),
    ]
    let task = try task(
      """
      envs: {P: }
      secrets: {T: }
      service:
        readiness_probe: {path: "$P", headers: {A: "Bearer ${T}"}}
      resources: {ports: 80, cloud: aws, gpus: L4, any_of: [{cpus: 1, region: x}, {cpus: 2}]}
      """, overrides)
    #expect(task.service?.probe.path == "/new")
    #expect(task.service?.probe.headers?.first?.value == "Bearer hush")
    #expect(task.envs.map(\.name) == ["P", "EXTRA"] && task.missingSecrets.isEmpty && task.numNodes == 2)
    #expect(task.resources.all.allSatisfy { $0.isSpot && $0.accelerator?.name == "H100" && $0.infra.text == "gcp" })
    #expect(task.resources.all.map(\.cpus) == ["1", "2"] && task.gpusPerNode(of: task.resources.all[0]) == 2)
  }

  @Test func secretsAreNotShown() throws {
    let task = try task("secrets: {T: hush}\nservice: {readiness_probe: {path: /, headers: {A: $T}}}" + Self.rest)
    var dumped = ""
    dump(task, to: &dumped)
    for text in ["\(task.secrets)", String(reflecting: task.secrets), dumped.replacing("value: \"hush\"", with: "")] {
      #expect(!text.contains("hush"), "\(text)")
    }
    #expect("\(task.service!.probe.headers!)".contains("<redacted>"))
    #expect(!task.service!.echo.contains("hush"))
    #expect(task.canonical["secrets"]?["T"]?.text == "<redacted>")
    #expect(task.environment.contains { $0.value == "hush" })
    let again = try JSONDecoder().decode(TaskSpec.self, from: JSONEncoder().encode(task))
    #expect(again == task)
  }

  @Test func versionsAreCompared() throws {
    let old = try task("service: {replicas: 1}\nenvs: {A: 1, B: 2}\nresources: {ports: 80, accelerators: {L4: 1, T4: 2}}")
    let more = try task("service: {replicas: 3}\nenvs: {B: 2, A: 1}\nresources: {ports: 80, accelerators: {T4: 2, L4: 1}}")
    #expect(old.difference(to: more) == .serviceOnly)
    let ordered = try task("service: {replicas: 1}\nenvs: {A: 1, B: 2}\nresources: {ports: 80, accelerators: [L4, T4:2]}")
    #expect(old.difference(to: ordered) == .replicas)
    var other = old
    other.run = "y"
    #expect(old.difference(to: other) == .replicas)
    // The files behind a path may be others by now.
    var local = old
    local.workdir = .local(".")
    #expect(local.difference(to: local) == .replicas && old.difference(to: local) == .replicas)
  }

  @Test func portsAreAskedFor() throws {
    func message(_ yaml: String) -> String? {
      do { try task(yaml).checkPorts() } catch { return "\(error)" }
      return nil
    }
    #expect(message("service: {}\nresources: {cpus: 1}")?.hasPrefix("Must specify at least one ports in resources.") == true)
    #expect(message("service: {}\nresources: {ports: 1-2}")?.hasPrefix("Multiple ports specified") == true)
    #expect(
      message("service: {}\nresources: {ordered: [{ports: 1}, {ports: 2}]}")?.hasPrefix("Got multiple ports: 1 and 2")
        == true)
    #expect(message("service: {ports: 3}\nresources: {cpus: 1}")?.contains("in every replica resources") == true)
    #expect(message("service: {ports: 3}\nresources: {ports: 1-2}")?.contains("The service port 3") == true)
    #expect(message("service: {ports: 2}\nresources: {ports: 1-2}") == nil)
    #expect(message("resources: {ports: 1}")?.hasPrefix("Service section not found in the YAML file.") == true)
  }

  @Test func serviceNames() {
    for good in ["a", "my-svc", "A.b_c-9"] { #expect(throws: Never.self) { try ServiceName.check(good) } }
    for bad in ["", "9a", "a-", "a b", "é", "-a"] { #expect(throws: SpecError.self) { try ServiceName.check(bad) } }
  }

  @Test func suggestionsFollowTheLikenessOfWords() {
    #expect(closestMatch("replicass", among: ["replicas", "replica_policy"]) == "replicas")
    #expect(closestMatch("zzz", among: ["replicas"]) == nil)
    #expect(likeness(Array("abcd".unicodeScalars), Array("bcde".unicodeScalars)) == 0.75)
  }

  /// Anything may be typed into a file: an answer always comes, and soon.
  @Test func anyBytesAreAnswered() throws {
    var chance = Chance()
    let seeds = try Vectors.all("parser-vectors.json").compactMap { $0["yaml"]?.text }.map { Array($0.utf8) }
    for _ in 0..<3000 {
      let bytes = chance.mutated(seeds[chance.below(seeds.count)])
      let outcome = Outcome(bytes, file: "f.yaml")
      if let error = outcome.error { #expect(!error.message.isEmpty, "\(chance.replay())") }
      if let task = outcome.task { _ = (task.canonical.json(), task.service?.echo) }
    }
  }
}
