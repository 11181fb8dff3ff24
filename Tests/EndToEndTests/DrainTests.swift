// The end: what is in flight is finished, nothing new begins, and it does not take for ever.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Drain {
    /// Streams until told to end.
    private func streaming(_ go: Event) throws -> Origin {
      try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        // The proxy may cut this short.
        if visit.wire.isSilent(for: 0), !go.wait() { return }
        try? visit.wire.sendChunk("last")
        try? visit.wire.sendLastChunk()
        _ = visit.wire.awaitEnd()
      }
    }

    private func beginStream(_ proxy: ProxyProcess) throws -> Wire {
      let wire = try proxy.connect()
      try wire.send(requestText())
      #expect(try wire.readResponseHead().status == 200)
      #expect(try wire.readChunk() == Array("first".utf8))
      return wire
    }

    @Test(arguments: [SIGTERM, SIGINT])
    func anOpenStreamIsFinished(signal: Int32) throws {
      let go = Event()
      let origin = try streaming(go)
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin])
      let wire = try beginStream(proxy)
      let idle = try proxy.connect()
      try idle.send(requestText("GET", "/never HT"))
      let quiet = try proxy.connect()
      #expect(eventually { try proxy.metric("skyproxy_connections_open") >= 3 })
      proxy.child.signal(signal)
      _ = try proxy.child.line { $0.contains("draining") }
      #expect(quiet.awaitEnd() == .closed, "a connection that asks nothing is let go")
      #expect((try? proxy.connect()) == nil, "new connections are refused")
      #expect(proxy.child.isRunning, "the stream is still open")
      idle.close()
      go.happen()
      #expect(try wire.readChunk() == Array("last".utf8))
      #expect(try wire.readChunk() == [], "the stream has its proper end")
      #expect(wire.awaitEnd() == .closed)
      #expect(proxy.child.waitForExit() == .code(0), "\(proxy.log)")
      #expect((try? Wire(to: proxy.address)) == nil, "nobody listens any more")
    }

    @Test func aSecondSignalEndsAtOnce() throws {
      let go = Event()
      let origin = try streaming(go)
      defer {
        go.happen()
        origin.stop()
      }
      let proxy = try ProxyProcess([origin])
      let wire = try beginStream(proxy)
      proxy.child.signal(SIGTERM)
      _ = try proxy.child.line { $0.contains("draining") }
      proxy.child.signal(SIGTERM)
      #expect(proxy.child.waitForExit() == .code(1))
      #expect(wire.awaitEnd() != nil)
      #expect(!wire.pending.contains(UInt8(ascii: "0")), "no end is invented")
    }

    @Test func theDrainTimeoutEndsIt() throws {
      let go = Event()
      let origin = try streaming(go)
      defer {
        go.happen()
        origin.stop()
      }
      let proxy = try ProxyProcess([origin], flags: ["--drain-timeout", "500ms"])
      let wire = try beginStream(proxy)
      let (seconds, exit) = timed {
        proxy.child.signal(SIGTERM)
        return proxy.child.waitForExit()
      }
      #expect(exit == .code(0))
      #expect(seconds > 0.4, "\(seconds) s")
      let rest = (try? wire.readToEnd()) ?? []
      #expect(rest.isEmpty, "a cut, and no invented end: \(shown(rest))")
    }

    /// The replica is done with it, its client is not.
    @Test func aResponseCutOnItsWayOutIsCalledCut() throws {
      let sent = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          try visit.send(responseText(String(repeating: "x", count: 300_000)))
          sent.happen()
        }
      }
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin], flags: ["--drain-timeout", "500ms", "--send-buffer", "4k"])
      let wire = try proxy.connect(receiveBuffer: 4096)
      try wire.send(requestText())
      #expect(sent.wait())
      #expect(eventually { try proxy.inFlight() == 0 })
      proxy.child.signal(SIGTERM)
      let line = try proxy.child.line { $0.contains("drain timed out") || $0.contains("stopped") }
      #expect(line.contains("connections_cut=1"), "\(line)")
      #expect(proxy.child.waitForExit() == .code(0))
      wire.close()
    }

    @Test func theDrainTimeoutBeginsWithTheSignal() throws {
      let go = Event()
      let origin = try streaming(go)
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin], flags: ["--drain-timeout", "3s"])
      let wire = try beginStream(proxy)
      #expect(eventually { try proxy.metric("skyproxy_uptime_seconds") > 3.5 })
      proxy.child.signal(SIGTERM)
      _ = try proxy.child.line { $0.contains("draining") }
      go.happen()
      #expect(try wire.readChunk() == Array("last".utf8))
      #expect(try wire.readChunk() == [], "the stream has its proper end")
      #expect(proxy.child.waitForExit() == .code(0), "\(proxy.log)")
    }

    @Test func aRequestUnderWayIsAnsweredAndTheConnectionClosed() throws {
      let (asked, go) = (Event(), Event())
      let origin = try Origin { visit in
        while try visit.request() != nil {
          asked.happen()
          go.wait()
          try visit.send(responseText("answer"))
        }
      }
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin])
      let wire = try proxy.connect()
      try wire.send(requestText())
      #expect(asked.wait())
      let quiet = try proxy.connect()
      #expect(eventually { try proxy.metric("skyproxy_connections_open") >= 2 })
      proxy.child.signal(SIGTERM)
      #expect(quiet.awaitEnd() == .closed, "the worker drains")
      go.happen()
      let response = try wire.readResponse()
      #expect(response.text == "answer")
      #expect(response.fields["connection"] == "close", "so that the client does not ask again here")
      #expect(wire.awaitEnd() == .closed)
      #expect(proxy.child.waitForExit() == .code(0))
    }

    @Test func drainOverTheAdminApi() throws {
      let go = Event()
      let origin = try streaming(go)
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin])
      let wire = try beginStream(proxy)
      #expect(try proxy.askAdmin("GET", "/healthz").status == 200)
      #expect(try proxy.askAdmin("POST", "/v1/drain").status == 202)
      #expect(eventually { try proxy.askAdmin("GET", "/healthz").status == 503 })
      // Asked again, and a stop hook's drain followed by the signal: nothing is cut.
      #expect(try proxy.askAdmin("POST", "/v1/drain").status == 202)
      proxy.child.signal(SIGTERM)
      #expect(try proxy.askAdmin("GET", "/healthz").status == 503)
      go.happen()
      #expect(try wire.readChunk() == Array("last".utf8))
      #expect(try wire.readChunk() == [], "the stream has its proper end")
      #expect(proxy.child.waitForExit() == .code(0))
    }

    @Test func idleClientsDoNotDelayTheEnd() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin], workers: 2)
      let wires = try (0..<50).map { _ in
        let wire = try proxy.connect()
        try wire.send(requestText())
        #expect(try wire.readResponse().status == 200)
        return wire
      }
      proxy.child.signal(SIGTERM)
      // Sooner than the drain's timeout.
      #expect(proxy.child.waitForExit() == .code(0))
      for wire in wires { #expect(wire.awaitEnd() == .closed) }
    }
  }
}
