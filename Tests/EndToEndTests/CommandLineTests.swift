// The program on the command line: help, mistakes and what they are answered with, addresses of every kind.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct CommandLine {
    private func call(_ arguments: String..., environment: [String: String] = [:]) throws -> Outcome {
      try run(try Places.program("sky-proxy"), arguments, environment: environment)
    }

    static let flags = [
      "listen", "admin", "admin-host", "workers", "tls-cert", "tls-key", "tls-threads", "replica", "policy",
      "max-in-flight", "queue-size", "resolve-interval",
      "max-replicas", "pool-size", "max-connections", "max-head-bytes", "max-target-bytes", "max-fields",
      "max-body-bytes", "queue-timeout", "head-timeout", "idle-timeout", "connect-timeout", "response-timeout",
      "stream-timeout", "tunnel-timeout", "drain-timeout", "drain-deadline", "pool-idle-timeout", "linger-timeout", "linger-total",
      "tcp-keepalive", "tcp-user-timeout", "half-close-grace",
      "client-half-close", "max-attempts", "retry-budget", "retry-burst", "eject-after", "eject-5xx",
      "eject-min", "eject-max",
      "buffers", "buffer-size", "stream-window", "spill-memory", "send-buffer",
      "batch-wait", "forwarded", "via", "request-id", "access-log",
      "access-log-format", "access-log-query", "report-interval", "config", "print-plan", "help", "version",
    ]

    @Test func help() throws {
      let outcome = try call("--help")
      #expect(outcome.exit == .code(0))
      #expect(outcome.errors.isEmpty)
      for flag in Self.flags { #expect(outcome.output.contains("  --\(flag)"), "--\(flag) is not in the help") }
      let lines = outcome.output.split(separator: "\n")
      #expect(lines.allSatisfy { $0.count <= 80 })
      let listed = lines.filter { $0.hasPrefix("  --") }
        .map { $0.dropFirst(4).prefix { $0 != " " } }.map(String.init)
      #expect(Set(listed).subtracting(Self.flags) == [], "a flag that this list does not know yet")
    }

    @Test func version() throws {
      let outcome = try call("--version")
      #expect(outcome.exit == .code(0) && outcome.output.hasPrefix("sky-proxy "))
    }

    @Test(arguments: [
      (["--max-conections", "5"], "--max-connections"), (["--replcia", "a:1"], "--replica"),
      (["--head-timout=3s"], "--head-timeout"),
    ])
    func unknownFlagsGetASuggestion(arguments: [String], suggestion: String) throws {
      let outcome = try run(try Places.program("sky-proxy"), arguments)
      #expect(outcome.exit == .code(2))
      #expect(outcome.errors.contains(arguments[0].split(separator: "=")[0]))
      #expect(outcome.errors.contains(suggestion), "\(outcome.errors)")
    }

    @Test(arguments: [
      ["--max-connections", "0"], ["--max-connections", "many"], ["--head-timeout", "3 parsecs"],
      ["--replica", "host"], ["--replica", "127.0.0.1:99999"], ["--replica", "127.0.0.1:80;wieght=2"],
      ["--listen", "127.0.0.1"], ["--policy", "random"], ["--buffers", "100"], ["--max-attempts", "6"],
      ["--via", "no spaces please"], ["--listen"], ["stray"], ["--queue-size", "1", "--queue-size", "2"],
    ])
    func badValues(arguments: [String]) throws {
      let outcome = try run(try Places.program("sky-proxy"), arguments)
      #expect(outcome.exit == .code(2), "\(arguments): \(outcome.errors)")
      #expect(outcome.errors.contains(arguments[0]), "\(outcome.errors)")
      #expect(outcome.errors.split(separator: "\n").allSatisfy { $0.hasPrefix("sky-proxy: ") })
    }

    @Test func everyMistakeIsSaidAtOnce() throws {
      let outcome = try call("--max-connections", "0", "--head-timeout", "x", "--nonsense", "1")
      #expect(outcome.exit == .code(2))
      for part in ["--max-connections", "--head-timeout", "--nonsense"] { #expect(outcome.errors.contains(part)) }
    }

    @Test func environmentAndFile() throws {
      let folder = try TemporaryFolder()
      let file = try folder.write("# limits\nmax-target-bytes = 100\nvia = from-file\n", to: "sky.conf")
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess(
        replicas: ["\(origin.address)"], flags: ["--config", file], environment: ["SKY_PROXY_VIA": "from-variable"])
      try check(proxy) {
        #expect(try proxy.ask("GET", "/" + String(repeating: "x", count: 200)).status == 414)
        _ = try proxy.ask()
        #expect(origin.lastRequest?.fields["via"] == "1.1 from-variable")
      }
    }

    @Test func aPortInUse() throws {
      let other = try Listener()
      defer { other.stop() }
      let outcome = try call("--listen", "\(other.address)", "--replica", "127.0.0.1:1")
      #expect(outcome.exit == .code(1))
      #expect(outcome.errors.contains("\(other.address)") && outcome.errors.contains("in use"), "\(outcome.errors)")
      #expect(outcome.errors.contains("another port"), "it says what to do")
    }

    @Test(arguments: [
      ("--listen", "203.0.113.7:8080", "ip addr"), ("--listen", "unix:/no/such/folder/s", "create its folder"),
      ("--admin", "unix:/no/such/folder/s", "create it"),
    ])
    func anAddressThatIsNotHere(flag: String, address: String, cure: String) throws {
      let listen = flag == "--listen" ? [] : ["--listen", "127.0.0.1:0"]
      let outcome = try run(Places.program("sky-proxy"), listen + [flag, address, "--replica", "127.0.0.1:1"])
      #expect(outcome.exit == .code(1))
      #expect(outcome.errors.contains("\(flag) \(address)") && outcome.errors.contains(cure), "\(outcome.errors)")
    }

    @Test func limitsThatAreTooLow() throws {
      func under(_ limit: String, _ flags: String) throws -> Outcome {
        try run("/bin/sh", ["-c", "ulimit \(limit) && exec \(Places.program("sky-proxy")) \(flags)"])
      }
      let descriptors = try under("-n 64", "--print-plan")
      #expect(descriptors.errors.contains("raise it") && !descriptors.errors.contains("-9"), "\(descriptors.errors)")
      let memory = try under("-v 300000", "--listen 127.0.0.1:0 --replica 127.0.0.1:1")
      #expect(memory.exit == .code(1) && memory.errors.contains("ulimit -v"), "\(memory.errors)")
    }

    @Test func aSecondProxyOnTheSamePort() throws {
      let origin = try Origin.named("a")
      try withProxy([origin]) { proxy in
        let outcome = try call("--listen", "\(proxy.address)", "--replica", "127.0.0.1:1")
        #expect(outcome.exit == .code(1), "two proxies would share the port's connections: \(outcome.errors)")
        try expectServed(proxy)
      }
    }

    @Test func anAdminAddressThatOthersCouldReach() throws {
      let outcome = try call("--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0")
      #expect(outcome.exit != .code(0) && outcome.exit != nil)
      #expect(outcome.errors.contains("--admin"))
    }

    @Test func printPlan() throws {
      let outcome = try call(
        "--print-plan", "--max-connections", "100", "--workers", "2", "--listen", ":81", "--admin", "127.0.0.1:82")
      #expect(outcome.exit == .code(0))
      for word in ["slots", "blocks", "buffers", "ring", "total", "file descriptors", ":81", "127.0.0.1:82"] {
        #expect(outcome.output.contains(word), "\(word) in: \(outcome.output)")
      }
    }
  }

  @Suite struct Addresses {
    @Test func ipv6() throws {
      guard (try? Listener(.ipv6("::1", 0))) != nil else {
        print("note: no IPv6 on this machine")
        return
      }
      let origin = try Origin(on: .ipv6("::1", 0)) { visit in
        while let request = try visit.request() {
          try visit.send(responseText(request.fields["x-forwarded-for"] ?? "none"))
        }
      }
      defer { origin.stop() }
      let proxy = try ProxyProcess(replicas: ["\(origin.address)"], listen: ["[::1]:0"])
      try check(proxy) { () throws in
        let response = try proxy.ask()
        #expect(response.status == 200 && response.text.contains("::1"))
      }
    }

    @Test func unixSockets() throws {
      let folder = try TemporaryFolder()
      let origin = try Origin.answering(on: .unix(folder.file("replica.sock"))) { responseText("over \($0.target)") }
      defer { origin.stop() }
      let path = folder.file("front.sock")
      let proxy = try ProxyProcess(replicas: ["\(origin.address)"], listen: ["unix:\(path)"], workers: 2)
      try check(proxy) { () throws in
        for index in 0..<10 { #expect(try proxy.ask("GET", "/\(index)").text == "over /\(index)") }
        if Places.hasCurl {
          #expect(try curl(["--unix-socket", path, "http://localhost/c"]).output == "over /c")
        }
      }
    }

    @Test func aStaleUnixSocketIsReplacedAndALiveOneIsNot() throws {
      let folder = try TemporaryFolder()
      let path = folder.file("front.sock")
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let first = try ProxyProcess(replicas: ["\(origin.address)"], listen: ["unix:\(path)"])
      let outcome = try run(try Places.program("sky-proxy"), ["--listen", "unix:\(path)", "--replica", "127.0.0.1:1"])
      #expect(outcome.exit == .code(1))
      try expectServed(first)
      first.child.end()
      let second = try ProxyProcess(replicas: ["\(origin.address)"], listen: ["unix:\(path)"])
      try check(second) { try expectServed(second) }
    }

    @Test func severalListeners() throws {
      let folder = try TemporaryFolder()
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess(
        replicas: ["\(origin.address)"],
        listen: ["127.0.0.1:0", "127.0.0.2:0", "unix:\(folder.file("front.sock"))"])
      try check(proxy) {
        #expect(proxy.addresses.count == 3)
        for address in proxy.addresses {
          let wire = try Wire(to: address)
          try wire.send(requestText())
          #expect(try wire.readResponse().status == 200, "\(address)")
        }
      }
    }

    @Test func replicasByName() throws {
      let origin = try Origin.named("a")
      defer { origin.stop() }
      let proxy = try ProxyProcess(replicas: ["localhost:\(origin.address.port)"])
      try check(proxy) { #expect(eventually { try proxy.ask().status == 200 }) }
    }

    @Test func severalWorkers() throws {
      let origins = try ["a", "b", "c"].map { try Origin.named($0) }
      try withProxy(origins, workers: 4) { proxy in
        let hammer = Hammer(proxy.address, clients: 16)
        #expect(eventually { hammer.answered >= 1000 })
        hammer.stop()
        #expect(hammer.problems == [])
        let counts = origins.map(\.requests.count)
        #expect(counts.allSatisfy { $0 > 100 }, "\(counts)")
        #expect(try proxy.metric("skyproxy_workers") == 4)
        let arrivals = try proxy.metric("skyproxy_arrivals_total")
        #expect(Int(arrivals) == counts.reduce(0, +))
      }
    }

    /// In-flight counts are shared: least load holds across workers.
    @Test func workersShareTheLimit() throws {
      let go = Event()
      let origin = try Origin { visit in
        while try visit.request() != nil {
          go.wait()
          try visit.send(responseText("ok"))
        }
      }
      try withProxy([origin], "--max-in-flight", "3", workers: 4) { proxy in
        let wires = try (0..<12).map { _ in
          let wire = try proxy.connect()
          try wire.send(requestText())
          return wire
        }
        #expect(eventually { try proxy.metric("skyproxy_arrivals_total") == 12 })
        #expect(eventually { origin.requests.count == 3 })
        #expect(always(for: 0.1) { try origin.requests.count == 3 && proxy.inFlight() == 3 })
        go.happen()
        for wire in wires { #expect(try wire.readResponse().status == 200) }
      }
    }
  }
}
