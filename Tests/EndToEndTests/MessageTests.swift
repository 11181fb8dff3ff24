// What goes through and what does not: framing that could be read in two ways is refused, fields are added, kept and
// stripped, answers come in order.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Smuggling {
    /// Each hides a second request where proxy and replica might differ about where the first one ends.
    static let gadgets: [(name: String, head: String, body: String)] = {
      let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
      let chunked = "0\r\n\r\n" + hidden
      return [
        ("length and chunked", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", chunked),
        ("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", chunked),
        ("two lengths", "Content-Length: 0\r\nContent-Length: \(hidden.utf8.count)\r\n", hidden),
        ("a list of lengths", "Content-Length: 0, \(hidden.utf8.count)\r\n", hidden),
        ("a signed length", "Content-Length: +0\r\n", hidden),
        ("a hexadecimal length", "Content-Length: 0x0\r\n", hidden),
        ("an empty length", "Content-Length: \r\n", hidden),
        ("a length beyond 64 bits", "Content-Length: 18446744073709551616\r\n", hidden),
        ("space before the colon", "Transfer-Encoding : chunked\r\n", chunked),
        ("a tab before the coding", "Transfer-Encoding:\u{0B}chunked\r\n", chunked),
        ("another coding", "Transfer-Encoding: xchunked\r\n", chunked),
        ("identity", "Transfer-Encoding: identity\r\nContent-Length: 0\r\n", hidden),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", chunked),
        ("two codings fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked),
        ("chunked not last", "Transfer-Encoding: chunked, gzip\r\n", chunked),
        ("a folded coding", "Transfer-Encoding:\r\n chunked\r\n", chunked),
        ("a bare LF before the coding", "X: y\nTransfer-Encoding: chunked\r\n", chunked),
        ("a bare CR before the coding", "X: y\rTransfer-Encoding: chunked\r\n", chunked),
        ("NUL in the coding", "Transfer-Encoding: chunked\0\r\n", chunked),
        ("a quoted coding", "Transfer-Encoding: \"chunked\"\r\n", chunked),
        ("a chunk size with 0x", "Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n" + hidden),
        ("a negative chunk size", "Transfer-Encoding: chunked\r\n", "-0\r\n\r\n" + hidden),
        ("an endless chunk size", "Transfer-Encoding: chunked\r\n", "10000000000000000\r\n\r\n" + hidden),
        ("chunk data that goes on", "Transfer-Encoding: chunked\r\n", "3\r\nabcX\r\n0\r\n\r\n" + hidden),
        ("a bare LF after a chunk", "Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n" + hidden),
        ("no host", "", ""),
        ("two hosts", "Host: b\r\n", ""),
      ]
    }()

    @Test(arguments: gadgets.indices)
    func aSecondRequestIsNotHidden(index: Int) throws {
      let gadget = Self.gadgets[index]
      let origin = try Origin { visit in
        // The proxy may break off a request whose body turns out wrong.
        while let request = try? visit.request() { try visit.send(responseText("saw \(request.target)")) }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        let host = gadget.name == "no host" ? "" : "Host: a\r\n"
        try wire.send("POST /open HTTP/1.1\r\n\(host)\(gadget.head)\r\n\(gadget.body)")
        let response = try wire.readResponse()
        #expect([400, 501].contains(response.status), "\(gadget.name): \(response.status) \(response.text)")
        #expect(wire.awaitEnd() != nil, "\(gadget.name): what follows means nothing any more")
        #expect(!origin.requests.contains { $0.target == "/hidden" }, "\(gadget.name)")
        // The next client gets its own answer.
        #expect(try proxy.ask("GET", "/next").text == "saw /next")
      }
    }

    /// What a response's framing leaves over is no answer to the next request.
    @Test func aResponseThatGoesOnIsNotTheNextAnswer() throws {
      let origin = try Origin { visit in
        while let request = try visit.request() {
          let extra = request.target == "/first" ? responseText("poison") : ""
          try visit.send(responseText("right \(request.target)") + extra)
        }
      }
      try withProxy([origin]) { proxy throws in
        let first = try proxy.connect()
        try first.send(requestText("GET", "/first"))
        #expect(try first.readResponse().text == "right /first")
        for _ in 0..<5 { #expect(try proxy.ask("GET", "/second").text == "right /second") }
      }
    }

    /// A response that nobody asked for, on a kept connection.
    @Test func anUnaskedResponseIsNotTheNextAnswer() throws {
      let origin = try Origin { visit in
        while let request = try visit.request() {
          try visit.send(responseText("right \(request.target)"))
          if visit.number == 0 {
            _ = visit.wire.isSilent(for: 0.05)
            try? visit.send(responseText("poison"))
          }
        }
      }
      try withProxy([origin]) { proxy throws in
        #expect(try proxy.ask("GET", "/first").text == "right /first")
        #expect(eventually { try proxy.metric("skyproxy_upstreams_open") == 0 }, "such a connection is not kept")
        for _ in 0..<5 { #expect(try proxy.ask("GET", "/second").text == "right /second") }
      }
    }
  }

  @Suite struct Messages {
    @Test func pipelinedRequestsAreAnsweredInOrder() throws {
      let origins = try (0..<2).map { _ in
        try Origin.answering { request in
          if request.target == "/0" { usleep(150_000) }
          return responseText("answer \(request.target) \(request.text)")
        }
      }
      try withProxy(origins) { proxy in
        let wire = try proxy.connect()
        let requests = (0..<8).map {
          $0 % 2 == 0 ? requestText("GET", "/\($0)") : requestText("PUT", "/\($0)", body: "b\($0)")
        }
        try wire.send(requests.joined())
        for index in 0..<8 {
          let response = try wire.readResponse()
          #expect(response.text == "answer /\(index) \(index % 2 == 0 ? "" : "b\(index)")")
        }
      }
    }

    @Test func headsByteByByte() throws {
      try withProxy([try Origin.named("a")]) { proxy in
        let wire = try proxy.connect()
        for _ in 0..<2 {
          for byte in requestText("POST", "/slow", fields: ["X-A: b"], body: "hi").utf8 { try wire.send([byte]) }
          #expect(try wire.readResponse().text == "a POST /slow hi")
        }
      }
    }

    @Test func http10ClientsGetAnEnd() throws {
      let origin = try Origin.named("a")
      try withProxy([origin]) { proxy in
        let plain = try proxy.connect()
        try plain.send("GET /old HTTP/1.0\r\n\r\n")
        let response = try plain.readResponse()
        #expect(response.status == 200 && response.text == "a GET /old ")
        #expect(plain.awaitEnd() == .closed)
        #expect(origin.lastRequest?.version == "HTTP/1.1")
        #expect(origin.lastRequest?.fields.values("host").count == 1)
        let kept = try proxy.connect()
        for _ in 0..<2 {
          try kept.send("GET /kept HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
          let response = try kept.readResponse()
          #expect(response.text == "a GET /kept ")
          #expect(response.fields["connection"]?.lowercased() == "keep-alive")
        }
      }
    }

    @Test func connectionCloseIsHonoured() throws {
      try withProxy([try Origin.named("a")]) { proxy in
        let wire = try proxy.connect()
        try wire.send(requestText("GET", "/", fields: ["Connection: close"]))
        let response = try wire.readResponse()
        #expect(response.fields["connection"] == "close")
        #expect(wire.awaitEnd() == .closed)
      }
    }

    @Test func bodilessStatusesKeepTheConnection() throws {
      let origin = try Origin.answering { request in
        switch request.target {
        case "/204": "HTTP/1.1 204 No Content\r\n\r\n"
        case "/304": "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 100\r\n\r\n"
        default: responseText("body")
        }
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        for target in ["/204", "/304", "/200", "/304"] {
          try wire.send(requestText("GET", target))
          let response = try wire.readResponse()
          #expect("/\(response.status)" == target)
        }
        #expect(wire.isSilent(for: 0.05))
      }
    }

    @Test func forwardedFields() throws {
      let origin = try Origin.named("a")
      try withProxy([origin]) { proxy in
        _ = try proxy.ask("GET", "/")
        let fields = try #require(origin.lastRequest).fields
        #expect(fields["x-forwarded-for"] == "127.0.0.1")
        #expect(fields["x-forwarded-proto"] == "http")
        #expect(fields["x-forwarded-host"] == "example.com")
        #expect(fields["host"] == "example.com")
        #expect(fields["via"] == "1.1 sky-proxy")
      }
    }

    @Test func forwardedFieldsBehindAnotherProxy() throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--forwarded", "append") { proxy in
        _ = try proxy.ask("GET", "/", fields: ["X-Forwarded-For: 10.1.2.3", "Via: 1.0 other"])
        let fields = try #require(origin.lastRequest).fields
        #expect(fields.values("x-forwarded-for").joined(separator: ", ") == "10.1.2.3, 127.0.0.1")
        #expect(fields.values("via").joined(separator: ", ") == "1.0 other, 1.1 sky-proxy")
      }
    }

    @Test(arguments: ["replace", "off"])
    func forwardedFieldsOtherwise(mode: String) throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--forwarded", mode, "--via", "off", "--request-id", "off") { proxy in
        _ = try proxy.ask("GET", "/", fields: ["X-Forwarded-For: 10.1.2.3", "X-Forwarded-Proto: gopher"])
        let fields = try #require(origin.lastRequest).fields
        #expect(fields.values("x-forwarded-for") == [mode == "off" ? "10.1.2.3" : "127.0.0.1"])
        #expect(fields.values("x-forwarded-proto") == [mode == "off" ? "gopher" : "http"])
        #expect(!fields.has("via") && !fields.has("x-request-id"))
      }
    }

    @Test func requestIds() throws {
      let origin = try Origin.named("a")
      try withProxy([origin]) { proxy in
        let kept = try proxy.ask("GET", "/", fields: ["X-Request-Id: my-own-id"])
        #expect(origin.lastRequest?.fields.values("x-request-id") == ["my-own-id"])
        #expect(kept.fields.values("x-request-id").allSatisfy { $0 == "my-own-id" })
        var seen: Set<String> = []
        for _ in 0..<20 {
          _ = try proxy.ask()
          let id = try #require(origin.lastRequest?.fields["x-request-id"])
          #expect(id.count >= 16)
          seen.insert(id)
        }
        #expect(seen.count == 20)
      }
    }

    @Test func hopByHopFieldsStopHere() throws {
      let origin = try Origin.answering { _ in
        responseText(
          "ok", fields: ["Connection: x-private", "X-Private: secret", "Keep-Alive: timeout=9", "X-Public: yes"])
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        try wire.send(
          requestText(
            "GET", "/",
            fields: [
              "Connection: keep-alive, X-Drop", "X-Drop: me", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive",
              "TE: gzip", "X-Keep: one", "x-keep: two", "Authorization: Bearer t", "Cookie: a=b",
            ]))
        let response = try wire.readResponse()
        let fields = try #require(origin.lastRequest).fields
        for name in ["x-drop", "keep-alive", "proxy-connection", "te", "connection"] {
          #expect(!fields.has(name), "\(name): \(fields.values(name))")
        }
        #expect(fields.values("x-keep") == ["one", "two"], "order and duplicates are kept")
        #expect(fields["authorization"] == "Bearer t" && fields["cookie"] == "a=b")
        #expect(!response.fields.has("x-private") && !response.fields.has("keep-alive"))
        #expect(response.fields["x-public"] == "yes")
      }
    }

    @Test func fieldsKeepTheirSpellingAndBytes() throws {
      let origin = try Origin.answering { _ in
        responseText("ok", fields: ["X-MiXeD: ü  two  spaces", "Set-Cookie: a", "Set-Cookie: b"])
      }
      try withProxy([origin]) { proxy in
        let response = try proxy.ask("GET", "/a%2Fb/../c?q=%20&r=[1]", fields: ["X-CaSe: VaLuE; \u{FC}"])
        let request = try #require(origin.lastRequest)
        #expect(request.target == "/a%2Fb/../c?q=%20&r=[1]")
        #expect(request.rawHead.contains("X-CaSe: VaLuE; "))
        #expect(response.fields.all.contains { $0.name == "X-MiXeD" })
        #expect(response.fields.values("set-cookie") == ["a", "b"])
      }
    }

    @Test(arguments: ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
    func methods(method: String) throws {
      try withProxy([try Origin.named("a")]) { proxy in
        let response = try proxy.ask(method, "/m", body: method == "GET" ? nil : "x")
        #expect(response.text == "a \(method) /m \(method == "GET" ? "" : "x")")
      }
    }

    @Test func whatIsNotAProxysBusiness() throws {
      try withProxy([try Origin.named("a")]) { proxy in
        let connect = try proxy.connect()
        try connect.send("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        #expect(try connect.readResponse().status == 501)
        let options = try proxy.connect()
        try options.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        #expect(try options.readResponse().text == "a OPTIONS * ")
        let absolute = try proxy.connect()
        try absolute.send("GET http://example.com/abs HTTP/1.1\r\nHost: example.com\r\n\r\n")
        #expect(try absolute.readResponse().status == 200)
        let version = try proxy.connect()
        try version.send("GET / HTTP/2.0\r\nHost: a\r\n\r\n")
        #expect(try version.readResponse().status == 505)
        let tls = try proxy.connect()
        try tls.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03, 0x0D, 0x0A, 0x0D, 0x0A])
        #expect(try tls.readResponse().status == 400)
      }
    }
  }
}
