// A client that leaves is noticed wherever its request is, and the replica is let go at once: a model that nobody
// listens to must not go on generating.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct LeavingClients {
    enum Leaving: CaseIterable { case closes, resets }

    /// A FIN within the half-close grace (10 ms) of the request is a client that has said all it wants to say; one that
    /// leaves does so later. Gives the time it left.
    /// - Parameter isRead: the proxy is known to have read what was sent last.
    @discardableResult
    private func leave(_ wire: Wire, _ way: Leaving, isRead: Bool = true) -> Double {
      usleep(isRead ? 30_000 : 300_000)
      defer {
        switch way {
        case .closes: wire.close()
        case .resets: wire.reset()
        }
      }
      return monotonic()
    }

    /// An origin that does `script` and then waits for its connection to end; `released` says when it did.
    private func origin(
      _ released: Shared<Double?>, _ script: @escaping @Sendable (Origin.Visit) throws -> Void
    ) throws -> Origin {
      try Origin { visit in
        try script(visit)
        if visit.wire.awaitEnd() != nil { released.with { $0 = monotonic() } }
      }
    }

    private func expectReleased(_ proxy: ProxyProcess, _ released: Shared<Double?>, since left: Double) throws {
      #expect(eventually { released.value != nil }, "the replica's connection was not closed")
      if let at = released.value { #expect(at - left < 5, "closed after \(at - left) s") }
      #expect(eventually(5) { try proxy.inFlight() == 0 })
      #expect(eventually(5) { try proxy.metric("skyproxy_client_aborts_total") == 1 })
    }

    @Test(arguments: Leaving.allCases)
    func whileWaitingForTheHead(way: Leaving) throws {
      let (released, asked) = (Shared<Double?>(nil), Event())
      let origin = try origin(released) { visit in
        _ = try visit.request()
        asked.happen()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText("POST", "/v1/chat/completions", body: "{}"))
        #expect(asked.wait())
        #expect(try proxy.inFlight() == 1)
        let left = leave(wire, way)
        try expectReleased(proxy, released, since: left)
      }
    }

    @Test(arguments: Leaving.allCases)
    func whileASilentReplicaStreams(way: Leaving) throws {
      let released = Shared<Double?>(nil)
      let origin = try origin(released) { visit in
        _ = try visit.request()
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        _ = try wire.readResponseHead()
        #expect(try wire.readChunk() == Array("hello".utf8))
        let left = leave(wire, way)
        try expectReleased(proxy, released, since: left)
      }
    }

    @Test(arguments: Leaving.allCases)
    func whileAReplicaStreams(way: Leaving) throws {
      let released = Shared<Double?>(nil)
      let origin = try Origin { visit in
        _ = try visit.request()
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while visit.wire.end == nil {
          do { try visit.wire.sendChunk("data: token\n\n") } catch { break }
          _ = visit.wire.awaitEnd(0.005)
        }
        released.with { $0 = monotonic() }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        _ = try wire.readResponseHead()
        for _ in 0..<20 { _ = try wire.readChunk() }
        let left = leave(wire, way)
        try expectReleased(proxy, released, since: left)
      }
    }

    @Test(arguments: Leaving.allCases)
    func whileUploading(way: Leaving) throws {
      let (released, asked) = (Shared<Double?>(nil), Event())
      let origin = try origin(released) { visit in
        _ = try visit.head()
        _ = try visit.wire.read(count: 1000)
        asked.happen()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        try wire.send(String(repeating: "x", count: 1000))
        #expect(asked.wait())
        let left = leave(wire, way)
        try expectReleased(proxy, released, since: left)
      }
    }

    /// Behind a request that waits for its answer there are more: nothing is received until they have their turn.
    @Test(arguments: Leaving.allCases, [1, 3000])
    func whilePipelining(way: Leaving, further: Int) throws {
      let (released, asked) = (Shared<Double?>(nil), Event())
      let origin = try origin(released) { visit in
        _ = try visit.request()
        asked.happen()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText("GET", "/first"))
        #expect(asked.wait())
        try wire.send(String(repeating: requestText("GET", "/next"), count: further))
        let left = leave(wire, way, isRead: false)
        try expectReleased(proxy, released, since: left)
        #expect(origin.requests.map(\.target) == ["/first"])
      }
    }

    /// More of its body has come than is read ahead of a replica.
    @Test(arguments: Leaving.allCases, [true, false])
    func whileQueuedWithABody(way: Leaving, isWhole: Bool) throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try visit.send(responseText("ok"))
        }
      }
      try withProxy([origin], "--max-in-flight", "1", "--stream-window", "128k") { proxy in
        let first = try proxy.connect()
        try first.send(requestText("GET", "/first"))
        #expect(eventually { origin.requests.count == 1 })
        let length = isWhole ? 100_000 : 100_001
        let second = try proxy.connect()
        try second.send("POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: \(length)\r\n\r\n")
        try second.send(String(repeating: "x", count: 100_000))
        #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 1 })
        if isWhole {
          leave(second, way, isRead: false)
        } else {
          // In the middle of its body there is nothing to take for a half-close, however soon it comes.
          switch way {
          case .closes: second.close()
          case .resets: second.reset()
          }
        }
        #expect(eventually(5) { try proxy.metric("skyproxy_queue_waiting") == 0 })
        go.happen()
        #expect(try first.readResponse().text == "ok")
      }
    }

    @Test func whileTheReplicaTakesNothing() throws {
      let (gone, asked) = (Event(), Event())
      let origin = try Origin(receiveBuffer: 4096) { visit in
        _ = try visit.head()
        asked.happen()
        gone.wait()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect(sendBuffer: 65_536)
        try wire.send("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        #expect(asked.wait())
        let sent = try wire.sendSome(Array(repeating: 0x78, count: 100_000_000), stall: 0.3)
        #expect(sent < 50_000_000, "nothing holds the upload up")
        wire.reset()
        #expect(eventually(5) { try proxy.inFlight() == 0 && proxy.metric("skyproxy_upstreams_open") == 0 })
        gone.happen()
      }
    }

    /// Requests whose last bytes and FIN come together are all answered, however long that takes.
    @Test func aPipeliningClientMayEndItsSide() throws {
      let origin = try Origin { visit in
        while let request = try visit.request() {
          _ = visit.wire.isSilent(for: 0.05)
          try visit.send(responseText(request.target))
        }
      }
      // However late the proxy sees the end.
      try withProxy([origin], "--half-close-grace", "10s") { proxy in
        let wire = try proxy.connect()
        try wire.send(["/1", "/2", "/3"].map { requestText("GET", $0) }.joined())
        wire.halfClose()
        for target in ["/1", "/2", "/3"] { #expect(try wire.readResponse().text == target) }
        #expect(wire.awaitEnd() == .closed)
      }
    }

    @Test(arguments: Leaving.allCases)
    func whileQueued(way: Leaving) throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try visit.send(responseText("ok"))
        }
      }
      try withProxy([origin], "--max-in-flight", "1") { proxy in
        let first = try proxy.connect()
        try first.send(requestText("GET", "/first"))
        #expect(eventually { origin.requests.count == 1 })
        let second = try proxy.connect()
        try second.send(requestText("GET", "/second"))
        #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 1 })
        #expect(try proxy.metric("skyproxy_exchange_drift") == 0, "one that waits has no replica yet")
        leave(second, way)
        #expect(eventually(5) { try proxy.metric("skyproxy_queue_waiting") == 0 })
        let third = try proxy.connect()
        try third.send(requestText("GET", "/third"))
        #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 1 })
        go.happen()
        #expect(try first.readResponse().text == "ok")
        #expect(try third.readResponse().text == "ok")
        #expect(origin.requests.map(\.target) == ["/first", "/third"], "nobody waits for the second any more")
      }
    }

    @Test(arguments: Leaving.allCases)
    func whileConnecting(way: Leaving) throws {
      let full = try Listener(backlog: 0)
      defer { full.stop() }
      try full.fill()
      let proxy = try ProxyProcess(replicas: ["\(full.address)"], flags: ["--connect-timeout", "60s"])
      try check(proxy) {
        let wire = try proxy.connect()
        try wire.send(requestText())
        #expect(eventually { try proxy.metric("skyproxy_upstreams_open") == 1 })
        #expect(try proxy.inFlight() == 1)
        leave(wire, way)
        #expect(eventually(5) { try proxy.inFlight() == 0 && proxy.metric("skyproxy_upstreams_open") == 0 })
      }
    }

    /// Many at once, in every phase.
    @Test func aStormLeavesNothingBehind() throws {
      let origin = try Origin { visit in
        while let request = try? visit.request() {
          guard request.target == "/ask" else { break }
          try visit.send(responseText("ok"))
        }
        _ = try? visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin], "--max-in-flight", "16") { proxy in
        for round in 0..<3 {
          var wires: [Wire] = []
          for index in 0..<60 {
            let wire = try proxy.connect()
            switch index % 4 {
            case 0: try wire.send("GET / HT")
            case 1: try wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
            default: try wire.send(requestText("GET", "/stream"))
            }
            wires.append(wire)
          }
          #expect(eventually { try proxy.inFlight() == 16 }, "round \(round)")
          // Three of four have asked; a later end is no half-close.
          #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 45 - 16 }, "round \(round)")
          usleep(30_000)
          for (index, wire) in wires.enumerated() {
            if index % 2 == 0 { wire.close() } else { wire.reset() }
          }
          #expect(eventually(5) { try proxy.inFlight() == 0 && proxy.metric("skyproxy_connections_open") == 0 })
        }
        #expect(try proxy.ask("GET", "/ask").text == "ok")
      }
    }

    /// With --client-half-close answer a client may end its side and still wait.
    @Test func aHalfClosedClientIsAnsweredWhereAskedFor() throws {
      let origin = try Origin { visit in
        while try visit.request() != nil {
          _ = visit.wire.isSilent(for: 0.2)
          try visit.send(responseText("late"))
        }
      }
      try withProxy([origin], "--client-half-close", "answer") { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        wire.halfClose()
        #expect(try wire.readResponse().text == "late")
        #expect(wire.awaitEnd() == .closed)
      }
    }
  }
}
