// The rules of local replicas that need no process: where sockets go, what a workdir leaves behind, which machine does
// for which task, who gets which GPU.

import Foundation
import SimKit
import TestSupport
import Testing

@testable import ControlCore

@Suite struct LocalRulesTests {
  // MARK: Where sockets go

  static let wild4 = HostAddress.v4(0)
  static let loop4 = HostAddress.v4(0x7F00_0001)
  static let wild6 = HostAddress.v6(high: 0, low: 0)
  static let loop6 = HostAddress.v6(high: 0, low: 1)
  static let lan = HostAddress.v4(0x0A00_0005)
  static let far = HostAddress.v4(0x0808_0808)
  static let mine: UInt32 = 0x7F48_0309

  @Test(
    arguments: [
      (wild4, 8080, .own), (loop4, 8080, .own), (wild6, 8080, .own), (loop6, 8080, .own), (lan, 8080, .own),
      (.v4(0x7F00_0101), 8080, .own), (.v4(mine), 8080, .own),
      // Nobody's, or somebody else's.
      (far, 8080, .asAsked), (.v4(0x7F48_030A), 8080, .asAsked), (.v6(high: 0x2001_0DB8 << 32, low: 1), 8080, .asAsked),
      // The kernel's choice.
      (loop4, 0, .own), (wild4, 0, .asAsked), (wild6, 0, .asAsked), (loop6, 0, .asAsked), (lan, 0, .asAsked),
    ] as [(HostAddress, UInt16, PortBook.BindPlan)])
  func aBindGoesTo(_ host: HostAddress, _ port: UInt16, _ plan: PortBook.BindPlan) {
    let book = PortBook(address: Self.mine)
    for kind in [TransportKind.tcp, .udp] {
      let place = ListenPlace(host: host, isOnlyV6: false)
      #expect(book.planBind(kind, place, port: port) { $0 == Self.lan } == plan)
    }
  }

  /// What the kernel would allow side by side, and no more, finds a second seat.
  @Test(
    arguments: [
      (wild4, false, wild6, true, true), (loop4, false, loop6, false, true), (loop4, false, loop6, true, true),
      (loop4, false, lan, false, true), (wild4, false, loop6, true, true),
      (wild4, false, wild4, false, false), (wild4, false, loop4, false, false), (wild4, false, wild6, false, false),
      (loop4, false, wild6, false, false), (wild6, true, loop6, true, false), (loop4, false, loop4, false, false),
    ] as [(HostAddress, Bool, HostAddress, Bool, Bool)])
  func twoSocketsOfOnePort(_ a: HostAddress, _ aOnly6: Bool, _ b: HostAddress, _ bOnly6: Bool, _ both: Bool) {
    let places = [ListenPlace(host: a, isOnlyV6: aOnly6), ListenPlace(host: b, isOnlyV6: bOnly6)]
    for (first, second) in [(places[0], places[1]), (places[1], places[0])] {
      #expect(first.isApart(from: second) == both)
      var book = PortBook(address: Self.mine)
      book.didBind(.tcp, first, port: 80)
      #expect(book.planBind(.tcp, second, port: 80) { $0 == Self.lan } == (both ? .secondSeat : .own))
      #expect(book.planBind(.udp, second, port: 80) { $0 == Self.lan } == .own)
      #expect(book.planBind(.tcp, second, port: 81) { $0 == Self.lan } == .own)
    }
  }

