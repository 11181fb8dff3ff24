// Streams: every piece goes on as it comes, in both directions, and an upgraded connection is left alone.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Streams {
    /// The next event is sent only when the one before has arrived, so anything held back stops the test.
    @Test(arguments: [BodyFraming.chunked, .untilClose])
    func eventsOneByOne(framing: BodyFraming) throws {
      let arrived = Shared(0)
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        let chunked = framing == .chunked
        try visit.send(
          "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            + (chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n"))
        for index in 0..<50 {
          let event = "data: {\"token\": \(index)}\n\n"
          if chunked { try visit.wire.sendChunk(event) } else { try visit.send(event) }
          guard eventually(patience, { arrived.value == index + 1 }) else { throw TestFailure("event \(index) did not arrive") }
        }
        if chunked { try visit.wire.sendLastChunk() }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText("POST", "/v1/chat/completions", body: "{\"stream\": true}"))
        let head = try wire.readResponseHead()
        #expect(head.fields["content-type"] == "text/event-stream")
        for index in 0..<50 {
          let event = try wire.text(until: "\n\n")
          #expect(event.hasSuffix("data: {\"token\": \(index)}\n\n"))
          arrived.with { $0 += 1 }
        }
        #expect(try wire.readToEndOrChunkEnd(framing))
      }
    }

    /// A replica that sends its events at once is told of two at a time. One that waits for word of each before it
    /// sends the next (Nagle's algorithm) is told of each, from the second stream on at the latest. A pause of the
    /// machine may look like that: one try of eight has to show it.
    @Test(arguments: [true, false])
    func eventsAreAcknowledgedInPairs(noDelay: Bool) throws {
      var seen: [(acknowledged: Double, late: Int)] = []
      for _ in 0..<8 {
        let second = try acknowledgementsOfASecondStream(noDelay)
        seen.append(second)
        // Told to wait again and again there would be twelve late ones.
        if second.late < 6, noDelay ? second.acknowledged < 0.7 : second.acknowledged > 0.9 { return }
      }
      Issue.record("segments back for each that was sent, and late events: \(seen)")
    }

    private func acknowledgementsOfASecondStream(_ noDelay: Bool) throws -> (acknowledged: Double, late: Int) {
      let arrived = Shared(0)
      let acknowledged = Shared<[Double]>([])
      let origin = try Origin { visit in
        visit.wire.setNoDelay(noDelay)
        guard try visit.request() != nil else { return }
        try visit.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        arrived.with { $0 = 0 }
        for index in 0..<200 {
          try visit.send("data: {\"token\": \(index)}\n\n")
          guard eventually(patience, { arrived.value == index + 1 }) else {
            throw TestFailure("event \(index) did not arrive")
          }
        }
        acknowledged.with { $0.append(visit.wire.segmentsReceivedPerSent) }
      }
      var late = 0
      try withProxy([origin]) { proxy in
        for _ in 0..<2 {
          let wire = try proxy.connect()
          try wire.send(requestText())
          _ = try wire.readResponseHead()
          var last = monotonic()
          late = 0
          for _ in 0..<200 {
            _ = try wire.text(until: "\n\n")
            // The time the kernel waits with an acknowledgement, give or take.
            if (0.03...0.06).contains(monotonic() - last) { late += 1 }
            last = monotonic()
            arrived.with { $0 += 1 }
          }
          #expect(try wire.readToEnd().isEmpty)
        }
        #expect(eventually(patience) { acknowledged.value.count == 2 })
      }
      return (try #require(acknowledged.value.last), late)
    }

    @Test func theFirstByteIsNotHeldBack() throws {
      let seen = Event()
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try visit.send("x")
        seen.wait()
        try visit.send(String(repeating: "y", count: 999))
        _ = try visit.request()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText())
        _ = try wire.readResponseHead()
        #expect(try wire.read(count: 1) == [UInt8(ascii: "x")])
        seen.happen()
        #expect(try wire.read(count: 999)?.count == 999)
      }
    }

    /// A request's body goes on while it comes, and a response may begin before it has ended.
    @Test func bothDirectionsAtOnce() throws {
      let origin = try Origin { visit in
        guard let request = try visit.head() else { return }
        #expect(request.framing == .chunked)
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while let chunk = try visit.wire.readChunk(), !chunk.isEmpty {
          try visit.wire.sendChunk("echo " + String(decoding: chunk, as: UTF8.self))
        }
        _ = try visit.wire.read(until: "\r\n")
        try visit.wire.sendLastChunk()
        _ = try visit.request()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send("POST /talk HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        #expect(try wire.readResponseHead().status == 200)
        for word in ["one", "two", "three"] {
          try wire.sendChunk(word)
          #expect(try wire.readChunk() == Array("echo \(word)".utf8))
        }
        try wire.sendLastChunk()
        #expect(try wire.readChunk() == [])
      }
    }

    @Test func interimResponsesGoOn() throws {
      let origin = try Origin { visit in
        while try visit.request() != nil {
          try visit.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
          try visit.send(responseText("final"))
        }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        for _ in 0..<2 {
          try wire.send(requestText())
          let first = try wire.readResponse()
          #expect(first.status == 103 && first.fields["link"] == "</a.css>")
          #expect(try wire.readResponse().status == 103)
          #expect(try wire.readResponse().text == "final")
        }
      }
    }

    @Test func trailersGoOn() throws {
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        try visit.send("3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n")
        _ = try visit.request()
      }
      try withProxy([origin]) { proxy in
        let response = try proxy.ask("GET", "/", fields: ["TE: trailers"])
        #expect(response.text == "abc" && response.isWhole)
        #expect(response.trailers["x-sum"] == "42")
      }
    }

    @Test func largeBodiesAreIntact() throws {
      let block = (0..<65_536).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
      let blocks = 256
      let origin = try Origin { visit in
        while var request = try visit.head() {
          try visit.wire.readBody(of: &request)
          let isRight = request.body.count == 64 * block.count && request.body.suffix(block.count).elementsEqual(block)
          try visit.send(
            "HTTP/1.1 200 OK\r\nX-Right: \(isRight)\r\nContent-Length: \(blocks * block.count)\r\n\r\n")
          for _ in 0..<blocks { try visit.wire.send(block) }
        }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: \(64 * block.count)\r\n\r\n")
        for _ in 0..<64 { try wire.send(block) }
        #expect(try wire.readResponseHead().fields["x-right"] == "true")
        for index in 0..<blocks {
          guard try wire.read(count: block.count) == block else {
            Issue.record("block \(index) of the response is not what was sent")
            return
          }
        }
      }
    }
  }

  @Suite struct WebSockets {
    private static let handshake = requestText(
      "GET", "/ws",
      fields: [
        "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
      ])
    private static let answer =
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
      + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

    /// A frame of up to 125 bytes, masked as clients do (RFC 6455 5.2).
    private static func frame(_ text: String, mask: [UInt8]? = nil) -> [UInt8] {
      let payload = Array(text.utf8)
      var bytes: [UInt8] = [0x81, UInt8(payload.count) | (mask == nil ? 0 : 0x80)]
      guard let mask else { return bytes + payload }
      bytes += mask
      for (index, byte) in payload.enumerated() { bytes.append(byte ^ mask[index % 4]) }
      return bytes
    }

    private static func readFrame(_ wire: Wire) throws -> String? {
      guard let head = try wire.read(count: 2) else { return nil }
      let mask = head[1] & 0x80 != 0 ? try wire.read(count: 4) : [0, 0, 0, 0]
      guard let mask, let payload = try wire.read(count: Int(head[1] & 0x7F)) else { return nil }
      return String(decoding: payload.indices.map { payload[$0] ^ mask[$0 % 4] }, as: UTF8.self)
    }

    private func echo() throws -> Origin {
      try Origin { visit in
        guard let request = try visit.head() else { return }
        #expect(request.fields["upgrade"] == "websocket")
        #expect(request.fields["connection"]?.lowercased().contains("upgrade") == true)
        #expect(request.fields["sec-websocket-key"] == "dGhlIHNhbXBsZSBub25jZQ==")
        try visit.send(WebSockets.answer)
        while let text = try WebSockets.readFrame(visit.wire) { try visit.wire.send(WebSockets.frame("echo " + text)) }
        // The client has ended its side; there is a last word all the same.
        try visit.wire.send(WebSockets.frame("last word"))
      }
    }

    @Test func echoThenTheClientHalfCloses() throws {
      try withProxy([try echo()]) { proxy in
        let wire = try proxy.connect()
        try wire.send(WebSockets.handshake)
        let head = try wire.readResponseHead()
        #expect(head.status == 101 && head.fields["upgrade"] == "websocket")
        #expect(head.fields["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        for index in 0..<100 {
          try wire.send(WebSockets.frame("message \(index)", mask: [1, 2, 3, UInt8(index)]))
          #expect(try WebSockets.readFrame(wire) == "echo message \(index)")
        }
        #expect(try proxy.inFlight() == 1)
        wire.halfClose()
        #expect(try WebSockets.readFrame(wire) == "last word")
        #expect(wire.awaitEnd() == .closed)
        #expect(eventually { try proxy.inFlight() == 0 })
        let replica = try #require(try proxy.replicas().first)
        #expect(replica["client_gone"] as? Int == 0, "the client has ended what it began")
      }
    }

    @Test func theReplicaHalfCloses() throws {
      let got = Shared("")
      let origin = try Origin { visit in
        guard try visit.head() != nil else { return }
        try visit.send(WebSockets.answer)
        try visit.wire.send(WebSockets.frame("bye"))
        visit.wire.halfClose()
        let text = try visit.wire.readToEnd()
        got.with { $0 = String(decoding: text, as: UTF8.self) }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(WebSockets.handshake)
        _ = try wire.readResponseHead()
        #expect(try WebSockets.readFrame(wire) == "bye")
        #expect(wire.awaitEnd() == .closed)
        try wire.send("still here")
        wire.halfClose()
        #expect(eventually { got.value == "still here" })
      }
    }

    @Test func bytesRightBehindTheHandshake() throws {
      try withProxy([try echo()]) { proxy in
        let wire = try proxy.connect()
        try wire.send(Array(WebSockets.handshake.utf8) + WebSockets.frame("early", mask: [9, 8, 7, 6]))
        #expect(try wire.readResponseHead().status == 101)
        #expect(try WebSockets.readFrame(wire) == "echo early")
        wire.halfClose()
        #expect(try WebSockets.readFrame(wire) == "last word")
      }
    }

    @Test(arguments: [true, false])
    func aBrokenSideEndsTheOther(clientBreaks: Bool) throws {
      let seen = Shared<Wire.End?>(nil)
      let go = Event()
      let origin = try Origin { visit in
        guard try visit.head() != nil else { return }
        try visit.send(WebSockets.answer)
        if clientBreaks {
          let end = visit.wire.awaitEnd()
          seen.with { $0 = end }
        } else {
          go.wait()
          visit.wire.reset()
        }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(WebSockets.handshake)
        _ = try wire.readResponseHead()
        if clientBreaks {
          wire.reset()
          #expect(eventually { seen.value != nil })
        } else {
          go.happen()
          #expect(wire.awaitEnd() != nil)
        }
      }
    }

    @Test func aSilentTunnelEndsAtItsDeadline() throws {
      let origin = try Origin { visit in
        guard try visit.head() != nil else { return }
        try visit.send(WebSockets.answer)
        _ = visit.wire.awaitEnd()
      }
      try withProxy([origin], "--tunnel-timeout", "300ms") { proxy in
        let wire = try proxy.connect()
        let (seconds, end) = try timed {
          try wire.send(WebSockets.handshake)
          _ = try wire.readResponseHead()
          return wire.awaitEnd()
        }
        #expect(end != nil)
        #expect(seconds > 0.2)
      }
    }

    @Test func aRefusedUpgradeIsAnOrdinaryResponse() throws {
      let origin = try Origin.answering { _ in responseText("no", status: "400 Bad Request") }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        for _ in 0..<2 {
          try wire.send(WebSockets.handshake)
          #expect(try wire.readResponse().status == 400)
        }
      }
    }
  }
}

extension Wire {
  /// What must follow the last event: the last chunk, or the end.
  fileprivate func readToEndOrChunkEnd(_ framing: BodyFraming) throws -> Bool {
    if framing != .chunked { return awaitEnd() == .closed }
    _ = try read(count: 2)
    return try readChunk()?.isEmpty == true
  }
}
