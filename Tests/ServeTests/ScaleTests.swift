// As many replicas as the load asks for. The load counts over a minute, so this takes one; it runs beside the others.

import ControlCore
import Foundation
import TestSupport
import Testing

@Suite(.enabled(if: Places.hasPython))
struct ServeScaleTests {
  @Test func upUnderLoadDownAndToZeroAndBack() throws {
    let home = try ServeHome()
    try home.up(
      "web",
      home.yaml(
        """
        readiness_probe: /health
        replica_policy:
          min_replicas: 0
          max_replicas: 3
          target_qps_per_replica: 1
          upscale_delay_seconds: 1
          downscale_delay_seconds: 1
        """))
    try home.await("at zero") { try home.service("web").status == .noReplica }
    let empty = try home.service("web")
    #expect(empty.reason?.contains("scaled to zero") == true && empty.targetNumReplicas == 0)

    // The first request is turned away and starts a replica.
    #expect(try home.fetch("web").status == 503)
    try home.await("one ready") { try home.replicas("web", .ready).count == 1 && home.reachable("web").count == 1 }
    let hammer = Hammer(try home.address("web"), clients: 4, pause: 0.02)
    defer { hammer.stop() }
    try home.await("scaled up") { try home.replicas("web", .ready).count == 3 }
    #expect(try home.service("web").requestRate > 2)
    hammer.stop()
    #expect(summary(hammer) == [], "\(home.logs)")

    // A few requests go on: enough for one, and none of them is lost when the others go.
    let trickle = Hammer(try home.address("web"), clients: 1, pause: 1.5)
    defer { trickle.stop() }
    try home.await("scaled down", 90) { try home.replicas("web").count == 1 }
    trickle.stop()
    #expect(summary(trickle) == [], "\(home.logs)")
    try home.await("scaled to zero", 100) { try home.replicas("web").isEmpty }
    #expect(try home.fetch("web").status == 503)
    try home.await("back") { try home.fetch("web").status == 200 }
  }
}
