// Limits and deadlines, with small values: each has its answer, and what is within it goes through.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Limits {
    /// A refusal: the status, a JSON error, and an end of the connection.
    private func expectRefused(
      _ wire: Wire, _ status: Int, location: SourceLocation = #_sourceLocation
    ) throws {
      let response = try wire.readResponse()
      #expect(response.status == status, "\(response.text)", sourceLocation: location)
      #expect(response.error?["code"] as? Int == status, sourceLocation: location)
      #expect(response.error?["message"] is String, sourceLocation: location)
      #expect(response.fields["connection"] == "close", sourceLocation: location)
      #expect(wire.awaitEnd() == .closed, sourceLocation: location)
    }

    @Test func headTooLarge() throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--max-head-bytes", "4k", "--max-target-bytes", "1k") { proxy in
        let within = try proxy.ask("GET", "/", fields: ["X-Long: " + String(repeating: "a", count: 3500)])
        #expect(within.status == 200)
        for count in [4200, 40_000, 400_000] {
          let wire = try proxy.connect()
          try wire.send(requestText("GET", "/", fields: ["X-Long: " + String(repeating: "a", count: count)]))
          try expectRefused(wire, 431)
        }
        let endless = try proxy.connect()
        try endless.send("GET / HTTP/1.1\r\nHost: a\r\n" + String(repeating: "X: y\r\n", count: 1000))
        try expectRefused(endless, 431)
        #expect(origin.requests.count == 1)
      }
    }

    @Test func tooManyFields() throws {
      try withProxy([try Origin.named("a")], "--max-fields", "20") { proxy in
        #expect(try proxy.ask("GET", "/", fields: (0..<15).map { "X-\($0): y" }).status == 200)
        let wire = try proxy.connect()
        try wire.send(requestText("GET", "/", fields: (0..<30).map { "X-\($0): y" }))
        try expectRefused(wire, 431)
      }
    }

    @Test func targetTooLong() throws {
      try withProxy([try Origin.named("a")], "--max-target-bytes", "100") { proxy in
        #expect(try proxy.ask("GET", "/" + String(repeating: "a", count: 99)).status == 200)
        for count in [100, 5000] {
          let wire = try proxy.connect()
          try wire.send(requestText("GET", "/" + String(repeating: "a", count: count)))
          try expectRefused(wire, 414)
        }
      }
    }

    @Test func bodyTooLarge() throws {
      let origin = try Origin { visit in
        while (try? visit.request()) ?? nil != nil { try visit.send(responseText("ok")) }
      }
      try withProxy([origin], "--max-body-bytes", "1000") { proxy in
        #expect(try proxy.ask("POST", "/", body: String(repeating: "x", count: 1000)).status == 200)
        let byLength = try proxy.connect()
        try byLength.send("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
        try expectRefused(byLength, 413)
        let chunked = "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        let within = try proxy.connect()
        try within.send(chunked)
        for _ in 0..<10 { try within.sendChunk(String(repeating: "y", count: 100)) }
        try within.sendLastChunk()
        #expect(try within.readResponse().status == 200)
        let beyond = try proxy.connect()
        try beyond.send(chunked)
        for _ in 0..<11 { try beyond.sendChunk(String(repeating: "y", count: 100)) }
        try expectRefused(beyond, 413)
        #expect(!origin.requests.contains { $0.target == "/length" })
      }
    }

    @Test func tooManyConnections() throws {
      try withProxy([try Origin.named("a")], "--max-connections", "3") { proxy in
        let wires = try (0..<3).map { _ in try proxy.connect() }
        for wire in wires {
          try wire.send(requestText())
          #expect(try wire.readResponse().status == 200)
        }
        let fourth = try proxy.connect()
        try fourth.send(requestText())
        let response = try fourth.readResponse()
        #expect(response.status == 503 && response.fields.has("retry-after"))
        #expect(response.error?["code"] as? Int == 503)
        #expect(fourth.awaitEnd() == .closed)
        wires[0].close()
        #expect(eventually { try proxy.ask().status == 200 }, "room again")
        #expect(try proxy.metric("skyproxy_connections_shed_total") >= 1)
      }
    }

    @Test func noDescriptorLeft() throws {
      let folder = try TemporaryFolder()
      let program = try folder.write(
        "#!/bin/sh\nulimit -n 60\nexec \(Places.program("sky-proxy")) \"$@\"\n", to: "sky-proxy")
      #expect(chmod(program, 0o755) == 0)
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin], program: program)
      try check(proxy) {
        let idle = try (0..<60).map { _ in try proxy.connect() }
        let wire = try proxy.connect()
        try wire.send(requestText())
        #expect(wire.isSilent(for: 0.2))
        for other in idle { other.close() }
        #expect(try wire.readResponse().status == 200, "it had only to wait")
        #expect(try proxy.metric("skyproxy_accepts_failed_total") >= 1)
      }
    }

    @Test func queueFullAndQueueTimeout() throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try visit.send(responseText("ok"))
        }
      }
      try withProxy([origin], "--max-in-flight", "1", "--queue-size", "2", "--queue-timeout", "3s") { proxy in
        let first = try proxy.connect()
        try first.send(requestText("GET", "/first"))
        #expect(eventually { try proxy.inFlight() == 1 })
        let start = monotonic()
        let queued = try (0..<2).map { index in
          let wire = try proxy.connect()
          try wire.send(requestText("GET", "/queued\(index)"))
          return wire
        }
        #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 2 })
        let (seconds, full) = try timed { try proxy.ask() }
        #expect(full.status == 503 && full.fields.has("retry-after"))
        #expect(full.error?["code"] as? Int == 503)
        #expect(seconds < 2, "refused at once, not after the queue's timeout")
        for wire in queued {
          let response = try wire.readResponse()
          #expect(response.status == 503 && response.fields.has("retry-after"))
        }
        let waited = monotonic() - start
        #expect(waited > 2.9 && waited < 20, "waited \(waited) s")
        go.happen()
        #expect(try first.readResponse().text == "ok")
        try expectServed(proxy)
        #expect(try proxy.metric("skyproxy_queue_overflows_total") == 1)
        #expect(try proxy.metric("skyproxy_queue_timeouts_total") == 2)
      }
    }

    @Test func aQueueOfNoneRefusesAtOnce() throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try visit.send(responseText("ok"))
        }
      }
      try withProxy([origin], "--max-in-flight", "1", "--queue-size", "0") { proxy in
        let first = try proxy.connect()
        try first.send(requestText())
        #expect(eventually { try proxy.inFlight() == 1 })
        #expect(try proxy.ask().status == 503)
        go.happen()
        #expect(try first.readResponse().status == 200)
      }
    }

    /// The queue is served first come, first served, and one at a time, whichever worker a request came to. Requests
    /// come while others end, so that new ones and waiting ones compete for what comes free.
    @Test(arguments: [1, 2, 4])
    func theQueueKeepsItsOrder(workers: Int) throws {
      let origin = try Origin.answering { _ in
        usleep(3000)
        return responseText("ok")
      }
      try withProxy([origin], "--max-in-flight", "1", workers: workers) { proxy in
        var wires: [Wire] = []
        for index in 0..<40 {
          let wire = try proxy.connect()
          try wire.send(requestText("GET", "/\(index)"))
          // It has its place in the order, with the replica or in the queue, before the next is sent.
          #expect(
            eventually {
              try proxy.metric("skyproxy_attempts_total{replica=\"\(origin.address)\"}")
                + proxy.metric("skyproxy_queue_waiting") == Double(index + 1)
            })
          wires.append(wire)
        }
        for wire in wires { #expect(try wire.readResponse().status == 200) }
        #expect(origin.requests.map(\.target) == (0..<40).map { "/\($0)" })
      }
    }
  }

  @Suite struct Deadlines {
    @Test func aSlowHeadGets408() throws {
      try withProxy([try Origin.named("a")], "--head-timeout", "400ms") { proxy in
        let start = monotonic()
        let wire = try proxy.connect()
        try wire.send("GET / HTTP/1.1\r\nHost: a\r\n")
        // A byte now and then does not buy time.
        while monotonic() - start < 15, wire.isSilent(for: 0.05) {
          guard (try? wire.send("X")) != nil else { break }
        }
        let seconds = monotonic() - start
        let response = try wire.readResponse()
        #expect(response.status == 408)
        #expect(seconds > 0.35 && seconds < 10, "after \(seconds) s")
        #expect(wire.awaitEnd() != nil)
      }
    }

    @Test func anIdleConnectionIsClosedSilently() throws {
      try withProxy([try Origin.named("a")], "--idle-timeout", "1500ms") { proxy in
        let used = try proxy.connect()
        try used.send(requestText())
        #expect(try used.readResponse().status == 200)
        let unused = try proxy.connect()
        for wire in [used, unused] {
          #expect(try wire.readToEnd().isEmpty)
          #expect(wire.end == .closed)
        }
      }
    }

    @Test func aConnectThatHangs() throws {
      let full = try Listener(backlog: 0)
      let alive = try Origin.named("alive")
      defer {
        full.stop()
        alive.stop()
      }
      try full.fill()
      let only = try ProxyProcess(replicas: ["\(full.address)"], flags: ["--connect-timeout", "300ms"])
      try check(only) {
        let (seconds, response) = try timed { try only.ask("POST", "/", body: "x") }
        #expect([502, 503, 504].contains(response.status))
        #expect(response.error?["code"] as? Int == response.status)
        // Sooner than the default.
        #expect(seconds > 0.25 && seconds < 4.5, "\(seconds) s")
      }
      let both = try ProxyProcess(
        replicas: ["\(full.address)", "\(alive.address)"], flags: ["--connect-timeout", "300ms"])
      try check(both) {
        for _ in 0..<4 {
          let response = try both.ask("POST", "/", body: "x")
          #expect(response.status == 200, "nothing was sent to the one that hangs: \(response.text)")
        }
      }
    }

    @Test func aReplicaThatDoesNotAnswerGets504() throws {
      let ends = Shared(0)
      let origin = try Origin { visit in
        _ = try visit.request()
        if visit.wire.awaitEnd() != nil { ends.with { $0 += 1 } }
      }
      try withProxy([origin], "--response-timeout", "400ms") { proxy in
        let (seconds, response) = try timed { try proxy.ask("POST", "/", body: "x") }
        #expect(response.status == 504)
        #expect(response.error?["code"] as? Int == 504)
        #expect(seconds > 0.35 && seconds < 15, "\(seconds) s")
        #expect(eventually { ends.value == 1 }, "the replica is let go")
        #expect(origin.requests.count == 1, "it may have begun: not sent again")
      }
    }

    @Test func aSilentStreamIsCut() throws {
      let origin = try Origin { visit in
        _ = try visit.request()
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        // Slow, but never silent for as long as the deadline.
        for _ in 0..<4 {
          try visit.wire.sendChunk("tick")
          _ = visit.wire.isSilent(for: 0.5)
        }
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin], "--stream-timeout", "1500ms") { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        _ = try wire.readResponseHead()
        for _ in 0..<4 { #expect(try wire.readChunk() == Array("tick".utf8)) }
        let (seconds, rest) = try timed { try wire.readToEnd(deadline: 15) }
        #expect(rest.isEmpty, "a cut, and no last chunk: \(shown(rest))")
        #expect(seconds < 10)
      }
    }

    @Test func aBodyThatStopsGets408() throws {
      let origin = try Origin { visit in
        _ = try visit.head()
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin], "--stream-timeout", "400ms") { proxy in
        let wire = try proxy.connect()
        try wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly some")
        let response = try wire.readResponse()
        #expect(response.status == 408)
        #expect(wire.awaitEnd() != nil)
      }
    }

    @Test func idleReplicaConnectionsAreLetGo() throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--pool-idle-timeout", "2s") { proxy in
        try expectServed(proxy)
        #expect(eventually { try proxy.metric("skyproxy_upstreams_parked") == 1 })
        #expect(eventually { origin.open == 0 })
        try expectServed(proxy)
        #expect(origin.opened == 2)
      }
    }

    @Test func noPoolMeansAConnectionPerRequest() throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--pool-size", "0") { proxy in
        for _ in 0..<5 { try expectServed(proxy) }
        #expect(origin.opened == 5)
      }
    }
  }
}
