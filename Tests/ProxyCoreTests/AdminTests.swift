// The admin API over real sockets: every endpoint, every refusal.

import Glibc
import ProxyWire
import Testing

@testable import ProxyCore

@Suite struct AdminReplicaTests {
  @Test func aListIsAppliedAndShown() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    let entries = [
      entry("a", weight: 2), entry("b", generation: 7, port: 8001, maxInFlight: 4),
      entry("c", port: 8002, .draining, drainDeadline: 0.5),
    ]
    let answer = try client.put(snapshot(5, entries))
    #expect(answer.status == 200)
    let applied = AppliedAnswer(version: 5, replicas: 3, added: 3)
    #expect(answer.body == applied.encode() + [UInt8(ascii: "\n")])
    #expect(try Json.parse(answer.body)["applied"]?.content.whole == 5)

    // Counts of the two workers are added up.
    harness.counters[0].replicas[1].exchanges = 3
    harness.counters[1].replicas[1].exchanges = 4
    harness.counters[1].replicas[1].count(Fault(.replica, .head, .closed))
    harness.counters[0].replicas[1].count(Fault(.replica, .head, .malformed))
    harness.counters[0].replicas[1].count(status: 404)
    let lease = harness.take(1)
    let list = try client.replicas()
    #expect(list.version == 5)
    #expect(list.policy == .leastLoad)
    #expect(list.replicas.map(\.entry) == entries)
    #expect(list.replicas[1].counters.requests == 7)
    #expect(list.replicas[1].counters.responses4xx == 1)
    #expect(list.replicas[1].counters.failures == 2)
    #expect(list.replicas[1].failures.head == 1 && list.replicas[1].failures.malformed == 1)
    #expect(list.replicas.map(\.inFlight) == [0, 1, 0])
    // What goes out is what the one encoder writes.
    #expect(try client.request("GET", "/v1/replicas").body == list.encode() + [UInt8(ascii: "\n")])
    var held = lease
    harness.board.release(&held)

    // And for people: how they are now.
    harness.board.failed(Lease(replica: 0, generation: 1), refused: true, now: 1, rule: EjectionRule())
    let shown = try Json.parse(try client.request("GET", "/v1/replicas").body)
    #expect(shown["replicas"]?.strings("status") == ["ejected", "ready", "draining"])
    #expect(try client.replicas().replicas.map(\.status) == [.ejected, .ready, .draining])
    // Again, less one and with another, says so.
    let next = try client.put(snapshot(6, [entries[0], entries[1], entry("d", port: 8003)]))
    #expect(try AppliedAnswer.decode(next.body) == AppliedAnswer(version: 6, replicas: 3, added: 1, removed: 1))
  }

  @Test func whatIsNotTakenChangesNothing() throws {
    let harness = try AdminHarness(replicasMax: 3)
    let client = try harness.client()
    #expect(try client.put(snapshot(5, [entry("a")])).status == 200)
    let before = try client.replicas()
    let cases: [(body: String, status: Int, says: String)] = [
      ("", 400, "line 1"),
      ("{\"version\": 6, \"replicas\": [}", 400, "column"),
      ("{\"version\": 6, \"replicas\": [{\"id\": \"x\"}]}", 400, "replicas[0]"),
      ("{\"version\": 6, \"replica\": []}", 400, "did you mean 'replicas'"),
      ("{\"version\": 6, \"replicas\": []}", 400, "allow_empty"),
      (
        "{\"version\": 6, \"replicas\": [{\"id\": \"x\", \"generation\": 1, \"address\": \"model:80\"}]}", 400,
        "replicas[0].address: 'model:80' is a name"
      ),
      ("{\"version\": 4, \"replicas\": [], \"allow_empty\": true}", 409, "older than 5"),
      ("{\"version\": 5, \"replicas\": [], \"allow_empty\": true}", 409, "another content"),
      (
        "{\"version\": 6, \"policy\": \"round_robin\", \"replicas\": [], \"allow_empty\": true}", 400,
        "--policy round_robin"
      ),
      (
        String(decoding: snapshot(6, (0..<4).map { entry("r\($0)") }).encode(), as: UTF8.self), 507, "--max-replicas"
      ),
    ]
    for (body, status, says) in cases {
      let answer = try client.request("PUT", "/v1/replicas", Array(body.utf8))
      #expect(answer.status == status, "\(body)")
      let error = try ErrorAnswer.decode(answer.body)
      #expect(error.error.contains(says), "\(error.error)")
      #expect(error.version == (status == 409 ? 5 : nil))
    }
    #expect(try client.replicas() == before)
    // The same once more is no mistake.
    #expect(try client.put(snapshot(5, [entry("a")])).status == 200)
  }

  @Test func resolvedReplicasServeUntilAListComes() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    harness.server.offer(standalone: [entry("model:80#1"), entry("model:80#2", port: 9)])
    try eventually("standalone replicas") { (try? client.replicas().replicas.count) == 2 }
    #expect(try client.replicas().version == 0)
    #expect(try client.put(snapshot(1, [entry("a")])).status == 200)
    harness.server.offer(standalone: [entry("model:80#3")])
    // The thread takes its mail before it answers.
    #expect(try client.replicas().replicas.map(\.entry.id) == ["a"])
  }
}

