// The tables of `sky serve status`: byte for byte in a pipe, readable on narrow and wide screens.

import ControlCore
import SkyCLI
import TestSupport
import Testing

@Suite struct TableTests {
  private func lines(_ text: String) -> [String] { text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) }

  @Test func theCapturedSample() async {
    let shown = await play("serve", "status", controller: PlayedController(Sample.services), now: Sample.now)
    #expect(shown.exit == 0)
    #expect(shown.errors == "")
    #expect(lines(shown.output) == lines(Sample.text))
  }

  @Test func coloursOnATerminalOnly() async {
    let controller = PlayedController(Sample.services)
    let shown = await play("serve", "status", controller: controller, colors: true, now: Sample.now)
    #expect(shown.output.contains("\u{1B}[36m\u{1B}[1mServices\u{1B}[0m\n"))
    #expect(shown.output.contains("\u{1B}[32mREADY\u{1B}[0m       1/4"), "the blanks after the word stay outside")
    #expect(shown.output.contains("\u{1B}[36mSTARTING\u{1B}[0m"))
    #expect(shown.output.contains("\u{1B}[34mPROVISIONING (waiting for queue admission)\u{1B}[0m"))
    #expect(shown.output.contains("\u{1B}[35mNO_REPLICA\u{1B}[0m"))
    var plain = shown.output
    for code in ["[36m", "[1m", "[32m", "[33m", "[34m", "[35m", "[0m"] { plain = plain.replacing("\u{1B}\(code)", with: "") }
    #expect(lines(plain) == lines(Sample.text))
  }

  static let failing = [
    Sample.service(
      "web", .failed, replicas: [
        Sample.replica(1, 1, .ready, endpoint: "http://127.0.64.1:8080", launched: 90, infra: "Local (this machine)",
          resources: "1x(cpus=2, mem=2, ...)"),
        Sample.replica(
          2, 1, .failed, launched: 90, infra: "Local (this machine)", resources: "1x(cpus=2, mem=2, ...)",
          reason: "run exited with code 127:\n  sh: vllm:\tcommand not found"),
      ])
  ]

  @Test func reasonsAreTheLastColumnAndOneLine() async {
    let shown = await play("serve", "status", controller: PlayedController(Self.failing), now: Sample.now)
    let table = lines(shown.output).drop { !$0.hasPrefix("SERVICE_NAME") }
    let reason = "run exited with code 127: sh: vllm: command not found"
    func padded(_ text: String) -> String { text + String(repeating: " ", count: reason.count - text.count + 2) }
    #expect(table.first?.hasSuffix("  STATUS  " + padded("REASON")) == true)
    #expect(table.contains { $0.hasSuffix("  READY   " + padded("-")) })
    #expect(table.contains { $0.hasSuffix("  FAILED  " + padded(reason)) })
  }

  @Test func verboseAddsColumns() async {
    let shown = await play("serve", "status", "-v", controller: PlayedController(Sample.services), now: Sample.now)
    let titles = lines(shown.output)[1].split(separator: " ").map(String.init)
    #expect(
      titles == [
        "NAME", "VERSION", "UPTIME", "STATUS", "REPLICAS", "ENDPOINT", "AUTOSCALING_POLICY", "LOAD_BALANCING_POLICY",
        "REQUESTED_RESOURCES", "REASON",
      ])
  }

  @Test func aPipeIsNeverCut() async {
    let long = String(repeating: "because ", count: 100)
    let service = Sample.service("web", .failed, replicas: [Sample.replica(1, 1, .failed, reason: long)])
    let shown = await play("serve", "status", controller: PlayedController([service]))
    #expect(shown.output.contains(String(long.dropLast())))
  }

  @Test(arguments: [40, 60, 80, 100, 120, 160, 200])
  func everyLineFitsTheScreen(width: Int) async {
    for services in [Sample.services, Self.failing] {
      for flags in [[], ["-v"]] {
        let controller = PlayedController(services)
        let shown = await play(words: ["serve", "status"] + flags, controller: controller, width: width, now: Sample.now)
        for line in lines(shown.output) {
          #expect(line.count <= width, "\(width): \(line)")
        }
        // Whatever is left out, these stay.
        for word in ["NAME", "STATUS", "ID"] { #expect(shown.output.contains(word)) }
        for replica in services.flatMap(\.replicaInfo) {
          #expect(shown.output.contains(replica.status.rawValue), "\(width): \(shown.output)")
        }
      }
    }
  }

  @Test func reasonsMoveBelowOnANarrowScreen() async {
    let shown = await play(
      "serve", "status", controller: PlayedController(Self.failing), width: 80, now: Sample.now)
    #expect(shown.output.contains("\n  └ run exited with code 127: sh: vllm: command not found\n") || shown.output.hasSuffix(
      "\n  └ run exited with code 127: sh: vllm: command not found\n"))
    #expect(shown.output.contains("http://127.0.64.1:8080"))
  }

  /// The cure stands at its end.
  @Test func aReasonIsNotCutOnAWideScreen() async {
    let reason = String(repeating: "because ", count: 15) + "run this"
    let service = Sample.service("web", .failed, replicas: [Sample.replica(1, 1, .failed, reason: reason)])
    let shown = await play("serve", "status", controller: PlayedController([service]), width: 160, now: Sample.now)
    #expect(shown.output.contains("\n  └ " + reason), "\(shown.output)")
    #expect(!shown.output.contains("…"))
  }

  /// What is told at length is told once, and not where it makes the table wide.
  @Test func aLongDetailIsAReasonOnly() async {
    var replica = Sample.replica(1, 1, .provisioning, reason: String(repeating: "no GPU is free; ", count: 5))
    replica.statusDetail = replica.reason
    let service = Sample.service("web", .replicaInit, replicas: [replica])
    let shown = await play("serve", "status", controller: PlayedController([service]), now: Sample.now)
    #expect(shown.output.contains("  PROVISIONING  no GPU is free; no GPU"), "\(shown.output)")
  }

  @Test func moreThanTenReplicas() async {
    let replicas = (1...12).map { Sample.replica($0, 1, .ready) }
    let controller = PlayedController([Sample.service("web", .ready, replicas: replicas)])
    let short = await play("serve", "status", controller: controller)
    #expect(short.output.hasSuffix("\n... (use -v to show all replicas)\n"))
    #expect(short.output.contains("web           10  ") && !short.output.contains("web           11  "))
    let all = await play("serve", "status", "-v", controller: controller)
    #expect(all.output.contains("web           12  ") && !all.output.contains("..."))
  }

  @Test func whatLivesIsShownBeforeWhatHasFailed() async {
    let many = (1...12).map { Sample.replica($0, 1, .failed) } + [Sample.replica(13, 2, .ready)]
    let controller = PlayedController([
      Sample.service("aaa", .ready, replicas: many), Sample.service("bbb", .ready, replicas: [Sample.replica(1, 1, .ready)]),
    ])
    let shown = await play("serve", "status", controller: controller).output
    let rows = shown.split(separator: "\n").drop { !$0.hasPrefix("SERVICE_NAME") }.dropFirst().dropLast()
    let ids = rows.map { $0.split(separator: " ").prefix(2).joined(separator: " ") }
    #expect(ids == (5...12).map { "aaa \($0)" } + ["aaa 13", "bbb 1"], "\(shown)")
  }

  @Test func countsLeaveFailedOnesOut() async {
    let replicas = [
      Sample.replica(1, 1, .ready), Sample.replica(2, 1, .failedProbing), Sample.replica(3, 1, .shuttingDown),
      Sample.replica(4, 1, .preempted), Sample.replica(5, 1, .unknown),
    ]
    let controller = PlayedController([Sample.service("web", .ready, replicas: replicas)])
    #expect(await play("serve", "status", controller: controller).output.contains("  1/3  "))
  }

  @Test func resources() {
    let written = Shared([UInt8]())
    let terminal = Terminal(writing: { _, bytes in written.with { $0 += bytes } }, asking: { _ in .end })
    let offers = [
      Offer(
        infra: "AWS (us-east-1)", instance: "m6i.large", cpus: "2", memory: "8", gpus: "-", hourlyCost: 0.096,
        isChosen: false),
      Offer(
        infra: "Local (this machine)", instance: "-", cpus: "2", memory: "-", gpus: "-", hourlyCost: 0, isChosen: true),
    ]
    #expect(
      lines(ResourceTable.text(offers, numNodes: 2, on: terminal)) == lines(
        """
        Considered resources (2 nodes):
        --------------------------------------------------------------------------------------------
         INFRA                  INSTANCE    vCPUs   Mem(GB)   GPUS   COST ($)   CHOSEN   
        --------------------------------------------------------------------------------------------
         Local (this machine)   -           2       -         -      0.00         ✔      
         AWS (us-east-1)        m6i.large   2       8         -      0.19                
        --------------------------------------------------------------------------------------------

        """.replacing(String(repeating: "-", count: 92), with: String(repeating: "-", count: 81))))
  }
}

