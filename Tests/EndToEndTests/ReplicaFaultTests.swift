// Replicas that die, refuse, hang and come back.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct ReplicaFaults {
    /// A replica that can be killed: streams for ever at /stream, says its name elsewhere.
    private static let replica = """
      import http.server, sys, time
      class H(http.server.BaseHTTPRequestHandler):
          protocol_version = "HTTP/1.1"
          def log_message(self, *a): pass
          def do_GET(self):
              if self.path == "/stream":
                  self.send_response(200)
                  self.send_header("Transfer-Encoding", "chunked")
                  self.end_headers()
                  i = 0
                  while True:
                      d = b"data: %d\\n\\n" % i
                      self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(d), d))
                      self.wfile.flush()
                      i += 1
                      time.sleep(0.005)
              n = int(self.headers.get("Content-Length", 0))
              self.rfile.read(n)
              b = sys.argv[1].encode()
              self.send_response(200)
              self.send_header("Content-Length", str(len(b)))
              self.end_headers()
              self.wfile.write(b)
          do_POST = do_GET
      s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H)
      print(s.server_address[1])
      s.serve_forever()
      """

    @Test(.enabled(if: Places.hasPython, "python3 is not installed"))
    func aKilledReplicaCutsItsStreamsAndNothingElse() throws {
      let replicas = try ["a", "b"].map { try ChildProcess("python3", ["-u", "-c", Self.replica, $0]) }
      defer { for replica in replicas { replica.end() } }
      let ports = try replicas.map { try $0.line(onOutput: true) { Int($0) != nil } }
      let proxy = try ProxyProcess(replicas: ports.map { "127.0.0.1:\($0)" })
      try check(proxy) {
        // One stream on each replica: least load puts the second where the first is not.
        let streams = try (0..<2).map { _ in
          let wire = try proxy.connect()
          try wire.send(requestText("GET", "/stream"))
          #expect(try wire.readResponseHead().status == 200)
          #expect(try wire.readChunk() != nil)
          return wire
        }
        replicas[0].kill()
        _ = replicas[0].waitForExit()
        // One stream ends, and not with a last chunk.
        var isCut = [false, false]
        let limit = monotonic() + patience
        while !isCut.contains(true), monotonic() < limit {
          for (index, wire) in streams.enumerated() {
            if let chunk = try wire.readChunk() {
              #expect(!chunk.isEmpty, "a broken stream was ended as if it were whole")
            } else {
              isCut[index] = true
            }
          }
        }
        #expect(isCut.count { $0 } == 1, "one stream was on each replica")
        for _ in 0..<50 { #expect(try streams[isCut[0] ? 1 : 0].readChunk()?.isEmpty == false, "the other goes on") }
        // Everything asked for now is served by the other one.
        for index in 0..<40 {
          let response = try proxy.ask(index % 2 == 0 ? "GET" : "POST", "/x", body: index % 2 == 0 ? nil : "q")
          #expect(response.status == 200 && response.text == "b", "\(response.status) \(response.text)")
        }
        for wire in streams { wire.close() }
      }
    }

    @Test(arguments: [BodyFraming.chunked, .length(1000), .untilClose], [true, false])
    func aBrokenStreamIsNeverEndedCleanly(framing: BodyFraming, byReset: Bool) throws {
      // An orderly close is the end of a body that lasts until then.
      if framing == .untilClose, !byReset { return }
      let go = Event()
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        switch framing {
        case .chunked:
          try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        case .length:
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello")
        default:
          try visit.send("HTTP/1.1 200 OK\r\n\r\nhello")
        }
        go.wait()
        if byReset { visit.wire.reset() }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        let head = try wire.readResponseHead()
        if head.framing == .chunked {
          #expect(try wire.readChunk() == Array("hello".utf8))
        } else {
          #expect(try wire.read(count: 5) == Array("hello".utf8))
        }
        go.happen()
        let rest = try wire.readToEnd()
        #expect(rest.isEmpty, "after the cut came \(shown(rest))")
        // Without a length or chunks only a reset tells the client.
        if head.framing == .untilClose { #expect(wire.end == .reset) }
        #expect(eventually { try proxy.metric("skyproxy_streams_truncated_total") == 1 })
      }
    }

    @Test func requestsToARefusingReplicaGoElsewhere() throws {
      let (dead, alive) = (try Origin.named("dead"), try Origin.named("alive"))
      dead.refuse()
      try withProxy([dead, alive]) { proxy in
        for index in 0..<60 {
          let isPost = index % 2 == 1
          let response = try proxy.ask(isPost ? "POST" : "GET", "/\(index)", body: isPost ? "body" : nil)
          #expect(response.status == 200, "\(response.text)")
          #expect(response.text.hasPrefix("alive"))
        }
        #expect(alive.requests.map(\.target) == (0..<60).map { "/\($0)" }, "each exactly once, in order")
      }
    }

    @Test func uploadsToARefusingReplicaGoElsewhere() throws {
      let (dead, alive) = (try Origin.named("dead"), try Origin.answering { responseText("\($0.body.count)") })
      dead.refuse()
      try withProxy([dead, alive], "--eject-after", "0") { proxy in
        let body = String(repeating: "z", count: 700_000)
        for _ in 0..<6 {
          let response = try proxy.ask("POST", "/up", body: body)
          #expect(response.status == 200 && response.text == "700000", "\(response.status) \(response.text)")
        }
      }
    }

    @Test func allRefusing() throws {
      let origins = [try Origin.named("a"), try Origin.named("b")]
      for origin in origins { origin.refuse() }
      try withProxy(origins) { proxy in
        for method in ["GET", "POST", "GET", "POST"] {
          let (seconds, response) = try timed { try proxy.ask(method, "/", body: method == "POST" ? "x" : nil) }
          #expect(seconds < 5)
          #expect(response.status == 503)
          #expect(response.fields["retry-after"].flatMap { Int($0) } != nil)
          #expect(response.fields["content-type"] == "application/json")
          #expect(response.error?["message"] is String && response.error?["type"] is String)
          #expect(response.error?["code"] as? Int == 503)
        }
        let head = try proxy.ask("HEAD", "/")
        #expect(head.status == 503 && head.body.isEmpty)
      }
    }

    /// Of three replicas one had lost its model and answered errors at once; so it always had the least to do, and most
    /// requests failed there.
    @Test(arguments: ["least_load", "round_robin"])
    func aReplicaThatFailsFastDoesNotAttractTraffic(policy: String) throws {
      let broken = try Origin.answering { _ in
        responseText("no model", status: "500 Internal Server Error", fields: ["X-Broken: yes"])
      }
      let well = try ["a", "b"].map { name in
        try Origin.answering { _ in
          usleep(20_000)  // a model thinks
          return responseText(name)
        }
      }
      try withProxy([broken] + well, "--policy", policy, "--eject-min", "1h", "--eject-max", "1h") { proxy in
        let clients = 8
        let hammer = Hammer(proxy.address, clients: clients, request: requestText("POST", "/", body: "once")) {
          // What the replica says reaches its client as it is.
          $0.status == 200 || ($0.status == 500 && $0.text == "no model" && $0.fields["x-broken"] == "yes")
        }
        #expect(eventually { hammer.answered >= 400 })
        hammer.stop()
        #expect(hammer.problems == [])
        // Those under way when the fifth error came.
        #expect(broken.requests.count < 5 + clients, "of \(hammer.answered)")
        #expect(([broken] + well).map(\.requests.count).reduce(0, +) == hammer.answered, "none is sent twice")
        let retries = try proxy.metric("skyproxy_retries_sent_total")
        #expect(retries == 0)
      }
    }

    @Test func aReplicaThatFailedFastIsUsedAgainOnceItAnswersWell() throws {
      let isMended = Event()
      let a = try Origin.answering { _ in
        responseText("a", status: isMended.hasHappened ? "200 OK" : "503 Service Unavailable")
      }
      let b = try Origin.named("b")
      try withProxy([a, b], "--eject-min", "10ms", "--eject-max", "100ms") { proxy in
        #expect(
          eventually {
            _ = try proxy.ask("POST", "/", body: "x")
            return a.requests.count >= 8
          }, "the first five, then canaries")
        isMended.happen()
        #expect(
          eventually {
            let before = a.requests.count
            let good = try (0..<20).count { _ in try proxy.ask("POST", "/", body: "x").status == 200 }
            return good == 20 && a.requests.count - before >= 8
          }, "it takes its half again")
      }
    }

    /// What all replicas lack is not the fault of one: all of them go on taking their part.
    @Test func whereEveryReplicaAnswersErrorsEveryReplicaIsUsed() throws {
      let origins = try ["a", "b", "c"].map { name in
        try Origin.answering { _ in responseText(name, status: "500 Internal Server Error") }
      }
      try withProxy(origins) { proxy in
        for _ in 0..<60 {
          let response = try proxy.ask("POST", "/", body: "x")
          #expect(response.status == 500, "\(response.text)")
        }
        #expect(origins.map(\.requests.count) == [20, 20, 20])
      }
    }

    @Test func noReplicaAtAll() throws {
      let proxy = try ProxyProcess(replicas: [])
      try check(proxy) {
        let response = try proxy.ask()
        #expect(response.status == 503)
        #expect(response.fields.has("retry-after"))
        #expect(response.error?["code"] as? Int == 503)
      }
    }

    @Test func aReplicaThatComesBackIsUsedAgain() throws {
      let (a, b) = (try Origin.named("a"), try Origin.named("b"))
      try withProxy([a, b], "--eject-max", "500ms") { proxy in
        a.refuse()
        a.cutConnections()
        for _ in 0..<10 { #expect(try proxy.ask().text.hasPrefix("b")) }
        try a.listenAgain()
        #expect(eventually { try proxy.ask().text.hasPrefix("a") }, "a is used again")
        var counts = [0, 0]
        for _ in 0..<40 { counts[try proxy.ask().text.hasPrefix("a") ? 0 : 1] += 1 }
        #expect(counts.allSatisfy { $0 >= 10 }, "\(counts)")
      }
    }

    @Test func allBackAfterAllRefused() throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--eject-max", "500ms") { proxy in
        origin.refuse()
        origin.cutConnections()
        for _ in 0..<5 { #expect(try proxy.ask().status == 503) }
        try origin.listenAgain()
        #expect(eventually { try proxy.ask().status == 200 })
        for _ in 0..<20 { try expectServed(proxy) }
      }
    }

    /// The first request to a replica that is back finds out that it is; its client's mistake says nothing of that.
    @Test func aBadRequestDoesNotKeepAReplicaOut() throws {
      let origin = try Origin.named("a")
      try withProxy([origin]) { proxy in
        origin.refuse()
        #expect(try proxy.ask().status == 503)
        try origin.listenAgain()
        let bad = requestText("POST", fields: ["Transfer-Encoding: chunked", "Connection: close"]) + "ZZ\r\n"
        #expect(
          eventually {
            let wire = try proxy.connect()
            try wire.send(bad)
            return try wire.readResponse().status == 400
          }, "until then the replica is not tried")
        #expect(eventually { try proxy.ask().status == 200 })
      }
    }

    /// A model that was started again takes connections at once, and its time for the first answer.
    @Test func aSlowFirstAnswerKeepsNobodyOut() throws {
      let (asked, go) = (Event(), Event())
      let origin = try Origin.answering { request in
        if request.target == "/slow" {
          asked.happen()
          go.wait()
        }
        return responseText(request.target)
      }
      try withProxy([origin]) { proxy in
        defer { go.happen() }
        origin.refuse()
        #expect(try proxy.ask().status == 503)
        try origin.listenAgain()
        var slow: Wire?
        #expect(
          eventually {
            let wire = try proxy.connect()
            slow = wire
            try wire.send(requestText("GET", "/slow"))
            // While it is not tried yet, that is the answer.
            return eventually { asked.hasHappened || !wire.isSilent(for: 0) } && asked.hasHappened
          })
        for _ in 0..<10 { #expect(try proxy.ask("POST", "/fast", body: "x").text == "/fast") }
        go.happen()
        #expect(try slow?.readResponse().text == "/slow")
      }
    }

    @Test func whoComesBeforeItIsReadyIsServed() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let child = try ChildProcess(
        Places.program("sky-proxy"), ["--listen", "127.0.0.1:0", "--workers", "16", "--replica", "\(origin.address)"])
      defer { child.end() }
      let line = try child.line { $0.contains("listening address=") }
      let address = try #require(Address(line.split(separator: "=", maxSplits: 1)[1]))
      repeat {
        let wire = try Wire(to: address)
        try wire.send(requestText(fields: ["Connection: close"]))
        let response = try wire.readResponse()
        #expect(response.status == 200, "\(response.text)")
      } while !child.standardError.contains(" ready ")
    }

    /// The replica may have begun to execute it: once only.
    @Test func aPostIsNeverExecutedTwice() throws {
      let script: Origin.Script = { visit in _ = try visit.request() }
      let (a, b) = (try Origin(script: script), try Origin(script: script))
      try withProxy([a, b]) { proxy in
        for index in 0..<10 {
          let response = try proxy.ask("POST", "/\(index)", body: "execute me")
          #expect(response.status == 502)
          #expect(response.error?["code"] as? Int == 502)
        }
        let targets = (a.requests + b.requests).map(\.target)
        #expect(targets.count == Set(targets).count, "executed twice: \(targets)")
      }
    }

    /// A kept connection that the replica has closed is no failure.
    @Test func aKeptConnectionThatClosedIsNoticed() throws {
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send(responseText("once"))
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        for index in 0..<30 {
          let isPost = index % 2 == 1
          try wire.send(requestText(isPost ? "POST" : "GET", "/\(index)", body: isPost ? "b" : nil))
          let response = try wire.readResponse()
          #expect(response.status == 200, "\(index): \(response.text)")
          #expect(eventually { try proxy.metric("skyproxy_upstreams_open") == 0 })
        }
        #expect(origin.requests.count == 30)
      }
    }

    @Test(arguments: [
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "HTTP/1.1 2000 OK\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "garbage\r\n\r\n", "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ])
    func malformedResponsesBecome502(text: String) throws {
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send(text)
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin]) { proxy in
        let response = try proxy.ask("POST", "/", body: "x")
        if text.contains("folded") {
          // A folded line may also be unfolded (RFC 9112 5.2).
          #expect(response.status == 502 || response.fields["x"] == "a folded")
        } else {
          #expect(response.status == 502)
        }
      }
    }

    @Test func weightsShareTheLoad() throws {
      let (a, b) = (try Origin.named("a"), try Origin.named("b"))
      defer {
        a.stop()
        b.stop()
      }
      let proxy = try ProxyProcess(
        replicas: ["\(a.address);weight=3", "\(b.address)"], flags: ["--policy", "least_load"])
      try check(proxy) {
        let hammer = Hammer(proxy.address, clients: 8)
        #expect(eventually { hammer.answered >= 400 })
        hammer.stop()
        #expect(hammer.problems == [])
        #expect(a.requests.count > b.requests.count, "\(a.requests.count) : \(b.requests.count)")
      }
    }

    /// Whichever worker has the connection: turns, and ties of idle replicas, go round over all of them.
    @Test(arguments: ["round_robin", "least_load"])
    func idleReplicasTakeTurns(policy: String) throws {
      let origins = try ["a", "b", "c"].map { try Origin.named($0) }
      try withProxy(origins, "--policy", policy, workers: 3) { proxy in
        for round in 1...10 {
          for _ in origins {
            let status = try proxy.ask().status
            #expect(status == 200)
          }
          #expect(origins.map(\.requests.count) == [round, round, round])
        }
      }
    }
  }
}
