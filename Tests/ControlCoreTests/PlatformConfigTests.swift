// ~/.sky/config.yaml: what it may say, and what is said to mistakes.

import Foundation
import SimKit
import TestSupport
import Testing

@testable import ControlCore

@Suite struct PlatformConfigTests {
  private func config(_ yaml: String) throws -> UserConfig {
    try UserConfig(yaml: Array(yaml.utf8), name: "config.yaml")
  }

  @Test func nothingSaidMeansTheDefaults() throws {
    let folder = try TemporaryFolder()
    let absent = try UserConfig(path: folder.file("config.yaml"))
    #expect(absent == UserConfig())
    #expect(absent.autostopSeconds == 600)
    #expect(absent.servicesMax == nil)
    #expect(absent.local.host == "127.0.0.1")
    #expect(absent.local.ports == 30001...32767)
    for text in [
      "", "# only a comment\n", "serve:\n", "serve: {controller:}\n", "local:\n", "local: {cpus:, gpus: null}",
      "aws: {vpc: [x]}\nkubernetes:\n  pod_config: {a: b}\n", "serve: {controller: {unheard_of: 1}, other: [2]}",
    ] {
      #expect(try config(text) == UserConfig(), "\(text)")
    }
  }

  @Test func autostopHasManyForms() throws {
    let cases: [(String, UserConfig.Autostop)] = [
      ("true", .after(minutes: 10, down: false)), ("false", .never), ("0", .after(minutes: 0, down: false)),
      ("30", .after(minutes: 30, down: false)), ("10m", .after(minutes: 10, down: false)),
      ("'15'", .after(minutes: 15, down: false)), ("2H", .after(minutes: 120, down: false)),
      ("1d", .after(minutes: 1440, down: false)), ("1w", .after(minutes: 10080, down: false)),
      ("{idle_minutes: 5}", .after(minutes: 5, down: false)),
      ("{idle_minutes: 5, down: true}", .after(minutes: 5, down: true)),
      ("{down: true}", .after(minutes: 10, down: true)),
      ("{idle_minutes: 3, wait_for: jobs, hook: 'echo', hook_timeout: 5}", .after(minutes: 3, down: false)),
    ]
    for (text, expected) in cases {
      #expect(try config("serve:\n  controller:\n    autostop: \(text)\n").autostop == expected, "\(text)")
    }
    #expect(try config("serve: {controller: {autostop: false}}").autostopSeconds == nil)
    #expect(try config("serve: {controller: {autostop: 2}}").autostopSeconds == 120)
  }

  @Test func theFieldsOfServeAreRead() throws {
    let read = try config(
      """
      serve:
        bucket: s3://logs
        force_disable_cloud_bucket: true
        controller:
          max_services: 40
          high_availability: false
          consolidation_mode: true
          controller_logs_gc_retention_hours: 48
          task_logs_gc_retention_hours: 24
          resources: {infra: gcp/us-central1, cpus: 2+, disk_size: 1024}
      """)
    #expect(read.servicesMax == 40)
    #expect(read.bucket == "s3://logs")
    #expect(read.forceDisableCloudBucket == true)
    #expect(read.highAvailability == false)
    #expect(read.consolidationMode == true)
    #expect(read.controllerLogsHours == 48)
    #expect(read.taskLogsHours == 24)
    #expect(read.controllerResources?.all.first?.cpus == "2+")
  }