@Suite struct DurationTests {
  static let lengths: [(Double, String)] = [
    (0.2, "< 1 second"), (1, "1s"), (59, "59s"), (60, "1m"), (604, "10m 4s"), (3743, "1h 2m 23s"), (3600, "1h"),
    (86_400, "1d"), (90_061, "1d 1h 1m 1s"), (8 * 86_400, "1w 1d"),
  ]

  @Test(arguments: lengths)
  func absolute(seconds: Double, text: String) {
    #expect(Durations.absolute(from: 1000, to: 1000 + seconds) == text)
  }

  static let distances: [(Double, String)] = [
    (0, "a few secs ago"), (10, "a few secs ago"), (11, "11 secs ago"), (59, "59 secs ago"), (60, "1 min ago"),
    (120, "2 mins ago"), (119, "1 min ago"), (3600, "1 hr ago"), (2 * 3600 + 59, "2 hrs ago"), (86_400, "1 day ago"),
    (86_400 + 22 * 3600, "2 days ago"), (7 * 86_400, "1 week ago"), (11 * 86_400, "2 weeks ago"),
    (-50, "a few secs ago"),
  ]

  @Test(arguments: distances)
  func ago(seconds: Double, text: String) {
    #expect(Durations.ago(1_000_000 - seconds, now: 1_000_000) == text)
  }

  @Test func none() {
    #expect(Durations.absolute(from: nil, to: 5) == "-" && Durations.ago(nil, now: 5) == "-")
  }
}
