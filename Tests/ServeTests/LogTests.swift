// The three kinds of logs: whole, their ends, and as they are written.

import ControlCore
import Foundation
import TestSupport
import Testing

extension Serve {
  @Suite struct Logs {
    @Test func replicaControllerAndLoadBalancer() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1"))
      try home.awaitSettled("web", 1)
      _ = try home.fetch("web", "/hello?secret=1")
      // Its last word, a moment after the probe's answer.
      try home.await("probed") { try home.log("web", 1).contains("probed ") }

      let replica = try home.log("web", 1)
      let lines = replica.split(separator: "\n").map(String.init)
      #expect(lines.first == "Start streaming logs for launching process of replica 1.")
      #expect(lines.contains("Start streaming logs for task job of replica 1..."), "\(replica)")
      #expect(lines.contains { $0.hasSuffix("serving v1 r1") }, "\(replica)")
      let tail = try home.raw("GET", "/v1/services/web/logs?target=replica&replica=1&tail=1").text
      #expect(tail == lines.last! + "\n")

      #expect(eventually { try home.raw("GET", "/v1/services/web/logs?target=load_balancer").text.contains("/hello") })
      let balancer = try home.raw("GET", "/v1/services/web/logs?target=load_balancer").text
      #expect(!balancer.contains("secret"), "what follows the ? is nobody's business")
      let controller = try home.raw("GET", "/v1/services/web/logs?target=controller&tail=3").text
      #expect(controller.split(separator: "\n").count == 3)
      #expect(controller.contains("READY"), "\(controller)")
      // What the controller says of others is theirs.
      try home.up("web2", home.yaml("readiness_probe: /health\nreplicas: 0"))
      let mine = try home.raw("GET", "/v1/services/web/logs?target=controller").text
      #expect(mine.contains("started version=") && mine.contains("service=web up") && !mine.contains("web2"), "\(mine)")
    }

    @Test func followedUntilTheReplicaIsGoneAndKeptAfterwards() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1"))
      // From before there is a log to its end.
      let wire = try Wire(to: .unix(home.home + "/controller.sock"))
      try wire.send(requestText("GET", "/v1/services/web/logs?target=replica&replica=1&follow=1", host: "controller"))
      try home.awaitSettled("web", 1)
      #expect(try wire.readResponseHead().status == 200)
      var seen = ""
      while !seen.contains("serving v1 r1") { seen += String(decoding: try #require(try wire.readChunk()), as: UTF8.self) }
      _ = try home.ask(
        "POST", "/v1/services/web/replicas/1/terminate", TerminateRequest(purge: false), as: MessageReply.self)
      while let chunk = try wire.readChunk(), !chunk.isEmpty {}
      // Its record is gone, its log is not.
      try home.await("replaced") { try home.replicas("web", .ready).map(\.replicaId) == [2] }
      let kept = try home.log("web", 1)
      #expect(kept.contains("serving v1 r1"), "\(kept)")
    }

    @Test func whatIsNotThereIsSaid() throws {
      let home = try ServeHome()
      #expect(
        try home.refusal("GET", "/v1/services/web/logs?target=controller") == (404, "Service 'web' does not exist."))
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1"))
      let unknown = try home.refusal("GET", "/v1/services/web/logs?target=replica&replica=9")
      #expect(unknown.status == 404 && unknown.text.hasPrefix("Failed to find replica 9."))
      #expect(try home.refusal("GET", "/v1/services/web/logs?target=nothing").status == 400)
    }
  }
}
