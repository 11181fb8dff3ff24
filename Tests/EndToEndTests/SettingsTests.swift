// Settings changed while the proxy serves: in force from the next request on, all of a change or none of it.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Settings {
    private func change(_ proxy: ProxyProcess, _ body: String) throws -> Response {
      try proxy.askAdmin("PUT", "/v1/settings", body: body)
    }

    /// Answers nothing until `go`.
    private func silentOrigin(_ go: Event) throws -> Origin {
      try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try? visit.send(responseText("late"))
        }
      }
    }

    @Test func aTimeoutIsShortenedAndLiftedInPlace() throws {
      let go = Event()
      try withProxy([try silentOrigin(go)], "--max-attempts", "1", workers: 2) { proxy in
        let before = try #require(try proxy.askAdmin("GET", "/v1/settings").json)
        #expect(before["response_timeout_ms"] as? Int == 3_600_000)
        #expect(before["tls"] is NSNull)

        let changed = try change(proxy, #"{"response_timeout_ms": 150}"#)
        #expect(changed.status == 200)
        #expect(changed.json?["response_timeout_ms"] as? Int == 150)
        #expect(changed.json?["stream_timeout_ms"] as? Int == 600_000, "what was not named is as it was")
        for _ in 0..<6 { #expect(try proxy.ask().status == 504) }

        #expect(try change(proxy, #"{"response_timeout_ms": 0}"#).status == 200)
        let wire = try proxy.connect()
        try wire.send(requestText())
        #expect(wire.isSilent(for: 0.5))
        go.happen()
        #expect(try wire.readResponse().text == "late")
        #expect(try proxy.askAdmin("GET", "/v1/settings").json?["response_timeout_ms"] as? Int == 0)
      }
    }

    /// The stream that is running has its silence measured anew at each piece.
    @Test func aStreamUnderWayFollows() throws {
      let pieces = Event()
      let origin = try Origin { visit in
        _ = try visit.request()
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try visit.wire.sendChunk("one")
        pieces.wait()
        try visit.wire.sendChunk("two")
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        #expect(try wire.readResponseHead().status == 200)
        #expect(try wire.readChunk() == Array("one".utf8))
        #expect(try change(proxy, #"{"stream_timeout_ms": 200}"#).status == 200)
        pieces.happen()
        #expect(try wire.readChunk() == Array("two".utf8))
        #expect(wire.awaitEnd() != nil)
      }
    }

    @Test func aRefusedChangeChangesNothing() throws {
      try withProxy([try Origin.named("a")]) { proxy in
        let before = try proxy.askAdmin("GET", "/v1/settings").text
        for body in [
          "", "{", "[]", #"{"stream_timeout_ms": 5, "head_timeout_ms": 1}"#, #"{"stream_timeout_ms": 5, "novel": 1}"#,
          #"{"stream_timeout_ms": 5, "tls": {"cert": "/nowhere/c.pem", "key": "/nowhere/k.pem"}}"#,
        ] {
          let response = try change(proxy, body)
          #expect(response.status == 400, "\(body): \(response.text)")
          #expect(response.json?["error"] is String, "\(body): \(response.text)")
        }
        #expect(try proxy.askAdmin("GET", "/v1/settings").text == before)
        #expect(try proxy.askAdmin("DELETE", "/v1/settings").status == 405)
        #expect(try change(proxy, "{}").text == before, "nothing asked for, nothing changed")
        try expectServed(proxy)
      }
    }

    @Test func theDrainTimeoutOfTheMomentCounts() throws {
      let asked = Event()
      let origin = try Origin { visit in
        _ = try visit.request()
        asked.happen()
        _ = visit.wire.awaitEnd(30)
      }
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin], flags: ["--drain-timeout", "60s"])
      defer { proxy.child.end() }
      #expect(try change(proxy, #"{"drain_timeout_ms": 100}"#).status == 200)
      let wire = try proxy.connect()
      try wire.send(requestText())
      #expect(asked.wait())
      // Sooner than what it was started with.
      proxy.child.signal(SIGTERM)
      #expect(proxy.child.waitForExit() == .code(0))
    }

    /// `off` is no deadline, not one of zero seconds.
    @Test func noDeadlineIsNone() throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla")
          _ = visit.wire.isSilent(for: 0.1)
          try visit.send("te")
        }
      }
      let flags = ["head", "idle", "response", "stream", "tunnel"].flatMap { ["--\($0)-timeout", "off"] }
      let proxy = try ProxyProcess([origin], flags: flags)
      defer { origin.stop() }
      try check(proxy) {
        let wire = try proxy.connect()
        #expect(wire.isSilent(for: 0.1))
        try wire.send("GET / HTTP/1.1\r\nHost:")
        #expect(wire.isSilent(for: 0.1))
        try wire.send(" a\r\n\r\n")
        #expect(wire.isSilent(for: 0.1))
        go.happen()
        #expect(try wire.readResponse().text == "late")
      }
    }
  }
}
