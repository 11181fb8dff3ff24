// The proxy under the conformance, fault and client tools that may lie beside the package: HTTP/1.1 cases judged from
// both sides, replicas that fail in every way, real client libraries. Skipped where the folder is not there.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite(
    .enabled(
      if: Places.hasPython && Places.shared("tools/h1run.py") != nil && Places.shared("data/http1") != nil,
      "../shared is not there"))
  struct Conformance {
    /// A loopback port that was free a moment ago, for a tool that must be told where to listen.
    private func freePort() throws -> UInt16 {
      let probe = try Listener()
      defer { probe.stop() }
      return probe.address.port
    }

    private func tool(_ name: String) throws -> String {
      try #require(Places.shared("tools/" + name), "../shared/tools/\(name) is not there")
    }

    /// The number behind a word in the tool's closing lines: `figure("strict", in: "… strict 99.8%")`.
    private func figure(_ word: String, in line: String) -> Double? {
      guard let at = line.range(of: word + " ") else { return nil }
      return Double(line[at.upperBound...].prefix { $0.isNumber || $0 == "." })
    }

    @Test func httpCases() throws {
      let origin = "127.0.0.1:\(try freePort())"
      let proxy = try ProxyProcess(replicas: [origin])
      try check(proxy) {
        let cases = try ["cases_public.json", "sweep_public.json"].map {
          try #require(Places.shared("data/http1/" + $0), "../shared/data/http1/\($0) is not there")
        }
        let outcome = try run(
          try #require(Places.tool("python3")),
          [try tool("h1run.py"), "--front", "\(proxy.address)", "--origin", origin, "--cases"] + cases, deadline: 300)
        let lines = outcome.output.split(separator: "\n").map(String.init)
        let must = try #require(lines.first { $0.contains("level must") }, "no result: \(outcome.errors)")
        let balanced = try #require(lines.first { $0.contains("balanced over") })
        #expect(figure("allowed", in: must) == 100, "\(outcome.output)")
        #expect((figure("strict", in: must) ?? 0) >= 99, "\(outcome.output)")
        #expect((figure("allowed", in: balanced) ?? 0) >= 99 && (figure("strict", in: balanced) ?? 0) >= 99)
      }
    }

    @Test(arguments: [1, 2, 3]) func faults(seed: Int) throws {
      let origins = try (0..<3).map { _ in "127.0.0.1:\(try freePort())" }
      let proxy = try ProxyProcess(replicas: origins, workers: seed == 3 ? 2 : 1)
      try check(proxy) {
        let outcome = try run(
          try #require(Places.tool("python3")),
          [
            try tool("chaos.py"), "--front", "\(proxy.address)", "--origins", origins.joined(separator: ","),
            "--proxy-pid", "\(proxy.child.pid)", "--seed", "\(seed)",
          ], deadline: 200)
        let failed = outcome.output.split(separator: "\n").filter { $0.hasPrefix("FAIL") }
        #expect(outcome.exit == .code(0) && failed.isEmpty, "\(failed.joined(separator: "\n")) \(outcome.errors)")
        #expect(outcome.output.contains("checks passed"))
      }
    }

    /// Needs client libraries from the package index; skipped with a note where it cannot be reached.
    @Test func clientLibraries() throws {
      let folder = try TemporaryFolder()
      let environment = folder.file("venv")
      let made = try run(try #require(Places.tool("python3")), ["-m", "venv", environment], deadline: 120)
      let filled =
        made.exit == .code(0)
        ? try run(
          environment + "/bin/pip",
          ["install", "-q", "--disable-pip-version-check", "openai>=1", "httpx", "aiohttp", "requests", "websockets"],
          deadline: 240) : made
      guard filled.exit == .code(0) else {
        print("note: clients.py was not run, its libraries could not be installed: \(filled.errors.suffix(200))")
        return
      }
      let origin = "127.0.0.1:\(try freePort())"
      let proxy = try ProxyProcess(replicas: [origin])
      try check(proxy) {
        let outcome = try run(
          try #require(Places.tool("python3")),
          [
            // Generous latency: the machine may be busy with other tests' builds.
            try tool("clients.py"), "--front", "\(proxy.address)", "--origin", origin, "--venv", environment, "--lat",
            "60",
          ], deadline: 240)
        let failed = outcome.output.split(separator: "\n").filter { $0.hasPrefix("FAIL") }
        #expect(outcome.exit == .code(0) && failed.isEmpty, "\(failed.joined(separator: "\n")) \(outcome.errors)")
      }
    }
  }
}