@Suite struct AdminHttpTests {
  @Test func pathsAndMethods() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    let lost = try client.request("GET", "/v1/replica")
    #expect(lost.status == 404)
    #expect(lost.text.contains("did you mean '/v1/replicas'"))
    for (method, path, allow) in [
      ("POST", "/v1/replicas", "GET, PUT"), ("PUT", "/metrics", "GET"), ("GET", "/v1/drain", "POST"),
      ("DELETE", "/v1/reports", "GET"), ("HEAD", "/healthz", "GET"),
    ] {
      let answer = try client.request(method, path)
      #expect(answer.status == 405, "\(method) \(path)")
      #expect(answer.fields["allow"] == allow)
    }
    #expect(try client.request("GET", "/v1/connections?limit=x").status == 400)
    #expect(try client.request("GET", "/v1/connections?limt=1").text.contains("it has only"))
    #expect(try client.request("GET", "/v1/reports?interval_ms=1").status == 400)
    #expect(try client.request("GET", "/healthz").text == "{\"status\":\"ok\"}\n")
  }

  @Test func drainAndHealth() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    #expect(try client.request("POST", "/v1/drain").status == 202)
    #expect(harness.drains.get() == 1)
    harness.isDraining.set(true)
    #expect(try client.request("GET", "/healthz").status == 503)
  }

  @Test func requestsInPiecesAndInOne() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    let body = String(decoding: snapshot(1, [entry("a")]).encode(), as: UTF8.self)
    let put = "PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
    for byte in put.utf8 { try client.send([byte]) }
    #expect(try client.reply().status == 200)

    let size = String(body.utf8.count, radix: 16)
    let chunked =
      "PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\(size)\r\n\(body)\r\n0\r\n\r\n"
    for byte in chunked.utf8 { try client.send([byte]) }
    #expect(try client.reply().status == 200)

    try client.send(chunked + "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + put + "GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(try (0..<4).map { _ in try client.reply().status } == [200, 200, 200, 404])

    try client.send(
      "PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: \(body.utf8.count)\r\n\r\n")
    #expect(try client.reply().status == 100)
    try client.send(body)
    #expect(try client.reply().status == 200)
  }

  @Test func whatIsWrongEndsTheConnection() throws {
    let harness = try AdminHarness()
    let big = String(repeating: "x", count: 20_000)
    for (request, status) in [
      ("GET / HTTP/1.1\r\n\r\n", 400), ("GET /\r\n\r\n", 400), ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
      ("GET /\(big) HTTP/1.1\r\nHost: a\r\n\r\n", 414), ("GET / HTTP/1.1\r\nHost: a\r\nX: \(big)\r\n\r\n", 431),
      ("PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\n\r\n", 413),
      ("PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
      ("PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n", 400),
      ("PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    ] {
      let client = try harness.client()
      try client.send(request)
      let answer = try client.reply()
      #expect(answer.status == status, "\(request.prefix(60))")
      #expect(answer.fields["connection"] == "close")
      #expect(try ErrorAnswer.decode(answer.body).error.isEmpty == false)
      #expect(try client.readToEnd() == "")
    }
  }

  @Test func aBodyBeyondTheLimitIsStoppedInTheMiddle() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    try client.send("PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    let chunk = Array("100000\r\n".utf8) + [UInt8](repeating: 32, count: 1 << 20) + Array("\r\n".utf8)
    // The last of them may already meet a closed door.
    for _ in 0..<17 { do { try client.send(chunk) } catch { break } }
    #expect(try client.reply().status == 413)
  }

  @Test func closingAndOldClients() throws {
    let harness = try AdminHarness()
    var client = try harness.client()
    try client.send("GET /healthz HTTP/1.0\r\n\r\n")
    #expect(try client.reply().fields["connection"] == "close")
    #expect(try client.readToEnd() == "")
    client = try harness.client()
    try client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    shutdown(client.fd, Int32(SHUT_WR))
    #expect(try client.reply().status == 200)
    #expect(try client.reply().status == 200)
    #expect(try client.readToEnd() == "")
    // An old client's stream has no chunks.
    client = try harness.client()
    try client.send("GET /v1/reports HTTP/1.0\r\n\r\n")
    shutdown(client.fd, Int32(SHUT_WR))
    let stream = try client.readToEnd()
    #expect(stream.hasPrefix("HTTP/1.1 200 OK\r\n"))
    #expect(stream.contains("\r\n\r\n{\"type\":\"interval\""))
  }

  @Test func aLoopbackPortOnlyShows() throws {
    let harness = try AdminHarness(endpoints: [.ipv4(0x7F00_0001, port: 0)])
    let port = try #require(harness.server.listening.last)
    #expect(port.port != 0)
    let client = try AdminClient(port)
    let refused = try client.put(snapshot(1, [entry("a")]))
    #expect(refused.status == 403)
    #expect(try ErrorAnswer.decode(refused.body).error.contains("read-only"))
    #expect(try client.request("POST", "/v1/drain").status == 403)
    #expect(harness.drains.get() == 0)
    for path in ["/healthz", "/metrics", "/v1/replicas", "/v1/connections"] {
      #expect(try client.request("GET", path).status == 200)
    }
    try client.send("PUT /v1/replicas HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n")
    #expect(try client.reply().status == 413)
  }

  /// DNS rebinding: a page's own name leads to this machine, and the page may read what it asks for.
  @Test func aPageThatHasANameForThisMachineReadsNothing() throws {
    let harness = try AdminHarness(
      endpoints: [.ipv4(0x7F00_0001, port: 0), .ipv6(high: 0, low: 1, port: 0)], hosts: ["gpu-box.internal", "fd00::2"])
    let unix = try harness.client()
    let hosts: [(host: String, isOurs: Bool)] = [
      ("127.0.0.1", true), ("127.0.0.1:1", true), ("127.9.9.9:8080", true), ("[::1]", true), ("[::1]:8080", true),
      ("[0:0::1]:8080", true), ("[::ffff:127.0.0.1]", true), ("localhost", true), ("LocalHost:8080", true),
      ("localhost.", true), ("gpu-box.internal", true), ("GPU-BOX.internal:9090", true), ("gpu-box.internal.:80", true),
      ("[fd00:0::2]:80", true), ("evil.example", false), ("evil.example:8080", false),
      ("localhost.evil.example", false),
      ("127.0.0.1.evil.example", false), ("0.0.0.0:8080", false), ("10.0.0.1", false), ("[::2]", false),
      ("[::]", false),
      ("2130706433", false), ("0x7f.1", false), ("notlocalhost", false), ("localhost..", false),
      ("box.internal", false),
    ]
    for port in harness.server.listening.dropFirst() {
      let client = try AdminClient(port)
      for (host, isOurs) in hosts {
        for path in ["/healthz", "/metrics", "/v1/replicas", "/v1/connections", "/v1/settings", "/nowhere"] {
          let answer = try client.request("GET", path, host: host)
          #expect(answer.status == (isOurs ? path == "/nowhere" ? 404 : 200 : 421), "\(host) \(path)")
          if !isOurs { #expect(try ErrorAnswer.decode(answer.body).error.contains("--admin-host"), "\(host)") }
        }
        for (method, path) in [("POST", "/v1/drain"), ("PUT", "/v1/replicas"), ("HEAD", "/healthz"), ("OPTIONS", "/")] {
          let answer = try client.request(method, path, host: host)
          #expect(answer.status == (isOurs ? 403 : 421), "\(method) \(host)")
        }
        #expect(try unix.request("GET", "/healthz", host: host).status == 200)
      }
      // The target's authority counts where there is one (RFC 9112 3.2.2), and who says no name is nobody we know.
      for (request, status) in [
        ("GET http://evil.example/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET http://127.0.0.1/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
        ("GET /v1/reports HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET /metrics HTTP/1.0\r\n\r\n", 421), ("GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
      ] {
        let client = try AdminClient(port)
        try client.send(request)
        #expect(try client.reply().status == status, "\(request)")
      }
    }
    #expect(harness.drains.get() == 0)
  }

  /// A page can send a POST without being asked first; what stands before a Unix socket may pass it on.
  @Test func aWebPageChangesNothing() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    for fields in [
      ["Origin: http://evil.example"], ["origin: null"], ["Sec-Fetch-Site: cross-site"], ["Sec-Fetch-Site: same-site"],
      ["Sec-Fetch-Site: same-origin", "Accept: */*"],
    ] {
      let answer = try client.request("POST", "/v1/drain", fields: fields)
      #expect(answer.status == 403, "\(fields)")
      #expect(answer.text.contains("web page"))
      #expect(try client.request("GET", "/healthz", fields: fields).status == 200)
    }
    #expect(harness.drains.get() == 0)
    #expect(try client.request("POST", "/v1/drain", fields: ["Sec-Fetch-Site: none", "X-Origin: a"]).status == 202)
    #expect(harness.drains.get() == 1)
  }

  /// Each bound at its number and one beyond it.
  @Test func boundsOfARequest() throws {
    var limits = AdminLimits()
    limits.headBytes = 1000
    limits.targetBytes = 100
    limits.fields = 10
    limits.bodyBytes = 500
    limits.readOnlyBodyBytes = 50
    let harness = try AdminHarness(endpoints: [.ipv4(0x7F00_0001, port: 0)], limits: limits)
    let port = try #require(harness.server.listening.last)
    let start = "GET / HTTP/1.1\r\nHost: localhost\r\n"
    func head(bytes: Int) -> String {
      start + "X: " + String(repeating: "x", count: bytes - start.utf8.count - 7) + "\r\n\r\n"
    }
    func fields(_ count: Int) -> String { start + String(repeating: "X: y\r\n", count: count - 1) + "\r\n" }
    func target(_ bytes: Int) -> String {
      "GET /\(String(repeating: "x", count: bytes - 1)) HTTP/1.1\r\nHost: localhost\r\n\r\n"
    }
    func body(_ bytes: Int, chunked: Bool = false) -> String {
      let start = "PUT /nowhere HTTP/1.1\r\nHost: localhost\r\n"
      let content = String(repeating: " ", count: bytes)
      return chunked
        ? start + "Transfer-Encoding: chunked\r\n\r\n\(String(bytes, radix: 16))\r\n\(content)\r\n0\r\n\r\n"
        : start + "Content-Length: \(bytes)\r\n\r\n\(content)"
    }
    for (name, request, unix, tcp) in [
      ("head", head(bytes: 1000), 404, 404), ("head", head(bytes: 1001), 431, 431), ("fields", fields(10), 404, 404),
      ("fields", fields(11), 431, 431), ("target", target(100), 404, 404), ("target", target(101), 414, 414),
      ("body", body(50), 404, 403), ("body", body(51), 404, 413), ("body", body(500), 404, 413),
      ("body", body(501), 413, 413), ("chunks", body(500, chunked: true), 404, 413),
      ("chunks", body(501, chunked: true), 413, 413),
    ] {
      for (endpoint, status) in [(Endpoint.unix(path: harness.path), unix), (port, tcp)] {
        let client = try AdminClient(endpoint)
        try client.send(request)
        let answer = try client.reply()
        #expect(answer.status == status, "\(name) of \(request.utf8.count) bytes at \(endpoint)")
        #expect((answer.fields["connection"] == "close") == (status != 404 && status != 403))
      }
    }
  }

  /// Each deadline, with clients that do nothing more.
  @Test func deadlinesOfAClient() throws {
    var limits = AdminLimits()
    (limits.headNs, limits.bodyNs, limits.idleNs, limits.lingerNs) = (50_000_000, 60_000_000, 70_000_000, 80_000_000)
    let harness = try AdminHarness(limits: limits)
    let cases: [(said: String, answers: [Int])] = [
      ("", []), ("GET /healthz HT", [408]), ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", [200]),
      ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET", [200, 408]),
      ("PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", [408]),
      ("PUT /v1/replicas HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", [408]),
    ]
    for (said, answers) in cases {
      let client = try harness.client()
      try client.send(said)
      for status in answers { #expect(try client.reply().status == status, "\(said)") }
      #expect(try client.readToEnd() == "", "\(said)")
    }
  }

  /// One that asks and does not read is let go, and its connection serves another.
  @Test func aClientThatTakesNothingIsLetGo() throws {
    var limits = AdminLimits()
    limits.connections = 2
    limits.writeNs = 100_000_000
    let harness = try AdminHarness(places: 1024, replicasMax: 512, limits: limits)
    let control = try harness.client()
    #expect(try control.put(snapshot(1, (0..<500).map { entry("replica-\($0)") })).status == 200)
    let idle = try harness.client()
    for _ in 0..<20 { try idle.send("GET /v1/replicas HTTP/1.1\r\nHost: a\r\n\r\n") }
    try eventually("room for another") {
      (try? harness.client().request("GET", "/healthz"))?.status == 200
    }
  }

  @Test func oneClientTooMany() throws {
    let harness = try AdminHarness()
    var clients: [AdminClient] = []
    for _ in 0..<AdminLimits().connections {
      clients.append(try harness.client())
      #expect(try clients.last!.request("GET", "/healthz").status == 200)
    }
    let late = try harness.client()
    #expect(try late.reply().status == 503)
    #expect(try late.readToEnd() == "")
    clients.removeLast()
    var answer: Reply?
    try eventually("room for another") {
      answer = try? harness.client().request("GET", "/healthz")
      return answer?.status == 200
    }
  }

  @Test func unfinishedRequestsRunOut() throws {
    var pair: [Int32] = [-1, -1]
    #expect(socketpair(AF_UNIX, SocketType.stream, 0, &pair) == 0)
    defer { close(pair[1]) }
    var fields = FieldTable.allocate(capacity: 128)
    defer { fields.deallocate() }
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
    defer { scratch.deallocate() }
    let limits = AdminLimits()
    let connection = AdminConnection(pair[0], .full, limits, now: 1000)
    #expect(connection.deadline == 1000 + limits.headNs)
    #expect(send(pair[1], "GET /", 5, 0) == 5)
    #expect(connection.receive(through: scratch, now: 2000))
    #expect(connection.nextRequest(&fields, now: 2000) == nil)
    #expect(connection.deadline == 2000 + limits.headNs)
    // More bytes do not move it.
    #expect(send(pair[1], "x", 1, 0) == 1)
    #expect(connection.receive(through: scratch, now: 5000))
    #expect(connection.deadline == 2000 + limits.headNs)
    connection.expire(now: connection.deadline)
    #expect(connection.flush(now: connection.deadline))
    var text = [UInt8](repeating: 0, count: 12)
    #expect(recv(pair[1], &text, 12, 0) == 12)
    #expect(String(decoding: text, as: UTF8.self) == "HTTP/1.1 408")
    #expect(connection.state == .lingering)
    connection.expire(now: connection.deadline)
    #expect(connection.state == .closed)
  }
}

@Suite struct AdminListenerTests {
  private func fail(_ endpoints: [Endpoint]) throws -> String {
    let harness = try AdminHarness(endpoints: endpoints, start: false)
    do { try harness.server.start() } catch { return error.description }
    throw TestFailure("it started")
  }

  @Test func theSocketIsOursAloneAndGoesWithUs() throws {
    let folder = try TemporaryFolder()
    let path = "\(folder.path)/s"
    let listener = try AdminListener.open(.unix(path: path))
    var facts = stat()
    #expect(lstat(path, &facts) == 0)
    #expect(facts.st_mode & 0o777 == 0o600)
    #expect(facts.st_mode & S_IFMT == S_IFSOCK)
    // While it lives nobody else gets it.
    #expect(throws: AdminError.self) { try AdminListener.open(.unix(path: path)) }
    listener.close()
    #expect(lstat(path, &facts) == -1)
  }

  @Test func aSocketOfTheDeadIsReplaced() throws {
    let folder = try TemporaryFolder()
    let path = "\(folder.path)/s"
    var address = try #require(SocketAddress(unixPath: path))
    let dead = socket(AF_UNIX, SocketType.stream, 0)
    let length = socklen_t(address.length)
    #expect(address.withBytes { bind(dead, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) } == 0)
    close(dead)
    let listener = try AdminListener.open(.unix(path: path))
    _ = try AdminClient(.unix(path: path))
    // A successor's socket is not taken away by the one that ends.
    unlink(path)
    let next = try AdminListener.open(.unix(path: path))
    listener.close()
    _ = try AdminClient(.unix(path: path))
    next.close()
  }

  @Test func whatIsInTheWayIsNamed() throws {
    let folder = try TemporaryFolder()
    let path = "\(folder.path)/file"
    close(open(path, O_CREAT | O_WRONLY, 0o600))
    #expect(try fail([.unix(path: path)]).contains("no socket; remove it"))
    #expect(folder.read("file") == "")
    #expect(try fail([.unix(path: "\(folder.path)/none/s")]).contains("is not there; create it"))
    #expect(try fail([.ipv4(0x0A00_0001, port: 0)]).contains("loopback"))
    let harness = try AdminHarness()
    #expect(try fail([.unix(path: harness.path)]).contains("another process answers there"))
    #expect(try harness.client().request("GET", "/healthz").status == 200)
  }
}

@Suite struct AdminReportTests {
  @Test(arguments: [
    (seconds: 0, missed: 30), (seconds: 60, missed: 30), (seconds: 120, missed: 15), (seconds: 3600, missed: 0),
  ])
  func whatNobodyWasToldIsOfTheLastMinute(_ seconds: UInt64, _ missed: UInt64) {
    var told = ToldArrivals(now: 0)
    told.told(70, now: 1_000)
    #expect(told.missed(of: 100, now: 1_000 + seconds * 1_000_000_000) == missed)
  }

  @Test func countsComeAtOnceAndAgain() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    #expect(try client.put(snapshot(3, [entry("a")])).status == 200)
    harness.counters[0].worker.pointee.arrivals = 100
    // What came before anybody listened is told once.
    let earlier = try harness.client()
    try earlier.subscribe(intervalMs: 10)
    guard case .interval(let missed) = try earlier.report() else { throw TestFailure("no interval") }
    #expect(missed.arrivals == 100)
    try client.subscribe(intervalMs: 10)
    guard case .interval(let first) = try client.report() else { throw TestFailure("no interval") }
    #expect(first.version == 3)
    #expect(first.arrivals == 0)
    #expect(first.intervalMs == 0)
    #expect(first.replicas.map(\.id) == ["a"])
    harness.counters[0].worker.pointee.arrivals += 5
    harness.counters[1].worker.pointee.arrivals += 2
    harness.counters[1].worker.pointee.queueTimeouts += 1
    harness.counters[1].replicas[0].bytesFromReplica = 77
    var arrivals: UInt64 = 0
    var shed: UInt64 = 0
    var bytes: UInt64 = 0
    while arrivals < 7 || shed < 1 || bytes < 77 {
      guard case .interval(let report) = try client.report() else { throw TestFailure("no interval") }
      arrivals += report.arrivals
      shed += report.shed
      bytes = report.replicas[0].counters.bytesReceived
    }
    #expect(arrivals == 7)
    #expect(shed == 1)
  }

  @Test func eventsComeAtOnce() throws {
    let harness = try AdminHarness()
    let control = try harness.client()
    #expect(try control.put(snapshot(1, [entry("a"), entry("b", port: 8001)])).status == 200)
    let client = try harness.client()
    try client.subscribe(intervalMs: 3_600_000)
    _ = try client.report()
    var lease = harness.take(1)

    #expect(try control.put(snapshot(2, [entry("a"), entry("b", port: 8001, .draining)])).status == 200)
    #expect(try client.event() == .applied(version: 2))
    #expect(try client.event() == .draining(id: "b", generation: 1, inFlight: 1))
    let released = monotonicNanoseconds()
    harness.turn { harness.board.release(&lease) }
    #expect(try client.event() == .draining(id: "b", generation: 1, inFlight: 0))
    // 20 ms are promised, and a busy machine gets more: far from the interval's hour.
    #expect(monotonicNanoseconds() - released < 5_000_000_000)

    // One that came too late hears of the drain too.
    let late = try harness.client()
    try late.subscribe(intervalMs: 3_600_000)
    _ = try late.report()
    #expect(try late.report() == .draining(id: "b", generation: 1, inFlight: 0))

    var onA = Lease(replica: 0, generation: 1)
    harness.turn {
      harness.board.failed(onA, refused: true, now: monotonicNanoseconds(), rule: EjectionRule())
      // Somebody may look just now, between the news and the count.
      harness.counters[0].replicas[0].failConnect += 1
    }
    #expect(try client.event() == .refused(id: "a", generation: 1, count: 1))
    #expect(try client.event() == .ejected(id: "a", generation: 1, reason: "1 failures in a row"))
    harness.turn { harness.board.answered(&onA, status: 200, now: monotonicNanoseconds(), rule: EjectionRule()) }
    #expect(try client.event() == .restored(id: "a", generation: 1, reason: "it answered again"))

    // Gone from the list while it works: told when it has finished.
    var last = harness.take(0)
    #expect(try control.put(snapshot(3, [])).status == 200)
    #expect(try client.event() == .applied(version: 3))
    #expect(try client.event() == .draining(id: "a", generation: 1, inFlight: 1))
    #expect(try control.replicas().replicas.map(\.entry.id) == ["a"])
    #expect(try control.request("GET", "/v1/replicas").text.contains("\"status\":\"leaving\""))
    harness.turn { harness.board.release(&last) }
    #expect(try client.event() == .draining(id: "a", generation: 1, inFlight: 0))
    #expect(try control.replicas().replicas.isEmpty)
  }

  @Test func serverErrorsInARowAreToldAsSuch() throws {
    let harness = try AdminHarness()
    let client = try harness.client()
    #expect(try client.put(snapshot(1, [entry("a"), entry("b", port: 8001)])).status == 200)
    try client.subscribe(intervalMs: 3_600_000)
    _ = try client.report()
    var onA = Lease(replica: 0, generation: 1)
    harness.turn { for _ in 0..<5 { harness.board.answered(&onA, status: 503, now: 1, rule: EjectionRule()) } }
    #expect(
      try client.event() == .ejected(id: "a", generation: 1, reason: "5 answers of 500, 502, 503 or 504 in a row"))
    let control = try harness.client()
    #expect(try control.replicas().replicas.map { $0.status == .ejected } == [true, false])
    harness.turn { harness.board.answered(&onA, status: 200, now: 2, rule: EjectionRule()) }
    #expect(try client.event() == .restored(id: "a", generation: 1, reason: "it answered again"))
  }

  /// Nobody asks again and again whether there is news: the thread sleeps until there is, and news in a storm is looked
  /// for no more than a hundred times a second.
  @Test func theBellRingsOnceForAllNewsOfATurn() throws {
    let bell = NewsBell()
    let shared: UnsafeMutablePointer<BoardShared> = mapZeroed(1)
    shared.pointee.bell.connect(7)
    shared.pointee.tellNews()
    #expect(shared.pointee.bell.takeDue() == nil, "nobody listens")
    shared.pointee.bell.arm()
    #expect(shared.pointee.bell.takeDue() == nil, "nothing has happened")
    for _ in 0..<3 { shared.pointee.tellNews() }
    #expect(shared.pointee.bell.takeDue() == 7)
    #expect(shared.pointee.bell.takeDue() == nil)
    shared.pointee.tellNews()
    #expect(shared.pointee.bell.takeDue() == nil, "it looks by itself until it arms again")
    shared.pointee.bell.arm()
    shared.pointee.tellNews()
    shared.pointee.bell.disarm()
    #expect(shared.pointee.bell.takeDue() == nil, "the last listener has gone")
    #expect(shared.pointee.news.load(ordering: .relaxed) == 6)
    #expect(bell.takeDue() == nil)
  }

  @Test func refusalsAreGathered() throws {
    let harness = try AdminHarness(start: false)
    _ = try harness.membership.apply(snapshot(1, [entry("a")]), now: 0)
    var events = ReportEvents(harness.membership)
    events.begin()
    var now: UInt64 = 1_000_000_000
    var told: [UInt64] = []
    // A failure every millisecond for 250 ms, looked at every 10.
    for ms in 0..<400 {
      now += 1_000_000
      if ms < 250 {
        harness.counters[ms % 2].replicas[0].failConnect += 1
        harness.board.shared.pointee.news.wrappingAdd(1, ordering: .relaxed)
      }
      guard ms % 10 == 0 else { continue }
      for case .refused(_, _, let count) in events.look(now: now) { told.append(count) }
    }
    #expect(told.reduce(0, +) == 250)
    #expect(told.count <= 4)
    #expect(events.look(now: now + 1_000_000_000).isEmpty)
  }

  @Test func aReaderThatFallsBehindIsDropped() throws {
    let harness = try AdminHarness(places: 1024, replicasMax: 512)
    let control = try harness.client()
    #expect(try control.put(snapshot(1, (0..<500).map { entry("replica-\($0)") })).status == 200)
    let slow = try harness.client()
    try slow.subscribe(intervalMs: 10)
    let quick = try harness.client()
    try quick.subscribe(intervalMs: 50)
    // The slow one reads nothing; the other one takes what comes and stays.
    var watched = pollfd(fd: slow.fd, events: 0, revents: 0)  // POLLHUP comes unasked
    try eventually("the end of the slow one") {
      (try? quick.skim()) == true && poll(&watched, 1, 0) == 1
    }
    for _ in 0..<5 { #expect(try quick.skim()) }
  }
}

@Suite struct AdminConnectionListTests {
  @Test func slotsAreShown() throws {
    let connections: UnsafeMutablePointer<Connection> = mapZeroed(4)
    let exchanges: UnsafeMutablePointer<Exchange> = mapZeroed(4)
    let peerTexts: UnsafeMutablePointer<UInt8> = mapZeroed(4 * peerTextStride)
    for slot in 0..<4 { connections[slot].exchange = noSlot }
    connections[0].side = .downstream
    connections[0].state = .exchanging
    connections[0].exchange = 0
    connections[0].openedAt = 1
    connections[0].requests = 2
    connections[0].peerCount = 8
    for (at, byte) in "10.0.0.9".utf8.enumerated() { peerTexts[at] = byte }
    connections[0].queue.bytes = 42
    connections[2].side = .upstream
    connections[2].state = .serving
    connections[2].exchange = 0
    connections[2].replica = 0
    connections[2].replicaGeneration = 1
    connections[2].openedAt = monotonicNanoseconds()
    connections[3].side = .upstream
    connections[3].state = .parked
    connections[3].exchange = 0  // not its own any more
    connections[3].replica = 0
    connections[3].replicaGeneration = 9  // a replica nobody remembers
    exchanges[0].downstream = 0
    exchanges[0].upstream = 2
    exchanges[0].phase = .streaming
    exchanges[0].lease = Lease(replica: 0, generation: 1)

    let view = WorkerView(
      connections: connections, connectionCount: 4, exchanges: exchanges, exchangeCount: 1, peerTexts: peerTexts)
    let harness = try AdminHarness(workers: [view])
    let client = try harness.client()
    #expect(try client.put(snapshot(1, [entry("a")])).status == 200)
    let answer = try Json.parse(try client.request("GET", "/v1/connections").body)
    let list = try #require(answer["connections"])
    #expect(list.strings("side") == ["downstream", "upstream", "upstream"])
    #expect(list.strings("state") == ["exchanging", "serving", "parked"])
    #expect(list.strings("phase") == ["streaming", "streaming"])
    #expect(list.strings("replica") == ["a", "a"])
    #expect(list.strings("client") == ["10.0.0.9"])
    #expect(answer["open"]?.content.whole == 3)
    let short = try Json.parse(try client.request("GET", "/v1/connections?limit=1").body)
    #expect(short["connections"]?.strings("state") == ["exchanging"])
    #expect(short["open"]?.content.whole == 3)
    #expect(short["shown"]?.content.whole == 1)
  }
}

extension JsonValue {
  /// What the elements that have a field `key` say there.
  fileprivate func strings(_ key: String) -> [String] {
    guard case .array(let elements) = content else { return [] }
    return elements.compactMap { element in
      guard case .string(let text)? = element[key]?.content else { return nil }
      return text
    }
  }
}

extension JsonValue.Content {
  fileprivate var whole: Int64? {
    guard case .int(let value) = self else { return nil }
    return value
  }
}