  @Test func theFieldsOfLocalAreRead() throws {
    let read = try config("local: {host: 0.0.0.0, ports: 31000-31010, cpus: 4, memory: 12.5, gpus: {A100: 2}}").local
    #expect(read.host == "0.0.0.0")
    #expect(read.ports == 31000...31010)
    #expect(read.cpus == 4)
    #expect(read.memory == 12.5)
    #expect(read.gpus == .declared([Accelerator(name: "A100", count: Quantity(2))]))
    #expect(try config("local: {host: localhost, ports: 4000, memory: 16GB}").local.ports == 4000...4000)
    #expect(try config("local: {host: '::1', memory: '16'}").local.memory == 16)
    func gpus(_ text: String) throws -> UserConfig.Local.Gpus? { try config("local: {gpus: \(text)}").local.gpus }
    func declared(_ list: [(String, Int)]) -> UserConfig.Local.Gpus {
      .declared(list.map { Accelerator(name: $0.0, count: Quantity($0.1)) })
    }
    #expect(try gpus("{A100: 2, L4: 1}") == declared([("A100", 2), ("L4", 1)]))
    #expect(try gpus("{A100:2}") == declared([("A100", 2)]))
    #expect(try gpus("A100") == declared([("A100", 1)]))
    #expect(try gpus("A100:8") == declared([("A100", 8)]))
    #expect(try gpus("[A100, L4, A100]") == declared([("A100", 2), ("L4", 1)]))
    #expect(try gpus("[A100:2, A100:1]") == declared([("A100", 3)]))
    #expect(try gpus("[2, 0, 2]") == .only([0, 2]))
    #expect(try gpus("2") == .only([0, 1]))
    #expect(try gpus("0") == .only([]))
    for none in ["none", "{}", "[]", "{A100: 0}"] { #expect(try gpus(none) == .declared([]), "\(none)") }
  }

  /// Text → the whole line a person sees.
  private static let mistakes: [(String, String)] = [
    ("serve: {controller: ]}", "config.yaml:1:21: "),
    ("- a\n", "config.yaml:1:1: Found a list where sections such as 'serve:' and 'local:' were expected."),
    (
      "serve: 3\n", "config.yaml:1:8: Invalid serve config YAML: 3 is not of type 'dict'. Check problematic field(s): $"
    ),
    (
      "serve:\n  controller:\n    max_services: 0\n",
      "config.yaml:3:19: Invalid serve config YAML: 0 is less than the minimum of 1. Check problematic field(s): $.controller.max_services. Write a whole number from 1 to 1000000000."
    ),
    (
      "serve:\n  controller:\n    autostop: soon\n",
      "config.yaml:3:15: Invalid time format: soon. Write minutes, or 10m, 2h, 1d."
    ),
    ("serve:\n  controller:\n    autostop: 99999999999w\n", "config.yaml:3:15: "),
    ("serve:\n  controller:\n    autostop: {idle_minute: 3}\n", "config.yaml:3:16: "),
    (
      "serve:\n  controller:\n    resources:\n      ports: 80\n",
      "config.yaml:4:14: Cannot specify ports in serve.controller.resources. Write local.ports for the ports of the services' endpoints."
    ),
    ("serve:\n  controller:\n    resources: {cpu: 3}\n", "config.yaml:3:17: "),
    ("local:\n  prots: 3\n", "config.yaml:2:3: Invalid local config YAML: Instead of 'prots', did you mean 'ports'?"),
    (
      "local:\n  zebra: 3\n",
      "config.yaml:2:3: Invalid local config YAML: Found unsupported field 'zebra'. The fields here are host, ports, gpus, cpus, memory."
    ),
    (
      "local: {host: example.com}\n",
      "config.yaml:1:15: host is 'example.com', which is no address. Write 127.0.0.1 (this machine alone) or 0.0.0.0 (all who can reach it)."
    ),
    ("local: {ports: 5-4}\n", "config.yaml:1:16: ports is '5-4', which is no range of ports. Write 30001-30020."),
    ("local: {ports: 0}\n", "config.yaml:1:16: ports is 0, which is no range of ports. Write 30001-30020."),
    ("local: {ports: 1-2-3}\n", "config.yaml:1:16: ports is '1-2-3', which is no range of ports. Write 30001-30020."),
    (
      "local: {ports: 65535-65536}\n",
      "config.yaml:1:16: ports is '65535-65536', which is no range of ports. Write 30001-30020."
    ),
    ("local: {cpus: 0}\n", "config.yaml:1:15: "), ("local: {cpus: many}\n", "config.yaml:1:15: "),
    ("local: {memory: lots}\n", "config.yaml:1:17: memory is 'lots', which is no size. Write GB: 16 or 16GB."),
    ("local: {memory: .inf}\n", "config.yaml:1:17: "), ("local: {memory: 1.0e+30}\n", "config.yaml:1:17: "),
    ("local: {cpus: 9223372036854775807}\n", "config.yaml:1:15: "),
    ("local: {memory: 0}\n", "config.yaml:1:17: memory is 0, which is no size. Write GB: 16 or 16GB."),
    (
      "local: {gpus: {A100: x}}\n",
      "config.yaml:1:22: gpus has 'x', which is no count. Write {A100: 2} to declare them, or [0, 1] to take the first two that are found."
    ),
    ("local: {gpus: {A100: 9999}}\n", "config.yaml:1:16: gpus has 9999 of A100, and at most 1024 are possible. "),
    ("local: {gpus: [-1]}\n", "config.yaml:1:16: gpus has the index -1. "),
    ("local: {gpus: 'A100:8:1'}\n", "config.yaml:1:15: gpus has 'A100:8:1', which is not NAME or NAME:COUNT. "),
    ("local: {gpus: 'two words'}\n", "config.yaml:1:15: gpus has 'two words', which is no name of an accelerator. "),
    ("local: {gpus: true}\n", "config.yaml:1:15: "),
  ]

  @Test func mistakesAreShownWhereTheyAre() {
    for (text, expected) in Self.mistakes {
      let error = #expect(throws: SpecError.self, "\(text)") { _ = try config(text) }
      let said = error?.description ?? ""
      #expect(expected.hasSuffix(" ") ? said.hasPrefix(expected) : said == expected, "\(text)")
    }
  }

  @Test func whatCannotBeReadIsSaid() throws {
    let error = #expect(throws: SpecError.self) { _ = try UserConfig(path: "/proc/self/mem/config.yaml") }
    #expect(error?.description.contains("/proc/self/mem/config.yaml") == true)
  }

  @Test func anyTextGivesAConfigOrAnError() {
    var chance = Chance()
    for _ in 0..<2000 {
      let bytes = chance.mutated(Array(Self.mistakes[chance.below(Self.mistakes.count)].0.utf8))
      do throws(SpecError) { _ = try UserConfig(yaml: bytes, name: "config.yaml") } catch {
        #expect(error.description.hasPrefix("config.yaml:"), "\(bytes); \(chance.replay())")
      }
    }
  }
}
