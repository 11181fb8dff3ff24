// The configuration: precedence of its sources, values and their errors, help.

import ProxyWire
import Testing

@testable import ProxyCore

/// What a start needs besides the flag a test is about.
private let somewhere = ["--replica=10.9.9.9:9"]

private func load(
  _ arguments: [String] = [], _ environment: [String: String] = [:], file: String? = nil
) -> ConfigOutcome {
  ProxyConfig.load(
    ConfigSources(arguments: arguments, environment: environment) { path throws(ConfigProblem) in
      guard let file, path == "proxy.conf" else {
        throw ConfigProblem("cannot read \(path): No such file or directory")
      }
      return Array(file.utf8)
    })
}

private func config(
  _ arguments: [String] = somewhere, _ environment: [String: String] = [:], file: String? = nil
) throws -> ProxyConfig {
  let given = file == nil ? arguments : arguments + ["--config", "proxy.conf"]
  guard case .start(let config, _) = load(given, environment, file: file) else {
    throw ConfigProblem("\(load(given, environment, file: file))")
  }
  return config
}

private func problems(
  _ arguments: [String] = somewhere, _ environment: [String: String] = [:], file: String? = nil
) -> [String] {
  let given = file == nil ? arguments : arguments + ["--config", "proxy.conf"]
  guard case .refuse(let problems) = load(given, environment, file: file) else { return [] }
  return problems
}

@Suite struct ConfigDefaultsTests {
  @Test func areAsDocumented() throws {
    let second: UInt64 = 1_000_000_000
    let c = ProxyConfig()
    #expect(c.listen == [.ipv4(0x7F00_0001, port: 8080)])
    #expect(c.admin.isEmpty && c.replicas.isEmpty)
    #expect(c.policy == .leastLoad)
    #expect(c.workers == 0 && c.maxConnections == 10_000 && c.maxInFlight == 0 && c.queueSize == 1024)
    #expect(c.queueTimeoutNs == 30 * second)
    #expect(c.maxHeadBytes == 65_536 && c.maxTargetBytes == 16_384 && c.maxFields == 256 && c.maxBodyBytes == 0)
    #expect(c.headTimeoutNs == 10 * second && c.idleTimeoutNs == 75 * second && c.connectTimeoutNs == 5 * second)
    #expect(c.responseTimeoutNs == 3600 * second && c.streamTimeoutNs == 600 * second)
    #expect(c.tunnelTimeoutNs == 3600 * second && c.drainTimeoutNs == 30 * second)
    // As long as SkyServe lets a replica drain.
    #expect(c.drainDeadlineNs == 120 * second)
    // uvicorn closes at 5 s.
    #expect(c.poolIdleTimeoutNs == 3 * second && c.poolSize == 256)
    #expect(c.lingerTimeoutNs == 5 * second && c.lingerTotalNs == 30 * second)
    #expect(c.tcpKeepaliveNs == 30 * second && c.tcpUserTimeoutNs == 60 * second)
    #expect(c.halfCloseGraceNs == second / 100 && c.clientHalfClose == .leave)
    #expect(c.maxAttempts == 3 && c.retryBudgetPercent == 20 && c.retryBurst == 1000)
    #expect(c.ejectAfter == 3 && c.eject5xx == 5)
    #expect(c.ejectMinNs == second / 4 && c.ejectMaxNs == 8 * second)
    #expect(c.buffers == 1024 && c.bufferSize == 65_536 && c.streamWindow == 524_288 && c.batchWaitNs == 0)
    #expect(c.forwarded == .replace && c.viaName == "sky-proxy" && c.requestId)
    #expect(c.accessLog == .off && c.accessLogFormat == .json && !c.accessLogQuery)
    #expect(c.resolveIntervalNs == 30 * second && c.maxReplicas == 16_384 && c.reportIntervalNs == second)
    #expect(!c.printPlan && c.configFile == nil)
  }

  @Test func areWithinTheirOwnChecks() {
    guard case .start(_, let warnings) = load(somewhere) else {
      Issue.record("\(load(somewhere))")
      return
    }
    #expect(warnings.isEmpty)
  }
}

