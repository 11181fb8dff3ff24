// TLS as clients meet it: curl, openssl and Python's ssl against the running program, over the ways a stream can go and
// end.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite(.enabled(if: Places.hasPython && Places.hasCurl && Places.tool("openssl") != nil))
  struct Tls {
    private func start(
      _ origins: [Origin], _ certificate: TestCertificate, _ flags: String..., workers: Int = 1
    ) throws -> ProxyProcess {
      try ProxyProcess(origins, flags: certificate.flags + flags, workers: workers)
    }

    /// Runs a client's script and gives what it printed, line by line.
    private func lines(
      _ script: String, _ proxy: ProxyProcess, _ arguments: [String] = [], location: SourceLocation = #_sourceLocation
    ) throws -> [String] {
      let outcome = try TlsPython.run("port = int(sys.argv[1])\n" + script, proxy.address.port, arguments)
      #expect(outcome.exit == .code(0), "\(outcome.errors)", sourceLocation: location)
      return outcome.output.split(separator: "\n").map(String.init)
    }

    private func client(_ script: String, _ proxy: ProxyProcess, _ arguments: [String] = []) throws -> ChildProcess {
      try TlsPython.start("port = int(sys.argv[1])\n" + script, proxy.address.port, arguments)
    }

    // MARK: Who is served

    @Test func curlIsServed() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let certificate = try TestCertificate(kind: .rsa2048)
      let proxy = try start([origin], certificate, workers: 2)
      try check(proxy) {
        let url = "https://\(proxy.address)"
        #expect(try curl(["-k", url + "/"]).output == "a GET / ")
        let trusted = try curl(["--cacert", certificate.cert, "-d", "body", url + "/p"])
        #expect(trusted.output == "a POST /p body")
        #expect(try curl([url]).exit == .code(60), "nobody vouches for this certificate")

        #expect(try curl(["-k", "-0", url + "/old"]).output == "a GET /old ", "which offers http/1.0 alone")

        let twice = try curl([
          "-k", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} ", url + "/1", url + "/2",
        ])
        #expect(twice.output == "1 0 ", "the connection is kept")
        let request = try #require(origin.lastRequest)
        #expect(request.fields["x-forwarded-proto"] == "https")
        #expect(request.fields["x-forwarded-for"] == "127.0.0.1")
      }
    }

    @Test func whatIsNoTlsIsClosedWithoutAWord() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        for method in ["GET", "OPTIONS", "DELETE"] {
          #expect(try curl(["-X", method, "http://\(proxy.address)/"]).exit == .code(52), "\(method): empty reply")
        }
        let wire = try proxy.connect()
        try wire.send(String(repeating: "x", count: 100_000))
        #expect(try wire.readToEnd() == [])
        #expect(wire.end == .closed)
        let hello = try proxy.connect()
        try hello.send([22, 3, 1, 0, 5, 1, 2, 3, 4, 5])
        #expect(hello.awaitEnd() == .closed, "a record of no sense")
        // Counted when the end is on its way, which its client may see first.
        #expect(eventually { try proxy.metric("skyproxy_tls_not_tls_total") == 4 })
        #expect(eventually { try proxy.metric("skyproxy_tls_refused_total") == 1 })
        #expect(origin.requests.isEmpty)
        #expect(try curl(["-k", "https://\(proxy.address)/"]).output == "a GET / ")
      }
    }

    @Test func versionsAndProtocols() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        let said = try lines(
          """
          def attempt(name, change):
              context = any_context()
              change(context)
              try:
                  c = Tls(port, context)
                  status, body = c.ask("/" + name)
                  say(name, c.tls.version(), c.tls.selected_alpn_protocol(), status)
              except (ssl.SSLError, EOFError) as e: say(name, "refused")
          def version(v):
              def change(c): c.minimum_version = c.maximum_version = v
              return change
          def old(c):
              c.set_ciphers("DEFAULT:@SECLEVEL=0")
              version(ssl.TLSVersion.TLSv1_1)(c)
          attempt("1.3", version(ssl.TLSVersion.TLSv1_3))
          attempt("1.2", version(ssl.TLSVersion.TLSv1_2))
          attempt("1.1", old)
          attempt("alpn", lambda c: c.set_alpn_protocols(["h2", "http/1.1"]))
          attempt("h2", lambda c: c.set_alpn_protocols(["h2"]))
          def weak(c):
              c.maximum_version = ssl.TLSVersion.TLSv1_2
              c.set_ciphers("AES128-SHA:AES256-GCM-SHA384:@SECLEVEL=0")
          attempt("weak", weak)
          """, proxy)
        #expect(
          said == [
            "1.3 TLSv1.3 None 200", "1.2 TLSv1.2 None 200", "1.1 refused", "alpn TLSv1.3 http/1.1 200", "h2 refused",
            "weak refused",
          ])
      }
    }

    @Test func aTicketShortensTheNextHandshake() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        let said = try lines(
          """
          for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
              context = any_context()
              context.minimum_version = context.maximum_version = version
              first = Tls(port, context)
              first.ask()
              second = Tls(port, context, session=first.tls.session)
              say(second.ask()[0], second.tls.session_reused)
          """, proxy)
        #expect(said == ["200 True", "200 True"])
        #expect(try proxy.metric("skyproxy_tls_resumed_total") == 2)
        #expect(try proxy.metric("skyproxy_tls_handshakes_total") == 4)
      }
    }

    // MARK: What passes

    @Test func everyEventAsItComes() throws {
      let next = Shared(0)
      let origin = try Origin { visit in
        _ = try visit.request()
        try visit.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for index in 0..<20 {
          let isNext = eventually { next.value >= index }
          guard isNext else { throw TestFailure("the client has not had \(index - 1)") }
          try visit.wire.sendChunk("data: \(index)\n\n")
        }
        try visit.wire.sendLastChunk()
        _ = try visit.request()
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        let reader = try client(
          """
          c = Tls(port)
          c.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
          c.until(b"\\r\\n\\r\\n")
          for index in range(20):
              c.until(f"data: {index}\\n\\n\\r\\n".encode())
              say("event", index)
          c.until(b"0\\r\\n\\r\\n")
          say("done")
          """, proxy)
        for index in 0..<20 {
          _ = try reader.line(onOutput: true) { $0 == "event \(index)" }
          next.with { $0 = index + 1 }
        }
        _ = try reader.line(onOutput: true) { $0 == "done" }
        #expect(reader.waitForExit() == .code(0), "\(reader.standardError)")
      }
      #expect(origin.problems == [])
    }

    @Test func tenMegabytesEachWay() throws {
      let block = (0..<65_536).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 7) }
      let origin = try Origin { visit in
        guard let request = try visit.request() else { return }
        // What came is right, or the answer is not.
        let isRight =
          request.body.count == 160 * block.count && request.body.suffix(block.count) == block[...]
          && request.body.prefix(block.count) == block[...]
        try visit.send("HTTP/1.1 200 OK\r\nContent-Length: \(160 * block.count)\r\n\r\n")
        for _ in 0..<160 { try visit.wire.send(isRight ? block : [UInt8](repeating: 0, count: block.count)) }
        _ = try visit.request()
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        let said = try lines(
          """
          block = bytes((i * 31 + (i >> 7)) & 255 for i in range(65536))
          c = Tls(port)
          status, body = c.ask("/", "POST", block * 160)
          say(status, len(body), body == block * 160, hashlib.sha256(body).hexdigest() == hashlib.sha256(block * 160).hexdigest())
          """, proxy)
        #expect(said == ["200 \(160 * block.count) True True"])
      }
      #expect(origin.problems == [])
    }

    /// Both ways at once, a record at a time and byte by byte, and a client that ends its side first.
    @Test func aWebSocketPassesThrough() throws {
      let origin = try Origin { visit in
        _ = try visit.head()
        try visit.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        while try visit.wire.receive() { try visit.wire.send(visit.wire.take(visit.wire.pending.count)) }
        #expect(visit.wire.end == .closed)
        try visit.send("bye")
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        let said = try lines(
          """
          c = Tls(port)
          c.send(b"GET /ws HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
          say(c.until(b"\\r\\n\\r\\n").split()[1].decode(), c.read(5).decode())
          big = os.urandom(100000)
          c.send(big)
          say(c.read(100000) == big)
          for byte in b"slowly": c.send(bytes([byte]))
          say(c.read(6).decode())
          c.close_notify()
          c.fin()
          say(c.to_end().decode(), c.end)
          """, proxy)
        #expect(said == ["101 hello", "True", "slowly", "bye clean"])
      }
      #expect(origin.problems == [])
    }

    @Test func theStreamEndsAsTheProxyEndsIt() throws {
      let origin = try Origin { visit in
        guard let request = try visit.request() else { return }
        switch request.target {
        case "/whole-length": try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        case "/whole-until-close": try visit.send("HTTP/1.1 200 OK\r\n\r\nhello")
        case "/cut-length": try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")
        case "/cut-chunked": try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        default:  // a body that ends with the connection, broken off
          try visit.send("HTTP/1.1 200 OK\r\n\r\nhello")
          _ = visit.wire.isSilent(for: 0.1)
          visit.wire.reset()
        }
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        let said = try lines(
          """
          for target in sys.argv[2:]:
              c = Tls(port)
              close = "Connection: close\\r\\n" if "whole" in target else ""
              c.send(f"GET {target} HTTP/1.1\\r\\nHost: a\\r\\n{close}\\r\\n".encode())
              said = c.to_end()
              say(target, b"hello" in said, c.end)
          """, proxy,
          ["/whole-length", "/whole-until-close", "/cut-length", "/cut-chunked", "/cut-until-close"])
        #expect(
          said.prefix(4) == [
            "/whole-length True clean", "/whole-until-close True clean", "/cut-length True ragged",
            "/cut-chunked True ragged",
          ])
        #expect(said.last?.hasSuffix("reset") == true, "\(said)")
        #expect(try proxy.metric("skyproxy_streams_truncated_total") == 3)
        let cut = try curl(["-k", "https://\(proxy.address)/cut-chunked"])
        #expect(cut.output == "hello" && cut.exit != .code(0))
      }
    }

    // MARK: Clients that leave, or do not move

    enum Leaving: String, CaseIterable {
      case closeNotify = "c.close_notify(); c.fin(); c.close()"
      case fin = "c.fin(); c.close()"
      case reset = "c.reset()"
    }

    @Test(arguments: Leaving.allCases, ["/silent", "/streaming"])
    func aClientThatLeavesFreesItsReplica(way: Leaving, target: String) throws {
      let released = Shared<Double?>(nil)
      let origin = try Origin { visit in
        guard let request = try visit.request() else { return }
        if request.target == "/streaming" {
          try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        }
        if visit.wire.awaitEnd() != nil { released.with { $0 = monotonic() } }
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate())
      try check(proxy) {
        let leaver = try client(
          """
          c = Tls(port)
          c.send(f"POST {sys.argv[2]} HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}".encode())
          if sys.argv[2] == "/streaming": c.until(b"hello")
          else: time.sleep(0.5)
          say("leaving")
          \(way.rawValue)
          time.sleep(20)
          """, proxy, [target])
        defer { leaver.end() }
        _ = try leaver.line(onOutput: true) { $0 == "leaving" }
        let left = monotonic()
        #expect(eventually { released.value != nil }, "the replica's connection was not closed")
        if let at = released.value { #expect(at - left < 5, "closed after \(at - left) s") }
        #expect(eventually(5) { try proxy.metric("skyproxy_client_aborts_total") == 1 })
        #expect(eventually { try proxy.metric("skyproxy_tls_connections_open") == 0 })
      }
    }

    /// A reset within the half-close grace is no half-close, though a socket pair would show it as one.
    @Test func aResetRightAfterTheRequestIsNoHalfClose() throws {
      let released = Event()
      let origin = try Origin { visit in
        _ = try visit.request()
        if visit.wire.awaitEnd() != nil { released.happen() }
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate(), "--half-close-grace", "10s")
      try check(proxy) {
        let said = try lines(
          """
          c = Tls(port)
          c.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
          time.sleep(1.0)
          c.reset()
          say("left")
          """, proxy)
        #expect(said == ["left"])
        #expect(released.wait(), "the replica works on for nobody")
      }
    }

    /// One that says it has said all and waits is answered.
    @Test func aHalfClosingClientIsAnswered() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      // However late the proxy sees the end.
      let proxy = try start([origin], try TestCertificate(), "--half-close-grace", "10s")
      try check(proxy) {
        let said = try lines(
          """
          c = Tls(port)
          c.tls.write(b"GET /half HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
          c.close_notify()
          c.fin()
          answer = c.to_end()
          say(answer.split(b"\\r\\n\\r\\n")[1].decode().strip(), c.end)
          """, proxy)
        #expect(said == ["a GET /half clean"])
      }
    }

    @Test func aStoppedReaderHoldsLittleAndIsGivenUp() throws {
      let sent = Shared(0)
      let block = [UInt8](repeating: 0x61, count: 65_536)
      let origin = try Origin { visit in
        while let request = try visit.request() {
          if request.target == "/small" {
            try visit.send(responseText("small"))
            continue
          }
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: \(4096 * block.count)\r\n\r\n")
          for _ in 0..<4096 {
            guard let count = try? visit.wire.sendSome(block, stall: 5), count == block.count else { return }
            sent.with { $0 += count }
          }
        }
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate(), "--stream-timeout", "2s")
      try check(proxy) {
        let reader = try client(
          """
          c = Tls(port, receive_buffer=65536)
          c.send(b"GET /huge HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
          c.until(b"\\r\\n\\r\\n")
          say("reading no more")
          time.sleep(60)
          """, proxy)
        defer { reader.end() }
        _ = try reader.line(onOutput: true) { $0 == "reading no more" }
        #expect(eventually { sent.value > 1 << 20 })
        let small = try curl(["-k", "https://\(proxy.address)/small"])
        #expect(small.output == "small", "others are served meanwhile")
        #expect(eventually(30) { try proxy.metric("skyproxy_client_stalls_total") == 1 })
        #expect(sent.value < 16 << 20, "\(sent.value) bytes were taken for a client that does not read")
        #expect(eventually { try proxy.metric("skyproxy_tls_connections_open") == 0 })
      }
    }

    @Test func slowHandshakesAreBounded() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate(), "--head-timeout", "5s", "--max-connections", "20")
      try check(proxy) {
        let wires = try (0..<20).map { index in
          let wire = try proxy.connect()
          // Half of them say nothing, half the beginning of a hello.
          if index % 2 == 0 { try wire.send([22, 3, 1, 2, 0, 1, 0]) }
          return wire
        }
        #expect(eventually { try proxy.metric("skyproxy_tls_connections_open") == 20 })
        let further = try proxy.connect()
        #expect(further.awaitEnd() != nil, "one too many")
        #expect(try proxy.metric("skyproxy_connections_shed_total") >= 1)
        for wire in wires { #expect(wire.awaitEnd() != nil, "the handshake's deadline") }
        #expect(try proxy.metric("skyproxy_tls_timeouts_total") == 20)
        #expect(eventually { try proxy.metric("skyproxy_tls_connections_open") == 0 })
        #expect(try curl(["-k", "https://\(proxy.address)/"]).output == "a GET / ")
      }
    }

    /// Many at once, in every phase, leaving in every way.
    @Test func aStormLeavesNothingBehind() throws {
      let origin = try Origin { visit in
        while let request = try? visit.request() {
          guard request.target == "/ask" else { break }
          try visit.send(responseText("ok"))
        }
        _ = try? visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        _ = visit.wire.awaitEnd(10)
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate(), "--max-in-flight", "16", workers: 2)
      try check(proxy) {
        let seed = UInt32.random(in: 0...UInt32.max)
        let said = try lines(
          """
          import random
          random.seed(int(sys.argv[2]))
          for round in range(3):
              clients = []
              for index in range(80):
                  c = Tls(port, shake=False)
                  phase = random.randrange(6)
                  try:
                      if phase > 0:
                          try: c.tls.do_handshake()
                          except ssl.SSLWantReadError: pass
                          hello = c.outgoing.read()
                          if phase == 1: hello = hello[:random.randrange(1, len(hello))]
                          c.raw.sendall(hello)
                      if phase > 1: c.call(c.tls.do_handshake)
                      if phase == 3: c.send(b"GET / HT")
                      if phase == 4: c.send(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 10\\r\\n\\r\\n123")
                      if phase == 5: c.send(b"GET /stream HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
                  except (EOFError, OSError) as e: say("phase", phase, repr(e))
                  clients.append((phase, c))
              # A request and an end that are seen together are a half-close.
              time.sleep(0.5)
              random.shuffle(clients)
              for phase, c in clients:
                  way = random.randrange(3)
                  if way == 0 and phase > 1: c.close_notify()
                  if way == 2: c.reset()
                  else: c.close()
          c = Tls(port)
          say(c.ask("/ask"))
          """, proxy, ["\(seed)"])
        #expect(said == ["(200, b'ok')"], "seed \(seed)")
        #expect(eventually { try proxy.metric("skyproxy_tls_connections_open") == 0 }, "seed \(seed)")
        #expect(eventually { try proxy.metric("skyproxy_connections_open") == 0 }, "seed \(seed)")
        #expect(eventually { descriptors(of: proxy) < 60 }, "\(descriptors(of: proxy)) descriptors, seed \(seed)")
      }
    }

    private func descriptors(of proxy: ProxyProcess) -> Int {
      ((try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(proxy.child.pid)/fd")) ?? []).count
    }

    // MARK: In place

    @Test func theCertificateIsSwitchedUnderLoad() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let certificates = [try TestCertificate("one"), try TestCertificate("two", kind: .rsa2048)]
      let proxy = try start([origin], certificates[0], workers: 2)
      try check(proxy) {
        let load = try client(
          """
          failures, counts, names, stop = [], [0], set(), threading.Event()
          def fresh():
              while not stop.is_set():
                  try:
                      c = Tls(port)
                      names.add(hashlib.sha256(c.tls.getpeercert(True)).hexdigest())
                      if c.ask("/fresh")[0] != 200: failures.append("status")
                      c.close()
                      counts[0] += 1
                  except Exception as e: failures.append(repr(e))
          def kept():
              c = Tls(port)
              while not stop.is_set():
                  try:
                      if c.ask("/kept", "POST", b"x" * 1000)[0] != 200: failures.append("status")
                      counts[0] += 1
                  except Exception as e:
                      failures.append("kept: " + repr(e))
                      return
          threads = [threading.Thread(target=t) for t in (fresh, fresh, kept, kept)]
          for t in threads: t.start()
          say("running")
          while not os.path.exists(sys.argv[2]): time.sleep(0.01)
          stop.set()
          for t in threads: t.join()
          say(json.dumps({"failures": failures[:5], "count": counts[0], "names": len(names)}))
          """, proxy, [certificates[0].file("stop")])
        defer { load.end() }
        _ = try load.line(onOutput: true) { $0 == "running" }
        for round in 1...20 {
          let response = try proxy.askAdmin("PUT", "/v1/settings", body: certificates[round % 2].settings)
          #expect(response.status == 200, "\(response.text)")
          let before = try proxy.metric("skyproxy_tls_handshakes_total")
          #expect(eventually { try proxy.metric("skyproxy_tls_handshakes_total") >= before + 2 })
        }
        _ = try certificates[0].write("", to: "stop")
        let last = try load.line(onOutput: true) { $0.hasPrefix("{") }
        let result = try #require(try JSONSerialization.jsonObject(with: Data(last.utf8)) as? [String: Any])
        #expect(result["failures"] as? [String] == [])
        #expect(result["names"] as? Int == 2, "both certificates were seen: \(last)")
        #expect(load.waitForExit() == .code(0))
      }
    }

    @Test func tlsIsSwitchedOnAndOffInPlace() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let certificate = try TestCertificate()
      let proxy = try ProxyProcess([origin], workers: 2)
      try check(proxy) {
        #expect(threads(of: proxy).filter { $0.hasPrefix("sky-tls") } == [], "no certificate, no threads")
        let plain = try proxy.connect()
        for round in 0..<5 {
          try plain.send(requestText("GET", "/plain"))
          #expect(try plain.readResponse().text.hasPrefix("a"), "what was open goes on as it began, round \(round)")
          #expect(try proxy.ask().status == 200)

          #expect(try proxy.askAdmin("PUT", "/v1/settings", body: certificate.settings).status == 200)
          // A thread gives itself its name.
          #expect(
            eventually {
              threads(of: proxy).filter { $0.hasPrefix("sky-tls") }.sorted() == ["sky-tls-0", "sky-tls-1"]
            })
          #expect(try curl(["http://\(proxy.address)/"]).exit == .code(52))
          try plain.send(requestText("GET", "/plain"))
          #expect(try plain.readResponse().text.hasPrefix("a"))
          let kept = try client(
            """
            c = Tls(port)
            say(c.ask()[0])
            while not os.path.exists(sys.argv[2]): time.sleep(0.01)
            say("after", c.ask()[0])
            """, proxy, [certificate.file("go\(round)")])
          defer { kept.end() }
          _ = try kept.line(onOutput: true) { $0 == "200" }

          #expect(try proxy.askAdmin("PUT", "/v1/settings", body: #"{"tls": null}"#).status == 200)
          #expect(try proxy.ask().status == 200)
          _ = try certificate.write("", to: "go\(round)")
          _ = try kept.line(onOutput: true) { $0 == "after 200" }
        }
        let settings = try proxy.askAdmin("GET", "/v1/settings")
        #expect(settings.json?["tls"] is NSNull)
      }
    }

    private func threads(of proxy: ProxyProcess) -> [String] {
      let folder = "/proc/\(proxy.child.pid)/task"
      let ids = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
      return ids.compactMap { try? String(contentsOfFile: "\(folder)/\($0)/comm", encoding: .utf8) }
        .map { $0.trimmingCharacters(in: .newlines) }
    }

    @Test func theHangupSignalReadsTheFilesAgain() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let (used, next) = (try TestCertificate("before"), try TestCertificate("after"))
      let proxy = try start([origin], used)
      try check(proxy) {
        func served() throws -> String {
          let outcome = try run(
            "sh", ["-c", "openssl s_client -connect \(proxy.address) </dev/null 2>/dev/null | grep subject"])
          return outcome.output.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        #expect(try served().hasSuffix("before"))
        for (from, to) in [(next.cert, used.cert), (next.key, used.key)] {
          try Data(contentsOf: URL(fileURLWithPath: from)).write(to: URL(fileURLWithPath: to))
        }
        proxy.child.signal(SIGHUP)
        #expect(eventually { try served().hasSuffix("after") })
        _ = try used.write("no key at all", to: "key.pem")
        proxy.child.signal(SIGHUP)
        let line = try proxy.child.line { $0.contains("not taken") }
        #expect(line.contains(used.key) && line.contains("the one before stays"))
        #expect(try served().hasSuffix("after"))
      }
    }

    // MARK: Files that cannot be used

    struct BadFiles: Sendable, CustomTestStringConvertible {
      let name: String
      let says: String
      let field: String
      var testDescription: String { name }
    }

    static let badFiles = [
      BadFiles(name: "no such certificate", says: "No such file or directory", field: "cert"),
      BadFiles(name: "no such key", says: "No such file or directory", field: "key"),
      BadFiles(name: "a folder", says: "it is not a regular file", field: "cert"),
      BadFiles(name: "no certificate in it", says: "there is no usable certificate in PEM form in it", field: "cert"),
      BadFiles(name: "no key in it", says: "there is no usable private key in PEM form in it", field: "key"),
      BadFiles(name: "another's key", says: "it does not belong to the certificate", field: "key"),
      BadFiles(name: "a key of another kind", says: "it does not belong to the certificate", field: "key"),
      BadFiles(name: "a passphrase", says: "it wants a passphrase", field: "key"),
    ]

    @Test(arguments: badFiles)
    func badFilesAreNamedAndChangeNothing(_ bad: BadFiles) throws {
      let certificate = try TestCertificate()
      var (cert, key) = (certificate.cert, certificate.key)
      var other: TestCertificate?
      switch bad.name {
      case "no such certificate": cert = "/nowhere/cert.pem"
      case "no such key": key = "/nowhere/key.pem"
      case "a folder": cert = "/tmp"
      case "no certificate in it": cert = key
      case "no key in it": key = cert
      case "another's key":
        other = try TestCertificate()
        key = other!.key
      case "a key of another kind":
        other = try TestCertificate(kind: .rsa2048)
        key = other!.key
      default:
        key = certificate.file("locked.pem")
        let made = try run(
          "openssl", ["pkey", "-in", certificate.key, "-aes128", "-passout", "pass:sesame", "-out", key])
        #expect(made.exit == .code(0), "\(made.errors)")
      }
      let path = bad.field == "cert" ? cert : key
      let atStart = try run(
        try Places.program("sky-proxy"),
        ["--listen", "127.0.0.1:0", "--replica", "127.0.0.1:1", "--tls-cert", cert, "--tls-key", key])
      #expect(atStart.exit == .code(1))
      #expect(atStart.errors.contains("--tls-\(bad.field) \(path): "), "\(atStart.errors)")
      #expect(atStart.errors.contains(bad.says), "\(atStart.errors)")

      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start([origin], certificate)
      try check(proxy) {
        let body = #"{"stream_timeout_ms": 7, "tls": {"cert": "\#(cert)", "key": "\#(key)"}}"#
        let before = try proxy.askAdmin("GET", "/v1/settings").text
        let refused = try proxy.askAdmin("PUT", "/v1/settings", body: body)
        #expect(refused.status == 400)
        let said = refused.json?["error"] as? String ?? ""
        #expect(said.hasPrefix("tls.\(bad.field): \(path): ") && said.contains(bad.says), "\(said)")
        #expect(try proxy.askAdmin("GET", "/v1/settings").text == before)
        #expect(try curl(["--cacert", certificate.cert, "https://\(proxy.address)/"]).output == "a GET / ")
        // Nothing that is in the key is in what the proxy says.
        let secret = try String(contentsOfFile: certificate.key, encoding: .utf8).split(separator: "\n")[1]
        #expect(!proxy.log.contains(secret) && !said.contains(secret) && !before.contains(secret))
      }
    }

    @Test func oneFileAloneIsAMistake() throws {
      let program = try Places.program("sky-proxy")
      for (flag, other) in [("--tls-cert", "--tls-key"), ("--tls-key", "--tls-cert")] {
        let outcome = try run(program, ["--replica", "127.0.0.1:1", flag, "/some/file.pem"])
        #expect(outcome.exit == .code(2))
        #expect(outcome.errors.contains("\(flag): ") && outcome.errors.contains(other), "\(outcome.errors)")
      }
    }

    // MARK: The end

    @Test func theDrainFinishesWhatIsOpen() throws {
      let go = Event()
      let block = [UInt8](repeating: 0x62, count: 65_536)
      let origin = try Origin { visit in
        guard try visit.request() != nil else { return }
        try visit.send("HTTP/1.1 200 OK\r\nContent-Length: \(64 * block.count)\r\n\r\n")
        go.wait()
        for _ in 0..<64 { try visit.wire.send(block) }
        _ = visit.wire.awaitEnd(10)
      }
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate(), workers: 2)
      defer { proxy.child.end() }
      let reader = try client(
        """
        idle, silent = Tls(port), socket.create_connection(("127.0.0.1", port))
        c = Tls(port, receive_buffer=65536)
        c.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        c.until(b"\\r\\n\\r\\n")
        say("begun")
        idle.to_end()
        say("idle", idle.end)
        say("silent", silent.recv(10))
        # Slowly: when the worker has handed over the last byte there is still much to send.
        total = 0
        while len(c.pending) or c.more():
            total += len(c.take(len(c.pending)))
            time.sleep(0.005)
        say("got", total, c.end)
        """, proxy)
      defer { reader.end() }
      _ = try reader.line(onOutput: true) { $0 == "begun" }
      #expect(eventually { try proxy.metric("skyproxy_tls_connections_open") == 3 })
      proxy.child.signal(SIGTERM)
      _ = try reader.line(onOutput: true) { $0 == "idle clean" }
      _ = try reader.line(onOutput: true) { $0.hasPrefix("silent b''") }
      #expect(proxy.child.isRunning)
      go.happen()
      _ = try reader.line(onOutput: true) { $0 == "got \(64 * block.count) clean" }
      #expect(proxy.child.waitForExit() == .code(0), "\(proxy.log)")
      #expect(origin.problems == [])
    }

    /// Whatever the TLS threads are doing, the end is an orderly one.
    @Test(arguments: 0..<3) func aSecondSignalEndsAtOnce(round: Int) throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start([origin], try TestCertificate(kind: .rsa2048), workers: 2)
      defer { proxy.child.end() }
      let load = try client(
        """
        def run():
            while True:
                try:
                    c = Tls(port)
                    for _ in range(3): c.ask("/", "POST", b"x" * 20000)
                except (OSError, EOFError, ssl.SSLError): pass
        for _ in range(4): threading.Thread(target=run, daemon=True).start()
        say("running")
        time.sleep(30)
        """, proxy)
      defer { load.end() }
      #expect(eventually { try proxy.metric("skyproxy_tls_handshakes_total") > 20 })
      proxy.child.signal(SIGTERM)
      proxy.child.signal(SIGINT)
      let exit = proxy.child.waitForExit()
      // The second may find nothing left to do.
      #expect(exit == .code(1) || exit == .code(0), "\(proxy.log)")
    }
  }
}