  @Test func connectionsFollowWhatWasBound() {
    var book = PortBook(address: Self.mine)
    let all = [TransportKind.tcp, .udp]
    func goes(_ host: HostAddress, _ port: UInt16, _ kinds: [TransportKind]) -> Bool {
      book.redirects(kinds, host, port: port) { $0 == Self.lan }
    }
    #expect(!goes(Self.loop4, 80, all))
    book.didBind(.tcp, ListenPlace(host: Self.wild4, isOnlyV6: false), port: 80)
    for host in [Self.wild4, Self.loop4, Self.wild6, Self.loop6, Self.lan, .v4(0x7F00_0101)] {
      #expect(goes(host, 80, all))
      #expect(goes(host, 80, [.tcp]))
      #expect(!goes(host, 80, [.udp]))
      #expect(!goes(host, 81, all))
    }
    for host in [Self.far, .v4(Self.mine), .v4(0x7F48_030A)] { #expect(!goes(host, 80, all)) }
  }

  @Test func secondSeatsAreOfOneReplicaAlone() {
    let book = PortBook(address: Self.mine)
    let other = PortBook(address: Self.mine + 1)
    #expect(book.secondAddress != other.secondAddress && book.secondAddressV6 != other.secondAddressV6)
    #expect(book.secondAddress >> 23 == 0x7F80_0000 >> 23)
  }

  @Test func socketAddressesAreReadAsTheyAreWritten() throws {
    for host in [
      Self.wild4, Self.loop4, Self.far, Self.wild6, Self.loop6, .v6(high: 0x2001_0DB8_0000_0001, low: 0xFFEE),
    ] {
      let name = SocketName(host, port: 8080)
      name.withAddress { address, length in
        let bytes = UnsafeRawBufferPointer(start: address, count: Int(length))
        #expect(SocketName(bytes) == name)
        #expect(SocketName(UnsafeRawBufferPointer(rebasing: bytes[..<8])) == nil)
      }
    }
    let mapped = SocketName(Self.loop4, port: 1).mapped
    #expect(mapped.isV6 && mapped.host == .v6(high: 0, low: 0xFFFF_7F00_0001) && mapped.host.unmapped == Self.loop4)
    var unix = sockaddr_un()
    unix.sun_family = sa_family_t(AF_UNIX)
    withUnsafeBytes(of: &unix) { #expect(SocketName($0) == nil) }
  }

  @Test func addressesAreClaimedOnce() throws {
    let first = try #require(AddressClaim.address(for: "/x/services/web/replicas/1"))
    let second = try #require(AddressClaim.address(for: "/x/services/web/replicas/1"))
    #expect(first.address != second.address)
    for claim in [first, second] {
      #expect(claim.address >> 22 == 0x7F40_0000 >> 22 && (1...254).contains(claim.address & 255))
    }
    let one = try #require(AddressClaim.port(for: "x"))
    let other = try #require(AddressClaim.port(for: "x"))
    #expect(one.port != other.port && one.text == "127.0.0.1")
    withExtendedLifetime((first, second, one, other)) {}
  }

  // MARK: What a workdir leaves behind

  @Test(arguments: [
    ("*.log", "a.log", true), ("*.log", "x/y/a.log", true), ("*.log", "a.logs", false), ("*.log", ".log", true),
    ("/build", "build", true), ("/build", "x/build", false), ("build", "x/build", true),
    ("data/", "data/", true), ("data/", "data", false), ("a/b", "a/b", true), ("a/b", "x/a/b", false),
    ("a/**/b", "a/b", true), ("a/**/b", "a/x/y/b", true), ("a/**/b", "a/x/y/c", false), ("**/c", "x/c", true),
    ("a/**", "a/x/y", true), ("a/**", "a/", false), ("a/*", "a/x", true), ("a/*", "a/x/y", false),
    ("[a-c]?.txt", "b1.txt", true), ("[a-c]?.txt", "d1.txt", false), ("[!a-c]x", "dx", true), ("[!a-c]x", "ax", false),
    ("[]x]", "]", true), ("[x", "[x", true), ("\\!x", "!x", true), ("\\#x", "#x", true), ("# x", "# x", false),
    ("x  ", "x", true), ("x\\ ", "x ", true), ("*\n!keep", "keep", false), ("*\n!keep", "other", true),
    ("!keep\n*", "keep", true), ("a*b*c", "axxbyyc", true), ("a*b*c", "axxbyy", false), ("**", "x", true),
    ("", "x", false),
    ("\u{e9}*", "\u{e9}t\u{e9}", true), ("?", "\u{e9}", false),
  ])
  func ignoring(_ rules: String, _ path: String, _ isIgnored: Bool) {
    let isFolder = path.hasSuffix("/")
    #expect(IgnoreRules(rules).ignores(isFolder ? String(path.dropLast()) : path, isFolder: isFolder) == isIgnored)
  }

  /// A pattern of many stars takes no exponential time.
  @Test func manyStars() {
    let rules = IgnoreRules(String(repeating: "*a", count: 40))
    #expect(!rules.ignores(String(repeating: "a", count: 200) + "b", isFolder: false))
    #expect(rules.ignores(String(repeating: "a", count: 200), isFolder: false))
  }

  @Test(
    arguments: [
      ("~/a", "a"), ("~/a/./b//c", "a/b/c"), ("/home/ann/a", "a"), ("a/b", "sky_workdir/a/b"), ("~", nil), ("~/", nil),
      ("~/../x", nil), ("a/../../x", nil), ("/home/anna/x", nil), ("/data", nil), ("~bob/x", nil), ("/home/ann", nil),
    ] as [(String, String?)])
  func placesInAHome(_ destination: String, _ place: String?) {
    #expect(PrivateHome.relative(destination, userHome: "/home/ann") == place)
  }

  @Test(arguments: [
    ("https://me:word@host/x.git", "https://host/x.git"), ("https://host/x@y", "https://host/x@y"),
    ("git@host:x.git", "git@host:x.git"), ("ssh://git@host/x", "ssh://host/x"),
  ])
  func urlsAreShownWithoutPasswords(_ url: String, _ shown: String) {
    #expect(LocalStage.withoutPassword(url) == shown)
  }

  // MARK: GPUs and what fits

  @Test(arguments: [
    ("0, NVIDIA A100-SXM4-80GB, 81920", "A100-80GB"), ("0, NVIDIA A100-SXM4-40GB, 40960", "A100"),
    ("0, NVIDIA A100 80GB PCIe, 81920", "A100-80GB"), ("0, NVIDIA H100 80GB HBM3, 81559", "H100"),
    ("0, NVIDIA H100 NVL, 95830", "H100-NVL"), ("0, NVIDIA H200, 143771", "H200"), ("0, NVIDIA L4, 23034", "L4"),
    ("0, NVIDIA L40S, 46068", "L40S"), ("0, Tesla T4, 15360", "T4"), ("0, Tesla V100-SXM2-16GB, 16384", "V100"),
    ("0, Tesla V100-SXM2-32GB, 32768", "V100-32GB"), ("0, NVIDIA A10G, 23028", "A10G"), ("0, Tesla K80, 11441", "K80"),
    ("0, Tesla P100-PCIE-16GB, 16384", "P100"), ("0, NVIDIA GeForce RTX 4090, 24564", "RTX4090"),
    ("0, NVIDIA RTX A6000, 49140", "RTXA6000"), ("0, NVIDIA RTX 6000 Ada Generation, 49140", "RTX6000-Ada"),
    ("0, NVIDIA GH200 480GB, 97871", "GH200"), ("0, NVIDIA B200, 183359", "B200"),
  ])
  func namesOfGpus(_ line: String, _ name: String) {
    #expect(LocalMachine.gpus(fromNvidiaSmi: line + "\n").map(\.name) == [name])
  }

  @Test func whatNvidiaSmiSays() {
    let gpus = LocalMachine.gpus(fromNvidiaSmi: "0, NVIDIA L4, 23034\n3, NVIDIA L4, [N/A]\nNVIDIA-SMI has failed\n")
    #expect(gpus == [LocalGpu(index: 0, name: "L4", memory: 23034.0 / 1024), LocalGpu(index: 3, name: "L4")])
  }

  static func machine(_ names: String..., cpus: Int = 4, memory: Double = 15.6) -> LocalMachine {
    LocalMachine(cpus: cpus, memory: memory, gpus: names.enumerated().map { LocalGpu(index: $0, name: $1) })
  }

  @Test func whatTheUserDeclares() {
    var local = UserConfig.Local()
    local.cpus = 2
    local.memory = 8
    local.gpus = .declared([.init(name: "t4", count: .whole(1)), .init(name: "H100", count: .whole(2))])
    let limited = Self.machine("A100", "T4", "T4").limited(by: local)
    #expect(limited.cpus == 2 && limited.memory == 8)
    #expect(limited.gpus.map { "\($0.index) \($0.name)" } == ["1 T4", "3 H100", "4 H100"])
    local.gpus = .only([0, 2, 9])
    #expect(Self.machine("A100", "T4", "T4").limited(by: local).gpus.map(\.index) == [0, 2])
    local.gpus = .declared([])
    #expect(Self.machine("A100").limited(by: local).gpus == [])
  }

  static func spec(_ edit: (inout ResourceSpec) -> Void) -> ResourceSpec {
    var spec = ResourceSpec()
    edit(&spec)
    return spec
  }

  static func gpu(_ name: String, _ count: Int) -> ResourceSpec {
    spec { $0.accelerator = Accelerator(name: name, count: .whole(count)) }
  }

  /// As a service file has them under `resources:`.
  static func file(_ resources: String) -> ResourceSpec {
    (try? TaskSpec(yaml: Array("resources:\n  \(resources)\n".utf8), name: "service.yaml"))?.resources.all.first
      ?? ResourceSpec()
  }

  @Test(
    arguments: [
      (
        machine(), gpu("A100", 1),
        "A100:1 was asked; this machine has no GPU. Remove 'accelerators:' from resources, or declare GPUs under 'local: gpus:' in ~/.sky/config.yaml, then: sky api stop"
      ),
      (
        machine("T4", "T4"), gpu("T4", 4),
        "T4:4 was asked; this machine has T4:2. Change 'accelerators:' in resources, or declare GPUs under 'local: gpus:' in ~/.sky/config.yaml, then: sky api stop"
      ),
      (machine(), spec { $0.cpus = "64+" }, "cpus: 64+ was asked; this machine has 4. Lower 'cpus:' in resources."),
      (
        machine(), spec { $0.memory = "32" },
        "memory: 32 (GB) was asked; this machine has 16 GB. Lower 'memory:' in resources."
      ),
      (
        machine(), spec { $0.infra.cloud = "aws" },
        "infra: aws was asked; only this machine is enabled. Remove 'infra:', or set it to 'local'."
      ),
      (
        machine(), spec { $0.instanceType = "m6i.large" },
        "instance_type: m6i.large was asked; this machine is of no cloud's type. Remove 'instance_type:'."
      ),
      (
        machine(), file("image_id: docker:x"),
        "image_id: docker:x was asked; replicas on this machine run without containers. Remove 'image_id:' and install what it holds in 'setup:', or start the container in 'run:'."
      ),
      (
        machine(), file("image_id: {docker: x}"),
        "image_id: docker:x was asked; replicas on this machine run without containers. Remove 'image_id:' and install what it holds in 'setup:', or start the container in 'run:'."
      ),
    ] as [(LocalMachine, ResourceSpec, String)])
  func whatCannotRunHere(_ machine: LocalMachine, _ spec: ResourceSpec, _ words: String) {
    var task = TaskSpec()
    task.resources = .anyOf([spec])
    let error = #expect(throws: InfraError.self) { try LocalFit(machine: machine).candidates(of: task) }
    #expect(error == InfraError(.impossible, words))
  }

  @Test func candidatesInTheirOrder() throws {
    let fit = LocalFit(machine: Self.machine("A100", "T4"))
    var task = TaskSpec()
    let elsewhere = Self.spec { $0.infra.cloud = "gcp" }
    task.resources = .ordered([Self.gpu("H100", 1), elsewhere, Self.gpu("T4", 1), Self.gpu("A100", 1)])
    #expect(try fit.candidates(of: task) == [Self.gpu("T4", 1), Self.gpu("A100", 1)])
    task.resources = .anyOf([elsewhere, Self.gpu("H100", 1)])
    let error = #expect(throws: InfraError.self) { try fit.candidates(of: task) }
    #expect(error?.description.contains("None of the candidates") == true)
    #expect(error?.description.contains("H100:1 was asked; this machine has A100:1, T4:1.") == true)
    task.resources = .anyOf([
      Self.spec {
        $0.infra.cloud = "local"
        $0.cpus = "2+"
        $0.memory = "16.0+"
        $0.useSpot = true
      }
    ])
    #expect(try fit.candidates(of: task).count == 1)
    task.numNodes = 2
    #expect(throws: InfraError.self) { try fit.candidates(of: task) }
  }

  /// However replicas come and go, no GPU has more than one whole share.
  @Test func theLedgerNeverGivesTwice() {
    var chance = Chance()
    let gpus = (0..<5).map { LocalGpu(index: $0, name: $0 < 3 ? "A" : "B") }
    var ledger = LocalGpuLedger(gpus: gpus)
    var holders: [String: [ReplicaOrder.GpuShare]] = [:]
    for step in 0..<4000 {
      let folder = "r\(step)"
      if let victim = holders.keys.sorted().randomElement(using: &chance), Bool.random(using: &chance) {
        ledger.release(victim)
        holders[victim] = nil
      } else if let shares = ledger.choose(
        Bool.random(using: &chance) ? "a" : "B", count: [0.25, 0.5, 0.3, 1, 2, 3].randomElement(using: &chance)!)
      {
        ledger.hold(shares, by: folder)
        holders[folder] = shares
      }
      for gpu in gpus {
        let mine = holders.values.joined().filter { $0.index == gpu.index }
        #expect(
          mine.reduce(0) { $0 + $1.share } <= 1 + 1e-6 && mine.allSatisfy { $0.name == gpu.name },
          "\(chance.replay())")
        if mine.contains(where: { $0.share == 1 }) { #expect(mine.count == 1, "\(chance.replay())") }
      }
    }
    for folder in holders.keys { ledger.release(folder) }
    #expect(ledger.free("A") == 3 && ledger.free("B") == 2)
  }

  // MARK: The run log

  @Test func theRunLogIsTurnedOver() throws {
    let folder = try TemporaryFolder()
    let log = try RunLog(folder.file("run.log"), bytesMax: 100_000)
    let line = Array(String(repeating: "x", count: 999).utf8) + [UInt8(ascii: "\n")]
    for _ in 0..<350 { #expect(write(log.input, line, line.count) == line.count) }
    log.finish()
    let sizes = try ["run.log", "run.log.1"].map {
      try FileManager.default.attributesOfItem(atPath: folder.file($0))[.size] as? Int ?? 0
    }
    #expect(sizes[0] < 100_000 && (100_000..<200_000).contains(sizes[1]), "\(sizes)")
    #expect((sizes[0] + sizes[1]) % 1000 == 0)
  }

  /// A disk that takes nothing loses the log, not the replica.
  @Test func aFullDiskStopsNobody() throws {
    let log = try RunLog("/dev/full")
    let line = [UInt8](repeating: UInt8(ascii: "x"), count: 65_536)
    for _ in 0..<64 { #expect(write(log.input, line, line.count) == line.count) }
    log.finish()
  }

  /// What is shown of what a command wrote.
  static let lastLines: [(written: String, shown: String?)] = [
    ("", nil),
    ("\n  \n----\n", nil),
    ("one\ntwo\n", "two"),
    ("no line feed at its end", "no line feed at its end"),
    (
      "Traceback:\n  File\nModuleNotFoundError: No module named 'vllm'\n\n}\n^^^^\n",
      "ModuleNotFoundError: No module named 'vllm'"
    ),
    ("/r/run.sh: line 12: vllm: command not found\n", "vllm: command not found"),
    ("/other.sh: line 12: vllm: command not found\n", "/other.sh: line 12: vllm: command not found"),
    ("loading 10%\rloading 90%\r\n", "loading 90%"),
    (
      "\u{1B}[1;31mERROR\u{1B}[0m  out\tof\u{7} memory \u{1B}]0;a title\u{7}\u{1B}]8;;http://x\u{1B}\\!",
      "ERROR out of memory !"
    ),
    ("\u{202E}gpj.exe\u{200B}", "gpj.exe"),
    ("über 日本 🙂\n", "über 日本 🙂"),
    ("login with hush-hush failed", "login with <redacted> failed"),
    ("login with hush\u{1B}[0m-hush failed", "login with <redacted> failed"),
    ("key:\nMIIEvQIBADANBgkq\n-----END KEY-----\n", "<redacted>"),
    (String(repeating: "x", count: 300) + "\n", String(repeating: "x", count: 199) + "…"),
    // Where the beginning was lost, nothing is said of what may be the end of a secret.
    ("hush-hu" + String(repeating: "sh", count: 40_000), nil),
    (String(repeating: "noise\n", count: 20_000) + "the end\n", "the end"),
  ]

  @Test(arguments: lastLines)
  func theLastLineThatSaysSomething(_ written: String, _ shown: String?) {
    let secrets = ["hush-hush", "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n", ""]
    for size in [1, 7, 65_536] {
      var tail = LogTail()
      var rest = Array(written.utf8)[...]
      while !rest.isEmpty {
        tail.add(rest.prefix(size))
        rest = rest.dropFirst(size)
      }
      #expect(tail.lastLine(hiding: secrets, script: "/r/run.sh") == shown)
    }
  }
}
