// A service's life, once through: up, ready, asked, hurt, mended, down.

import ControlCore
import Foundation
import TestSupport
import Testing

@Suite(.serialized, .enabled(if: Places.hasPython))
enum Serve {}

extension Serve {
  @Suite struct FirstSteps {
    @Test func aServiceComesUpIsMendedAndGoes() throws {
      let home = try ServeHome()
      let reply = try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      #expect(reply.name == "web" && reply.endpoint.hasPrefix("http://127.0.0.1:"))
      try home.awaitSettled("web", 2)
      let service = try home.service("web")
      #expect(service.status == .ready && service.reason == nil && service.uptimeSince != nil)
      #expect(Set(try (0..<20).map { _ in try home.fetch("web").text }) == ["v1 r1", "v1 r2"])

      // Its replica is killed: another takes its place, under another number.
      for pid in home.replicaProcesses(1) { kill(pid, SIGKILL) }
      try home.await("mended") { try home.replicas("web", .ready).map(\.replicaId) == [2, 3] }
      #expect(try home.replicas("web").first { $0.replicaId == 1 }?.status == .failed, "\(home.picture)")
      #expect(try home.fetch("web").status == 200)

      let address = try home.address("web")
      #expect(try home.down("web").names == ["web"])
      try home.await("gone") { try home.services().isEmpty && !Places.exists(home.home + "/services/web") }
      #expect(throws: TestFailure.self) { try Wire(to: address) }
      home.controller?.signal(SIGTERM)
      #expect(home.controller?.waitForExit() == .code(0), "\(home.logs)")
      #expect(home.processes.map(ServeHome.commandLine) == [])
      #expect(!Places.exists(home.home + "/controller.sock"))
    }

    @Test func whileSetupRunsItIsSaid() throws {
      let home = try ServeHome()
      let go = home.folder.file("go")
      try home.up(
        "web",
        home.yaml("readiness_probe: /health\nreplicas: 1")
          + "\nsetup: |\n  while ! test -e \(go); do sleep 0.05; done\n  touch set-up\n")
      try home.await("said") { try home.replicas("web").first?.reason?.hasPrefix("setup runs; not ready for") == true }
      _ = try home.folder.write("", to: "go")
      try home.awaitSettled("web", 1)
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
    }

    @Test func aProbeThatIsAnsweredOtherwiseIsNamedWithoutItsQuery() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health?key=secret\nreplicas: 1", envs: ["SICK": "/"]))
      try home.await("said") {
        try home.replicas("web").first?.reason?.hasPrefix("probe: GET /health: status 503; not ready for") == true
      }
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
    }

    @Test func aRunThatEndsWithoutServingIsNamed() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1", run: "true"))
      try home.await("said") {
        try home.replicas("web").first?.reason?.contains("connection refused, and run has ended with 0; not ready") == true
      }
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
    }

    /// From the probe's answer to the first request that is served: what the proxy is told, it is told at once.
    @Test func readinessReachesTheProxyAtOnce() throws {
      let home = try ServeHome()
      var delays: [Double] = []
      for name in ["a", "b", "c"] {
        try home.up(name, home.yaml("readiness_probe: /health\nreplicas: 1", envs: ["START_SECONDS": "0.3"]))
        let first = Shared(0.0)
        let hammer = Hammer(try home.address(name), clients: 1, pause: 0.001) { response in
          if response.status == 200 { first.with { if $0 == 0 { $0 = Date().timeIntervalSince1970 } } }
          return true
        }
        defer { hammer.stop() }
        try home.await("served") { first.value > 0 }
        // Written a moment after the probe's answer, which may be later than the first response.
        var log = ""
        try home.await("probed") {
          log = try home.log(name, 1)
          return log.contains("probed ")
        }
        let probed = log.components(separatedBy: "probed ").last?.prefix { $0 != "\n" }
        delays.append(first.value - (probed.flatMap { Double(String($0).trimmingCharacters(in: .whitespaces)) } ?? 0))
      }
      print("from the probe's answer to the first request served: \(delays.map { Int($0 * 1000) }) ms")
      // 50 ms where the machine has nothing else to do.
      #expect(delays.allSatisfy { $0 < 5 }, "\(delays) \(home.logs)")
    }
  }
}
