// The admin API of the running program: lists of replicas put in force under load, reports, metrics, and the access log.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct AdminApi {
    typealias Entry = ProxyProcess.ReplicaEntry

    /// Starts without replicas; they come over the admin API.
    private func start(_ flags: String..., workers: Int = 2) throws -> ProxyProcess {
      try ProxyProcess(replicas: [], flags: flags, workers: workers)
    }

    /// Answers `/stream` with a stream that ends when `go` happens, and everything else at once.
    private func origin(
      _ name: String, _ go: Event, on address: Address = .ipv4("127.0.0.1", 0)
    ) throws -> Origin {
      try Origin(on: address) { visit in
        while let request = try visit.request() {
          guard request.target == "/stream" else {
            try visit.send(responseText(name))
            continue
          }
          try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
          try visit.wire.sendChunk("first from \(name)")
          go.wait(30)
          try visit.wire.sendChunk("last")
          try visit.wire.sendLastChunk()
        }
      }
    }

    private func beginStream(_ proxy: ProxyProcess) throws -> (wire: Wire, from: String) {
      let wire = try proxy.connect()
      try wire.send(requestText("GET", "/stream"))
      #expect(try wire.readResponseHead().status == 200)
      let first = String(decoding: try wire.readChunk() ?? [], as: UTF8.self)
      return (wire, String(first.dropFirst("first from ".count)))
    }

    private func endStream(_ wire: Wire) throws {
      #expect(try wire.readChunk() == Array("last".utf8))
      #expect(try wire.readChunk() == [])
    }

    @Test func theSocketIsPrivate() throws {
      let proxy = try start()
      try check(proxy) {
        let path = try #require(proxy.adminPath)
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode == 0o600)
        #expect(try proxy.askAdmin("GET", "/healthz").status == 200)
        #expect(try proxy.askAdmin("GET", "/nowhere").status == 404)
        #expect(try proxy.askAdmin("DELETE", "/v1/replicas").status == 405)
      }
      #expect(!Places.exists(try #require(proxy.adminPath)), "gone with the process")
    }

    @Test func aLoopbackPortIsReadOnly() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess(
        replicas: ["\(origin.address)"], flags: ["--admin", "127.0.0.1:0"])
      try check(proxy) {
        let line = try #require(proxy.log.split(separator: "\n").first { $0.contains("admin address=127.0.0.1") })
        let wire = try Wire(to: #require(Address(line.split(separator: "=").last!)))
        try wire.send(requestText("GET", "/healthz", host: "localhost"))
        #expect(try wire.readResponse().status == 200)
        let list = "{\"version\":1,\"replicas\":[],\"allow_empty\":true}"
        try wire.send(requestText("PUT", "/v1/replicas", body: list, host: "localhost"))
        #expect(try wire.readResponse().status == 403)
        try expectServed(proxy)
      }
    }

    @Test func listsComeInForce() throws {
      let origins = try ["a", "b"].map { try Origin.named($0) }
      defer { for origin in origins { origin.stop() } }
      let proxy = try start()
      try check(proxy) {
        #expect(try proxy.ask().status == 503)
        let put = try proxy.put(version: 5, [Entry("a", origins[0].address)])
        #expect(put.status == 200 && put.json?["version"] as? Int == 5)
        let first = try proxy.ask()
        #expect(first.text.hasPrefix("a"), "\(first.status) \(first.text)")
        #expect(try proxy.put(version: 6, [Entry("b", origins[1].address)]).status == 200)
        #expect(try proxy.ask().text.hasPrefix("b"))

        let older = try proxy.put(version: 4, [Entry("a", origins[0].address)])
        #expect(older.status == 409 && older.json?["version"] as? Int == 6)
        #expect(try proxy.put(version: 6, [Entry("b", origins[1].address)]).status == 200, "the same again")
        #expect(try proxy.put(version: 6, [Entry("a", origins[0].address)]).status == 409, "not another of the same")
        #expect(try proxy.put(version: 7, []).status == 400)
        for body in [
          "", "{", "[]", "{\"version\": 8}", "{\"version\": 8, \"replicas\": [{\"id\": \"x\"}]}",
          "{\"version\": 8, \"replicas\": [{\"id\": \"x\", \"generation\": 1, \"adress\": \"127.0.0.1:1\"}]}",
          "{\"version\": -1, \"replicas\": []}",
        ] {
          let response = try proxy.askAdmin("PUT", "/v1/replicas", body: body)
          #expect(response.status == 400, "\(body): \(response.text)")
          #expect(response.json?["error"] is String, "\(body): \(response.text)")
        }
        #expect(try proxy.ask().text.hasPrefix("b"), "nothing has changed")
        #expect(try proxy.replicas().count == 1)
        #expect(try proxy.put(version: 9, [], further: ["allow_empty": true]).status == 200)
        #expect(try proxy.ask().status == 503)
      }
    }

    @Test func setsAreSwappedUnderLoadWithoutAFailure() throws {
      let origins = try (0..<6).map { try Origin.named("r\($0)") }
      defer { for origin in origins { origin.stop() } }
      let proxy = try start()
      try check(proxy) {
        var version = 1
        #expect(try proxy.put(version: version, [Entry("0", origins[0].address)]).status == 200)
        let hammers = [
          Hammer(proxy.address, clients: 4),
          Hammer(proxy.address, clients: 4, request: requestText("POST", "/p", body: "execute once")),
        ]
        for round in 0..<50 {
          version += 1
          let first = round % 6
          let set = (0..<(1 + round % 3)).map { (first + $0) % 6 }
          // Some keep their id and become another replica.
          let entries = set.map { Entry("\($0)", origins[$0].address, generation: 1 + round / 10) }
          let answer = try proxy.put(version: version, entries)
          #expect(answer.status == 200, "\(answer.text)")
          let before = hammers.reduce(0) { $0 + $1.answered }
          #expect(eventually { hammers.reduce(0) { $0 + $1.answered } >= before + 20 })
        }
        for hammer in hammers {
          hammer.stop()
          #expect(hammer.problems.isEmpty, "\(hammer.problems.prefix(3))")
        }
        #expect(origins.allSatisfy { $0.requests.count > 0 })
        let posts = origins.flatMap(\.requests).filter { $0.method == "POST" }.count
        #expect(posts == hammers[1].answered, "each POST exactly once")
      }
    }

    @Test func aDrainingReplicaFinishesItsStreams() throws {
      let (goA, goB) = (Event(), Event())
      let origins = [try origin("a", goA), try origin("b", goB)]
      defer { for origin in origins { origin.stop() } }
      let proxy = try start()
      try check(proxy) {
        let both = [Entry("a", origins[0].address), Entry("b", origins[1].address)]
        #expect(try proxy.put(version: 1, both).status == 200)
        let reports = try proxy.openAdmin()
        try reports.send(requestText("GET", "/v1/reports?interval_ms=50"))
        #expect(try reports.readResponseHead().fields["content-type"] == "application/x-ndjson")
        var streams = [try beginStream(proxy), try beginStream(proxy)]
        #expect(Set(streams.map(\.from)) == ["a", "b"])
        if streams[0].from == "b" { streams.swapAt(0, 1) }

        var draining = both
        draining[0].state = "draining"
        #expect(try proxy.put(version: 2, draining).status == 200)
        for _ in 0..<10 { #expect(try proxy.ask().text == "b", "no new work for one that drains") }
        #expect(try proxy.replica("a")["in_flight"] as? Int == 1)
        #expect(
          try report(from: reports) { $0["type"] as? String == "draining" && $0["in_flight"] as? Int == 1 } != nil)
        goA.happen()
        let (seconds, done) = try timed {
          try report(from: reports) { $0["type"] as? String == "draining" && $0["in_flight"] as? Int == 0 }
        }
        #expect(done?["id"] as? String == "a")
        #expect(seconds < 5, "told at once")
        try endStream(streams[0].wire)
        #expect(try proxy.replica("a")["in_flight"] as? Int == 0)
        // Only now is it taken off the list.
        #expect(try proxy.put(version: 3, [both[1]]).status == 200)
        goB.happen()
        try endStream(streams[1].wire)
        reports.close()
      }
    }

    @Test func aRemovedReplicaFinishesItsStreams() throws {
      let go = Event()
      let origins = [try origin("a", go), try origin("b", go)]
      defer { for origin in origins { origin.stop() } }
      let proxy = try start()
      try check(proxy) {
        #expect(try proxy.put(version: 1, [Entry("a", origins[0].address)]).status == 200)
        let stream = try beginStream(proxy)
        #expect(try proxy.put(version: 2, [Entry("b", origins[1].address)]).status == 200)
        for _ in 0..<5 { #expect(try proxy.ask().text == "b") }
        #expect(stream.wire.isSilent(for: 0.1) || !stream.wire.pending.isEmpty, "the stream lives on")
        #expect(try proxy.replica("a")["status"] as? String == "leaving")
        go.happen()
        try endStream(stream.wire)
        #expect(eventually { try proxy.replicas().count == 1 })
      }
    }

    @Test func reports() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start()
      try check(proxy) {
        let reports = try proxy.openAdmin()
        try reports.send(requestText("GET", "/v1/reports?interval_ms=50"))
        _ = try reports.readResponseHead()
        let entry = Entry("a", origin.address)
        #expect(try proxy.put(version: 3, [entry]).status == 200)
        #expect(try report(from: reports) { $0["type"] as? String == "applied" }?["version"] as? Int == 3)
        for _ in 0..<10 { try expectServed(proxy) }
        var arrivals = 0
        let last = try report(from: reports) { line in
          guard line["type"] as? String == "interval" else { return false }
          arrivals += line["arrivals"] as? Int ?? 0
          // An interval may end amid the last request.
          let first = (line["replicas"] as? [[String: Any]])?.first
          return arrivals >= 10 && first?["responses_2xx"] as? Int == 10 && first?["in_flight"] as? Int == 0
        }
        #expect(arrivals == 10)
        let replicas = try #require(last?["replicas"] as? [[String: Any]])
        #expect(replicas.first?["requests"] as? Int == 10)
        origin.refuse()
        origin.cutConnections()
        let (seconds, refused) = try timed {
          #expect(eventually { try proxy.ask().status != 200 })
          return try report(from: reports) { $0["type"] as? String == "refused" }
        }
        #expect(refused?["id"] as? String == "a")
        #expect(seconds < 10)
        reports.close()
      }
    }

    /// How often the thread of that name has gone to sleep.
    private func sleeps(_ proxy: ProxyProcess, _ name: String) throws -> Int {
      let tasks = "/proc/\(proxy.child.pid)/task"
      for task in try FileManager.default.contentsOfDirectory(atPath: tasks) {
        guard try Places.text("\(tasks)/\(task)/comm").hasPrefix(name) else { continue }
        for line in try Places.text("\(tasks)/\(task)/status").split(separator: "\n")
        where line.hasPrefix("voluntary_ctxt_switches:") {
          if let count = line.split(separator: "\t").last.flatMap({ Int($0) }) { return count }
        }
      }
      throw TestFailure("no thread \(name)")
    }

    /// A controller listens to every proxy all day.
    @Test func whoListensToReportsCostsNothingWhileNothingHappens() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try start()
      try check(proxy) {
        #expect(try proxy.put(version: 1, [Entry("a", origin.address)]).status == 200)
        let reports = try proxy.openAdmin()
        try reports.send(requestText("GET", "/v1/reports?interval_ms=3600000"))
        _ = try reports.readResponseHead()
        #expect(try report(from: reports) { $0["type"] as? String == "interval" } != nil)
        /// Whether the thread sleeps through some time; what came before may keep it up for a moment.
        func isAsleep() throws -> Bool {
          for _ in 0..<20 {
            let before = try sleeps(proxy, "sky-admin")
            guard reports.isSilent(for: 0.3) else { return false }
            if try sleeps(proxy, "sky-admin") == before { return true }
          }
          return false
        }
        #expect(try isAsleep())
        let before = try sleeps(proxy, "sky-admin")
        // News comes at once all the same, and ordinary traffic is no news.
        for _ in 0..<50 { try expectServed(proxy) }
        #expect(try sleeps(proxy, "sky-admin") == before)
        origin.refuse()
        origin.cutConnections()
        #expect(try proxy.ask().status == 503)
        let (seconds, refused) = try timed { try report(from: reports) { $0["type"] as? String == "refused" } }
        #expect(refused?["id"] as? String == "a")
        #expect(seconds < 5)
        #expect(eventually { try sleeps(proxy, "sky-admin") > before }, "this machine counts how often threads sleep")
        #expect(try isAsleep())
        reports.close()
      }
    }

    /// DNS rebinding, as a user with a browser meets it.
    @Test func aPortAnswersToItsNamesOnly() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess(
        replicas: ["\(origin.address)"], flags: ["--admin", "127.0.0.1:0", "--admin-host", "gpu-box.internal"])
      try check(proxy) {
        let line = try #require(proxy.log.split(separator: "\n").first { $0.contains("admin address=127.0.0.1") })
        let address = try #require(Address(line.split(separator: "=").last!))
        for (host, status) in [
          ("\(address)", 200), ("localhost:\(address.port)", 200), ("gpu-box.internal:\(address.port)", 200),
          ("evil.example", 421), ("evil.example:\(address.port)", 421),
        ] {
          let wire = try Wire(to: address)
          try wire.send(requestText("GET", "/v1/settings", host: host))
          let answer = try wire.readResponse()
          #expect(answer.status == status, "\(host)")
          if status == 421 { #expect((answer.json?["error"] as? String)?.contains("--admin-host") == true) }
        }
        let wire = try proxy.openAdmin()
        try wire.send(requestText("GET", "/v1/settings", host: "evil.example"))
        #expect(try wire.readResponse().status == 200, "no page reaches a Unix socket")
      }
    }

    /// Where `localhost` has an address of either family, as on most machines. They are one server.
    @Test(.enabled(if: OwnHosts.isPossible))
    func aNameOfBothFamiliesIsOneReplica() throws {
      let folder = try TemporaryFolder()
      let program = try OwnHosts.program(in: folder, "127.0.0.1 localhost\n::1 localhost\n")
      let go = Event()
      let four = try origin("four", go)
      let six = try origin("six", go, on: .ipv6("::1", four.address.port))
      defer { for origin in [four, six] { origin.stop() } }
      let id = "localhost:\(four.address.port)"
      let proxy = try ProxyProcess(replicas: [id + ";max_in_flight=1"], program: program)
      try check(proxy) {
        #expect(try proxy.replicas().compactMap { $0["id"] as? String } == [id])
        let (stream, from) = try beginStream(proxy)
        let waiting = try proxy.connect()
        try waiting.send(requestText())
        #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 1 })
        #expect(four.open + six.open == 1, "its max_in_flight is that of both")
        go.happen()
        try endStream(stream)
        #expect(try waiting.readResponse().text == from)

        // It goes on over the other family when it has gone from this one, and stays there.
        let (left, right) = from == "four" ? (four, six) : (six, four)
        left.refuse()
        left.cutConnections()
        #expect(eventually { try proxy.ask().status == 200 })
        #expect(try proxy.ask().text == (from == "four" ? "six" : "four"))
        #expect(eventually { try proxy.replicas().compactMap { $0["status"] as? String } == ["ready"] })
        try left.listenAgain()
        let before = right.requests.count
        for _ in 0..<10 { try expectServed(proxy) }
        #expect(right.requests.count == before + 10)
      }
    }

    /// One that listens over IPv6 alone is served from the first request on.
    @Test(.enabled(if: OwnHosts.isPossible))
    func aServerOfOneFamilyIsFoundByAName() throws {
      let folder = try TemporaryFolder()
      let program = try OwnHosts.program(in: folder, "127.0.0.1 model\n::1 model\n")
      let origin = try Origin.answering(on: .ipv6("::1", 0)) { _ in responseText("six") }
      defer { origin.stop() }
      let proxy = try ProxyProcess(replicas: ["model:\(origin.address.port)"], program: program)
      try check(proxy) {
        for _ in 0..<5 { try expectServed(proxy) }
        #expect(try proxy.replicas().count == 1)
        #expect(try proxy.replica("model:\(origin.address.port)")["connect_failures"] as? Int == 0)
      }
    }

    /// The next line for which `isWanted`; nil: the stream ended.
    private func report(from wire: Wire, where isWanted: ([String: Any]) -> Bool) throws -> [String: Any]? {
      let limit = monotonic() + patience
      while monotonic() < limit, let chunk = try wire.readChunk(), !chunk.isEmpty {
        for line in chunk.split(separator: UInt8(ascii: "\n")) {
          guard let object = try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any] else {
            throw TestFailure("not an object: \(shown(Array(line)))")
          }
          if isWanted(object) { return object }
        }
      }
      return nil
    }

    @Test func metricsAddUp() throws {
      let origins = try ["a", "b"].map { try Origin.named($0) }
      try withProxy(origins, workers: 2) { proxy in
        let hammer = Hammer(proxy.address, clients: 8)
        #expect(eventually { hammer.answered >= 500 })
        // Under load as well: two counts read at different times may differ for a moment, not for long.
        #expect(eventually { try proxy.metric("skyproxy_exchange_drift") == 0 })
        hammer.stop()
        let page = try proxy.askAdmin("GET", "/metrics")
        #expect(page.fields["content-type"]?.hasPrefix("text/plain") == true)
        let lines = page.text.split(separator: "\n")
        let sample = #/^[a-z][a-z0-9_]*(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (-?[0-9.]+([eE][-+]?[0-9]+)?|\+Inf)$/#
        #expect(lines.filter { !$0.hasPrefix("#") && $0.wholeMatch(of: sample) == nil } == [])
        // A response is counted when it has gone, which its client may know first.
        var answered: [Int] = []
        #expect(
          eventually {
            answered = try proxy.askAdmin("GET", "/metrics").text.split(separator: "\n")
              .filter { $0.hasPrefix("skyproxy_requests_total") && $0.contains("code=\"2xx\"") }
              .compactMap { $0.split(separator: " ").last.flatMap { Int($0) } }
            return answered.reduce(0, +) == hammer.answered
          }, "\(answered) of \(hammer.answered)")
        #expect(answered.count == 2)
        #expect(eventually { try proxy.metric("skyproxy_exchanges_open") == 0 })
      }
    }

    @Test func connectionsAreShown() throws {
      let go = Event()
      let origin = try origin("a", go)
      try withProxy([origin]) { proxy in
        let stream = try beginStream(proxy)
        let answer = try proxy.askAdmin("GET", "/v1/connections")
        let list = try #require(answer.json?["connections"] as? [[String: Any]])
        #expect(list.contains { $0["side"] as? String == "downstream" && $0["phase"] as? String == "streaming" })
        #expect(list.contains { $0["side"] as? String == "upstream" })
        go.happen()
        try endStream(stream.wire)
      }
    }

    /// A list of the largest services comes in force beside the traffic, not in its way.
    @Test func tenThousandReplicasAtOnce() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess(
        replicas: [], workers: 1, program: Places.releaseProgram("sky-proxy"))
      try check(proxy) {
        #expect(try proxy.put(version: 1, [Entry("first", origin.address)]).status == 200)
        let hammer = Hammer(proxy.address, clients: 2)
        #expect(eventually { hammer.answered >= 100 })
        hammer.forgetSlowest()
        let many = (0..<10_000).map { Entry("replica-\($0)", origin.address) }
        for version in 2...4 {
          let answer = try proxy.put(version: version, version % 2 == 0 ? many : [Entry("first", origin.address)])
          #expect(answer.status == 200, "\(answer.text)")
          let before = hammer.answered
          #expect(eventually { hammer.answered >= before + 200 })
        }
        hammer.stop()
        #expect(hammer.problems.isEmpty, "\(hammer.problems.prefix(3))")
        // 100 ms where the machine has nothing else to do; a busy one takes what it likes from both sides.
        #expect(hammer.slowest < 5, "the slowest of \(hammer.answered) requests took \(hammer.slowest) s")
      }
    }
  }

  @Suite struct AccessLogs {
    private func lines(_ path: String, _ count: Int) throws -> [[String: Any]] {
      var lines: [Substring] = []
      #expect(
        eventually {
          // What is being written may end amid a line.
          let text = try Places.text(path)
          lines = text[..<(text.lastIndex(of: "\n") ?? text.startIndex)].split(separator: "\n")
          return lines.count >= count
        }, "\(lines.count) of \(count) lines")
      return try lines.map { line in
        guard let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] else {
          throw TestFailure("not an object: \(line)")
        }
        return object
      }
    }

    @Test func oneLinePerRequest() throws {
      let folder = try TemporaryFolder()
      let path = folder.file("access.log")
      let origin = try Origin { visit in
        while let request = try? visit.request() {
          if request.target == "/cut" {
            try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
            return
          }
          if request.target == "/hang" {
            _ = visit.wire.awaitEnd()
            return
          }
          try visit.send(responseText("hello"))
        }
      }
      try withProxy([origin], "--access-log", path) { proxy in
        _ = try proxy.ask(
          "POST", "/v1/chat?api_key=SECRETQUERY", fields: ["Authorization: Bearer SECRETTOKEN", "X-Request-Id: my-id"],
          body: "12345")
        _ = try proxy.ask("GET", "/quote\"and\\back")
        let cut = try proxy.connect()
        try cut.send(requestText("GET", "/cut"))
        #expect(try cut.readResponse().isWhole == false)
        let leaver = try proxy.connect()
        try leaver.send(requestText("GET", "/hang"))
        #expect(eventually { try proxy.inFlight() == 1 })
        leaver.reset()
        let bad = try proxy.connect()
        try bad.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        _ = try bad.readResponse()
        let lines = try lines(path, 5)
        let text = try Places.text(path)
        #expect(!text.contains("SECRET") && !text.lowercased().contains("authorization"))
        let post = try #require(lines.first { $0["id"] as? String == "my-id" })
        #expect(post["method"] as? String == "POST" && post["target"] as? String == "/v1/chat")
        #expect(post["status"] as? Int == 200 && post["outcome"] as? String == "completed")
        #expect(post["client"] as? String == "127.0.0.1")
        #expect(post["bytes_in"] as? Int == 5 && post["bytes_out"] as? Int == 5)
        #expect(post["attempts"] as? Int == 1)
        #expect((post["duration_ms"] as? Double).map { $0 >= 0 && $0 < 5000 } == true)
        #expect(lines.contains { $0["target"] as? String == "/quote\"and\\back" })
        #expect(lines.contains { $0["target"] as? String == "/cut" && $0["outcome"] as? String == "truncated" })
        #expect(lines.contains { $0["target"] as? String == "/hang" && $0["outcome"] as? String == "client_left" })
        #expect(lines.contains { $0["status"] as? Int == 400 && $0["outcome"] as? String == "refused" })
        #expect(Set(lines.compactMap { $0["id"] as? String }).count >= 4, "each has an id of its own")
      }
    }

    @Test func theQueryOnlyWhenAskedFor() throws {
      let folder = try TemporaryFolder()
      let path = folder.file("access.log")
      try withProxy([try Origin.named("a")], "--access-log", path, "--access-log-query", "on") { proxy in
        _ = try proxy.ask("GET", "/x?shown=yes")
        #expect(try lines(path, 1)[0]["target"] as? String == "/x?shown=yes")
      }
    }

    @Test func nothingIsLostAtTheEndAndAFileCanBeMovedAway() throws {
      let folder = try TemporaryFolder()
      let path = folder.file("access.log")
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess([origin], flags: ["--access-log", path], workers: 2)
      for _ in 0..<20 { try expectServed(proxy) }
      #expect(try lines(path, 20).count == 20)
      try FileManager.default.moveItem(atPath: path, toPath: path + ".1")
      proxy.child.signal(SIGHUP)
      #expect(
        eventually {
          _ = try proxy.ask()
          return Places.exists(path)
        })
      let asked = try Int(proxy.metric("skyproxy_arrivals_total"))
      proxy.child.signal(SIGTERM)
      #expect(proxy.child.waitForExit() == .code(0))
      let written =
        try Places.text(path).split(separator: "\n").count
        + Places.text(path + ".1").split(separator: "\n").count
      #expect(written == asked)
    }

    @Test func standardOutputAndText() throws {
      let origin = try Origin.named("a")
      try withProxy([origin], "--access-log", "-", "--access-log-format", "text") { proxy in
        _ = try proxy.ask("GET", "/plain?secret=1")
        let line = try proxy.child.line(onOutput: true) { $0.contains("target=\"/plain\"") }
        #expect(line.contains("status=200") && line.contains("method=GET") && !line.contains("secret"))
      }
    }
  }
}

/// sky-proxy with an /etc/hosts of its own.
private enum OwnHosts {
  private static let unshare = getuid() == 0 ? ["unshare", "--mount"] : ["unshare", "--mount", "--map-root-user"]

  static let isPossible: Bool = {
    guard Places.tool("unshare") != nil,
      let trial = try? ChildProcess(unshare[0], unshare.dropFirst() + ["mount", "--bind", "/etc/hosts", "/etc/hosts"])
    else { return false }
    return trial.waitForExit() == .code(0)
  }()

  static func program(in folder: TemporaryFolder, _ hosts: String) throws -> String {
    let file = try folder.write(hosts, to: "hosts")
    let program = try folder.write(
      """
      #!/bin/sh
      exec \(unshare.joined(separator: " ")) /bin/sh -c \
        'mount --bind "\(file)" /etc/hosts && exec "$0" "$@"' "\(Places.program("sky-proxy"))" "$@"

      """, to: "sky-proxy")
    guard chmod(program, 0o755) == 0 else { throw TestFailure("chmod: \(errno)") }
    return program
  }
}
