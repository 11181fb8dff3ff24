// New versions, while clients go on asking: nobody is turned away, and what does not work does not take over.

import ControlCore
import Foundation
import TestSupport
import Testing

extension Serve {
  @Suite struct Updates {
    /// Clients that ask all the time; every answer has to be one of a replica.
    private func underLoad(_ home: ServeHome, _ name: String, _ body: (Hammer) throws -> Void) throws {
      let hammer = Hammer(try home.address(name), clients: 4, pause: 0.002) { response in
        response.status == 200 && response.isWhole && response.text.hasPrefix("v")
      }
      defer { hammer.stop() }
      try body(hammer)
      // And for some time after that.
      let before = hammer.answered
      #expect(eventually { hammer.answered > before + 50 })
      hammer.stop()
      #expect(summary(hammer) == [], "\(home.logs)")
    }

    @Test func rollingUnderLoadLosesNoRequest() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      try underLoad(home, "web") { _ in
        let reply = try home.update("web", home.yaml("readiness_probe: /health\nreplicas: 2", version: 2))
        #expect(reply.version == 2 && !reply.replicasKept)
        try home.awaitSettled("web", 2)
        #expect(try home.fetch("web").text.hasPrefix("v2"))
        try home.update("web", home.yaml("readiness_probe: /health\nreplicas: 3", version: 3))
        try home.awaitSettled("web", 3)
      }
      // Numbers are never given twice.
      #expect(try home.replicas("web").map(\.replicaId) == [5, 6, 7], "\(home.picture)")
    }

    @Test func blueGreenMovesAllTrafficAtOnce() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      try underLoad(home, "web") { _ in
        // Slow enough to be seen on the way.
        let yaml = home.yaml("readiness_probe: /health\nreplicas: 2", version: 2, envs: ["START_SECONDS": "1"])
        try home.update("web", yaml, .blueGreen)
        var mixed = 0
        var isSwitched = false
        try home.await("switched") {
          let text = try home.fetch("web").text
          if text.hasPrefix("v2") { isSwitched = true }
          if isSwitched, text.hasPrefix("v1") { mixed += 1 }
          let it = try home.service("web")
          return it.activeVersions == [2] && it.replicaInfo.count == 2
        }
        #expect(mixed == 0, "after the switch nobody is served by the old version")
      }
    }

    @Test func whenOnlyTheServiceChangesReplicasStay() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      try underLoad(home, "web") { _ in
        let yaml = home.yaml("readiness_probe: /health\nreplicas: 1\nload_balancing_policy: round_robin")
        let reply = try home.update("web", yaml)
        #expect(reply.replicasKept)
        try home.awaitSettled("web", 1)
      }
      #expect(try home.replicas("web").map(\.replicaId) == [1])
      #expect(try home.service("web").loadBalancingPolicy == "round_robin")
      // In place: the proxy is the same one.
      let log = try String(contentsOfFile: home.home + "/controller.log", encoding: .utf8)
      #expect(log.components(separatedBy: "proxy started").count == 2, "\(home.logs)")
    }

    @Test func aVersionThatFailsLeavesTheOldOneAndCanBeRolledBack() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      try underLoad(home, "web") { _ in
        try home.update("web", home.yaml("readiness_probe: /health\nreplicas: 2", version: 2, run: "echo broken; exit 3"))
        try home.await("failed") { try home.replicas("web", .failed).count > 0 }
        let it = try home.service("web")
        #expect(it.status == .ready && it.activeVersions == [1])
        #expect(it.reason?.contains("sky serve rollback web") == true, "\(it.reason ?? "")")
        #expect(try home.replicas("web", .ready).map(\.replicaId) == [1, 2])
        let reply = try home.rollback("web")
        #expect(reply.version == 3 && reply.replicasKept)
        try home.await("back") {
          let it = try home.service("web")
          return it.activeVersions == [3] && it.reason == nil
        }
        #expect(try home.replicas("web", .ready).map(\.replicaId) == [1, 2])
      }
      let history = try home.ask("GET", "/v1/services/web/history", as: HistoryReply.self)
      #expect(history.versions.last?.rollbackOf == 1 && history.versions.last?.isActive == true)
    }

    @Test func requestsUnderWayAreFinishedBeforeAReplicaGoes() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1"))
      try home.awaitSettled("web", 1)
      let wire = try Wire(to: try home.address("web"))
      try wire.send(requestText("GET", "/slow?6"))
      try home.await("under way") { try home.replicas("web").first?.inFlight == 1 }
      try home.down("web")
      try home.await("draining") {
        let it = try home.replicas("web")
        return it.first?.status == .shuttingDown && it.first?.reason?.contains("1 request in flight") == true
      }
      #expect(try wire.readResponse().text == "v1 r1", "\(home.logs)")
      try home.await("gone") { try home.services().isEmpty }
    }
  }
}
