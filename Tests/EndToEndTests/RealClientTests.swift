// Clients and replicas that others wrote: curl, Python's http.client, python3 -m http.server.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite(.enabled(if: Places.hasCurl, "curl is not installed"))
  struct Curl {
    private func echo() throws -> Origin {
      try Origin.answering { responseText("\($0.method) \($0.target) \($0.body.count)", fields: ["X-Origin: yes"]) }
    }

    @Test func getOverOneConnection() throws {
      let origin = try echo()
      try withProxy([origin]) { proxy in
        let one = try curl(["-v", proxy.url + "/a", proxy.url + "/b?x=1", proxy.url + "/c"])
        #expect(one.exit == .code(0))
        #expect(one.output == "GET /a 0GET /b?x=1 0GET /c 0")
        #expect(one.errors.components(separatedBy: "Re-using existing connection").count == 3)
        #expect(origin.opened == 1, "the replica's connection is kept as well")
      }
    }

    @Test func post() throws {
      let origin = try echo()
      try withProxy([origin]) { proxy in
        let text = String(repeating: "token ", count: 50_000)
        let folder = try TemporaryFolder()
        let file = try folder.write(text, to: "body")
        let outcome = try curl(["--data-binary", "@" + file, proxy.url + "/v1/completions"])
        #expect(outcome.output == "POST /v1/completions \(text.utf8.count)")
        #expect(origin.lastRequest?.text == text)
      }
    }

    @Test func head() throws {
      let origin = try echo()
      try withProxy([origin]) { proxy in
        let outcome = try curl(["-I", "-m", "5", proxy.url + "/h", proxy.url + "/h2"])
        #expect(outcome.exit == .code(0))
        #expect(outcome.output.components(separatedBy: "HTTP/1.1 200 OK").count == 3)
        #expect(outcome.output.contains("X-Origin: yes"))
        #expect(origin.requests.map(\.method) == ["HEAD", "HEAD"])
      }
    }

    @Test(arguments: [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]])
    func putUpload(fields: [String]) throws {
      let origin = try echo()
      try withProxy([origin]) { proxy in
        let folder = try TemporaryFolder()
        let text = String(repeating: "0123456789abcdef", count: 200_000)
        let file = try folder.write(text, to: "upload")
        let outcome = try curl(fields + ["-v", "-T", file, proxy.url + "/up"])
        #expect(outcome.output == "PUT /up \(text.utf8.count)")
        #expect(origin.lastRequest?.text == text)
      }
    }

    @Test func expectContinueIsPassedOn() throws {
      let asked = Event()
      let origin = try Origin { visit in
        guard var request = try visit.head() else { return }
        #expect(request.fields["expect"]?.lowercased() == "100-continue")
        asked.happen()
        try visit.send("HTTP/1.1 100 Continue\r\n\r\n")
        try visit.wire.readBody(of: &request)
        try visit.send(responseText("got \(request.body.count)"))
        _ = try visit.request()
      }
      try withProxy([origin]) { proxy in
        let outcome = try curl(["-v", "-H", "Expect: 100-continue", "-d", "hello", proxy.url + "/"])
        #expect(outcome.output == "got 5")
        #expect(outcome.errors.contains("HTTP/1.1 100 Continue"))
        #expect(asked.hasHappened)
      }
    }

    @Test func http10() throws {
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in ["one ", "two ", "three"] { try visit.wire.sendChunk(word) }
        try visit.wire.sendLastChunk()
        _ = try visit.request()
      }
      try withProxy([origin]) { proxy in
        let outcome = try curl(["--http1.0", "-i", "-m", "5", proxy.url + "/"])
        #expect(outcome.exit == .code(0))
        #expect(!outcome.output.lowercased().contains("transfer-encoding"))
        #expect(outcome.output.hasSuffix("\r\n\r\none two three"))
      }
    }

    @Test func aCutBodyIsAnError() throws {
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
      }
      try withProxy([origin]) { proxy in
        let outcome = try curl([proxy.url + "/"])
        // 18: the transfer ended early; 56: the connection was reset.
        #expect(outcome.exit == .code(18) || outcome.exit == .code(56))
      }
    }
  }

  @Suite(.enabled(if: Places.hasPython, "python3 is not installed"))
  struct Python {
    @Test func keepsItsConnection() throws {
      let origin = try Origin.named("a")
      try withProxy([origin]) { proxy in
        let outcome = try python(
          """
          import http.client, sys
          c = http.client.HTTPConnection(sys.argv[1], timeout=10)
          for i in range(50):
              c.request("POST" if i % 2 else "GET", "/%d" % i, body=b"x" * i if i % 2 else None)
              sock = c.sock
              r = c.getresponse()
              body = r.read().decode()
              assert r.status == 200 and body.startswith("a "), (r.status, body)
              assert c.sock is sock and sock is not None, "the connection was not kept"
          print("done")
          """, ["\(proxy.address)"])
        #expect(outcome.output == "done\n", "\(outcome.errors)")
        #expect(origin.requests.map(\.target) == (0..<50).map { "/\($0)" })
        #expect(origin.opened == 1)
      }
    }

    @Test func uploadsChunks() throws {
      let origin = try Origin.answering { request in
        responseText("\(request.framing == .chunked) \(request.body.count) \(request.text.hasPrefix("piece 0 piece 1"))")
      }
      try withProxy([origin]) { proxy in
        let outcome = try python(
          """
          import http.client, sys
          c = http.client.HTTPConnection(sys.argv[1], timeout=10)
          def pieces():
              for i in range(2000):
                  yield b"piece %d " % i
          for i in range(3):
              c.request("POST", "/up", body=pieces(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
              r = c.getresponse()
              print(r.status, r.read().decode())
          """, ["\(proxy.address)"])
        let size = (0..<2000).reduce(0) { $0 + "piece \($1) ".utf8.count }
        #expect(outcome.output == String(repeating: "200 true \(size) true\n", count: 3), "\(outcome.errors)")
      }
    }

    @Test func twoFileServersShareTheWork() throws {
      let servers = try ["first", "second"].map { try FileServer(["name.txt": $0 + "\n"]) }
      defer { for server in servers { server.child.end() } }
      let proxy = try ProxyProcess(replicas: servers.map { "\($0.address)" })
      try check(proxy) {
        var counts = ["first\n": 0, "second\n": 0]
        for _ in 0..<20 {
          let response = try proxy.ask("GET", "/name.txt")
          #expect(response.status == 200)
          counts[response.text, default: 0] += 1
        }
        #expect(counts.count == 2, "only the two texts: \(counts)")
        #expect(counts.values.allSatisfy { $0 >= 5 }, "both are used: \(counts)")
        // Its log is read by another thread.
        #expect(eventually { servers.map { $0.count("/name.txt") }.reduce(0, +) == 20 })
        #expect(try proxy.ask("GET", "/missing").status == 404)
      }
    }
  }
}
