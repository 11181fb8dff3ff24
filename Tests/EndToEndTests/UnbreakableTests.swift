// What strangers can do to a proxy, and what it must make of that: hostile or unlucky clients and replicas, pauses of
// the process itself, deadlines that meet. Each test is named after what a user saw where it went wrong.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Unbreakable {
    private static let upgrade = requestText(
      "GET", "/ws", fields: ["Connection: Upgrade", "Upgrade: websocket"])
    private static let switching =
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    /// Turns of the workers within a second: what CPU without progress shows itself by.
    private func turnsInASecond(_ proxy: ProxyProcess) throws -> Double {
      let before = try proxy.metric("skyproxy_turns_total")
      _ = always(for: 1) { true }
      return try proxy.metric("skyproxy_turns_total") - before
    }

    // MARK: clients that do not read

    enum Pipelined: CaseIterable { case answered, answeredByUs, heads, withBodies }

    /// One connection asked 350,000 times without reading, and the process ended.
    @Test(arguments: Pipelined.allCases)
    func aClientThatPipelinesAndNeverReadsHoldsABoundedAmount(kind: Pipelined) throws {
      let origin = try Origin.answering { responseText($0.method == "HEAD" ? "" : "ok") }
      if kind == .answeredByUs { origin.refuse() }
      try withProxy([origin]) { proxy in
        let request =
          switch kind {
          case .answered, .answeredByUs: requestText()
          case .heads: requestText("HEAD")
          case .withBodies: requestText("POST", body: String(repeating: "b", count: 100))
          }
        let hoarder = try proxy.connect(receiveBuffer: 4096)
        let batch = Array(String(repeating: request, count: 2000).utf8)
        // Until the proxy takes no more from it.
        var sent = 0
        while sent < 200_000_000 {
          let taken = try hoarder.sendSome(batch, stall: 0.5)
          sent += taken
          if taken < batch.count { break }
        }
        #expect(sent < 100_000_000, "the proxy takes requests without end")
        #expect(try proxy.metric("skyproxy_blocks_used") < 64)
        #expect(try proxy.metric("skyproxy_buffers_free") > 900)
        if kind != .answeredByUs { try expectServed(proxy) }
        // What was asked is still answered, in full.
        if kind == .answered || kind == .answeredByUs {
          for _ in 0..<1000 {
            #expect(try hoarder.readResponse().status == (kind == .answered ? 200 : 503))
          }
        }
        hoarder.reset()
      }
    }

    // MARK: clients that say all they have to say

    enum HalfClosed: CaseIterable { case get, post, chunked, streaming, pipelined, queued }

    /// A client that sent its FIN behind its request made the worker spin for as long as the replica thought.
    @Test(arguments: HalfClosed.allCases)
    func aHalfClosedClientThatWaitsCostsNothing(kind: HalfClosed) throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          if kind == .streaming { try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no") }
          go.wait()
          try visit.send(kind == .streaming ? "k" : responseText("ok"))
        }
      }
      try withProxy([origin], "--client-half-close", "answer", "--max-in-flight", "1") { proxy in
        let holder = kind == .queued ? try proxy.connect() : nil
        try holder?.send(requestText("GET", "/holder"))
        if holder != nil { #expect(eventually { try proxy.inFlight() == 1 }) }
        let wire = try proxy.connect()
        switch kind {
        case .get, .queued, .streaming: try wire.send(requestText())
        case .post: try wire.send(requestText("POST", body: "body"))
        case .chunked:
          try wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
          try wire.sendChunk("hello")
          try wire.sendLastChunk()
        case .pipelined: try wire.send(requestText() + requestText())
        }
        wire.halfClose()
        #expect(
          eventually { try kind == .queued ? proxy.metric("skyproxy_queue_waiting") == 1 : proxy.inFlight() == 1 })
        // A queue is looked at every millisecond.
        #expect(try turnsInASecond(proxy) < (kind == .queued ? 3000 : 100))
        go.happen()
        for _ in 0..<(kind == .pipelined ? 2 : 1) { #expect(try wire.readResponse().text == "ok") }
        #expect(wire.awaitEnd() == .closed)
      }
    }

    /// It may still break off afterwards, and then its replica is let go.
    @Test func aHalfClosedClientThatBreaksOffIsNoticed() throws {
      let origin = try Origin { visit in
        _ = try visit.request()
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin], "--client-half-close", "answer") { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        wire.halfClose()
        #expect(eventually { try proxy.inFlight() == 1 })
        wire.reset()
        #expect(eventually { try proxy.inFlight() == 0 })
      }
    }

    // MARK: deadlines that must not meet

    /// Every WebSocket was cut when the idle deadline of its first request passed, and a busy one `--stream-timeout`
    /// after a burst that its client had taken slowly.
    @Test func aWebSocketOutlivesTheDeadlinesOfRequests() throws {
      let origin = try Origin { visit in
        _ = try visit.head()
        try visit.send(Unbreakable.switching + String(repeating: "B", count: 4_000_000))
        while let bytes = try? visit.wire.read(count: 4) { try visit.wire.send(bytes) }
      }
      try withProxy(
        [origin], "--idle-timeout", "500ms", "--head-timeout", "500ms", "--stream-timeout", "700ms",
        "--response-timeout", "600ms", "--send-buffer", "64k"
      ) { proxy in
        let wire = try proxy.connect(receiveBuffer: 16_384)
        try wire.send(Unbreakable.upgrade)
        _ = try wire.readResponseHead()
        _ = always(for: 0.2) { true }
        _ = try wire.read(count: 4_000_000)
        let start = monotonic()
        while monotonic() - start < 2.5 {
          try wire.send("ping")
          #expect(try wire.read(count: 4) == Array("ping".utf8))
          _ = always(for: 0.1) { true }
        }
        wire.close()
      }
    }

    enum Upload: CaseIterable { case headAlone, inTwo, long, dribbling }

    /// A POST whose body came in more than one receive waited in the queue for as long as it liked.
    @Test(arguments: Upload.allCases)
    func theQueuesDeadlineHoldsForUploads(kind: Upload) throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try visit.send(responseText("ok"))
        }
      }
      try withProxy([origin], "--max-in-flight", "1", "--queue-timeout", "700ms") { proxy in
        let holder = try proxy.connect()
        try holder.send(requestText("GET", "/holder"))
        #expect(eventually { try proxy.inFlight() == 1 })
        let wire = try proxy.connect()
        let start = monotonic()
        switch kind {
        case .headAlone: try wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
        case .inTwo:
          try wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
          #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 1 })
          try wire.send(String(repeating: "x", count: 5000))
        case .long: try wire.send(requestText("POST", body: String(repeating: "x", count: 300_000)))
        case .dribbling:
          try wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
          for _ in 0..<10 {
            try wire.send("x")
            _ = always(for: 0.05) { true }
          }
        }
        #expect(try wire.readResponse().status == 503)
        let waited = monotonic() - start
        #expect(waited > 0.6 && waited < 20, "waited \(waited) s")
        #expect(try proxy.metric("skyproxy_queue_timeouts_total") == 1)
        go.happen()
        #expect(try holder.readResponse().text == "ok")
      }
    }

    /// After a pause of the process everything was cut, even what had its bytes waiting.
    @Test func whatCameDuringAPauseIsServedAfterIt() throws {
      let (go, paused) = (Event(), Event())
      let origin = try Origin { visit in
        guard let request = try visit.request() else { return }
        if request.target == "/stream" {
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
          paused.wait()
          try visit.send("world")
        } else if request.target == "/answer" {
          paused.wait()
          try visit.send(responseText("answer"))
        } else {
          try visit.send(responseText(request.text + request.target))
        }
        go.wait()
      }
      try withProxy(
        [origin], "--idle-timeout", "1s", "--head-timeout", "1s", "--response-timeout", "1s", "--stream-timeout", "1s"
      ) { proxy in
        let stream = try proxy.connect()
        try stream.send(requestText("GET", "/stream"))
        _ = try stream.readResponseHead()
        let answer = try proxy.connect()
        try answer.send(requestText("GET", "/answer"))
        let head = try proxy.connect()
        try head.send("GET /head HTTP/1.1\r\nHo")
        let upload = try proxy.connect()
        try upload.send("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        #expect(eventually { try proxy.inFlight() == 3 && proxy.metric("skyproxy_connections_open") == 4 })
        proxy.child.signal(SIGSTOP)
        paused.happen()
        try head.send("st: a\r\n\r\n")
        try upload.send("cd")
        _ = always(for: 2.5) { true }
        proxy.child.signal(SIGCONT)
        #expect(try stream.read(count: 10) == Array("helloworld".utf8))
        #expect(try answer.readResponse().text == "answer")
        #expect(try head.readResponse().text == "/head")
        #expect(try upload.readResponse().text == "abcd/upload")
        go.happen()
        for wire in [stream, answer, head, upload] { wire.close() }
      }
    }

    // MARK: answers of the proxy itself

    enum OwnAnswer: CaseIterable { case nobody, refused, queueFull, timeout, broken }

    /// Each answer of the proxy's closed the connection, so that overload cost every client a handshake.
    @Test(arguments: OwnAnswer.allCases, [false, true])
    func anAnswerOfTheProxyKeepsTheConnection(kind: OwnAnswer, inPieces: Bool) throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          if kind == .broken { return }
          go.wait()
          try visit.send(responseText("ok"))
        }
      }
      if kind == .refused { origin.refuse() }
      let flags =
        switch kind {
        case .queueFull: ["--max-in-flight", "1", "--queue-size", "0"]
        case .timeout: ["--response-timeout", "300ms"]
        case .nobody, .refused, .broken: [String]()
        }
      let proxy = try ProxyProcess(kind == .nobody ? [] : [origin], flags: flags)
      defer { origin.stop() }
      try check(proxy) {
        let holder = kind == .queueFull ? try proxy.connect() : nil
        try holder?.send(requestText("GET", "/holder"))
        if holder != nil { #expect(eventually { try proxy.inFlight() == 1 }) }
        let wire = try proxy.connect()
        for _ in 0..<3 {
          if inPieces {
            try wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
            if kind != .timeout && kind != .broken { _ = always(for: 0.05) { true } }
            try wire.send(String(repeating: "x", count: 5000))
          } else {
            try wire.send(requestText("POST", body: "{}"))
          }
          let response = try wire.readResponse()
          let expected = kind == .timeout ? 504 : kind == .broken ? 502 : 503
          #expect(response.status == expected, "\(response.text)")
          #expect(!response.fields.has("connection"))
        }
        #expect(wire.end == nil)
        go.happen()
        if let holder { #expect(try holder.readResponse().text == "ok") }
        wire.close()
      }
    }

    /// A 413 was written into the middle of a response that had begun.
    @Test func aBodyThatGrowsTooLargeBehindAnEarlyAnswerCutsIt() throws {
      let more = Event()
      let origin = try Origin { visit in
        _ = try visit.head()
        try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + String(repeating: "A", count: 100))
        more.happen()
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin], "--max-body-bytes", "1000") { proxy in
        let wire = try proxy.connect()
        try wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        #expect(more.wait())
        #expect(try wire.readResponseHead().status == 200)
        for _ in 0..<20 { try? wire.sendChunk(String(repeating: "y", count: 100)) }
        let rest = try wire.readToEnd()
        #expect(String(decoding: rest, as: UTF8.self) == String(repeating: "A", count: 100))
      }
    }

    enum TooLarge: CaseIterable { case byTheProxy, byTheReplica }

    /// A client that was still uploading was reset after a second and never saw why.
    @Test(arguments: TooLarge.allCases)
    func anEarlyAnswerIsSeenByAClientThatGoesOnUploading(who: TooLarge) throws {
      let origin = try Origin { visit in
        _ = try visit.head()
        try visit.send(responseText("", status: "413 Content Too Large", fields: ["Connection: close"]))
        while try visit.wire.receive(deadline: 20) {}
      }
      try withProxy([origin], "--max-body-bytes", who == .byTheProxy ? "1m" : "0") { proxy in
        let wire = try proxy.connect()
        let count = 3_000_000
        try wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \(count)\r\n\r\n")
        // Two and a half seconds.
        for _ in 0..<50 {
          try wire.send(String(repeating: "x", count: count / 50))
          _ = always(for: 0.05) { true }
        }
        #expect(try wire.readResponse().status == 413)
      }
    }

    /// "The replica sent a malformed response", and nobody said what was wrong with it.
    @Test(arguments: [
      ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "content-length"),
      ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer-encoding"),
      ("HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "LF without CR"),
      ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "begins with whitespace"),
    ])
    func a502SaysWhatWasWrongWithTheResponse(response: String, clause: String) throws {
      let origin = try Origin { visit in
        _ = try visit.request()
        try visit.send(response)
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin]) { proxy in
        let answer = try proxy.ask()
        #expect(answer.status == 502)
        #expect((answer.error?["message"] as? String)?.contains(clause) == true, "\(answer.text)")
      }
    }

    // MARK: replicas

    /// The 64th sign of life of a replica at work turned its answer into a 502.
    @Test func aReplicaMaySayForLongThatItIsAtWork() throws {
      let origin = try Origin { visit in
        _ = try visit.request()
        for _ in 0..<60 { try visit.send("HTTP/1.1 102 Processing\r\n\r\n") }
        for _ in 0..<12 {
          _ = always(for: 0.11) { true }
          try visit.send("HTTP/1.1 102 Processing\r\n\r\n")
        }
        try visit.send(responseText("done"))
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin]) { proxy in
        let text = try proxy.ask().text
        #expect(text == "done")
      }
    }

    /// Fifteen of twenty replicas were gone, and some requests were told that all refuse.
    @Test func noRequestIsLostWhileAReplicaThatWasNotTriedIsOpen() throws {
      let origins = try (0..<20).map { try Origin.named("\($0)") }
      for origin in origins[..<15] { origin.refuse() }
      try withProxy(origins) { proxy in
        for _ in 0..<30 {
          let status = try proxy.ask("POST", body: "x").status
          #expect(status == 200)
        }
      }
    }

    /// A replica that hung when it was taken off the list kept its requests for an hour.
    @Test func aReplicaThatLeavesWhileItHangsLetsItsRequestsGo() throws {
      let asked = Event()
      let hanging = try Origin { visit in
        guard let request = try visit.request() else { return }
        if request.target == "/stream" {
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        }
        asked.happen()
        _ = visit.wire.awaitEnd()
      }
      let other = try Origin.named("other")
      defer { other.stop() }
      try withProxy([hanging], "--drain-deadline", "1s") { proxy in
        let entry = ProxyProcess.ReplicaEntry("hanging", hanging.address)
        #expect(try proxy.put(version: 1, [entry]).status == 200)
        let waiting = try proxy.connect()
        try waiting.send(requestText("POST", "/waiting", body: "{}"))
        let stream = try proxy.connect()
        try stream.send(requestText("GET", "/stream"))
        _ = try stream.readResponseHead()
        #expect(eventually { try proxy.inFlight() == 2 })
        #expect(try proxy.put(version: 2, [ProxyProcess.ReplicaEntry("other", other.address)]).status == 200)
        #expect(try waiting.readResponse().status == 502)
        #expect(wholeOf(stream) == "hello", "the stream is cut, not completed")
        try expectServed(proxy)
      }
    }

    private func wholeOf(_ wire: Wire) -> String {
      String(decoding: (try? wire.readToEnd()) ?? wire.pending, as: UTF8.self)
    }

    // MARK: places for everybody

    /// Ten thousand connections that never said a word kept everybody else out for 75 s.
    @Test func connectionsThatSayNothingMakeRoom() throws {
      try withProxy([try Origin.named("a")], "--max-connections", "20") { proxy in
        let silent = try (0..<20).map { _ in try proxy.connect() }
        #expect(eventually { try proxy.metric("skyproxy_connections_open") == 20 })
        #expect(eventually(8) { try proxy.ask().status == 200 })
        #expect(try proxy.metric("skyproxy_idle_clients_closed_total") >= 1)
        #expect(silent.contains { $0.awaitEnd(5) != nil })
        for wire in silent { wire.close() }
      }
    }

    @Test func aConnectionThatSaysNothingHasAsLongAsAHead() throws {
      try withProxy([try Origin.named("a")], "--head-timeout", "500ms") { proxy in
        let wire = try proxy.connect()
        #expect(wire.awaitEnd(20) == .closed)
      }
    }

    /// Neither side's sockets asked whether the peer was still there.
    @Test func bothSidesAreProbedByTheKernel() throws {
      let origin = try Origin { visit in
        _ = try visit.request()
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        #expect(eventually { try proxy.inFlight() == 1 })
        // Field 6 of /proc/net/tcp begins with the timer: 02 is keepalive (man 5 proc).
        guard case .ipv4(_, let listening) = proxy.address, case .ipv4(_, let replica) = origin.address else {
          Issue.record("addresses of another kind")
          return
        }
        // grep: connections that other tests closed make the table long.
        let hex = { (port: UInt16) in String(format: ":%04X", port) }
        #expect(
          eventually {
            let isProbed = "[0-9A-F:]+ 02:"
            let accepted = try run(
              "grep", ["-E", "^ *[0-9]+: [0-9A-F]+\(hex(listening)) [0-9A-F:]+ 01 \(isProbed)", "/proc/net/tcp"])
            let opened = try run(
              "grep", ["-E", "^ *[0-9]+: [0-9A-F:]+ [0-9A-F]+\(hex(replica)) 01 \(isProbed)", "/proc/net/tcp"])
            return accepted.exit == .code(0) && opened.exit == .code(0)
          })
        wire.close()
      }
    }
  }
}