@Suite struct ConfigRowTests {
  private static let rows = ConfigRow.all.map(\.name)

  @Test func namesAreUnique() {
    #expect(Set(Self.rows).count == Self.rows.count)
    #expect(Set(ConfigRow.all.map(\.variable)).count == Self.rows.count)
    #expect(ConfigRow.named("max-in-flight")?.variable == "SKY_PROXY_MAX_IN_FLIGHT")
  }

  /// Each sample of each row says the same by either way of writing a flag, as a variable and as a line of the file,
  /// and what is shown of it is read back as the same.
  @Test(arguments: rows) func everySourceSaysTheSame(_ name: String) throws {
    let row = try #require(ConfigRow.named(name))
    let base = name == "replica" ? [] : somewhere
    // Values that only go with certain others.
    let extra =
      switch name {
      case "max-head-bytes": ["--max-target-bytes=64"]
      case "eject-min": ["--eject-max=1h"]
      case "eject-max": ["--eject-min=1ms"]
      case "stream-window": ["--buffer-size=4k"]
      default: [String]()
      }
    for sample in row.kind.samples {
      let value = try config(base + extra + ["--\(name)=\(sample)"])
      if !row.kind.isSwitch { #expect(try config(base + extra + ["--\(name)", sample]) == value) }
      if !sample.isEmpty { #expect(try config(base + extra, [row.variable: sample]) == value) }
      var fromFile = try config(base + extra, file: "# a comment\n\n \(name) =  \(sample) # more\n")
      #expect(fromFile.configFile == "proxy.conf")
      fromFile.configFile = nil
      #expect(fromFile == value)
      for shown in row.kind.show(value) where !row.kind.isRepeatable {
        #expect(try config(base + extra + ["--\(name)=\(shown)"]) == value)
      }
    }
    if row.kind.isRepeatable {
      let all = try config(row.kind.samples.flatMap { ["--\(name)", $0] } + base)
      #expect(row.kind.show(all).count == row.kind.samples.count)
      #expect(try config(base, [row.variable: row.kind.samples.joined(separator: " , ")]) == all)
      var fromFile = try config(base, file: row.kind.samples.map { "\(name)=\($0)\r\n" }.joined())
      fromFile.configFile = nil
      #expect(fromFile == all)
      #expect(try config(base + row.kind.show(all).map { "--\(name)=\($0)" }) == all)
    }
  }

  @Test(arguments: rows) func badValuesAreNamed(_ name: String) throws {
    let row = try #require(ConfigRow.named(name))
    if row.kind.samples.isEmpty || name == "access-log" { return }
    let bad = "\u{1b}nonsense"
    let said = problems(somewhere + ["--\(name)=\(bad)"])
    #expect(said.count == 1)
    #expect(said.first?.utf8.starts(with: "--\(name): '\\u{1b}nonsense'".utf8) == true, "\(said)")
    #expect(problems(somewhere, [row.variable: bad]).first?.utf8.starts(with: "\(row.variable): ".utf8) == true)
    #expect(
      problems(somewhere, file: "\n\(name) = \(bad)\n").first?.utf8.starts(with: "proxy.conf:2: \(name): ".utf8) == true
    )
    if !row.kind.isSwitch {
      #expect(problems(somewhere + ["--\(name)"]).first?.utf8.starts(with: "--\(name): needs a value".utf8) == true)
    }
  }

  @Test func helpIsCompleteAndNarrow() {
    guard case .answer(let help) = load(["--nonsense", "--help"]) else {
      Issue.record("no help")
      return
    }
    #expect(load(["-h"]) == .answer(help))
    for line in help.split(separator: "\n") { #expect(line.count <= 80, "\(line)") }
    let words = help.split { $0 == " " || $0 == "\n" }
    for row in ConfigRow.all {
      #expect(words.contains { $0 == "--\(row.name)" })
      for value in row.defaults where !row.kind.isSwitch {
        #expect(words.contains { $0 == "\(value)." }, "\(row.name)")
      }
    }
    for group in ConfigRow.Group.allCases {
      #expect(help.contains("\n\(group.rawValue)\n"))
      #expect(ConfigRow.all.contains { $0.group == group })
    }
  }

  @Test func markdownIsComplete() {
    let lines = ProxyConfig.markdown().split(separator: "\n")
    for row in ConfigRow.all { #expect(lines.filter { $0.hasPrefix("| `--\(row.name)` |") }.count == 1) }
    for line in lines {
      let bars = zip(line, " " + line).filter { $0.0 == "|" && $0.1 != "\\" }.count
      #expect(bars == 5, "\(line)")
    }
  }

  @Test func tellsTheVersion() {
    #expect(load(["--version"]) == .answer("sky-proxy \(ProxyVersion.text)\n"))
  }

  @Test func settingsShowWhatIsInForce() throws {
    let settings = try config(["--replica=a:1;weight=2", "--replica=b:1", "--via=", "--idle-timeout=90"]).settings
    #expect(settings.first { $0.name == "replica" }?.values == ["a:1;weight=2", "b:1"])
    #expect(settings.first { $0.name == "via" }?.values == [""])
    #expect(settings.first { $0.name == "idle-timeout" }?.values == ["90s"])
    #expect(settings.first { $0.name == "help" } == nil)
  }
}

@Suite struct ConfigPrecedenceTests {
  @Test func argumentsOverEnvironmentOverFileOverDefault() throws {
    let file = "workers = 1\n"
    let environment = ["SKY_PROXY_WORKERS": "2"]
    #expect(try config().workers == 0)
    #expect(try config(file: file).workers == 1)
    #expect(try config(somewhere, environment, file: file).workers == 2)
    #expect(try config(somewhere + ["--workers=3"], environment, file: file).workers == 3)
  }

  @Test func aListReplacesTheLowerOne() throws {
    let file = "listen = :1\nlisten = :2\n"
    let environment = ["SKY_PROXY_LISTEN": ":3,:4"]
    let ports = { (config: ProxyConfig) in config.listen.map(\.port) }
    #expect(try ports(config(file: file)) == [1, 2])
    #expect(try ports(config(somewhere, environment, file: file)) == [3, 4])
    #expect(try ports(config(somewhere + ["--listen=:5"], environment, file: file)) == [5])
  }

  @Test func theFileMayBeNamedByTheEnvironment() throws {
    guard case .start(let config, _) = load(somewhere, ["SKY_PROXY_CONFIG": "proxy.conf"], file: "workers=9") else {
      Issue.record("not started")
      return
    }
    #expect(config.workers == 9)
    #expect(problems(somewhere + ["--config=other"]) == ["--config: cannot read other: No such file or directory"])
  }

  @Test func anEmptyVariableIsNotSet() throws {
    #expect(try config(somewhere, ["SKY_PROXY_WORKERS": "", "SKY_PROXY_VIA": ""]) == config())
  }

  /// Kubernetes sets the first five for a service named sky-proxy; an image may set the next.
  @Test func strangersInTheEnvironmentAreLeftAlone() throws {
    let strangers = [
      "SKY_PROXY_PORT": "tcp://10.0.0.1:80", "SKY_PROXY_SERVICE_HOST": "10.0.0.1", "SKY_PROXY_SERVICE_PORT": "80",
      "SKY_PROXY_PORT_80_TCP": "tcp://10.0.0.1:80", "SKY_PROXY_PORT_80_TCP_ADDR": "10.0.0.1", "SKY_PROXY_VERSION": "3",
      "PATH": "/bin",
    ]
    #expect(load(somewhere, strangers) == load(somewhere))
    guard case .start(_, let warnings) = load(somewhere, ["SKY_PROXY_WORKER": "3"]) else {
      Issue.record("not started")
      return
    }
    #expect(warnings == ["the environment variable SKY_PROXY_WORKER is not known, did you mean SKY_PROXY_WORKERS?"])
  }
}

@Suite struct ConfigRefusalTests {
  private static let cases: [(arguments: [String], problem: String)] = [
    (["--lisen=:80"], "unknown flag '--lisen', did you mean '--listen'?"),
    (["--max_in_flight", "3"], "unknown flag '--max_in_flight', did you mean '--max-in-flight'?"),
    (["--zzz"], "unknown flag '--zzz'; see --help"),
    (["-workers"], "unexpected argument '-workers', did you mean '--workers'?"),
    (["10.0.0.1:80"], "unexpected argument '10.0.0.1:80'; see --help"), (["--"], "unexpected argument '--'"),
    ([""], "unexpected argument ''"),
    (["--workers", "1", "--workers", "1"], "--workers: is given twice"),
    (["--workers="], "--workers: needs a value; write 0...256"),
    (["--workers", "--listen=:80"], "--workers: needs a value"),
    (["--workers=-1"], "--workers: '-1' is not a whole number; write 0...256, 0 or off = one per core"),
    (["--workers=257"], "--workers: '257' is out of range; write 0...256, 0 or off = one per core"),
    (["--workers=99999999999999999999"], "is not a whole number"),
    (["--max-connections=off"], "is not a whole number; write 1...65536"),
    (["--max-connections=0"], "'0' is out of range; write 1...65536"),
    (
      ["--policy=least_laod"],
      "--policy: 'least_laod' is not one of least_load, round_robin, instance_aware_least_load, did you mean 'least_load'?"
    ),
    (["--request-id=yes"], "--request-id: 'yes' is neither on nor off"),
    (["--print-plan=1"], "--print-plan: '1' is neither on nor off"),
    (
      ["--idle-timeout=5x"],
      "--idle-timeout: '5x' is not a duration; write one such as 500ms, 5s, 2m or 1h within 10ms...24h"
    ),
    (["--idle-timeout=25h"], "'25h' is out of range; write 10ms...24h, 0 or off = no deadline"),
    (["--queue-timeout=off"], "is not a duration"), (["--eject-min=0"], "out of range"),
    (["--max-head-bytes=128k"], "'128k' is out of range; write 1k...64k"),
    (["--max-head-bytes=64kb"], "is not a size; write a number such as"),
    (["--buffers=1000"], "'1000' is out of range; write 64...32768, a power of two"),
    (["--buffer-size=5000"], "write 4k...256k, a multiple of 4k"), (["--retry-budget=101"], "write 0...100 percent"),
    (["--listen=8080"], "--listen: '8080' is a port alone; write :8080 or 127.0.0.1:8080"),
    (["--listen=a.b:80"], "is a name, not an address of this machine"), (["--listen=:99999"], "outside 0...65535"),
    (["--listen=:80-90"], "not a number"),
    (["--listen=:80", "--listen=0.0.0.0:80"], "--listen: '0.0.0.0:80' is given twice"),
    (["--listen="], "--listen: needs a value"), (["--admin=0.0.0.0:80"], "can be reached from outside"),
    (["--admin=:80"], "write unix:PATH or 127.0.0.1:PORT"), (["--admin=[::]:80"], "can be reached from outside"),
    (["--replica=foo"], "--replica: 'foo' is not host:port; write 10.0.0.7:8080, [::1]:8080 or unix:/path"),
    (["--replica=a:0"], "outside 1...65535"), (["--replica=a:1", "--replica=a:1;weight=2"], "is given twice"),
    (["--replica=a:1;wieght=2"], "unknown replica option 'wieght', did you mean 'weight'?"),
    (["--replica=a:1;zzz=2"], "the options are weight and max_in_flight"),
    (["--replica=a:1;"], "'' is not option=value"),
    (["--replica=a:1;weight=0"], "write 0.01...1000"), (["--replica=a:1;weight=nan"], "write 0.01...1000"),
    (["--replica=a:1;max_in_flight=x"], "write 0...1000000"),
    (["--replica=a:1;weight=1;weight=2"], "given twice for one replica"),
    (["--via=a b"], "is not a name for Via"), (["--access-log=on"], "'on' names no place"),
    (["--access-log="], "needs a value"),
    (["--max-head-bytes=8k"], "--max-target-bytes: 16k is more than --max-head-bytes 8k"),
    (["--eject-min=9s"], "--eject-min: 9s is more than --eject-max 8s"),
    (["--buffer-size=256k", "--stream-window=64k"], "--stream-window: 64k is less than --buffer-size 256k"),
    (["--listen=127.0.0.1:80", "--admin=127.0.0.1:80"], "--admin: 127.0.0.1:80 is also given to --listen"),
    (["--replica=127.0.0.1:8080"], "requests would run in a circle"),
    (["--replica=a:1", "--replica=a:2", "--max-replicas=1"], "replicas are more than --max-replicas 1"),
  ]

  @Test(arguments: cases) func says(_ row: (arguments: [String], problem: String)) {
    let said = problems(somewhere + row.arguments)
    #expect(said.count == 1)
    #expect(said.first?.contains(row.problem) == true, "\(said)")
  }

  @Test func allAtOnce() {
    #expect(problems(["--workers=x", "--zzz", "3", "--policy=y"]).count == 3)
  }

  @Test func somewhereToSendRequestsIsNeeded() {
    let nothing = "there is nothing to send requests to"
    #expect(problems([]).first?.contains(nothing) == true)
    #expect(problems(["--admin=127.0.0.1:9090"]).first?.contains(nothing) == true)
    #expect(problems(["--admin=unix:/run/admin.sock"]).isEmpty)
    #expect(problems(["--print-plan"]).isEmpty)
  }

  @Test(arguments: [
    ("workers", "proxy.conf:1: 'workers' is not key = value"), ("[proxy]", "there are no sections"),
    ("\n\nlisen = :80", "proxy.conf:3: unknown key 'lisen', did you mean 'listen'?"),
    ("zzz = 1", "unknown key 'zzz'; see --help"),
    ("config = x", "proxy.conf:1: unknown key 'config': it can only be given as a flag"),
    ("help = on", "only be given as a flag"),
    ("via = \"x\"", "proxy.conf:1: via: values are not quoted"),
    ("workers = 1\nworkers = 2", "proxy.conf:2: workers: is given twice"),
    ("workers =", "proxy.conf:1: workers: needs a value"), ("workers = 1\0", "not UTF-8 text"),
    ("= 1", "unknown key ''"),
  ])
  func namesTheLine(_ file: String, _ problem: String) {
    let said = problems(somewhere, file: file)
    #expect(said.count == 1)
    #expect(said.first?.contains(problem) == true, "\(said)")
  }

  @Test func aCommentNeedsASpaceBeforeIt() throws {
    let file = "#x\n\t# y\nadmin = unix:/run/a#b # c\nvia = # none\n"
    #expect(try config(file: file).admin == [.unix(path: "/run/a#b")])
    #expect(try config(file: file).viaName == "")
  }

  @Test func warnsOfAPoolThatOutlivesUvicorn() {
    guard case .start(_, let warnings) = load(somewhere + ["--pool-idle-timeout=5s"]) else {
      Issue.record("not started")
      return
    }
    #expect(warnings.count == 1 && warnings.first?.contains("uvicorn") == true)
  }

  @Test func anyFileIsStood() {
    var state: UInt64 = 7
    let sample = Array("listen = :80 # x\nreplica = a:1;weight=2\nvia = x\nidle-timeout = 1.5s\n".utf8)
    for _ in 0..<2_000 {
      var bytes = sample
      for _ in 0..<3 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        bytes[Int(state >> 33) % bytes.count] = UInt8(truncatingIfNeeded: state >> 24)
      }
      _ = ProxyConfig.load(
        ConfigSources(arguments: ["--config=x"]) { _ throws(ConfigProblem) in bytes })
    }
  }
}

@Suite struct ConfigUnitsTests {
  @Test(
    arguments: [
      ("0", 0), ("5", 5_000_000_000), ("5s", 5_000_000_000), ("1.5s", 1_500_000_000), ("0.25", 250_000_000),
      ("500ms", 500_000_000), ("100us", 100_000), ("2m", 120_000_000_000), ("1h", 3_600_000_000_000),
      ("0.5h", 1_800_000_000_000), ("", nil), ("s", nil), ("-1s", nil), ("1d", nil), ("1 s", nil), ("1.s", nil),
      (".5s", nil), ("1.2.3s", nil), ("0.5us", nil), ("1S", nil), ("1ns", nil), ("99999999999999999999", nil),
      ("9999999999h", nil), ("18446744073709551615", nil), ("0.0000001h", nil), ("1.999999h", 7_199_996_400_000),
    ] as [(String, UInt64?)])
  func readsDurations(_ text: String, _ ns: UInt64?) {
    #expect(ConfigUnits.duration(text) == ns)
    if let ns { #expect(ConfigUnits.duration(ConfigUnits.text(durationNs: ns)) == ns) }
  }

  @Test(
    arguments: [
      ("0", 0), ("4096", 4096), ("64k", 65_536), ("1K", 1024), ("1m", 1 << 20), ("1g", 1 << 30), ("3g", 3 << 30),
      ("", nil),
      ("k", nil), ("-1", nil), ("1.5k", nil), ("1kb", nil), ("1t", nil), ("99999999999999999999", nil),
      ("9223372036854775807", .max), ("9223372036854775807k", nil), ("8589934592g", nil),
    ] as [(String, Int?)])
  func readsSizes(_ text: String, _ size: Int?) {
    #expect(ConfigUnits.size(text) == size)
    if let size { #expect(ConfigUnits.size(ConfigUnits.text(size: size)) == size) }
  }

  @Test func writesTheShortest() {
    #expect(ConfigUnits.text(durationNs: 75_000_000_000) == "75s")
    #expect(ConfigUnits.text(durationNs: 7_200_000_000_000) == "2h")
    #expect(ConfigUnits.text(size: 1536) == "1536")
    #expect(ConfigUnits.text(size: 3 << 20) == "3m")
  }
}

@Suite struct ConfigAddressTests {
  @Test(arguments: [
    "10.0.0.7:8080", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:8080", "[2001:db8::ff]:1", "[::ffff:1.2.3.4]:5",
    "unix:/run/x.sock", "unix:/" + String(repeating: "x", count: 106),
  ])
  func comesBackTheSame(_ text: String) throws {
    let endpoint = try Endpoint.parse(text, ports: 0...65535)
    let address = try #require(SocketAddress(endpoint))
    #expect(address.endpoint == endpoint)
    #expect(address.text == text)
    #expect(address.port == endpoint.port ?? 0)
  }

  @Test func namesHaveNoAddressYet() {
    #expect(SocketAddress(.name("a", port: 1)) == nil)
    #expect(SocketAddress(.unix(path: String(repeating: "x", count: 108))) == nil)
    #expect(SocketAddress(.unix(path: "")) == nil)
    #expect(SocketAddress().text == "-")
  }

  @Test func isWhatTheKernelWants() throws {
    var six = try #require(SocketAddress(Endpoint.parse("[102:304:506:708:90a:b0c:d0e:f10]:4660")))
    #expect(six.length == 28)
    #expect(six.withBytes { Array($0[0..<28]) } == [10, 0, 0x12, 0x34, 0, 0, 0, 0] + Array(1...16) + [0, 0, 0, 0])
    var four = try #require(SocketAddress(Endpoint.parse("1.2.3.4:4660")))
    #expect(four.length == 16)
    #expect(four.withBytes { Array($0[0..<8]) } == [2, 0, 0x12, 0x34, 1, 2, 3, 4])
    var unix = try #require(SocketAddress(Endpoint.parse("unix:/a")))
    #expect(unix.length == 5)
    #expect(unix.withBytes { Array($0[0..<5]) } == [1, 0, 47, 97, 0])
  }
}
