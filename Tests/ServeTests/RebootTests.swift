// After everything has died at once, as when the machine was started again.

import ControlCore
import Foundation
import TestSupport
import Testing

extension Serve {
  @Suite struct Reboots {
    @Test func servicesComeBackWithNewReplicas() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      let address = try home.address("web")
      home.killController()
      #expect(eventually {
        for pid in home.processes { kill(pid, SIGKILL) }
        return home.processes.isEmpty
      })
      try home.startController()
      try home.awaitSettled("web", 2)
      #expect(try home.replicas("web").map(\.replicaId) == [3, 4], "numbers go on: \(home.picture)")
      #expect(try home.address("web") == address)
      #expect(try home.fetch("web").status == 200)
    }

    @Test func somebodyElseOnThePortIsSaidAndOutlived() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1"))
      try home.awaitSettled("web", 1)
      let address = try home.address("web")
      home.killController()
      kill(try #require(home.proxyProcess("web")), SIGKILL)
      var listener: Listener?
      #expect(eventually { listener = try Listener(address); return true })
      try home.startController()
      try home.await("said") { try home.service("web").reason?.contains("load balancer: ") == true }
      // Also with a ready replica: nobody can reach it.
      try home.awaitSettled("web", 1, reachable: false)
      #expect(try home.service("web").status == .failed, "\(home.picture)")
      #expect(try home.service("web").reason?.contains("\(address.port)") == true, "\(home.picture)")
      listener?.stop()
      try home.await("back") { try home.fetch("web").text == "v1 r1" }
      // It answers, and then it is known to.
      try home.await("said no more") {
        let it = try home.service("web")
        return it.reason == nil && it.status == .ready
      }
    }
  }
}
