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
    (
      "service:\n  replicas: -1" + rest,
      "service.yaml:2:13: Invalid service YAML: -1 is less than the minimum of 0. Check problematic field(s): $.replicas. "
        + "Write a whole number from 0 to 10000."
    ),
    (
      "service:\n  readiness_probe: {path: /, initial_delay_seconds: -1.0e+30}" + rest,
      "service.yaml:2:53: Invalid service YAML: -1e+30 is less than the minimum of -1000000000. Check problematic field(s): "
        + "$.readiness_probe.initial_delay_seconds. Write a number from -1000000000 to 1000000000."
    ),
    (
      "service:\n  readiness_probe: {path: /, timeout_seconds: .nan}" + rest,
      "service.yaml:2:47: Invalid service YAML: nan is not a finite number. Check problematic field(s): "
        + "$.readiness_probe.timeout_seconds. Write a number from 0 to 1000000000."
    ),
    ("service:\n  ports: 1.0e+300" + rest, "service.yaml:2:10: Invalid service YAML: 1e+300 is greater than the maximum of"),
    ("service:\n  ports: 70000" + rest, "service.yaml:2:10: Port must be between 1 and 65535."),
    ("resources:\n  cpus: .inf\n", "service.yaml:2:9: Invalid resources YAML: inf is not a finite number."),
    ("resources:\n  memory: 1e308TB\n", "service.yaml:2:11: \"memory\" field should be a number"),
    ("resources:\n  max_hourly_cost: .inf\n", "service.yaml:2:20: Invalid resources YAML: inf is not a finite number."),
    ("resources:\n  accelerators: {A100: .nan}\n", "service.yaml:2:24: Invalid resources YAML: nan is not a finite number."),
    ("resources:\n  accelerators: 9000000000000000000TB\n", "service.yaml:2:17: No accelerator with this much memory"),
    (
      "service:\n  readiness_probe: {path: /, post_data: {a: [1, .inf]}}" + rest,
      "service.yaml:2:49: `post_data` in the `readiness_probe` section is sent as JSON, which has no inf."
    ),
    (
      "service:\n  readiness_probe:\n    path: /\n    headers:\n      X-Key: |\n        sesame" + rest,
      "service.yaml:5:14: The value of 'X-Key' in `headers` of the `readiness_probe` section has a line break or a zero byte "
        + "(RFC 9110, 5.5). Write it on one line"
    ),
    (
      "service:\n  readiness_probe: {path: /, headers: {\"X\\nY\": a}}" + rest,
      "service.yaml:2:40: \"X\\nY\" in `headers` of the `readiness_probe` section is no name of a header field (RFC 9110, "
        + "5.6.2). Names are letters"
    ),
    (
      "secrets: {K: hunter2}\nservice:\n  readiness_probe: $K" + rest,
      "service.yaml:3:20: readiness_path must start with a slash (/). Got: <redacted>. Write '/<redacted>'."
    ),
  ]

  /// Every number of the section, and text for what is around it.
  private static let numbers = [
    "readiness_probe: {path: /, initial_delay_seconds: #}", "readiness_probe: {path: /, timeout_seconds: #}",
    "readiness_probe: {path: /, endpoint_probe_interval_seconds: #}",
    "readiness_probe: {path: /, consecutive_failure_threshold_timeout: #}", "load_balancer: {stream_timeout_seconds: #}",
    "replicas: #", "ports: #", "replica_policy: {min_replicas: #}", "replica_policy: {min_replicas: 1, max_replicas: #}",
    "replica_policy: {min_replicas: 1, num_overprovision: #}",
    "replica_policy: {min_replicas: 1, base_ondemand_fallback_replicas: #}",
    "replica_policy: {min_replicas: 1, max_replicas: 2, target_qps_per_replica: #}",
    "replica_policy: {min_replicas: 1, max_replicas: 2, target_qps_per_replica: {A100: #}}",
    "replica_policy: {min_replicas: 1, upscale_delay_seconds: #}",
    "replica_policy: {min_replicas: 1, downscale_delay_seconds: #}",
  ]

  @Test(arguments: numbers) func numbersHaveBounds(field: String) {
    let big = String(repeating: "9", count: 400)
    for value in [".inf", "-.inf", ".nan", "1.0e+400", "1.0e+30", "-1.0e+30", big, "-" + big] {
      let error = #expect(throws: SpecError.self, "\(value)") {
        try task("service:\n  " + field.replacing("#", with: value) + Self.rest)
      }
      #expect(error?.mark.line == 2 && (error?.description.count ?? 999) < 400, "\(value): \(error?.description ?? "")")
      if error?.mark.line == 2, !field.hasPrefix("ports") {
        #expect(
          error?.cure.contains("rite a ") == true || error?.message.contains("is not of type 'integer'") == true,
          "\(value): \(error?.description ?? "")")
      }
    }
  }

  /// Through the API comes what no file was decoded from.
  @Test func theApiChecksTheSameValues() throws {
    let good = try task("service: {readiness_probe: {path: /, headers: {A: b}}, replicas: 1}" + Self.rest)
    func refusal(_ change: (inout ServiceSpec) -> Void) -> String? {
      var task = good
      change(&task.service!)
      do throws(CommandError) {
        _ = try Commands.up(ControlState(), name: "web", task: task, port: 1, now: 0)
      } catch { return error.description }
      return nil
    }
    #expect(refusal { _ in } == nil)
    #expect(refusal { $0.probe.initialDelay = .whole(-5) } == nil, "SkyServe takes it")
    let bad: [(field: String, change: (inout ServiceSpec) -> Void)] = [
      ("initial_delay_seconds", { $0.probe.initialDelay = .fraction(-1e30) }),
      ("timeout_seconds", { $0.probe.timeout = .whole(-1) }),
      ("endpoint_probe_interval_seconds", { $0.probe.interval = .fraction(1e30) }),
      ("consecutive_failure_threshold_timeout", { $0.probe.failureThreshold = .fraction(.infinity) }),
      ("stream_timeout_seconds", { $0.streamTimeout = .fraction(.nan) }),
      ("min_replicas", { $0.policy.minReplicas = .max }), ("max_replicas", { $0.policy.maxReplicas = -1 }),
      ("num_overprovision", { $0.policy.numOverprovision = .max }),
      ("target_qps_per_replica", { $0.policy.targetQps = .perReplica(.fraction(1e30)) }),
      ("upscale_delay_seconds", { $0.policy.upscaleDelay = .fraction(1e30) }), ("ports", { $0.port = 0 }),
    ]
    for (field, change) in bad {
      #expect(refusal(change)?.hasPrefix("`\(field)` is ") == true, "\(field): \(refusal(change) ?? "-")")
    }
    #expect(refusal { $0.probe.headers = [.init(name: "A", value: "b\r\nC: d")] }?.contains("line break") == true)
  }

  @Test func anyNumberBecomesAWholeOne() {
    for (number, whole) in [
      (1.9, 1), (-1.9, -1), (.nan, 0), (.infinity, .max), (-.infinity, .min), (1e30, .max), (-1e30, .min),
      (0x1p63, .max), (-0x1p63, .min), (0x1p62, 1 << 62),
    ] as [(Double, Int)] {
      #expect(Int(clamping: number) == whole, "\(number)")
    }
    #expect(UInt64(clamping: -1.0) == 0 && Int32(clamping: 3e9) == .max)
  }

  /// Secrets → text → what is shown.
  private static let hidings: [(secrets: [String], text: String, shown: String)] = [
    (["hunter2secret", "a"], "key hunter2secret bad", "key <redacted> bad"), (["ab"], "cab", "cab"),
    (["red", "act", "hunter2"], "hunter2 red", "<redacted> <redacted>"),
    (["token", "token-two"], "token-two token", "<redacted> <redacted>"),
    (["abcdef", "defghi"], "xabcdefghix", "x<redacted>x"), (["aaa"], "aaaaa b", "<redacted> b"),
    (["aaa"], "aaa aaa", "<redacted> <redacted>"), ([""], "text", "text"), (["größe"], "die größe!", "die <redacted>!"),
    (["one line\nx\nother"], "one line, x, other", "<redacted>, x, <redacted>"), (["end\n"], "the end.", "the <redacted>."),
  ]

  @Test(arguments: hidings) func secretsAreHiddenInOneReading(secrets: [String], text: String, shown: String) {
    let hidden = Secret.hide(secrets, in: text)
    #expect(hidden == shown)
    #expect(Secret.hide(secrets, in: hidden) == shown, "what is hidden stays as it is")
  }

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
