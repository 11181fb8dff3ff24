// What goes on to the other side, where a careless word of one of them could be read in two ways.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Forwarding {
    // MARK: Bodies that do not belong to their message

    /// What a replica sends although it is no content: the answer to HEAD, 304 and 204 with a body behind them.
    @Test(arguments: [
      ("HEAD", "200 OK\r\nContent-Length: 42"), ("HEAD", "200 OK\r\nTransfer-Encoding: chunked"),
      ("GET", "304 Not Modified\r\nContent-Length: 42"), ("GET", "304 Not Modified\r\nTransfer-Encoding: chunked"),
      ("GET", "204 No Content\r\nContent-Length: 42"),
    ])
    func theBodyOfAHeadIsNotTheNextClientsAnswer(method: String, head: String) throws {
      let origin = try Origin { visit in
        while let request = try visit.request() {
          guard request.target == "/first" else {
            try visit.send(responseText("right"))
            continue
          }
          try visit.send("HTTP/1.1 \(head)\r\n\r\n")
          // Late, as a server that writes its body on its own time: behind the next request if there is one.
          let next = try visit.request()
          try? visit.send(responseText("EVIL"))
          if next == nil { return }
        }
      }
      try withProxy([origin]) { proxy in
        let (first, second) = (try proxy.connect(), try proxy.connect())
        for _ in 0..<5 {
          try first.send(requestText(method, "/first"))
          #expect(try first.readResponse(to: method).isWhole)
          try second.send(requestText("POST", "/second", body: "x"))
          let response = try second.readResponse()
          #expect(response.status == 200 && response.text == "right", "\(response.status) \(response.text)")
        }
      }
    }

    @Test func aHeadThatAnnouncesNothingKeepsTheReplicasConnection() throws {
      let visits = Shared(Set<Int>())
      let origin = try Origin { visit in
        while try visit.request() != nil {
          visits.with { _ = $0.insert(visit.number) }
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        for _ in 0..<5 {
          try wire.send(requestText("HEAD"))
          #expect(try wire.readResponse(to: "HEAD").status == 200)
        }
        #expect(visits.with { $0 } == [0])
      }
    }

    // MARK: Chunks

    /// A reader that keeps a size in 32 bits sees 5 here, and a request of its own behind it.
    @Test(arguments: ["100000005", "f00000005", "80000005", "000000005", "5 "], [true, false])
    func aSizeThatOthersReadOtherwiseIsNotPassedOn(size: String, inPieces: Bool) throws {
      let seen = Shared<[UInt8]>([])
      let origin = try Origin { visit in
        let bytes = try visit.wire.readToEnd()
        seen.with { $0 += bytes }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        let head = "POST /outer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        let body = "\(size)\r\nhello\r\n0\r\n\r\nGET /INNER HTTP/1.1\r\nHost: h\r\n\r\n"
        if inPieces {
          for byte in (head + body).utf8 {
            guard try wire.sendSome([byte], stall: 1) == 1 else { break }
          }
        } else {
          try wire.send(head + body)
        }
        let response = try wire.readResponse()
        #expect(response.status == 400 && response.text.contains("RFC 9112 7.1"), "\(response.text)")
        _ = try wire.readToEnd()
        #expect(eventually { try proxy.inFlight() == 0 })
        let text = seen.with { String(decoding: $0, as: UTF8.self) }
        #expect(!text.contains("INNER") && !text.contains("hello"), "\(text)")
      }
    }

    @Test func sizesWithBlanksBehindThemAreWrittenAnew() throws {
      let origin = try Origin { visit in
        while try visit.request() != nil {
          try visit.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
              + "5 \r\nhello\r\n00000000000a;x=\"y\"\t \r\n0123456789\r\n000 \r\nX-T : 1\r\n\r\n")
        }
      }
      try withProxy([origin]) { proxy in
        for _ in 0..<3 {
          let wire = try proxy.connect()
          try wire.send(requestText(fields: ["Connection: close, TE", "TE: trailers"]))
          #expect(try wire.readResponseHead().framing == .chunked)
          let body = String(decoding: try wire.readToEnd(), as: UTF8.self)
          // One zero may stay where the pieces of the stream fell between it and the digit.
          #expect(
            body.replacing("\r\n0a\r\n", with: "\r\na\r\n") == "5\r\nhello\r\na\r\n0123456789\r\n0\r\nX-T:1\r\n\r\n")
          let old = try proxy.connect()
          try old.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n")
          #expect(try old.readResponse().text == "hello0123456789")
        }
        #expect(try proxy.metric("skyproxy_streams_truncated_total") == 0)
      }
    }

    @Test func extensionsWithoutAnEndAreRefused() throws {
      let origin = try Origin { visit in _ = try visit.wire.readToEnd() }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        let chunk = "1;" + String(repeating: "a", count: 1000) + "\r\nx\r\n"
        for _ in 0..<30 where try wire.sendSome(Array(chunk.utf8), stall: 1) < chunk.utf8.count { break }
        // The replica has had some of it, so there is nothing to say but the end, or a word on it.
        let said = String(decoding: try wire.readToEnd(), as: UTF8.self)
        #expect(said.isEmpty || said.contains("chunk extensions too long in all"), "\(said)")
        #expect(eventually { try proxy.inFlight() == 0 })
      }
    }

    // MARK: Fields

    @Test func blanksBeforeAColonOfAResponseAreTakenOut() throws {
      let origin = try Origin { visit in
        while try visit.request() != nil {
          try visit.send("HTTP/1.1 200 OK\r\nX-A : 1\r\nSet-Cookie\t: a=b\r\nContent-Length : 2\r\n\r\nok")
        }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        for _ in 0..<3 {
          try wire.send(requestText())
          // The reader of the tests refuses blanks in names.
          let response = try wire.readResponse()
          #expect(response.text == "ok" && response.fields["x-a"] == "1" && response.fields["set-cookie"] == "a=b")
        }
        try wire.send("GET / HTTP/1.1\r\nHost: h\r\nX-A : 1\r\n\r\n")
        let refused = try wire.readResponse()
        #expect(refused.status == 400 && refused.text.contains("RFC 9112 5.1"), "\(refused.text)")
      }
    }

    @Test func aClientCannotSayThatItCameByHttps() throws {
      let origin = try Origin.named("a")
      try withProxy([origin]) { proxy in
        let claims = [
          "X-Forwarded-Proto: https", "x_forwarded_proto: https", "X-Forwarded-Ssl: on", "X-Forwarded-Protocol: ssl",
          "X-Forwarded-Port: 443", "Forwarded: proto=https;for=1.1.1.1", "X-Real-IP: 1.1.1.1", "X_Real_IP: 1.1.1.1",
          "X-Forwarded-For: 1.1.1.1", "X_Forwarded_For: 6.6.6.6", "X-Forwarded_For: 6.6.6.6",
        ]
        #expect(try proxy.ask(fields: claims + ["X_Api_Key: mine"]).status == 200)
        let fields = try #require(origin.lastRequest).fields
        let about = fields.all.filter { name, _ in
          let folded = name.lowercased().replacing("_", with: "-")
          return folded.hasPrefix("x-forwarded") || folded == "forwarded" || folded == "x-real-ip"
        }
        #expect(
          Dictionary(about.map { ($0.0.lowercased(), $0.1) }) { one, other in one + " and " + other }
            == [
              "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "example.com",
            ])
        #expect(fields["x_api_key"] == "mine", "other names with underscores are nobody's business")
      }
    }

    @Test func underscoresDoNotHideAnAddressFromATrustedProxy() throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--forwarded", "append") { proxy in
        let said = ["X-Forwarded-For: 1.1.1.1", "X_Forwarded_For: 6.6.6.6", "X-Forwarded-Proto: https"]
        #expect(try proxy.ask(fields: said).status == 200)
        let fields = try #require(origin.lastRequest).fields
        #expect(fields.values("x-forwarded-for") == ["1.1.1.1, 127.0.0.1"])
        #expect(!fields.has("x_forwarded_for"))
        #expect(fields.values("x-forwarded-proto") == ["https"], "the one in front ends TLS")
      }
    }

    @Test func ofSeveralRequestIdsTheLoggedOneGoesOn() throws {
      let folder = try TemporaryFolder()
      let path = folder.file("access.log")
      let origin = try Origin.named("a")
      try withProxy([origin], "--access-log", path) { proxy in
        let ids = ["X-Request-Id:", "X_Request_Id: twin", "X-Request-Id: one", "x-request-id: two"]
        #expect(try proxy.ask(fields: ids).status == 200)
        let fields = try #require(origin.lastRequest).fields
        #expect(fields.values("x-request-id") == ["one"] && !fields.has("x_request_id"))
        #expect(eventually { (try? Places.text(path))?.contains("\"id\":\"one\"") == true })
      }
    }
  }
}
